//! The small grammars that the cache rules read: lists, directives, seconds, dates.
//!
//! Everything works on bytes, since a field value need not be text, and nothing here panics whatever they are.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The greatest number of seconds, which stands for all above it, too (RFC 9111 section 1.2.2).
pub(super) const SECONDS_MAX: u32 = 1 << 31;

/// Where years have five digits.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

/// A member of a list such as `Cache-Control` (RFC 9111 section 5.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Directive<'a> {
    pub(super) name: &'a [u8],
    pub(super) argument: Argument<'a>,
    /// Quotes do not pair here: what follows may be inside of them or not.
    pub(super) torn: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Argument<'a> {
    Absent,
    /// A token, or what a quoted string says.
    Value(Cow<'a, [u8]>),
    /// Something stands behind the name that is no argument.
    Malformed,
}

impl Directive<'_> {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The argument as seconds; `None` for everything else.
    pub(super) fn seconds(&self) -> Option<u32> {
        match &self.argument {
            Argument::Value(value) => seconds(value),
            Argument::Absent | Argument::Malformed => None,
        }
    }

    pub(super) fn is_bare(&self) -> bool {
        self.argument == Argument::Absent
    }
}

/// The directives in all lines of the field `name`.
pub(super) fn directives<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Directive<'a>> {
    headers.get_all(name).iter().flat_map(|line| members(line.as_bytes())).map(directive)
}

fn directive((member, torn): (&[u8], bool)) -> Directive<'_> {
    let name_end = member.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(member.len());
    let (name, rest) = member.split_at(name_end);
    let argument = match rest {
        _ if torn => Argument::Malformed,
        [] => Argument::Absent,
        [b'=', value @ ..] => argument(value),
        _ => Argument::Malformed,
    };
    Directive { name, argument, torn }
}

fn argument(value: &[u8]) -> Argument<'_> {
    if is_token(value) {
        return Argument::Value(Cow::Borrowed(value));
    }
    let [b'"', inner @ .., b'"'] = value else { return Argument::Malformed };
    if !inner.iter().any(|&byte| matches!(byte, b'"' | b'\\')) {
        return Argument::Value(Cow::Borrowed(inner));
    }
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => return Argument::Malformed,
            b'\\' => match bytes.next() {
                Some(&escaped) => plain.push(escaped),
                None => return Argument::Malformed,
            },
            _ => plain.push(byte),
        }
    }
    Argument::Value(Cow::Owned(plain))
}

/// The members of a list (RFC 9110 section 5.6.1), trimmed, without empty ones; a comma in a quoted string belongs to
/// it.
///
/// The second of a pair tells of quotes that do not pair: a quoted string does not end on its line, or begins or ends
/// in the middle of something. The quote then counts for nothing: the member ends at the next comma.
pub(super) fn members(line: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    split(line, b',').filter(|(member, _)| !member.is_empty())
}

/// As [`members`], for any `separator`, and with empty ones.
pub(super) fn split(line: &[u8], separator: u8) -> impl Iterator<Item = (&[u8], bool)> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let (end, torn) = member_end(line, separator);
        rest = line.get(end + 1..);
        Some((line[..end].trim_ascii(), torn))
    })
}

fn member_end(line: &[u8], separator: u8) -> (usize, bool) {
    let mut position = 0;
    let mut torn = false;
    while position < line.len() {
        match line[position] {
            byte if byte == separator => return (position, torn),
            b'"' if !torn => match quoted_end(&line[position..]) {
                Some(length) if stands_alone(line, position, position + length, separator) => position += length,
                _ => {
                    torn = true;
                    position += 1;
                }
            },
            _ => position += 1,
        }
    }
    (line.len(), torn)
}

/// Whether a quoted string begins and ends where one may. If not, quotes are missing, and what seems to be inside may
/// be outside.
fn stands_alone(line: &[u8], start: usize, end: usize, separator: u8) -> bool {
    let before = line[..start].trim_ascii_end().last();
    let after = line[end..].trim_ascii_start().first();
    let may_follow = |byte: &u8| *byte == separator || *byte == b';';
    before.is_none_or(|byte| *byte == b'=' || may_follow(byte)) && after.is_none_or(may_follow)
}

/// The length of the quoted string at the start of `text`, with its quotes.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut position = 1;
    while position < text.len() {
        match text[position] {
            b'"' => return Some(position + 1),
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
    None
}

/// A whole number of seconds (RFC 9111 section 1.2.2): digits and nothing else, however many.
pub(super) fn seconds(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let fold = |sum: u32, &digit: &u8| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    Some(text.iter().fold(0, fold).min(SECONDS_MAX))
}

pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// The date in the field `name`; `None` where there is none, where it does not read, and where several lines disagree.
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    if lines.any(|line| line != first) { None } else { date_of(first) }
}

/// A date in one of the three forms of RFC 9110 section 5.6.7. Letters count in either case (RFC 9111 section 4.2);
/// what names a zone other than GMT, or the wrong day of the week, is no date.
pub(super) fn date_of(value: &HeaderValue) -> Option<SystemTime> {
    let text = value.to_str().ok()?.trim();
    if let Ok(date) = httpdate::parse_http_date(text) {
        return Some(date);
    }
    httpdate::parse_http_date(&usual_case(text)).ok()
}

fn usual_case(text: &str) -> String {
    let mut after_letter = false;
    let mut letters = String::with_capacity(text.len());
    for letter in text.chars() {
        letters.push(if after_letter { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() });
        after_letter = letter.is_ascii_alphabetic();
    }
    if let Some(stem) = letters.strip_suffix("Gmt") {
        return format!("{stem}GMT");
    }
    letters
}

/// `time` as a date field. What lies outside of the years that it can name becomes the nearest of them.
pub(super) fn date_value(time: SystemTime) -> HeaderValue {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(YEAR_10000 - Duration::from_secs(1));
    HeaderValue::try_from(httpdate::fmt_http_date(UNIX_EPOCH + since)).expect("a date is letters, digits and signs")
}

/// Milliseconds since 1970; 0 for all before.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Vec<(String, Option<String>, bool)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        members(line.as_bytes())
            .map(directive)
            .map(|found| match &found.argument {
                Argument::Absent => (text(found.name), None, found.torn),
                Argument::Value(value) => (text(found.name), Some(text(value)), found.torn),
                Argument::Malformed => (text(found.name), Some("malformed".to_owned()), found.torn),
            })
            .collect()
    }

    fn one(name: &str, value: Option<&str>) -> (String, Option<String>, bool) {
        (name.to_owned(), value.map(str::to_owned), false)
    }

    #[test]
    fn a_comma_in_quotes_does_not_separate() {
        assert_eq!(parsed(r#"a="x, y=1", b"#), [one("a", Some("x, y=1")), one("b", None)]);
        assert_eq!(parsed(r#"a="q\", c=1", b=2"#), [one("a", Some("q\", c=1")), one("b", Some("2"))]);
        assert_eq!(parsed(" , a ,,\tb=1, "), [one("a", None), one("b", Some("1"))]);
        assert!(parsed("").is_empty() && parsed(" ,").is_empty());
    }

    #[test]
    fn what_is_no_argument_is_malformed() {
        for line in ["a =1", "a= 1", "a=", "a='1\u{e9}", "a=1 2", "a=\u{e9}", "a;b=1", "a= \"x\""] {
            assert_eq!(parsed(line), [one("a", Some("malformed"))], "{line}");
        }
    }

    #[test]
    fn quotes_that_do_not_pair_hide_nothing() {
        let found = parsed(r#"a="x, no-store, b=1"#);
        assert_eq!(found[0], ("a".to_owned(), Some("malformed".to_owned()), true));
        assert_eq!(found[1..], [one("no-store", None), one("b", Some("1"))]);
        assert_eq!(parsed("a=\"x\\").len(), 1);
        for line in ["a=\"x, no-store, b=\"y", "a=x\"y, no-store, b\"", "a\"x, no-store\"", "a=\"x\"\"y, no-store\""] {
            assert!(parsed(line).iter().any(|(name, ..)| name == "no-store"), "{line}");
        }
    }

    #[test]
    fn seconds_are_digits_and_stop_at_their_greatest() {
        for (text, expected) in [
            ("0", Some(0)),
            ("003600", Some(3600)),
            ("2147483647", Some(2_147_483_647)),
            ("2147483648", Some(SECONDS_MAX)),
            ("4294967296", Some(SECONDS_MAX)),
            ("99999999999999999999999999", Some(SECONDS_MAX)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.0", None),
            (" 1", None),
            ("1s", None),
            ("\u{661}", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn dates_read_in_three_forms_and_any_case() {
        let read = |text: &str| date_of(&HeaderValue::from_bytes(text.as_bytes()).expect("a value"));
        let expected = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 nov 1994 08:49:37 gmt",
            "sunday, 06-NOV-94 08:49:37 Gmt",
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for text in [
            "0",
            "-1",
            "",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov  1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 N\u{f6}v 1994 08:49:37 GMT",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_can_be_written_of_any_time() {
        let written = |time| date_value(time).to_str().expect("text").to_owned();
        assert_eq!(written(UNIX_EPOCH + Duration::from_secs(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(written(UNIX_EPOCH - Duration::from_secs(5)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(written(UNIX_EPOCH + YEAR_10000 * 2), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
