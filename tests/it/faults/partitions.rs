//! Partitions and loss of packets between nodes in network namespaces of their own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use metacdn::model::{ContentHash, Liveness};
use tokio::process::Command;

use super::network::Network;
use super::{LOAD, NAMES, World, meanwhile, parameter, seed};
use crate::cli::noise;
use crate::cluster::{get, wait_until};
use crate::history::clients::{Load, put};
use crate::history::{Did, Random};
use crate::processes::Processes;

/// Which pairs of nodes do not reach each other.
const CUTS: [&[(&str, &str)]; 4] = [
    // One from the two others, each in turn.
    &[("AWS", "GC"), ("AWS", "Program")],
    &[("GC", "AWS"), ("GC", "Program")],
    // All from each other.
    &[("AWS", "GC"), ("AWS", "Program"), ("GC", "Program")],
    // Two, which the third reaches both.
    &[("AWS", "GC")],
];

/// Three nodes on a network of their own.
async fn world() -> (World, Network) {
    let network = Network::of(&NAMES);
    let mut processes = Processes::prepare_at(&NAMES, |name| network.addresses(name));
    for name in NAMES {
        let launcher = network.launcher(name);
        processes.launch_by(name, &launcher.iter().map(String::as_str).collect::<Vec<_>>());
        // So that each side sees within a partition that the other one is away.
        processes.configure(name, "membership.suspect_after_ms = 1500\nmembership.down_after_ms = 3000");
    }
    (World::of(processes).await, network)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_partition_go_on_and_agree_once_it_heals() {
    let (mut world, network) = world().await;
    let rounds = parameter("METACDN_PARTITIONS", CUTS.len() as u64);
    let mut random = Random::from_seed(seed());
    for round in 0..rounds {
        let cuts = if round < CUTS.len() as u64 { CUTS[round as usize] } else { random.one_of(&CUTS) };
        let clients = world.clients(Load { seed: random.next(), ..LOAD });
        meanwhile(Duration::from_millis(random.below(500))).await;
        for (one, other) in cuts {
            network.cut(one, other);
        }
        let (one, other) = cuts[0];
        wait_until("the cut is seen from both sides", async || {
            world.liveness(one, other).await != Some(Liveness::Alive)
                && world.liveness(other, one).await != Some(Liveness::Alive)
        })
        .await;
        let so_far = clients.writes();
        wait_until("both sides have written", async || clients.writes() >= so_far + 100).await;
        // The later write wins, whichever side heals to which.
        let name = format!("both-sides-{round}");
        for (node, text) in [(one, "earlier"), (other, "later")] {
            let wrote = put(&world.peers[node], &name, format!("{text} {round}").into_bytes());
            assert!(matches!(clients.beside(node, &name, wrote).await, Some(Did::Wrote(..))), "{node} takes writes");
        }
        let earlier = format!("earlier {round}").into_bytes();
        assert!(get(&world.peers[one], &name).await.unwrap() == earlier, "they do not reach each other");
        network.heal();
        let history = clients.stop().await;
        world.judge(&history).await;
        for peer in world.peers.values() {
            assert_eq!(get(peer, &name).await.unwrap(), format!("later {round}").into_bytes());
        }
    }
    world.verified(&["--bytes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_of_all_packets_lost_delays_and_breaks_nothing() {
    let (mut world, network) = world().await;
    network.lose(20);
    let clients = world.clients(Load { clients: 6, seed: seed(), ..LOAD });
    wait_until("much is written all the same", async || clients.writes() >= 200).await;
    let folder = world.processes.folder.path().join("site");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..20 {
        let bytes = noise(if number == 0 { 300_000 } else { 20_000 }, number);
        std::fs::write(folder.join(format!("file-{number}")), &bytes).unwrap();
        let wrote = async { Some(Did::MayHaveWritten(Some(ContentHash::of(&bytes)))) };
        clients.beside("AWS", &format!("file-{number}"), wrote).await;
    }
    let (uploaded, said) = upload(&folder, &world.processes.profile()).await;
    assert!(uploaded, "{said}");
    let history = clients.stop().await;
    // The nodes become equal while packets are lost, and verify reads them over the same network.
    world.judge(&history).await;
    network.heal();
    for peer in world.peers.values() {
        for number in 0..20 {
            assert!(get(peer, &format!("file-{number}")).await.is_some(), "file-{number} is everywhere");
        }
    }
    world.verified(&["--bytes"]).await;
}

/// Publishes a folder by the command, whose retries are a part of what is tested.
async fn upload(folder: &Path, profile: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metacdn"));
    command.args(["upload", "--config"]).args([profile, folder]).arg("AWS").stdin(Stdio::null());
    let output = command.output().await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}
