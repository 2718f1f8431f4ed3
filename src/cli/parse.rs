//! What is typed on the command line, turned into what it means.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

use crate::{
    admin::api::EndpointRequest,
    config,
    switch::{EndpointSpec, NotAnAddress, Whereabouts},
};

/// The most weight an endpoint may have.
const MAX_WEIGHT: u32 = 256;

/// A length of time: `500ms`, `10s`, `5m`, `2h`, `90d`, also together (`1h30m`); days have 24 hours.
pub(crate) fn duration(given: &str) -> Result<Duration, String> {
    let wrong = || format!("{given:?} is not a duration: write e.g. 500ms, 10s, 5m, 2h, 90d or 1h30m");
    let span: Span = given.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}

/// An amount of data: `64MiB`, `10kB`, or a number of octets.
pub(crate) fn size(given: &str) -> Result<u64, String> {
    config::octets(given)
}

/// An endpoint: its address (`IP:PORT`, `NAME:PORT` or `unix:/PATH`), or `ADDRESS,WEIGHT` with a weight of 1 to 256.
pub(crate) fn endpoint(given: &str) -> Result<EndpointRequest, String> {
    let (address, weight) = given.split_once(',').unwrap_or((given, "1"));
    let address: Whereabouts = address.parse().map_err(|wrong: NotAnAddress| wrong.to_string())?;
    match weight.parse() {
        Ok(weight @ 1..=MAX_WEIGHT) => Ok(EndpointRequest(EndpointSpec { weight, ..address.into() })),
        _ => Err(format!("{weight:?} is not a weight: write a number from 1 to {MAX_WEIGHT}")),
    }
}

/// A label: `KEY=VALUE`.
pub(crate) fn label(given: &str) -> Result<(String, String), String> {
    match given.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{given:?} is not a label: write KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_no_sign() {
        let good = [("500ms", 500), ("10s", 10_000), ("1h30m", 5_400_000), ("90d", 7_776_000_000)];
        for (given, millis) in good {
            assert_eq!(duration(given), Ok(Duration::from_millis(millis)), "{given}");
        }
        for bad in ["", "10", "s", "-5s", "1 parsec", "1mo"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_an_address_with_a_weight_of_its_own_or_of_one() {
        let read = |given: &str| endpoint(given).map(|e| (e.0.address.to_string(), e.0.weight));
        assert_eq!(read("127.0.0.1:9001"), Ok(("127.0.0.1:9001".to_owned(), 1)));
        assert_eq!(read("[::1]:9001,256"), Ok(("[::1]:9001".to_owned(), 256)));
        assert_eq!(read("app.internal:9001,3"), Ok(("app.internal:9001".to_owned(), 3)));
        assert_eq!(read("unix:/run/a.sock"), Ok(("unix:/run/a.sock".to_owned(), 1)));
        for bad in ["", "9001", "localhost", "127.0.0.1:9001,", "127.0.0.1:9001,0", "127.0.0.1:9001,257"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_has_a_key_and_may_have_any_value() {
        assert_eq!(label("commit=a=b"), Ok(("commit".to_owned(), "a=b".to_owned())));
        assert_eq!(label("commit="), Ok(("commit".to_owned(), String::new())));
        assert!(label("=x").is_err() && label("x").is_err());
    }
}
