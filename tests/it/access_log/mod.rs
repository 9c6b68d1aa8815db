//! The access log: one line for each answer, which says what its client saw.

mod file;
mod paths;
mod protocols;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::StatusCode;
use metacdn::edge;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::wait_until;
use crate::edge::fetch;

/// A folder with the log of an edge.
pub struct Log {
    folder: TempDir,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    fn configure(&self, config: &mut edge::Config) {
        config.access_log.path = Some(self.path());
    }

    /// All lines, without those of the edge's own tests of HTTP/3. To be read when the edge has ended.
    fn lines(&self) -> Vec<Value> {
        let lines = lines_of(&self.path());
        lines.into_iter().filter(|line| line["method"] != "TRACE").collect()
    }
}

/// The lines of a file, each of which is JSON.
fn lines_of(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(read).collect()
}

/// The one line whose field `name` is `value`.
fn only<'l>(lines: &'l [Value], name: &str, value: &str) -> &'l Value {
    let found: Vec<_> = lines.iter().filter(|line| line[name] == value).collect();
    assert_eq!(found.len(), 1, "{name} {value}: {found:#?}");
    found[0]
}

/// What an edge counts.
async fn counted(admin: SocketAddr, metric: &str) -> u64 {
    let metrics = fetch(admin, "/metrics").await;
    assert_eq!(metrics.status(), StatusCode::OK);
    let text = String::from_utf8(metrics.into_body()).unwrap();
    let name = format!("{metric} ");
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap()
}

/// Waits until so many lines were written.
async fn written(admin: SocketAddr, lines: u64) {
    let metric = "metacdn_edge_access_log_lines_total";
    wait_until("the lines are written", async || counted(admin, metric).await >= lines).await;
}
