//! Reading one's own writes: the oldest version of an object that a client puts up with.

use http::HeaderMap;

use super::MIN_VERSION_HEADER;
use crate::model::{Version, VersionError};

/// Why `metacdn-min-version` cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MinVersionError {
    /// It stands there more than once, so that which of them is meant is anyone's guess.
    #[error("{MIN_VERSION_HEADER} stands there more than once")]
    Several,
    /// It is no version.
    #[error("{MIN_VERSION_HEADER}: {0}")]
    Malformed(#[from] VersionError),
}

/// The version that the answer to a request with `headers` must at least have; `None` where any will do.
///
/// # Errors
/// When the header is there and is not one version.
pub fn min_version(headers: &HeaderMap) -> Result<Option<Version>, MinVersionError> {
    let mut values = headers.get_all(MIN_VERSION_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(MinVersionError::Several);
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    Ok(Some(text.trim().parse()?))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn it_is_one_version_or_refused() {
        let version = "0000000003e80000.GC.00000000000000ab.7";
        let read = |values: &[&'static str]| {
            let pair = |value| (http::HeaderName::from_static(MIN_VERSION_HEADER), HeaderValue::from_static(value));
            let headers: HeaderMap = values.iter().copied().map(pair).collect();
            min_version(&headers).map(|version| version.map(|version| version.to_string()))
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[version]), Ok(Some(version.to_owned())));
        assert!(matches!(read(&[""]), Err(MinVersionError::Malformed(_))));
        assert!(matches!(read(&["7"]), Err(MinVersionError::Malformed(_))));
        // Two fields in one map are appended, not replaced.
        let mut twice = HeaderMap::new();
        for _ in 0..2 {
            twice.append(MIN_VERSION_HEADER, HeaderValue::from_static(version));
        }
        assert_eq!(min_version(&twice), Err(MinVersionError::Several));
    }
}
