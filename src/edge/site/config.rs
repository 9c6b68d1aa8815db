//! What is configured of a site: its hosts, its origins, and what the cache may do with what they answer.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::client::Deadlines;
use crate::compress;
use crate::model::{Address, NodeId, Provider, SiteName};
use crate::route::Policy;

/// A site whose content comes from HTTP origins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name, unique on the edge.
    pub name: SiteName,
    /// The hosts that it answers for: names or addresses, without a port; `*.example.org` stands for all names below.
    pub hosts: Vec<String>,
    /// Where its content comes from. Several have the same content: each request goes to the best of them, and to the
    /// next one if that fails.
    pub origins: Vec<OriginConfig>,
    /// How its requests are routed, if not as those of other sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// What of it is compressed, if not what `[edge.compression]` says; whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<compress::Config>,
    /// How long an answer is fresh of which the origin says nothing.
    #[serde(default)]
    pub default_lifetime_s: u32,
    /// Whether such an answer may be fresh for a tenth of its age, where it says when it was modified (RFC 9111 section
    /// 4.2.2).
    #[serde(default = "yes")]
    pub heuristic_lifetime: bool,
    /// Whether clients of HTTP/2 and HTTP/3 who wait for an origin are told before the answer what it will need, as far as
    /// an earlier one said it in `Link` (RFC 8297).
    #[serde(default)]
    pub early_hints: bool,
    /// The largest body of a request.
    #[serde(default = "request_bytes_max")]
    pub request_bytes_max: u64,
    /// How long an origin may take to begin its answer.
    #[serde(default = "first_byte_ms_max")]
    pub first_byte_ms_max: u64,
    /// How long an origin may be silent within an answer.
    #[serde(default = "stall_ms_max")]
    pub stall_ms_max: u64,
    /// How long the origins together may take to begin an answer to a request without a body.
    #[serde(default = "request_ms_max")]
    pub request_ms_max: u64,
}

impl Config {
    pub(super) const fn deadlines(&self, edge: &super::super::Config) -> Deadlines {
        Deadlines {
            connect: Duration::from_millis(edge.connect_ms_max),
            first_byte: Duration::from_millis(self.first_byte_ms_max),
            idle: Duration::from_millis(self.stall_ms_max),
        }
    }
}

/// A page that is made anew may take a while, and events that are told as they come may be rare.
const fn first_byte_ms_max() -> u64 {
    30_000
}

const fn stall_ms_max() -> u64 {
    60_000
}

const fn request_ms_max() -> u64 {
    60_000
}

const fn yes() -> bool {
    true
}

/// Uploads of films go elsewhere; forms and pictures fit.
const fn request_bytes_max() -> u64 {
    1 << 30
}

/// An HTTP server that has the content of a site: its URL, or a table with more about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OriginConfig {
    /// Where it is.
    pub url: OriginUrl,
    /// Its name among the origins of the site; else made of the URL.
    pub name: NodeId,
    /// The cloud that it runs on, which decides its price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
}

impl From<OriginUrl> for OriginConfig {
    fn from(url: OriginUrl) -> Self {
        Self { name: name_of(&url.address), provider: None, url }
    }
}

impl<'de> Deserialize<'de> for OriginConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = OriginConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL, or a table with `url`, `name` and `provider`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OriginConfig, E> {
                OriginUrl::deserialize(text.into_deserializer()).map(OriginConfig::from)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OriginConfig, A::Error> {
                let Table { url, name, provider } = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(OriginConfig { name: name.unwrap_or_else(|| name_of(&url.address)), url, provider })
            }
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            url: OriginUrl,
            name: Option<NodeId>,
            provider: Option<Provider>,
        }

        deserializer.deserialize_any(Form)
    }
}

/// Where an origin is: `http://HOST[:PORT]` or `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OriginUrl {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Where it listens.
    pub address: Address,
}

/// The text is not the URL of an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the URL of an origin: write http://HOST:PORT or https://HOST:PORT, without a path")]
pub struct OriginUrlError(String);

/// A name made of the address of a server.
pub(in crate::edge) fn name_of(address: &Address) -> NodeId {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    let host: String = address.host().chars().map(letter).collect();
    let port = address.port().to_string();
    // The end of a long name tells more than its begin.
    let start = host.len().saturating_sub(60 - port.len());
    let host = host[start..].trim_matches('-');
    format!("{host}-{port}").trim_matches('-').parse().expect("letters, digits and hyphens, none at an end")
}

impl FromStr for OriginUrl {
    type Err = OriginUrlError;

    fn from_str(text: &str) -> Result<Self, OriginUrlError> {
        let error = || OriginUrlError(text.chars().take(300).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(error)?;
        let (tls, port) = match scheme {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return Err(error()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let address = if has_port { authority.parse() } else { format!("{authority}:{port}").parse() };
        Ok(Self { tls, address: address.map_err(|_| error())? })
    }
}

impl TryFrom<String> for OriginUrl {
    type Error = OriginUrlError;

    fn try_from(text: String) -> Result<Self, OriginUrlError> {
        text.parse()
    }
}

impl From<OriginUrl> for String {
    fn from(url: OriginUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_urls_without_a_path() {
        for (text, read) in [
            ("http://10.0.0.7", "http://10.0.0.7:80"),
            ("https://b.example.org/", "https://b.example.org:443"),
            ("https://b.example.org:8443", "https://b.example.org:8443"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://[::1]:81", "http://[::1]:81"),
        ] {
            assert_eq!(text.parse::<OriginUrl>().map(|url| url.to_string()), Ok(read.to_owned()), "{text}");
        }
        for bad in ["", "b.example.org", "ftp://b", "http://", "http://a/b", "http://a:0", "http://a@b", "http://a?b"] {
            assert!(bad.parse::<OriginUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_named_by_their_address_if_by_nothing_else() {
        let long = format!("http://{}.example.org:8080", "a".repeat(60));
        for (url, name) in [
            ("http://10.0.0.7", "10-0-0-7-80"),
            ("http://[::1]:81", "1-81"),
            (&long, &format!("{}-example-org-8080", "a".repeat(44))),
        ] {
            assert_eq!(OriginConfig::from(url.parse::<OriginUrl>().expect("a URL")).name.as_str(), name);
        }
    }

    #[test]
    fn a_site_reads_from_toml() {
        let text = r#"
            name = "shop"
            hosts = ["shop.example.org"]
            origins = ["http://10.0.0.7:81", { url = "https://b.example.org", provider = "AWS" }]
        "#;
        let site: Config = toml::from_str(text).expect("a site");
        assert_eq!(site.origins[1].provider, Some("AWS".parse().expect("a name")));
        assert_eq!((site.origins[0].name.as_str(), site.heuristic_lifetime), ("10-0-0-7-81", true));
        let again: Config = toml::from_str(&toml::to_string(&site).expect("text")).expect("a site");
        assert_eq!(again, site);
        for bad in
            ["origins = [7]", "origins = [\"b\"]", "origins = [{ url = \"http://b\", x = 1 }]", "origins = []\nx = 1"]
        {
            let text = format!("name = \"shop\"\nhosts = []\n{bad}");
            assert!(toml::from_str::<Config>(&text).is_err(), "{bad}");
        }
    }
}
