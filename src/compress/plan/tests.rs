//! Tests of what becomes of answers.

use http::HeaderValue;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};

use super::*;

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    fields.iter().map(pair).collect()
}

const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");

fn answer(headers: &HeaderMap) -> Answer<'_> {
    Answer { status: StatusCode::OK, headers, size_bytes: Some(10_000), is_shared: true }
}

/// A plan, and whether others get something else.
#[derive(Debug, PartialEq)]
struct Planned {
    plan: Plan,
    varies: bool,
}

fn planned(method: &Method, fields: &[(&'static str, &'static str)], answer: &Answer<'_>) -> Planned {
    planned_with(method, fields, answer, Codings::NONE)
}

fn planned_with(
    method: &Method,
    fields: &[(&'static str, &'static str)],
    answer: &Answer<'_>,
    kept: Codings,
) -> Planned {
    let (config, request) = (Config::default(), headers(fields));
    let nature = config.nature(answer);
    let plan = nature.plan(&Wish::of(method, &request, &config.codings), config.made(), kept);
    Planned { plan, varies: nature.varies() }
}

#[test]
fn what_is_fit_is_coded_and_what_is_not_says_why() {
    let config = Config::default();
    let html = headers(&[HTML]);
    let judge = |change: &dyn Fn(&mut Answer<'_>)| {
        let mut answer = answer(&html);
        change(&mut answer);
        config.judge(&answer)
    };
    assert_eq!(judge(&|_| ()), Ok(()));
    assert_eq!(judge(&|answer| answer.size_bytes = None), Ok(()));
    assert_eq!(judge(&|answer| answer.size_bytes = Some(1024)), Ok(()));
    assert_eq!(judge(&|answer| answer.size_bytes = Some(1023)), Err(Unfit::Size(1023)));
    assert_eq!(judge(&|answer| answer.size_bytes = Some(1 << 40)), Err(Unfit::Size(1 << 40)));
    assert_eq!(judge(&|answer| answer.is_shared = false), Err(Unfit::Personal));
    for status in [100, 101, 103, 201, 202, 204, 205, 206, 226, 301, 304, 307] {
        let status = StatusCode::from_u16(status).expect("a status");
        assert_eq!(judge(&|answer| answer.status = status), Err(Unfit::Status(status)));
    }
    for status in [200, 203, 404, 410, 500, 503] {
        let status = StatusCode::from_u16(status).expect("a status");
        assert_eq!(judge(&|answer| answer.status = status), Ok(()));
    }
    for (field, value, why) in [
        ("content-encoding", "gzip", Unfit::Coded),
        ("content-encoding", "deflate", Unfit::Coded),
        ("cache-control", "max-age=60, No-Transform", Unfit::NoTransform),
        ("signature-input", "sig=(\"content-encoding\")", Unfit::Signed),
        ("set-cookie", "session=1", Unfit::Personal),
        ("content-range", "bytes 0-9/10", Unfit::Status(StatusCode::OK)),
    ] {
        assert_eq!(config.judge(&answer(&headers(&[HTML, (field, value)]))), Err(why), "{field}: {value}");
    }
    let quoted = headers(&[HTML, ("cache-control", "ext=\"a, no-transform\"")]);
    assert_eq!(config.judge(&answer(&quoted)), Ok(()));
    for fields in
        [&[("content-type", "image/png")][..], &[("content-type", "text/event-stream")], &[("content-type", "")], &[]]
    {
        assert_eq!(config.judge(&answer(&headers(fields))), Err(Unfit::MediaType));
    }
    let personal = Config { personal: true, ..Config::default() };
    let with_cookie = headers(&[HTML, ("set-cookie", "session=1")]);
    assert_eq!(personal.judge(&Answer { is_shared: false, ..answer(&with_cookie) }), Ok(()));
    let off = Config { codings: vec![], ..Config::default() };
    assert_eq!(off.judge(&answer(&html)), Err(Unfit::Off));
    assert_eq!(off.nature(&answer(&headers(&[HTML, ("content-encoding", "gzip")]))), Nature::Fixed);
}

#[test]
fn a_plain_answer_is_coded_for_whom_it_fits_and_varies_for_all() {
    let html = headers(&[HTML]);
    let plan = |fields| planned(&Method::GET, fields, &answer(&html));
    let varies = |plan| Planned { plan, varies: true };
    assert_eq!(plan(&[("accept-encoding", "gzip, br")]), varies(Plan::Encode(Coding::Brotli)));
    assert_eq!(plan(&[("accept-encoding", "identity")]), varies(Plan::AsIs));
    assert_eq!(plan(&[]), varies(Plan::AsIs));
    assert_eq!(plan(&[("accept-encoding", "gzip"), ("cache-control", "no-transform")]), varies(Plan::AsIs));
    let image = headers(&[("content-type", "image/png")]);
    let unfit = planned(&Method::GET, &[("accept-encoding", "gzip")], &answer(&image));
    assert_eq!(unfit, Planned { plan: Plan::AsIs, varies: false });
}

#[test]
fn a_kept_variant_is_sent_and_a_better_one_is_made() {
    let html = headers(&[HTML]);
    let kept = Codings::NONE.with(Coding::Gzip);
    let plan = |field| planned_with(&Method::GET, &[("accept-encoding", field)], &answer(&html), kept).plan;
    assert_eq!(plan("gzip"), Plan::Kept(Coding::Gzip));
    assert_eq!(plan("gzip, br"), Plan::Encode(Coding::Brotli));
    assert_eq!(plan("gzip, br;q=0.5"), Plan::Kept(Coding::Gzip));
}

#[test]
fn ranges_are_of_what_is_kept_or_uncoded() {
    let html = headers(&[HTML]);
    let range = [("accept-encoding", "gzip, br"), ("range", "bytes=5-")];
    let (kept, answer) = (Codings::NONE.with(Coding::Gzip), answer(&html));
    assert_eq!(planned(&Method::GET, &range, &answer).plan, Plan::AsIs);
    assert_eq!(planned_with(&Method::GET, &range, &answer, kept).plan, Plan::Kept(Coding::Gzip));
    // Range means nothing but for GET (RFC 9110 section 14.2).
    assert_eq!(planned_with(&Method::HEAD, &range, &answer, kept).plan, Plan::Encode(Coding::Brotli));
}

#[test]
fn a_coded_answer_is_decoded_only_for_who_does_not_read_it() {
    let gzip = headers(&[HTML, ("content-encoding", "gzip")]);
    let plan = |fields: &[_], answer: &Answer<'_>| planned(&Method::GET, fields, answer).plan;
    let whole = answer(&gzip);
    for (field, expected) in [
        ("gzip", Plan::AsIs),
        ("x-gzip", Plan::AsIs),
        ("identity, gzip;q=0.1", Plan::AsIs),
        ("br", Plan::Decode(Coding::Gzip)),
        ("", Plan::Decode(Coding::Gzip)),
        // Nothing that there is fits: what there is, is sent.
        ("br, identity;q=0", Plan::AsIs),
    ] {
        assert_eq!(plan(&[("accept-encoding", field)], &whole), expected, "{field}");
        assert!(planned(&Method::GET, &[("accept-encoding", field)], &whole).varies);
    }
    assert_eq!(plan(&[], &whole), Plan::AsIs, "who says nothing accepts everything");
    let br = [("accept-encoding", "br")];
    assert_eq!(plan(&br, &Answer { status: StatusCode::PARTIAL_CONTENT, ..whole }), Plan::AsIs);
    assert_eq!(plan(&[("accept-encoding", "br"), ("cache-control", "no-transform")], &whole), Plan::AsIs);
    let fixed = headers(&[("content-encoding", "gzip"), ("cache-control", "no-transform")]);
    assert_eq!(planned(&Method::GET, &br, &answer(&fixed)), Planned { plan: Plan::AsIs, varies: false });
    let foreign = headers(&[HTML, ("content-encoding", "deflate")]);
    assert_eq!(planned(&Method::GET, &br, &answer(&foreign)), Planned { plan: Plan::AsIs, varies: false });
}

#[test]
fn no_plan_gives_a_coding_that_is_not_accepted_or_codes_twice() {
    let fields = ["gzip", "br", "zstd", "identity", "*", "gzip;q=0", "identity;q=0", "*;q=0", ""];
    let mut plans = 0;
    for one in fields {
        for other in fields {
            for coding in [None, Some("gzip"), Some("br"), Some("deflate")] {
                for range in [false, true] {
                    for kept in [Codings::NONE, Codings::NONE.with(Coding::Gzip), Codings::ALL] {
                        let mut request = HeaderMap::new();
                        request.append(ACCEPT_ENCODING, HeaderValue::from_static(one));
                        request.append(ACCEPT_ENCODING, HeaderValue::from_static(other));
                        if range {
                            request.insert(RANGE, HeaderValue::from_static("bytes=0-"));
                        }
                        let mut source = headers(&[HTML]);
                        if let Some(coding) = coding {
                            source.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
                        }
                        let (config, accepted) = (Config::default(), Accepted::of(&request, &Coding::ALL));
                        let nature = config.nature(&answer(&source));
                        let wish = Wish::of(&Method::GET, &request, &config.codings);
                        let (plan, varies) = (nature.plan(&wish, config.made(), kept), nature.varies());
                        plans += 1;
                        match plan {
                            Plan::AsIs => {}
                            Plan::Kept(made) => {
                                assert!(kept.contains(made) && accepted.accepts(Some(made)) && coding.is_none());
                            }
                            Plan::Encode(made) => assert!(!range && accepted.accepts(Some(made)) && coding.is_none()),
                            Plan::Decode(made) => assert!(coding == Some(made.as_str()) && accepted.accepts(None)),
                        }
                        assert!(varies || plan == Plan::AsIs);
                    }
                }
            }
        }
    }
    assert_eq!(plans, 9 * 9 * 4 * 2 * 3);
}
