//! How many copies a write asks for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most copies that can be asked for.
const COPIES_MAX: u32 = 64;

/// How many copies an upload waits for before it is answered, the first one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WaitFor {
    /// So many.
    Copies(u32),
    /// More than half of the registered nodes.
    Quorum,
    /// All registered nodes.
    All,
}

/// The text says no number of copies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number of copies: write 1 to {COPIES_MAX}, quorum or all")]
pub struct WaitForError(String);

impl FromStr for WaitFor {
    type Err = WaitForError;

    fn from_str(text: &str) -> Result<Self, WaitForError> {
        match text {
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All),
            _ => match text.parse() {
                Ok(copies) if (1..=COPIES_MAX).contains(&copies) && !text.starts_with('+') => Ok(Self::Copies(copies)),
                _ => Err(WaitForError(text.chars().take(80).collect())),
            },
        }
    }
}

impl TryFrom<String> for WaitFor {
    type Error = WaitForError;

    fn try_from(text: String) -> Result<Self, WaitForError> {
        text.parse()
    }
}

impl From<WaitFor> for String {
    fn from(wait_for: WaitFor) -> Self {
        wait_for.to_string()
    }
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copies(copies) => write!(f, "{copies}"),
            Self::Quorum => f.pad("quorum"),
            Self::All => f.pad("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back() {
        for good in ["1", "2", "64", "quorum", "all"] {
            assert_eq!(good.parse::<WaitFor>().map(|wait_for| wait_for.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "0", "65", "-1", "+1", "Quorum", "two"] {
            assert!(bad.parse::<WaitFor>().is_err(), "{bad}");
        }
    }
}
