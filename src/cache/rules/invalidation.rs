//! What a request that changes something makes wrong (RFC 9111 section 4.4).

use http::header::{CONTENT_LOCATION, HeaderMap, LOCATION};
use http::{Method, StatusCode, Uri};

/// The methods that change nothing, by RFC 9110 section 9.2.1 and the registry of methods. All others may, those that
/// nobody knows, too.
const SAFE: [&str; 8] = ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"];

/// Whether requests with `method` may change something, so that they are forwarded before they are answered (section
/// 4).
pub fn is_unsafe(method: &Method) -> bool {
    !SAFE.contains(&method.as_str())
}

/// What is no longer right after an answer with `status` and the header `response` to a request for `target`, which has
/// scheme and host: what is stored for these goes, or is validated before its next use. The target itself, and what
/// `Location` and `Content-Location` name if that is of the same origin, all with scheme and host as the target has
/// them; nothing after an error or a safe method.
pub fn invalidated(method: &Method, target: &Uri, status: StatusCode, response: &HeaderMap) -> Vec<Uri> {
    if !is_unsafe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut found = vec![target.clone()];
    for name in [LOCATION, CONTENT_LOCATION] {
        let named = response.get(name).and_then(|value| resolve(target, value.as_bytes()));
        // Section 4.4: one origin must not empty the cache of another.
        let of_same_origin = named.filter(|uri| origin(uri).is_some() && origin(uri) == origin(target));
        let Some(uri) = of_same_origin.and_then(|uri| resolve(target, uri.path_and_query()?.as_str().as_bytes()))
        else {
            continue;
        };
        if !found.contains(&uri) {
            found.push(uri);
        }
    }
    found
}

/// Scheme, host and port, as far as they tell origins apart (RFC 9110 section 4.3.1).
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().or(match &*scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })?;
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// What the `reference` in a response to a request for `base` points at, without a fragment (RFC 3986 section 5.2).
pub(super) fn resolve(base: &Uri, reference: &[u8]) -> Option<Uri> {
    let reference = std::str::from_utf8(reference).ok()?.trim();
    let reference = reference.split('#').next()?;
    let (scheme, authority) = (base.scheme_str()?, base.authority()?.as_str());
    let has_scheme = reference.find(':').is_some_and(|colon| {
        let name = &reference[..colon];
        name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    });
    if has_scheme {
        let uri: Uri = reference.parse().ok()?;
        return built(uri.scheme_str()?, uri.authority()?.as_str(), uri.path(), uri.query());
    }
    if let Some(rest) = reference.strip_prefix("//") {
        let uri: Uri = format!("{scheme}://{rest}").parse().ok()?;
        return built(scheme, uri.authority()?.as_str(), uri.path(), uri.query());
    }
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    match path {
        "" => built(scheme, authority, base.path(), query.or(base.query())),
        _ if path.starts_with('/') => built(scheme, authority, path, query),
        _ => {
            let folder = base.path().rfind('/').map_or("/", |slash| &base.path()[..=slash]);
            built(scheme, authority, &format!("{folder}{path}"), query)
        }
    }
}

fn built(scheme: &str, authority: &str, path: &str, query: Option<&str>) -> Option<Uri> {
    let path = without_dots(path);
    let path_and_query = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path_and_query).build().ok()
}

/// RFC 3986 section 5.2.4.
fn without_dots(path: &str) -> String {
    if !path.contains("/.") {
        return if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    const TARGET: &str = "http://example.com/a/b?c";

    fn after(method: &str, status: u16, fields: &[(&str, &str)]) -> Vec<String> {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let status = StatusCode::from_u16(status).expect("a status");
        let uris = invalidated(&method, &TARGET.parse().expect("a URI"), status, &headers(fields));
        uris.iter().map(Uri::to_string).collect()
    }

    #[test]
    fn unsafe_and_unknown_methods_invalidate_their_target() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "FOO", "get"] {
            for status in [200, 201, 204, 301, 303] {
                assert_eq!(after(method, status, &[]), [TARGET], "{method} {status}");
            }
            for status in [400, 404, 500, 503] {
                assert!(after(method, status, &[]).is_empty(), "{method} {status}");
            }
        }
        for method in SAFE {
            assert!(after(method, 200, &[("location", "/x")]).is_empty(), "{method}");
        }
    }

    #[test]
    fn what_the_response_names_is_invalidated_if_of_the_same_origin() {
        let named = |name: &str, value: &str| after("POST", 201, &[(name, value)])[1..].to_vec();
        for name in ["location", "content-location"] {
            for (value, expected) in [
                ("/x", "http://example.com/x"),
                ("http://example.com/x?y", "http://example.com/x?y"),
                ("HTTP://EXAMPLE.com:80/x", "http://example.com/x"),
                ("//example.com/x", "http://example.com/x"),
                ("x", "http://example.com/a/x"),
                ("./x/../y#z", "http://example.com/a/y"),
                ("../../../x", "http://example.com/x"),
                ("..", "http://example.com/"),
                ("?d", "http://example.com/a/b?d"),
            ] {
                assert_eq!(named(name, value), [expected], "{name}: {value}");
            }
            for value in [
                "",
                "#x",
                "http://example.com/a/b?c",
                "http://other.com/x",
                "https://example.com/x",
                "http://example.com:8080/x",
                "http://example.com.evil/x",
                "//other.com/",
                "mailto:a@example.com",
                "http://",
                "http://a b/",
            ] {
                assert!(named(name, value).is_empty(), "{name}: {value}");
            }
        }
        let both = after("PUT", 200, &[("location", "/x"), ("content-location", "/y")]);
        assert_eq!(both, [TARGET, "http://example.com/x", "http://example.com/y"]);
    }
}
