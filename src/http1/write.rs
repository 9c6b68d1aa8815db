//! Heads to send. Names, values, methods and targets are of the types of `http`, which hold no CR and no LF: whatever a
//! request or an origin said, a head that is written here is one head (RFC 9112 section 11.1).

use std::fmt;
use std::sync::{Arc, OnceLock};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::Version;
use super::target::TargetForm;
use super::trailers::is_forbidden_in_trailers;

/// The whole interim answer 100 (RFC 9110 section 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The bytes of a date as it is sent: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
pub const DATE_BYTES: usize = 29;

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The fields of one connection that whoever runs it writes, and nobody else (RFC 9110 section 7.6.1; RFC 9112 sections 6
/// and 9). `Upgrade` is not among them: it is said by whoever knows the other protocol.
pub fn is_of_connection(name: &HeaderName) -> bool {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING].contains(name)
}

/// Appends the first line of an answer. The version is always this one (RFC 9110 section 2.5), the reason the usual one.
pub fn write_status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the first line of a request for `uri` in this form. What the form needs and `uri` has not is left empty, as
/// `/` for a path.
pub fn write_request_line(out: &mut Vec<u8>, method: &Method, uri: &Uri, form: TargetForm) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    match form {
        TargetForm::Origin => write_path(out, uri.path_and_query()),
        TargetForm::Absolute => {
            out.extend_from_slice(uri.scheme_str().unwrap_or("http").as_bytes());
            out.extend_from_slice(b"://");
            out.extend_from_slice(authority.as_bytes());
            write_path(out, uri.path_and_query());
        }
        TargetForm::Authority => out.extend_from_slice(authority.as_bytes()),
        TargetForm::Asterisk => out.push(b'*'),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Appends the first line of a request for `path`, in the form for servers that are no proxies (RFC 9112 section 3.2.1).
pub fn write_origin_line(out: &mut Vec<u8>, method: &Method, path: &PathAndQuery) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    write_path(out, Some(path));
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// RFC 9112 section 3.2.1: an empty path is sent as `/`.
fn write_path(out: &mut Vec<u8>, path: Option<&PathAndQuery>) {
    let path = path.map_or("", PathAndQuery::as_str);
    if !path.starts_with('/') {
        out.push(b'/');
    }
    out.extend_from_slice(path.as_bytes());
}

/// Appends fields, without the empty line that ends a head.
pub fn write_fields<'a>(out: &mut Vec<u8>, fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) {
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
}

/// Appends the last chunk with `trailers`, without those that must not stand there.
pub fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    write_fields(out, trailers.iter().filter(|(name, _)| !is_forbidden_in_trailers(name)));
    out.extend_from_slice(b"\r\n");
}

/// The fields of the bytes that an answer has. One that has none says nothing of them (RFC 9110 section 15.4.5: 304 says
/// what tells whether it is the same), and a part says the first two for itself (section 15.3.7).
pub const OF_CONTENT: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ACCEPT_RANGES,
];

/// How many of them are of the whole alone.
const OF_WHOLE: usize = 2;

/// The first line and the fields of an answer as they are sent, made once and sent often. It has neither what belongs to
/// one connection nor the empty line; whoever sends it adds both, and `Date` if it has none.
///
/// Where answers have no lines, in HTTP/2 and HTTP/3, it is sent as [`Block::status`] and [`Block::fields`].
#[derive(Debug, Clone)]
pub struct Block {
    lines: Arc<Lines>,
    form: Form,
}

/// What of the lines is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Part,
    NotModified,
}

#[derive(Debug)]
struct Lines {
    /// Fields of the content come last, those of the whole alone behind all others.
    bytes: Vec<u8>,
    /// Where the fields begin, those of the content, and those of the whole alone.
    begins: [usize; 3],
    status: StatusCode,
    has_date: bool,
    /// Made when it is first asked for: most blocks are sent as lines alone.
    fields: OnceLock<HeaderMap>,
}

impl Block {
    /// The block of an answer. Fields of the connection are left out of it.
    pub fn new<'a>(status: StatusCode, fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Self {
        let mut bytes = Vec::with_capacity(256);
        let (mut of_content, mut of_whole) = (Vec::new(), Vec::new());
        let mut has_date = false;
        write_status_line(&mut bytes, status);
        let fields_begin = bytes.len();
        for (name, value) in fields.into_iter().filter(|(name, _)| !is_of_connection(name)) {
            has_date |= *name == header::DATE;
            let lines = match OF_CONTENT.iter().position(|of_content| of_content == name) {
                None => &mut bytes,
                Some(..OF_WHOLE) => &mut of_whole,
                Some(_) => &mut of_content,
            };
            write_fields(lines, [(name, value)]);
        }
        let begins = [fields_begin, bytes.len(), bytes.len() + of_content.len()];
        bytes.append(&mut of_content);
        bytes.append(&mut of_whole);
        Self { lines: Arc::new(Lines { bytes, begins, status, has_date, fields: OnceLock::new() }), form: Form::Whole }
    }

    /// That of a part of the content, to which whoever sends it adds `Content-Range` and `Content-Length` (RFC 9110
    /// section 15.3.7).
    pub fn of_part(&self) -> Self {
        Self { lines: self.lines.clone(), form: Form::Part }
    }

    /// That of the answer to whoever has the content already (RFC 9110 section 15.4.5).
    pub fn not_modified(&self) -> Self {
        Self { lines: self.lines.clone(), form: Form::NotModified }
    }

    /// The lines, each with its CR LF, in two pieces of which the second may be empty.
    pub fn lines(&self) -> [&[u8]; 2] {
        let Lines { bytes, begins: [fields, of_content, of_whole], .. } = &*self.lines;
        match self.form {
            Form::Whole => [bytes, b""],
            Form::Part => [b"HTTP/1.1 206 Partial Content\r\n", &bytes[*fields..*of_whole]],
            Form::NotModified => [b"HTTP/1.1 304 Not Modified\r\n", &bytes[*fields..*of_content]],
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        match self.form {
            Form::Whole => self.lines.status,
            Form::Part => StatusCode::PARTIAL_CONTENT,
            Form::NotModified => StatusCode::NOT_MODIFIED,
        }
    }

    /// The fields.
    pub fn fields(&self) -> HeaderMap {
        let Lines { bytes, begins: [begin, ..], fields, .. } = &*self.lines;
        let mut fields = fields.get_or_init(|| read_fields(&bytes[*begin..]).collect()).clone();
        let left_out = match self.form {
            Form::Whole => &[][..],
            Form::Part => &OF_CONTENT[..OF_WHOLE],
            Form::NotModified => &OF_CONTENT,
        };
        for name in left_out {
            fields.remove(name);
        }
        fields
    }

    /// Whether `Date` is one of the fields.
    pub fn has_date(&self) -> bool {
        self.lines.has_date
    }
}

/// The fields of lines that [`write_fields`] wrote.
fn read_fields(lines: &[u8]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r")?;
        let colon = memchr::memchr(b':', line)?;
        let value = line[colon + 1..].strip_prefix(b" ")?;
        Some((HeaderName::from_bytes(&line[..colon]).ok()?, HeaderValue::from_bytes(value).ok()?))
    })
}

/// The fields that one answer has of its own, in bytes: enough for `Age`, `Cache-Status`, `Content-Range`,
/// `Content-Length` and `Alt-Svc` together.
const OWN_BYTES: usize = 256;

/// `Date`, `Connection` and the empty line behind them, in bytes.
const END_BYTES: usize = 64;

/// The fields of one answer that its [`Block`] does not have, without an allocation.
#[derive(Clone, Copy)]
pub struct Extra(Line<OWN_BYTES>);

/// There is no room for the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fields that an answer has of its own take more than {OWN_BYTES} bytes")]
pub struct ExtraFull;

/// What an answer says of the connection (RFC 9112 section 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// It goes on, as it does by default.
    Usual,
    /// It goes on, as an HTTP/1.0 client asked for.
    KeepAlive,
    /// It ends with this answer.
    Close,
}

impl Persistence {
    /// What to say to a client of this version.
    pub const fn of(keeps_alive: bool, version: Version) -> Self {
        match (keeps_alive, version) {
            (false, _) => Self::Close,
            (true, Version::Http10) => Self::KeepAlive,
            (true, Version::Http11) => Self::Usual,
        }
    }

    /// The field that says so.
    pub const fn line(self) -> &'static [u8] {
        match self {
            Self::Usual => b"",
            Self::KeepAlive => b"connection: keep-alive\r\n",
            Self::Close => b"connection: close\r\n",
        }
    }
}

impl Extra {
    /// None yet.
    pub const fn new() -> Self {
        Self(Line::new())
    }

    /// Adds a field.
    ///
    /// # Errors
    /// When there is no room for it; what was added before stays.
    pub fn push(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), ExtraFull> {
        self.0.push([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"])
    }

    /// Adds a field whose value is a number, like `Age` (RFC 9111 section 5.1).
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn push_number(&mut self, name: &HeaderName, number: u64) -> Result<(), ExtraFull> {
        // The largest has 20.
        let mut digits = [0; 20];
        let mut begin = digits.len();
        let mut rest = number;
        loop {
            begin -= 1;
            digits[begin] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.0.push([name.as_str().as_bytes(), b": ", &digits[begin..], b"\r\n"])
    }

    /// The lines, each with its CR LF.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The fields, for where they are not sent as lines.
    pub fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        read_fields(self.0.bytes())
    }
}

impl Default for Extra {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Extra").field(&String::from_utf8_lossy(self.bytes())).finish()
    }
}

/// What follows a [`Block`] and ends the head.
#[derive(Clone, Copy)]
pub struct HeadEnd(Line<{ OWN_BYTES + END_BYTES }>);

impl HeadEnd {
    /// The fields of this answer, `Date` if it is given (RFC 9110 section 6.6.1), what is said of the connection, and the
    /// empty line.
    pub fn new(extra: &Extra, date: Option<&[u8; DATE_BYTES]>, persistence: Persistence) -> Self {
        let mut line = Line::new();
        let date: [&[u8]; 3] = date.map_or([b"", b"", b""], |date| [b"date: ", date, b"\r\n"]);
        let all = line.push([extra.bytes(), date[0], date[1], date[2], persistence.line(), b"\r\n"]);
        debug_assert!(all.is_ok(), "END_BYTES are enough for the longest of each");
        Self(line)
    }

    /// The lines with the empty one.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for HeadEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeadEnd").field(&String::from_utf8_lossy(self.bytes())).finish()
    }
}

/// Up to `N` bytes.
#[derive(Clone, Copy)]
struct Line<const N: usize> {
    bytes: [u8; N],
    length: u16,
}

impl<const N: usize> Line<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Adds all of `parts`, or nothing.
    fn push<const P: usize>(&mut self, parts: [&[u8]; P]) -> Result<(), ExtraFull> {
        let begin = usize::from(self.length);
        let end = begin + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut room = self.bytes.get_mut(begin..end).ok_or(ExtraFull)?;
        for part in parts {
            let (filled, rest) = room.split_at_mut(part.len());
            filled.copy_from_slice(part);
            room = rest;
        }
        self.length = end as u16;
        Ok(())
    }
}
