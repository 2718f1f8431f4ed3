//! The smoke test of a candidate, by table.

use super::{
    super::{
        super::smoke::{CheckReport, Expected, Smoke, SmokeCheck, SmokeReport},
        Smoked,
    },
    sight::{followed, sighting},
    *,
};
use crate::switch::GateState;

/// Two checks, tried for a minute.
pub(super) fn smoke() -> Arc<Smoke> {
    let check = |name: &str| SmokeCheck {
        name: name.to_owned(),
        method: "GET".to_owned(),
        path: "/".to_owned(),
        headers: Vec::new(),
        body: String::new(),
        timeout: Duration::from_secs(5),
        expected: Expected::default(),
    };
    Arc::new(Smoke { checks: vec![check("up"), check("cart")], within: Duration::from_secs(60) })
}

/// What somebody may have found, of one run or another.
pub(super) fn smoked(rng: &mut fastrand::Rng) -> Smoked {
    let state = [GateState::Passed, GateState::Passed, GateState::Failed, GateState::Pending][rng.usize(0..4)];
    let found = |check| CheckReport { state, ..CheckReport::pending(check) };
    Smoked { run: rng.u64(1..8), checks: smoke().checks.iter().map(found).collect(), round_over: rng.bool() }
}

fn tested(auto: AutoPromotion) -> Wanted {
    let promotion = Promotion { auto, smoke: Some(smoke()), ..Promotion::default() };
    let policy = Arc::new(Policy { promotion, ..Policy::default() });
    Wanted { policy, ..wanted("blue", Some("green"), &["blue", "green"]) }
}

impl Life {
    /// A round of run `run` is over: these of its checks passed.
    fn smokes(&mut self, run: u64, passed: [bool; 2]) -> Step {
        let found = |(check, passed): (&SmokeCheck, bool)| CheckReport {
            state: if passed { GateState::Passed } else { GateState::Failed },
            message: if passed { String::new() } else { "expected status 2xx, got 503".to_owned() },
            ..CheckReport::pending(check)
        };
        let checks = smoke().checks.iter().zip(passed).map(found).collect();
        self.takes(Input::Smoked(Smoked { run, checks, round_over: true })).expect("never refused")
    }

    fn report(&self) -> SmokeReport {
        self.rollout.smoke_report().expect("a test")
    }

    /// The run whose checks are being sent.
    fn run(&self) -> Option<u64> {
        self.rollout.smoke_run().map(|run| run.number)
    }

    fn smoke_gate(&self) -> (GateState, String) {
        let gate = self.rollout.gates().into_iter().find(|gate| gate.name == "smoke").expect("a gate");
        (gate.state, gate.message)
    }
}

#[test]
fn a_candidate_is_tested_once_it_is_ready_and_promoted_only_when_it_has_passed() {
    let mut life = Life::begins(tested(AutoPromotion::Never));
    assert_eq!(life.smoke_gate(), (GateState::Pending, "2 checks, once the candidate is ready".to_owned()));
    assert_eq!((life.run(), life.report().run, life.report().checks.len()), (None, 0, 2));
    life.sees("green", 1, 2);
    assert_eq!((life.run(), life.smoke_gate().0), (Some(1), GateState::Running));
    assert_eq!(life.rollout.message(), "candidate green is ready; waiting for its smoke test: 0 of 2 checks passed");
    assert_eq!(life.promotes(), Err(RefusalCode::GateFailed));
    life.smokes(1, [true, false]);
    let words = "1 of 2 checks passed; cart: expected status 2xx, got 503; tried again until 00:01:00Z";
    assert_eq!(life.smoke_gate(), (GateState::Running, words.to_owned()));
    assert_eq!(life.promotes(), Err(RefusalCode::GateFailed));
    life.waits(3);
    life.smokes(1, [true, true]);
    assert_eq!((life.run(), life.smoke_gate()), (None, (GateState::Passed, "2 of 2 checks passed".to_owned())));
    assert_eq!((life.report().rounds, life.report().ended), (2, Some(at(3))));
    life.promotes().expect("it has passed");
    assert_eq!(life.report().state, GateState::Passed, "who asks later is told as well");
}

#[test]
fn what_still_fails_when_the_time_is_over_has_failed_until_somebody_asks_again() {
    let mut life = Life::begins(tested(AutoPromotion::WhenReady));
    life.sees("green", 2, 2);
    life.waits(59);
    life.smokes(1, [false, false]);
    assert_eq!(life.smoke_gate().0, GateState::Running);
    life.waits(1);
    life.smokes(1, [false, true]);
    let words = "1 of 2 checks failed; up: expected status 2xx, got 503";
    assert_eq!((life.run(), life.smoke_gate()), (None, (GateState::Failed, words.to_owned())));
    life.smokes(1, [true, true]);
    assert_eq!(life.smoke_gate().0, GateState::Failed, "it is over");
    life.is(Phase::Previewing, "blue", Some("green"), None, 1);

    let step = life.obeys(Command::Smoke { revision: Some(rev("green")) }).expect("there is a candidate");
    assert_eq!((step.deeds[0].action, step.deeds[0].to.clone()), (Action::Smoke, Some(rev("green"))));
    assert_eq!(life.run(), Some(2));
    life.obeys(Command::Smoke { revision: None }).expect("one that goes on will do");
    assert_eq!(life.run(), Some(2));
    life.smokes(1, [true, true]);
    assert_eq!(life.run(), Some(2), "what another run found says nothing of this one");
    let step = life.smokes(2, [true, true]);
    assert_eq!(step.deeds[0].by, "auto-promotion");
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
}

#[test]
fn skipping_the_gates_skips_the_test_but_never_an_empty_pool() {
    let mut life = Life::begins(tested(AutoPromotion::Never));
    let skipping = || Command::Promote { revision: None, skip_gates: true };
    assert_eq!(life.obeys(skipping()), Err(RefusalCode::NotReady));
    life.sees("green", 1, 2);
    life.obeys(skipping()).expect("the test is set aside");
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
    assert_eq!(life.run(), None);
}

#[test]
fn a_pass_counts_for_the_revision_and_the_endpoints_it_was_given_for() {
    let mut life = Life::begins(tested(AutoPromotion::Never));
    life.sees("green", 2, 2);
    life.smokes(1, [true, true]);
    // Not ready for a while, and fewer endpoints: nothing new to be tested.
    life.sees("green", 0, 2);
    life.sees("green", 2, 2);
    assert_eq!(life.smoke_gate().0, GateState::Passed);
    let mut fewer = tested(AutoPromotion::Never);
    fewer.revisions.get_mut(&rev("green")).expect("it is there").pop();
    life.follows(fewer);
    life.sees("green", 1, 1);
    assert_eq!(life.smoke_gate().0, GateState::Passed);
    // One more, the same revision deployed again, another revision, other checks: each starts over.
    let mut more = tested(AutoPromotion::Never);
    let new = std::net::SocketAddr::from(([127, 0, 0, 1], 9600)).into();
    more.revisions.get_mut(&rev("green")).expect("it is there").push(new);
    life.follows(more);
    assert_eq!(life.smoke_gate().0, GateState::Pending, "until it is ready again");
    life.sees("green", 3, 3);
    assert_eq!(life.run(), Some(2));
    life.smokes(2, [true, true]);
    life.deploys("green").expect("it has endpoints");
    life.sees("green", 1, 1);
    assert_eq!(life.run(), Some(3));
    life.deploys("teal").expect("it has endpoints");
    assert_eq!((life.run(), life.report().revision.as_str()), (None, "teal"));
    life.sees("teal", 1, 1);
    assert_eq!(life.run(), Some(4));
    let mut other = (*smoke()).clone();
    other.checks.pop();
    let promotion = Promotion { smoke: Some(Arc::new(other)), ..Promotion::default() };
    let policy = Arc::new(Policy { promotion, ..Policy::default() });
    life.follows(Wanted { policy, ..tested(AutoPromotion::Never) });
    assert_eq!((life.run(), life.report().checks.len()), (Some(5), 1));
    life.obeys(Command::Abort { only: None }).expect("there is a candidate");
    assert_eq!(life.run(), None);
}

#[test]
fn what_cannot_be_tested_is_refused_with_the_reason() {
    let mut life = Life::begins(tested(AutoPromotion::Never));
    let smokes = |revision: Option<&str>| Command::Smoke { revision: revision.map(rev) };
    assert_eq!(life.obeys(smokes(None)), Err(RefusalCode::NotReady));
    assert_eq!(life.obeys(smokes(Some("teal"))), Err(RefusalCode::NoCandidate));
    assert_eq!(life.obeys(smokes(Some("blue"))), Err(RefusalCode::AlreadyActive));
    life.obeys(Command::Abort { only: None }).expect("there is a candidate");
    assert_eq!(life.obeys(smokes(None)), Err(RefusalCode::NoCandidate));
    // Nor does a revision get past it by being no candidate.
    life.sees("green", 2, 2);
    let promote = Command::Promote { revision: Some(rev("green")), skip_gates: false };
    assert_eq!(life.obeys(promote), Err(RefusalCode::GateFailed));
    let mut untested = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    assert_eq!(untested.obeys(smokes(None)), Err(RefusalCode::Invalid));
    assert!(untested.rollout.gates().iter().all(|gate| gate.name != "smoke"));
}

#[test]
fn the_source_is_followed_to_a_candidate_only_once_that_has_passed() {
    let mut life = Life::begins(tested(AutoPromotion::Never));
    life.sees("green", 2, 2);
    let step = life.follows(Wanted { active: rev("green"), preview: None, ..tested(AutoPromotion::Never) });
    assert_eq!(step.held_back, ["shop: the source wants green active; it waits until its smoke test is passed"]);
    life.is(Phase::Previewing, "blue", Some("green"), None, 1);
    let step = life.smokes(1, [true, true]);
    assert_eq!((step.deeds[0].action, step.deeds[0].by.as_str()), (Action::Source, "source"));
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
    // It may take that back at once; but not go where nobody has tested.
    life.sees("blue", 2, 2);
    life.follows(Wanted { preview: None, ..tested(AutoPromotion::Never) });
    life.is(Phase::Promoted, "blue", None, Some("green"), 3);
    let elsewhere = wanted("teal", None, &["blue", "green", "teal"]);
    let step = life.follows(Wanted { policy: tested(AutoPromotion::Never).policy, ..elsewhere });
    life.sees("teal", 2, 2);
    assert!(step.held_back[0].ends_with("it has to pass the smoke test first, as `preview`"), "{:?}", step.held_back);
    life.is(Phase::Promoted, "blue", None, Some("green"), 3);
}

#[test]
fn what_another_authority_promotes_without_a_passed_smoke_test_is_followed_and_told_while_there_is_a_way_back() {
    for (found, words) in [
        (Some([true, false]), "although its smoke test has failed (1 of 2 checks failed; cart: "),
        (None, "before it had passed its smoke test"),
        (Some([true, true]), ""),
    ] {
        let Life { mut rollout, .. } = followed();
        let promotion = Promotion {
            smoke: Some(Arc::new(Smoke { within: Duration::ZERO, ..(*smoke()).clone() })),
            ..Promotion::default()
        };
        rollout.policy = Arc::new(Policy { promotion, ..Policy::default() });
        let mut life = Life { rollout, now: 0 };
        life.sights(sighting("h1", "h1", &["h1"]));
        life.sights(sighting("h1", "h2", &["h1", "h2"]));
        life.sees("h1", 1, 1);
        life.sees("h2", 1, 1);
        if let Some(passed) = found {
            life.smokes(1, passed);
        }
        life.sights(sighting("h2", "h2", &["h1", "h2"]));
        life.is(Phase::Promoted, "h2", None, Some("h1"), 3);
        let told = life.rollout.troubles().join("; ");
        assert_eq!(told.is_empty(), words.is_empty(), "{told}");
        assert!(told.contains(words) && life.rollout.message().contains(words), "{}", life.rollout.message());
        // As soon as there is nothing to go back to, or somebody has, it is no news any more.
        life.sights(sighting("h2", "h2", &["h2"]));
        assert_eq!(life.rollout.troubles(), [""; 0]);
    }
}
