//! The four forms of a request's target (RFC 9112 section 3.2), and the `Host` beside it.

use super::HeadError;

/// What kind of target a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`: the usual one.
    Origin,
    /// `http://host/path?query`: what clients send to proxies, and what every server takes.
    Absolute,
    /// `host:port`, of CONNECT alone.
    Authority,
    /// `*`, of OPTIONS alone.
    Asterisk,
}

/// The target as text, and its form.
///
/// Bytes beyond ASCII are none of RFC 3986. They are taken all the same where they are UTF-8, since much used clients
/// send what a user types.
pub(super) fn parse<'a>(method: &str, target: &'a [u8]) -> Result<(&'a str, TargetForm), HeadError> {
    let text = std::str::from_utf8(target).map_err(|_| HeadError::Target)?;
    if !text.bytes().all(is_target_byte) {
        return Err(HeadError::Target);
    }
    let form = match target {
        _ if method == "CONNECT" => is_host_and_port(text).then_some(TargetForm::Authority),
        [b'/', ..] => Some(TargetForm::Origin),
        b"*" => (method == "OPTIONS").then_some(TargetForm::Asterisk),
        _ => authority_of_absolute(text).map(|_| TargetForm::Absolute),
    };
    form.map(|form| (text, form)).ok_or(HeadError::Target)
}

/// What may stand in a path or a query: RFC 3986 section 3.3, and the few signs more that browsers leave as they are. No
/// `#`: fragments are not sent.
const fn is_target_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x22 | 0x24..=0x3b | 0x3d | 0x3f..=0x5f | 0x61..=0x7e | 0x80..=0xff)
}

/// The authority of `scheme://authority/path?query`; `None` if `text` is no such URI, or names a user (RFC 9110 section
/// 4.2.4).
pub(super) fn authority_of_absolute(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    (is_scheme && !authority.is_empty() && is_host(authority.as_bytes())).then_some(authority)
}

/// The path and query behind the authority of an absolute form; empty if there are none.
pub(super) fn path_of_absolute(text: &str) -> &str {
    let Some((_, rest)) = text.split_once("://") else { return "" };
    rest.find(['/', '?']).map_or("", |from| &rest[from..])
}

/// RFC 9112 section 3.2.3: the port is not left out.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && !port.is_empty() && is_host(text.as_bytes())
}

/// Whether this is a host with or without a port (RFC 9110 section 7.2); an empty one counts, as it does in `Host` where
/// the target has no authority.
pub(super) fn is_host(text: &[u8]) -> bool {
    let (host, rest) = match text {
        [b'[', ..] => {
            let Some(end) = text.iter().position(|byte| *byte == b']') else { return false };
            let (address, rest) = text.split_at(end + 1);
            let inside = &address[1..end];
            let is_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if inside.is_empty() || !inside.iter().all(is_address) {
                return false;
            }
            (&b""[..], rest)
        }
        _ => text.split_at(text.iter().position(|byte| *byte == b':').unwrap_or(text.len())),
    };
    let port = match rest {
        [] => &[],
        [b':', port @ ..] => port,
        _ => return false,
    };
    host.iter().all(|byte| is_reg_name_byte(*byte)) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// RFC 3986 section 3.2.2.
const fn is_reg_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}
