//! Memory over the disk: what one of them has alone.

use super::*;
use crate::cache::{self, Cache, Lead, Lookup, Rule, SLICE_BYTES, Stored};

/// Memory over what is in the folder, which has room for so many bytes. Of each answer it takes what the seed selects.
struct Both {
    disk: Arc<Disk>,
    cache: Arc<Cache>,
}

impl Both {
    async fn over(folder: &Path, disk_bytes: u64) -> Self {
        let disk = open_with(folder, disk_bytes, SLICE_BYTES).expect("a tier");
        ready(&disk).await;
        let cache = Arc::new(Cache::new(cache::Config::default(), Some(disk.clone())));
        Self { disk, cache }
    }

    /// The same, where memory has let everything go.
    fn forget(&mut self) {
        self.cache = Arc::new(Cache::new(cache::Config::default(), Some(self.disk.clone())));
    }

    fn lead(&self, name: &str) -> Lead {
        self.cache.lead(&page(name))
    }

    /// Keeps the answer for those whom the seed selects, with a body of another seed.
    async fn keep(&self, lead: Lead, seed: u64, body_seed: u64, size: u64) -> Option<Arc<Stored>> {
        let (mut fill, _) = lead.begin(head(seed, size), 1.0).expect("there is room");
        fill.push(&body(body_seed, size)).expect("fits");
        let stored = fill.finish().expect("whole");
        self.disk.settle().await;
        stored
    }

    /// The first bytes of what is given to those whom the seed selects.
    async fn given(&self, name: &str, seed: u64) -> Option<Bytes> {
        let suits = |of: &Head| seed_of(of) == seed;
        if self.cache.find(&page(name), suits).is_none() {
            self.cache.recall(&page(name)).await;
        }
        let stored = self.cache.find(&page(name), suits)?;
        Some(stored.body.in_memory().expect("it is small").slice(..8))
    }
}

fn first(seed: u64) -> Option<Bytes> {
    Some(body(seed, 8))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_that_only_the_disk_has_is_found_beside_those_in_memory() {
    let root = tempfile::tempdir().expect("a folder");
    let mut both = Both::over(root.path(), 1 << 20).await;
    for seed in [1, 2] {
        both.keep(both.lead("a"), seed, seed, 1_000).await.expect("kept");
    }
    both.forget();
    both.keep(both.lead("a"), 3, 3, 1_000).await.expect("kept");
    for seed in [3, 1, 2, 3] {
        assert_eq!(both.given("a", seed).await, first(seed), "{seed}");
    }
    assert_eq!(both.cache.all(&page("a")).len(), 3);
    assert_eq!(both.given("a", 4).await, None);
    assert_eq!(both.cache.all(&page("a")).len(), 3, "nothing came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_takes_the_place_of_what_only_the_disk_has() {
    let root = tempfile::tempdir().expect("a folder");
    let mut both = Both::over(root.path(), 64 << 10).await;
    for seed in [1, 2] {
        both.keep(both.lead("a"), seed, seed, 1_000).await.expect("kept");
    }
    both.forget();
    // It is too large for the disk, and leaves memory, too.
    both.keep(both.lead("a"), 1, 7, 100_000).await.expect("kept");
    both.forget();
    assert_eq!((both.given("a", 1).await, both.given("a", 2).await), (None, first(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_fetch_does_not_take_the_place_of_a_newer_answer_on_the_disk() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open_with(root.path(), 1 << 20, SLICE_BYTES).expect("a tier");
    ready(&disk).await;
    // Room for little, so that memory lets things go.
    let config = cache::Config { capacity_bytes: 40_000, ..cache::Config::default() };
    let both = Both { cache: Arc::new(Cache::new(config, Some(disk.clone()))), disk };
    let (slow, quick) = (both.lead("a"), both.lead("a"));
    both.keep(quick, 1, 7, 1_000).await.expect("kept");
    for number in 0..100 {
        both.keep(both.lead(&number.to_string()), 1, 1, 1_000).await;
    }
    assert!(!both.cache.has_any(&page("a")), "memory has let it go");
    assert!(both.keep(slow, 1, 6, 1_000).await.is_none());
    assert_eq!(both.given("a", 1).await, first(7));
    // What is asked for now is newer.
    both.keep(both.lead("a"), 1, 8, 1_000).await.expect("kept");
    assert_eq!(both.given("a", 1).await, first(8));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_not_waited_for() {
    let root = tempfile::tempdir().expect("a folder");
    let mut both = Both::over(root.path(), 1 << 20).await;
    both.keep(both.lead("a"), 1, 1, 1_000).await.expect("kept");
    both.forget();
    let mut turns = Vec::new();
    for _ in 0..4 {
        turns.push(both.disk.tier.readers.turn().await.expect("a turn"));
    }
    let long = tokio::time::timeout(Duration::from_secs(3600), both.given("a", 1)).await;
    assert_eq!(long.expect("it is a miss"), None);
    drop(turns);
    assert_eq!(both.given("a", 1).await, first(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_purges_that_nobody_tells_any_more_is_doubtful() {
    let root = tempfile::tempdir().expect("a folder");
    let mut both = Both::over(root.path(), 1 << 20).await;
    // As the seeds say when they came, in milliseconds.
    for seed in [1_000, 2_000, 9_000] {
        both.keep(both.lead("a"), seed, seed, 1_000).await.expect("kept");
    }
    both.forget();
    let is_fresh = async |both: &Both, seed| {
        both.given("a", seed).await.expect("kept");
        let stored = both.cache.find(&page("a"), |of| seed_of(of) == seed).expect("kept");
        let Terms::Answer { freshness, .. } = &stored.head().terms else { unreachable!("it is an answer") };
        freshness.is_fresh(moment(9_500))
    };
    assert!(is_fresh(&both, 1_000).await);
    both.cache.doubt(moment(2_000), moment(8_000));
    let fresh =
        async |both: &Both| (is_fresh(both, 1_000).await, is_fresh(both, 2_000).await, is_fresh(both, 9_000).await);
    assert_eq!(fresh(&both).await, (false, true, false), "what comes from a later time came by another clock");
    // A purge of it is no shorter for that.
    both.cache.purge(&Rule::Exact("shop.example/a".into()), None);
    assert_eq!(both.given("a", 2_000).await, None);
    let Lookup::Lead(_) = both.cache.join(&page("a"), |_| true) else { panic!("nothing is there") };
}

fn moment(seed: u64) -> std::time::SystemTime {
    std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + seed)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_origin_said_before_a_purge_or_a_later_word_does_not_count() {
    let root = tempfile::tempdir().expect("a folder");
    let both = Both::over(root.path(), 1 << 20).await;
    let (key, now) = (page("a"), moment(10_000));
    let stored = both.keep(both.lead("a"), 1, 1, 1_000).await.expect("kept");
    let fresh = |of: &Head| matches!(&of.terms, Terms::Answer { freshness, .. } if freshness.is_fresh(now));
    let (settled, asked) = (stored.settled(), both.cache.next_number());
    both.cache.purge(&Rule::Exact("shop.example/a".into()), Some(moment(5_000)));
    both.cache.renew(&key, &stored, head(9_000, 1_000), settled, asked);
    let stored = both.cache.find(&key, |_| true).expect("kept");
    assert!(seed_of(&stored.head()) == 9_000 && !fresh(&stored.head()), "it is known, and doubtful");
    let (settled, early, late) = (stored.settled(), both.cache.next_number(), both.cache.next_number());
    both.cache.renew(&key, &stored, head(9_200, 1_000), settled, late);
    both.cache.renew(&key, &stored, head(9_100, 1_000), settled, early);
    let stored = both.cache.find(&key, |_| true).expect("kept");
    assert!(seed_of(&stored.head()) == 9_200 && fresh(&stored.head()));
    // What was asked for before that is older, too.
    let slow = both.lead("a");
    both.cache.renew(&key, &stored, head(9_300, 1_000), settled, both.cache.next_number());
    let (mut fill, _) = slow.begin(Head { ..(*stored.head()).clone() }, 1.0).expect("there is room");
    fill.push(&body(7, 1_000)).expect("fits");
    assert!(stored.head().is_replaced_by(&stored.head()) && fill.finish().expect("whole").is_none());
}

/// The head of a body of unknown size, of which parts can be asked for.
fn unsized_head() -> Head {
    let mut head = Head { size: None, ..head(1, 1) };
    head.headers.append("etag", HeaderValue::from_static("\"1\""));
    head.headers.append("accept-ranges", HeaderValue::from_static("bytes"));
    head
}

/// Brings a body of unknown size, in pieces.
fn bring(both: &Both, lead: Lead, bytes: &Bytes, all: bool) {
    let (mut fill, mut reader) = lead.begin(unsized_head(), 1.0).expect("there is room");
    let mut read = Vec::new();
    for piece in bytes.chunks(100_000) {
        fill.push(piece).expect("somebody reads");
        let cx = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Some(next)) = reader.poll_bytes(&cx) {
            read.extend_from_slice(&next.expect("it comes"));
        }
    }
    assert!(read == bytes[..] && both.cache.find(&page("a"), |_| true).is_none());
    if all {
        assert!(fill.finish().expect("it has ended").is_none(), "memory has nothing of it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_of_unknown_size_is_kept_on_the_disk_if_all_of_it_comes() {
    let root = tempfile::tempdir().expect("a folder");
    let mut both = Both::over(root.path(), 1 << 30).await;
    // The last slice may be a whole one.
    for size in [(20 << 20) + 7, 20 << 20] {
        let bytes = body(1, size);
        bring(&both, both.lead("a"), &bytes, false);
        both.disk.settle().await;
        both.disk.settle().await;
        assert_eq!((both.disk.used_bytes(), both.cache.used_bytes()), (0, 0), "it broke off");
        let lead = both.lead("a");
        bring(&both, lead, &bytes, true);
        both.disk.settle().await;
        for _ in 0..2 {
            both.cache.recall(&page("a")).await;
            let stored = both.cache.find(&page("a"), |_| true).expect("kept");
            let cache::Body::Sliced(sliced) = &stored.body else { panic!("it is on the disk") };
            assert_eq!((stored.head().size, sliced.size()), (Some(size), size));
            let kept = sliced.on_disk().expect("it is on the disk");
            let mut read = Vec::new();
            for slice in 0..sliced.slices() {
                read.extend(read_file(&kept.open(slice).await.expect("it is there"), SLICE_BYTES));
            }
            assert!(read == bytes);
            both.forget();
        }
        both.cache.remove(&page("a"));
        both.disk.settle().await;
    }
    // What could not be asked for in parts is not kept.
    let (mut fill, _reader) = both.lead("a").begin(Head { size: None, ..head(1, 1) }, 1.0).expect("there is room");
    for piece in body(1, 20 << 20).chunks(100_000) {
        fill.push(piece).expect("somebody reads");
    }
    both.disk.settle().await;
    assert_eq!(both.disk.used_bytes(), 0);
    drop(fill);
    // What is purged while it comes is not kept.
    let lead = both.lead("a");
    both.cache.purge(&Rule::Exact("shop.example/a".into()), None);
    bring(&both, lead, &body(1, 20 << 20), true);
    both.disk.settle().await;
    both.disk.settle().await;
    assert!(both.cache.find(&page("a"), |_| true).is_none() && both.disk.used_bytes() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_bodies_of_unknown_size_share_the_memory_on_their_way_to_the_disk() {
    const BODIES: usize = 12;
    let root = tempfile::tempdir().expect("a folder");
    let mut both = Both::over(root.path(), 1 << 30).await;
    let config = cache::Config { capacity_bytes: 16 << 20, object_bytes_max: SLICE_BYTES, ..cache::Config::default() };
    both.cache = Arc::new(Cache::new(config, Some(both.disk.clone())));
    let bytes = body(1, 3 << 20);
    let names: Vec<_> = (0..BODIES).map(|number| format!("page {number}")).collect();
    let mut coming = Vec::new();
    for name in &names {
        let (mut fill, mut reader) = both.lead(name).begin(unsized_head(), 1.0).expect("there is room");
        let mut read = Vec::new();
        for piece in bytes.chunks(100_000) {
            fill.push(piece).expect("somebody reads");
            let cx = std::task::Context::from_waker(std::task::Waker::noop());
            while let std::task::Poll::Ready(Some(next)) = reader.poll_bytes(&cx) {
                read.extend_from_slice(&next.expect("it comes"));
            }
        }
        assert!(read == bytes, "whether or not it is kept");
        both.disk.settle().await;
        coming.push((fill, reader));
    }
    // Each that goes on holds a slice that is not full.
    let used_bytes = both.cache.used_bytes();
    assert!((SLICE_BYTES..=8 << 20).contains(&used_bytes), "{used_bytes}");
    for (fill, _reader) in coming {
        fill.finish().expect("it has ended");
    }
    both.disk.settle().await;
    both.disk.settle().await;
    let mut kept = 0;
    for name in &names {
        both.cache.recall(&page(name)).await;
        kept += usize::from(both.cache.find(&page(name), |_| true).is_some());
    }
    assert!((1..=4).contains(&kept), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_long_bodies_of_unknown_size_leave_memory_to_others() {
    let root = tempfile::tempdir().expect("a folder");
    let both = Both::over(root.path(), 1 << 30).await;
    let names: Vec<_> = (0..100).map(|number| format!("page {number}")).collect();
    for name in &names {
        both.keep(both.lead(name), 1, 1, 10_000).await.expect("kept");
    }
    let cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut coming = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let (mut fill, reader) = both.lead(name).begin(unsized_head(), 1.0).expect("there is room");
        for piece in body(1, 20 << 20).chunks(100_000) {
            if fill.poll_ready(&cx).is_ready() {
                fill.push(piece).expect("somebody reads");
            }
        }
        both.disk.settle().await;
        coming.push((fill, reader));
    }
    let used_bytes = both.cache.used_bytes();
    assert!(used_bytes < 48 << 20, "{used_bytes} bytes of 64 MiB");
    assert!(names.iter().all(|name| both.cache.find(&page(name), |_| true).is_some()));
    drop(coming);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_of_unknown_size_has_its_memory_while_it_passes() {
    let root = tempfile::tempdir().expect("a folder");
    let both = Both::over(root.path(), 1 << 30).await;
    let cx = std::task::Context::from_waker(std::task::Waker::noop());
    // Its reader is quick, or slow until it passes.
    for behind in [0, 5 << 20] {
        let (mut fill, mut reader) = both.lead("a").begin(unsized_head(), 1.0).expect("there is room");
        let (mut pushed, mut read) = (0, 0);
        for piece in body(1, 20 << 20).chunks(100_000) {
            fill.push(piece).expect("somebody reads");
            pushed += piece.len();
            while read + behind < pushed
                && let std::task::Poll::Ready(Some(next)) = reader.poll_bytes(&cx)
            {
                read += next.expect("it comes").len();
            }
        }
        assert!(both.cache.used_bytes() < 32 << 20, "what it lacks is on its way to the disk, and counts once");
        while reader.poll_bytes(&cx).is_ready() {}
        fill.push(b"x").expect("somebody reads");
        both.disk.settle().await;
        // With the slice that is not full yet.
        let passing_bytes = both.cache.used_bytes() - SLICE_BYTES;
        assert!((256 << 10..260 << 10).contains(&passing_bytes), "{passing_bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_behind_when_a_body_begins_to_pass_gets_all_of_it() {
    let root = tempfile::tempdir().expect("a folder");
    let both = Both::over(root.path(), 1 << 30).await;
    let cx = std::task::Context::from_waker(std::task::Waker::noop());
    for read_first in [0, 7_000_000] {
        let bytes = body(1, 20 << 20);
        let (mut fill, mut reader) = both.lead("a").begin(unsized_head(), 1.0).expect("there is room");
        let mut read = Vec::new();
        for piece in bytes.chunks(1 << 20) {
            fill.push(piece).expect("somebody reads");
            while read.len() < read_first
                && let std::task::Poll::Ready(Some(next)) = reader.poll_bytes(&cx)
            {
                read.extend_from_slice(&next.expect("it comes"));
            }
        }
        fill.finish().expect("it has ended");
        while let std::task::Poll::Ready(Some(next)) = reader.poll_bytes(&cx) {
            read.extend_from_slice(&next.expect("it comes"));
        }
        assert!(read == bytes[..], "{} of {} bytes", read.len(), bytes.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_an_answer_on_its_way_to_the_disk_holds_there() {
    let root = tempfile::tempdir().expect("a folder");
    let mut both = Both::over(root.path(), 1 << 20).await;
    let (key, lead) = (page("a"), both.lead("a"));
    let flight = lead.flight.clone().expect("it was just begun");
    let bytes = body(1, 1_000);
    let in_memory = cache::Body::Memory(bytes.clone());
    let stored = both.cache.keep(&key, &flight, Arc::new(head(1, 1_000)), in_memory, 1.0).expect("kept");
    let began = stored.head();
    let kept = both.cache.begin_on_disk(&key, &began, 1.0, stored.settled(), stored.asked()).expect("there is room");
    both.cache.expire(&key, &stored, moment(1), both.cache.next_number());
    assert!(stored.head() != began, "it is stale now");
    assert!(both.cache.is_on_disk_as(&key, &stored, &began, &kept));
    kept.put(0, bytes, |_| {});
    both.disk.settle().await;
    both.forget();
    both.cache.recall(&key).await;
    let recalled = both.cache.find(&key, |_| true).expect("it is on the disk");
    assert_eq!((recalled.head(), recalled.asked()), (stored.head(), stored.asked()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_cut_off_by_a_kill_leaves_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    {
        let both = Both::over(root.path(), 1 << 30).await;
        let (mut fill, _reader) = both.lead("a").begin(unsized_head(), 1.0).expect("there is room");
        for _ in 0..30 {
            fill.push(&vec![7; 1 << 20]).expect("somebody reads");
        }
        both.disk.settle().await;
        let used_bytes = both.disk.used_bytes();
        assert!(used_bytes > 10 << 20, "{used_bytes} bytes are there");
        assert!(both.disk.load(&page("a"), &[]).await.is_empty(), "it comes still");
        // As a process that is killed: what it had to remove stays.
        both.disk.close().await;
    }
    let both = Both::over(root.path(), 1 << 30).await;
    both.disk.settle().await;
    assert_eq!(both.disk.used_bytes(), 0);
    audit(root.path(), &both.disk).await;
}
