//! Killed at any moment, the tier serves no wrong byte in its next life, and forgets no file.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Where the one that is killed works; not set in a run of the tests.
const FOLDER: &str = "METACDN_DISK_CRASH_FOLDER";

const CAPACITY: u64 = 6 << 20;
const KEYS: u64 = 60;

/// Not a test of its own: the process that [`killed_at_any_moment_it_serves_no_wrong_byte`] kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    // Nobody waits for it to be ready: a kill may meet the start, too.
    println!("begins");
    let disk = open_with(Path::new(&folder), CAPACITY, SLICE).expect("a tier");
    let mut state = getrandom::u64().expect("chance");
    loop {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chance = state >> 33;
        let key = page(&(chance % KEYS).to_string());
        match chance / KEYS % 12 {
            0 => disk.remove_key(&key),
            1 => drop(found(&disk, &key).await),
            2 => {
                for loaded in disk.load(&key, &[]).await {
                    disk.update(&loaded.kept, &loaded.head);
                }
            }
            3 => disk.settle().await,
            4 => tokio::task::yield_now().await,
            _ => {
                let size = chance / 1000 % 5 * chance / 7_000 % 100_000;
                let Some(kept) = disk.begin(&key, &head(chance, size), 1.0) else { continue };
                for (slice, bytes) in slices(&body(chance, size)).into_iter().enumerate() {
                    kept.put(slice as u32, bytes, |_| ());
                }
            }
        }
    }
}

#[tokio::test]
async fn killed_at_any_moment_it_serves_no_wrong_byte() {
    let rounds = std::env::var("METACDN_CRASHES").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30_u32);
    let root = tempfile::tempdir().expect("a folder");
    let (mut representations, mut whole) = (0, 0);
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "cache::disk::tests::crash::writes_until_it_is_killed", "--nocapture"])
            .env(FOLDER, root.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        assert!(lines.any(|line| line.expect("text").contains("begins")), "it runs");
        let most_ms = if round % 4 == 0 { 30 } else { 400 };
        let wait = Duration::from_millis(getrandom::u64().expect("chance") % most_ms);
        tokio::time::sleep(wait).await;
        child.kill().expect("SIGKILL");
        let ended = child.wait().expect("it ends");
        assert!(ended.code().is_none(), "it ended by itself: {ended}");

        let disk = open(root.path(), CAPACITY).await;
        audit(root.path(), &disk).await;
        for key in 0..KEYS {
            for loaded in disk.load(&page(&key.to_string()), &[]).await {
                let expected = slices(&body(0, loaded.kept.size())).len();
                representations += 1;
                whole += usize::from(read(&loaded).await == expected);
            }
        }
        // All that was there was right: nothing went.
        audit(root.path(), &disk).await;
        disk.close().await;
    }
    println!("{representations} representations after {rounds} kills, {whole} of them whole");
    assert!(representations > rounds as usize && whole > 0, "{representations}, {whole}");
}
