//! What the queues promise: a bound for all, a place for each, and room for what is worth most.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// A cache as its callers write one.
struct Cache {
    capacity_bytes: u64,
    entries: BTreeMap<u32, (u32, u32, u8)>,
    queues: Queues<u32>,
    numbers: u32,
    /// Keys in the order in which they went.
    departed: Vec<u32>,
}

impl Cache {
    fn new(capacity_bytes: u64) -> Self {
        let queues = Queues::new(capacity_bytes);
        Self { capacity_bytes, entries: BTreeMap::new(), queues, numbers: 0, departed: Vec::new() }
    }

    fn ask(&mut self, key: u32, bytes: u32, cost: f32) -> bool {
        if let Some((_, _, uses)) = self.entries.get_mut(&key) {
            *uses = (*uses + 1).min(USES_MAX);
            return true;
        }
        if self.queues.admits(&key, u64::from(bytes), cost) {
            while self.queues.kept_bytes() + u64::from(bytes) > self.capacity_bytes {
                assert!(self.evict(), "what is kept can go");
            }
            self.numbers += 1;
            self.entries.insert(key, (self.numbers, bytes, 0));
            self.queues.insert(key, self.numbers, bytes, cost);
            self.compact();
        }
        false
    }

    fn evict(&mut self) -> bool {
        let departed = self.queues.evict(|key, number| match self.entries.get_mut(key) {
            Some((kept, _, uses)) if *kept == number => Fate::Used(std::mem::take(uses)),
            _ => Fate::Gone,
        });
        let Some(Departed { key, number, bytes }) = departed else { return false };
        let (kept, kept_bytes, _) = self.entries.remove(&key).expect("what goes was kept");
        assert_eq!((kept, kept_bytes), (number, bytes));
        self.departed.push(key);
        true
    }

    fn remove(&mut self, key: u32) {
        if let Some((_, bytes, _)) = self.entries.remove(&key) {
            self.queues.removed(bytes);
            self.compact();
        }
    }

    fn compact(&mut self) {
        let entries = &self.entries;
        self.queues.compact(|key, number| entries.get(key).is_some_and(|entry| entry.0 == number));
    }
}

/// A number that looks like chance and is the same each time.
fn chance(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 11
}

/// An object of about a Zipf popularity of exponent 1.
fn popular(number: u64, objects: u32) -> u32 {
    let share = chance(number) as f64 / (1_u64 << 53) as f64;
    (f64::from(objects).powf(share) as u32).min(objects)
}

/// The hits of S3-FIFO over objects of one size, as its paper says: ten per cent, two uses to move, ghosts as many as the rest.
fn hits_of_s3_fifo(capacity: usize, requests: impl Iterator<Item = u32>) -> u32 {
    let (mut small, mut main, mut ghosts) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
    let mut uses: BTreeMap<u32, u8> = BTreeMap::new();
    let mut hits = 0;
    for key in requests {
        if let Some(count) = uses.get_mut(&key) {
            *count = (*count + 1).min(3);
            hits += 1;
            continue;
        }
        while uses.len() >= capacity {
            if small.len() * 10 >= capacity {
                let oldest = small.pop_front().expect("a tenth is there");
                if uses[&oldest] >= 2 {
                    uses.insert(oldest, 0);
                    main.push_back(oldest);
                } else {
                    uses.remove(&oldest);
                    ghosts.push_back(oldest);
                    ghosts.drain(..ghosts.len().saturating_sub(capacity * 9 / 10));
                }
            } else {
                let oldest = main.pop_front().expect("the rest is there");
                match uses[&oldest] {
                    0 => {
                        uses.remove(&oldest);
                    }
                    count => {
                        uses.insert(oldest, count - 1);
                        main.push_back(oldest);
                    }
                }
            }
        }
        uses.insert(key, 0);
        let queue = if ghosts.contains(&key) { &mut main } else { &mut small };
        queue.push_back(key);
    }
    hits
}

#[test]
fn equal_sizes_and_costs_hit_as_often_as_s3_fifo() {
    let requests = || (0..60_000).map(|number| popular(number, 5_000));
    for capacity in [50, 250, 1_000] {
        let theirs = hits_of_s3_fifo(capacity, requests());
        let mut cache = Cache::new(capacity as u64 * 100);
        let ours = requests().filter(|&key| cache.ask(key, 100, 1.0)).count() as u32;
        assert!(ours + 300 >= theirs, "{ours} beside {theirs} hits of 60,000, with room for {capacity}");
        assert!(theirs > 10_000, "the list has something to hit");
    }
}

#[test]
fn what_costs_a_hundred_times_as_much_is_missed_less() {
    let lost = |told: fn(f32) -> f32| {
        let mut cache = Cache::new(50_000);
        let cost = |key: u32| if chance(u64::from(key)).is_multiple_of(2) { 1.0 } else { 100.0 };
        let keys = (0..60_000).map(|number| popular(number, 5_000));
        keys.filter(|&key| !cache.ask(key, 100, told(cost(key)))).map(|key| f64::from(cost(key))).sum::<f64>()
    };
    let (weighed, alike) = (lost(|cost| cost), lost(|_| 1.0));
    assert!(weighed < 0.85 * alike, "{weighed} beside {alike}");
}

#[test]
fn only_the_ratio_of_costs_counts() {
    let departed = |unit: f32| {
        let mut cache = Cache::new(20_000);
        (0..20_000).for_each(|number| {
            let key = popular(number, 3_000);
            cache.ask(key, 50 + key % 100, unit * (1 + key % 7) as f32);
        });
        cache.departed
    };
    let dollars = departed(1.0);
    assert!(dollars.len() > 1_000);
    assert!(dollars == departed(1.0 / 65_536.0) && dollars == departed(65_536.0));
}

#[test]
fn dear_one_hit_wonders_push_out_only_newcomers() {
    let mut cache = Cache::new(100_000);
    for _ in 0..3 {
        for key in 0..900 {
            cache.ask(key, 100, 1.0);
        }
    }
    // Room is made once, so that what was used moves on.
    for key in 10_000..10_200 {
        cache.ask(key, 100, 1.0);
    }
    let kept = |cache: &Cache| (0..900).filter(|key| cache.entries.contains_key(key)).count();
    let before = kept(&cache);
    for key in 20_000..60_000 {
        cache.ask(key, 100, 1000.0);
    }
    assert!(before > 880 && kept(&cache) >= before - 10, "{} of {before}", kept(&cache));
}

#[test]
fn a_scan_leaves_what_is_asked_for() {
    let mut cache = Cache::new(100_000);
    for number in 0..40_000 {
        cache.ask(popular(number, 5_000), 100, 1.0);
    }
    let favourites = |cache: &Cache| (1..200).filter(|key| cache.entries.contains_key(key)).count();
    let before = favourites(&cache);
    for key in 10_000..20_000 {
        cache.ask(key, 100, 1.0);
    }
    assert!(before > 180 && favourites(&cache) >= before - 5, "{} of {before}", favourites(&cache));
}

#[test]
fn what_was_popular_once_goes() {
    let mut cache = Cache::new(10_000);
    for _ in 0..1_000 {
        for key in 0..50 {
            cache.ask(key, 100, 1.0);
        }
    }
    for number in 0..20_000 {
        cache.ask(1_000 + popular(number, 1_000), 100, 1.0);
    }
    assert_eq!((0..50).filter(|key| cache.entries.contains_key(key)).count(), 0);
}

#[test]
fn what_is_dear_and_not_asked_for_any_more_goes_in_time() {
    let mut cache = Cache::new(10_000);
    for _ in 0..5 {
        for key in 0..20 {
            cache.ask(key, 100, 10.0);
        }
    }
    for number in 0..200_000 {
        cache.ask(1_000 + popular(number, 1_000), 100, 1.0);
    }
    assert_eq!((0..20).filter(|key| cache.entries.contains_key(key)).count(), 0);
}

#[test]
fn what_is_large_has_to_be_asked_for_twice_and_be_worth_what_it_pushes_out() {
    let mut cache = Cache::new(10_000);
    assert!(!cache.ask(1, 600, 1.0) && !cache.entries.contains_key(&1), "nothing is known of it");
    assert!(!cache.ask(1, 600, 1.0) && cache.entries.contains_key(&1), "it was wanted before, and there is room");
    for _ in 0..3 {
        for key in 100..300 {
            cache.ask(key, 100, 1.0);
        }
    }
    let small = |cache: &Cache| cache.entries.keys().filter(|&&key| key >= 100).count();
    let before = small(&cache);
    for _ in 0..10 {
        cache.ask(2, 5_000, 1.0);
    }
    assert!(!cache.entries.contains_key(&2) && small(&cache) == before, "fifty pages are worth more");
    for _ in 0..2 {
        cache.ask(3, 5_000, 1_000.0);
    }
    assert!(cache.entries.contains_key(&3), "it is worth more than fifty pages");
    assert!(!cache.queues.admits(&4, 10_001, f32::MAX) && !cache.queues.admits(&4, 10_001, f32::MAX));
    assert!(!Queues::new(u64::MAX).admits(&4, 1 << 32, 1.0), "no entry has 4 GiB");
}

#[test]
fn what_came_back_goes_to_the_main_part() {
    let mut queues = Queues::new(1_000);
    (0..10).for_each(|key| queues.insert(key, key, 100, 1.0));
    let first = queues.evict(|_, _| Fate::Used(0)).expect("ten are kept");
    assert_eq!(first, Departed { key: 0, number: 0, bytes: 100 });
    queues.insert(0, 10, 100, 1.0);
    assert_eq!((queues.main.len(), queues.probation.len()), (1, 9));
    let useless = queues.evict(|_, _| Fate::Useless).expect("ten are kept");
    queues.insert(useless.key, 11, 100, 1.0);
    assert_eq!((queues.main.len(), queues.probation.len()), (1, 9), "what was useless is not remembered");
    queues.insert_used(20, 12, 100, 1.0);
    assert_eq!(queues.main.len(), 2);
}

#[test]
fn places_of_removed_entries_are_compacted() {
    let mut cache = Cache::new(1 << 30);
    for key in 0..10_000 {
        cache.ask(key, 100 + key % 1_000, 1.0);
    }
    (0..9_990).for_each(|key| cache.remove(key));
    assert!(cache.queues.places() <= 2 * 10 + 64, "{} places", cache.queues.places());
    assert_eq!(cache.queues.kept(), 10);
    assert!(cache.queues.memory_bytes() < 200 << 10, "{} bytes", cache.queues.memory_bytes());
}

#[test]
fn ghosts_are_bounded() {
    let mut cache = Cache::new(100_000);
    for key in 0..200_000 {
        cache.ask(key, 100, 1.0);
    }
    let ghosts = cache.queues.ghosts.memory_bytes();
    assert!(ghosts <= 1_000 * 8 * 8 / 3, "{ghosts} bytes of ghosts beside 1,000 entries");
    let known = (0..200_000).filter(|key| cache.queues.ghosts.knows(key, cache.queues.kept())).count();
    assert!((900..=1_010).contains(&known), "{known} are remembered");
    let recent = (198_100..199_000).filter(|key| cache.queues.ghosts.knows(key, cache.queues.kept())).count();
    assert!(recent > 850, "{recent} of the last 900 that went");
}

#[test]
fn costs_that_are_no_costs_do_no_harm() {
    let mut cache = Cache::new(1_000);
    let costs = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, 0.0, f32::MAX, f32::MIN_POSITIVE];
    for (key, cost) in (0..1_000).zip(costs.into_iter().cycle()) {
        cache.ask(key, key % 3 * 20, cost);
        cache.ask(key / 2, key / 2 % 3 * 20, cost);
    }
    assert!(cache.departed.len() > 100);
    while cache.evict() {}
    assert_eq!((cache.queues.kept(), cache.queues.kept_bytes(), cache.queues.places()), (0, 0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u32, u32, u8),
    Remove(u32),
    Evict,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..60_u32, 1..400_u32, 0..12_u8).prop_map(|(key, bytes, cost)| Step::Ask(key, bytes, cost)),
        2 => (0..60_u32).prop_map(Step::Remove),
        1 => Just(Step::Evict),
    ];
    proptest::collection::vec(step, 0..400)
}

fn run(steps: &[Step], mut after_each: impl FnMut(&Cache)) -> Cache {
    let mut cache = Cache::new(2_000);
    for step in steps {
        match *step {
            Step::Ask(key, bytes, cost) => {
                cache.ask(key, bytes, 2_f32.powi(i32::from(cost)));
            }
            Step::Remove(key) => cache.remove(key),
            Step::Evict => {
                cache.evict();
            }
        }
        after_each(&cache);
    }
    cache
}

proptest! {
    #[test]
    fn what_is_kept_is_counted_and_fits_and_leaves_once(steps in steps()) {
        let mut cache = run(&steps, |cache| {
            let bytes: u64 = cache.entries.values().map(|entry| u64::from(entry.1)).sum();
            assert_eq!((cache.queues.kept_bytes(), cache.queues.kept()), (bytes, cache.entries.len()));
            assert!(bytes <= 2_000, "{bytes} bytes");
            assert!(cache.queues.places() <= 2 * cache.entries.len() + 64);
        });
        // Each one that goes was kept at that moment: `Cache::evict` sees to it.
        while cache.evict() {}
        assert!(cache.entries.is_empty());
        assert_eq!((cache.queues.kept(), cache.queues.kept_bytes(), cache.queues.places()), (0, 0, 0));
    }

    #[test]
    fn the_same_calls_have_the_same_results(steps in steps()) {
        prop_assert_eq!(run(&steps, |_| ()).departed, run(&steps, |_| ()).departed);
    }
}
