//! Purges: what caches are to forget, or to ask about before they use it again.

use std::fmt;

use http::Uri;
use serde::{Deserialize, Serialize};

/// The longest text of a purge, in bytes: as long as the target of a request.
const LENGTH_MAX: usize = 8 * 1024;

/// What is to be purged, of all that was fetched before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Purge {
    target: PurgeTarget,
    soft: bool,
}

/// What a purge is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeTarget {
    /// What this URI names, by either scheme: host, path and query.
    Url(String),
    /// All whose URIs begin so.
    Prefix(String),
    /// All of a host.
    Host(String),
    /// All that have this tag in `Cache-Tag` or `Surrogate-Key`.
    Tag(String),
}

/// A purge that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PurgeError {
    /// It is about nothing, or about several things.
    #[error("say what to purge: exactly one of url, prefix, host and tag")]
    Target,
    /// The URI is none.
    #[error("{0:?} is no http or https URI with a host and a path: write https://HOST/PATH")]
    Url(String),
    /// The host is none.
    #[error("{0:?} is no host: write a name or an address, with its port if that is an unusual one")]
    Host(String),
    /// The tag is none.
    #[error("{0:?} is no tag: a tag is one word of visible ASCII without a comma")]
    Tag(String),
    /// It is too long.
    #[error("what is purged has at most {LENGTH_MAX} bytes")]
    TooLong,
}

/// A purge as JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    soft: bool,
}

impl Purge {
    /// A purge of `target`. A soft one leaves what it is about to be used once somebody has said that it is right still.
    ///
    /// # Errors
    /// When the target is none. Hosts are written in small letters, and ports that the scheme implies are left out.
    pub fn new(target: PurgeTarget, soft: bool) -> Result<Self, PurgeError> {
        let target = match target {
            PurgeTarget::Url(url) => PurgeTarget::Url(normal_uri(&url)?),
            PurgeTarget::Prefix(prefix) => PurgeTarget::Prefix(normal_uri(&prefix)?),
            PurgeTarget::Host(host) => {
                let normal = normal_uri(&host).map_err(|_| PurgeError::Host(host.clone()))?;
                let host = normal.strip_suffix('/').filter(|rest| !rest.contains('/')).ok_or(PurgeError::Host(host))?;
                PurgeTarget::Host(host.to_owned())
            }
            PurgeTarget::Tag(tag) => {
                let is_word = !tag.is_empty() && tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
                if !is_word {
                    return Err(PurgeError::Tag(shortened(&tag)));
                }
                PurgeTarget::Tag(tag)
            }
        };
        if target.text().len() > LENGTH_MAX {
            return Err(PurgeError::TooLong);
        }
        Ok(Self { target, soft })
    }

    /// What it is about.
    pub const fn target(&self) -> &PurgeTarget {
        &self.target
    }

    /// Whether what it is about may be used again once somebody has said that it is right.
    pub const fn is_soft(&self) -> bool {
        self.soft
    }
}

impl PurgeTarget {
    /// Its text.
    pub fn text(&self) -> &str {
        match self {
            Self::Url(text) | Self::Prefix(text) | Self::Host(text) | Self::Tag(text) => text,
        }
    }
}

impl fmt::Display for Purge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.target {
            PurgeTarget::Url(_) => "url",
            PurgeTarget::Prefix(_) => "prefix",
            PurgeTarget::Host(_) => "host",
            PurgeTarget::Tag(_) => "tag",
        };
        write!(f, "{kind} {}{}", self.target.text(), if self.soft { " (soft)" } else { "" })
    }
}

impl TryFrom<Fields> for Purge {
    type Error = PurgeError;

    fn try_from(fields: Fields) -> Result<Self, PurgeError> {
        let Fields { url, prefix, host, tag, soft } = fields;
        let targets = [
            url.map(PurgeTarget::Url),
            prefix.map(PurgeTarget::Prefix),
            host.map(PurgeTarget::Host),
            tag.map(PurgeTarget::Tag),
        ];
        let mut targets = targets.into_iter().flatten();
        match (targets.next(), targets.next()) {
            (Some(target), None) => Self::new(target, soft),
            _ => Err(PurgeError::Target),
        }
    }
}

impl From<Purge> for Fields {
    fn from(purge: Purge) -> Self {
        let mut fields = Self { soft: purge.soft, ..Self::default() };
        match purge.target {
            PurgeTarget::Url(url) => fields.url = Some(url),
            PurgeTarget::Prefix(prefix) => fields.prefix = Some(prefix),
            PurgeTarget::Host(host) => fields.host = Some(host),
            PurgeTarget::Tag(tag) => fields.tag = Some(tag),
        }
        fields
    }
}

/// Host, path and query of a URI, whose scheme may be left out (RFC 9110 section 4.2.3: hosts have no case, and a port that
/// the scheme implies is none).
fn normal_uri(text: &str) -> Result<String, PurgeError> {
    if text.len() > LENGTH_MAX {
        return Err(PurgeError::TooLong);
    }
    let error = || PurgeError::Url(shortened(text));
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = with_scheme.parse().map_err(|_| error())?;
    let implied = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(error()),
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(error)?;
    let host = authority.host().to_ascii_lowercase();
    if host.is_empty() || text.contains('#') {
        return Err(error());
    }
    let port = authority.port_u16().filter(|port| *port != implied).map_or_else(String::new, |port| format!(":{port}"));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(format!("{host}{port}{path}"))
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Purge, String> {
        serde_json::from_str(json).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn a_purge_reads_in_its_normal_form() {
        for (json, shown) in [
            (r#"{"url": "HTTPS://Example.org:443/A?b"}"#, "url example.org/A?b"),
            (r#"{"url": "http://example.org:8080"}"#, "url example.org:8080/"),
            (r#"{"url": "example.org?b"}"#, "url example.org/?b"),
            (r#"{"prefix": "example.org/img/", "soft": true}"#, "prefix example.org/img/ (soft)"),
            (r#"{"host": "Example.org"}"#, "host example.org"),
            (r#"{"host": "[::1]:8080"}"#, "host [::1]:8080"),
            (r#"{"tag": "post-7"}"#, "tag post-7"),
        ] {
            let purge = read(json).expect(json);
            assert_eq!(purge.to_string(), shown);
            assert_eq!(read(&serde_json::to_string(&purge).expect("JSON")), Ok(purge));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for json in [
            "{}",
            r#"{"url": "a/b", "tag": "c"}"#,
            r#"{"url": "/a"}"#,
            r#"{"url": "ftp://a/b"}"#,
            r#"{"url": "http://me@a/b"}"#,
            r#"{"url": "a/b#c"}"#,
            r#"{"host": "a/b"}"#,
            r#"{"host": ""}"#,
            r#"{"tag": "a b"}"#,
            r#"{"tag": "a,b"}"#,
            r#"{"tag": ""}"#,
            r#"{"all": true}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
        let long = format!(r#"{{"url": "a/{}"}}"#, "b".repeat(LENGTH_MAX));
        assert!(read(&long).is_err());
    }
}
