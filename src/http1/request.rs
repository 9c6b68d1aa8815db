//! The head of a request, borrowed from the bytes that were read.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header, request};

use super::fields::{Fields, Slots, members};
use super::framing::{BodyLength, Framing};
use super::target::{self, TargetForm};
use super::{HeadError, Limits, Version, empty_lines, first_line, is_token_byte};

/// Longer than every method that is registered.
const METHOD_BYTES_MAX: usize = 32;

/// What a request expects before it sends its body (RFC 9110 section 10.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// Nothing.
    None,
    /// `100-continue`; of HTTP/1.0 it is ignored.
    Continue,
    /// Something else: a server answers 417.
    Unknown,
}

/// The head of a request that is well formed (RFC 9112), and what it says of its body and of the connection.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    method: &'a str,
    target: &'a str,
    form: TargetForm,
    version: Version,
    fields: Fields<'a>,
    /// In which the fields stand.
    text: &'a [u8],
    length: usize,
    body: BodyLength,
    expectation: Expectation,
    keeps_alive: bool,
    upgrades: bool,
    takes_trailers: bool,
    host: &'a str,
}

impl<'a> RequestHead<'a> {
    /// Reads the head at the begin of `bytes`; `None` while it has not all come.
    ///
    /// # Errors
    /// With the first thing that is wrong with it, which may be before it has all come.
    pub fn parse<'b: 'a>(
        bytes: &'b [u8],
        limits: &Limits,
        slots: &'a mut Slots<'b>,
    ) -> Result<Option<Self>, HeadError> {
        let begin = empty_lines(bytes);
        let Some(end) = first_line(&bytes[begin..])? else {
            return unfinished_line(&bytes[begin..], begin, limits);
        };
        let line = &bytes[begin..begin + end];
        let (method, target, version) = parse_line(line, limits)?;
        let (target, form) = target::parse(method, target)?;
        let fields_begin = begin + end + 2;
        let Some((fields, fields_length)) = Fields::parse(&bytes[fields_begin..], slots)? else {
            return if bytes.len() < limits.head_bytes { Ok(None) } else { Err(HeadError::TooLarge) };
        };
        let length = fields_begin + fields_length;
        if length > limits.head_bytes {
            return Err(HeadError::TooLarge);
        }
        let facts = Facts::of(fields, version)?;
        let host = match form {
            // It goes before the field (RFC 9112 section 3.2.2), which has to be there all the same.
            TargetForm::Absolute => target::authority_of_absolute(target),
            TargetForm::Authority => Some(target),
            TargetForm::Origin | TargetForm::Asterisk => facts.host,
        };
        Ok(Some(Self {
            method,
            target,
            form,
            version,
            fields,
            text: &bytes[fields_begin..length],
            length,
            body: facts.framing.of_request(version)?,
            expectation: facts.expectation,
            keeps_alive: facts.framing.keeps_alive(version),
            upgrades: version == Version::Http11 && facts.framing.options.upgrade && facts.upgrade,
            takes_trailers: facts.takes_trailers,
            host: host.unwrap_or_default(),
        }))
    }

    /// The method, in the letters it was sent in: methods are case-sensitive (RFC 9110 section 9.1).
    pub const fn method(&self) -> &'a str {
        self.method
    }

    /// The whole target as it was sent.
    pub const fn target(&self) -> &'a str {
        self.target
    }

    /// The form of the target.
    pub const fn form(&self) -> TargetForm {
        self.form
    }

    /// The path and query, still encoded; `*`, or empty, where the target has none.
    pub fn path_and_query(&self) -> &'a str {
        match self.form {
            TargetForm::Origin | TargetForm::Asterisk => self.target,
            TargetForm::Absolute => target::path_of_absolute(self.target),
            TargetForm::Authority => "",
        }
    }

    /// The host that is asked, with its port if it was sent: that of the target, else that of `Host` (RFC 9112 section
    /// 3.3). Empty if there is none.
    pub const fn host(&self) -> &'a str {
        self.host
    }

    /// The version.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The fields.
    pub const fn fields(&self) -> Fields<'a> {
        self.fields
    }

    /// How many bytes the head has, with empty lines before it and the one that ends it.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Where its body ends.
    pub const fn body(&self) -> BodyLength {
        self.body
    }

    /// What it waits for.
    pub const fn expectation(&self) -> Expectation {
        self.expectation
    }

    /// Whether the client would like to send more on this connection (RFC 9112 section 9.3).
    pub const fn keeps_alive(&self) -> bool {
        self.keeps_alive
    }

    /// Whether the client would speak another protocol on this connection (RFC 9110 section 7.8).
    pub const fn upgrades(&self) -> bool {
        self.upgrades
    }

    /// Whether the client takes trailers (RFC 9110 section 6.5.1).
    pub const fn takes_trailers(&self) -> bool {
        self.takes_trailers
    }

    /// The same as parts of an `http::Request`, which own what they have.
    ///
    /// # Errors
    /// If the target is more than `http::Uri` holds.
    pub fn to_parts(&self) -> Result<request::Parts, HeadError> {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = Method::from_bytes(self.method.as_bytes()).map_err(|_| HeadError::StartLine)?;
        parts.uri = Uri::try_from(self.target).map_err(|_| HeadError::Target)?;
        parts.version = self.version.into();
        parts.headers = self.fields.to_map(self.text, &Bytes::copy_from_slice(self.text))?;
        self.state_length_once(&mut parts.headers);
        Ok(parts)
    }

    /// RFC 9112 section 6.3 case 5: who passes the request on passes one number on.
    fn state_length_once(&self, headers: &mut HeaderMap) {
        let stated = headers.get_all(header::CONTENT_LENGTH).iter().count() > 1
            || headers.get(header::CONTENT_LENGTH).is_some_and(|value| value.as_bytes().contains(&b','));
        if stated {
            let bytes = if let BodyLength::Exactly(bytes) = self.body { bytes } else { 0 };
            headers.insert(header::CONTENT_LENGTH, bytes.into());
        }
    }
}

/// What the fields of a request say of the request itself.
struct Facts<'a> {
    framing: Framing,
    host: Option<&'a str>,
    expectation: Expectation,
    upgrade: bool,
    takes_trailers: bool,
}

impl<'a> Facts<'a> {
    fn of(fields: Fields<'a>, version: Version) -> Result<Self, HeadError> {
        let mut facts = Self {
            framing: Framing::default(),
            host: None,
            expectation: Expectation::None,
            upgrade: false,
            takes_trailers: false,
        };
        for (name, value) in fields.iter() {
            match name.len() {
                2 if name.eq_ignore_ascii_case("te") => {
                    facts.takes_trailers |= members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
                }
                4 if name.eq_ignore_ascii_case("host") => facts.host(value)?,
                6 if name.eq_ignore_ascii_case("expect") => facts.expect(value, version),
                7 if name.eq_ignore_ascii_case("upgrade") => facts.upgrade = true,
                _ => facts.framing.field(name, value)?,
            }
        }
        if facts.host.is_none() && version == Version::Http11 {
            return Err(HeadError::Host);
        }
        Ok(facts)
    }

    fn host(&mut self, value: &'a [u8]) -> Result<(), HeadError> {
        if self.host.is_some() || !target::is_host(value) {
            return Err(HeadError::Host);
        }
        self.host = Some(std::str::from_utf8(value).map_err(|_| HeadError::Host)?);
        Ok(())
    }

    fn expect(&mut self, value: &[u8], version: Version) {
        if version == Version::Http10 {
            return;
        }
        for expectation in members(value) {
            let known = expectation.eq_ignore_ascii_case(b"100-continue") && self.expectation != Expectation::Unknown;
            self.expectation = if known { Expectation::Continue } else { Expectation::Unknown };
        }
    }
}

/// RFC 9112 section 3: method, target and version, one space between two of them and none elsewhere.
fn parse_line<'b>(line: &'b [u8], limits: &Limits) -> Result<(&'b str, &'b [u8], Version), HeadError> {
    let space = memchr::memchr(b' ', line).ok_or(HeadError::StartLine)?;
    let method = method(&line[..space])?;
    let rest = &line[space + 1..];
    let Some(space) = memchr::memchr(b' ', rest) else {
        // Without a version it would be HTTP/0.9, unless the target is what makes the line so long.
        return Err(if rest.len() > limits.target_bytes { HeadError::TargetTooLong } else { HeadError::StartLine });
    };
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    if target.len() > limits.target_bytes {
        return Err(HeadError::TargetTooLong);
    }
    Ok((method, target, Version::parse(version)?))
}

fn method(bytes: &[u8]) -> Result<&str, HeadError> {
    if bytes.is_empty() || !bytes.iter().all(|byte| is_token_byte(*byte)) {
        return Err(HeadError::StartLine);
    }
    if bytes.len() > METHOD_BYTES_MAX {
        return Err(HeadError::MethodTooLong);
    }
    std::str::from_utf8(bytes).map_err(|_| HeadError::StartLine)
}

/// What can be said of a first line that has not ended. What is no HTTP at all, a TLS handshake for one, is known by its
/// first bytes, and who sends it hears so at once.
fn unfinished_line<T>(line: &[u8], begin: usize, limits: &Limits) -> Result<Option<T>, HeadError> {
    if let Some(space) = memchr::memchr(b' ', line) {
        method(&line[..space])?;
    } else if !line.iter().all(|byte| is_token_byte(*byte) || *byte == b'\r') {
        return Err(HeadError::StartLine);
    } else if line.len() > METHOD_BYTES_MAX {
        return Err(HeadError::MethodTooLong);
    }
    let longest = METHOD_BYTES_MAX + 1 + limits.target_bytes + " HTTP/1.1\r\n".len();
    if line.len() >= longest || begin + line.len() >= limits.head_bytes {
        return Err(HeadError::TargetTooLong);
    }
    Ok(None)
}
