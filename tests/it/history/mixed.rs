//! Histories of many clients on few keys, while nodes die and stand still.

use std::time::Duration;

use rustix::process::Signal;

use super::Random;
use super::clients::Load;
use crate::cluster::wait_until;
use crate::faults::{NAMES, World, meanwhile, parameter, seed};

/// So few keys that most operations meet others.
const LOAD: Load = Load { clients: 18, keys: 4, large_bytes_max: 100_000, seed: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_healthy_cluster_see_one_history() {
    let mut world = World::start().await;
    let clients = world.clients(Load { seed: seed(), ..LOAD });
    wait_until("much is written", async || clients.writes() >= 1_000).await;
    let history = clients.stop().await;
    world.judge(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_one_history_while_nodes_die_and_stand_still() {
    let rounds = parameter("METACDN_ROUNDS", 4);
    let mut random = Random::from_seed(seed());
    let mut world = World::start().await;
    for _ in 0..rounds {
        let clients = world.clients(Load { seed: random.next(), ..LOAD });
        for _ in 0..6 {
            let so_far = clients.writes();
            wait_until("more is written", async || clients.writes() >= so_far + 20).await;
            let name = random.one_of(&NAMES);
            if random.below(2) == 0 {
                world.processes.kill(name).await;
                meanwhile(Duration::from_millis(random.below(200))).await;
                world.processes.spawn(name);
            } else {
                world.processes.signal(name, Signal::STOP);
                meanwhile(Duration::from_millis(random.below(1_500))).await;
                world.processes.signal(name, Signal::CONT);
            }
        }
        for name in NAMES {
            world.up(name).await;
        }
        let history = clients.stop().await;
        world.judge(&history).await;
    }
    world.verified(&["--bytes"]).await;
}
