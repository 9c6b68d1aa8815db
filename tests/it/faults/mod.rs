//! Faults of machines, disks, clocks and networks, against real processes under load: whatever happens, the history of what
//! clients did and saw shows that every promise was kept, and `metacdn verify` that all nodes end equal.

mod clock;
mod crashes;
mod disks;
mod frozen;
mod network;
mod partitions;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use metacdn::client::Peer;
use metacdn::model::Liveness;
use tokio::process::Command;

use crate::cluster::PATIENCE;
use crate::history::checker::{Evidence, late_read_violations, violations};
use crate::history::clients::{Clients, Load, read};
use crate::history::{Contents, Did, Operation, State, contents};
use crate::processes::Processes;

pub const NAMES: [&str; 3] = ["AWS", "GC", "Program"];

/// A load that makes writes meet: twelve clients on few keys.
pub const LOAD: Load = Load { clients: 12, keys: 24, large_bytes_max: 100_000, seed: 1 };

/// A number that a person may set for a longer run, or to repeat one.
pub fn parameter(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// The seed of all choices of a test: that of the environment, or a new one. It is printed, so that a failure shows it.
pub fn seed() -> u64 {
    let seed = parameter("METACDN_SEED", getrandom::u64().unwrap() >> 32);
    println!("METACDN_SEED={seed}");
    seed
}

/// Three nodes in processes of their own, clients of theirs, and what the nodes held when they were last judged.
pub struct World {
    pub processes: Processes,
    pub peers: BTreeMap<&'static str, Peer>,
    before: Contents,
}

impl World {
    /// Starts three nodes.
    pub async fn start() -> Self {
        Self::of(Processes::prepare(&NAMES)).await
    }

    /// Starts the nodes of `processes`, which has all of [`NAMES`].
    pub async fn of(mut processes: Processes) -> Self {
        for name in NAMES {
            processes.spawn(name);
            processes.up(name).await;
        }
        let world = Self::around(processes);
        world.verified(&[]).await;
        world
    }

    /// The nodes of `processes`, which run.
    pub fn around(processes: Processes) -> Self {
        let peers = NAMES.into_iter().map(|name| (name, processes.client(name))).collect();
        Self { processes, peers, before: Contents::new() }
    }

    /// Starts clients.
    pub fn clients(&self, load: Load) -> Clients {
        Clients::start(load, &self.peers)
    }

    /// How `other` looks from `name`.
    pub async fn liveness(&self, name: &str, other: &str) -> Option<Liveness> {
        let servers = self.peers[name].servers().await.ok()?.servers;
        servers.into_iter().find(|server| server.node.id.as_str() == other).map(|server| server.liveness)
    }

    /// Waits until a node runs and answers.
    pub async fn up(&self, name: &str) {
        self.processes.up(name).await;
    }

    /// Waits until `metacdn verify`, with `arguments`, finds all nodes equal.
    pub async fn verified(&self, arguments: &[&str]) {
        let patience = (2 * PATIENCE.as_secs()).to_string();
        let profile = self.processes.profile();
        let run = Command::new(env!("CARGO_BIN_EXE_metacdn"))
            .args(["verify", "--wait", &patience, "--config"])
            .arg(profile)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        let output = run.await.unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "the nodes are not equal:\n{}\n{}", said[0], said[1]);
    }

    /// Waits until all nodes are equal, and proves that what was done and seen until then keeps all promises.
    pub async fn judge(&mut self, operations: &[Operation]) {
        self.verified(&[]).await;
        let mut after = self.settled().await;
        let mut found = violations(&Evidence { before: &self.before, operations, after: &after });
        let mut reads = Vec::new();
        for (name, peer) in &self.peers {
            let answers =
                join_all(after[0].1.keys().map(async |key| (*name, key.clone(), read_surely(peer, key).await)));
            reads.extend(answers.await);
        }
        found.extend(late_read_violations(&after[0].1, &reads));
        if !found.is_empty() {
            let all: String = operations.iter().map(|operation| format!("{operation:?}\n")).collect();
            let path = std::env::temp_dir().join(format!("metacdn-history-{}.txt", std::process::id()));
            std::fs::write(&path, all).unwrap();
            panic!("{} promises broken, the history is in {}:\n{}", found.len(), path.display(), found.join("\n"));
        }
        self.before = after.swap_remove(0).1;
    }

    /// What the nodes hold once it is the same and stays so from one look to the next.
    async fn settled(&self) -> Vec<(&'static str, Contents)> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.contents().await;
        loop {
            let read = self.contents().await;
            let equal = read.len() == NAMES.len() && read.windows(2).all(|pair| pair[0].1 == pair[1].1);
            if equal && read == last {
                return read;
            }
            assert!(Instant::now() < deadline, "the nodes go on changing: {read:?}");
            last = read;
        }
    }

    async fn contents(&self) -> Vec<(&'static str, Contents)> {
        let read = join_all(self.peers.iter().map(async |(name, peer)| (*name, contents(peer).await))).await;
        read.into_iter().filter_map(|(name, contents)| contents.map(|contents| (name, contents))).collect()
    }
}

/// What a node shows of a key. Where packets are lost, an answer may take several tries.
async fn read_surely(peer: &Peer, key: &str) -> State {
    for _ in 0..12 {
        if let Some(Did::Read(seen)) = read(peer, key).await {
            return seen.and_then(|seen| seen.state);
        }
    }
    panic!("{} does not answer to a read of {key}", peer.address());
}

/// Lets clients work for a while. What happens in it is what is tested, so there is no condition to wait for.
pub async fn meanwhile(time: Duration) {
    tokio::time::sleep(time).await;
}
