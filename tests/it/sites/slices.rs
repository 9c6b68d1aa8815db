//! What is large is fetched and kept in slices: any range of it is right, and no more is fetched than that takes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use metacdn::cache::SLICE_BYTES;
use metacdn::client::{Deadlines, Peer, empty};

use super::origin::{Asked, Body, Origin, answer};
use super::{ask, edge_with, fetch, field, in_front_of, send, site, whole};
use crate::cluster::wait_until;
use crate::edge_cache::cache_status;

/// The byte of the representation `tag` at `position`: no two slices are alike.
fn byte(tag: u8, position: u64) -> u8 {
    let mixed = position.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (position >> 21);
    (mixed >> 32) as u8 ^ tag
}

fn bytes(tag: u8, range: Range<u64>) -> Bytes {
    range.map(|position| byte(tag, position)).collect()
}

/// An origin of one large thing, which counts what it sends.
struct Large {
    size: u64,
    /// All of it, unless it is too large for that.
    all: Option<Bytes>,
    /// Which representation it has: its tag.
    tag: Mutex<u8>,
    sent: AtomicU64,
    /// After so many bytes it breaks off each answer.
    breaks_after: AtomicU64,
    /// Whether it says that it gives parts.
    says_so: AtomicBool,
}

impl Large {
    fn of(size: u64) -> Arc<Self> {
        Arc::new(Self {
            size,
            all: (size <= 64 << 20).then(|| bytes(1, 0..size)),
            tag: Mutex::new(1),
            sent: AtomicU64::new(0),
            breaks_after: AtomicU64::new(u64::MAX),
            says_so: AtomicBool::new(true),
        })
    }

    async fn start(self: &Arc<Self>) -> Origin {
        let large = self.clone();
        Origin::start(move |asked| large.answer(&asked)).await
    }

    fn answer(self: &Arc<Self>, asked: &Asked) -> Response<Body> {
        let tag = *self.tag.lock().unwrap();
        let etag = format!("\"{tag}\"");
        let range = asked.field("range");
        let same = ["", &etag].contains(&asked.field("if-range").as_str());
        let part = range.strip_prefix("bytes=").filter(|_| same).map(|range| {
            let (first, last) = range.split_once('-').unwrap();
            let start = first.parse::<u64>().unwrap();
            start..last.parse::<u64>().map_or(self.size, |last| last + 1).min(self.size)
        });
        let content = part.clone().unwrap_or(0..self.size);
        let length = (content.end - content.start).to_string();
        let fields = [("cache-control", "max-age=1000"), ("etag", &etag), ("content-length", &length)];
        let mut response = answer(if part.is_some() { 206 } else { 200 }, &fields, "");
        if self.says_so.load(Ordering::Relaxed) {
            response.headers_mut().insert("accept-ranges", "bytes".parse().unwrap());
        }
        if let Some(part) = part {
            let range = format!("bytes {}-{}/{}", part.start, part.end - 1, self.size);
            response.headers_mut().insert("content-range", range.parse().unwrap());
        }
        let (large, mut at) = (self.clone(), content.start);
        let frames = futures_util::stream::iter(std::iter::from_fn(move || {
            if at == content.end {
                return None;
            }
            let left = large.breaks_after.load(Ordering::Relaxed).saturating_sub(large.sent.load(Ordering::Relaxed));
            let end = content.end.min(at + (64 << 10)).min(at.saturating_add(left));
            if at == end {
                return Some(Err(std::io::Error::other("broken off")));
            }
            let frame = match &large.all {
                Some(all) if tag == 1 => all.slice(at as usize..end as usize),
                _ => bytes(tag, at..end),
            };
            large.sent.fetch_add(end - at, Ordering::Relaxed);
            at = end;
            Some(Ok(Frame::data(frame)))
        }));
        *response.body_mut() = StreamBody::new(frames).boxed();
        response
    }
}

fn range_of(asked: &Asked) -> String {
    asked.field("range")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_what_is_cold_fetches_its_slices_alone() {
    let large = Large::of(10_000_000_000);
    let origin = large.start().await;
    let (_edge, public) = in_front_of(&origin).await;
    let at = 5_000_000_000;
    let asked = async |range: Range<u64>| {
        let field = format!("bytes={}-{}", range.start, range.end - 1);
        let part = ask(public, "GET", "/film", &[("range", &field)]).await;
        assert_eq!((part.status(), part.body()), (StatusCode::PARTIAL_CONTENT, &bytes(1, range.clone())));
        assert_eq!(
            super::field(&part, "content-range"),
            format!("bytes {}-{}/10000000000", range.start, range.end - 1)
        );
        cache_status(&part).to_owned()
    };
    let first = asked(at..at + 100).await;
    assert!(first.starts_with("metacdn; fwd=uri-miss; stored"), "{first}");
    let slice = at / SLICE_BYTES;
    let wide = |first: u64, last: u64| format!("bytes={}-{}", first * SLICE_BYTES, (last + 1) * SLICE_BYTES - 1);
    assert_eq!(range_of(&origin.asked()[0]), wide(slice, slice));
    // Others in the same slice need nobody; the next slice does, and it alone.
    assert!(asked(at + 7..at + 1007).await.starts_with("metacdn; hit; ttl="));
    assert_eq!(origin.asked().len(), 1);
    let border = (slice + 1) * SLICE_BYTES;
    assert!(asked(border - 10..border + 10).await.starts_with("metacdn; hit; ttl="));
    let again = origin.asked();
    assert_eq!((again.len(), range_of(&again[1])), (2, wide(slice + 1, slice + 1)));
    assert_eq!(again[1].field("if-range"), "\"1\"");
    assert!(large.sent.load(Ordering::Relaxed) <= 2 * SLICE_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_is_fetched_once_and_kept() {
    let large = Large::of(5 * SLICE_BYTES + 17);
    let origin = large.start().await;
    let (_edge, public) = in_front_of(&origin).await;
    let first = fetch(public, "/film").await;
    assert!(cache_status(&first).starts_with("metacdn; fwd=uri-miss; stored"), "{}", cache_status(&first));
    assert!(first.body() == &bytes(1, 0..large.size));
    let again = fetch(public, "/film").await;
    assert!(cache_status(&again).starts_with("metacdn; hit; ttl="));
    assert!(again.body() == &bytes(1, 0..large.size));
    assert_eq!((origin.asked().len(), large.sent.load(Ordering::Relaxed)), (1, large.size));
    let head = ask(public, "HEAD", "/film", &[]).await;
    assert_eq!((field(&head, "content-length"), head.body().len()), (large.size.to_string(), 0));
    let same = ask(public, "GET", "/film", &[("if-none-match", "\"1\"")]).await;
    assert_eq!((same.status(), same.body().len()), (StatusCode::NOT_MODIFIED, 0));
    let behind = ask(public, "GET", "/film", &[("range", "bytes=99999999-")]).await;
    assert_eq!(behind.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_miss_at_once_share_the_slices() {
    let large = Large::of(6 * SLICE_BYTES);
    let origin = large.start().await;
    let (_edge, public) = in_front_of(&origin).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..40 {
        readers.spawn(async move { fetch(public, "/film").await.into_body() });
    }
    let expected = bytes(1, 0..large.size);
    assert!(readers.join_all().await.iter().all(|body| *body == expected));
    assert!(large.sent.load(Ordering::Relaxed) <= large.size, "each slice was fetched once");
}

/// A generator of numbers, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// A range, often at the border of slices.
    fn range(&mut self, size: u64) -> Range<u64> {
        let near = |numbers: &mut Self| {
            let border = numbers.below(size / SLICE_BYTES + 2) * SLICE_BYTES;
            (border + numbers.below(5)).saturating_sub(2).min(size - 1)
        };
        let start = if self.below(2) == 0 { near(self) } else { self.below(size) };
        let length = match self.below(20) {
            0 => self.below(size),
            1..5 => near(self).saturating_sub(start),
            _ => self.below(2000),
        };
        start..(start + length + 1).min(size)
    }
}

/// What a server that has all of it would answer to the value of `Range` that stands for these ranges.
fn expect(all: &Bytes, ranges: &[Range<u64>], response: &Response<Bytes>) {
    let slice = |range: &Range<u64>| all.slice(range.start as usize..range.end as usize);
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let context = || format!("{ranges:?} {:?}", response.headers());
    match ranges {
        [only] => {
            assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{}", context());
            assert!(*response.body() == slice(only), "{}", context());
        }
        // What overlaps so that it is more than all is answered by all.
        _ if total > all.len() as u64 => {
            assert_eq!(response.status(), StatusCode::OK, "{}", context());
            assert!(response.body() == all, "{}", context());
        }
        ranges => {
            assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{}", context());
            let media_type = field(response, "content-type");
            let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
            let mut expected = BytesMut::new();
            for range in ranges {
                let (first, last) = (range.start, range.end - 1);
                let head = format!(
                    "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                     Content-Range: bytes {first}-{last}/{}\r\n\r\n",
                    all.len()
                );
                expected.extend_from_slice(head.as_bytes());
                expected.extend_from_slice(&slice(range));
            }
            expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
            assert!(*response.body() == expected.freeze(), "{}", context());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_random_ranges_are_right_cold_and_warm() {
    let large = Large::of(4 * SLICE_BYTES + 12_345);
    let origin = large.start().await;
    // There is no room for all slices: many of them are fetched again and again.
    let small = |config: &mut metacdn::edge::Config| config.cache.capacity_bytes = 4 * SLICE_BYTES;
    let (_edge, cold, _) = edge_with(&[&site(&[&origin])], small).await;
    let (_edge, warm) = in_front_of(&origin).await;
    let all = bytes(1, 0..large.size);
    // Known, so that several ranges are given by the edge, too.
    ask(warm, "GET", "/film", &[("range", "bytes=0-0")]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for (edge, seed, count) in [(cold, 1, 500), (cold, 2, 500), (warm, 3, 4_500), (warm, 4, 4_500)] {
        let (all, size) = (all.clone(), large.size);
        tasks.spawn(async move {
            let peer = Peer::origin(None, edge.into(), Deadlines::default());
            let mut numbers = Numbers(seed);
            for _ in 0..count {
                let count = if edge == warm && numbers.below(4) == 0 { 2 + numbers.below(4) } else { 1 };
                let ranges: Vec<_> = (0..count).map(|_| numbers.range(size)).collect();
                let value: Vec<_> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
                let request = Request::get("/film").header("host", "site.example");
                let request = request.header("range", format!("bytes={}", value.join(",")));
                let response = whole(peer.send(request.body(empty()).unwrap()).await.unwrap()).await;
                expect(&all, &ranges, &response);
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_of_two_representations_are_never_mixed() {
    let large = Large::of(8 * SLICE_BYTES);
    let origin = large.start().await;
    let (_edge, public) = in_front_of(&origin).await;
    let two = 2 * SLICE_BYTES;
    ask(public, "GET", "/film", &[("range", &format!("bytes=0-{}", two - 1))]).await;
    *large.tag.lock().unwrap() = 2;
    // The first slices are there, the others are none of the same.
    let mut body = send(public, "GET", "/film", &[], empty()).await.into_body();
    let mut read = 0;
    let broken = loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                let frame = frame.into_data().unwrap();
                assert!(frame == bytes(1, read..read + frame.len() as u64));
                read += frame.len() as u64;
            }
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broken && read <= two, "{read} bytes of the first one");
    // What has changed is known from then on.
    let new = fetch(public, "/film").await;
    assert!(new.body() == &bytes(2, 0..large.size));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_breaks_off_is_followed_by_another_one() {
    let (breaking, other) = (Large::of(6 * SLICE_BYTES), Large::of(6 * SLICE_BYTES));
    breaking.breaks_after.store(3 * SLICE_BYTES + 1000, Ordering::Relaxed);
    let first = breaking.start().await;
    let (before, then) = (breaking.clone(), other.clone());
    let second = Origin::start(move |asked| match before.sent.load(Ordering::Relaxed) {
        0 => answer(503, &[], ""),
        _ => then.answer(&asked),
    })
    .await;
    let (_edge, public, _) = edge_with(&[&site(&[&first, &second])], |_| {}).await;
    let film = fetch(public, "/film").await;
    assert!(film.body() == &bytes(1, 0..other.size));
    assert!(breaking.sent.load(Ordering::Relaxed) > 0 && other.sent.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_ends_the_fetch() {
    let large = Large::of(1000 * SLICE_BYTES);
    let origin = large.start().await;
    let (_edge, public) = in_front_of(&origin).await;
    let mut body = send(public, "GET", "/film", &[], empty()).await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first == bytes(1, 0..first.len() as u64));
    drop(body);
    let sent = || large.sent.load(Ordering::Relaxed);
    let before = AtomicU64::new(u64::MAX);
    let stands = || before.swap(sent(), Ordering::Relaxed) == sent();
    wait_until("nothing more is sent", async || stands()).await;
    assert!(sent() < 40 * SLICE_BYTES, "{}", sent());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_for_slices_the_rest_passes() {
    let large = Large::of(5 * SLICE_BYTES);
    let origin = large.start().await;
    let small = |config: &mut metacdn::edge::Config| config.cache.capacity_bytes = 4 * SLICE_BYTES;
    let (_edge, public, _) = edge_with(&[&site(&[&origin])], small).await;
    // Each of them holds a slice that it does not read on.
    let mut standing = Vec::new();
    for number in 0..6 {
        let mut body = send(public, "GET", &format!("/{number}"), &[], empty()).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        standing.push((body, first.len() as u64));
    }
    for (body, read) in standing {
        let rest = body.collect().await.unwrap().to_bytes();
        assert!(rest == bytes(1, read..large.size));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_gives_no_parts_is_asked_for_none() {
    let large = Large::of(3 * SLICE_BYTES);
    large.says_so.store(false, Ordering::Relaxed);
    let origin = large.start().await;
    let (_edge, public) = in_front_of(&origin).await;
    assert!(fetch(public, "/film").await.body() == &bytes(1, 0..large.size));
    wait_until("it is kept as one", async || cache_status(&fetch(public, "/film").await).contains("hit")).await;
    assert!(origin.asked().iter().all(|asked| !asked.headers.contains_key(HeaderName::from_static("range"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_thing_of_which_a_part_is_asked_for_is_kept_whole() {
    let large = Large::of(1000);
    let origin = large.start().await;
    let (_edge, public) = in_front_of(&origin).await;
    let part = ask(public, "GET", "/icon", &[("range", "bytes=10-19")]).await;
    assert_eq!((part.status(), part.body()), (StatusCode::PARTIAL_CONTENT, &bytes(1, 10..20)));
    let all = fetch(public, "/icon").await;
    assert!(cache_status(&all).starts_with("metacdn; hit"), "{}", cache_status(&all));
    assert_eq!((all.status(), all.body(), origin.asked().len()), (StatusCode::OK, &bytes(1, 0..1000), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_begins_elsewhere_than_asked_is_not_kept() {
    let large = Large::of(4 * SLICE_BYTES);
    let (honest, lies) = (large.clone(), Arc::new(AtomicBool::new(true)));
    let lying = lies.clone();
    let origin = Origin::start(move |mut asked| {
        if lying.load(Ordering::Relaxed)
            && let Some((first, last)) = range_of(&asked).strip_prefix("bytes=").and_then(|range| range.split_once('-'))
        {
            let later = format!("bytes={}-{last}", first.parse::<u64>().unwrap() + 1);
            asked.headers.insert("range", later.parse().unwrap());
        }
        honest.answer(&asked)
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let at = SLICE_BYTES + 1000;
    let range = format!("bytes={at}-{}", at + 9);
    ask(public, "GET", "/film", &[("range", &range)]).await;
    lies.store(false, Ordering::Relaxed);
    let part = ask(public, "GET", "/film", &[("range", &range)]).await;
    assert_eq!((part.status(), part.body()), (StatusCode::PARTIAL_CONTENT, &bytes(1, at..at + 10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_in_trouble_for_a_moment_costs_nothing_that_is_kept() {
    let large = Large::of(8 * SLICE_BYTES);
    let (good, troubled) = (large.clone(), Arc::new(AtomicBool::new(false)));
    let trouble = troubled.clone();
    let origin = Origin::start(move |asked| match trouble.load(Ordering::Relaxed) {
        true => answer(503, &[], "later"),
        false => good.answer(&asked),
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let first = ask(public, "GET", "/film", &[("range", "bytes=0-9")]).await;
    assert_eq!(first.body(), &bytes(1, 0..10));
    troubled.store(true, Ordering::Relaxed);
    let far = format!("bytes={}-", 7 * SLICE_BYTES);
    let response = send(public, "GET", "/film", &[("range", &far)], empty()).await;
    assert!(response.into_body().collect().await.is_err(), "nobody gives the rest");
    let again = ask(public, "GET", "/film", &[("range", "bytes=5-9")]).await;
    assert!(cache_status(&again).starts_with("metacdn; hit"), "{}", cache_status(&again));
    assert_eq!(again.body(), &bytes(1, 5..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_want_the_whole_are_not_told_by_a_part_to_fetch_alone() {
    let large = Large::of(2 * SLICE_BYTES);
    let (honest, gate) = (large.clone(), Arc::new((Mutex::new(false), std::sync::Condvar::new())));
    let closed = gate.clone();
    let origin = Origin::start(move |asked| {
        let is_part = asked.headers.contains_key("range");
        let mut response = honest.answer(&asked);
        // Parts of this one cannot be told from parts of another, and are not kept.
        response.headers_mut().insert("etag", "W/\"1\"".parse().unwrap());
        if is_part {
            tokio::task::block_in_place(|| drop(closed.1.wait_while(closed.0.lock().unwrap(), |open| !*open)));
        }
        response
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let part = tokio::spawn(async move { ask(public, "GET", "/film", &[("range", "bytes=10-19")]).await });
    wait_until("a part is asked for", async || origin.asked().len() == 1).await;
    let mut whole = tokio::task::JoinSet::new();
    for _ in 0..20 {
        whole.spawn(async move { fetch(public, "/film").await });
    }
    fetch(public, "/other").await;
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(part.await.unwrap().body(), &bytes(1, 10..20));
    assert!(whole.join_all().await.iter().all(|answer| answer.body() == &bytes(1, 0..large.size)));
    let asked = origin.asked().iter().filter(|asked| asked.uri.path() == "/film" && range_of(asked).is_empty()).count();
    assert_eq!(asked, 1);
}
