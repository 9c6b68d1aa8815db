//! What providers charge: the reference's price API at its own port, `/v1/prices`, and `/v1/tariffs`.

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
use crate::model::{NanoDollars, Principal, Provider, RecordKey, Tariff, TariffDocument};
use crate::price::Schedule;

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

/// What a provider charges for hours, in nano-dollars.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Hours {
    instance_hour: NanoDollars,
    network_hour: NanoDollars,
}

impl Hours {
    /// They in place of those of `current`, of which the rest stays.
    fn within(self, current: Option<Tariff>) -> Tariff {
        let Self { instance_hour, network_hour } = self;
        Tariff { instance_hour, network_hour, rates: current.and_then(|current| current.rates) }
    }
}

impl PriceForm {
    fn hours(&self) -> Result<Hours, ApiError> {
        let cost =
            |name: &str, text: &str| text.parse().map_err(|error| ApiError::bad_request(format!("{name}: {error}")));
        Ok(Hours {
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
    set_hours(&core, provider.parse()?, form.hours()?, Known::Must).await?;
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
    set_hours(&core, provider, form.hours()?, Known::MustNot).await?;
    Ok(StatusCode::CREATED)
}

/// `GET /v1/prices`.
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<BTreeMap<Provider, Hours>>, ApiError> {
    require(&principal, Right::Read)?;
    let hours = |tariff: &Tariff| Hours { instance_hour: tariff.instance_hour, network_hour: tariff.network_hour };
    let hours = |(provider, tariff): (&Provider, &Tariff)| (provider.clone(), hours(tariff));
    Ok(Json(core.members.view().borrow().tariffs().iter().map(hours).collect()))
}

/// `PUT /v1/prices/PROVIDER`: sets prices, new or not.
pub(super) async fn put(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    provider: Result<Path<Provider>, PathRejection>,
    hours: Result<Json<Hours>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let Json(hours) = hours?;
    set_hours(&core, named(provider)?, hours, Known::May).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/tariffs`.
pub(super) async fn tariffs(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<BTreeMap<Provider, TariffDocument>>, ApiError> {
    require(&principal, Right::Read)?;
    let document = |(provider, tariff): (&Provider, &Tariff)| (provider.clone(), tariff.clone().into());
    Ok(Json(core.members.view().borrow().tariffs().iter().map(document).collect()))
}

/// `PUT /v1/tariffs/PROVIDER`: sets all that a provider charges, new or not.
pub(super) async fn put_tariff(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    provider: Result<Path<Provider>, PathRejection>,
    document: Result<Json<TariffDocument>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let (provider, Json(document)) = (named(provider)?, document?);
    let tariff = Tariff::from(document);
    Schedule::new(&tariff).map_err(ApiError::bad_request)?;
    set(&core, provider, Known::May, move |_| tariff).await?;
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

async fn set_hours(core: &Arc<Core>, provider: Provider, hours: Hours, known: Known) -> Result<(), ApiError> {
    set(core, provider, known, move |current| hours.within(current)).await
}

/// Sets what `change` makes of the provider's tariff.
async fn set(
    core: &Arc<Core>,
    provider: Provider,
    known: Known,
    change: impl FnOnce(Option<Tariff>) -> Tariff + Send + 'static,
) -> Result<(), ApiError> {
    let unknown = unknown(&provider);
    let conflict = format!("{provider} has prices already: change them by POST /cost/post");
    let decide = move |current: Option<&str>| {
        match (known, current) {
            (Known::Must, None) => return Err(unknown),
            (Known::MustNot, Some(_)) => return Err(ApiError::new(StatusCode::CONFLICT, conflict)),
            _ => {}
        }
        // What does not read is replaced.
        let json = serde_json::to_string(&change(current.and_then(|json| serde_json::from_str(json).ok())));
        let json = json.map_err(ApiError::bad_request)?;
        Ok(if current == Some(&json) { Change::Keep } else { Change::Set(json) })
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
