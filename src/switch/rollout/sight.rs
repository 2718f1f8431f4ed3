//! Following an app whose flips another authority decides. What was found there is taken whole and level: what is said
//! again changes nothing, and what was missed heals with the next sighting. The authority is followed as soon as that
//! fails nobody; what it cannot take away is a rollback (G5) and the last endpoints of live traffic (G4).

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{
    super::{
        control::{Command, Refusal, RefusalCode},
        desired::{Authority, Returned, Sighting},
        name::{AppName, Generation, Revision},
        policy::Policy,
        split::Weight,
        status::{Action, Phase},
    },
    Deed, Held, Kept, Previous, Rollout, Said, Step, later,
};

/// Stands for the active revision of an app until the first sighting of it.
const NOT_SEEN: &str = "not-seen";

impl Rollout {
    /// An app of which nothing has been seen yet. It serves nobody until then.
    pub(in super::super) fn unseen(app: AppName, authority: Authority, policy: Arc<Policy>, now: Timestamp) -> Self {
        let nowhere: Revision = NOT_SEEN.parse().expect("a name");
        let kept = Kept {
            app,
            generation: Generation(1),
            phase: Phase::Steady,
            active: Held { revision: nowhere.clone(), since: now },
            preview: None,
            previous: None,
            revisions: BTreeMap::new(),
            pin: None,
            weight: None,
            said: Said { active: nowhere, preview: None, weight: Weight::ZERO },
            wish: None,
            maintenance: None,
            returned_at: None,
            withheld: None,
            unproven: None,
        };
        Self { authority, ..Self::of(kept, policy) }
    }

    /// Whether nothing has ever been seen of it, so that it serves nobody.
    pub fn is_unseen(&self) -> bool {
        self.active().as_str() == NOT_SEEN && self.authority != Authority::Tealgate
    }

    /// The state after the configuration has spoken of an app whose roles it does not say.
    pub(in super::super) fn treat(&self, authority: Authority, policy: Arc<Policy>, now: Timestamp) -> Step {
        // The same again stays the same object: by that it is known that nothing has changed.
        let policy = if *self.policy == *policy { Arc::clone(&self.policy) } else { policy };
        let mut step = Step::from(Self { authority, policy, ..self.clone() });
        step.next.settle(now, &mut step.deeds);
        step
    }

    /// The state after a sighting. It is never refused: what cannot be done yet is held back.
    pub(in super::super) fn sight(&self, sighting: Sighting, now: Timestamp) -> Step {
        let mut step = Step::from(self.clone());
        step.next.take_in(sighting, now, &mut step.deeds, &mut step.held_back);
        step.next.settle(now, &mut step.deeds);
        step
    }

    /// Whether anything has been seen of the app, now or before a restart.
    pub(in super::super) fn is_seen(&self) -> bool {
        self.kept.revisions.contains_key(&self.kept.active.revision)
    }

    fn take_in(&mut self, sighting: Sighting, now: Timestamp, deeds: &mut Vec<Deed>, held_back: &mut Vec<String>) {
        let Sighting { revisions, active, preview, aborted, weight, previous, previous_until, returned, alarms } =
            sighting;
        self.alarms = alarms;
        self.returned = returned;
        let first = !self.is_seen();
        let gone = |known: &Previous| !revisions.contains_key(&known.revision);
        self.kept.previous.take_if(|previous| gone(previous));
        let revisions = revisions.into_iter().map(|(name, seen)| (name, (seen.endpoints, Some(seen.labels))));
        self.follow_revisions(revisions.collect(), held_back);
        self.kept_back.clone_from(held_back);
        match active {
            Some(active) if first => self.begin_at(active, now),
            Some(active) => self.want(active),
            None => {}
        }
        self.fulfil_wish(now, deeds);
        held_back.extend(self.wish_in_words());
        held_back.extend(self.withheld_in_words());
        self.take_candidate(preview.filter(|_| !aborted), now, deeds);
        self.take_weight(weight);
        self.take_previous(previous, previous_until, first, now);
    }

    fn begin_at(&mut self, active: Revision, now: Timestamp) {
        self.kept.said.active = active.clone();
        if self.kept.revisions.contains_key(&active) {
            self.kept.active = Held { revision: active, since: now };
        }
    }

    /// A change of mind is a wish. But where a rollback that all replicas were told of stands, a source that goes back to
    /// what it was taken from (Git that heals itself) is not followed as long as that word does.
    fn want(&mut self, active: Revision) {
        let told = self.returned.as_ref().filter(|told| told.to != told.from && !told.released);
        let stands = told.is_some_and(|told| told.from == active && told.to == self.kept.active.revision);
        let changed = self.kept.said.active != active;
        let withheld = self.kept.withheld.take_if(|withheld| changed || !stands || *withheld != active);
        if !changed && withheld.as_ref() != Some(&active) {
            return;
        }
        self.kept.said.active.clone_from(&active);
        let wish = Some(active).filter(|wish| *wish != self.kept.active.revision);
        match stands {
            true => (self.kept.wish, self.kept.withheld) = (None, wish),
            false => self.kept.wish = wish,
        }
    }

    fn take_candidate(&mut self, newest: Option<Revision>, now: Timestamp, deeds: &mut Vec<Deed>) {
        self.kept.said.preview.clone_from(&newest);
        let active = self.kept.active.revision.clone();
        let candidate = newest.filter(|newest| *newest != active && self.kept.revisions.contains_key(newest));
        let before = self.kept.preview.as_ref().map(|held| held.revision.clone());
        match candidate {
            Some(candidate) if before.as_ref() != Some(&candidate) => {
                self.set_candidate(candidate.clone(), now);
                if self.kept.withheld.as_ref() == Some(&candidate) {
                    // As after the rollback itself: nothing but a person makes it active.
                    self.kept.phase = Phase::Aborted;
                }
                deeds.push(self.by_source(Action::Deploy, Some(active), Some(candidate)));
            }
            None if before.is_some() => {
                self.drop_candidate(Phase::Aborted);
                deeds.push(self.by_source(Action::Abort, before, Some(active)));
            }
            _ => {}
        }
    }

    fn take_weight(&mut self, weight: Option<Weight>) {
        if weight.is_some() && self.kept.preview.is_some() {
            self.kept.weight = weight;
        }
    }

    /// How long the previous revision is kept is the authority's to say. Which one it is follows from our own flips, but
    /// for a start that knows of none.
    fn take_previous(&mut self, previous: Option<Revision>, until: Option<Timestamp>, first: bool, now: Timestamp) {
        let idle = |revision: &Revision| *revision != self.kept.active.revision && !self.is_candidate(revision);
        let Some(revision) = previous.filter(|revision| idle(revision)) else { return };
        let by_policy = later(now, self.policy.keep_previous.0);
        match &mut self.kept.previous {
            Some(kept) if kept.revision == revision => {
                let half_time = later(now, self.policy.keep_previous.0 / 2);
                kept.until = until.unwrap_or(if kept.until < half_time { by_policy } else { kept.until });
            }
            None if first && self.kept.revisions.contains_key(&revision) => {
                self.kept.previous = Some(Previous { revision, since: now, until: until.unwrap_or(by_policy) });
            }
            _ => {}
        }
    }

    /// Takes part in a rollback that was ordered at another replica, as soon as that fails nobody.
    pub(super) fn return_if_told(&mut self, now: Timestamp, deeds: &mut Vec<Deed>) {
        let Some(Returned { to, from, at, by, reason, released }) = self.returned.clone() else { return };
        let obeyed = self.kept.returned_at.is_some_and(|last| at <= last);
        if released || obeyed || self.kept.said.active != from {
            return;
        }
        if self.kept.active.revision == to {
            self.kept.returned_at = Some(at);
            return;
        }
        let rollback = Command::Rollback { to: Some(to) };
        if let Ok((from, to)) = self.obey(rollback, &by, reason.clone(), now) {
            self.kept.returned_at = Some(at);
            deeds.push(self.deed(Action::Rollback, from, to, by, reason));
        }
    }

    /// What another authority decides is not done behind its back.
    pub(super) fn refuse_if_not_ours(&self, command: &Command) -> Result<(), Refusal> {
        use Command::{Abort, Deploy, Discard, Promote, PromoteHeld, Weigh};
        let theirs = matches!(
            command,
            Promote { .. } | PromoteHeld { .. } | Abort { .. } | Weigh { .. } | Deploy { .. } | Discard { .. }
        );
        let (decides, hint) = match self.authority {
            Authority::ArgoRollouts if theirs => ("Argo Rollouts decides", "ask it: kubectl argo rollouts"),
            Authority::Services if theirs => ("the selectors of two Services decide", "change the selectors"),
            _ => return Ok(()),
        };
        let detail = format!("{decides} the flips of {}: the switch only follows", self.kept.app);
        Err(Refusal::new(RefusalCode::OtherAuthority, detail, hint))
    }

    /// The rollback that all replicas were told of, as it was sighted.
    pub fn returned(&self) -> Option<&Returned> {
        self.returned.as_ref()
    }

    /// The revision the source says is active.
    pub fn said_active(&self) -> &Revision {
        &self.kept.said.active
    }

    /// The revision the source has gone back to and is not followed to, and the rollback that stands against it.
    pub(super) fn withheld(&self) -> Option<(&Revision, &Returned)> {
        self.kept.withheld.as_ref().zip(self.returned.as_ref())
    }

    /// What is wrong where the app is followed, as a beginning of a sentence.
    pub(super) fn sight_in_words(&self) -> String {
        let all = self.alarms.iter().chain(&self.kept_back).chain(&self.kept.unproven);
        all.map(|alarm| format!("{alarm}; ")).collect()
    }

    /// What somebody should look at where the app is followed, each in a sentence: what is wrong there, what of it is held
    /// back from live traffic, and what was made active though our gates did not hold.
    pub fn troubles(&self) -> Vec<String> {
        let held_back = [self.wish_in_words(), self.withheld_in_words()].into_iter().flatten();
        let sighted = self.alarms.iter().chain(&self.kept_back).chain(&self.kept.unproven).cloned();
        sighted.chain(held_back).collect()
    }

    /// What was amiss when another authority made the active revision active.
    pub(in super::super) fn unproven(&self) -> Option<&str> {
        self.kept.unproven.as_deref()
    }
}
