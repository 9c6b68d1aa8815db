//! What is a request where it comes without lines (RFC 9113 section 8, RFC 9114 section 4), in the form that HTTP/1.1
//! would have given it.

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request, uri};

use crate::http1::{FIELDS_MAX, HeadError, Limits, is_of_connection};

/// Longer than every method that is registered; as in HTTP/1.1 here.
const METHOD_BYTES_MAX: usize = 32;

/// Why there is no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::serve) enum Unprepared {
    /// It is malformed: its stream is reset, and nobody is asked.
    Malformed(&'static str),
    /// It is one that is not taken.
    Refused(StatusCode, String),
}

impl From<HeadError> for Unprepared {
    fn from(error: HeadError) -> Self {
        Self::Refused(error.status(), error.to_string())
    }
}

/// The request as a handler of HTTP/1.1 would get it: the path alone as its target, `Host`, and one `Cookie`. A target of
/// another scheme than `https` keeps its whole form, so that handlers see it.
///
/// # Errors
/// When it is none.
pub(in crate::serve) fn prepare(mut parts: request::Parts, limits: &Limits) -> Result<request::Parts, Unprepared> {
    // What the codec left there is its own.
    parts.extensions = Extensions::new();
    check_fields(&parts.headers)?;
    if parts.method.as_str().len() > METHOD_BYTES_MAX {
        return Err(HeadError::MethodTooLong.into());
    }
    if parts.headers.len() > FIELDS_MAX {
        return Err(HeadError::TooManyFields.into());
    }
    check_length(&parts.headers)?;
    for expectation in parts.headers.get_all(header::EXPECT) {
        if !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            let detail = "only 100-continue can be expected here".to_owned();
            return Err(Unprepared::Refused(StatusCode::EXPECTATION_FAILED, detail));
        }
    }
    state_host(&mut parts)?;
    join_cookies(&mut parts.headers);
    if parts.method == Method::CONNECT {
        return Ok(parts);
    }
    let Some(path) = parts.uri.path_and_query() else { return Err(Unprepared::Malformed("there is no path")) };
    if path.as_str().len() > limits.target_bytes {
        return Err(HeadError::TargetTooLong.into());
    }
    // RFC 9113 section 8.3.1, RFC 9114 section 4.3.1.
    let is_of_server = path == "*" && parts.method == Method::OPTIONS;
    if !path.as_str().starts_with('/') && !is_of_server {
        return Err(Unprepared::Malformed("the path does not begin with a slash"));
    }
    if parts.uri.scheme().is_none_or(|scheme| *scheme == uri::Scheme::HTTPS) {
        parts.uri = Uri::from(path.clone());
    }
    Ok(parts)
}

/// Whether the client waits for a 100 before it sends its body (RFC 9110 section 10.1.1).
pub(in crate::serve) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.contains_key(header::EXPECT)
}

/// RFC 9113 sections 8.2.1 and 8.2.2, RFC 9114 section 4.2.
fn check_fields(headers: &HeaderMap) -> Result<(), Unprepared> {
    for (name, value) in headers {
        let is_trailers = *name == header::TE && value.as_bytes().eq_ignore_ascii_case(b"trailers");
        if is_of_connection(name) && !is_trailers || *name == header::UPGRADE {
            return Err(Unprepared::Malformed("a field is of a connection of HTTP/1.1"));
        }
        let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if is_space(value.as_bytes().first()) || is_space(value.as_bytes().last()) {
            return Err(Unprepared::Malformed("a value begins or ends with white space"));
        }
    }
    Ok(())
}

/// One length, as a number and nothing else: whoever reads another one of several takes other bytes for the body (RFC 9110
/// section 8.6).
fn check_length(headers: &HeaderMap) -> Result<(), Unprepared> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    if lengths.next().is_some() {
        return Err(Unprepared::Malformed("there are two lengths"));
    }
    let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
    match length.to_str().ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok()) {
        Some(_) => Ok(()),
        None => Err(Unprepared::Malformed("the length is no number")),
    }
}

/// Whoever is asked is said once: by the pseudo-field, or by `Host` where a request of HTTP/1.1 was translated.
fn state_host(parts: &mut request::Parts) -> Result<(), Unprepared> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(Unprepared::Malformed("there are two hosts"));
    }
    match (parts.uri.authority(), host) {
        (None, None) => Err(Unprepared::Malformed("there is no host")),
        (None, Some(_)) => Ok(()),
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(Unprepared::Malformed("there are two hosts"))
        }
        (Some(authority), _) => {
            let host = HeaderValue::from_str(authority.as_str());
            let host = host.map_err(|_| Unprepared::Malformed("the host is no text"))?;
            parts.headers.insert(header::HOST, host);
            Ok(())
        }
    }
}

/// RFC 9113 section 8.2.3, RFC 9114 section 4.2.1: its crumbs are one field for whoever speaks HTTP/1.1.
fn join_cookies(headers: &mut HeaderMap) {
    const COOKIE: HeaderName = header::COOKIE;
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const LIMITS: Limits = Limits { head_bytes: 16 << 10, target_bytes: 100 };

    fn read(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<request::Parts, Unprepared> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        prepare(request.body(()).unwrap().into_parts().0, &LIMITS)
    }

    #[test]
    fn a_request_looks_as_one_of_http_1() {
        let fields = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("te", "trailers")];
        let parts = read("GET", "https://A.example:443/p?q", &fields).unwrap();
        assert_eq!(
            (parts.uri.to_string().as_str(), &parts.headers["host"]),
            ("/p?q", &"A.example:443".parse().unwrap())
        );
        assert_eq!(parts.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        let by_field = read("GET", "/p", &[("host", "a.example")]).unwrap();
        assert_eq!((by_field.uri.path(), &by_field.headers["host"]), ("/p", &"a.example".parse().unwrap()));
        let same = read("GET", "https://a.example/", &[("host", "A.EXAMPLE")]).unwrap();
        assert_eq!(same.headers.get_all("host").iter().count(), 1);
        let other = read("GET", "http://a.example/", &[]).unwrap();
        assert_eq!(other.uri.to_string(), "http://a.example/", "the scheme is left to be seen");
    }

    #[test]
    fn what_is_malformed_is_no_request() {
        for (method, uri, fields) in [
            ("GET", "/p", &[][..]),
            ("GET", "https://a.example/", &[("host", "b.example")]),
            ("GET", "https://a.example/", &[("host", "a.example"), ("host", "a.example")]),
            ("GET", "https://a.example/", &[("connection", "close")]),
            ("GET", "https://a.example/", &[("keep-alive", "1")]),
            ("GET", "https://a.example/", &[("proxy-connection", "x")]),
            ("GET", "https://a.example/", &[("transfer-encoding", "chunked")]),
            ("GET", "https://a.example/", &[("upgrade", "websocket")]),
            ("GET", "https://a.example/", &[("te", "gzip")]),
            ("GET", "https://a.example/", &[("x", " y")]),
            ("GET", "https://a.example/", &[("x", "y\t")]),
            ("PUT", "https://a.example/", &[("content-length", "5"), ("content-length", "5")]),
            ("PUT", "https://a.example/", &[("content-length", "5"), ("content-length", "6")]),
            ("PUT", "https://a.example/", &[("content-length", "5, 5")]),
            ("PUT", "https://a.example/", &[("content-length", "+5")]),
            ("PUT", "https://a.example/", &[("content-length", "")]),
            ("PUT", "https://a.example/", &[("content-length", "99999999999999999999")]),
        ] {
            assert!(matches!(read(method, uri, fields), Err(Unprepared::Malformed(_))), "{uri} {fields:?}");
        }
        let star = |method: &str| {
            let (mut parts, ()) = Request::builder().method(method).header("host", "a").body(()).unwrap().into_parts();
            parts.uri = Uri::from(uri::PathAndQuery::from_static("*"));
            prepare(parts, &LIMITS)
        };
        assert!(star("OPTIONS").is_ok() && star("GET").is_err());
    }

    #[test]
    fn what_is_not_taken_is_told() {
        let status = |read: Result<_, Unprepared>| match read {
            Err(Unprepared::Refused(status, _)) => status.as_u16(),
            other => panic!("{other:?}"),
        };
        let many: Vec<_> = (0..=FIELDS_MAX).map(|_| ("x", "y")).collect();
        assert_eq!(status(read("GET", "https://a/", &many)), 431);
        assert_eq!(status(read("GET", &format!("https://a/{}", "x".repeat(100)), &[])), 414);
        assert_eq!(status(read("GET", "https://a/", &[("expect", "more")])), 417);
        assert_eq!(status(read(&"X".repeat(40), "https://a/", &[])), 501);
        assert!(read("CONNECT", "a:443", &[]).is_ok(), "whether it is allowed is the handler's");
    }
}
