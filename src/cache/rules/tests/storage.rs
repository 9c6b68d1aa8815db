//! What may be stored (section 3).

use super::*;

fn judged(fields: &[(&str, &str)]) -> Result<(), NotStored> {
    Case::new(fields).judge().map(|_| ())
}

const FRESH: (&str, &str) = ("cache-control", "max-age=3600");

#[test]
fn any_final_status_with_a_lifetime_is_stored() {
    for status in [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599, 999] {
        assert!(Case::new(&[FRESH]).status(status).is_reused_after(3), "{status}");
        let stale = [("expires", &*date(-5000)), ("last-modified", &*date(-100_000)), ("date", &*date(0))];
        assert_eq!(Case::new(&stale).status(status).used_after(0), Some(Use::Validate(Cause::Stale)), "{status}");
    }
    for status in [100, 101, 103, 304, 407, 412, 416, 417] {
        assert_eq!(Case::new(&[FRESH]).status(status).judge(), Err(NotStored::Status), "{status}");
    }
}

#[test]
fn must_understand_limits_and_loosens() {
    for (status, directives, expected) in [
        (599, "max-age=3600, must-understand", Err(NotStored::MustUnderstand)),
        (599, "max-age=3600, must-understand, no-store", Err(NotStored::MustUnderstand)),
        (299, "max-age=3600, must-understand", Err(NotStored::MustUnderstand)),
        (200, "max-age=3600, must-understand", Ok(())),
        (200, "max-age=3600, must-understand, no-store", Ok(())),
        (404, "max-age=3600, no-store, must-understand", Ok(())),
        (200, "max-age=3600, must-understand=1, no-store", Err(NotStored::NoStore)),
    ] {
        let found = Case::new(&[("cache-control", directives)]).status(status).judge().map(|_| ());
        assert_eq!(found, expected, "{status} {directives}");
    }
}

#[test]
fn directives_forbid_to_store() {
    for (cache_control, expected) in [
        ("no-store", Err(NotStored::NoStore)),
        ("No-StOrE", Err(NotStored::NoStore)),
        ("max-age=10000, no-store", Err(NotStored::NoStore)),
        ("private", Err(NotStored::Private)),
        ("private, max-age=3600", Err(NotStored::Private)),
        ("private=\"\", max-age=3600", Err(NotStored::Private)),
        ("private=\"a\", max-age=3600", Ok(())),
        ("no-cache=\"a\", max-age=3600", Ok(())),
        ("x=\"open, no-store, max-age=60", Err(NotStored::NoStore)),
    ] {
        assert_eq!(judged(&[("cache-control", cache_control)]), expected, "{cache_control}");
    }
}

#[test]
fn what_could_never_be_used_is_not_stored() {
    for fields in [&[][..], &[("cache-control", "no-cache")], &[("cache-control", "max-age=0")], &[("etag", "abc")]] {
        assert_eq!(judged(fields), Err(NotStored::NeverReusable), "{fields:?}");
    }
    for fields in [
        &[("etag", "\"a\"")][..],
        &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("cache-control", "no-cache")],
        &[("cache-control", "max-age=0, stale-while-revalidate=5")],
        &[("cache-control", "max-age=0, stale-if-error=5")],
        &[("cache-control", "max-age=1500"), ("age", "2000")],
    ] {
        assert_eq!(judged(fields), Ok(()), "{fields:?}");
    }
}

#[test]
fn answers_to_other_methods_are_not_stored() {
    for method in ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "M-SEARCH", "get"] {
        assert_eq!(Case::new(&[FRESH]).method(method).judge(), Err(NotStored::Method), "{method}");
    }
}

#[test]
fn an_answer_to_post_is_stored_if_it_is_what_the_target_is_now() {
    let expires = ("expires", &*date(10_000));
    let own = ("content-location", "http://example.com/a");
    let post = |fields: &[(&str, &str)]| Case::new(fields).method("POST").judge().map(|_| ());
    assert_eq!(post(&[expires, own]), Ok(()));
    assert_eq!(post(&[FRESH, ("content-location", "/a")]), Ok(()));
    assert_eq!(post(&[FRESH, ("content-location", "")]), Ok(()));
    for fields in [
        &[FRESH][..],
        &[own],
        &[own, ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[own, ("cache-control", "public")],
        &[FRESH, ("content-location", "/b")],
        &[FRESH, ("content-location", "http://other.com/a")],
        &[FRESH, own, own],
    ] {
        assert_eq!(post(fields), Err(NotStored::Method), "{fields:?}");
    }
}

#[test]
fn an_authorized_request_shares_its_answer_only_if_that_says_so() {
    for (fields, expected) in [
        (&[("expires", &*date(10_000))][..], Err(NotStored::Authorization)),
        (&[FRESH], Err(NotStored::Authorization)),
        (&[("cache-control", "max-age=3600, proxy-revalidate")], Err(NotStored::Authorization)),
        (&[("cache-control", "max-age=3600, public=1")], Err(NotStored::Authorization)),
        (&[("cache-control", "public"), ("cdn-cache-control", "max-age=3600")], Err(NotStored::Authorization)),
        (&[("cache-control", "max-age=3600, public")], Ok(())),
        (&[("cache-control", "max-age=3600, must-revalidate")], Ok(())),
        (&[("cache-control", "s-maxage=3600")], Ok(())),
        (&[("cdn-cache-control", "max-age=3600, public")], Ok(())),
    ] {
        let found = Case::new(fields).request(&[("authorization", "FOO")]).judge().map(|_| ());
        assert_eq!(found, expected, "{fields:?}");
    }
}

#[test]
fn cookies_keep_nothing_from_being_stored() {
    let case = Case::new(&[FRESH, ("set-cookie", "a=b")]).request(&[("cookie", "a=b")]);
    assert!(case.is_reused_after(3));
}

#[test]
fn a_request_may_forbid_to_store() {
    let case = Case::new(&[FRESH]).request(&[("cache-control", "no-store")]);
    assert_eq!(case.judge(), Err(NotStored::RequestNoStore));
}

#[test]
fn what_varies_always_is_not_stored() {
    for vary in ["*", ", *", "Foo, *"] {
        assert_eq!(judged(&[FRESH, ("vary", vary)]), Err(NotStored::VariesAlways), "{vary}");
    }
    assert_eq!(judged(&[FRESH, ("vary", "foo")]), Ok(()));
}

#[test]
fn a_part_is_stored_if_it_can_be_put_together() {
    let range = ("content-range", "bytes 4-9/10");
    let part = |fields: &[(&str, &str)]| Case::new(fields).status(206).judge().map(|_| ());
    assert_eq!(part(&[FRESH, range, ("etag", "\"a\"")]), Ok(()));
    for fields in [
        &[FRESH, range][..],
        &[FRESH, range, ("etag", "W/\"a\"")],
        &[FRESH, range, ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[FRESH, ("content-range", "bytes 4-9/*"), ("etag", "\"a\"")],
        &[FRESH, ("etag", "\"a\""), ("content-type", "multipart/byteranges; boundary=x")],
    ] {
        assert_eq!(part(fields), Err(NotStored::Partial), "{fields:?}");
    }
}

#[test]
fn freshness_outlives_a_restart() {
    for fields in [&[FRESH][..], &[("cache-control", "max-age=1, stale-if-error=5, no-transform")]] {
        let freshness = Case::new(fields).judge().expect("stored");
        let text = serde_json::to_string(&freshness).expect("it can be written");
        assert_eq!(serde_json::from_str::<Freshness>(&text).expect("it can be read"), freshness);
    }
}
