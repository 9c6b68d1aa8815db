//! Many seeds on all processors, or one with all its steps.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::oracle::{Invariant, Violation};
use crate::trace::{Counts, Reader};
use crate::world::{Outcome, World};

/// How often it is said how far the seeds are.
const REPORT_PERIOD: Duration = Duration::from_secs(10);

/// Reads `COUNT` or `FIRST..END`.
pub fn parse_seeds(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((first, end)) => Some(first.parse().ok()?..end.parse().ok()?),
        None => Some(0..text.parse().ok()?),
    }
}

/// Runs `seed`; a panic is a promise broken, too.
pub fn run_seed(seed: u64, reader: Reader) -> Outcome {
    let world = AssertUnwindSafe(|| World::new(seed, reader).run());
    catch_unwind(world).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let detail = text.unwrap_or_else(|| "a panic without words".to_owned());
        let violation = Violation { invariant: Invariant::NothingPanics, detail };
        Outcome { counts: Counts::default(), violation: Some(violation), last: Vec::new() }
    })
}

/// Runs one seed and tells all its steps.
pub fn replay(seed: u64) -> ExitCode {
    match run_seed(seed, Reader::OfAll).violation {
        None => {
            println!("seed {seed}: all promises were kept");
            ExitCode::SUCCESS
        }
        Some(Violation { invariant, detail }) => {
            println!("seed {seed}: {invariant} is broken: {detail}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `seeds`, for as long as `seconds` allow, until one breaks a promise.
pub fn run(seeds: Range<u64>, seconds: Option<u64>) -> ExitCode {
    let started = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let is_over = AtomicBool::new(false);
    let total = Mutex::new((Counts::default(), 0_u64));
    let broken = Mutex::new(None::<(u64, Violation)>);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || seconds.is_some_and(|seconds| started.elapsed().as_secs() >= seconds) {
                break;
            }
            let Outcome { counts, violation, .. } = run_seed(seed, Reader::Nobody);
            let mut total = total.lock().expect("no thread panics with it");
            total.0.add(&counts);
            total.1 += 1;
            if let Some(violation) = violation {
                is_over.store(true, Ordering::Relaxed);
                let mut broken = broken.lock().expect("no thread panics with it");
                if broken.as_ref().is_none_or(|(before, _)| seed < *before) {
                    *broken = Some((seed, violation));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut reported = Instant::now();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(20));
            if reported.elapsed() >= REPORT_PERIOD {
                reported = Instant::now();
                let (_, done) = *total.lock().expect("no thread panics with it");
                eprintln!("{done} seeds in {} s", started.elapsed().as_secs());
            }
        }
    });
    let (counts, done) = *total.lock().expect("no thread panics with it");
    println!("{done} seeds in {:.1} s: {counts:?}", started.elapsed().as_secs_f64());
    let broken = broken.into_inner().expect("no thread panics with it");
    let Some((seed, Violation { invariant, detail })) = broken else { return ExitCode::SUCCESS };
    println!("seed {seed} breaks {invariant}: {detail}");
    for step in run_seed(seed, Reader::OfTheLast).last {
        println!("{step}");
    }
    println!("all of it: metacdn-sim --seed {seed}");
    ExitCode::FAILURE
}
