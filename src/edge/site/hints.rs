//! Early hints (RFC 8297): what a page will need, told while an origin is asked whether the page is right still.
//!
//! They are the links of the answer that is kept, and so remembered with it, in memory or on the disk, for those whom it is
//! for, and forgotten with it.

use http::header::LINK;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use tracing::debug;

use super::answer::{Kept, Life};
use super::incoming::Incoming;
use crate::cache::rules::has_credentials;

/// Relations for which a client can do something before it has the page.
const EARLY: [&str; 3] = ["modulepreload", "preconnect", "preload"];

/// How many links are told, and how many bytes of them together: more would be in the way of the answer.
const LINKS_MAX: usize = 16;
const LINKS_BYTES_MAX: usize = 4 << 10;

impl Life {
    /// Tells the client what it will need, as far as what is `kept` says it. HTTP/1.1 is not spoken by this: there are clients
    /// of it that take the first head for the answer (RFC 8297 section 3).
    ///
    /// What is kept is used before it was validated here, which `no-cache` forbids (RFC 9111 section 5.2.2.4) lest one is given
    /// what was meant for another: so it is told to nobody in particular, of what nobody in particular was given.
    pub(super) fn hint(&self, kept: &Kept) {
        let Incoming { method, version, headers, interim, .. } = &*self.incoming;
        let knows_them = matches!(*version, Version::HTTP_2 | Version::HTTP_3);
        let is_page = *method == Method::GET && !self.incoming.has_range() && kept.head.status == StatusCode::OK;
        let is_for_all = kept.freshness.may_be_hinted() && !has_credentials(headers) && self.core.hears_purges();
        let tells = self.site.config.early_hints && knows_them && is_page && is_for_all;
        let Some(interim) = interim.as_ref().filter(|_| tells) else { return };
        let hints = early(&kept.head.headers);
        if hints.is_empty() {
            return;
        }
        match interim.send(StatusCode::EARLY_HINTS, hints) {
            Ok(()) => _ = self.core.metrics.early_hints.inc(),
            Err(error) => debug!(%error, "early hints are left out"),
        }
    }
}

/// The links of `headers` by which a client can begin, a line for each.
fn early(headers: &HeaderMap) -> HeaderMap {
    let lines = headers.get_all(LINK).iter().filter_map(|line| line.to_str().ok());
    let links = lines.flat_map(|line| pieces(line, ',')).filter(|link| is_early(link)).take(LINKS_MAX);
    let mut bytes = 0;
    let links = links.take_while(|link| {
        bytes += link.len();
        bytes <= LINKS_BYTES_MAX
    });
    let mut hints = HeaderMap::new();
    for value in links.filter_map(|link| HeaderValue::from_str(link).ok()) {
        hints.append(LINK, value);
    }
    hints
}

/// Whether a client can begin by this link (RFC 8288 section 3): of several `rel` the first counts, and with `anchor` it is a
/// link of something else.
fn is_early(link: &str) -> bool {
    let mut pieces = pieces(link, ';');
    if !pieces.next().is_some_and(|target| target.starts_with('<') && target.ends_with('>')) {
        return false;
    }
    let mut relations = None;
    for (name, value) in pieces.filter_map(|parameter| parameter.split_once('=')) {
        match name.trim() {
            name if name.eq_ignore_ascii_case("anchor") => return false,
            name if name.eq_ignore_ascii_case("rel") => _ = relations.get_or_insert(value.trim().trim_matches('"')),
            _ => {}
        }
    }
    let is_one = |relation: &str| EARLY.iter().any(|early| relation.eq_ignore_ascii_case(early));
    relations.is_some_and(|relations| relations.split_ascii_whitespace().any(is_one))
}

/// What stands between each `mark`, without the space around it, but for marks in targets and in quotes; what is empty is left
/// out.
fn pieces(text: &str, mark: char) -> impl Iterator<Item = &str> {
    let (mut targeted, mut quoted, mut escaped) = (false, false, false);
    let split = text.split(move |letter| {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !targeted => quoted = !quoted,
            '<' if !quoted => targeted = true,
            '>' if !quoted => targeted = false,
            _ => return letter == mark && !targeted && !quoted,
        }
        false
    });
    split.map(str::trim).filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn early_of(lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(LINK, HeaderValue::from_str(line).expect("a value"));
        }
        early(&headers).get_all(LINK).iter().map(|link| link.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn links_by_which_a_client_can_begin_are_told() {
        for link in [
            "</a.css>; rel=preload; as=style",
            "<https://b.example>;rel=\"preconnect\"",
            "</a,b;c.js> ; REL = \"x ModulePreload\"",
            "</a>; title=\"a, \\\"b; rel=next\"; rel=preload; rel=next",
        ] {
            assert_eq!(early_of(&[link]), [link]);
        }
        for link in [
            "",
            "</a.css>",
            "</a.css>; rel=stylesheet",
            "</a>; rel=next; rel=preload",
            "</a>; rel=preload; anchor=\"#x\"",
            "</a>; title=\"rel=preload\"",
            "</a; rel=preload",
            "/a; rel=preload",
        ] {
            assert_eq!(early_of(&[link]), [""; 0], "{link}");
        }
        let lines = ["</a>; rel=preload, </b>; rel=next,, </c>; rel=preload", "</d,e>;rel=preload"];
        assert_eq!(early_of(&lines), ["</a>; rel=preload", "</c>; rel=preload", "</d,e>;rel=preload"]);
    }

    #[test]
    fn more_links_than_are_of_use_are_left_out() {
        assert_eq!(early_of(&["</a>; rel=preload"; 100]).len(), LINKS_MAX);
        let long = format!("<{}>; rel=preload", "a".repeat(LINKS_BYTES_MAX / 4));
        assert_eq!(early_of(&[long.as_str(); 8]).len(), 3);
    }
}
