//! A network of the test's own: each node in a network namespace, all of them on one bridge with the clients, and rules that
//! drop packets between them.
//!
//! The namespaces have no names, but a process each that holds them: so they need no folder of the system, and are gone with the test.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::cluster::PATIENCE;

/// Where a node serves its API, downloads and prices. Nobody else is in its namespace.
const PORTS: [u16; 3] = [22_222, 8_871, 8_700];

/// Nodes that reach each other as long as nothing is cut.
pub struct Network {
    bridge: String,
    nodes: BTreeMap<&'static str, Space>,
}

struct Space {
    address: Ipv4Addr,
    interface: String,
    holder: Child,
}

impl Network {
    /// A network for nodes of these names.
    pub fn of(names: &[&'static str]) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Names of interfaces have at most 15 letters.
        let bridge = format!("mc{}b{number}", std::process::id());
        let subnet = |host: u8| Ipv4Addr::new(10, 213, (std::process::id() % 60) as u8 * 4 + number % 4, host);
        run(&["ip", "link", "add", &bridge, "type", "bridge"]);
        let mut network = Self { bridge, nodes: BTreeMap::new() };
        run(&["ip", "address", "add", &format!("{}/24", subnet(1)), "dev", &network.bridge]);
        run(&["ip", "link", "set", &network.bridge, "up"]);
        for (index, name) in names.iter().enumerate() {
            let address = subnet(10 + index as u8);
            let space = network.join(address, &format!("mc{}n{number}{index}", std::process::id()));
            network.nodes.insert(name, space);
        }
        network
    }

    /// Makes a namespace with one interface, `address`, on the bridge.
    fn join(&self, address: Ipv4Addr, interface: &str) -> Space {
        let sleep = ["--net", "sleep", "infinity"];
        let holder = Command::new("unshare").args(sleep).stdin(Stdio::null()).spawn().unwrap();
        let space = Space { address, interface: interface.to_owned(), holder };
        let own = || std::fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = || std::fs::read_link(format!("/proc/{}/ns/net", space.holder.id())).unwrap_or_else(|_| own());
        let deadline = std::time::Instant::now() + PATIENCE;
        while theirs() == own() {
            assert!(std::time::Instant::now() < deadline, "only root can make network namespaces: sudo ./test.sh it");
            std::thread::yield_now();
        }
        let (holder, peer) = (space.holder.id().to_string(), format!("{interface}x"));
        run(&["ip", "link", "add", interface, "type", "veth", "peer", "name", &peer]);
        run(&["ip", "link", "set", interface, "master", &self.bridge, "up"]);
        run(&["ip", "link", "set", &peer, "netns", &holder]);
        space.run(&["ip", "address", "add", &format!("{address}/24"), "dev", &peer]);
        space.run(&["ip", "link", "set", &peer, "up"]);
        space.run(&["ip", "link", "set", "lo", "up"]);
        space.run(&["nft", "add table inet faults"]);
        space.run(&["nft", "add chain inet faults input { type filter hook input priority 0; }"]);
        space
    }

    /// Where a node serves its API, downloads and prices.
    pub fn addresses(&self, name: &str) -> [SocketAddr; 3] {
        PORTS.map(|port| SocketAddr::from((self.nodes[name].address, port)))
    }

    /// By which command a program runs in the namespace of a node.
    pub fn launcher(&self, name: &str) -> Vec<String> {
        self.nodes[name].launcher()
    }

    /// Drops all packets between two nodes.
    pub fn cut(&self, one: &str, other: &str) {
        for (at, from) in [(one, other), (other, one)] {
            let source = self.nodes[from].address;
            self.nodes[at].run(&["nft", &format!("add rule inet faults input ip saddr {source} drop")]);
        }
    }

    /// Drops so many of a hundred packets that arrive at any node, at random.
    pub fn lose(&self, percent: u8) {
        for space in self.nodes.values() {
            let rule = format!("add rule inet faults input iifname != lo numgen random mod 100 < {percent} drop");
            space.run(&["nft", &rule]);
        }
    }

    /// Lets all packets pass again.
    pub fn heal(&self) {
        for space in self.nodes.values() {
            space.run(&["nft", "flush chain inet faults input"]);
        }
    }
}

impl Space {
    fn launcher(&self) -> Vec<String> {
        ["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.holder.id())].into()
    }

    fn run(&self, command: &[&str]) {
        let launcher = self.launcher();
        run(&launcher.iter().map(String::as_str).chain(command.iter().copied()).collect::<Vec<_>>());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in self.nodes.values_mut() {
            let _ = space.holder.kill();
            let _ = space.holder.wait();
            // Without this they would stay until the last connection of the namespace has timed out.
            let _ = Command::new("ip").args(["link", "delete", &space.interface]).status();
        }
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).status();
    }
}

fn run(command: &[&str]) {
    let Output { status, stderr, .. } = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    let hint = "networks of their own take root and the packages iproute2 and nftables: sudo ./test.sh it";
    assert!(status.success(), "{}: {} ({hint})", command.join(" "), said.trim());
}
