//! The head of an answer, borrowed from the bytes that were read.

use bytes::Bytes;
use http::{Method, Response, StatusCode, response};

use super::fields::{Fields, Slots};
use super::framing::{BodyLength, Framing};
use super::{HeadError, Limits, Version, first_line};

/// The head of an answer that is well formed (RFC 9112), and what it says of its body and of the connection.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    version: Version,
    status: StatusCode,
    fields: Fields<'a>,
    /// All of it, with the empty line that ends it.
    text: &'a [u8],
    framing: Framing,
}

impl<'a> ResponseHead<'a> {
    /// Reads the head at the begin of `bytes`; `None` while it has not all come. Of the limits the target's means
    /// nothing here.
    ///
    /// # Errors
    /// With the first thing that is wrong with it, which may be before it has all come.
    pub fn parse<'b: 'a>(
        bytes: &'b [u8],
        limits: &Limits,
        slots: &'a mut Slots<'b>,
    ) -> Result<Option<Self>, HeadError> {
        let unfinished = || if bytes.len() < limits.head_bytes { Ok(None) } else { Err(HeadError::TooLarge) };
        let Some(end) = first_line(bytes)? else {
            let begins = bytes.iter().zip(b"HTTP/1.").all(|(byte, wanted)| byte == wanted);
            return if begins { unfinished() } else { Err(HeadError::StartLine) };
        };
        let (version, status) = parse_line(&bytes[..end])?;
        let Some((fields, fields_length)) = Fields::parse(&bytes[end + 2..], slots)? else {
            return unfinished();
        };
        let length = end + 2 + fields_length;
        if length > limits.head_bytes {
            return Err(HeadError::TooLarge);
        }
        let mut framing = Framing::default();
        for (name, value) in fields.iter() {
            framing.field(name, value)?;
        }
        Ok(Some(Self { version, status, fields, text: &bytes[..length], framing }))
    }

    /// The version.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The fields.
    pub const fn fields(&self) -> Fields<'a> {
        self.fields
    }

    /// How many bytes the head has, with the empty line that ends it.
    pub const fn length(&self) -> usize {
        self.text.len()
    }

    /// Where the body of this answer to a request of `method` ends (RFC 9112 section 6.3). What follows 101, or 2xx to
    /// CONNECT, is no body but another protocol.
    ///
    /// # Errors
    /// When nobody can tell.
    pub fn body(&self, method: &Method) -> Result<BodyLength, HeadError> {
        if self.has_none(method) { Ok(BodyLength::Empty) } else { Ok(self.framing.of_response(self.version)?.0) }
    }

    /// Whether another request may be sent behind the body of this answer (RFC 9112 section 9.3).
    pub fn keeps_alive(&self, method: &Method) -> bool {
        let framed = self.has_none(method) || self.framing.of_response(self.version).is_ok_and(|(_, goes_on)| goes_on);
        framed && self.status != StatusCode::SWITCHING_PROTOCOLS && self.framing.keeps_alive(self.version)
    }

    fn has_none(&self, method: &Method) -> bool {
        self.status.is_informational()
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || method == Method::HEAD
            || method == Method::CONNECT && self.status.is_success()
    }

    /// The same as parts of an `http::Response`, which own what they have.
    ///
    /// # Errors
    /// If a field is not one that `http` takes.
    pub fn to_parts(&self) -> Result<response::Parts, HeadError> {
        self.to_parts_of(&Bytes::copy_from_slice(self.text))
    }

    /// The same as parts whose values share `bytes`, a copy of what this was read from or of the begin of that.
    ///
    /// # Errors
    /// If a field is not one that `http` takes.
    pub fn to_parts_of(&self, bytes: &Bytes) -> Result<response::Parts, HeadError> {
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = self.status;
        parts.version = self.version.into();
        parts.headers = self.fields.to_map(self.text, bytes)?;
        Ok(parts)
    }
}

/// RFC 9112 section 4. The space behind the status is to be sent even without a reason, and many leave it out; the reason
/// means nothing.
fn parse_line(line: &[u8]) -> Result<(Version, StatusCode), HeadError> {
    let (version, rest) = line.split_at_checked("HTTP/1.1".len()).ok_or(HeadError::StartLine)?;
    let version = Version::parse(version)?;
    let (space, rest) = rest.split_first().ok_or(HeadError::StartLine)?;
    let (status, reason) = rest.split_at_checked(3).ok_or(HeadError::StartLine)?;
    let printable = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    if *space != b' ' || !matches!(reason, [] | [b' ', ..]) || !reason.iter().all(printable) {
        return Err(HeadError::StartLine);
    }
    let status = StatusCode::from_bytes(status).map_err(|_| HeadError::StartLine)?;
    Ok((version, status))
}
