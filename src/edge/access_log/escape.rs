//! Strings of clients in lines of a log: none of them ends its string, or its line.

/// Appends `bytes` to what stands between two quotes of JSON (RFC 8259 section 7). Controls, those beyond ASCII and the
/// separators of lines too, are escaped, for readers that end a line at them; what is no UTF-8 becomes U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, bytes: &[u8]) {
    if is_plain(bytes) {
        return out.extend_from_slice(bytes);
    }
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                control if control.is_control() || matches!(control, '\u{2028}' | '\u{2029}') => {
                    out.extend_from_slice(b"\\u");
                    let [high, low] = (control as u16).to_be_bytes();
                    hex(out, high, b"0123456789abcdef");
                    hex(out, low, b"0123456789abcdef");
                }
                other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Appends `bytes` as nginx does by default: what is no visible ASCII, quotes and backslashes are `\xHH`.
pub(super) fn combined(out: &mut Vec<u8>, bytes: &[u8]) {
    if is_plain(bytes) {
        return out.extend_from_slice(bytes);
    }
    for &byte in bytes {
        if is_plain_byte(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(b"\\x");
            hex(out, byte, b"0123456789ABCDEF");
        }
    }
}

/// Appends a number in decimal digits.
pub(super) fn number(out: &mut Vec<u8>, mut number: u64) {
    // The largest has twenty digits.
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn hex(out: &mut Vec<u8>, byte: u8, digits: &[u8; 16]) {
    out.push(digits[usize::from(byte >> 4)]);
    out.push(digits[usize::from(byte & 15)]);
}

/// Whether nothing is to be escaped. All bytes are looked at, several at a time: most strings are plain.
fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |plain, byte| plain & is_plain_byte(*byte))
}

const fn is_plain_byte(byte: u8) -> bool {
    (byte >= b' ') & (byte < 0x7f) & (byte != b'"') & (byte != b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn written(write: fn(&mut Vec<u8>, &[u8]), bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write(&mut out, bytes);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn what_could_end_a_string_or_a_line_is_escaped() {
        for (bytes, in_json, in_combined) in [
            (&b"curl/8.5.0"[..], "curl/8.5.0", "curl/8.5.0"),
            (b"a\"b\\c", "a\\\"b\\\\c", "a\\x22b\\x5Cc"),
            (b"a\r\n\tb\0\x7f", "a\\u000d\\u000a\\u0009b\\u0000\\u007f", "a\\x0D\\x0A\\x09b\\x00\\x7F"),
            (
                "ä\u{85}\u{2028}€\u{1f600}".as_bytes(),
                "ä\\u0085\\u2028€\u{1f600}",
                "\\xC3\\xA4\\xC2\\x85\\xE2\\x80\\xA8\\xE2\\x82\\xAC\\xF0\\x9F\\x98\\x80",
            ),
            (b"a\xffb\xc3", "a\u{fffd}b\u{fffd}", "a\\xFFb\\xC3"),
        ] {
            assert_eq!((written(json, bytes).as_str(), written(combined, bytes).as_str()), (in_json, in_combined));
        }
    }

    #[test]
    fn numbers_are_decimal() {
        for value in [0, 7, 10, 99, 100, 1 << 40, u64::MAX] {
            assert_eq!(written(|out, bytes| number(out, bytes.len() as u64), &[]), "0");
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }

    proptest! {
        #[test]
        fn strings_come_back_out_of_json(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            for bytes in [&bytes[..], text.as_bytes()] {
                let line = format!("\"{}\"", written(json, bytes));
                let read: String = serde_json::from_str(&line).expect("JSON");
                prop_assert_eq!(&read, &String::from_utf8_lossy(bytes).into_owned());
                prop_assert!(!line.chars().any(char::is_control));
            }
        }

        #[test]
        fn combined_is_visible_ascii_without_quotes(bytes in any::<Vec<u8>>()) {
            let line = written(combined, &bytes);
            prop_assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && !line.contains('"'));
        }
    }
}
