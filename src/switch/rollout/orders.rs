//! Orders: what each asks of the state, and the reasons to refuse it. An order changes everything it means to or nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    super::{
        control::{Command, Refusal, RefusalCode},
        desired::EndpointSpec,
        name::Revision,
        only::{IMAGE, Only},
        split::Weight,
        status::{Phase, Pin},
    },
    Held, Known, Origin, Readiness, Rollout,
};

/// What a receipt names: the revision before, the revision it is about.
pub(super) type FromTo = (Option<Revision>, Option<Revision>);

impl Rollout {
    /// Carries an order out on `self`, and says what its receipt names as from and to.
    pub(super) fn obey(
        &mut self,
        command: Command,
        by: &str,
        reason: String,
        now: Timestamp,
    ) -> Result<FromTo, Refusal> {
        match command {
            Command::Deploy { revision, endpoints, labels } => self.deploy(revision, endpoints, labels, now),
            Command::Discard { revision } => self.discard(&revision),
            Command::Promote { revision, skip_gates } => self.promote(revision, skip_gates, now),
            Command::Rollback { to } => self.rollback(to, now),
            Command::Abort { only } => self.abort(only.as_ref()),
            Command::Smoke { revision } => self.smoke_again(revision, now),
            Command::Weigh { weight } => self.weigh(weight),
            Command::Pin { revision, expires } => self.pin_to(revision, expires, by, reason, now),
            Command::Unpin => self.unpin(),
            Command::Hold { bounds } => self.hold(bounds, by, reason, now),
            Command::Resume => self.resume(),
            Command::PromoteHeld { revision, skip_gates, bounds } => {
                self.hold_to_promote((revision, skip_gates), bounds, by, reason, now)
            }
            Command::Maintain { retry_after } => Ok(self.maintain(retry_after, by, reason, now)),
            Command::Reopen => self.reopen(),
        }
    }

    fn deploy(
        &mut self,
        revision: Revision,
        endpoints: Vec<EndpointSpec>,
        labels: BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<FromTo, Refusal> {
        if endpoints.is_empty() {
            let detail = format!("{revision} was given no endpoint");
            return Err(Refusal::new(RefusalCode::Invalid, detail, "name at least one endpoint"));
        }
        let transport = &self.policy.transport;
        if let Some(nameless) = endpoints.iter().find(|endpoint| transport.lacks_name_of(&endpoint.address)) {
            let detail = format!("{} has no name that its certificate could be checked against", nameless.address);
            let hint = "name the endpoint by its host, or set `upstream.tls.server_name` in the file";
            return Err(Refusal::new(RefusalCode::Invalid, detail, hint));
        }
        self.know(revision.clone(), endpoints, Some(labels), Origin::Deployed);
        if revision != self.kept.active.revision {
            self.set_candidate(revision.clone(), now);
        }
        Ok((Some(self.kept.active.revision.clone()), Some(revision)))
    }

    fn discard(&mut self, revision: &Revision) -> Result<FromTo, Refusal> {
        let known = self.known(revision)?;
        if *revision == self.kept.active.revision {
            let detail = format!("{revision} carries the live traffic of {}", self.kept.app);
            return Err(Refusal::new(RefusalCode::InUse, detail, "promote or roll back to another revision first"));
        }
        if self.is_candidate(revision) {
            self.drop_candidate(Phase::Aborted);
        } else if self.is_previous(revision) {
            self.kept.previous = None;
        } else if known.origin == Origin::Source {
            let detail = format!("{revision} comes from the configuration file and has no role");
            return Err(Refusal::new(RefusalCode::InUse, detail, "take it out of the file and reload"));
        }
        Ok((None, Some(revision.clone())))
    }

    pub(super) fn promote(
        &mut self,
        named: Option<Revision>,
        skip_gates: bool,
        now: Timestamp,
    ) -> Result<FromTo, Refusal> {
        let target = self.promotion_target(named)?;
        self.refuse_if_pinned()?;
        self.refuse_if_emptying()?;
        let least = if skip_gates { 1 } else { self.min_ready(&target) };
        self.expect_ready(&target, least)?;
        if !skip_gates {
            self.expect_warm(&target)?;
            self.expect_smoked(&target)?;
        }
        let from = self.flip(target.clone(), now);
        self.keep_as_previous(from.clone(), now);
        Ok((Some(from), Some(target)))
    }

    /// The candidate. A name guards against promoting another one than meant; without a candidate it may name any known
    /// revision.
    fn promotion_target(&self, named: Option<Revision>) -> Result<Revision, Refusal> {
        let candidate = self.kept.preview.as_ref().map(|held| &held.revision);
        let app = &self.kept.app;
        match (named, candidate) {
            (Some(named), _) if named == self.kept.active.revision => Err(Refusal::new(
                RefusalCode::AlreadyActive,
                format!("{named} is the active revision of {app} already"),
                "there is nothing to do",
            )),
            (Some(named), Some(candidate)) if named != *candidate => Err(Refusal::new(
                RefusalCode::NoCandidate,
                format!("the candidate of {app} is {candidate}, not {named}"),
                format!("promote {candidate}, or deploy {named} to make it the candidate"),
            )),
            (Some(named), _) => self.known(&named).map(|_| named.clone()),
            (None, Some(candidate)) => Ok(candidate.clone()),
            (None, None) => {
                let hint = match self.others().as_str() {
                    "" => "deploy a revision first".to_owned(),
                    others => format!("deploy a revision first, or name a known one: {others}"),
                };
                Err(Refusal::new(RefusalCode::NoCandidate, format!("{app} has no candidate to promote"), hint))
            }
        }
    }

    fn rollback(&mut self, to: Option<Revision>, now: Timestamp) -> Result<FromTo, Refusal> {
        let target = match to {
            Some(to) => self.known(&to).map(|_| to.clone())?,
            None => self.previous_revision()?,
        };
        if target == self.kept.active.revision {
            let detail = format!("{target} is the active revision of {} already", self.kept.app);
            return Err(Refusal::new(RefusalCode::AlreadyActive, detail, "there is nothing to do"));
        }
        self.refuse_if_pinned()?;
        self.expect_ready(&target, self.min_ready(&target))?;
        let from = self.flip(target.clone(), now);
        self.kept.previous = None;
        // What was rolled back stays reachable for testers, as a candidate that nothing promotes by itself.
        if self.kept.preview.is_none() {
            self.kept.preview = Some(Held { revision: from.clone(), since: now });
        }
        self.kept.phase = Phase::Aborted;
        Ok((Some(from), Some(target)))
    }

    fn previous_revision(&self) -> Result<Revision, Refusal> {
        if let Some(previous) = &self.kept.previous {
            return Ok(previous.revision.clone());
        }
        let hint = match self.others().as_str() {
            "" => "deploy the revision to return to, and promote it".to_owned(),
            others => format!("say which known revision to return to (`to`): {others}"),
        };
        Err(Refusal::new(RefusalCode::NoPrevious, format!("{} keeps no previous revision", self.kept.app), hint))
    }

    /// The known revisions that are not active, for a hint.
    fn others(&self) -> String {
        let others = self.kept.revisions.keys().filter(|revision| **revision != self.kept.active.revision);
        others.map(Revision::as_str).collect::<Vec<_>>().join(", ")
    }

    fn abort(&mut self, only: Option<&Only>) -> Result<FromTo, Refusal> {
        let app = &self.kept.app;
        let candidate = self.kept.preview.as_ref().map(|held| held.revision.clone());
        if let Some(only) = only {
            let is = |revision: &Revision| {
                only.is(revision.as_str(), self.labels(revision).get(IMAGE).map_or("", String::as_str))
            };
            match candidate.as_ref() {
                Some(candidate) if is(candidate) => {}
                _ if is(&self.kept.active.revision) => return Err(only.is_live(app)),
                other => return Err(only.is_no_candidate(app, other.map(Revision::as_str))),
            }
        }
        let Some(candidate) = candidate else {
            let hint = match self.kept.phase {
                Phase::Promoted => "traffic has moved already; to return, roll back",
                _ => "there is nothing to do",
            };
            return Err(Refusal::new(RefusalCode::NoCandidate, format!("{app} has no candidate to abort"), hint));
        };
        self.drop_candidate(Phase::Aborted);
        Ok((Some(candidate), Some(self.kept.active.revision.clone())))
    }

    /// A share may be given to a candidate that is not ready: it counts from when that is.
    fn weigh(&mut self, weight: Weight) -> Result<FromTo, Refusal> {
        let Some(candidate) = self.kept.preview.as_ref().map(|held| held.revision.clone()) else {
            let detail = format!("{} has no candidate to send live traffic to", self.kept.app);
            return Err(Refusal::new(RefusalCode::NoCandidate, detail, "deploy a revision first"));
        };
        if weight > self.weight() {
            self.refuse_if_pinned()?;
        }
        self.kept.weight = Some(weight);
        Ok((Some(self.kept.active.revision.clone()), Some(candidate)))
    }

    fn pin_to(
        &mut self,
        revision: Revision,
        expires: Option<Timestamp>,
        by: &str,
        reason: String,
        now: Timestamp,
    ) -> Result<FromTo, Refusal> {
        self.known(&revision)?;
        let refusal = |detail, hint: &str| Err(Refusal::new(RefusalCode::Invalid, detail, hint));
        if revision != self.kept.active.revision {
            let detail = format!("{revision} is not active; {} is", self.kept.active.revision);
            return refusal(detail, "a pin keeps the active revision: promote or roll back to it first");
        }
        if expires.is_some_and(|expires| expires <= now) {
            return refusal("the pin would have expired already".to_owned(), "give a time in the future");
        }
        self.kept.pin = Some(Pin { revision: revision.to_string(), reason, by: by.to_owned(), expires });
        Ok((Some(revision.clone()), Some(revision)))
    }

    fn unpin(&mut self) -> Result<FromTo, Refusal> {
        match self.kept.pin.take() {
            Some(_) => Ok((None, Some(self.kept.active.revision.clone()))),
            None => {
                let detail = format!("{} is not pinned", self.kept.app);
                Err(Refusal::new(RefusalCode::Invalid, detail, "there is nothing to do"))
            }
        }
    }

    fn refuse_if_pinned(&self) -> Result<(), Refusal> {
        let Some(pin) = &self.kept.pin else { return Ok(()) };
        let detail = format!("{} is pinned to {} by {}: {}", self.kept.app, pin.revision, pin.by, pin.reason);
        Err(Refusal::new(RefusalCode::Pinned, detail, "take the pin off first (unpin)"))
    }

    /// G4: no flip goes to a pool with fewer ready endpoints than this.
    pub(super) fn expect_ready(&self, revision: &Revision, least: usize) -> Result<(), Refusal> {
        let Readiness { ready, total, .. } = self.readiness(revision);
        if ready >= least {
            return Ok(());
        }
        let detail = format!("{revision} has {ready} of {total} endpoints ready, and {least} are wanted");
        Err(Refusal::new(RefusalCode::NotReady, detail, "see why its endpoints fail their probes, then ask again"))
    }

    pub(super) fn expect_warm(&self, revision: &Revision) -> Result<(), Refusal> {
        let Some(gate) = self.warm_gate(revision).filter(|_| !self.is_warm(revision)) else { return Ok(()) };
        let detail = format!("{revision} is not warm yet: {}", gate.message);
        Err(Refusal::new(RefusalCode::GateFailed, detail, "ask again in a second, or skip the gates with a reason"))
    }

    fn known(&self, revision: &Revision) -> Result<&Known, Refusal> {
        self.kept.revisions.get(revision).ok_or_else(|| {
            let known: Vec<_> = self.kept.revisions.keys().map(Revision::as_str).collect();
            Refusal::new(
                RefusalCode::UnknownRevision,
                format!("{} knows no revision {revision}", self.kept.app),
                format!("known are: {}", known.join(", ")),
            )
        })
    }
}
