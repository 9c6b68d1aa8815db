//! Hot answers where they are not sent as lines: the same head and the same bytes.

use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};

use super::super::http1::{Hot, HotAnswer, HotBody, HotFile, HotFiles, HotSent};
use super::super::witness::Watch;
use crate::http1::{Block, DATE_BYTES, Extra};

/// How much of a file is read at a time.
const READ_BYTES: u64 = 64 * 1024;

/// The head of a hot answer.
pub(in crate::serve) fn response_of(block: &Block, extra: &Extra, date: &[u8; DATE_BYTES]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = block.status();
    let headers = response.headers_mut();
    *headers = block.fields();
    for (name, value) in extra.fields() {
        headers.append(name, value);
    }
    if !block.has_date()
        && let Ok(date) = HeaderValue::from_bytes(date)
    {
        headers.insert(header::DATE, date);
    }
    response
}

/// The receipt of a hot answer, which goes back whatever becomes of the answer.
pub(in crate::serve) struct Receipted<H: Hot> {
    hot: Arc<H>,
    receipt: Option<H::Receipt>,
    status: StatusCode,
    begun: bool,
    watch: Option<Watch>,
    pub(in crate::serve) sent: HotSent,
}

impl<H: Hot> Receipted<H> {
    /// Takes an answer apart, to be sent.
    pub(in crate::serve) fn new(
        hot: Arc<H>,
        answer: HotAnswer<H::Receipt>,
        watch: Option<Watch>,
    ) -> (Self, Block, Extra, HotBody) {
        let HotAnswer { block, extra, body, receipt } = answer;
        let sent = HotSent { body_bytes: 0, complete: false, unreadable: false };
        let receipted = Self { hot, receipt: Some(receipt), status: block.status(), begun: false, watch, sent };
        (receipted, block, extra, body)
    }

    /// The head was handed on.
    pub(in crate::serve) fn begins(&mut self) {
        self.begun = true;
        if let Some(watch) = &mut self.watch {
            watch.begins();
        }
    }

    /// All of it was handed on.
    pub(in crate::serve) const fn complete(&mut self, body_bytes: u64) {
        self.begun = true;
        self.sent = HotSent { body_bytes, complete: true, unreadable: false };
    }
}

impl<H: Hot> Drop for Receipted<H> {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            if let Some(watch) = self.watch.take() {
                watch.end_hot(self.begun.then_some(self.status), self.sent, &receipt);
            }
            self.hot.sent(receipt, self.sent);
        }
    }
}

/// The bytes of a hot answer, as a body.
pub(in crate::serve) enum HotContent {
    Memory(Bytes),
    Files { files: HotFiles, position: u64, unreadable: Arc<AtomicBool> },
}

impl From<HotBody> for HotContent {
    fn from(body: HotBody) -> Self {
        match body {
            HotBody::None => Self::Memory(Bytes::new()),
            HotBody::Memory(bytes) => Self::Memory(bytes),
            HotBody::Files(files) => Self::Files { files, position: 0, unreadable: Arc::default() },
        }
    }
}

impl HotContent {
    /// Tells, once it was sent as far as it could be, whether that ended because a file could not be read.
    pub(in crate::serve) fn unreadable(&self) -> Arc<AtomicBool> {
        match self {
            Self::Memory(_) => Arc::default(),
            Self::Files { unreadable, .. } => unreadable.clone(),
        }
    }

    fn left(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Files { files, position, .. } => files.length() - position,
        }
    }
}

impl Body for HotContent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left() == 0 {
            return Poll::Ready(None);
        }
        let piece = match &mut *self {
            Self::Memory(bytes) => std::mem::take(bytes),
            Self::Files { files, position, unreadable } => {
                let Some(HotFile { file, offset, length }) = files.at(*position) else { return Poll::Ready(None) };
                let mut piece = BytesMut::zeroed(READ_BYTES.min(length) as usize);
                let read =
                    file.read_at(&mut piece, offset).inspect_err(|_| unreadable.store(true, Ordering::Relaxed))?;
                if read == 0 {
                    unreadable.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                }
                piece.truncate(read);
                *position += read as u64;
                piece.freeze()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}
