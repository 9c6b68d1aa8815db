//! What requests are routed by: price, time, or both.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The weight of price against time, from 0 (time alone) to 1 (price alone).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Beta(f64);

impl Beta {
    /// A weight; `None` outside 0 to 1, and for what is not a number.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then(|| Self(value.abs()))
    }

    /// The weight as a number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// What requests are routed by. As text: the reference's words `p`, `n` and `c BETA`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// The lowest price; at equal prices the shortest time.
    #[default]
    Price,
    /// The shortest time; at equal times the lowest price.
    Time,
    /// The lowest sum of both, each on its fixed scale.
    Combined {
        /// How much price weighs.
        beta: Beta,
    },
}

/// Why words are not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Another word than `p`, `n`, `d` or `c`.
    #[error("{0:?} is not a policy: use p (price), n or d (time), or c BETA (both)")]
    Unknown(String),
    /// `c` alone.
    #[error("policy c needs a beta, from 0 (time alone) to 1 (price alone)")]
    BetaMissing,
    /// A beta that is not a number from 0 to 1.
    #[error("beta is a number from 0 (time alone) to 1 (price alone), not {0:?}")]
    BetaOutside(String),
}

impl Policy {
    /// The policy that a command line names by its word and, for `c`, a beta. A beta that the policy does not use is
    /// not looked at: see [`Policy::uses_beta`].
    ///
    /// # Errors
    /// When the word is unknown, or the beta of `c` is missing or not a number from 0 to 1.
    pub fn from_words(word: &str, beta: Option<&str>) -> Result<Self, PolicyError> {
        let shown = |text: &str| text.chars().take(40).collect();
        match word {
            "p" => Ok(Self::Price),
            "n" | "d" => Ok(Self::Time),
            "c" => {
                let text = beta.ok_or(PolicyError::BetaMissing)?;
                let beta = text.parse().ok().and_then(Beta::new);
                beta.map(|beta| Self::Combined { beta }).ok_or_else(|| PolicyError::BetaOutside(shown(text)))
            }
            _ => Err(PolicyError::Unknown(shown(word))),
        }
    }

    /// Whether a beta means anything to this policy.
    pub const fn uses_beta(self) -> bool {
        matches!(self, Self::Combined { .. })
    }

    /// The policy that orders as this one does. A beta of 0 or 1 leaves one metric, whose order is exact: no band.
    pub(super) fn reduced(self) -> Self {
        match self {
            Self::Combined { beta } if beta.get() <= 0.0 => Self::Time,
            Self::Combined { beta } if beta.get() >= 1.0 => Self::Price,
            other => other,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Price => f.pad("p"),
            Self::Time => f.pad("n"),
            Self::Combined { beta } => f.pad(&format!("c {}", beta.get())),
        }
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (word, beta) = match text.split_once(' ') {
            Some((word, beta)) => (word, Some(beta)),
            None => (text, None),
        };
        let policy = Self::from_words(word, beta)?;
        if beta.is_some() && !policy.uses_beta() {
            return Err(PolicyError::Unknown(text.chars().take(40).collect()));
        }
        Ok(policy)
    }
}

impl TryFrom<String> for Policy {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_words_are_understood() {
        assert_eq!(Policy::from_words("p", None), Ok(Policy::Price));
        assert_eq!(Policy::from_words("n", Some("0.5")), Ok(Policy::Time));
        assert_eq!(Policy::from_words("d", None), Ok(Policy::Time));
        for beta in ["0", "1", "0.3", ".5", "1e-3", "-0"] {
            let policy = Policy::from_words("c", Some(beta)).expect(beta);
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }

    #[test]
    fn other_words_and_betas_are_refused() {
        assert_eq!(Policy::from_words("c", None), Err(PolicyError::BetaMissing));
        for beta in ["", "x", "NaN", "inf", "-0.1", "1.0001", "0,5"] {
            assert_eq!(Policy::from_words("c", Some(beta)), Err(PolicyError::BetaOutside(beta.to_owned())));
        }
        for word in ["", "P", "price", "c 0.5"] {
            assert_eq!(Policy::from_words(word, None), Err(PolicyError::Unknown(word.to_owned())));
        }
        for text in ["p 0.5", "c", "c  0.5", "c 0.5 1", "n "] {
            assert!(text.parse::<Policy>().is_err(), "{text}");
        }
    }
}
