//! The signals by which a person or a service manager ends a command.

use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A signal came before the command was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted {
    /// What the process ends with: the code that a shell gives for this signal.
    pub exit_code: u8,
}

impl Interrupted {
    const INTERRUPT: Self = Self { exit_code: 130 };
    const TERMINATE: Self = Self { exit_code: 143 };
}

/// Waits for the first signal. A second one ends the process at once, for whoever will not wait.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    token: CancellationToken,
    signal: Arc<OnceLock<Interrupted>>,
}

impl Interrupt {
    /// Catches SIGINT and SIGTERM, which no longer kill from here on.
    ///
    /// # Errors
    /// When the system refuses that.
    pub(super) fn catch() -> anyhow::Result<Self> {
        let (mut interrupts, mut terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let this = Self { token: CancellationToken::new(), signal: Arc::new(OnceLock::new()) };
        let told = this.clone();
        tokio::spawn(async move {
            loop {
                let interrupted = tokio::select! {
                    _ = interrupts.recv() => Interrupted::INTERRUPT,
                    _ = terminations.recv() => Interrupted::TERMINATE,
                };
                if told.signal.set(interrupted).is_err() {
                    std::process::exit(interrupted.exit_code.into());
                }
                told.token.cancel();
            }
        });
        Ok(this)
    }

    /// Which signal came, when one has come.
    pub(super) async fn came(&self) -> Interrupted {
        self.token.cancelled().await;
        *self.signal.get().expect("it is set before the token is cancelled")
    }

    /// Whether one has come.
    pub(super) fn has_come(&self) -> bool {
        self.token.is_cancelled()
    }
}
