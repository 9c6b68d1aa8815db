//! Disks that are full, and disks that fail.

use std::process::Command;

use super::{LOAD, NAMES, World, seed};
use crate::answers::ask;
use crate::cluster::wait_until;
use crate::full_disk::SmallDisk;
use crate::history::Did;
use crate::history::clients::{Load, put};
use crate::processes::Processes;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_full_disk_goes_on_and_converges_when_space_returns() {
    let processes = Processes::prepare(&NAMES);
    let disk = SmallDisk::at(processes.data("GC"), 400);
    let mut world = World::of(processes).await;
    let clients = world.clients(Load { seed: seed(), ..LOAD });
    wait_until("something is written", async || clients.writes() >= 100).await;
    disk.fill(MIB);
    let answer = ask(&world.peers["GC"], "PUT", "/v1/objects/large", &[], vec![b'x'; 2 * MIB]).await;
    assert_eq!(answer.status, 507);
    let so_far = clients.writes();
    wait_until("the others go on", async || clients.writes() >= so_far + 200).await;
    let behind = async || {
        let servers = world.peers["AWS"].servers().await.unwrap().servers;
        servers.into_iter().find(|server| server.node.id.as_str() == "GC").and_then(|server| server.behind)
    };
    wait_until("it is seen to be behind", async || behind().await.is_some_and(|behind| behind > 0)).await;
    disk.free();
    wait_until("it takes writes again", async || {
        let wrote = put(&world.peers["GC"], "after", format!("after {:?}", std::time::Instant::now()).into_bytes());
        matches!(clients.beside("GC", "after", wrote).await, Some(Did::Wrote(..)))
    })
    .await;
    let history = clients.stop().await;
    world.judge(&history).await;
    world.verified(&["--bytes"]).await;
}

/// What fails, with the chance of each call. Writes of the catalogue fail now and then, and for good.
const FAILURES: [(&str, &str); 6] = [
    ("posix/io/sync/*", "0.1"),
    ("posix/io/rw/pwrite*", "0.02"),
    ("posix/io/rw/pwrite*", "1"),
    ("posix/io/dir/rename", "0.1"),
    ("posix/io/oc/open", "0.1"),
    // It is also how threads wake each other, without which the process must end.
    ("posix/io/rw/write", "0.02"),
];

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_are_answered_as_errors_and_nothing_acknowledged_is_lost() {
    let mut processes = Processes::prepare(&NAMES);
    let control = processes.folder.path().join("fiu").to_str().unwrap().to_owned();
    // Nothing fails before it is told to.
    processes.launch_by("GC", &["fiu-run", "-x", "-f", &control]);
    let mut world = World::of(processes).await;
    let seed = seed();
    for (round, (what, chance)) in FAILURES.into_iter().enumerate() {
        let clients = world.clients(Load { seed: seed.wrapping_add(round as u64), ..LOAD });
        wait_until("something is written", async || clients.writes() >= 50).await;
        inject(&control, world.processes.pid("GC"), &format!("enable_random name={what},probability={chance}"));
        wait_until(&format!("{what} has failed, or ended the process"), async || {
            clients.failures("GC") >= 4 || !world.processes.runs("GC")
        })
        .await;
        let so_far = clients.writes();
        wait_until("the others go on", async || clients.writes() >= so_far + 50).await;
        if world.processes.runs("GC") {
            inject(&control, world.processes.pid("GC"), &format!("disable name={what}"));
        } else {
            println!("{what} ended the process");
            world.processes.spawn("GC");
        }
        world.up("GC").await;
        let history = clients.stop().await;
        world.judge(&history).await;
    }
    world.verified(&["--bytes"]).await;
}

/// Has calls of a process fail, or no longer.
fn inject(control: &str, process: u32, command: &str) {
    let ended = Command::new("fiu-ctrl").args(["-f", control, "-c", command, &process.to_string()]).status();
    assert!(ended.unwrap().success(), "{command}");
}
