//! Who may do what.

use http::StatusCode;

use super::error::ApiError;
use crate::model::Principal;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// To read objects, the feed, members and prices.
    Read,
    /// To change objects and prices.
    Write,
}

/// Refuses a caller without the right: an anonymous one is told to show a certificate, another one that it may not.
pub(super) fn require(principal: &Principal, right: Right) -> Result<(), ApiError> {
    match (principal, right) {
        (Principal::Operator | Principal::Client(_), _) => Ok(()),
        (Principal::Node(_) | Principal::Edge(_), Right::Read) => Ok(()),
        (Principal::Node(_) | Principal::Edge(_), Right::Write) => {
            Err(ApiError::new(StatusCode::FORBIDDEN, format!("{principal} may not write: use a client certificate"))
                .closing())
        }
        (Principal::Anonymous, _) => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "this needs a certificate of the cluster (metacdn certs issue client NAME)",
        )
        .closing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_follow_the_certificate() {
        let node = Principal::Node("A".parse().expect("a name"));
        let client = Principal::Client("me".parse().expect("a name"));
        for (principal, read, write) in [
            (Principal::Anonymous, false, false),
            (node, true, false),
            (client, true, true),
            (Principal::Operator, true, true),
        ] {
            assert_eq!(require(&principal, Right::Read).is_ok(), read, "{principal}");
            assert_eq!(require(&principal, Right::Write).is_ok(), write, "{principal}");
        }
    }
}
