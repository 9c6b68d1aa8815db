//! One request by which slices of a representation come, one after the other, as they are asked for.
//!
//! Knows nothing of how they come: whoever has the [`Bringer`] brings them.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Lead;
use super::sync::{Mutex, MutexGuard};

/// How many slices may be asked for before they come. A reader asks for the one that it reads and for the one behind it.
const ASKED_MAX: usize = 8;

/// A request for slices from some slice on, in the hands of those who read them. It goes on as far as it is asked to, and ends
/// when nobody holds it.
#[derive(Debug)]
pub struct Run(Arc<Shared>);

/// The same, in the hands of whoever brings the slices. Dropped, it lets those who wait for one look for it again.
#[derive(Debug)]
pub struct Bringer(Arc<Shared>);

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The slice that can be asked for next.
    next: u32,
    /// Those that were asked for and not taken yet; the last is the one before `next`.
    asked: VecDeque<Lead>,
    /// Nobody asks for more.
    forsaken: bool,
    /// Nobody brings more.
    ended: bool,
    /// Whoever brings them, where he waits to be asked.
    bringer: Option<Waker>,
}

impl Run {
    /// A request for the slices from `first` on.
    pub(super) fn new(first: u32) -> (Arc<Self>, Bringer) {
        let state = State { next: first, asked: VecDeque::new(), forsaken: false, ended: false, bringer: None };
        let shared = Arc::new(Shared(Mutex::new(state)));
        (Arc::new(Self(shared.clone())), Bringer(shared))
    }

    /// Has the slice `slice` brought for `lead`.
    ///
    /// # Errors
    /// With the lead, if it is not the next one, or nobody brings it.
    pub(super) fn ask(&self, slice: u32, lead: Lead) -> Result<(), Lead> {
        let mut state = self.0.state();
        if state.ended || slice != state.next || state.asked.len() >= ASKED_MAX {
            return Err(lead);
        }
        state.asked.push_back(lead);
        state.next += 1;
        wake(state);
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.forsaken = true;
        wake(state);
    }
}

impl Bringer {
    /// The next slice that is to be brought, and for whom; `None` once no more are asked for.
    pub async fn next(&mut self) -> Option<(u32, Lead)> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<(u32, Lead)>> {
        let mut state = self.0.state();
        let slice = state.next - state.asked.len() as u32;
        match state.asked.pop_front() {
            Some(lead) => Poll::Ready(Some((slice, lead))),
            None if state.forsaken => Poll::Ready(None),
            None => {
                state.bringer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Bringer {
    fn drop(&mut self) {
        let mut state = self.0.state();
        // Under the same lock: who asks after this is refused, who asked before is among these.
        state.ended = true;
        let asked = std::mem::take(&mut state.asked);
        drop(state);
        drop(asked);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes whoever brings the slices, once the lock is let go: he may end at that.
fn wake(mut state: MutexGuard<'_, State>) {
    let bringer = state.bringer.take();
    drop(state);
    bringer.into_iter().for_each(Waker::wake);
}
