//! The part of an app that says how much of its traffic is let in, and what those are told who get no answer of an
//! upstream.

use std::{borrow::Cow, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::{
    config::{
        duration::Time,
        node::{Given, LongForm, Placed, ShortOr, Text},
        notation::{MediaType, ShortRate, Whole},
        size::Octets,
    },
    switch::RateBy,
};

/// How much of the app's traffic is let in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Limits {
    /// The largest request body; 0 for no limit.
    pub(in crate::config) body_size: Given<Text<Octets<0, { u64::MAX }>>>,
    /// The most requests and tunnels in flight at once, over all workers; 0 for no limit.
    pub(in crate::config) in_flight: Given<Text<Whole<0, 1_000_000>>>,
    /// How many more may wait for their turn; those over it are refused with 503.
    pub(in crate::config) queue: Given<Text<Whole<0, 1_000_000>>>,
    /// How long each may wait before it is refused with 503.
    pub(in crate::config) queue_timeout: Given<Text<Time<1>>>,
    /// How often one client may ask before it is refused with 429: `100/s`, `6000/m`, or a mapping; 0 for no limit.
    pub(in crate::config) rate: Given<RateForm>,
}

/// `100/s`, or `{ requests: 100, per: 1s, burst: 200, by: client_ip }`.
#[derive(Debug)]
pub(in crate::config) struct RateForm(pub(in crate::config) ShortOr<RateBlock>);

/// How often one client may ask.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RateBlock {
    /// So many requests, evenly spread over the time.
    pub(in crate::config) requests: Placed<Text<Whole<1, 1_000_000>>>,
    /// In each such time; left out: a second.
    #[serde(default)]
    #[schemars(extend("examples" = ["1s", "1m"]))]
    pub(in crate::config) per: Given<Text<Time<1>>>,
    /// How many may come at once after a pause; left out: as many as `requests`.
    #[serde(default)]
    pub(in crate::config) burst: Given<Text<Whole<1, 1_000_000>>>,
    /// What makes two requests one client's: `client_ip`, the address (of IPv6 its /64), or `header:NAME`, the value of
    /// that field, and the address without one. Left out: `client_ip`.
    #[serde(default)]
    #[schemars(extend("examples" = ["client_ip", "header:X-Api-Key"]))]
    pub(in crate::config) by: Given<Text<RateBy>>,
}

/// A page in place of one of our short texts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ErrorBlock {
    /// Its file, read with the configuration; 256KiB at most.
    pub(in crate::config) file: Placed<Text<PathBuf>>,
    /// Its `Content-Type`; left out: `text/html; charset=utf-8`.
    #[serde(default)]
    pub(in crate::config) content_type: Given<Text<MediaType>>,
}

impl LongForm for RateBlock {
    const FORMS: &str = "a rate: 100/s, or { requests: 100, per: 1s }";
}

impl<'de> Deserialize<'de> for RateForm {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ShortOr::deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for RateForm {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<Text<ShortRate>>();
        let long = generator.subschema_for::<RateBlock>();
        json_schema!({ "anyOf": [short, long] })
    }
}
