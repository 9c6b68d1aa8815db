//! What a request accepts (RFC 9110 section 12.5.3).

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};

use super::{Coding, list};

/// A set of codings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Codings(u8);

impl Codings {
    /// No coding.
    pub const NONE: Self = Self(0);
    /// Every [`Coding`].
    pub const ALL: Self = Self(0b111);

    /// The set and `coding`.
    pub const fn with(self, coding: Coding) -> Self {
        Self(self.0 | 1 << coding as u8)
    }

    /// Whether `coding` is in it.
    pub const fn contains(self, coding: Coding) -> bool {
        self.0 & 1 << coding as u8 != 0
    }

    /// What is in this set or in `other`.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Coding> for Codings {
    fn from_iter<I: IntoIterator<Item = Coding>>(codings: I) -> Self {
        codings.into_iter().fold(Self::NONE, Self::with)
    }
}

/// What of no coding and the [`Coding`]s a request accepts, best first. Two requests with the same value get the same
/// answer, so it can be a part of a cache's key: there are 65 of them, and a few for all browsers.
///
/// The order is that of the weights in the request; where they are equal, ours decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Accepted(u16);

/// A place in the order takes this many bits; the first is the lowest.
const PLACE_BITS: u32 = 4;
/// What stands in a place for no coding. A coding is its number and 2; nothing is 0.
const UNCODED: u16 = 1;

/// Thousandths, as `q` has three digits.
type Weight = u16;

/// What a request says of each coding; `None` is unsaid.
#[derive(Debug, Clone, Copy, Default)]
struct Weights {
    codings: [Option<Weight>; 3],
    uncoded: Option<Weight>,
    others: Option<Weight>,
}

impl Accepted {
    /// What a client takes of which nothing is known but that it speaks HTTP: an answer without a coding.
    pub const UNCODED_ONLY: Self = Self(UNCODED);

    /// What a request with `headers` accepts; among codings of equal weight those in `preference` come first, in its
    /// order.
    ///
    /// - Without the field everything is acceptable, and no coding is best: who says nothing of codings mostly has
    ///   none.
    /// - No coding is acceptable unless `identity;q=0` or `*;q=0` refuses it, and unless it has a weight it is the last
    ///   choice.
    /// - A member that is against the grammar is ignored, and so is a coding that is not made here. Of a coding that
    ///   stands twice the lower weight counts: what was refused once is not sent.
    pub fn of(headers: &HeaderMap, preference: &[Coding]) -> Self {
        Self::of_lines(headers.get_all(ACCEPT_ENCODING).iter().map(HeaderValue::as_bytes), preference)
    }

    /// As [`Accepted::of`], for a request whose lines of `Accept-Encoding` are `lines`.
    pub fn of_lines<'a>(lines: impl Iterator<Item = &'a [u8]>, preference: &[Coding]) -> Self {
        let weights = Weights::read(lines);
        let mut order = [Some(Coding::Zstd), Some(Coding::Brotli), Some(Coding::Gzip), None];
        order.sort_by_key(|coding| {
            let place = |coding| preference.iter().position(|preferred| *preferred == coding);
            let place = coding.map_or(usize::MAX, |coding| place(coding).unwrap_or(preference.len()));
            (std::cmp::Reverse(weights.rank(*coding)), place)
        });
        let accepted = order.into_iter().filter(|coding| weights.rank(*coding) > 0);
        let code = |coding: Option<Coding>| coding.map_or(UNCODED, |coding| coding as u16 + UNCODED + 1);
        Self(accepted.rev().fold(0, |bits, coding| bits << PLACE_BITS | code(coding)))
    }

    /// What is accepted, best first; `None` is no coding.
    pub fn iter(self) -> impl Iterator<Item = Option<Coding>> {
        (0..4).map_while(move |place| match self.0 >> (PLACE_BITS * place) & 0xF {
            0 => None,
            UNCODED => Some(None),
            code => Some(Some(Coding::ALL[usize::from(code - UNCODED - 1)])),
        })
    }

    /// Whether an answer with this coding, or with none, is accepted.
    pub fn accepts(self, coding: Option<Coding>) -> bool {
        self.iter().any(|accepted| accepted == coding)
    }

    /// The best of the codings that there are; `None` is an answer without a coding.
    ///
    /// Where the request refuses that too, it gets it all the same: a 406 is allowed (RFC 9110 section 15.5.7), but the
    /// intention of the RFC's authors is that codings never decide whether there is an answer, and a client that cannot
    /// read plain bytes does not exist.
    pub fn choose(self, there_are: Codings) -> Option<Coding> {
        self.iter().find(|place| place.is_none_or(|coding| there_are.contains(coding))).flatten()
    }

    /// The codings that are better than none for this request.
    pub fn codings(self) -> Codings {
        self.iter().map_while(|place| place).collect()
    }

    /// The `Accept-Encoding` with which an origin is asked for what this request wants: never a coding that has to be
    /// taken off again for it. An origin that pays heed to it sends what can be passed on, and its bytes cost less on
    /// the way; one that does not is what [`Plan::Decode`](super::Plan::Decode) is for.
    ///
    /// Slices are asked for with [`Accepted::UNCODED_ONLY`]: a part of a coding is of no use but to those who take it.
    pub fn ask(self) -> HeaderValue {
        if self.codings() == Codings::NONE {
            return HeaderValue::from_static("identity");
        }
        let coded = self.iter().map_while(|place| place).map(Coding::as_str);
        let mut names: Vec<&str> = coded.collect();
        if !self.accepts(None) {
            names.push("identity;q=0");
        }
        HeaderValue::try_from(names.join(", ")).expect("names of codings are visible ASCII")
    }
}

impl Weights {
    fn read<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut lines = lines.peekable();
        if lines.peek().is_none() {
            return Self { uncoded: Some(1000), others: Some(1), ..Self::default() };
        }
        let mut weights = Self::default();
        for (token, weight) in lines.flat_map(list::members_of).filter_map(member) {
            let place = match Coding::of_token(token) {
                Some(coding) => &mut weights.codings[coding as usize],
                None if token.eq_ignore_ascii_case(b"identity") => &mut weights.uncoded,
                None if token == b"*" => &mut weights.others,
                None => continue,
            };
            *place = Some(place.map_or(weight, |known| known.min(weight)));
        }
        weights
    }

    /// What is compared: 0 is refused. No coding of which nothing is said comes after all that has a weight; `*` stands
    /// for it, too (RFC 9110 section 12.5.3).
    fn rank(&self, coding: Option<Coding>) -> u32 {
        let (said, unsaid) = match coding {
            Some(coding) => (self.codings[coding as usize], 0),
            None => (self.uncoded, 1),
        };
        match said.or(self.others) {
            None => unsaid,
            Some(0) => 0,
            Some(weight) => u32::from(weight) + 1,
        }
    }
}

/// A coding and its weight; `None` if it is against the grammar.
fn member(member: &[u8]) -> Option<(&[u8], Weight)> {
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let token = parts.next().filter(|token| !token.is_empty())?;
    let weight = match parts.next() {
        None => 1000,
        Some([b'q' | b'Q', b'=', value @ ..]) => weight(value)?,
        Some(_) => return None,
    };
    parts.next().is_none().then_some((token, weight))
}

/// RFC 9110 section 12.4.2: `0` or `1`, and up to three digits, which are zeros after `1`.
fn weight(value: &[u8]) -> Option<Weight> {
    let (whole, digits) = match value {
        [whole] => (whole, &[][..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut thousandths = match whole {
        b'0' => 0,
        b'1' => 1000,
        _ => return None,
    };
    for (digit, unit) in digits.iter().zip([100, 10, 1]) {
        thousandths += match digit {
            b'0'..=b'9' => u16::from(digit - b'0') * unit,
            _ => return None,
        };
    }
    (thousandths <= 1000).then_some(thousandths)
}

#[cfg(test)]
mod tests;
