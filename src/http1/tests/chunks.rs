//! Chunks, sized and broken.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::*;

/// The data, the trailers, and what is left behind the end; `None` while the body has not ended.
type Decoded = Result<(Vec<u8>, Option<(HeaderMap, usize)>), ChunkError>;

/// Decodes bytes that come in pieces of `size`.
pub(super) fn decode(bytes: &[u8], size: usize) -> Decoded {
    let mut decoder = ChunkDecoder::new();
    let mut data = Vec::new();
    let mut begin = 0;
    for end in (size..bytes.len()).step_by(size).chain([bytes.len()]) {
        loop {
            let decoded = decoder.decode(&bytes[begin..end])?;
            begin += decoded.framing;
            data.extend_from_slice(&bytes[begin..begin + decoded.data]);
            begin += decoded.data;
            if decoded.ended {
                return Ok((data, Some((decoder.into_trailers(), bytes.len() - begin))));
            }
            if decoded.data == 0 {
                assert_eq!(begin, end, "all is taken up when more is needed");
                break;
            }
        }
    }
    Ok((data, None))
}

/// What all pieces make of it.
fn decoded(text: &str) -> Decoded {
    let whole = decode(text.as_bytes(), text.len().max(1));
    for size in [1, 2, 3, 7] {
        assert_eq!(decode(text.as_bytes(), size), whole, "{text:?} in pieces of {size}");
    }
    whole
}

/// RFC 9112 section 7.1.
#[test]
fn chunks_are_those_of_rfc_9112() {
    use ChunkError::{Extension, LineEnd, Size};
    for (section, text, wanted) in [
        ("7.1", "5\r\nhello\r\n0\r\n\r\n", Ok(Some("hello"))),
        ("7.1", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", Ok(Some("hello world"))),
        ("7.1", "A\r\n0123456789\r\n000\r\n\r\n", Ok(Some("0123456789"))),
        ("7.1", "a\r\n0123456789\r\n0\r\n\r\n", Ok(Some("0123456789"))),
        ("7.1", "000000000000000a\r\n0123456789\r\n0\r\n\r\n", Ok(Some("0123456789"))),
        ("7.1", "0\r\n\r\n", Ok(Some(""))),
        ("7.1", "5\r\nhel", Ok(None)),
        ("7.1", "5\r\nhello\r\n0\r\n", Ok(None)),
        ("7.1", "00000000000000005\r\nhello\r\n0\r\n\r\n", Err(Size)),
        ("7.1", "10000000000000000\r\n", Err(Size)),
        ("7.1", "\r\n", Err(Size)),
        ("7.1", "x\r\n", Err(Size)),
        ("7.1", "-5\r\nhello\r\n", Err(Size)),
        ("7.1", "+5\r\nhello\r\n", Err(Size)),
        ("7.1", "0x5\r\nhello\r\n", Err(Size)),
        ("7.1", " 5\r\nhello\r\n", Err(Size)),
        ("7.1", "5 \r\nhello\r\n", Err(Extension)),
        ("7.1", "5,\r\nhello\r\n", Err(Size)),
        ("7.1", "5\nhello\r\n0\r\n\r\n", Err(LineEnd)),
        ("7.1", "5\r\nhello\n0\r\n\r\n", Err(LineEnd)),
        ("7.1", "5\r\nhello0\r\n\r\n", Err(LineEnd)),
        ("7.1", "5\r\nhello world\r\n0\r\n\r\n", Err(LineEnd)),
        ("7.1", "5\r\nhello\rX", Err(LineEnd)),
        ("7.1", "5\rX", Err(LineEnd)),
        ("7.1.1", "5;a=b\r\nhello\r\n0;c\r\n\r\n", Ok(Some("hello"))),
        ("7.1.1", "5 \t;a=\"b;\u{e4}\"\r\nhello\r\n0\r\n\r\n", Ok(Some("hello"))),
        ("7.1.1", "5;\r\nhello\r\n0\r\n\r\n", Ok(Some("hello"))),
        ("7.1.1", "5;a\nhello\r\n0\r\n\r\n", Err(LineEnd)),
        ("7.1.1", "5;a\rb\r\nhello\r\n0\r\n\r\n", Err(LineEnd)),
        ("7.1.1", "5;a\0\r\nhello\r\n0\r\n\r\n", Err(Extension)),
        ("7.1.2", "0\r\nA: b\r\n\r\n", Ok(Some(""))),
        ("7.1.2", "0\r\nA: b\n\r\n", Err(LineEnd)),
        ("7.1.2", "0\r\n\n", Err(LineEnd)),
        ("7.1.2", "0\r\nA : b\r\n\r\n", Err(ChunkError::Trailers(HeadError::FieldName))),
        ("7.1.2", "0\r\nA: b\r\n c\r\n\r\n", Err(ChunkError::Trailers(HeadError::FieldName))),
    ] {
        let found = decoded(text).map(|(data, end)| end.map(|_| String::from_utf8(data).unwrap()));
        assert_eq!(found, wanted.map(|data| data.map(str::to_owned)), "section {section}: {text:?}");
    }
}

#[test]
fn what_is_behind_a_body_is_left() {
    let (data, end) = decoded("1\r\na\r\n0\r\nX: 1\r\n\r\nGET / HTTP/1.1\r\n").unwrap();
    let (trailers, left) = end.unwrap();
    assert_eq!((data.as_slice(), trailers["x"].as_bytes(), left), (&b"a"[..], &b"1"[..], 16));
}

/// RFC 9110 section 6.5.1.
#[test]
fn trailers_that_would_change_the_message_are_dropped() {
    let text = "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil\r\nAuthorization: a\r\n\
        Set-Cookie: a\r\nCache-Control: no-store\r\nContent-Type: a\r\nConnection: close\r\nTrailer: a\r\nServer-Timing: b\r\n\r\n";
    let (_, end) = decoded(text).unwrap();
    let (trailers, _) = end.unwrap();
    let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-sum", "server-timing"]);

    let mut headers = trailers;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
    let mut out = Vec::new();
    write_trailers(&mut out, &headers);
    assert_eq!(String::from_utf8(out).unwrap(), "0\r\nx-sum: 1\r\nserver-timing: b\r\n\r\n");
}

#[test]
fn extensions_and_trailers_have_an_end() {
    let chunk = format!("1;{}\r\na\r\n", "x".repeat(1000));
    let error = decode(chunk.repeat(17).as_bytes(), 4096).unwrap_err();
    assert_eq!(error, ChunkError::ExtensionsTooLong);
    // Signed chunks carry about a hundred bytes for thousands: that goes on for ever.
    let signed = format!("1000;signature={}\r\n{}\r\n", "x".repeat(90), "a".repeat(4096));
    assert_eq!(decode(signed.repeat(500).as_bytes(), 4096).unwrap().0.len(), 500 * 4096);
    let endless = format!("0\r\n{}", "A: b\r\n".repeat(2000));
    assert_eq!(decode(endless.as_bytes(), 100).unwrap_err(), ChunkError::TrailersTooLong);
    let endless = format!("0\r\nA: {}", "b".repeat(9000));
    assert_eq!(decode(endless.as_bytes(), 1).unwrap_err(), ChunkError::TrailersTooLong);
    let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(101));
    assert_eq!(decode(many.as_bytes(), 100).unwrap_err(), ChunkError::Trailers(HeadError::TooManyFields));
}
