//! The frames of a stream (RFC 9114 section 7), before the codec sees them: it holds each whole but for data, however
//! large it says it is, and takes data of no bytes for the end.

use bytes::BytesMut;

const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;

/// Frames that mean something, or must not come (sections 7.2 and 7.2.8). All others mean nothing (section 9).
const KNOWN: [u64; 11] = [DATA, HEADERS, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0d];

/// The type of a stream of control frames (section 6.2.1).
const CONTROL_STREAM: u64 = 0x00;

/// A frame says that it is larger than any that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame has {0} bytes")]
pub(super) struct TooLarge(u64);

/// Lets through what the codec has to see of one stream.
#[derive(Debug)]
pub(super) struct Frames {
    state: State,
    frame_bytes_max: u64,
    /// How many frames carried nothing of a request.
    idle: u32,
}

#[derive(Debug)]
enum State {
    /// The type of a stream of one direction.
    StreamType(Number),
    /// The type and the length of a frame.
    Head { kind: Number, length: Number },
    /// So much of a frame is to come.
    Payload { left: u64, dropped: bool },
    /// Something else than frames.
    Other,
}

impl State {
    const HEAD: Self = Self::Head { kind: Number::NONE, length: Number::NONE };
}

/// A number of variable length (RFC 9000 section 16), as far as it has come.
#[derive(Debug, Clone, Copy)]
struct Number {
    bytes: [u8; 8],
    have: usize,
}

impl Number {
    const NONE: Self = Self { bytes: [0; 8], have: 0 };

    fn text(&self) -> &[u8] {
        &self.bytes[..self.have]
    }

    fn is_whole(&self) -> bool {
        self.have > 0 && self.have == 1 << (self.bytes[0] >> 6)
    }

    /// Takes a byte of one that is not whole; whether it is now.
    fn push(&mut self, byte: u8) -> bool {
        self.bytes[self.have] = byte;
        self.have += 1;
        self.is_whole()
    }

    /// What it is, once it is whole.
    fn value(&self) -> u64 {
        let first = u64::from(self.bytes[0] & 0x3f);
        self.bytes[1..self.have.max(1)].iter().fold(first, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl Frames {
    /// Of the stream of a request. A head may have this many bytes as it is sent, and so may any other frame but data.
    pub(super) const fn of_request(frame_bytes_max: u64) -> Self {
        Self { state: State::HEAD, frame_bytes_max, idle: 0 }
    }

    /// Of a stream that goes one way.
    pub(super) const fn of_one_way(frame_bytes_max: u64) -> Self {
        Self { state: State::StreamType(Number::NONE), frame_bytes_max, idle: 0 }
    }

    /// Appends to `out` what of `bytes` the codec has to see.
    pub(super) fn pass(&mut self, mut bytes: &[u8], out: &mut BytesMut) -> Result<(), TooLarge> {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::StreamType(kind) => {
                    out.extend_from_slice(&[first]);
                    bytes = rest;
                    if kind.push(first) {
                        self.state = if kind.value() == CONTROL_STREAM { State::HEAD } else { State::Other };
                    }
                }
                State::Head { kind, length } => {
                    bytes = rest;
                    if !kind.is_whole() {
                        kind.push(first);
                    } else if length.push(first) {
                        let (kind, length) = (*kind, *length);
                        self.begin(kind, length, out)?;
                    }
                }
                State::Payload { left, dropped } => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    if !*dropped {
                        out.extend_from_slice(&bytes[..count]);
                    }
                    bytes = &bytes[count..];
                    *left -= count as u64;
                    if *left == 0 {
                        self.state = State::HEAD;
                    }
                }
                State::Other => {
                    out.extend_from_slice(bytes);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether the stream may end here: not within a frame.
    pub(super) const fn may_end(&self) -> bool {
        match self.state {
            State::Head { kind, .. } => kind.have == 0,
            State::Payload { .. } => false,
            State::StreamType(_) | State::Other => true,
        }
    }

    /// How many frames carried nothing of a request since this was asked last.
    pub(super) const fn take_idle(&mut self) -> u32 {
        std::mem::replace(&mut self.idle, 0)
    }

    fn begin(&mut self, kind: Number, length: Number, out: &mut BytesMut) -> Result<(), TooLarge> {
        let left = length.value();
        let dropped = !KNOWN.contains(&kind.value()) || kind.value() == DATA && left == 0;
        if dropped || kind.value() > HEADERS {
            self.idle = self.idle.saturating_add(1);
        }
        if !dropped {
            if kind.value() != DATA && left > self.frame_bytes_max {
                return Err(TooLarge(left));
            }
            out.extend_from_slice(kind.text());
            out.extend_from_slice(length.text());
        }
        self.state = if left == 0 { State::HEAD } else { State::Payload { left, dropped } };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(mut frames: Frames, bytes: &[u8], step: usize) -> Result<Vec<u8>, TooLarge> {
        let mut out = BytesMut::new();
        for piece in bytes.chunks(step) {
            frames.pass(piece, &mut out)?;
        }
        Ok(out.to_vec())
    }

    #[test]
    fn what_means_nothing_is_left_out_however_it_is_cut() {
        let (head, data, unknown) = (b"\x01\x03abc", b"\x00\x40\x05hello", b"\x21\x02xy");
        let empty = b"\x00\x00";
        let all = [&head[..], empty, unknown, data, empty, b"\x40\x21\x00", data].concat();
        for step in 1..all.len() {
            let seen = passed(Frames::of_request(100), &all, step).unwrap();
            assert_eq!(seen, [&head[..], data, data].concat(), "{step}");
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_counted() {
        let mut frames = Frames::of_request(100);
        frames.pass(b"\x01\x03abc\x00\x05hello\x00\x00\x21\x02xy\x04\x00", &mut BytesMut::new()).unwrap();
        assert_eq!((frames.take_idle(), frames.take_idle()), (3, 0));
    }

    #[test]
    fn frames_are_bounded_but_for_data() {
        assert!(passed(Frames::of_request(100), b"\x00\x7f\xff", 1).is_ok());
        assert_eq!(passed(Frames::of_request(100), b"\x01\x40\x65", 1), Err(TooLarge(101)));
        assert!(passed(Frames::of_request(100), b"\x01\x40\x64", 1).is_ok());
        // A stream of control frames has a type before them; others have none.
        assert_eq!(passed(Frames::of_one_way(100), b"\x00\x04\x40\x65", 2), Err(TooLarge(101)));
        assert_eq!(passed(Frames::of_one_way(100), b"\x02\x3f\xe1\x1f", 2).unwrap(), b"\x02\x3f\xe1\x1f");
    }

    #[test]
    fn a_stream_ends_between_frames() {
        for (bytes, may_end) in [(&b""[..], true), (b"\x01", false), (b"\x01\x02a", false), (b"\x01\x02ab", true)] {
            let mut frames = Frames::of_request(100);
            frames.pass(bytes, &mut BytesMut::new()).unwrap();
            assert_eq!(frames.may_end(), may_end, "{bytes:?}");
        }
    }
}
