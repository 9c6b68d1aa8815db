//! What this edge has used of each provider, month by month: in which tier the next byte costs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, io};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::model::{Provider, Tariff};
use crate::price::Usage;

/// Bills are made for so many months.
const MONTHS_MAX: usize = 36;

/// How often the file is written, if there is something new: an edge that is killed forgets no more than this.
const WRITE_PERIOD: Duration = Duration::from_secs(5);

/// The ledger of one edge. All methods but the writing of the file are short and never wait.
pub(super) struct Ledger {
    file: Option<PathBuf>,
    pages: Mutex<Pages>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pages {
    /// By month (UTC), as `2026-11`.
    months: BTreeMap<String, BTreeMap<Provider, Usage>>,
    #[serde(skip)]
    is_new: bool,
}

/// The account of one provider in a ledger.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) ledger: Arc<Ledger>,
    pub(super) provider: Provider,
}

impl Account {
    /// A request was answered with so many bytes.
    pub(super) fn charge(&self, bytes: u64) {
        self.ledger.charge(&self.provider, bytes, Timestamp::now());
    }
}

/// What providers charge, and what they were used for so far.
#[derive(Clone, Copy)]
pub(super) struct Charges<'a> {
    pub(super) tariffs: &'a BTreeMap<Provider, Tariff>,
    pub(super) ledger: &'a Ledger,
}

impl Charges<'_> {
    /// Of the `provider` of so many servers.
    pub(super) fn of(&self, provider: &Provider, servers: usize) -> (Option<Tariff>, Usage) {
        let servers = u32::try_from(servers).unwrap_or(u32::MAX);
        (self.tariffs.get(provider).cloned(), Usage { servers, ..self.ledger.this_month(provider) })
    }
}

impl Ledger {
    /// The ledger in `file`, which is made with the first entry; without a file it begins with the edge.
    ///
    /// # Errors
    /// When there is a file that does not read: it is not to be written over.
    pub(super) fn open(file: Option<PathBuf>) -> io::Result<Self> {
        let pages = match file.as_deref().map(fs::read) {
            None => Pages::default(),
            Some(Ok(json)) => serde_json::from_slice(&json)?,
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                // What is to be written later is refused now.
                fs::read_dir(file.as_deref().map_or(Path::new("."), folder_of))?;
                Pages::default()
            }
            Some(Err(error)) => return Err(error),
        };
        Ok(Self { file, pages: Mutex::new(pages) })
    }

    fn charge(&self, provider: &Provider, bytes: u64, now: Timestamp) {
        let mut pages = self.pages();
        pages.is_new = true;
        let month = month(now);
        if !pages.months.contains_key(&month) {
            pages.months.insert(month.clone(), BTreeMap::new());
            while pages.months.len() > MONTHS_MAX {
                pages.months.pop_first();
            }
        }
        let Some(page) = pages.months.get_mut(&month) else { return };
        let request = Usage::of_answer(bytes);
        match page.get_mut(provider) {
            Some(usage) => *usage = usage.plus(&request),
            None => _ = page.insert(provider.clone(), request),
        }
    }

    /// What was used of `provider` in this month.
    fn this_month(&self, provider: &Provider) -> Usage {
        self.in_month_of(provider, Timestamp::now())
    }

    fn in_month_of(&self, provider: &Provider, now: Timestamp) -> Usage {
        self.pages().months.get(&month(now)).and_then(|page| page.get(provider)).copied().unwrap_or_default()
    }

    /// Writes what is new, if there is a file for it.
    pub(super) fn write(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let written = {
            let mut pages = self.pages();
            if !std::mem::take(&mut pages.is_new) {
                return Ok(());
            }
            pages.clone()
        };
        let done = replace(file, &serde_json::to_vec_pretty(&written)?);
        if done.is_err() {
            self.pages().is_new = true;
        }
        done
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts `content` in the place of `file`, whole, even if the power goes.
fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let mut new = fs::File::create(&name)?;
    io::Write::write_all(&mut new, content)?;
    new.sync_all()?;
    fs::rename(&name, file)?;
    fs::File::open(folder_of(file))?.sync_all()
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The task that writes a ledger.
pub(super) struct Writing {
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Writing {
    pub(super) fn start(ledger: Arc<Ledger>) -> Self {
        let ending = CancellationToken::new();
        let task = tokio::spawn(write_until(ledger, ending.clone()));
        Self { ending, task }
    }

    /// Writes what is left.
    pub(super) async fn end(self) {
        self.ending.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the ledger (edge.ledger) was not written to its end");
        }
    }
}

async fn write_until(ledger: Arc<Ledger>, ending: CancellationToken) {
    let mut failing = false;
    while ending.run_until_cancelled(tokio::time::sleep(WRITE_PERIOD)).await.is_some() {
        failing = !write(&ledger, failing).await;
    }
    write(&ledger, failing).await;
}

/// Whether it was written. That it was not is told once.
async fn write(ledger: &Arc<Ledger>, failing: bool) -> bool {
    let ledger = ledger.clone();
    let written = spawn_blocking(move || ledger.write()).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let Err(error) = written else { return true };
    if !failing {
        tracing::warn!(%error, "the ledger (edge.ledger) cannot be written; what is new is kept in memory");
    }
    false
}

/// As `2026-11`.
fn month(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn provider(name: &str) -> Provider {
        name.parse().expect("a name")
    }

    #[test]
    fn months_have_pages_of_their_own_and_outlive_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ledger.json");
        let open = || Ledger::open(Some(file.clone())).expect("a ledger");
        let ledger = open();
        let (aws, october, november) = (provider("AWS"), at("2026-10-31T23:59:59Z"), at("2026-11-01T00:00:00Z"));
        ledger.charge(&aws, 5, october);
        ledger.charge(&aws, 7, november);
        ledger.charge(&aws, 1, november);
        ledger.write().expect("it writes");
        let again = open();
        let used = |now| {
            let usage = again.in_month_of(&aws, now);
            (usage.egress_bytes, usage.reads)
        };
        assert_eq!((used(october), used(november)), (([5, 0, 0], 1), ([8, 0, 0], 2)));
        assert_eq!(again.in_month_of(&provider("GC"), november), Usage::default());
        // Nothing new, nothing written.
        fs::remove_file(&file).expect("it is there");
        again.write().expect("nothing to do");
        assert!(!file.exists());
    }

    #[test]
    fn what_does_not_read_is_not_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ledger.json");
        fs::write(&file, "{\"months\": 7}").expect("a file");
        assert!(Ledger::open(Some(file)).is_err());
        assert!(Ledger::open(Some(folder.path().join("missing/ledger.json"))).is_err(), "before anything is counted");
    }

    #[test]
    fn old_months_go() {
        let ledger = Ledger::open(None).expect("a ledger");
        for year in 2000..2005 {
            for month in 1..=12 {
                ledger.charge(&provider("AWS"), 1, at(&format!("{year}-{month:02}-15T00:00:00Z")));
            }
        }
        let pages = ledger.pages();
        assert_eq!((pages.months.len(), pages.months.keys().next().map(String::as_str)), (MONTHS_MAX, Some("2002-01")));
    }
}
