//! A request as it is sent: its head, and how its body is framed (RFC 9112 sections 3, 6 and 7).

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TRAILER, UPGRADE};
use http::{HeaderMap, Method};
use hyper::body::Body as _;

use super::{Asked, OnInterim};
use crate::client::Body;
use crate::http1::{is_of_connection, write_fields, write_origin_line};

/// How the body of a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left; the head says how many there are.
    Counted(u64),
    /// In chunks.
    Chunked,
}

/// Why a request cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// Several lengths, or what is no number.
    #[error("the request states no valid length")]
    Length,
    /// What follows its answer would be no HTTP.
    #[error("this client opens no tunnels")]
    Tunnel,
    /// It has fewer bytes than it says.
    #[error("the body of the request is shorter than it says")]
    TooShort,
    /// It has more bytes than it says: they would be the next request.
    #[error("the body of the request is longer than it says")]
    TooLong,
}

/// A request that can be sent.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) head: Bytes,
    /// The body, with how it is framed; none where there is nothing to send.
    pub(super) body: Option<(Body, Framing)>,
    /// The body waits until the server wants it (RFC 9110 section 10.1.1).
    pub(super) expects: bool,
    /// Another protocol is asked for.
    pub(super) upgrades: bool,
    /// Whether the connection may be used again.
    pub(super) keeps_alive: bool,
    pub(super) on_interim: Option<OnInterim>,
}

impl Outgoing {
    /// A request as it goes to a server. `host` is what it says of it, whatever `asked` has for that; without `host`,
    /// `asked` has it.
    ///
    /// Fields of the connection are this side's: of `Connection` only whether it ends is heard, and how the body is
    /// framed follows from its length.
    pub(super) fn new(asked: &Asked<'_>, body: Body, host: Option<&HeaderValue>) -> Result<Self, Unsendable> {
        let Asked { method, path, headers, on_interim } = *asked;
        if method == Method::CONNECT {
            return Err(Unsendable::Tunnel);
        }
        let stated = stated_length(headers)?;
        let body = match (body.is_end_stream(), stated, body.size_hint().exact()) {
            (true, None | Some(0), _) | (false, None, Some(0)) | (false, Some(0), Some(0)) => None,
            (true, Some(_), _) => return Err(Unsendable::TooShort),
            (false, Some(stated), Some(exact)) if exact < stated => return Err(Unsendable::TooShort),
            (false, Some(stated), Some(exact)) if exact > stated => return Err(Unsendable::TooLong),
            (false, Some(length), _) | (false, None, Some(length)) => Some((body, Framing::Counted(length))),
            (false, None, None) => Some((body, Framing::Chunked)),
        };
        let closes = says_close(headers);
        let upgrades = headers.contains_key(UPGRADE);
        let expects = body.is_some() && expects(headers);
        let mut head = Vec::with_capacity(512);
        write_origin_line(&mut head, method, path);
        // RFC 9110 section 7.2: first, so that whoever routes by it need not look far.
        write_fields(&mut head, host.or_else(|| headers.get(HOST)).map(|host| (&HOST, host)));
        let framing = body.as_ref().map(|(_, framing)| *framing);
        let sent = |name: &HeaderName| {
            !is_of_connection(name)
                && *name != HOST
                && *name != CONTENT_LENGTH
                && (*name != TRAILER || framing == Some(Framing::Chunked))
                && (*name != EXPECT || expects)
        };
        write_fields(&mut head, headers.iter().filter(|(name, _)| sent(name)));
        match framing {
            Some(Framing::Counted(length)) => write_fields(&mut head, [(&CONTENT_LENGTH, &HeaderValue::from(length))]),
            Some(Framing::Chunked) => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            // RFC 9110 section 8.6: where a body would mean something, that there is none is said.
            None if stated.is_some() || expects_body(method) => {
                head.extend_from_slice(b"content-length: 0\r\n");
            }
            None => {}
        }
        // RFC 9110 section 7.8: the field is nothing without the option.
        match (closes, upgrades) {
            (false, false) => {}
            (true, false) => head.extend_from_slice(b"connection: close\r\n"),
            (_, true) => head.extend_from_slice(b"connection: upgrade\r\n"),
        }
        head.extend_from_slice(b"\r\n");
        let (method, on_interim) = (method.clone(), on_interim.cloned());
        Ok(Self { method, head: head.into(), body, expects, upgrades, keeps_alive: !closes, on_interim })
    }
}

/// RFC 9110 section 9.3: the methods whose requests have a body as a rule.
fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn stated_length(headers: &HeaderMap) -> Result<Option<u64>, Unsendable> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.as_bytes().iter().all(u8::is_ascii_digit);
    let number = value.to_str().ok().filter(|_| digits).and_then(|text| text.parse().ok());
    match (number, values.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(Unsendable::Length),
    }
}

fn options<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn says_close(headers: &HeaderMap) -> bool {
    options(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("close"))
}

fn expects(headers: &HeaderMap) -> bool {
    options(headers, &EXPECT).any(|expectation| expectation.eq_ignore_ascii_case("100-continue"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{empty, full};
    use http::Request;
    use http_body_util::{BodyExt as _, StreamBody};

    fn streamed() -> Body {
        StreamBody::new(futures_util::stream::pending()).boxed_unsync()
    }

    fn sent(method: &str, fields: &[(&str, &str)], body: Body) -> Result<(String, Option<Framing>), Unsendable> {
        let mut request = Request::builder().method(method).uri("/a?b");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let host = HeaderValue::from_static("origin");
        let (parts, body) = request.body(body).unwrap().into_parts();
        let outgoing = Outgoing::new(&Asked::of(&parts), body, Some(&host))?;
        let head = String::from_utf8(outgoing.head.to_vec()).unwrap();
        Ok((head, outgoing.body.map(|(_, framing)| framing)))
    }

    /// RFC 9110 section 8.6, RFC 9112 sections 6.1 and 6.2.
    #[test]
    fn what_frames_a_body_is_its_length_and_nothing_that_is_said_of_it() {
        use Framing::{Chunked, Counted};
        for (method, fields, body, head, framing) in [
            ("GET", &[][..], empty(), "", None),
            ("GET", &[("content-length", "0")], empty(), "content-length: 0\r\n", None),
            ("POST", &[], empty(), "content-length: 0\r\n", None),
            ("DELETE", &[], full("abc"), "content-length: 3\r\n", Some(Counted(3))),
            ("PUT", &[("content-length", "3")], full("abc"), "content-length: 3\r\n", Some(Counted(3))),
            ("PUT", &[("content-length", "9")], streamed(), "content-length: 9\r\n", Some(Counted(9))),
            ("GET", &[], streamed(), "transfer-encoding: chunked\r\n", Some(Chunked)),
            ("POST", &[("transfer-encoding", "gzip")], full("abc"), "content-length: 3\r\n", Some(Counted(3))),
            ("GET", &[("transfer-encoding", "chunked")], empty(), "", None),
            ("GET", &[("trailer", "a")], empty(), "", None),
            ("PUT", &[("trailer", "a")], streamed(), "trailer: a\r\ntransfer-encoding: chunked\r\n", Some(Chunked)),
            ("GET", &[("expect", "100-continue")], empty(), "", None),
            ("GET", &[("connection", "close, x"), ("host", "other")], empty(), "connection: close\r\n", None),
            (
                "GET",
                &[("connection", "upgrade"), ("upgrade", "a")],
                empty(),
                "upgrade: a\r\nconnection: upgrade\r\n",
                None,
            ),
        ] {
            let expected = format!("{method} /a?b HTTP/1.1\r\nhost: origin\r\n{head}\r\n");
            assert_eq!(sent(method, fields, body), Ok((expected, framing)), "{method} {fields:?}");
        }
    }

    #[test]
    fn a_request_whose_end_is_not_clear_is_not_sent() {
        for (lengths, body, error) in [
            (&["x"][..], empty(), Unsendable::Length),
            (&["+3"], full("abc"), Unsendable::Length),
            (&["3", "3"], full("abc"), Unsendable::Length),
            (&["3"], empty(), Unsendable::TooShort),
            (&["4"], full("abc"), Unsendable::TooShort),
            (&["2"], full("abc"), Unsendable::TooLong),
        ] {
            let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
            assert_eq!(sent("POST", &fields, body).unwrap_err(), error, "{lengths:?}");
        }
        assert_eq!(sent("CONNECT", &[], empty()).unwrap_err(), Unsendable::Tunnel);
    }
}
