//! The head of an answer, and how its body is framed (RFC 9112 sections 6 and 7, RFC 9110 section 6.4.1).

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use hyper::body::SizeHint;

use crate::http1::{DATE_BYTES, Persistence, RequestHead, Version, is_of_connection, write_fields, write_status_line};
use crate::protocol::problem::{self, Problem};

/// What of a request an answer depends on.
#[derive(Debug, Clone, Copy)]
pub(in crate::serve) struct Asked {
    pub(in crate::serve) version: Version,
    pub(in crate::serve) is_head: bool,
    pub(in crate::serve) is_connect: bool,
    pub(in crate::serve) keeps_alive: bool,
    pub(in crate::serve) upgrades: bool,
    pub(in crate::serve) takes_trailers: bool,
}

impl Asked {
    pub(super) fn of(head: &RequestHead<'_>) -> Self {
        Self {
            version: head.version(),
            is_head: head.method() == "HEAD",
            is_connect: head.method() == "CONNECT",
            keeps_alive: head.keeps_alive(),
            upgrades: head.upgrades(),
            takes_trailers: head.takes_trailers(),
        }
    }
}

/// How the body of an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) enum Outgoing {
    /// Not at all.
    None,
    /// So many bytes.
    Counted(u64),
    /// In chunks, with trailers if the client takes them.
    Chunked { trailers: bool },
    /// To the end of the connection, to a client of HTTP/1.0.
    UntilClose,
}

/// Why the answer of a handler cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::serve) enum Unsendable {
    #[error("the handler answers with a status that is none")]
    Status,
    #[error("the handler states no valid length")]
    Length,
}

/// How the body of this answer is sent. `hint` is what the body says of its own length.
pub(in crate::serve) fn framing(
    status: StatusCode,
    headers: &HeaderMap,
    hint: &SizeHint,
    asked: &Asked,
) -> Result<Outgoing, Unsendable> {
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Unsendable::Status);
    }
    let stated = stated_length(headers)?;
    if asked.is_head || has_no_content(status) || changes_protocol(status, asked) {
        return Ok(Outgoing::None);
    }
    let trailers = asked.takes_trailers && headers.contains_key(header::TRAILER);
    Ok(match (stated.or(hint.exact()), asked.version) {
        // A body of known length has trailers too, if its handler announces them and did not state the length.
        (Some(_), Version::Http11) if trailers && stated.is_none() => Outgoing::Chunked { trailers },
        (Some(length), _) => Outgoing::Counted(length),
        (None, Version::Http11) => Outgoing::Chunked { trailers: asked.takes_trailers },
        (None, Version::Http10) => Outgoing::UntilClose,
    })
}

/// Whether bytes behind this answer are another protocol's.
pub(in crate::serve) fn changes_protocol(status: StatusCode, asked: &Asked) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || asked.is_connect && status.is_success()
}

/// RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
const fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

fn stated_length(headers: &HeaderMap) -> Result<Option<u64>, Unsendable> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.as_bytes().iter().all(u8::is_ascii_digit);
    let number = value.to_str().ok().filter(|_| digits).and_then(|text| text.parse().ok());
    match (number, values.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(Unsendable::Length),
    }
}

/// Whether the handler wants the connection to end with this answer.
pub(super) fn says_close(headers: &HeaderMap) -> bool {
    let options = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    options.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// The head of an answer with this framing, and whether the connection goes on.
pub(super) fn head(
    parts: &response::Parts,
    hint: &SizeHint,
    outgoing: Outgoing,
    asked: &Asked,
    keeps_alive: bool,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write_status_line(&mut out, parts.status);
    // RFC 9110 section 8.6: not where it could be taken for the length of what follows.
    let lengthless = parts.status == StatusCode::NO_CONTENT || changes_protocol(parts.status, asked);
    let chunked = matches!(outgoing, Outgoing::Chunked { .. });
    let trailers = matches!(outgoing, Outgoing::Chunked { trailers: true });
    let sent = |name: &HeaderName| {
        !is_of_connection(name)
            && (name != header::CONTENT_LENGTH || !lengthless)
            && (name != header::TRAILER || trailers)
    };
    write_fields(&mut out, parts.headers.iter().filter(|(name, _)| sent(name)));
    if let Some(length) = length_to_add(parts, hint, outgoing, asked) {
        write_fields(&mut out, [(&header::CONTENT_LENGTH, &HeaderValue::from(length))]);
    }
    if chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if !parts.headers.contains_key(header::DATE) {
        write_date(&mut out);
    }
    // RFC 9110 section 7.8: the field is nothing without the option.
    match (Persistence::of(keeps_alive, asked.version), parts.headers.contains_key(header::UPGRADE)) {
        (persistence, false) => out.extend_from_slice(persistence.line()),
        (Persistence::Close, true) if parts.status != StatusCode::SWITCHING_PROTOCOLS => {
            out.extend_from_slice(b"connection: close, upgrade\r\n");
        }
        (_, true) => out.extend_from_slice(b"connection: upgrade\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// The length that the handler left to be stated.
pub(in crate::serve) fn length_to_add(
    parts: &response::Parts,
    hint: &SizeHint,
    outgoing: Outgoing,
    asked: &Asked,
) -> Option<u64> {
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return None;
    }
    match outgoing {
        Outgoing::Counted(length) => Some(length),
        // Handlers often leave the body of an answer to HEAD empty: 0 is no fact then.
        Outgoing::None if asked.is_head && !has_no_content(parts.status) => hint.exact().filter(|length| *length > 0),
        // RFC 9110 section 15.3.6.
        Outgoing::None if parts.status == StatusCode::RESET_CONTENT => Some(0),
        _ => None,
    }
}

fn write_date(out: &mut Vec<u8>) {
    out.extend_from_slice(b"date: ");
    out.extend_from_slice(httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A whole answer, as it is sent.
pub(super) struct Refusal {
    pub(super) bytes: Vec<u8>,
    /// How many of them are the body's.
    pub(super) body_bytes: u64,
}

/// A whole answer that is a problem, after which the connection ends; with further `fields`.
pub(super) fn refusal(
    status: StatusCode,
    detail: &str,
    fields: &[(HeaderName, HeaderValue)],
    is_head: bool,
) -> Refusal {
    let body = Problem::new(status, detail).to_json();
    let mut out = Vec::with_capacity(512);
    write_status_line(&mut out, status);
    let length = HeaderValue::from(body.len());
    write_fields(
        &mut out,
        [
            (&header::CONTENT_TYPE, &HeaderValue::from_static(problem::MEDIA_TYPE)),
            (&header::CACHE_CONTROL, &HeaderValue::from_static("no-store")),
            (&header::CONTENT_LENGTH, &length),
        ],
    );
    write_fields(&mut out, fields.iter().map(|(name, value)| (name, value)));
    write_date(&mut out);
    out.extend_from_slice(Persistence::Close.line());
    out.extend_from_slice(b"\r\n");
    let body = if is_head { &[][..] } else { &body };
    out.extend_from_slice(body);
    Refusal { bytes: out, body_bytes: body.len() as u64 }
}

/// The time as it is sent, made once a second.
#[derive(Debug)]
pub(in crate::serve) struct Clock {
    second: u64,
    text: [u8; DATE_BYTES],
}

impl Clock {
    pub(in crate::serve) const fn new() -> Self {
        Self { second: u64::MAX, text: [b' '; DATE_BYTES] }
    }

    pub(in crate::serve) fn date(&mut self) -> &[u8; DATE_BYTES] {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if second != self.second {
            self.second = second;
            self.text.copy_from_slice(httpdate::fmt_http_date(now).as_bytes());
        }
        &self.text
    }
}
