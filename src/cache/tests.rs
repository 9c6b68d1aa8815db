//! What the cache promises: bounded memory, one fetch for all, nothing older than what was heard of.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use proptest::prelude::*;

use super::*;
use crate::model::{Epoch, HybridTime, Origin, Version};

mod races;

fn key(name: &str) -> CacheKey {
    CacheKey::Object { key: object(name), variant: Variant::Original }
}

fn object(name: &str) -> ObjectKey {
    name.parse().expect("a key")
}

fn version(at_ms: u64) -> Version {
    let origin = Origin { node: "A".parse().expect("a name"), epoch: Epoch::from_bits(1) };
    Version { time: HybridTime::from_unix_ms(at_ms), origin, sequence: at_ms }
}

fn head(size: u64) -> Head {
    of_version(1, size)
}

fn of_version(at_ms: u64, size: u64) -> Head {
    let terms = Terms::Object { version: version(at_ms), validated: Duration::ZERO };
    Head { status: StatusCode::OK, headers: HeaderMap::new(), size: Some(size), terms }
}

fn find(cache: &Cache, name: &str) -> Option<Arc<Stored>> {
    cache.find(&key(name), |_| true)
}

fn in_memory(stored: &Stored) -> Bytes {
    stored.body.in_memory().expect("it is small").clone()
}

fn cache(capacity_bytes: u64) -> Arc<Cache> {
    Arc::new(Cache::new(Config { capacity_bytes, ..Config::default() }, None))
}

fn lead(cache: &Arc<Cache>, name: &str) -> Lead {
    match cache.join(&key(name), |_| true) {
        Lookup::Lead(lead) => lead,
        other => panic!("{name}: {other:?}"),
    }
}

fn join(cache: &Arc<Cache>, name: &str) -> Reader {
    match cache.join(&key(name), |_| true) {
        Lookup::Flying(reader) => reader,
        other => panic!("{name}: {other:?}"),
    }
}

/// Puts an object there, if there is room for it.
fn put(cache: &Arc<Cache>, name: &str, bytes: &[u8]) -> bool {
    let Some((mut fill, _)) = lead(cache, name).begin(head(bytes.len() as u64), 1.0) else { return false };
    fill.push(bytes).expect("as many as said");
    fill.finish().expect("all of them");
    true
}

fn read(reader: &mut Reader) -> Poll<Option<Result<Bytes, Broken>>> {
    reader.poll_bytes(&Context::from_waker(Waker::noop()))
}

fn head_of(reader: &mut Reader) -> Poll<Told> {
    pin!(reader.head()).poll(&mut Context::from_waker(Waker::noop()))
}

fn bytes(text: &'static str) -> Poll<Option<Result<Bytes, Broken>>> {
    Poll::Ready(Some(Ok(Bytes::from_static(text.as_bytes()))))
}

#[test]
fn one_fetches_and_all_read_along_at_their_own_pace() {
    let cache = cache(1 << 20);
    let lead = lead(&cache, "a");
    let mut early = join(&cache, "a");
    assert!(head_of(&mut early).is_pending());
    let (mut fill, mut own) = lead.begin(head(6), 1.0).expect("there is room");
    assert_eq!(head_of(&mut early), Poll::Ready(Told::Comes(Arc::new(head(6)))));
    fill.push(b"abc").expect("fits");
    let mut late = join(&cache, "a");
    assert_eq!((read(&mut own), read(&mut own)), (bytes("abc"), Poll::Pending));
    assert_eq!((read(&mut late), late.left()), (bytes("abc"), Some(3)));
    fill.push(b"def").expect("fits");
    assert!(find(&cache, "a").is_none(), "it is not whole yet");
    fill.finish().expect("whole");
    assert_eq!((read(&mut own), read(&mut own)), (bytes("def"), Poll::Ready(None)));
    assert_eq!((read(&mut early), read(&mut early)), (bytes("abcdef"), Poll::Ready(None)));
    assert_eq!(in_memory(&find(&cache, "a").expect("kept")), "abcdef");
}

#[tokio::test]
async fn those_who_wait_are_woken() {
    let cache = cache(1 << 20);
    let lead = lead(&cache, "a");
    let mut waiting = join(&cache, "a");
    let reader = tokio::spawn(async move {
        let Told::Comes(head) = waiting.head().await else { panic!("it comes") };
        let mut body = Vec::new();
        while let Some(bytes) = std::future::poll_fn(|cx| waiting.poll_bytes(cx)).await {
            body.extend_from_slice(&bytes.expect("it is whole"));
        }
        (head.size, body)
    });
    tokio::task::yield_now().await;
    let (mut fill, _) = lead.begin(head(2), 1.0).expect("there is room");
    for byte in [b"x", b"y"] {
        tokio::task::yield_now().await;
        fill.push(byte).expect("fits");
    }
    tokio::task::yield_now().await;
    fill.finish().expect("whole");
    assert_eq!(reader.await.expect("it ends"), (Some(2), b"xy".to_vec()));
}

#[test]
fn a_leader_that_cannot_share_releases_the_others() {
    let cache = cache(1 << 20);
    let leader = lead(&cache, "a");
    let mut waiting = join(&cache, "a");
    leader.refuse();
    assert_eq!(head_of(&mut waiting), Poll::Ready(Told::Alone));
    let too_large = lead(&cache, "a");
    let mut waiting = join(&cache, "a");
    assert!(too_large.begin(head(17 << 20), 1.0).is_none());
    assert_eq!(head_of(&mut waiting), Poll::Ready(Told::Alone));
    let gone = lead(&cache, "a");
    let mut waiting = join(&cache, "a");
    drop(gone);
    assert_eq!(head_of(&mut waiting), Poll::Ready(Told::Again));
    drop(lead(&cache, "a"));
}

#[test]
fn a_fetch_that_fails_fails_its_readers_and_keeps_nothing() {
    let cache = cache(1 << 20);
    let (mut fill, mut reader) = lead(&cache, "a").begin(head(6), 1.0).expect("there is room");
    fill.push(b"abc").expect("fits");
    drop(fill);
    assert_eq!(read(&mut reader), Poll::Ready(Some(Err(Broken))));
    for wrong in [&b"ab"[..], b"abcd"] {
        let (mut fill, mut reader) = lead(&cache, "a").begin(head(3), 1.0).expect("there is room");
        let pushed = fill.push(wrong);
        assert!(pushed.and_then(|()| fill.finish()).is_err());
        assert_eq!(read(&mut reader), Poll::Ready(Some(Err(Broken))));
    }
    assert!(find(&cache, "a").is_none());
    drop(reader);
    assert_eq!(cache.used_bytes(), 0);
}

#[test]
fn what_has_changed_is_gone_and_what_is_as_new_stays() {
    let cache = cache(1 << 20);
    assert!(put(&cache, "a", b"old"));
    let a = object("a");
    cache.invalidate(&a, &version(1));
    assert!(find(&cache, "a").is_some(), "the version that is kept is heard of again from every node");
    cache.invalidate(&a, &version(2));
    assert!(find(&cache, "a").is_none());
    let variant = CacheKey::Object { key: a.clone(), variant: Variant::Low };
    let Lookup::Lead(leader) = cache.join(&variant, |_| true) else { panic!("nothing is kept") };
    leader.begin(of_version(2, 0), 1.0).expect("there is room").0.finish().expect("whole");
    assert!(cache.find(&variant, |_| true).is_some());
    cache.invalidate(&a, &version(3));
    assert!(cache.find(&variant, |_| true).is_none(), "the sizes of an image go with it");
}

#[test]
fn what_changes_while_it_is_fetched_is_not_kept() {
    let cache = cache(1 << 20);
    let a = object("a");
    let (mut fill, mut first) = lead(&cache, "a").begin(head(1), 1.0).expect("there is room");
    cache.invalidate(&a, &version(2));
    let newer = lead(&cache, "a");
    fill.push(b"x").expect("fits");
    fill.finish().expect("whole");
    assert_eq!(read(&mut first), bytes("x"), "who asked before the change gets what there was");
    assert!(find(&cache, "a").is_none());
    let (mut fill, _) = newer.begin(of_version(2, 1), 1.0).expect("there is room");
    fill.push(b"y").expect("fits");
    fill.finish().expect("whole");
    assert_eq!(in_memory(&find(&cache, "a").expect("kept")), "y");
    // Told before the head has come.
    let leader = lead(&cache, "b");
    cache.invalidate(&object("b"), &version(2));
    let another = lead(&cache, "b");
    assert!(leader.begin(head(1), 1.0).is_none());
    assert!(another.begin(of_version(2, 1), 1.0).is_some());
}

#[test]
fn what_was_validated_last_counts() {
    let cache = cache(1 << 20);
    assert!(put(&cache, "a", b"x"));
    let stored = find(&cache, "a").expect("kept");
    stored.validate(Duration::from_secs(2));
    stored.validate(Duration::from_secs(1));
    assert_eq!(stored.validated(), Duration::from_secs(2));
}

#[test]
fn what_is_asked_for_again_outlasts_a_scan() {
    let cache = cache(100 * (1_000 + ENTRY_BYTES + 8));
    for name in 0..20 {
        assert!(put(&cache, &format!("hot{name}"), &[0; 1_000]));
    }
    for scanned in 0..1_000 {
        for name in 0..20 {
            find(&cache, &format!("hot{name}"));
        }
        assert!(put(&cache, &format!("scan{scanned}"), &[0; 1_000]));
    }
    let hot = (0..20).filter(|name| find(&cache, &format!("hot{name}")).is_some()).count();
    assert_eq!(hot, 20);
}

#[test]
fn what_just_went_and_comes_back_is_not_new() {
    let cache = cache(100 * (1_000 + ENTRY_BYTES + 8));
    let fill = |range: std::ops::Range<u32>| range.for_each(|n| assert!(put(&cache, &format!("n{n}"), &[0; 1_000])));
    fill(0..150);
    assert!(find(&cache, "n0").is_none());
    // It goes to the main queue, in which the next hundred that nobody asks for again do not push it out.
    assert!(put(&cache, "n0", &[0; 1_000]));
    fill(1_000..1_080);
    assert!(find(&cache, "n0").is_some());
}

#[test]
fn slow_readers_keep_memory_and_so_others_wait_outside() {
    let room = 100 * (1_000 + ENTRY_BYTES + 3);
    let cache = cache(room);
    let mut slow = Vec::new();
    for name in 0..100 {
        assert!(put(&cache, &name.to_string(), &[0; 1_000]));
        slow.push(in_memory(&find(&cache, &name.to_string()).expect("kept")).slice(1..2));
    }
    assert!(!put(&cache, "c", &[0; 1_000]), "what would be let go is still read");
    assert!(cache.used_bytes() <= room);
    drop(slow);
    assert!(put(&cache, "c", &[0; 1_000]));
}

#[test]
fn a_reader_along_keeps_the_memory_that_it_reads() {
    let cache = cache(4 * (5_000 + ENTRY_BYTES));
    let (mut fill, reader) = lead(&cache, "a").begin(head(5_000), 1.0).expect("there is room");
    fill.push(&[0; 5_000]).expect("fits");
    fill.finish().expect("whole");
    cache.remove_object(&object("a"));
    assert!(cache.used_bytes() > 5_000);
    drop(reader);
    assert_eq!(cache.used_bytes(), 0);
}

#[test]
fn what_a_reader_has_handed_on_still_counts() {
    let cache = cache(20_000);
    let (mut fill, mut reader) = lead(&cache, "a").begin(head(4_000), 1.0).expect("there is room");
    fill.push(&[1; 4_000]).expect("fits");
    fill.finish().expect("whole");
    let Poll::Ready(Some(Ok(handed_on))) = read(&mut reader) else { panic!("all of it") };
    drop(reader);
    assert!(!put(&cache, "b", &[2; 4_000]), "a connection still writes it: {}", cache.used_bytes());
    drop(handed_on);
    assert!(put(&cache, "b", &[2; 4_000]));
}

#[test]
fn large_objects_take_half_of_the_memory_at_most() {
    let cache = cache(100_000);
    let large: Vec<_> = ["a", "b", "c"].map(|name| put(&cache, name, &[0; 20_000]).then(|| find(&cache, name))).into();
    assert!(large[0].is_some() && large[1].is_some() && large[2].is_none(), "two are being read, so a third waits");
    assert!((0..10).all(|name| put(&cache, &name.to_string(), &[0; 2_000])));
}

#[test]
fn large_objects_that_cannot_go_cost_nothing_else() {
    let cache = cache(100_000);
    let read = ["a", "b"].map(|name| {
        assert!(put(&cache, name, &[0; 20_000]));
        let read = in_memory(&find(&cache, name).expect("kept"));
        cache.remove_object(&object(name));
        read
    });
    let small: Vec<_> = (0..10).map(|name| name.to_string()).collect();
    assert!(small.iter().all(|name| put(&cache, name, &[0; 2_000])));
    assert!(!put(&cache, "c", &[0; 20_000]), "two are still being read");
    assert!(small.iter().all(|name| find(&cache, name).is_some()));
    drop(read);
    assert!(put(&cache, "c", &[0; 20_000]) && put(&cache, "d", &[0; 20_000]));
    assert!(put(&cache, "e", &[0; 20_000]), "those that are kept go for another one");
}

#[test]
fn what_passes_waits_for_its_reader_where_there_is_no_memory() {
    let cache = cache(1 << 20);
    let mut held = Vec::new();
    for name in 0..16 {
        assert!(put(&cache, &name.to_string(), &[0; 60_000]));
        held.push(in_memory(&find(&cache, &name.to_string()).expect("kept")));
    }
    let (mut fill, mut reader) = lead(&cache, "a").begin(Head { size: None, ..head(0) }, 1.0).expect("there is room");
    let cx = Context::from_waker(Waker::noop());
    fill.push(&[1; 70_000]).expect("somebody reads");
    assert!(cache.used_bytes() <= 1 << 20 && fill.poll_ready(&cx).is_pending());
    while read(&mut reader).is_ready() {}
    assert!(fill.poll_ready(&cx).is_ready());
}

#[test]
fn what_is_older_than_what_was_heard_of_is_not_kept() {
    let cache = cache(1 << 20);
    cache.invalidate(&object("a"), &version(2));
    assert!(!put(&cache, "a", b"of a node that lags behind"));
    let (mut fill, _) = lead(&cache, "a").begin(of_version(2, 1), 1.0).expect("it is new enough");
    fill.push(b"x").expect("fits");
    fill.finish().expect("whole");
    assert!(find(&cache, "a").is_some());
}

#[test]
fn with_no_capacity_nothing_is_kept() {
    let cache = cache(0);
    assert!(!put(&cache, "a", b""));
    assert!(!cache.takes(0));
}

#[test]
fn places_of_what_was_removed_do_not_pile_up() {
    let cache = cache(1 << 20);
    for _ in 0..10_000 {
        assert!(put(&cache, "a", b"x"));
        cache.remove_object(&object("a"));
    }
    assert!(cache.queues().places() < 1_000);
}

proptest! {
    #[test]
    fn memory_is_bounded_whatever_happens(
        steps in proptest::collection::vec((0..30_u32, 0..6_000_usize, 0..4_u8), 1..200),
        capacity_bytes in 0..60_000_u64,
    ) {
        let cache = cache(capacity_bytes);
        let mut held = Vec::new();
        for (name, size, act) in steps {
            let name = name.to_string();
            match (act, cache.join(&key(&name), |_| true)) {
                (0, Lookup::Found(stored)) => held.push(stored),
                (1, _) => cache.remove_object(&object(&name)),
                (2, _) => drop(held.pop()),
                (_, Lookup::Lead(lead)) => if let Some((mut fill, _)) = lead.begin(head(size as u64), 1.0) {
                    fill.push(&vec![0; size]).expect("fits");
                    fill.finish().expect("whole");
                },
                _ => {}
            }
            let real: u64 = held.iter().map(|stored| stored.body.size()).sum();
            prop_assert!(cache.used_bytes() <= capacity_bytes && real <= capacity_bytes);
        }
        held.clear();
        for name in 0..30 {
            cache.remove_object(&object(&name.to_string()));
        }
        prop_assert_eq!(cache.used_bytes(), 0);
    }
}

#[test]
fn what_was_purged_leaves_nothing_under_its_key() {
    let cache = cache(1 << 20);
    assert!(put(&cache, "a", b"x"));
    cache.purge(&Rule::Exact("/a".to_owned()), None);
    assert!(find(&cache, "a").is_none());
    assert!(cache.shards.iter().all(|shard| shard.lock().expect("nobody panicked").is_empty()));
    assert!(put(&cache, "b", b"y"), "its place is free again");
    assert_eq!(cache.queues().kept(), 1);
}

#[test]
fn of_two_versions_the_newer_one_stays_whichever_comes_last() {
    let cache = cache(1 << 20);
    let fill = |lead: Lead, at_ms, bytes: &[u8]| {
        let (mut fill, reader) = lead.begin(of_version(at_ms, 1), 1.0).expect("there is room");
        fill.push(bytes).expect("fits");
        (fill, reader)
    };
    let leads = [(); 3].map(|()| cache.lead(&key("a")));
    let [(second, mut own), (first, _), (third, _)] = {
        let [a, b, c] = leads;
        [fill(a, 2, b"2"), fill(b, 1, b"1"), fill(c, 3, b"3")]
    };
    assert!(first.finish().expect("whole").is_some());
    assert!(second.finish().expect("whole").is_some(), "of objects the version counts, not who asked last");
    assert!(fill(cache.lead(&key("a")), 1, b"1").0.finish().expect("whole").is_none());
    assert_eq!(in_memory(&find(&cache, "a").expect("kept")), "2");
    assert_eq!((read(&mut own), read(&mut own)), (bytes("2"), Poll::Ready(None)));
    assert!(third.finish().expect("whole").is_some());
    assert_eq!(in_memory(&find(&cache, "a").expect("kept")), "3");
}

#[test]
fn what_somebody_said_before_a_purge_is_not_right_after_it() {
    for looked_at in [false, true] {
        let cache = cache(1 << 20);
        assert!(put(&cache, "a", b"x"));
        let stored = find(&cache, "a").expect("kept");
        let settled = stored.settled();
        cache.confirm(&key("a"), &stored, Duration::from_secs(1), settled);
        assert_eq!(find(&cache, "a").expect("kept").validated(), Duration::from_secs(1));
        cache.purge(&Rule::Exact("/a".into()), Some(std::time::SystemTime::now()));
        if looked_at {
            assert!(find(&cache, "a").expect("kept").validated().is_zero());
        }
        cache.confirm(&key("a"), &stored, Duration::from_secs(2), settled);
        assert!(cache.keeps(&key("a"), &stored) && stored.validated().is_zero(), "who waits asks again");
        let settled = stored.settled();
        cache.confirm(&key("a"), &stored, Duration::from_secs(3), settled);
        assert_eq!(find(&cache, "a").expect("kept").validated(), Duration::from_secs(3));
    }
}

#[test]
fn a_part_says_nothing_to_those_who_want_the_whole() {
    let cache = cache(1 << 20);
    let leader = lead(&cache, "a");
    let mut waiting = join(&cache, "a");
    leader.refuse_part();
    assert_eq!(head_of(&mut waiting), Poll::Ready(Told::Part));
    drop(lead(&cache, "a"));
}
