//! The hot path: answers that are there already, sent without making an `http::Request` first.

use std::borrow::Cow;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Version, header, request};

use super::super::{ClientLink, PeerAddress, Secured};
use crate::http1::{Block, Extra, RequestHead, TargetForm};
use crate::model::Principal;

/// Who is on the other side of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// From where.
    pub address: SocketAddr,
    /// Who it proved to be.
    pub principal: Principal,
    /// What the kernel knows of the connection.
    pub link: ClientLink,
    /// By what the connection is protected; `None` if it is not.
    pub secured: Option<Secured>,
}

impl Caller {
    /// Tells the handler of a request who asks.
    pub(in crate::serve) fn introduce(&self, extensions: &mut Extensions) {
        extensions.insert(self.principal.clone());
        extensions.insert(PeerAddress(self.address));
        extensions.insert(self.link.clone());
        if let Some(secured) = &self.secured {
            extensions.insert(secured.clone());
        }
    }
}

/// A request as it is looked at before anything is made of it, whatever the protocol.
#[derive(Debug, Clone, Copy)]
pub enum HotRequest<'a> {
    /// Of HTTP/1.
    Http1(&'a RequestHead<'a>),
    /// Of HTTP/2 and HTTP/3: checked, and in the form that HTTP/1.1 would have, with `Host` and the path alone.
    Parts(&'a request::Parts),
}

impl<'a> HotRequest<'a> {
    /// The method.
    pub fn method(&self) -> &'a str {
        match self {
            Self::Http1(head) => head.method(),
            Self::Parts(parts) => parts.method.as_str(),
        }
    }

    /// Whether the target is a path alone.
    pub fn is_origin_form(&self) -> bool {
        match self {
            Self::Http1(head) => head.form() == TargetForm::Origin,
            Self::Parts(parts) => parts.uri.authority().is_none() && parts.uri.path().starts_with('/'),
        }
    }

    /// The path and query, still encoded.
    pub fn path_and_query(&self) -> &'a str {
        match self {
            Self::Http1(head) => head.path_and_query(),
            Self::Parts(parts) => parts.uri.path_and_query().map_or("", |path| path.as_str()),
        }
    }

    /// The host that is asked, with its port if it was sent. Empty if there is none.
    pub fn host(&self) -> &'a str {
        match self {
            Self::Http1(head) => head.host(),
            Self::Parts(parts) => {
                parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
            }
        }
    }

    /// Whether `is_one` of the names of its fields.
    pub fn has_field(&self, is_one: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Http1(head) => head.fields().iter().any(|(name, _)| is_one(name)),
            Self::Parts(parts) => parts.headers.keys().any(|name| is_one(name.as_str())),
        }
    }

    /// The values of the fields of this name, in small letters, in their order.
    pub fn lines(&self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let (sent, parts) = match self {
            Self::Http1(head) => (Some(head.fields().all(name)), None),
            Self::Parts(parts) => (None, Some(parts.headers.get_all(name).iter().map(HeaderValue::as_bytes))),
        };
        sent.into_iter().flatten().chain(parts.into_iter().flatten())
    }

    /// Its fields, or of them at least those of these names: for what is read of a few by whoever reads maps. `None` if one
    /// of them is none.
    pub fn map_of(&self, names: &[HeaderName]) -> Option<Cow<'a, HeaderMap>> {
        let head = match self {
            Self::Http1(head) => head,
            Self::Parts(parts) => return Some(Cow::Borrowed(&parts.headers)),
        };
        let mut map = HeaderMap::new();
        for (sent, value) in head.fields().iter() {
            if let Some(name) = names.iter().find(|name| sent.eq_ignore_ascii_case(name.as_str())) {
                map.append(name, HeaderValue::from_bytes(value).ok()?);
            }
        }
        Some(Cow::Owned(map))
    }

    /// The version.
    pub fn version(&self) -> Version {
        match self {
            Self::Http1(head) => head.version().into(),
            Self::Parts(parts) => parts.version,
        }
    }
}

/// Answers at once what it can. It is asked for each request that has no body, expects nothing and changes no protocol,
/// before a handler is; it must neither block nor wait.
pub trait Hot: Send + Sync + 'static {
    /// What it wants back when an answer was sent, for the log and for measures.
    type Receipt: Send + 'static;

    /// The answer; `None` leaves the request to the handler. Whatever the method, what is returned is sent: an answer to
    /// HEAD has no body here either.
    fn answer(&self, request: &HotRequest<'_>, caller: &Caller) -> Option<HotAnswer<Self::Receipt>>;

    /// An answer has ended. Called once for each.
    fn sent(&self, receipt: Self::Receipt, sent: HotSent);
}

/// An answer that is there.
#[derive(Debug)]
pub struct HotAnswer<R> {
    /// Its first line and fields, `Content-Length` among them; made once.
    pub block: Block,
    /// The fields of this answer alone.
    pub extra: Extra,
    /// Its body.
    pub body: HotBody,
    /// Comes back by [`Hot::sent`].
    pub receipt: R,
}

/// The body of an answer that is there.
#[derive(Debug, Clone)]
pub enum HotBody {
    /// None.
    None,
    /// Bytes in memory.
    Memory(Bytes),
    /// Parts of files, one behind the other. Reading them must not block for long: they are meant for files that are in the
    /// memory of the system.
    Files(HotFiles),
}

/// Parts of files that are sent one behind the other.
#[derive(Debug, Clone, Default)]
pub struct HotFiles {
    parts: Vec<HotFile>,
    length: u64,
}

/// A part of a file, which has to have it.
#[derive(Debug, Clone)]
pub struct HotFile {
    /// The file.
    pub file: Arc<File>,
    /// Where the part begins.
    pub offset: u64,
    /// The bytes of the part.
    pub length: u64,
}

impl HotFiles {
    /// Those parts, without empty ones.
    pub fn new(parts: impl IntoIterator<Item = HotFile>) -> Self {
        let parts: Vec<_> = parts.into_iter().filter(|part| part.length > 0).collect();
        Self { length: parts.iter().map(|part| part.length).sum(), parts }
    }

    /// What is still to be sent of the part in which the byte at `position` is; `None` behind the last.
    pub fn at(&self, position: u64) -> Option<HotFile> {
        let mut skip = position;
        for part in &self.parts {
            if skip < part.length {
                return Some(HotFile {
                    file: part.file.clone(),
                    offset: part.offset + skip,
                    length: part.length - skip,
                });
            }
            skip -= part.length;
        }
        None
    }

    /// How many bytes they have together.
    pub const fn length(&self) -> u64 {
        self.length
    }
}

impl HotBody {
    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Files(files) => files.length(),
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotSent {
    /// The bytes of the body that were handed to the system, which may not all have arrived.
    pub body_bytes: u64,
    /// Whether those were all of it.
    pub complete: bool,
    /// Whether the file with the byte behind them could not be read.
    pub unreadable: bool,
}

/// No hot path.
impl Hot for () {
    type Receipt = ();

    fn answer(&self, _: &HotRequest<'_>, _: &Caller) -> Option<HotAnswer<()>> {
        None
    }

    fn sent(&self, (): (), _: HotSent) {}
}
