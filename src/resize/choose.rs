//! Which variant of an image suits a client's link: thresholds, and what is known of the rates of clients.
//!
//! A rate is bytes over the time in which there was something to send, measured from what has arrived. It is never
//! computed from the window and the round trip of a connection: those say what a link might carry, not what it does.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::model::Variant;

/// How fast a link must be for the larger variants, in bytes a second.
///
/// As text it is `default`, `reference`, or the two rates: `2500000 600000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Thresholds {
    original_from_bytes_per_second: u64,
    medium_from_bytes_per_second: u64,
}

/// The text says no thresholds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdsError {
    /// It has another form.
    #[error("{0:?} says no thresholds: write default, reference, or two rates in bytes a second, \"2500000 600000\"")]
    Form(String),
    /// A slower link would get the larger variant.
    #[error("medium from {medium} bytes a second would be above original from {original}")]
    Order {
        /// From which rate on the original is sent.
        original: u64,
        /// From which rate on medium is sent.
        medium: u64,
    },
}

impl Default for Thresholds {
    fn default() -> Self {
        // A photograph of 3 MB takes up to 1.2 s as it is; one of 1 MB, what is left of it at 0.66, up to 1.7 s.
        Self { original_from_bytes_per_second: 2_500_000, medium_from_bytes_per_second: 600_000 }
    }
}

impl Thresholds {
    /// The reference's: 10 MB in up to 10 ms for the original, in up to 100 ms for medium.
    pub const REFERENCE: Self =
        Self { original_from_bytes_per_second: 1_000_000_000, medium_from_bytes_per_second: 100_000_000 };

    /// Thresholds of one's own.
    ///
    /// # Errors
    /// When `medium` is above `original`.
    pub const fn new(original: u64, medium: u64) -> Result<Self, ThresholdsError> {
        if medium > original {
            return Err(ThresholdsError::Order { original, medium });
        }
        Ok(Self { original_from_bytes_per_second: original, medium_from_bytes_per_second: medium })
    }

    /// The variant for a link of `rate` bytes a second; of an unknown one nothing bad is thought.
    pub fn choose(&self, rate: Option<f64>) -> Variant {
        match rate {
            None => Variant::Original,
            Some(rate) if rate >= self.original_from_bytes_per_second as f64 => Variant::Original,
            Some(rate) if rate >= self.medium_from_bytes_per_second as f64 => Variant::Medium,
            Some(_) => Variant::Low,
        }
    }
}

impl FromStr for Thresholds {
    type Err = ThresholdsError;

    fn from_str(text: &str) -> Result<Self, ThresholdsError> {
        let error = || ThresholdsError::Form(text.chars().take(80).collect());
        match text.trim() {
            "default" => return Ok(Self::default()),
            "reference" => return Ok(Self::REFERENCE),
            _ => {}
        }
        let mut rates = text.split_whitespace().map(|rate| rate.parse().map_err(|_| error()));
        match (rates.next(), rates.next(), rates.next()) {
            (Some(original), Some(medium), None) => Self::new(original?, medium?),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Thresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            own if own == Self::default() => f.pad("default"),
            Self::REFERENCE => f.pad("reference"),
            own => write!(f, "{} {}", own.original_from_bytes_per_second, own.medium_from_bytes_per_second),
        }
    }
}

impl TryFrom<String> for Thresholds {
    type Error = ThresholdsError;

    fn try_from(text: String) -> Result<Self, ThresholdsError> {
        text.parse()
    }
}

impl From<Thresholds> for String {
    fn from(thresholds: Thresholds) -> Self {
        thresholds.to_string()
    }
}

/// Whether a client that sends this `Save-Data` header asks for little: `on`, perhaps with parameters behind it.
pub fn saves_data(header: &str) -> bool {
    header.split([';', ',']).next().is_some_and(|token| token.trim().eq_ignore_ascii_case("on"))
}

/// Bytes that arrived at a client, and the time in which there were some to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The bytes.
    pub bytes: u64,
    /// The time.
    pub busy: Duration,
}

impl Transfer {
    /// What was transferred since `before`, of the same connection.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        let bytes = self.bytes.saturating_sub(before.bytes);
        Self { bytes, busy: self.busy.saturating_sub(before.busy) }
    }

    fn busy_seconds(self) -> f64 {
        self.busy.max(BUSY_MIN).as_secs_f64()
    }
}

/// A kernel counts time in ticks of 1 to 10 ms: what took none did not take no time.
const BUSY_MIN: Duration = Duration::from_millis(1);

/// Smaller transfers, in bytes, say more of the round trip than of the rate.
pub const LEARNED_BYTES_MIN: u64 = 64 << 10;

/// A connection that carried less has not shown its rate: it starts slowly, and what filled the buffers on the way has
/// not been slowed down by the link yet.
const OWN_BYTES_MIN: u64 = 256 << 10;

/// The weight of what was learned falls to 37 % in this time.
const DECAY: Duration = Duration::from_secs(30);

/// After this time without news the client may be anywhere.
const LEARNED_FOR: Duration = Duration::from_secs(600);

/// How long a client's own word counts.
const REPORTED_FOR: Duration = Duration::from_secs(60);

/// How many addresses are remembered.
const ADDRESSES_MAX: usize = 16_384;

/// What is known of the rates of clients, by their addresses. Bounded: those that were not heard of for longest are
/// forgotten.
#[derive(Debug)]
pub struct Rates {
    // When `young` has half of the bound, it becomes `old`, and what was old is forgotten.
    young: HashMap<IpAddr, Known>,
    old: HashMap<IpAddr, Known>,
    generation_max: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    learned: Option<Learned>,
    reported: Option<Reported>,
}

#[derive(Debug, Clone, Copy)]
struct Learned {
    bytes: f64,
    seconds: f64,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    rate: f64,
    at: Instant,
}

impl Default for Rates {
    fn default() -> Self {
        Self::with_capacity(ADDRESSES_MAX)
    }
}

impl Rates {
    /// Remembers up to `addresses_max` addresses, and at least the latest half as many.
    pub fn with_capacity(addresses_max: usize) -> Self {
        let generation_max = (addresses_max / 2).max(1);
        Self { young: HashMap::new(), old: HashMap::new(), generation_max }
    }

    /// Learns of a `transfer` to `ip` that ended; small ones teach nothing.
    pub fn learn(&mut self, ip: IpAddr, transfer: Transfer, now: Instant) {
        if transfer.bytes < LEARNED_BYTES_MIN {
            return;
        }
        let known = self.known_mut(ip);
        let before = known.learned.filter(|learned| is_fresh(learned.at, LEARNED_FOR, now));
        let (bytes, seconds) = before.map_or((0.0, 0.0), |learned| {
            let age = now.saturating_duration_since(learned.at);
            let weight = (-age.as_secs_f64() / DECAY.as_secs_f64()).exp();
            (learned.bytes * weight, learned.seconds * weight)
        });
        // Bytes and times are added up apart, so that a transfer counts by its length.
        let (bytes, seconds) = (bytes + transfer.bytes as f64, seconds + transfer.busy_seconds());
        known.learned = Some(Learned { bytes, seconds, at: now });
    }

    /// Takes the word of the client at `ip` for its rate, in bytes a second.
    pub fn report(&mut self, ip: IpAddr, rate: f64, now: Instant) {
        self.known_mut(ip).reported = Some(Reported { rate, at: now });
    }

    /// What earlier transfers to `ip` came to, in bytes a second.
    pub fn rate(&self, ip: IpAddr, now: Instant) -> Option<f64> {
        let learned = self.known(ip)?.learned.filter(|learned| is_fresh(learned.at, LEARNED_FOR, now))?;
        Some(learned.bytes / learned.seconds)
    }

    /// The rate of a client at `ip`, in bytes a second: what it reported, else what its own connection carried so far,
    /// if that was enough to say anything, else what earlier transfers to its address came to.
    pub fn rate_of(&self, own: Option<Transfer>, ip: IpAddr, now: Instant) -> Option<f64> {
        let reported = self.known(ip).and_then(|known| known.reported);
        let reported = reported.filter(|reported| is_fresh(reported.at, REPORTED_FOR, now)).map(|word| word.rate);
        let own = own.filter(|own| own.bytes >= OWN_BYTES_MIN).map(|own| own.bytes as f64 / own.busy_seconds());
        reported.or(own).or_else(|| self.rate(ip, now))
    }

    fn known(&self, ip: IpAddr) -> Option<Known> {
        let place = place_of(ip);
        self.young.get(&place).or_else(|| self.old.get(&place)).copied()
    }

    fn known_mut(&mut self, ip: IpAddr) -> &mut Known {
        let place = place_of(ip);
        if !self.young.contains_key(&place) {
            if self.young.len() >= self.generation_max {
                self.old = std::mem::take(&mut self.young);
            }
            let known = self.old.remove(&place).unwrap_or_default();
            self.young.insert(place, known);
        }
        self.young.entry(place).or_default()
    }
}

fn is_fresh(at: Instant, kept: Duration, now: Instant) -> bool {
    now.saturating_duration_since(at) < kept
}

/// Whom an address stands for: in IPv6 a network of 64 bits, in which one client has as many addresses as it likes.
fn place_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn transfer(bytes: u64, milliseconds: u64) -> Transfer {
        Transfer { bytes, busy: Duration::from_millis(milliseconds) }
    }

    #[test]
    fn thresholds_choose_and_read_back() {
        let default = Thresholds::default();
        for (rate, variant) in [
            (None, Variant::Original),
            (Some(f64::INFINITY), Variant::Original),
            (Some(2_500_000.0), Variant::Original),
            (Some(2_499_999.0), Variant::Medium),
            (Some(600_000.0), Variant::Medium),
            (Some(599_999.0), Variant::Low),
            (Some(0.0), Variant::Low),
        ] {
            assert_eq!(default.choose(rate), variant, "{rate:?}");
        }
        // 10 MB in 5, 50 and 500 ms.
        let chosen = [2e9, 2e8, 2e7].map(|rate| Thresholds::REFERENCE.choose(Some(rate)));
        assert_eq!(chosen, [Variant::Original, Variant::Medium, Variant::Low]);
        for text in ["default", "reference", "1000 10", "0 0"] {
            let thresholds: Thresholds = text.parse().expect("thresholds");
            assert_eq!(thresholds.to_string(), text);
        }
        assert_eq!("2500000 600000".parse(), Ok(default));
        assert_eq!("10 1000".parse::<Thresholds>(), Err(ThresholdsError::Order { original: 10, medium: 1000 }));
        for bad in ["", "fast", "1", "1 -1", "3 2 1", "1.5 1"] {
            assert!(matches!(bad.parse::<Thresholds>(), Err(ThresholdsError::Form(_))), "{bad}");
        }
    }

    #[test]
    fn save_data_reads_as_a_token() {
        assert!(saves_data("on") && saves_data(" On ; q=1"));
        assert!(!saves_data("") && !saves_data("off") && !saves_data("once"));
    }

    #[test]
    fn the_own_connection_counts_only_after_it_has_sent_enough() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        assert_eq!(rates.rate_of(None, ONE, now), None);
        assert_eq!(rates.rate_of(Some(transfer(100_000, 1)), ONE, now), None);
        assert_eq!(rates.rate_of(Some(transfer(300_000, 100)), ONE, now), Some(3_000_000.0));
        rates.learn(ONE, transfer(1_000_000, 10_000), now);
        assert_eq!(rates.rate_of(Some(transfer(100_000, 1)), ONE, now), Some(100_000.0));
        assert_eq!(rates.rate_of(Some(transfer(300_000, 100)), ONE, now), Some(3_000_000.0));
        // Less than a tick of the kernel is no time, but not infinitely fast.
        assert_eq!(rates.rate_of(Some(transfer(1_000_000, 0)), ONE, now), Some(1e9));
    }

    #[test]
    fn a_report_beats_what_was_measured_for_a_minute_and_for_its_client_alone() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        rates.report(ONE, 1e9, now);
        rates.learn(ONE, transfer(1_000_000, 10_000), now);
        let own = Some(transfer(1_000_000, 1000));
        assert_eq!(rates.rate_of(own, ONE, now + Duration::from_secs(59)), Some(1e9));
        assert_eq!(rates.rate_of(own, ONE, now + Duration::from_secs(60)), Some(1e6));
        assert_eq!(rates.rate_of(None, OTHER, now), None);
    }

    #[test]
    fn transfers_count_by_their_length_and_fade() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        rates.learn(ONE, transfer(60_000, 1), now);
        assert_eq!(rates.rate(ONE, now), None, "too small to say anything");
        rates.learn(ONE, transfer(1_000_000, 1000), now);
        rates.learn(ONE, transfer(1_000_000, 9000), now);
        assert_eq!(rates.rate(ONE, now), Some(200_000.0));
        // After ten times the decay the old ones are all but gone.
        let later = now + Duration::from_secs(300);
        rates.learn(ONE, transfer(1_000_000, 1000), later);
        let rate = rates.rate(ONE, later).expect("a rate");
        assert!((990_000.0..1_000_000.0).contains(&rate), "{rate}");
        assert!(rates.rate(ONE, later + Duration::from_secs(599)).is_some());
        assert_eq!(rates.rate(ONE, later + Duration::from_secs(600)), None);
    }

    #[test]
    fn addresses_are_bounded_and_the_latest_stay() {
        let (mut rates, now) = (Rates::with_capacity(100), Instant::now());
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(number));
        for number in 0..1000 {
            rates.learn(address(number), transfer(1 << 20, 1), now);
            rates.learn(ONE, transfer(1 << 20, 1), now);
            assert!(rates.young.len() + rates.old.len() <= 100);
        }
        assert!((951..1000).all(|number| rates.rate(address(number), now).is_some()));
        assert!((0..900).all(|number| rates.rate(address(number), now).is_none()));
        assert!(rates.rate(ONE, now).is_some(), "who is heard of stays");
    }

    #[test]
    fn one_client_has_one_place_in_each_family() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        rates.report(ip("2001:db8::1"), 5.0, now);
        rates.report(ip("::ffff:192.0.2.1"), 6.0, now);
        assert_eq!(rates.rate_of(None, ip("2001:db8::ffff:2"), now), Some(5.0));
        assert_eq!(rates.rate_of(None, ip("2001:db8:0:1::1"), now), None);
        assert_eq!(rates.rate_of(None, ONE, now), Some(6.0));
        assert_eq!(rates.rate_of(None, OTHER, now), None);
    }

    #[test]
    fn a_transfer_is_what_came_since() {
        assert_eq!(transfer(500, 30).since(transfer(100, 10)), transfer(400, 20));
    }
}
