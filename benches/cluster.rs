//! Three nodes and an edge as processes of their own, under load: rates, CPU seconds and peak memory of each.
//!
//! `cargo bench --bench cluster` takes about a minute and a half and 3.5 GB of disk; `METACDN_BENCH_SCALE=0.1` makes it smaller.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on shall end")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use comfy_table::{CellAlignment, Table, presets};
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use metacdn::cli::certs::authority::{Authority, Holder};
use metacdn::client::{Body, Deadlines, Peer, Upload};
use metacdn::model::{ObjectKey, Principal};
use metacdn::protocol::identity::Identity;

const NODES: [&str; 3] = ["AWS", "GC", "Program"];
const SMALL_BYTES: usize = 4 << 10;
const PARALLEL: usize = 16;

/// A process under test.
struct Subject {
    child: Child,
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Subject {
    fn start(config: &Path) -> Self {
        let log = std::fs::File::create(config.with_extension("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_metacdn"))
            .args(["run", "--config", config.to_str().unwrap()])
            .env("METACDN_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self { child: child.unwrap() }
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// CPU seconds of user and system since the start (proc(5): fields 14 and 15, in ticks of 10 ms).
    fn cpu_s(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// The most memory that was resident since the last [`Subject::forget_peak`], in MiB.
    fn peak_mib(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }
}

struct Bench {
    subjects: Vec<Subject>,
    peers: BTreeMap<&'static str, Peer>,
    proxy: SocketAddr,
    table: Table,
}

impl Bench {
    fn start(folder: &Path) -> Self {
        let authority = Authority::create(SystemTime::now()).unwrap();
        std::fs::write(folder.join("authority.pem"), authority.certificate()).unwrap();
        let issue =
            |principal| authority.issue(&Holder { principal, hosts: Vec::new(), days: 1 }, SystemTime::now()).unwrap();
        let sockets: Vec<_> = (0..11).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut ports = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect::<Vec<_>>().into_iter();
        drop(sockets);
        let mut next = || ports.next().unwrap();
        let seed = next();
        let configure = |name: &str, principal, role: String| {
            let issued = issue(principal);
            std::fs::write(folder.join(format!("{name}.pem")), issued.certificate).unwrap();
            std::fs::write(folder.join(format!("{name}.key")), issued.key).unwrap();
            let config = folder.join(format!("{name}.toml"));
            let identity = format!("authority = \"authority.pem\"\ncertificate = \"{name}.pem\"\nkey = \"{name}.key\"");
            std::fs::write(&config, format!("[identity]\n{identity}\n{role}")).unwrap();
            config
        };
        let client = issue(Principal::Client("bench".parse().unwrap()));
        let pem = [authority.certificate(), &client.certificate, &client.key].map(str::as_bytes);
        let tls = Identity::from_pem(pem[0], pem[1], pem[2], SystemTime::now()).unwrap().client_config();
        let mut subjects = Vec::new();
        let mut peers = BTreeMap::new();
        for name in NODES {
            let listen = if name == NODES[0] { seed } else { next() };
            let role = format!(
                "[node]\nid = \"{name}\"\ndata = \"{name}\"\nlisten = \"{listen}\"\ndownload_listen = \"{}\"\n\
                 price_listen = \"{}\"\nseeds = [\"{seed}\"]\n",
                next(),
                next()
            );
            let config = configure(name, Principal::Node(name.parse().unwrap()), role);
            subjects.push(Subject::start(&config));
            let id = name.parse().unwrap();
            peers.insert(name, Peer::new(tls.clone(), Some(&id), listen.into(), Deadlines::default()));
        }
        let (proxy, admin) = (next(), next());
        let role = format!("[edge]\nlisten = \"{proxy}\"\nadmin_listen = \"{admin}\"\nseeds = [\"{seed}\"]\n");
        let config = configure("edge", Principal::Edge("edge".parse().unwrap()), role);
        subjects.push(Subject::start(&config));
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "load",
            "seconds",
            "rate",
            "CPU s AWS",
            "GC",
            "Program",
            "edge",
            "peak MiB AWS",
            "GC",
            "Program",
            "edge",
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        Self { subjects, peers, proxy, table }
    }

    /// Runs `work` and adds a row for it: what it moved and how long it took, and what each process spent.
    async fn measure<T>(&mut self, what: &str, moved: Moved, work: impl Future<Output = T>) -> T {
        let before: Vec<_> = self.subjects.iter().map(Subject::cpu_s).collect();
        self.subjects.iter().for_each(Subject::forget_peak);
        let start = Instant::now();
        let result = work.await;
        let seconds = start.elapsed().as_secs_f64();
        let rate = match moved {
            Moved::Bytes(bytes) => format!("{:.0} MB/s", bytes as f64 / 1e6 / seconds),
            Moved::Objects(count) => format!("{:.0} objects/s", count as f64 / seconds),
        };
        let cpu = self.subjects.iter().zip(before).map(|(subject, before)| format!("{:.2}", subject.cpu_s() - before));
        let peak = self.subjects.iter().map(|subject| format!("{:.0}", subject.peak_mib()));
        let row: Vec<String> =
            [what.to_owned(), format!("{seconds:.2}"), rate].into_iter().chain(cpu).chain(peak).collect();
        println!("{}", row.join("  "));
        self.table.add_row(row);
        result
    }

    /// Waits until every process answers and the edge has found the nodes.
    async fn ready(&self) {
        for peer in self.peers.values() {
            until(async || peer.servers().await.is_ok_and(|servers| servers.servers.len() == NODES.len())).await;
        }
        until(async || get(&plain(), self.proxy, "none").await.is_some_and(|(status, _)| status == 404)).await;
    }

    async fn held_everywhere(&self, last: &[ObjectKey]) {
        for peer in self.peers.values() {
            for key in last {
                until(async || peer.head_object(key).await.is_ok()).await;
            }
            until(async || peer.ping().await.is_ok_and(|pong| pong.wants == 0)).await;
        }
    }
}

enum Moved {
    Bytes(u64),
    Objects(usize),
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !condition().await {
        assert!(Instant::now() < deadline, "the cluster did not get there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes that no compression or deduplication would shorten.
fn noise(seed: u64, size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

async fn put_large(peer: &Peer, key: &ObjectKey, size: u64) {
    let block = noise(1, 256 << 10);
    let blocks = size / block.len() as u64;
    let frames = stream::iter((0..blocks).map(move |_| Ok(Frame::data(block.clone()))));
    let body: Body = StreamBody::new(frames).boxed_unsync();
    let upload = Upload { key, size, media_type: None, cache_control: None, wait_for: None };
    peer.put_object(&upload, body).await.unwrap();
}

async fn put_small(peer: &Peer, keys: &[ObjectKey]) {
    let uploads = stream::iter(keys.iter().enumerate()).for_each_concurrent(PARALLEL, |(number, key)| async move {
        let upload = Upload { key, size: SMALL_BYTES as u64, media_type: None, cache_control: None, wait_for: None };
        peer.put_object(&upload, metacdn::client::full(noise(number as u64, SMALL_BYTES))).await.unwrap();
    });
    uploads.await;
}

type Plain = legacy::Client<legacy::connect::HttpConnector, Empty<Bytes>>;

fn plain() -> Plain {
    legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(PARALLEL).build_http()
}

/// The status and the number of bytes that come from the proxy.
async fn get(client: &Plain, proxy: SocketAddr, path: &str) -> Option<(u16, u64)> {
    let response = client.get(format!("http://{proxy}/{path}").parse().unwrap()).await.ok()?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Some((status, bytes))
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` must not start a load.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let scale: f64 = std::env::var("METACDN_BENCH_SCALE").map_or(1.0, |text| text.parse().unwrap());
    let large_bytes = ((1_u64 << 30) as f64 * scale) as u64 >> 18 << 18;
    let count = (10_000.0 * scale) as usize;
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(folder.path());
    bench.ready().await;
    let aws = bench.peers[NODES[0]].clone();
    let large: ObjectKey = "large.bin".parse().unwrap();
    let small: Vec<ObjectKey> = (0..count).map(|number| format!("small/{number}").parse().unwrap()).collect();
    let peers = bench.peers.clone();
    let everywhere = |keys: Vec<ObjectKey>| {
        let waiting = Bench { subjects: Vec::new(), peers: peers.clone(), proxy: bench.proxy, table: Table::new() };
        async move { waiting.held_everywhere(&keys).await }
    };
    let wait_large = everywhere(vec![large.clone()]);
    let wait_small = everywhere(small.clone());
    let proxy = bench.proxy;

    let start = Instant::now();
    bench
        .measure("upload 1 large, acknowledged", Moved::Bytes(large_bytes), put_large(&aws, &large, large_bytes))
        .await;
    bench.measure("… until all three hold it", Moved::Bytes(large_bytes), wait_large).await;
    println!("large object, start to held everywhere: {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    bench.measure("upload small, acknowledged", Moved::Objects(count), put_small(&aws, &small)).await;
    bench.measure("… until all three hold them", Moved::Objects(count), wait_small).await;
    println!("small objects, start to held everywhere: {:.2} s", start.elapsed().as_secs_f64());
    let client = plain();
    let download = async { assert_eq!(get(&client, proxy, "large.bin").await, Some((200, large_bytes))) };
    bench.measure("download 1 large", Moved::Bytes(large_bytes), download).await;
    let got = Arc::new(AtomicUsize::new(0));
    let download = stream::iter(0..count).for_each_concurrent(PARALLEL, |number| {
        let (client, got) = (client.clone(), got.clone());
        async move {
            let answer = get(&client, proxy, &format!("small/{number}")).await;
            assert_eq!(answer, Some((200, SMALL_BYTES as u64)));
            got.fetch_add(1, Ordering::Relaxed);
        }
    });
    bench.measure("download small", Moved::Objects(count), download).await;
    assert_eq!(got.load(Ordering::Relaxed), count);
    let parallel = stream::iter(0..64).for_each_concurrent(64, |_| async {
        assert_eq!(get(&client, proxy, "large.bin").await, Some((200, large_bytes)));
    });
    bench.measure("64 clients, 1 large each", Moved::Bytes(64 * large_bytes), parallel).await;
    println!("\n{}", bench.table);
}
