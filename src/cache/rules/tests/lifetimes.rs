//! How long responses are fresh: lifetimes, dates, ages and guesses (sections 4.2 and 5).

use super::*;

/// Whether a response with these fields is reused three seconds after it came.
fn reused(fields: &[(&str, &str)]) -> bool {
    Case::new(fields).is_reused_after(3)
}

#[test]
fn cache_control_gives_a_lifetime() {
    for (cache_control, expected) in [
        ("max-age=3600", true),
        ("max-age=\"3600\"", true),
        ("max-age=003600", true),
        ("MaX-aGe=3600", true),
        ("foobar, max-age=3600", true),
        ("max-age=2147483647", true),
        ("max-age=2147483648", true),
        ("max-age=2147483649", true),
        ("max-age=99999999999", true),
        ("s-maxage=3600", true),
        ("max-age=1, s-maxage=3600", true),
        ("max-age=0, s-maxage=3600", true),
        ("max-age=3600, max-age=1800", true),
        ("max-age=10000, must-revalidate", true),
        ("max-age=3600, immutable", true),
        ("", false),
        ("max-age=0", false),
        ("max-age=3", false),
        ("max-age='3600'", false),
        ("max-age=3600.0", false),
        ("max-age=3600.5", false),
        ("max-age=-3600", false),
        ("max-age =3600", false),
        ("max-age= 3600", false),
        ("max-age=a3600", false),
        ("max-age=3600a", false),
        ("extension=\"max-age=3600\", max-age=1", false),
        ("max-age=\"1\", extension=\"max-age=3600\"", false),
        ("max-age=1, max-age=1800", false),
        ("max-age=1800, max-age=1", false),
        ("max-age=3600, s-maxage=1", false),
        ("s-maxage=1, max-age=3600", false),
        ("max-age=3600, s-maxage=x", false),
        ("max-age=10000, no-cache", false),
        ("max-age=10000, No-CaChE", false),
        ("max-age=10000, no-store", false),
        ("max-age=3600, private", false),
    ] {
        // A validator, so that nothing is left out for being of no use.
        let fields = [("cache-control", cache_control), ("etag", "\"a\"")];
        assert_eq!(reused(&fields), expected, "{cache_control}");
    }
    let lines = [("cache-control", "max-age=3600"), ("cache-control", "s-maxage=1")];
    assert!(!reused(&lines));
}

#[test]
fn expires_counts_from_the_date() {
    for (date_after, expires_after, expected) in [
        (0, 2_592_000, true),
        (0, 4, true),
        (-7000, 100, true),
        (0, 3, false),
        (0, 0, false),
        (0, -2_592_000, false),
        (400, 300, false),
    ] {
        // Ages by `Date` alone would hide what `Expires` says here.
        let fields = [("date", &*date(date_after)), ("expires", &*date(expires_after))];
        let lifetime = expires_after - date_after;
        let age = (-date_after).max(0);
        let judged = Case::new(&fields).judge();
        let ttl = judged.map(|freshness| freshness.ttl_seconds(arrival()));
        if lifetime > 0 {
            assert_eq!(ttl, Ok(lifetime - age), "{date_after} {expires_after}");
        }
        assert_eq!(reused(&fields), expected, "{date_after} {expires_after}");
    }
}

#[test]
fn expires_that_does_not_read_is_past() {
    let date = &*date(0);
    for (expires, expected) in [
        ("Fri, 01 Jan 2038 01:01:01 GMT", true),
        ("Friday, 01-Jan-38 01:01:01 GMT", true),
        ("Fri Jan  1 01:01:01 2038", true),
        ("FRI, 01 jan 2038 01:01:01 gMT", true),
        ("Sun, 21 Nov 2286 04:46:39 GMT", true),
        ("Thu, 21 Nov 2286 04:46:39 GMT", false),
        ("0", false),
        ("-1", false),
        ("", false),
        ("Thu, 18 Aug 2050 02:01:18 UTC", false),
        ("Thu, 18 Aug 2050 02:01:18 AEST", false),
        ("Thu, 18 Aug 50 02:01:18 GMT", false),
        ("Thu 18 Aug 2050 02:01:18 GMT", false),
        ("Thu, 18  Aug  2050 02:01:18 GMT", false),
        ("Thu, 18-Aug-2050 02:01:18 GMT", false),
        ("Thu, 18 Aug 2050 02.01.18 GMT", false),
        ("Thu, 18 Aug 2050 2:01:18 GMT", false),
    ] {
        assert_eq!(reused(&[("expires", expires), ("date", date), ("etag", "\"a\"")]), expected, "{expires}");
    }
    let far = "Fri, 01 Jan 2038 01:01:01 GMT";
    let farther = "Fri, 01 Jan 2038 01:01:02 GMT";
    assert!(!reused(&[("expires", far), ("expires", farther), ("date", date)]));
    assert!(reused(&[("expires", far), ("expires", far), ("date", date)]));
    // An explicit time that does not read leaves no room for a guess.
    assert!(!reused(&[("expires", "0"), ("last-modified", &*super::date(-1_000_000)), ("date", date)]));
}

#[test]
fn a_directive_comes_before_expires() {
    let (past, future, now) = (&*date(-7200), &*date(7200), &*date(0));
    assert!(reused(&[("cache-control", "max-age=3600"), ("expires", past), ("date", now)]));
    assert!(reused(&[("cache-control", "max-age=3600"), ("expires", "0"), ("date", now)]));
    assert!(reused(&[("cache-control", "max-age=0, s-maxage=3600"), ("expires", past)]));
    assert!(!reused(&[("cache-control", "max-age=0"), ("expires", future), ("date", now)]));
    assert!(!reused(&[("cache-control", "max-age=x"), ("expires", future), ("date", now)]));
}

#[test]
fn the_time_of_arrival_stands_in_for_a_date() {
    for date_field in ["foo", "", "Mon, 06 Nov 1994 08:49:37 GMT"] {
        assert!(reused(&[("date", date_field), ("expires", &*date(10))]), "{date_field}");
    }
    assert!(reused(&[("expires", &*date(10))]) && !reused(&[("expires", &*date(2))]));
}

#[test]
fn age_is_what_the_caches_before_tell() {
    let now = &*date(0);
    for (age, expected) in [
        (&["0"][..], true),
        (&["1800"], true),
        (&[" 1800 "], true),
        (&["3596"], true),
        (&["3597"], false),
        (&["7200"], false),
        (&["99999999999999999999"], false),
        (&["abc"], false),
        (&[""], false),
        (&["-7200"], false),
        (&["+5"], false),
        (&["7200.0"], false),
        (&["0.5"], false),
        (&["7200,0"], false),
        (&["0,7200"], false),
        (&["0, 0"], false),
        (&["3600, 3600"], false),
        (&["7200", "0"], false),
        (&["0", "7200"], false),
        (&["0", "0"], false),
        (&["0;foo=bar"], false),
        (&["0;foo=111"], false),
        (&["\"0\""], false),
    ] {
        let mut fields = vec![("date", now), ("cache-control", "max-age=3600"), ("etag", "\"a\"")];
        fields.extend(age.iter().map(|age| ("age", *age)));
        assert_eq!(reused(&fields), expected, "{age:?}");
    }
}

#[test]
fn age_and_expires_come_from_the_same_clock() {
    for (date_after, expires_after, age) in [(-10, 10, "25"), (10, 20, "15")] {
        let fields = [("date", &*date(date_after)), ("expires", &*date(expires_after)), ("age", age)];
        assert!(!reused(&fields), "{date_after}");
    }
}

#[test]
fn current_age_adds_the_exchange_and_the_stay() {
    let judged =
        |fields: &[(&str, &str)], took| Case::new(fields).took(Duration::from_millis(took)).judge().expect("stored");
    let told = judged(&[("cache-control", "max-age=100"), ("age", "30")], 2500);
    assert_eq!(told.age_seconds(arrival()), 32);
    assert_eq!(told.age_seconds(later(10)), 42);
    assert_eq!(told.ttl_seconds(later(10)), 57);
    // A slow clock of the origin, or an old cache that tells no age (apparent_age).
    let apparent = judged(&[("cache-control", "max-age=100"), ("date", &*date(-50)), ("age", "30")], 0);
    assert_eq!(apparent.age_seconds(later(1)), 51);
    let ahead = judged(&[("cache-control", "max-age=100"), ("date", &*date(50))], 0);
    assert_eq!((ahead.age_seconds(later(1)), ahead.ttl_seconds(later(1))), (1, 99));
}

#[test]
fn what_a_cache_before_had_was_asked_for_by_that() {
    let begin = |age: &[(&str, &str)]| {
        let fields = [&[("cache-control", "max-age=100"), ("etag", "\"a\"")][..], age].concat();
        let judged = Case::new(&fields).took(Duration::from_secs(2)).judge().expect("stored");
        (0..60).find(|ago| judged.was_asked_for_since(arrival() - Duration::from_secs(*ago)))
    };
    assert_eq!([begin(&[]), begin(&[("age", "0")]), begin(&[("age", "30")])], [Some(2), Some(3), Some(33)]);
    assert_eq!(begin(&[("age", "x")]), None);
}

#[test]
fn a_second_has_a_thousand_milliseconds() {
    let freshness = Case::new(&[("cache-control", "max-age=1"), ("date", &*date(0))]).judge().expect("stored");
    let at = |ms| arrival() + Duration::from_millis(ms);
    assert!(freshness.is_fresh(at(999)) && !freshness.is_fresh(at(1000)));
    assert_eq!(
        (freshness.ttl_seconds(at(999)), freshness.ttl_seconds(at(1000)), freshness.ttl_seconds(at(1001))),
        (0, 0, -1)
    );
    assert_eq!((freshness.age_seconds(at(999)), freshness.age_seconds(at(1000))), (0, 1));
}

#[test]
fn a_date_of_the_same_second_is_no_age() {
    let mut case = Case::new(&[("cache-control", "max-age=1"), ("date", &*date(0))]);
    case.delay = Duration::from_millis(1);
    let exchange_end = arrival() + Duration::from_millis(900);
    let exchange = Exchange {
        method: &case.method,
        target: &Uri::from_static("http://example.com/a"),
        request: &case.request,
        status: case.status,
        response: &case.response,
        request_time: exchange_end - case.delay,
        response_time: exchange_end,
    };
    assert!(judge(&Terms::default(), &exchange).is_ok_and(|freshness| freshness.is_fresh(exchange_end)));
}

#[test]
fn a_tenth_of_the_time_since_the_last_change_is_a_guess() {
    let lifetime = |changed: i64| {
        let case = Case::new(&[("last-modified", &*date(-changed)), ("date", &*date(0))]);
        case.judge().map(|freshness| freshness.ttl_seconds(arrival()))
    };
    for (changed, expected) in
        [(5, 0), (10, 1), (100, 10), (86_400, 8640), (864_000, 86_400), (100_000_000, 86_400), (-50, 0)]
    {
        assert_eq!(lifetime(changed), Ok(expected), "{changed}");
    }
    for unreadable in ["yesterday", "0", ""] {
        assert!(!reused(&[("last-modified", unreadable), ("etag", "\"a\"")]), "{unreadable}");
    }
    let terms = Terms { heuristic_lifetime_seconds_max: 0, ..Terms::default() };
    let guessed = Case::new(&[("last-modified", &*date(-100_000)), ("date", &*date(0))]).judge_by(&terms);
    assert!(guessed.is_ok_and(|freshness| !freshness.is_fresh(arrival())));
}

#[test]
fn only_some_status_codes_are_guessed_at() {
    for (status, expected) in [
        (200, true),
        (203, true),
        (204, true),
        (300, true),
        (301, true),
        (308, true),
        (404, true),
        (405, true),
        (410, true),
        (414, true),
        (501, true),
        (201, false),
        (202, false),
        (302, false),
        (307, false),
        (400, false),
        (403, false),
        (500, false),
        (502, false),
        (503, false),
        (504, false),
        (599, false),
    ] {
        let fields = [("last-modified", &*date(-86_400)), ("date", &*date(0))];
        assert_eq!(Case::new(&fields).status(status).is_reused_after(3), expected, "{status}");
        let public = [fields[0], fields[1], ("cache-control", "public")];
        assert!(Case::new(&public).status(status).is_reused_after(3), "{status} public");
    }
}

#[test]
fn a_site_may_have_defaults_where_the_origin_says_nothing() {
    let terms = Terms { default_lifetime_seconds: 60, error_lifetime_seconds: 5, ..Terms::default() };
    let ttl = |fields: &[(&str, &str)], status| {
        Case::new(fields).status(status).judge_by(&terms).map(|freshness| freshness.ttl_seconds(arrival()))
    };
    assert_eq!(ttl(&[], 200), Ok(60));
    assert_eq!(ttl(&[("last-modified", &*date(-864_000))], 200), Ok(60));
    assert_eq!(ttl(&[], 404), Ok(5));
    assert_eq!(ttl(&[("cache-control", "max-age=9")], 404), Ok(9));
    assert_eq!(ttl(&[("cache-control", "max-age=0"), ("etag", "\"a\"")], 200), Ok(0));
    assert_eq!(ttl(&[("expires", "0"), ("etag", "\"a\"")], 200), Ok(0));
    assert_eq!(ttl(&[("cdn-cache-control", "none"), ("expires", "0")], 200), Ok(60));
    assert_eq!(ttl(&[], 500), Err(NotStored::NotCacheable));
    assert_eq!(ttl(&[], 302), Err(NotStored::NotCacheable));
    assert_eq!(ttl(&[("cache-control", "no-store")], 200), Err(NotStored::NoStore));
}

#[test]
fn pragma_in_a_response_forbids_guesses_and_nothing_else() {
    let changed = ("last-modified", &*date(-10_000));
    assert!(reused(&[changed]) && reused(&[changed, ("pragma", "other")]));
    assert!(!reused(&[changed, ("pragma", "no-cache")]));
    assert!(reused(&[("cache-control", "max-age=3600"), ("pragma", "no-cache")]));
    assert!(reused(&[("expires", &*date(100)), ("pragma", "no-cache")]));
}

#[test]
fn a_targeted_field_rules_alone() {
    let (past, future) = (&*date(-10_000), &*date(10_000));
    for (fields, expected) in [
        (&[("cdn-cache-control", "max-age=3600")][..], true),
        (&[("cdn-cache-control", "max-age=3600"), ("expires", past)], true),
        (&[("cdn-cache-control", "max-age=3600"), ("expires", "0")], true),
        (&[("cdn-cache-control", "max-age=10000"), ("cache-control", "no-store")], true),
        (&[("cdn-cache-control", "max-age=3600"), ("cache-control", "max-age=1")], true),
        (&[("cdn-cache-control", "max-age=3600"), ("cache-control", "no-cache, private")], true),
        (&[("metacdn-cache-control", "max-age=3600"), ("cdn-cache-control", "no-store")], true),
        (&[("cdn-cache-control", "max-age=0"), ("expires", future)], false),
        (&[("cdn-cache-control", "max-age=-1"), ("expires", future)], false),
        (&[("cdn-cache-control", "max-age=3600"), ("age", "7200")], false),
        (&[("cdn-cache-control", "max-age=1"), ("cache-control", "max-age=3600")], false),
        (&[("cdn-cache-control", "private"), ("cache-control", "max-age=3600"), ("expires", future)], false),
        (&[("cdn-cache-control", "no-cache"), ("cache-control", "max-age=3600"), ("expires", future)], false),
        (&[("cdn-cache-control", "no-store"), ("cache-control", "max-age=3600"), ("expires", future)], false),
        (&[("cdn-cache-control", "none"), ("cache-control", "max-age=3600")], false),
        (&[("cdn-cache-control", "max-age=10000, &&&&&"), ("cache-control", "no-store")], false),
        (&[("cdn-cache-control", "max-age=\"10000\""), ("cache-control", "no-store")], false),
        (&[("cdn-cache-control", "MaX-aGe=3600"), ("cache-control", "max-age=1")], false),
        (&[("cdn-cache-control", ""), ("cache-control", "max-age=3600")], true),
        (&[("other-cache-control", "no-store"), ("cache-control", "max-age=3600")], true),
        (&[("surrogate-control", "max-age=3600")], false),
    ] {
        assert_eq!(reused(fields), expected, "{fields:?}");
    }
}
