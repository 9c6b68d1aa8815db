//! Whoever is told of each answer that has ended, however it ended: for an access log.
//!
//! What a server knows of an exchange it notes here while it goes on; what the handler knows it leaves in the extensions of
//! its answer, or in the receipt of a hot one, and the witness looks for it there. Records are used again: once a thread has
//! had its busiest moment, telling allocates nothing.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Extensions, StatusCode, Version, header, request};

use super::http1::{Caller, HotRequest, HotSent};
use crate::http1::RequestHead;

/// How many records a thread keeps to be used again, and how large the texts of one may be.
const SPARE_MAX: usize = 256;
const SPARE_BYTES_MAX: usize = 4 * 1024;

/// How much of a first line that could not be read is told: more than the longest target that is taken.
const UNREAD_BYTES_MAX: usize = 8 * 1024;

/// Is told of each request whose answer has ended, once.
pub trait Witness: Send + Sync + 'static {
    /// An answer has ended. It must neither block nor wait: whoever calls has other connections to serve.
    fn ended(&self, ended: &Ended<'_>);

    /// The same for one more thread, which shares with others nothing that it writes to often.
    fn for_another_thread(&self) -> Arc<dyn Witness>;
}

/// A request and how its answer ended. Texts are as the client sent them, empty where it sent none.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// What was asked.
    pub asked: AskedFor<'a>,
    /// The version of HTTP.
    pub version: Version,
    /// Whether it came by TLS or QUIC.
    pub secured: bool,
    /// Where the client is.
    pub client: SocketAddr,
    /// When the head of the request had come.
    pub begun: Instant,
    /// How long after that the answer began; `None` if none did.
    pub first_byte: Option<Duration>,
    /// How long after that it ended.
    pub whole: Duration,
    /// The status of the answer; `None` if the client left before there was one.
    pub status: Option<StatusCode>,
    /// The bytes of the body that were handed to the system, which may not all have arrived; behind a 101 those of the
    /// other protocol.
    pub body_bytes: u64,
    /// Whether those were all of it.
    pub complete: bool,
    /// What whoever answered has left.
    pub left: Left<'a>,
}

/// The texts of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct AskedFor<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The host that is asked, with its port if it was sent.
    pub host: &'a [u8],
    /// The path and query; of CONNECT nothing.
    pub target: &'a [u8],
    /// `Range`.
    pub range: &'a [u8],
    /// `Referer`.
    pub referer: &'a [u8],
    /// `User-Agent`.
    pub user_agent: &'a [u8],
}

/// What whoever answered has left for the witness.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Nothing: the server answered by itself.
    Nothing,
    /// The receipt of a hot answer.
    Receipt(&'a dyn Any),
    /// The extensions of an answer.
    Extensions(&'a Extensions),
}

impl fmt::Debug for Left<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Receipt(_) => "Receipt",
            Self::Extensions(_) => "Extensions",
        })
    }
}

impl<'a> Left<'a> {
    /// The value of this type, if it is there.
    pub fn of_type<T: Send + Sync + 'static>(self) -> Option<&'a T> {
        match self {
            Self::Nothing => None,
            Self::Receipt(receipt) => receipt.downcast_ref(),
            Self::Extensions(extensions) => extensions.get(),
        }
    }
}

/// From where a request comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came {
    pub(super) client: SocketAddr,
    /// By TLS or QUIC.
    pub(super) secured: bool,
}

impl Came {
    pub(super) const fn by(caller: &Caller) -> Self {
        Self { client: caller.address, secured: caller.secured.is_some() }
    }
}

/// They go from hand to hand and back: their places on the heap are what is kept.
type Spare = Vec<Box<Record>>;

/// The records of one thread, and who is told.
pub(super) struct Watcher {
    witness: Arc<dyn Witness>,
    spare: Mutex<Spare>,
}

impl Watcher {
    pub(super) fn new(witness: Arc<dyn Witness>) -> Arc<Self> {
        Arc::new(Self { witness, spare: Mutex::default() })
    }

    pub(super) fn for_another_thread(&self) -> Arc<dyn Witness> {
        self.witness.for_another_thread()
    }

    /// A request of HTTP/1 has come, at `begun`.
    pub(super) fn lines(self: &Arc<Self>, head: &RequestHead<'_>, came: Came, begun: Instant) -> Watch {
        self.begin(head.version().into(), came, begun, |record| record.note_lines(head))
    }

    /// A request has come as fields.
    pub(super) fn fields(self: &Arc<Self>, parts: &request::Parts, came: Came) -> Watch {
        self.begin(parts.version, came, Instant::now(), |record| record.note_fields(parts))
    }

    /// Something has come that is no request. Of its first line is told what looks like one.
    pub(super) fn unread(self: &Arc<Self>, bytes: &[u8], version: Version, came: Came) -> Watch {
        self.begin(version, came, Instant::now(), |record| record.note_unread(bytes))
    }

    fn begin(self: &Arc<Self>, version: Version, came: Came, begun: Instant, note: impl FnOnce(&mut Record)) -> Watch {
        let spare = self.spare().pop();
        let mut record = spare.unwrap_or_else(|| Box::new(Record::new(came, begun)));
        record.begin(version, came, begun);
        note(&mut record);
        Watch { watcher: self.clone(), record: Some(record), untold: true }
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The texts of a record, in this order.
#[derive(Clone, Copy)]
enum Text {
    Method,
    Host,
    Target,
    Range,
    Referer,
    UserAgent,
}

const TEXTS: usize = 6;

struct Record {
    texts: Vec<u8>,
    places: [(u32, u32); TEXTS],
    version: Version,
    came: Came,
    begun: Instant,
    first_byte: Option<Instant>,
    status: Option<StatusCode>,
    body_bytes: u64,
    complete: bool,
    extensions: Extensions,
}

impl Record {
    fn new(came: Came, begun: Instant) -> Self {
        Self {
            texts: Vec::with_capacity(512),
            places: [(0, 0); TEXTS],
            version: Version::HTTP_11,
            came,
            begun,
            first_byte: None,
            status: None,
            body_bytes: 0,
            complete: false,
            extensions: Extensions::new(),
        }
    }

    /// Forgets all but its memory.
    fn begin(&mut self, version: Version, came: Came, begun: Instant) {
        self.texts.clear();
        self.places = [(0, 0); TEXTS];
        (self.version, self.came, self.begun) = (version, came, begun);
        (self.first_byte, self.status, self.body_bytes, self.complete) = (None, None, 0, false);
    }

    fn note(&mut self, text: Text, bytes: &[u8]) {
        // The first line of that name is the one that servers go by.
        if self.places[text as usize].1 == 0 {
            let start = self.texts.len() as u32;
            self.texts.extend_from_slice(bytes);
            self.places[text as usize] = (start, self.texts.len() as u32);
        }
    }

    fn text(&self, text: Text) -> &[u8] {
        let (start, end) = self.places[text as usize];
        &self.texts[start as usize..end as usize]
    }

    fn note_lines(&mut self, head: &RequestHead<'_>) {
        self.note(Text::Method, head.method().as_bytes());
        self.note(Text::Host, head.host().as_bytes());
        self.note(Text::Target, head.path_and_query().as_bytes());
        for (name, value) in head.fields().iter() {
            let text = match name.len() {
                5 if name.eq_ignore_ascii_case("range") => Text::Range,
                7 if name.eq_ignore_ascii_case("referer") => Text::Referer,
                10 if name.eq_ignore_ascii_case("user-agent") => Text::UserAgent,
                _ => continue,
            };
            self.note(text, value);
        }
    }

    fn note_fields(&mut self, parts: &request::Parts) {
        self.note(Text::Method, parts.method.as_str().as_bytes());
        // Here the host may stand where `Host` is not yet (RFC 9113 section 8.3.1).
        match parts.uri.authority() {
            Some(authority) => self.note(Text::Host, authority.as_str().as_bytes()),
            None => self.note(Text::Host, HotRequest::Parts(parts).host().as_bytes()),
        }
        self.note(Text::Target, HotRequest::Parts(parts).path_and_query().as_bytes());
        let fields =
            [(Text::Range, header::RANGE), (Text::Referer, header::REFERER), (Text::UserAgent, header::USER_AGENT)];
        for (text, name) in fields {
            if let Some(value) = parts.headers.get(name) {
                self.note(text, value.as_bytes());
            }
        }
    }

    fn note_unread(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(UNREAD_BYTES_MAX)];
        let end = memchr::memchr2(b'\r', b'\n', bytes);
        let mut words = bytes[..end.unwrap_or(bytes.len())].split(|byte| *byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        // Of a line that has not all come the version may be missing.
        let looks_right = version.map_or(end.is_none(), |version| version.starts_with(b"HTTP/"));
        if let (Some(method), Some(target)) = (method, target.filter(|_| looks_right)) {
            self.note(Text::Method, method);
            self.note(Text::Target, target);
        }
    }

    fn tell(&self, watcher: &Watcher, left: Left<'_>) {
        let whole = self.begun.elapsed();
        let first_byte = match self.first_byte {
            Some(first) => Some(first.saturating_duration_since(self.begun)),
            // What went out at once began when it ended.
            None => self.status.map(|_| whole),
        };
        watcher.witness.ended(&Ended {
            asked: AskedFor {
                method: self.text(Text::Method),
                host: self.text(Text::Host),
                target: self.text(Text::Target),
                range: self.text(Text::Range),
                referer: self.text(Text::Referer),
                user_agent: self.text(Text::UserAgent),
            },
            version: self.version,
            secured: self.came.secured,
            client: self.came.client,
            begun: self.begun,
            first_byte,
            whole,
            status: self.status,
            body_bytes: self.body_bytes,
            complete: self.complete,
            left,
        });
    }
}

/// A request that is being answered; dropped, it has ended and the witness is told.
pub(super) struct Watch {
    watcher: Arc<Watcher>,
    /// Until it is dropped.
    record: Option<Box<Record>>,
    untold: bool,
}

impl Watch {
    /// Whoever answers has left this.
    pub(super) fn leaves(&mut self, extensions: Extensions) {
        if let Some(record) = &mut self.record {
            record.extensions = extensions;
        }
    }

    /// An answer with this status has begun: before its first byte went out the client has none.
    pub(super) fn answers(&mut self, status: StatusCode) {
        if let Some(record) = &mut self.record {
            record.status = Some(status);
        }
        self.begins();
    }

    /// The first byte of the answer goes out.
    pub(super) fn begins(&mut self) {
        if let Some(record) = &mut self.record {
            record.first_byte = Some(Instant::now());
        }
    }

    /// How much of the body was handed on until now, and whether that was all.
    pub(super) const fn sent(&mut self, body_bytes: u64, complete: bool) {
        if let Some(record) = &mut self.record {
            (record.body_bytes, record.complete) = (body_bytes, complete);
        }
    }

    /// So many bytes of the body more were handed on.
    pub(super) const fn sent_more(&mut self, bytes: u64) {
        if let Some(record) = &mut self.record {
            record.body_bytes += bytes;
        }
    }

    /// All of it was handed on.
    pub(super) const fn complete(&mut self) {
        if let Some(record) = &mut self.record {
            record.complete = true;
        }
    }

    /// A hot answer with this receipt has ended; without a status it never began.
    pub(super) fn end_hot(mut self, status: Option<StatusCode>, sent: HotSent, receipt: &dyn Any) {
        self.sent(sent.body_bytes, sent.complete);
        if let Some(record) = &mut self.record {
            record.status = status;
            record.tell(&self.watcher, Left::Receipt(receipt));
        }
        self.untold = false;
    }

    /// It was no request, and nobody answers it.
    pub(super) fn forget(mut self) {
        self.untold = false;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        if self.untold {
            record.tell(&self.watcher, Left::Extensions(&record.extensions));
        }
        // What a handler has left may hold much.
        record.extensions.clear();
        let mut spare = self.watcher.spare();
        if spare.len() < SPARE_MAX && record.texts.capacity() <= SPARE_BYTES_MAX {
            spare.push(record);
        }
    }
}
