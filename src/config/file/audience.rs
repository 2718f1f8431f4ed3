//! The part of an app that is about who sees which revision: testers the candidate, and some of live traffic too.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{
        audience::{CookieName, Digest, FieldName, FieldValue, SecretText, UserName},
        duration::Time,
        node::{Given, Placed, Several, Text},
    },
    switch::{Fallback, HostPattern},
};

/// How the candidate is reached. Any way in is enough: by its own hosts, by listeners of role `preview`, by a header, by a
/// signed cookie. Every restriction must hold, whatever the way: `allow`, `credentials`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Preview {
    /// Hosts that show the candidate on every listener.
    pub(in crate::config) hosts: Given<Vec<Placed<Text<HostPattern>>>>,
    /// Networks whose clients may see the candidate; left out: every client.
    pub(in crate::config) allow: Given<Vec<Placed<Text<IpNet>>>>,
    /// Whoever may see the candidate must know one of these, and sends it as `Authorization`; left out: everybody. It is
    /// not sent on.
    pub(in crate::config) credentials: Given<Vec<Credential>>,
    /// A header that shows the candidate on the live hosts.
    pub(in crate::config) header: Given<PreviewHeader>,
    /// A signed cookie that shows the candidate on the live hosts; `tealgate preview link` makes a link that sets it.
    pub(in crate::config) cookie: Given<PreviewCookie>,
    /// What testers get while no candidate is ready: `none` is a 503 that says so, `active` the live revision.
    pub(in crate::config) fallback: Given<Text<Fallback>>,
}

/// What somebody must know to see the candidate: a user and password (HTTP Basic), or without `user` a bearer token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Credential {
    /// The user's name.
    #[serde(default)]
    pub(in crate::config) user: Given<Text<UserName>>,
    /// The SHA-256 of the password or token, in hexadecimal: `printf %s PASSWORD | sha256sum`.
    pub(in crate::config) sha256: Placed<Text<Digest>>,
}

/// A header that shows the candidate on the live hosts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PreviewHeader {
    /// Its name.
    pub(in crate::config) name: Placed<Text<FieldName>>,
    /// The value it must have, as it is or as `file:PATH`; left out: any.
    #[serde(default)]
    pub(in crate::config) value: Given<Text<SecretText>>,
}

/// A signed cookie that shows the candidate on the live hosts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PreviewCookie {
    /// Its name.
    #[serde(default)]
    pub(in crate::config) name: Given<Text<CookieName>>,
    /// What it is signed with: 16 octets or more, as they are or as `file:PATH`; or a list, of which the first signs and
    /// all check.
    pub(in crate::config) secret: Several<SecretText>,
    /// How long a link is good if it is not said when it is made, 1s to 720h.
    #[serde(default)]
    pub(in crate::config) ttl: Given<Text<Time<1_000>>>,
}

/// Which live traffic goes to the candidate, and how it stays there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Ab {
    /// What a user is known by, to stay on one side; left out: a cookie of the proxy's own, `tealgate-ab`.
    pub(in crate::config) sticky: Given<Sticky>,
    /// Who goes to the candidate whatever the weight: requests that fit one of these.
    pub(in crate::config) rules: Given<Vec<Placed<Rule>>>,
}

/// What a user is known by: one of these. Users without it stay on the active revision.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Sticky {
    /// The name of a cookie that the application sets.
    pub(in crate::config) cookie: Given<Text<CookieName>>,
    /// The name of a header.
    pub(in crate::config) header: Given<Text<FieldName>>,
    /// The client's address; of an IPv6 address the first 64 bits.
    pub(in crate::config) client_ip: Given<Text<bool>>,
}

/// A header or a cookie that sends a request to the candidate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Rule {
    /// The name of a header.
    pub(in crate::config) header: Given<Text<FieldName>>,
    /// The name of a cookie.
    pub(in crate::config) cookie: Given<Text<CookieName>>,
    /// The value it must have; left out: any.
    pub(in crate::config) equals: Given<Text<FieldValue>>,
}
