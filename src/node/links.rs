//! How fast the links of the clients are: measured by the downloads of this node, or told by the clients.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, IF_RANGE, RANGE};
use http::{Extensions, HeaderMap, HeaderName, StatusCode};
use hyper::body::{Frame, SizeHint};
use serde::Deserialize;

use super::Core;
use super::error::ApiError;
use super::servers::require_download;
use crate::model::{Principal, Variant};
use crate::resize::choose::{LEARNED_BYTES_MIN, Rates, Transfer, saves_data};
use crate::serve::{ClientLink, PeerAddress};

/// What a client reports is the time for this many bytes, the reference's 10 MB.
const REPORTED_BYTES: f64 = 10_000_000.0;

/// Says that the client wants little.
const SAVE_DATA: HeaderName = HeaderName::from_static("save-data");

/// Who downloads, and over what.
pub(super) struct Client {
    ip: IpAddr,
    link: Option<ClientLink>,
    saves_data: bool,
    /// Whether it asks for a part without saying of what: a part of another variant would be no part of what it has.
    wants_part: bool,
}

impl Client {
    /// The client of a request with these extensions and headers; `None` if it came over no connection.
    pub(super) fn of(extensions: &Extensions, headers: &HeaderMap) -> Option<Self> {
        let saves = |value: &http::HeaderValue| value.to_str().is_ok_and(saves_data);
        Some(Self {
            ip: extensions.get::<PeerAddress>()?.0.ip(),
            link: extensions.get::<ClientLink>().cloned(),
            saves_data: headers.get(SAVE_DATA).is_some_and(saves),
            wants_part: headers.contains_key(RANGE) && !headers.contains_key(IF_RANGE),
        })
    }

    /// The variant of an image that suits it.
    pub(super) fn suiting(&self, core: &Core) -> Variant {
        if self.wants_part {
            return Variant::Original;
        }
        if self.saves_data {
            return Variant::Low;
        }
        let rate = rates(core).rate_of(self.transferred(), self.ip, Instant::now());
        core.config.resize.thresholds.choose(rate)
    }

    /// What its connection carried so far.
    fn transferred(&self) -> Option<Transfer> {
        let sent = self.link.as_ref()?.sent()?;
        Some(Transfer { bytes: sent.bytes_acked, busy: sent.busy })
    }
}

fn rates(core: &Core) -> MutexGuard<'_, Rates> {
    core.rates.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The query of a report.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    bandwidth: f64,
}

/// `GET /datarate?bandwidth=MILLISECONDS`: how long 10 MB took the client. It changes nothing but what this client gets.
pub(super) async fn report(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    Extension(PeerAddress(peer)): Extension<PeerAddress>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    require_download(&core, &principal)?;
    let Query(ReportQuery { bandwidth }) = query?;
    if !bandwidth.is_finite() || bandwidth < 0.0 {
        return Err(ApiError::bad_request("bandwidth: write the milliseconds in which 10 MB came"));
    }
    rates(&core).report(peer.ip(), REPORTED_BYTES / (bandwidth / 1000.0), Instant::now());
    Ok(StatusCode::NO_CONTENT)
}

/// Lets the end of `response` teach the rate of its client.
pub(super) fn learning(core: &Arc<Core>, client: Option<Client>, response: Response) -> Response {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let teaches = length.is_some_and(|length: u64| length >= LEARNED_BYTES_MIN);
    if !teaches || hyper::body::Body::is_end_stream(response.body()) {
        return response;
    }
    let Some((client, before)) = client.and_then(|client| client.transferred().map(|before| (client, before))) else {
        return response;
    };
    response.map(|body| Body::new(Measured { body, client, before, core: core.clone() }))
}

/// A body that teaches the rate of its client when it ends, also in the middle.
struct Measured {
    body: Body,
    client: Client,
    before: Transfer,
    core: Arc<Core>,
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(now) = self.client.transferred() {
            rates(&self.core).learn(self.client.ip, now.since(self.before), Instant::now());
        }
    }
}

impl hyper::body::Body for Measured {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
