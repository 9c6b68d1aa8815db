//! A process that stands still for longer than it takes to be given up, and then goes on with an old view of the world.

use std::time::Duration;

use metacdn::model::Liveness;
use rustix::process::Signal;

use super::{LOAD, NAMES, World, meanwhile, parameter, seed};
use crate::cluster::wait_until;
use crate::history::clients::Load;
use crate::processes::Processes;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_goes_on_and_harms_nothing() {
    let time = Duration::from_secs(parameter("METACDN_FREEZE_SECONDS", 15));
    let processes = Processes::prepare(&NAMES);
    for name in NAMES {
        processes.configure(name, "membership.suspect_after_ms = 1500\nmembership.down_after_ms = 3000");
    }
    let mut world = World::of(processes).await;
    let seed = seed();
    for (round, name) in ["GC", "AWS"].into_iter().enumerate() {
        let clients = world.clients(Load { seed: seed.wrapping_add(round as u64), ..LOAD });
        wait_until("something is written", async || clients.writes() >= 50).await;
        world.processes.signal(name, Signal::STOP);
        let so_far = clients.writes();
        wait_until("it is given up", async || world.liveness("Program", name).await == Some(Liveness::Down)).await;
        meanwhile(time).await;
        assert!(clients.writes() > so_far + 50, "the others go on: {} after {so_far}", clients.writes());
        world.processes.signal(name, Signal::CONT);
        let so_far = clients.writes();
        wait_until("it is back", async || world.liveness("Program", name).await == Some(Liveness::Alive)).await;
        wait_until("writes go on everywhere", async || clients.writes() >= so_far + 100).await;
        let history = clients.stop().await;
        world.judge(&history).await;
    }
    world.verified(&["--bytes"]).await;
}
