//! Looking after shields that have failed: only what answers again is asked again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::super::observe::failure;
use super::super::{Core, Upstream};
use super::Shield;
use crate::client::{ClientError, empty};
use crate::protocol::READY;
use crate::route::{FailureKind, Source, Standing, Try};

/// How often shields are looked after that are out.
const PERIOD: Duration = Duration::from_secs(1);

/// The largest answer.
const BYTES_MAX: usize = 4096;

/// Looks after those that are out, until the edge stops.
pub(in crate::edge) async fn run(core: Arc<Core>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            ticks.tick().await;
            let others = core.shields.all.iter().filter_map(|shield| Some((shield, shield.upstream.as_ref()?)));
            let looked_at = others.map(|(shield, upstream)| look(&core, shield, upstream));
            futures_util::future::join_all(looked_at).await;
        }
    };
    core.stop.run_until_cancelled(looking).await;
}

async fn look(core: &Core, shield: &Shield, upstream: &Upstream) {
    let (observations, id) = (&core.shields.observations, &shield.node.id);
    if !matches!(observations.of(id).standing, Standing::Out(_)) {
        return;
    }
    let start = Instant::now();
    let patience = Duration::from_millis(core.shields.config.answer_ms_max);
    let seen = match timeout(patience, ask(upstream)).await {
        // It is refused for what it does not say: so the shield lives, and takes this edge for one.
        Ok(Ok(StatusCode::BAD_REQUEST)) => Try::Body { bytes: 0, took: start.elapsed() },
        Ok(Ok(_)) => Try::Failure { kind: FailureKind::Error, after: start.elapsed() },
        Ok(Err(error)) => failure(&error, start.elapsed()),
        Err(_) => Try::Failure { kind: FailureKind::Timeout, after: start.elapsed() },
    };
    observations.saw(id, &seen, Source::Probe);
}

async fn ask(upstream: &Upstream) -> Result<StatusCode, ClientError> {
    let peer = &upstream.peer;
    let response = peer.send(peer.request(Method::GET, READY, empty())?).await?;
    let status = response.status();
    peer.reader(response.into_body()).read_all(BYTES_MAX).await?;
    Ok(status)
}
