//! Answers from the edge's memory: conditions and ranges (RFC 9110 sections 13 and 14) of an object that is there whole.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::cache::Stored;
use crate::serve::condition::{self, Validators, Verdict};
use crate::serve::range::{self, Selection};

/// The most that is passed on at a time, so that the log does not count what nobody has taken.
const FRAME_BYTES_MAX: usize = 512 << 10;

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

/// The answer to a request with `headers` for what is `stored`: 200, 206, 304, 412 or 416. A refusal has no body.
pub(super) fn answer(stored: &Stored, method: &Method, headers: &HeaderMap) -> Response<Kept> {
    let size = stored.body.len() as u64;
    let mut answer = stored.head.headers.clone();
    let (status, part) = if headers.is_empty() { (StatusCode::OK, 0..size) } else { select(stored, method, headers) };
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let range = format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1));
            answer.insert(CONTENT_RANGE, HeaderValue::try_from(range).expect("digits are visible ASCII"));
            answer.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let range = format!("bytes */{size}");
            answer.insert(CONTENT_RANGE, HeaderValue::try_from(range).expect("digits are visible ASCII"));
            answer.remove(CONTENT_LENGTH);
        }
        // Of the representation it says what tells whether it is the same (RFC 9110 section 15.4.5).
        StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED => {
            for name in [CONTENT_LENGTH, CONTENT_TYPE, ACCEPT_RANGES] {
                answer.remove(name);
            }
        }
        _ => {}
    }
    // Positions within what is in memory.
    let part = if method == Method::HEAD { 0..0 } else { part };
    let bytes = stored.body.slice(part.start as usize..part.end as usize);
    let mut response = Response::new(Kept { bytes });
    *response.status_mut() = status;
    *response.headers_mut() = answer;
    response
}

/// What of `stored` the conditions and the range in `headers` ask for.
fn select(stored: &Stored, method: &Method, headers: &HeaderMap) -> (StatusCode, Range<u64>) {
    let size = stored.body.len() as u64;
    let field = |name| stored.head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let modified = field(LAST_MODIFIED).and_then(|date| httpdate::parse_http_date(date).ok());
    let modified = modified.unwrap_or(SystemTime::UNIX_EPOCH);
    let validators = Validators { etag: field(ETAG).unwrap_or_default(), modified };
    match condition::evaluate(method, headers, Some(validators)) {
        Verdict::Failed => return (StatusCode::PRECONDITION_FAILED, 0..0),
        Verdict::NotModified => return (StatusCode::NOT_MODIFIED, 0..0),
        Verdict::Go => {}
    }
    if !condition::range_applies(method, headers, validators) {
        return (StatusCode::OK, 0..size);
    }
    let asked = headers.get(RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    match range::select(asked, size) {
        Selection::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
        Selection::Parts(parts) => match parts.as_slice() {
            [part] => (StatusCode::PARTIAL_CONTENT, part.clone()),
            // Several ranges are never asked for here; the whole is a right answer to them, too.
            _ => (StatusCode::OK, 0..size),
        },
        Selection::Whole => (StatusCode::OK, 0..size),
    }
}
