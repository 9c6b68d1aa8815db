//! Which frames a client sends (RFC 9113 section 4.1), before the codec takes them: it answers pings, settings and frames
//! that carry nothing however many there are.

use std::sync::Arc;

use super::super::streams::{Calm, FRAME_COST, REQUEST_WORTH};

/// What comes before the first frame (section 3.4).
const PREFACE_BYTES: usize = 24;

const HEAD_BYTES: usize = 9;

const DATA: u8 = 0x00;
const HEADERS: u8 = 0x01;
const CONTINUATION: u8 = 0x09;
const END_STREAM: u8 = 0x01;

/// Takes account of the frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    calm: Arc<Calm>,
    head: [u8; HEAD_BYTES],
    have: usize,
    /// So much is to come that is no head of a frame.
    skip: usize,
}

impl Frames {
    pub(super) const fn new(calm: Arc<Calm>) -> Self {
        Self { calm, head: [0; HEAD_BYTES], have: 0, skip: PREFACE_BYTES }
    }

    /// Takes the next bytes that came.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let (head, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.have));
            self.head[self.have..self.have + head.len()].copy_from_slice(head);
            self.have += head.len();
            bytes = rest;
            if self.have == HEAD_BYTES {
                self.have = 0;
                self.frame();
            }
        }
    }

    fn frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.skip = length;
        match kind {
            HEADERS => self.calm.earn(REQUEST_WORTH),
            DATA if length > 0 || flags & END_STREAM != 0 => {}
            // How many of them make a head is counted where it is put together.
            CONTINUATION => {}
            _ => self.calm.spend(FRAME_COST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these frames, cut into such pieces, are too many.
    fn exhausts(kind: u8, flags: u8, payload: &[u8], step: usize) -> bool {
        let calm = Arc::new(Calm::new());
        let mut frames = Frames::new(calm.clone());
        let mut bytes = vec![b'P'; PREFACE_BYTES];
        for _ in 0..20_000 {
            bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
            bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
            bytes.extend_from_slice(payload);
        }
        bytes.chunks(step).for_each(|piece| frames.pass(piece));
        assert!(frames.have == 0 && frames.skip == 0);
        calm.is_exhausted()
    }

    #[test]
    fn frames_that_carry_nothing_are_bounded_in_number() {
        for step in [1, 7, 100_000] {
            // RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, and one that nobody knows.
            for kind in [3, 4, 6, 8, 0x42] {
                assert!(exhausts(kind, 0, &[0; 8], step), "{kind}");
            }
            assert!(exhausts(DATA, 0, &[], step));
            assert!(!exhausts(DATA, 0, &[0], step));
            assert!(!exhausts(DATA, END_STREAM, &[], step));
            assert!(!exhausts(HEADERS, 0, &[4, 6, 8], step));
        }
    }
}
