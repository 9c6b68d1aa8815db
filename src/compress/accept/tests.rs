//! Tests of what is accepted.

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::compress::Coding::{Brotli, Gzip, Zstd};

fn headers(lines: &[&str]) -> HeaderMap {
    let pair = |line: &&str| (ACCEPT_ENCODING, HeaderValue::from_str(line).expect("visible text"));
    lines.iter().map(pair).collect()
}

fn order(lines: &[&str]) -> Vec<Option<Coding>> {
    Accepted::of(&headers(lines), &Coding::ALL).iter().collect()
}

#[test]
fn the_field_says_what_is_accepted_and_in_which_order() {
    let (zstd, br, gzip) = (Some(Zstd), Some(Brotli), Some(Gzip));
    for (lines, expected) in [
        // Nothing is said: everything will do, and no coding is best.
        (&[][..], &[None, zstd, br, gzip][..]),
        (&[""], &[None]),
        (&[" , ,"], &[None]),
        (&["gzip, deflate, br, zstd"], &[zstd, br, gzip, None]),
        (&["gzip, deflate"], &[gzip, None]),
        (&["gzip", "br"], &[br, gzip, None]),
        (&["GZIP;Q=0.5 , Br ; q=0.8"], &[br, gzip, None]),
        (&["x-gzip"], &[gzip, None]),
        (&["gzip;q=1.000, br;q=0.999, zstd;q=0.001"], &[gzip, br, zstd, None]),
        (&["identity, gzip;q=0.5"], &[None, gzip]),
        (&["gzip, identity"], &[gzip, None]),
        (&["gzip;q=0.5, identity;q=0.6"], &[None, gzip]),
        (&["identity;q=0, gzip"], &[gzip]),
        (&["identity;q=0"], &[]),
        (&["*"], &[zstd, br, gzip, None]),
        (&["*;q=0"], &[]),
        (&["*;q=0, gzip"], &[gzip]),
        (&["*;q=0, identity;q=0.1"], &[None]),
        (&["gzip, *;q=0.5"], &[gzip, zstd, br, None]),
        (&["br;q=0, *"], &[zstd, gzip, None]),
        (&["gzip;q=0"], &[None]),
        (&["gzip;q=0, gzip", "gzip;q=0.3, gzip;q=0.2, br;q=0.25"], &[br, None]),
        // Against the grammar, and so not there.
        (&["gzip;q=2, br;q=1.001, zstd;q=0.0001"], &[None]),
        (&["gzip;q=, br;q=-1, zstd;q=.5", "gzip;level=9", "gzip;q=1;q=1", ";q=1", "gzip;;q=1"], &[None]),
        (&["gzip;q=abc, br"], &[br, None]),
        (&["gzip br"], &[None]),
        (&["gzip;q = 1"], &[None]),
        (&["compress, deflate, dcz, gzipp"], &[None]),
    ] {
        assert_eq!(order(lines), expected, "{lines:?}");
    }
}

#[test]
fn our_preference_decides_between_equal_weights_only() {
    let accepted = |preference: &[Coding], line| Accepted::of(&headers(&[line]), preference);
    let first = |preference: &[Coding], line| accepted(preference, line).choose(Codings::ALL);
    assert_eq!(first(&[Gzip, Zstd], "zstd, br, gzip"), Some(Gzip));
    assert_eq!(first(&[Gzip, Zstd], "zstd, br;q=0.5, gzip;q=0.4"), Some(Zstd));
    assert_eq!(first(&[], "gzip, br"), Some(Brotli));
    // What is preferred twice, or not at all, is accepted all the same.
    let doubled = accepted(&[Gzip, Gzip], "zstd, br, gzip");
    assert_eq!(doubled.iter().collect::<Vec<_>>(), [Some(Gzip), Some(Zstd), Some(Brotli), None]);
}

#[test]
fn the_best_of_what_there_is_is_chosen() {
    let choose = |lines: &[&str], there_are| Accepted::of(&headers(lines), &Coding::ALL).choose(there_are);
    let gzip = Codings::NONE.with(Gzip);
    assert_eq!(choose(&["zstd, gzip;q=0.1"], gzip), Some(Gzip));
    assert_eq!(choose(&["zstd"], gzip), None);
    assert_eq!(choose(&["identity, gzip;q=0.9"], gzip), None);
    assert_eq!(choose(&[], Codings::ALL), None);
    // Who refuses everything gets it without a coding, rather than nothing.
    assert_eq!(choose(&["*;q=0"], Codings::ALL), None);
    assert_eq!(choose(&["identity;q=0, br"], gzip), None);
    assert_eq!(choose(&["identity;q=0, *;q=0.1"], gzip), Some(Gzip));
}

#[test]
fn origins_are_asked_for_what_the_request_prefers_to_no_coding() {
    for (lines, asked) in [
        (&[][..], "identity"),
        (&[""], "identity"),
        (&["identity, gzip;q=0.5"], "identity"),
        (&["gzip, deflate, br, zstd"], "zstd, br, gzip"),
        (&["gzip;q=1.0, br;q=0.5"], "gzip, br"),
        (&["gzip, identity;q=0"], "gzip, identity;q=0"),
        (&["*;q=0"], "identity"),
    ] {
        assert_eq!(Accepted::of(&headers(lines), &Coding::ALL).ask(), asked, "{lines:?}");
    }
    assert_eq!(Accepted::UNCODED_ONLY, Accepted::of(&headers(&[""]), &Coding::ALL));
}

#[test]
fn bytes_that_are_no_text_are_no_coding() {
    let mut headers = HeaderMap::new();
    headers.append(ACCEPT_ENCODING, HeaderValue::from_bytes(b"\xff, g\xc3ip, br;q=\xff, gzip").expect("opaque bytes"));
    let accepted = Accepted::of(&headers, &Coding::ALL);
    assert_eq!(accepted.iter().collect::<Vec<_>>(), [Some(Gzip), None]);
}

fn member() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec!["gzip", "x-gzip", "br", "zstd", "identity", "*", "deflate", "GZip", ""]);
    let weight = prop::sample::select(vec!["", ";q=0", ";q=0.000", ";q=0.5", "; q=0.501", ";q=1", ";q=9", ";x=1"]);
    (token, weight).prop_map(|(token, weight)| format!("{token}{weight}"))
}

proptest! {
    #[test]
    fn lines_and_members_are_one_list(members in prop::collection::vec(member(), 0..8), cut in 0usize..8) {
        let cut = cut.min(members.len());
        let joined = Accepted::of(&headers(&[&members.join(", ")]), &Coding::ALL);
        let lines = [members[..cut].join(","), members[cut..].join(" , ")];
        let split = Accepted::of(&headers(&[&lines[0], &lines[1]]), &Coding::ALL);
        prop_assert_eq!(joined, split);
        let mut reversed = members.clone();
        reversed.reverse();
        prop_assert_eq!(joined, Accepted::of(&headers(&[&reversed.join(",")]), &Coding::ALL));
    }

    #[test]
    fn what_is_refused_is_never_chosen(members in prop::collection::vec(member(), 0..8), there in 0u8..8) {
        let there_are = Coding::ALL.into_iter().filter(|coding| there & 1 << *coding as u8 != 0).collect::<Codings>();
        let accepted = Accepted::of(&headers(&[&members.join(",")]), &Coding::ALL);
        let chosen = accepted.choose(there_are);
        if let Some(coding) = chosen {
            prop_assert!(there_are.contains(coding) && accepted.accepts(chosen));
            let refused = format!("{}, {coding};q=0", members.join(","));
            prop_assert!(!Accepted::of(&headers(&[&refused]), &Coding::ALL).accepts(chosen));
        }
        // More to choose from never makes it worse.
        let place = |coding| accepted.iter().position(|accepted| accepted == coding).unwrap_or(usize::MAX);
        prop_assert!(place(accepted.choose(Codings::ALL)) <= place(chosen));
        prop_assert_eq!(accepted.iter().count(), accepted.iter().collect::<std::collections::BTreeSet<_>>().len());
    }

    #[test]
    fn what_is_asked_for_is_accepted(members in prop::collection::vec(member(), 0..8)) {
        let accepted = Accepted::of(&headers(&[&members.join(",")]), &Coding::ALL);
        let asked = Accepted::of(&[(ACCEPT_ENCODING, accepted.ask())].into_iter().collect(), &Coding::ALL);
        prop_assert!(asked.iter().all(|coding| accepted.accepts(coding) || coding.is_none()));
        prop_assert_eq!(accepted.codings(), asked.codings());
    }

    #[test]
    fn any_bytes_are_read(
        value in prop::collection::vec(prop::sample::select(b"gzipbr;q=01.,* \t\"\\x-\xff".to_vec()), 0..64),
    ) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let accepted = Accepted::of(&[(ACCEPT_ENCODING, value)].into_iter().collect(), &Coding::ALL);
            prop_assert!(accepted.iter().count() <= 4);
        }
    }
}
