//! The heads of answers, and the heads that are written.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::*;

fn length_of(method: &Method, head: &str) -> Result<(BodyLength, bool), HeadError> {
    let mut slots = Slots::new();
    let head = ResponseHead::parse(head.as_bytes(), &LIMITS, &mut slots)?.expect("it is whole");
    Ok((head.body(method)?, head.keeps_alive(method)))
}

/// RFC 9112 sections 6.3 and 9.3.
#[test]
fn the_length_of_an_answer_follows_its_request_status_and_fields() {
    use BodyLength::{Chunked, Empty, Exactly, UntilClose};
    let (get, head, connect) = (Method::GET, Method::HEAD, Method::CONNECT);
    for (case, method, answer, wanted) in [
        (1, &head, "1.1 200 OK\r\nContent-Length: 5", Ok((Empty, true))),
        (1, &head, "1.1 200 OK\r\nTransfer-Encoding: x", Ok((Empty, true))),
        (1, &get, "1.1 204 No Content\r\nContent-Length: 5", Ok((Empty, true))),
        (1, &get, "1.1 304 Not Modified\r\nContent-Length: 5", Ok((Empty, true))),
        (1, &get, "1.1 103 Early Hints\r\nLink: a", Ok((Empty, true))),
        (2, &connect, "1.1 200 OK\r\nContent-Length: 5", Ok((Empty, true))),
        (2, &connect, "1.1 403 Forbidden\r\nContent-Length: 5", Ok((Exactly(5), true))),
        (3, &get, "1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", Ok((Chunked, false))),
        (4, &get, "1.1 200 OK\r\nTransfer-Encoding: chunked", Ok((Chunked, true))),
        (4, &get, "1.1 200 OK\r\nTransfer-Encoding: gzip, chunked", Err(HeadError::CodingUnknown)),
        (4, &get, "1.1 200 OK\r\nTransfer-Encoding: gzip", Err(HeadError::CodingUnknown)),
        (4, &get, "1.1 200 OK\r\nTransfer-Encoding: x, GZip;q=1", Err(HeadError::CodingUnknown)),
        (4, &get, "1.1 200 OK\r\nTransfer-Encoding: x", Ok((UntilClose, false))),
        (4, &get, "1.1 200 OK\r\nTransfer-Encoding: x, chunked", Err(HeadError::CodingUnknown)),
        (4, &get, "1.1 200 OK\r\nTransfer-Encoding: x\r\nContent-Length: 5", Err(HeadError::TwoLengths)),
        (4, &get, "1.0 200 OK\r\nTransfer-Encoding: chunked", Err(HeadError::CodingInHttp10)),
        (5, &get, "1.1 200 OK\r\nContent-Length: 5, 6", Err(HeadError::ContentLength)),
        (6, &get, "1.1 200 OK\r\nContent-Length: 5", Ok((Exactly(5), true))),
        (6, &get, "1.0 200 OK\r\nContent-Length: 5", Ok((Exactly(5), false))),
        (6, &get, "1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive", Ok((Exactly(5), true))),
        (6, &get, "1.1 200 OK\r\nContent-Length: 5\r\nConnection: close", Ok((Exactly(5), false))),
        (8, &get, "1.1 200 OK\r\nA: b", Ok((UntilClose, false))),
        (0, &get, "1.1 101 Switching Protocols\r\nUpgrade: x", Ok((Empty, false))),
        (0, &get, "1.1 200\r\nContent-Length: 5", Ok((Exactly(5), true))),
        (0, &get, "1.1 200 \r\nContent-Length: 5", Ok((Exactly(5), true))),
        (0, &get, "1.1 2000 OK\r\nContent-Length: 5", Err(HeadError::StartLine)),
        (0, &get, "1.1 20 OK\r\nContent-Length: 5", Err(HeadError::StartLine)),
        (0, &get, "1.1  200 OK\r\nContent-Length: 5", Err(HeadError::StartLine)),
        (0, &get, "1.1 200 O\0K\r\nContent-Length: 5", Err(HeadError::StartLine)),
        (0, &get, "2.0 200 OK\r\nContent-Length: 5", Err(HeadError::Version)),
        (0, &get, "1.1 200 OK\r\nA : b", Err(HeadError::FieldName)),
        (0, &get, "1.1 200 OK\r\nA: b\r\n c", Err(HeadError::FieldName)),
        (0, &get, "1.1 200 OK\nA: b", Err(HeadError::LineEnd)),
    ] {
        assert_eq!(length_of(method, &format!("HTTP/{answer}\r\n\r\n")), wanted, "case {case}: {answer:?}");
    }
    let mut slots = Slots::new();
    assert_eq!(ResponseHead::parse(b"HTTX", &LIMITS, &mut slots).map(|_| ()), Err(HeadError::StartLine));
    assert!(ResponseHead::parse(b"HTTP/1.1 20", &LIMITS, &mut Slots::new()).unwrap().is_none());
}

#[test]
fn what_is_written_is_read_again() {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, HeaderValue::from_static("\"a\""));
    headers.append(header::VARY, HeaderValue::from_static("b"));
    headers.append(header::VARY, HeaderValue::from_bytes(b"c \xe4").unwrap());
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    let block = Block::new(StatusCode::NOT_FOUND, &headers);
    let mut extra = Extra::new();
    extra.push_number(&header::AGE, 0).unwrap();
    extra.push_number(&header::CONTENT_LENGTH, 18_446_744_073_709_551_615).unwrap();
    extra.push(&header::WARNING, &HeaderValue::from_static("w")).unwrap();
    let end = HeadEnd::new(&extra, Some(b"Sun, 06 Nov 1994 08:49:37 GMT"), Persistence::Close);
    let written = [&block.lines().concat(), end.bytes()].concat();
    let mut slots = Slots::new();
    let read = ResponseHead::parse(&written, &LIMITS, &mut slots).unwrap().unwrap();
    assert_eq!((read.status(), read.length()), (StatusCode::NOT_FOUND, written.len()));
    assert!(!read.keeps_alive(&Method::GET) && !block.has_date());
    let parts = read.to_parts().unwrap();
    assert_eq!(parts.headers.get_all(header::VARY).iter().collect::<Vec<_>>(), [&b"b"[..], b"c \xe4"]);
    for (name, value) in [
        ("etag", "\"a\""),
        ("age", "0"),
        ("content-length", "18446744073709551615"),
        ("warning", "w"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("connection", "close"),
    ] {
        assert_eq!(parts.headers[name], value, "{name}");
    }
    assert!(!parts.headers.contains_key(header::TRANSFER_ENCODING), "it is of another connection");
    // The same without lines.
    assert_eq!(block.status(), StatusCode::NOT_FOUND);
    let fields = block.fields();
    let all: Vec<_> = fields.get_all(header::VARY).iter().map(HeaderValue::as_bytes).collect();
    assert_eq!((all, fields.len()), (vec![&b"b"[..], b"c \xe4"], 3));
    let own: Vec<_> = extra.fields().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
    assert_eq!(own, ["age=0", "content-length=18446744073709551615", "warning=w"]);
    headers.insert(header::DATE, HeaderValue::from_static("x"));
    assert!(Block::new(StatusCode::OK, &headers).has_date());
}

#[test]
fn a_part_and_what_was_not_modified_are_told_by_lines_of_the_whole() {
    let text = "content-type: a\r\netag: \"b\"\r\ncontent-length: 7\r\naccept-ranges: bytes\r\ndate: c\r\ncontent-range: d\r\n\
                vary: e\r\ncontent-encoding: f\r\nvary: g\r\n";
    let fields: Vec<_> = text.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()));
    let block = Block::new(StatusCode::OK, &fields.collect::<HeaderMap>());
    let of_all = ["date", "etag", "vary", "vary"];
    let of_part = ["accept-ranges", "content-encoding", "content-type"];
    let of_whole = ["content-length", "content-range"];
    for (block, status, mut expected) in [
        (block.clone(), 200, [&of_all[..], &of_part, &of_whole].concat()),
        (block.of_part(), 206, [&of_all[..], &of_part].concat()),
        (block.not_modified(), 304, of_all.to_vec()),
    ] {
        expected.sort_unstable();
        let written = [&block.lines().concat(), &b"\r\n"[..]].concat();
        let mut slots = Slots::new();
        let read = ResponseHead::parse(&written, &LIMITS, &mut slots).unwrap().unwrap();
        let names = |fields: HeaderMap| {
            let mut names: Vec<_> = fields.iter().map(|(name, _)| name.as_str().to_owned()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!((read.status().as_u16(), block.status().as_u16()), (status, status));
        assert_eq!(names(read.to_parts().unwrap().headers), expected, "{status}");
        let expected = expected.into_iter().map(ToOwned::to_owned).collect();
        assert_eq!((names(block.fields()), block.has_date()), (expected, true), "{status}");
    }
}

#[test]
fn fields_of_one_answer_fit_or_are_refused() {
    let name = HeaderName::from_static("a");
    let mut extra = Extra::new();
    extra.push(&name, &HeaderValue::from_str(&"b".repeat(244)).unwrap()).unwrap();
    let before = extra.bytes().to_vec();
    assert_eq!(extra.push(&name, &HeaderValue::from_static("123")), Err(ExtraFull));
    assert_eq!(extra.bytes(), before);
    extra.push(&name, &HeaderValue::from_static("12")).unwrap();
    assert_eq!(extra.bytes().len(), 256);
    for persistence in [Persistence::Usual, Persistence::KeepAlive, Persistence::Close] {
        let end = HeadEnd::new(&extra, Some(&[b'd'; DATE_BYTES]), persistence);
        assert!(end.bytes().ends_with(b"\r\n\r\n") && end.bytes().starts_with(extra.bytes()), "{persistence:?}");
    }
}

/// RFC 9112 section 3.2.
#[test]
fn first_lines_of_requests_are_written_in_each_form() {
    for (method, uri, form, wanted) in [
        (Method::GET, "http://a.example:80/b?c", TargetForm::Origin, "GET /b?c HTTP/1.1\r\n"),
        (Method::GET, "http://a.example", TargetForm::Origin, "GET / HTTP/1.1\r\n"),
        (Method::GET, "http://a.example?c", TargetForm::Origin, "GET /?c HTTP/1.1\r\n"),
        (Method::GET, "/b", TargetForm::Origin, "GET /b HTTP/1.1\r\n"),
        (Method::GET, "https://a.example/b", TargetForm::Absolute, "GET https://a.example/b HTTP/1.1\r\n"),
        (Method::CONNECT, "a.example:443", TargetForm::Authority, "CONNECT a.example:443 HTTP/1.1\r\n"),
        (Method::OPTIONS, "http://a.example", TargetForm::Asterisk, "OPTIONS * HTTP/1.1\r\n"),
    ] {
        let mut out = Vec::new();
        write_request_line(&mut out, &method, &uri.parse::<Uri>().unwrap(), form);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), wanted, "section 3.2: {uri}");
        out.extend_from_slice(b"Host: a\r\n\r\n");
        let mut slots = Slots::new();
        let read = RequestHead::parse(&out, &LIMITS, &mut slots).unwrap().unwrap();
        assert_eq!(read.form(), form);
    }
}
