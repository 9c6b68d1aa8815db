//! Packets: the frameless messages that uploads and heartbeats travel in, one to a connection.
//!
//! [`Encoder`] writes and [`Decoder`] reads them piece by piece. Neither does I/O; who sends, who stores and who may
//! is the caller's business. `proto/packet.proto` describes the protobuf form.

mod base64;
mod encode;
mod json;
mod protobuf;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use encode::Encoder;

use json::JsonDecoder;
use protobuf::ProtobufDecoder;

/// The longest text beside the content, in bytes of UTF-8: as long as the longest object key.
const TEXT_SIZE_MAX: usize = 1024;

/// Room for `F` or `T`, and for enough of anything else to name it in the error.
const DISTRIBUTED_SIZE_MAX: usize = 16;

/// How a packet is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// One proto3 message.
    Protobuf3,
}

/// What a packet says, apart from the file's bytes, which went to the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A file to store.
    File {
        /// The name as sent: not empty, at most 1024 bytes, otherwise unchecked.
        file_name: String,
        /// False: the receiver hands the file on to the other nodes. True: it keeps the file to itself.
        distributed: bool,
    },
    /// A node says that it lives. Nothing in it is proven.
    Heartbeat {
        /// What the node calls itself.
        name: String,
        /// Where it says that it listens.
        ip_address: String,
        /// The port there.
        port: u16,
        /// Free text.
        message: String,
    },
}

/// What a packet may cost its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest file, in decoded bytes.
    pub content_size_max: u64,
    /// The largest JSON packet, in bytes on the wire: a JSON packet is held in memory until its end.
    pub json_size_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // A JSON packet of 64 MiB carries a file of 48 MiB. Protobuf streams, so only the disk limits it: 64 GiB is
        // far above what anybody sends as base64 and below what fills a disk unnoticed.
        Self { content_size_max: 64 << 30, json_size_max: 64 << 20 }
    }
}

/// Why there is no packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The name of a format is not one.
    #[error("{0:?} is not a packet format: use json or protobuf3")]
    UnknownFormat(String),
    /// The encoder was given more or fewer bytes than announced.
    #[error("the file changed while it was sent: {announced} bytes announced, {given} read; send it again")]
    ContentSizeDiffers {
        /// The size that the encoder was made for.
        announced: u64,
        /// The bytes that it was given.
        given: u64,
    },
    /// The first byte starts neither form.
    #[error("byte 0x{0:02X} starts no packet: send a JSON object or a protobuf message")]
    NotAPacket(u8),
    /// The stream ended inside the packet.
    #[error("the packet is cut off; send it again")]
    Truncated,
    /// A field that every packet of its kind has is not there, or is empty.
    #[error("the packet has no {0}")]
    Missing(&'static str),
    /// `distributed` is neither `F` nor `T`.
    #[error("distributed is {0:?}: send \"F\" to have the file handed on to all nodes, \"T\" to keep it on this one")]
    InvalidDistributed(String),
    /// A heartbeat's port is not one.
    #[error("port is {0}: send a number from 0 to 65535")]
    InvalidPort(String),
    /// A text is longer than its field may be.
    #[error("{field} is longer than the {max} bytes it may have")]
    TextTooLong {
        /// The field.
        field: &'static str,
        /// Its limit.
        max: usize,
    },
    /// A text is not UTF-8, or has half a surrogate pair.
    #[error("{0} is not valid UTF-8")]
    NotUtf8(&'static str),
    /// A JSON value that must be text is something else.
    #[error("{0} is not a text: put it in quotes")]
    NotText(&'static str),
    /// A byte that base64 does not have, or not there.
    #[error(
        "the content is not base64: byte 0x{byte:02X} at position {position} does not belong there \
         (standard alphabet, padding at the end, no line breaks)"
    )]
    NotBase64 {
        /// The byte.
        byte: u8,
        /// Its offset in the text.
        position: u64,
    },
    /// The text ends inside a group of four.
    #[error("the content is not base64: its length of {0} is not a multiple of four; pad it with =")]
    Base64Cut(u64),
    /// The file is larger than the receiver takes.
    #[error("the file is larger than the {0} bytes that a packet may carry here")]
    ContentTooLarge(u64),
    /// The JSON packet is larger than the receiver holds in memory.
    #[error("the JSON packet is larger than {0} bytes: use raw, which streams")]
    JsonTooLarge(usize),
    /// Brackets inside brackets inside brackets.
    #[error("the JSON packet nests more than {0} levels deep")]
    JsonTooDeep(usize),
    /// Not JSON.
    #[error("the packet is not valid JSON: {0}")]
    Json(String),
    /// A protobuf number goes on after ten bytes or beyond 64 bits.
    #[error("the protobuf packet has a number of more than 64 bits")]
    VarintTooLong,
    /// A protobuf tag that no message can have.
    #[error("the protobuf packet has the invalid tag {0}")]
    InvalidTag(u64),
    /// A field of the packet does not have the type that `packet.proto` gives it.
    #[error("{0} does not have the type it has in packet.proto")]
    WrongType(&'static str),
    /// The content came twice, and the bytes of the first one are gone already.
    #[error("the packet has more than one content: send one packet for each file")]
    ContentTwice,
    /// There is too much beside the content.
    #[error("the packet has more than {0} bytes beside its content")]
    EnvelopeTooLarge(u64),
}

/// Whether a connection that begins with `first` carries a packet (HTTP begins with a letter, TLS with 0x16).
pub const fn is_packet_start(first: u8) -> bool {
    first == b'{' || protobuf::is_start(first)
}

/// Reads one packet from pieces of any size.
///
/// After an error every further call gives the same error, and nothing more goes to the sink.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    state: State,
}

#[derive(Debug)]
enum State {
    Start,
    Json(JsonDecoder),
    Protobuf(ProtobufDecoder),
    Failed(PacketError),
}

impl Decoder {
    /// A decoder that waits for the first byte.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, state: State::Start }
    }

    /// Takes the next piece of the stream and hands the file's bytes in it, if any, to `sink`.
    ///
    /// The sink may have seen bytes of a packet that later turns out to be wrong: only [`Decoder::finish`] tells.
    ///
    /// # Errors
    /// As soon as no continuation can make the stream a packet within the limits (in JSON mostly at the end).
    pub fn push(&mut self, chunk: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), PacketError> {
        let Some(&first) = chunk.first() else { return self.failure() };
        if matches!(self.state, State::Start) {
            self.state = self.begin(first);
        }
        let result = match &mut self.state {
            State::Json(json) => json.push(chunk),
            State::Protobuf(protobuf) => protobuf.push(chunk, sink),
            State::Start | State::Failed(_) => self.failure(),
        };
        // The failed decoder goes at once and its memory with it.
        result.inspect_err(|error| self.state = State::Failed(error.clone()))
    }

    /// Ends the stream: hands out what is left of the file and tells what the packet was.
    ///
    /// # Errors
    /// Whatever was wrong with the packet; then what the sink got is to be thrown away.
    pub fn finish(self, sink: &mut dyn FnMut(&[u8])) -> Result<Packet, PacketError> {
        match self.state {
            State::Start => Err(PacketError::Truncated),
            State::Json(json) => json.finish(sink),
            State::Protobuf(protobuf) => protobuf.finish(),
            State::Failed(error) => Err(error),
        }
    }

    /// How many bytes of the packet are held in memory until its end, for a budget that connections share.
    ///
    /// Grows by the size of each chunk in JSON; zero in protobuf, which streams.
    pub const fn buffered_bytes(&self) -> usize {
        match &self.state {
            State::Json(json) => json.buffered_bytes(),
            State::Start | State::Protobuf(_) | State::Failed(_) => 0,
        }
    }

    fn begin(&self, first: u8) -> State {
        match first {
            b'{' => State::Json(JsonDecoder::new(self.limits)),
            _ if protobuf::is_start(first) => State::Protobuf(ProtobufDecoder::new(self.limits)),
            _ => State::Failed(PacketError::NotAPacket(first)),
        }
    }

    fn failure(&self) -> Result<(), PacketError> {
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            State::Start | State::Json(_) | State::Protobuf(_) => Ok(()),
        }
    }
}

/// Reads the field `distributed`, whose absence and emptiness are one (proto3 cannot tell them apart).
fn parse_distributed(text: Option<&str>) -> Result<bool, PacketError> {
    match text {
        None | Some("") => Err(PacketError::Missing("distributed")),
        Some("F") => Ok(false),
        Some("T") => Ok(true),
        Some(other) => Err(PacketError::InvalidDistributed(other.to_owned())),
    }
}

/// The length of `size` bytes in base64. Saturates far beyond the largest file that a file system holds.
const fn base64_size(size: u64) -> u64 {
    size.div_ceil(3).saturating_mul(4)
}

impl FromStr for Format {
    type Err = PacketError;

    fn from_str(text: &str) -> Result<Self, PacketError> {
        match text.to_ascii_lowercase().as_str() {
            "json" => Ok(Self::Json),
            "protobuf3" => Ok(Self::Protobuf3),
            _ => Err(PacketError::UnknownFormat(text.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Protobuf3 => "protobuf3",
        })
    }
}
