//! Tells a packet from HTTP by the first byte of a connection.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::stream::Stream;
use crate::protocol::packet::is_packet_start;

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carried {
    Packet,
    Http,
    /// It ended before the first byte.
    Nothing,
}

/// Waits for the first bytes, looks at them and puts them back.
pub(super) async fn sniff(stream: &mut Stream) -> io::Result<Carried> {
    let mut first = [0; 1024];
    let length = stream.read(&mut first).await?;
    stream.rewind(Bytes::copy_from_slice(&first[..length]));
    Ok(match first[..length].first() {
        None => Carried::Nothing,
        // HTTP starts with a letter, or with the empty line that some clients send (RFC 9112 section 2.2).
        Some(byte) if is_packet_start(*byte) => Carried::Packet,
        Some(_) => Carried::Http,
    })
}
