//! Which variant of an image a client gets: the one that it asks for, else the one that suits its link.

use std::net::SocketAddr;

use http::header::{CACHE_CONTROL, IF_RANGE, LAST_MODIFIED, RANGE, VARY};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::Core;
use crate::model::{ObjectKey, Variant, VariantError};
use crate::protocol::VARIANT_QUERY;
use crate::resize::choose::{Thresholds, saves_data};
use crate::serve::cache_control::for_one_client;
use crate::serve::condition::ranges_by_date;
use crate::serve::{ClientLink, PeerAddress};

/// By which a client says that it wants little.
const SAVE_DATA: HeaderName = HeaderName::from_static("save-data");

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) peer: Option<SocketAddr>,
    pub(super) link: Option<ClientLink>,
    saves_data: bool,
    /// Whether it asks for a part without saying of what: a part of another variant would be no part of what it has.
    wants_part: bool,
}

impl Client {
    /// The client of a request with these extensions and headers.
    pub(super) fn of(extensions: &Extensions, headers: &HeaderMap) -> Self {
        let saves = |value: &HeaderValue| value.to_str().is_ok_and(saves_data);
        Self {
            peer: extensions.get::<PeerAddress>().map(|peer| peer.0),
            link: extensions.get::<ClientLink>().cloned(),
            saves_data: headers.get(SAVE_DATA).is_some_and(saves),
            wants_part: headers.contains_key(RANGE) && !headers.contains_key(IF_RANGE),
        }
    }
}

/// A variant, and whether another client may get another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) variant: Variant,
    pub(super) adaptive: bool,
}

/// The variant of `key` for this request, where links are judged by these thresholds.
///
/// # Errors
/// When the query asks for one that there is not.
pub(super) fn choose(
    core: &Core,
    thresholds: &Thresholds,
    key: &ObjectKey,
    uri: &Uri,
    client: &Client,
) -> Result<Choice, VariantError> {
    let resizes = core.routes.load().resizes;
    if let Some(variant) = asked_variant(uri)? {
        // Without a node that resizes all are the original, which is kept but once.
        return Ok(Choice { variant: if resizes { variant } else { Variant::Original }, adaptive: false });
    }
    // Who names a variant has chosen.
    if !may_vary(core, key) {
        return Ok(Choice { variant: Variant::Original, adaptive: false });
    }
    let variant = match client.peer {
        _ if client.wants_part => Variant::Original,
        _ if client.saves_data => Variant::Low,
        Some(peer) => thresholds.choose(core.links.rate(peer, client.link.as_ref())),
        None => Variant::Original,
    };
    Ok(Choice { variant, adaptive: true })
}

/// Whether clients that do not name a variant of `key` may get different ones.
pub(super) fn may_vary(core: &Core, key: &ObjectKey) -> bool {
    core.routes.load().resizes && is_resized(key) && Variant::named_by(key).is_none()
}

/// What the query of `uri` asks for.
fn asked_variant(uri: &Uri) -> Result<Option<Variant>, VariantError> {
    let fields = uri.query().unwrap_or_default().split('&').filter_map(|field| field.split_once('='));
    let mut values = fields.filter(|(name, _)| *name == VARIANT_QUERY).map(|(_, value)| value);
    let value = values.next().map(|value| percent_decode_str(value).decode_utf8_lossy().into_owned());
    value.map(|value| value.parse()).transpose()
}

/// Whether `key` is named as an image of a kind that nodes resize.
fn is_resized(key: &ObjectKey) -> bool {
    matches!(key.guessed_media_type(), "image/jpeg" | "image/png" | "image/webp")
}

/// The conditions and ranges of `headers` that mean something for an answer with this choice.
pub(super) fn conditions(choice: Choice, headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    if choice.adaptive && ranges_by_date(&headers) {
        headers.remove(RANGE);
        headers.remove(IF_RANGE);
    }
    headers
}

/// Says that another client may get another answer, and nothing by which parts of both could be taken for one: all
/// variants have the same date.
pub(super) fn mark_adaptive(headers: &mut HeaderMap) {
    headers.remove(LAST_MODIFIED);
    let told = headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(&for_one_client(told)) {
        headers.insert(CACHE_CONTROL, value);
    }
    headers.append(VARY, HeaderValue::from_name(SAVE_DATA));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_a_variant_or_is_refused() {
        let read = |text: &str| asked_variant(&text.parse().expect("a target")).ok();
        assert_eq!(read("/a"), Some(None));
        assert_eq!(read("/a?other=1&variant=low"), Some(Some(Variant::Low)));
        assert_eq!(read("/a?variant=lo%77&v"), Some(Some(Variant::Low)));
        for bad in ["/a?variant=", "/a?variant=tiny"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn images_are_known_by_their_names() {
        for (name, expected) in
            [("a.jpg", true), ("a/b.JPEG", true), ("a.png", true), ("a.webp", true), ("a.gif", false), ("jpg", false)]
        {
            assert_eq!(is_resized(&name.parse().expect("a key")), expected, "{name}");
        }
    }
}
