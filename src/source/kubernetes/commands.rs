//! Asking Argo Rollouts. A petition becomes an errand: look at the Rollout, decide (`decide`), send, and look again until
//! it is so; an answer of the API server alone proves nothing. A promotion is answered when live traffic has moved *here*:
//! when the flip has come with the Service's event and every worker has confirmed it. What does not come in time ends with
//! the place where it hangs.
//!
//! Only the Rollout is written, what holds its template, and a ReplicaSet's deadline; never a Service.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{Timestamp, ToSpan as _, Unit};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::warn;

use super::{
    Objects, Targets,
    agree::{Alarms, agree},
    annotation,
    call::{Call, Failed, Object, Server},
    decide::{self, Next, Seen},
    events::{self, Notice},
    objects::{DEADLINE, HASH},
    settle,
};
use crate::switch::{
    Action, Answer, AppBoard, AppName, Ask, Authorities, Command, Control, GateState, Note, Only, Order, Petition,
    Receipt, Refusal, RefusalCode, Returned, Revision, Telling, Viewer,
};

/// How long after a look the Rollout is looked at again, unless something tells sooner.
const LOOK: Duration = Duration::from_millis(250);
/// The least between two looks.
const BREATH: Duration = Duration::from_millis(20);
/// How long what was sent may be without effect before the controller is made to look at the Rollout again.
pub(super) const NUDGE: Duration = Duration::from_secs(2);
/// The annotation that is written for that; its value says nothing.
const NUDGED: &str = "tealgate.dev/nudged";
/// How long the answer to a rollback waits for the other replicas to be told.
const TELLING: Duration = Duration::from_millis(250);
/// How often one errand may send before something must be wrong.
const SENDS: usize = 12;
/// How much may stand by to be said; what is more goes unsaid.
const NOTICES: usize = 64;
/// How long a template that was put back is watched where Git may put the other one back in its turn.
const LINGER: Duration = Duration::from_secs(6);

/// Where an app's Rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) namespace: String,
    pub(super) rollout: String,
}

/// Puts to Argo Rollouts what people want of an app's rollout.
#[derive(Clone)]
pub struct Commander {
    pub(super) server: Arc<Server>,
    pub(super) control: Control,
    pub(super) viewer: Viewer,
    /// What is to be said on the Rollout.
    pub(super) notices: mpsc::Sender<Notice>,
    /// What became of telling the other replicas, by the time of the flip.
    pub(super) telling: watch::Sender<BTreeMap<AppName, (Timestamp, Told)>>,
}

/// What became of telling the other replicas of a flip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is in the Rollout's annotation.
    Written,
    /// There is nothing to tell.
    Nothing,
    /// This came in the way.
    NotYet(String),
}

/// What stands by to be said on the Rollouts, and to whom it is handed.
pub struct Desk {
    notices: mpsc::Receiver<Notice>,
}

impl Commander {
    /// A commander of the Rollouts that the targets name, and what [`Self::attend`] works off.
    pub fn new(targets: watch::Receiver<Targets>, control: Control, viewer: Viewer) -> (Self, Desk) {
        Self::by(Server::new(targets), control, viewer)
    }

    pub(super) fn by(server: Server, control: Control, viewer: Viewer) -> (Self, Desk) {
        let (notices, said) = mpsc::channel(NOTICES);
        let telling = watch::Sender::default();
        (Self { server: Arc::new(server), control, viewer, notices, telling }, Desk { notices: said })
    }

    /// Sees to it that the cluster agrees with every rollback, and says what was done as Events on the Rollouts; for as
    /// long as the targets can change. What a person has to do about it is in the alarms.
    pub async fn attend(self, desk: Desk, alarms: watch::Sender<Alarms>) {
        let targets = self.server.targets();
        let saying = events::say(self.clone(), desk.notices);
        tokio::join!(agree(self, targets, alarms), saying);
    }

    /// Where the app's Rollout is, if it follows one.
    pub(super) async fn home(&self, app: &AppName) -> Result<Option<Home>, Failed> {
        let target = self.server.targets().borrow().apps.get(app).cloned();
        let Some(target) = target else { return Ok(None) };
        let Objects::Rollout(rollout) = target.objects.clone() else { return Ok(None) };
        Ok(Some(Home { namespace: self.server.namespace_of(&target).await?, rollout }))
    }

    pub(super) fn board(&self, app: &AppName) -> Option<Arc<AppBoard>> {
        self.viewer.board().apps.get(app).cloned()
    }

    pub(super) async fn look(&self, home: &Home) -> Result<Seen, Failed> {
        Seen::of(self.server.get(&Object::rollout(&home.namespace, &home.rollout)).await?)
    }

    /// The ReplicaSet of a revision.
    async fn replica_set(&self, seen: &Seen, hash: &str) -> Result<Option<Value>, Failed> {
        let all = self.server.replica_sets(seen.namespace(), &format!("{HASH}={hash}")).await?;
        let uid = seen.rollout.uid();
        let owned = |set: &Value| {
            let owners = set.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            owners.into_iter().flatten().any(|owner| owner["uid"] == uid && owner["controller"] == true)
        };
        Ok(all.into_iter().find(owned))
    }

    /// The images that a revision is made of, with commas between.
    async fn images(&self, seen: &Seen, hash: &str) -> Result<String, Failed> {
        let set = self.replica_set(seen, hash).await?;
        let own = || seen.template().filter(|_| hash == seen.status.current);
        let template = set.as_ref().and_then(|set| set.pointer("/spec/template")).or_else(own);
        let containers = template.and_then(|template| template.pointer("/spec/containers")?.as_array());
        let images = containers.into_iter().flatten().filter_map(|container| container["image"].as_str());
        Ok(images.collect::<Vec<_>>().join(","))
    }

    /// The ReplicaSet of a revision, and, where another object holds the Rollout's template, that.
    pub(super) async fn templates(&self, seen: &Seen, hash: &str) -> Result<(Option<Value>, Option<Value>), Failed> {
        let replica_set = self.replica_set(seen, hash).await?;
        let held = match &seen.rollout.spec.workload_ref {
            Some(reference) if reference.kind == "Deployment" => {
                Some(self.server.get(&Object::deployment(seen.namespace(), &reference.name)).await?)
            }
            _ => None,
        };
        Ok((replica_set, held))
    }

    /// Makes the controller look again. It puts what it has written itself into its own copy of the Rollout, which can cover
    /// a change that came in between, so that it never sees that (seen with v1.9); any other change makes it read both.
    pub(super) async fn nudge(&self, home: &Home) {
        let body = json!({"metadata": {"annotations": {NUDGED: Timestamp::now().to_string()}}});
        // What was asked for stands in the Rollout: the next try, or any other event, does as well.
        self.server.send(&Call::merge(Object::rollout(&home.namespace, &home.rollout), body)).await.ok();
    }

    /// Waits until `agree` has told the other replicas, and for the echo: what the API server has sent to our watch it has
    /// sent to those of the others as well, and may go away. What is not told by then is told later.
    async fn is_told(&self, rollback: &Receipt) -> Option<String> {
        let app: AppName = rollback.app.parse().ok()?;
        let target = self.server.targets().borrow().apps.get(&app).cloned()?;
        if !matches!(target.objects, Objects::Rollout(_)) {
            return None;
        }
        let (at, patience) = (rollback.published_at, Instant::now() + TELLING);
        let mut telling = self.telling.subscribe();
        let looked = telling.wait_for(|all| all.get(&app).is_some_and(|(flip, _)| *flip >= at));
        let told = match tokio::time::timeout_at(patience, looked).await {
            Ok(Ok(all)) => all[&app].1.clone(),
            Ok(Err(_)) | Err(_) => Told::NotYet(format!("no answer within {} ms", TELLING.as_millis())),
        };
        match told {
            Told::Written => {
                let mut viewer = self.viewer.clone();
                let echoed = || self.board(&app)?.rollout.returned().map(|told| told.at >= at);
                let echo = async { while echoed() != Some(true) && viewer.changed().await {} };
                tokio::time::timeout_at(patience, echo).await.ok();
                None
            }
            Told::Nothing => None,
            Told::NotYet(why) => {
                warn!(%app, why, "the rollback holds here; the other replicas could not be told yet");
                Some(format!(
                    "the rollback holds here, but other replicas could not be told yet: {why}; they follow as soon as they \
                     can be, or ask each of them"
                ))
            }
        }
    }

    async fn carry_out(&self, petition: Petition) -> Result<Receipt, Refusal> {
        let (app, action, by, dry_run) =
            (petition.app.clone(), petition.ask.action(), petition.by.clone(), petition.dry_run);
        let outcome = self.run(petition).await;
        if let (Err(refusal), false) = (&outcome, dry_run) {
            self.control.refused(app, action, by, refusal.clone()).await;
        }
        outcome
    }

    async fn run(&self, petition: Petition) -> Result<Receipt, Refusal> {
        let errand = Errand::begin(self, petition).await?;
        match errand.petition.ask.clone() {
            Ask::Promote { revision, skip_gates } => errand.promote(revision, skip_gates).await,
            Ask::Abort { only } => errand.abort(only.as_ref()).await,
            Ask::Retry { skip_gates } => errand.retry(skip_gates).await,
            Ask::Reject { only } => errand.reject(only.as_ref()).await,
            Ask::Pause => errand.pause(true).await,
            Ask::Unpause => errand.pause(false).await,
            Ask::Keep { until } => errand.keep(until).await,
        }
    }
}

impl Authorities for Commander {
    fn ask(&self, petition: Petition) -> Answer<'_> {
        Box::pin(self.carry_out(petition))
    }

    fn told<'a>(&'a self, rollback: &'a Receipt) -> Telling<'a> {
        Box::pin(self.is_told(rollback))
    }
}

/// One petition on its way.
struct Errand<'a> {
    commander: &'a Commander,
    petition: Petition,
    home: Home,
    began: Timestamp,
    deadline: Instant,
    sent: Vec<Call>,
    warnings: Vec<String>,
}

fn refusal(code: RefusalCode, detail: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { code, detail: detail.into(), hint: hint.into() }
}

impl<'a> Errand<'a> {
    async fn begin(commander: &'a Commander, petition: Petition) -> Result<Self, Refusal> {
        let app = &petition.app;
        let home = commander.home(app).await.map_err(Failed::refusal)?;
        let (Some(board), Some(home)) = (commander.board(app), home) else {
            let hint = "the configuration says which Rollout an app follows";
            return Err(refusal(RefusalCode::UnknownApp, format!("no app {app} follows a Rollout"), hint));
        };
        let at = board.rollout.generation().0;
        if let Some(expected) = petition.if_generation.filter(|expected| *expected != at) {
            let detail = format!("{app} is at generation {at}, not {expected}: somebody else changed it");
            let hint = "look at its state again, then decide anew";
            return Err(refusal(RefusalCode::GenerationMismatch, detail, hint));
        }
        let deadline = Instant::now() + petition.within;
        let (sent, warnings) = (Vec::new(), Vec::new());
        Ok(Self { commander, petition, home, began: Timestamp::now(), deadline, sent, warnings })
    }

    async fn promote(mut self, named: Option<Revision>, full: bool) -> Result<Receipt, Refusal> {
        let seen = self.look().await?;
        let board = self.board()?;
        let target = target_of(&seen, named)?;
        if *board.rollout.active() == target {
            let detail = format!("{target} is the active revision of {} already", self.petition.app);
            return Err(refusal(RefusalCode::AlreadyActive, detail, "there is nothing to do"));
        }
        if let Some(pin) = board.rollout.pin() {
            let detail = format!("{} is pinned to {} by {}: {}", self.petition.app, pin.revision, pin.by, pin.reason);
            return Err(refusal(RefusalCode::Pinned, detail, "take the pin off first (unpin)"));
        }
        if seen.active() == target.as_str() && is_returned_from(&board, &target, &seen) {
            return self.take_rollback_back(target).await;
        }
        if let Some(told) = told_of(&seen).filter(|told| told.from == target && told.to != target) {
            // All replicas were told not to follow the cluster there.
            let (from, to, call) = (told.from, told.to, settle::forget(&seen));
            self.warnings.push(format!("the rollback from {from} to {to} does not hold any more"));
            self.send(vec![call]).await?;
        }
        if seen.blue_green().is_none() && !full {
            return self.take_canary_step(&board, &target).await;
        }
        self.warnings.extend(decide::costs(&seen, full));
        if !self.petition.dry_run {
            let Petition { app, by, reason, .. } = self.petition.clone();
            self.commander.control.asked(app, target.clone(), by, reason).await;
        }
        let before = self.sent.len();
        match self.until_promoted(&target, full).await {
            Ok(receipt) => Ok(receipt),
            Err(refusal) => {
                if self.sent.len() == before && !self.petition.dry_run {
                    self.commander.control.no_longer_asked(self.petition.app.clone()).await;
                }
                Err(refusal)
            }
        }
    }

    /// Until the flip has come, here.
    async fn until_promoted(&mut self, target: &Revision, full: bool) -> Result<Receipt, Refusal> {
        let (commander, app, began) = (self.commander, self.petition.app.clone(), self.began);
        let before = self.sent.len();
        let flipped = || commander.board(&app).and_then(|board| flip_to(&board, target, began));
        let decide = |seen: &Seen, sent: &[Call]| {
            if seen.status.current != target.as_str() {
                let (newer, hint) = (&seen.status.current, "see what it is, then promote that");
                let detail = format!("the newest revision is {newer} by now, not {target}");
                return Next::Refuse(refusal(RefusalCode::NoCandidate, detail, hint));
            }
            match decide::promote(seen, full) {
                Next::Done => Next::Wait(match commander.board(&app) {
                    Some(board) => format!("the Service selects {target}, but here: {}", board.message()),
                    None => "the app is gone from the configuration".to_owned(),
                }),
                // What is under way is not held up any more by gates of ours.
                next if sent.len() > before => next,
                Next::Refuse(refusal) => Next::Refuse(refusal),
                next => commander.board(&app).and_then(|board| gate(&board, target, full)).unwrap_or(next),
            }
        };
        let dry_run = self.petition.dry_run;
        self.until_or(decide, || !dry_run && flipped().is_some()).await?;
        match flipped() {
            Some(receipt) if !dry_run => Ok(self.stamped(receipt)),
            _ => {
                let from = self.board()?.rollout.active().clone();
                self.planned(Some(from), Some(target.clone()))
            }
        }
    }

    /// The cluster has the target active, and only a rollback of ours keeps it from live traffic.
    async fn take_rollback_back(self, target: Revision) -> Result<Receipt, Refusal> {
        let Petition { app, by, reason, dry_run, .. } = self.petition.clone();
        let command = Command::Rollback { to: Some(target) };
        let order = Order { app, command, by, reason, if_generation: None, dry_run };
        let mut receipt = self.commander.control.submit(order).await?;
        let untold = if dry_run { None } else { self.commander.is_told(&receipt).await };
        receipt.warnings.extend(untold);
        receipt
            .warnings
            .push("the cluster had it active; the rollback that kept it from live traffic is taken back".into());
        Ok(receipt)
    }

    /// Ends a canary's pause, or skips its step. What share of traffic follows is the controller's to say.
    async fn take_canary_step(mut self, board: &AppBoard, target: &Revision) -> Result<Receipt, Refusal> {
        if let Some(Next::Refuse(refusal)) = gate(board, target, false) {
            return Err(refusal);
        }
        let mut before = None;
        let decide = |seen: &Seen, sent: &[Call]| {
            let step = seen.status.current_step_index;
            match sent {
                [] => {
                    before = step;
                    decide::promote(seen, false)
                }
                _ if step > before || !seen.status.controller_pause || seen.active() == target.as_str() => Next::Done,
                _ => Next::Wait(seen.in_words()),
            }
        };
        self.until(decide).await?;
        self.warnings.push("a canary: this was one step of its way; --skip-gates promotes it in full".to_owned());
        let active = board.rollout.active().clone();
        self.done(Action::Weight, Some(active), Some(target.clone())).await
    }

    async fn abort(mut self, only: Option<&Only>) -> Result<Receipt, Refusal> {
        let seen = self.candidate(only).await?;
        let (current, stable) = (hash(&seen.status.current), hash(&seen.status.stable));
        let returned = self.return_if_judged(&seen).await;
        let (app, meant) = (self.petition.app.clone(), seen.status.current.clone());
        let decide = |seen: &Seen, _: &[Call]| match decide::abort(seen) {
            _ if seen.status.current != meant => Next::Refuse(overtaken(&app, &meant, seen)),
            // Traffic is back already; the Service follows, or `agree` sees to it.
            Next::Wait(_) if returned.is_some() && seen.status.abort => Next::Done,
            next => next,
        };
        self.until(decide).await?;
        match returned {
            Some(receipt) => Ok(self.stamped(receipt)),
            None => self.done(Action::Abort, current, stable).await,
        }
    }

    /// The Rollout, if its candidate is the one that is meant.
    async fn candidate(&mut self, only: Option<&Only>) -> Result<Seen, Refusal> {
        let Some(only) = only else { return self.look().await };
        // What was changed a moment ago may be another candidate, or the very one that is meant.
        let taken_in = |seen: &Seen, _: &[Call]| match seen.is_observed() {
            true => Next::Done,
            false => Next::Wait(decide::NOT_TAKEN_IN.to_owned()),
        };
        let seen = self.until(taken_in).await?;
        self.refuse_unless(only, &seen).await?;
        Ok(seen)
    }

    async fn refuse_unless(&self, only: &Only, seen: &Seen) -> Result<(), Refusal> {
        let candidate = seen.candidate();
        for revision in candidate.into_iter().chain([seen.active()]) {
            let images = match only {
                Only::Image(_) => self.commander.images(seen, revision).await.map_err(Failed::refusal)?,
                Only::Revision(_) => String::new(),
            };
            match only.is(revision, &images) {
                true if candidate == Some(revision) => return Ok(()),
                true => return Err(only.is_live(&self.petition.app)),
                false => {}
            }
        }
        Err(only.is_no_candidate(&self.petition.app, candidate))
    }

    /// Where the newest revision carries live traffic while it is being judged, giving it up means going back: that is done
    /// here at once. The controller goes back only when all pods of the revision it leaves are available, and those may be
    /// the very trouble.
    async fn return_if_judged(&self, seen: &Seen) -> Option<Receipt> {
        let Petition { app, by, reason, dry_run, .. } = self.petition.clone();
        let stable = hash(&seen.status.stable).filter(|_| seen.is_judged() && !seen.status.promote_full)?;
        let command = Command::Rollback { to: Some(stable) };
        self.commander.control.submit(Order { app, command, by, reason, if_generation: None, dry_run }).await.ok()
    }

    async fn retry(mut self, skip_gates: bool) -> Result<Receipt, Refusal> {
        let seen = self.until(|seen, _| decide::given_up(seen)).await?;
        let replica_set = self.commander.replica_set(&seen, &seen.status.current).await.map_err(Failed::refusal)?;
        match decide::retry_promotes(&seen, replica_set.as_ref()) {
            Some(refusal) if !skip_gates => return Err(refusal),
            Some(refusal) => self.warnings.push(refusal.detail),
            None => {}
        }
        let seen = self.until(|seen, sent| decide::retry(seen, !sent.is_empty())).await?;
        self.done(Action::Retry, hash(&seen.status.stable), hash(&seen.status.current)).await
    }

    async fn pause(mut self, paused: bool) -> Result<Receipt, Refusal> {
        let seen = self.until(|seen, _| decide::pause(seen, paused)).await?;
        let action = if paused { Action::Pause } else { Action::Unpause };
        if self.sent.is_empty() {
            self.warnings.push(if paused { "it was paused already" } else { "nobody had paused it" }.to_owned());
        }
        if !paused && !seen.status.pause_conditions.is_empty() {
            self.warnings.push("it still waits for its promotion".to_owned());
        }
        self.done(action, None, hash(&seen.status.current)).await
    }

    /// Abort first: it survives what Git may do to the template.
    async fn reject(mut self, only: Option<&Only>) -> Result<Receipt, Refusal> {
        let seen = self.candidate(only).await?;
        let (current, stable) = (hash(&seen.status.current), hash(&seen.status.stable));
        let returned = self.return_if_judged(&seen).await;
        let (app, rejected) = (self.petition.app.clone(), seen.status.current.clone());
        if !seen.status.abort {
            let decide = |seen: &Seen, _: &[Call]| match decide::abort(seen) {
                _ if seen.status.current != rejected => Next::Refuse(overtaken(&app, &rejected, seen)),
                Next::Wait(_) if seen.status.abort => Next::Done,
                next => next,
            };
            self.until(decide).await?;
        } else if current == stable {
            let detail = format!("{} has no candidate to reject", self.petition.app);
            return Err(refusal(RefusalCode::NoCandidate, detail, "there is nothing to do"));
        }
        let aborted = self.sent.len();
        let (replica_set, held) = self
            .commander
            .templates(&seen, &seen.status.stable)
            .await
            .map_err(|failed| self.half_done(failed.refusal()))?;
        let decide = |seen: &Seen, sent: &[Call]| match decide::restore(seen, replica_set.as_ref(), held.as_ref()) {
            // Sent once, and it is still the rejected one: somebody puts it back.
            Next::Send(_) if sent.len() > aborted && seen.is_observed() && seen.status.current == rejected => {
                Next::Done
            }
            // Somebody's new template is not overwritten with the stable one.
            Next::Send(_) if !seen.is_observed() => Next::Wait(decide::NOT_TAKEN_IN.to_owned()),
            Next::Send(_) if seen.status.current != rejected => Next::Refuse(overtaken(&app, &rejected, seen)),
            next => next,
        };
        let restored = self.until(decide).await;
        let restored = restored.map_err(|refusal| self.half_done(refusal))?;
        if !self.petition.dry_run && (restored.is_kept_by_git() || restored.status.current == rejected) {
            self.hold_against_git(&rejected).await;
        }
        match returned {
            Some(receipt) => Ok(self.stamped(receipt)),
            None => self.done(Action::Reject, current, stable).await,
        }
    }

    /// A changed template takes the abort with it; where Git puts the rejected one back, it would be rolled out anew.
    async fn hold_against_git(&mut self, rejected: &str) {
        let until = self.deadline.min(Instant::now() + LINGER);
        loop {
            match self.commander.look(&self.home).await {
                Ok(seen) if seen.status.current == rejected && !seen.status.abort => {
                    let call = seen.with_status(json!({"abort": true}));
                    let words = match self.commander.server.send(&call).await {
                        Ok(_) => "it was aborted again",
                        Err(Failed::Changed) => continue,
                        Err(_) => "abort it, or it is rolled out anew",
                    };
                    self.sent.push(call);
                    self.warnings.push(format!("something put {rejected} back: {words}; revert it in Git as well"));
                    return;
                }
                Ok(_) | Err(_) => {}
            }
            if Instant::now() >= until {
                self.warnings
                    .push(format!("Argo CD keeps this Rollout: revert {rejected} in Git as well, or it comes back"));
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The candidate is given up, whatever became of the rest.
    fn half_done(&self, refusal: Refusal) -> Refusal {
        if self.petition.dry_run || self.sent.is_empty() {
            return refusal;
        }
        let detail = format!("the rollout is aborted, but the stable template is not back: {}", refusal.detail);
        Refusal { detail, ..refusal }
    }

    async fn keep(mut self, until: Timestamp) -> Result<Receipt, Refusal> {
        let board = self.board()?;
        let Some(previous) = board.rollout.previous().map(|previous| previous.revision.clone()) else {
            let detail = format!("{} keeps no previous revision", self.petition.app);
            return Err(refusal(RefusalCode::NoPrevious, detail, "there is nothing to keep"));
        };
        let seen = self.look().await?;
        let replica_set = self.commander.replica_set(&seen, previous.as_str()).await.map_err(Failed::refusal)?;
        let name = replica_set.as_ref().and_then(|set| set.pointer("/metadata/name")).and_then(Value::as_str);
        let Some((set, name)) = replica_set.as_ref().zip(name) else {
            let detail = format!("the ReplicaSet of {previous} is gone");
            return Err(refusal(RefusalCode::NoPrevious, detail, "there is nothing to keep"));
        };
        let annotations = set.pointer("/metadata/annotations");
        let deadline = annotations.and_then(|all| all[DEADLINE].as_str()).and_then(|at| at.parse::<Timestamp>().ok());
        let until = until.round(Unit::Second).unwrap_or(until);
        match deadline {
            None => self.warnings.push(format!("{previous} has no deadline: it is kept as it is")),
            Some(deadline) if deadline >= until => {
                self.warnings.push(format!("{previous} is kept until {deadline} already"));
            }
            Some(_) => {
                let object = Object::replica_set(&self.home.namespace, name);
                let body = json!({"metadata": {"annotations": {DEADLINE: until.to_string()}}});
                self.send(vec![Call::merge(object, body)]).await?;
            }
        }
        self.done(Action::Keep, None, Some(previous)).await
    }

    async fn look(&self) -> Result<Seen, Refusal> {
        self.commander.look(&self.home).await.map_err(Failed::refusal)
    }

    fn board(&self) -> Result<Arc<AppBoard>, Refusal> {
        let gone =
            || refusal(RefusalCode::UnknownApp, format!("there is no app {}", self.petition.app), "it was removed");
        self.commander.board(&self.petition.app).ok_or_else(gone)
    }

    /// Looks, decides and sends until it is so. Of a dry run: until something would be sent.
    async fn until(&mut self, decide: impl FnMut(&Seen, &[Call]) -> Next) -> Result<Seen, Refusal> {
        let seen = self.until_or(decide, || false).await?;
        seen.ok_or_else(|| self.too_late("it was not looked at"))
    }

    /// The same, or until `over` says that it is so; it is asked again with each change of the board.
    async fn until_or(
        &mut self,
        mut decide: impl FnMut(&Seen, &[Call]) -> Next,
        over: impl Fn() -> bool,
    ) -> Result<Option<Seen>, Refusal> {
        let mut viewer = self.commander.viewer.clone();
        let mut heard = Instant::now();
        while !over() {
            let hangs = match self.commander.look(&self.home).await {
                Ok(seen) => match decide(&seen, &self.sent) {
                    Next::Done => return Ok(Some(seen)),
                    Next::Refuse(refusal) => return Err(refusal),
                    Next::Send(calls) if self.petition.dry_run => {
                        self.sent.extend(calls);
                        return Ok(Some(seen));
                    }
                    Next::Send(calls) => {
                        self.send(calls).await?;
                        heard = Instant::now();
                        tokio::time::sleep(BREATH).await;
                        continue;
                    }
                    Next::Wait(why) => why,
                },
                // Once something was sent, it may still have its effect: that is waited for.
                Err(Failed::Away(why)) if !self.sent.is_empty() => format!("the API server cannot be asked: {why}"),
                Err(failed) => return Err(failed.refusal()),
            };
            if Instant::now() >= self.deadline || self.petition.dry_run {
                return Err(self.too_late(&hangs));
            }
            if !self.sent.is_empty() && heard.elapsed() >= NUDGE {
                self.commander.nudge(&self.home).await;
                heard = Instant::now();
            }
            let look = (Instant::now() + LOOK).min(self.deadline);
            while !over() {
                match tokio::time::timeout_at(look, viewer.changed()).await {
                    Ok(true) => {}
                    Ok(false) => return Err(self.too_late("the proxy is stopping")),
                    Err(_) => break,
                }
            }
        }
        Ok(None)
    }

    /// Sends these. What was changed by somebody else meanwhile is left for the next look to decide.
    async fn send(&mut self, calls: Vec<Call>) -> Result<(), Refusal> {
        for call in calls {
            if self.petition.dry_run {
                self.sent.push(call);
                continue;
            }
            if self.sent.len() >= SENDS {
                return Err(self.too_late("it was sent again and again, and has no effect"));
            }
            match self.commander.server.send(&call).await {
                Ok(_) => self.sent.push(call),
                Err(Failed::Changed) if Instant::now() < self.deadline => return Ok(()),
                Err(failed) => return Err(failed.refusal()),
            }
        }
        Ok(())
    }

    fn too_late(&self, hangs: &str) -> Refusal {
        let (app, within) = (&self.petition.app, self.petition.within.as_secs());
        let action = self.petition.ask.action().as_str();
        if self.petition.dry_run {
            return refusal(
                RefusalCode::NotReady,
                format!("{app}: nothing would be sent now; {hangs}"),
                "ask again later",
            );
        }
        let (detail, hint) = match self.sent.as_slice() {
            [] => {
                (format!("{action} of {app} could not be asked for within {within} s: {hangs}"), "nothing was changed")
            }
            _ => (
                format!("{action} of {app} was asked for, and had no effect within {within} s: {hangs}"),
                "it may still come: see `tealgate status` and the Rollout; abort takes a promotion back",
            ),
        };
        refusal(RefusalCode::TimedOut, detail, hint)
    }

    /// Puts on record what was done.
    async fn done(self, action: Action, from: Option<Revision>, to: Option<Revision>) -> Result<Receipt, Refusal> {
        if self.petition.dry_run {
            return self.planned(from, to);
        }
        let Petition { app, by, reason, .. } = self.petition.clone();
        let receipt = self.commander.control.note(Note { app, action, from, to, by, reason }).await?;
        Ok(self.stamped(receipt))
    }

    fn stamped(&self, mut receipt: Receipt) -> Receipt {
        receipt.calls = self.sent.iter().map(Call::to_string).collect();
        receipt.warnings.extend(self.warnings.iter().cloned());
        receipt
    }

    fn planned(&self, from: Option<Revision>, to: Option<Revision>) -> Result<Receipt, Refusal> {
        let board = self.board()?;
        Ok(self.stamped(Receipt {
            app: self.petition.app.to_string(),
            action: self.petition.ask.action(),
            generation: board.rollout.generation().0,
            from: from.map(|revision| revision.to_string()),
            to: to.map(|revision| revision.to_string()),
            by: self.petition.by.clone(),
            reason: self.petition.reason.clone(),
            published_at: Timestamp::now(),
            barrier_micros: 0,
            in_flight_on_old: board.status().active.map_or(0, |pool| pool.in_flight),
            gates: board.rollout.gates(),
            weight: None,
            replicas: Vec::new(),
            calls: Vec::new(),
            warnings: Vec::new(),
            dry_run: true,
        }))
    }
}

/// A revision by its hash, where there is one.
pub(super) fn hash(hash: &str) -> Option<Revision> {
    hash.parse().ok()
}

/// Another candidate has come while this one was being given up.
fn overtaken(app: &AppName, meant: &str, seen: &Seen) -> Refusal {
    let detail = format!("{meant} is no candidate of {app} any more; the newest revision is {}", seen.status.current);
    refusal(RefusalCode::Overtaken, detail, "that one was left alone; to give it up, name it")
}

/// The newest revision; a name guards against promoting another one than meant.
fn target_of(seen: &Seen, named: Option<Revision>) -> Result<Revision, Refusal> {
    let current = hash(&seen.status.current).ok_or_else(|| {
        let detail = format!("the Rollout has no revision to promote yet: {}", seen.in_words());
        refusal(RefusalCode::NoCandidate, detail, "see whether the controller of Argo Rollouts is up")
    })?;
    match named.filter(|named| *named != current) {
        None => Ok(current),
        Some(named) => {
            let detail = format!("the newest revision is {current}, not {named}");
            Err(refusal(RefusalCode::NoCandidate, detail, format!("promote {current}, or bring {named} back first")))
        }
    }
}

/// Whether a rollback of ours keeps this revision from live traffic, though the cluster has it active.
fn is_returned_from(board: &AppBoard, target: &Revision, seen: &Seen) -> bool {
    let by_annotation = told_of(seen).is_some_and(|told| told.from == *target && told.to == *board.rollout.active());
    let ours = |flip: &Receipt| flip.action == Action::Rollback && flip.from.as_deref() == Some(target.as_str());
    by_annotation || last_flip(board).is_some_and(ours)
}

/// The rollback that all replicas were told of.
pub(super) fn told_of(seen: &Seen) -> Option<Returned> {
    let value = seen.rollout.annotation(annotation::RETURNED)?;
    annotation::read(value, Timestamp::now()).ok()
}

/// The last change of hands of live traffic.
pub(super) fn last_flip(board: &AppBoard) -> Option<&Receipt> {
    board.history.iter().rev().find(|receipt| is_flip(receipt))
}

pub(super) fn is_flip(receipt: &Receipt) -> bool {
    matches!(receipt.action, Action::Promote | Action::Rollback | Action::Source)
        && receipt.to.is_some()
        && receipt.from != receipt.to
}

/// The receipt of the flip to this revision since then.
fn flip_to(board: &AppBoard, target: &Revision, since: Timestamp) -> Option<Receipt> {
    let flip = last_flip(board).filter(|flip| flip.to.as_deref() == Some(target.as_str()))?;
    // Both times are of one clock; that may be set back a little meanwhile.
    let slack = since.checked_sub(1.second()).unwrap_or(since);
    (flip.published_at >= slack && *board.rollout.active() == *target).then(|| flip.clone())
}

/// What of ours stands in the way of the candidate's promotion.
fn gate(board: &AppBoard, target: &Revision, skip: bool) -> Option<Next> {
    let status = board.status();
    let Some(pool) = status.preview.filter(|pool| pool.revision == target.as_str()) else {
        return Some(Next::Wait(format!("the proxy has not seen {target} as the candidate yet")));
    };
    if skip && pool.ready > 0 {
        return None;
    }
    let failing = status.gates.iter().find(|gate| {
        !matches!(gate.state, GateState::Passed | GateState::Skipped) && (!skip || gate.name == "min_ready")
    })?;
    let code = if failing.name == "min_ready" { RefusalCode::NotReady } else { RefusalCode::GateFailed };
    let detail = format!("the gate {} of {target} does not hold: {}", failing.name, failing.message);
    let hint = "ask again when it does, or skip the gates with a reason; an empty pool is refused all the same";
    Some(Next::Refuse(refusal(code, detail, hint)))
}

#[cfg(test)]
mod tests;
