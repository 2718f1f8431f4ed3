//! Amounts of data as the file writes them: `32KiB`, `10MB`, or a bare number of octets.

use schemars::{Schema, json_schema};

use super::{
    error::{Wrong, quoted},
    notation::Notation,
};

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// A number of octets within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Octets<const MIN: u64, const MAX: u64>(u64);

/// A limit in octets, where zero turns it off.
impl<const MAX: u64> From<Octets<0, MAX>> for Option<u64> {
    fn from(octets: Octets<0, MAX>) -> Self {
        (octets.0 > 0).then_some(octets.0)
    }
}

impl<const MIN: u64, const MAX: u64> From<Octets<MIN, MAX>> for u64 {
    fn from(octets: Octets<MIN, MAX>) -> Self {
        octets.0
    }
}

impl<const MIN: u64, const MAX: u64> From<Octets<MIN, MAX>> for usize {
    fn from(octets: Octets<MIN, MAX>) -> Self {
        Self::try_from(octets.0).unwrap_or(Self::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Notation for Octets<MIN, MAX> {
    fn read(text: &str) -> Result<Self, Wrong> {
        let octets = read(text)?;
        if !(MIN..=MAX).contains(&octets) {
            let bounds = format!("use {} to {}", written(MIN), written(MAX));
            return Err(Wrong::new(format!("{} is out of bounds", quoted(text))).hint(bounds));
        }
        Ok(Self(octets))
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": MIN, "maximum": MAX },
                { "type": "string", "pattern": "^[0-9]+ ?([KMGT]iB|kB|MB|GB|B)?$", "examples": ["32KiB", "10MiB"] },
            ],
        })
    }
}

/// Any number of octets.
pub(super) fn read(text: &str) -> Result<u64, Wrong> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let factor = match unit {
        "" => Some(1),
        unit => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
    };
    let octets = number.parse().ok().zip(factor).and_then(|(number, factor): (u64, u64)| number.checked_mul(factor));
    octets.ok_or_else(|| {
        Wrong::new(format!("{} is not a size", quoted(text)))
            .hint("write a whole number of octets, such as 32KiB or 10MB")
    })
}

fn written(octets: u64) -> String {
    let whole = |(_, factor): &&(&str, u64)| octets > 0 && factor.is_power_of_two() && octets.is_multiple_of(*factor);
    match UNITS.iter().filter(whole).max_by_key(|(_, factor)| *factor) {
        Some((unit, factor)) => format!("{}{unit}", octets / factor),
        None => octets.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        for (text, octets) in [("0", 0), ("7", 7), ("32KiB", 32_768), ("1 MiB", 1 << 20), ("5kB", 5_000), ("9B", 9)] {
            assert_eq!(read(text).unwrap(), octets, "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "-1", "1kb", "1K", "99999999999999999999", "99999999GiBB", "20000000TiB"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_are_told_in_the_unit_one_would_write() {
        let wrong = Octets::<1024, 1_048_576>::read("1").unwrap_err();
        assert_eq!(wrong.hint.unwrap(), "use 1KiB to 1MiB");
    }
}
