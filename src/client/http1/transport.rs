//! The bytes of one connection to a server, with or without TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::io::poll_read_buf;

/// How much is read at a time below TLS while there is much to read.
const GULP_BYTES: usize = 32 * 1024;

/// TCP as TLS reads it. A session asks for 4 KiB at a time, which would be four system calls for each record of a large
/// answer; this reads ahead for it, as long as there is more than it asks for.
pub(in crate::client) struct Gulping {
    tcp: TcpStream,
    ahead: BytesMut,
    /// What was asked for last was there in full.
    more: bool,
}

impl Gulping {
    pub(in crate::client) fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: BytesMut::new(), more: false }
    }
}

impl AsyncRead for Gulping {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() {
            if !this.more {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
                this.more = buf.remaining() == 0 && buf.filled().len() > before;
                return Poll::Ready(Ok(()));
            }
            this.ahead.reserve(GULP_BYTES);
            match poll_read_buf(Pin::new(&mut this.tcp), cx, &mut this.ahead) {
                Poll::Ready(Ok(read)) => this.more = read >= GULP_BYTES,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.more = false;
                    this.ahead = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
        let length = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead[..length]);
        this.ahead.advance(length);
        if this.ahead.is_empty() && !this.more {
            // A connection that waits holds nothing.
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gulping {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// The two kinds of connection.
pub(in crate::client) enum Transport {
    Plain(TcpStream),
    // A TLS session is large, and whoever holds a plain connection should not carry its size.
    Tls(Box<TlsStream<Gulping>>),
}

impl Transport {
    /// Whether what is written is on its way only once it was flushed.
    pub(super) const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_read(cx, buf).map_err(cut_off),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}

/// The failure to read on, in words for those who know nothing of how TLS ends a connection.
fn cut_off(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::UnexpectedEof => {
            io::Error::new(kind, "the other side closed the connection in the middle")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn a_connection_that_is_cut_off_is_told_in_plain_words() {
        let of_tls =
            io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed connection without sending TLS close_notify");
        let told = cut_off(of_tls);
        assert_eq!(told.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(told.to_string(), "the other side closed the connection in the middle");
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(cut_off(reset).kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_what_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (connected, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut server, sent) = (accepted.unwrap().0, (0..300_000_u32).map(|n| n as u8).collect::<Vec<_>>());
        let expected = sent.clone();
        let sending = tokio::spawn(async move { server.write_all(&sent).await.unwrap() });
        let (mut gulping, mut read, mut piece) = (Gulping::new(connected.unwrap()), Vec::new(), [0; 4096]);
        loop {
            // As a session asks: less where it waits for the rest of a record.
            let room = if read.len() % 3 == 0 { 4096 } else { 1000 };
            match gulping.read(&mut piece[..room]).await.unwrap() {
                0 => break,
                length => read.extend_from_slice(&piece[..length]),
            }
        }
        sending.await.unwrap();
        assert_eq!(read.len(), expected.len());
        assert!(read == expected && gulping.ahead.capacity() <= GULP_BYTES);
    }
}
