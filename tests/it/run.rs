//! The roles of one process: they start by a configuration, answer, and end together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use metacdn::cli::roles::{Ports, Roles};
use metacdn::client::{Deadlines, Peer};
use metacdn::config::{Draft, Effective};
use metacdn::model::Principal;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, PATIENCE, free_address, put, wait_until};
use crate::edge_cache::cache_status;
use crate::sites::origin::{Origin, answer};

const PORTS_FREE: [&str; 5] =
    ["node.listen", "node.download_listen", "node.price_listen", "edge.listen", "edge.admin_listen"];

/// Certificates of a node AWS, and a configuration that runs it with an edge, all on free ports.
async fn configuration() -> (Cluster, PathBuf) {
    let cluster = Cluster::start(&[]).await;
    let folder = cluster.folder.path();
    let (certificate, key) = cluster.pem(Principal::Node("AWS".parse().unwrap()));
    let bundle = format!("{key}{certificate}{}", cluster.authority_pem());
    std::fs::write(folder.join("AWS.pem"), bundle).unwrap();
    let free = free_address();
    let text = format!(
        "[identity]\nauthority = 'AWS.pem'\ncertificate = 'AWS.pem'\nkey = 'AWS.pem'\n\
         [node]\nid = 'AWS'\ndata = 'data'\nlisten = '{free}'\n[edge]\nseeds = ['{free}']\n"
    );
    let path = folder.join("metacdn.toml");
    std::fs::write(&path, text).unwrap();
    (cluster, path)
}

fn effective(path: &Path, change: impl FnOnce(&mut Draft)) -> Effective {
    let mut draft = Draft::read(path).unwrap();
    for field in &PORTS_FREE[1..] {
        draft.set(field, "127.0.0.1:0", "--test");
    }
    change(&mut draft);
    draft.build().unwrap()
}

async fn bind(effective: &Effective, ports: Ports) -> anyhow::Result<Roles> {
    let identity = effective.verify(SystemTime::now())?.identity;
    Roles::bind(effective, identity, ports).await
}

async fn status_of(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn both_roles_run_in_one_process_and_stop() {
    let (_cluster, path) = configuration().await;
    let roles = bind(&effective(&path, |_| {}), Ports::Exact).await.unwrap();
    let at: BTreeMap<_, _> = roles.addresses().unwrap().into_iter().collect();
    assert_eq!(at.len(), PORTS_FREE.len());
    assert!(at.values().all(|address| address.port() != 0), "{at:?}");
    assert_eq!(roles.files_max(), 3 * 1024 + 2 * 8192 + 256);
    let stop = CancellationToken::new();
    let running = tokio::spawn(roles.serve(stop.clone()));
    for field in ["node.download_listen", "node.price_listen", "edge.admin_listen"] {
        assert_eq!(status_of(at[field], "/health").await, Some(200), "{field}");
    }
    wait_until("the edge is ready", async || status_of(at["edge.admin_listen"], "/ready").await == Some(200)).await;
    assert_eq!(status_of(at["edge.listen"], "/nothing.txt").await, Some(404));
    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    for (field, address) in at {
        assert!(TcpStream::connect(address).await.is_err(), "{field} is closed");
    }
}

#[tokio::test]
async fn if_one_role_fails_so_does_the_process() {
    let (_cluster, path) = configuration().await;
    let first = bind(&effective(&path, |_| {}), Ports::Exact).await.unwrap();
    let (stop, price) = (CancellationToken::new(), first.addresses().unwrap()[2].1);
    let first = tokio::spawn(first.serve(stop.clone()));
    wait_until("the first runs", async || status_of(price, "/health").await == Some(200)).await;
    // Other ports, the same data folder.
    let second = effective(&path, |draft| draft.set("node.listen", "127.0.0.1:0", "--test"));
    let second = bind(&second, Ports::Exact).await.unwrap();
    let error = timeout(PATIENCE, second.serve(CancellationToken::new())).await.unwrap().unwrap_err();
    let text = format!("{error:#}");
    assert!(text.starts_with("the node failed") && text.contains("in use by another process"), "{text}");
    stop.cancel();
    timeout(PATIENCE, first).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_told_or_passed_over() {
    let (_cluster, path) = configuration().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap();
    let given = effective(&path, |draft| draft.set("edge.listen", at.to_string(), "--listen"));
    for ports in [Ports::Exact, Ports::NextFree] {
        let text = format!("{:#}", bind(&given, ports).await.unwrap_err());
        assert!(
            text.contains(&format!("cannot listen on {at} (edge.listen): another process has that port")),
            "{text}"
        );
        assert!(text.contains(&format!("sport = :{}", at.port())), "{text}");
    }

    // An address that nobody gave moves; one that others were told does not.
    let by_default = |advertise: bool| {
        let mut draft = Draft::default();
        draft.set_default("node.download_listen", at.to_string());
        if advertise {
            draft.set("node.download_advertise", at.to_string(), "--download-advertise");
        }
        for field in ["identity.authority", "identity.certificate", "identity.key"] {
            draft.set(field, path.with_file_name("AWS.pem").to_string_lossy(), "--test");
        }
        draft.set("node.id", "AWS", "--name");
        draft.set("node.data", path.with_file_name("other").to_string_lossy(), "--data");
        draft.set("node.listen", "127.0.0.1:0", "--listen");
        draft.set("node.price_listen", "127.0.0.1:0", "--price-listen");
        draft.build().unwrap()
    };
    let moved = bind(&by_default(false), Ports::NextFree).await.unwrap().addresses().unwrap()[1].1;
    assert!((at.port() + 1..=at.port() + 16).contains(&moved.port()), "{at} moved to {moved}");
    assert!(bind(&by_default(true), Ports::NextFree).await.is_err());
    assert!(bind(&by_default(false), Ports::Exact).await.is_err());
}

#[tokio::test]
async fn nothing_to_run_is_an_error() {
    let (_cluster, path) = configuration().await;
    let mut draft = Draft::read(&path).unwrap();
    draft.remove_section("node");
    draft.remove_section("edge");
    let error = bind(&draft.build().unwrap(), Ports::Exact).await.unwrap_err();
    assert!(error.to_string().contains("[node], [edge] or both"), "{error}");
}

/// `metacdn` as a process of its own, ended with the test.
struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    written: String,
}

impl Process {
    fn start(folder: &Path, words: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metacdn"));
        command.args(words).current_dir(folder).env_clear().env("HOME", folder).env("METACDN_LOG_FORMAT", "json");
        command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log, written: String::new() }
    }

    /// The next line of the log with this message.
    async fn line(&mut self, message: &str) -> serde_json::Value {
        loop {
            let line = timeout(PATIENCE, self.log.next_line()).await.expect("a line in time").unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended without {message:?}:\n{}", self.written));
            self.written += &format!("{line}\n");
            let fields: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if fields["message"].as_str().is_some_and(|found| found.contains(message)) {
                return fields;
            }
        }
    }

    async fn addresses(&mut self, count: usize) -> BTreeMap<String, SocketAddr> {
        let mut addresses = BTreeMap::new();
        while addresses.len() < count {
            let line = self.line("listening").await;
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            addresses.insert(text("field"), text("address").parse().unwrap());
        }
        addresses
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Its exit code, and all it wrote to standard error.
    async fn end(mut self) -> (Option<i32>, String) {
        let rest = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                self.written += &format!("{line}\n");
            }
            self.child.wait().await.unwrap()
        };
        let status = timeout(PATIENCE, rest).await.expect("it ends in time");
        (status.code(), self.written)
    }
}

const ANYWHERE: [(&str, &str); 4] = [
    ("METACDN_NODE_DOWNLOAD_LISTEN", "127.0.0.1:0"),
    ("METACDN_NODE_PRICE_LISTEN", "127.0.0.1:0"),
    ("METACDN_EDGE_LISTEN", "127.0.0.1:0"),
    ("METACDN_EDGE_ADMIN_LISTEN", "127.0.0.1:0"),
];

/// More than the buffers of the sockets on its way take, so that it is under way until someone reads it.
const LARGE_BYTES: usize = 48 << 20;

/// A process with both roles, a large object in it, and a download of that which has begun.
async fn process_in_use() -> (Cluster, Process, BTreeMap<String, SocketAddr>, TcpStream) {
    let (cluster, path) = configuration().await;
    let mut process = Process::start(path.parent().unwrap(), &["run"], &ANYWHERE);
    let at = process.addresses(PORTS_FREE.len()).await;
    wait_until("the edge is ready", async || status_of(at["edge.admin_listen"], "/ready").await == Some(200)).await;
    let tls = cluster.identity(Principal::Client("tester".parse().unwrap())).client_config();
    let node = Peer::new(tls, None, at["node.listen"].into(), Deadlines::default());
    put(&node, "large.bin", vec![7; LARGE_BYTES]).await;
    let mut download = TcpStream::connect(at["edge.listen"]).await.unwrap();
    let request = format!("GET /large.bin HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", at["edge.listen"]);
    download.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    timeout(PATIENCE, download.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    (cluster, process, at, download)
}

#[tokio::test]
async fn the_first_signal_drains() {
    for signal in [Signal::TERM, Signal::INT] {
        let (_cluster, mut process, at, mut download) = process_in_use().await;
        process.signal(signal);
        process.line("stopping").await;
        wait_until("no more callers are taken", async || TcpStream::connect(at["edge.listen"]).await.is_err()).await;
        let mut rest = Vec::new();
        timeout(PATIENCE, download.read_to_end(&mut rest)).await.unwrap().unwrap();
        let body = rest.iter().rev().take_while(|byte| **byte == 7).count();
        assert_eq!(body, LARGE_BYTES, "the answer ended whole");
        let (code, written) = process.end().await;
        assert_eq!(code, Some(0), "{written}");
    }
}

#[tokio::test]
async fn the_second_signal_ends_at_once() {
    let (_cluster, mut process, _, _download) = process_in_use().await;
    process.signal(Signal::TERM);
    process.line("stopping").await;
    process.signal(Signal::TERM);
    let (code, written) = process.end().await;
    assert_eq!(code, Some(143), "{written}");
}

#[tokio::test]
async fn a_hangup_or_a_command_has_the_edge_read_its_file_anew() {
    let (_cluster, path) = configuration().await;
    let folder = path.parent().unwrap();
    let mut process = Process::start(folder, &["run"], &ANYWHERE);
    let at = process.addresses(PORTS_FREE.len()).await;
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{good}hosts = ['cdn.example']\nthreads = 3\n")).unwrap();
    process.signal(Signal::HUP);
    let line = process.line("read anew").await;
    assert!(line["changed"] == r#"["edge.hosts"]"# && line["needs_restart"] == r#"["edge.threads"]"#, "{line}");
    std::fs::write(&path, format!("{good}hosts = ['cdn example']\n")).unwrap();
    process.signal(Signal::HUP);
    let line = process.line("what was before stays").await;
    assert!(line["error"].as_str().unwrap().contains("\"cdn example\" is no host"), "{line}");

    let admin = at["edge.admin_listen"].to_string();
    let reload = async |json: &[&str]| {
        let words = [&["reload", "--edge", &admin][..], json].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_metacdn"));
        command.args(words).current_dir(folder).env_clear().env("HOME", folder);
        let ended = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        (ended.status.code(), String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap())
    };
    let (code, _, stderr) = reload(&[]).await;
    assert!(code == Some(1) && stderr.contains("metacdn.toml:") && stderr.contains("nothing has changed"), "{stderr}");
    std::fs::write(&path, format!("{good}[edge.route]\npolicy = 'n'\n")).unwrap();
    let (code, stdout, stderr) = reload(&["--json"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["changed"], serde_json::json!(["edge.hosts", "edge.route.policy"]));
    let (code, stdout, stderr) = reload(&[]).await;
    assert!(code == Some(0) && format!("{stdout}{stderr}").contains("nothing has changed"), "{stdout}{stderr}");
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.0, Some(0));
}

#[tokio::test]
async fn an_edge_of_sites_alone_runs_without_a_certificate() {
    let origin = Origin::start(|_| answer(200, &[("cache-control", "max-age=1000")], "text")).await;
    let folder = tempfile::tempdir().unwrap();
    let url = origin.url();
    let site = format!("[[edge.site]]\nname = 'site'\nhosts = ['site.example']\norigins = ['{url}']\n");
    let path = folder.path().join("metacdn.toml");
    std::fs::write(&path, format!("[edge]\nlisten = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\n{site}")).unwrap();
    let mut process = Process::start(folder.path(), &["run"], &[]);
    let at = process.addresses(2).await;
    let (public, admin) = (at["edge.listen"], at["edge.admin_listen"].to_string());
    wait_until("the edge is ready", async || status_of(at["edge.admin_listen"], "/ready").await == Some(200)).await;
    let ask = async || {
        let answer = crate::edge::ask(public, http::Method::GET, "/", &[("host", "site.example")]).await;
        (answer.status().as_u16(), cache_status(&answer))
    };
    assert_eq!(ask().await.0, 200);
    wait_until("it is kept", async || ask().await.1.starts_with("metacdn; hit")).await;

    let command = async |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metacdn"));
        command.args(words).current_dir(folder.path()).env_clear().env("HOME", folder.path());
        let ended = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let said = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert_eq!(ended.status.code(), Some(0), "{words:?}: {said}");
        said
    };
    assert!(command(&["config", "check", "metacdn.toml"]).await.contains("as nobody"));
    command(&["purge", "host", "site.example", "--edge", &admin]).await;
    assert!(ask().await.1.starts_with("metacdn; fwd=uri-miss"));
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("site.example", "other.example")).unwrap();
    let said = command(&["reload", "--edge", &admin, "--config", "metacdn.toml"]).await;
    assert!(said.contains("sites changed: site"), "{said}");
    assert_eq!(ask().await.0, 403);
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.0, Some(0));
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let (cluster, path) = configuration().await;
    let folder = cluster.folder.path();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let mut variables = ANYWHERE;
    variables[2].1 = &at;
    let (code, written) = Process::start(folder, &["run"], &variables).end().await;
    assert!(code == Some(1) && written.contains(&at) && written.contains("another process has that port"), "{written}");

    variables[2].1 = "localhost";
    let (code, written) = Process::start(folder, &["run", "--config", "metacdn.toml"], &variables).end().await;
    assert!(code == Some(1) && written.contains("METACDN_EDGE_LISTEN: edge.listen: \"localhost\""), "{written}");

    std::fs::write(&path, "[nod]\n[edge]\nseed = []\n").unwrap();
    for words in [&["run"][..], &["config", "check"]] {
        let (code, written) = Process::start(folder, words, &[]).end().await;
        assert_eq!(code, Some(1), "{written}");
        for part in ["metacdn.toml:1:2: nod:", "did you mean `node`?", "metacdn.toml:3:1: edge.seed:", "`seeds`"] {
            assert!(written.contains(part), "{part}: {written}");
        }
    }

    for (words, part) in [(&["proxy", "c"][..], "needs a beta"), (&["server", "statik"], "static, dynamic")] {
        let (code, written) = Process::start(folder, words, &[]).end().await;
        assert!(code == Some(2) && written.contains(part), "{written}");
    }
}
