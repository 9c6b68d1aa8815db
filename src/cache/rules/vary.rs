//! Which of several stored responses answers a request (RFC 9111 section 4.1).

use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName, HeaderValue, VARY};
use serde::{Deserialize, Serialize};

use super::normal::normal;
use super::syntax::members;

/// The most responses that are kept for one key: a page in a few languages and codings. Beyond it the oldest goes.
pub const VARIANTS_MAX: usize = 32;

/// The most fields that a response may vary with: nobody sends more, and each is compared at every hit.
const FIELDS_MAX: usize = 32;

/// What requests must have in common with the one that a response was stored for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selector {
    fields: Vec<Selecting>,
}

/// A field that `Vary` nominates, as the stored request had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Selecting {
    name: String,
    /// `None` where the request did not have it.
    value: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Value {
    /// As it came, if on one line: most requests have the very same, and then nothing needs to be made of it.
    as_sent: Option<Vec<u8>>,
    normal: Vec<u8>,
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.normal == other.normal
    }
}

impl Eq for Value {}

impl Selector {
    /// The selector of a response with the header `response` to the request with the header `request`. `None` where no
    /// request will ever match: `Vary` has a `*`, on whatever line, or what cannot be the name of a field.
    pub fn of(response: &HeaderMap, request: &HeaderMap) -> Option<Self> {
        let mut names: Vec<HeaderName> = Vec::new();
        for name in nominated(response) {
            let name = name?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.len() > FIELDS_MAX {
            return None;
        }
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        let fields =
            names.into_iter().map(|name| Selecting { value: value(&name, request), name: name.as_str().to_owned() });
        Some(Self { fields: fields.collect() })
    }

    /// What it takes in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        let text = |field: &Selecting| {
            let value =
                field.value.as_ref().map_or(0, |value| value.as_sent.as_ref().map_or(0, Vec::len) + value.normal.len());
            field.name.len() + value + size_of::<Selecting>()
        };
        self.fields.iter().map(text).sum::<usize>() as u64
    }

    /// What it selects by, as bytes: equal selectors have the same, and others have not.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut push = |part: Option<&[u8]>| {
            text.extend(part.map_or(u32::MAX, |part| part.len() as u32).to_le_bytes());
            text.extend(part.unwrap_or_default());
        };
        for field in &self.fields {
            push(Some(field.name.as_bytes()));
            push(field.value.as_ref().map(|value| &*value.normal));
        }
        text
    }

    /// Whether the response answers every request, as far as `Vary` goes.
    pub fn is_plain(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether the field `name` alone decides which requests the response answers, as far as `Vary` goes.
    pub fn is_by(&self, name: &HeaderName) -> bool {
        self.fields.iter().all(|field| field.name == name.as_str())
    }

    /// Whether the request with the header `request` has the nominated fields as the stored one had them, but for what
    /// makes no difference: lines put together, white space in lists, and order, case and weights of 1 in what a client
    /// accepts.
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.fields.iter().all(|field| field.matches(request))
    }
}

impl Selecting {
    fn matches(&self, request: &HeaderMap) -> bool {
        let mut lines = request.get_all(&*self.name).iter();
        let (first, second) = (lines.next(), lines.next());
        let (Some(first), Some(known)) = (first, &self.value) else { return first.is_none() && self.value.is_none() };
        if second.is_none() && known.as_sent.as_deref() == Some(first.as_bytes()) {
            return true;
        }
        normal(&self.name, &lines_of(&self.name, request)) == known.normal
    }
}

fn value(name: &HeaderName, request: &HeaderMap) -> Option<Value> {
    let lines = lines_of(name.as_str(), request);
    let as_sent = match *lines {
        [] => return None,
        [only] => Some(only.to_vec()),
        _ => None,
    };
    Some(Value { as_sent, normal: normal(name.as_str(), &lines) })
}

fn lines_of<'a>(name: &str, request: &'a HeaderMap) -> Vec<&'a [u8]> {
    request.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

/// The fields that `Vary` nominates; an inner `None` stands for what is no field, `*` among them.
fn nominated(response: &HeaderMap) -> impl Iterator<Item = Option<HeaderName>> {
    let lines = response.get_all(VARY).iter();
    // `*` is a letter that a name may have.
    let name = |member: &[u8]| HeaderName::from_bytes(member).ok().filter(|name| name != "*");
    lines.flat_map(|line| members(line.as_bytes())).map(move |(member, _)| name(member))
}

/// Whether no request matches a response with this header.
pub(super) fn varies_always(response: &HeaderMap) -> bool {
    nominated(response).any(|name| name.is_none())
}

/// Which of the `stored` responses of a key, each with its selector and its `Date`, answers the request with the header
/// `request`. Of several that match it is the newest (section 4), but one with `Vary` comes before one without, which
/// may have been left without by mistake (section 4.1). `None` with something stored is a `vary-miss`.
pub fn choose<'a>(stored: impl IntoIterator<Item = (&'a Selector, SystemTime)>, request: &HeaderMap) -> Option<usize> {
    let matching = stored.into_iter().enumerate().filter(|(_, (selector, _))| selector.matches(request));
    matching.max_by_key(|&(index, (selector, date))| (!selector.is_plain(), date, index)).map(|(index, _)| index)
}

/// Which of the `stored` responses of a key have to go for a new one with the selector `new`: those that answer the
/// same requests, and the oldest if there are too many.
pub fn displaced<'a>(stored: impl IntoIterator<Item = (&'a Selector, SystemTime)>, new: &Selector) -> Vec<usize> {
    let mut others = Vec::new();
    let mut gone = Vec::new();
    for (index, (selector, date)) in stored.into_iter().enumerate() {
        if selector == new {
            gone.push(index);
        } else {
            others.push((date, index));
        }
    }
    others.sort_unstable();
    let surplus = (others.len() + 1).saturating_sub(VARIANTS_MAX);
    gone.extend(others.into_iter().take(surplus).map(|(_, index)| index));
    gone
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::tests::headers;
    use super::*;

    fn selector(vary: &[&str], request: &[(&str, &str)]) -> Option<Selector> {
        let vary: Vec<_> = vary.iter().map(|line| ("vary", *line)).collect();
        Selector::of(&headers(&vary), &headers(request))
    }

    fn matches(vary: &str, stored: &[(&str, &str)], request: &[(&str, &str)]) -> bool {
        selector(&[vary], stored).expect("a selector").matches(&headers(request))
    }

    #[test]
    fn a_star_matches_nothing_wherever_it_stands() {
        for vary in [
            &["*"][..],
            &["*, *"],
            &["*", "*"],
            &[", *"],
            &["", "*"],
            &["*, Foo"],
            &["Foo, *"],
            &["Foo", " , *"],
            &["a b"],
            &["\"foo\""],
        ] {
            assert_eq!(selector(vary, &[("foo", "1")]), None, "{vary:?}");
        }
        let many: Vec<String> = (0..=FIELDS_MAX).map(|number| format!("f{number}")).collect();
        assert_eq!(selector(&[&many.join(",")], &[]), None);
        assert!(selector(&[], &[]).is_some_and(|selector| selector.is_plain()));
        assert!(selector(&["", ","], &[]).is_some_and(|selector| selector.is_plain()));
    }

    #[test]
    fn all_nominated_fields_have_to_be_the_same() {
        let stored = [("foo", "1"), ("bar", "abc"), ("other", "2")];
        assert!(matches("Foo, bar", &stored, &[("foo", "1"), ("bar", "abc"), ("other", "3")]));
        assert!(matches("Foo, Bar, Baz", &stored, &[("bar", "abc"), ("foo", "1")]));
        for request in [&[("foo", "2"), ("bar", "abc")][..], &[("foo", "1"), ("bar", "abcde")], &[("foo", "1")], &[]] {
            assert!(!matches("Foo, Bar", &stored, request), "{request:?}");
        }
        assert!(!matches("Foo, Bar, Baz", &stored, &[("foo", "1"), ("bar", "abc"), ("baz", "")]));
        assert!(!matches("Foo", &[], &[("foo", "")]) && !matches("Foo", &[("foo", "")], &[]));
        assert!(matches("Foo", &[], &[("bar", "1")]));
    }

    #[test]
    fn what_makes_no_difference_makes_none() {
        assert!(matches("foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")]));
        assert!(matches("foo", &[("foo", "1"), ("foo", "2")], &[("foo", " 1,2 ")]));
        assert!(matches(
            "accept-encoding",
            &[("accept-encoding", "gzip, br")],
            &[("accept-encoding", "br,GZIP;q=1.0")]
        ));
        assert!(!matches("accept-encoding", &[("accept-encoding", "gzip, br")], &[("accept-encoding", "gzip")]));
    }

    #[test]
    fn several_lines_are_not_an_empty_one() {
        assert!(!matches("foo", &[("foo", "1"), ("foo", "2")], &[("foo", "")]));
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_newest_that_matches_answers() {
        let one = selector(&["foo"], &[("foo", "1")]).expect("a selector");
        let two = selector(&["foo"], &[("foo", "2")]).expect("a selector");
        let both = selector(&["foo, bar"], &[("foo", "1")]).expect("a selector");
        let plain = Selector::default();
        let stored = [(&one, at(5)), (&two, at(9)), (&both, at(7)), (&plain, at(10)), (&one, at(6))];
        let chosen = |request: &[(&str, &str)]| choose(stored, &headers(request));
        assert_eq!(chosen(&[("foo", "1")]), Some(2));
        assert_eq!(chosen(&[("foo", "1"), ("bar", "x")]), Some(4));
        assert_eq!(chosen(&[("foo", "2")]), Some(1));
        assert_eq!(chosen(&[]), Some(3));
        assert_eq!(choose([(&one, at(5))], &headers(&[])), None);
    }

    #[test]
    fn a_new_response_displaces_its_like_and_the_oldest() {
        let of = |value: &str| selector(&["foo"], &[("foo", value)]).expect("a selector");
        let stored: Vec<_> =
            (0..VARIANTS_MAX as u64).map(|number| (of(&number.to_string()), at(100 - number))).collect();
        let pairs = || stored.iter().map(|(selector, date)| (selector, *date));
        assert_eq!(displaced(pairs(), &of("3")), [3]);
        assert_eq!(displaced(pairs(), &of("new")), [VARIANTS_MAX - 1]);
        assert!(displaced(pairs().take(5), &of("new")).is_empty());
    }

    #[test]
    fn a_selector_outlives_a_restart() {
        let stored = selector(&["Accept-Encoding, foo"], &[("accept-encoding", "gzip")]).expect("a selector");
        let text = serde_json::to_string(&stored).expect("it can be written");
        assert_eq!(serde_json::from_str::<Selector>(&text).expect("it can be read"), stored);
    }
}
