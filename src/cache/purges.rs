//! What was purged: by rules with numbers, which cost the same however much they are about.
//!
//! Each rule gets the next number. What is kept has the number of the newest rule when its fetch began, so a rule with a
//! greater one is about it, and a purge needs no look at what is kept, and leaves no way for a fetch that ran meanwhile. What
//! was looked at once is looked at again only after the next purge.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use super::{Cache, CacheKey, Head, Terms};

/// Beyond so many rules all is purged instead: each of them takes about 60 bytes.
const RULES_MAX: usize = 1 << 16;

/// The fields by which answers name their tags, divided by spaces or commas.
const TAG_FIELDS: [&str; 2] = ["cache-tag", "surrogate-key"];

/// What is purged. Texts are the URI without its scheme; of an object of the store a slash and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// What has this text.
    Exact(String),
    /// All whose texts begin so; with an empty text all.
    Prefix(String),
    /// All that have this tag in `Cache-Tag` or `Surrogate-Key`.
    Tag(String),
    /// All answers of the origins of the site that has this text in keys.
    Site(String),
}

/// What a purge leaves of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was not purged.
    Stands,
    /// It is to be validated before its next use, since then.
    Stale(SystemTime),
    /// It is not to be used any more.
    Gone,
}

/// All purges so far.
#[derive(Debug, Default)]
pub(super) struct Purges {
    latest: AtomicU64,
    rules: RwLock<Rules>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Rules {
    exact: HashMap<u64, Marks>,
    /// By their lengths.
    prefixes: BTreeMap<usize, HashMap<u64, Marks>>,
    tags: HashMap<u64, Marks>,
    sites: HashMap<u64, Marks>,
    count: usize,
    /// All with smaller numbers is purged.
    floor: u64,
    /// The newest by a tag.
    latest_tag: u64,
    doubt: Option<Doubt>,
}

/// What may have been purged without a word.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    number: u64,
    /// What was received before this.
    before: SystemTime,
    /// When the doubt came up: nothing right was received after it.
    at: SystemTime,
}

/// The newest purges of one thing.
#[derive(Debug, Default, Clone, Copy)]
struct Marks {
    hard: u64,
    soft: Option<(u64, SystemTime)>,
}

impl Marks {
    /// Both that are the newer ones.
    fn and(self, other: Self) -> Self {
        Self { hard: self.hard.max(other.hard), soft: self.soft.max(other.soft) }
    }
}

impl Purges {
    /// The number of the newest rule.
    pub(super) fn latest(&self) -> u64 {
        self.latest.load(Ordering::Acquire)
    }

    fn add(&self, rule: &Rule, soft_at: Option<SystemTime>) {
        let mut guard = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let rules = &mut *guard;
        let number = self.latest() + 1;
        if rules.count >= RULES_MAX {
            *rules = Rules { floor: number, ..Rules::default() };
        }
        if matches!(rule, Rule::Tag(_)) {
            rules.latest_tag = number;
        }
        let marks = match rule {
            Rule::Exact(text) => rules.exact.entry(self.hasher.hash_one(text.as_str())),
            Rule::Prefix(text) => {
                rules.prefixes.entry(text.len()).or_default().entry(self.hasher.hash_one(text.as_str()))
            }
            Rule::Tag(tag) => rules.tags.entry(self.hasher.hash_one(tag.as_str())),
            Rule::Site(site) => rules.sites.entry(self.hasher.hash_one(site.as_str())),
        };
        if matches!(marks, std::collections::hash_map::Entry::Vacant(_)) {
            rules.count += 1;
        }
        let marks = marks.or_default();
        match soft_at {
            Some(at) => marks.soft = Some((number, at)),
            None => marks.hard = number,
        }
        // Whoever sees the number finds the rule, once this lock is let go.
        self.latest.store(number, Ordering::Release);
    }

    /// From now on what was received before `before`, or seems to be after `at`, is doubtful.
    pub(super) fn doubt(&self, before: SystemTime, at: SystemTime) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let number = self.latest() + 1;
        // What an earlier doubt was about stays so: that was before `at`, too.
        let before = rules.doubt.map_or(before, |earlier| earlier.before.max(before));
        rules.doubt = Some(Doubt { number, before, at });
        self.latest.store(number, Ordering::Release);
    }

    /// What those with greater numbers than `born` leave of what has this key and this head.
    pub(super) fn judge(&self, key: &CacheKey, head: Option<&Head>, born: u64) -> Verdict {
        let Some(text) = text_of(key) else { return Verdict::Stands };
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        // Of what is not here yet nobody knows the tags.
        if born < rules.floor || head.is_none() && rules.latest_tag > born {
            return Verdict::Gone;
        }
        let hash = |text: &str| self.hasher.hash_one(text);
        let exact = rules.exact.get(&hash(&text)).copied();
        let prefixes = rules.prefixes.iter().filter_map(|(length, marks)| marks.get(&hash(text.get(..*length)?)));
        let lines = TAG_FIELDS.iter().flat_map(|name| head.iter().flat_map(|head| head.headers.get_all(*name)));
        let tags = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split([' ', ',', '\t']));
        let tags = tags.filter_map(|tag| rules.tags.get(&hash(tag)));
        let site = if let CacheKey::Answer { site, .. } = key { rules.sites.get(&hash(site)) } else { None };
        let doubt = rules.doubt.iter().filter(|doubt| head.is_some_and(|head| doubt.is_about(head)));
        let doubt = doubt.map(|doubt| Marks { hard: 0, soft: Some((doubt.number, doubt.at)) });
        let marks = exact.iter().chain(prefixes).chain(tags).chain(site).copied().chain(doubt);
        let all = marks.fold(Marks::default(), Marks::and);
        match all.soft {
            _ if all.hard > born => Verdict::Gone,
            Some((number, at)) if number > born => Verdict::Stale(at),
            _ => Verdict::Stands,
        }
    }
}

impl Doubt {
    fn is_about(&self, head: &Head) -> bool {
        match &head.terms {
            Terms::Answer { freshness, .. } => !freshness.was_received_within(self.before..=self.at),
            // To ask for one costs little, and it says nothing of when it came.
            Terms::Object { .. } => true,
            Terms::Slice | Terms::Coded { .. } => false,
        }
    }
}

impl Cache {
    /// From now on nothing that `rule` is about is used, but what is fetched from now on; with `soft_at` it stays, to be
    /// validated before its next use, as if it had been stale since then.
    pub fn purge(&self, rule: &Rule, soft_at: Option<SystemTime>) {
        self.purges.add(rule, soft_at);
    }
}

/// What purges are about; slices and codings go with what they are made of.
fn text_of(key: &CacheKey) -> Option<String> {
    match key {
        CacheKey::Object { key, .. } => Some(format!("/{key}")),
        CacheKey::Answer { uri, .. } => Some(uri.split_once("://").map_or(&**uri, |(_, rest)| rest).to_owned()),
        CacheKey::Slice { .. } | CacheKey::Coded { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    fn answer(uri: &str) -> CacheKey {
        CacheKey::Answer { site: "site".into(), uri: uri.into() }
    }

    fn tagged(tags: &'static str) -> Head {
        let tags = (http::HeaderName::from_static("cache-tag"), HeaderValue::from_static(tags));
        let headers = http::HeaderMap::from_iter([tags]);
        Head { status: http::StatusCode::OK, headers, size: None, terms: Terms::Slice }
    }

    #[test]
    fn a_rule_is_about_what_was_there_before_it() {
        let purges = Purges::default();
        let tagged = tagged("a, b");
        for (rule, uri, headers, expected) in [
            (Rule::Exact("h/a?b".into()), "http://h/a?b", None, Verdict::Gone),
            (Rule::Exact("h/a?b".into()), "https://h/a?b", None, Verdict::Gone),
            (Rule::Exact("h/a".into()), "http://h/a?b", None, Verdict::Stands),
            (Rule::Prefix("h/a".into()), "http://h/ab", None, Verdict::Gone),
            (Rule::Prefix("h/ab/".into()), "http://h/ab", None, Verdict::Stands),
            (Rule::Prefix("h/".into()), "http://h/", None, Verdict::Gone),
            (Rule::Prefix(String::new()), "http://g/", None, Verdict::Gone),
            (Rule::Tag("b".into()), "http://x/", Some(&tagged), Verdict::Gone),
            (Rule::Tag("c".into()), "http://x/", Some(&tagged), Verdict::Stands),
            (Rule::Site("site".into()), "http://x/", None, Verdict::Gone),
            (Rule::Site("sit".into()), "http://x/", None, Verdict::Stands),
        ] {
            let before = purges.latest();
            purges.add(&rule, None);
            assert_eq!(purges.judge(&answer(uri), headers, before), expected, "{rule:?} {uri}");
            assert_eq!(purges.judge(&answer(uri), headers, before + 1), Verdict::Stands, "{rule:?} {uri}");
        }
    }

    #[test]
    fn what_is_purged_softly_is_stale_and_hard_wins() {
        let purges = Purges::default();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        let rule = Rule::Exact("/a".into());
        let key = CacheKey::Object { key: "a".parse().expect("a key"), variant: crate::model::Variant::Original };
        purges.add(&rule, Some(at));
        assert_eq!(purges.judge(&key, None, 0), Verdict::Stale(at));
        purges.add(&rule, None);
        assert_eq!((purges.judge(&key, None, 0), purges.judge(&key, None, 1)), (Verdict::Gone, Verdict::Gone));
        purges.add(&rule, Some(at));
        assert_eq!((purges.judge(&key, None, 1), purges.judge(&key, None, 2)), (Verdict::Gone, Verdict::Stale(at)));
        purges.add(&Rule::Tag("a".into()), None);
        assert_eq!(purges.judge(&key, None, 3), Verdict::Gone, "what is on its way may have the tag");
        assert_eq!(purges.judge(&key, Some(&tagged("")), 3), Verdict::Stands);
    }

    #[test]
    fn beyond_what_is_remembered_all_is_purged() {
        let purges = Purges::default();
        for number in 0..=RULES_MAX {
            purges.add(&Rule::Exact(format!("h/{number}")), None);
        }
        let number = RULES_MAX as u64 + 1;
        assert_eq!(purges.judge(&answer("http://h/other"), None, number - 1), Verdict::Gone);
        assert_eq!(purges.judge(&answer("http://h/other"), None, number), Verdict::Stands);
    }
}
