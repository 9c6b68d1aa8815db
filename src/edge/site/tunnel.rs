//! Another protocol between a client and an origin, after a 101: bytes both ways, until one side ends or both fall silent.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::client;
use crate::serve::http1::Upgraded;

/// How long both sides may be silent: longer than any chat that says now and then that it lives.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// Passes bytes between `client` and `origin`, until `stop` at the latest.
pub(super) async fn run(client: Upgraded, origin: client::Upgraded, stop: CancellationToken) {
    stop.run_until_cancelled(pass(client, origin)).await;
}

async fn pass(client: Upgraded, mut origin: client::Upgraded) {
    let moved = Arc::new(AtomicU64::new(0));
    let mut client = Counted { client, moved: moved.clone() };
    let mut copying = pin!(copy_bidirectional(&mut client, &mut origin));
    let mut seen = 0;
    loop {
        match timeout(SILENCE_MAX, &mut copying).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => return debug!(%error, "a tunnel broke off"),
            Err(_) if moved.load(Ordering::Relaxed) == seen => return debug!("a tunnel fell silent"),
            Err(_) => seen = moved.load(Ordering::Relaxed),
        }
    }
}

/// A connection that counts what passes.
struct Counted {
    client: Upgraded,
    moved: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.client).poll_read(cx, buf));
        self.moved.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.client).poll_write(cx, buf));
        self.moved.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_shutdown(cx)
    }
}
