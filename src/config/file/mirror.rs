//! The part of an app that is about its mirror.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{
        duration::Time,
        mirror::{Ignored, MirrorShare, MirroredField},
        node::{Given, Placed, Text},
        notation::Whole,
        size::Octets,
    },
    switch::{BodyComparison, SafeMethod},
};

/// Copies a share of safe live requests to the candidate, and compares the answers. Clients never notice.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Mirror {
    /// Which share of live requests is copied, such as "10%" or "0.5%".
    pub(in crate::config) share: Placed<Text<MirrorShare>>,
    /// Requests with these methods; only safe ones can be.
    #[serde(default)]
    pub(in crate::config) methods: Given<Vec<Placed<Text<SafeMethod>>>>,
    /// How many copies may be under way at once; beyond, none is made.
    #[serde(default)]
    pub(in crate::config) max_in_flight: Given<Text<Whole<1, 10_000>>>,
    /// How much of a body is compared.
    #[serde(default)]
    pub(in crate::config) max_body: Given<Text<Octets<1024, { 16 << 20 }>>>,
    /// How long the candidate may take for its whole answer.
    #[serde(default)]
    pub(in crate::config) timeout: Given<Text<Time<10>>>,
    /// How the answers are compared.
    #[serde(default)]
    pub(in crate::config) compare: Compare,
}

/// How the answers are compared.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Compare {
    /// Whether the status is.
    pub(in crate::config) status: Given<Text<bool>>,
    /// Which header fields are; "*" for all but those of the connection, the moment (Date, Age, Expires, Last-Modified)
    /// and the client (Set-Cookie). An empty list is an error: to compare none, name one that no answer has.
    pub(in crate::config) headers: Given<Vec<Placed<Text<MirroredField>>>>,
    /// How the body is: `exact`, octet by octet; `json`, whatever its order and white space; `none`, not at all.
    pub(in crate::config) body: Given<Text<BodyComparison>>,
    /// What is not: names of header fields, and places in a JSON body such as $.time, $.items[*].id or $..id.
    pub(in crate::config) ignore: Given<Vec<Placed<Text<Ignored>>>>,
}
