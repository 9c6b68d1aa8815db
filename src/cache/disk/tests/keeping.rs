//! What is kept, for how long, and what comes back.

use proptest::prelude::*;

use super::*;
use crate::model::ObjectKey;

fn version() -> impl Strategy<Value = Version> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(time, epoch, sequence)| Version {
        time: HybridTime::from_bits(time),
        origin: Origin { node: "AWS".parse().expect("a name"), epoch: crate::model::Epoch::from_bits(epoch) },
        sequence,
    })
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    // All that http allows: a tab, and what is above 31, but 127.
    let byte = prop_oneof![Just(b'\t'), 32..127_u8, 128..=255_u8];
    let field = ("[a-z][a-z0-9-]{0,12}", proptest::collection::vec(byte, 0..40));
    proptest::collection::vec(field, 0..12).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: http::HeaderName = name.parse().expect("a name");
            headers.append(name, HeaderValue::from_bytes(&value).expect("a value"));
        }
        headers
    })
}

fn terms() -> impl Strategy<Value = Terms> {
    let answer = (headers(), headers()).prop_map(|(vary, request)| {
        let Terms::Answer { freshness, .. } = head(7, 1).terms else { unreachable!("it is an answer") };
        let mut response = HeaderMap::new();
        vary.keys().chain(request.keys()).for_each(|name| {
            response.append("vary", HeaderValue::from_bytes(name.as_str().as_bytes()).expect("a value"));
        });
        let selector = Selector::of(&response, &request).expect("a selector");
        Terms::Answer { freshness, selector }
    });
    prop_oneof![version().prop_map(|version| Terms::Object { version, validated: Duration::ZERO }), answer]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_head_comes_back(
        status in 100..1000_u16, headers in headers(), size in any::<Option<u64>>(), terms in terms(),
    ) {
        let status = StatusCode::from_u16(status).expect("a status");
        let head = Head { status, headers, size, terms };
        let read = record::read(&record::write(&head)).expect("it reads");
        prop_assert_eq!(&read, &head);
        let order = |head: &Head| head.headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>();
        prop_assert_eq!(order(&read), order(&head));
    }

    #[test]
    fn what_is_no_head_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(record::read(&bytes).is_none());
    }
}

#[test]
fn no_two_keys_have_the_same_bytes() {
    let answer = |site: &str, uri: &str| CacheKey::Answer { site: site.into(), uri: uri.into() };
    let object = |key: &str, variant| CacheKey::Object { key: key.parse::<ObjectKey>().expect("a key"), variant };
    let keys = [
        answer("a", "b c"),
        answer("a b", "c"),
        answer("", "a b c"),
        answer("object", "original"),
        object("a", Variant::Original),
        object("a", Variant::Low),
        object("original", Variant::Low),
    ];
    let bytes: BTreeSet<_> = keys.iter().map(record::key).collect();
    assert_eq!(bytes.len(), keys.len());
}

#[tokio::test]
async fn a_restart_is_warm() {
    let root = tempfile::tempdir().expect("a folder");
    let sizes = [0, 1, 16 << 10, (16 << 10) + 1, SLICE, SLICE + 1, 100_000, 1_000_000];
    {
        let disk = open(root.path(), 64 << 20).await;
        for (seed, &size) in sizes.iter().enumerate() {
            let kept = keep(&disk, &page(&size.to_string()), seed as u64, size).await.expect("room");
            assert!(kept.has(0) && kept.size() == size);
            assert!(disk.may_have(&page(&size.to_string())));
        }
        audit(root.path(), &disk).await;
        disk.close().await;
        assert!(disk.begin(&page("late"), &head(1, 1), 1.0).is_none(), "it is closed");
    }
    let disk = open(root.path(), 64 << 20).await;
    audit(root.path(), &disk).await;
    for (seed, &size) in sizes.iter().enumerate() {
        let bytes = body(seed as u64, size);
        assert_eq!(found(&disk, &page(&size.to_string())).await, [(seed as u64, slices(&bytes).len())], "{size}");
    }
    assert!(!disk.may_have(&page("other")) && disk.load(&page("other"), &[]).await.is_empty());
}

#[tokio::test]
async fn the_newest_of_a_key_comes_first_and_32_are_kept() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    for seed in 0..40 {
        keep(&disk, &page("a"), seed, 100).await.expect("room");
    }
    let newest: Vec<_> = (8..40).rev().map(|seed| (seed, 1)).collect();
    assert_eq!(found(&disk, &page("a")).await, newest);
    audit(root.path(), &disk).await;
    disk.close().await;
    let disk = open(root.path(), 64 << 20).await;
    assert_eq!(found(&disk, &page("a")).await, newest);
}

#[tokio::test]
async fn an_updated_head_outlives_a_restart() {
    let root = tempfile::tempdir().expect("a folder");
    let changed = |size| {
        let mut head = head(1, size);
        head.headers.append("x-more", HeaderValue::from_static("more"));
        head
    };
    {
        let disk = open(root.path(), 64 << 20).await;
        for size in [100, 100_000] {
            let kept = keep(&disk, &page(&size.to_string()), 1, size).await.expect("room");
            disk.update(&kept, &changed(size));
            audit(root.path(), &disk).await;
        }
        // Before the first slice there is no row yet.
        let kept = disk.begin(&page("new"), &head(1, 10), 1.0).expect("room");
        disk.update(&kept, &changed(10));
        assert!(put(&kept, 0, body(1, 10)).await);
        // Other bytes are another representation.
        let kept = keep(&disk, &page("other"), 1, 10).await.expect("room");
        disk.update(&kept, &changed(11));
        assert!(!kept.has(0));
        disk.close().await;
    }
    let disk = open(root.path(), 64 << 20).await;
    for (name, size) in [("100", 100), ("100000", 100_000), ("new", 10)] {
        let loaded = disk.load(&page(name), &[]).await;
        assert_eq!(loaded.iter().map(|loaded| &loaded.head).collect::<Vec<_>>(), [&changed(size)], "{name}");
    }
    assert!(!disk.may_have(&page("other")));
    audit(root.path(), &disk).await;
}

#[tokio::test]
async fn what_was_removed_stays_so() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    for (name, size) in [("a", 10), ("b", 100_000), ("c", 10), ("d", 100_000), ("e", 10)] {
        let kept = keep(&disk, &page(name), 1, size).await.expect("room");
        match name {
            "a" | "b" => disk.remove(&kept),
            "c" | "d" => disk.remove_key(&page(name)),
            _ => continue,
        }
        assert!(!kept.has(0) && kept.opened(0).is_none() && kept.open(0).await.is_none(), "{name}");
        assert!(!put(&kept, 0, body(1, size)).await);
        assert!(disk.load(&page(name), &[]).await.is_empty());
    }
    audit(root.path(), &disk).await;
    disk.close().await;
    let disk = open_with(root.path(), 64 << 20, SLICE).expect("a tier");
    // While it is loaded, or after.
    disk.remove_key(&page("e"));
    ready(&disk).await;
    for name in ["a", "b", "c", "d", "e"] {
        assert!(disk.load(&page(name), &[]).await.is_empty(), "{name}");
    }
    audit(root.path(), &disk).await;
    assert_eq!(disk.used_bytes(), 0);
}

#[tokio::test]
async fn slices_come_in_any_order_and_those_of_other_lengths_are_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    let bytes = body(1, 3 * SLICE + 5);
    let all = slices(&bytes);
    let kept = disk.begin(&page("a"), &head(1, bytes.len() as u64), 1.0).expect("room");
    assert!(!disk.may_have(&page("a")), "nothing of it is there");
    assert!(!put(&kept, 3, all[0].clone()).await && !put(&kept, 4, all[3].clone()).await);
    assert!(put(&kept, 3, all[3].clone()).await && put(&kept, 1, all[1].clone()).await);
    assert!(put(&kept, 1, all[1].clone()).await, "it is there already");
    assert_eq!((0..5).map(|slice| kept.has(slice)).collect::<Vec<_>>(), [false, true, false, true, false]);
    drop(kept);
    audit(root.path(), &disk).await;
    disk.close().await;
    let disk = open(root.path(), 64 << 20).await;
    assert_eq!(found(&disk, &page("a")).await, [(1, 2)]);
    let loaded = disk.load(&page("a"), &[]).await;
    assert!(put(&loaded[0].kept, 0, all[0].clone()).await, "more of it can come in another life");
    assert_eq!(read(&loaded[0]).await, 3);
    audit(root.path(), &disk).await;
    let others = [head(1, u64::MAX), head(1, (64 << 20) + 1), Head { size: None, ..head(1, 1) }];
    assert!(others.iter().all(|head| disk.begin(&page("b"), head, 1.0).is_none()), "too large, or of unknown size");
}

#[tokio::test]
async fn what_nobody_writes_leaves_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    drop(disk.begin(&page("a"), &head(1, 100_000), 1.0).expect("room"));
    drop(disk.begin(&page("a"), &head(1, 100), 1.0).expect("room"));
    assert!(disk.tier.entries.all().is_empty() && disk.used_bytes() == 0);
}

#[tokio::test]
async fn a_file_is_open_at_once_when_it_was_opened_before() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    let kept = keep(&disk, &page("a"), 1, 100_000).await.expect("room");
    assert!(kept.opened(0).is_none(), "nobody has opened it");
    let file = kept.open(0).await.expect("it is there");
    assert!(Arc::ptr_eq(&file, &kept.opened(0).expect("it is open")));
    let small = keep(&disk, &page("b"), 1, 100).await.expect("room");
    assert!(small.open(0).await.is_none() && small.opened(0).is_none(), "it has no file");
}

#[tokio::test]
async fn the_capacity_holds_and_what_is_used_stays() {
    let root = tempfile::tempdir().expect("a folder");
    let capacity = 4 << 20;
    let disk = open(root.path(), capacity).await;
    let mut favourites = Vec::new();
    for seed in 0..10 {
        let size = if seed % 2 == 0 { 1000 } else { 60_000 };
        favourites.push((seed, keep(&disk, &page(&format!("favourite {seed}")), seed, size).await.expect("room")));
    }
    for seed in 100..400 {
        let size = 500 + seed * 7919 % 90_000;
        keep(&disk, &page(&seed.to_string()), seed, size).await.expect("others make room");
        assert!(disk.used_bytes() <= capacity);
        for (_, kept) in &favourites {
            kept.use_inline();
            if kept.size() > 1000 {
                assert!(kept.open(0).await.is_some() && kept.open(1).await.is_some());
            }
        }
    }
    audit(root.path(), &disk).await;
    assert!(disk.used_bytes() > capacity / 2, "{} are used", disk.used_bytes());
    assert!(favourites.iter().all(|(_, kept)| kept.has(0)));
    drop(favourites);
    disk.close().await;
    // With less room the rest goes at the start.
    let disk = open(root.path(), capacity / 4).await;
    assert!(disk.used_bytes() <= capacity / 4 && disk.used_bytes() > capacity / 8, "{}", disk.used_bytes());
    audit(root.path(), &disk).await;
}

#[tokio::test]
async fn what_changes_before_it_is_written_is_counted_once() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 4 << 20).await;
    let mut kept = Vec::new();
    for seed in 0..50 {
        let each = disk.begin(&page(&seed.to_string()), &head(seed, 1000), 1.0).expect("room");
        each.put(0, body(seed, 1000), |_| {});
        disk.update(&each, &head(seed, 1000));
        kept.push(each);
    }
    audit(root.path(), &disk).await;
    kept.iter().for_each(|each| disk.remove(each));
    disk.settle().await;
    assert_eq!(disk.used_bytes(), 0);
}

#[tokio::test]
async fn what_is_open_reads_on_after_it_had_to_go() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 1 << 20).await;
    let kept = keep(&disk, &page("a"), 1, SLICE).await.expect("room");
    let file = kept.open(0).await.expect("it is there");
    let mut seed = 2;
    while kept.has(0) {
        // They are used, too: else they would make room for each other.
        let other = keep(&disk, &page(&seed.to_string()), seed, SLICE).await.expect("others make room");
        assert!(other.open(0).await.is_some());
        seed += 1;
    }
    assert!(kept.opened(0).is_none() && kept.open(0).await.is_none());
    assert!(read_file(&file, SLICE) == body(1, SLICE));
    // It may come back, as another file.
    assert!(put(&kept, 0, body(1, SLICE)).await);
    assert!(!Arc::ptr_eq(&file, &kept.open(0).await.expect("it is there")));
    assert!(read_file(&file, SLICE) == body(1, SLICE));
    audit(root.path(), &disk).await;
}

#[tokio::test]
async fn what_does_not_fit_in_the_queue_is_refused_and_waits_for_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open_with(root.path(), 1 << 30, 1 << 20).expect("a tier");
    ready(&disk).await;
    let (go, gone) = mpsc::channel::<()>();
    let kept = disk.begin(&page("a"), &head(1, 1), 1.0).expect("room");
    kept.put(0, body(1, 1), move |_| assert!(gone.recv().is_err()));
    let large = disk.begin(&page("b"), &head(2, 100 << 20), 1.0).expect("room");
    let bytes = Bytes::from(vec![7; 1 << 20]);
    let (told, written) = mpsc::channel();
    for slice in 0..100 {
        let told = told.clone();
        large.put(slice, bytes.clone(), move |there| told.send((slice, there)).expect("somebody waits"));
    }
    let refused: Vec<_> = written.try_iter().collect();
    assert!((36..=37).contains(&refused.len()) && refused.iter().all(|(_, there)| !there), "{refused:?}");
    drop(go);
    disk.settle().await;
    assert!(written.try_iter().all(|(_, there)| there));
    assert!(large.has(0) && !large.has(99));
    assert!(put(&large, 99, bytes).await, "there is room again");
}

#[tokio::test]
async fn removed_while_it_waits_it_is_not_written() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = open(root.path(), 64 << 20).await;
    let (go, gone) = mpsc::channel::<()>();
    let first = disk.begin(&page("first"), &head(1, 1), 1.0).expect("room");
    first.put(0, body(1, 1), move |_| assert!(gone.recv().is_err()));
    let mut waiting = Vec::new();
    for (name, size) in [("a", 100), ("b", 100_000)] {
        let kept = disk.begin(&page(name), &head(2, size), 1.0).expect("room");
        let (told, written) = oneshot::channel();
        kept.put(0, slices(&body(2, size))[0].clone(), move |there| told.send(there).expect("somebody waits"));
        disk.remove_key(&page(name));
        waiting.push((kept, written));
    }
    drop(go);
    for (kept, written) in waiting {
        assert!(!written.await.expect("it is told") && !kept.has(0));
    }
    audit(root.path(), &disk).await;
    assert_eq!(disk.tier.entries.all().len(), 1);
}
