//! The clients that users have, as they are: programs that fetch from an edge what was published on the nodes.
//!
//! Every byte is compared twice: what the client has in the end, and what the edge answered on the way.

mod browsers;
mod downloads;
mod films;
mod foreign;
mod packages;
mod secure;
mod wiretap;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use self::wiretap::{Exchange, Wiretap};
use crate::cli::User;
use crate::cluster::{Cluster, Running, objects, wait_until};
use crate::edge::ready;

/// Far beyond what a client needs on a busy machine: reaching it means that it hangs.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(90);

const NODES: [&str; 3] = ["AWS", "GC", "Program"];

/// A published site, and a folder in which its visitor works.
struct Site {
    cluster: Cluster,
    _edge: Running,
    tap: Wiretap,
    publisher: User,
    folder: TempDir,
}

/// What a client printed.
struct Printed {
    stdout: Vec<u8>,
    stderr: String,
}

impl Printed {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end()
    }
}

impl Site {
    /// A cluster with an edge, and nothing published yet.
    async fn start() -> Self {
        let cluster = Cluster::start(&NODES).await;
        let (edge, public, admin) = cluster.edge(|_| {}).await;
        ready(admin).await;
        let publisher = User::of(&cluster, &NODES);
        let tap = Wiretap::start(public).await;
        Self { cluster, _edge: edge, tap, publisher, folder: tempfile::tempdir().unwrap() }
    }

    /// A path in the visitor's folder, below which the folders are made.
    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn make_folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Publishes the files of the folder `www`, and waits until every node holds them.
    async fn publish(&self) {
        let folder = self.path("www");
        self.publisher.run(&["upload", folder.to_str().unwrap(), "AWS"]).await.ok();
        let published = objects(&self.cluster.client("AWS")).await;
        assert!(!published.is_empty());
        for name in NODES {
            let node = self.cluster.client(name);
            wait_until("all hold it", async || objects(&node).await == published).await;
        }
    }

    /// Where the edge serves `path`.
    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.tap.address)
    }

    /// The edge as clients name their proxy.
    fn proxy(&self) -> String {
        format!("http://{}", self.tap.address)
    }

    /// Runs a client to its good end.
    async fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Printed {
        let printed = self.try_to_run(program.as_ref(), arguments).await;
        printed.unwrap_or_else(|complaint| panic!("{} {arguments:?}: {complaint}", program.as_ref().display()))
    }

    /// Runs a client in the visitor's folder; it sees no settings of this machine, no proxy and no other home.
    async fn try_to_run(&self, program: &OsStr, arguments: &[&str]) -> Result<Printed, String> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.env("HOME", self.make_folder("home")).env("TMPDIR", self.folder.path());
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("PIP_CONFIG_FILE", "/dev/null");
        command.env("APT_CONFIG", self.path("apt.conf"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}: run ./test.sh setup", program.display()));
        let group = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        let Ok(ended) = timeout(CLIENT_TIME_MAX, child.wait_with_output()).await else {
            // With all that it has started.
            kill_process_group(group, Signal::KILL).unwrap();
            return Err("it hangs".to_owned());
        };
        let ended = ended.unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        if !ended.status.success() {
            return Err(format!("{}\n{}{stderr}", ended.status, String::from_utf8_lossy(&ended.stdout)));
        }
        Ok(Printed { stdout: ended.stdout, stderr })
    }

    /// What was asked of the edge so far; what it answered is compared with what was published.
    fn exchanges(&self) -> Vec<Exchange> {
        let exchanges = self.tap.exchanges();
        assert!(!exchanges.is_empty());
        exchanges.iter().for_each(|exchange| self.compare(exchange));
        exchanges
    }

    /// Compares an answer of one part, if it has bytes or says how many there are, with the file that was asked for.
    fn compare(&self, exchange: &Exchange) {
        if !matches!(exchange.status, 200 | 206) {
            return;
        }
        let path = percent_decode_str(&exchange.path()[1..]).decode_utf8().unwrap();
        let name = if path.is_empty() || path.ends_with('/') { format!("{path}index.html") } else { path.into_owned() };
        let file = self.read(&format!("www/{name}"));
        let (range, coding) = (exchange.answered("content-range"), exchange.answered("content-encoding"));
        if !coding.is_empty() {
            let plain = exchange.complete().then(|| crate::sites::coding::decoded(coding, &exchange.body));
            assert!(plain.is_none_or(|plain| plain == file) && range.is_empty(), "other bytes: {name} in {coding}");
            return;
        }
        let (first, length) = if exchange.status == 206 {
            let (range, size) = range.strip_prefix("bytes ").unwrap().split_once('/').unwrap();
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(size, file.len().to_string(), "{name}");
            (first, last + 1 - first)
        } else {
            (0, file.len())
        };
        assert_eq!(exchange.answered("content-length"), length.to_string(), "{name} {range}");
        // It may be a part of it: a client that has what it wants leaves.
        assert!(file[first..first + length].starts_with(&exchange.body), "other bytes: {name} {range}");
    }
}

/// Files with their bytes, by their paths in a folder.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The files below `folder`.
fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (name.join(below), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}
