//! What an app's owner asks of a candidate before it may be promoted, as plain values: requests, and what each must be
//! answered. And what they were found to come to, in the shape of the admin API. Who sends them is told by the board, and
//! reports through [`Feed::smoked`](super::Feed::smoked).

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{json_path::JsonPath, policy::Statuses, preview::Secret, status::GateState};

/// The checks of a smoke test. All must pass, one after the other, in one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Smoke {
    /// The checks, in the order they are sent; at least one.
    pub checks: Vec<SmokeCheck>,
    /// For how long what fails is tried again: an application may need a moment.
    pub within: Duration,
}

impl Smoke {
    /// For how long if nobody says.
    pub const WITHIN: Duration = Duration::from_secs(60);
    /// The most checks of one app.
    pub const MOST_CHECKS: usize = 100;
}

/// One request to the candidate, and what it must be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct SmokeCheck {
    /// What it is called; no two of an app are called the same.
    pub name: String,
    /// The method, such as `GET`.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// Header fields besides those that every request has; names in lower case.
    pub headers: Vec<(String, Secret)>,
    /// The body, in its octets; may be empty.
    pub body: String,
    /// How long the whole answer may take.
    pub timeout: Duration,
    /// What the answer must be.
    pub expected: Expected,
}

impl SmokeCheck {
    /// How long an answer may take if nobody says.
    pub const TIMEOUT: Duration = Duration::from_secs(5);
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Its status: one of these.
    pub status: Statuses,
    /// Fields it must have: a name in lower case, and a value in which `*` stands for anything.
    pub headers: Vec<(String, String)>,
    /// Texts that its body must contain.
    pub body_contains: Vec<String>,
    /// Places in its body, which must be JSON, and the value each must have. Where a place is several, all must.
    pub json: Vec<(JsonPath, Value)>,
}

impl Default for Expected {
    fn default() -> Self {
        let status = Statuses(vec![200..=299]);
        Self { status, headers: Vec::new(), body_contains: Vec::new(), json: Vec::new() }
    }
}

/// How a smoke test stands, as `GET /api/v1/apps/{app}/smoke` answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SmokeReport {
    /// The app.
    pub app: String,
    /// Its generation.
    pub generation: u64,
    /// The candidate that is tested.
    pub revision: String,
    /// Which run it is; each of an app has a larger number than the one before. 0 for one that has not begun.
    pub run: u64,
    /// Where it stands.
    pub state: GateState,
    /// The same in a sentence.
    pub message: String,
    /// When it began; absent while the candidate is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started: Option<Timestamp>,
    /// Until when what fails is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Timestamp>,
    /// How many times all checks have been sent.
    pub rounds: u32,
    /// The checks, in their order, as each was last found.
    pub checks: Vec<CheckReport>,
}

/// One check, as it was last found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Its name.
    pub name: String,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// Whether the last answer was as expected.
    pub state: GateState,
    /// What was expected and what came, where that differs; with the beginning of the body.
    pub message: String,
    /// The status of the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long the last answer took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millis: Option<u64>,
}

impl CheckReport {
    /// A check that has not been sent yet.
    pub fn pending(check: &SmokeCheck) -> Self {
        Self {
            name: check.name.clone(),
            method: check.method.clone(),
            path: check.path.clone(),
            state: GateState::Pending,
            message: String::new(),
            status: None,
            millis: None,
        }
    }
}
