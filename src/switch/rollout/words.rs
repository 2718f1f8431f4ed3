//! The state in words, for whoever is paged: where the app stands, what it waits for, how it differs from the source.

use super::{
    super::{
        desired::{Authority, Returned},
        name::Revision,
        policy::AutoPromotion,
        split::Weight,
        status::{Gate, GateState, Maintenance, Phase},
        warmth::Cold,
    },
    Readiness, Rollout,
};

impl Rollout {
    /// Where the app stands, in a sentence, with what it waits for. What endangers live traffic comes first.
    pub fn message(&self) -> String {
        let mut message = self.closed_in_words();
        message.push_str(&self.sight_in_words());
        message.push_str(&self.alarm_in_words().unwrap_or_default());
        message.push_str(&self.phase_in_words());
        if let Some(share) = self.share_in_words() {
            message.push_str("; ");
            message.push_str(&share);
        }
        if let Some(pin) = &self.kept.pin {
            message.push_str(&format!("; pinned{} by {}: {}", self.where_in_words(), pin.by, pin.reason));
        }
        for held_back in [self.wish_in_words(), self.withheld_in_words()].into_iter().flatten() {
            message.push_str("; ");
            message.push_str(&held_back);
        }
        message
    }

    fn closed_in_words(&self) -> String {
        let mut words = String::new();
        if let Some(Maintenance { by, .. }) = self.maintenance() {
            words.push_str(&format!("live traffic gets the maintenance page{}, by {by}; ", self.where_in_words()));
        }
        if let Some(holding) = self.holding() {
            let until = holding.deadline.strftime("%H:%M:%SZ");
            let here = self.where_in_words();
            words.push_str(&format!("new requests are held{here} until {until}, by {}", holding.by));
            if let Some(revision) = holding.promotes() {
                words.push_str(&format!(", to promote {revision} when {} is empty", self.active()));
            }
            words.push_str("; ");
        }
        words
    }

    /// Other replicas that follow the same app are told of rollbacks alone.
    fn where_in_words(&self) -> &'static str {
        if self.authority == Authority::Tealgate { "" } else { " at this replica alone" }
    }

    /// Not said of endpoints that have not been probed yet: a start is no alarm.
    fn alarm_in_words(&self) -> Option<String> {
        let active = self.active();
        let Readiness { down, total, .. } = self.readiness(active);
        let none_left = down == total && total > 0;
        none_left.then(|| format!("live traffic is failing: {active} has 0 of {total} endpoints ready; "))
    }

    fn phase_in_words(&self) -> String {
        let active = self.active();
        if !self.is_seen() {
            return "nothing has been seen of it yet, so it serves nobody".to_owned();
        }
        match (self.kept.phase, self.preview().map(|(revision, _)| revision)) {
            (Phase::Starting, Some(candidate)) => {
                let Readiness { ready, total, .. } = self.readiness(candidate);
                let least = self.min_ready(candidate);
                format!("candidate {candidate} has {ready} of {total} endpoints ready; {least} wanted")
            }
            (Phase::Previewing, Some(candidate)) => {
                format!("candidate {candidate} is ready; {}", self.next_in_words())
            }
            (Phase::Aborted, Some(candidate)) => {
                format!("{active} carries all traffic; candidate {candidate} is promoted only on request")
            }
            (Phase::Aborted, None) => format!("{active} carries all traffic; the candidate was dropped"),
            (Phase::Promoted, _) => match &self.kept.previous {
                Some(previous) => {
                    let until = previous.until.strftime("%H:%M:%SZ");
                    let kept = match self.authority {
                        Authority::ArgoRollouts => format!("is there for a rollback; to be taken down at {until}"),
                        _ => format!("is kept until {until} for a rollback"),
                    };
                    format!("{active} is promoted; {} {kept}", previous.revision)
                }
                None => format!("{active} is promoted"),
            },
            (Phase::Steady | Phase::Starting | Phase::Previewing, _) => format!("{active} carries all traffic"),
        }
    }

    fn share_in_words(&self) -> Option<String> {
        let (candidate, weight) = (self.preview()?.0, self.weight());
        let when = if self.split().is_some() { "" } else { " once it is ready" };
        (weight > Weight::ZERO).then(|| format!("{weight} of live traffic goes to {candidate}{when}"))
    }

    fn next_in_words(&self) -> String {
        let waits = self.preview().filter(|(candidate, _)| !self.is_warm(candidate));
        if let Some(gate) = waits.and_then(|(candidate, _)| self.warm_gate(candidate)) {
            return format!("waiting for warm connections: {}", gate.message);
        }
        if let Some(waits) = self.preview().and_then(|(candidate, _)| self.smoke_in_words(candidate)) {
            return waits;
        }
        match (self.policy.promotion.auto, self.auto_promotion_at()) {
            _ if self.authority != Authority::Tealgate => {
                format!("waiting for {} to make it active", self.authority.as_str())
            }
            (AutoPromotion::Never, _) => "waiting for promote".to_owned(),
            (_, Some(due)) => format!("to be promoted at {}", due.strftime("%H:%M:%SZ")),
            (_, None) => "not promoted by itself while the pin holds".to_owned(),
        }
    }

    pub(super) fn wish_in_words(&self) -> Option<String> {
        let wish = self.kept.wish.as_ref()?;
        let Readiness { ready, total, .. } = self.readiness(wish);
        let (app, ours) = (&self.kept.app, self.authority == Authority::Tealgate);
        Some(match &self.kept.pin {
            Some(_) => format!("{app}: the source wants {wish} active, which the pin forbids"),
            None if ours && !self.is_warm(wish) => {
                format!("{app}: the source wants {wish} active; it waits until its connections are warm")
            }
            None if ours && !self.is_smoked(wish) && !self.is_candidate(wish) => {
                format!("{app}: the source wants {wish} active; it has to pass the smoke test first, as `preview`")
            }
            None if ours && ready >= self.min_ready(wish) && !self.is_smoked(wish) => {
                format!("{app}: the source wants {wish} active; it waits until its smoke test is passed")
            }
            None => format!("{app}: the source wants {wish} active; it waits with {ready} of {total} endpoints ready"),
        })
    }

    /// What the source has made active and gets no live traffic, since a rollback stands against it, and what ends that.
    pub(super) fn withheld_in_words(&self) -> Option<String> {
        let (withheld, Returned { to, at, by, .. }) = self.withheld()?;
        let (app, authority, at) = (&self.kept.app, self.authority.as_str(), at.strftime("%H:%M:%SZ"));
        Some(format!(
            "{app}: {authority} has {withheld} active again, which gets no live traffic: {by} rolled back from it to {to} \
             at {at}; to have it all the same: tealgate promote {app} --revision {withheld}"
        ))
    }

    /// The gates of the candidate's promotion as they stand; none without a candidate.
    pub fn gates(&self) -> Vec<Gate> {
        let Some((candidate, _)) = self.preview() else { return Vec::new() };
        let Readiness { ready, total, .. } = self.readiness(candidate);
        let least = self.min_ready(candidate);
        let state = if ready >= least { GateState::Passed } else { GateState::Pending };
        let message = format!("{ready} of {total} endpoints ready, {least} wanted");
        let min_ready = Gate { name: "min_ready".to_owned(), state, message };
        [Some(min_ready), self.warm_gate(candidate), self.smoke_gate()].into_iter().flatten().collect()
    }

    /// Whether the workers hold connections to each ready endpoint, where that is asked for.
    pub(super) fn warm_gate(&self, candidate: &Revision) -> Option<Gate> {
        let wanted = Some(self.policy.promotion.warm).filter(|wanted| *wanted > 0)?;
        let Readiness { ready, warm, cold, .. } = self.readiness(candidate);
        let mut message = format!("{warm} of {ready} ready endpoints have {wanted} connections open from each worker");
        let state = match cold {
            _ if self.is_warm(candidate) => GateState::Passed,
            Some(Cold::Closed) => {
                message.push_str(
                    "; the application closes idle connections at once: let it keep them, or set \
                                  promotion.warm to 0",
                );
                GateState::Failed
            }
            Some(Cold::Refused) => {
                message.push_str("; connections cannot be opened just now");
                GateState::Running
            }
            Some(Cold::NotYet) => GateState::Running,
            None => GateState::Pending,
        };
        Some(Gate { name: "warm".to_owned(), state, message })
    }

    /// How the running roles differ from what the source says, in a sentence.
    pub fn drift(&self) -> Option<String> {
        let said = &self.kept.said;
        let running = self.preview().map(|(revision, _)| revision);
        if said.active != *self.active() {
            return Some(format!("the source says active {}, running is {}", said.active, self.active()));
        }
        let preview = said.preview.as_ref().filter(|preview| **preview != said.active);
        let none = || "none".to_owned();
        (preview != running).then(|| {
            let (said, running) =
                (preview.map_or_else(none, ToString::to_string), running.map_or_else(none, ToString::to_string));
            format!("the source says preview {said}, running is {running}")
        })
    }
}
