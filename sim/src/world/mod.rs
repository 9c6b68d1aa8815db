//! The world of a run: the nodes, the network between them, their clients, and the time.

mod clients;
mod commit;
mod feeds;
mod fetches;
mod gossip;
mod life;
mod messages;
mod rest;
mod scrub;
mod troubles;

use std::collections::BTreeMap;

use crate::event::{Ailment, Event, Queue, Task};
use crate::message::{Answer, Ask, Message};
use crate::model::{ContentHash, EntryKey, NodeId};
use crate::node::{Purpose, Request, SimNode, Status};
use crate::oracle::{Invariant, Oracle, Violation};
use crate::plan::Plan;
use crate::random::Random;
use crate::trace::{Counts, Reader, Trace};
pub use clients::ClientRequest;

/// What the clocks show at the start of a run, in milliseconds since 1970.
const START_UNIX_MS: u64 = 1_700_000_000_000;

/// How long an answer is waited for.
const SILENCE_MS: u64 = 8_000;

/// A world.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    random: Random,
    now_ms: u64,
    queue: Queue,
    nodes: Vec<SimNode>,
    /// How many cuts lie on each way.
    cuts: BTreeMap<(usize, usize), u32>,
    keys: Vec<EntryKey>,
    contents: Vec<(ContentHash, Vec<u8>)>,
    requests: Vec<ClientRequest>,
    next_number: u64,
    /// Whether troubles and clients have ended.
    is_calm: bool,
    oracle: Oracle,
    trace: Trace,
    counts: Counts,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What it came to.
    pub counts: Counts,
    /// The promise that was broken.
    pub violation: Option<Violation>,
    /// The last steps, if somebody reads them.
    pub last: Vec<String>,
}

impl World {
    /// The world that `seed` makes, told to `reader`.
    pub fn new(seed: u64, reader: Reader) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random);
        let keys = (0..plan.keys).map(|number| format!("k{number}").parse().expect("a key")).collect();
        let contents = (0..plan.contents).map(|_| clients::content(&mut random, plan.large_per_mille)).collect();
        let mut world = Self {
            plan,
            random,
            now_ms: 0,
            queue: Queue::default(),
            nodes: Vec::new(),
            cuts: BTreeMap::new(),
            keys,
            contents,
            requests: Vec::new(),
            next_number: 0,
            is_calm: false,
            oracle: Oracle::default(),
            trace: Trace::new(reader),
            counts: Counts::default(),
        };
        let plan = world.plan.clone();
        world.tell(|_| format!("{plan:?}"));
        for index in 0..world.plan.nodes {
            world.add_node((index > 0).then_some(0));
        }
        world.queue.add(20_000, Event::Request);
        world.queue.add(30_000, Event::Trouble);
        world
    }

    /// Runs to the end, or until a promise is broken.
    pub fn run(mut self) -> Outcome {
        while self.now_ms < self.plan.duration_ms && self.step() {}
        if self.oracle.violation.is_none() {
            self.come_to_rest();
        }
        if let Some(Violation { invariant, detail }) = self.oracle.violation.clone() {
            self.tell(|_| format!("BROKEN {invariant}: {detail}"));
        }
        let last = self.trace.last().cloned().collect();
        Outcome { counts: self.counts, violation: self.oracle.violation, last }
    }

    /// Lets the next event happen; answers whether there was one, and all is well.
    fn step(&mut self) -> bool {
        let Some((at_ms, event)) = self.queue.next() else { return false };
        self.now_ms = at_ms;
        self.counts.steps += 1;
        match event {
            Event::Arrive { from, to, message } => self.arrive(from, to, message),
            Event::Silence { node, number } => self.silence(node, number),
            Event::Do { node, life, task } => {
                if self.nodes[node].life == life && self.nodes[node].status == Status::Up {
                    self.act(node, task);
                }
            }
            Event::Start(node) => self.start(node),
            Event::Request => self.client_request(),
            Event::Trouble => self.trouble(),
            Event::Heal(ailment) => self.heal(ailment),
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].status == Status::Up && self.nodes[node].disk.is_off() {
                self.crash(node);
            }
        }
        self.oracle.violation.is_none()
    }

    fn act(&mut self, node: usize, task: Task) {
        match task {
            Task::Commit => self.commit(node),
            Task::Announce(peer) => self.announce(node, peer),
            Task::Ping(peer) => self.ping(node, peer),
            Task::Pull(peer) => self.pull(node, peer),
            Task::AnswerPoll(number) => self.answer_poll(node, number),
            Task::Fetch => self.fetch(node),
            Task::Upload(number) => self.upload(node, number),
            Task::EndWait(number) => self.end_wait(node, number),
            Task::Cover => self.cover(node),
            Task::Unpark => self.unpark(node),
            Task::Expire => self.expire(node),
            Task::Sweep => self.sweep(node),
            Task::Compare => self.compare(node),
            Task::Scrub => self.scrub(node),
        }
    }

    fn tell(&mut self, step: impl FnOnce(&[SimNode]) -> String) {
        let nodes = &self.nodes;
        self.trace.tell(self.now_ms, || step(nodes));
    }

    fn broken(&mut self, invariant: Invariant, detail: impl FnOnce() -> String) {
        self.oracle.broken(invariant, detail);
    }

    /// What the clock of `node` shows.
    fn clock(&self, node: usize) -> u64 {
        (START_UNIX_MS + self.now_ms).saturating_add_signed(self.nodes[node].skew_ms)
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Lets `node` do `task` in `after_ms`.
    fn later(&mut self, after_ms: u64, node: usize, task: Task) {
        let life = self.nodes[node].life;
        self.queue.add(self.now_ms + after_ms, Event::Do { node, life, task });
    }

    fn later_within(&mut self, first_ms: u64, last_ms: u64, node: usize, task: Task) {
        let after_ms = self.random.between(first_ms, last_ms);
        self.later(after_ms, node, task);
    }

    fn index_of(&self, id: &NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == *id)
    }

    /// The other nodes that `node` knows to be registered.
    fn others(&self, node: usize) -> Vec<usize> {
        let members = self.nodes[node].members();
        let others = members.iter().filter_map(|id| self.index_of(id));
        others.filter(|other| *other != node).collect()
    }

    fn heal(&mut self, ailment: Ailment) {
        match ailment {
            Ailment::Cut(from, to) => {
                if let Some(count) = self.cuts.get_mut(&(from, to)) {
                    *count -= 1;
                }
                self.cuts.retain(|_, count| *count > 0);
            }
            Ailment::Disk(node) => self.nodes[node].disk.set_trouble(false, 0),
        }
        self.tell(|_| format!("healed {ailment:?}"));
    }

    /// Sends a request; who is silent too long is given up.
    fn ask(&mut self, node: usize, peer: usize, purpose: Purpose, ask: Ask) {
        let number = self.number();
        let patience_ms = match &ask {
            Ask::Feed { wait_ms, .. } => wait_ms + SILENCE_MS,
            _ => SILENCE_MS,
        };
        self.nodes[node].memory.requests.insert(number, Request { peer, purpose });
        self.queue.add(self.now_ms + patience_ms, Event::Silence { node, number });
        let doubled_per_mille = self.plan.doubled_per_mille;
        if self.random.happens(doubled_per_mille) {
            self.send(node, peer, Message::Ask(number, ask.clone()));
        }
        self.send(node, peer, Message::Ask(number, ask));
    }

    fn answer(&mut self, node: usize, peer: usize, number: u64, answer: Answer) {
        self.send(node, peer, Message::Answer(number, answer));
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let lost_per_mille = if self.is_calm { 0 } else { self.plan.lost_per_mille };
        if self.cuts.contains_key(&(from, to)) || self.random.happens(lost_per_mille) {
            return;
        }
        let delay_ms = self.random.between(1, self.plan.delay_ms);
        self.queue.add(self.now_ms + delay_ms, Event::Arrive { from, to, message });
    }
}
