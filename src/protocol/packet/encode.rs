//! Packets written piece by piece, with their exact size known before the first byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Format, PacketError, base64_size, protobuf};

/// Writes one packet around content that is read while it is sent.
///
/// The wire gets [`head`](Self::head), then what [`content`](Self::content) put out for each piece of the file, then
/// [`finish`](Self::finish). If the file turns out longer or shorter than announced, `finish` fails and what was sent
/// so far is no packet.
///
/// ```
/// use metacdn::protocol::packet::{Encoder, Format};
///
/// let mut encoder = Encoder::new(Format::Json, "hello.txt", false, 5);
/// let mut wire = encoder.head();
/// encoder.content(b"hel", &mut wire);
/// encoder.content(b"lo", &mut wire);
/// let size = encoder.wire_size();
/// wire.extend(encoder.finish()?);
/// assert_eq!(wire, br#"{"file_name": "hello.txt", "distributed": "F", "content": "aGVsbG8="}"#);
/// assert_eq!(wire.len() as u64, size);
/// # Ok::<(), metacdn::protocol::packet::PacketError>(())
/// ```
#[derive(Debug)]
pub struct Encoder {
    head: Vec<u8>,
    tail: Vec<u8>,
    announced: u64,
    given: u64,
    /// Up to two bytes that wait for the third of their base64 group.
    left_over: Vec<u8>,
}

impl Encoder {
    /// Begins the packet of a file of `content_size` bytes.
    pub fn new(format: Format, file_name: &str, distributed: bool, content_size: u64) -> Self {
        let distributed = if distributed { "T" } else { "F" };
        let (head, tail) = match format {
            Format::Json => {
                let file_name = Value::from(file_name);
                let head = format!(r#"{{"file_name": {file_name}, "distributed": "{distributed}", "content": ""#);
                (head.into_bytes(), br#""}"#.to_vec())
            }
            Format::Protobuf3 => protobuf::head_and_tail(base64_size(content_size), file_name, distributed),
        };
        Self { head, tail, announced: content_size, given: 0, left_over: Vec::with_capacity(3) }
    }

    /// The bytes that the whole packet takes on the wire.
    pub const fn wire_size(&self) -> u64 {
        base64_size(self.announced).saturating_add((self.head.len() + self.tail.len()) as u64)
    }

    /// Everything before the content's text.
    pub fn head(&self) -> Vec<u8> {
        self.head.clone()
    }

    /// Appends the next `bytes` of the file to `out`, in base64, as far as they make whole groups.
    pub fn content(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        self.given = self.given.saturating_add(bytes.len() as u64);
        if self.given > self.announced {
            // Nothing that is longer than it says may look whole to a receiver: no more goes out.
            return;
        }
        if !self.left_over.is_empty() {
            let missing = bytes.len().min(3 - self.left_over.len());
            self.left_over.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.left_over.len() < 3 {
                return;
            }
            append_base64(&self.left_over, out);
            self.left_over.clear();
        }
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % 3);
        append_base64(whole, out);
        self.left_over.extend_from_slice(rest);
    }

    /// The last group of the content and everything after it.
    ///
    /// # Errors
    /// [`PacketError::ContentSizeDiffers`]: the packet must not be ended, close the connection without it.
    pub fn finish(self) -> Result<Vec<u8>, PacketError> {
        if self.given != self.announced {
            return Err(PacketError::ContentSizeDiffers { announced: self.announced, given: self.given });
        }
        let mut out = Vec::with_capacity(4 + self.tail.len());
        append_base64(&self.left_over, &mut out);
        out.extend_from_slice(&self.tail);
        Ok(out)
    }
}

fn append_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    STANDARD.encode_slice(bytes, &mut out[start..]).expect("three bytes make four characters");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_its_size_is_no_packet() {
        for format in [Format::Json, Format::Protobuf3] {
            for (given, text) in [(0, ""), (5, "AAAA"), (7, "")] {
                let mut encoder = Encoder::new(format, "a", false, 6);
                let mut out = Vec::new();
                encoder.content(&[0; 7][..given], &mut out);
                assert_eq!(out, text.as_bytes());
                let differs = PacketError::ContentSizeDiffers { announced: 6, given: given as u64 };
                assert_eq!(encoder.finish(), Err(differs));
            }
        }
    }
}
