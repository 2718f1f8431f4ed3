//! The smoke test of a candidate: when a run of it is due, what it comes to, and what that means for a promotion. A run
//! counts for the revision, the endpoints and the checks it was begun with; it is not kept over a restart. Sending the
//! checks is another's: he finds the run on the board, and says what he found by [`Input::Smoked`](super::Input).

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use super::{
    super::{
        address::Whereabouts,
        control::{Refusal, RefusalCode},
        desired::Authority,
        name::Revision,
        smoke::{CheckReport, Smoke, SmokeReport},
        status::{Gate, GateState},
    },
    Rollout, later,
    orders::FromTo,
};

/// What the gate is called.
const GATE: &str = "smoke";

/// One run of the smoke test.
#[derive(Clone, Debug, PartialEq)]
pub struct SmokeRun {
    /// Which; each of an app has a larger number than the one before.
    pub number: u64,
    /// The candidate it is of.
    pub revision: Revision,
    /// The checks.
    pub smoke: Arc<Smoke>,
    /// The endpoints that the candidate had at its beginning.
    endpoints: BTreeSet<Whereabouts>,
    started: Timestamp,
    /// Until then, what fails is tried again.
    pub until: Timestamp,
    ended: Option<Timestamp>,
    state: GateState,
    rounds: u32,
    checks: Vec<CheckReport>,
}

/// What somebody who sends the checks of a run has found.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Smoked {
    /// Of which run.
    pub(in super::super) run: u64,
    /// Every check, as it was last found.
    pub(in super::super) checks: Vec<CheckReport>,
    /// Whether all have been sent in this round.
    pub(in super::super) round_over: bool,
}

impl Rollout {
    /// The run whose checks are to be sent now, round after round, for as long as it is here.
    pub fn smoke_run(&self) -> Option<&SmokeRun> {
        self.smoke.as_ref().filter(|run| run.state == GateState::Running)
    }

    /// How the smoke test of the candidate stands; where there is none, how that of the last one ended.
    pub fn smoke_report(&self) -> Result<SmokeReport, Refusal> {
        let run = self.smoke.as_ref();
        let (smoke, candidate) = match run {
            Some(run) => (Arc::clone(&run.smoke), run.revision.clone()),
            None => self.smoke_target(None)?,
        };
        let pending = || smoke.checks.iter().map(CheckReport::pending).collect();
        let gate = self.smoke_of(&smoke);
        Ok(SmokeReport {
            app: self.app().to_string(),
            generation: self.generation().0,
            revision: candidate.to_string(),
            run: run.map_or(0, |run| run.number),
            state: gate.state,
            message: gate.message,
            started: run.map(|run| run.started),
            until: run.map(|run| run.until),
            ended: run.and_then(|run| run.ended),
            rounds: run.map_or(0, |run| run.rounds),
            checks: run.map_or_else(pending, |run| run.checks.clone()),
        })
    }

    /// Drops a run that says nothing of the candidate any more, and begins one that is due: as soon as the candidate is
    /// ready and warm. What the last candidate came to stays until there is another, for whoever asks.
    pub(super) fn tend_smoke(&mut self, now: Timestamp) {
        let run = self.smoke.take();
        let Ok((smoke, candidate)) = self.smoke_target(None) else {
            self.smoke = run.filter(|run| run.state != GateState::Running);
            return;
        };
        self.smoke = run.filter(|run| self.counts_for(run, &candidate));
        if self.smoke.is_none() && self.is_ready_to_smoke(&candidate) {
            self.begin_smoke(smoke, candidate, now);
        }
    }

    /// Whether a run says something of a revision as it is now. Endpoints that have gone take nothing away from what was
    /// found; new ones have not been seen yet.
    fn counts_for(&self, run: &SmokeRun, revision: &Revision) -> bool {
        run.revision == *revision
            && self.policy.promotion.smoke.as_ref() == Some(&run.smoke)
            && self.endpoints(revision).iter().all(|spec| run.endpoints.contains(&spec.address))
    }

    fn begin_smoke(&mut self, smoke: Arc<Smoke>, revision: Revision, now: Timestamp) {
        self.smoke_runs += 1;
        self.smoke = Some(SmokeRun {
            number: self.smoke_runs,
            endpoints: self.endpoints(&revision).iter().map(|spec| spec.address.clone()).collect(),
            revision,
            started: now,
            until: later(now, smoke.within),
            ended: None,
            state: GateState::Running,
            rounds: 0,
            checks: smoke.checks.iter().map(CheckReport::pending).collect(),
            smoke,
        });
    }

    /// Takes in what was found. Of a run that is over, or another one, nothing is believed.
    pub(super) fn take_smoked(&mut self, smoked: Smoked, now: Timestamp) {
        let ours = |run: &&mut SmokeRun| run.number == smoked.run && run.state == GateState::Running;
        let Some(run) = self.smoke.as_mut().filter(ours) else { return };
        run.checks = smoked.checks;
        if !smoked.round_over {
            return;
        }
        run.rounds += 1;
        run.state = match run.checks.iter().all(|check| check.state == GateState::Passed) {
            true => GateState::Passed,
            false if now >= run.until => GateState::Failed,
            false => GateState::Running,
        };
        run.ended = (run.state != GateState::Running).then_some(now);
    }

    /// Has the checks sent again. A run that goes on will do.
    pub(super) fn smoke_again(&mut self, named: Option<Revision>, now: Timestamp) -> Result<FromTo, Refusal> {
        let (smoke, candidate) = self.smoke_target(named)?;
        if self.smoke_run().is_none() {
            self.expect_ready(&candidate, self.min_ready(&candidate))?;
            self.expect_warm(&candidate)?;
            self.begin_smoke(smoke, candidate.clone(), now);
        }
        Ok((None, Some(candidate)))
    }

    /// The checks, and the candidate they are for. A name guards against testing another one than meant.
    fn smoke_target(&self, named: Option<Revision>) -> Result<(Arc<Smoke>, Revision), Refusal> {
        let app = self.app();
        let Some(smoke) = self.policy.promotion.smoke.clone() else {
            let hint = "set promotion.smoke in its configuration";
            return Err(Refusal::new(RefusalCode::Invalid, format!("{app} has no smoke test"), hint));
        };
        let candidate = self.preview().map(|(candidate, _)| candidate.clone());
        match (named, candidate) {
            (None, Some(candidate)) => Ok((smoke, candidate)),
            (Some(named), Some(candidate)) if named == candidate => Ok((smoke, candidate)),
            (Some(named), _) if named == *self.active() => Err(Refusal::new(
                RefusalCode::AlreadyActive,
                format!("{named} is the active revision of {app} already, and no candidate"),
                "there is nothing to test before it is promoted",
            )),
            (Some(named), Some(candidate)) => Err(Refusal::new(
                RefusalCode::NoCandidate,
                format!("the candidate of {app} is {candidate}, not {named}"),
                format!("deploy {named} to make it the candidate"),
            )),
            (_, None) => Err(Refusal::new(
                RefusalCode::NoCandidate,
                format!("{app} has no candidate to test"),
                "deploy a revision first",
            )),
        }
    }

    fn is_ready_to_smoke(&self, candidate: &Revision) -> bool {
        self.readiness(candidate).ready >= self.min_ready(candidate) && self.is_warm(candidate)
    }

    /// Whether a revision was found good, where that is asked for. What was active a moment ago may always return.
    pub(super) fn is_smoked(&self, revision: &Revision) -> bool {
        let passed = |run: &SmokeRun| run.state == GateState::Passed && self.counts_for(run, revision);
        let returns = self.is_previous(revision) && !self.is_candidate(revision);
        self.policy.promotion.smoke.is_none() || returns || self.smoke.as_ref().is_some_and(passed)
    }

    /// Refuses a revision that was not found good.
    pub(super) fn expect_smoked(&self, revision: &Revision) -> Result<(), Refusal> {
        let Some(smoke) = self.policy.promotion.smoke.as_ref().filter(|_| !self.is_smoked(revision)) else {
            return Ok(());
        };
        if !self.is_candidate(revision) {
            let detail = format!("{revision} has not passed the smoke test, which is of candidates only");
            let hint = "deploy it to make it the candidate, or skip the gates with a reason";
            return Err(Refusal::new(RefusalCode::GateFailed, detail, hint));
        }
        let Gate { state, message, .. } = self.smoke_of(smoke);
        let (what, hint) = match state {
            GateState::Failed => {
                ("has failed its smoke test", "send the checks again (smoke), or skip the gates with a reason")
            }
            _ => ("has not passed its smoke test yet", "ask again when it has, or skip the gates with a reason"),
        };
        Err(Refusal::new(RefusalCode::GateFailed, format!("{revision} {what}: {message}"), hint))
    }

    /// What is amiss when another authority makes a revision active that its smoke test has not found good. Whoever had us
    /// ask that authority for it knows.
    pub(super) fn unproven_in_words(&self, revision: &Revision) -> Option<String> {
        let who = match self.authority {
            Authority::Tealgate => return None,
            Authority::ArgoRollouts => "by Argo Rollouts",
            Authority::Services => "by the selectors of its Services",
        };
        let asked = self.asked.as_ref().is_some_and(|asked| asked.revision == *revision);
        let smoke = self.policy.promotion.smoke.as_ref().filter(|_| !asked && !self.is_smoked(revision))?;
        let app = self.app();
        let how = match self.smoke_of(smoke) {
            Gate { state: GateState::Failed, message, .. } if self.is_candidate(revision) => {
                format!("although its smoke test has failed ({message})")
            }
            _ => "before it had passed its smoke test".to_owned(),
        };
        Some(format!("{app}: {revision} was promoted {who} {how}; `tealgate rollback {app}` goes back"))
    }

    /// The gate of the candidate's smoke test, where one is asked for.
    pub(super) fn smoke_gate(&self) -> Option<Gate> {
        self.policy.promotion.smoke.as_ref().map(|smoke| self.smoke_of(smoke))
    }

    fn smoke_of(&self, smoke: &Smoke) -> Gate {
        let (state, message) = match &self.smoke {
            Some(run) => (run.state, run.in_words()),
            None => (GateState::Pending, format!("{}, once the candidate is ready", checks(smoke.checks.len()))),
        };
        Gate { name: GATE.to_owned(), state, message }
    }

    /// What the smoke test keeps the candidate waiting for, if it does.
    pub(super) fn smoke_in_words(&self, candidate: &Revision) -> Option<String> {
        let gate = self.smoke_gate().filter(|_| !self.is_smoked(candidate))?;
        Some(match gate.state {
            GateState::Failed => format!("its smoke test has failed: {}", gate.message),
            _ => format!("waiting for its smoke test: {}", gate.message),
        })
    }
}

impl SmokeRun {
    fn in_words(&self) -> String {
        let all = checks(self.checks.len());
        let count = |state| self.checks.iter().filter(|check| check.state == state).count();
        let (passed, failed) = (count(GateState::Passed), count(GateState::Failed));
        let first = self.checks.iter().find(|check| check.state == GateState::Failed);
        let first = first.map(|check| format!("; {}: {}", check.name, check.message)).unwrap_or_default();
        match self.state {
            GateState::Failed => format!("{failed} of {all} failed{first}"),
            GateState::Running if failed > 0 => {
                let until = self.until.strftime("%H:%M:%SZ");
                format!("{passed} of {all} passed{first}; tried again until {until}")
            }
            _ => format!("{passed} of {all} passed"),
        }
    }
}

/// `1 check`, `3 checks`.
fn checks(count: usize) -> String {
    if count == 1 { "1 check".to_owned() } else { format!("{count} checks") }
}
