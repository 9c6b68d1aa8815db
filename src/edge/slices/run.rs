//! Brings slices, one after the other, as they are asked for, by one request.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tracing::debug;

use super::super::Core;
use super::super::body::Inner;
use super::{Fetched, FetchedError, Source};
use crate::cache::{Bringer, Sliced, Stored};

/// Brings by `bringer` what `fetching` gives from the begin of its first slice on, until no more is asked for.
pub(super) fn spawn(
    core: &Arc<Core>,
    sliced: &Arc<Sliced>,
    source: &Arc<dyn Source>,
    bringer: Bringer,
    fetching: impl Future<Output = Result<Fetched, FetchedError>> + Send + 'static,
) {
    let running = run(core.clone(), sliced.clone(), source.clone(), bringer, fetching);
    core.fills.spawn(core.drained.clone().run_until_cancelled_owned(running));
}

/// Those who wait for a slice that does not come look for it again.
async fn run(
    core: Arc<Core>,
    sliced: Arc<Sliced>,
    source: Arc<dyn Source>,
    mut bringer: Bringer,
    fetching: impl Future<Output = Result<Fetched, FetchedError>>,
) {
    let fetched = match fetching.await {
        Ok(fetched) => fetched,
        Err(error) => return debug!(error = &error as &dyn std::error::Error, "no slice comes"),
    };
    let Fetched { body, cost, from } = fetched;
    let mut bytes = Frames { body, rest: Bytes::new() };
    while let Some((slice, lead)) = bringer.next().await {
        let head = sliced.head_of(slice);
        let mut missing = head.size.unwrap_or(0);
        let Some((mut fill, _)) = lead.begin(head, cost) else { return };
        while missing > 0 {
            let Some(next) = bytes.next(missing).await else { return source.broke_off(&from) };
            missing -= next.len() as u64;
            if fill.push(&next).is_err() {
                return;
            }
        }
        match fill.finish() {
            Ok(Some(stored)) => to_disk(&core, &sliced, slice, &stored),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// Has a slice written to the disk, if there is one; memory lets go of it then.
fn to_disk(core: &Arc<Core>, sliced: &Arc<Sliced>, slice: u32, stored: &Arc<Stored>) {
    let (Some(kept), Some(bytes)) = (sliced.on_disk(), stored.body.in_memory()) else { return };
    let (core, key, stored) = (core.clone(), sliced.key(slice), stored.clone());
    kept.put(slice, bytes.clone(), move |written| {
        if written {
            core.cache.discard(&key, &stored);
        }
    });
}

/// The bytes of a body.
struct Frames {
    body: Inner,
    /// What has come, and was not taken.
    rest: Bytes,
}

impl Frames {
    /// The next bytes, at most so many; `None` where no more come.
    async fn next(&mut self, bytes_max: u64) -> Option<Bytes> {
        while self.rest.is_empty() {
            match std::future::poll_fn(|cx| self.body.poll_bytes(cx)).await? {
                Ok(bytes) => self.rest = bytes,
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "slices broke off");
                    return None;
                }
            }
        }
        let take = self.rest.remaining().min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        Some(self.rest.split_to(take))
    }
}
