//! How long a body is, and what becomes of the connection: RFC 9112 sections 6 and 9.

use super::fields::members;
use super::{HeadError, Version};

/// Where a body ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    Empty,
    /// After so many bytes, at least one.
    Exactly(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection; of answers only.
    UntilClose,
}

impl BodyLength {
    pub(super) const fn exactly(bytes: u64) -> Self {
        if bytes == 0 { Self::Empty } else { Self::Exactly(bytes) }
    }
}

/// What the fields that concern the message itself say, taken up one field at a time.
#[derive(Debug, Default)]
pub(super) struct Framing {
    length: Option<u64>,
    codings: Codings,
    pub(super) options: Options,
}

/// The transfer codings of a message so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    /// `chunked` and nothing else.
    Chunked,
    /// Such as nobody knows, and no `chunked` yet.
    Strange,
    /// Others too that do something to the content, and no `chunked` yet.
    Others,
    /// Others, and then `chunked`.
    UnderChunked,
    /// None in the field, or something behind `chunked`.
    Broken,
}

/// The options of a `Connection` field (RFC 9110 section 7.6.1) that are known here.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl Framing {
    pub(super) fn field(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        // Most fields are none of them, and their length says so.
        match name.len() {
            10 if name.eq_ignore_ascii_case("connection") => self.connection(value),
            14 if name.eq_ignore_ascii_case("content-length") => return self.content_length(value),
            17 if name.eq_ignore_ascii_case("transfer-encoding") => self.transfer_encoding(value),
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for option in members(value) {
            self.options.close |= option.eq_ignore_ascii_case(b"close");
            self.options.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.options.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// RFC 9112 section 6.3 case 5: a list, or several fields, of one and the same number is that number.
    fn content_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for member in value.split(|byte| *byte == b',') {
            let number = decimal(member.trim_ascii()).ok_or(HeadError::ContentLength)?;
            if self.length.is_some_and(|length| length != number) {
                return Err(HeadError::ContentLength);
            }
            self.length = Some(number);
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        let mut empty = true;
        for coding in members(value) {
            empty = false;
            self.codings = match (self.codings, coding.eq_ignore_ascii_case(b"chunked")) {
                (Codings::None, true) => Codings::Chunked,
                (Codings::None | Codings::Strange, false) if !is_registered(coding) => Codings::Strange,
                (Codings::None | Codings::Strange | Codings::Others, false) => Codings::Others,
                (Codings::Strange | Codings::Others, true) => Codings::UnderChunked,
                _ => Codings::Broken,
            };
        }
        if empty {
            self.codings = Codings::Broken;
        }
    }

    /// The length of a request's body: anything unclear is refused.
    pub(super) const fn of_request(&self, version: Version) -> Result<BodyLength, HeadError> {
        match (self.codings, self.length, version) {
            (Codings::None, None, _) => Ok(BodyLength::Empty),
            (Codings::None, Some(length), _) => Ok(BodyLength::exactly(length)),
            (_, Some(_), _) => Err(HeadError::TwoLengths),
            (_, None, Version::Http10) => Err(HeadError::CodingInHttp10),
            (Codings::Chunked, None, Version::Http11) => Ok(BodyLength::Chunked),
            (Codings::UnderChunked, ..) => Err(HeadError::CodingUnknown),
            (Codings::Strange | Codings::Others | Codings::Broken, ..) => Err(HeadError::CodingUnframed),
        }
    }

    /// The length of the body of an answer that may have one, and whether something else may follow it on the
    /// connection. An answer with two lengths is chunked (RFC 9112 section 6.3 case 3), and may be an attack. One with a
    /// last coding other than `chunked` goes on to the end of the connection (case 4); but what a coding that is known by
    /// name has done to the content, nobody here could undo.
    pub(super) const fn of_response(&self, version: Version) -> Result<(BodyLength, bool), HeadError> {
        match (self.codings, self.length, version) {
            (Codings::None, None, _) => Ok((BodyLength::UntilClose, false)),
            (Codings::None, Some(length), _) => Ok((BodyLength::exactly(length), true)),
            (_, _, Version::Http10) => Err(HeadError::CodingInHttp10),
            (Codings::Chunked, length, Version::Http11) => Ok((BodyLength::Chunked, length.is_none())),
            (Codings::Strange, None, Version::Http11) => Ok((BodyLength::UntilClose, false)),
            (Codings::Strange, Some(_), Version::Http11) => Err(HeadError::TwoLengths),
            (Codings::UnderChunked | Codings::Others, ..) => Err(HeadError::CodingUnknown),
            (Codings::Broken, ..) => Err(HeadError::CodingUnframed),
        }
    }

    /// Whether the connection is kept, as far as these fields say (RFC 9112 section 9.3).
    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        !self.options.close && (version == Version::Http11 || self.options.keep_alive)
    }
}

/// Whether a transfer coding is one of those that have a meaning (RFC 9112 section 7.2), but for `chunked`.
fn is_registered(coding: &[u8]) -> bool {
    let name = coding.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let names: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// RFC 9110 section 8.6: digits alone, without a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
