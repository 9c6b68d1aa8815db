//! Whether the pseudo-fields of a request stand before all others and come once (RFC 9114 section 4.3): the codec puts them
//! where they belong without a word.
//!
//! Reads the names in an encoded field section (RFC 9204 section 4.5) and nothing else of it. What is not encoded as it
//! should be is left to the codec.

/// The pseudo-fields of a request; the others are of answers, or of a kind of CONNECT that is not spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Other,
}

/// What a field is.
enum Field {
    Pseudo(Pseudo),
    Regular,
}

/// Names as they stand in a literal, in plain letters and by the code of RFC 7541 appendix B.
const NAMES: [(&[u8], &[u8], Pseudo); 4] = [
    (b":method", &[0xb9, 0x49, 0x53, 0x39, 0xe4], Pseudo::Method),
    (b":scheme", &[0xb8, 0x82, 0x4e, 0x5a, 0x4b], Pseudo::Scheme),
    (b":authority", &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f], Pseudo::Authority),
    (b":path", &[0xb9, 0x58, 0xd3, 0x3f], Pseudo::Path),
];

/// Whether the pseudo-fields in this encoded section stand where they should, each once, and no others among them.
pub(super) fn is_in_order(section: &[u8]) -> bool {
    let mut reader = Reader(section);
    // Required Insert Count and Delta Base.
    if reader.number(8).is_none() || reader.number(7).is_none() {
        return true;
    }
    let mut seen = Vec::with_capacity(4);
    let mut regular = false;
    while !reader.0.is_empty() {
        let Some(field) = reader.field() else { return true };
        match field {
            Field::Regular => regular = true,
            Field::Pseudo(Pseudo::Other) => return false,
            Field::Pseudo(pseudo) if regular || seen.contains(&pseudo) => return false,
            Field::Pseudo(pseudo) => seen.push(pseudo),
        }
    }
    true
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The name of the next field line, which is passed over.
    fn field(&mut self) -> Option<Field> {
        let first = *self.0.first()?;
        if first & 0x80 != 0 {
            // Indexed.
            let is_static = first & 0x40 != 0;
            let index = self.number(6)?;
            return is_static.then(|| of_static(index));
        }
        if first & 0x40 != 0 {
            // Literal with the name of an entry.
            let is_static = first & 0x10 != 0;
            let index = self.number(4)?;
            self.string(7)?;
            return is_static.then(|| of_static(index));
        }
        if first & 0x20 != 0 {
            let is_coded = first & 0x08 != 0;
            let name = self.string(3)?;
            self.string(7)?;
            return Some(of_literal(name, is_coded));
        }
        // With entries of a table that this side does not let grow.
        None
    }

    fn string(&mut self, prefix_bits: u32) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number(prefix_bits)?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    /// RFC 7541 section 5.1.
    fn number(&mut self, prefix_bits: u32) -> Option<u64> {
        let (first, mut rest) = self.0.split_first()?;
        let mask = (1u64 << prefix_bits) - 1;
        let mut number = u64::from(*first) & mask;
        if number == mask {
            let mut shift = 0;
            loop {
                let (byte, after) = rest.split_first()?;
                rest = after;
                // Nothing that long is sent.
                if shift > 35 {
                    return None;
                }
                number += u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        self.0 = rest;
        Some(number)
    }
}

/// RFC 9204 appendix A.
const fn of_static(index: u64) -> Field {
    Field::Pseudo(match index {
        0 => Pseudo::Authority,
        1 => Pseudo::Path,
        15..=21 => Pseudo::Method,
        22 | 23 => Pseudo::Scheme,
        24..=28 | 63..=71 => Pseudo::Other,
        _ => return Field::Regular,
    })
}

fn of_literal(name: &[u8], is_coded: bool) -> Field {
    // The code of a colon has these seven bits.
    let is_pseudo = name.first().is_some_and(|first| if is_coded { first >> 1 == 0x5c } else { *first == b':' });
    if !is_pseudo {
        return Field::Regular;
    }
    let known = NAMES.iter().find(|(plain, coded, _)| name == if is_coded { *coded } else { *plain });
    Field::Pseudo(known.map_or(Pseudo::Other, |(_, _, pseudo)| *pseudo))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: &[u8] = &[0xc0 | 17];
    const SCHEME: &[u8] = &[0xc0 | 23];
    const PATH: &[u8] = &[0xc0 | 1];
    const AUTHORITY: &[u8] = b"\x50\x01a";
    const ACCEPT: &[u8] = &[0xc0 | 29];
    const STATUS: &[u8] = &[0xc0 | 25];

    fn in_order(fields: &[&[u8]]) -> bool {
        is_in_order(&[&b"\0\0"[..], &fields.concat()].concat())
    }

    #[test]
    fn pseudo_fields_come_first_and_once() {
        assert!(in_order(&[METHOD, SCHEME, AUTHORITY, PATH, ACCEPT]));
        assert!(in_order(&[PATH, AUTHORITY, SCHEME, METHOD]));
        assert!(!in_order(&[METHOD, SCHEME, ACCEPT, PATH]), "after another");
        assert!(!in_order(&[METHOD, SCHEME, METHOD, PATH]), "twice");
        assert!(!in_order(&[METHOD, SCHEME, PATH, STATUS]), "of an answer");
    }

    #[test]
    fn literal_names_are_known_too() {
        for (plain, coded, _) in NAMES {
            for (name, flag) in [(plain, 0x20), (coded, 0x28)] {
                let mut literal = vec![flag | name.len().min(7) as u8];
                if name.len() >= 7 {
                    literal.push((name.len() - 7) as u8);
                }
                literal.extend_from_slice(name);
                literal.extend_from_slice(b"\x01x");
                assert!(in_order(&[&literal]), "{literal:?}");
                assert!(!in_order(&[&literal, &literal]), "{literal:?}");
                assert!(!in_order(&[ACCEPT, &literal]), "{literal:?}");
            }
        }
        assert!(!in_order(&[METHOD, b"\x27\x02:protocol\x01x"]));
        assert!(!in_order(&[METHOD, b"\x22:x\x01x"]));
        assert!(in_order(&[METHOD, b"\x21x\x01x"]));
    }

    #[test]
    fn what_is_broken_is_left_to_the_codec() {
        for broken in [&b""[..], b"\0", b"\0\0\x50", b"\0\0\x50\x7f\xff\xff\xff\xff\xff\xff\xff\xff", b"\0\0\x10"] {
            assert!(is_in_order(broken), "{broken:?}");
        }
    }
}
