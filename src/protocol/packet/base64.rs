//! Base64 that arrives in pieces: decodes what is whole, keeps what is not.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};

use super::PacketError;

/// Text decoded at a time: small enough to stay in the first-level cache, a multiple of four.
const BLOCK_SIZE: usize = 16 * 1024;

/// Decodes the standard alphabet with padding (RFC 4648 section 4), exactly as Python's `b64encode` writes it.
#[derive(Debug)]
pub(super) struct Base64Decoder {
    decoded_size_max: u64,
    /// The start of a group of four whose rest has not come.
    group: Vec<u8>,
    /// Characters decoded so far, without those in `group`.
    position: u64,
    padded: bool,
    decoded_size: u64,
    decoded: Vec<u8>,
}

impl Base64Decoder {
    pub(super) const fn new(decoded_size_max: u64) -> Self {
        Self { decoded_size_max, group: Vec::new(), position: 0, padded: false, decoded_size: 0, decoded: Vec::new() }
    }

    /// Decodes `text` as far as it goes. What reaches the sink and which error comes do not depend on where the
    /// text was cut into pieces.
    pub(super) fn push(&mut self, mut text: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), PacketError> {
        while !self.group.is_empty() && !text.is_empty() {
            self.group.push(text[0]);
            text = &text[1..];
            if let Ok(group) = <[u8; 4]>::try_from(self.group.as_slice()) {
                self.group.clear();
                self.decode_group(&group, sink)?;
            }
        }
        let (whole, rest) = text.split_at(text.len() - text.len() % 4);
        for block in whole.chunks(BLOCK_SIZE) {
            self.decode_block(block, sink)?;
        }
        self.group.extend_from_slice(rest);
        Ok(())
    }

    /// Ends the text, which must not be inside a group.
    pub(super) fn finish(&self) -> Result<(), PacketError> {
        if self.group.is_empty() {
            Ok(())
        } else {
            Err(PacketError::Base64Cut(self.position + self.group.len() as u64))
        }
    }

    fn decode_block(&mut self, block: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), PacketError> {
        let too_large = self.decoded_size + block.len() as u64 / 4 * 3 > self.decoded_size_max;
        if too_large || self.padded || self.decode(block).is_err() {
            // Somewhere in the block is, probably, an error: the groups before it still count.
            return block.chunks(4).try_for_each(|group| self.decode_group(group, sink));
        }
        self.accept(block, sink);
        Ok(())
    }

    fn decode_group(&mut self, group: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), PacketError> {
        if self.padded {
            return Err(PacketError::NotBase64 { byte: group[0], position: self.position });
        }
        self.decode(group).map_err(|error| {
            let (offset, byte) = match error {
                DecodeError::InvalidByte(offset, byte) | DecodeError::InvalidLastSymbol(offset, byte) => (offset, byte),
                DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => (3, group[3]),
            };
            PacketError::NotBase64 { byte, position: self.position + offset as u64 }
        })?;
        if self.decoded_size + self.decoded.len() as u64 > self.decoded_size_max {
            return Err(PacketError::ContentTooLarge(self.decoded_size_max));
        }
        self.accept(group, sink);
        Ok(())
    }

    fn decode(&mut self, text: &[u8]) -> Result<(), DecodeError> {
        self.decoded.clear();
        STANDARD.decode_vec(text, &mut self.decoded)
    }

    fn accept(&mut self, text: &[u8], sink: &mut dyn FnMut(&[u8])) {
        self.position += text.len() as u64;
        self.padded = text.ends_with(b"=");
        self.decoded_size += self.decoded.len() as u64;
        sink(&self.decoded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in pieces of `step` bytes.
    fn decode(text: &[u8], step: usize, size_max: u64) -> (Vec<u8>, Result<(), PacketError>) {
        let mut bytes = Vec::new();
        let mut decoder = Base64Decoder::new(size_max);
        let result = text
            .chunks(step)
            .try_for_each(|piece| decoder.push(piece, &mut |decoded| bytes.extend_from_slice(decoded)))
            .and_then(|()| decoder.finish());
        (bytes, result)
    }

    #[test]
    fn every_cut_gives_the_same_bytes() {
        let content: Vec<u8> = (0..40_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let text = STANDARD.encode(&content);
        for step in [1, 2, 3, 4, 5, 63, 64, 4096, BLOCK_SIZE, BLOCK_SIZE + 1, usize::MAX] {
            assert_eq!(decode(text.as_bytes(), step, 40_000), (content.clone(), Ok(())), "pieces of {step}");
        }
    }

    #[test]
    fn what_b64encode_does_not_write_is_refused_at_its_place() {
        let long = [b"QUJD".repeat(5000), b"QU*D".to_vec(), b"QUJD".repeat(5000)].concat();
        let bad = |byte, position| Err(PacketError::NotBase64 { byte, position });
        for (text, bytes, error) in [
            (&b"QUJD\nQUJ"[..], &b"ABC"[..], bad(b'\n', 4)),
            (b"QUJDQU-D", b"ABC", bad(b'-', 6)),
            (b"QUI=QUJD", b"AB", bad(b'Q', 4)),
            (b"QUI=====", b"AB", bad(b'=', 4)),
            (b"QR==", b"", bad(b'R', 1)),
            (b"QU=D", b"", bad(b'=', 2)),
            (b"Q===", b"", bad(b'=', 1)),
            (b"====", b"", bad(b'=', 0)),
            (b"QUJDQUI", b"ABC", Err(PacketError::Base64Cut(7))),
            (&long, &b"ABC".repeat(5000), bad(b'*', 20_002)),
        ] {
            for step in [1, 3, 4, 7, 1000, usize::MAX] {
                assert_eq!(decode(text, step, 40_000), (bytes.to_vec(), error.clone()), "pieces of {step}");
            }
        }
    }

    #[test]
    fn what_is_larger_than_allowed_stops_there() {
        let content = [7; 40_000];
        let text = STANDARD.encode(content);
        for size_max in [0, 1, 20_000, 39_999] {
            for step in [1, 5, 4096, usize::MAX] {
                let (bytes, result) = decode(text.as_bytes(), step, size_max);
                assert_eq!(result, Err(PacketError::ContentTooLarge(size_max)));
                assert_eq!(bytes.len() as u64, size_max / 3 * 3);
            }
        }
    }
}
