//! Protects listeners that a browser can reach from the web pages it shows: any page can send requests to loopback, and
//! by rebinding its own DNS name also read the answers.
//!
//! Decides on a request's head alone; who the caller is, is another question.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::model::Address;

/// The hosts under which a listener may be addressed.
#[derive(Debug, Clone)]
pub struct AllowedHosts {
    port: u16,
    others: Vec<(String, Option<u16>)>,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// RFC 9112 section 3.2 demands exactly one.
    #[error("the request needs one valid Host header")]
    HostMissing,
    /// Perhaps a web page whose name was bound to this address.
    #[error("this server does not answer for that host: add it to the configured hosts if it should")]
    HostUnknown,
    /// A web page of another origin wants to change something.
    #[error("a web page of another origin may not change anything here")]
    ForeignOrigin,
}

impl Refusal {
    /// The status that says so.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::HostMissing => StatusCode::BAD_REQUEST,
            Self::HostUnknown => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
        }
    }
}

impl AllowedHosts {
    /// The names and addresses of loopback with the listener's own `port`.
    pub const fn loopback(port: u16) -> Self {
        Self { port, others: Vec::new() }
    }

    /// Allows `host` too, with whatever port.
    #[must_use]
    pub fn and_host(mut self, host: &str) -> Self {
        self.others.push((normal(host), None));
        self
    }

    /// Allows `address` too, with its port alone.
    #[must_use]
    pub fn and_address(mut self, address: &Address) -> Self {
        self.others.push((normal(address.host()), Some(address.port())));
        self
    }

    fn allow(&self, target: &Target) -> bool {
        let loopback = match target.host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => target.host == "localhost",
        };
        let port_is = |port| target.port.map_or(matches!(port, 80 | 443), |given| given == port);
        loopback && port_is(self.port)
            || self.others.iter().any(|(host, port)| *host == target.host && port.is_none_or(port_is))
    }
}

/// Turns away requests for unknown hosts, and writes that a foreign web page sends.
///
/// # Errors
/// With the reason to turn it away.
pub fn check(method: &Method, uri: &Uri, headers: &HeaderMap, allowed: &AllowedHosts) -> Result<(), Refusal> {
    let target = Target::of(uri, headers)?;
    if !allowed.allow(&target) {
        return Err(Refusal::HostUnknown);
    }
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let site = single(headers, header::HeaderName::from_static("sec-fetch-site"));
    if site.map_err(|_| Refusal::ForeignOrigin)?.is_some_and(|site| site.eq_ignore_ascii_case("cross-site")) {
        return Err(Refusal::ForeignOrigin);
    }
    match single(headers, header::ORIGIN).map_err(|_| Refusal::ForeignOrigin)? {
        // Programs send none; browsers send it with every write.
        None => Ok(()),
        Some(origin) if target.is_origin(origin) => Ok(()),
        Some(_) => Err(Refusal::ForeignOrigin),
    }
}

fn single(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Refusal::HostMissing),
        _ => Err(Refusal::HostMissing),
    }
}

/// Where a request is addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: Option<u16>,
}

impl Target {
    /// Where the request with this target and these headers is addressed to: its one `Host`, or what the absolute form
    /// says, which goes before it.
    ///
    /// # Errors
    /// [`Refusal::HostMissing`] if there is not one valid `Host`, whatever the absolute form says (RFC 9112 section 3.2).
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, Refusal> {
        let host = single(headers, header::HOST)?.ok_or(Refusal::HostMissing)?;
        let named = Self::of_authority(host).ok_or(Refusal::HostMissing)?;
        match uri.authority() {
            Some(authority) => Self::from_authority(authority).ok_or(Refusal::HostMissing),
            None => Ok(named),
        }
    }

    /// The host, in small letters, without a last dot or the brackets of IPv6.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host, in brackets if it is an IPv6 address, and the port if it is not `default`.
    pub fn authority(&self, default: u16) -> String {
        let mut text = String::with_capacity(self.host.len() + "[]:65535".len());
        if self.host.contains(':') {
            text.extend(["[", &self.host, "]"]);
        } else {
            text.push_str(&self.host);
        }
        if let Some(port) = self.port.filter(|port| *port != default) {
            write!(text, ":{port}").expect("a String takes everything");
        }
        text
    }

    /// Where `text` leads, a host with or without a port; `None` if it is none.
    pub fn of_authority(text: &str) -> Option<Self> {
        Self::from_authority(&text.parse::<Authority>().ok()?)
    }

    /// Who asks is never said by the address (RFC 9110 section 4.2.4).
    fn from_authority(authority: &Authority) -> Option<Self> {
        let named = !authority.host().is_empty() && !authority.as_str().contains('@');
        named.then(|| Self { host: normal(authority.host()), port: authority.port_u16() })
    }

    /// Whether a page of `origin` was loaded from here.
    fn is_origin(&self, origin: &str) -> bool {
        let (authority, default) = match origin.split_once("://") {
            Some(("http", authority)) => (authority, 80),
            Some(("https", authority)) => (authority, 443),
            _ => return false,
        };
        let Some(origin) = Self::of_authority(authority) else { return false };
        origin.host == self.host && origin.port.unwrap_or(default) == self.port.unwrap_or(default)
    }
}

/// A host as hosts are compared: in small letters, without a last dot or the brackets of IPv6.
pub fn normal(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let allowed =
            AllowedHosts::loopback(8871).and_host("cdn.example.org").and_address(&"10.0.0.7:8871".parse().unwrap());
        check(&method.parse().unwrap(), &uri.parse().unwrap(), &map, &allowed)
    }

    #[test]
    fn own_hosts_are_answered_and_others_are_not() {
        for own in [
            "localhost:8871",
            "LOCALHOST:8871",
            "localhost.:8871",
            "127.0.0.1:8871",
            "127.9.9.9:8871",
            "[::1]:8871",
            "[::ffff:127.0.0.1]:8871",
            "cdn.example.org",
            "CDN.example.org:9999",
            "10.0.0.7:8871",
        ] {
            assert_eq!(ask("GET", "/", &[("host", own)]), Ok(()), "{own}");
        }
        for other in [
            "localhost",
            "localhost:8872",
            "evil.example.org:8871",
            "localhost.evil.org:8871",
            "127.0.0.1.evil.org:8871",
            "10.0.0.7:80",
            "0.0.0.0:8871",
        ] {
            assert_eq!(ask("GET", "/", &[("host", other)]), Err(Refusal::HostUnknown), "{other}");
        }
    }

    #[test]
    fn host_is_needed_once() {
        assert_eq!(ask("GET", "/", &[]), Err(Refusal::HostMissing));
        let two = [("host", "localhost:8871"), ("host", "localhost:8871")];
        assert_eq!(ask("GET", "/", &two), Err(Refusal::HostMissing));
        for bad in ["", "a b", "user@localhost:8871", "localhost:8871/x"] {
            assert_eq!(ask("GET", "/", &[("host", bad)]), Err(Refusal::HostMissing), "{bad}");
        }
    }

    #[test]
    fn the_absolute_form_goes_before_host() {
        let own = [("host", "localhost:8871")];
        assert_eq!(ask("GET", "http://evil.org/x", &own), Err(Refusal::HostUnknown));
        assert_eq!(ask("GET", "http://localhost:8871/x", &[("host", "evil.org")]), Ok(()));
        assert_eq!(ask("GET", "http://localhost:8871/x", &[]), Err(Refusal::HostMissing));
        assert_eq!(ask("GET", "http://user@localhost:8871/x", &own), Err(Refusal::HostMissing));
    }

    #[test]
    fn foreign_pages_may_read_but_not_write() {
        let host = ("host", "localhost:8871");
        let foreign = [host, ("origin", "http://evil.org")];
        for read in ["GET", "HEAD", "OPTIONS"] {
            assert_eq!(ask(read, "/", &foreign), Ok(()), "{read}");
        }
        for write in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
            assert_eq!(ask(write, "/", &foreign), Err(Refusal::ForeignOrigin), "{write}");
            assert_eq!(ask(write, "/", &[host]), Ok(()), "{write} of a program");
            assert_eq!(
                ask(write, "/", &[host, ("origin", "http://localhost:8871")]),
                Ok(()),
                "{write} of the own page"
            );
        }
        for origin in
            ["null", "http://localhost", "http://localhost:3000", "file://localhost:8871", "localhost:8871", ""]
        {
            assert_eq!(ask("POST", "/", &[host, ("origin", origin)]), Err(Refusal::ForeignOrigin), "{origin}");
        }
        assert_eq!(ask("POST", "/", &[host, ("sec-fetch-site", "cross-site")]), Err(Refusal::ForeignOrigin));
        assert_eq!(ask("POST", "/", &[host, ("sec-fetch-site", "same-origin")]), Ok(()));
        let public = [("host", "cdn.example.org"), ("origin", "https://cdn.example.org")];
        assert_eq!(ask("POST", "/", &public), Ok(()));
        let port = [("host", "cdn.example.org"), ("origin", "https://cdn.example.org:8443")];
        assert_eq!(ask("POST", "/", &port), Err(Refusal::ForeignOrigin));
    }
}
