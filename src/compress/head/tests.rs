//! Tests of the fields.

use super::*;
use crate::compress::{Accepted, Config, Encoder};

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

#[test]
fn the_form_is_what_the_field_says() {
    for (fields, expected) in [
        (&[][..], Form::Plain),
        (&[("content-encoding", "")], Form::Plain),
        (&[("content-encoding", "Identity")], Form::Plain),
        (&[("content-encoding", "zstd")], Form::Coded(Coding::Zstd)),
        (&[("content-encoding", "X-Gzip")], Form::Coded(Coding::Gzip)),
        (&[("content-encoding", "br, identity")], Form::Coded(Coding::Brotli)),
        (&[("content-encoding", "deflate")], Form::Foreign),
        (&[("content-encoding", "gzip, br")], Form::Foreign),
        (&[("content-encoding", "gzip"), ("content-encoding", "gzip")], Form::Foreign),
    ] {
        assert_eq!(Form::of(&headers(fields)), expected, "{fields:?}");
    }
}

#[test]
fn a_variant_has_none_of_the_fields_that_say_something_of_the_source_bytes() {
    let source = headers(&[
        ("content-type", "text/html"),
        ("content-length", "5000"),
        ("etag", "\"abc\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("accept-ranges", "bytes"),
        ("vary", "Origin"),
        ("content-md5", "AAAA"),
        ("digest", "md5=AAAA"),
        ("content-digest", "sha-256=:AAAA:"),
        ("repr-digest", "sha-256=:AAAA:"),
        ("unencoded-digest", "sha-256=:AAAA:"),
    ]);
    let mut streamed = source.clone();
    coded(&mut streamed, Coding::Gzip, None);
    let expected = headers(&[
        ("content-type", "text/html"),
        ("etag", "W/\"abc~gzip\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("vary", "Origin"),
        ("vary", "Accept-Encoding"),
        ("unencoded-digest", "sha-256=:AAAA:"),
        ("content-encoding", "gzip"),
    ]);
    assert_eq!(streamed, expected);

    let (bytes, made) = Encoder::whole(Coding::Gzip, Config::default().quick, &[b'a'; 5000]).expect("it is coded");
    let mut kept = source;
    coded(&mut kept, Coding::Gzip, Some(&made));
    assert_eq!(kept[CONTENT_LENGTH], bytes.len().to_string());
    assert_eq!(kept[ETAG], format!("\"abc~gzip~{}\"", made.fingerprint));
    assert_eq!(kept[ACCEPT_RANGES], "bytes");
}

#[test]
fn what_is_decoded_has_its_own_tag_and_no_coding() {
    let mut fields = headers(&[
        ("content-encoding", "gzip"),
        ("content-length", "50"),
        ("etag", "\"abc\""),
        ("repr-digest", "sha-256=:AAAA:"),
        ("accept-ranges", "bytes"),
    ]);
    decoded(&mut fields);
    assert_eq!(fields, headers(&[("etag", "W/\"abc~identity\""), ("vary", "Accept-Encoding")]));
}

#[test]
fn what_is_no_tag_is_dropped() {
    for tag in ["abc", "\"a\"b\"", "\"", "W/abc", ""] {
        let mut fields = HeaderMap::new();
        fields.insert(ETAG, HeaderValue::from_static(tag));
        coded(&mut fields, Coding::Zstd, None);
        assert!(!fields.contains_key(ETAG), "{tag}");
    }
}

#[test]
fn vary_loses_nothing_and_says_nothing_twice() {
    for (before, after) in [
        (&[][..], &["Accept-Encoding"][..]),
        (&["Origin, Accept"], &["Origin, Accept", "Accept-Encoding"]),
        (&["*"], &["*"]),
        (&["Origin", "accept-ENCODING"], &["Origin", "accept-ENCODING"]),
        (&["X-Accept-Encoding"], &["X-Accept-Encoding", "Accept-Encoding"]),
    ] {
        let pair = |line: &&'static str| (VARY, HeaderValue::from_static(line));
        let mut fields: HeaderMap = HeaderMap::new();
        before.iter().map(pair).for_each(|(name, value)| {
            fields.append(name, value);
        });
        vary(&mut fields);
        assert_eq!(fields.get_all(VARY).iter().collect::<Vec<_>>(), after, "{before:?}");
    }
}

#[test]
fn the_variant_that_is_said_to_be_sent_is_accepted_by_who_asked_for_it() {
    let mut request = HeaderMap::new();
    request.insert("accept-encoding", HeaderValue::from_static("br, gzip"));
    let accepted = Accepted::of(&request, &Coding::ALL);
    let mut fields = HeaderMap::new();
    coded(&mut fields, accepted.choose(crate::compress::Codings::ALL).expect("a coding"), None);
    assert_eq!(Form::of(&fields), Form::Coded(Coding::Brotli));
}
