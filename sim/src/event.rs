//! What happens when: a queue of events in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::message::Message;

/// Something that a node does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// It commits what waits.
    Commit,
    /// It tells another one that it is there.
    Announce(usize),
    /// It pings another one.
    Ping(usize),
    /// It reads the feed of another one.
    Pull(usize),
    /// It answers a poll that waited long enough.
    AnswerPoll(u64),
    /// It fetches what is wanted.
    Fetch,
    /// It goes on with an upload.
    Upload(u64),
    /// An upload has waited long enough for copies.
    EndWait(u64),
    /// It writes down what was passed.
    Cover,
    /// It looks at parked entries.
    Unpark,
    /// It looks at old deletions.
    Expire,
    /// It frees bytes that nothing names.
    Sweep,
    /// It compares what it lists with another one.
    Compare,
    /// It looks through what it has.
    Scrub,
}

/// An event.
#[derive(Debug)]
pub enum Event {
    /// A message arrives.
    Arrive {
        /// From which node.
        from: usize,
        /// At which node.
        to: usize,
        /// What it says.
        message: Message,
    },
    /// A request was not answered in time.
    Silence {
        /// Who asked.
        node: usize,
        /// Under which number.
        number: u64,
    },
    /// A node does something, if it still lives the same life.
    Do {
        /// Which node.
        node: usize,
        /// In which life.
        life: u32,
        /// What.
        task: Task,
    },
    /// A node starts.
    Start(usize),
    /// A client asks for something.
    Request,
    /// A trouble comes.
    Trouble,
    /// A cut heals, or the disk of a node.
    Heal(Ailment),
}

/// What heals by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ailment {
    /// The way from one node to another.
    Cut(usize, usize),
    /// The disk of a node.
    Disk(usize),
}

/// The events to come.
#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Place>>,
    number: u64,
}

#[derive(Debug)]
struct Place {
    at_ms: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.number) == (other.at_ms, other.number)
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

impl Queue {
    /// Adds an event; of those at one time the first that was added comes first.
    pub fn add(&mut self, at_ms: u64, event: Event) {
        self.number += 1;
        self.heap.push(Reverse(Place { at_ms, number: self.number, event }));
    }

    /// The next event, and its time.
    pub fn next(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse(Place { at_ms, event, .. })| (at_ms, event))
    }
}
