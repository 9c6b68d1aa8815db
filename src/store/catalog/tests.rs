//! Tests of the catalogue, on real files.

use super::*;
use crate::model::{Content, ContentHash, EntryState, RecordKey};
use crate::replicate::Ledger as _;

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
    assert_eq!((names(&first), first.next, first.end), (vec!["b".into(), "c".into()], 3, None));
    let rest = catalog.feed(first.next, 2, Select::All).expect("a page");
    assert_eq!((names(&rest), rest.next, rest.end.is_some()), (vec!["a".into()], 4, true));
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
    assert_eq!((page.entries.len(), page.next, page.end.is_some()), (1, 2, true));
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
    let wants = catalog.small_wants(10).expect("readable");
    assert_eq!(wants.iter().map(|want| (&want.entry, want.peer.as_str())).collect::<Vec<_>>(), [(&new, "B")]);
    assert_eq!(catalog.progress().borrow().wants, 1);
    let listed = new.clone();
    catalog.transact(move |t| t.list(&listed)).await.expect("a commit");
    assert_eq!(catalog.progress().borrow().wants, 0);
    assert_eq!(catalog.find(&new.key).expect("readable"), Some(new));
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
    assert_eq!(
        catalog.summary().expect("a count"),
        Summary { objects: 1, bytes: 1, tombstones: 0, strays: 0, withheld: 0 }
    );
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
