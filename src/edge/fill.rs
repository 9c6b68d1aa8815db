//! The bytes of an answer on their way from whoever gives it into the cache.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::time::timeout;
use tracing::debug;

use crate::cache::Fill;

/// How long a body that is not kept waits for its slowest reader while others have read all that there is.
const SLOWEST_WAIT: Duration = Duration::from_secs(5);

/// Passes `body` on until it has ended, or failed, or nobody wants it.
pub(super) async fn run<B>(mut fill: Fill, body: B)
where
    B: Body<Data = Bytes>,
    B::Error: Error + 'static,
{
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return debug!(error = &error as &dyn Error, "a fetch for the cache failed"),
        };
        ready(&fill).await;
        if frame.data_ref().is_some_and(|bytes| fill.push(bytes).is_err()) {
            return;
        }
    }
    // What is too short fails its readers by being dropped.
    let _ = fill.finish();
}

/// Waits until more may be passed on.
pub(super) async fn ready(fill: &Fill) {
    while timeout(SLOWEST_WAIT, poll_fn(|cx| fill.poll_ready(cx))).await.is_err() {
        fill.leave_slowest_behind();
    }
}
