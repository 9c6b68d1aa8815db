//! What the cache's queues decide on a list of requests, and what that takes.
//!
//!     cargo bench --bench eviction                        time and memory of one million entries
//!     cargo bench --bench eviction -- LIST CAPACITY...    which requests of a list are hits; `eviction.py` asks for it
//!
//! A list is a file of 16 bytes a request, little-endian: the object's number (u64), its bytes (u32), what a miss costs (f32).
//! For each capacity, in bytes, `LIST.CAPACITY.hits` gets a byte a request, 1 for a hit.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use metacdn::cache::queues::{Departed, Fate, Queues, USES_MAX};

/// What the cache will have as a key: 64 bits of a fingerprint, and the number of a slice.
type Key = (u64, u32);

struct Request {
    object: u64,
    bytes: u32,
    cost: f32,
}

struct Entry {
    number: u32,
    uses: u8,
}

struct Cache {
    capacity_bytes: u64,
    entries: HashMap<Key, Entry>,
    queues: Queues<Key>,
    numbers: u32,
}

impl Cache {
    fn new(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, entries: HashMap::new(), queues: Queues::new(capacity_bytes), numbers: 0 }
    }

    /// Whether it is a hit; if it is not, keeps what was fetched.
    fn ask(&mut self, request: &Request) -> bool {
        let key = (request.object, 0);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.uses = (entry.uses + 1).min(USES_MAX);
            return true;
        }
        if !self.queues.admits(&key, u64::from(request.bytes), request.cost) {
            return false;
        }
        while self.queues.kept_bytes() + u64::from(request.bytes) > self.capacity_bytes {
            self.evict();
        }
        self.numbers += 1;
        self.entries.insert(key, Entry { number: self.numbers, uses: 0 });
        self.queues.insert(key, self.numbers, request.bytes, request.cost);
        let entries = &self.entries;
        self.queues.compact(|key, number| entries.get(key).is_some_and(|entry| entry.number == number));
        false
    }

    fn evict(&mut self) {
        let fate = |key: &Key, number| match self.entries.get_mut(key) {
            Some(entry) if entry.number == number => Fate::Used(std::mem::take(&mut entry.uses)),
            _ => Fate::Gone,
        };
        let Departed { key, .. } = self.queues.evict(fate).expect("what does not fit pushes something out");
        self.entries.remove(&key);
    }
}

fn main() {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some((list, capacities)) = arguments.split_first() else { return measure() };
    let requests = read(list);
    for capacity in capacities {
        let mut cache = Cache::new(capacity.parse().expect("a capacity in bytes"));
        let hits: Vec<u8> = requests.iter().map(|request| u8::from(cache.ask(request))).collect();
        std::fs::write(format!("{list}.{capacity}.hits"), hits).expect("the folder of the list takes the result");
    }
}

fn read(list: &str) -> Vec<Request> {
    let bytes = std::fs::read(list).expect("a list of requests");
    let of = |record: &[u8]| Request {
        object: u64::from_le_bytes(record[..8].try_into().expect("8 bytes")),
        bytes: u32::from_le_bytes(record[8..12].try_into().expect("4 bytes")),
        cost: f32::from_le_bytes(record[12..].try_into().expect("4 bytes")),
    };
    bytes.chunks_exact(16).map(of).collect()
}

/// Memory at one million entries, and the time of an insertion with what it pushes out, of many sizes and costs.
fn measure() {
    const ENTRIES: u64 = 1_000_000;
    let mut queues = Queues::new(u64::MAX);
    let insert = |queues: &mut Queues<Key>, number: u64| {
        let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let bytes = 1 << (9 + mixed % 12);
        queues.insert((number, 0), number as u32, bytes, (1 << (mixed % 7)) as f32);
    };
    let start = Instant::now();
    for number in 0..ENTRIES {
        insert(&mut queues, number);
    }
    let insertion = start.elapsed();
    println!("places of {ENTRIES} entries: {:.1} bytes an entry", queues.memory_bytes() as f64 / ENTRIES as f64);
    queues.resize(queues.kept_bytes());
    let mut looks = 0_u64;
    let start = Instant::now();
    for number in ENTRIES..3 * ENTRIES {
        // Every third is used once, as if by chance.
        let departed = queues.evict(|key, _| {
            looks += 1;
            Fate::Used(u8::from(key.0.wrapping_add(looks) % 3 == 0))
        });
        black_box(departed);
        insert(&mut queues, number);
    }
    let turn = start.elapsed();
    println!("with ghosts: {:.1} bytes an entry", queues.memory_bytes() as f64 / queues.kept() as f64);
    println!("insertion while there is room: {} ns", insertion.as_nanos() / u128::from(ENTRIES));
    let turns = 2 * ENTRIES;
    println!(
        "eviction and insertion: {} ns, {:.2} looks",
        turn.as_nanos() / u128::from(turns),
        looks as f64 / turns as f64
    );
}
