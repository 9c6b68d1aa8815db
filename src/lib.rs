//! metacdn: one binary that turns machines at several clouds into one CDN.
//!
//! # Layout
//! Modules are layers, lowest first; `ARCHITECTURE.md` draws them and `tests/it/tidy.rs` holds them. [`model`] has
//! the nouns; [`protocol`], [`http1`], [`client`] and [`serve`] are the wires; [`store`], [`replicate`], [`membership`],
//! [`price`], [`route`], [`cache`], [`compress`] and [`resize`] are mechanisms that know neither network nor clock; [`node`]
//! and [`edge`] are the roles that put them together; [`cli`] is what a person types.

pub mod model;

pub mod client;
pub mod http1;
pub mod protocol;
pub mod serve;

pub mod cache;
pub mod compress;
pub mod membership;
pub mod price;
pub mod replicate;
pub mod resize;
pub mod route;
pub mod store;

pub mod edge;
pub mod node;

pub mod cli;
pub mod config;
pub mod telemetry;
