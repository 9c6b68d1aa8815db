//! What requests want, what may be used stale, and what validation changes (sections 4.2.4, 4.3, 5.2.1, RFC 5861).

use super::*;

fn freshness(cache_control: &str) -> Freshness {
    let fields = [("cache-control", cache_control), ("etag", "\"a\""), ("date", &*date(0))];
    Case::new(&fields).judge().expect("it is stored")
}

fn directives(cache_control: &str) -> RequestDirectives {
    RequestDirectives::of(&headers(&[("cache-control", cache_control)]))
}

const STALE: Use = Use::Validate(Cause::Stale);
const WANTED: Use = Use::Validate(Cause::Request);

#[test]
fn a_request_may_want_better_than_fresh() {
    let stored = freshness("max-age=1500");
    for (request, expected) in [
        ("max-age=3600", Use::Fresh),
        ("max-age=1000", Use::Fresh),
        ("min-fresh=500", Use::Fresh),
        ("max-stale", Use::Fresh),
        ("only-if-cached", Use::Fresh),
        ("no-store", Use::Fresh),
        ("max-age=0", WANTED),
        ("max-age=999", WANTED),
        ("max-age=x", WANTED),
        ("min-fresh=501", WANTED),
        ("min-fresh=2000", WANTED),
        ("min-fresh=x", WANTED),
        ("no-cache", WANTED),
        ("max-stale, no-cache", WANTED),
        ("no-cache, only-if-cached", Use::GatewayTimeout),
        ("max-age=0, only-if-cached", Use::GatewayTimeout),
    ] {
        assert_eq!(stored.use_for(&directives(request), later(1000)), expected, "{request}");
    }
}

#[test]
fn a_request_may_take_what_is_stale() {
    // Stale for 500 seconds.
    for (response, request, expected) in [
        ("max-age=1000", "", STALE),
        ("max-age=1000", "max-stale", Use::Stale),
        ("max-age=1000", "max-stale=500", Use::Stale),
        ("max-age=1000", "max-stale=499", STALE),
        ("max-age=1000", "max-stale=x", STALE),
        ("max-age=1000", "max-stale, max-age=2000", Use::Stale),
        ("max-age=1000", "max-stale, max-age=1400", STALE),
        ("max-age=1000", "max-stale, min-fresh=1", STALE),
        ("max-age=1000", "only-if-cached", Use::GatewayTimeout),
        ("max-age=1000", "only-if-cached, max-stale", Use::Stale),
        ("max-age=1000, must-revalidate", "max-stale", STALE),
        ("max-age=1000, proxy-revalidate", "max-stale", STALE),
        ("s-maxage=1000", "max-stale", STALE),
        ("max-age=1000, no-cache", "max-stale", STALE),
        ("max-age=1000, must-revalidate", "max-stale, only-if-cached", Use::GatewayTimeout),
    ] {
        assert_eq!(freshness(response).use_for(&directives(request), later(1500)), expected, "{response}: {request}");
    }
}

#[test]
fn a_stale_response_is_used_while_it_is_validated() {
    // Stale for 500 seconds.
    for (response, request, expected) in [
        ("max-age=1000, stale-while-revalidate=500", "", Use::StaleWhileRevalidate),
        ("max-age=1000, stale-while-revalidate=500", "only-if-cached", Use::StaleWhileRevalidate),
        ("max-age=1000, stale-while-revalidate=500", "max-stale", Use::StaleWhileRevalidate),
        ("max-age=1000, stale-while-revalidate=500", "max-stale=100", STALE),
        ("max-age=1000, stale-while-revalidate=500", "max-age=2000", STALE),
        ("max-age=1000, stale-while-revalidate=500", "min-fresh=1", STALE),
        ("max-age=1000, stale-while-revalidate=500", "no-cache", STALE),
        ("max-age=1000, stale-while-revalidate=499", "", STALE),
        ("max-age=1000, stale-while-revalidate=499", "max-stale", Use::Stale),
        ("max-age=1000, stale-while-revalidate=x", "", STALE),
        ("max-age=1000, stale-while-revalidate", "", STALE),
        ("max-age=1000, stale-while-revalidate=500, must-revalidate", "", STALE),
        ("max-age=1000, stale-while-revalidate=500, no-cache", "", STALE),
        ("s-maxage=1000, stale-while-revalidate=500", "", STALE),
    ] {
        assert_eq!(freshness(response).use_for(&directives(request), later(1500)), expected, "{response}: {request}");
    }
}

#[test]
fn a_stale_response_may_stand_in_for_an_error() {
    // Stale for 500 seconds.
    for (response, request, expected) in [
        ("max-age=1000", "", OnError::WhenDisconnected),
        ("max-age=1000", "max-age=0", OnError::WhenDisconnected),
        ("max-age=1000", "no-cache", OnError::Forbidden),
        ("max-age=1000", "stale-if-error=500", OnError::Allowed),
        ("max-age=1000", "stale-if-error=499", OnError::Forbidden),
        ("max-age=1000", "no-cache, stale-if-error=500", OnError::Allowed),
        ("max-age=1000, stale-if-error=500", "", OnError::Allowed),
        ("max-age=1000, stale-if-error=500", "max-age=0", OnError::Allowed),
        ("max-age=1000, stale-if-error=500", "no-cache", OnError::Forbidden),
        ("max-age=1000, stale-if-error=499", "", OnError::Forbidden),
        ("max-age=1000, stale-if-error=x", "", OnError::Forbidden),
        ("max-age=1000, stale-if-error=0", "", OnError::Forbidden),
        ("max-age=1000, stale-if-error=600, must-revalidate", "", OnError::Forbidden),
        ("max-age=1000, stale-if-error=600, proxy-revalidate", "stale-if-error=600", OnError::Forbidden),
        ("s-maxage=1000, stale-if-error=600", "", OnError::Forbidden),
        ("max-age=1000, stale-if-error=600, no-cache", "", OnError::Forbidden),
        ("max-age=1000, stale-while-revalidate=500, stale-if-error=0", "", OnError::Allowed),
        ("max-age=1000, stale-while-revalidate=500, stale-if-error=0", "max-age=0", OnError::Forbidden),
        // Fresh still: it was to be validated because the client wanted to.
        ("max-age=2000, must-revalidate", "max-age=0", OnError::Allowed),
        ("max-age=2000", "no-cache", OnError::Forbidden),
    ] {
        assert_eq!(freshness(response).on_error(&directives(request), later(1500)), expected, "{response}: {request}");
    }
}

#[test]
fn a_site_may_allow_what_the_origin_does_not_speak_of() {
    let terms = Terms { stale_while_revalidate_seconds: 10, stale_if_error_seconds: Some(20), ..Terms::default() };
    let judged = |fields: &[(&str, &str)]| Case::new(fields).judge_by(&terms).expect("it is stored");
    let silent = judged(&[("cache-control", "max-age=5")]);
    assert_eq!(silent.use_for(&RequestDirectives::NONE, later(15)), Use::StaleWhileRevalidate);
    assert_eq!(silent.on_error(&RequestDirectives::NONE, later(25)), OnError::Allowed);
    let strict = judged(&[("cache-control", "max-age=5, stale-while-revalidate=0, stale-if-error=0")]);
    assert_eq!(strict.use_for(&RequestDirectives::NONE, later(6)), STALE);
    assert_eq!(strict.on_error(&RequestDirectives::NONE, later(6)), OnError::Forbidden);
    let forbidding = judged(&[("cache-control", "max-age=5, must-revalidate")]);
    assert_eq!(forbidding.use_for(&RequestDirectives::NONE, later(6)), STALE);
}

#[test]
fn an_expired_response_is_stale_from_then_on() {
    let mut stored = freshness("max-age=1000, stale-while-revalidate=10, stale-if-error=10");
    stored.expire(later(100));
    for request in [RequestDirectives::NONE, directives("max-stale"), directives("max-stale=50")] {
        assert_eq!(stored.use_for(&request, later(105)), STALE, "somebody is asked before it is used again");
    }
    assert_eq!(stored.on_error(&RequestDirectives::NONE, later(105)), OnError::Allowed);
    assert_eq!(stored.on_error(&RequestDirectives::NONE, later(111)), OnError::Forbidden);
    assert_eq!(stored.ttl_seconds(later(105)), -5);
    let mut stale = freshness("max-age=1");
    stale.expire(later(100));
    assert_eq!(stale.ttl_seconds(later(101)), -100, "an expired response does not become younger");
}

#[test]
fn an_invalidated_response_is_always_validated() {
    let mut stored = freshness("max-age=1000, stale-while-revalidate=10, stale-if-error=100");
    stored.invalidate();
    assert_eq!(stored.use_for(&directives("max-stale"), later(1)), STALE);
    assert_eq!(stored.on_error(&RequestDirectives::NONE, later(1)), OnError::Forbidden);
}

#[test]
fn only_what_may_be_transformed_is() {
    assert!(freshness("max-age=1").may_transform() && !freshness("max-age=1, no-transform").may_transform());
}

/// What a 304 with the fields `answer`, 5,000 seconds after a response with the fields `stored` came, makes of it.
fn freshened(stored: &[(&str, &str)], request: &[(&str, &str)], answer: &[(&str, &str)]) -> Freshened {
    let (request, answer) = (headers(request), headers(answer));
    let exchange = Exchange {
        method: &Method::GET,
        target: &Uri::from_static("http://example.com/a"),
        request: &request,
        status: StatusCode::NOT_MODIFIED,
        response: &answer,
        request_time: later(5000),
        response_time: later(5000),
    };
    let stored = stored_header(&Terms::default(), &headers(stored), arrival());
    freshen(&Terms::default(), &stored, StatusCode::OK, &exchange)
}

#[test]
fn a_304_makes_fresh_again() {
    let stored = [("cache-control", "max-age=60"), ("etag", "\"a\""), ("date", &*date(0)), ("age", "30"), ("x", "1")];
    let at = later(5000);
    for (answer, ttl) in [
        (&[][..], Ok(60)),
        (&[("date", &*date(5000)), ("cache-control", "max-age=600")], Ok(600)),
        (&[("date", &*date(4990))], Ok(50)),
        (&[("age", "10")], Ok(50)),
        (&[("age", "x")], Ok(0)),
        (&[("cache-control", "no-store")], Err(NotStored::NoStore)),
        (&[("cache-control", "private")], Err(NotStored::Private)),
    ] {
        let found = freshened(&stored, &[], answer);
        assert_eq!(found.freshness.map(|freshness| freshness.ttl_seconds(at)), ttl, "{answer:?}");
        assert_eq!(found.header["x"], "1", "{answer:?}");
        assert!(!found.header.contains_key("age"), "{answer:?}");
    }
}

#[test]
fn expires_of_a_304_counts_from_its_date() {
    let stored = [("expires", &*date(60)), ("etag", "\"a\""), ("date", &*date(0))];
    let ttl = |answer: &[(&str, &str)]| freshened(&stored, &[], answer).freshness.map(|it| it.ttl_seconds(later(5000)));
    assert_eq!(ttl(&[("expires", &*date(5060)), ("date", &*date(5000))]), Ok(60));
    assert_eq!(ttl(&[("date", &*date(5000))]), Ok(0));
}

#[test]
fn what_stands_in_the_way_of_an_update_may_be_the_requests_alone() {
    let stored = [("cache-control", "max-age=60"), ("etag", "\"a\"")];
    let reason =
        |request: &[(&str, &str)], answer: &[(&str, &str)]| freshened(&stored, request, answer).freshness.err();
    let authorized = reason(&[("authorization", "x")], &[]).expect("a reason");
    assert!(authorized == NotStored::Authorization && authorized.spares_stored());
    assert!(reason(&[("cache-control", "no-store")], &[]).is_some_and(NotStored::spares_stored));
    assert!(reason(&[], &[("cache-control", "no-store")]).is_some_and(|reason| !reason.spares_stored()));
    assert_eq!(reason(&[("authorization", "x")], &[("cache-control", "max-age=60, public")]), None);
}

#[test]
fn of_what_was_given_to_nobody_in_particular_others_may_be_told() {
    let fields = [("cache-control", "public, no-cache"), ("etag", "\"a\""), ("date", &*date(0))];
    let given = |request: &[(&str, &str)]| Case::new(&fields).request(request).judge().expect("it is stored");
    let told = given(&[("accept", "text/html")]);
    assert!(told.may_be_hinted());
    assert!(!given(&[("cookie", "a=b")]).may_be_hinted() && !given(&[("authorization", "Basic x")]).may_be_hinted());
    let (mut expired, mut invalidated) = (told, told);
    expired.expire(later(1));
    invalidated.invalidate();
    assert!(!expired.may_be_hinted() && !invalidated.may_be_hinted());
    // An earlier build has written it without a word of that.
    let mut written = serde_json::to_value(told).expect("it is written");
    assert!(serde_json::from_value::<Freshness>(written.clone()).expect("it reads").may_be_hinted());
    written.as_object_mut().expect("an object").remove("may_be_hinted");
    assert!(!serde_json::from_value::<Freshness>(written).expect("it reads").may_be_hinted());
}
