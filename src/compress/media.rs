//! Which media types are worth compressing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A pattern of media types: `text/html`, `text/*`, `*/*+json`, `*/*`; parameters do not count, nor does case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MediaPattern {
    /// Without capital letters; `*` is any.
    kind: String,
    /// Without capital letters; `*` is any, `*+json` any that ends so.
    subtype: String,
}

/// The text is no pattern of media types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no media type: write text/html, text/*, */*+json or the like")]
pub struct MediaPatternError(String);

/// Media types that shrink, as servers name them. Not in it: what is compressed by itself (JPEG, MP4, PDF, WOFF, ZIP).
const COMPRESSIBLE: [&str; 38] = [
    "text/*",
    "*/*+json",
    "*/*+text",
    "*/*+xml",
    "*/*+yaml",
    "application/dash+xml",
    "application/ecmascript",
    "application/font-sfnt",
    "application/geo+json-seq",
    "application/graphql",
    "application/javascript",
    "application/json",
    "application/json-seq",
    "application/jsonlines",
    "application/n-triples",
    "application/ndjson",
    "application/postscript",
    "application/rtf",
    "application/sql",
    "application/toml",
    "application/vnd.apple.mpegurl",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-font-otf",
    "application/x-font-ttf",
    "application/x-javascript",
    "application/x-mpegurl",
    "application/x-ndjson",
    "application/x-sh",
    "application/x-yaml",
    "application/xml",
    "application/yaml",
    "font/collection",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/vnd.microsoft.icon",
    "image/x-icon",
];

impl MediaPattern {
    /// The patterns of what is compressed unless somebody says otherwise.
    pub fn compressible() -> Vec<Self> {
        COMPRESSIBLE.into_iter().map(|text| text.parse().expect("a test parses them all")).collect()
    }

    /// Whether any of `patterns` is for answers with this `Content-Type`; what is no media type matches nothing.
    pub fn any_matches(patterns: &[Self], content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let Some((kind, subtype)) = essence.split_once('/') else { return false };
        !subtype.is_empty() && patterns.iter().any(|pattern| pattern.matches(kind, subtype))
    }

    fn matches(&self, kind: &str, subtype: &str) -> bool {
        (self.kind == "*" || self.kind.eq_ignore_ascii_case(kind)) && self.matches_subtype(subtype)
    }

    fn matches_subtype(&self, subtype: &str) -> bool {
        let Some(ending) = self.subtype.strip_prefix('*') else { return self.subtype.eq_ignore_ascii_case(subtype) };
        let start = subtype.len().checked_sub(ending.len());
        start.and_then(|start| subtype.get(start..)).is_some_and(|end| ending.eq_ignore_ascii_case(end))
    }
}

impl FromStr for MediaPattern {
    type Err = MediaPatternError;

    fn from_str(text: &str) -> Result<Self, MediaPatternError> {
        // RFC 6838 section 4.2: what names consist of.
        let is_name = |name: &str| {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
            !name.is_empty() && name.bytes().all(legal)
        };
        let error = || MediaPatternError(text.to_owned());
        let (kind, subtype) = text.split_once('/').ok_or_else(error)?;
        let subtype_is_right = match subtype.strip_prefix('*') {
            Some(ending) => ending.is_empty() || ending.starts_with('+') && is_name(&ending[1..]),
            None => is_name(subtype),
        };
        if !subtype_is_right || kind != "*" && !is_name(kind) {
            return Err(error());
        }
        Ok(Self { kind: kind.to_ascii_lowercase(), subtype: subtype.to_ascii_lowercase() })
    }
}

impl TryFrom<String> for MediaPattern {
    type Error = MediaPatternError;

    fn try_from(text: String) -> Result<Self, MediaPatternError> {
        text.parse()
    }
}

impl From<MediaPattern> for String {
    fn from(pattern: MediaPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for MediaPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.kind, self.subtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_types_without_case_and_parameters() {
        for (pattern, yes, no) in [
            (
                "text/html",
                &["text/html", "TEXT/Html; charset=utf-8", " text/html;x=\"/\""][..],
                &["text/htmlx", "text"][..],
            ),
            ("Text/*", &["text/html", "text/x-y"], &["texts/html", "text/", "/html", ""]),
            ("*/*+json", &["application/ld+json", "model/gltf+JSON"], &["application/json", "application/ld+jsonx"]),
            ("application/*+xml", &["application/atom+xml;v=1"], &["image/svg+xml", "application/é+xm"]),
            ("*/*", &["video/mp4"], &["video", ""]),
        ] {
            let parsed: MediaPattern = pattern.parse().expect(pattern);
            let matches = |content_type: &&str| MediaPattern::any_matches(std::slice::from_ref(&parsed), content_type);
            assert!(yes.iter().all(matches), "{pattern} matches {yes:?}");
            assert!(!no.iter().any(matches), "{pattern} does not match {no:?}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in
            ["", "text", "text/", "/html", "text/html; charset=utf-8", "*/json*", "te*t/html", "a/*json", "a/b/c"]
        {
            assert_eq!(text.parse::<MediaPattern>(), Err(MediaPatternError(text.to_owned())));
        }
    }

    #[test]
    fn what_is_compressed_by_itself_is_not_compressible() {
        let patterns = MediaPattern::compressible();
        let matches = |content_type: &str| MediaPattern::any_matches(&patterns, content_type);
        for kind in ["text/css", "application/json", "image/svg+xml", "application/wasm", "font/ttf", "text/javascript"]
        {
            assert!(matches(kind), "{kind}");
        }
        for kind in
            ["image/png", "video/mp4", "font/woff2", "application/zip", "application/octet-stream", "image/avif"]
        {
            assert!(!matches(kind), "{kind}");
        }
    }
}
