//! What the variants of a photograph cost: milliseconds of CPU on one thread, medians.
//!
//! `benches/images.py` makes a photograph and runs this beside pyvips and Pillow: with the argument `--serve` each line
//! of the input is one run, whose variants it names, and is answered with its milliseconds and its bytes.

use std::io::{self, BufRead, Cursor, Write};
use std::{env, fs};

use metacdn::model::Variant;
use metacdn::resize::{CODECS, Config, Plan, make};

const ROUNDS: usize = 21;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(path) = arguments.iter().find(|argument| !argument.starts_with("--")) else {
        println!("images: name a photograph: cargo bench --bench images -- FILE, or run benches/images.py");
        return;
    };
    let source = fs::read(path).expect("the photograph is readable");
    if arguments.iter().any(|argument| argument == "--serve") {
        for line in io::stdin().lock().lines() {
            let (nanoseconds, bytes) = run(&source, &wanted(&line.expect("the input is text")));
            println!("{} {bytes}", nanoseconds as f64 / 1e6);
            io::stdout().flush().expect("somebody reads this");
        }
        return;
    }
    println!("{CODECS}");
    let plan = plan(&source);
    println!("a plan of {} bytes of memory for {} bytes of {}", plan.memory_bytes(), source.len(), plan.media_type());
    for names in ["medium low", "medium", "low"] {
        let mut runs: Vec<(u64, usize)> = (0..ROUNDS).map(|_| run(&source, &wanted(names))).collect();
        runs.sort_unstable();
        let (nanoseconds, bytes) = runs[ROUNDS / 2];
        println!("{names}: {:.1} ms of CPU, {bytes} bytes", nanoseconds as f64 / 1e6);
    }
    println!("most memory of the process: {}", most_memory());
}

fn wanted(names: &str) -> Vec<Variant> {
    names.split_whitespace().map(|name| name.parse().expect("it is a variant")).collect()
}

fn plan(source: &[u8]) -> Plan {
    Plan::read(Cursor::new(source), source.len() as u64, &Config::default()).expect("it is an image that is resized")
}

/// The nanoseconds that it took, and how large the variants are.
fn run(source: &[u8], wanted: &[Variant]) -> (u64, usize) {
    let before = nanoseconds_of_cpu();
    let made = make(source, &plan(source), wanted).expect("it is whole");
    (nanoseconds_of_cpu() - before, made.iter().map(|made| made.bytes.len()).sum())
}

fn nanoseconds_of_cpu() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts the time of each thread");
    text.split_whitespace().next().and_then(|field| field.parse().ok()).expect("the first field is the time")
}

fn most_memory() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("Linux counts the memory of each process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has this line");
    line.trim().to_owned()
}
