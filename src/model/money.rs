//! Money.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Nano-dollars in a dollar.
const PER_DOLLAR: u64 = 1_000_000_000;

/// The highest price that is taken, in dollars: far above any real one, far below overflow in sums.
const DOLLARS_MAX: u64 = 1_000_000;

/// An amount of money in whole nano-dollars (10^-9 USD); never a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct NanoDollars(u64);

/// Why a text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number.
    #[error("{0:?} is not an amount: write a decimal number of dollars, such as 0.30 or .114")]
    NotDecimal(String),
    /// More digits than nano-dollars have.
    #[error("{0:?} has more than 9 digits after the point")]
    TooFine(String),
    /// Above the highest price.
    #[error("{0:?} is above the highest price, {DOLLARS_MAX} dollars")]
    TooLarge(String),
}

impl NanoDollars {
    /// An amount in nano-dollars.
    pub const fn new(nano_dollars: u64) -> Self {
        Self(nano_dollars)
    }

    /// The amount in nano-dollars.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The amount as the reference's price file writes it: no zero before the point, two digits or more after it
    /// (`.30`, `.114`, `1.00`).
    pub fn to_reference(self) -> String {
        let text = self.to_string();
        text.strip_prefix('0').map(ToOwned::to_owned).unwrap_or(text)
    }
}

/// Takes no more than the highest price either, so that what comes as a number is as safe in sums as what comes as text.
impl TryFrom<u64> for NanoDollars {
    type Error = MoneyError;

    fn try_from(nano_dollars: u64) -> Result<Self, MoneyError> {
        let amount = Self(nano_dollars);
        if nano_dollars / PER_DOLLAR > DOLLARS_MAX { Err(MoneyError::TooLarge(amount.to_string())) } else { Ok(amount) }
    }
}

impl From<NanoDollars> for u64 {
    fn from(amount: NanoDollars) -> Self {
        amount.0
    }
}

/// Decimal dollars with at least two digits after the point: `0.30`, `0.114`.
impl fmt::Display for NanoDollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:09}", self.0 % PER_DOLLAR);
        let digits = fraction.trim_end_matches('0').len().max(2);
        f.pad(&format!("{}.{}", self.0 / PER_DOLLAR, &fraction[..digits]))
    }
}

/// Reads decimal dollars; either side of the point may be missing, not both. No sign, no exponent.
impl FromStr for NanoDollars {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let shown = || text.chars().take(40).collect::<String>();
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return Err(MoneyError::NotDecimal(shown()));
        }
        if fraction.len() > 9 {
            return Err(MoneyError::TooFine(shown()));
        }
        let number = |part: &str| if part.is_empty() { Some(0) } else { part.parse::<u64>().ok() };
        let dollars = number(whole).filter(|dollars| *dollars <= DOLLARS_MAX);
        let nano = number(&format!("{fraction:0<9}"));
        match dollars.zip(nano) {
            Some((dollars, nano)) => Ok(Self(dollars * PER_DOLLAR + nano)),
            None => Err(MoneyError::TooLarge(shown())),
        }
    }
}

/// An amount in billionths of a unit of some currency. Reads decimal texts and numbers, and writes decimal texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "AmountText", into = "String")]
pub struct Amount(NanoDollars);

/// As people write it: a price such as 4e-7 is a number where a text would be refused.
#[derive(Deserialize)]
#[serde(untagged)]
enum AmountText {
    Whole(u64),
    Number(f64),
    Text(String),
}

impl Amount {
    /// As many units as `dollars` has dollars.
    pub const fn of_dollars(dollars: NanoDollars) -> Self {
        Self(dollars)
    }

    /// As many dollars as it has units.
    pub const fn in_dollars(self) -> NanoDollars {
        self.0
    }

    /// Billionths of the currency's unit.
    pub const fn nano_units(self) -> u64 {
        self.0.get()
    }
}

impl TryFrom<AmountText> for Amount {
    type Error = MoneyError;

    fn try_from(text: AmountText) -> Result<Self, MoneyError> {
        match text {
            AmountText::Whole(number) => number.to_string().parse(),
            // The shortest text that reads back as the same number, which is what was written.
            AmountText::Number(number) => number.to_string().parse(),
            AmountText::Text(text) => text.parse(),
        }
        .map(Self)
    }
}

impl From<Amount> for String {
    fn from(amount: Amount) -> Self {
        amount.to_string()
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Amount {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_prices_read_and_write_unchanged() {
        for text in [".30", ".10", ".20", ".114", ".75", "1.00", "12.345678901"] {
            assert_eq!(text.parse::<NanoDollars>().map(NanoDollars::to_reference), Ok(text.to_owned()));
        }
        assert_eq!("0.3".parse(), Ok(NanoDollars::new(300_000_000)));
        assert_eq!("7".parse::<NanoDollars>().map(|m| m.to_string()), Ok("7.00".to_owned()));
    }

    #[test]
    fn amounts_read_as_people_write_them() {
        let read = |json: &str| serde_json::from_str::<Amount>(json).ok().map(Amount::nano_units);
        for (json, nano) in [
            ("0.09", 90_000_000),
            ("4e-7", 400),
            ("1", 1_000_000_000),
            ("\"0.0085\"", 8_500_000),
            ("0", 0),
            ("1000000", 1_000_000_000_000_000),
        ] {
            assert_eq!(read(json), Some(nano), "{json}");
        }
        for bad in ["-0.01", "1e-10", "1000001", "1e300", "null", "\"\"", "\"0.09 USD\""] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(serde_json::to_string(&Amount(NanoDollars::new(400))).expect("json"), "\"0.0000004\"");
    }

    #[test]
    fn what_is_not_money_is_refused() {
        for bad in ["", ".", "-1", "+1", "1e3", "0x1", " 1", "1,5", "NaN", "1.0000000001", "1000001", &"9".repeat(40)] {
            assert!(bad.parse::<NanoDollars>().is_err(), "{bad}");
        }
        assert_eq!(NanoDollars::try_from(DOLLARS_MAX * PER_DOLLAR).map(u64::from), Ok(DOLLARS_MAX * PER_DOLLAR));
        assert!(NanoDollars::try_from(u64::MAX).is_err());
    }
}
