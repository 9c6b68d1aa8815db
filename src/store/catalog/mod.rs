//! The catalogue: which entries a node has, in which order it listed them, and what it still wants.
//!
//! One thread writes. It drains a queue and commits all that waits there as one transaction, so that many small writes
//! share one sync of the disk; it alone hands out sequences, so their order is the order of commits.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Disk as _, FileSystem, StoreError, backup, schema, sweep};
use crate::model::{Cursor, Entry, EntryKey, Epoch, NodeId, ObjectKey, Origin, VersionVector};
use crate::store::query::{self, FeedPage, Listing, Select, Summary};
use crate::store::readers::Readers;
use crate::store::transaction::{Marks, Progress, Transaction, load_marks};

/// How many changes one commit takes at most: a sync is paid for long before, and replies should not wait.
const GROUP_MAX: usize = 256;

/// How many changes may wait for the writer; beyond it, those who ask wait.
const QUEUE_MAX: usize = 1024;

/// A change, made in the transaction of its group (or told why there is none), and what to tell the one who asked
/// once the group is committed.
type Job = Box<dyn FnOnce(Result<&mut Transaction<'_>, StoreError>) -> Reply + Send>;
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A handle on the catalogue; clones share it. The writer ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Catalog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    origin: Origin,
    readers: Readers,
    progress: watch::Receiver<Progress>,
    // Taken at the drop, which first closes the queue and then waits for the writer.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    _lock: File,
}

impl Catalog {
    /// Opens the catalogue of `node` in `folder`, or makes it; a new one takes `fresh_epoch`, 64 random bits.
    ///
    /// # Errors
    /// When another process has it open, it is another node's or a newer metacdn's, or the disk fails.
    pub fn open(folder: &Path, node: &NodeId, fresh_epoch: Epoch) -> Result<Self, StoreError> {
        let lock_path = folder.join("lock");
        let lock = File::create(&lock_path).map_err(StoreError::file("make", &lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse(folder.to_owned()),
            TryLockError::Error(error) => StoreError::file("lock", &lock_path)(error),
        })?;
        let path = folder.join("catalog.sqlite");
        let mut connection = Connection::open(&path)?;
        schema::prepare(&mut connection)?;
        sweep::watch(&connection)?;
        FileSystem.sync_folder(folder).map_err(StoreError::file("sync", folder))?;
        if backup::went_back(&connection, &path)? {
            backup::begin_anew(&connection, fresh_epoch)?;
        }
        backup::note_file(&connection, &path)?;
        let (origin, marks) = load_marks(&connection, node, fresh_epoch)?;
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (report, progress) = watch::channel(marks.progress());
        let writer_origin = origin.clone();
        let writer = std::thread::Builder::new()
            .name("catalog".to_owned())
            .spawn(move || write(&connection, &writer_origin, marks, queue, &report))
            .map_err(StoreError::file("start the writer of", &path))?;
        let shared = Shared {
            path,
            origin,
            readers: Readers::default(),
            progress,
            jobs: Some(jobs),
            writer: Some(writer),
            _lock: lock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Who stamps the versions of writes that happen here.
    pub fn origin(&self) -> &Origin {
        &self.shared.origin
    }

    /// Where the catalogue stands, after each commit.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.clone()
    }

    /// Whether the writer has ended: then nothing can be stored any more, and the process should end, too.
    pub fn has_ended(&self) -> bool {
        self.shared.progress.has_changed().is_err()
    }

    /// Does `work` in the next commit and answers when it is durable. An error of `work` undoes `work` alone.
    ///
    /// # Errors
    /// That of `work`, or why the commit failed.
    pub async fn transact<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let result = transaction.and_then(|transaction| transaction.isolated(work));
            // The one who asked may have gone; the change stands all the same.
            Box::new(move |committed| drop(reply.send(committed.and(result))))
        });
        let jobs = self.shared.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// The entry that this node serves under `key`.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk, like all that follow.
    pub fn find(&self, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        self.read(|connection| query::find(connection, key))
    }

    /// Up to `limit` entries of the feed after the sequence `since`.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn feed(&self, since: u64, limit: usize, select: Select) -> Result<FeedPage, StoreError> {
        self.feed_from(|_| since, limit, select)
    }

    /// As [`Catalog::feed`], after the sequence that `since` chooses, which is told where the feed ends in that moment.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn feed_from(
        &self,
        since: impl FnOnce(u64) -> u64,
        limit: usize,
        select: Select,
    ) -> Result<FeedPage, StoreError> {
        self.read(|connection| query::feed(connection, self.origin(), since, limit, select))
    }

    /// Up to `limit` live objects below `prefix`, after the key `after`, in the order of keys.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Listing, StoreError> {
        self.read(|connection| query::list(connection, prefix, after, limit))
    }

    /// Whether the bytes of this very `entry` are still to be fetched.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn wants_version(&self, entry: &Entry) -> Result<bool, StoreError> {
        self.read(|connection| query::wants_version(connection, entry))
    }

    /// How far the feed of `peer` was read.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn cursor(&self, peer: &NodeId) -> Result<Option<Cursor>, StoreError> {
        self.read(|connection| query::cursor(connection, peer))
    }

    /// Which writes of each origin are passed.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn vector(&self) -> Result<VersionVector, StoreError> {
        self.read(|connection| query::own_vector(connection, self.origin()))
    }

    /// The sum of each bucket of what is listed.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn digests(&self) -> Result<Vec<u64>, StoreError> {
        self.read(|connection| query::digests(connection))
    }

    /// What is listed in one bucket.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn of_bucket(&self, bucket: usize) -> Result<Vec<Entry>, StoreError> {
        self.read(|connection| query::of_bucket(connection, bucket))
    }

    /// Up to `limit` entries of a backup below `prefix`, after the key `after`, which are not listed.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn withheld(&self, prefix: &str, after: Option<&EntryKey>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.read(|connection| query::withheld(connection, prefix, after, limit))
    }

    /// How many bytes the entries after `since` point at; at least, where those are very many.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn bytes_since(&self, since: u64) -> Result<u64, StoreError> {
        self.read(|connection| query::bytes_since(connection, since))
    }

    /// Counts what is held; the time it takes grows with the catalogue.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn summary(&self) -> Result<Summary, StoreError> {
        self.read(|connection| query::summary(connection))
    }

    pub(super) fn read<T>(&self, ask: impl FnOnce(&mut Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut connection = self.shared.readers.take(&self.shared.path)?;
        let answer = ask(&mut connection);
        self.shared.readers.give_back(connection);
        answer
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A job may have been the last to hold this: then the writer itself drops it, and ends by itself.
        let is_other = |writer: &JoinHandle<()>| writer.thread().id() != std::thread::current().id();
        if let Some(writer) = self.writer.take().filter(is_other) {
            // A writer that panicked has said so itself; what was committed is safe.
            let _ = writer.join();
        }
    }
}

/// The writer's thread: groups of jobs, each one transaction.
fn write(
    connection: &Connection,
    origin: &Origin,
    mut marks: Marks,
    mut queue: mpsc::Receiver<Job>,
    report: &watch::Sender<Progress>,
) {
    while let Some(first) = queue.blocking_recv() {
        let before = marks;
        let mut replies = Vec::new();
        let committed = commit(connection, origin, &mut marks, first, &mut queue, &mut replies);
        if committed.is_err() {
            marks = before;
        }
        report.send_if_modified(|progress| {
            let changed = *progress != marks.progress();
            *progress = marks.progress();
            changed
        });
        for reply in replies {
            reply(committed.as_ref().map_err(StoreError::of_group).copied());
        }
    }
}

fn commit(
    connection: &Connection,
    origin: &Origin,
    marks: &mut Marks,
    first: Job,
    queue: &mut mpsc::Receiver<Job>,
    replies: &mut Vec<Reply>,
) -> Result<(), StoreError> {
    // Dropped without a commit, it rolls back.
    let group = match connection.unchecked_transaction() {
        Ok(group) => group,
        Err(error) => {
            replies.push(first(Err(error.into())));
            return Ok(());
        }
    };
    let mut transaction = Transaction { connection, origin, marks, failed: None };
    replies.push(first(Ok(&mut transaction)));
    // On a full disk or an input/output error the database takes the whole group back by itself. What came after that
    // would be a transaction of its own, under sequences that are given out again.
    while replies.len() < GROUP_MAX
        && !connection.is_autocommit()
        && let Ok(job) = queue.try_recv()
    {
        replies.push(job(Ok(&mut transaction)));
    }
    if connection.is_autocommit() {
        return Err(transaction.failed.unwrap_or(StoreError::Full));
    }
    transaction.save_marks()?;
    Ok(group.commit()?)
}

#[cfg(test)]
mod tests;
