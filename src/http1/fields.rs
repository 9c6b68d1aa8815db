//! The fields of a head, borrowed from the bytes that were read.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{FIELDS_MAX, HeadError};

/// How many fields almost all heads have at most.
const FIELDS_USUAL: usize = 32;

/// Room for the fields of one head, on the stack of whoever parses it.
pub struct Slots<'a> {
    usual: [httparse::Header<'a>; FIELDS_USUAL],
    /// Made where it is needed: to clear it for each head would cost more than to parse most of them.
    all: Vec<httparse::Header<'a>>,
}

impl Slots<'_> {
    /// Room for [`FIELDS_MAX`] fields.
    pub const fn new() -> Self {
        Self { usual: [httparse::EMPTY_HEADER; FIELDS_USUAL], all: Vec::new() }
    }
}

impl Default for Slots<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// The fields of a head in their order, names as they were sent, values without the white space around them.
#[derive(Clone, Copy)]
pub struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    /// Reads fields up to their empty line, and how many bytes they take with it; `None` while it has not come.
    ///
    /// Refused are names that are no tokens, white space before the colon and folded lines (RFC 9112 section 5), values
    /// with controls but tabs (RFC 9110 section 5.5), and lines that end in LF alone (RFC 9112 section 2.2).
    pub(super) fn parse<'b: 'a>(bytes: &'b [u8], slots: &'a mut Slots<'b>) -> Result<Option<(Self, usize)>, HeadError> {
        let parsed = match httparse::parse_headers(bytes, &mut slots.usual) {
            Err(httparse::Error::TooManyHeaders) => {
                slots.all.resize(FIELDS_MAX, httparse::EMPTY_HEADER);
                httparse::parse_headers(bytes, &mut slots.all)
            }
            parsed => parsed,
        };
        match parsed? {
            httparse::Status::Partial => Ok(None),
            httparse::Status::Complete((length, fields)) => {
                ends_lines_with_cr_lf(&bytes[..length])?;
                Ok(Some((Self(fields), length)))
            }
        }
    }

    /// Each field.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.0.iter().map(|field| (field.name, field.value))
    }

    /// The values of all fields with this name, in whatever letters it was sent.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(sent, _)| sent.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The first value of that name.
    pub fn first(self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// How many there are.
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The fields as a map whose values share `shared`, which begins with a copy of `text`, in which the fields stand.
    pub(super) fn to_map(self, text: &[u8], shared: &Bytes) -> Result<HeaderMap, HeadError> {
        debug_assert!(shared.starts_with(text), "a value would be another one's");
        let mut map = HeaderMap::with_capacity(self.len());
        for (name, value) in self.iter() {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeadError::FieldName)?;
            let begin = value.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
            let value = match begin.checked_add(value.len()).filter(|end| *end <= text.len()) {
                Some(end) => HeaderValue::from_maybe_shared(shared.slice(begin..end)),
                // An empty value may stand anywhere.
                None => HeaderValue::from_bytes(value),
            };
            map.append(name, value.map_err(|_| HeadError::FieldValue)?);
        }
        Ok(map)
    }
}

impl fmt::Debug for Fields<'_> {
    /// Names alone: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// The members of a list field (RFC 9110 section 5.6.1) that has no quoted commas; empty ones are left out.
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// A CR alone is refused by the parser already.
fn ends_lines_with_cr_lf(head: &[u8]) -> Result<(), HeadError> {
    let ends = |end: usize| end > 0 && head[end - 1] == b'\r';
    if memchr::memchr_iter(b'\n', head).all(ends) { Ok(()) } else { Err(HeadError::LineEnd) }
}
