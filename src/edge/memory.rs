//! Answers with what is kept, or comes for many: conditions and ranges (RFC 9110 sections 13 and 14).

use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
    RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::body::Inner;
use super::obtain::has_several_ranges;
use super::proxy::problem;
use super::several::{Piece, Several};
use super::slices::Walk;
use crate::cache::{Body, Head, Reader, Sliced, Stored};
use crate::http1::OF_CONTENT;
use crate::serve::condition::{self, Validators, Verdict};
use crate::serve::multipart;
use crate::serve::range::{self, Selection};

/// The most that is passed on at a time, so that the log does not count what nobody has taken.
const FRAME_BYTES_MAX: usize = 512 << 10;

/// The media type of parts of what has none (RFC 9110 section 8.3).
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// A part of an object in memory.
pub(super) struct Kept {
    bytes: Bytes,
}

impl Kept {
    /// The next bytes.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let size = self.bytes.len().min(FRAME_BYTES_MAX);
        (size > 0).then(|| self.bytes.split_to(size))
    }

    /// How many bytes are to come.
    pub(super) const fn left(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The answer to a request with `headers` for what is `stored` with this `head`: its own status, or 206, 304, 412 or 416. What
/// is in slices is given by `walk`.
pub(super) fn answer(
    stored: &Stored,
    head: &Head,
    method: &Method,
    headers: &HeaderMap,
    mut walk: impl FnMut(&Arc<Sliced>, Range<u64>) -> Walk,
) -> Response<Inner> {
    let size = stored.body.size();
    let mut response = Shape::of(head, size, method, headers).response(size, |part| part_of(stored, part, &mut walk));
    // It may have come without one: now it is known.
    if response.status() == StatusCode::OK {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from(size));
    }
    response
}

/// The bytes `part` of what is `stored`.
pub(super) fn part_of(
    stored: &Stored,
    part: Range<u64>,
    walk: &mut impl FnMut(&Arc<Sliced>, Range<u64>) -> Walk,
) -> Inner {
    match &stored.body {
        Body::Memory(bytes) => Inner::Kept(Kept { bytes: bytes.slice(part.start as usize..part.end as usize) }),
        Body::Sliced(sliced) => Inner::Sliced(Box::new(walk(sliced, part))),
    }
}

/// The answer to a request with `headers` with a `body` of unknown size, which has this `head`: all of it, or none.
pub(super) fn streamed(
    head: &Head,
    method: &Method,
    headers: &HeaderMap,
    body: impl FnOnce() -> Inner,
) -> Response<Inner> {
    let mut body = Some(body);
    let whole = |_| body.take().map_or_else(Inner::nothing, |body| body());
    // Conditions need no size; one byte stands for however many come.
    Shape::of(head, 1, method, &without_range(headers)).response(1, whole)
}

/// Whether a request with `headers` gets any bytes of what has this `head` and an unknown size.
pub(super) fn wants_bytes(head: &Head, method: &Method, headers: &HeaderMap) -> bool {
    !Shape::of(head, 1, method, &without_range(headers)).parts.is_empty()
}

/// The answer to a request with `headers` that reads along what comes with this `head`.
pub(super) fn along(reader: Reader, head: &Head, method: &Method, headers: &HeaderMap) -> Response<Inner> {
    // Parts of what nobody knows the size of are not given, and of what is read but once not several: the whole is a right
    // answer to those who want them.
    let whole = head.size.is_none() || has_several_ranges(headers);
    let headers = if whole { &without_range(headers) } else { headers };
    // Conditions need no size; one byte stands for however many come.
    let size = head.size.unwrap_or(1);
    let mut reader = Some(reader);
    Shape::of(head, size, method, headers).response(size, |part| match reader.take() {
        Some(mut reader) => {
            if head.size.is_some() {
                reader.restrict(part);
            }
            Inner::Shared(reader)
        }
        None => Inner::nothing(),
    })
}

/// One part that is everything.
fn all_of(size: u64) -> Vec<Range<u64>> {
    std::iter::once(0..size).collect()
}

fn without_range(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(RANGE);
    headers
}

/// What of an answer a request gets.
struct Shape {
    status: StatusCode,
    headers: HeaderMap,
    /// The parts of the body, none of which is empty.
    parts: Vec<Range<u64>>,
    /// What stands between them, if there are several.
    boundary: Option<Boundary>,
}

/// What stands between several parts.
struct Boundary {
    media_type: String,
    text: String,
}

impl Boundary {
    /// Of an object it is that of the nodes, so that they can go on where this edge has to stop. Of other things nobody knows
    /// it before, so nobody can have it in a part.
    fn of(head: &Head) -> Self {
        let field = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let random = || RandomState::new().hash_one(0);
        let text = match (head.version(), field(ETAG)) {
            (Some(_), Some(etag)) => multipart::boundary(etag),
            _ => format!("{:016x}{:016x}", random(), random()),
        };
        Self { media_type: field(CONTENT_TYPE).unwrap_or(UNKNOWN_TYPE).to_owned(), text }
    }

    fn pieces(&self, parts: &[Range<u64>], size: u64, mut part_of: impl FnMut(Range<u64>) -> Inner) -> Vec<Piece> {
        let (heads, end) = multipart::heads(parts, size, &self.media_type, &self.text);
        let pieces = heads.flat_map(|(head, part)| [Piece::Text(head.into()), Piece::Part(part_of(part))]);
        pieces.chain([Piece::Text(end.into())]).collect()
    }
}

impl Shape {
    fn of(head: &Head, size: u64, method: &Method, headers: &HeaderMap) -> Self {
        let mut answer = head.headers.clone();
        let (status, mut parts) = select(head, size, method, headers);
        let mut boundary = None;
        match status {
            StatusCode::PARTIAL_CONTENT => match parts.as_slice() {
                [part] => {
                    answer.insert(CONTENT_RANGE, content_range(part, size));
                    answer.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
                }
                _ => {
                    let between = Boundary::of(head);
                    let value = format!("multipart/byteranges; boundary={}", between.text);
                    answer.insert(CONTENT_TYPE, HeaderValue::try_from(value).expect("digits are visible ASCII"));
                    let length = Several::new(between.pieces(&parts, size, |_| Inner::nothing())).left()
                        + parts.iter().map(|part| part.end - part.start).sum::<u64>();
                    answer.insert(CONTENT_LENGTH, HeaderValue::from(length));
                    boundary = Some(between);
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let range = format!("bytes */{size}");
                answer.insert(CONTENT_RANGE, HeaderValue::try_from(range).expect("digits are visible ASCII"));
                answer.remove(CONTENT_LENGTH);
            }
            StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED => {
                for name in &OF_CONTENT {
                    answer.remove(name);
                }
            }
            _ => {}
        }
        parts.retain(|part| method != Method::HEAD && !part.is_empty());
        Self { status, headers: answer, parts, boundary }
    }

    /// The answer, with the parts of the body as `part_of` gives them: once, if there is one. What refuses the request says
    /// so in its own words.
    fn response(mut self, size: u64, part_of: impl FnMut(Range<u64>) -> Inner) -> Response<Inner> {
        if let StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE = self.status {
            let detail = match self.status {
                StatusCode::PRECONDITION_FAILED => "the object is not the one that the conditions name".to_owned(),
                _ => format!("there are {size} bytes"),
            };
            let mut response = problem(self.status, detail);
            response.headers_mut().extend(self.headers.remove(CONTENT_RANGE).map(|range| (CONTENT_RANGE, range)));
            return response;
        }
        let body = match (&self.boundary, self.parts.as_slice()) {
            (_, []) => Inner::nothing(),
            (Some(boundary), parts) => Inner::Several(Box::new(Several::new(boundary.pieces(parts, size, part_of)))),
            (None, _) => self.parts.drain(..).map(part_of).next().unwrap_or_else(Inner::nothing),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Which part of `size` bytes is sent (RFC 9110 section 14.4).
pub(super) fn content_range(part: &Range<u64>, size: u64) -> HeaderValue {
    let range = format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1));
    HeaderValue::try_from(range).expect("digits are visible ASCII")
}

/// What of an answer with this head and `size` bytes the conditions and the range in `headers` ask for: the status, and
/// the parts of the body that GET gets.
pub(super) fn select(head: &Head, size: u64, method: &Method, headers: &HeaderMap) -> (StatusCode, Vec<Range<u64>>) {
    // What a write was to be done on has changed with it.
    let reads = *method == Method::GET || *method == Method::HEAD;
    if headers.is_empty() || head.status != StatusCode::OK || !reads {
        return (head.status, all_of(size));
    }
    let field = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let date = |name| field(name).and_then(|date: &str| httpdate::parse_http_date(date).ok());
    let validators = Validators { etag: field(ETAG).unwrap_or_default(), modified: date(LAST_MODIFIED) };
    let verdict = if validators.modified.is_none() && headers.contains_key(IF_MODIFIED_SINCE) {
        // Where nobody says when it was modified, it was no later than when it was given; for this condition alone (RFC
        // 9111 section 4.3.2).
        let mut headers = headers.clone();
        headers.remove(IF_UNMODIFIED_SINCE);
        condition::evaluate(method, &headers, Some(Validators { modified: date(DATE), ..validators }))
    } else {
        condition::evaluate(method, headers, Some(validators))
    };
    match verdict {
        Verdict::Failed => return (StatusCode::PRECONDITION_FAILED, Vec::new()),
        Verdict::NotModified => return (StatusCode::NOT_MODIFIED, Vec::new()),
        Verdict::Go => {}
    }
    if !condition::range_applies(method, headers, validators) {
        return (StatusCode::OK, all_of(size));
    }
    let asked = headers.get(RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    match range::select(asked, size) {
        Selection::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, Vec::new()),
        Selection::Parts(parts) => (StatusCode::PARTIAL_CONTENT, parts),
        Selection::Whole => (StatusCode::OK, all_of(size)),
    }
}
