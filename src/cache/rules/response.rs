//! What a response says to caches (RFC 9111 section 5.2.2, RFC 5861), in `Cache-Control` or in a targeted field.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName};

use super::syntax::{Argument, Directive, directives, members};
use super::targeted;

/// The most field names that one response may withhold: a header with more is not worth to be taken apart.
const FIELDS_MAX: usize = 64;

/// How far a directive reaches that may name fields (sections 5.2.2.4 and 5.2.2.7).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// The directive is not there.
    #[default]
    Absent,
    /// It is about these fields alone.
    Fields(Vec<HeaderName>),
    /// It is about the whole response.
    Whole,
}

impl Scope {
    /// The scope of a directive with this `argument`. Where no field is named, or one that cannot be, it is about all.
    pub(super) fn of(argument: Option<&[u8]>) -> Self {
        let Some(list) = argument else { return Self::Whole };
        let mut names = Vec::new();
        for (member, _) in members(list) {
            match HeaderName::from_bytes(member) {
                Ok(name) if names.len() < FIELDS_MAX => names.push(name),
                _ => return Self::Whole,
            }
        }
        if names.is_empty() { Self::Whole } else { Self::Fields(names) }
    }

    pub(super) fn widen(&mut self, other: Self) {
        *self = match (std::mem::take(self), other) {
            (Self::Absent, scope) | (scope, Self::Absent) => scope,
            (Self::Fields(mut names), Self::Fields(more)) if names.len() + more.len() <= FIELDS_MAX => {
                names.extend(more);
                Self::Fields(names)
            }
            _ => Self::Whole,
        };
    }

    /// Whether it is about the whole response.
    pub fn is_whole(&self) -> bool {
        *self == Self::Whole
    }

    /// The fields that it names.
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(names) => names,
            Self::Absent | Self::Whole => &[],
        }
    }
}

/// The cache directives of a response.
///
/// What does not read is never taken for permission: a lifetime that is no number of seconds is 0 (section 4.2.1), as
/// is the time for which something may be stale; `public` with an argument is not there, while a directive that forbids
/// counts with any argument. Of several lifetimes the shortest counts, and where a quoted string does not end, so that
/// nobody can say what stands behind it, nothing is fresh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseDirectives {
    /// Seconds for which it is fresh (section 5.2.2.1).
    pub max_age: Option<u32>,
    /// Seconds for which it is fresh in a cache that many share (section 5.2.2.10).
    pub s_maxage: Option<u32>,
    /// Seconds for which it may be used stale while it is validated (RFC 5861 section 3).
    pub stale_while_revalidate: Option<u32>,
    /// Seconds for which it may be used stale where an error would be the answer else (RFC 5861 section 4).
    pub stale_if_error: Option<u32>,
    /// Has to be validated at each use, or goes without these fields (section 5.2.2.4).
    pub no_cache: Scope,
    /// Is for one user, or these fields are (section 5.2.2.7).
    pub private: Scope,
    /// Must not be stored (section 5.2.2.5).
    pub no_store: bool,
    /// Must not be used stale (section 5.2.2.2).
    pub must_revalidate: bool,
    /// Must not be used stale by a cache that many share (section 5.2.2.8).
    pub proxy_revalidate: bool,
    /// May be stored by those alone who know its status code, who then forget `no-store` (section 5.2.2.3).
    pub must_understand: bool,
    /// May be stored even where it else could not (section 5.2.2.9).
    pub public: bool,
    /// The content stays as it is (section 5.2.2.6).
    pub no_transform: bool,
    /// A targeted field said all this: `Cache-Control` and `Expires` do not count (RFC 9213 section 2.2).
    pub targeted: bool,
}

impl ResponseDirectives {
    /// The directives of the response with these `headers`: those of the first of `targets` that is there, valid and
    /// not empty, else those of `Cache-Control`.
    pub fn of(targets: &[HeaderName], headers: &HeaderMap) -> Self {
        let cache_control = Self::parse(headers, &CACHE_CONTROL);
        match targets.iter().find_map(|target| targeted::parse(headers, target)) {
            // Not a matter of caching, so that it counts wherever it stands (RFC 9110 section 7.7).
            Some(said) => Self { no_transform: said.no_transform || cache_control.no_transform, ..said },
            None => cache_control,
        }
    }

    fn parse(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut said = Self::default();
        let mut torn = false;
        for found in directives(headers, name) {
            torn |= found.torn;
            said.take(&found);
        }
        if torn {
            said.public = false;
            said.must_understand = false;
            (said.max_age, said.s_maxage) = (Some(0), said.s_maxage.map(|_| 0));
            (said.stale_while_revalidate, said.stale_if_error) = (Some(0), Some(0));
        }
        said
    }

    fn take(&mut self, found: &Directive<'_>) {
        let shortest = |known: Option<u32>| {
            let new = found.seconds().unwrap_or(0);
            Some(known.map_or(new, |known| known.min(new)))
        };
        if found.is("max-age") {
            self.max_age = shortest(self.max_age);
        } else if found.is("s-maxage") {
            self.s_maxage = shortest(self.s_maxage);
        } else if found.is("stale-while-revalidate") {
            self.stale_while_revalidate = shortest(self.stale_while_revalidate);
        } else if found.is("stale-if-error") {
            self.stale_if_error = shortest(self.stale_if_error);
        } else if found.is("no-cache") {
            self.no_cache.widen(scope(found));
        } else if found.is("private") {
            self.private.widen(scope(found));
        } else if found.is("no-store") {
            self.no_store = true;
        } else if found.is("must-revalidate") {
            self.must_revalidate = true;
        } else if found.is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if found.is("must-understand") {
            self.must_understand |= found.is_bare();
        } else if found.is("public") {
            self.public |= found.is_bare();
        } else if found.is("no-transform") {
            self.no_transform = true;
        }
    }

    /// The seconds for which it is fresh, if a directive says so (section 4.2.1).
    pub fn lifetime(&self) -> Option<u32> {
        self.s_maxage.or(self.max_age)
    }

    /// Whether it may be kept for all although its request was authorized (section 3.5).
    pub const fn shares_authorized(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }

    /// Whether a shared cache must not use it once it is stale (section 4.2.4).
    pub const fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.s_maxage.is_some()
    }

    /// The fields that are not to be kept with the rest (section 3.1).
    pub fn withheld(&self) -> impl Iterator<Item = &HeaderName> {
        self.no_cache.fields().iter().chain(self.private.fields())
    }
}

fn scope(found: &Directive<'_>) -> Scope {
    match &found.argument {
        Argument::Value(list) => Scope::of(Some(list)),
        Argument::Absent | Argument::Malformed => Scope::Whole,
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn of(lines: &[impl AsRef<str>]) -> ResponseDirectives {
        let pair = |line: &_| (CACHE_CONTROL, HeaderValue::from_str(AsRef::as_ref(line)).expect("a value"));
        ResponseDirectives::of(&[], &lines.iter().map(pair).collect())
    }

    fn lifetime(line: &str) -> Option<u32> {
        of(&[line]).lifetime()
    }

    #[test]
    fn a_lifetime_reads_in_token_and_quoted_form_and_any_case() {
        for (line, expected) in [
            ("max-age=3600", Some(3600)),
            ("MaX-aGe=3600", Some(3600)),
            ("max-age=\"3600\"", Some(3600)),
            ("max-age=\"36\\00\"", Some(3600)),
            ("max-age=003600", Some(3600)),
            ("max-age=0", Some(0)),
            ("max-age=2147483647", Some(2_147_483_647)),
            ("max-age=2147483648", Some(2_147_483_648)),
            ("max-age=2147483649", Some(2_147_483_648)),
            ("max-age=99999999999", Some(2_147_483_648)),
            ("foobar, max-age=3600", Some(3600)),
            ("s-maxage=1, max-age=3600", Some(1)),
            ("max-age=3600, s-maxage=1", Some(1)),
            ("max-age=0, s-maxage=3600", Some(3600)),
            ("extension=\"max-age=3600\", max-age=1", Some(1)),
            ("max-age=1, extension=\"max-age=3600\"", Some(1)),
            ("extension=\"max-age=3600\"", None),
            ("x-max-age=3600", None),
            ("'max-age=3600'", None),
            ("", None),
        ] {
            assert_eq!(lifetime(line), expected, "{line}");
        }
    }

    #[test]
    fn a_lifetime_that_does_not_read_is_none_at_all() {
        for value in [
            "",
            "=",
            "='3600'",
            "=-3600",
            "=3600.0",
            "=3600.5",
            "=a3600",
            "=3600a",
            " =3600",
            "= 3600",
            "=\"3600",
            "=\" 3600\"",
            "=3600;x=1",
        ] {
            assert_eq!(lifetime(&format!("max-age{value}")), Some(0), "{value}");
            assert_eq!(lifetime(&format!("max-age=60, s-maxage{value}")), Some(0), "{value}");
            let stale = of(&[&format!("stale-while-revalidate{value}"), &format!("stale-if-error{value}")]);
            assert_eq!((stale.stale_while_revalidate, stale.stale_if_error), (Some(0), Some(0)), "{value}");
        }
    }

    #[test]
    fn the_shortest_of_several_lifetimes_counts() {
        for lines in [
            &["max-age=3600, max-age=1800"][..],
            &["max-age=1800, max-age=3600"],
            &["max-age=3600", "max-age=1800"],
            &["max-age=1800", "max-age=3600"],
        ] {
            assert_eq!(of(lines).lifetime(), Some(1800), "{lines:?}");
        }
        assert_eq!(of(&["max-age=3600, max-age=x"]).lifetime(), Some(0));
    }

    #[test]
    fn what_forbids_counts_with_any_argument_and_what_allows_with_none() {
        for argument in ["", "=1", "=\"x\"", "=\"x", " =1"] {
            let said = of(&["No-StOrE", "must-revalidate", "proxy-revalidate"].map(|name| format!("{name}{argument}")));
            assert!(said.no_store && said.must_revalidate && said.proxy_revalidate, "{argument}");
            let said = of(&["public", "must-understand"].map(|name| format!("{name}{argument}")));
            assert_eq!((said.public, said.must_understand), (argument.is_empty(), argument.is_empty()), "{argument}");
        }
    }

    #[test]
    fn a_directive_may_name_fields() {
        let names =
            |names: &[&'static str]| Scope::Fields(names.iter().copied().map(HeaderName::from_static).collect());
        for (line, expected) in [
            ("no-cache", Scope::Whole),
            ("no-cache=\"a\"", names(&["a"])),
            ("no-cache=\"a, B\"", names(&["a", "b"])),
            ("no-cache=a", names(&["a"])),
            ("no-cache=\"a\", no-cache=\"b\"", names(&["a", "b"])),
            ("no-cache=\"a\", no-cache", Scope::Whole),
            ("no-cache=\"\"", Scope::Whole),
            ("no-cache=\"a b\"", Scope::Whole),
            ("no-cache=\"a", Scope::Whole),
            ("no-cache=", Scope::Whole),
            ("max-age=1", Scope::Absent),
        ] {
            assert_eq!(of(&[line]).no_cache, expected, "{line}");
            assert_eq!(of(&[&line.replace("no-cache", "private")]).private, expected, "{line}");
        }
        let many: Vec<String> = (0..100).map(|number| format!("f{number}")).collect();
        assert_eq!(of(&[&format!("private=\"{}\"", many.join(","))]).private, Scope::Whole);
    }

    #[test]
    fn behind_a_quote_that_does_not_end_only_what_forbids_counts() {
        let said = of(&["max-age=60, s-maxage=60, x=\"open, public, max-age=60, stale-if-error=60, no-store"]);
        assert!(said.no_store && !said.public);
        assert_eq!((said.lifetime(), said.stale_if_error), (Some(0), Some(0)));
    }
}
