//! From threads to the file.

use std::time::Instant;

use http::{StatusCode, Version};

use super::*;
use crate::serve::AskedFor;

fn ended(user_agent: &[u8]) -> Ended<'_> {
    let begun = Instant::now();
    Ended {
        asked: AskedFor { method: b"GET", host: b"a.example", target: b"/", user_agent, ..AskedFor::default() },
        version: Version::HTTP_11,
        secured: false,
        client: "127.0.0.1:1".parse().expect("an address"),
        begun,
        first_byte: None,
        whole: begun.elapsed(),
        status: Some(StatusCode::OK),
        body_bytes: 0,
        complete: true,
        left: Left::Nothing,
    }
}

fn start(folder: &std::path::Path) -> (AccessLog, PathBuf, Counts) {
    let (path, counts) = (folder.join("access.log"), Counts::default());
    let config = Config { path: Some(path.clone()), ..Config::default() };
    let log = AccessLog::start(&config, counts.clone()).expect("it opens").expect("there is a path");
    (log, path, counts)
}

#[tokio::test]
async fn each_line_of_many_threads_arrives_whole() {
    const THREADS: usize = 8;
    const LINES: usize = 2_000;
    let folder = tempfile::tempdir().expect("a folder");
    let (log, path, counts) = start(folder.path());
    // Half of them share one, as those that serve QUIC do.
    let shared = log.witness(NonZeroUsize::new(2).expect("two"));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let witness = if thread % 2 == 0 { shared.clone() } else { shared.for_another_thread() };
            std::thread::spawn(move || {
                for line in 0..LINES {
                    witness.ended(&ended(format!("{thread} {line}").as_bytes()));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    log.close().await;
    let text = std::fs::read_to_string(path).expect("a file");
    let agents = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["user_agent"].as_str().expect("text").to_owned()
    });
    let agents: std::collections::BTreeSet<_> = agents.collect();
    assert_eq!((agents.len(), text.lines().count()), (THREADS * LINES, THREADS * LINES));
    assert_eq!((counts.lines.get(), counts.dropped.get()), ((THREADS * LINES) as u64, 0));
}

#[tokio::test]
async fn a_writer_that_does_not_keep_up_costs_lines_and_no_time() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nobody takes what is sent.
    let (to_writer, mut told) = mpsc::channel(2);
    let counts = Counts::default();
    let (config, spare) = (Config::default(), Arc::default());
    let shared = Arc::new(Shared { config, counts: counts.clone(), to_writer, spare, sheets: Mutex::default() });
    let witness = Desk::new(&shared, 1);
    let lines = 20_000;
    for _ in 0..lines {
        witness.ended(&ended(b"x"));
    }
    let dropped = counts.dropped.get();
    assert!(dropped > 0 && dropped < lines, "{dropped}");
    // What waits, and what will, is all the rest.
    let mut taken = 0;
    while let Ok(Message::Lines(batch)) = told.try_recv() {
        taken += batch.lines;
    }
    shared.flush();
    if let Ok(Message::Lines(batch)) = told.try_recv() {
        taken += batch.lines;
    }
    assert_eq!(taken + dropped, lines);
    drop(folder);
}

#[test]
fn without_a_path_there_is_no_log_and_a_bad_one_is_told() {
    assert!(AccessLog::start(&Config::default(), Counts::default()).expect("nothing to open").is_none());
    let config = Config { path: Some("/nowhere/access.log".into()), ..Config::default() };
    assert!(AccessLog::start(&config, Counts::default()).is_err());
}
