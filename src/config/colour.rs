//! Colours of a configuration.

use std::str::FromStr;

/// A colour of the screen: red, green, blue (sRGB).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(pub [u8; 3]);

impl Colour {
    /// On the way to `other`: 0 is here, 256 is there.
    #[must_use]
    pub fn towards(self, other: Colour, part: u32) -> Colour {
        let part = part.min(256);
        let mut mixed = [0; 3];
        for (mixed, (from, to)) in mixed.iter_mut().zip(self.0.into_iter().zip(other.0)) {
            let sum = u32::from(from) * (256 - part) + u32::from(to) * part;
            *mixed = u8::try_from((sum + 128) / 256).unwrap_or(u8::MAX);
        }
        Colour(mixed)
    }
}

impl std::fmt::Display for Colour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

impl FromStr for Colour {
    type Err = ();

    /// `#1f6b4a` or `#fff`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix('#').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())).ok_or(())?;
        let number = u32::from_str_radix(digits, 16).map_err(|_| ())?;
        match digits.len() {
            3 => Ok(Colour([number >> 8, number >> 4, number].map(|nibble| u8::try_from((nibble & 15) * 17).unwrap_or(0)))),
            6 => {
                let [_, red, green, blue] = number.to_be_bytes();
                Ok(Colour([red, green, blue]))
            }
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_written_as_on_the_web() {
        for (text, colour) in [
            ("#1f6b4a", Some([0x1f, 0x6b, 0x4a])),
            ("#FA0", Some([0xff, 0xaa, 0])),
            ("#+12345", None),
            ("1f6b4a", None),
            ("#1f6b4", None),
            ("#", None),
            ("green", None),
        ] {
            assert_eq!(text.parse().ok(), colour.map(Colour), "{text}");
        }
        assert_eq!(Colour([1, 2, 255]).to_string(), "#0102ff");
        assert_eq!(
            (Colour([0; 3]).towards(Colour([255; 3]), 256), Colour([9; 3]).towards(Colour([255; 3]), 0)),
            (Colour([255; 3]), Colour([9; 3]))
        );
    }
}
