//! What waits for the writer: a bounded number of slices and bytes; what does not fit is refused, and nobody waits.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::entry::Entry;

/// How many bytes may wait or be written at a time: a burst of a second, on most disks.
const BYTES_MAX: usize = 64 << 20;

/// How many slices and heads may wait or be written at a time.
const JOBS_MAX: usize = 4096;

/// How many jobs, and how many bytes, one commit takes at most.
const BATCH_JOBS: usize = 256;
const BATCH_BYTES: usize = 16 << 20;

/// For how long jobs are gathered into one commit, unless so many bytes wait before: a commit of each alone would cost more than
/// all that is written, and waking the writer for each as much again.
const GATHERED_FOR: Duration = Duration::from_millis(4);
const GATHERED_BYTES: usize = 2 << 20;

/// What a new representation has in the index.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) key: Vec<u8>,
    pub(super) head: Vec<u8>,
}

/// A slice that is to be written; it was claimed.
pub(super) struct Put {
    pub(super) entry: Arc<Entry>,
    pub(super) slice: u32,
    pub(super) bytes: Bytes,
    /// With the first slice of a representation.
    pub(super) unwritten: Option<Box<Unwritten>>,
    pub(super) written: Box<dyn FnOnce(bool) + Send>,
}

impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Put").field("id", &self.entry.id).field("slice", &self.slice).finish_non_exhaustive()
    }
}

/// Something for the writer to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Write a slice.
    Put(Put),
    /// Write another head.
    Update(Arc<Entry>, Vec<u8>),
    /// Delete all of an entry that was removed.
    Remove(Arc<Entry>),
    /// Delete a slice that was found to be wrong; it is claimed.
    Lost(Arc<Entry>, u32),
    /// The index does not read, of which there were so many before.
    Damaged(u32),
    /// Of answers keep those of these sites alone, and what was begun from the id `before` on.
    KeepSites { sites: HashSet<u64>, before: u64 },
    /// Tell when all of this is done.
    Tell(oneshot::Sender<()>),
}

impl Job {
    /// The bytes for which there is a bound; `None` for what is always accepted: of that there is no more than entries.
    fn bytes(&self) -> Option<usize> {
        match self {
            Self::Put(put) => {
                Some(put.bytes.len() + put.unwritten.as_ref().map_or(0, |row| row.key.len() + row.head.len()))
            }
            Self::Update(_, head) => Some(head.len()),
            Self::Remove(_) | Self::Lost(..) | Self::Damaged(_) | Self::KeepSites { .. } | Self::Tell(_) => None,
        }
    }
}

/// Jobs, in their order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Of those that have a bound, with those that are being done.
    bounded: Load,
    /// Nothing that has a bound is accepted.
    refuses: bool,
    /// Nothing is accepted, and the writer ends when there are no more jobs.
    closing: bool,
    /// Nobody does what is left.
    ended: bool,
    /// There is a job that is not gathered with others: it has no bound, or somebody waits for it.
    is_urgent: bool,
}

impl State {
    /// Whether there is enough for a commit.
    fn is_batch(&self) -> bool {
        self.jobs.len() >= BATCH_JOBS || self.bounded.bytes >= GATHERED_BYTES
    }
}

/// How much waits or is being done.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Load {
    jobs: usize,
    bytes: usize,
}

impl Queue {
    /// Adds a job that has a bound, or gives it back.
    pub(super) fn offer(&self, job: Job) -> Result<(), Job> {
        let bytes = job.bytes().unwrap_or(0);
        let mut state = self.state();
        let is_full = state.bounded.jobs >= JOBS_MAX || state.bounded.bytes + bytes > BYTES_MAX;
        if is_full || state.refuses || state.closing {
            return Err(job);
        }
        state.bounded.jobs += 1;
        state.bounded.bytes += bytes;
        state.jobs.push_back(job);
        if state.jobs.len() == 1 || state.is_batch() {
            self.more.notify_one();
        }
        Ok(())
    }

    /// Adds a job that has no bound. Nobody does it once the writer has ended.
    pub(super) fn push(&self, job: Job) {
        let mut state = self.state();
        if !state.ended {
            state.jobs.push_back(job);
            state.is_urgent = true;
            self.more.notify_one();
        }
    }

    /// The next jobs, and what to give to [`Queue::done`] after them. None if there are none within `patience`; `None`
    /// once there will be none. Without `patience` it waits for as long as it takes.
    pub(super) fn take(&self, patience: Option<Duration>) -> Option<(Vec<Job>, Load)> {
        let mut state = self.state();
        let is_idle = |state: &mut State| state.jobs.is_empty() && !state.closing;
        state = match patience {
            None => self.more.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                self.more.wait_timeout_while(state, patience, is_idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if !state.jobs.is_empty() {
            let gathers = |state: &mut State| !state.is_batch() && !state.is_urgent && !state.closing;
            let gathered = self.more.wait_timeout_while(state, GATHERED_FOR, gathers);
            state = gathered.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.closing && state.jobs.is_empty() {
            state.ended = true;
            return None;
        }
        let mut load = Load::default();
        let mut jobs = Vec::new();
        while jobs.len() < BATCH_JOBS
            && load.bytes < BATCH_BYTES
            && let Some(job) = state.jobs.pop_front()
        {
            if let Some(bytes) = job.bytes() {
                load.jobs += 1;
                load.bytes += bytes;
            }
            jobs.push(job);
        }
        state.is_urgent &= !state.jobs.is_empty();
        Some((jobs, load))
    }

    /// Jobs that were taken are done.
    pub(super) fn done(&self, load: Load) {
        let mut state = self.state();
        state.bounded.jobs -= load.jobs;
        state.bounded.bytes -= load.bytes;
    }

    /// Whether what has a bound may be accepted.
    pub(super) fn accepts(&self) -> bool {
        let state = self.state();
        !state.refuses && !state.closing
    }

    /// Refuses what has a bound, or accepts it again.
    pub(super) fn refuse(&self, refuses: bool) {
        self.state().refuses = refuses;
    }

    /// Waits for `pause`, or until the tier is closed.
    pub(super) fn pause(&self, pause: Duration) {
        let state = self.state();
        drop(self.more.wait_timeout_while(state, pause, |state| !state.closing));
    }

    /// Accepts nothing more that has a bound; the writer ends when it has done what is there.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.more.notify_all();
    }

    /// Whether it is being closed.
    pub(super) fn is_closing(&self) -> bool {
        self.state().closing
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
