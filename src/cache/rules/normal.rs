//! One form for the values of a request field that mean the same (RFC 9111 section 4.1).
//!
//! White space around the members of a list goes, and lines become one. Where the definition of a field says more, more
//! is done: in `Accept-Encoding`, `Accept-Language`, `Accept-Charset` and `Accept` neither order nor case count, and a
//! weight of 1 is the same as none (RFC 9110 sections 12.4 and 12.5). What is no list, or does not read, stays as it
//! is.

use super::syntax::{members, split};

/// Fields that are no lists, in which a space beside a comma may be part of what is said.
const SINGLE: [&str; 12] = [
    "authorization",
    "cookie",
    "date",
    "from",
    "host",
    "if-modified-since",
    "if-unmodified-since",
    "origin",
    "proxy-authorization",
    "referer",
    "user-agent",
    "x-forwarded-host",
];

/// The normal form of the field `name`, in lower case, with these `lines`. Two values have the same one only if they
/// mean the same.
pub(super) fn normal(name: &str, lines: &[&[u8]]) -> Vec<u8> {
    let ranked = match name {
        "accept-encoding" | "accept-language" | "accept-charset" | "accept" => ranked(name, lines),
        _ => None,
    };
    ranked.unwrap_or_else(|| joined(name, lines))
}

fn joined(name: &str, lines: &[&[u8]]) -> Vec<u8> {
    let all = || lines.iter().flat_map(|line| members(line));
    if !SINGLE.contains(&name) && all().all(|(_, torn)| !torn) {
        return all().map(|(member, _)| member).collect::<Vec<_>>().join(&b","[..]);
    }
    lines.iter().map(|line| line.trim_ascii()).collect::<Vec<_>>().join(&b", "[..])
}

/// Members with a weight each, whose order does not count.
fn ranked(name: &str, lines: &[&[u8]]) -> Option<Vec<u8>> {
    let mut found = lines
        .iter()
        .flat_map(|line| members(line))
        .map(|(member, torn)| if torn { None } else { weighed(name, member) })
        .collect::<Option<Vec<_>>>()?;
    found.sort_unstable();
    found.dedup();
    Some(found.join(&b","[..]))
}

fn weighed(name: &str, member: &[u8]) -> Option<Vec<u8>> {
    let mut parts = split(member, b';').map(|(part, _)| part);
    let mut normal = parts.next()?.to_ascii_lowercase();
    if name == "accept-encoding" && matches!(&*normal, b"x-gzip" | b"x-compress") {
        // RFC 9110 sections 8.4.1.1 and 8.4.1.3: another name for the same.
        normal.drain(..2);
    }
    let mut weight = None;
    for part in parts {
        match part {
            [b'q' | b'Q', b'=', digits @ ..] if weight.is_none() => weight = Some(thousandths(digits)?),
            [] | [b'q' | b'Q', b'=', ..] => return None,
            // The names of parameters count in either case; of their values that is not known.
            _ => {
                let equals = part.iter().position(|&byte| byte == b'=').unwrap_or(part.len());
                normal.push(b';');
                normal.extend(part[..equals].to_ascii_lowercase());
                normal.extend_from_slice(&part[equals..]);
            }
        }
    }
    if let Some(weight) = weight.filter(|&weight| weight != 1000) {
        normal.extend(format!(";q={weight}").into_bytes());
    }
    Some(normal)
}

/// A weight: 0 or 1, with up to three digits (RFC 9110 section 12.4.2).
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, rest) = text.split_first()?;
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    if !matches!(whole, b'0' | b'1') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let fraction = (0..3).fold(0, |sum, place| sum * 10 + u16::from(digits.get(place).map_or(0, |digit| digit - b'0')));
    let weight = u16::from(whole - b'0') * 1000 + fraction;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(name: &str, one: &[&str], other: &[&str]) -> bool {
        let normal = |lines: &[&str]| normal(name, &lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
        normal(one) == normal(other)
    }

    #[test]
    fn values_that_mean_the_same_have_one_form() {
        for (name, one, other) in [
            ("accept-encoding", &["gzip, br"][..], &["br,gzip"][..]),
            ("accept-encoding", &["gzip, br"], &["BR", "Gzip"]),
            ("accept-encoding", &["gzip;q=1.0, br;q=0.5"], &["br; q=0.50, gzip"]),
            ("accept-encoding", &["x-gzip"], &["gzip, gzip"]),
            ("accept-language", &["en, de"], &["de, en"]),
            ("accept-language", &["en, de"], &["eN, De"]),
            ("accept-language", &["en, de"], &[" en ,   de"]),
            ("accept-language", &["de;q=1, en-GB;Q=0.7"], &["en-gb;q=0.700,de"]),
            ("accept", &["text/html, */*;q=0.1"], &["*/*;q=0.1,Text/HTML"]),
            ("accept", &["text/html;Level=1"], &["text/html ; level=1"]),
            ("foo", &["1,2"], &[" 1, 2 "]),
            ("foo", &["1, 2"], &["1", "2"]),
            ("foo", &["1,,2"], &["1,2,"]),
            ("user-agent", &["x (a, b)"], &[" x (a, b) "]),
        ] {
            assert!(same(name, one, other), "{name}: {one:?} {other:?}");
        }
    }

    #[test]
    fn values_that_differ_stay_apart() {
        for (name, one, other) in [
            ("accept-encoding", &["gzip, br"][..], &["gzip"][..]),
            ("accept-encoding", &["gzip;q=0"], &["gzip"]),
            ("accept-encoding", &["gzip;q=0.5"], &["gzip;q=0.05"]),
            ("accept-encoding", &["gzip"], &[""]),
            ("accept-encoding", &["gzip;q=2"], &["gzip"]),
            ("accept-language", &["en;q=0.5, de"], &["en, de;q=0.5"]),
            ("accept", &["text/html;charset=A"], &["text/html;charset=a"]),
            ("accept", &["a/b;x=\"1,2\""], &["a/b;x=\"1, 2\""]),
            ("foo", &["A"], &["a"]),
            ("foo", &["1, 2"], &["2, 1"]),
            ("foo", &["1 2"], &["12"]),
            ("foo", &["\"a, b\""], &["\"a,b\""]),
            ("foo", &["a\"b, c"], &["a\"b,c"]),
            ("cookie", &["a=1, 2"], &["a=1,2"]),
            ("user-agent", &["x (a, b)"], &["x (a,b)"]),
        ] {
            assert!(!same(name, one, other), "{name}: {one:?} {other:?}");
        }
    }

    #[test]
    fn weights_have_up_to_three_digits() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("1.", Some(1000)),
            ("1.000", Some(1000)),
            ("0.5", Some(500)),
            ("0.123", Some(123)),
            ("1.001", None),
            ("0.1234", None),
            ("2", None),
            (".5", None),
            ("", None),
            ("0,5", None),
            ("0.x", None),
        ] {
            assert_eq!(thousandths(text.as_bytes()), expected, "{text}");
        }
    }
}
