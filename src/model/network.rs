//! Networks: addresses that begin alike.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The bits by which an IPv6 address stands for one of IPv4 (RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// All addresses that begin with the same bits, `10.0.0.0/8` say; a single address is one, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// The first one.
    address: IpAddr,
    /// How many bits are the same.
    bits: u8,
}

/// The text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It has another form.
    #[error("{0:?} is no network: write an address, or one with the number of bits that count, as in 10.0.0.0/8")]
    Form(String),
    /// It names an address in the middle of the network.
    #[error("{text} names one address of a network: write {network} for all of it, or the address alone")]
    Inside {
        /// What was written.
        text: String,
        /// The network that it is in.
        network: Network,
    },
}

impl Network {
    /// Whether `ip` is in it. An IPv4 address is the same however it is written.
    pub fn contains(&self, ip: IpAddr) -> bool {
        first(ip.to_canonical(), self.bits) == Some(self.address)
    }
}

/// The first address of all that have so many bits in common with `ip`, if it has so many.
fn first(ip: IpAddr, bits: u8) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => {
            let others = 32_u32.checked_sub(bits.into())?;
            Some(Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(others).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            let others = 128_u32.checked_sub(bits.into())?;
            Some(Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(others).unwrap_or(0)).into())
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError::Form(text.chars().take(80).collect());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let written: IpAddr = address.parse().map_err(|_| error())?;
        let all = if written.is_ipv4() { 32 } else { 128 };
        let bits: u8 = match bits {
            None => all,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().map_err(|_| error())?,
            Some(_) => return Err(error()),
        };
        let canonical = written.to_canonical();
        let bits = match (written, canonical) {
            (IpAddr::V6(_), IpAddr::V4(_)) => bits.checked_sub(MAPPED_BITS).ok_or_else(error)?,
            _ => bits,
        };
        let network = Self { address: first(canonical, bits).ok_or_else(error)?, bits };
        if network.address != canonical {
            return Err(NetworkError::Inside { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_the_networks_that_they_begin_like() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", "9.255.255.255", "::1"]),
            ("10.1.2.3", ["10.1.2.3", "10.1.2.3", "::ffff:10.1.2.3"], ["10.1.2.2", "10.1.2.4", "::10.1.2.3"]),
            ("10.1.2.2/31", ["10.1.2.2", "10.1.2.3", "10.1.2.3"], ["10.1.2.1", "10.1.2.4", "::1"]),
            ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "1.2.3.4"], ["::", "::1", "1::"]),
            ("::/0", ["::", "1::", "ffff::"], ["1.2.3.4", "::ffff:1.2.3.4", "0.0.0.0"]),
            (
                "2001:db8::/32",
                ["2001:db8::", "2001:db8:ffff::1", "2001:db8::1"],
                ["2001:db9::", "2001:db7::", "1.2.3.4"],
            ),
            ("::1", ["::1", "::1", "::1"], ["::", "::2", "127.0.0.1"]),
            (
                "::ffff:10.0.0.0/104",
                ["10.0.0.1", "::ffff:10.0.0.1", "10.9.9.9"],
                ["11.0.0.1", "::1", "::ffff:11.0.0.1"],
            ),
        ] {
            let parsed: Network = network.parse().expect(network);
            for ip in inside {
                assert!(parsed.contains(ip.parse().expect("an address")), "{ip} in {network}");
            }
            for ip in outside {
                assert!(!parsed.contains(ip.parse().expect("an address")), "{ip} in {network}");
            }
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn what_is_no_network_is_told() {
        for bad in [
            "",
            "a",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/8/8",
            "::ffff:1.2.3.4/8",
        ] {
            assert!(matches!(bad.parse::<Network>(), Err(NetworkError::Form(_))), "{bad}");
        }
        let inside = "10.1.2.3/8".parse::<Network>().unwrap_err().to_string();
        assert!(inside.contains("write 10.0.0.0/8 for all of it"), "{inside}");
    }
}
