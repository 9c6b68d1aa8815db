//! What happened, step by step: counted always, told only where somebody reads it.

use std::collections::VecDeque;

/// How many of the last steps are told of a run that broke a promise.
const LAST_STEPS: usize = 120;

/// What a run came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Events.
    pub steps: u64,
    /// Ends of nodes, in calls of the disk or between them.
    pub crashes: u64,
    /// Links that were cut.
    pub cuts: u64,
    /// Backups that were brought back.
    pub restores: u64,
    /// Nodes that came later.
    pub joined: u64,
    /// Nodes that were forgotten.
    pub forgotten: u64,
    /// Writes that were answered.
    pub writes: u64,
    /// Deletions that were answered.
    pub deletions: u64,
    /// Deletions that were forgotten.
    pub expired: u64,
    /// Entries that came from the future.
    pub parked: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.restores += other.restores;
        self.joined += other.joined;
        self.forgotten += other.forgotten;
        self.writes += other.writes;
        self.deletions += other.deletions;
        self.expired += other.expired;
        self.parked += other.parked;
    }
}

/// Who reads the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Nobody.
    Nobody,
    /// Who wants to know what came last.
    OfTheLast,
    /// Who wants all of it, as it happens.
    OfAll,
}

/// The steps of a run.
#[derive(Debug)]
pub struct Trace {
    reader: Reader,
    last: VecDeque<String>,
}

impl Trace {
    /// A trace for `reader`.
    pub const fn new(reader: Reader) -> Self {
        Self { reader, last: VecDeque::new() }
    }

    /// Tells of a step.
    pub fn tell(&mut self, at_ms: u64, step: impl FnOnce() -> String) {
        if self.reader == Reader::Nobody {
            return;
        }
        let line = format!("{:>6}.{:03} {}", at_ms / 1000, at_ms % 1000, step());
        if self.reader == Reader::OfAll {
            println!("{line}");
            return;
        }
        if self.last.len() == LAST_STEPS {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// The last steps.
    pub fn last(&self) -> impl Iterator<Item = &String> {
        self.last.iter()
    }
}
