//! The file of the log: whole lines, whatever clients send, however many they are, and whatever becomes of the disk.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use metacdn::edge;
use metacdn::edge::access_log::Format;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Log, counted, lines_of, only, written};
use crate::cluster::{Running, wait_until};
use crate::full_disk::SmallDisk;
use crate::sites::origin::{Origin, answer};

/// An edge with one site, whose content is kept, and its log.
async fn start(change: impl FnOnce(&mut edge::Config)) -> (Origin, Running, SocketAddr, SocketAddr) {
    let origin = Origin::start(|_| answer(200, &[("cache-control", "max-age=999")], "kept")).await;
    let site = format!("name = \"site\"\nhosts = [\"site.example\"]\norigins = [{:?}]", origin.url());
    let (running, public, admin) = crate::sites::edge_with(&[&site], change).await;
    (origin, running, public, admin)
}

/// So many requests on one connection, and their answers.
async fn many(public: SocketAddr, agents: impl Iterator<Item = String>) -> usize {
    let mut stream = TcpStream::connect(public).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut requests = Vec::new();
    for agent in agents {
        requests.extend(format!("GET / HTTP/1.1\r\nHost: site.example\r\nUser-Agent: {agent}\r\n\r\n").into_bytes());
    }
    let sending = async {
        write.write_all(&requests).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut answers = Vec::new();
    let (_, read) = tokio::join!(sending, read.read_to_end(&mut answers));
    read.unwrap();
    String::from_utf8(answers).unwrap().matches("HTTP/1.1 200 OK\r\n").count()
}

async fn one(public: SocketAddr, agent: &str) {
    assert_eq!(many(public, std::iter::once(agent.to_owned())).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_connections_no_line_is_lost() {
    const CONNECTIONS: usize = 40;
    const REQUESTS: usize = 250;
    let log = Log::new();
    let change = |config: &mut edge::Config| {
        config.threads = std::num::NonZeroUsize::new(3);
        log.configure(config);
    };
    let (_origin, running, public, _) = start(change).await;
    one(public, "first").await;
    let clients = (0..CONNECTIONS).map(|client| {
        let agents = (0..REQUESTS).map(move |number| format!("{client} {number}"));
        tokio::spawn(async move { assert_eq!(many(public, agents).await, REQUESTS) })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    // All that was told is in the file when the edge has ended.
    running.stop().await;
    let lines = log.lines();
    let agents: BTreeSet<_> = lines.iter().map(|line| line["user_agent"].as_str().unwrap()).collect();
    assert_eq!((agents.len(), lines.len()), (CONNECTIONS * REQUESTS + 1, CONNECTIONS * REQUESTS + 1));
    assert!(lines.iter().all(|line| line["status"] == 200 && line["bytes"] == 4 && line["complete"] == true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_moved_away_is_gone_on_with_in_a_new_one() {
    let log = Log::new();
    let (_origin, running, public, admin) = start(|config| log.configure(config)).await;
    let moved = |number: usize| log.path().with_extension(number.to_string());
    one(public, "a").await;
    written(admin, 1).await;
    std::fs::rename(log.path(), moved(1)).unwrap();
    one(public, "b").await;
    written(admin, 2).await;
    std::fs::rename(log.path(), moved(2)).unwrap();
    one(public, "c").await;
    running.stop().await;
    for (path, agent) in [(moved(1), "a"), (moved(2), "b"), (log.path(), "c")] {
        let lines = lines_of(&path);
        assert_eq!((lines.len(), &lines[0]["user_agent"]), (1, &json!(agent)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_lines_and_no_answers() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::at(folder.path().join("disk"), 1);
    let path = folder.path().join("disk/access.log");
    let change = |config: &mut edge::Config| config.access_log.path = Some(path.clone());
    let (_origin, running, public, admin) = start(change).await;
    one(public, "before").await;
    written(admin, 1).await;
    disk.fill(0);
    const REQUESTS: usize = 2_000;
    let dropped = "metacdn_edge_access_log_dropped_lines_total";
    let asked = AtomicU64::new(1);
    wait_until("lines are dropped", async || {
        asked.fetch_add(REQUESTS as u64, Ordering::Relaxed);
        assert_eq!(many(public, (0..REQUESTS).map(|number| format!("full {number}"))).await, REQUESTS);
        counted(admin, dropped).await > 0
    })
    .await;
    disk.free();
    wait_until("lines are written again", async || {
        one(public, "after").await;
        asked.fetch_add(1, Ordering::Relaxed);
        std::fs::read_to_string(&path).unwrap().contains("\"after\"")
    })
    .await;
    let written = async || counted(admin, "metacdn_edge_access_log_lines_total").await;
    let asked = asked.into_inner();
    wait_until("each line is counted", async || counted(admin, dropped).await + written().await == asked).await;
    let written = written().await;
    running.stop().await;
    let lines = lines_of(&path);
    assert_eq!(lines.len() as u64, written);
    // None of them is torn.
    only(&lines, "user_agent", "before");
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_forges_a_line() {
    for format in [Format::Json, Format::Combined] {
        let log = Log::new();
        let change = |config: &mut edge::Config| {
            log.configure(config);
            config.access_log.format = format;
        };
        let (_origin, running, public, _) = start(change).await;
        let hostile = "\"} {\"status\":200} \\\" \\n 10.0.0.1 - - [01/Jan/2000:00:00:00 +0000] \"GET / HTTP/1.1\" 200 1\t\u{85}\u{2028}";
        let request = format!(
            "GET /\"\\{{}} HTTP/1.1\r\nHost: site.example\r\nReferer: {hostile}\r\nUser-Agent: {hostile}\r\nConnection: close\r\n\r\n"
        );
        crate::edge_limits::raw(public, &request).await;
        // What is no request may have any bytes.
        crate::edge_limits::raw(public, "G\u{1}\"T /\u{b}\"x HTTP/1.1\r\n\r\n").await;
        running.stop().await;
        check(&log.path(), format);
    }
}

fn check(path: &Path, format: Format) {
    let text = std::fs::read_to_string(path).unwrap();
    // However a reader ends its lines.
    let ends =
        |character: char| (character.is_control() && character != '\n') || "\u{2028}\u{2029}".contains(character);
    assert!(!text.contains(ends), "{text:?}");
    assert_eq!(text.lines().count(), 2, "{text:?}");
    match format {
        Format::Json => {
            // Each thread of the edge writes by itself, so the order says nothing.
            let mut statuses: Vec<_> = lines_of(path).iter().map(|line| line["status"].as_u64().unwrap()).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 400], "{text}");
        }
        Format::Combined => {
            for line in text.lines() {
                assert!(line.starts_with("127.0.0.1 - - [") && line.matches('"').count() == 6, "{line}");
            }
        }
    }
}
