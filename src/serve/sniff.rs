//! Tells a packet from HTTP by the first byte of a connection.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::stream::Stream;

/// `{`, and the field tags 1, 2, 3 and 5 (length-delimited) that a protobuf packet may start with. HTTP starts with a
/// letter, or with an empty line that some clients send (RFC 9112 section 2.2), which starts with 0x0D and is none of these.
const PACKET_STARTS: [u8; 5] = [b'{', 0x0A, 0x12, 0x1A, 0x2A];

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
        Some(byte) if PACKET_STARTS.contains(byte) => Carried::Packet,
        Some(_) => Carried::Http,
    })
}
