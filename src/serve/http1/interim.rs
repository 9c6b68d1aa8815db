//! Interim answers (RFC 9110 section 15.2), which a handler sends before its own: 103 with what a page will need, or what
//! an origin said.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use http::{HeaderMap, StatusCode};

use crate::http1::Version;

/// How many may wait to be sent: a handler is not slowed down by a client that does not read.
const WAITING_MAX: usize = 8;

/// Sends interim answers to the client of one request; in its extensions. A client of HTTP/1.0 knows none, and is sent
/// none.
#[derive(Debug, Clone)]
pub struct Interim(Arc<Mutex<State>>);

/// Why an interim answer was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InterimError {
    /// It is no 1xx, or it is 101, which is an answer.
    #[error("{0} is no interim answer")]
    Status(StatusCode),
    /// The client has not yet taken those before.
    #[error("too many interim answers wait to be sent")]
    Full,
    /// The answer itself began, or the client left.
    #[error("the time for interim answers is over")]
    Over,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<(StatusCode, HeaderMap)>,
    /// They are taken, but not sent.
    unspoken: bool,
    over: bool,
    connection: Option<Waker>,
}

impl Interim {
    pub(in crate::serve) fn new(version: Version) -> Self {
        let unspoken = version == Version::Http10;
        Self(Arc::new(Mutex::new(State { unspoken, ..State::default() })))
    }

    /// Sends `status` with these fields, as soon as the client takes it.
    ///
    /// # Errors
    /// When it is not sent.
    pub fn send(&self, status: StatusCode, headers: HeaderMap) -> Result<(), InterimError> {
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(InterimError::Status(status));
        }
        let mut state = self.lock();
        if state.over {
            return Err(InterimError::Over);
        }
        if state.unspoken {
            return Ok(());
        }
        if state.waiting.len() == WAITING_MAX {
            return Err(InterimError::Full);
        }
        state.waiting.push((status, headers));
        if let Some(connection) = state.connection.take() {
            connection.wake();
        }
        Ok(())
    }

    /// What waits to be sent; of what comes later `cx` is told.
    pub(in crate::serve) fn take(&self, cx: &Context<'_>) -> Vec<(StatusCode, HeaderMap)> {
        let mut state = self.lock();
        let taken = std::mem::take(&mut state.waiting);
        if state.connection.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.connection = Some(cx.waker().clone());
        }
        taken
    }

    /// Ends the time for them.
    pub(in crate::serve) fn end(&self) {
        let mut state = self.lock();
        state.over = true;
        state.connection = None;
        state.waiting = Vec::new();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
