//! The PROXY protocol, versions 1 and 2: for whom a proxy has opened a connection. Sections are those of haproxy's
//! `proxy-protocol.txt`.
//!
//! Works on the bytes that have come so far; who may say so, and for how long the rest is waited for, is the caller's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Section 2.1: with its end a line has at most so many bytes.
const LINE_BYTES_MAX: usize = 107;

/// What a line begins with.
const LINE_BEGIN: &[u8] = b"PROXY ";

/// What a header of version 2 begins with (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, version and command, family and protocol, and the length of what follows.
const FIXED_BYTES: usize = 16;

/// The type of the field with a checksum (section 2.2.3).
const TYPE_CRC32C: u8 = 3;

/// A header, complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whom the proxy speaks for; `None` if for itself, or for somebody without an address: then the connection's own one
    /// counts.
    pub source: Option<SocketAddr>,
    /// How many bytes it has: what follows is the client's.
    pub length: usize,
}

/// What came is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It begins otherwise.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// The line of version 1 is not as section 2.1 says.
    #[error("the PROXY line is malformed: {0}")]
    Line(&'static str),
    /// The header of version 2 is not as section 2.2 says.
    #[error("the PROXY header is malformed: {0}")]
    Binary(&'static str),
    /// Its checksum is that of something else (section 2.2.3).
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
}

/// The header that `bytes` begin with; `None` if more has to come, all of which is the header's.
///
/// # Errors
/// When they begin with none, which is known as early as it can be.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted);
    if begins(SIGNATURE) {
        return if bytes.len() < SIGNATURE.len() { Ok(None) } else { binary(bytes) };
    }
    if !begins(LINE_BEGIN) {
        return Err(HeaderError::Missing);
    }
    if bytes.len() < LINE_BEGIN.len() { Ok(None) } else { line(bytes) }
}

/// Section 2.1.
fn line(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if within.len() < LINE_BYTES_MAX { Ok(None) } else { Err(HeaderError::Line("it is too long")) };
    };
    // Neither may stand alone.
    let line = within[..end].strip_suffix(b"\r").ok_or(HeaderError::Line("it does not end in CRLF"))?;
    if line.contains(&b'\r') {
        return Err(HeaderError::Line("it has a CR alone"));
    }
    let said = &line[LINE_BEGIN.len()..];
    let header = |source| Some(Header { source, length: end + 1 });
    // What follows then has no meaning.
    if said == b"UNKNOWN" || said.starts_with(b"UNKNOWN ") {
        return Ok(header(None));
    }
    let said = std::str::from_utf8(said).map_err(|_| HeaderError::Line("it is no text"))?;
    let parts: Vec<_> = said.split(' ').collect();
    let [protocol, source, destination, source_port, destination_port] = parts[..] else {
        return Err(HeaderError::Line("it has another number of parts"));
    };
    let read = |text: &str| match protocol {
        "TCP4" => text.parse().map(IpAddr::V4).map_err(|_| HeaderError::Line("an address is none of IPv4")),
        "TCP6" => text.parse().map(IpAddr::V6).map_err(|_| HeaderError::Line("an address is none of IPv6")),
        _ => Err(HeaderError::Line("the protocol is unknown")),
    };
    let (source, _) = (read(source)?, read(destination)?);
    let (source_port, _) = (port(source_port)?, port(destination_port)?);
    Ok(header(Some(SocketAddr::new(source, source_port))))
}

/// A decimal number without zeros before it.
fn port(text: &str) -> Result<u16, HeaderError> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = if is_plain { text.parse().ok() } else { None };
    number.ok_or(HeaderError::Line("a port is no number"))
}

/// Section 2.2. What is wrong is found out before the rest has come, where it can be.
fn binary(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some(&command) = bytes.get(12) else { return Ok(None) };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Binary("the version or the command is unknown")),
    };
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    // Of a connection of the proxy's own the family is ignored, too.
    if !is_local && (family >> 4 > 3 || family & 0xf > 2) {
        return Err(HeaderError::Binary("the family or the protocol is unknown"));
    }
    let Some(length) = bytes.get(14..FIXED_BYTES) else { return Ok(None) };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]]));
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    let header = |source| Ok(Some(Header { source, length }));
    // Of an unknown family nobody knows where the addresses end.
    let addresses = match family >> 4 {
        1 => 2 * (4 + 2),
        2 => 2 * (16 + 2),
        3 => 2 * 108,
        _ => return header(None),
    };
    if is_local {
        return header(None);
    }
    let block = &whole[FIXED_BYTES..];
    let (block, fields) = block.split_at_checked(addresses).ok_or(HeaderError::Binary("the addresses are cut off"))?;
    check_fields(whole, fields)?;
    // Datagrams, and what is on the proxy's machine alone, come by no address that a client of TCP has.
    header(match family {
        0x11 => Some(SocketAddr::new(Ipv4Addr::from(part::<4>(block, 0)).into(), u16::from_be_bytes(part(block, 8)))),
        0x21 => Some(SocketAddr::new(Ipv6Addr::from(part::<16>(block, 0)).into(), u16::from_be_bytes(part(block, 32)))),
        _ => None,
    })
}

/// The `N` bytes from `start` on, of a block that has them.
fn part<const N: usize>(block: &[u8], start: usize) -> [u8; N] {
    std::array::from_fn(|index| block[start + index])
}

/// Whether the fields at the end of the header `whole` are whole, and the checksum among them, if there is one, is right.
fn check_fields(whole: &[u8], mut fields: &[u8]) -> Result<(), HeaderError> {
    const CUT_OFF: HeaderError = HeaderError::Binary("a field is cut off");
    while !fields.is_empty() {
        let [kind, high, low, rest @ ..] = fields else { return Err(CUT_OFF) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, others) = rest.split_at_checked(length).ok_or(CUT_OFF)?;
        if *kind == TYPE_CRC32C {
            let sum: [u8; 4] = value.try_into().map_err(|_| HeaderError::Binary("the checksum has another length"))?;
            let start = whole.len() - rest.len();
            // It is computed over zeros in its own place.
            let (before, after) = (&whole[..start], &whole[start + sum.len()..]);
            if crc32c([before, &[0; 4], after]) != u32::from_be_bytes(sum) {
                return Err(HeaderError::Checksum);
            }
        }
        fields = others;
    }
    Ok(())
}

/// The remainders of all bytes, by the polynomial of Castagnoli in reflected form (RFC 9260 appendix A).
const REMAINDERS: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = if remainder & 1 == 1 { remainder >> 1 ^ 0x82f6_3b78 } else { remainder >> 1 };
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

/// The CRC32c of all parts together.
fn crc32c(parts: [&[u8]; 3]) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(!0, |sum, byte| sum >> 8 ^ REMAINDERS[usize::from(sum as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    /// A header of version 2.
    fn version2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("it fits").to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 0, 80];

    fn v6() -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
        [&address("2001:db8::7")[..], &address("2001:db8::1"), &[0xdc, 4, 0, 80]].concat()
    }

    /// Parses `header`, which is whole, byte by byte and with something behind it.
    fn whole(header: &[u8]) -> Option<SocketAddr> {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(None), "{cut} of {header:?}");
        }
        let followed = [header, b"GET / HTTP/1.1\r\n"].concat();
        let found = parse(&followed).expect("a header").expect("a whole one");
        assert_eq!(found.length, header.len());
        found.source
    }

    #[test]
    fn the_examples_of_the_specification_are_read() {
        assert_eq!(whole(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"), source("192.168.0.1:56324"));
        assert_eq!(
            whole(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
            source("255.255.255.255:65535")
        );
        let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY TCP6 {all} {all} 65535 65535\r\n");
        assert_eq!((longest.len(), whole(longest.as_bytes())), (104, source(&format!("[{all}]:65535"))));
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), None);
        let worst = format!("PROXY UNKNOWN {all} {all} 65535 65535\r\n");
        assert_eq!((worst.len(), whole(worst.as_bytes())), (LINE_BYTES_MAX, None));
        assert_eq!(whole(b"PROXY TCP6 ::ffff:1.2.3.4 ::1 0 1\r\n"), source("[::ffff:1.2.3.4]:0"));
        // What haproxy sends, as somebody has recorded it.
        let recorded = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xac\x13\0\x01\xac\x13\0\x03\xa6\x52\0\x50";
        assert_eq!(whole(recorded), source("172.19.0.1:42578"));
    }

    #[test]
    fn lines_that_are_not_as_written_are_refused() {
        for bad in [
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
            "PROXY TCP4  192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY  TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY TCP4 192.168.0.01 192.168.0.11 56324 443\r\n",
            "PROXY TCP4 192.168.0.256 192.168.0.11 56324 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 056324 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 +5 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 5 \r\n",
            "PROXY tcp4 192.168.0.1 192.168.0.11 5 5\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY UNKNOWN\n",
        ] {
            assert!(matches!(parse(bad.as_bytes()), Err(HeaderError::Line(_))), "{bad:?}: {:?}", parse(bad.as_bytes()));
        }
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; LINE_BYTES_MAX]].concat();
        assert_eq!(parse(&endless[..LINE_BYTES_MAX - 1]), Ok(None));
        assert_eq!(parse(&endless[..LINE_BYTES_MAX]), Err(HeaderError::Line("it is too long")));
        let late = [&endless[..LINE_BYTES_MAX - 1], b"\r\n"].concat();
        assert_eq!(parse(&late), Err(HeaderError::Line("it is too long")));
        assert!(matches!(parse(b"PROXY TCP4 \xff\r\n"), Err(HeaderError::Line(_))));
    }

    #[test]
    fn what_is_no_header_is_known_by_its_first_other_byte() {
        for (bad, good) in [
            (&b"GET / HTTP/1.1"[..], 0),
            (b"proxy TCP4", 0),
            (b"\x16\x03\x01", 0),
            (b"PROXYS", 5),
            (b"\r\n\r\n\r\n", 4),
            (b"\r\n\r\n\0\r\nQUIT\r", 11),
        ] {
            assert_eq!(parse(&bad[..good]), Ok(None), "{bad:?}");
            assert_eq!(parse(&bad[..=good]), Err(HeaderError::Missing), "{bad:?}");
        }
    }

    #[test]
    fn binary_headers_tell_the_client_of_tcp_and_of_nothing_else() {
        assert_eq!(whole(&version2(0x21, 0x11, &V4)), source("192.0.2.7:56324"));
        assert_eq!(whole(&version2(0x21, 0x21, &v6())), source("[2001:db8::7]:56324"));
        // Fields that nobody asks for are skipped.
        let fields = [&V4[..], &[1, 0, 2, b'h', b'2', 4, 0, 0, 0xe0, 0, 1, 9]].concat();
        assert_eq!(whole(&version2(0x21, 0x11, &fields)), source("192.0.2.7:56324"));
        for (command, family, rest) in [
            (0x20, 0x00, &[][..]),
            (0x20, 0x11, &V4),
            (0x20, 0xff, &[1, 2, 3]),
            (0x21, 0x00, &[]),
            (0x21, 0x00, &[9; 99]),
            (0x21, 0x01, &V4),
            (0x21, 0x10, &V4),
            (0x21, 0x12, &V4),
            (0x21, 0x31, &[7; 216]),
        ] {
            assert_eq!(whole(&version2(command, family, rest)), None, "{command:#x} {family:#x}");
        }
        let longest = version2(0x20, 0, &vec![0; usize::from(u16::MAX)]);
        assert_eq!(parse(&longest).map(|header| header.map(|header| header.length)), Ok(Some(FIXED_BYTES + 0xffff)));
        assert_eq!(parse(&longest[..longest.len() - 1]), Ok(None));
    }

    #[test]
    fn binary_headers_that_are_not_as_written_are_refused() {
        for (command, family, rest) in [
            (0x11, 0x11, &V4[..]),
            (0x31, 0x11, &V4),
            (0x22, 0x11, &V4),
            (0x21, 0x41, &V4),
            (0x21, 0x13, &V4),
            (0x21, 0x11, &V4[..11]),
            (0x21, 0x21, &V4),
            (0x21, 0x31, &V4),
            (0x21, 0x11, &[&V4[..], &[4]].concat()),
            (0x21, 0x11, &[&V4[..], &[4, 0, 2, 0]].concat()),
            (0x21, 0x11, &[&V4[..], &[3, 0, 3, 0, 0, 0]].concat()),
        ] {
            let bytes = version2(command, family, rest);
            assert!(
                matches!(parse(&bytes), Err(HeaderError::Binary(_))),
                "{command:#x} {family:#x}: {:?}",
                parse(&bytes)
            );
        }
        // The version is looked at before the rest has come.
        assert!(parse(&version2(0x31, 0x11, &V4)[..13]).is_err());
        assert!(parse(&version2(0x21, 0x41, &V4)[..14]).is_err());
    }

    #[test]
    fn a_checksum_is_that_of_the_header_with_zeros_in_its_place() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c([&[0; 32], &[], &[]]), 0x8a91_36aa);
        assert_eq!(crc32c([b"1234", b"567", b"89"]), 0xe306_9283);
        let with = |sum: [u8; 4]| version2(0x21, 0x11, &[&V4[..], &[4, 0, 1, 0, 3, 0, 4], &sum, &[4, 0, 0]].concat());
        let sum = crc32c([&with([0; 4]), &[], &[]]).to_be_bytes();
        assert_eq!(whole(&with(sum)), source("192.0.2.7:56324"));
        for bit in 0..32 {
            let wrong = (u32::from_be_bytes(sum) ^ 1 << bit).to_be_bytes();
            assert_eq!(parse(&with(wrong)), Err(HeaderError::Checksum), "{bit}");
        }
        let mut other = with(sum);
        other[FIXED_BYTES] ^= 1;
        assert_eq!(parse(&other), Err(HeaderError::Checksum));
    }
}
