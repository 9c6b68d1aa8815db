//! The heads of requests.

use http::header::CONTENT_LENGTH;

use super::*;

/// First lines, each with a `Host`.
#[test]
fn first_lines_are_those_of_rfc_9112() {
    let long_method = "M".repeat(33);
    let method = "M".repeat(32);
    let long_target = format!("/{}", "a".repeat(256));
    let target = format!("/{}", "a".repeat(255));
    use HeadError::{MethodTooLong, StartLine, Target, TargetTooLong, Version};
    for (section, line, wanted) in [
        ("3", "GET / HTTP/1.1", Ok(())),
        ("3", "get / HTTP/1.1", Ok(())),
        ("3.1", "M-SEARCH / HTTP/1.1", Ok(())),
        ("3.1", &format!("{method} / HTTP/1.1"), Ok(())),
        ("3.1", &format!("{long_method} / HTTP/1.1"), Err(MethodTooLong)),
        ("3.1", "G@T / HTTP/1.1", Err(StartLine)),
        ("3.1", "GÄT / HTTP/1.1", Err(StartLine)),
        ("3", " / HTTP/1.1", Err(StartLine)),
        ("3", "GET  / HTTP/1.1", Err(StartLine)),
        ("3", "GET /  HTTP/1.1", Err(StartLine)),
        ("3", " GET / HTTP/1.1", Err(StartLine)),
        ("3", "GET / HTTP/1.1 ", Err(StartLine)),
        ("3", "GET\t/ HTTP/1.1", Err(StartLine)),
        ("3", "GET / a HTTP/1.1", Err(StartLine)),
        ("3", "GET /", Err(StartLine)),
        ("3", "GET", Err(StartLine)),
        ("2.3", "GET / HTTP/1.0", Ok(())),
        ("2.3", "GET / HTTP/1.2", Ok(())),
        ("2.3", "GET / HTTP/1.9", Ok(())),
        ("2.3", "GET / HTTP/0.9", Err(Version)),
        ("2.3", "GET / HTTP/2.0", Err(Version)),
        ("2.3", "PRI * HTTP/2.0", Err(Version)),
        ("2.3", "GET / http/1.1", Err(StartLine)),
        ("2.3", "GET / HTTP/1.10", Err(StartLine)),
        ("2.3", "GET / HTTP/11.1", Err(StartLine)),
        ("2.3", "GET / HTTP/1", Err(StartLine)),
        ("2.3", "GET / HTTP/1,1", Err(StartLine)),
        ("2.3", "GET / HTTPS/1.1", Err(StartLine)),
        ("3", &format!("GET {target} HTTP/1.1"), Ok(())),
        ("3", &format!("GET {long_target} HTTP/1.1"), Err(TargetTooLong)),
        ("3", &format!("GET {long_target}"), Err(TargetTooLong)),
        ("3.2.1", "GET /a?b=c&d HTTP/1.1", Ok(())),
        ("3.2.1", "GET //evil.example.org/a HTTP/1.1", Ok(())),
        ("3.2.1", "GET /ä HTTP/1.1", Ok(())),
        ("3.2.1", "GET a HTTP/1.1", Err(Target)),
        ("3.2.1", "GET ?a HTTP/1.1", Err(Target)),
        ("3.2.1", "GET /a#b HTTP/1.1", Err(Target)),
        ("3.2.1", "GET /a\x7fb HTTP/1.1", Err(Target)),
        ("3.2.1", "GET /a\0b HTTP/1.1", Err(Target)),
        ("3.2.1", "GET /a\rb HTTP/1.1", Err(Target)),
        ("3.2.1", "GET /<a> HTTP/1.1", Err(Target)),
        ("3.2.2", "GET http://a.example/b HTTP/1.1", Ok(())),
        ("3.2.2", "GET http://a.example HTTP/1.1", Ok(())),
        ("3.2.2", "GET http://a.example:80?q HTTP/1.1", Ok(())),
        ("3.2.2", "GET HTTP://[::1]:8080/ HTTP/1.1", Ok(())),
        ("3.2.2", "GET http:///b HTTP/1.1", Err(Target)),
        ("3.2.2", "GET http:/b HTTP/1.1", Err(Target)),
        ("3.2.2", "GET 1http://a/ HTTP/1.1", Err(Target)),
        ("3.2.2", "GET http://a:b/ HTTP/1.1", Err(Target)),
        ("3.2.2", "GET http://u@a.example/ HTTP/1.1", Err(Target)),
        ("3.2.3", "CONNECT a.example:443 HTTP/1.1", Ok(())),
        ("3.2.3", "CONNECT a.example HTTP/1.1", Err(Target)),
        ("3.2.3", "CONNECT a.example: HTTP/1.1", Err(Target)),
        ("3.2.3", "CONNECT :443 HTTP/1.1", Err(Target)),
        ("3.2.3", "CONNECT / HTTP/1.1", Err(Target)),
        ("3.2.3", "CONNECT http://a.example:443/ HTTP/1.1", Err(Target)),
        ("3.2.3", "GET a.example:443 HTTP/1.1", Err(Target)),
        ("3.2.4", "OPTIONS * HTTP/1.1", Ok(())),
        ("3.2.4", "GET * HTTP/1.1", Err(Target)),
    ] {
        let found = verdict(&format!("{line}\r\nHost: a\r\n\r\n")).map(|_| ());
        assert_eq!(found, wanted, "section {section}: {line:?}");
    }
}

#[test]
fn fields_are_those_of_rfc_9112() {
    use HeadError::{FieldName, FieldValue, Host, LineEnd, TooLarge, TooManyFields};
    let many = "A: 1\r\n".repeat(100);
    let large = format!("A: {}\r\n", "a".repeat(1100));
    for (section, fields, wanted) in [
        ("9112 5", "A: b\r\n", Ok(())),
        ("9112 5", "A:b\r\nB:\r\nC: \t \r\n", Ok(())),
        ("9110 5.6.2", "a!#$%&'*+-.^_`|~9: b\r\n", Ok(())),
        ("9110 5.5", "A: b\tc \u{e4}\r\n", Ok(())),
        ("9112 5.1", "A : b\r\n", Err(FieldName)),
        ("9112 5.1", "A\t: b\r\n", Err(FieldName)),
        ("9112 2.2", " A: b\r\n", Err(FieldName)),
        ("9112 5.2", "A: b\r\n c\r\n", Err(FieldName)),
        ("9112 5.2", "A: b\r\n\tc\r\n", Err(FieldName)),
        ("9110 5.1", ": b\r\n", Err(FieldName)),
        ("9110 5.1", "A(b): c\r\n", Err(FieldName)),
        ("9110 5.1", "\u{e4}: c\r\n", Err(FieldName)),
        ("9112 5", "A\r\n", Err(FieldName)),
        ("9110 5.5", "A: b\0c\r\n", Err(FieldValue)),
        ("9110 5.5", "A: b\x01c\r\n", Err(FieldValue)),
        ("9110 5.5", "A: b\x7fc\r\n", Err(FieldValue)),
        ("9110 5.5", "A: b\rc\r\n", Err(FieldValue)),
        ("9112 2.2", "A: b\r\r\n", Err(FieldValue)),
        ("9112 2.2", "A: b\nB: c\r\n", Err(LineEnd)),
        ("9112 2.2", "A: b\n", Err(LineEnd)),
        ("9112 2.2", "A:\nB: c\r\n", Err(LineEnd)),
        ("6585 5", &many, Err(TooManyFields)),
        ("6585 5", &large, Err(TooLarge)),
        ("9112 3.2", "Host: a\r\n", Err(Host)),
    ] {
        let found = verdict(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).map(|_| ());
        assert_eq!(found, wanted, "RFC {section}: {fields:?}");
    }
    assert_eq!(verdict("GET / HTTP/1.1\nHost: a\n\n"), Err(LineEnd));
    assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a\r\n\n"), Err(LineEnd));
    assert_eq!(verdict("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(LineEnd));
    assert_eq!(verdict("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(BodyLength::Empty), "RFC 9112 2.2");
}

/// RFC 9112 section 3.2 and RFC 9110 section 7.2.
#[test]
fn a_host_is_a_host_and_stands_once() {
    for good in ["a.example", "a.example:80", "a:", "", "127.0.0.1:8080", "[::1]", "[::1]:80", "a_b-c~%41!$&'()*+,;="] {
        assert_eq!(verdict(&format!("GET / HTTP/1.1\r\nHost: {good}\r\n\r\n")), Ok(BodyLength::Empty), "{good}");
    }
    for bad in
        ["a b", "a/b", "a,b c", "u@a", "a:b", "a:123456", "[::1", "[]", "[g::1]", "[::1]80", "a?b", "a#b", "ä", "a\\b"]
    {
        assert_eq!(verdict(&format!("GET / HTTP/1.1\r\nHost: {bad}\r\n\r\n")), Err(HeadError::Host), "{bad}");
    }
    assert_eq!(verdict("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::Host));
    assert_eq!(verdict("GET http://a/ HTTP/1.1\r\n\r\n"), Err(HeadError::Host));
    assert_eq!(verdict("GET / HTTP/1.0\r\n\r\n"), Ok(BodyLength::Empty));
    assert_eq!(verdict("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), Err(HeadError::Host));
}

/// RFC 9112 section 6.3.
#[test]
fn the_length_of_a_request_is_one_or_it_is_refused() {
    use BodyLength::{Chunked, Empty, Exactly};
    use HeadError::{CodingInHttp10, CodingUnframed, CodingUnknown, ContentLength, TwoLengths};
    for (case, fields, wanted) in [
        ("7", "", Ok(Empty)),
        ("6", "Content-Length: 0", Ok(Empty)),
        ("6", "Content-Length: 5", Ok(Exactly(5))),
        ("6", "content-LENGTH:\t005", Ok(Exactly(5))),
        ("6", "Content-Length: 18446744073709551615", Ok(Exactly(u64::MAX))),
        ("5", "Content-Length: 18446744073709551616", Err(ContentLength)),
        ("5", "Content-Length: 5, 5", Ok(Exactly(5))),
        ("5", "Content-Length: 5\r\nContent-Length: 5", Ok(Exactly(5))),
        ("5", "Content-Length: 5, 6", Err(ContentLength)),
        ("5", "Content-Length: 5\r\nContent-Length: 6", Err(ContentLength)),
        ("5", "Content-Length: 5,", Err(ContentLength)),
        ("5", "Content-Length:", Err(ContentLength)),
        ("5", "Content-Length: +5", Err(ContentLength)),
        ("5", "Content-Length: -5", Err(ContentLength)),
        ("5", "Content-Length: 5 5", Err(ContentLength)),
        ("5", "Content-Length: 0x5", Err(ContentLength)),
        ("5", "Content-Length: 5.0", Err(ContentLength)),
        ("5", "Content-Length: \u{ff15}", Err(ContentLength)),
        ("4", "Transfer-Encoding: chunked", Ok(Chunked)),
        ("4", "Transfer-Encoding: Chunked", Ok(Chunked)),
        ("4", "Transfer-Encoding: , chunked ,", Ok(Chunked)),
        ("4", "Transfer-Encoding: gzip, chunked", Err(CodingUnknown)),
        ("4", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", Err(CodingUnknown)),
        ("4", "Transfer-Encoding: chunked, gzip", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: chunked, chunked", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: gzip", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: identity", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: xchunked", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: chunked;q=1", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: \"chunked\"", Err(CodingUnframed)),
        ("4", "Transfer-Encoding: x;a=\", chunked", Err(CodingUnknown)),
        ("4", "Transfer-Encoding: x;a=\", chunked, \"", Err(CodingUnframed)),
        ("4", "Transfer-Encoding:", Err(CodingUnframed)),
        ("4", "Transfer-Encoding:\r\nTransfer-Encoding: chunked", Err(CodingUnframed)),
        ("3", "Content-Length: 5\r\nTransfer-Encoding: chunked", Err(TwoLengths)),
        ("3", "Transfer-Encoding: chunked\r\nContent-Length: 5", Err(TwoLengths)),
        ("3", "Transfer-Encoding: x\r\nContent-Length: 5", Err(TwoLengths)),
        ("3", "Transfer-Encoding:\r\nContent-Length: 0", Err(TwoLengths)),
        ("4", "Transfer_Encoding: chunked", Ok(Empty)),
    ] {
        let with_line_end = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
        let found = verdict(&format!("POST / HTTP/1.1\r\nHost: a\r\n{with_line_end}\r\n"));
        assert_eq!(found, wanted, "case {case}: {fields:?}");
    }
    // Section 6.1.
    assert_eq!(verdict("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(CodingInHttp10));
    assert_eq!(verdict("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n"), Ok(Exactly(5)));
}

#[test]
fn what_a_head_says_is_known_of_its_view() {
    let mut slots = Slots::new();
    let text = "\r\nPUT http://b.example/p?q HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nTE: gzip, Trailers\r\n\
        Connection: x, Upgrade\r\nUpgrade: y\r\nX: 1\r\nx: 2\r\nContent-Length: 3, 3\r\n\r\nabcGET";
    let head = RequestHead::parse(text.as_bytes(), &LIMITS, &mut slots).unwrap().unwrap();
    assert_eq!((head.method(), head.target(), head.form()), ("PUT", "http://b.example/p?q", TargetForm::Absolute));
    assert_eq!((head.path_and_query(), head.host()), ("/p?q", "b.example"));
    assert_eq!((head.version(), head.length()), (Version::Http11, text.len() - 6));
    assert_eq!((head.body(), head.expectation()), (BodyLength::Exactly(3), Expectation::Continue));
    assert!(head.keeps_alive() && head.upgrades() && head.takes_trailers());
    assert_eq!(head.fields().all("X").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!((head.fields().first("host"), head.fields().len()), (Some(&b"a"[..]), 8));
    let parts = head.to_parts().unwrap();
    assert_eq!((parts.method.as_str(), parts.uri.path(), parts.version), ("PUT", "/p", http::Version::HTTP_11));
    assert_eq!(parts.headers.get_all(CONTENT_LENGTH).iter().collect::<Vec<_>>(), ["3"], "section 6.3 case 5");
    assert_eq!(parts.headers.get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
}

/// RFC 9112 section 9.3, RFC 9110 sections 7.8 and 10.1.1.
#[test]
fn connections_are_kept_as_their_version_says() {
    for (version, fields, keeps, upgrades, expectation) in [
        ("1.1", "", true, false, Expectation::None),
        ("1.1", "Connection: close\r\n", false, false, Expectation::None),
        ("1.1", "Connection: x, CLOSE\r\nConnection: keep-alive\r\n", false, false, Expectation::None),
        ("1.0", "", false, false, Expectation::None),
        ("1.0", "Connection: keep-alive\r\n", true, false, Expectation::None),
        ("1.0", "Connection: keep-alive, close\r\n", false, false, Expectation::None),
        ("1.1", "Connection: upgrade\r\nUpgrade: websocket\r\n", true, true, Expectation::None),
        ("1.1", "Connection: upgrade\r\n", true, false, Expectation::None),
        ("1.1", "Upgrade: websocket\r\n", true, false, Expectation::None),
        ("1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n", false, false, Expectation::None),
        ("1.1", "Expect: 100-continue\r\n", true, false, Expectation::Continue),
        ("1.0", "Expect: 100-continue\r\n", false, false, Expectation::None),
        ("1.1", "Expect: a-miracle\r\n", true, false, Expectation::Unknown),
        ("1.1", "Expect: a-miracle, 100-continue\r\n", true, false, Expectation::Unknown),
    ] {
        let mut slots = Slots::new();
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        let head = RequestHead::parse(text.as_bytes(), &LIMITS, &mut slots).unwrap().unwrap();
        let found = (head.keeps_alive(), head.upgrades(), head.expectation());
        assert_eq!(found, (keeps, upgrades, expectation), "{text:?}");
    }
}

#[test]
fn what_is_no_http_is_known_before_its_line_ends() {
    let parse = |bytes: &[u8]| {
        let mut slots = Slots::new();
        RequestHead::parse(bytes, &LIMITS, &mut slots).map(|head| head.is_some())
    };
    assert_eq!(parse(b"\x16\x03\x01\x02"), Err(HeadError::StartLine), "TLS");
    assert_eq!(parse(&[b'M'; 40]), Err(HeadError::MethodTooLong));
    assert_eq!(parse(&[&b"GET /"[..], &[b'a'; 400]].concat()), Err(HeadError::TargetTooLong));
    for whole in ["GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"] {
        for length in 0..whole.len() {
            assert_eq!(parse(&whole.as_bytes()[..length]), Ok(false), "{length}");
        }
    }
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "a".repeat(1024));
    assert_eq!(parse(endless.as_bytes()), Err(HeadError::TooLarge));
}
