//! Connections beyond those that there is a place for: they are told at once to come again, which costs those that have a
//! place nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::super::stream::{LINGER, linger};
use super::super::witness::{Came, Watcher};
use super::super::{Transport, proxied};
use super::outgoing::refusal;

/// How many are told at a time; further ones are closed without a word.
const TOLD_AT_A_TIME_MAX: usize = 256;

/// How often the log says so.
const WARN_PERIOD: Duration = Duration::from_secs(10);

/// Turns connections away.
#[derive(Debug)]
pub(super) struct Overload {
    places: Semaphore,
    warned: Mutex<Option<Instant>>,
}

impl Overload {
    pub(super) fn new() -> Self {
        Self { places: Semaphore::new(TOLD_AT_A_TIME_MAX), warned: Mutex::default() }
    }

    /// Tells one caller to come again (RFC 9110 section 15.6.4), whatever it asks. What its handshake would cost is more
    /// than there is for callers by TLS: they are closed. For whom a proxy has `passed` a connection on it says at once, or nobody
    /// is told.
    pub(super) async fn turn_away(
        &self,
        mut tcp: TcpStream,
        (peer, passed): (SocketAddr, bool),
        transport: &Transport,
        watcher: Option<&Arc<Watcher>>,
    ) {
        self.warn();
        let Ok(_place) = self.places.try_acquire() else { return };
        if matches!(transport, Transport::Tls(_) | Transport::Public(_)) {
            return;
        }
        let later: [(HeaderName, HeaderValue); 1] = [(header::RETRY_AFTER, HeaderValue::from_static("1"))];
        let detail = "all connections that this server takes are in use; try again in a moment";
        let answer = refusal(StatusCode::SERVICE_UNAVAILABLE, detail, &later, false);
        let told = async {
            let client = if passed { proxied::receive(&mut tcp, peer).await? } else { peer };
            let came = Came { client, secured: false };
            let mut watch = watcher.map(|watcher| watcher.unread(&[], Version::HTTP_11, came));
            tcp.write_all(&answer.bytes).await?;
            if let Some(mut watch) = watch.take() {
                watch.answers(StatusCode::SERVICE_UNAVAILABLE);
                watch.sent(answer.body_bytes, true);
            }
            tcp.shutdown().await
        };
        if timeout(LINGER, told).await.is_ok_and(|told| told.is_ok()) {
            linger(&mut tcp).await;
        }
    }

    fn warn(&self) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if warned.is_none_or(|warned| now.duration_since(warned) >= WARN_PERIOD) {
            *warned = Some(now);
            warn!("all connections are in use, new ones are turned away");
        }
    }
}
