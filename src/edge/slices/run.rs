//! One request by which slices come, one after the other, as they are asked for.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;
use tracing::debug;

use super::super::Core;
use super::super::body::Inner;
use super::{Fetched, FetchedError, Source};
use crate::cache::{Fetcher, Lead, Sliced, Stored, slice_at};

/// How many slices may be asked for before they come. A reader asks for the one that it reads and for the one behind it.
const ASKED_MAX: usize = 8;

/// A request for slices from some slice on. It goes on as far as it is asked to, and ends when nobody holds it.
#[derive(Debug)]
pub(super) struct Run {
    next: Mutex<u32>,
    leads: mpsc::Sender<Lead>,
}

impl Run {
    /// Asks `source` for the slices from `first` to the one before the byte `end`.
    pub(super) fn start(
        core: &Arc<Core>,
        sliced: &Arc<Sliced>,
        source: &Arc<dyn Source>,
        first: u32,
        end: u64,
    ) -> Arc<dyn Fetcher> {
        let start = sliced.bytes_of(first).start;
        let end = sliced.bytes_of(slice_at(end.saturating_sub(1).max(start))).end;
        let fetching = source.fetch(core, start..end);
        Self::spawn(core, sliced, source, first, fetching)
    }

    /// Takes the slices from what `fetched` brings, from the start of `first`.
    pub(super) fn with(
        core: &Arc<Core>,
        sliced: &Arc<Sliced>,
        source: &Arc<dyn Source>,
        first: u32,
        fetched: Fetched,
    ) -> Arc<dyn Fetcher> {
        Self::spawn(core, sliced, source, first, std::future::ready(Ok(fetched)))
    }

    fn spawn(
        core: &Arc<Core>,
        sliced: &Arc<Sliced>,
        source: &Arc<dyn Source>,
        first: u32,
        fetching: impl Future<Output = Result<Fetched, FetchedError>> + Send + 'static,
    ) -> Arc<dyn Fetcher> {
        let (leads, asked) = mpsc::channel(ASKED_MAX);
        let running = run(core.clone(), sliced.clone(), source.clone(), first, fetching, asked);
        core.fills.spawn(core.drained.clone().run_until_cancelled_owned(running));
        let fetcher: Arc<dyn Fetcher> = Arc::new(Self { next: Mutex::new(first), leads });
        sliced.bring_by(&fetcher);
        fetcher
    }
}

impl Fetcher for Run {
    fn ask(&self, slice: u32, lead: Lead) -> Result<(), Lead> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if slice != *next {
            return Err(lead);
        }
        self.leads.try_send(lead).map_err(mpsc::error::TrySendError::into_inner)?;
        *next += 1;
        Ok(())
    }
}

/// Brings the slices from `slice` on. Those who wait for one that does not come look for it again.
async fn run(
    core: Arc<Core>,
    sliced: Arc<Sliced>,
    source: Arc<dyn Source>,
    mut slice: u32,
    fetching: impl Future<Output = Result<Fetched, FetchedError>>,
    mut asked: mpsc::Receiver<Lead>,
) {
    let fetched = match fetching.await {
        Ok(fetched) => fetched,
        Err(error) => return debug!(error = &error as &dyn std::error::Error, "no slice comes"),
    };
    let Fetched { body, cost, from } = fetched;
    let mut bytes = Frames { body, rest: Bytes::new() };
    while let Some(lead) = asked.recv().await {
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
        slice += 1;
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
