//! What HTTP/2 and HTTP/3 have in common: a request is a stream beside others, with its fields instead of lines.
//!
//! [`prepare`] makes a request of it that handlers take for one of HTTP/1.1, or finds it malformed; [`exchange`] answers it
//! by whatever is [`Sending`]. What a handler is told and what clients get of it is the same as over HTTP/1.1, but for what
//! belongs to a connection.

mod calm;
mod content;
mod exchange;
mod request;

pub(super) use calm::{ANSWER_WORTH, Calm, FRAME_COST, IN_VAIN_COST, REQUEST_WORTH, worth_of_piece};
pub(super) use content::{Receipted, response_of};
pub(super) use exchange::{Count, Gone, Sending, answer_hit, exchange, refuse};
pub(super) use request::{Unprepared, expects_continue, prepare};

/// How many requests a client may have at a time on one connection: what RFC 9113 section 6.5.2 and RFC 9114 section 6.1
/// ask for at least is 100.
pub(super) const STREAMS_MAX: u32 = 128;

/// How much of a request's body may be on its way that its handler has not taken yet: what a link of 10 MB/s with a
/// round trip of 12 ms carries.
pub(super) const STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// The same of all requests of a connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
