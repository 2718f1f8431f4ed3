//! The part of a promotion that is about its smoke test.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    config::{
        audience::{FieldValue, SecretText},
        duration::Time,
        node::{Given, Named, Placed, Several, Text},
        notation::CheckPath,
        smoke::{CheckMethod, CheckName, FreeText},
    },
    switch::Statuses,
};

/// A request to the candidate, and what it must be answered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SmokeCheck {
    /// What it is called in gates and reports; left out: its path, after its method if that is not GET.
    #[serde(default)]
    pub(in crate::config) name: Given<Text<CheckName>>,
    /// The method.
    #[serde(default)]
    #[schemars(extend("default" = "GET"))]
    pub(in crate::config) method: Given<Text<CheckMethod>>,
    /// The path, with a query if there is one.
    pub(in crate::config) path: Placed<Text<CheckPath>>,
    /// Header fields to send besides, by name; values as they are or as `file:PATH`. `Host` is the first of the app's
    /// preview hosts, or of its hosts, if it is not here.
    #[serde(default)]
    pub(in crate::config) headers: Named<Placed<Text<SecretText>>>,
    /// The body to send; left out: none.
    #[serde(default)]
    pub(in crate::config) body: Given<Text<FreeText>>,
    /// The statuses that are good: one such as 200, a class such as 2xx, a range such as 200-299, or a list of these.
    #[serde(default)]
    #[schemars(extend("default" = "2xx"))]
    pub(in crate::config) status: Given<Several<Statuses>>,
    /// Fields that the answer must have, by name; `*` in a value stands for anything.
    #[serde(default)]
    pub(in crate::config) expect_headers: Named<Placed<Text<FieldValue>>>,
    /// A text that the body must contain, or a list of them.
    #[serde(default)]
    pub(in crate::config) body_contains: Given<Several<FreeText>>,
    /// Places in the body, which must be JSON, and the value each must have: `status` for the member of that name,
    /// `components.db.status` for one further in, or a path such as `$.items[*].state`, of which all must.
    #[serde(default)]
    pub(in crate::config) json: Named<Placed<Value>>,
    /// How long the whole answer may take.
    #[serde(default)]
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) timeout: Given<Text<Time<1>>>,
}
