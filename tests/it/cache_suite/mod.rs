//! The public suite of HTTP caches (npm `http-cache-tests`), through an edge in front of the suite's own origin.
//!
//! What the edge does not pass is listed in `tests/cache_suite/expected.toml`, with the reason. The test fails on
//! whatever fails and is not listed there, on what is listed and passes, and if fewer tests ran than there are.
//!
//! To see the requests and answers of one test, of some, at the client (green) and at the origin (blue):
//!
//! ```sh
//! METACDN_SUITE_ID=vary-match cargo test --test it cache_suite -- --nocapture
//! METACDN_SUITE_ID=stale-503,age-parse-float cargo test --test it cache_suite -- --nocapture
//! ```
//!
//! Nothing is then compared with the list. What each test sends and expects stands in
//! `.tools/cache_suite/node_modules/http-cache-tests/tests/`.

mod verdicts;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use self::verdicts::{Expected, Outcome, Report};
use crate::cluster::{PATIENCE, Running};
use crate::sites::edge_of_sites;

/// The suite takes 20 s, most of them in pauses of 3 s. If no answer came at all it would end by itself within this time.
const SUITE_TIME_MAX: Duration = Duration::from_secs(180);

/// Answers that have to come within two seconds come late on a machine that is busy with other tests. So what surprises
/// is asked a second time, alone. If there is more of it than this, then it is not the machine.
const ASKED_AGAIN_MAX: usize = 20;

/// ## The edge that the suite speaks to
///
/// Starts an edge whose one site is the origin at `origin_port`, and answers its URL.
async fn edge_for(origin_port: u16) -> (Running, String) {
    let site = format!(
        "name = \"suite\"\nhosts = [\"127.0.0.1\", \"localhost\"]\norigins = [\"http://127.0.0.1:{origin_port}\"]"
    );
    let (running, public, _) = edge_of_sites(&[&site]).await;
    (running, format!("http://{public}"))
}

/// A program of the suite; it is not started yet.
fn program(name: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = root.join(".tools/cache_suite");
    let suite = installed.join("node_modules/http-cache-tests/package.json");
    assert!(suite.exists(), "{} is missing: run ./test.sh setup", suite.display());
    let mut command = Command::new("node");
    command.arg(root.join("tests/cache_suite").join(name)).arg(installed).kill_on_drop(true);
    command
}

fn spawn(mut command: Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("node: {error}: run ./test.sh setup"))
}

/// The origin of the suite, which does with each request what the test that it belongs to has told it before.
struct Origin {
    port: u16,
    _process: Child,
}

impl Origin {
    /// What it says goes to `log`.
    async fn start(log: Stdio) -> Self {
        let mut command = program("origin.mjs");
        // It ends with its input, so it outlives no test that is killed.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut process = spawn(command);
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("the origin starts in time").unwrap();
        let line = line.expect("the origin says where it listens");
        Self { port: line.parse().unwrap_or_else(|error| panic!("{line}: {error}")), _process: process }
    }
}

/// Runs the tests with these ids, or all if there are none, through the cache at `base_url`.
async fn run(base_url: &str, ids: &[&str], log: Stdio) -> Vec<Outcome> {
    let mut command = program("client.mjs");
    command.arg(base_url).args(ids).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let ended =
        timeout(SUITE_TIME_MAX, spawn(command).wait_with_output()).await.expect("the suite ends in time").unwrap();
    assert!(ended.status.success(), "the suite's client: {}", ended.status);
    serde_json::from_slice(&ended.stdout).unwrap()
}

fn expected_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cache_suite/expected.toml")
}

/// Runs some tests with all that is sent and answered, and says what came of them.
async fn show(ids: &[&str]) {
    let origin = Origin::start(Stdio::inherit()).await;
    let (_edge, url) = edge_for(origin.port).await;
    let outcomes = run(&url, ids, Stdio::inherit()).await;
    for outcome in &outcomes {
        println!("{outcome}");
    }
    assert_eq!(outcomes.len(), ids.len(), "the suite has no test for some of {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_passes_the_public_cache_suite_but_for_what_is_listed() {
    if let Ok(ids) = std::env::var("METACDN_SUITE_ID") {
        return show(&ids.split(',').collect::<Vec<_>>()).await;
    }
    let expected = Expected::read(&expected_path());
    let logs = tempfile::tempdir().unwrap();
    let log = |name| Stdio::from(File::create(logs.path().join(name)).unwrap());
    let origin = Origin::start(log("origin")).await;
    let (_edge, url) = edge_for(origin.port).await;
    let started = Instant::now();
    let outcomes = run(&url, &[], log("client")).await;
    println!("the public cache suite: {} tests in {:.0} s", outcomes.len(), started.elapsed().as_secs_f64());
    let mut report = Report::new(outcomes, expected);
    let surprises: Vec<_> = report.surprises().map(|outcome| outcome.id.clone()).collect();
    if (1..=ASKED_AGAIN_MAX).contains(&surprises.len()) {
        println!("asked again, alone: {}", surprises.join(", "));
        let ids: Vec<_> = surprises.iter().map(String::as_str).collect();
        report.replace(run(&url, &ids, Stdio::null()).await);
    }
    println!("{report}");
    let complaints = report.complaints();
    assert!(complaints.is_empty(), "{} lists other things:\n{}", expected_path().display(), complaints.join("\n"));
}
