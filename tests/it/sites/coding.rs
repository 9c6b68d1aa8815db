//! What is sent in a content coding: made once for all, kept as a variant, and right in every form.

use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use metacdn::client::empty;
use metacdn::compress::{Coding, Config, Decoder, Encoder};

use super::origin::{Asked, Origin, answer, streamed};
use super::{ask, edge_of_sites, field, in_front_of, send, site, whole};
use crate::cluster::wait_until;
use crate::edge_cache::cache_status;

const BROWSER: &str = "gzip, deflate, br, zstd";

/// Text of `size` bytes that gets smaller, but not by much.
pub fn text(size: usize) -> Bytes {
    let words = (0u64..).map(|number| format!("{:x} words ", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20));
    let mut text = String::with_capacity(size + 32);
    for word in words {
        text.push_str(&word);
        if text.len() >= size {
            break;
        }
    }
    text.truncate(size);
    text.into()
}

/// `bytes` without the coding that `name` says.
pub fn decoded(name: &str, bytes: &[u8]) -> Bytes {
    if name.is_empty() {
        return Bytes::copy_from_slice(bytes);
    }
    let mut decoder = Decoder::new(name.parse().unwrap(), 1 << 30).unwrap();
    let (mut coded, mut plain) = (Bytes::copy_from_slice(bytes), BytesMut::new());
    while let Some(piece) = decoder.decode(&mut coded).unwrap() {
        plain.extend_from_slice(&piece);
    }
    decoder.finish().unwrap();
    plain.freeze()
}

fn coded(coding: Coding, source: &[u8]) -> Bytes {
    Encoder::whole(coding, Config::default().quick, source).unwrap().0
}

/// How often something was coded to its end.
pub async fn encodings(admin: SocketAddr) -> u64 {
    let metrics = crate::edge::fetch(admin, "/metrics").await;
    let text = String::from_utf8(metrics.into_body()).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("metacdn_edge_encodings_total{"));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

pub const PAGE: [(&str, &str); 4] =
    [("cache-control", "max-age=1000"), ("content-type", "text/html"), ("etag", "\"v\""), ("accept-ranges", "bytes")];

/// An origin of one page, which knows what is asked of a tag.
pub async fn page(size: usize) -> Origin {
    let page = text(size);
    Origin::start(move |asked: Asked| match asked.field("if-none-match").as_str() {
        tags if tags.split(", ").any(|tag| tag.trim_start_matches("W/") == "\"v\"") => answer(304, &PAGE, ""),
        _ => answer(200, &PAGE, page.clone()),
    })
    .await
}

pub async fn get(edge: SocketAddr, path: &str, accepts: &str, more: &[(&str, &str)]) -> Response<Bytes> {
    let fields: Vec<_> = [("accept-encoding", accepts)].iter().chain(more).copied().collect();
    ask(edge, "GET", path, &fields).await
}

/// The variant of `path` for who accepts `accepts`, once it is kept.
pub async fn variant(edge: SocketAddr, path: &str, accepts: &str) -> Response<Bytes> {
    let found = Mutex::new(None);
    wait_until("the variant is kept", async || {
        let response = get(edge, path, accepts, &[]).await;
        let is_kept = field(&response, "etag").starts_with('"') && response.headers().contains_key("content-encoding");
        *found.lock().unwrap() = Some(response);
        is_kept
    })
    .await;
    found.into_inner().unwrap().unwrap()
}

fn assert_varies<B>(response: &Response<B>) {
    assert_eq!(field(response, "vary"), "Accept-Encoding", "{:?}", response.headers());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_coding_stands_for_the_same_bytes_and_is_kept() {
    let (origin, page) = (page(100_000).await, text(100_000));
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    for (accepts, coding) in [("zstd", "zstd"), ("br", "br"), ("gzip", "gzip"), (BROWSER, "zstd"), ("gzip, br", "br")] {
        let first = get(public, "/a", accepts, &[]).await;
        assert_eq!((first.status(), field(&first, "content-encoding").as_str()), (StatusCode::OK, coding));
        assert!(decoded(coding, first.body()) == page, "{accepts}");
        assert_varies(&first);
        let kept = variant(public, "/a", accepts).await;
        assert!(decoded(coding, kept.body()) == page && kept.body().len() < page.len() / 2, "{accepts}");
        assert_eq!(field(&kept, "content-length"), kept.body().len().to_string());
        assert!(field(&kept, "etag").starts_with(&format!("\"v~{coding}~")), "{}", field(&kept, "etag"));
        assert!(cache_status(&kept).starts_with("metacdn; hit; ttl="), "{}", cache_status(&kept));
        assert_eq!(field(&kept, "accept-ranges"), "bytes");
        assert_varies(&kept);
    }
    for accepts in ["identity", "deflate", "gzip;q=0", ""] {
        let plain = get(public, "/a", accepts, &[]).await;
        assert!(plain.body() == &page && !plain.headers().contains_key("content-encoding"), "{accepts}");
        assert_eq!((field(&plain, "etag"), field(&plain, "content-length")), ("\"v\"".to_owned(), "100000".to_owned()));
        assert_varies(&plain);
    }
    assert_eq!((origin.asked().len(), encodings(admin).await), (1, 3), "one of each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_coded_for_the_first_time_has_a_weak_tag_and_no_length() {
    let (parts, response) = streamed(&PAGE);
    let response = Mutex::new(Some(response));
    let origin = Origin::start(move |_| response.lock().unwrap().take().unwrap()).await;
    let (_edge, public) = in_front_of(&origin).await;
    let fields = [("accept-encoding", "gzip")];
    let asking = tokio::spawn(async move { send(public, "GET", "/a", &fields, empty()).await });
    parts.send("first ").await;
    let mut first = asking.await.unwrap();
    assert_eq!((field(&first, "etag").as_str(), field(&first, "content-length").as_str()), ("W/\"v~gzip\"", ""));
    assert!(!first.headers().contains_key("accept-ranges"));
    // Where the origin pauses, all that came goes on: it can be decoded so far.
    let (mut decoder, mut plain) = (Decoder::new(Coding::Gzip, 1 << 20).unwrap(), BytesMut::new());
    while plain.len() < 6 {
        let mut frame = first.frame().await.unwrap().unwrap().into_data().unwrap();
        while let Some(piece) = decoder.decode(&mut frame).unwrap() {
            plain.extend_from_slice(&piece);
        }
    }
    assert_eq!(&plain[..], b"first ");
    // Others read along, and a tag of it holds already.
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let reading = send(public, "GET", "/a", &fields, empty()).await;
        assert_eq!(field(&reading, "etag"), "W/\"v~gzip\"");
        others.spawn(whole(reading));
    }
    for tag in ["W/\"v~gzip\"", "\"v\""] {
        let same = get(public, "/a", "gzip", &[("if-none-match", tag)]).await;
        assert_eq!((same.status(), field(&same, "etag").as_str()), (StatusCode::NOT_MODIFIED, tag));
    }
    parts.send("second").await;
    parts.end();
    for other in others.join_all().await {
        assert_eq!(decoded("gzip", other.body()), &b"first second"[..]);
    }
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_make_one_fetch_and_one_encoding() {
    let (origin, page) = (page(300_000).await, text(300_000));
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        tasks.spawn(async move { get(public, "/a", BROWSER, &[]).await });
    }
    for response in tasks.join_all().await {
        assert_eq!(field(&response, "content-encoding"), "zstd");
        assert!(decoded("zstd", response.body()) == page);
    }
    assert_eq!((origin.asked().len(), encodings(admin).await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_of_the_form_that_the_client_has() {
    let (origin, page) = (page(50_000).await, text(50_000));
    let (_edge, public) = in_front_of(&origin).await;
    super::kept(public, "/a").await;
    // Before there is a variant they are of what was kept.
    let range = ("range", "bytes=100-199");
    let plain = get(public, "/a", "gzip", &[range]).await;
    assert!(plain.status() == StatusCode::PARTIAL_CONTENT && plain.body() == &page[100..200]);
    assert_varies(&plain);
    let gzip = variant(public, "/a", "gzip").await;
    let zstd = variant(public, "/a", "zstd").await;
    let (size, tag) = (gzip.body().len(), field(&gzip, "etag"));
    let part = get(public, "/a", "gzip", &[range]).await;
    assert!(part.status() == StatusCode::PARTIAL_CONTENT && part.body() == &gzip.body()[100..200]);
    assert_eq!((field(&part, "content-range"), field(&part, "etag")), (format!("bytes 100-199/{size}"), tag.clone()));
    assert_eq!(field(&part, "content-encoding"), "gzip");
    // The rest of what it has, though it would like another form better.
    for (having, of) in [(&gzip, gzip.body()), (&zstd, zstd.body()), (&plain, &page)] {
        let tag = field(having, "etag");
        let part = get(public, "/a", "gzip, zstd", &[("range", "bytes=500-"), ("if-range", &tag)]).await;
        assert!(part.status() == StatusCode::PARTIAL_CONTENT && part.body() == &of[500..], "{tag}");
    }
    for stale in ["\"v~gzip~0123456789abcdef\"", "W/\"v~gzip\"", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let all = get(public, "/a", "gzip", &[range, ("if-range", stale)]).await;
        assert!(all.status() == StatusCode::OK && all.body() == gzip.body(), "{stale}");
    }
    let several = get(public, "/a", "gzip", &[("range", "bytes=0-9,-5")]).await;
    assert_eq!(several.status(), StatusCode::PARTIAL_CONTENT);
    assert!(several.body().windows(10).any(|window| window == &gzip.body()[..10]));
    let beyond = get(public, "/a", "gzip", &[("range", &format!("bytes={size}-"))]).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_of_any_form_that_is_accepted_is_current() {
    let origin = page(50_000).await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let seen = field(&variant(public, "/a", "gzip").await, "etag");
    for (accepts, tag, status) in [
        ("gzip", &*seen, 304),
        ("gzip", "\"v\"", 304),
        ("gzip", "W/\"v\"", 304),
        ("gzip", "W/\"v~gzip\"", 304),
        ("gzip", "\"x\", \"v~gzip~0123456789abcdef\"", 304),
        ("gzip", "\"v~br~0123456789abcdef\"", 200),
        ("identity", "\"v\"", 304),
        ("identity", &*seen, 200),
        ("br", &*seen, 200),
        ("br", "\"v\"", 304),
        ("gzip", "\"w\"", 200),
        ("gzip", "*", 304),
    ] {
        for method in ["GET", "HEAD"] {
            let fields = [("accept-encoding", accepts), ("if-none-match", tag)];
            let response = ask(public, method, "/a", &fields).await;
            assert_eq!(response.status(), status, "{method} {accepts} {tag}");
            assert_varies(&response);
            if status == 304 {
                assert!(
                    !response.headers().contains_key("content-encoding"),
                    "it would be said of what the client has"
                );
                assert!(tag == "*" || tag.ends_with(&field(&response, "etag")), "{tag}: {}", field(&response, "etag"));
            }
        }
    }
    // An edge that has nothing asks the origin by the origin's own tag.
    let (_other, fresh) = in_front_of(&origin).await;
    let passed = get(fresh, "/a", "gzip", &[("if-none-match", &seen), ("cache-control", "no-store")]).await;
    assert_eq!((passed.status(), field(&passed, "etag")), (StatusCode::NOT_MODIFIED, seen.clone()));
    let unread = get(fresh, "/a", "br", &[("if-none-match", &seen), ("cache-control", "no-store")]).await;
    assert_eq!(unread.status(), StatusCode::OK);
    assert!(encodings(admin).await <= 2, "no 304 needs a body");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_tells_what_get_would_and_makes_nothing() {
    let origin = page(50_000).await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let head = async |accepts: &'static str| ask(public, "HEAD", "/a", &[("accept-encoding", accepts)]).await;
    // Cold, it asks the origin.
    for round in 0..2 {
        let coded = head("br").await;
        let fields = ["content-encoding", "etag", "content-length"].map(|name| field(&coded, name));
        assert_eq!(fields, ["br", "W/\"v~br\"", ""], "{round}");
        assert_varies(&coded);
        assert_eq!(field(&head("identity").await, "content-length"), "50000");
        super::kept(public, "/a").await;
    }
    assert_eq!(encodings(admin).await, 0);
    let kept = variant(public, "/a", "br").await;
    let coded = head("br").await;
    assert_eq!(
        ["etag", "content-length"].map(|name| field(&coded, name)),
        ["etag", "content-length"].map(|name| field(&kept, name))
    );
}

/// An origin that codes by itself: for whom it fits, or, where it is deaf, for everybody.
async fn coding_origin(deaf: bool) -> Origin {
    let (page, gzip) = (text(40_000), coded(Coding::Gzip, &text(40_000)));
    Origin::start(move |asked: Asked| {
        let fits = deaf || asked.field("accept-encoding").split(", ").any(|coding| coding == "gzip");
        let mut response = answer(200, &PAGE, if fits { gzip.clone() } else { page.clone() });
        if fits {
            response.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            response.headers_mut().insert("etag", "\"vgz\"".parse().unwrap());
        }
        if !deaf {
            response.headers_mut().insert("vary", "Accept-Encoding".parse().unwrap());
        }
        response
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_origin_codes_is_passed_on_as_it_is() {
    let origin = coding_origin(false).await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    for accepts in ["gzip", "gzip;q=1.0", "GZIP , gzip"] {
        let gzip = get(public, "/a", accepts, &[]).await;
        assert_eq!((field(&gzip, "content-encoding").as_str(), field(&gzip, "etag").as_str()), ("gzip", "\"vgz\""));
        assert!(decoded("gzip", gzip.body()) == text(40_000));
        assert_varies(&gzip);
    }
    let plain = get(public, "/a", "identity", &[]).await;
    assert!(plain.body() == &text(40_000));
    // What the origin does not make, this edge does: of what it gives to those who read no coding.
    let br = get(public, "/a", "br", &[]).await;
    assert_eq!(field(&br, "content-encoding"), "br");
    assert!(decoded("br", br.body()) == text(40_000));
    let asked: Vec<_> = origin.asked().iter().map(|asked| asked.field("accept-encoding")).collect();
    assert_eq!(asked, ["gzip", "identity", "br"], "one for all who want the same");
    assert_eq!(encodings(admin).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_coding_gets_it_taken_off() {
    let origin = coding_origin(true).await;
    let (_edge, public) = in_front_of(&origin).await;
    for round in 0..3 {
        let plain = get(public, "/a", "identity", &[]).await;
        assert!(plain.body() == &text(40_000), "{round}");
        let said = ["content-encoding", "etag", "content-length"].map(|name| field(&plain, name));
        assert_eq!(said, ["", "W/\"vgz~identity\"", ""]);
        assert_varies(&plain);
        let gzip = get(public, "/a", "gzip", &[]).await;
        assert_eq!((field(&gzip, "etag").as_str(), field(&gzip, "content-encoding").as_str()), ("\"vgz\"", "gzip"));
    }
    let head = ask(public, "HEAD", "/a", &[("accept-encoding", "br")]).await;
    assert_eq!(["content-encoding", "content-length"].map(|name| field(&head, name)), ["", ""]);
    let same = get(public, "/a", "identity", &[("if-none-match", "W/\"vgz~identity\"")]).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    // A bomb breaks off where it is too large.
    let small = "\ncompression = { decoded_bytes_max = 10000 }";
    let (_edge, public, _) = edge_of_sites(&[&(site(&[&origin]) + small)]).await;
    let bomb = send(public, "GET", "/a", &[("accept-encoding", "identity")], empty()).await;
    assert!(bomb.into_body().collect().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_or_need_not_be_coded_is_left_as_it_is() {
    let origin = Origin::start(|asked: Asked| {
        let fields: &[(&str, &str)] = match asked.uri.path() {
            "/fixed" => &[("cache-control", "max-age=100, no-transform"), ("content-type", "text/html")],
            "/cookie" => &[PAGE[0], ("content-type", "text/html"), ("set-cookie", "a=b")],
            "/personal" => &[("cache-control", "private"), ("content-type", "text/html")],
            "/signed" => &[PAGE[0], ("content-type", "text/html"), ("signature-input", "a=(\"content-type\")")],
            "/image" => &[PAGE[0], ("content-type", "image/jpeg")],
            "/events" => &[PAGE[0], ("content-type", "text/event-stream")],
            "/coded" => &[PAGE[0], ("content-type", "text/html"), ("content-encoding", "deflate")],
            _ => &[PAGE[0], ("content-type", "text/html")],
        };
        answer(200, fields, if asked.uri.path() == "/small" { text(1000) } else { text(5000) })
    })
    .await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let paths = ["/fixed", "/cookie", "/personal", "/signed", "/image", "/events", "/coded", "/small"];
    for path in paths.iter().chain(&paths) {
        let response = get(public, path, BROWSER, &[]).await;
        let expected = if *path == "/coded" { "deflate" } else { "" };
        let said = (field(&response, "content-encoding"), field(&response, "vary"));
        assert_eq!(said, (expected.to_owned(), String::new()), "{path}");
        assert!([5000, 1000].contains(&response.body().len()));
    }
    let wish = get(public, "/page", BROWSER, &[("cache-control", "no-transform")]).await;
    assert_eq!((field(&wish, "content-encoding").as_str(), wish.body().len()), ("", 5000));
    assert_eq!(encodings(admin).await, 0);
    // A site may say otherwise.
    let other = "\ncompression = { codings = [\"gzip\"], personal = true, size_bytes_min = 10 }";
    let (_edge, public, _) = edge_of_sites(&[&(site(&[&origin]) + other)]).await;
    for path in ["/cookie", "/personal", "/small"] {
        let response = get(public, path, BROWSER, &[]).await;
        assert_eq!(field(&response, "content-encoding"), "gzip", "{path}");
    }
    let off = "\ncompression = { codings = [] }";
    let (_edge, public, _) = edge_of_sites(&[&(site(&[&origin]) + off)]).await;
    let plain = get(public, "/page", "br;q=0.5, x", &[]).await;
    assert_eq!((field(&plain, "content-encoding"), field(&plain, "vary")), (String::new(), String::new()));
    assert_eq!(origin.asked().last().unwrap().field("accept-encoding"), "br;q=0.5, x", "it is the client's own wish");
}
