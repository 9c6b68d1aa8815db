//! One request on the full path: its body comes and its answer goes, at the same time if the handler likes.

use std::error::Error;
use std::future::Future;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use hyper::body::Body;

use super::super::witness::Watch;
use super::answering::Answering;
use super::receiving::Receiving;
use super::upgrade::OnUpgrade;
use super::wire::Wire;

/// A request that is being answered.
pub(super) struct Exchange<F, B> {
    pub(super) receiving: Receiving,
    pub(super) answering: Answering<F, B>,
}

/// What becomes of the connection behind an answer.
pub(super) enum Behind {
    /// The next request.
    Next,
    /// Its end.
    Close {
        /// Something of the request was not read.
        unread: bool,
    },
    /// Its end, by which the client has to learn that something is missing.
    Reset,
    /// Another protocol, whose end is told.
    Upgrade(OnUpgrade, Option<Watch>),
}

impl<F, B, E> Exchange<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Runs both sides until the answer was sent and nothing more is read of the request.
    ///
    /// Nothing waits for a side that stands still: a client may send its body before it takes the answer, and a handler
    /// may answer before it takes the body.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire, stopping: bool) -> Poll<io::Result<Behind>> {
        loop {
            let mut progress = self.answering.poll(cx, wire, &mut self.receiving, stopping)?;
            let (begun, answered) = (self.answering.has_begun(), self.answering.is_done());
            progress |= self.receiving.poll(cx, wire, begun, answered)?;
            let sent = if wire.is_sent() { Poll::Pending } else { wire.poll_send(cx) };
            // Some of it may have gone out before an error.
            self.answering.tell_sent(wire);
            if let Poll::Ready(sent) = sent {
                sent?;
                progress = true;
            }
            if self.answering.is_done() && wire.is_sent() && self.receiving.is_over() {
                return Poll::Ready(Ok(self.behind()));
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    fn behind(&mut self) -> Behind {
        match self.answering.upgrade.take() {
            // What is behind an unfinished body is not the other protocol's.
            Some(upgrade) if self.receiving.is_done() => Behind::Upgrade(upgrade, self.answering.watch.take()),
            None if self.answering.keeps_alive && self.receiving.is_done() => Behind::Next,
            None if self.answering.cut_unnoticed => Behind::Reset,
            _ => Behind::Close { unread: !self.receiving.is_done() },
        }
    }
}
