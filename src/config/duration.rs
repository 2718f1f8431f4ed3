//! Lengths of time as the file writes them: `10s`, `500ms`, `1h30m`, `0s`.

use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use schemars::{Schema, json_schema};

use super::{
    error::{Wrong, quoted},
    notation::Notation,
};

/// The longest that any length of time may be: a year, so that adding one to a clock is always possible.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

const FORMS: &str = "write a number with its unit, such as 10s, 500ms or 1h30m";

/// A length of time of at least so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time<const MIN_MILLIS: u64>(Duration);

impl<const MIN_MILLIS: u64> From<Time<MIN_MILLIS>> for Duration {
    fn from(time: Time<MIN_MILLIS>) -> Self {
        time.0
    }
}

/// A limit in time, where zero turns it off.
impl From<Time<0>> for Option<Duration> {
    fn from(time: Time<0>) -> Self {
        (!time.0.is_zero()).then_some(time.0)
    }
}

impl<const MIN_MILLIS: u64> Notation for Time<MIN_MILLIS> {
    fn read(text: &str) -> Result<Self, Wrong> {
        let time = read(text)?;
        if time < Duration::from_millis(MIN_MILLIS) {
            let off = if time.is_zero() { "; this one cannot be turned off" } else { "" };
            return Err(
                Wrong::new(format!("{} is too short", quoted(text))).hint(format!("use {MIN_MILLIS}ms or more{off}"))
            );
        }
        Ok(Self(time))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(h|m|s|ms) ?)+$", "examples": ["10s", "500ms", "1h30m"] })
    }
}

/// Any length of time up to a year.
pub(super) fn read(text: &str) -> Result<Duration, Wrong> {
    if let Some(unit) = text.find(|c: char| !c.is_ascii_digit()).map(|at| &text[at..])
        && matches!(unit.trim(), "d" | "day" | "days" | "w" | "week" | "weeks")
    {
        return Err(Wrong::new(format!("{} is not a length of time here", quoted(text)))
            .hint("days differ in length; write hours, such as 24h"));
    }
    let bad = |_| Wrong::new(format!("{} is not a length of time", quoted(text))).hint(FORMS);
    let time = SpanParser::new().parse_unsigned_duration(text.trim()).map_err(bad)?;
    if time > LONGEST {
        return Err(Wrong::new(format!("{} is too long", quoted(text))).hint("use 8760h, a year, or less"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_a_number_with_its_unit() {
        for (text, millis) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("0s", 0),
            ("1.5s", 1_500),
            (" 2m ", 120_000),
        ] {
            assert_eq!(read(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn a_number_without_unit_a_negative_or_an_endless_time_is_refused() {
        for text in ["", "10", "s", "-10s", "10s ago", "1e9h", "9000h", "1d", "2 weeks", "9999999999999999999s", "10x"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(Time::<1>::read("0s").is_err());
        assert_eq!(Option::from(Time::<0>::read("0s").unwrap()), None::<Duration>);
    }
}
