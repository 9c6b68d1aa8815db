//! Versions: the total order in which writes of one key supersede each other.
//!
//! Time is a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): it follows the wall clock
//! but never goes back, and everything seen is older than what is stamped next.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// Bits of the counter below the milliseconds.
const COUNTER_BITS: u32 = 16;

/// A hybrid time: 48 bits of milliseconds since 1970 and a 16-bit counter, compared as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HybridTime(u64);

impl HybridTime {
    /// The first moment of the millisecond `unix_ms`.
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(unix_ms << COUNTER_BITS)
    }

    /// Reads back [`HybridTime::bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The 64 bits, in the order of time.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Milliseconds since 1970.
    pub const fn unix_ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    const fn next(self) -> Self {
        // A full counter carries into the milliseconds: time still only moves forward.
        Self(self.0 + 1)
    }
}

/// A hybrid logical clock. It holds the highest time stamped or seen; the caller brings the wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct HybridClock {
    high: HybridTime,
}

impl HybridClock {
    /// A clock that continues above `high`, the mark a previous run stored.
    pub const fn resume(high: HybridTime) -> Self {
        Self { high }
    }

    /// Stamps an event at wall time `unix_ms`; later than everything stamped or observed.
    pub fn stamp(&mut self, unix_ms: u64) -> HybridTime {
        self.high = HybridTime::from_unix_ms(unix_ms).max(self.high.next());
        self.high
    }

    /// Learns of a time stamped elsewhere, so that what is stamped here next is later.
    pub fn observe(&mut self, seen: HybridTime) {
        self.high = self.high.max(seen);
    }

    /// The highest time stamped or observed: the mark to store.
    pub const fn high(&self) -> HybridTime {
        self.high
    }
}

/// The random identity of one catalogue database. Sequences are counted within it; a database that starts anew gets a
/// new one, so that it never reuses sequences which peers have already seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(u64);

impl Epoch {
    /// An epoch from random bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Epoch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The digits are checked by hand, because the parser of numbers lets a sign through.
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(bits) if digits => Ok(Self(bits)),
            _ => Err(format!("an epoch is 16 hex digits, not {text:?}")),
        }
    }
}

impl TryFrom<String> for Epoch {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.to_string()
    }
}

/// Who stamped a version: a node, in one life of its database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// The life of its database.
    pub epoch: Epoch,
}

/// When and where a key was written. Ordered by time, then origin, then sequence; nodes stamp it, never clients.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// The hybrid time of the write.
    pub time: HybridTime,
    /// The node that took the write.
    #[serde(flatten)]
    pub origin: Origin,
    /// That origin's count of its writes, from 1; 0 for what it keeps for itself alone, of which its feed does not tell.
    pub sequence: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, origin, sequence } = self;
        write!(f, "{:016x}.{}.{}.{sequence}", time.bits(), origin.node, origin.epoch)
    }
}

/// The text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version (TIME.NODE.EPOCH.SEQUENCE)")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let read = || {
            let mut parts = text.split('.');
            let (time, node, epoch, sequence) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let time = HybridTime::from_bits(time.parse::<Epoch>().ok()?.0);
            let origin = Origin { node: node.parse().ok()?, epoch: epoch.parse().ok()? };
            let version = Self { time, origin, sequence: sequence.parse().ok()? };
            (parts.next().is_none() && version.to_string() == text).then_some(version)
        };
        read().ok_or_else(|| VersionError(text.chars().take(120).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_even_when_the_wall_clock_goes_back() {
        let mut clock = HybridClock::default();
        let stamps: Vec<_> = [1000, 1000, 400, 1001].map(|ms| clock.stamp(ms)).to_vec();
        assert!(stamps.is_sorted() && stamps.windows(2).all(|pair| pair[0] != pair[1]), "{stamps:?}");
        assert_eq!(stamps[3].unix_ms(), 1001);
    }

    #[test]
    fn what_was_observed_is_older_than_the_next_stamp() {
        let mut clock = HybridClock::resume(HybridTime::from_unix_ms(5000));
        clock.observe(HybridTime::from_unix_ms(9000));
        assert!(clock.stamp(10) > HybridTime::from_unix_ms(9000));
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let mut clock = HybridClock::resume(HybridTime::from_bits(HybridTime::from_unix_ms(8).bits() - 1));
        assert_eq!(clock.stamp(7), HybridTime::from_unix_ms(8));
    }

    #[test]
    fn a_version_reads_back() {
        let origin = Origin { node: "GC".parse().expect("a name"), epoch: Epoch::from_bits(0xab) };
        let version = Version { time: HybridTime::from_unix_ms(1_000), origin, sequence: 7 };
        let text = version.to_string();
        assert_eq!(text.parse(), Ok(version));
        for bad in ["", "7", &format!("{text}.1"), &format!("{text}x"), &text.replace("GC", "-"), &text[1..]] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_epoch_reads_back() {
        let epoch = Epoch::from_bits(0xab);
        assert_eq!(epoch.to_string(), "00000000000000ab");
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert!("ab".parse::<Epoch>().is_err() && "+00000000000000a".parse::<Epoch>().is_err());
    }
}
