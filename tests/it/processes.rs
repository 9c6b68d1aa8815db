//! Nodes as separate processes: killed at any moment, and watched while they write.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use metacdn::cli::certs::authority::{Authority, Holder};
use metacdn::client::{Deadlines, Peer, Upload, full};
use metacdn::model::{ContentHash, NodeId, Principal};
use metacdn::protocol::identity::Identity;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::blobs;
use crate::cluster::{free_address, key, objects, put, wait_until};

/// Nodes in processes of their own.
pub struct Processes {
    pub folder: TempDir,
    identity: Identity,
    nodes: BTreeMap<&'static str, Process>,
}

struct Process {
    config: PathBuf,
    api: SocketAddr,
    price: SocketAddr,
    /// The command that the program is started by, where it is not started itself; it must become the program.
    launcher: Vec<String>,
    child: Option<Child>,
}

impl Processes {
    /// Writes the configuration of nodes of these names.
    pub fn prepare(names: &[&'static str]) -> Self {
        Self::prepare_at(names, |_| [free_address(), free_address(), free_address()])
    }

    /// As [`Processes::prepare`], each node at the addresses of its own: API, downloads, prices.
    pub fn prepare_at(names: &[&'static str], addresses: impl Fn(&str) -> [SocketAddr; 3]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(SystemTime::now()).unwrap();
        std::fs::write(folder.path().join("authority.pem"), authority.certificate()).unwrap();
        let issue =
            |principal| authority.issue(&Holder { principal, hosts: Vec::new(), days: 1 }, SystemTime::now()).unwrap();
        let addresses: Vec<_> = names.iter().map(|name| addresses(name)).collect();
        let seed = addresses[0][0];
        let mut nodes = BTreeMap::new();
        for (name, [api, download, price]) in names.iter().copied().zip(addresses) {
            let issued = issue(Principal::Node(name.parse().unwrap()));
            std::fs::write(folder.path().join(format!("{name}.pem")), issued.certificate).unwrap();
            std::fs::write(folder.path().join(format!("{name}.key")), issued.key).unwrap();
            let text = format!(
                "[identity]\nauthority = \"authority.pem\"\ncertificate = \"{name}.pem\"\nkey = \"{name}.key\"\n\
                 [node]\nid = \"{name}\"\ndata = \"{name}\"\nlisten = \"{api}\"\ndownload_listen = \"{download}\"\n\
                 price_listen = \"{price}\"\nseeds = [\"{seed}\"]\n"
            );
            let config = folder.path().join(format!("{name}.toml"));
            std::fs::write(&config, text).unwrap();
            nodes.insert(name, Process { config, api, price, launcher: Vec::new(), child: None });
        }
        let issued = issue(Principal::Client("tester".parse().unwrap()));
        std::fs::write(folder.path().join("client.pem"), &issued.certificate).unwrap();
        std::fs::write(folder.path().join("client.key"), &issued.key).unwrap();
        let profile = format!(
            "[identity]\nauthority = \"authority.pem\"\ncertificate = \"client.pem\"\nkey = \"client.key\"\n\
             [client]\nseeds = [\"{seed}\"]\n"
        );
        std::fs::write(folder.path().join("client.toml"), profile).unwrap();
        let identity = Identity::from_pem(
            authority.certificate().as_bytes(),
            issued.certificate.as_bytes(),
            issued.key.as_bytes(),
            SystemTime::now(),
        );
        Self { folder, identity: identity.unwrap(), nodes }
    }

    pub fn spawn(&mut self, name: &str) {
        self.spawn_logging_to(name, &self.folder.path().join(format!("{name}.log")));
    }

    fn spawn_logging_to(&mut self, name: &str, log: &Path) {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let process = self.nodes.get_mut(name).unwrap();
        let mut words = process.launcher.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_metacdn"), "run"]);
        let child = Command::new(words.next().unwrap())
            .args(words)
            .args(["--config", process.config.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        process.child = Some(child.unwrap());
    }

    /// Lets others reach the node's API at `address`; before it is spawned.
    pub fn advertise(&self, name: &str, address: SocketAddr) {
        self.configure(name, &format!("advertise = \"{address}\""));
    }

    /// Adds a line to the section `[node]` of a node's configuration; before it is spawned.
    pub fn configure(&self, name: &str, line: &str) {
        let config = &self.nodes[name].config;
        let text = std::fs::read_to_string(config).unwrap() + line + "\n";
        std::fs::write(config, text).unwrap();
    }

    /// Has a node started by another command, such as `env NAME=VALUE`; before it is spawned.
    pub fn launch_by(&mut self, name: &str, launcher: &[&str]) {
        self.nodes.get_mut(name).unwrap().launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
    }

    /// The folder of a node's data.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the node serves its API and its prices.
    pub fn addresses(&self, name: &str) -> (SocketAddr, SocketAddr) {
        (self.nodes[name].api, self.nodes[name].price)
    }

    /// The profile of a client.
    pub fn profile(&self) -> PathBuf {
        self.folder.path().join("client.toml")
    }

    /// Who the tests are.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Sends a signal to a node that runs.
    pub fn signal(&self, name: &str, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid(name).cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Whether a node that was spawned has not ended by itself.
    pub fn runs(&self, name: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(name))).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains("zombie"))
    }

    /// The process of a node that runs.
    pub fn pid(&self, name: &str) -> u32 {
        self.nodes[name].child.as_ref().unwrap().id().unwrap()
    }

    /// The process of a node, to wait for its end.
    pub fn child(&mut self, name: &str) -> &mut Child {
        self.nodes.get_mut(name).unwrap().child.as_mut().unwrap()
    }

    pub async fn kill(&mut self, name: &str) {
        self.nodes.get_mut(name).unwrap().child.take().unwrap().kill().await.unwrap();
    }

    pub fn client(&self, name: &str) -> Peer {
        let id: NodeId = name.parse().unwrap();
        let second = Duration::from_secs(5);
        let deadlines = Deadlines { connect: second, first_byte: second, idle: second };
        Peer::new(self.identity.client_config(), Some(&id), self.nodes[name].api.into(), deadlines)
    }

    pub async fn up(&self, name: &str) {
        let client = self.client(name);
        wait_until(&format!("{name} is ready"), async || client.ready().await.is_ok()).await;
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.nodes.keys() {
                let log = std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                eprintln!("the end of the log of {name}:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// What a key may hold: the last content that was acknowledged, or one that was sent since and may have been taken.
#[derive(Default, Clone)]
struct Expected {
    possible: Vec<Option<ContentHash>>,
}

/// Writes and deletes keys of one node until it has done its share, whatever happens to the node meanwhile.
async fn write_keys(
    client: Peer,
    name: &'static str,
    share: usize,
    done: Arc<AtomicUsize>,
    deleted: Arc<AtomicUsize>,
) -> BTreeMap<String, Expected> {
    let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
    for number in 0..share {
        let text = format!("{name}-{}", number % 60);
        let object = key(&text);
        let state = expected.entry(text).or_insert_with(|| Expected { possible: vec![None] });
        // 60 keys and every seventh write a deletion: each key is written and deleted in turn.
        let delete = number % 7 == 6;
        let content = format!("{name} {number}").repeat(1 + 8 * number);
        let becomes = (!delete).then(|| ContentHash::of(content.as_bytes()));
        let acknowledged = if delete {
            match client.delete_object(&object).await {
                Ok(()) => {
                    deleted.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(error) => error.status() == Some(http::StatusCode::NOT_FOUND),
            }
        } else {
            let upload = Upload {
                key: &object,
                size: content.len() as u64,
                media_type: None,
                cache_control: None,
                wait_for: None,
            };
            client.put_object(&upload, full(content)).await.is_ok()
        };
        if acknowledged {
            state.possible = vec![becomes];
        } else {
            state.possible.push(becomes);
            wait_until("the node is back", async || client.ping().await.is_ok()).await;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_loses_nothing_acknowledged() {
    const NAMES: [&str; 3] = ["AWS", "GC", "Program"];
    const SHARE: usize = 334;
    let mut processes = Processes::prepare(&NAMES);
    for name in NAMES {
        processes.spawn(name);
    }
    for name in NAMES {
        processes.up(name).await;
    }
    let done = Arc::new(AtomicUsize::new(0));
    let deleted = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = NAMES
        .map(|name| tokio::spawn(write_keys(processes.client(name), name, SHARE, done.clone(), deleted.clone())))
        .into();
    // Kill one node after another, each time that some more writes were tried, so that it dies amid them.
    let mut kills = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        let so_far = done.load(Ordering::Relaxed);
        let finished = || writers.iter().all(tokio::task::JoinHandle::is_finished);
        wait_until("more was written", async || done.load(Ordering::Relaxed) >= so_far + 37 || finished()).await;
        let name = NAMES[kills % 3];
        processes.kill(name).await;
        processes.spawn(name);
        processes.up(name).await;
        kills += 1;
    }
    assert!(kills >= 10, "only {kills} kills");
    let mut expected = BTreeMap::new();
    for writer in writers {
        expected.extend(writer.await.unwrap());
    }
    let clients = NAMES.map(|name| processes.client(name));
    wait_until("all three hold the same", async || {
        let held = [objects(&clients[0]).await, objects(&clients[1]).await, objects(&clients[2]).await];
        let settled =
            futures_util::future::join_all(clients.iter().map(|c| async { c.ping().await.unwrap().wants })).await;
        held[0] == held[1] && held[1] == held[2] && settled == [0, 0, 0]
    })
    .await;
    let held = objects(&clients[0]).await;
    for (name, expected) in &expected {
        let now = held.get(name).copied();
        assert!(expected.possible.contains(&now), "{name}: {now:?} is none of {:?}", expected.possible);
    }
    let live = expected.values().filter(|expected| expected.possible.iter().any(Option::is_some)).count();
    assert!(live > 50, "the test wrote too little: {live}");
    assert!(deleted.load(Ordering::Relaxed) > 50, "the test deleted too little: {deleted:?}");
    // What the lists name is what the disks hold.
    for name in NAMES {
        let on_disk = blobs::held(&processes.folder.path().join(name));
        for (hash, bytes) in &on_disk {
            assert_eq!(ContentHash::of(bytes), *hash);
        }
        for (key, hash) in &held {
            assert!(on_disk.contains_key(hash), "{name} lists {key} without its bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_synced_named_committed_and_then_answered() {
    let mut processes = Processes::prepare(&["AWS"]);
    let trace = processes.folder.path().join("trace");
    let calls = "trace=write,writev,sendto,sendmsg,pwrite64,fsync,fdatasync,rename,renameat,renameat2";
    processes.spawn("AWS");
    processes.up("AWS").await;
    let pid = processes.nodes["AWS"].child.as_ref().unwrap().id().unwrap();
    // Attached rather than in front: so it ends with the node, and not the other way round.
    let arguments = ["-f", "-yy", "-s", "0", "-e", calls, "-o", trace.to_str().unwrap(), "-p", &pid.to_string()];
    let _tracer = Command::new("strace").args(arguments).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let traced = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    wait_until("all threads are traced", async || tasks().all(|task| traced(task.unwrap()))).await;
    let client = processes.client("AWS");
    let hash = put(&client, "traced.txt", "traced".repeat(4096)).await.content.hash.to_string();
    let read = || std::fs::read_to_string(&trace).unwrap();
    // The tracer writes the line of the answer after the client has the answer.
    wait_until("the answer is traced", async || {
        let text = read();
        let committed = text.split_once(&hash).and_then(|(_, after)| after.rsplit_once("catalog.sqlite-wal"));
        committed.is_some_and(|(_, after)| after.contains("TCP:["))
    })
    .await;
    let text = read();

    // Calls that other threads interrupted stand in two lines, the second of which has no arguments: the first counts as
    // the begin, and the thread's next "resumed" line as the end.
    let lines: Vec<&str> = text.lines().collect();
    let begin = |from: usize, what: &str, words: &[&str]| {
        let found = lines.iter().enumerate().skip(from).find(|(_, line)| words.iter().all(|word| line.contains(word)));
        found.map(|(number, _)| number).unwrap_or_else(|| panic!("no {what} after line {from} of\n{text}"))
    };
    let end = |at: usize| {
        let thread = lines[at].split_whitespace().next().unwrap();
        if !lines[at].contains("<unfinished") {
            return at;
        }
        let resumed = |line: &&str| line.starts_with(thread) && line.contains("resumed>");
        at + lines[at..].iter().position(resumed).unwrap()
    };
    let written = end(begin(0, "write of the bytes", &["write(", "/blobs/unfinished/"]));
    let synced = end(begin(written + 1, "fsync of the file", &["fsync(", "/blobs/unfinished/"]));
    let renamed = end(begin(synced + 1, "rename", &["rename", &hash]));
    let folder = format!("/blobs/{}>", &hash[..2]);
    let folder_synced = end(begin(renamed + 1, "fsync of the folder", &["fsync(", &folder]));
    let logged = end(begin(folder_synced + 1, "write of the commit", &["pwrite64(", "catalog.sqlite-wal"]));
    let committed = end(begin(logged + 1, "sync of the commit", &["sync(", "catalog.sqlite-wal"]));
    begin(committed + 1, "answer", &["TCP:["]);
    // Nothing is said to the client between the end of its request and the commit.
    let client_port =
        lines[begin(committed + 1, "answer", &["TCP:["])].split("TCP:[").nth(1).unwrap().split(']').next().unwrap();
    let early = lines[written..committed].iter().filter(|line| line.contains(client_port)).count();
    assert_eq!(early, 0, "an answer before the commit in\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_node_ends_its_uploads_and_exits_well() {
    let mut processes = Processes::prepare(&["AWS"]);
    processes.spawn("AWS");
    processes.up("AWS").await;
    let client = processes.client("AWS");
    let stopping = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let writer = {
        let (client, stopping, acknowledged) = (client.clone(), stopping.clone(), acknowledged.clone());
        tokio::spawn(async move {
            for number in 0.. {
                let name = format!("file-{number}");
                let object = key(&name);
                let upload = Upload { key: &object, size: 4, media_type: None, cache_control: None, wait_for: None };
                match client.put_object(&upload, full("data")).await {
                    Ok(_) => acknowledged.lock().unwrap().push(name),
                    Err(_) if stopping.load(Ordering::Relaxed) => return,
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
    };
    wait_until("some are stored", async || acknowledged.lock().unwrap().len() > 20).await;
    stopping.store(true, Ordering::Relaxed);
    let mut child = processes.nodes.get_mut("AWS").unwrap().child.take().unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::time::timeout(crate::cluster::PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    writer.await.unwrap();
    processes.spawn("AWS");
    processes.up("AWS").await;
    let held = objects(&client).await;
    for name in acknowledged.lock().unwrap().iter() {
        assert!(held.contains_key(name), "{name} was acknowledged and is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let mut processes = Processes::prepare(&["AWS"]);
    processes.spawn_logging_to("AWS", Path::new("/dev/full"));
    processes.up("AWS").await;
    put(&processes.client("AWS"), "a.txt", "text").await;
    let mut child = processes.nodes.get_mut("AWS").unwrap().child.take().unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::time::timeout(crate::cluster::PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
}
