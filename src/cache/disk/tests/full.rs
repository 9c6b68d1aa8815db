//! A full disk: what does not fit is dropped, what is there is served, and all goes on when there is room.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A file system of its own, small enough to be filled.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(folder: PathBuf, mebibytes: u32) -> Self {
        fs::create_dir_all(&folder).expect("a folder");
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output();
        let mount = mount.expect("mount(8)");
        let said = String::from_utf8_lossy(&mount.stderr);
        assert!(mount.status.success(), "only root can mount a disk to fill: sudo ./test.sh ({})", said.trim());
        Self(folder)
    }

    fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).expect("a file");
        while filler.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_smaller_than_the_capacity_is_used_whole() {
    let root = tempfile::tempdir().expect("a folder");
    let small = SmallDisk::at(root.path().join("disk"), 24);
    let disk = open(&small.0, 1 << 30).await;
    let mut last = 0;
    for seed in 0..600 {
        let size = if seed % 3 == 0 { 8_000 } else { 90_000 };
        if keep(&disk, &page(&seed.to_string()), seed, size).await.is_some() {
            last = seed;
        }
    }
    assert!(last > 500, "others went for what is new; the last that came in is {last}");
    let mut there = 0;
    for seed in 0..600 {
        there += found(&disk, &page(&seed.to_string())).await.len();
    }
    assert!(there > 100, "{there} are there");
    audit(&small.0, &disk).await;
    disk.close().await;
    let disk = open(&small.0, 1 << 30).await;
    let mut warm = 0;
    for seed in 0..600 {
        warm += found(&disk, &page(&seed.to_string())).await.len();
    }
    assert_eq!(warm, there);
    disk.close().await;
}

#[tokio::test]
async fn a_disk_that_others_have_filled_is_served_and_written_again_when_there_is_room() {
    let root = tempfile::tempdir().expect("a folder");
    let small = SmallDisk::at(root.path().join("disk"), 16);
    let disk = open(&small.0, 1 << 30).await;
    for seed in 0..150 {
        keep(&disk, &page(&seed.to_string()), seed, 20_000).await.expect("room");
        keep(&disk, &page(&format!("row {seed}")), seed, 2_000).await.expect("room");
    }
    small.fill();
    for seed in 200..205 {
        keep(&disk, &page("new"), seed, 20_000).await;
    }
    let mut there = 0;
    for seed in 0..150 {
        there += found(&disk, &page(&seed.to_string())).await.len();
        there += found(&disk, &page(&format!("row {seed}"))).await.len();
    }
    assert!(there > 20, "what is there is served: {there}");
    for seed in 200..240 {
        keep(&disk, &page("large"), seed, 900_000).await;
    }
    assert!(disk.used_bytes() < 2 << 20, "it makes room for others: {}", disk.used_bytes());
    // Removed on a full disk, it does not come back.
    disk.remove_key(&page("row 149"));
    fs::remove_file(small.0.join("filler")).expect("it is there");
    let mut seed = 1_000;
    // It pauses after a failure, so this takes some seconds.
    while keep(&disk, &page("new"), seed, 100_000).await.is_none() {
        seed += 1;
        a_moment().await;
    }
    audit(&small.0, &disk).await;
    disk.close().await;
    let disk = open(&small.0, 1 << 30).await;
    assert!(found(&disk, &page("row 149")).await.is_empty());
    assert_eq!(found(&disk, &page("new")).await[0], (seed, 4));
    disk.close().await;
}

#[tokio::test]
async fn what_finds_no_room_is_refused_and_writing_pauses_until_there_is_some() {
    let root = tempfile::tempdir().expect("a folder");
    let small = SmallDisk::at(root.path().join("disk"), 16);
    let disk = open(&small.0, 1 << 30).await;
    small.fill();
    assert!(keep(&disk, &page("a"), 1, 1_000_000).await.is_none(), "there is nothing that could go for it");
    assert!(disk.begin(&page("b"), &head(1, 100), 1.0).is_none(), "nothing is tried for some seconds");
    assert!(!disk.may_have(&page("a")));
    fs::remove_file(small.0.join("filler")).expect("it is there");
    while keep(&disk, &page("a"), 2, 1_000_000).await.is_none() {
        a_moment().await;
    }
    assert_eq!(found(&disk, &page("a")).await, [(2, 31)]);
    audit(&small.0, &disk).await;
    disk.close().await;
}
