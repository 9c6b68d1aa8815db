//! A node whose clock is ten minutes ahead: it refuses writes, and what it stamped wins over nobody.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{NAMES, World};
use crate::answers::ask;
use crate::cluster::{get, put, wait_until};
use crate::processes::Processes;

/// The library that shifts the clock of a program, which Debian keeps in a folder of the machine's kind.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|folder| folder.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("libfaketimeMT.so.1: apt-get install faketime")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_ten_minutes_ahead_wins_over_nobody() {
    let mut processes = Processes::prepare(&NAMES);
    let preload = format!("LD_PRELOAD={}", library().display());
    for name in ["AWS", "Program"] {
        processes.spawn(name);
        processes.up(name).await;
    }
    let (aws, program) = (processes.client("AWS"), processes.client("Program"));
    put(&aws, "before", "before").await;
    // Of all clocks only that on the wall is wrong, as it is on a machine that was told a wrong time.
    processes.launch_by("GC", &["env", &preload, "FAKETIME=+600s", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
    processes.spawn("GC");
    processes.up("GC").await;
    let gc = processes.client("GC");
    // Until it has heard of two clocks it cannot know; what it takes then, nobody else must list before its time.
    wait_until("it refuses writes", async || {
        let answer = ask(&gc, "PUT", "/v1/objects/contested", &[], "from the future").await;
        answer.status == 503 && answer.problem().contains("clock")
    })
    .await;
    assert_eq!(ask(&gc, "DELETE", "/v1/objects/before", &[], "").await.status, 503);
    let json = [("content-type", "application/json")];
    assert_eq!(ask(&gc, "PUT", "/v1/servers/AWS/state", &json, "\"maintenance\"").await.status, 503, "records, too");
    // Writes elsewhere win, and are stamped with the true time.
    for (peer, text) in [(&aws, "now at AWS"), (&program, "now at Program")] {
        let receipt = put(peer, "contested", text).await;
        let ahead_ms = receipt.version.time.unix_ms().saturating_sub(now_ms());
        assert!(ahead_ms < 60_000, "a wrong clock has shifted another by {ahead_ms} ms");
        for reader in [&aws, &program] {
            wait_until("the write is read", async || {
                get(reader, "contested").await.as_deref() == Some(text.as_bytes())
            })
            .await;
        }
    }
    // It serves reads of what it has, and follows.
    wait_until("it follows", async || get(&gc, "before").await.is_some()).await;

    // With its clock mended and an empty folder, it is a node like any other.
    processes.kill("GC").await;
    std::fs::remove_dir_all(processes.data("GC")).unwrap();
    processes.launch_by("GC", &[]);
    processes.spawn("GC");
    processes.up("GC").await;
    wait_until("it takes writes", async || ask(&gc, "PUT", "/v1/objects/after", &[], "after").await.status < 300).await;
    wait_until("it agrees", async || get(&gc, "contested").await.as_deref() == Some(b"now at Program")).await;
    let world = World::around(processes);
    world.verified(&["--bytes"]).await;
}
