//! What a seed makes of a run: how large the cluster is, and what befalls it. Every seed leaves some troubles out, so that
//! the others are not always drowned by them.

use crate::random::Random;

/// The most nodes of a run, later ones included.
pub const NODES_MAX: usize = 7;

/// A trouble that comes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A node loses its power.
    Crash,
    /// A node loses its power in the middle of one of its next calls to the disk.
    CrashInCall,
    /// A link, or both ways of it, or all links of a node, are cut.
    Cut,
    /// The disk of a node is full, or fails now and then.
    Disk,
    /// The clock of a node jumps.
    Clock,
    /// A copy of all that a node has is put aside.
    Backup,
    /// A node is brought back from its copy.
    Restore,
    /// A new node joins.
    Join,
    /// A node burns down, and is forgotten.
    Forget,
    /// A row of the catalogue of a node is lost.
    LoseRow,
}

/// How often each trouble is drawn where it is not left out.
const TROUBLES: [(Trouble, u64); 10] = [
    (Trouble::Crash, 4),
    (Trouble::CrashInCall, 5),
    (Trouble::Cut, 6),
    (Trouble::Disk, 3),
    (Trouble::Clock, 3),
    (Trouble::Backup, 3),
    (Trouble::Restore, 2),
    (Trouble::Join, 1),
    (Trouble::Forget, 1),
    (Trouble::LoseRow, 1),
];

/// The plan of one run. Times are in milliseconds of its own clock.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes at the start.
    pub nodes: usize,
    /// Keys that clients write.
    pub keys: usize,
    /// How many different contents they write.
    pub contents: usize,
    /// How long clients write and troubles come.
    pub duration_ms: u64,
    /// The longest time between two requests of clients.
    pub request_gap_ms: u64,
    /// The longest time between two troubles.
    pub trouble_gap_ms: u64,
    /// The troubles, each as often as it is to be drawn.
    pub troubles: Vec<Trouble>,
    /// How many entries an answer of the feed has at most.
    pub page: usize,
    /// How many jobs one commit takes at most.
    pub group: usize,
    /// How old a deletion is that may be forgotten.
    pub grace_ms: u64,
    /// How long it takes at most until what is wanted is fetched.
    pub fetch_ms: u64,
    /// The longest way of a message.
    pub delay_ms: u64,
    /// How many of a thousand messages are lost.
    pub lost_per_mille: u64,
    /// How many of a thousand requests arrive twice.
    pub doubled_per_mille: u64,
    /// How many of a thousand pieces of blobs have a wrong bit.
    pub corrupted_per_mille: u64,
    /// How many of a thousand requests of clients are deletions.
    pub deletions_per_mille: u64,
    /// How many of a thousand uploads are files and not rows.
    pub large_per_mille: u64,
    /// Whether nodes compare what they list.
    pub compares: bool,
}

impl Plan {
    /// The plan that `random` draws.
    pub fn draw(random: &mut Random) -> Self {
        let compares = random.happens(500);
        let mut troubles = Vec::new();
        for (trouble, weight) in TROUBLES {
            let is_mended = trouble != Trouble::LoseRow || compares;
            if random.happens(600) && is_mended {
                troubles.extend(std::iter::repeat_n(trouble, weight as usize));
            }
        }
        let clean_network = random.happens(300);
        let per_mille = |random: &mut Random, last| if clean_network { 0 } else { random.between(0, last) };
        Self {
            nodes: random.between(2, 4) as usize,
            keys: random.between(1, 8) as usize,
            contents: random.between(2, 8) as usize,
            duration_ms: random.between(300_000, 1_500_000),
            request_gap_ms: random.between(2_000, 40_000),
            trouble_gap_ms: random.between(10_000, 120_000),
            troubles,
            page: random.between(1, 6) as usize,
            group: random.between(1, 8) as usize,
            grace_ms: random.between(300_000, 400_000),
            fetch_ms: [1, 1, 1_000, 40_000][random.below(4) as usize],
            delay_ms: [5, 200, 3_000][random.below(3) as usize],
            lost_per_mille: per_mille(random, 150),
            doubled_per_mille: per_mille(random, 50),
            corrupted_per_mille: per_mille(random, 50),
            deletions_per_mille: random.between(100, 500),
            large_per_mille: random.between(0, 400),
            compares,
        }
    }
}
