//! A request as it is sent to the origins of a site.

use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};

use crate::client::{self, empty};
use crate::model::NodeId;
use crate::serve::http1::Interim;

type BodyError = Box<dyn Error + Send + Sync>;

/// A request for the origins. It may be sent more than once, as long as nobody has begun to read its body.
pub(in crate::edge) struct Outgoing {
    pub(in crate::edge) method: Method,
    /// The path and the query.
    pub(in crate::edge) target: PathAndQuery,
    /// All headers, `Host` included.
    pub(in crate::edge) headers: Arc<HeaderMap>,
    /// Who is told what the origin says before its answer.
    pub(in crate::edge) interim: Option<Interim>,
    /// Those that are asked last.
    pub(in crate::edge) rather_not: Vec<NodeId>,
    /// The URI, if a shield may be asked for it.
    pub(in crate::edge) by_shield: Option<Arc<str>>,
    /// The body, until somebody begins to read it; `None` if there is none.
    body: Option<Arc<Waiting>>,
}

struct Waiting {
    body: Mutex<Option<client::Body>>,
    /// It was found to be longer than is allowed.
    too_long: AtomicBool,
}

/// The body of a request is longer than is allowed.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request has more than {0} bytes")]
struct TooLong(u64);

impl Outgoing {
    /// A request without a body.
    pub(in crate::edge) const fn new(method: Method, target: PathAndQuery, headers: Arc<HeaderMap>) -> Self {
        Self { method, target, headers, interim: None, rather_not: Vec::new(), by_shield: None, body: None }
    }

    /// The same, for which a shield may be asked, if it has a URI for that.
    pub(in crate::edge) fn by_shield(mut self, uri: Option<Arc<str>>) -> Self {
        self.by_shield = uri;
        self
    }

    /// The same, for which these origins are asked after all others.
    pub(in crate::edge) fn rather_not(mut self, origins: Vec<NodeId>) -> Self {
        self.rather_not = origins;
        self
    }

    /// The same with `body`, of `bytes_max` at most.
    pub(super) fn with_body<B>(mut self, body: B, bytes_max: u64) -> Self
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        if !body.is_end_stream() {
            let waiting = Arc::new(Waiting { body: Mutex::new(None), too_long: AtomicBool::new(false) });
            let body = Bounded { body: Box::pin(body), left: bytes_max, bytes_max, waiting: waiting.clone() };
            *waiting.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(body.boxed_unsync());
            self.body = Some(waiting);
        }
        self
    }

    /// The same, with `interim` told what the origin says before its answer.
    pub(super) fn telling(mut self, interim: Option<&Interim>) -> Self {
        self.interim = interim.cloned();
        self
    }

    /// Whether there is a body.
    pub(super) const fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Whether all of it can still be sent.
    pub(super) fn is_whole(&self) -> bool {
        let untouched = |waiting: &Arc<Waiting>| lock(&waiting.body).is_some();
        self.body.as_ref().is_none_or(untouched)
    }

    /// Whether its body was found to be longer than is allowed.
    pub(super) fn is_too_long(&self) -> bool {
        self.body.as_ref().is_some_and(|waiting| waiting.too_long.load(Ordering::Relaxed))
    }

    /// The body, for whoever sends it: it is his once he reads it.
    pub(super) fn body(&self) -> client::Body {
        let Some(waiting) = &self.body else { return empty() };
        let hint = lock(&waiting.body).as_ref().map_or_else(SizeHint::default, hyper::body::Body::size_hint);
        Borrowed { waiting: waiting.clone(), taken: None, hint }.boxed_unsync()
    }
}

fn lock(body: &Mutex<Option<client::Body>>) -> std::sync::MutexGuard<'_, Option<client::Body>> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body that is taken by whoever reads it first.
struct Borrowed {
    waiting: Arc<Waiting>,
    taken: Option<client::Body>,
    hint: SizeHint,
}

impl hyper::body::Body for Borrowed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { waiting, taken, .. } = &mut *self;
        if taken.is_none() {
            *taken = lock(&waiting.body).take();
        }
        match taken {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.taken.as_ref().map_or_else(|| self.hint, hyper::body::Body::size_hint)
    }
}

/// A body of bounded length.
struct Bounded<B> {
    body: Pin<Box<B>>,
    left: u64,
    bytes_max: u64,
    waiting: Arc<Waiting>,
}

impl<B> hyper::body::Body for Bounded<B>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(self.body.as_mut().poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            match self.left.checked_sub(bytes) {
                Some(left) => self.left = left,
                None => {
                    self.waiting.too_long.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(TooLong(self.bytes_max).into())));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
