//! Threads that want the same at once, in every order that shuttle tries.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use shuttle::future::block_on;
use shuttle::thread;

use super::*;
use crate::cache::sync::in_many_orders;

/// Fetches an object whose one byte is `truth` when the fetch begins.
fn bring(lead: Lead, truth: &AtomicU32) {
    let byte = truth.load(Ordering::SeqCst) as u8;
    let Some((mut fill, _)) = lead.begin(head(1), 1.0) else { return };
    let _ = fill.push(&[byte]);
    let _ = fill.finish();
}

/// What a reader gets, to its end.
async fn all_of(mut reader: Reader) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(bytes) = std::future::poll_fn(|cx| reader.poll_bytes(cx)).await {
        body.extend_from_slice(&bytes.ok()?);
    }
    Some(body)
}

/// Gets the object from wherever it is, or fetches it.
fn get(cache: &Arc<Cache>, truth: &AtomicU32) -> u8 {
    loop {
        match cache.join(&key("a"), |_| true) {
            Lookup::Found(stored) => return in_memory(&stored)[0],
            Lookup::Flying(mut reader) => match block_on(reader.head()) {
                Told::Comes(_) => {
                    if let Some(body) = block_on(all_of(reader)) {
                        return body[0];
                    }
                }
                Told::Alone => return truth.load(Ordering::SeqCst) as u8,
                Told::Part | Told::Again => {}
            },
            Lookup::Lead(lead) => {
                let reader = lead.reader().expect("it was just begun");
                bring(lead, truth);
                return block_on(all_of(reader)).expect("it came")[0];
            }
        }
    }
}

#[test]
fn what_was_fetched_before_a_purge_is_not_given_after_it() {
    in_many_orders(|| {
        let (cache, truth) = (cache(1 << 20), Arc::new(AtomicU32::new(0)));
        let others = [0, 1].map(|_| {
            let (cache, truth) = (cache.clone(), truth.clone());
            thread::spawn(move || get(&cache, &truth))
        });
        truth.store(1, Ordering::SeqCst);
        cache.purge(&Rule::Exact("/a".into()), None);
        assert_eq!(get(&cache, &truth), 1);
        for other in others {
            other.join().expect("it ends");
        }
        assert_eq!(get(&cache, &truth), 1);
        assert!(cache.find(&key("a"), |_| true).is_none_or(|stored| in_memory(&stored)[0] == 1));
    });
}

#[test]
fn of_two_fetches_the_one_that_began_last_is_kept() {
    in_many_orders(|| {
        let (cache, truth) = (cache(1 << 20), AtomicU32::new(0));
        let slow = cache.lead(&key("a"));
        let quick = cache.lead(&key("a"));
        let filled = |lead: Lead, byte| {
            let (mut fill, _) = lead.begin(head(1), 1.0).expect("there is room");
            fill.push(&[byte]).expect("fits");
            fill
        };
        let (slow, quick) = (filled(slow, 0), filled(quick, 1));
        let other = thread::spawn(move || slow.finish().expect("whole"));
        quick.finish().expect("whole");
        assert_eq!(get(&cache, &truth), 1);
        other.join().expect("it ends");
        assert_eq!(get(&cache, &truth), 1);
    });
}

#[test]
fn when_a_leader_dies_another_one_leads() {
    in_many_orders(|| {
        let (cache, truth) = (cache(1 << 20), Arc::new(AtomicU32::new(1)));
        let lead = lead(&cache, "a");
        let others = [0, 1].map(|_| {
            let (cache, truth) = (cache.clone(), truth.clone());
            thread::spawn(move || get(&cache, &truth))
        });
        // Once before anything has come, once in the middle.
        drop(lead);
        if let Lookup::Lead(lead) = cache.join(&key("a"), |_| true) {
            drop(lead.begin(head(1), 1.0));
        }
        assert_eq!(others.map(|other| other.join().expect("it ends")), [1, 1]);
        assert!(find(&cache, "a").is_some());
    });
}

#[test]
fn many_who_ask_at_once_make_one_fetch() {
    in_many_orders(|| {
        let (cache, leads) = (cache(1 << 20), Arc::new(AtomicUsize::new(0)));
        let threads = [0, 1, 2].map(|_| {
            let (cache, leads) = (cache.clone(), leads.clone());
            thread::spawn(move || match cache.join(&key("a"), |_| true) {
                Lookup::Found(stored) => assert_eq!(in_memory(&stored), "x"),
                Lookup::Flying(reader) => assert_eq!(block_on(all_of(reader)), Some(b"x".to_vec())),
                Lookup::Lead(lead) => {
                    leads.fetch_add(1, Ordering::SeqCst);
                    bring(lead, &AtomicU32::new(u32::from(b'x')));
                }
            })
        });
        for thread in threads {
            thread.join().expect("it ends");
        }
        assert_eq!(leads.load(Ordering::SeqCst), 1);
        assert!(find(&cache, "a").is_some());
    });
}

/// A page that is fresh for a minute from `received_ms` on.
fn page_head(received_ms: u64) -> Head {
    let freshness = serde_json::from_value(serde_json::json!({
        "received_ms": received_ms, "initial_age_ms": 0, "lifetime_ms": 60_000, "stale_while_revalidate_seconds": 0,
        "stale_if_error_seconds": 0, "validated_always": false, "never_stale": false, "no_transform": false,
    }))
    .expect("a freshness");
    Head { terms: Terms::Answer { freshness, selector: rules::Selector::default() }, ..head(1) }
}

/// What becomes of a page of which one says that it is right, and another one that it is not, each asked at a number.
fn renewed_and_expired(renewed_at: u64, expired_at: u64) -> Arc<Head> {
    let (cache, key) = (cache(1 << 20), CacheKey::Answer { site: "s".into(), uri: "/a".into() });
    let (mut fill, _) = cache.lead(&key).begin(page_head(1_000), 1.0).expect("there is room");
    fill.push(b"x").expect("fits");
    let stored = fill.finish().expect("whole").expect("kept");
    let began = stored.asked();
    let other = {
        let (cache, key, stored) = (cache.clone(), key.clone(), stored.clone());
        thread::spawn(move || cache.renew(&key, &stored, page_head(2_000), stored.settled(), began + renewed_at))
    };
    cache.expire(&key, &stored, moment(3_000), began + expired_at);
    other.join().expect("it ends");
    cache.find(&key, |_| true).expect("kept").head()
}

fn moment(ms: u64) -> std::time::SystemTime {
    std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn is_fresh(head: &Head) -> bool {
    matches!(&head.terms, Terms::Answer { freshness, .. } if freshness.is_fresh(moment(4_000)))
}

#[test]
fn of_two_who_were_asked_about_the_same_the_one_who_was_asked_last_is_believed() {
    in_many_orders(|| {
        assert_eq!(*renewed_and_expired(2, 1), page_head(2_000));
        assert!(!is_fresh(&renewed_and_expired(1, 2)));
    });
}

/// A cache that has something in three slices, and the key of that.
fn sliced_in(cache: &Arc<Cache>) -> (Arc<Sliced>, Begun) {
    let (stored, begun) = lead(cache, "a").slice(head(3 * SLICE_BYTES), 1.0, 0).expect("there is room");
    let Body::Sliced(sliced) = &stored.body else { panic!("it is in slices") };
    (sliced.clone(), begun)
}

/// Brings slices without bytes, so that nothing is kept: each that is asked for is begun.
fn begin_all(sliced: &Sliced, mut bringer: Bringer, slices_max: usize) {
    let mut brought = 0;
    while brought < slices_max
        && let Some((slice, lead)) = block_on(bringer.next())
    {
        brought += 1;
        drop(lead.begin(sliced.head_of(slice), 1.0));
    }
}

#[test]
fn slices_that_follow_come_by_one_request() {
    in_many_orders(|| {
        let cache = cache(1 << 30);
        let (sliced, begun) = sliced_in(&cache);
        let requests = Arc::new(AtomicUsize::new(0));
        let readers = [0, 1, 2].map(|_| {
            let (cache, sliced, requests) = (cache.clone(), sliced.clone(), requests.clone());
            thread::spawn(move || {
                // As readers do, held to their end: each looks for the next slice while it reads one.
                (0..3)
                    .map(|slice| sliced.seek(&cache, slice))
                    .inspect(|sought| {
                        if let Sought::Begun(..) = sought {
                            requests.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                    .collect::<Vec<_>>()
            })
        });
        let sought = readers.map(|reader| reader.join().expect("it ends"));
        assert_eq!(requests.load(Ordering::SeqCst), 0, "the answer that it began with brings all");
        drop((sought, begun));
    });
}

#[test]
fn nobody_waits_for_a_request_that_has_ended() {
    in_many_orders(|| {
        let cache = cache(1 << 30);
        let (sliced, begun) = sliced_in(&cache);
        let Begun { run, bringer, .. } = begun;
        let bringing = {
            let sliced = sliced.clone();
            // It breaks off with the second.
            thread::spawn(move || begin_all(&sliced, bringer, 1))
        };
        let mut holds = vec![run];
        for slice in 0..3 {
            match sliced.seek(&cache, slice) {
                Sought::Kept(_) => panic!("nothing was brought"),
                // Whoever brings it holds up nobody: something comes, or it is to be looked for again.
                Sought::Along(mut reader) => drop(block_on(reader.head())),
                Sought::Asked(mut reader, run) => {
                    holds.push(run);
                    block_on(reader.head());
                }
                Sought::Begun(mut reader, run, bringer) => {
                    holds.push(run);
                    drop(bringer);
                    block_on(reader.head());
                }
            }
        }
        bringing.join().expect("it ends");
    });
}

#[test]
fn a_request_ends_when_nobody_reads() {
    in_many_orders(|| {
        let cache = cache(1 << 30);
        let (sliced, Begun { run, bringer, .. }) = sliced_in(&cache);
        let reading = {
            let (cache, sliced) = (cache.clone(), sliced.clone());
            thread::spawn(move || {
                let _run = run;
                drop(sliced.seek(&cache, 0));
            })
        };
        begin_all(&sliced, bringer, usize::MAX);
        reading.join().expect("it ends");
    });
}
