//! Lists in fields (RFC 9110 section 5.6.1), over all lines of a field.

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName};

/// The members of the list field `name`, without the space around them; empty ones are left out. A comma within quotes
/// separates nothing.
pub(super) fn members(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
    headers.get_all(name).iter().flat_map(|line| members_of(line.as_bytes()))
}

/// The members of one line of a list field, as [`members`] gives them.
pub(super) fn members_of(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(line, true)
}

/// The entity tags of the list field `name`. Unlike in other quotes, a backslash in them is one (RFC 9110 section
/// 8.8.3).
pub(super) fn tags(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &str> {
    let members = headers.get_all(name).iter().flat_map(|line| split(line.as_bytes(), false));
    members.filter_map(|member| std::str::from_utf8(member).ok())
}

/// Whether the list field `name` has the member `token`, in any case; what follows `=` in a member does not count.
pub(super) fn has(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    members(headers, name).any(|member| {
        let name = member.split(|byte| *byte == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}

fn split(line: &[u8], has_escapes: bool) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    line.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted && has_escapes => escaped = true,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    })
    .map(<[u8]>::trim_ascii)
    .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{CACHE_CONTROL, IF_MATCH};

    use super::*;

    #[test]
    fn members_stand_on_any_line_and_quotes_keep_commas() {
        let mut headers = HeaderMap::new();
        headers.append(CACHE_CONTROL, HeaderValue::from_static(r#" ,private="a, no-transform\", b" ,,max-age=1"#));
        headers.append(CACHE_CONTROL, HeaderValue::from_static("No-Store"));
        let expected: [&[u8]; 3] = [br#"private="a, no-transform\", b""#, b"max-age=1", b"No-Store"];
        assert_eq!(members(&headers, CACHE_CONTROL).collect::<Vec<_>>(), expected);
        assert!(has(&headers, &CACHE_CONTROL, "no-store") && has(&headers, &CACHE_CONTROL, "private"));
        assert!(!has(&headers, &CACHE_CONTROL, "no-transform"));
    }

    #[test]
    fn a_backslash_in_a_tag_escapes_nothing() {
        let mut headers = HeaderMap::new();
        headers.append(IF_MATCH, HeaderValue::from_static(r#""a", W/"b,c""#));
        assert_eq!(tags(&headers, IF_MATCH).collect::<Vec<_>>(), [r#""a""#, r#"W/"b,c""#]);
    }
}
