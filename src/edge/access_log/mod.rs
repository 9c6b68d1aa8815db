//! The access log: a line for each answer that has ended.
//!
//! Whoever serves a connection tells a [`Witness`], which formats the line into the buffer of its thread: no request waits
//! for a lock that others hold for long, nor for the disk. Full buffers, and all others once a second, go to the one thread
//! that writes. What that cannot take or write is dropped and counted.

mod escape;
mod file;
mod line;
mod writer;

use std::io;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use super::facts::Facts;
use super::hot::Receipt;
use crate::serve::{Ended, Left, Witness};
use file::LogFile;
use line::Pen;
pub use line::{Addresses, Format};
pub use writer::Counts;
use writer::{Batch, Message, Spare};

/// When a buffer goes to the writer: large enough that the call costs its lines nothing.
const SHEET_BYTES: usize = 64 * 1024;

/// How many buffers may wait to be written: what a disk that stalls for a moment is given, 4 MiB.
const WAITING_MAX: usize = 64;

/// How old a line may become before it goes to the writer.
const AGE_MAX: Duration = Duration::from_secs(1);

/// How long the end waits for a disk.
const CLOSE_TIME: Duration = Duration::from_secs(10);

/// Whether there is a log, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file; without one there is no log.
    pub path: Option<PathBuf>,
    /// The form of its lines.
    pub format: Format,
    /// What is written of the addresses of clients.
    pub addresses: Addresses,
    /// Whether queries are written, which may hold secrets.
    pub query: bool,
    /// From which size on the file is moved away; without it others do so.
    pub rotate_bytes: Option<NonZeroU64>,
    /// How many that were moved away are kept.
    pub keep: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            format: Format::default(),
            addresses: Addresses::default(),
            // Who asks what was asked needs them.
            query: true,
            rotate_bytes: None,
            keep: NonZeroU32::new(5).expect("5 is not 0"),
        }
    }
}

/// The log of one edge.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    /// Ends with it.
    ticking: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    counts: Counts,
    to_writer: mpsc::Sender<Message>,
    spare: Arc<Spare>,
    /// All that are written on.
    sheets: Mutex<Vec<Arc<Mutex<Sheet>>>>,
}

/// The lines of a thread that are not yet with the writer.
#[derive(Debug)]
struct Sheet {
    pen: Pen,
    batch: Batch,
}

impl AccessLog {
    /// Opens the file and starts what writes it; `None` if there is to be no log. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the file cannot be opened, or the system refuses a thread.
    pub fn start(config: &Config, counts: Counts) -> io::Result<Option<Self>> {
        let Some(path) = &config.path else { return Ok(None) };
        let file = LogFile::open(path, config.rotate_bytes, config.keep)?;
        let (to_writer, told) = mpsc::channel(WAITING_MAX);
        let spare = Arc::new(Spare::default());
        let (given_back, written) = (spare.clone(), counts.clone());
        let run = move || writer::run(file, told, &given_back, &written);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(run)?;
        let shared = Shared { config: config.clone(), counts, to_writer, spare, sheets: Mutex::default() };
        let (shared, mut ticking) = (Arc::new(shared), JoinSet::new());
        ticking.spawn(tick(shared.clone()));
        Ok(Some(Self { shared, ticking }))
    }

    /// Who is to be told of answers, by any number of threads; `threads` of them do not wait for each other.
    pub fn witness(&self, threads: NonZeroUsize) -> Arc<dyn Witness> {
        Arc::new(Desk::new(&self.shared, threads.get()))
    }

    /// Writes all that is known, once nobody tells of anything any more.
    pub async fn close(mut self) {
        self.ticking.shutdown().await;
        let sheets = self.shared.sheets().clone();
        let closing = async {
            for sheet in sheets {
                let batch = std::mem::take(&mut locked(&sheet).batch);
                if batch.lines > 0 && self.shared.to_writer.send(Message::Lines(batch)).await.is_err() {
                    return;
                }
            }
            let (done, ended) = oneshot::channel();
            if self.shared.to_writer.send(Message::End(done)).await.is_ok() {
                let _ = ended.await;
            }
        };
        if timeout(CLOSE_TIME, closing).await.is_err() {
            warn!("the disk of the access log takes too long, lines are lost");
        }
    }
}

/// Passes on what waits, once a second, for ever.
async fn tick(shared: Arc<Shared>) {
    let mut ticks = interval(AGE_MAX);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dropped = 0;
    loop {
        ticks.tick().await;
        shared.flush();
        let now = shared.counts.dropped.get();
        if now > dropped {
            warn!(lines = now - dropped, "lines of the access log were dropped");
        }
        dropped = now;
    }
}

impl Shared {
    fn sheets(&self) -> MutexGuard<'_, Vec<Arc<Mutex<Sheet>>>> {
        self.sheets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_sheet(&self) -> Arc<Mutex<Sheet>> {
        let Config { format, addresses, query, .. } = self.config;
        let sheet = Sheet { pen: Pen::new(format, addresses, query), batch: Batch::default() };
        let sheet = Arc::new(Mutex::new(sheet));
        self.sheets().push(sheet.clone());
        sheet
    }

    fn flush(&self) {
        let sheets = self.sheets().clone();
        sheets.iter().for_each(|sheet| self.hand_over(&mut locked(sheet)));
    }

    /// Has the lines of a sheet written, or drops them if too many wait.
    fn hand_over(&self, sheet: &mut Sheet) {
        sheet.pen.set_clock();
        if sheet.batch.lines == 0 {
            return;
        }
        let batch = std::mem::replace(&mut sheet.batch, Batch { text: self.spare.take(), lines: 0 });
        if let Err(unsent) = self.to_writer.try_send(Message::Lines(batch))
            && let Message::Lines(batch) = unsent.into_inner()
        {
            self.counts.dropped.inc_by(batch.lines);
            self.spare.give_back(batch.text);
        }
    }
}

fn locked(sheet: &Mutex<Sheet>) -> MutexGuard<'_, Sheet> {
    sheet.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the threads that share it write: each on the first sheet that is free.
struct Desk {
    shared: Arc<Shared>,
    sheets: Vec<Arc<Mutex<Sheet>>>,
}

impl Desk {
    fn new(shared: &Arc<Shared>, sheets: usize) -> Self {
        let sheets = (0..sheets.max(1)).map(|_| shared.new_sheet()).collect();
        Self { shared: shared.clone(), sheets }
    }

    fn sheet(&self) -> MutexGuard<'_, Sheet> {
        for sheet in &self.sheets {
            match sheet.try_lock() {
                Ok(sheet) => return sheet,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        // It is held for one line, or as long as two pointers change places.
        locked(&self.sheets[0])
    }
}

impl Witness for Desk {
    fn ended(&self, ended: &Ended<'_>) {
        let facts = match ended.left {
            Left::Receipt(_) => ended.left.of_type::<Receipt>().and_then(Receipt::facts),
            left => left.of_type::<Facts>(),
        };
        let mut sheet = self.sheet();
        let Sheet { pen, batch } = &mut *sheet;
        pen.write(&mut batch.text, ended, facts);
        batch.lines += 1;
        if batch.text.len() >= SHEET_BYTES {
            self.shared.hand_over(&mut sheet);
        }
    }

    fn for_another_thread(&self) -> Arc<dyn Witness> {
        Arc::new(Self::new(&self.shared, 1))
    }
}

#[cfg(test)]
mod tests;
