//! Connections for reading the catalogue: a few, used by one after another.

use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::StoreError;
use super::schema::STATEMENTS_MAX;

/// How many may read at a time. Each has files open and a cache of its own, and the disk serves no more at once.
const READERS_MAX: usize = 8;

/// The connections.
#[derive(Debug, Default)]
pub(super) struct Readers {
    state: Mutex<State>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    open: usize,
}

impl Readers {
    /// An idle connection to the catalogue at `path`, or a new one, or the next that is given back.
    pub(super) fn take(&self, path: &Path) -> Result<Connection, StoreError> {
        let mut state = self.state();
        loop {
            if let Some(connection) = state.idle.pop() {
                return Ok(connection);
            }
            if state.open < READERS_MAX {
                break;
            }
            state = self.given_back.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let connection = Connection::open(path)?;
        let settings = "PRAGMA busy_timeout = 10000; PRAGMA query_only = ON; PRAGMA cache_size = -4000;";
        connection.execute_batch(settings)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        state.open += 1;
        Ok(connection)
    }

    /// Lets the next one have the connection.
    pub(super) fn give_back(&self, connection: Connection) {
        self.state().idle.push(connection);
        self.given_back.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
