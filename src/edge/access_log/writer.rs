//! The one thread that touches the file.

use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::file::LogFile;

/// How many empty buffers are kept to be filled again, and how large they may have become.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// What became of lines.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Those that were written.
    pub lines: Counter,
    /// Those that were not: the writer did not keep up, or the file could not be written.
    pub dropped: Counter,
}

/// Whole lines.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) text: Vec<u8>,
    pub(super) lines: u64,
}

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Message {
    /// To write these.
    Lines(Batch),
    /// To say when all before this is done, and to end.
    End(oneshot::Sender<()>),
}

/// Buffers that were written.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut text: Vec<u8>) {
        text.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX && text.capacity() <= SPARE_BYTES_MAX {
            spare.push(text);
        }
    }
}

/// Writes what comes until it is told to end, or nobody can tell it anything.
pub(super) fn run(mut file: LogFile, mut told: mpsc::Receiver<Message>, spare: &Spare, counts: &Counts) {
    let mut failing = false;
    while let Some(message) = told.blocking_recv() {
        match message {
            Message::Lines(batch) => {
                match file.append(&batch.text) {
                    Ok(()) => {
                        counts.lines.inc_by(batch.lines);
                        if std::mem::take(&mut failing) {
                            info!("the access log is written again");
                        }
                    }
                    Err(unwritten) => {
                        counts.lines.inc_by(unwritten.lines);
                        counts.dropped.inc_by(batch.lines - unwritten.lines);
                        if !std::mem::replace(&mut failing, true) {
                            warn!(error = %unwritten.error, "the access log cannot be written, its lines are dropped");
                        }
                    }
                }
                spare.give_back(batch.text);
            }
            Message::End(done) => {
                // Nobody may wait any longer.
                let _ = done.send(());
                return;
            }
        }
    }
}
