//! Damaged files and rows are never served, and go; a damaged index is an empty tier.

use super::*;

/// Three representations in a tier that is closed: one in the index, one of a file, one of several.
async fn three(folder: &Path) {
    let disk = open(folder, 64 << 20).await;
    for (name, size) in [("row", 5_000), ("file", 20_000), ("files", 100_000)] {
        keep(&disk, &page(name), size, size).await.expect("room");
    }
    audit(folder, &disk).await;
    disk.close().await;
}

fn file_of(folder: &Path, size: u64) -> std::path::PathBuf {
    let folders = fs::read_dir(folder.join("slices")).expect("folders").map(|entry| entry.expect("a folder").path());
    let mut files = folders.flat_map(|path| fs::read_dir(path).expect("a folder"));
    let is_it = |entry: &fs::DirEntry| entry.metadata().expect("a file").len() == size;
    files.find_map(|entry| entry.ok().filter(is_it)).expect("there is one").path()
}

#[tokio::test]
async fn a_damaged_file_is_a_miss_and_goes() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("flipped", |path| {
            let mut bytes = fs::read(path).expect("readable");
            bytes[12_345] ^= 1;
            fs::write(path, bytes).expect("writable");
        }),
        ("truncated", |path| File::options().write(true).open(path).and_then(|f| f.set_len(9_000)).expect("writable")),
        ("empty", |path| File::options().write(true).open(path).and_then(|f| f.set_len(0)).expect("writable")),
        ("torn", |path| {
            let file = File::options().write(true).open(path).expect("writable");
            file.set_len(8192).and_then(|()| file.set_len(20_000)).expect("writable");
        }),
        ("longer", |path| File::options().write(true).open(path).and_then(|f| f.set_len(20_001)).expect("writable")),
        ("missing", |path| fs::remove_file(path).expect("it is there")),
    ];
    for (name, harm) in harms {
        let root = tempfile::tempdir().expect("a folder");
        three(root.path()).await;
        harm(&file_of(root.path(), 20_000));
        let disk = open(root.path(), 64 << 20).await;
        let left = found(&disk, &page("file")).await;
        assert!(left.is_empty() || left == [(20_000, 0)], "{name}: {left:?}");
        disk.settle().await;
        assert!(!disk.may_have(&page("file")), "{name}");
        assert_eq!(found(&disk, &page("files")).await, [(100_000, 4)], "{name}");
        audit(root.path(), &disk).await;
        keep(&disk, &page("file"), 7, 20_000).await.expect("it can come back");
        assert_eq!(found(&disk, &page("file")).await, [(7, 1)], "{name}");
        disk.close().await;
        let disk = open(root.path(), 64 << 20).await;
        assert_eq!(found(&disk, &page("file")).await, [(7, 1)], "{name}");
    }
}

#[tokio::test]
async fn one_wrong_slice_leaves_the_others() {
    let root = tempfile::tempdir().expect("a folder");
    three(root.path()).await;
    let last = 100_000 % SLICE;
    fs::write(file_of(root.path(), last), body(3, last)).expect("writable");
    let disk = open(root.path(), 64 << 20).await;
    let loaded = disk.load(&page("files"), &[]).await;
    assert!(loaded[0].kept.has(3), "nobody has looked");
    assert_eq!((read(&loaded[0]).await, loaded[0].kept.has(3)), (3, false));
    disk.settle().await;
    assert!(put(&loaded[0].kept, 3, slices(&body(100_000, 100_000))[3].clone()).await, "it may be written again");
    assert_eq!(read(&loaded[0]).await, 4);
    audit(root.path(), &disk).await;
}

#[tokio::test]
async fn a_garbled_row_is_a_miss_and_goes() {
    for (change, name) in [
        ("UPDATE heads SET head = CAST(replace(head, 'accept', 'accfpt') AS BLOB) WHERE body IS NOT NULL", "row"),
        ("UPDATE heads SET body = zeroblob(5000) WHERE body IS NOT NULL", "row"),
        ("UPDATE heads SET body = NULL WHERE body IS NOT NULL", "row"),
        ("UPDATE heads SET body_sum = NULL WHERE body IS NOT NULL", "row"),
        ("UPDATE heads SET body_sum = 7 WHERE body IS NOT NULL", "row"),
        ("UPDATE heads SET head_sum = 7 WHERE body IS NOT NULL", "row"),
        ("UPDATE heads SET key = (SELECT key FROM heads WHERE body IS NOT NULL)", "file"),
        ("DELETE FROM heads WHERE body IS NOT NULL", "row"),
        ("UPDATE representations SET size = 4999 WHERE size = 5000", "row"),
        ("UPDATE representations SET size = 20001 WHERE size = 20000", "file"),
        ("UPDATE representations SET size = -1 WHERE size = 20000", "file"),
        ("UPDATE representations SET size = 7 WHERE size = 20000", "file"),
        ("UPDATE heads SET head = CAST(substr(head, 1, 50) AS BLOB) WHERE body IS NULL", "file"),
        ("UPDATE slices SET sum = sum + 1", "file"),
        ("UPDATE slices SET slice = slice + 1000000", "file"),
        ("DELETE FROM slices", "file"),
    ] {
        let root = tempfile::tempdir().expect("a folder");
        three(root.path()).await;
        let index = Connection::open(root.path().join("index.sqlite")).expect("an index");
        assert!(index.execute(change, []).expect(change) > 0, "{change}");
        drop(index);
        let disk = open(root.path(), 64 << 20).await;
        let left = found(&disk, &page(name)).await;
        assert!(left.iter().all(|&(_, slices)| slices == 0), "{change}: {left:?}");
        disk.settle().await;
        assert!(found(&disk, &page(name)).await.is_empty(), "{change}");
        found(&disk, &page("row")).await;
        found(&disk, &page("files")).await;
        disk.settle().await;
        disk.close().await;
        let disk = open(root.path(), 64 << 20).await;
        assert!(found(&disk, &page(name)).await.is_empty(), "{change}, in another life");
    }
}

#[tokio::test]
async fn an_index_that_is_none_or_another_is_an_empty_tier() {
    type Harm = fn(&Path);
    let sql = |folder: &Path, sql: &str| {
        Connection::open(folder.join("index.sqlite"))
            .and_then(|index| index.execute_batch(sql))
            .expect("it is changed");
    };
    let harms: [(&str, Harm); 7] = [
        ("garbage", |folder| fs::write(folder.join("index.sqlite"), body(1, 50_000)).expect("writable")),
        ("zeros", |folder| fs::write(folder.join("index.sqlite"), vec![0; 50_000]).expect("writable")),
        ("missing", |folder| fs::remove_file(folder.join("index.sqlite")).expect("it is there")),
        ("empty", |folder| fs::write(folder.join("index.sqlite"), b"").expect("writable")),
        ("format", |_| ()),
        ("tables", |_| ()),
        ("marks", |_| ()),
    ];
    for (name, harm) in harms {
        let root = tempfile::tempdir().expect("a folder");
        three(root.path()).await;
        let foreign = [root.path().join("photo.jpg"), root.path().join("slices/07/photo.jpg")];
        foreign.iter().for_each(|path| fs::write(path, b"theirs").expect("writable"));
        harm(root.path());
        match name {
            "format" => sql(root.path(), "PRAGMA user_version = 77"),
            "tables" => sql(root.path(), "DROP TABLE slices"),
            "marks" => sql(root.path(), "DELETE FROM marks WHERE name = 'seed'"),
            _ => (),
        }
        let disk = open(root.path(), 64 << 20).await;
        for key in ["row", "file", "files"] {
            assert!(disk.load(&page(key), &[]).await.is_empty(), "{name}: {key}");
            keep(&disk, &page(key), 7, 20_000).await.expect("it can be used");
        }
        if foreign[1].exists() {
            // The folder was not discarded: the index was new to it.
            fs::remove_file(&foreign[1]).expect("it is there");
        } else {
            let discarded = root.path().join("discarded.0/07/photo.jpg");
            assert!(discarded.exists(), "{name}: it is not ours");
            let left = walk(&root.path().join("discarded.0"));
            assert_eq!(left, 1, "{name}: the rest is");
        }
        assert!(foreign[0].exists(), "{name}");
        audit(root.path(), &disk).await;
        disk.close().await;
        let disk = open(root.path(), 64 << 20).await;
        assert_eq!(found(&disk, &page("file")).await, [(7, 1)], "{name}");
    }
}

fn walk(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn slices_of_another_size_are_an_empty_tier() {
    let root = tempfile::tempdir().expect("a folder");
    three(root.path()).await;
    let disk = open_with(root.path(), 64 << 20, 2 * SLICE).expect("a tier");
    ready(&disk).await;
    assert!(disk.load(&page("row"), &[]).await.is_empty() && disk.used_bytes() == 0);
    audit(root.path(), &disk).await;
}

#[tokio::test]
async fn an_index_that_breaks_while_it_is_used_is_an_empty_tier_in_the_end() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    for seed in 0..200 {
        keep(&disk, &page(&seed.to_string()), seed, 5_000).await.expect("room");
    }
    let file = keep(&disk, &page("file"), 1, 20_000).await.expect("room").open(0).await.expect("it is there");
    // Pages, and the log that would hide that.
    for name in ["index.sqlite", "index.sqlite-wal"] {
        let index = File::options().write(true).open(root.path().join(name)).expect("writable");
        let length = index.metadata().expect("a file").len();
        index.write_all_at(&body(1, length.saturating_sub(200)), 200).expect("writable");
    }
    let mut seed = 1_000;
    // It pauses after a failure, so this takes some seconds.
    while found(&disk, &page(&seed.to_string())).await.is_empty() {
        seed += 1;
        keep(&disk, &page(&seed.to_string()), seed, 20_000).await;
        a_moment().await;
    }
    assert!(read_file(&file, SLICE) == body(1, 20_000), "what is open reads on");
    disk.close().await;
    let disk = open(root.path(), 64 << 20).await;
    assert_eq!(found(&disk, &page(&seed.to_string())).await, [(seed, 1)]);
    audit(root.path(), &disk).await;
}

#[tokio::test]
async fn orphans_are_deleted_and_foreign_files_are_not() {
    let root = tempfile::tempdir().expect("a folder");
    three(root.path()).await;
    let orphans = ["slices/07/0000010000000007.0", "slices/01/0000010000000001.9", "slices/ff/00000000000000ff.3"];
    let foreign = ["slices/07/photo.jpg", "slices/07/0000010000000008.0", "slices/07/0000010000000007.00"];
    for name in orphans.into_iter().chain(foreign) {
        fs::write(root.path().join(name), b"bytes").expect("writable");
    }
    let disk = open(root.path(), 64 << 20).await;
    assert!(orphans.iter().all(|name| !root.path().join(name).exists()));
    assert!(foreign.iter().all(|name| root.path().join(name).exists()));
    assert_eq!(found(&disk, &page("files")).await, [(100_000, 4)]);
}

#[tokio::test]
async fn two_cannot_share_a_folder() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    assert!(matches!(open_with(root.path(), 64 << 20, SLICE), Err(DiskError::InUse(_))));
    disk.close().await;
    open(root.path(), 64 << 20).await;
    let file = root.path().join("photo.jpg");
    fs::write(&file, b"bytes").expect("writable");
    assert!(matches!(open_with(&file, 64 << 20, SLICE), Err(DiskError::Folder { .. })));
    assert!(Disk::open(&Config::default(), SLICE).expect("nothing to fail").is_none(), "no folder, no tier");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_read_any_more_is_looked_at_and_written_anew() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 10 << 20).await;
    let kept = keep(&disk, &page("a"), 7, 100_000).await.expect("kept");
    let path = disk.tier.folder.slice(kept.entry().id, 1);
    let open = kept.open(1).await.expect("it is there");
    // It was right when it was verified.
    fs::write(&path, b"short").expect("written");
    assert!(read_file(&open, SLICE).len() < 10 && kept.opened(1).is_some());
    kept.doubt(1);
    assert!(kept.opened(1).is_none() && kept.open(1).await.is_none() && !kept.has(1), "it goes");
    disk.settle().await;
    assert!(put(&kept, 1, slices(&body(7, 100_000))[1].clone()).await);
    assert_eq!(found(&disk, &page("a")).await, [(7, 4)]);
    // What is right after all stays.
    kept.doubt(1);
    assert!(kept.opened(1).is_none() && kept.open(1).await.is_some() && kept.opened(1).is_some());
}
