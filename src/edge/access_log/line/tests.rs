//! Lines, read back.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use proptest::prelude::{Strategy as _, any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::super::super::admin::Outcome;
use super::super::super::facts::{Tally, Way};
use super::*;
use crate::model::{ImageMode, Liveness, Node};
use crate::route::{Policy, Reason, Route};
use crate::serve::Left;

const ASKED: AskedFor<'static> = AskedFor {
    method: b"GET",
    host: b"a.example",
    target: b"/a?b=c",
    range: b"bytes=0-9",
    referer: b"https://b.example/?secret",
    user_agent: b"curl/8.5.0",
};

fn ended(asked: AskedFor<'_>) -> Ended<'_> {
    Ended {
        asked,
        version: Version::HTTP_2,
        secured: true,
        client: "[::ffff:192.0.2.77]:5000".parse().expect("an address"),
        begun: Instant::now(),
        first_byte: Some(Duration::from_micros(7)),
        whole: Duration::from_millis(2),
        status: Some(StatusCode::PARTIAL_CONTENT),
        body_bytes: 10,
        complete: true,
        left: Left::Nothing,
    }
}

/// The clock stands at 1,000,000,000.000042 s since 1970.
fn pen(format: Format, addresses: Addresses, query: bool, begun: Instant) -> Pen {
    let mut pen = Pen::new(format, addresses, query);
    (pen.clock.moment, pen.clock.unix_micros) = (begun, 1_000_000_000_000_042);
    pen
}

fn written(pen: &mut Pen, ended: &Ended<'_>, facts: Option<&Facts>) -> String {
    let mut out = Vec::new();
    pen.write(&mut out, ended, facts);
    String::from_utf8(out).expect("UTF-8")
}

fn json_of(ended: &Ended<'_>, facts: Option<&Facts>) -> Value {
    let line = written(&mut pen(Format::Json, Addresses::Full, true, ended.begun), ended, facts);
    assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
    serde_json::from_str(&line).expect("JSON")
}

fn way() -> Way {
    let node = Node {
        id: "GC".parse().expect("a name"),
        provider: "GC".parse().expect("a name"),
        address: "localhost:1".parse().expect("an address"),
        download: "localhost:2".parse().expect("an address"),
        images: ImageMode::Off,
    };
    let (price, time_s, score) = (None, None, None);
    let route = Route { node: node.into(), liveness: Liveness::Alive, price, time_s, score, reason: Reason::NextBest };
    let fetched = Tally::default();
    fetched.came(4096);
    fetched.goes_on();
    let policy = Policy::from_words("c", Some("0.5")).expect("a policy");
    Way { route, policy, passed: vec!["AWS".parse().expect("a name")], fetched: fetched.into() }
}

#[test]
fn a_line_of_json_has_all_that_is_known() {
    let facts = Facts {
        site: Some("shop".into()),
        outcome: Some(Outcome::Miss),
        way: Some(way().into()),
        fetched: None,
        size_bytes: Some(4096),
        coding: Some(HeaderValue::from_static("gzip")),
        ttl_seconds: Some(-3),
    };
    let expected = json!({
        "time": "2001-09-09T01:46:40.000042Z", "client": "192.0.2.77", "protocol": "2", "tls": true,
        "method": "GET", "host": "a.example", "target": "/a?b=c", "range": "bytes=0-9",
        "referer": "https://b.example/?secret", "user_agent": "curl/8.5.0",
        "status": 206, "bytes": 10, "complete": true, "first_byte_us": 7, "total_us": 2000,
        "site": "shop", "cache": "miss", "node": "GC", "reason": "next-best", "policy": "c 0.5", "tries": 2,
        "resumed": 1, "fetched_bytes": 4096, "size_bytes": 4096, "coding": "gzip", "ttl_s": -3,
    });
    assert_eq!(json_of(&ended(ASKED), Some(&facts)), expected);
}

#[test]
fn what_is_not_known_is_left_out() {
    let nothing =
        Ended { status: None, first_byte: None, complete: false, body_bytes: 0, ..ended(AskedFor::default()) };
    let expected = json!({
        "time": "2001-09-09T01:46:40.000042Z", "client": "192.0.2.77", "protocol": "2", "tls": true,
        "status": 499, "bytes": 0, "complete": false, "total_us": 2000,
    });
    assert_eq!(json_of(&nothing, None), expected);
}

#[test]
fn combined_lines_are_those_of_nginx() {
    let ended = ended(ASKED);
    let mut pen = pen(Format::Combined, Addresses::Full, true, ended.begun);
    let time = "[09/Sep/2001:01:46:40 +0000]";
    let line = written(&mut pen, &ended, None);
    let expected =
        format!("192.0.2.77 - - {time} \"GET /a?b=c HTTP/2.0\" 206 10 \"https://b.example/?secret\" \"curl/8.5.0\"\n");
    assert_eq!(line, expected);
    let hostile = AskedFor { user_agent: b"\" 200 1\n10.0.0.1 - -", target: b"/\\", referer: b"", ..ASKED };
    let line = written(&mut pen, &Ended { asked: hostile, ..ended }, None);
    let expected =
        format!("192.0.2.77 - - {time} \"GET /\\x5C HTTP/2.0\" 206 10 \"-\" \"\\x22 200 1\\x0A10.0.0.1 - -\"\n");
    assert_eq!(line, expected);
    let unread = Ended { asked: AskedFor::default(), version: Version::HTTP_11, ..ended };
    assert_eq!(written(&mut pen, &unread, None), format!("192.0.2.77 - - {time} \"-\" 206 10 \"-\" \"-\"\n"));
}

#[test]
fn addresses_and_queries_can_be_left_out() {
    let v6 = Ended { client: "[2001:db8:1:2::3]:5000".parse().expect("an address"), ..ended(ASKED) };
    for (addresses, query, client, target, referer) in [
        (Addresses::Full, true, json!("2001:db8:1:2::3"), "/a?b=c", "https://b.example/?secret"),
        (Addresses::Network, false, json!("2001:db8:1::"), "/a", "https://b.example/"),
        (Addresses::None, false, Value::Null, "/a", "https://b.example/"),
    ] {
        let line = written(&mut pen(Format::Json, addresses, query, v6.begun), &v6, None);
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&line["client"], &line["target"], &line["referer"]), (&client, &json!(target), &json!(referer)));
    }
    let line = written(&mut pen(Format::Combined, Addresses::Network, true, v6.begun), &ended(ASKED), None);
    assert!(line.starts_with("192.0.2.0 - - "), "{line}");
    let line = written(&mut pen(Format::Combined, Addresses::None, true, v6.begun), &ended(ASKED), None);
    assert!(line.starts_with("- - - ["), "{line}");
}

#[test]
fn the_time_is_that_of_the_request() {
    let (begun, mut out) = (Instant::now(), Vec::new());
    let mut pen = pen(Format::Json, Addresses::Full, true, begun);
    for (micros, expected) in [(0, "46:40.000042Z"), (-43, "46:39.999999Z"), (59_999_958, "47:40.000000Z")] {
        out.clear();
        let offset = Duration::from_micros(i64::unsigned_abs(micros));
        let at = if micros < 0 { begun.checked_sub(offset) } else { begun.checked_add(offset) };
        pen.write(&mut out, &Ended { begun: at.expect("a moment"), ..ended(ASKED) }, None);
        let line: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(line["time"], format!("2001-09-09T01:{expected}"));
    }
}

proptest! {
    #[test]
    fn every_line_comes_back_out_of_json(
        texts in proptest::array::uniform6(any::<Vec<u8>>()),
        numbers in any::<(u64, u32, u32)>(),
        status in proptest::option::of((100u16..1000).prop_map(|status| StatusCode::from_u16(status).unwrap())),
        flags in any::<(bool, bool)>(),
        client in any::<std::net::IpAddr>(),
    ) {
        let [method, host, target, range, referer, user_agent] = &texts;
        let asked = AskedFor { method, host, target, range, referer, user_agent };
        let whole = Duration::from_micros(u64::from(numbers.1));
        let ended = Ended {
            status, client: SocketAddr::new(client, 1), body_bytes: numbers.0, whole, complete: flags.0, secured: flags.1,
            ..ended(asked)
        };
        let line = json_of(&ended, None);
        let names = ["method", "host", "target", "range", "referer", "user_agent"];
        for (name, text) in names.into_iter().zip(&texts) {
            prop_assert_eq!(line[name].as_str().unwrap_or_default(), &String::from_utf8_lossy(text));
        }
        prop_assert_eq!(line["client"].as_str().expect("text").parse(), Ok(client.to_canonical()));
        prop_assert_eq!(line["bytes"].as_u64(), Some(numbers.0));
        prop_assert_eq!(line["total_us"].as_u64(), Some(u64::from(numbers.1)));
        prop_assert_eq!(line["status"].as_u64(), Some(u64::from(status.map_or(499, |status| status.as_u16()))));
        prop_assert_eq!((line["complete"].as_bool(), line["tls"].as_bool()), (Some(flags.0), Some(flags.1)));
        // Nobody who reads it as text takes it for two.
        let text = written(&mut pen(Format::Combined, Addresses::Full, true, ended.begun), &ended, None);
        prop_assert!(text.bytes().filter(|byte| !(b' '..=b'~').contains(byte)).eq(std::iter::once(b'\n')));
        prop_assert_eq!(text.matches('"').count(), 6);
    }
}
