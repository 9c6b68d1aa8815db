//! The crate `http-cache-semantics` as a second opinion on generated responses.
//!
//! Where it differs it does so for one of these reasons, and [`differs_on_purpose`] knows them:
//!
//! * It takes `Set-Cookie` without `public` for a reason to store nothing; section 3 does not.
//! * It takes `proxy-revalidate` for a lifetime of 0; section 5.2.2.8 speaks of what is stale already.
//! * It leaves out `Date` of the age (apparent_age, section 4.2.3), so that a response from a cache that tells no age
//!   is fresh for too long.
//! * It knows no targeted fields (RFC 9213), no `must-understand`, no `no-cache` with field names, and takes the first
//!   of several `max-age` where we take the shortest (section 4.2.1 has the first, or stale).
//! * It takes an `Age` that does not read for 0, and reads the first of several lines; the last paragraph of section
//!   4.2.1 encourages to take what is invalid for stale.
//! * It takes a response with any status that it does not know for one that must not be stored; section 3 asks that
//!   only of 206, 304 and `must-understand`.

use http::{Request, Response};
use http_cache_semantics::CachePolicy;
use proptest::prelude::*;

use super::*;

fn their_opinion(case: &Case, now: SystemTime) -> bool {
    let mut request = Request::get("http://example.com/a").body(()).expect("a request");
    *request.headers_mut() = case.request.clone();
    let mut response = Response::builder().status(case.status).body(()).expect("a response");
    *response.headers_mut() = case.response.clone();
    let policy =
        CachePolicy::new_options(&request, &response, arrival(), http_cache_semantics::CacheOptions::default());
    policy.is_storable() && policy.before_request(&request, now).satisfies_without_revalidation()
}

/// Which of the reasons above may make the opinions differ.
fn differs_on_purpose(case: &Case) -> bool {
    let response = &case.response;
    let told: Vec<_> = response.get_all("cache-control").iter().filter_map(|value| value.to_str().ok()).collect();
    let told = told.join(", ");
    let is_repeated = |name: &str| told.matches(name).count() > 1;
    is_repeated("max-age")
        || is_repeated("s-maxage")
        || told.contains("proxy-revalidate")
        || response.contains_key("set-cookie")
}

fn line(name: &'static str, values: &'static [&'static str]) -> impl Strategy<Value = Option<(&'static str, String)>> {
    proptest::option::of(proptest::sample::select(values).prop_map(move |value| (name, value.to_owned())))
}

fn response() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let directives = proptest::sample::subsequence(
        vec![
            "max-age=100",
            "max-age=0",
            "s-maxage=200",
            "max-age=x",
            "max-age='100'",
            "public",
            "private",
            "no-store",
            "no-cache",
            "must-revalidate",
            "proxy-revalidate",
            "foo=\"max-age=500\"",
            "max-age=\"60\"",
        ],
        0..4,
    );
    let near =
        |name: &'static str| proptest::option::of((-100_000..500_i64).prop_map(move |after| (name, date(after))));
    (
        directives.prop_map(|all| vec![("cache-control", all.join(", "))]),
        line("age", &["0", "50", "150"]),
        near("expires"),
        near("last-modified"),
        line("set-cookie", &["a=b"]),
    )
        .prop_map(|(mut fields, age, expires, modified, cookie)| {
            fields.retain(|(_, value)| !value.is_empty());
            fields.push(("date", date(0)));
            fields.extend([age, expires, modified, cookie].into_iter().flatten());
            fields
        })
}

proptest! {
    #[test]
    fn both_agree_but_for_known_reasons(
        fields in response(),
        status in proptest::sample::select(vec![200_u16, 301, 404, 302, 307]),
        authorized: bool,
        after in 0..400_u64,
    ) {
        let borrowed: Vec<_> = fields.iter().map(|(name, value)| (*name, &**value)).collect();
        let mut case = Case::new(&borrowed).status(status);
        if authorized {
            case = case.request(&[("authorization", "x")]);
        }
        if differs_on_purpose(&case) {
            return Ok(());
        }
        prop_assert_eq!(case.is_reused_after(after), their_opinion(&case, later(after)), "{:?}", fields);
    }

    #[test]
    fn nothing_is_reused_for_longer_than_they_would(fields in response(), after in 0..400_u64) {
        let fields: Vec<_> = fields.iter().filter(|(name, _)| *name != "set-cookie").collect();
        let borrowed: Vec<_> = fields.iter().map(|(name, value)| (*name, &**value)).collect();
        let case = Case::new(&borrowed);
        let is_known = borrowed.iter().any(|(_, value)| value.contains("proxy-revalidate"));
        prop_assert!(!case.is_reused_after(after) || is_known || their_opinion(&case, later(after)), "{:?}", borrowed);
    }
}

#[test]
fn the_known_differences_are_still_there() {
    for (fields, ours, theirs) in [
        (&[("cache-control", "max-age=100"), ("set-cookie", "a=b")][..], true, false),
        (&[("cache-control", "max-age=100, proxy-revalidate")], true, false),
        (&[("cache-control", "max-age=100"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")], false, true),
        (&[("cdn-cache-control", "max-age=100")], true, false),
        (&[("cache-control", "max-age=100, no-cache=\"a\"")], true, false),
        (&[("cache-control", "max-age=100, max-age=5")], false, true),
        (&[("cache-control", "max-age=100"), ("age", "x")], false, true),
        (&[("cache-control", "max-age=100"), ("age", "0"), ("age", "500")], false, true),
    ] {
        let case = Case::new(fields);
        assert_eq!((case.is_reused_after(9), their_opinion(&case, later(9))), (ours, theirs), "{fields:?}");
    }
    let unknown = Case::new(&[("cache-control", "max-age=100")]).status(299);
    assert_eq!((unknown.is_reused_after(9), their_opinion(&unknown, later(9))), (true, false));
}
