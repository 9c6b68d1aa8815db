//! Keeping this node's version vector: a peer's counts as soon as all is held that was owed when its feed was read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use super::Core;
use crate::replicate::{Coverage, Ledger as _};

/// How long news gather before they are written down.
const GATHER: Duration = Duration::from_millis(50);

/// Writes down what was passed, whenever there is news, until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut progress = core.catalog.progress();
    loop {
        progress.mark_unchanged();
        let is_settled = core.coverage.lock().unwrap_or_else(PoisonError::into_inner).is_settled();
        if !is_settled && let Err(error) = settle(&core).await {
            warn!(error = &error as &dyn std::error::Error, "what was passed cannot be written down, will retry");
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = progress.changed() => if changed.is_err() { return },
            () = core.read_to_end.notified() => {}
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn settle(core: &Arc<Core>) -> Result<(), crate::store::StoreError> {
    let shared = core.clone();
    let passed = core
        .catalog
        .transact(move |transaction| {
            let debt = transaction.debt()?;
            let passed = coverage(&shared.coverage).passed(debt);
            transaction.cover(&passed)?;
            Ok(passed)
        })
        .await?;
    coverage(&core.coverage).settle(&passed);
    Ok(())
}

fn coverage(coverage: &Mutex<Coverage>) -> std::sync::MutexGuard<'_, Coverage> {
    coverage.lock().unwrap_or_else(PoisonError::into_inner)
}
