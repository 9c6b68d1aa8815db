//! How long a start takes, and what memory a representation does: by hand, with `--ignored --nocapture`.

use std::time::Instant;

use super::*;

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: it takes half a minute"]
async fn starts_with_200_000_representations() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 100 << 30).await;
    let count = 200_000;
    let began = Instant::now();
    let mut refused = 0;
    for seed in 0..count {
        // Of ten, three have a file, the others are in the index.
        let size = if seed % 10 < 3 { 20_000 } else { 2_000 };
        let kept = disk.begin(&page(&format!("some/longer/path/{seed}")), &head(seed, size), 1.0).expect("room");
        kept.put(0, body(seed, size), |_| ());
        if seed % 1_000 == 0 {
            disk.settle().await;
        }
        refused += u64::from(kept.entry().is_removed());
    }
    disk.settle().await;
    println!("written in {:?}, {refused} refused, {} bytes used", began.elapsed(), disk.used_bytes());
    disk.close().await;
    drop(disk);
    let before = resident_bytes();
    let began = Instant::now();
    let disk = open_with(root.path(), 100 << 30, SLICE).expect("a tier");
    println!("open: {:?}", began.elapsed());
    disk.settle().await;
    println!("loaded: {:?}", began.elapsed());
    let loaded = resident_bytes();
    ready(&disk).await;
    println!("compared with the files: {:?}", began.elapsed());
    let entries = disk.tier.entries.all().len();
    println!("{entries} entries, {} bytes each by growth of the process", (loaded - before) / count);
    println!(
        "an entry is {} bytes, the queues together {}",
        size_of::<entry::Entry>(),
        disk.tier.queues().memory_bytes()
    );
    let began = Instant::now();
    for seed in (0..count).step_by(200) {
        assert_eq!(disk.load(&page(&format!("some/longer/path/{seed}")), &[]).await.len(), 1);
    }
    println!("load: {:?} each", began.elapsed() / 1_000);
}
