//! What to make of a state that is waited for: reached, not yet, or never any more. Pure.

use super::Goal;
use crate::{
    cli::failure::Exit,
    switch::{AppStatus, Gate, GateState, IMAGE, Phase, PoolStatus, Revision, is_made_of},
};

/// Which revision is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// The candidate there is, or the next to come.
    Any,
    /// The one of this name.
    Revision(String),
    /// The one made of this image.
    Image(String),
}

impl Meant {
    /// By what was given on the command line.
    pub(crate) fn of(revision: Option<Revision>, image: Option<String>) -> Self {
        match (revision, image) {
            (Some(revision), _) => Self::Revision(revision.into()),
            (None, Some(image)) => Self::Image(image),
            (None, None) => Self::Any,
        }
    }

    /// Whether this revision is meant.
    pub(crate) fn is(&self, pool: &PoolStatus) -> bool {
        match self {
            Self::Any => true,
            Self::Revision(revision) => *revision == pool.revision,
            Self::Image(image) => pool.labels.get(IMAGE).is_some_and(|images| is_made_of(images, image)),
        }
    }

    /// What is meant, in words.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Any => "a candidate".to_owned(),
            Self::Revision(revision) => revision.clone(),
            Self::Image(image) => format!("a revision of {image}"),
        }
    }
}

/// What has been seen of an app since the wait began.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) goal: Goal,
    meant: Meant,
    /// The revision it is about, once that is known.
    pub(super) revision: Option<String>,
    /// The active revision when the wait began.
    active_at_start: Option<Option<String>>,
    was_candidate: bool,
    was_active: bool,
    /// The generation of the last state that left hope.
    pub(super) generation: u64,
}

/// What to make of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Reached(String),
    NotYet(String),
    Never(Exit, String),
}

impl Watch {
    pub(super) fn new(goal: Goal, meant: Meant) -> Self {
        let revision = if let Meant::Revision(revision) = &meant { Some(revision.clone()) } else { None };
        let (was_candidate, was_active) = (false, false);
        Self { goal, meant, revision, active_at_start: None, was_candidate, was_active, generation: 0 }
    }

    /// Of a revision that has just become active, by an action at this generation.
    pub(super) fn promoted(goal: Goal, revision: Option<String>, generation: u64) -> Self {
        Self { was_active: true, generation, revision, ..Self::new(goal, Meant::Any) }
    }

    /// Takes in a state.
    pub(super) fn judge(&mut self, status: &AppStatus) -> Verdict {
        let [active, preview] = [&status.active, &status.preview].map(|pool| pool.as_ref().map(name));
        let first = self.active_at_start.is_none();
        let at_start = self.active_at_start.get_or_insert_with(|| active.map(str::to_owned)).clone();
        let began = self.was_candidate || self.was_active;
        if self.revision.is_none() && self.goal != Goal::Drained {
            self.revision = self.find(status, at_start.as_deref());
        }
        let revision = self.revision.as_deref();
        let is = |other: Option<&str>| revision.is_some() && revision == other;
        self.was_candidate |= is(preview);
        self.was_active |= is(active);

        let named = revision.map_or_else(|| self.meant.in_words(), str::to_owned);
        if self.goal != Goal::Drained || is(active) || self.was_active {
            if self.was_active && !is(active) {
                let active = active.unwrap_or("nothing");
                return Verdict::Never(Exit::RolledBack, format!("{named} was active, and {active} is now"));
            }
            if began && !is(preview) && !is(active) {
                return match preview {
                    Some(other) => Verdict::Never(Exit::Conflict, format!("{named} was overtaken by {other}")),
                    None => {
                        Verdict::Never(Exit::Failed, format!("{named} is no longer the candidate: {}", status.message))
                    }
                };
            }
        }
        if self.goal.is_of_a_candidate() && is(preview) {
            if status.phase == Phase::Aborted {
                let what = format!("{named} was given up: {}", status.message);
                return Verdict::Never(Exit::Failed, what);
            }
            let failed = |gate: &&Gate| gate.name == "smoke" && gate.state == GateState::Failed;
            if let Some(gate) = status.gates.iter().find(failed).filter(|_| self.goal == Goal::PreviewReady) {
                return Verdict::Never(Exit::Refused, format!("{named} has failed its smoke test: {}", gate.message));
            }
        }
        let holds = |gate: &Gate| matches!(gate.state, GateState::Passed | GateState::Skipped);
        let all_but = |others: &[&str]| {
            let gates = || status.gates.iter().filter(|gate| !others.contains(&gate.name.as_str()));
            is(preview) && status.phase == Phase::Previewing && gates().all(holds)
        };
        let reached = match self.goal {
            Goal::PreviewReady => is(active) || all_but(&["approval"]),
            Goal::Testable => is(active) || all_but(&["approval", "smoke"]),
            Goal::Promoted => is(active),
            Goal::Drained => status.draining.is_empty(),
            Goal::Steady => is_over(status) && (revision.is_none() || is(active)),
        };
        match (reached, self.goal) {
            (false, Goal::Drained) => {
                let left: u64 = status.draining.iter().map(|pool| pool.in_flight).sum();
                Verdict::NotYet(format!("{left} requests are still in flight on replaced pools"))
            }
            (false, _) if revision.is_none() && self.meant != Meant::Any => {
                Verdict::NotYet(format!("{named} has not come yet; {}", status.message))
            }
            (false, _) => Verdict::NotYet(status.message.clone()),
            (true, Goal::Drained) => Verdict::Reached("nothing is in flight on a replaced pool".to_owned()),
            (true, Goal::PreviewReady | Goal::Testable) if is(preview) => Verdict::Reached(format!("{named} is ready")),
            (true, Goal::Steady) => Verdict::Reached(format!("{} is active, and steady", active.unwrap_or("nothing"))),
            (true, _) if first => Verdict::Reached(format!("{named} is active already")),
            (true, _) => Verdict::Reached(format!("{named} is active")),
        }
    }

    /// The revision that is meant, if it is there.
    fn find(&self, status: &AppStatus, at_start: Option<&str>) -> Option<String> {
        let [active, preview] = [&status.active, &status.preview].map(Option::as_ref);
        let found = match &self.meant {
            Meant::Revision(revision) => return Some(revision.clone()),
            // Of two with the same image, the candidate is the newer one.
            Meant::Image(_) => [preview, active].into_iter().flatten().find(|pool| self.meant.is(pool)),
            Meant::Any => {
                // One that was given up is nobody's candidate; or it became active without our having seen it as one.
                let given_up = self.goal.is_of_a_candidate() && status.phase == Phase::Aborted;
                let moved = |pool: &&PoolStatus| at_start != Some(name(pool)) || status.phase == Phase::Promoted;
                preview.filter(|_| !given_up).or_else(|| active.filter(moved))
            }
        };
        found.map(|pool| name(pool).to_owned())
    }

    /// Whether the revision it is about is active.
    pub(super) fn is_active(&self, status: &AppStatus) -> bool {
        self.revision.is_some() && self.revision.as_deref() == status.active.as_ref().map(name)
    }
}

fn name(pool: &PoolStatus) -> &str {
    &pool.revision
}

/// Whether nothing is left of a rollout, be it that it came to its end or that it was aborted.
fn is_over(status: &AppStatus) -> bool {
    let alone = status.preview.is_none() && status.previous.is_none();
    status.phase == Phase::Steady || (status.phase == Phase::Aborted && alone)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(phase: &str, active: &str, preview: Option<&str>, draining: u64) -> AppStatus {
        with(phase, active, preview, draining, &json!([]))
    }

    /// A revision is made of the image of its name, and of another one.
    fn with(phase: &str, active: &str, preview: Option<&str>, draining: u64, gates: &Value) -> AppStatus {
        let pool = |revision: &str| {
            json!({"revision": revision, "since": "2026-01-01T00:00:00Z", "ready": 2, "total": 2, "inFlight": 0,
                   "labels": {"image": format!("shop:{revision}@sha256:{revision}, proxy:1")}, "endpoints": []})
        };
        let retired = json!({"revision": "old", "inFlight": draining, "oldestSeconds": 1.0,
                             "deadline": "2026-01-01T00:00:00Z"});
        let status = json!({
            "name": "shop", "generation": 1, "phase": phase, "message": phase, "active": pool(active),
            "preview": preview.map(pool), "previous": null, "gates": gates, "pin": null, "weight": 0,
            "draining": if draining > 0 { vec![retired] } else { vec![] },
            "source": {"kind": "static", "authority": "tealgate", "stale": false, "lastEvent": null},
        });
        serde_json::from_value(status).expect("a state as the API words it")
    }

    fn gate(name: &str, state: &str) -> Value {
        json!({"name": name, "state": state, "message": state})
    }

    /// What each state of a row is judged, as an exit code; `None` for "not yet".
    fn judged(mut watch: Watch, states: &[AppStatus]) -> Vec<Option<u8>> {
        let verdicts = states.iter().map(|state| watch.judge(state));
        let codes = verdicts.map(|verdict| match verdict {
            Verdict::Reached(_) => Some(0),
            Verdict::NotYet(_) => None,
            Verdict::Never(exit, _) => Some(exit as u8),
        });
        codes.collect()
    }

    fn green(goal: Goal) -> Watch {
        Watch::new(goal, Meant::Revision("green".to_owned()))
    }

    fn any(goal: Goal) -> Watch {
        Watch::new(goal, Meant::Any)
    }

    #[test]
    fn a_candidate_is_waited_for_before_it_appears_and_until_it_is_ready() {
        let states = [
            status("aborted", "blue", None, 0),
            status("starting", "blue", Some("green"), 0),
            status("previewing", "blue", Some("green"), 0),
        ];
        assert_eq!(judged(green(Goal::PreviewReady), &states), [None, None, Some(0)]);
        assert_eq!(judged(any(Goal::PreviewReady), &states), [None, None, Some(0)]);
        assert_eq!(judged(green(Goal::PreviewReady), &[status("promoted", "green", None, 0)]), [Some(0)]);
    }

    #[test]
    fn ready_is_who_holds_all_gates_but_the_approval() {
        let gates = |states: &[&str]| {
            let names = ["min_ready", "smoke", "approval"];
            let gates = json!(names.iter().zip(states).map(|(name, state)| gate(name, state)).collect::<Vec<_>>());
            with("previewing", "blue", Some("green"), 0, &gates)
        };
        let states = [
            gates(&["passed", "running", "pending"]),
            gates(&["pending", "passed", "passed"]),
            gates(&["passed", "passed", "pending"]),
        ];
        assert_eq!(judged(green(Goal::PreviewReady), &states), [None, None, Some(0)]);
        assert_eq!(judged(green(Goal::PreviewReady), &[gates(&["passed", "skipped"])]), [Some(0)]);
        assert_eq!(judged(green(Goal::PreviewReady), &[gates(&["passed", "failed"])]), [Some(3)]);
        assert_eq!(
            judged(green(Goal::Testable), &[gates(&["passed", "failed"])]),
            [Some(0)],
            "for it to be tested again"
        );
        assert_eq!(judged(green(Goal::Testable), &[gates(&["pending", "pending"])]), [None]);
        assert_eq!(judged(green(Goal::Promoted), &[gates(&["passed", "failed"])]), [None], "the gates may be skipped");
    }

    #[test]
    fn a_candidate_that_goes_away_ends_the_wait_with_1_and_one_that_is_overtaken_with_5() {
        let states = [status("previewing", "blue", Some("green"), 0), status("aborted", "blue", None, 0)];
        assert_eq!(judged(green(Goal::Promoted), &states), [None, Some(1)]);
        assert_eq!(judged(any(Goal::Promoted), &states), [None, Some(1)]);
        assert_eq!(judged(green(Goal::Steady), &states), [None, Some(1)]);
        let states = [status("starting", "blue", Some("green"), 0), status("previewing", "blue", Some("teal"), 0)];
        assert_eq!(judged(green(Goal::PreviewReady), &states), [None, Some(5)]);
        assert_eq!(judged(any(Goal::PreviewReady), &states), [None, Some(5)]);
        assert_eq!(judged(green(Goal::PreviewReady), &states[1..]), [None], "it may be the next");
    }

    #[test]
    fn what_was_rolled_back_is_not_waited_for() {
        let states = [status("aborted", "blue", Some("green"), 0), status("starting", "blue", Some("teal"), 0)];
        assert_eq!(judged(green(Goal::PreviewReady), &states[..1]), [Some(1)]);
        assert_eq!(judged(any(Goal::PreviewReady), &states), [None, None]);
    }

    #[test]
    fn a_revision_is_known_by_one_of_its_images() {
        let states = [status("starting", "blue", Some("green"), 0), status("previewing", "blue", Some("green"), 0)];
        for image in ["shop:green", "shop:green@sha256:green", "sha256:green", "elsewhere/shop@sha256:green", "proxy:1"]
        {
            let watch = Watch::new(Goal::PreviewReady, Meant::Image(image.to_owned()));
            assert_eq!(judged(watch, &states), [None, Some(0)], "{image}");
        }
        for image in ["shop", "shop:gree", "green", "shop:green@sha256:teal", "sha256:gree"] {
            let watch = Watch::new(Goal::PreviewReady, Meant::Image(image.to_owned()));
            assert_eq!(judged(watch, &states), [None, None], "{image}");
        }
        let image = || Meant::Image("shop:green".to_owned());
        let mut watch = Watch::new(Goal::PreviewReady, image());
        let done = watch.judge(&status("steady", "green", None, 0));
        assert_eq!(
            (done, watch.revision.as_deref()),
            (Verdict::Reached("green is active already".to_owned()), Some("green"))
        );
        let states = [status("previewing", "blue", Some("teal"), 0), status("previewing", "blue", Some("green"), 0)];
        assert_eq!(judged(Watch::new(Goal::PreviewReady, image()), &states), [None, Some(0)]);
        let states = [status("starting", "blue", Some("green"), 0), status("previewing", "blue", Some("teal"), 0)];
        assert_eq!(judged(Watch::new(Goal::PreviewReady, image()), &states), [None, Some(5)]);
    }

    #[test]
    fn a_promotion_is_seen_with_and_without_a_name_even_if_the_candidate_was_not() {
        let states = [status("steady", "blue", None, 0), status("promoted", "green", None, 1)];
        assert_eq!(judged(green(Goal::Promoted), &states), [None, Some(0)]);
        assert_eq!(judged(any(Goal::Promoted), &states), [None, Some(0)]);
        assert_eq!(judged(any(Goal::Promoted), &states[1..]), [Some(0)]);
    }

    #[test]
    fn what_was_promoted_and_is_no_longer_active_ends_the_wait_with_6() {
        let states = [status("promoted", "green", None, 1), status("steady", "blue", None, 1)];
        assert_eq!(judged(green(Goal::Steady), &states), [None, Some(6)]);
        assert_eq!(judged(green(Goal::Drained), &states), [None, Some(6)]);
        let promoted = Watch::promoted(Goal::Drained, Some("green".to_owned()), 1);
        assert_eq!(judged(promoted, &states[1..]), [Some(6)]);
    }

    #[test]
    fn drained_is_when_nothing_is_left_and_steady_when_nothing_goes_on() {
        let states = [status("promoted", "green", None, 3), status("promoted", "green", None, 0)];
        assert_eq!(judged(any(Goal::Drained), &states), [None, Some(0)]);
        let states = [status("promoted", "green", None, 0), status("steady", "green", None, 0)];
        assert_eq!(judged(any(Goal::Steady), &states), [None, Some(0)]);
        for phase in ["steady", "aborted"] {
            assert_eq!(judged(any(Goal::Steady), &[status(phase, "blue", None, 0)]), [Some(0)]);
        }
        assert_eq!(judged(any(Goal::Steady), &[status("aborted", "blue", Some("green"), 0)]), [None]);
    }
}
