//! The sizes in which an image is served.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ObjectKey;

/// One of the sizes of an image, the reference's: the whole, or 0.66 or 0.33 of its width and height.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The image as it was published.
    Original,
    /// 0.66 of the width and height.
    Medium,
    /// 0.33 of the width and height.
    Low,
}

/// The text names no variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no variant: write original, medium or low")]
pub struct VariantError(String);

impl Variant {
    /// The variants that are made, largest first.
    pub const MADE: [Self; 2] = [Self::Medium, Self::Low];

    /// Its name in queries and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }

    /// Its width and height as hundredths of the original's.
    pub const fn hundredths(self) -> u32 {
        match self {
            Self::Original => 100,
            Self::Medium => 66,
            Self::Low => 33,
        }
    }

    /// The key under which the reference keeps this variant of `key`: `cat_low.jpg` of `cat.jpg`; `None` where `key` has
    /// no ending or the name would be too long.
    pub fn key_of(self, key: &ObjectKey) -> Option<ObjectKey> {
        if self == Self::Original {
            return Some(key.clone());
        }
        let (stem, ending) = stem_and_ending(key)?;
        format!("{stem}_{self}.{ending}").parse().ok()
    }

    /// The image and the variant of it that `key` means by its name: `cat.jpg` and low for `cat_low.jpg`; `None` where
    /// it is a name like any other.
    pub fn named_by(key: &ObjectKey) -> Option<(ObjectKey, Self)> {
        let (stem, ending) = stem_and_ending(key)?;
        let (stem, word) = stem.rsplit_once('_')?;
        let variant = Self::MADE.into_iter().find(|variant| variant.as_str() == word)?;
        let image: ObjectKey = format!("{stem}.{ending}").parse().ok()?;
        stem_and_ending(&image)?;
        Some((image, variant))
    }
}

/// What stands before and after the last dot of the file name; neither is empty.
fn stem_and_ending(key: &ObjectKey) -> Option<(&str, &str)> {
    let (stem, ending) = key.as_str().rsplit_once('.')?;
    let named = !stem.is_empty() && !stem.ends_with('/') && !ending.is_empty() && !ending.contains('/');
    named.then_some((stem, ending))
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Variant {
    type Err = VariantError;

    fn from_str(text: &str) -> Result<Self, VariantError> {
        let all = [Self::Original, Self::Medium, Self::Low];
        let named = all.into_iter().find(|variant| variant.as_str() == text);
        named.ok_or_else(|| VariantError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        text.parse().expect("a key")
    }

    #[test]
    fn variants_have_the_references_names() {
        for (image, variant, name) in [
            ("cat.jpg", Variant::Low, "cat_low.jpg"),
            ("a.b/cat.tar.PNG", Variant::Medium, "a.b/cat.tar_medium.PNG"),
            ("cat_low.jpg", Variant::Low, "cat_low_low.jpg"),
        ] {
            assert_eq!(variant.key_of(&key(image)), Some(key(name)));
            assert_eq!(Variant::named_by(&key(name)), Some((key(image), variant)));
        }
        assert_eq!(Variant::Original.key_of(&key("cat")), Some(key("cat")));
        for plain in ["cat", "a.b/cat", "a/.jpg", ".jpg", "cat."] {
            assert_eq!(Variant::Low.key_of(&key(plain)), None, "{plain}");
        }
        for other in ["cat.jpg", "cat_original.jpg", "low.jpg", "_low.jpg", "a/_low.jpg", "cat_low", "cat_LOW.jpg"] {
            assert_eq!(Variant::named_by(&key(other)), None, "{other}");
        }
    }

    #[test]
    fn variants_read_back() {
        for variant in [Variant::Original, Variant::Medium, Variant::Low] {
            assert_eq!(variant.to_string().parse(), Ok(variant));
        }
        assert!("LOW".parse::<Variant>().is_err());
    }
}
