//! The listeners of a node and the paths that each serves.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::StatusCode;

use super::error::ApiError;
use super::ops::{Listener, RequestLabels};
use super::{
    Core, blobs, copies, digests, feed, forget, home, links, objects, ops, prices, purges, restore, scrub, servers,
    serving, states,
};
use crate::protocol::{
    BLOBS, DIGESTS, ENTRIES, FEED, HEALTH, METRICS, OBJECTS, OPENAPI, PING, PRICES, PROBE, PURGES, READY, RECEIPTS,
    SCRUB, SERVERS, STATUS, TARIFFS, WITHHELD,
};
use crate::serve::guard::{self, AllowedHosts};

/// The largest body of a control request; objects have their own limit.
const CONTROL_REQUEST_MAX: usize = 64 << 10;

/// The node API: objects, feed, members, prices, status.
pub(super) fn api(core: &Arc<Core>) -> Router {
    let object = get(objects::get).put(objects::put).delete(objects::delete);
    let price = put(prices::put).delete(prices::remove);
    let tariff = put(prices::put_tariff).delete(prices::remove);
    let router = Router::new()
        .route(OBJECTS, get(objects::list))
        // The empty key, which no pattern matches, is refused for its own reason.
        .route(&format!("{OBJECTS}/"), object.clone())
        .route(&format!("{OBJECTS}/{{*key}}"), object)
        .route(BLOBS, post(blobs::give))
        .route(&format!("{BLOBS}/{{hash}}"), get(serving::blob))
        .route(&format!("{ENTRIES}/{{*key}}"), get(home::newest))
        .route(FEED, get(feed::read))
        .route(RECEIPTS, post(copies::receipts))
        .route(DIGESTS, get(digests::sums))
        .route(&format!("{DIGESTS}/{{bucket}}"), get(digests::of_bucket))
        .route(PING, get(feed::ping))
        .route(&format!("{PROBE}/{{size}}"), get(feed::probe))
        .route(STATUS, get(ops::status))
        .route(SCRUB, get(scrub::show).post(scrub::start))
        .route(SERVERS, get(servers::list))
        .route(&format!("{SERVERS}/{{id}}"), put(feed::announce).delete(forget::forget))
        .route(&format!("{SERVERS}/{{id}}/state"), put(states::put).delete(states::remove))
        .route(WITHHELD, get(restore::list).post(restore::take_back).delete(restore::discard))
        .route(PRICES, get(prices::list))
        .route(&format!("{PRICES}/{{provider}}"), price)
        .route(TARIFFS, get(prices::tariffs))
        .route(&format!("{TARIFFS}/{{provider}}"), tariff)
        .route(PURGES, post(purges::post))
        .route(OPENAPI, get(ops::openapi));
    finish(router, core, Listener::Api, None)
}

/// The reference's server list and download API.
pub(super) fn download(core: &Arc<Core>, hosts: AllowedHosts) -> Router {
    let router = Router::new()
        .route("/api/get", get(servers::reference_list))
        .route("/servers", post(servers::update))
        .route(&format!("{}/", servers::DOWNLOAD), get(servers::download))
        .route(&format!("{}/{{*key}}", servers::DOWNLOAD), get(servers::download))
        .route("/getrandom", get(servers::random))
        .route("/datarate", get(links::report));
    finish(router, core, Listener::Download, Some(hosts))
}

/// The reference's price API.
pub(super) fn price(core: &Arc<Core>, hosts: AllowedHosts) -> Router {
    let remove = post(prices::remove).delete(prices::remove);
    let router = Router::new()
        .route("/cost/get", get(prices::document))
        .route("/cost/post", post(prices::update))
        .route("/addcost/{provider}", post(prices::add))
        .route("/cost/delete/{provider}", remove);
    finish(router, core, Listener::Price, Some(hosts))
}

/// What all listeners share: health, limits, the guard against foreign web pages, the count of answers.
fn finish(router: Router<Arc<Core>>, core: &Arc<Core>, listener: Listener, hosts: Option<AllowedHosts>) -> Router {
    let counting = core.clone();
    let count = move |request: Request, next: Next| {
        let core = counting.clone();
        async move {
            let for_users = [OBJECTS, servers::DOWNLOAD].iter().any(|prefix| request.uri().path().starts_with(prefix));
            let running = for_users.then(|| core.foreground.begin());
            let response = next.run(request).await;
            drop(running);
            let labels = RequestLabels { listener, status: response.status().as_u16() };
            core.metrics.requests.get_or_create(&labels).inc();
            response
        }
    };
    let hosts = Arc::new(hosts);
    let guard = move |request: Request, next: Next| {
        let hosts = hosts.clone();
        async move {
            match hosts.as_ref().as_ref().map(|hosts| guarded(&request, hosts)) {
                Some(Err(refusal)) => refusal.into_response(),
                _ => next.run(request).await,
            }
        }
    };
    router
        .route(HEALTH, get(ops::health))
        .route(READY, get(ops::ready))
        .route(METRICS, get(ops::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(CONTROL_REQUEST_MAX))
        .layer(from_fn(guard))
        .layer(from_fn(count))
        .with_state(core.clone())
}

fn guarded(request: &Request, hosts: &AllowedHosts) -> Result<(), ApiError> {
    guard::check(request.method(), request.uri(), request.headers(), hosts)
        .map_err(|refusal| ApiError::new(refusal.status(), refusal.to_string()).closing())
}

async fn not_found(request: Request) -> Response {
    ApiError::not_found(format!("path {}", request.uri().path())).into_response()
}

async fn method_not_allowed(request: Request) -> Response {
    let detail = format!("{} is not for {}", request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response()
}
