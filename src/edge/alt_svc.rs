//! Whether clients are told that they may come by HTTP/3 (RFC 7838): only while it is known to work.

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Version};

/// What answers over TLS say of other ways to come.
#[derive(Debug, Default)]
pub(super) struct AltSvc(ArcSwapOption<HeaderValue>);

impl AltSvc {
    /// From now on clients are told that HTTP/3 is spoken at `port`. They may believe it for a day.
    #[cfg(any(feature = "http3", test))]
    pub(super) fn offer(&self, port: u16) {
        if let Ok(value) = HeaderValue::try_from(format!("h3=\":{port}\"; ma=86400")) {
            self.0.store(Some(value.into()));
        }
    }

    /// From now on clients that were told so are told that it is over. Nothing is said where nothing was.
    #[cfg(any(feature = "http3", test))]
    pub(super) fn withdraw(&self) {
        if self.0.load().is_some() {
            self.0.store(Some(HeaderValue::from_static("clear").into()));
        }
    }

    /// What to say in an answer to a request of this version, that came over TLS or not.
    pub(super) fn for_answer(&self, version: Version, secured: bool) -> Option<HeaderValue> {
        // Over plain HTTP it would be for `http`, which this edge does not speak over QUIC.
        if !secured || version == Version::HTTP_3 {
            return None;
        }
        self.0.load().as_deref().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_offered_is_taken_back_and_nothing_else() {
        let alt_svc = AltSvc::default();
        let said = |version, secured| alt_svc.for_answer(version, secured);
        assert_eq!(said(Version::HTTP_2, true), None);
        alt_svc.withdraw();
        assert_eq!(said(Version::HTTP_2, true), None, "it was never offered");
        alt_svc.offer(443);
        assert_eq!(said(Version::HTTP_11, true).unwrap(), "h3=\":443\"; ma=86400");
        assert_eq!((said(Version::HTTP_11, false), said(Version::HTTP_3, true)), (None, None));
        alt_svc.withdraw();
        assert_eq!(said(Version::HTTP_2, true).unwrap(), "clear");
    }
}
