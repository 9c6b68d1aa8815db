//! Asking whether stored responses are right still, and what the answer means for them (RFC 9111 section 4.3).

use http::StatusCode;
use http::header::{
    CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RANGE,
};

use super::storing::is_error;
use super::validators::{EntityTag, Match, Validators, tags};

/// The most entity tags that one request names: those of the client and of what is stored.
const TAGS_MAX: usize = 64;

/// Makes the request that is forwarded with the header `forward` validate what is `stored` (section 4.3.1). Answers
/// whether it does; if not, nothing stored has a validator, and the client's own conditions stand as they were.
///
/// `stored` are the responses that could be chosen for the request; the parts of one count only where they have all
/// that the request wants (section 4.3.2). The client's entity tags are sent with ours, and its `If-Modified-Since`
/// gives way: what the client has is evaluated again when the answer has come. `If-Match` and `If-Unmodified-Since` are
/// for the origin alone and stay. A request with `Range` gets no date, since the date would be about the whole: take
/// the `Range` out first to validate a complete response.
pub fn make_conditional(forward: &mut HeaderMap, stored: &[Validators]) -> bool {
    let mut named: Vec<EntityTag> = Vec::new();
    let ours = stored.iter().filter_map(|validators| validators.tag.clone());
    for tag in ours {
        if named.len() < TAGS_MAX && !named.contains(&tag) {
            named.push(tag);
        }
    }
    let date = match stored {
        [only] if !forward.contains_key(RANGE) => only.last_modified.clone(),
        _ => None,
    };
    if named.is_empty() && date.is_none() {
        return false;
    }
    if !named.is_empty() {
        for tag in tags(forward, &IF_NONE_MATCH) {
            if named.len() < TAGS_MAX && !named.contains(&tag) {
                named.push(tag);
            }
        }
    }
    // A tag of the client's without one of ours would make the origin forget our date (RFC 9110 section 13.1.3).
    forward.remove(IF_NONE_MATCH);
    forward.remove(IF_MODIFIED_SINCE);
    if let Some(list) = list_of(&named) {
        forward.insert(IF_NONE_MATCH, list);
    }
    if let Some(date) = date {
        forward.insert(IF_MODIFIED_SINCE, date);
    }
    true
}

fn list_of(tags: &[EntityTag]) -> Option<HeaderValue> {
    let list = tags.iter().map(EntityTag::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
    HeaderValue::from_bytes(&list).ok().filter(|_| !tags.is_empty())
}

/// What the answer to a request that was to validate means for what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These of the stored responses, at least one, are right still: [`super::freshen`] them and use the first.
    NotModified(Vec<usize>),
    /// A 304 that is about what the client has, and not about anything stored: it is passed on.
    ClientsOwn,
    /// A 304 that is about nothing that we or the client have: the request has to be sent again without conditions.
    Unusable,
    /// It is the answer, and what is stored is wrong from now on, be the answer stored or not.
    Replaces,
    /// It is the answer, and says nothing of what is stored.
    Passes,
    /// The origin failed: something stale may be used if [`super::Freshness::on_error`] allows it (section 4.3.3).
    Failed,
}

/// Reads the answer to a request that [`make_conditional`] has seen: `client` is the header that it came with, `sent`
/// what that function answered, `stored` what it was given.
pub fn read_answer(
    client: &HeaderMap,
    sent: bool,
    stored: &[Validators],
    status: StatusCode,
    answer: &HeaderMap,
) -> Answer {
    if status == StatusCode::NOT_MODIFIED {
        return read_not_modified(client, sent, stored, answer);
    }
    if is_error(status) {
        return Answer::Failed;
    }
    // An answer that the representation is another one or has gone. What is refused to one client, 401 or 403 or 429,
    // may be right for others.
    let is_about_all = status.is_success() || status.is_redirection() || matches!(status.as_u16(), 404 | 410);
    if is_about_all { Answer::Replaces } else { Answer::Passes }
}

fn read_not_modified(client: &HeaderMap, sent: bool, stored: &[Validators], answer: &HeaderMap) -> Answer {
    let asks_itself = client.contains_key(IF_NONE_MATCH) || client.contains_key(IF_MODIFIED_SINCE);
    if !sent && asks_itself {
        return Answer::ClientsOwn;
    }
    let newer = Validators::of(answer);
    let chosen = select(stored, &newer, sent && !client.contains_key(IF_NONE_MATCH));
    if !chosen.is_empty() {
        return Answer::NotModified(chosen);
    }
    let is_clients = |newer: &EntityTag| tags(client, &IF_NONE_MATCH).any(|tag| tag.matches_weakly(newer));
    if newer.tag.as_ref().is_some_and(is_clients) { Answer::ClientsOwn } else { Answer::Unusable }
}

/// The stored responses that a 304 with the validators `newer` is about (section 4.3.4). `ours_alone` says that no
/// condition but ours was sent.
fn select(stored: &[Validators], newer: &Validators, ours_alone: bool) -> Vec<usize> {
    let matching = stored.iter().enumerate().filter_map(|(index, known)| Some((index, known.matches(newer)?)));
    let strong: Vec<usize> =
        matching.clone().filter(|(_, found)| *found == Match::Strong).map(|(index, _)| index).collect();
    if !strong.is_empty() {
        return strong;
    }
    let newest = matching.max_by_key(|&(index, _)| (stored[index].date, index));
    if let Some((index, _)) = newest {
        return vec![index];
    }
    // Nothing to choose by, and nothing to choose from: with one response named, it is the one that was not modified.
    // Section 4.3.4 says so of a stored response without validators, and many origins leave them out of a 304.
    if newer.is_empty() && ours_alone && stored.len() == 1 { vec![0] } else { Vec::new() }
}

/// What an answer to HEAD means for a stored response to GET (section 4.3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadEffect {
    /// The stored response is that of which the answer tells: [`super::freshen`] it.
    Updates,
    /// It is another one: [`super::Freshness::expire`] it.
    Expires,
    /// Nothing.
    None,
}

/// What the answer to HEAD with this `status` and header means for the response that is stored with `stored_status` and
/// the header `stored`, one that could be chosen for the request.
pub fn head_effect(
    stored_status: StatusCode,
    stored: &HeaderMap,
    status: StatusCode,
    answer: &HeaderMap,
) -> HeadEffect {
    if status != StatusCode::OK {
        return HeadEffect::None;
    }
    let is_same = [&ETAG, &LAST_MODIFIED, &CONTENT_LENGTH]
        .into_iter()
        .all(|name| answer.get(name).is_none_or(|value| stored.get(name) == Some(value)));
    if is_same && stored_status == StatusCode::OK { HeadEffect::Updates } else { HeadEffect::Expires }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{headers, shown};
    use super::*;

    const ONE: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    const TWO: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:38 GMT");
    const OLD: (&str, &str) = ("date", "Sun, 06 Nov 1994 09:00:00 GMT");
    const NEW: (&str, &str) = ("date", "Sun, 06 Nov 1994 10:00:00 GMT");

    fn of(fields: &[(&str, &str)]) -> Validators {
        Validators::of(&headers(fields))
    }

    fn conditional(client: &[(&str, &str)], stored: &[Validators]) -> (bool, Vec<(String, String)>) {
        let mut forward = headers(client);
        let sent = make_conditional(&mut forward, stored);
        (sent, shown(&forward))
    }

    #[test]
    fn what_is_stored_is_named() {
        let both = [of(&[("etag", "\"a\""), ONE])];
        let (sent, forward) = conditional(&[], &both);
        assert!(sent);
        assert_eq!(forward, shown(&headers(&[("if-modified-since", ONE.1), ("if-none-match", "\"a\"")])));
        for (stored, expected) in [
            (&[of(&[("etag", "W/\"a\"")])][..], &[("if-none-match", "W/\"a\"")][..]),
            (&[of(&[ONE])], &[("if-modified-since", ONE.1)]),
            (&[of(&[("etag", "a"), ONE])], &[("if-modified-since", ONE.1)]),
            (&[of(&[("etag", "\"a\""), ONE]), of(&[("etag", "\"b\"")])], &[("if-none-match", "\"a\", \"b\"")]),
            (&[of(&[("etag", "\"a\"")]), of(&[("etag", "\"a\"")])], &[("if-none-match", "\"a\"")]),
        ] {
            assert_eq!(conditional(&[], stored), (true, shown(&headers(expected))), "{stored:?}");
        }
    }

    #[test]
    fn the_clients_conditions_are_joined_with_ours() {
        let tagged = [of(&[("etag", "\"a\"")])];
        let dated = [of(&[ONE])];
        let if_match = ("if-match", "\"z\"");
        for (client, stored, expected) in [
            (
                &[("if-none-match", "\"c\", W/\"d\"")][..],
                &tagged[..],
                &[("if-none-match", "\"a\", \"c\", W/\"d\"")][..],
            ),
            (&[("if-none-match", "\"a\"")], &tagged, &[("if-none-match", "\"a\"")]),
            (&[("if-none-match", "*")], &tagged, &[("if-none-match", "\"a\"")]),
            (&[("if-modified-since", TWO.1)], &tagged, &[("if-none-match", "\"a\"")]),
            (&[("if-modified-since", TWO.1)], &dated, &[("if-modified-since", ONE.1)]),
            (&[("if-none-match", "\"c\"")], &dated, &[("if-modified-since", ONE.1)]),
            (&[if_match], &tagged, &[if_match, ("if-none-match", "\"a\"")]),
            (&[("range", "bytes=0-1")], &tagged, &[("range", "bytes=0-1"), ("if-none-match", "\"a\"")]),
        ] {
            assert_eq!(conditional(client, stored), (true, shown(&headers(expected))), "{client:?}");
        }
    }

    #[test]
    fn what_has_no_validator_leaves_the_request_as_it_was() {
        let client = [("if-none-match", "\"c\""), ("if-modified-since", ONE.1), ("range", "bytes=0-1")];
        for stored in [&[][..], &[Validators::default()], &[of(&[("etag", "abc")])], &[of(&[ONE])]] {
            assert_eq!(conditional(&client, stored), (false, shown(&headers(&client))), "{stored:?}");
        }
    }

    #[test]
    fn the_tags_of_one_request_are_bounded() {
        let stored: Vec<_> = (0..200).map(|number| of(&[("etag", &*format!("\"{number}\""))])).collect();
        let (_, forward) = conditional(&[("if-none-match", "\"c\"")], &stored);
        assert_eq!(forward[0].1.split(", ").count(), TAGS_MAX);
    }

    fn not_modified(stored: &[Validators], client: &[(&str, &str)], answer: &[(&str, &str)]) -> Answer {
        let sent = make_conditional(&mut headers(client), stored);
        read_answer(&headers(client), sent, stored, StatusCode::NOT_MODIFIED, &headers(answer))
    }

    #[test]
    fn a_304_selects_all_with_its_strong_validator() {
        let stored = [of(&[("etag", "\"a\""), OLD]), of(&[("etag", "\"b\"")]), of(&[("etag", "\"a\""), NEW])];
        assert_eq!(not_modified(&stored, &[], &[("etag", "\"a\"")]), Answer::NotModified(vec![0, 2]));
        assert_eq!(not_modified(&stored, &[], &[("etag", "\"c\"")]), Answer::Unusable);
        assert_eq!(not_modified(&stored, &[], &[]), Answer::Unusable);
        let dated = [of(&[ONE, OLD]), of(&[TWO, OLD]), of(&[ONE, NEW])];
        assert_eq!(not_modified(&dated, &[], &[ONE]), Answer::NotModified(vec![0, 2]));
    }

    #[test]
    fn a_304_with_a_weak_validator_selects_the_newest() {
        let stored = [of(&[("etag", "W/\"a\""), NEW]), of(&[("etag", "\"a\""), OLD]), of(&[("etag", "W/\"b\""), NEW])];
        assert_eq!(not_modified(&stored, &[], &[("etag", "W/\"a\"")]), Answer::NotModified(vec![0]));
        let weakly_dated = [of(&[ONE, ("date", ONE.1)]), of(&[ONE])];
        assert_eq!(not_modified(&weakly_dated, &[], &[ONE]), Answer::NotModified(vec![0]));
    }

    #[test]
    fn a_304_with_another_strong_tag_updates_nothing() {
        for stored in ["\"a\"", "W/\"b\""] {
            let stored = [of(&[("etag", stored), ONE, OLD])];
            assert_eq!(not_modified(&stored, &[], &[("etag", "\"b\""), ONE]), Answer::Unusable);
        }
    }

    #[test]
    fn a_304_without_validators_is_about_the_only_one_named() {
        let stored = [of(&[("etag", "\"a\"")])];
        assert_eq!(not_modified(&stored, &[], &[]), Answer::NotModified(vec![0]));
        assert_eq!(not_modified(&stored, &[("if-none-match", "\"c\"")], &[]), Answer::Unusable);
    }

    #[test]
    fn a_304_may_be_about_what_the_client_has() {
        let stored = [of(&[("etag", "\"a\"")])];
        let client = [("if-none-match", "\"b\"")];
        assert_eq!(not_modified(&stored, &client, &[("etag", "\"b\"")]), Answer::ClientsOwn);
        assert_eq!(not_modified(&stored, &client, &[("etag", "\"a\"")]), Answer::NotModified(vec![0]));
        assert_eq!(not_modified(&stored, &client, &[("etag", "\"c\"")]), Answer::Unusable);
        assert_eq!(not_modified(&[Validators::default()], &client, &[]), Answer::ClientsOwn);
        assert_eq!(not_modified(&[], &[("if-modified-since", ONE.1)], &[]), Answer::ClientsOwn);
    }

    #[test]
    fn other_answers_replace_pass_or_fail() {
        for (status, expected) in [
            (200, Answer::Replaces),
            (206, Answer::Replaces),
            (301, Answer::Replaces),
            (404, Answer::Replaces),
            (410, Answer::Replaces),
            (401, Answer::Passes),
            (403, Answer::Passes),
            (412, Answer::Passes),
            (416, Answer::Passes),
            (429, Answer::Passes),
            (501, Answer::Passes),
            (500, Answer::Failed),
            (502, Answer::Failed),
            (503, Answer::Failed),
            (504, Answer::Failed),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(read_answer(&headers(&[]), true, &[], status, &headers(&[])), expected, "{status}");
        }
    }

    #[test]
    fn an_answer_to_head_updates_what_it_fits() {
        let stored = headers(&[("etag", "\"a\""), ONE, ("content-length", "10")]);
        let effect = |status, answer: &[(&str, &str)]| head_effect(StatusCode::OK, &stored, status, &headers(answer));
        for answer in [&[][..], &[("etag", "\"a\"")], &[("etag", "\"a\""), ONE, ("content-length", "10")]] {
            assert_eq!(effect(StatusCode::OK, answer), HeadEffect::Updates, "{answer:?}");
        }
        for answer in [("etag", "\"b\""), ("etag", "W/\"a\""), TWO, ("content-length", "11")] {
            assert_eq!(effect(StatusCode::OK, &[answer]), HeadEffect::Expires, "{answer:?}");
        }
        assert_eq!(effect(StatusCode::GONE, &[]), HeadEffect::None);
        let missing = head_effect(StatusCode::NOT_FOUND, &stored, StatusCode::OK, &headers(&[]));
        assert_eq!(missing, HeadEffect::Expires);
    }
}
