//! The link of a client, as the kernel sees it: what of its connection's answers has arrived, and in which time.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::GetStruct;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The connection that a request came on; in the request's extensions. It does not keep the connection open.
#[derive(Clone)]
pub struct ClientLink(Weak<Mutex<TcpStream>>);

/// What was sent over a connection since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The bytes that the other side has acknowledged, those of TLS included.
    pub bytes_acked: u64,
    /// How long there was something to send or to be acknowledged, the receiver's own slowness included. The kernel
    /// counts it in its ticks, of 1 to 10 ms.
    pub busy: Duration,
}

impl ClientLink {
    /// The link of a connection of which the kernel knows nothing.
    pub const fn unknown() -> Self {
        Self(Weak::new())
    }

    /// What was sent over the connection; `None` if it has ended, or the system is older than Linux 4.10. One system
    /// call.
    pub fn sent(&self) -> Option<Sent> {
        let tcp = self.0.upgrade()?;
        if !*IS_TOLD {
            return None;
        }
        let info = getsockopt(&*lock(&tcp), TcpInfo).ok()?;
        let bytes_acked = info[BYTES_ACKED];
        Some(Sent { bytes_acked, busy: Duration::from_micros(info[BUSY_MICROSECONDS]) })
    }
}

impl fmt::Debug for ClientLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientLink").field(&self.sent()).finish()
    }
}

/// The option `TCP_INFO` (tcp(7)), read as far as the last field that is used: the kernel writes as much as is asked for,
/// whichever fields newer ones have behind it.
#[derive(Clone, Copy)]
struct TcpInfo;

const BYTES_ACKED: usize = offset_of!(libc::tcp_info, tcpi_bytes_acked) / size_of::<u64>();
const BUSY_MICROSECONDS: usize = offset_of!(libc::tcp_info, tcpi_busy_time) / size_of::<u64>();
type TcpInfoWords = [u64; BUSY_MICROSECONDS + 1];

nix::getsockopt_impl!(TcpInfo, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfoWords, GetStruct<TcpInfoWords>);

/// Whether the kernel tells the busy time. An older one would write less than what is read.
static IS_TOLD: LazyLock<bool> = LazyLock::new(|| has_busy_time(&rustix::system::uname().release().to_string_lossy()));

/// Whether the kernel of this `release` knows `tcpi_busy_time`: those from 4.10 on do.
fn has_busy_time(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|digits| digits.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(4), Some(10))
}

/// A TCP connection that can be asked for its link while it carries bytes. Nobody waits for the lock: the connection has
/// one task, and the question is a short system call.
pub(super) struct Tcp(Arc<Mutex<TcpStream>>);

impl Tcp {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    pub(super) fn link(&self) -> ClientLink {
        ClientLink(Arc::downgrade(&self.0))
    }

    /// Sends bytes that others follow at once, so that the kernel puts both into one packet (`MSG_MORE`, send(2)).
    pub(super) fn poll_send_more(&self, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        self.poll_send(cx, |tcp| Ok(sendmsg(tcp, bytes, &mut SendAncillaryBuffer::default(), flags)?))
    }

    /// Sends up to `count` bytes of `file` from `offset` on, without a copy of them (sendfile(2)). It sends 0 where the
    /// file ends.
    pub(super) fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |tcp| Ok(rustix::fs::sendfile(tcp, file, Some(&mut { offset }), count)?))
    }

    /// Has the close that follows destroy what was not sent, so that the other side learns that something is missing.
    pub(super) fn reset_on_close(&self) -> io::Result<()> {
        lock(&self.0).set_zero_linger()
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let tcp = lock(&self.0);
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            match tcp.try_io(Interest::WRITABLE, || send(&tcp)) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

fn lock(stream: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        // What a TCP connection says of itself.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_known_by_their_release() {
        for (release, told) in [
            ("6.18.44-fc", true),
            ("4.10.0", true),
            ("4.9.337", false),
            ("3.10.0-1160.el7.x86_64", false),
            ("10.0", true),
            ("", false),
        ] {
            assert_eq!(has_busy_time(release), told, "{release}");
        }
    }
}
