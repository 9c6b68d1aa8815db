//! A campaign of `kill -9`: nodes die at random moments of mixed uploads, overwrites and deletions over TLS, and start again.
//!
//! `METACDN_CRASHES=2000 METACDN_SEED=7 cargo test --test it crashes -- --nocapture` makes it longer, or repeats its choices.

use std::time::{Duration, Instant};

use super::{LOAD, NAMES, World, meanwhile, parameter, seed};
use crate::history::Random;
use crate::history::clients::Load;

/// After so many crashes clients pause, and all nodes are compared and judged.
const CRASHES_A_ROUND: u64 = 40;

/// So many keys that what is lost is seldom written again before anybody looks.
const KEYS: u64 = 300;

/// A node dies at most so long after another.
const LULL_MS_MAX: u64 = 250;

#[tokio::test(flavor = "multi_thread")]
async fn crashes_at_random_moments_lose_nothing_acknowledged_and_return_nothing_deleted() {
    let crashes = parameter("METACDN_CRASHES", 110);
    let seed = seed();
    let mut random = Random::from_seed(seed);
    let mut world = World::start().await;
    let (begun, mut done, mut operations, mut writes) = (Instant::now(), 0, 0, 0);
    while done < crashes {
        let clients = world.clients(Load { seed: seed.wrapping_add(done), keys: KEYS, ..LOAD });
        let until = (done + CRASHES_A_ROUND).min(crashes);
        while done < until {
            meanwhile(Duration::from_millis(random.below(LULL_MS_MAX))).await;
            // Sometimes two at once: what one node acknowledged is on its disk.
            let together = 1 + usize::from(random.below(8) == 0);
            let first = random.below(3) as usize;
            for name in (first..first + together).map(|number| NAMES[number % 3]) {
                world.processes.kill(name).await;
                done += 1;
            }
            for name in (first..first + together).map(|number| NAMES[number % 3]) {
                world.processes.spawn(name);
            }
            // A quarter of the crashes hit a node that is just starting; the others wait until it serves.
            if random.below(4) > 0 {
                world.up(NAMES[first]).await;
            }
        }
        for name in NAMES {
            world.up(name).await;
        }
        writes += clients.writes();
        let history = clients.stop().await;
        operations += history.len();
        world.judge(&history).await;
    }
    world.verified(&["--bytes"]).await;
    let took = begun.elapsed().as_secs();
    println!("{done} crashes, {operations} operations, {writes} writes acknowledged, {took} s");
    assert!(writes as u64 > 5 * crashes, "too little was written between the crashes: {writes}");
}
