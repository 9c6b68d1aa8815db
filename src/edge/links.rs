//! How fast the links of the clients are: measured while the edge sends them something that is large enough to tell.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Core;
use crate::resize::choose::{LEARNED_BYTES_MIN, Rates, Transfer};
use crate::serve::ClientLink;

/// How often is looked what has arrived. What was sent last is on its way still when an answer ends here, and a
/// connection that is gone tells nothing.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// How long a connection over which nothing arrives is looked at.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// How many connections are looked at; of more than these the rates are learned from the others.
const WATCHED_MAX: usize = 4096;

/// The links of clients. All methods are short and never wait.
#[derive(Debug, Default)]
pub(super) struct Links {
    rates: Mutex<Rates>,
    watched: Mutex<HashMap<SocketAddr, Watched>>,
}

#[derive(Debug)]
struct Watched {
    link: ClientLink,
    /// What had arrived when something was last learned.
    learned: Transfer,
    /// What had arrived when it was last looked, and since when it is that.
    seen: Transfer,
    since: Instant,
}

impl Links {
    /// The rate of the client `peer`, in bytes a second, if it is known.
    pub(super) fn rate(&self, peer: SocketAddr, link: Option<&ClientLink>) -> Option<f64> {
        lock(&self.rates).rate_of(link.and_then(transferred), peer.ip(), Instant::now())
    }

    /// An answer of `bytes` begins to go to `peer`.
    pub(super) fn watch(&self, peer: SocketAddr, link: &ClientLink, bytes: u64) {
        if bytes < LEARNED_BYTES_MIN {
            return;
        }
        let Some(now) = transferred(link) else { return };
        let mut watched = lock(&self.watched);
        if watched.len() < WATCHED_MAX || watched.contains_key(&peer) {
            let fresh = || Watched { link: link.clone(), learned: now, seen: now, since: Instant::now() };
            watched.entry(peer).or_insert_with(fresh).since = Instant::now();
        }
    }

    fn look(&self) {
        let now = Instant::now();
        lock(&self.watched).retain(|peer, watched| {
            let Some(seen) = transferred(&watched.link) else { return false };
            if seen.bytes > watched.seen.bytes {
                (watched.seen, watched.since) = (seen, now);
            }
            let news = seen.since(watched.learned);
            if news.bytes >= LEARNED_BYTES_MIN {
                lock(&self.rates).learn(peer.ip(), news, now);
                watched.learned = seen;
            }
            now.duration_since(watched.since) < IDLE_MAX
        });
    }
}

/// Looks what has arrived until the edge stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(LOOK_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while core.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        core.links.look();
    }
}

/// What a connection has carried so far.
fn transferred(link: &ClientLink) -> Option<Transfer> {
    link.sent().map(|sent| Transfer { bytes: sent.bytes_acked, busy: sent.busy })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
