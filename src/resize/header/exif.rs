//! The orientation among the Exif data of an image. The rest of them, the place where it was taken too, is of no use here.

use super::Orientation;

const ORIENTATION: u16 = 0x0112;
const SHORT: u16 = 3;
/// No camera writes more into its first directory than some dozens.
const ENTRIES_MAX: usize = 512;

/// The orientation that `exif` names, with or without the mark that JPEG puts before it; upright where it names none.
pub(super) fn orientation(exif: &[u8]) -> Orientation {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    find(tiff).and_then(Orientation::of_exif).unwrap_or(Orientation::UPRIGHT)
}

fn find(tiff: &[u8]) -> Option<u16> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |position: usize| {
        let bytes = tiff.get(position..)?.first_chunk()?;
        Some(if little { u16::from_le_bytes(*bytes) } else { u16::from_be_bytes(*bytes) })
    };
    let long = |position: usize| {
        let bytes = tiff.get(position..)?.first_chunk()?;
        Some(if little { u32::from_le_bytes(*bytes) } else { u32::from_be_bytes(*bytes) })
    };
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?).min(ENTRIES_MAX);
    let first = directory.checked_add(2)?;
    let entry = (0..entries).map(|index| first + index * 12).find(|entry| short(*entry) == Some(ORIENTATION))?;
    let single = short(entry + 2)? == SHORT && long(entry + 4)? == 1;
    if single { short(entry + 8) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_byte_orders_are_read_and_nonsense_is_upright() {
        let little = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0";
        assert_eq!(orientation(little).as_exif(), 6);
        assert_eq!(orientation(big).as_exif(), 8);
        for length in 0..26 {
            assert_eq!(orientation(&little[..length]), Orientation::UPRIGHT, "{length}");
        }
        for value in [0, 9, 255] {
            let mut other = *big;
            other[19] = value;
            assert_eq!(orientation(&other), Orientation::UPRIGHT, "{value}");
        }
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), Orientation::UPRIGHT);
    }
}
