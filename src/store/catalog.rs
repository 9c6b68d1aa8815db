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

use super::query::{self, FeedPage, Listing, Select, Summary, Want};
use super::readers::Readers;
use super::transaction::{Cursor, Marks, Progress, Transaction, load_marks};
use super::{StoreError, schema};
use crate::model::{Entry, EntryKey, Epoch, NodeId, ObjectKey, Origin};

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
        super::blobs::sync_folder(folder)?;
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
        self.read(|connection| query::feed(connection, since, limit, select))
    }

    /// Up to `limit` live objects below `prefix`, after the key `after`, in the order of keys.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Listing, StoreError> {
        self.read(|connection| query::list(connection, prefix, after, limit))
    }

    /// Up to `limit` entries of at most `size_max` bytes that are to be fetched: those that never failed first, and the
    /// newest of equals.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn wants(&self, size_max: u64, limit: usize) -> Result<Vec<Want>, StoreError> {
        self.read(|connection| query::wants(connection, size_max, limit))
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
        if let Some(writer) = self.writer.take() {
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
mod tests {
    use super::*;
    use crate::model::{Content, ContentHash, EntryState, RecordKey};

    fn node(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    fn open(folder: &Path) -> Catalog {
        Catalog::open(folder, &node("A"), Epoch::from_bits(1)).expect("a catalogue")
    }

    fn key(text: &str) -> EntryKey {
        text.parse().expect("a key")
    }

    fn live(text: &str) -> EntryState {
        EntryState::Live(Content {
            hash: ContentHash::of(text.as_bytes()),
            size: text.len() as u64,
            media_type: "text/plain".parse().expect("a value"),
            cache_control: "max-age=60".parse().expect("a value"),
        })
    }

    async fn put(catalog: &Catalog, name: &str, state: EntryState) -> Entry {
        let key = key(name);
        let change = move |transaction: &mut Transaction<'_>| {
            let entry = Entry { key, version: transaction.stamp(1000), state };
            transaction.list(&entry)?;
            Ok(entry)
        };
        catalog.transact(change).await.expect("a commit")
    }

    #[tokio::test]
    async fn the_feed_has_the_newest_entry_of_each_key_in_the_order_of_commits() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        for (name, text) in [("a", "1"), ("b", "2"), ("c", "3"), ("a", "4")] {
            put(&catalog, name, live(text)).await;
        }
        let names = |page: &FeedPage| page.entries.iter().map(|e| e.key.to_string()).collect::<Vec<_>>();
        let first = catalog.feed(0, 2, Select::All).expect("a page");
        assert_eq!((names(&first), first.next, first.end), (vec!["b".into(), "c".into()], 3, false));
        let rest = catalog.feed(first.next, 2, Select::All).expect("a page");
        assert_eq!((names(&rest), rest.next, rest.end), (vec!["a".into()], 4, true));
        assert_eq!(catalog.progress().borrow().head, 4);
    }

    #[tokio::test]
    async fn records_are_selected_and_the_cursor_passes_the_objects() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let record = RecordKey::price(&"AWS".parse().expect("a name")).to_string();
        put(&catalog, &record, EntryState::Record("{}".to_owned())).await;
        put(&catalog, "a", live("1")).await;
        let page = catalog.feed(0, 10, Select::Records).expect("a page");
        assert_eq!((page.entries.len(), page.next, page.end), (1, 2, true));
    }

    #[tokio::test]
    async fn stamps_and_sequences_go_on_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let before = put(&catalog, "a", live("1")).await;
        drop(catalog);
        let catalog = open(folder.path());
        assert_eq!(catalog.origin().epoch, Epoch::from_bits(1));
        let after = put(&catalog, "a", live("2")).await;
        assert!(after.version > before.version && after.version.sequence == 2, "{after:?}");
        assert_eq!(catalog.progress().borrow().head, 2);
    }

    #[tokio::test]
    async fn a_failed_change_takes_back_its_own_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let lost = Entry { key: key("lost"), ..put(&catalog, "a", live("1")).await };
        let failed = catalog
            .transact(move |transaction| {
                transaction.list(&lost)?;
                Err::<(), _>(StoreError::Closed)
            })
            .await;
        assert!(matches!(failed, Err(StoreError::Closed)));
        assert_eq!(catalog.find(&key("lost")).expect("readable"), None);
        put(&catalog, "b", live("2")).await;
        assert_eq!(catalog.progress().borrow().head, 2);
    }

    #[tokio::test]
    async fn a_group_that_the_database_took_back_is_refused_whole_and_no_sequence_is_used_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        put(&catalog, "before", live("0")).await;
        let (go, queued) = std::sync::mpsc::channel();
        let write = |name: &'static str| {
            move |t: &mut Transaction<'_>| {
                let entry = Entry { key: key(name), version: t.stamp(1000), state: live(name) };
                t.list(&entry)
            }
        };
        let first = catalog.transact(move |t| {
            queued.recv().expect("the others are queued");
            write("first")(t)
        });
        // What a full disk does to a transaction.
        let second = catalog.transact(|t| {
            t.connection.execute_batch("ROLLBACK")?;
            Err::<(), _>(StoreError::Full)
        });
        let third = catalog.transact(write("third"));
        let (first, second, third, ()) = tokio::join!(first, second, third, async { go.send(()).expect("it waits") });
        assert!(matches!((first, second), (Err(StoreError::Full), Err(StoreError::Full))));
        third.expect("a group of its own");
        let page = catalog.feed(0, 10, Select::All).expect("a page");
        let names: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!((names, page.next, catalog.progress().borrow().head), (vec!["before", "third"], 2, 2));
    }

    #[tokio::test]
    async fn a_want_goes_when_its_entry_is_listed_and_stays_for_an_older_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let old = put(&catalog, "a", live("1")).await;
        let new = Entry { state: live("2"), version: put(&catalog, "b", live("b")).await.version, ..old.clone() };
        let wanted = new.clone();
        let older = old.clone();
        let work = move |t: &mut Transaction<'_>| {
            t.want(&wanted, &node("B"))?;
            t.want(&older, &node("C"))?;
            t.list(&older)
        };
        catalog.transact(work).await.expect("a commit");
        let wants = catalog.wants(u64::MAX, 10).expect("readable");
        assert_eq!(wants.iter().map(|want| (&want.entry, want.peer.as_str())).collect::<Vec<_>>(), [(&new, "B")]);
        assert_eq!(catalog.progress().borrow().wants, 1);
        let listed = new.clone();
        catalog.transact(move |t| t.list(&listed)).await.expect("a commit");
        assert_eq!(catalog.progress().borrow().wants, 0);
        assert_eq!(catalog.find(&new.key).expect("readable"), Some(new));
    }

    #[tokio::test]
    async fn wants_that_failed_come_after_the_others_and_large_ones_can_be_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let old = put(&catalog, "a", live("old")).await;
        let new = put(&catalog, "b", live("newer")).await;
        let change = move |t: &mut Transaction<'_>| {
            t.want(&old, &node("B"))?;
            t.want(&new, &node("B"))?;
            t.postpone_want(&new)
        };
        catalog.transact(change).await.expect("a commit");
        let wants = |size_max| {
            let wants = catalog.wants(size_max, 10).expect("readable").into_iter();
            wants.map(|want| (want.entry.key.to_string(), want.failures)).collect::<Vec<_>>()
        };
        assert_eq!(wants(u64::MAX), [("a".to_owned(), 0), ("b".to_owned(), 1)]);
        assert_eq!(wants(3), [("a".to_owned(), 0)]);
    }

    #[tokio::test]
    async fn a_stray_is_served_but_not_fed_until_a_newer_entry_replaces_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let stray = catalog
            .transact(|t| {
                let stray = Entry { key: key("a"), version: t.stamp(1), state: live("stray") };
                t.keep_stray(&stray).map(|()| stray)
            })
            .await
            .expect("a commit");
        assert_eq!(catalog.find(&key("a")).expect("readable"), Some(stray));
        assert!(catalog.feed(0, 10, Select::All).expect("a page").entries.is_empty());
        assert_eq!(catalog.list("", None, 10).expect("a list").objects.len(), 1);
        let newer = put(&catalog, "a", live("2")).await;
        assert_eq!(catalog.find(&key("a")).expect("readable"), Some(newer));
        assert_eq!(catalog.summary().expect("a count"), Summary { objects: 1, bytes: 1, tombstones: 0, strays: 0 });
    }

    #[tokio::test]
    async fn lists_go_by_prefix_and_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        for name in ["a", "a/1", "a/2", "a/3", "a0", "b"] {
            put(&catalog, name, live(name)).await;
        }
        put(&catalog, "a/2", EntryState::Deleted).await;
        let after: ObjectKey = "a/1".parse().expect("a key");
        let names = |l: Listing| (l.objects.into_iter().map(|o| o.key.to_string()).collect::<Vec<_>>(), l.more);
        assert_eq!(names(catalog.list("a/", None, 1).expect("a list")), (vec!["a/1".to_owned()], true));
        assert_eq!(names(catalog.list("a/", Some(&after), 5).expect("a list")), (vec!["a/3".to_owned()], false));
        assert_eq!(catalog.list("", None, 9).expect("a list").objects.len(), 5);
    }

    #[tokio::test]
    async fn a_folder_has_one_process_and_one_node() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let second = Catalog::open(folder.path(), &node("A"), Epoch::from_bits(2));
        assert!(matches!(second, Err(StoreError::InUse(_))));
        drop(catalog);
        let other = Catalog::open(folder.path(), &node("B"), Epoch::from_bits(2));
        assert!(matches!(other, Err(StoreError::OtherNode { .. })), "{other:?}");
    }

    #[test]
    fn the_bundled_sqlite_has_the_fix_for_lost_pages() {
        // Older ones can lose committed pages of a write-ahead log that is reset while another connection writes.
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }
}
