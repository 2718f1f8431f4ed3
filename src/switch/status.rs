//! What the switch shows of itself: an app's state, an action's receipt, its history and the events between. These are
//! the very JSON shapes of the admin API, so there is one description from the core to the CLI. (`ToSchema` only derives
//! a description of them; it brings no behaviour in.)

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where an app stands in its rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Active only.
    Steady,
    /// A candidate exists, with too few ready endpoints.
    Starting,
    /// The candidate is ready; its gates run or wait.
    Previewing,
    /// Traffic has moved; the old revision is kept warm.
    Promoted,
    /// The candidate was dropped.
    Aborted,
}

/// The state of an app, as `GET /api/v1/apps/{app}` answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// The app's name.
    pub name: String,
    /// Raised by one with each change of roles; never goes back.
    pub generation: u64,
    /// Where the app stands in its rollout.
    pub phase: Phase,
    /// The same in a sentence, with what it waits for.
    pub message: String,
    /// The pool that carries live traffic.
    pub active: Option<PoolStatus>,
    /// The candidate.
    pub preview: Option<PoolStatus>,
    /// The revision a rollback returns to.
    pub previous: Option<PoolStatus>,
    /// Retired pools with requests still in flight.
    pub draining: Vec<DrainingStatus>,
    /// The gates of the candidate's promotion.
    pub gates: Vec<Gate>,
    /// The pin, if one holds.
    pub pin: Option<Pin>,
    /// The share of live traffic that goes to the preview while that is ready, in percent.
    pub weight: u32,
    /// The names among the endpoints, and what they were found to stand for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameStatus>,
    /// Where the desired state comes from.
    pub source: SourceStatus,
    /// The hold, if one is on: new live requests wait at the door.
    #[serde(default)]
    pub hold: Option<HoldStatus>,
    /// The maintenance, if it is on: live requests get its page.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
}

/// A hold that is on. A restart ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldStatus {
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself, and who waits is let in.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
    /// How many requests wait.
    pub waiting: usize,
    /// How many octets of memory their heads take.
    pub waiting_bytes: u64,
    /// How many may wait; beyond, they are answered 503.
    pub max_requests: u32,
    /// How many octets they may take; beyond, they are answered 503.
    pub max_bytes: u64,
    /// The revision that becomes active as soon as the active pool is empty; null for a hold that only holds.
    pub promotes: Option<String>,
}

/// Maintenance: live requests are answered 503 with its page. It outlives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why; clients are not told.
    pub reason: String,
    /// After how many seconds clients are told to come back.
    pub retry_after_seconds: u64,
}

/// A pool as shown in an app's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// The revision it serves.
    pub revision: String,
    /// Since when it has this role.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Endpoints that are healthy.
    pub ready: usize,
    /// Endpoints in all.
    pub total: usize,
    /// Requests and tunnels in flight.
    pub in_flight: u64,
    /// Free labels, as given with the revision.
    pub labels: BTreeMap<String, String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// Until when a rollback to it is kept possible; only on `previous`. Under Argo Rollouts it is when that means to take the
    /// revision down, and lies in the past where it has not come to do so: then a rollback is still possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub rollback_until: Option<Timestamp>,
}

/// An endpoint as shown in an app's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Where it listens.
    pub address: String,
    /// The name that its address was found by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its share relative to the others of its pool.
    pub weight: u32,
    /// What its probes and its traffic say.
    pub health: Health,
    /// Requests and tunnels in flight.
    pub in_flight: u64,
}

/// A name that stands for endpoints, as shown in an app's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameStatus {
    /// The name, with its port.
    pub name: String,
    /// The addresses it had when it was last found: an endpoint each.
    pub addresses: Vec<String>,
    /// Since when it stands for these; absent before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Why the last lookup failed, if it did; the addresses stay meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What is thought of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No probe has come back yet.
    Unknown,
    /// It answers its probes.
    Healthy,
    /// It does not.
    Unhealthy,
    /// Too many requests failed on it, whatever its probes say: it rests for a while.
    Ejected,
}

/// A retired pool that is not empty yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainingStatus {
    /// The revision it serves.
    pub revision: String,
    /// Requests and tunnels still in flight.
    pub in_flight: u64,
    /// How long ago it was retired, in seconds: no request on it is younger.
    pub oldest_seconds: f64,
    /// When what is left is cut.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
}

/// One condition of a promotion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Its name, e.g. `min_ready`.
    pub name: String,
    /// Where it stands.
    pub state: GateState,
    /// Why, in a sentence.
    pub message: String,
}

/// Where a gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GateState {
    /// Not yet looked at, or waiting.
    Pending,
    /// Being checked.
    Running,
    /// Holds.
    Passed,
    /// Does not hold.
    Failed,
    /// Set aside by `skipGates`.
    Skipped,
}

/// A pin: the revision that stays active whatever the source says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// The revision held active.
    pub revision: String,
    /// Why.
    pub reason: String,
    /// Who pinned it.
    pub by: String,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}

/// Where an app's desired state comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// `static`, `kubernetes` or `etcd`.
    pub kind: String,
    /// Who decides flips: `tealgate`, `argo-rollouts`, or `services` where only two Services are followed.
    pub authority: String,
    /// Whether the source is out of reach, so that the last known state serves.
    pub stale: bool,
    /// Why it is out of reach, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When it last spoke.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_event: Option<Timestamp>,
    /// How the running roles differ from what the file says, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<String>,
}

/// What an action did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A candidate was made or updated.
    Deploy,
    /// A candidate was discarded.
    Discard,
    /// The preview became active.
    Promote,
    /// An earlier revision became active.
    Rollback,
    /// The candidate was dropped.
    Abort,
    /// The candidate is tested again.
    Smoke,
    /// Another share of live traffic goes to the candidate.
    Weight,
    /// A revision was pinned.
    Pin,
    /// The pin was taken off.
    Unpin,
    /// New live requests wait at the door.
    Hold,
    /// The hold has ended.
    Resume,
    /// Live requests get the maintenance page.
    Maintenance,
    /// Live requests are served again.
    Reopen,
    /// A rollout that was given up was taken up again.
    Retry,
    /// The candidate was given up for good.
    Reject,
    /// The rollout stands where it is.
    Pause,
    /// The rollout goes on.
    Unpause,
    /// The previous revision is kept longer.
    Keep,
    /// A change of the source was applied.
    Source,
}

impl Action {
    /// The action as it stands in labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Discard => "discard",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Abort => "abort",
            Self::Smoke => "smoke",
            Self::Weight => "weight",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Hold => "hold",
            Self::Resume => "resume",
            Self::Maintenance => "maintenance",
            Self::Reopen => "reopen",
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Keep => "keep",
            Self::Source => "source",
        }
    }
}

/// What an action did, as its call answers it and as the history keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The app acted on.
    pub app: String,
    /// What was done.
    pub action: Action,
    /// The app's generation after the action.
    pub generation: u64,
    /// The active revision before.
    pub from: Option<String>,
    /// The revision the action is about; for a flip, the active one after.
    pub to: Option<String>,
    /// Who asked.
    pub by: String,
    /// Why, in the asker's words.
    pub reason: String,
    /// When the new state was put before the workers.
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
    /// From that instant until every worker had adopted it, in microseconds.
    pub barrier_micros: u64,
    /// Requests then still in flight on the pool that was replaced.
    pub in_flight_on_old: u64,
    /// The gates as they stood.
    pub gates: Vec<Gate>,
    /// The share of live traffic that goes to the candidate since then, in percent; only of a `weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Each replica's view of it.
    pub replicas: Vec<ReplicaReceipt>,
    /// What was sent to the app's authority, call by call; of a `dryRun`, what would be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
    /// What the asker should know besides, e.g. that the action could not be written to disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether this only says what would happen (`dryRun`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// One replica's part in an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaReceipt {
    /// The replica's name.
    pub id: String,
    /// The generation it runs.
    pub generation: u64,
    /// When it published it.
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
}

/// Something that happened to an app, for logs, metrics and `GET /events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// To which app.
    pub app: String,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen to an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Happening {
    /// An action was carried out.
    Acted {
        /// Its receipt.
        receipt: Box<Receipt>,
    },
    /// An action was refused.
    Refused {
        /// Which.
        action: Action,
        /// Who asked.
        by: String,
        /// The stable code of the refusal.
        code: String,
        /// Why.
        detail: String,
    },
    /// The phase, the readiness of a pool or the message changed.
    Changed {
        /// The phase now.
        phase: Phase,
        /// The state in a sentence.
        message: String,
    },
    /// A link was made that shows the preview.
    Invited {
        /// Who asked for it.
        by: String,
        /// For whom, if that was said.
        subject: Option<String>,
        /// When it ends.
        #[schema(value_type = String, format = DateTime)]
        expires: Timestamp,
    },
    /// A retired pool has emptied, or its deadline has come.
    Drained {
        /// The revision that was retired.
        revision: String,
        /// How long it took, in seconds.
        seconds: f64,
        /// Requests and tunnels that were cut at the deadline.
        cut: u64,
    },
    /// An app was added by its source.
    Added,
    /// An app was taken away by its source.
    Removed,
}
