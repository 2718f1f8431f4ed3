//! How each kind of single value is written in the file: read, described for the schema, and explained when it is wrong.
//! Lengths of time
//! are in `duration`, amounts of data in `size`, hosts and addresses in `address`.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue};
use schemars::{Schema, json_schema};

use super::{
    duration,
    error::{Wrong, quoted},
};
use crate::{
    proxy::{Alpn, ClientAuthMode, ForwardingField, ListenerRole},
    switch::{
        AppName, AutoPromotion, Fallback, Family, MinReady, NotAName, Protocol, ProxyVersion, Rate, RateBy, Revision,
        Roots, Streams, TlsVersion,
    },
    telemetry::{AccessFormat, Format, Level},
};

/// A kind of value as it is written in the file.
pub(super) trait Notation: Sized {
    /// Reads what was written, variables already put in.
    fn read(text: &str) -> Result<Self, Wrong>;

    /// What may be written, as JSON Schema.
    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A value that is one of a few words.
macro_rules! words {
    ($type:ty, $what:literal, { $($word:literal => $value:expr),+ $(,)? }) => {
        impl Notation for $type {
            fn read(text: &str) -> Result<Self, Wrong> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(Wrong::unknown(format!("{} is not {}", quoted(text), $what), text, [$($word),+])),
                }
            }

            fn schema() -> Schema {
                json_schema!({ "enum": [$($word),+] })
            }
        }
    };
}

pub(super) use words;

words!(Level, "a log level", {
    "error" => Self::Error, "warn" => Self::Warn, "info" => Self::Info, "debug" => Self::Debug,
});
words!(Format, "a log format", { "text" => Self::Text, "json" => Self::Json });
words!(AccessFormat, "an access log format", {
    "json" => Self::Json, "combined" => Self::Combined, "off" => Self::Off,
});
words!(ListenerRole, "a listener's role", { "live" => Self::Live, "preview" => Self::Preview });
words!(TlsVersion, "a TLS version we speak", { "1.2" => Self::Tls12, "1.3" => Self::Tls13 });
words!(Fallback, "something testers can get instead", { "none" => Self::None, "active" => Self::Active });
words!(Alpn, "a protocol we speak over TLS", { "h2" => Self::H2, "http/1.1" => Self::Http11 });
words!(ClientAuthMode, "a way to ask for client certificates", {
    "required" => Self::Required, "optional" => Self::Optional,
});
words!(ForwardingField, "a field that tells of clients", {
    "x-forwarded-for" => Self::XForwardedFor, "forwarded" => Self::Forwarded,
});
words!(ProxyVersion, "a version of the PROXY protocol", { "v1" => Self::V1, "v2" => Self::V2 });
words!(Family, "a family of addresses", { "any" => Self::Any, "ipv4" => Self::Ipv4, "ipv6" => Self::Ipv6 });
words!(Streams, "something streams can do", { "keep" => Self::Keep, "drain" => Self::Drain, "cut" => Self::Cut });
words!(Protocol, "a protocol to speak to endpoints", { "http1" => Self::Http1, "h2" => Self::H2, "auto" => Self::Auto });

impl Notation for bool {
    fn read(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| Wrong::new(format!("{} is neither true nor false", quoted(text))))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> From<Whole<MIN, MAX>> for u32 {
    fn from(whole: Whole<MIN, MAX>) -> Self {
        whole.0
    }
}

impl<const MIN: u32, const MAX: u32> From<Whole<MIN, MAX>> for usize {
    fn from(whole: Whole<MIN, MAX>) -> Self {
        Self::try_from(whole.0).unwrap_or(Self::MAX)
    }
}

impl<const MIN: u32, const MAX: u32> Notation for Whole<MIN, MAX> {
    fn read(text: &str) -> Result<Self, Wrong> {
        let number = whole(text)?;
        match u32::try_from(number) {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(Wrong::new(format!("{} is out of bounds", quoted(text))).hint(format!("use {MIN} to {MAX}"))),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

fn whole(text: &str) -> Result<u64, Wrong> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let wrong = || Wrong::new(format!("{} is not a whole number", quoted(text)));
    if digits { Ok(text.parse().unwrap_or(u64::MAX)) } else { Err(wrong()) }
}

/// The version of the file's format. There is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version;

impl Notation for Version {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is not a version of this file's format", quoted(text)));
        if text == "1" { Ok(Self) } else { Err(wrong().hint("this program reads version 1")) }
    }

    fn schema() -> Schema {
        json_schema!({ "const": 1 })
    }
}

/// How many data-plane threads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Workers {
    /// One for each CPU the process may use.
    Auto,
    /// So many.
    Count(Whole<1, 256>),
}

impl Notation for Workers {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        Whole::read(text).map(Self::Count).map_err(|wrong| wrong.hint("use auto, or 1 to 256"))
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, Whole::<1, 256>::schema()] })
    }
}

/// The status for a host that no app answers to.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnknownHost(u16);

impl From<UnknownHost> for u16 {
    fn from(status: UnknownHost) -> Self {
        status.0
    }
}

impl Notation for UnknownHost {
    fn read(text: &str) -> Result<Self, Wrong> {
        match text {
            "421" => Ok(Self(421)),
            "404" => Ok(Self(404)),
            _ => {
                Err(Wrong::new(format!("{} is not a status for an unknown host", quoted(text))).hint("use 421 or 404"))
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "enum": [421, 404] })
    }
}

impl Notation for AutoPromotion {
    fn read(text: &str) -> Result<Self, Wrong> {
        match text {
            "false" => Ok(Self::Never),
            "true" => Ok(Self::WhenReady),
            _ => match text.strip_prefix("after ") {
                Some(time) => duration::read(time).map(Self::After),
                None => Err(Wrong::new(format!("{} is no way to promote", quoted(text)))
                    .hint("use true, false, or \"after 10m\"")),
            },
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, { "type": "string", "pattern": "^after .+$" }] })
    }
}

impl Notation for MinReady {
    fn read(text: &str) -> Result<Self, Wrong> {
        let (number, most) = match text.strip_suffix('%') {
            Some(number) => (number, 100),
            None => (text, u64::from(u32::MAX)),
        };
        let wrong = || Wrong::new(format!("{} is neither a number of endpoints nor a share", quoted(text)));
        let number = whole(number).ok().filter(|n| (1..=most).contains(n));
        let number = number.ok_or_else(|| wrong().hint("use 1 or more, or \"1%\" to \"100%\""))?;
        if most == 100 {
            return Ok(Self::Percent(u8::try_from(number).unwrap_or(100)));
        }
        Ok(Self::Count(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    fn schema() -> Schema {
        let share = json_schema!({ "type": "string", "pattern": "^([1-9][0-9]?|100)%$" });
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, share] })
    }
}

/// A share of something, in whole percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share(u32);

impl From<Share> for u32 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl Notation for Share {
    fn read(text: &str) -> Result<Self, Wrong> {
        let number = text.strip_suffix('%').and_then(|number| whole(number).ok()).filter(|number| *number <= 100);
        let wrong = || Wrong::new(format!("{} is not a share", quoted(text))).hint("use \"0%\" to \"100%\"");
        number.and_then(|number| u32::try_from(number).ok()).map(Self).ok_or_else(wrong)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([1-9]?[0-9]|100)%$" })
    }
}

/// A rate in its short form, `100/s`; none for `0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShortRate(Option<Rate>);

impl From<ShortRate> for Option<Rate> {
    fn from(rate: ShortRate) -> Self {
        rate.0
    }
}

impl Notation for ShortRate {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text == "0" {
            return Ok(Self(None));
        }
        let wrong =
            || Wrong::new(format!("{} is not a rate", quoted(text))).hint("use 1/s to 1000000/s, /m or /h, or 0");
        let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        let requests = Whole::<1, 1_000_000>::read(number).ok().and_then(|number| NonZeroU32::new(number.into()));
        let requests = requests.ok_or_else(wrong)?;
        Ok(Self(Some(Rate { requests, per: Duration::from_secs(seconds), burst: requests, by: RateBy::ClientIp })))
    }

    fn schema() -> Schema {
        let short = json_schema!({ "type": "string", "pattern": "^[1-9][0-9]*/[smh]$", "examples": ["100/s"] });
        json_schema!({ "anyOf": [{ "const": 0 }, short] })
    }
}

impl Notation for RateBy {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} does not tell clients apart", quoted(text)));
        if text == "client_ip" {
            return Ok(Self::ClientIp);
        }
        let name = text.strip_prefix("header:").ok_or_else(|| wrong().hint("use client_ip or header:NAME"))?;
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(Self::Header(name.as_str().into())),
            Err(_) => Err(wrong().hint(format!("{} is no name of a field", quoted(name)))),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "client_ip" }, { "type": "string", "pattern": "^header:[!-~]+$" }] })
    }
}

/// The value of a `Content-Type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MediaType(String);

impl From<MediaType> for String {
    fn from(media_type: MediaType) -> Self {
        media_type.0
    }
}

impl Notation for MediaType {
    fn read(text: &str) -> Result<Self, Wrong> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let tokens = essence.split_once('/').filter(|(kind, sub)| {
            [kind, sub]
                .iter()
                .all(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && b != b'/'))
        });
        match tokens.filter(|_| HeaderValue::from_str(text).is_ok() && text.is_ascii()) {
            Some(_) => Ok(Self(text.to_owned())),
            None => {
                Err(Wrong::new(format!("{} is not a media type", quoted(text))).hint("write one such as text/html"))
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[!-.0-~]+/[!-.0-~]+", "examples": ["text/html; charset=utf-8"] })
    }
}

/// A path as a request has it, without query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UrlPath(String);

impl From<UrlPath> for String {
    fn from(path: UrlPath) -> Self {
        path.0
    }
}

impl Notation for UrlPath {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |hint: &str| Err(Wrong::new(format!("{} is not a path", quoted(text))).hint(hint));
        match text {
            _ if !text.starts_with('/') => wrong("a path starts with `/`"),
            _ if text.contains(['?', '#']) => wrong("leave the query out"),
            _ if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(Self(text.to_owned())),
            _ => wrong("write spaces and other such characters in their %XX form"),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/[^?#]*$" })
    }
}

/// The path of a health check, which may have a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckPath(String);

impl From<CheckPath> for String {
    fn from(path: CheckPath) -> Self {
        path.0
    }
}

impl Notation for CheckPath {
    fn read(text: &str) -> Result<Self, Wrong> {
        let path = text.split_once('?').map_or(text, |(path, _)| path);
        UrlPath::read(path)?;
        let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        let wrong = || Wrong::new(format!("{} is not a path with a query", quoted(text)));
        if plain { Ok(Self(text.to_owned())) } else { Err(wrong()) }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/[^#]*$" })
    }
}

impl Notation for PathBuf {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() { Err(Wrong::new("the path is missing")) } else { Ok(text.into()) }
    }
}

impl Notation for Roots {
    fn read(text: &str) -> Result<Self, Wrong> {
        match text {
            "system" => Ok(Self::System),
            file => PathBuf::read(file).map(Self::File),
        }
    }
}

/// A name as it stands in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerName(pub(super) String);

impl Notation for ServerName {
    fn read(text: &str) -> Result<Self, Wrong> {
        match rustls_pki_types::ServerName::try_from(text) {
            Ok(_) => Ok(Self(text.to_ascii_lowercase())),
            Err(_) => {
                let wrong = Wrong::new(format!("{} is not a server's name", quoted(text)));
                Err(wrong.hint("write the host's name alone, such as app.internal"))
            }
        }
    }
}

impl From<NotAName> for Wrong {
    fn from(not: NotAName) -> Self {
        Self::new(not.to_string())
    }
}

impl Notation for AppName {
    fn read(text: &str) -> Result<Self, Wrong> {
        Ok(text.parse()?)
    }
}

impl Notation for Revision {
    fn read(text: &str) -> Result<Self, Wrong> {
        Ok(text.parse()?)
    }
}

/// A listener's name: what an app's may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListenerName(pub(super) String);

impl Notation for ListenerName {
    fn read(text: &str) -> Result<Self, Wrong> {
        let name: AppName = text.parse()?;
        Ok(Self(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Debug, time::Duration};

    use super::*;

    fn reads<T: Notation + PartialEq + Debug>(text: &str, expected: T) {
        assert_eq!(T::read(text).unwrap(), expected, "{text}");
    }

    #[track_caller]
    fn refuses<T: Notation + Debug>(texts: &[&str]) {
        for text in texts {
            assert!(T::read(text).is_err(), "{text:?} was read");
        }
    }

    #[test]
    fn words_are_exact_and_the_nearest_is_offered() {
        reads("warn", Level::Warn);
        assert_eq!(Level::read("wran").unwrap_err().hint.unwrap(), "did you mean `warn`?");
        assert_eq!(Streams::read("stay").unwrap_err().hint.unwrap(), "use one of keep, drain, cut");
        refuses::<bool>(&["yes", "True", "1", ""]);
    }

    #[test]
    fn numbers_are_plain_and_within_bounds() {
        reads("256", Whole::<1, 256>(256));
        refuses::<Whole<1, 256>>(&["0", "257", "-1", "1.0", "1e2", "0x10", "", "99999999999999999999999"]);
    }

    #[test]
    fn promotion_can_be_by_hand_at_once_or_after_a_while() {
        reads("false", AutoPromotion::Never);
        reads("true", AutoPromotion::WhenReady);
        reads("after 10m", AutoPromotion::After(Duration::from_secs(600)));
        refuses::<AutoPromotion>(&["", "10m", "after", "after ten", "yes"]);
        reads("3", MinReady::Count(3));
        reads("60%", MinReady::Percent(60));
        refuses::<MinReady>(&["0", "0%", "101%", "-1", "%", "half", "50 %", ""]);
    }

    #[test]
    fn shares_rates_and_what_they_are_by_are_written_in_one_way() {
        reads("20%", Share(20));
        refuses::<Share>(&["20", "101%", "-1%", "%", "1.5%", ""]);
        let number = |n| NonZeroU32::new(n).unwrap();
        let (requests, per) = (number(100), Duration::from_secs(60));
        reads("100/m", ShortRate(Some(Rate { requests, per, burst: requests, by: RateBy::ClientIp })));
        reads("0", ShortRate(None));
        refuses::<ShortRate>(&["", "100", "0/s", "100/d", "1000001/s", "/s", "-1/s", "1.5/s", "100 /s"]);
        reads("header:X-Api-Key", RateBy::Header("x-api-key".into()));
        reads("client_ip", RateBy::ClientIp);
        refuses::<RateBy>(&["", "ip", "header", "header:", "header:a b", "cookie:a"]);
        reads("text/html; charset=utf-8", MediaType("text/html; charset=utf-8".to_owned()));
        refuses::<MediaType>(&["", "html", "text/", "/html", "text/html\n", "text/a b"]);
    }

    #[test]
    fn paths_start_with_a_slash_and_hold_no_query() {
        reads("/api/v1", UrlPath("/api/v1".into()));
        refuses::<UrlPath>(&["", "api", "/a?b", "/a#b", "/a b", "/é", "/a\n"]);
        reads("/healthz?full=1", CheckPath("/healthz?full=1".into()));
        refuses::<CheckPath>(&["healthz", "/a b", "/a?b#c", "?a"]);
    }
}
