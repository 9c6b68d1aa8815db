//! Trying again, when what failed may pass.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::failures::Failures;
use super::source::SourceError;
use crate::cli::failure::explain;
use crate::cli::human;
use crate::cli::progress::Progress;
use crate::client::ClientError;
use crate::model::{Address, ContentHash};

/// How often a transfer is tried in all.
pub(super) const TRIES_MAX: u32 = 4;

/// The wait before the second try; each further one is twice as long. Together 3.5 s: time for a server to restart.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Why a file did not reach a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the connection to {address} failed")]
    Connection { address: Address, source: io::Error },
    #[error("{address} answered: {reason}")]
    Refused { address: Address, reason: String },
    #[error("corrupted on the way: sent {sent}, {address} has stored {stored}")]
    Corrupted { address: Address, sent: ContentHash, stored: ContentHash },
}

impl SendError {
    /// Whether it may go better next time.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Client(error) => error.is_transient() && self.of_source().is_none(),
            // How rustls reports that the other side's certificate or its TLS is not acceptable.
            Self::Connection { source, .. } => source.kind() != io::ErrorKind::InvalidData,
            Self::Source(_) | Self::Refused { .. } | Self::Corrupted { .. } => false,
        }
    }

    /// In one line. A file that failed under the hands of the HTTP client is not the fault of the network.
    pub(super) fn explain(&self) -> String {
        self.of_source().map_or_else(|| explain(self), |error| explain(error))
    }

    /// On how many nodes it was stored all the same.
    pub(super) const fn stored(&self) -> Option<u32> {
        match self {
            Self::Client(ClientError::FewerCopies { copies, .. }) => Some(*copies),
            _ => None,
        }
    }

    fn of_source(&self) -> Option<&SourceError> {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

/// Tries `send` until it succeeds, fails for good, or has had its tries. Further tries are told of, once for each reason.
pub(super) async fn with_retries<T>(
    what: &str,
    progress: &Progress,
    failures: &Failures,
    mut send: impl AsyncFnMut() -> Result<T, SendError>,
) -> Result<T, SendError> {
    let mut wait = FIRST_WAIT;
    for tried in 1.. {
        match send().await {
            Err(error) if error.is_transient() && tried < TRIES_MAX => {
                let (reason, pause) = (error.explain(), human::time(wait));
                if failures.note_retry(tried + 1, &reason) {
                    progress.note(&format!("retry {} of {TRIES_MAX} in {pause}: {what}: {reason}", tried + 1));
                }
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            outcome => return outcome,
        }
    }
    unreachable!("the count of tries has no end")
}
