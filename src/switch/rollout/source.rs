//! Following the source: its will is taken whole each time, and compared with what it said before. A role it names anew
//! is a wish, fulfilled through the same gates as anybody's; a role it merely repeats leaves what people did at run time.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{
    super::{
        desired::{Authority, EndpointSpec, Standing, Wanted},
        name::{AppName, Generation, Revision},
        policy::Policy,
        status::{Action, Phase},
    },
    Deed, Held, Kept, Known, Origin, Rollout, Said, Step,
};

/// The revisions a source knows: their endpoints, and their labels if it gives any.
pub(super) type Revisions = BTreeMap<Revision, (Vec<EndpointSpec>, Option<BTreeMap<String, String>>)>;

/// Who a deed is ascribed to when the source asked for it.
const SOURCE: &str = "source";

impl Rollout {
    /// An app seen for the first time: it starts where the source says.
    pub(in super::super) fn first(app: AppName, wanted: Wanted, now: Timestamp) -> Self {
        let held = |revision: &Revision| Held { revision: revision.clone(), since: now };
        let preview = wanted.preview.clone().filter(|preview| *preview != wanted.active);
        let known = |(revision, endpoints)| {
            let (endpoints, labels) = (Arc::new(endpoints), BTreeMap::new());
            (revision, Known { endpoints, labels, origin: Origin::Source })
        };
        let kept = Kept {
            app,
            generation: Generation(1),
            phase: if preview.is_some() { Phase::Starting } else { Phase::Steady },
            active: held(&wanted.active),
            preview: preview.as_ref().map(held),
            previous: None,
            revisions: wanted.revisions.into_iter().map(known).collect(),
            pin: None,
            weight: None,
            said: Said { active: wanted.active, preview: wanted.preview, weight: wanted.policy.split.weight },
            wish: None,
            maintenance: None,
            returned_at: None,
            withheld: None,
            unproven: None,
        };
        Self::of(kept, wanted.policy)
    }

    /// An app as it was kept. Nothing is known of its endpoints' health yet.
    pub(in super::super) fn restored(kept: Kept) -> Self {
        Self::of(kept, Arc::default())
    }

    pub(super) fn of(kept: Kept, policy: Arc<Policy>) -> Self {
        Self {
            kept,
            policy,
            authority: Authority::Tealgate,
            asked: None,
            alarms: Vec::new(),
            kept_back: Vec::new(),
            returned: None,
            readiness: BTreeMap::new(),
            gates_since: None,
            holding: None,
            smoke: None,
            smoke_runs: 0,
        }
    }

    /// The state after its source has spoken. A source is never refused: what cannot be done yet is held back.
    pub(in super::super) fn follow(&self, wanted: Wanted, now: Timestamp) -> Step {
        let mut step = Step::from(self.clone());
        step.next.take_over(wanted, now, &mut step.deeds, &mut step.held_back);
        step.next.settle(now, &mut step.deeds);
        step
    }

    fn take_over(&mut self, wanted: Wanted, now: Timestamp, deeds: &mut Vec<Deed>, held_back: &mut Vec<String>) {
        let weight = wanted.policy.split.weight;
        let said = Said { active: wanted.active.clone(), preview: wanted.preview.clone(), weight };
        // The same again stays the same object: by that it is known that nothing has changed.
        if self.policy != wanted.policy {
            self.policy = Arc::clone(&wanted.policy);
        }
        self.authority = Authority::Tealgate;
        let revisions = wanted.revisions.into_iter().map(|(revision, endpoints)| (revision, (endpoints, None)));
        self.follow_revisions(revisions.collect(), held_back);
        let before = std::mem::replace(&mut self.kept.said, said.clone());
        if said.weight != before.weight {
            self.kept.weight = None;
        }
        if said.active != before.active {
            self.kept.wish = Some(said.active).filter(|wish| *wish != self.kept.active.revision);
        }
        if said.preview != before.preview {
            self.follow_preview(before.preview, said.preview, now, deeds);
        }
        // What can be done at once is no news to hold back.
        self.fulfil_wish(now, deeds);
        held_back.extend(self.wish_in_words());
    }

    /// Takes over the source's revisions. The active revision never loses its last endpoint to a source (G4).
    pub(super) fn follow_revisions(&mut self, mut revisions: Revisions, held_back: &mut Vec<String>) {
        let app = &self.kept.app;
        for (revision, known) in &mut self.kept.revisions {
            let in_use = *revision == self.kept.active.revision && known.endpoints.iter().any(can_serve);
            match revisions.get(revision) {
                Some((endpoints, _)) if in_use && !endpoints.iter().any(can_serve) => {
                    let what =
                        if endpoints.is_empty() { "the new set is empty" } else { "none of the new set is ready" };
                    held_back.push(format!("{app}: {revision} is active and keeps its last endpoints; {what}"));
                    revisions.remove(revision);
                }
                Some(_) => {}
                None if known.origin == Origin::Source => {
                    // From now on it lives as long as its role does.
                    known.origin = Origin::Deployed;
                    if in_use {
                        held_back
                            .push(format!("{app}: {revision} is active and stays, though the source names it no more"));
                    }
                }
                None => {}
            }
        }
        for (revision, (endpoints, labels)) in revisions {
            self.know(revision.clone(), endpoints, labels, Origin::Source);
            self.kept.revisions.entry(revision).and_modify(|known| known.origin = Origin::Source);
        }
    }

    fn follow_preview(
        &mut self,
        before: Option<Revision>,
        after: Option<Revision>,
        now: Timestamp,
        deeds: &mut Vec<Deed>,
    ) {
        match after {
            Some(after) if after != self.kept.active.revision => {
                let from = self.kept.active.revision.clone();
                self.set_candidate(after.clone(), now);
                deeds.push(self.by_source(Action::Deploy, Some(from), Some(after)));
            }
            // What it wants active instead stays the candidate until that can be done.
            None if before
                .as_ref()
                .is_some_and(|before| self.is_candidate(before) && self.kept.wish != Some(before.clone())) =>
            {
                self.drop_candidate(Phase::Aborted);
                deeds.push(self.by_source(Action::Abort, before, Some(self.kept.active.revision.clone())));
            }
            Some(_) | None => {}
        }
    }

    /// Flips to the revision the source wants active, once it may.
    pub(super) fn fulfil_wish(&mut self, now: Timestamp, deeds: &mut Vec<Deed>) {
        let Some(wish) = self.kept.wish.clone() else { return };
        // Where another authority has moved on already, waiting for a gate would only split the fleet.
        let gates = self.authority != Authority::Tealgate || self.is_warm(&wish) && self.is_smoked(&wish);
        let ready = self.readiness(&wish).ready >= self.min_ready(&wish) && gates;
        let may = ready && self.kept.pin.is_none() && self.refuse_if_emptying().is_ok();
        if !may || !self.kept.revisions.contains_key(&wish) {
            return;
        }
        let unproven = self.unproven_in_words(&wish);
        let from = self.flip(wish.clone(), now);
        self.keep_as_previous(from.clone(), now);
        self.kept.unproven = unproven;
        let deed = match self.asked.take_if(|asked| asked.revision == wish) {
            Some(asked) => {
                Deed { of_source: true, ..self.deed(Action::Promote, Some(from), Some(wish), asked.by, asked.reason) }
            }
            None => self.by_source(Action::Source, Some(from), Some(wish)),
        };
        deeds.push(deed);
    }

    pub(super) fn by_source(&self, action: Action, from: Option<Revision>, to: Option<Revision>) -> Deed {
        let (by, reason) = match self.authority {
            Authority::Tealgate => (SOURCE, "the configuration changed"),
            Authority::ArgoRollouts => ("argo-rollouts", "the Rollout or its Services changed"),
            Authority::Services => ("services", "the Services' selectors changed"),
        };
        Deed { of_source: true, ..self.deed(action, from, to, by.to_owned(), reason.to_owned()) }
    }
}

/// Whether requests may go there.
fn can_serve(endpoint: &EndpointSpec) -> bool {
    endpoint.standing != Standing::Unready
}
