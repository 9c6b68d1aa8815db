//! Prices: the reference's price API at its own port, and `/v1/prices`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::{FormRejection, JsonRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use axum::{Form, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Core;
use super::access::{Right, require};
use super::error::ApiError;
use super::records::{Change, change_record};
use crate::model::{Principal, Provider, RecordKey, Tariff};

/// The reference's price document, as its `priceInf.json`.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    price: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    provider: Provider,
    server_hourly_cost: String,
    network_hourly_cost: String,
}

/// The reference's form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceForm {
    provider: Option<String>,
    server_hourly_cost: String,
    network_hourly_cost: String,
}

impl PriceForm {
    fn tariff(&self) -> Result<Tariff, ApiError> {
        let cost =
            |name: &str, text: &str| text.parse().map_err(|error| ApiError::bad_request(format!("{name}: {error}")));
        Ok(Tariff {
            instance_hour: cost("server_hourly_cost", &self.server_hourly_cost)?,
            network_hour: cost("network_hourly_cost", &self.network_hourly_cost)?,
        })
    }
}

/// Whether prices of the provider must be there before they are set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Must,
    MustNot,
    May,
}

/// `GET /cost/get`.
pub(super) async fn document(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<Document>, ApiError> {
    require(&principal, Right::Read)?;
    let row = |(provider, tariff): (&Provider, &Tariff)| Row {
        provider: provider.clone(),
        server_hourly_cost: tariff.instance_hour.to_reference(),
        network_hourly_cost: tariff.network_hour.to_reference(),
    };
    let price = core.members.view().borrow().tariffs().iter().map(row).collect();
    Ok(Json(Document { price }))
}

/// `POST /cost/post`: changes the prices of a known provider.
pub(super) async fn update(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    form: Result<Form<PriceForm>, FormRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let Form(form) = form.map_err(|rejection| bad_form(&rejection))?;
    let provider =
        form.provider.as_deref().ok_or_else(|| ApiError::bad_request("the form lacks the field provider"))?;
    set(&core, provider.parse()?, form.tariff()?, Known::Must).await?;
    Ok(StatusCode::OK)
}

/// `POST /addcost/PROVIDER`: adds the prices of a new provider.
pub(super) async fn add(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    provider: Result<Path<Provider>, PathRejection>,
    form: Result<Form<PriceForm>, FormRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let provider = named(provider)?;
    let Form(form) = form.map_err(|rejection| bad_form(&rejection))?;
    if form.provider.as_deref().is_some_and(|name| name != provider.as_str()) {
        return Err(ApiError::bad_request("the form names another provider than the path"));
    }
    set(&core, provider, form.tariff()?, Known::MustNot).await?;
    Ok(StatusCode::CREATED)
}

/// `GET /v1/prices`.
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<BTreeMap<Provider, Tariff>>, ApiError> {
    require(&principal, Right::Read)?;
    Ok(Json(core.members.view().borrow().tariffs().clone()))
}

/// `PUT /v1/prices/PROVIDER`: sets prices, new or not.
pub(super) async fn put(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    provider: Result<Path<Provider>, PathRejection>,
    tariff: Result<Json<Tariff>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let Json(tariff) = tariff?;
    set(&core, named(provider)?, tariff, Known::May).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v1/prices/PROVIDER`, `DELETE` and `POST /cost/delete/PROVIDER`.
pub(super) async fn remove(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    provider: Result<Path<Provider>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let provider = named(provider)?;
    let unknown = unknown(&provider);
    let decide = move |current: Option<&str>| current.map(|_| Change::Remove).ok_or(unknown);
    change_record(&core, RecordKey::price(&provider), decide).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set(core: &Arc<Core>, provider: Provider, tariff: Tariff, known: Known) -> Result<(), ApiError> {
    let json = serde_json::to_string(&tariff).map_err(ApiError::bad_request)?;
    let unknown = unknown(&provider);
    let conflict = format!("{provider} has prices already: change them by POST /cost/post");
    let decide = move |current: Option<&str>| match (known, current) {
        (Known::Must, None) => Err(unknown),
        (Known::MustNot, Some(_)) => Err(ApiError::new(StatusCode::CONFLICT, conflict)),
        (_, Some(current)) if current == json => Ok(Change::Keep),
        _ => Ok(Change::Set(json)),
    };
    change_record(core, RecordKey::price(&provider), decide).await
}

fn unknown(provider: &Provider) -> ApiError {
    ApiError::not_found(format!("price of {provider}: add it by POST /addcost/{provider}"))
}

fn named(provider: Result<Path<Provider>, PathRejection>) -> Result<Provider, ApiError> {
    match provider {
        Ok(Path(provider)) => Ok(provider),
        Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
    }
}

/// The reference promises 400 for every bad form, whatever is wrong with it.
fn bad_form(rejection: &FormRejection) -> ApiError {
    ApiError::bad_request(rejection.body_text())
}
