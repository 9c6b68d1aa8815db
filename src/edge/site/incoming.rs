//! A request for a site as it came, and what of it goes on to the origins.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, EXPECT, FORWARDED, HOST, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, MAX_FORWARDS, RANGE, UPGRADE, VIA,
};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, request};

use crate::cache::rules::{RequestDirectives, strip_hop_by_hop};
use crate::compress::{self, Wish, tag};
use crate::protocol::SHIELD_HEADER;
use crate::serve::http1::Interim;

/// Preconditions and ranges: what is fetched for the cache is fetched whole, whatever the client has already.
pub(super) const OF_THE_CLIENT: [HeaderName; 6] =
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];

/// Who a request was forwarded for, in the form that most servers read.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The edges that a request has passed (RFC 8586).
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// What a client says with an upgrade to HTTP/2, which is not passed on.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

const CDN_ID: &str = "metacdn";

/// How many fields this edge adds at most.
const ADDED_COUNT: usize = 7;

/// How many edges a request may pass: an edge, a shield, and one more for luck.
const EDGES_MAX: usize = 3;

/// Whether a field says what only those before the origin can know: for whom the request is, and what it was. Many
/// servers take an underscore for a hyphen.
fn speaks_for_others(name: &HeaderName) -> bool {
    let said = name.as_str().as_bytes();
    let begins = |with: &str| {
        let hyphened = said.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte });
        said.len() >= with.len() && hyphened.zip(with.bytes()).all(|(byte, wanted)| byte == wanted)
    };
    let others = ["forwarded", "x-real-ip", "x-original-url", "x-rewrite-url", "x-http-method-override"];
    begins("x-forwarded-") || others.iter().any(|other| said.len() == other.len() && begins(other))
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(in crate::edge) enum Asker {
    /// A client.
    Client {
        address: Option<SocketAddr>,
        /// Whether what it says of others before it is believed.
        trusted: bool,
    },
    /// Another edge, whose shield this one is: it has said all that is to be said of its client.
    Edge {
        /// What is kept and older than this may be purged.
        not_before: Option<SystemTime>,
    },
}

/// A request for a site.
pub(in crate::edge) struct Incoming {
    pub(super) method: Method,
    /// Its target, with scheme and host (RFC 9110 section 7.1).
    pub(super) target: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) directives: RequestDirectives,
    /// What it says of codings.
    pub(super) wish: Wish,
    /// Whether origins are asked for codings by this edge, or by the client's own words.
    codes: bool,
    /// Sends interim answers to the client.
    pub(super) interim: Option<Interim>,
    pub(super) asker: Asker,
    /// Until when the client waits for the answer to begin.
    pub(super) deadline: Instant,
}

impl Incoming {
    pub(in crate::edge) fn new(
        head: request::Parts,
        target: Uri,
        compression: &compress::Config,
        asker: Asker,
        deadline: Instant,
    ) -> Self {
        Self {
            directives: RequestDirectives::of(&head.headers),
            wish: Wish::of(&head.method, &head.headers, &compression.codings),
            codes: !compression.codings.is_empty(),
            interim: head.extensions.get().cloned(),
            method: head.method,
            target,
            version: head.version,
            headers: head.headers,
            asker,
            deadline,
        }
    }

    /// Whether it has passed so many edges that it goes round in circles.
    pub(super) fn loops(&self) -> bool {
        self.edges_passed() > EDGES_MAX
    }

    /// Whether an edge behind this one would not take it for one that loops.
    pub(super) fn may_pass_another(&self) -> bool {
        self.edges_passed() < EDGES_MAX
    }

    fn edges_passed(&self) -> usize {
        let lines = self.headers.get_all(CDN_LOOP).iter().filter_map(|line| line.to_str().ok());
        let ids = lines.flat_map(|line| line.split(',')).filter_map(|member| member.split(';').next());
        ids.filter(|id| id.trim().eq_ignore_ascii_case(CDN_ID)).count()
    }

    /// Whether it asks for a part, or has conditions that only the origin may judge.
    pub(super) fn has_range(&self) -> bool {
        self.headers.contains_key(RANGE)
    }

    /// The protocol that the client would like to speak on this connection (RFC 9110 section 7.8), if it is one that is
    /// passed on: WebSocket. HTTP/2 in its place would be a way to the origin on which this edge sees nothing.
    pub(super) fn upgrade(&self) -> Option<&HeaderValue> {
        let lines = self.headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
        let wanted = lines.flat_map(|line| line.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
        let is_passed_on = |protocol: &&HeaderValue| protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
        self.headers.get(UPGRADE).filter(is_passed_on).filter(|_| wanted && self.version == Version::HTTP_11)
    }

    /// Its target as text.
    pub(super) fn text_of_target(&self) -> String {
        let path = self.target.path_and_query().map_or(0, |path| path.as_str().len());
        let authority = self.target.authority().map_or(0, |authority| authority.as_str().len());
        let mut text = String::with_capacity("https://".len() + authority + path);
        write!(text, "{}", self.target).expect("a String takes everything");
        text
    }

    /// The path and the query.
    pub(super) fn path(&self) -> PathAndQuery {
        self.target.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
    }

    /// The headers for an origin, with the conditions and ranges of the client.
    pub(super) fn forwarded(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + ADDED_COUNT);
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        strip_hop_by_hop(&mut headers);
        // The client was told to go on when its body was wanted (RFC 9110 section 10.1.1).
        headers.remove(EXPECT);
        headers.remove(MAX_FORWARDS);
        headers.remove(HTTP2_SETTINGS);
        let host = self.target.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        if let Some(host) = &host {
            headers.insert(HOST, host.clone());
        }
        let version = match self.version {
            Version::HTTP_10 => "1.0 metacdn",
            Version::HTTP_2 => "2 metacdn",
            Version::HTTP_3 => "3 metacdn",
            _ => "1.1 metacdn",
        };
        headers.append(VIA, HeaderValue::from_static(version));
        headers.append(CDN_LOOP, HeaderValue::from_static(CDN_ID));
        headers.remove(SHIELD_HEADER);
        if matches!(self.asker, Asker::Client { trusted: false, .. }) {
            let hidden: Vec<_> = headers.keys().filter(|name| speaks_for_others(name)).cloned().collect();
            for name in hidden {
                headers.remove(name);
            }
        }
        self.add_forwarded(&mut headers, host);
        if self.codes {
            headers.insert(ACCEPT_ENCODING, self.wish.ask(&self.headers));
            tag::for_origin(&mut headers, self.wish.accepted);
        }
        headers
    }

    /// Those of `forwarded` that ask for the whole: most requests ask for nothing else.
    pub(super) fn for_the_whole(forwarded: &Arc<HeaderMap>) -> Arc<HeaderMap> {
        if !OF_THE_CLIENT.iter().any(|name| forwarded.contains_key(name)) {
            return forwarded.clone();
        }
        let mut headers = HeaderMap::clone(forwarded);
        for name in OF_THE_CLIENT {
            headers.remove(name);
        }
        Arc::new(headers)
    }

    /// Says for whom the request is made (RFC 7239).
    fn add_forwarded(&self, headers: &mut HeaderMap, host: Option<HeaderValue>) {
        let Asker::Client { address: Some(peer), .. } = self.asker else { return };
        let peer = peer.ip().to_canonical();
        let scheme = if self.target.scheme() == Some(&Scheme::HTTPS) { "https" } else { "http" };
        let authority = self.target.authority().map_or("", |authority| authority.as_str());
        let peer = peer.to_string();
        let (open, close) = if peer.contains(':') { ("\"[", "]\"") } else { ("", "") };
        let text: Bytes = format!("for={open}{peer}{close};host=\"{authority}\";proto={scheme}").into();
        let begin = "for=".len() + open.len();
        let fields = [
            (X_FORWARDED_FOR, HeaderValue::from_maybe_shared(text.slice(begin..begin + peer.len())).ok()),
            (FORWARDED, HeaderValue::from_maybe_shared(text).ok()),
            (X_FORWARDED_HOST, host),
            (X_FORWARDED_PROTO, Some(HeaderValue::from_static(scheme))),
        ];
        for (name, value) in fields {
            // Where others stand before, the last one is the one whom this edge has seen.
            if let Some(value) = value {
                headers.append(name, value);
            }
        }
    }
}
