//! Many who write, read, remove and evict at once.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_see_no_wrong_byte_and_leave_no_orphan() {
    let root = tempfile::tempdir().expect("a folder");
    // Room for a third of what is written.
    let disk = open(root.path(), 3 << 20).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8_u64 {
        let disk = disk.clone();
        tasks.spawn(async move {
            let mut seen = 0;
            for step in 0..300_u64 {
                let chance = (task * 1_000 + step).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
                let key = page(&(chance % 40).to_string());
                match chance / 64 % 8 {
                    0 => disk.remove_key(&key),
                    1 => {
                        if let Some(loaded) = disk.load(&key, &[]).await.pop() {
                            disk.remove(&loaded.kept);
                        }
                    }
                    2 | 3 => {
                        let size = [700, 20_000, 150_000, 40_000][chance as usize / 4096 % 4];
                        let kept = keep(&disk, &key, chance, size).await;
                        if let Some(file) = match &kept {
                            Some(kept) if size > 700 => kept.open(0).await,
                            _ => None,
                        } {
                            assert!(read_file(&file, SLICE) == slices(&body(chance, size))[0]);
                        }
                    }
                    4 => {
                        for loaded in disk.load(&key, &[]).await {
                            disk.update(&loaded.kept, &loaded.head);
                            loaded.kept.use_inline();
                        }
                    }
                    _ => seen += found(&disk, &key).await.iter().map(|(_, slices)| slices).sum::<usize>(),
                }
                assert!(disk.used_bytes() <= 3 << 20);
            }
            seen
        });
    }
    let seen: usize = tasks.join_all().await.into_iter().sum();
    assert!(seen > 100, "{seen} slices were read");
    audit(root.path(), &disk).await;
    disk.close().await;
    let again = open(root.path(), 3 << 20).await;
    assert_eq!(again.used_bytes(), disk.used_bytes());
    audit(root.path(), &again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_slice_is_brought_opened_and_removed_by_many() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    for round in 0..30 {
        let kept = disk.begin(&page("a"), &head(round, 2 * SLICE), 1.0).expect("room");
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8 {
            let (kept, disk) = (kept.clone(), disk.clone());
            tasks.spawn(async move {
                let bytes = slices(&body(round, 2 * SLICE));
                put(&kept, task % 2, bytes[task as usize % 2].clone()).await;
                if let Some(file) = kept.open(task % 2).await {
                    assert!(read_file(&file, SLICE) == bytes[task as usize % 2]);
                }
                if task == 7 && round % 2 == 0 {
                    disk.remove(&kept);
                }
            });
        }
        tasks.join_all().await;
        disk.settle().await;
        assert_eq!(kept.has(0) && kept.has(1), round % 2 == 1);
    }
    audit(root.path(), &disk).await;
}
