//! Brings slices, one after the other, as they are asked for, by one request.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tracing::debug;

use super::super::Core;
use super::super::body::{Inner, ProxyBodyError};
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
    let mut brought = false;
    while let Some((slice, lead)) = bringer.next().await {
        let head = sliced.head_of(slice);
        let size = head.size.unwrap_or(0);
        let mut missing = size;
        let Some((mut fill, _)) = lead.begin(head, cost) else { return };
        while missing > 0 {
            let next = match bytes.next(missing).await {
                Ok(Some(next)) => next,
                // Whoever began it asked for no more; others did. Of what was asked for there is something.
                Ok(None) if missing == size && brought => return,
                Ok(None) | Err(_) => return source.broke_off(&from),
            };
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
        brought = true;
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
    /// The next bytes, at most so many; `None` where all have come.
    async fn next(&mut self, bytes_max: u64) -> Result<Option<Bytes>, ProxyBodyError> {
        while self.rest.is_empty() {
            match std::future::poll_fn(|cx| self.body.poll_bytes(cx)).await {
                Some(Ok(bytes)) => self.rest = bytes,
                None => return Ok(None),
                Some(Err(error)) => {
                    debug!(error = &error as &dyn std::error::Error, "slices broke off");
                    return Err(error);
                }
            }
        }
        let take = self.rest.remaining().min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        Ok(Some(self.rest.split_to(take)))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{HeaderMap, StatusCode};
    use http_body_util::Full;
    use tokio_util::sync::CancellationToken;

    use super::super::source::Fetching;
    use super::*;
    use crate::cache::{Begun, Body, CacheKey, Head, SLICE_BYTES, Terms};
    use crate::edge::Config;
    use crate::model::NodeId;

    /// Who is told how often something broke off.
    #[derive(Default)]
    struct Told(AtomicUsize);

    impl Source for Told {
        fn fetch(&self, _: &Arc<Core>, _: Range<u64>) -> Fetching {
            Box::pin(std::future::ready(Err(FetchedError::Unanswered)))
        }

        fn broke_off(&self, _: &NodeId) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often something broke off where two slices are asked for, and so many bytes come.
    async fn broke_off(bytes: u64) -> usize {
        let core = Core::new(Config::default(), None, ([127, 0, 0, 1], 1).into(), None, CancellationToken::new());
        let core = Arc::new(core.expect("an edge"));
        let key = CacheKey::Answer { site: "site".into(), uri: "/".into() };
        let (status, headers, size) = (StatusCode::OK, HeaderMap::new(), Some(3 * SLICE_BYTES));
        let head = Head { status, headers, size, terms: Terms::Slice };
        let (stored, begun) = core.cache.lead(&key).slice(head, 1.0, 0).expect("there is room");
        let Body::Sliced(sliced) = &stored.body else { panic!("it is in slices") };
        let Begun { run: _run, bringer, .. } = begun;
        let sought = [0, 1].map(|slice| sliced.seek(&core.cache, slice));
        let body = Inner::Own(Full::new(vec![b'x'; bytes as usize].into()));
        let fetched = Fetched { body, cost: 1.0, from: "one".parse().expect("a name") };
        let told = Arc::new(Told::default());
        run(core.clone(), sliced.clone(), told.clone(), bringer, std::future::ready(Ok(fetched))).await;
        drop(sought);
        told.0.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn an_answer_that_has_all_that_was_asked_for_did_not_break_off() {
        assert_eq!(broke_off(SLICE_BYTES).await, 0, "the second slice was not asked for with the first");
        assert_eq!(broke_off(SLICE_BYTES + 1).await, 1);
        assert_eq!(broke_off(SLICE_BYTES - 1).await, 1);
        assert_eq!(broke_off(0).await, 1, "the first slice was asked for");
    }
}
