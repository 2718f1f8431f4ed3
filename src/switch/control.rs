//! The handles, one for each power: [`Control`] commands, [`Feed`] reports, [`Viewer`] looks. What a part of the program
//! may do is what it was given; all three only send to, or read from, the switchboard.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    address::{Address, HostPort},
    authority::Note,
    capacity::Capacity,
    desired::{Desired, EndpointSpec, Matching, Sighting},
    hold::{HeldOutcomes, Hold},
    name::{AppName, Revision, Subject},
    names::Names,
    only::Only,
    policy::{HoldBounds, Policy},
    pool::{Pool, Tenure},
    record::EjectionReason,
    rollout::{Asked, HoldEnd, Readiness, Rollout, Smoked},
    smoke::CheckReport,
    split::Weight,
    status::{Action, AppStatus, DrainingStatus, EndpointStatus, Event, HoldStatus, PoolStatus, Receipt, SourceStatus},
};

/// Something somebody wants done to an app.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// To which app.
    pub app: AppName,
    /// What.
    pub command: Command,
    /// Who asks; it goes into the journal.
    pub by: String,
    /// Why, in the asker's words.
    pub reason: String,
    /// Only if the app's generation is still this one.
    pub if_generation: Option<u64>,
    /// Only say what would happen.
    pub dry_run: bool,
}

/// What can be asked of the switch.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make this revision the candidate, or update its endpoints.
    Deploy {
        /// The revision.
        revision: Revision,
        /// Its endpoints, at least one.
        endpoints: Vec<EndpointSpec>,
        /// Free labels.
        labels: BTreeMap<String, String>,
    },
    /// Discard a revision that is not active.
    Discard {
        /// The revision.
        revision: Revision,
    },
    /// Make the preview active.
    Promote {
        /// Only if the preview is this revision.
        revision: Option<Revision>,
        /// Set the gates aside (never `G4`: an empty pool is refused all the same).
        skip_gates: bool,
    },
    /// Bring an earlier revision back.
    Rollback {
        /// Which; the previous one if not said.
        to: Option<Revision>,
    },
    /// Drop the candidate.
    Abort {
        /// Only if it is this one.
        only: Option<Only>,
    },
    /// Send the checks of the candidate's smoke test again.
    Smoke {
        /// Only if the candidate is this revision.
        revision: Option<Revision>,
    },
    /// Send this share of live traffic to the candidate.
    Weigh {
        /// The share.
        weight: Weight,
    },
    /// Keep a revision active whatever the source says.
    Pin {
        /// The revision; it must be the active one.
        revision: Revision,
        /// When the pin ends by itself.
        expires: Option<Timestamp>,
    },
    /// Take the pin off.
    Unpin,
    /// Let new live requests wait at the door.
    Hold {
        /// How many, and how long.
        bounds: HoldBounds,
    },
    /// End the hold: who waits is let in.
    Resume,
    /// Hold, wait until the active pool is empty, make the preview active, and end the hold, as one action: for changes
    /// where old and new must not overlap. Where the pool does not empty in time, the hold ends and nothing has moved.
    PromoteHeld {
        /// Only if the preview is this revision.
        revision: Option<Revision>,
        /// Set the gates aside, as in [`Self::Promote`].
        skip_gates: bool,
        /// Of the hold.
        bounds: HoldBounds,
    },
    /// Answer live requests with the maintenance page.
    Maintain {
        /// When clients are told to come back.
        retry_after: Duration,
    },
    /// Serve live requests again.
    Reopen,
}

impl Command {
    /// The action this asks for, as it stands in receipts.
    pub fn action(&self) -> Action {
        match self {
            Self::Deploy { .. } => Action::Deploy,
            Self::Discard { .. } => Action::Discard,
            Self::Promote { .. } | Self::PromoteHeld { .. } => Action::Promote,
            Self::Rollback { .. } => Action::Rollback,
            Self::Abort { .. } => Action::Abort,
            Self::Smoke { .. } => Action::Smoke,
            Self::Weigh { .. } => Action::Weight,
            Self::Pin { .. } => Action::Pin,
            Self::Unpin => Action::Unpin,
            Self::Hold { .. } => Action::Hold,
            Self::Resume => Action::Resume,
            Self::Maintain { .. } => Action::Maintenance,
            Self::Reopen => Action::Reopen,
        }
    }
}

/// What a link for a tester is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// To which app's preview.
    pub app: AppName,
    /// Who asks for it.
    pub by: String,
    /// For whom, if that is said.
    pub subject: Option<Subject>,
    /// How long it is good; the app's own `preview.cookie.ttl` if not said.
    pub ttl: Option<Duration>,
    /// The live host it leads to, in lower case and without port; the app's first if not said.
    pub host: Option<String>,
}

/// What a link for a tester is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invited {
    /// The live host it leads to.
    pub host: String,
    /// Where on that host testers come in.
    pub path: String,
    /// The signed pass.
    pub token: String,
    /// When it ends.
    pub expires: Timestamp,
}

/// The stable code of a [`Refusal`], as it stands in problem documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// There is no such app.
    UnknownApp,
    /// The app has no such revision.
    UnknownRevision,
    /// The app's generation is not the expected one.
    GenerationMismatch,
    /// There is no candidate to act on.
    NoCandidate,
    /// What is meant is no candidate any more: another one is.
    Overtaken,
    /// There is no earlier revision to return to.
    NoPrevious,
    /// The revision is the active one already.
    AlreadyActive,
    /// The revision carries live traffic, or is about to, and cannot be discarded or given up.
    InUse,
    /// Too few endpoints of the target are ready.
    NotReady,
    /// A gate does not hold.
    GateFailed,
    /// A pin keeps the active revision.
    Pinned,
    /// A hold is on already.
    Held,
    /// No hold is on.
    NotHeld,
    /// The active pool did not become empty while its requests were held.
    NotDrained,
    /// The app is not under maintenance.
    NotInMaintenance,
    /// Another authority decides this, and it was not asked.
    OtherAuthority,
    /// The app's authority cannot be reached.
    AuthorityAway,
    /// The app's authority does not let us do this, or does not accept it.
    AuthorityRefused,
    /// The app's authority was asked, and the effect did not come in time.
    TimedOut,
    /// The rollout was given up; it has to be taken up again first.
    Aborted,
    /// The rollout was not given up.
    NotAborted,
    /// The request contradicts itself or leaves something out.
    Invalid,
    /// The action could not be made durable; nothing has changed.
    NotDurable,
    /// The program is stopping.
    Stopping,
}

impl RefusalCode {
    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownApp => "unknown-app",
            Self::UnknownRevision => "unknown-revision",
            Self::GenerationMismatch => "generation-mismatch",
            Self::NoCandidate => "no-candidate",
            Self::Overtaken => "overtaken",
            Self::NoPrevious => "no-previous",
            Self::AlreadyActive => "already-active",
            Self::InUse => "in-use",
            Self::NotReady => "not-ready",
            Self::GateFailed => "gate-failed",
            Self::Pinned => "pinned",
            Self::Held => "held",
            Self::NotHeld => "not-held",
            Self::NotDrained => "not-drained",
            Self::NotInMaintenance => "not-in-maintenance",
            Self::OtherAuthority => "other-authority",
            Self::AuthorityAway => "authority-away",
            Self::AuthorityRefused => "authority-refused",
            Self::TimedOut => "timed-out",
            Self::Aborted => "aborted",
            Self::NotAborted => "not-aborted",
            Self::Invalid => "invalid",
            Self::NotDurable => "not-durable",
            Self::Stopping => "stopping",
        }
    }
}

/// The switch's reasoned no. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// What is in the way, for people.
    pub detail: String,
    /// What would help.
    pub hint: String,
}

impl Refusal {
    pub(super) fn new(code: RefusalCode, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: hint.into() }
    }

    pub(super) fn stopping() -> Self {
        Self::new(RefusalCode::Stopping, "the proxy is stopping", "ask again when it is back")
    }
}

/// What the switchboard is told.
pub(super) enum Message {
    Desired { desired: Desired, reply: oneshot::Sender<Applied> },
    Order { order: Order, reply: oneshot::Sender<Result<Receipt, Refusal>> },
    Invite { invitation: Invitation, reply: oneshot::Sender<Result<Invited, Refusal>> },
    Observed { app: AppName, revision: Revision, address: Address, healthy: bool },
    Sighted { app: AppName, sighting: Box<Sighting> },
    OutOfSight { app: AppName, why: String },
    Asked { app: AppName, asked: Option<Asked> },
    Note { note: Note, reply: oneshot::Sender<Result<Receipt, Refusal>> },
    Refused { app: AppName, action: Action, by: String, refusal: Refusal },
    LookedUp { app: AppName, name: HostPort, found: Result<Vec<SocketAddr>, String> },
    Ejected { app: AppName, revision: Revision, endpoint: u64, reason: Option<EjectionReason> },
    Warmed { app: AppName },
    Smoked { app: AppName, smoked: Smoked },
    Drained { app: AppName, tenure: u64, cut: u64, took: Duration },
    HoldOver { app: AppName, hold: u64, how: HoldEnd },
    Measured { receipt: Box<Receipt>, reply: Option<oneshot::Sender<Result<Receipt, Refusal>>> },
    Stop { reply: oneshot::Sender<()> },
}

/// What became of a [`Desired`]: what was added, changed, removed, and what could not be done yet and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Apps that are new.
    pub added: Vec<String>,
    /// Apps whose routing, pools or policy changed.
    pub changed: Vec<String>,
    /// Apps that are gone.
    pub removed: Vec<String>,
    /// What was held back, in sentences, e.g. a flip to a pool that is not ready.
    pub held_back: Vec<String>,
}

/// The power to act.
#[derive(Clone)]
pub struct Control {
    pub(super) messages: mpsc::Sender<Message>,
}

impl Control {
    /// Carries out an order, and answers once traffic has moved and every worker has confirmed it.
    pub async fn submit(&self, order: Order) -> Result<Receipt, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Order { order, reply }).await.map_err(|_| Refusal::stopping())?;
        answer.await.map_err(|_| Refusal::stopping())?
    }

    /// Makes what a link is made of that shows an app's preview to whoever opens it.
    pub async fn invite(&self, invitation: Invitation) -> Result<Invited, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Invite { invitation, reply }).await.map_err(|_| Refusal::stopping())?;
        answer.await.map_err(|_| Refusal::stopping())?
    }

    /// Puts on record what an app's authority has done because somebody asked for it.
    pub async fn note(&self, note: Note) -> Result<Receipt, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Note { note, reply }).await.map_err(|_| Refusal::stopping())?;
        answer.await.map_err(|_| Refusal::stopping())?
    }

    /// Tells those who listen that what somebody asked an app's authority for was refused.
    pub async fn refused(&self, app: AppName, action: Action, by: String, refusal: Refusal) {
        self.messages.send(Message::Refused { app, action, by, refusal }).await.ok();
    }

    /// Says that somebody has asked an app's authority to make this revision active, so that the flip is ascribed to him
    /// when it comes.
    pub async fn asked(&self, app: AppName, revision: Revision, by: String, reason: String) {
        self.messages.send(Message::Asked { app, asked: Some(Asked { revision, by, reason }) }).await.ok();
    }

    /// Says that nobody waits any more for the flip that an app's authority was asked for.
    pub async fn no_longer_asked(&self, app: AppName) {
        self.messages.send(Message::Asked { app, asked: None }).await.ok();
    }

    /// Ends the switchboard once all that was asked before is done and on disk.
    pub async fn stop(&self) {
        let (reply, answer) = oneshot::channel();
        if self.messages.send(Message::Stop { reply }).await.is_ok() {
            answer.await.ok();
        }
    }
}

/// The power to report what a source wants and what probes see.
#[derive(Clone)]
pub struct Feed {
    pub(super) messages: mpsc::Sender<Message>,
}

impl Feed {
    /// Says all that the source wants. `None` when the switch is stopping.
    pub async fn desired(&self, desired: Desired) -> Option<Applied> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Desired { desired, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Says all that was found of an app that is followed. `false` when the switch is stopping.
    pub async fn sighted(&self, app: AppName, sighting: Sighting) -> bool {
        self.messages.send(Message::Sighted { app, sighting: Box::new(sighting) }).await.is_ok()
    }

    /// Says that an app cannot be followed just now, and why, in a sentence that says what to do. What was sighted last
    /// stays in force until the next sighting.
    pub async fn out_of_sight(&self, app: AppName, why: String) {
        self.messages.send(Message::OutOfSight { app, why }).await.ok();
    }

    /// Says what the lookup of an endpoint's name came to: all its addresses, or why there are none.
    pub async fn looked_up(&self, app: AppName, name: HostPort, found: Result<Vec<SocketAddr>, String>) {
        self.messages.send(Message::LookedUp { app, name, found }).await.ok();
    }

    /// Says what a probe concluded of an endpoint.
    pub async fn observed(&self, app: AppName, revision: Revision, address: impl Into<Address>, healthy: bool) {
        let address = address.into();
        self.messages.send(Message::Observed { app, revision, address, healthy }).await.ok();
    }

    /// Has an endpoint, by its id, taken out of use for this reason, or taken back into it.
    pub async fn ejected(&self, app: AppName, revision: Revision, endpoint: u64, reason: Option<EjectionReason>) {
        self.messages.send(Message::Ejected { app, revision, endpoint, reason }).await.ok();
    }

    /// Says what the checks of an app's smoke test were found to come to, all of them, in this run; and whether all have been
    /// sent since the last time this was said.
    pub async fn smoked(&self, app: AppName, run: u64, checks: Vec<CheckReport>, round_over: bool) {
        let smoked = Smoked { run, checks, round_over };
        self.messages.send(Message::Smoked { app, smoked }).await.ok();
    }

    /// Says that the workers hold more, or fewer, connections to an app's candidate than before.
    pub async fn warmed(&self, app: AppName) {
        self.messages.send(Message::Warmed { app }).await.ok();
    }
}

/// The power to look.
#[derive(Clone)]
pub struct Viewer {
    pub(super) board: watch::Receiver<Arc<Board>>,
    pub(super) events: broadcast::Sender<Arc<Event>>,
}

impl Viewer {
    /// The state of all apps as of now.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board.borrow())
    }

    /// Waits until the board is a newer one than the last this viewer saw here. `false` when the switch has stopped.
    pub async fn changed(&mut self) -> bool {
        self.board.changed().await.is_ok()
    }

    /// Follows the board, app by app, from nothing on.
    pub fn follow(&self) -> Follower {
        Follower { board: self.board.clone(), seen: 0 }
    }

    /// What happens from now on. A receiver that lags loses the oldest events and is told so.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }
}

/// Looks at what has changed on the board, so that a change among thousands of apps costs those who follow it no more than
/// one among a few.
pub struct Follower {
    board: watch::Receiver<Arc<Board>>,
    /// How many entries the board had had when it was last looked at.
    seen: u64,
}

impl Follower {
    /// Waits until the board is a newer one than the last this follower looked at. `false` when the switch has stopped.
    pub async fn changed(&mut self) -> bool {
        self.board.changed().await.is_ok()
    }

    /// The apps that may differ from when this was last asked, and the board they are on, or are not on any more. After too
    /// much has happened it is all that are there, and all that the caller has `known`.
    pub fn news(&mut self, known: impl FnOnce() -> BTreeSet<AppName>) -> (Arc<Board>, BTreeSet<AppName>) {
        let board = Arc::clone(&self.board.borrow_and_update());
        let names = match board.entries_since(self.seen) {
            Some(names) => names.cloned().collect(),
            None => board.apps.keys().cloned().chain(known()).collect(),
        };
        self.seen = board.entries;
        (board, names)
    }
}

/// All apps at one instant, with their live pools.
#[derive(Clone, Default)]
pub struct Board {
    /// The apps by name.
    pub apps: BTreeMap<AppName, Arc<AppBoard>>,
    /// Which of them were put on it, anew or again, or taken off it, newest last: the last of so many entries.
    lately: VecDeque<AppName>,
    entries: u64,
}

/// How many entries on the board are remembered for those who follow it.
const LATELY: usize = 1024;

impl Board {
    /// Puts an app on the board as it is now, or takes it off.
    pub(super) fn enter(&mut self, name: AppName, state: Option<Arc<AppBoard>>) {
        self.entries += 1;
        if self.lately.len() == LATELY {
            self.lately.pop_front();
        }
        self.lately.push_back(name.clone());
        match state {
            Some(state) => self.apps.insert(name, state),
            None => self.apps.remove(&name),
        };
    }

    /// The names in the entries after the first so many, if all of these are remembered.
    fn entries_since(&self, seen: u64) -> Option<impl Iterator<Item = &AppName>> {
        let new = usize::try_from(self.entries - seen).ok().filter(|new| *new <= self.lately.len())?;
        Some(self.lately.range(self.lately.len() - new..))
    }
}

/// One app on the [`Board`].
#[derive(Clone)]
pub struct AppBoard {
    /// Its state machine, as it stands.
    pub rollout: Arc<Rollout>,
    /// How it is run.
    pub policy: Arc<Policy>,
    /// Which requests are for it.
    pub matching: Arc<Matching>,
    /// The live pool of each known revision.
    pub pools: BTreeMap<Revision, Arc<Pool>>,
    /// Its places for requests in flight, if its policy limits them.
    pub capacity: Option<Arc<Capacity>>,
    /// The names among its endpoints.
    pub names: Names,
    /// Retired tenures that are not empty.
    pub draining: Vec<Draining>,
    /// Past actions, newest last.
    pub history: Arc<VecDeque<Receipt>>,
    /// Where the desired state comes from.
    pub source: SourceStatus,
    /// The hold that is on, with those who wait.
    pub hold: Option<Arc<Hold>>,
    /// What became of all that were ever held.
    pub held: Arc<HeldOutcomes>,
}

/// A retired tenure on its way out.
#[derive(Clone)]
pub struct Draining {
    /// Its revision.
    pub revision: Revision,
    /// The tenure.
    pub tenure: Arc<Tenure>,
    /// When it was retired.
    pub since: Timestamp,
    /// When what is left is cut.
    pub deadline: Timestamp,
}

impl AppBoard {
    /// Whether the workers hold more, or fewer, connections to its candidate than its rollout was told.
    pub fn has_untold_warmth(&self) -> bool {
        let warm = self.policy.promotion.warm;
        let candidate = self.rollout.preview().filter(|_| warm > 0).and_then(|(revision, _)| self.pools.get(revision));
        candidate.is_some_and(|pool| {
            let missing = self.names.missing(self.rollout.endpoints(pool.revision()));
            self.rollout.was_told(pool.revision()) != Some(Readiness::of(pool, missing, warm))
        })
    }

    /// The app's state in the shape of the API.
    pub fn status(&self) -> AppStatus {
        let rollout = &self.rollout;
        AppStatus {
            name: rollout.app().to_string(),
            generation: rollout.generation().0,
            phase: rollout.phase(),
            message: self.message(),
            active: rollout.is_seen().then(|| self.pool_status(rollout.active(), rollout.active_since())),
            preview: rollout.preview().map(|(revision, since)| self.pool_status(revision, since)),
            previous: rollout.previous().map(|previous| PoolStatus {
                rollback_until: Some(previous.until),
                ..self.pool_status(&previous.revision, previous.since)
            }),
            draining: self.draining.iter().map(Draining::status).collect(),
            gates: rollout.gates(),
            pin: rollout.pin().cloned(),
            weight: rollout.weight().percent().into(),
            names: self.names.status(),
            source: self.source.clone(),
            hold: self.hold_status(),
            maintenance: rollout.maintenance().cloned(),
        }
    }

    fn hold_status(&self) -> Option<HoldStatus> {
        let (holding, waiting) = (self.rollout.holding()?, self.hold.as_ref()?.waiting());
        Some(HoldStatus {
            since: holding.since,
            by: holding.by.clone(),
            reason: holding.reason.clone(),
            deadline: holding.deadline,
            waiting: waiting.requests,
            waiting_bytes: waiting.octets,
            max_requests: holding.bounds.max_requests,
            max_bytes: holding.bounds.max_bytes,
            promotes: holding.promotes().map(Revision::to_string),
        })
    }

    /// Where the app stands, in a sentence, and which of its endpoints cannot be found.
    pub fn message(&self) -> String {
        let lost = self.names.in_words().map(|words| format!("; {words}"));
        self.rollout.message() + lost.as_deref().unwrap_or_default()
    }

    fn pool_status(&self, revision: &Revision, since: Timestamp) -> PoolStatus {
        let pool = self.pools.get(revision);
        let endpoints: Vec<_> = pool
            .iter()
            .flat_map(|pool| pool.endpoints())
            .map(|e| EndpointStatus {
                address: e.address().to_string(),
                name: e.destination().name.as_ref().map(ToString::to_string),
                weight: e.weight(),
                health: e.health(),
                in_flight: e.in_flight().sum(),
            })
            .collect();
        PoolStatus {
            revision: revision.to_string(),
            since,
            ready: pool.map_or(0, |pool| pool.ready()),
            total: endpoints.len() + self.names.missing(self.rollout.endpoints(revision)).0,
            in_flight: pool.map_or(0, |pool| pool.tenure().in_flight()),
            labels: self.rollout.labels(revision),
            endpoints,
            rollback_until: None,
        }
    }
}

impl Draining {
    fn status(&self) -> DrainingStatus {
        let age = Timestamp::now().duration_since(self.since);
        DrainingStatus {
            revision: self.revision.to_string(),
            in_flight: self.tenure.in_flight(),
            oldest_seconds: age.as_secs_f64().max(0.0),
            deadline: self.deadline,
        }
    }
}
