//! Protobuf packets: the one message of `proto/packet.proto`, read as it streams by.
//!
//! A parser made from the description would hold the whole content in memory; this one holds a text field at most.

use super::base64::Base64Decoder;
use super::{DISTRIBUTED_SIZE_MAX, Limits, Packet, PacketError, TEXT_SIZE_MAX, base64_size, parse_distributed};

/// Tags: the field's number and its wire type, 2 for everything that has a length.
const CONTENT: u8 = 1 << 3 | 2;
const FILE_NAME: u8 = 2 << 3 | 2;
const DISTRIBUTED: u8 = 3 << 3 | 2;
const LAST_UPDATED: u8 = 5 << 3 | 2;

/// What a packet may have beside its content: the longest name, a date, and fields of later versions.
const ENVELOPE_SIZE_MAX: u64 = 64 * 1024;

/// Whether a protobuf packet can begin with `byte`.
pub(super) const fn is_start(byte: u8) -> bool {
    matches!(byte, CONTENT | FILE_NAME | DISTRIBUTED | LAST_UPDATED)
}

/// What stands before and after the content's text in a packet whose content is `content_size` characters long.
pub(super) fn head_and_tail(content_size: u64, file_name: &str, distributed: &str) -> (Vec<u8>, Vec<u8>) {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    // As everywhere in proto3, an empty text is not written.
    if content_size > 0 {
        head.push(CONTENT);
        append_varint(content_size, &mut head);
    }
    for (tag, text) in [(FILE_NAME, file_name), (DISTRIBUTED, distributed)] {
        if !text.is_empty() {
            tail.push(tag);
            append_varint(text.len() as u64, &mut tail);
            tail.extend_from_slice(text.as_bytes());
        }
    }
    (head, tail)
}

fn append_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A protobuf packet that is still coming.
#[derive(Debug)]
pub(super) struct ProtobufDecoder {
    limits: Limits,
    stage: Stage,
    content: Option<Base64Decoder>,
    file_name: Option<String>,
    distributed: Option<String>,
    /// Bytes seen or declared that are not content.
    envelope_size: u64,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum Stage {
    Tag(Varint),
    Length(Field, Varint),
    Content { left: u64 },
    Text { field: TextField, left: usize, text: Vec<u8> },
    SkippedVarint(Varint),
    Skipped { left: u64 },
}

/// A field that has a length.
#[derive(Debug, Clone, Copy)]
enum Field {
    Content,
    Text(TextField),
    Other,
}

#[derive(Debug, Clone, Copy)]
enum TextField {
    FileName,
    Distributed,
}

impl TextField {
    const fn name(self) -> &'static str {
        match self {
            Self::FileName => "file_name",
            Self::Distributed => "distributed",
        }
    }

    const fn size_max(self) -> usize {
        match self {
            Self::FileName => TEXT_SIZE_MAX,
            Self::Distributed => DISTRIBUTED_SIZE_MAX,
        }
    }
}

impl ProtobufDecoder {
    pub(super) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::Tag(Varint::START),
            content: None,
            file_name: None,
            distributed: None,
            envelope_size: 0,
        }
    }

    pub(super) fn push(&mut self, mut chunk: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), PacketError> {
        while let Some((&byte, after_byte)) = chunk.split_first() {
            match &mut self.stage {
                Stage::Content { left } => {
                    let (piece, rest) = split_at_most(chunk, *left);
                    *left -= piece.len() as u64;
                    self.content.as_mut().expect("begun before this stage").push(piece, sink)?;
                    chunk = rest;
                }
                Stage::Text { left, text, .. } => {
                    let (piece, rest) = split_at_most(chunk, *left as u64);
                    *left -= piece.len();
                    text.extend_from_slice(piece);
                    chunk = rest;
                }
                Stage::Skipped { left } => {
                    let (piece, rest) = split_at_most(chunk, *left);
                    *left -= piece.len() as u64;
                    chunk = rest;
                }
                Stage::Tag(_) | Stage::Length(..) | Stage::SkippedVarint(_) => {
                    self.take_varint_byte(byte)?;
                    chunk = after_byte;
                }
            }
            self.end_full_field()?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Packet, PacketError> {
        if !matches!(self.stage, Stage::Tag(Varint::START)) {
            return Err(PacketError::Truncated);
        }
        let file_name = self.file_name.filter(|name| !name.is_empty()).ok_or(PacketError::Missing("file_name"))?;
        Ok(Packet::File { file_name, distributed: parse_distributed(self.distributed.as_deref())? })
    }

    fn take_varint_byte(&mut self, byte: u8) -> Result<(), PacketError> {
        self.spend(1)?;
        match &mut self.stage {
            Stage::Tag(varint) => {
                if let Some(tag) = varint.push(byte)? {
                    self.begin_field(tag)?;
                }
            }
            Stage::Length(field, varint) => {
                let field = *field;
                if let Some(length) = varint.push(byte)? {
                    self.stage = self.begin_value(field, length)?;
                }
            }
            Stage::SkippedVarint(varint) => {
                if varint.push(byte)?.is_some() {
                    self.stage = Stage::Tag(Varint::START);
                }
            }
            Stage::Content { .. } | Stage::Text { .. } | Stage::Skipped { .. } => {}
        }
        Ok(())
    }

    fn begin_field(&mut self, tag: u64) -> Result<(), PacketError> {
        let (number, wire_type) = (tag >> 3, tag & 7);
        // Field numbers have 29 bits.
        if number == 0 || tag > u64::from(u32::MAX) {
            return Err(PacketError::InvalidTag(tag));
        }
        let (name, field) = match number {
            1 => ("content", Field::Content),
            2 => ("file_name", Field::Text(TextField::FileName)),
            3 => ("distributed", Field::Text(TextField::Distributed)),
            5 => ("last_updated", Field::Other),
            _ => ("", Field::Other),
        };
        if !name.is_empty() && wire_type != 2 {
            return Err(PacketError::WrongType(name));
        }
        self.stage = match wire_type {
            0 => Stage::SkippedVarint(Varint::START),
            1 => self.skip(8)?,
            2 => Stage::Length(field, Varint::START),
            5 => self.skip(4)?,
            // 3 and 4 are the groups, which proto3 does not have; 6 and 7 are nothing.
            _ => return Err(PacketError::InvalidTag(tag)),
        };
        Ok(())
    }

    fn begin_value(&mut self, field: Field, length: u64) -> Result<Stage, PacketError> {
        match field {
            Field::Content => {
                if length > base64_size(self.limits.content_size_max) {
                    return Err(PacketError::ContentTooLarge(self.limits.content_size_max));
                }
                if self.content.is_some() {
                    return Err(PacketError::ContentTwice);
                }
                self.content = Some(Base64Decoder::new(self.limits.content_size_max));
                Ok(Stage::Content { left: length })
            }
            Field::Text(field) => {
                let max = field.size_max();
                let too_long = PacketError::TextTooLong { field: field.name(), max };
                let left = usize::try_from(length).ok().filter(|left| *left <= max).ok_or(too_long)?;
                self.spend(length)?;
                Ok(Stage::Text { field, left, text: Vec::with_capacity(left) })
            }
            Field::Other => self.skip(length),
        }
    }

    /// Goes on to the next tag if nothing of the field is left to come.
    fn end_full_field(&mut self) -> Result<(), PacketError> {
        match &mut self.stage {
            Stage::Content { left: 0 } => {
                self.content.as_ref().expect("begun before this stage").finish()?;
            }
            Stage::Text { field, left: 0, text } => {
                let text = String::from_utf8(std::mem::take(text)).map_err(|_| PacketError::NotUtf8(field.name()))?;
                // The last of several wins, as proto3 says.
                match field {
                    TextField::FileName => self.file_name = Some(text),
                    TextField::Distributed => self.distributed = Some(text),
                }
            }
            Stage::Skipped { left: 0 } => {}
            _ => return Ok(()),
        }
        self.stage = Stage::Tag(Varint::START);
        Ok(())
    }

    fn skip(&mut self, size: u64) -> Result<Stage, PacketError> {
        self.spend(size)?;
        Ok(Stage::Skipped { left: size })
    }

    fn spend(&mut self, size: u64) -> Result<(), PacketError> {
        self.envelope_size = self.envelope_size.saturating_add(size);
        match self.envelope_size > ENVELOPE_SIZE_MAX {
            true => Err(PacketError::EnvelopeTooLarge(ENVELOPE_SIZE_MAX)),
            false => Ok(()),
        }
    }
}

fn split_at_most(chunk: &[u8], size: u64) -> (&[u8], &[u8]) {
    chunk.split_at(usize::try_from(size).unwrap_or(usize::MAX).min(chunk.len()))
}

/// A number of which some bytes have come: seven bits in each, the lowest first, the top bit set in all but the last.
#[derive(Debug, PartialEq, Eq)]
struct Varint {
    value: u64,
    bits: u32,
}

impl Varint {
    const START: Self = Self { value: 0, bits: 0 };

    fn push(&mut self, byte: u8) -> Result<Option<u64>, PacketError> {
        // The tenth byte has room for one bit, and none after it.
        if self.bits == 63 && byte > 1 {
            return Err(PacketError::VarintTooLong);
        }
        self.value |= u64::from(byte & 0x7F) << self.bits;
        self.bits += 7;
        Ok((byte < 0x80).then_some(self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &[u8] = b"\x12\x01a\x1A\x01F";

    fn decode(packet: &[u8]) -> (Vec<u8>, Result<Packet, PacketError>) {
        let mut content = Vec::new();
        let mut decoder = ProtobufDecoder::new(Limits::default());
        let result =
            decoder.push(packet, &mut |bytes| content.extend_from_slice(bytes)).and_then(|()| decoder.finish());
        (content, result)
    }

    fn file(file_name: &str, distributed: bool) -> Result<Packet, PacketError> {
        Ok(Packet::File { file_name: file_name.to_owned(), distributed })
    }

    #[test]
    fn fields_come_in_any_order_among_others() {
        for (packet, content, result) in [
            (MINIMAL, &b""[..], file("a", false)),
            (b"\x1A\x01T\x0A\x04QUJD\x12\x02\xC3\xBC", b"ABC", file("ü", true)),
            (b"\x12\x00\x0A\x00\x12\x01a\x1A\x01F\x12\x01b", b"", file("b", false)),
            // The date, then fields 4, 6, 7 and 8 with the wire types 0, 1, 2 and 5.
            (b"\x2A\x02\x08\x01\x20\xFF\x01\x31ABCDEFGH\x3A\x02hi\x45ABCD\x12\x01a\x1A\x01F", b"", file("a", false)),
        ] {
            assert_eq!(decode(packet), (content.to_vec(), result), "{packet:?}");
        }
    }

    #[test]
    fn each_bad_packet_is_refused_for_its_own_reason() {
        for (packet, error) in [
            (&b"\x12\x01a"[..], PacketError::Missing("distributed")),
            (b"\x12\x01a\x1A\x00", PacketError::Missing("distributed")),
            (b"\x12\x00\x1A\x01F", PacketError::Missing("file_name")),
            (b"\x12\x01a\x1A\x01f", PacketError::InvalidDistributed("f".to_owned())),
            (b"\x12\x01\xFF", PacketError::NotUtf8("file_name")),
            (b"\x12\x81\x08", PacketError::TextTooLong { field: "file_name", max: 1024 }),
            (b"\x1A\x11", PacketError::TextTooLong { field: "distributed", max: 16 }),
            (b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", PacketError::ContentTooLarge(64 << 30)),
            (b"\x12\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02", PacketError::VarintTooLong),
            (b"\x12\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x81", PacketError::VarintTooLong),
            (b"\x0A\x03QUI", PacketError::Base64Cut(3)),
            (b"\x0A\xFF\xFF\x01\0\0\0\0", PacketError::NotBase64 { byte: 0, position: 0 }),
            (&[0x0A; 100], PacketError::NotBase64 { byte: 0x0A, position: 0 }),
            (b"\x0A\x00\x0A\x00", PacketError::ContentTwice),
            (b"\x08\x01", PacketError::WrongType("content")),
            (b"\x2D\x01", PacketError::WrongType("last_updated")),
            (b"\x02\x00", PacketError::InvalidTag(2)),
            (b"\x33", PacketError::InvalidTag(0x33)),
            (b"\x34", PacketError::InvalidTag(0x34)),
            (b"\x36", PacketError::InvalidTag(0x36)),
            (b"\x37", PacketError::InvalidTag(0x37)),
            (b"\xF8\xFF\xFF\xFF\x1F", PacketError::InvalidTag(0x1_FFFF_FFF8)),
            (b"\x32\xFE\xFF\x03", PacketError::EnvelopeTooLarge(ENVELOPE_SIZE_MAX)),
            (&MINIMAL.repeat(11_000), PacketError::EnvelopeTooLarge(ENVELOPE_SIZE_MAX)),
        ] {
            assert_eq!(decode(packet), (Vec::new(), Err(error)), "{packet:?}");
        }
    }

    #[test]
    fn every_shorter_packet_is_an_error() {
        let packet = b"\x0A\x04QUJD\x3A\x02hi\x45ABCD\x12\x01a\x1A\x01F";
        assert_eq!(decode(packet).1, file("a", false));
        for size in 0..packet.len() {
            let field_ends = [0, 6, 10, 15, 18].contains(&size);
            let result = decode(&packet[..size]).1;
            assert!(result.is_err() && field_ends == (result != Err(PacketError::Truncated)), "{size}: {result:?}");
        }
    }
}
