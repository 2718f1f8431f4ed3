//! What an app's file says of its endpoints: which is chosen, how they are probed, and when they are ejected.

use std::{num::NonZeroU16, ops::RangeInclusive, time::Duration};

use schemars::{Schema, json_schema};

use super::{
    error::{Wrong, quoted},
    file::{BalanceBlock, EjectionBlock, HashBlock, Health},
    node::{Given, Placed},
    notation::{Notation, Whole, words},
    pass::Pass,
};
use crate::switch::{Balance, BalanceRule, Ejection, HashBy, Hashing, HealthCheck, Statuses};

impl Pass<'_> {
    pub(super) fn balance(&mut self, block: &BalanceBlock) -> Balance {
        let mut balance = Balance::default();
        self.set(&mut balance.slow_start, &block.slow_start);
        let rule = block.policy.get().and_then(|rule| self.read(rule)).unwrap_or(Balancing::LeastRequest);
        balance.rule = match rule {
            Balancing::LeastRequest => BalanceRule::LeastRequest,
            Balancing::RoundRobin => BalanceRule::RoundRobin,
            Balancing::Random => BalanceRule::Random,
            Balancing::ConsistentHash => return Balance { rule: self.hashing(block), ..balance },
        };
        let hint = "say `policy: consistent_hash`, or leave this out";
        for (place, key) in [(place(&block.hash), "hash"), (place(&block.bounded_load), "bounded_load")] {
            if let Some(place) = place {
                self.wrong(place, Wrong::new(format!("`{key}` is for the policy consistent_hash")).hint(hint));
            }
        }
        balance
    }

    /// What the rule hashes. Where that is wrong, another rule takes its place, and the outcome is thrown away.
    fn hashing(&mut self, block: &BalanceBlock) -> BalanceRule {
        let mut bound = BoundedLoad(Some(Hashing::BOUNDED_LOAD));
        self.set(&mut bound, &block.bounded_load);
        let Some(Placed { value: hash, place }) = block.hash.get() else {
            // Only a policy that was given can be this one.
            if let Some(policy) = block.policy.get() {
                let wrong = Wrong::new("what is to be hashed is missing");
                self.wrong(
                    policy.place,
                    wrong.hint("name it as `hash: { cookie: NAME }`, `{ header: NAME }` or `{ client_ip: true }`"),
                );
            }
            return BalanceRule::default();
        };
        match self.hash_by(hash) {
            Some(by) => BalanceRule::ConsistentHash(Hashing { by, bounded_load: bound.0 }),
            None => {
                self.wrong(*place, Wrong::new("a hash is of one thing").hint("name one of cookie, header, client_ip"));
                BalanceRule::default()
            }
        }
    }

    /// The one thing that is named, or `None` if it is not one.
    fn hash_by(&mut self, hash: &HashBlock) -> Option<HashBy> {
        let cookie = hash.cookie.get().and_then(|name| self.read(name));
        let header = hash.header.get().and_then(|name| self.read(name));
        let mut client_ip = false;
        self.set(&mut client_ip, &hash.client_ip);
        let mut ttl = None;
        if let Some(given) = hash.ttl.get() {
            ttl = self.read(given).map(Duration::from);
            if hash.cookie.get().is_none() {
                self.wrong(given.place, Wrong::new("`ttl` is how long a cookie is kept").hint("leave it out"));
            }
        }
        let named = [hash.cookie.get().is_some(), hash.header.get().is_some(), client_ip];
        if named.into_iter().filter(|named| *named).count() != 1 {
            return None;
        }
        // What could not be read has been taken note of.
        Some(match (cookie, header) {
            (Some(Token(name)), _) => HashBy::Cookie { name, ttl },
            (None, Some(Token(name))) => HashBy::Header(name.to_ascii_lowercase()),
            (None, None) => HashBy::ClientIp,
        })
    }

    pub(super) fn health_check(&mut self, block: &Health) -> HealthCheck {
        let path = block.path.get().and_then(|path| self.read(path)).map(Into::into);
        let mut check = HealthCheck { path, ..HealthCheck::default() };
        self.set(&mut check.status, &block.status);
        check.host = block.host.get().and_then(|host| self.read(host)).map(|CheckHost(host)| host);
        check.port = block.port.get().and_then(|port| self.read(port)).and_then(Into::into);
        self.set(&mut check.interval, &block.interval);
        self.set(&mut check.jitter, &block.jitter);
        self.set(&mut check.timeout, &block.timeout);
        self.set(&mut check.rise, &block.rise);
        self.set(&mut check.fall, &block.fall);
        if block.path.get().is_none() {
            for (place, key) in [(place(&block.status), "status"), (place(&block.host), "host")] {
                if let Some(place) = place {
                    let wrong = Wrong::new(format!("`{key}` is for checks by HTTP"));
                    self.wrong(place, wrong.hint("name a `path` to GET; without one a TCP connect is all there is"));
                }
            }
        }
        check
    }

    pub(super) fn ejection(&mut self, block: &EjectionBlock) -> Ejection {
        let mut ejection = Ejection::default();
        self.set(&mut ejection.consecutive_failures, &block.consecutive_failures);
        self.set(&mut ejection.error_percent, &block.error_ratio);
        self.set(&mut ejection.window, &block.window);
        self.set(&mut ejection.min_requests, &block.min_requests);
        self.set(&mut ejection.lasts, &block.r#for);
        self.set(&mut ejection.max_percent, &block.max_share);
        self.set(&mut ejection.gateway_errors, &block.gateway_errors);
        ejection
    }
}

fn place<T>(given: &Given<T>) -> Option<serde_saphyr::Location> {
    given.get().map(|placed| placed.place)
}

/// A balancing policy by name; what it hashes is named beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balancing {
    LeastRequest,
    RoundRobin,
    Random,
    ConsistentHash,
}

words!(Balancing, "a balancing policy", {
    "least_request" => Self::LeastRequest, "round_robin" => Self::RoundRobin, "random" => Self::Random,
    "consistent_hash" => Self::ConsistentHash,
});

/// How far above the average, as a factor, the load of one endpoint may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BoundedLoad(
    /// In percent; `None` for no bound.
    Option<u32>,
);

impl Notation for BoundedLoad {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text == "off" {
            return Ok(Self(None));
        }
        let wrong = || Wrong::new(format!("{} is no factor", quoted(text))).hint("use 1.05 to 10, or off");
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 2) || !digits(part, 2) {
            return Err(wrong());
        }
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let percent = number(whole)? * 100 + number(&format!("{part:0<2}"))?;
        if (105..=1000).contains(&percent) { Ok(Self(Some(percent))) } else { Err(wrong()) }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "off" }, { "type": "number", "minimum": 1.05, "maximum": 10 }] })
    }
}

/// A share in percent, within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> From<Percent<MIN, MAX>> for u32 {
    fn from(percent: Percent<MIN, MAX>) -> Self {
        percent.0
    }
}

impl<const MIN: u32, const MAX: u32> Notation for Percent<MIN, MAX> {
    fn read(text: &str) -> Result<Self, Wrong> {
        let number = text.strip_suffix('%').and_then(|number| Whole::<MIN, MAX>::read(number).ok());
        let wrong = || Wrong::new(format!("{} is not such a share", quoted(text)));
        number.map(|number| Self(number.into())).ok_or_else(|| wrong().hint(format!("use {MIN}% to {MAX}%")))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{1,3}%$", "examples": [format!("{MAX}%")] })
    }
}

/// A name made of the characters that RFC 9110 §5.6.2 allows in one: of a cookie, of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token(String);

impl Notation for Token {
    fn read(text: &str) -> Result<Self, Wrong> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let is_one = (1..=128).contains(&text.len()) && text.bytes().all(allowed);
        let wrong = || Wrong::new(format!("{} is no name of a cookie or header", quoted(text)));
        let hint = "use letters, digits, `-` and `_`";
        if is_one { Ok(Self(text.to_owned())) } else { Err(wrong().hint(hint)) }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$" })
    }
}

/// The `Host` of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckHost(String);

impl Notation for CheckHost {
    fn read(text: &str) -> Result<Self, Wrong> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        let is_one = (1..=253).contains(&text.len()) && text.bytes().all(allowed);
        let wrong = || Wrong::new(format!("{} is no host", quoted(text)));
        if is_one { Ok(Self(text.to_owned())) } else { Err(wrong().hint("such as shop.example.com, or with a port")) }
    }
}

impl<const MIN: u32, const MAX: u32> From<Whole<MIN, MAX>> for Option<NonZeroU16> {
    fn from(whole: Whole<MIN, MAX>) -> Self {
        u16::try_from(u32::from(whole)).ok().and_then(NonZeroU16::new)
    }
}

impl Notation for Statuses {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = || {
            Wrong::new(format!("{} is not a list of statuses", quoted(text))).hint("such as 200-399, 2xx, or 200,204")
        };
        let status =
            |text: &str| Whole::<100, 599>::read(text.trim()).ok().and_then(|n| u16::try_from(u32::from(n)).ok());
        let range = |text: &str| -> Option<RangeInclusive<u16>> {
            if let Some(class) = text.trim().strip_suffix("xx") {
                let first = status(&format!("{class}00"))?;
                return Some(first..=first + 99);
            }
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (status(first)?, status(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        ranges.map(Self).ok_or_else(wrong)
    }

    fn schema() -> Schema {
        let ranges = json_schema!({
            "type": "string",
            "pattern": "^[1-5](xx|[0-9]{2}(-[1-5][0-9]{2})?)( *, *[1-5](xx|[0-9]{2}(-[1-5][0-9]{2})?))*$"
        });
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 100, "maximum": 599 }, ranges] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_has_at_most_two_decimals_and_lies_above_one() {
        for (text, percent) in
            [("1.25", Some(125)), ("1.5", Some(150)), ("2", Some(200)), ("10", Some(1000)), ("off", None)]
        {
            assert_eq!(BoundedLoad::read(text).unwrap(), BoundedLoad(percent), "{text}");
        }
        for text in ["", "1", "1.0", "1.04", "10.01", "1.255", "-2", "1,5", ".5", "1.", "100", "125%"] {
            assert!(BoundedLoad::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_a_number_with_its_sign() {
        assert_eq!(Percent::<0, 50>::read("10%").unwrap(), Percent(10));
        for text in ["", "10", "51%", "-1%", "1.5%", "% 1", "10 %"] {
            assert!(Percent::<0, 50>::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn statuses_are_single_ones_and_ranges() {
        let read = |text| Statuses::read(text).ok();
        assert_eq!(read("200-399"), Some(Statuses::default()));
        assert_eq!(read("200"), Some(Statuses(vec![200..=200])));
        assert_eq!(read("200, 204-206,301"), Some(Statuses(vec![200..=200, 204..=206, 301..=301])));
        assert_eq!(read("2xx,304"), Some(Statuses(vec![200..=299, 304..=304])));
        assert!(Statuses::default().contains(399) && !Statuses::default().contains(400));
        for text in ["", "6xx", "xx", "2xxx", "399-200", "99", "600", "200,", "200-", "-200", "200-300-400", "all"] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn names_and_hosts_are_what_can_stand_in_a_head() {
        for text in ["session", "X-User", "__Host-a"] {
            assert!(Token::read(text).is_ok(), "{text}");
        }
        for text in ["", "a b", "a=b", "a;b", "a:b", "é", "a\r\n"] {
            assert!(Token::read(text).is_err(), "{text}");
        }
        for text in ["shop.example.com", "shop:8080", "[::1]:80"] {
            assert!(CheckHost::read(text).is_ok(), "{text}");
        }
        for text in ["", "a b", "a/b", "a\n", "user@a"] {
            assert!(CheckHost::read(text).is_err(), "{text}");
        }
    }
}
