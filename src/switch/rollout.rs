//! One app's state machine, pure: [`Rollout::handle`] takes the state, an input and the time, and gives the next state
//! with the deeds to carry out, or a reasoned no. It touches no clock, no pool and no file; `switchboard` does what it
//! says. Here are the state, the flip, and what follows from time alone; `orders` has what people ask for, `source` what the
//! source wants, `sight` what is found where another authority decides, `words` how it is said.

mod hold;
mod orders;
mod sight;
mod smoke;
mod source;
#[cfg(test)]
mod tests;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub(super) use self::{hold::HoldEnd, smoke::Smoked};
pub use self::{hold::Holding, smoke::SmokeRun};
use super::{
    authority::Note,
    control::{Command, Refusal, RefusalCode},
    desired::{Authority, EndpointSpec, Returned},
    name::{AppName, Generation, Revision},
    policy::{AutoPromotion, Policy},
    split::{Split, Weight},
    status::{Action, Maintenance, Phase, Pin},
    warmth::Cold,
};

/// One app's rollout: what is durable of it, and what is known just now.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    kept: Kept,
    policy: Arc<Policy>,
    /// Who decides its flips.
    authority: Authority,
    /// Who asked that authority for a flip, until it comes.
    asked: Option<Asked>,
    /// What is wrong where the app is followed, in sentences.
    alarms: Vec<String>,
    /// What the last sighting would have taken from live traffic, in sentences.
    kept_back: Vec<String>,
    /// A rollback that was ordered at another replica.
    returned: Option<Returned>,
    /// Ready and total endpoints of each revision, as last reported.
    readiness: BTreeMap<Revision, Readiness>,
    /// Since when the candidate's gates have held without a break.
    gates_since: Option<Timestamp>,
    /// New live requests wait.
    holding: Option<Holding>,
    /// The last run of the candidate's smoke test, and how many there were of the app's.
    smoke: Option<SmokeRun>,
    smoke_runs: u64,
}

/// What must survive a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    app: AppName,
    generation: Generation,
    phase: Phase,
    active: Held,
    preview: Option<Held>,
    previous: Option<Previous>,
    revisions: BTreeMap<Revision, Known>,
    pin: Option<Pin>,
    /// The candidate's share of live traffic, where somebody has set it; it goes with the candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<Weight>,
    /// What the source last said of the roles: only a change of its mind is a wish.
    said: Said,
    /// The revision the source wants active, while that cannot be done yet.
    wish: Option<Revision>,
    /// Live requests get the maintenance page.
    #[serde(default)]
    maintenance: Option<Maintenance>,
    /// When the last rollback was ordered that came from another replica: none is obeyed twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    returned_at: Option<Timestamp>,
    /// The revision the source has gone back to, and is not followed to, since a rollback from it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    withheld: Option<Revision>,
    /// What was amiss when another authority made the active revision active, in a sentence, while there is a way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unproven: Option<String>,
}

/// A flip that somebody has asked another authority for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) revision: Revision,
    pub(super) by: String,
    pub(super) reason: String,
}

/// A revision in a role, and since when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    revision: Revision,
    since: Timestamp,
}

/// The revision a rollback returns to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// Which.
    pub revision: Revision,
    /// Since when it is the previous one.
    pub since: Timestamp,
    /// Until when it is kept; under Argo Rollouts, from when on that may take it down.
    pub until: Timestamp,
}

/// A revision we know the endpoints of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    endpoints: Arc<Vec<EndpointSpec>>,
    labels: BTreeMap<String, String>,
    origin: Origin,
}

/// Where a revision came from: the source's own stay known, deployed ones are forgotten with their last role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    Source,
    Deployed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Said {
    active: Revision,
    preview: Option<Revision>,
    #[serde(default)]
    weight: Weight,
}

/// How many endpoints of a revision are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) ready: usize,
    /// Found down by their probes, or ejected; those that are neither have not been probed yet.
    pub(super) down: usize,
    pub(super) total: usize,
    /// How many of the ready ones have as many open connections as the policy asks for.
    pub(super) warm: usize,
    /// Why the others have not.
    pub(super) cold: Option<Cold>,
}

/// What the state machine is told.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// Somebody's order.
    Order { command: Command, by: String, reason: String, if_generation: Option<u64> },
    /// How many endpoints of a revision are ready.
    Readiness { revision: Revision, readiness: Readiness },
    /// Somebody has asked the app's authority to make a revision active.
    Asked(Option<Asked>),
    /// The app's authority has done what somebody asked for.
    Noted(Note),
    /// The hold has come to its end.
    HoldOver(HoldEnd),
    /// Checks of the smoke test were sent.
    Smoked(Smoked),
    /// Time has passed.
    Clock,
}

/// The next state, and what is to be done to get there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) next: Rollout,
    /// Deeds to record and publish, in order.
    pub(super) deeds: Vec<Deed>,
    /// What the source wants and does not get yet, in sentences.
    pub(super) held_back: Vec<String>,
}

impl From<Rollout> for Step {
    /// A beginning: nothing led to it.
    fn from(next: Rollout) -> Self {
        Self { next, deeds: Vec::new(), held_back: Vec::new() }
    }
}

/// Something done, for the receipt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Deed {
    pub(super) action: Action,
    pub(super) generation: Generation,
    pub(super) from: Option<Revision>,
    pub(super) to: Option<Revision>,
    pub(super) by: String,
    pub(super) reason: String,
    /// The candidate's share from then on, if that is what was done.
    pub(super) weight: Option<Weight>,
    /// Whether it only follows the source, which says it again after a restart.
    pub(super) of_source: bool,
}

impl Deed {
    /// Whether the active revision changed hands.
    pub(super) fn is_flip(&self) -> bool {
        matches!(self.action, Action::Promote | Action::Rollback)
            || (self.action == Action::Source && self.from.is_some() && self.from != self.to)
    }

    /// Whether nobody asked for it.
    pub(super) fn came_by_itself(&self) -> bool {
        self.by == hold::BY_ITSELF
    }

    /// Of the end of a hold: how it came about.
    pub(super) fn why_resumed(&self) -> String {
        match (self.by.as_str(), self.reason.as_str()) {
            (hold::BY_ITSELF, why) => why.to_owned(),
            (by, "") => format!("{by} ended the hold"),
            (by, why) => format!("{by} ended the hold: {why}"),
        }
    }

    /// Whether it goes ahead though it cannot be written down: a rollback, because returning to what worked needs nobody
    /// (G5), what the source wants, because the source says it again after a restart, and the closing and opening of the
    /// door, because a hold is not kept anyway and maintenance is for bad days.
    pub(super) fn must_not_wait(&self) -> bool {
        use Action::{Hold, Maintenance, Reopen, Resume, Rollback};
        let returns = self.action == Rollback || self.weight == Some(Weight::ZERO);
        returns || matches!(self.action, Hold | Resume | Maintenance | Reopen) || self.of_source
    }
}

impl Kept {
    pub(super) fn app(&self) -> &AppName {
        &self.app
    }

    /// Whether both lead to the same after a restart: readiness, and with it the candidate's phase, is found anew then.
    pub(super) fn amounts_to(&self, other: &Self) -> bool {
        let plain = |kept: &Self| match kept.phase {
            Phase::Previewing => Self { phase: Phase::Starting, ..kept.clone() },
            _ => kept.clone(),
        };
        plain(self) == plain(other)
    }
}

impl Rollout {
    /// The state after `input`, or why not; `self` stays as it is either way.
    pub(super) fn handle(&self, input: Input, now: Timestamp) -> Result<Step, Refusal> {
        let mut step = Step::from(self.clone());
        match input {
            Input::Order { command, by, reason, if_generation } => {
                self.expect_generation(if_generation)?;
                self.refuse_if_not_ours(&command)?;
                let action = match command {
                    // What it is asked for comes when the pool is empty.
                    Command::PromoteHeld { .. } => Action::Hold,
                    _ => command.action(),
                };
                let reason_given = reason.clone();
                let (from, to) = step.next.obey(command, &by, reason, now)?;
                step.deeds.push(step.next.deed(action, from, to, by, reason_given));
            }
            Input::Readiness { revision, readiness } => {
                step.next.readiness.insert(revision, readiness);
            }
            Input::Asked(asked) => step.next.asked = asked,
            Input::Noted(Note { action, from, to, by, reason, .. }) => {
                // It is done, whether it can be written down or not.
                let deed = Deed { of_source: true, ..step.next.deed(action, from, to, by, reason) };
                step.deeds.push(deed);
            }
            Input::HoldOver(how) => step.next.end_hold(how, now, &mut step.deeds),
            Input::Smoked(smoked) => step.next.take_smoked(smoked, now),
            Input::Clock => {}
        }
        step.next.settle(now, &mut step.deeds);
        Ok(step)
    }

    fn expect_generation(&self, expected: Option<u64>) -> Result<(), Refusal> {
        let at = self.kept.generation.0;
        match expected {
            Some(expected) if expected != at => Err(Refusal::new(
                RefusalCode::GenerationMismatch,
                format!("{} is at generation {at}, not {expected}: somebody else changed it", self.kept.app),
                "look at its state again, then decide anew",
            )),
            _ => Ok(()),
        }
    }

    fn deed(&self, action: Action, from: Option<Revision>, to: Option<Revision>, by: String, reason: String) -> Deed {
        let weight = (action == Action::Weight).then(|| self.weight());
        Deed { action, generation: self.kept.generation, from, to, by, reason, weight, of_source: false }
    }

    fn know(
        &mut self,
        revision: Revision,
        endpoints: Vec<EndpointSpec>,
        labels: Option<BTreeMap<String, String>>,
        origin: Origin,
    ) {
        let before = self.kept.revisions.get(&revision);
        // What the source names stays the source's, whoever deploys it again.
        let origin = before.map_or(origin, |known| if known.origin == Origin::Source { known.origin } else { origin });
        // The same again stays the same object: states are compared often, and there may be thousands of endpoints.
        let same = before.map(|known| &known.endpoints).filter(|known| ***known == endpoints);
        let endpoints = same.map_or_else(|| Arc::new(endpoints), Arc::clone);
        if before.is_none_or(|known| !Arc::ptr_eq(&known.endpoints, &endpoints)) {
            // What was seen of the old endpoints says nothing of the new.
            self.readiness.remove(&revision);
        }
        let labels = labels.or_else(|| before.map(|known| known.labels.clone())).unwrap_or_default();
        self.kept.revisions.insert(revision, Known { endpoints, labels, origin });
    }

    /// A new candidate changes the roles; the same one again only starts over.
    fn set_candidate(&mut self, revision: Revision, now: Timestamp) {
        if !self.is_candidate(&revision) {
            self.kept.preview = Some(Held { revision, since: now });
            self.kept.weight = None;
            self.kept.generation = self.kept.generation.next();
        }
        self.kept.phase = Phase::Starting;
        self.gates_since = None;
        self.smoke = None;
    }

    fn drop_candidate(&mut self, phase: Phase) {
        self.kept.preview = None;
        self.kept.weight = None;
        self.kept.phase = phase;
        self.kept.generation = self.kept.generation.next();
        self.gates_since = None;
    }

    /// THE FLIP: active changes hands. Returns the revision that was active.
    fn flip(&mut self, to: Revision, now: Timestamp) -> Revision {
        if self.is_candidate(&to) {
            self.kept.preview = None;
        }
        // Wherever it goes, all of live traffic goes there.
        self.kept.weight = None;
        (self.kept.wish, self.kept.withheld, self.kept.unproven) = (None, None, None);
        self.gates_since = None;
        self.kept.generation = self.kept.generation.next();
        std::mem::replace(&mut self.kept.active, Held { revision: to, since: now }).revision
    }

    fn keep_as_previous(&mut self, revision: Revision, now: Timestamp) {
        let until = later(now, self.policy.keep_previous.0);
        self.kept.previous = Some(Previous { revision, since: now, until });
        self.kept.phase = if self.kept.preview.is_some() { Phase::Starting } else { Phase::Promoted };
    }

    /// Whatever follows from the state and the time alone. Level, not edge: asking twice changes nothing.
    fn settle(&mut self, now: Timestamp, deeds: &mut Vec<Deed>) {
        self.kept.pin.take_if(|pin| pin.expires.is_some_and(|expires| expires <= now));
        if self.previous_ends().is_some_and(|end| end <= now) {
            self.kept.previous = None;
        }
        self.drop_stale_hold(deeds);
        self.fulfil_wish(now, deeds);
        self.return_if_told(now, deeds);
        self.tend_smoke(now);
        self.judge_candidate(now);
        self.promote_if_due(now, deeds);
        if self.kept.phase == Phase::Promoted && self.kept.previous.is_none() {
            self.kept.phase = Phase::Steady;
        }
        if self.kept.previous.is_none() {
            self.kept.unproven = None;
        }
        self.forget_idle_revisions();
    }

    /// When the previous revision is forgotten. Argo Rollouts says when it means to take it down, but may be away by then:
    /// as long as it is seen to live, live traffic can go back to it (G5).
    fn previous_ends(&self) -> Option<Timestamp> {
        let previous = self.kept.previous.as_ref().filter(|_| self.authority != Authority::ArgoRollouts)?;
        Some(previous.until)
    }

    fn judge_candidate(&mut self, now: Timestamp) {
        let Some(candidate) = self.preview().map(|(revision, _)| revision.clone()) else { return };
        if !self.is_underway() {
            return;
        }
        if self.readiness(&candidate).ready >= self.min_ready(&candidate) {
            self.kept.phase = Phase::Previewing;
            match self.is_warm(&candidate) && self.is_smoked(&candidate) {
                true => _ = self.gates_since.get_or_insert(now),
                false => self.gates_since = None,
            }
        } else {
            self.kept.phase = Phase::Starting;
            self.gates_since = None;
        }
    }

    fn promote_if_due(&mut self, now: Timestamp, deeds: &mut Vec<Deed>) {
        if self.auto_promotion_at().is_none_or(|due| due > now) {
            return;
        }
        if let Ok((from, to)) = self.promote(None, false, now) {
            deeds.push(self.deed(
                Action::Promote,
                from,
                to,
                "auto-promotion".to_owned(),
                "its gates passed".to_owned(),
            ));
        }
    }

    fn auto_promotion_at(&self) -> Option<Timestamp> {
        let ours = self.authority == Authority::Tealgate && self.kept.pin.is_none();
        let since = self.gates_since.filter(|_| self.kept.phase == Phase::Previewing && ours)?;
        match self.policy.promotion.auto {
            AutoPromotion::Never => None,
            AutoPromotion::WhenReady => Some(since),
            AutoPromotion::After(wait) => Some(later(since, wait)),
        }
    }

    fn forget_idle_revisions(&mut self) {
        let kept = &self.kept;
        let in_role = |r: &Revision| *r == kept.active.revision || self.is_candidate(r) || self.is_previous(r);
        let idle = |(r, known): &(&Revision, &Known)| known.origin == Origin::Deployed && !in_role(r);
        let idle: Vec<_> = kept.revisions.iter().filter(idle).map(|(r, _)| r.clone()).collect();
        for revision in idle {
            self.kept.revisions.remove(&revision);
            self.readiness.remove(&revision);
        }
    }

    /// The next instant at which [`Input::Clock`] would change something.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let pin = self.kept.pin.as_ref().and_then(|pin| pin.expires);
        [self.previous_ends(), pin, self.auto_promotion_at()].into_iter().flatten().min()
    }

    /// How many endpoints of a revision were last reported ready.
    pub(super) fn was_told(&self, revision: &Revision) -> Option<Readiness> {
        self.readiness.get(revision).copied()
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Who decides its flips.
    pub fn authority(&self) -> Authority {
        self.authority
    }

    pub(super) fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Whether both have the same endpoints in the same roles, to be treated in the same way.
    pub(super) fn has_the_pools_of(&self, other: &Self) -> bool {
        let role = |rollout: &Self| rollout.kept.preview.as_ref().map(|held| held.revision.clone());
        Arc::ptr_eq(&self.policy, &other.policy)
            && self.active() == other.active()
            && role(self) == role(other)
            && self.lists().eq(other.lists())
    }

    fn lists(&self) -> impl Iterator<Item = (&Revision, &Arc<Vec<EndpointSpec>>)> {
        self.kept.revisions.iter().map(|(revision, known)| (revision, &known.endpoints))
    }

    /// All known revisions with their endpoints.
    pub(super) fn revisions(&self) -> impl Iterator<Item = (&Revision, &[EndpointSpec])> {
        self.lists().map(|(revision, endpoints)| (revision, endpoints.as_slice()))
    }

    /// The endpoints of one revision, as its source gave them.
    pub(super) fn endpoints(&self, revision: &Revision) -> &[EndpointSpec] {
        self.kept.revisions.get(revision).map_or(&[], |known| &known.endpoints)
    }

    fn is_candidate(&self, revision: &Revision) -> bool {
        self.kept.preview.as_ref().is_some_and(|held| held.revision == *revision)
    }

    fn is_previous(&self, revision: &Revision) -> bool {
        self.kept.previous.as_ref().is_some_and(|previous| previous.revision == *revision)
    }

    fn readiness(&self, revision: &Revision) -> Readiness {
        let total = || self.kept.revisions.get(revision).map_or(0, |known| known.endpoints.len());
        let unknown = || Readiness { total: total(), ..Readiness::default() };
        self.readiness.get(revision).copied().unwrap_or_else(unknown)
    }

    fn min_ready(&self, revision: &Revision) -> usize {
        self.policy.promotion.min_ready.of(self.readiness(revision).total)
    }

    /// Whether every ready endpoint of the candidate has the connections that the policy asks for. Nobody else is warmed.
    fn is_warm(&self, revision: &Revision) -> bool {
        let Readiness { ready, warm, .. } = self.readiness(revision);
        self.policy.promotion.warm == 0 || !self.is_candidate(revision) || (ready > 0 && warm == ready)
    }

    /// The app.
    pub fn app(&self) -> &AppName {
        &self.kept.app
    }

    /// How often its roles have changed: who is active, who is the candidate.
    pub fn generation(&self) -> Generation {
        self.kept.generation
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.kept.phase
    }

    /// The active revision.
    pub fn active(&self) -> &Revision {
        &self.kept.active.revision
    }

    /// Since when it is active.
    pub fn active_since(&self) -> Timestamp {
        self.kept.active.since
    }

    /// The candidate, and since when it is.
    pub fn preview(&self) -> Option<(&Revision, Timestamp)> {
        self.kept.preview.as_ref().map(|held| (&held.revision, held.since))
    }

    /// The revision a rollback returns to.
    pub fn previous(&self) -> Option<&Previous> {
        self.kept.previous.as_ref()
    }

    /// The pin, if one holds.
    pub fn pin(&self) -> Option<&Pin> {
        self.kept.pin.as_ref()
    }

    /// The candidate's share of live traffic: what somebody has set, or else what the source says of every candidate, but
    /// not of one that was rolled back, and not by itself while a pin holds.
    pub fn weight(&self) -> Weight {
        let by_itself = self.is_underway() && self.kept.pin.is_none();
        match (&self.kept.preview, self.kept.weight) {
            (Some(_), Some(weight)) => weight,
            (Some(_), None) if by_itself => self.policy.split.weight,
            _ => Weight::ZERO,
        }
    }

    /// How live traffic is told apart: not at all unless some of it is for the candidate, and the candidate is ready.
    pub(super) fn split(&self) -> Option<Split> {
        let (candidate, _) = self.preview()?;
        let by_rules = self.is_underway() && !self.policy.split.rules.is_empty();
        let split = Split::new(self.app(), candidate, self.weight(), by_rules);
        split.filter(|_| self.readiness(candidate).ready >= self.min_ready(candidate))
    }

    /// Whether the candidate is on its way to be active, and was not just rolled back.
    fn is_underway(&self) -> bool {
        matches!(self.kept.phase, Phase::Starting | Phase::Previewing)
    }

    /// The labels a revision was deployed with.
    pub fn labels(&self, revision: &Revision) -> BTreeMap<String, String> {
        self.kept.revisions.get(revision).map(|known| known.labels.clone()).unwrap_or_default()
    }
}

/// `after` later, or the end of time.
fn later(now: Timestamp, after: std::time::Duration) -> Timestamp {
    let after = SignedDuration::try_from(after).unwrap_or(SignedDuration::MAX);
    now.checked_add(after).unwrap_or(Timestamp::MAX)
}
