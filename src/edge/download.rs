//! The body of an answer that goes on elsewhere where it breaks off: at another node, or an origin.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, RANGE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::{Frame, SizeHint};

use super::Core;
use super::facts::Tally;
use super::fetch::Wanted;
use super::node_body::{NodeBody, NodeBodyError};
use super::resume::fetch_rest;
use super::site::Site;
use crate::model::NodeId;

/// What is still to come of a body, and how another node is asked for it.
#[derive(Debug, Clone)]
pub(super) enum Rest {
    /// These bytes of the representation with this strong entity tag (RFC 9110 section 14.2).
    Bytes {
        /// Where they stand in the representation.
        range: Range<u64>,
        /// The size of the representation.
        total: u64,
        /// Which one.
        etag: HeaderValue,
    },
    /// All but the first bytes of a body that nodes make alike for the same request: several ranges in one.
    Parts {
        /// How many bytes were sent on already.
        sent: u64,
        /// How many there are.
        length: u64,
        /// The media type, with the boundary.
        media_type: HeaderValue,
        /// Of which representation.
        etag: HeaderValue,
    },
    /// Nothing by which another node could be asked.
    Unknown,
}

impl Rest {
    /// All of the body of `response` to a request with this method.
    pub(super) fn of<B>(method: &Method, response: &Response<B>) -> Self {
        // The length that an answer to HEAD names is none of its own.
        if method == Method::HEAD {
            return Self::Unknown;
        }
        let field = |name: HeaderName| response.headers().get(name);
        let Some(etag) = field(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned() else {
            return Self::Unknown;
        };
        let number = |text: &str| text.parse::<u64>().ok();
        let length = || number(field(CONTENT_LENGTH)?.to_str().ok()?);
        let rest = match response.status() {
            StatusCode::OK => length().map(|total| Self::Bytes { range: 0..total, total, etag }),
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((range, total)) => Some(Self::Bytes { range, total, etag }),
                None => length().zip(field(CONTENT_TYPE).cloned()).map(|(length, media_type)| Self::Parts {
                    sent: 0,
                    length,
                    media_type,
                    etag,
                }),
            },
            _ => None,
        };
        rest.unwrap_or(Self::Unknown)
    }

    /// How many bytes are to come, if that is known.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes { range, .. } => Some(range.end - range.start),
            Self::Parts { sent, length, .. } => Some(length - sent),
            Self::Unknown => None,
        }
    }

    /// Whether all that was to come has come.
    fn is_over(&self) -> bool {
        self.length() == Some(0)
    }

    /// What is to be sent on of `bytes` of a node's body that begins with `skip` known ones: never more than is to
    /// come, whatever else the node sends.
    fn take(&mut self, mut bytes: Bytes, skip: &mut u64) -> Bytes {
        let known = (*skip).min(bytes.len() as u64);
        bytes.advance(known as usize);
        *skip -= known;
        if let Some(length) = self.length() {
            bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        }
        self.advance(bytes.len() as u64);
        bytes
    }

    /// So many bytes were sent on.
    fn advance(&mut self, bytes: u64) {
        match self {
            Self::Bytes { range, .. } => range.start = (range.start + bytes).min(range.end),
            Self::Parts { sent, length, .. } => *sent = (*sent + bytes).min(*length),
            Self::Unknown => {}
        }
    }

    /// The headers that ask for it, where the body was asked for with those of `first`. Of another representation no
    /// byte is wanted, so it is If-Match rather than If-Range.
    pub(super) fn headers(&self, first: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            Self::Bytes { range, etag, .. } => {
                let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
                headers.insert(RANGE, HeaderValue::try_from(range).expect("digits are visible ASCII"));
                headers.insert(IF_MATCH, etag.clone());
            }
            Self::Parts { etag, .. } => {
                headers.extend(first.get(RANGE).map(|range| (RANGE, range.clone())));
                headers.insert(IF_MATCH, etag.clone());
            }
            Self::Unknown => {}
        }
        headers
    }

    /// Whether the body of `response` is what was asked for.
    pub(super) fn is_answered_by<B>(&self, response: &Response<B>) -> bool {
        match (self, Self::of(&Method::GET, response)) {
            (
                Self::Bytes { range, total, etag },
                Self::Bytes { range: given, total: given_total, etag: given_etag },
            ) => {
                response.status() == StatusCode::PARTIAL_CONTENT
                    && (range, total, etag) == (&given, &given_total, &given_etag)
            }
            (
                Self::Parts { length, media_type, etag, .. },
                Self::Parts { length: given_length, media_type: given_type, etag: given_etag, .. },
            ) => (length, media_type, etag) == (&given_length, &given_type, &given_etag),
            _ => false,
        }
    }
}

/// The bytes and the size that a `Content-Range` names (RFC 9110 section 14.4).
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let (range, total) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then(|| (first..last + 1, total))
}

/// Who is asked for the rest of a body.
#[derive(Clone)]
pub(super) enum Further {
    /// The nodes, for this.
    Nodes(Arc<Wanted>),
    /// The origins of a site, for this target with these headers.
    Origins(Arc<Site>, PathAndQuery, Arc<HeaderMap>),
}

type Resuming = Pin<Box<dyn Future<Output = Option<NodeBody>> + Send>>;

/// The body of an answer, from one node after the other.
pub(super) struct Download {
    core: Arc<Core>,
    further: Further,
    rest: Rest,
    /// `None` between one that broke off and the next: a node that failed is let go at once, for what it holds of the
    /// edge is free for others from then on.
    body: Option<NodeBody>,
    /// Bytes at the begin of the node's body that the client has already.
    skip: u64,
    /// The nodes that broke off, the last one last.
    failed: Vec<NodeId>,
    /// Why the last node broke off, while another one is looked for.
    resuming: Option<(NodeBodyError, Resuming)>,
    /// For whom it is fetched.
    tally: Arc<Tally>,
}

impl Download {
    pub(super) fn new(core: Arc<Core>, further: Further, mut body: NodeBody, rest: Rest, tally: Arc<Tally>) -> Self {
        body.count_for(&tally);
        Self { core, further, rest, body: Some(body), skip: 0, failed: Vec::new(), resuming: None, tally }
    }

    /// Has what comes from now on counted for another answer.
    pub(super) fn count_for(&mut self, tally: &Arc<Tally>) {
        self.tally = tally.clone();
        if let Some(body) = &mut self.body {
            body.count_for(tally);
        }
    }

    /// How often another node went on.
    pub(super) const fn resumed(&self) -> usize {
        self.failed.len()
    }

    /// Looks for another node, where there is a way to ask it.
    fn resume(&mut self, error: NodeBodyError) -> Result<(), NodeBodyError> {
        let Some(body) = self.body.take() else { return Err(error) };
        // A body that ends too often is not worth the nodes' trouble.
        if self.rest.length().is_none_or(|length| length == 0) || self.failed.len() >= self.core.config.tries_max.get()
        {
            return Err(error);
        }
        self.failed.push(body.node().clone());
        drop(body);
        let (core, rest, failed) = (self.core.clone(), self.rest.clone(), self.failed.clone());
        let resuming: Resuming = match self.further.clone() {
            Further::Nodes(wanted) => Box::pin(fetch_rest(core, wanted, rest, failed)),
            Further::Origins(site, target, headers) => Box::pin(site.fetch_rest(core, target, headers, rest, failed)),
        };
        self.resuming = Some((error, resuming));
        Ok(())
    }
}

impl hyper::body::Body for Download {
    type Data = Bytes;
    type Error = NodeBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NodeBodyError>>> {
        let this = &mut *self;
        loop {
            if let Some((_, resuming)) = &mut this.resuming {
                let body = ready!(resuming.as_mut().poll(cx));
                match (body, this.resuming.take()) {
                    (Some(mut body), _) => {
                        body.count_for(&this.tally);
                        this.tally.goes_on();
                        this.skip = if let Rest::Parts { sent, .. } = this.rest { sent } else { 0 };
                        this.body = Some(body);
                    }
                    (None, error) => return Poll::Ready(error.map(|(error, _)| Err(error))),
                }
            }
            let Some(body) = this.body.as_mut().filter(|_| !this.rest.is_over()) else { return Poll::Ready(None) };
            let error = match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers have no meaning here.
                    let Ok(bytes) = frame.into_data() else { continue };
                    let bytes = this.rest.take(bytes, &mut this.skip);
                    if bytes.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => error,
                None => match this.rest.length() {
                    Some(missing) => NodeBodyError::TooShort(missing),
                    None => return Poll::Ready(None),
                },
            };
            if let Err(error) = this.resume(error) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match (&self.rest, &self.body) {
            (Rest::Unknown, Some(body)) => body.is_end_stream(),
            (Rest::Unknown, None) => true,
            (rest, _) => rest.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let of_node = || self.body.as_ref().map_or_else(SizeHint::default, hyper::body::Body::size_hint);
        self.rest.length().map_or_else(of_node, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(HeaderName, &'static str)]) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    fn asked(rest: &Rest) -> (String, String) {
        let first = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-1,5-6"))]);
        let headers = rest.headers(&first);
        let text = |name| headers.get(name).map_or("", |value: &HeaderValue| value.to_str().expect("text")).to_owned();
        (text(RANGE), text(IF_MATCH))
    }

    #[test]
    fn the_rest_is_asked_for_by_range_under_the_same_tag() {
        let whole = response(200, &[(ETAG, "\"a\""), (CONTENT_LENGTH, "10")]);
        let part = response(206, &[(ETAG, "\"a\""), (CONTENT_LENGTH, "4"), (CONTENT_RANGE, "bytes 5-8/10")]);
        for (first, sent, range) in [(&whole, 0, "bytes=0-9"), (&whole, 7, "bytes=7-9"), (&part, 1, "bytes=6-8")] {
            let mut rest = Rest::of(&Method::GET, first);
            rest.advance(sent);
            assert_eq!(asked(&rest), (range.to_owned(), "\"a\"".to_owned()));
        }
    }

    #[test]
    fn no_more_is_taken_than_is_to_come() {
        let part = response(206, &[(ETAG, "\"a\""), (CONTENT_RANGE, "bytes 5-8/10")]);
        let (mut rest, mut skip) = (Rest::of(&Method::GET, &part), 3);
        for (given, taken, left) in [("ab", "", 4), ("cde", "de", 2), ("", "", 2), ("fghi", "fg", 0), ("j", "", 0)] {
            assert_eq!(rest.take(Bytes::from_static(given.as_bytes()), &mut skip), taken);
            assert_eq!((rest.length(), rest.is_over()), (Some(left), left == 0));
        }
        let mut unknown = Rest::Unknown;
        assert_eq!(unknown.take(Bytes::from_static(b"ab"), &mut 0), "ab");
        assert!(!unknown.is_over());
    }

    #[test]
    fn an_answer_to_head_has_no_body_whatever_length_it_names() {
        let head = response(200, &[(ETAG, "\"a\""), (CONTENT_LENGTH, "10")]);
        assert_eq!(Rest::of(&Method::GET, &head).length(), Some(10));
        assert_eq!(Rest::of(&Method::HEAD, &head).length(), None);
    }

    #[test]
    fn only_the_same_bytes_answer_it() {
        let mut rest = Rest::of(&Method::GET, &response(200, &[(ETAG, "\"a\""), (CONTENT_LENGTH, "10")]));
        rest.advance(7);
        let given =
            |status, etag, range| response(status, &[(ETAG, etag), (CONTENT_LENGTH, "3"), (CONTENT_RANGE, range)]);
        assert!(rest.is_answered_by(&given(206, "\"a\"", "bytes 7-9/10")));
        for other in [
            given(206, "\"b\"", "bytes 7-9/10"),
            given(206, "\"a\"", "bytes 6-9/10"),
            given(206, "\"a\"", "bytes 7-9/11"),
            given(206, "W/\"a\"", "bytes 7-9/10"),
            given(200, "\"a\"", "bytes 7-9/10"),
            given(412, "\"a\"", "bytes 7-9/10"),
        ] {
            assert!(!rest.is_answered_by(&other), "{other:?}");
        }
    }

    #[test]
    fn several_parts_are_asked_for_again_and_skipped() {
        let parts = |boundary| response(206, &[(ETAG, "\"a\""), (CONTENT_LENGTH, "100"), (CONTENT_TYPE, boundary)]);
        let mut rest = Rest::of(&Method::GET, &parts("multipart/byteranges; boundary=x"));
        rest.advance(30);
        assert_eq!(asked(&rest), ("bytes=0-1,5-6".to_owned(), "\"a\"".to_owned()));
        assert_eq!(rest.length(), Some(70));
        assert!(rest.is_answered_by(&parts("multipart/byteranges; boundary=x")));
        assert!(!rest.is_answered_by(&parts("multipart/byteranges; boundary=y")));
    }

    #[test]
    fn without_a_strong_tag_or_a_length_there_is_no_way() {
        for first in [
            response(200, &[(CONTENT_LENGTH, "10")]),
            response(200, &[(ETAG, "W/\"a\""), (CONTENT_LENGTH, "10")]),
            response(200, &[(ETAG, "\"a\"")]),
            response(304, &[(ETAG, "\"a\""), (CONTENT_LENGTH, "10")]),
        ] {
            assert!(matches!(Rest::of(&Method::GET, &first), Rest::Unknown));
        }
    }
}
