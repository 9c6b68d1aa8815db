//! The rules of HTTP caching, as a cache that many users share has to follow them: RFC 9111 whole, RFC 9213 (targeted
//! fields), RFC 5861 (stale responses), RFC 9211 (`Cache-Status`), and of RFC 9110 what they build on.
//!
//! Nothing here does I/O or reads a clock, and nothing knows how responses are kept or fetched. The life of a request
//! in these terms:
//!
//! 1. [`RequestDirectives::of`] reads what the client wants.
//! 2. [`choose`] finds the stored response by its [`Selector`], [`Freshness::use_for`] says what may be done with it.
//! 3. If it has to be validated, [`make_conditional`] prepares the request, [`read_answer`] reads what came back,
//!    [`freshen`] updates what is right still. Where the origin fails, [`Freshness::on_error`] says whether something
//!    stale will do.
//! 4. [`judge`] says whether a new response may be stored, [`stored_header`] what of its header, [`displaced`] what
//!    goes for it. [`invalidated`] says what a request that changed something makes wrong.
//! 5. [`strip_hop_by_hop`] is for both directions, [`CacheStatus`] tells how it went. An answer from the cache has
//!    `Age`, [`Freshness::age_seconds`]. `Warning` is not sent any more (RFC 9111 section 5.5).
//!
//! One principle decides where the RFCs leave a choice: **what does not read is never taken for permission**. A
//! lifetime, an age or a date that is invalid makes a response stale, whatever stands beside it. Sections without a
//! document are those of RFC 9111.

mod cache_status;
mod fields;
mod freshness;
mod invalidation;
mod normal;
mod partial;
mod request;
mod response;
mod storing;
mod syntax;
mod targeted;
mod validation;
mod validators;
mod vary;

pub use cache_status::{CACHE_STATUS, CacheStatus, Forward, Source};
pub use fields::{stored_header, strip_hop_by_hop, updated_header};
pub use freshness::{Cause, Freshness, OnError, Use, has_credentials};
pub use invalidation::{invalidated, is_unsafe};
pub use partial::{ContentRange, Parts, combines, gives_parts, header_of_whole, is_completable, keeps_incomplete};
pub use request::RequestDirectives;
pub use response::{ResponseDirectives, Scope};
pub use storing::{Exchange, Freshened, NotStored, Terms, freshen, is_error, judge};
pub use validation::{Answer, HeadEffect, head_effect, make_conditional, read_answer};
pub use validators::{EntityTag, Validators};
pub use vary::{Selector, VARIANTS_MAX, choose, displaced};

#[cfg(test)]
mod tests;
