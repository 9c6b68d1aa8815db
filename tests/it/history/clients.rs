//! Clients that write, delete and read at all nodes at the same time, and record what they did.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, ETAG, HeaderValue};
use http::{Method, StatusCode};
use metacdn::client::{ClientError, Peer, empty, full};
use metacdn::model::{ContentHash, Version};
use metacdn::protocol::status::Receipt;
use metacdn::protocol::{VERSION_HEADER, object_path};
use tokio::task::JoinSet;

use super::{Did, Listed, Operation, Random};
use crate::cluster::key;

/// The largest answer that is read.
const BODY_MAX: usize = 16 << 20;

/// A node that cannot be reached is left alone for a moment.
const PAUSE: Duration = Duration::from_millis(5);

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How many there are.
    pub clients: usize,
    /// Among how many keys they choose.
    pub keys: u64,
    /// The size of one object in four, which is a file; the others have up to 4 kB, and are rows of the catalogue.
    pub large_bytes_max: u64,
    /// From which all their choices follow.
    pub seed: u64,
}

/// Clients at work.
pub struct Clients {
    tasks: JoinSet<()>,
    record: Arc<Record>,
}

struct Record {
    begun: Instant,
    ended: AtomicBool,
    operations: Mutex<Vec<Operation>>,
    writes: AtomicUsize,
}

impl Clients {
    /// Starts clients of these nodes. Each has one that it mostly asks.
    pub fn start(load: Load, nodes: &BTreeMap<&'static str, Peer>) -> Self {
        let record = Arc::new(Record {
            begun: Instant::now(),
            ended: AtomicBool::new(false),
            operations: Mutex::default(),
            writes: AtomicUsize::new(0),
        });
        let nodes: Vec<_> = nodes.iter().map(|(name, peer)| (*name, peer.clone())).collect();
        let mut tasks = JoinSet::new();
        for number in 0..load.clients {
            let random = Random::from_seed(load.seed.wrapping_add(number as u64 * 1_000_003));
            let home = number % nodes.len();
            let client = Client { number, load, random, nodes: nodes.clone(), home, record: record.clone() };
            tasks.spawn(client.run());
        }
        Self { tasks, record }
    }

    /// How many writes were acknowledged so far.
    pub fn writes(&self) -> usize {
        self.record.writes.load(Ordering::Relaxed)
    }

    /// How many writes at a node ended without an answer that says whether they happened.
    pub fn failures(&self, node: &str) -> usize {
        let operations = self.record.operations.lock().unwrap();
        operations.iter().filter(|o| o.node == node && matches!(o.did, Did::MayHaveWritten(_))).count()
    }

    /// Records what a test does itself meanwhile, and answers what came of it.
    pub async fn beside(&self, node: &'static str, name: &str, does: impl Future<Output = Option<Did>>) -> Option<Did> {
        let invoked = self.record.begun.elapsed();
        let did = does.await;
        let returned = self.record.begun.elapsed();
        if let Some(did) = did.clone() {
            let operation = Operation { client: self.tasks.len(), node, key: name.to_owned(), invoked, returned, did };
            self.record.operations.lock().unwrap().push(operation);
        }
        did
    }

    /// Lets each end what it is doing, and answers what all have done.
    pub async fn stop(mut self) -> Vec<Operation> {
        self.record.ended.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.record.operations.lock().unwrap())
    }
}

struct Client {
    number: usize,
    load: Load,
    random: Random,
    nodes: Vec<(&'static str, Peer)>,
    home: usize,
    record: Arc<Record>,
}

impl Client {
    async fn run(mut self) {
        for count in 0_u64.. {
            if self.record.ended.load(Ordering::Relaxed) {
                return;
            }
            let elsewhere = self.random.below(4) == 0;
            let at = if elsewhere { self.random.below(self.nodes.len() as u64) as usize } else { self.home };
            let (node, peer) = self.nodes[at].clone();
            let name = format!("key-{}", self.random.below(self.load.keys));
            let choice = self.random.below(20);
            let invoked = self.record.begun.elapsed();
            let did = match choice {
                0..9 => self.put(&peer, &name, count).await,
                9..12 => delete(&peer, &name).await,
                _ => read(&peer, &name).await,
            };
            let returned = self.record.begun.elapsed();
            let Some(did) = did else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            if matches!(did, Did::Wrote(..)) {
                self.record.writes.fetch_add(1, Ordering::Relaxed);
            }
            let operation = Operation { client: self.number, node, key: name, invoked, returned, did };
            self.record.operations.lock().unwrap().push(operation);
        }
    }

    async fn put(&mut self, peer: &Peer, name: &str, count: u64) -> Option<Did> {
        let large = self.random.below(4) == 0;
        // At least so many that no two writes have the same.
        let size = 40 + self.random.below(if large { self.load.large_bytes_max } else { 4_000 });
        let mut bytes = vec![0; size as usize];
        let label = format!("{} {} {count}", self.load.seed, self.number);
        blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
        put(peer, name, bytes).await
    }
}

/// Stores bytes that no other write has; `None` if that certainly did not happen.
pub async fn put(peer: &Peer, name: &str, bytes: Vec<u8>) -> Option<Did> {
    let state = Some(ContentHash::of(&bytes));
    let size = bytes.len();
    let mut request = peer.request(Method::PUT, &object_path(&key(name)), full(bytes)).unwrap();
    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    let receipt = async {
        let response = peer.ask(request).await?;
        peer.read_json::<Receipt>(response).await
    };
    match receipt.await {
        Ok(receipt) => {
            assert_eq!(Some(receipt.content.hash), state, "the node has stored something else");
            Some(Did::Wrote(state, receipt.version))
        }
        Err(error) => unknown(&error).then_some(Did::MayHaveWritten(state)),
    }
}

/// Deletes a key; where there is nothing to delete, that was a read.
pub async fn delete(peer: &Peer, name: &str) -> Option<Did> {
    let request = peer.request(Method::DELETE, &object_path(&key(name)), empty()).unwrap();
    match peer.send(request).await {
        Ok(response) if response.status() == StatusCode::NO_CONTENT => {
            Some(Did::Wrote(None, version(response.headers()).expect("a deletion has a version")))
        }
        Ok(response) if response.status() == StatusCode::NOT_FOUND => None,
        Ok(response) if response.status().is_server_error() => Some(Did::MayHaveWritten(None)),
        Ok(response) => panic!("{}", response.status()),
        Err(error) => unknown(&error).then_some(Did::MayHaveWritten(None)),
    }
}

/// Reads a key and checks the bytes; `None` without an answer.
pub async fn read(peer: &Peer, name: &str) -> Option<Did> {
    let request = peer.request(Method::GET, &object_path(&key(name)), empty()).unwrap();
    let response = peer.send(request).await.ok()?;
    let version = version(response.headers());
    match response.status() {
        StatusCode::NOT_FOUND => Some(Did::Read(version.map(|version| Listed { version, state: None }))),
        StatusCode::OK => {
            let etag = response.headers()[ETAG].to_str().unwrap().to_owned();
            let bytes = peer.reader(response.into_body()).read_all(BODY_MAX).await.ok()?;
            let hash = ContentHash::of(&bytes);
            assert_eq!(etag, hash.etag(), "the bytes of {name} are not what their entity tag says");
            let version = version.expect("an object has a version");
            Some(Did::Read(Some(Listed { version, state: Some(hash) })))
        }
        status if status.is_server_error() => None,
        status => panic!("{status}"),
    }
}

fn version(headers: &http::HeaderMap) -> Option<Version> {
    Some(headers.get(VERSION_HEADER)?.to_str().unwrap().parse().unwrap())
}

/// Whether what failed may have happened all the same.
fn unknown(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { status, .. } => status.is_server_error(),
        _ => error.may_have_arrived(),
    }
}
