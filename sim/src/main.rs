//! `metacdn-sim`: the rules and the blobs of metacdn, run through crashes, partitions, full disks and wrong clocks.

#[expect(dead_code, unused_imports, reason = "the simulation needs a part of it")]
#[path = "../../src/model/mod.rs"]
mod model;
#[expect(dead_code, unused_imports, reason = "the simulation needs a part of it")]
#[path = "../../src/replicate/mod.rs"]
mod replicate;
#[expect(dead_code, reason = "the simulation needs a part of it")]
mod store;

mod campaign;
mod disk;
mod event;
mod message;
mod mutants;
mod node;
mod oracle;
mod plan;
mod random;
mod trace;
mod world;

use std::process::ExitCode;

const USAGE: &str = "usage: metacdn-sim --seed N | --seeds COUNT|FIRST..END [--seconds N] | --mutants [NAME]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).map(String::as_str)
    };
    if let Some(seed) = value("--seed").and_then(|seed| seed.parse().ok()) {
        return campaign::replay(seed);
    }
    let seconds = value("--seconds").and_then(|seconds| seconds.parse().ok());
    if let Some(seeds) = value("--seeds").and_then(campaign::parse_seeds) {
        return campaign::run(seeds, seconds);
    }
    if arguments.first().is_some_and(|argument| argument == "--mutants") {
        return mutants::run(value("--mutants").unwrap_or_default());
    }
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
