//! QUIC as the codec of HTTP/3 wants it: its traits over `quinn`.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use tokio::io::ReadBuf;

use super::super::streams::{Calm, FRAME_COST};
use super::frames::Frames;

/// How much is read at a time: some packets.
const READ_BYTES: usize = 8 * 1024;

/// Control frames are small; a client that never ends to send settings is none.
const CONTROL_FRAME_BYTES_MAX: u64 = 16 * 1024;

type Opened<T> = BoxStream<'static, Result<T, ConnectionError>>;

/// A connection.
pub(super) struct Connection {
    connection: quinn::Connection,
    head_bytes_max: u64,
    calm: Arc<Calm>,
    both_ways: Opened<(quinn::SendStream, quinn::RecvStream)>,
    one_way: Opened<quinn::RecvStream>,
    opener: Opener,
    /// Of the stream that was accepted last: the moment from which nothing that is sent on it matters, as the client has
    /// all or wants no more.
    pub(super) over: Option<BoxFuture<'static, ()>>,
}

/// What opens streams.
pub(super) struct Opener {
    connection: quinn::Connection,
    head_bytes_max: u64,
    calm: Arc<Calm>,
    both_ways: Option<Opened<(quinn::SendStream, quinn::RecvStream)>>,
    one_way: Option<Opened<quinn::SendStream>>,
}

/// A stream both ways.
pub(super) struct Both<B> {
    sending: SendStream<B>,
    receiving: RecvStream,
}

/// A stream, or the half of one, to the other side.
pub(super) struct SendStream<B> {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<B>>,
}

/// A stream, or the half of one, from the other side.
pub(super) struct RecvStream {
    stream: quinn::RecvStream,
    frames: Frames,
    connection: quinn::Connection,
    calm: Arc<Calm>,
}

impl Connection {
    /// One whose requests, or answers, have heads of up to so many bytes. What is for nothing counts in `calm`.
    pub(super) fn new(connection: quinn::Connection, head_bytes_max: u64, calm: Arc<Calm>) -> Self {
        let both_ways =
            stream::unfold(connection.clone(), |connection| async { Some((connection.accept_bi().await, connection)) });
        let one_way = stream::unfold(connection.clone(), |connection| async {
            Some((connection.accept_uni().await, connection))
        });
        let opener = Opener::new(&connection, head_bytes_max, &calm);
        let (both_ways, one_way) = (both_ways.boxed(), one_way.boxed());
        Self { connection, head_bytes_max, calm, both_ways, one_way, opener, over: None }
    }

    fn both<B: Buf>(&self, (sending, receiving): (quinn::SendStream, quinn::RecvStream)) -> Both<B> {
        Both::new(sending, receiving, &self.connection, self.head_bytes_max, &self.calm)
    }
}

impl Opener {
    fn new(connection: &quinn::Connection, head_bytes_max: u64, calm: &Arc<Calm>) -> Self {
        let (connection, calm) = (connection.clone(), calm.clone());
        Self { connection, head_bytes_max, calm, both_ways: None, one_way: None }
    }
}

impl<B: Buf> Both<B> {
    fn new(
        sending: quinn::SendStream,
        receiving: quinn::RecvStream,
        connection: &quinn::Connection,
        head_bytes_max: u64,
        calm: &Arc<Calm>,
    ) -> Self {
        let frames = Frames::of_request(head_bytes_max);
        let receiving = RecvStream { stream: receiving, frames, connection: connection.clone(), calm: calm.clone() };
        Self { sending: SendStream { stream: sending, writing: None }, receiving }
    }
}

impl<B: Buf> quic::Connection<B> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let stream = ready!(next(&mut self.one_way, cx)).map_err(of_connection)?;
        let frames = Frames::of_one_way(CONTROL_FRAME_BYTES_MAX);
        let (connection, calm) = (self.connection.clone(), self.calm.clone());
        Poll::Ready(Ok(RecvStream { stream, frames, connection, calm }))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both<B>, ConnectionErrorIncoming>> {
        let streams = ready!(next(&mut self.both_ways, cx)).map_err(of_connection)?;
        let over = streams.0.stopped();
        self.over = Some(Box::pin(async move {
            // Whether it was stopped, or acknowledged, or the connection is gone.
            let _ = over.await;
        }));
        Poll::Ready(Ok(self.both(streams)))
    }

    fn opener(&self) -> Opener {
        Opener::new(&self.connection, self.head_bytes_max, &self.calm)
    }
}

impl<B: Buf> quic::OpenStreams<B> for Connection {
    type BidiStream = Both<B>;
    type SendStream = SendStream<B>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both<B>, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream<B>, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<B>::close(&mut self.opener, code, reason);
    }
}

impl<B: Buf> quic::OpenStreams<B> for Opener {
    type BidiStream = Both<B>;
    type SendStream = SendStream<B>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both<B>, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.both_ways.get_or_insert_with(|| {
            stream::unfold(connection.clone(), |connection| async { Some((connection.open_bi().await, connection)) })
                .boxed()
        });
        let (sending, receiving) = ready!(next(opening, cx)).map_err(of_stream)?;
        Poll::Ready(Ok(Both::new(sending, receiving, connection, self.head_bytes_max, &self.calm)))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream<B>, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.one_way.get_or_insert_with(|| {
            stream::unfold(connection.clone(), |connection| async { Some((connection.open_uni().await, connection)) })
                .boxed()
        });
        let stream = ready!(next(opening, cx)).map_err(of_stream)?;
        Poll::Ready(Ok(SendStream { stream, writing: None }))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(number(code.value()), reason);
    }
}

impl<B: Buf> quic::BidiStream<B> for Both<B> {
    type SendStream = SendStream<B>;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream<B>, RecvStream) {
        (self.sending, self.receiving)
    }
}

impl<B: Buf> quic::SendStream<B> for Both<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sending.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.sending.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.sending.send_id()
    }
}

impl<B: Buf> quic::RecvStream for Both<B> {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receiving.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receiving.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receiving.recv_id()
    }
}

impl<B: Buf> quic::SendStream<B> for SendStream<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(writing) = &mut self.writing {
            while writing.has_remaining() {
                let written = Pin::new(&mut self.stream).poll_write(cx, writing.chunk());
                let written = ready!(written).map_err(|error| match error {
                    WriteError::Stopped(code) => {
                        StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
                    }
                    WriteError::ConnectionLost(error) => of_stream(error),
                    error => StreamErrorIncoming::Unknown(Box::new(error)),
                })?;
                writing.advance(written);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(StreamErrorIncoming::Unknown("a piece is on its way already".into()));
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        // One that has ended needs none.
        let _ = self.stream.reset(number(code));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            let mut scrap = [MaybeUninit::uninit(); READ_BYTES];
            let mut scrap = ReadBuf::uninit(&mut scrap);
            ready!(self.stream.poll_read_buf(cx, &mut scrap)).map_err(|error| match error {
                ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
                ReadError::ConnectionLost(error) => of_stream(error),
                error => StreamErrorIncoming::Unknown(Box::new(error)),
            })?;
            let read = scrap.filled();
            if read.is_empty() {
                if !self.frames.may_end() {
                    // RFC 9114 section 7.1. A part that the codec does not see could hide it.
                    return Poll::Ready(Err(self.close(Code::H3_FRAME_ERROR, "a stream ends within a frame")));
                }
                return Poll::Ready(Ok(None));
            }
            let mut out = BytesMut::with_capacity(read.len());
            if let Err(error) = self.frames.pass(read, &mut out) {
                return Poll::Ready(Err(self.close(Code::H3_EXCESSIVE_LOAD, &error.to_string())));
            }
            self.calm.spend(FRAME_COST * self.frames.take_idle());
            if self.calm.is_exhausted() {
                return Poll::Ready(Err(self.close(Code::H3_EXCESSIVE_LOAD, "too much is for nothing")));
            }
            if !out.is_empty() {
                return Poll::Ready(Ok(Some(out.freeze())));
            }
        }
    }

    fn stop_sending(&mut self, code: u64) {
        // One that has ended needs none.
        let _ = self.stream.stop(number(code));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for RecvStream {
    /// What nobody reads is not sent for nothing (RFC 9114 section 4.1). One that has ended, or was stopped, needs no word.
    fn drop(&mut self) {
        let _ = self.stream.stop(number(Code::H3_NO_ERROR.value()));
    }
}

impl RecvStream {
    fn close(&self, code: Code, reason: &str) -> StreamErrorIncoming {
        self.connection.close(number(code.value()), reason.as_bytes());
        StreamErrorIncoming::ConnectionErrorIncoming {
            connection_error: ConnectionErrorIncoming::Undefined(Arc::new(io::Error::other(reason.to_owned()))),
        }
    }
}

fn next<T>(streams: &mut Opened<T>, cx: &mut Context<'_>) -> Poll<Result<T, ConnectionError>> {
    streams.poll_next_unpin(cx).map(|next| next.unwrap_or(Err(ConnectionError::LocallyClosed)))
}

/// Codes of HTTP/3 are small numbers.
pub(super) fn number(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn id(id: quinn::StreamId) -> StreamId {
    VarInt::from(id).into_inner().try_into().expect("both count streams in 62 bits")
}

fn of_connection(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(closed) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: closed.error_code.into_inner() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn of_stream(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: of_connection(error) }
}
