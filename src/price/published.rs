//! The list prices of providers that metacdn knows.

use std::collections::BTreeMap;

use crate::model::TariffDocument;

const PUBLISHED: &str = include_str!("published.toml");

/// The tariffs of a TOML text, by name.
///
/// # Errors
/// When it is not TOML, or a field is not of its kind.
pub fn read(text: &str) -> Result<BTreeMap<String, TariffDocument>, toml::de::Error> {
    toml::from_str(text)
}

/// The list prices that are shipped, by name.
pub fn published() -> BTreeMap<String, TariffDocument> {
    read(PUBLISHED).expect("a test reads them all")
}
