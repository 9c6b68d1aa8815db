//! Tests of entity tags.

use proptest::prelude::*;

use super::*;
use crate::compress::{Codings, Config, Encoder};

fn made(coding: Coding) -> Made {
    Encoder::whole(coding, Config::default().quick, &[b'a'; 3000]).expect("it is coded").1
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("a value")
}

fn accepts(field: &str) -> Accepted {
    Accepted::of(&[(http::header::ACCEPT_ENCODING, value(field))].into_iter().collect(), &Coding::ALL)
}

#[test]
fn variants_have_tags_of_their_own() {
    let zstd = made(Coding::Zstd);
    let tag = |source, made| of_variant(&value(source), Coding::Zstd, made);
    assert_eq!(tag("\"abc\"", None), Some(value("W/\"abc~zstd\"")));
    assert_eq!(tag("\"abc\"", Some(&zstd)), Some(value(&format!("\"abc~zstd~{}\"", zstd.fingerprint))));
    assert_eq!(tag("W/\"abc\"", Some(&zstd)), Some(value("W/\"abc~zstd\"")));
    assert_eq!(tag("abc", Some(&zstd)), None);
    assert_eq!(of_decoded(&value("\"abc\"")), Some(value("W/\"abc~identity\"")));
}

#[test]
fn other_bytes_have_another_tag() {
    let levels = Config::default();
    let text: Vec<u8> = (0..50_000u32).flat_map(|number| number.to_string().into_bytes()).collect();
    let quick = Encoder::whole(Coding::Gzip, levels.quick, &text).expect("it is coded");
    let thorough = Encoder::whole(Coding::Gzip, levels.thorough, &text).expect("it is coded");
    assert_ne!(quick.0, thorough.0);
    assert_ne!(quick.1.fingerprint, thorough.1.fingerprint);
    let again = Encoder::whole(Coding::Gzip, levels.quick, &text).expect("it is coded");
    assert_eq!(quick, again);
}

#[test]
fn a_tag_of_any_variant_that_is_accepted_revalidates() {
    let kept = "\"abc~gzip~0123456789abcdef\"";
    let source = value("\"abc\"");
    for (tags, field, expected) in [
        // Of the source, weakly compared.
        ("\"abc\"", "gzip", Some("\"abc\"")),
        ("W/\"abc\"", "gzip", Some("W/\"abc\"")),
        ("\"abc\"", "identity;q=0, gzip", None),
        // Of variants, from whatever time they are.
        (kept, "gzip", Some(kept)),
        (kept, "zstd", None),
        (kept, "zstd, gzip;q=0.1", Some(kept)),
        ("W/\"abc~gzip\"", "gzip", Some("W/\"abc~gzip\"")),
        ("\"x\", W/\"abc~br\", \"abc~gzip~0123456789abcdef\"", "gzip", Some(kept)),
        ("W/\"abc~identity\"", "gzip", Some("W/\"abc~identity\"")),
        ("W/\"abc~identity\"", "*;q=0, gzip", None),
        // Not made here, or of something else.
        ("\"abc~gzip\"", "gzip", None),
        ("\"abc~deflate~0123456789abcdef\"", "gzip", None),
        ("\"abc~gzip~0123456789abcde\"", "gzip", None),
        ("\"abc~gzip~0123456789ABCDEF\"", "gzip", None),
        ("\"abd~gzip~0123456789abcdef\"", "gzip", None),
        ("\"~gzip~0123456789abcdef\"", "gzip", None),
        ("abc, *", "gzip", None),
        ("", "gzip", None),
    ] {
        let request = [(IF_NONE_MATCH, value(tags))].into_iter().collect();
        let found = revalidated(&request, accepts(field), &source, None);
        assert_eq!(found, expected.map(value), "{tags} for {field}");
    }
}

#[test]
fn the_tag_of_a_coded_source_revalidates_for_whom_its_coding_fits() {
    let request = [(IF_NONE_MATCH, value("\"abc\""))].into_iter().collect();
    let found = |field| revalidated(&request, accepts(field), &value("\"abc\""), Some(Coding::Gzip));
    assert_eq!(found("gzip"), Some(value("\"abc\"")));
    assert_eq!(found("br"), None);
    let decoded = [(IF_NONE_MATCH, value("W/\"abc~identity\""))].into_iter().collect();
    assert!(revalidated(&decoded, accepts("br"), &value("\"abc\""), Some(Coding::Gzip)).is_some());
}

#[test]
fn a_source_whose_tag_looks_like_ours_is_compared_as_it_is() {
    let source = value("\"abc~gzip~0123456789abcdef\"");
    let request = |tags| [(IF_NONE_MATCH, value(tags))].into_iter().collect();
    let found = |tags| revalidated(&request(tags), accepts(""), &source, None);
    assert!(found("\"abc~gzip~0123456789abcdef\"").is_some());
    assert_eq!(found("\"abc\""), None);
}

#[test]
fn origins_are_asked_about_their_own_tags() {
    let mut request = HeaderMap::new();
    request.append(IF_NONE_MATCH, value("\"a\\\", \"abc~zstd~0123456789abcdef\""));
    request.append(IF_NONE_MATCH, value("W/\"d,e~br\""));
    request.append(IF_MATCH, value("\"abc~gzip~0123456789abcdef\""));
    request.append(http::header::IF_RANGE, value("\"abc~gzip~0123456789abcdef\""));
    for_origin(&mut request, accepts("*"));
    assert_eq!(request[IF_NONE_MATCH], "\"a\\\", \"abc\", W/\"d,e\"");
    assert_eq!(request.get_all(IF_NONE_MATCH).iter().count(), 1);
    assert_eq!(request[IF_MATCH], "\"abc\"");
    assert_eq!(request[http::header::IF_RANGE], "\"abc~gzip~0123456789abcdef\"");

    let mut unread: HeaderMap = [(IF_NONE_MATCH, value("W/\"a~br\", W/\"b~gzip\""))].into_iter().collect();
    for_origin(&mut unread, accepts("gzip"));
    assert_eq!(unread[IF_NONE_MATCH], "W/\"a~br\", W/\"b\"", "what it has in br is of no use to it");

    let mut foreign = HeaderMap::new();
    foreign.append(IF_MATCH, value("*"));
    foreign.append(IF_NONE_MATCH, value("\"abc-gzip\""));
    foreign.append(IF_NONE_MATCH, value("\"b\""));
    let before = foreign.clone();
    for_origin(&mut foreign, accepts("*"));
    assert_eq!(foreign, before);
}

proptest! {
    #[test]
    fn each_variant_of_each_tag_leads_back_to_it(opaque in "[!#-~]{0,40}", weak: bool, number in 0usize..3) {
        let coding = Coding::ALL[number];
        let source = value(&format!("{}\"{opaque}\"", if weak { "W/" } else { "" }));
        let made = made(coding);
        let variants =
            [of_variant(&source, coding, Some(&made)), of_variant(&source, coding, None), of_decoded(&source)];
        for variant in variants {
            let variant = variant.expect("a tag");
            let request: HeaderMap = [(IF_NONE_MATCH, variant.clone())].into_iter().collect();
            prop_assert_eq!(revalidated(&request, accepts("*"), &source, None), Some(variant.clone()));
            let mut request: HeaderMap = [(IF_NONE_MATCH, variant)].into_iter().collect();
            for_origin(&mut request, accepts("*"));
            let asked = request[IF_NONE_MATCH].to_str().expect("text").trim_start_matches("W/").to_owned();
            prop_assert_eq!(asked, format!("\"{}\"", opaque));
        }
        prop_assert!(accepts("*").codings() == Codings::ALL);
    }
}
