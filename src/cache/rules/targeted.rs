//! Fields that speak to some caches alone (RFC 9213): `CDN-Cache-Control` and its like.
//!
//! They are dictionaries of structured fields (RFC 9651), not lists as `Cache-Control` is, and go wrong in other ways.
//! A field that does not parse, is empty, or gives a directive that we know a value of the wrong type is as if it were
//! not there (section 2.1): the next one counts. What has the right type and makes no sense, a negative `max-age`, is
//! stale.

use http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::response::{ResponseDirectives, Scope};
use super::syntax::SECONDS_MAX;

/// The directives of the field `name`, unless it is to be ignored.
pub(super) fn parse(headers: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.as_bytes();
    // All lines are one value, and one that is empty spoils it (RFC 9651 section 4.2).
    let joined = lines.fold(first.to_vec(), |mut joined, line| {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes());
        joined
    });
    let members: Dictionary = Parser::new(&joined).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut said = ResponseDirectives { targeted: true, ..ResponseDirectives::default() };
    for (key, entry) in &members {
        take(&mut said, key.as_str(), entry)?;
    }
    Some(said)
}

/// `None` where the value has the wrong type. Parameters are ignored, as are directives that we do not know.
fn take(said: &mut ResponseDirectives, key: &str, entry: &ListEntry) -> Option<()> {
    match key {
        "max-age" => said.max_age = Some(seconds(entry)?),
        "s-maxage" => said.s_maxage = Some(seconds(entry)?),
        "stale-while-revalidate" => said.stale_while_revalidate = Some(seconds(entry)?),
        "stale-if-error" => said.stale_if_error = Some(seconds(entry)?),
        "no-cache" => said.no_cache = scope(entry)?,
        "private" => said.private = scope(entry)?,
        "no-store" => said.no_store = flag(entry)?,
        "must-revalidate" => said.must_revalidate = flag(entry)?,
        "proxy-revalidate" => said.proxy_revalidate = flag(entry)?,
        "must-understand" => said.must_understand = flag(entry)?,
        "public" => said.public = flag(entry)?,
        "no-transform" => said.no_transform = flag(entry)?,
        _ => {}
    }
    Some(())
}

fn bare(entry: &ListEntry) -> Option<&BareItem> {
    match entry {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

fn seconds(entry: &ListEntry) -> Option<u32> {
    let BareItem::Integer(number) = bare(entry)? else { return None };
    let number = i64::from(*number).clamp(0, i64::from(SECONDS_MAX));
    Some(u32::try_from(number).expect("it lies within the bounds just set"))
}

/// A directive without a value is the Boolean true, and false is no value that it can have.
fn flag(entry: &ListEntry) -> Option<bool> {
    matches!(bare(entry)?, BareItem::Boolean(true)).then_some(true)
}

fn scope(entry: &ListEntry) -> Option<Scope> {
    match bare(entry)? {
        BareItem::Boolean(true) => Some(Scope::of(None)),
        BareItem::String(names) => Some(Scope::of(Some(names.as_str().as_bytes()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::header::{CACHE_CONTROL, HeaderValue};

    use super::*;

    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");
    const OWN: HeaderName = HeaderName::from_static("metacdn-cache-control");

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    fn lifetime(fields: &[(HeaderName, &str)]) -> Option<u32> {
        ResponseDirectives::of(&[OWN, CDN], &headers(fields)).lifetime()
    }

    #[test]
    fn it_overrides_cache_control() {
        assert_eq!(lifetime(&[(CACHE_CONTROL, "max-age=1"), (CDN, "max-age=3600")]), Some(3600));
        assert_eq!(lifetime(&[(CACHE_CONTROL, "max-age=3600"), (CDN, "max-age=1")]), Some(1));
        assert_eq!(lifetime(&[(CACHE_CONTROL, "s-maxage=3600"), (CDN, "none")]), None);
        let said = ResponseDirectives::of(&[CDN], &headers(&[(CACHE_CONTROL, "no-store"), (CDN, "max-age=600")]));
        assert!(said.targeted && !said.no_store);
    }

    #[test]
    fn the_first_target_that_is_valid_counts() {
        assert_eq!(lifetime(&[(CDN, "max-age=1"), (OWN, "max-age=2")]), Some(2));
        assert_eq!(lifetime(&[(OWN, "max-age=2;a=b, x"), (CDN, "max-age=1")]), Some(2));
        assert_eq!(lifetime(&[(OWN, ""), (CDN, "max-age=1")]), Some(1));
        assert_eq!(lifetime(&[(OWN, "max-age=2.5"), (CDN, "max-age=1")]), Some(1));
        let other = HeaderName::from_static("other-cache-control");
        assert_eq!(lifetime(&[(other, "max-age=1"), (CACHE_CONTROL, "max-age=9")]), Some(9));
    }

    #[test]
    fn what_is_invalid_is_ignored_whole() {
        for value in [
            "",
            " ",
            ",",
            "max-age=10000, &&&&&",
            "max-age=\"10000\"",
            "max-age=10000.5",
            "max-age=10000.0",
            "max-age",
            "max-age=?1",
            "max-age=a",
            "max-age=(1 2)",
            "max-age =100",
            "max-age= 100",
            "MaX-aGe=3600",
            "max-age='100'",
            "max-age=100,",
            "max-age=1000000000000000",
            "max-age=100, no-store=?0",
            "max-age=100, no-store=1",
            "max-age=100, private=a",
            "max-age=100, no-cache=(a b)",
            "max-age=100, public=\"\"",
            "max-age=100 x",
        ] {
            assert_eq!(lifetime(&[(CDN, value), (CACHE_CONTROL, "max-age=7")]), Some(7), "{value:?}");
        }
        assert_eq!(lifetime(&[(CDN, "max-age=100"), (CDN, ""), (CACHE_CONTROL, "max-age=7")]), Some(7));
    }

    #[test]
    fn structured_values_mean_what_their_type_says() {
        for (value, expected) in [
            ("max-age=2147483648", Some(2_147_483_648)),
            ("max-age=99999999999", Some(2_147_483_648)),
            ("max-age=0", Some(0)),
            ("max-age=-60", Some(0)),
            ("max-age=60;parameter=\"x\"", Some(60)),
            ("max-age=10, max-age=20", Some(20)),
            ("max-age=\"x\", max-age=20", Some(20)),
            ("foobar, max-age=3600", Some(3600)),
            ("ext=(1 2);a, ext2=:AAAA:, ext3=@1, max-age=5", Some(5)),
        ] {
            assert_eq!(lifetime(&[(CDN, value), (CACHE_CONTROL, "max-age=7")]), expected, "{value}");
        }
        assert_eq!(lifetime(&[(CDN, "max-age=60"), (CDN, "s-maxage=30"), (CACHE_CONTROL, "max-age=7")]), Some(30));
    }

    #[test]
    fn directives_keep_their_meaning() {
        let said = ResponseDirectives::of(
            &[CDN],
            &headers(&[(CDN, "private, no-store, must-revalidate, no-cache=\"a, b\", stale-if-error=5, public=?1")]),
        );
        assert!(said.private.is_whole() && said.no_store && said.must_revalidate && said.public);
        assert_eq!((said.no_cache.fields().len(), said.stale_if_error), (2, Some(5)));
    }

    #[test]
    fn content_stays_as_it_is_wherever_that_is_said() {
        for fields in [
            [(CACHE_CONTROL, "no-transform"), (CDN, "max-age=1")],
            [(CACHE_CONTROL, "max-age=1"), (CDN, "no-transform")],
        ] {
            assert!(ResponseDirectives::of(&[CDN], &headers(&fields)).no_transform);
        }
    }
}
