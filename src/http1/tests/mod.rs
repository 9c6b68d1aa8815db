//! What heads, lengths and chunks are: tables with the sections that they come from, and generated ones.

mod answers;
mod chunks;
mod generated;
mod requests;

use super::*;

const LIMITS: Limits = Limits { head_bytes: 1024, target_bytes: 256 };

/// The verdict on a request's head: what a table compares.
fn verdict(head: &str) -> Result<BodyLength, HeadError> {
    let mut slots = Slots::new();
    RequestHead::parse(head.as_bytes(), &LIMITS, &mut slots).map(|head| head.expect("it is whole").body())
}
