//! Objects from the command line: publish, fetch, list, inspect, delete.

pub(super) mod delete;
pub(super) mod get;
pub(super) mod list;
pub(super) mod stat;
pub(super) mod upload;

mod failures;
mod packet;
mod plan;
mod raw;
mod retry;
mod sink;
mod source;
