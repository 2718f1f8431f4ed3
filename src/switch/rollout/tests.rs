//! The state machine by table, and under a seeded random walk that checks the invariants after each step. Holds and
//! maintenance have a table of their own, and so has following another authority.

mod hold;
mod sight;
mod smoke;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{
        control::{Command, Refusal, RefusalCode},
        desired::{Matching, Wanted},
        name::Revision,
        only::Only,
        policy::{AutoPromotion, HoldBounds, MinReady, Policy, Promotion},
        split::{SplitPolicy, Weight},
        status::{Action, Phase},
    },
    HoldEnd, Input, Readiness, Rollout, Step,
};

fn rev(name: &str) -> Revision {
    name.parse().expect("a test's revision is a name")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn policy(auto: AutoPromotion, min_ready: MinReady) -> Arc<Policy> {
    Arc::new(Policy { promotion: Promotion { auto, min_ready, ..Promotion::default() }, ..Policy::default() })
}

fn wanted(active: &str, preview: Option<&str>, revisions: &[&str]) -> Wanted {
    let endpoints = |i: usize| vec![([127, 0, 0, 1], 9000 + i as u16).into(), ([127, 0, 0, 1], 9100 + i as u16).into()];
    Wanted {
        matching: Matching::default(),
        revisions: revisions
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let specs: Vec<std::net::SocketAddr> = endpoints(i);
                (rev(name), specs.into_iter().map(Into::into).collect())
            })
            .collect(),
        active: rev(active),
        preview: preview.map(rev),
        policy: policy(AutoPromotion::Never, MinReady::Count(1)),
    }
}

/// A rollout with a scripted life, for tests that read as a story.
struct Life {
    rollout: Rollout,
    now: i64,
}

impl Life {
    fn begins(wanted: Wanted) -> Self {
        let name = "shop".parse().expect("a name");
        Self { rollout: Rollout::first(name, wanted, at(0)), now: 0 }
    }

    fn takes(&mut self, input: Input) -> Result<Step, Refusal> {
        let step = self.rollout.handle(input, at(self.now))?;
        self.rollout = step.next.clone();
        Ok(step)
    }

    fn follows(&mut self, wanted: Wanted) -> Step {
        let step = self.rollout.follow(wanted, at(self.now));
        self.rollout = step.next.clone();
        step
    }

    fn obeys(&mut self, command: Command) -> Result<Step, RefusalCode> {
        let order = Input::Order { command, by: "ann".to_owned(), reason: "because".to_owned(), if_generation: None };
        self.takes(order).map_err(|refusal| refusal.code)
    }

    fn promotes(&mut self) -> Result<Step, RefusalCode> {
        self.obeys(Command::Promote { revision: None, skip_gates: false })
    }

    fn rolls_back(&mut self) -> Result<Step, RefusalCode> {
        self.obeys(Command::Rollback { to: None })
    }

    fn weighs(&mut self, weight: u8) -> Result<Step, RefusalCode> {
        self.obeys(Command::Weigh { weight: percent(weight) })
    }

    fn deploys(&mut self, revision: &str) -> Result<Step, RefusalCode> {
        let endpoints = vec![std::net::SocketAddr::from(([127, 0, 0, 1], 9500)).into()];
        self.obeys(Command::Deploy { revision: rev(revision), endpoints, labels: BTreeMap::new() })
    }

    fn sees(&mut self, revision: &str, ready: usize, total: usize) -> Step {
        let readiness = Readiness { ready, down: total - ready, total, warm: ready, cold: None };
        self.takes(Input::Readiness { revision: rev(revision), readiness }).expect("readiness is never refused")
    }

    fn waits(&mut self, seconds: i64) -> Step {
        self.now += seconds;
        self.takes(Input::Clock).expect("the clock is never refused")
    }

    fn is(&self, phase: Phase, active: &str, preview: Option<&str>, previous: Option<&str>, generation: u64) {
        let found = (
            self.rollout.phase(),
            self.rollout.active().as_str(),
            self.rollout.preview().map(|(revision, _)| revision.as_str()),
            self.rollout.previous().map(|previous| previous.revision.as_str()),
            self.rollout.generation().0,
        );
        assert_eq!(found, (phase, active, preview, previous, generation), "{}", self.rollout.message());
    }
}

#[test]
fn the_ordinary_life_of_a_promotion() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    life.is(Phase::Starting, "blue", Some("green"), None, 1);
    assert_eq!(life.promotes(), Err(RefusalCode::NotReady));
    life.sees("green", 1, 2);
    life.is(Phase::Previewing, "blue", Some("green"), None, 1);
    let step = life.promotes().expect("the gates hold");
    assert!(step.deeds[0].is_flip());
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
    life.waits(599);
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
    life.waits(1);
    life.is(Phase::Steady, "green", None, None, 2);
}

#[test]
fn a_rollback_restores_what_was_active_and_keeps_the_other_for_testers() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    life.sees("blue", 2, 2);
    life.sees("green", 2, 2);
    life.promotes().expect("ready");
    life.rolls_back().expect("blue lives");
    life.is(Phase::Aborted, "blue", Some("green"), None, 3);
    assert_eq!(life.rolls_back(), Err(RefusalCode::NoPrevious), "a second press does not bring the bad one back");
    life.promotes().expect("on request it may go forward again");
    life.is(Phase::Promoted, "green", None, Some("blue"), 4);
}

#[test]
fn what_was_rolled_back_is_not_promoted_by_itself() {
    let mut life = Life::begins(Wanted {
        policy: policy(AutoPromotion::WhenReady, MinReady::Count(1)),
        ..wanted("blue", Some("green"), &["blue", "green"])
    });
    life.sees("blue", 2, 2);
    let step = life.sees("green", 2, 2);
    assert_eq!(step.deeds[0].by, "auto-promotion");
    life.rolls_back().expect("blue lives");
    for _ in 0..3 {
        life.sees("green", 1, 2);
        life.sees("green", 2, 2);
        life.waits(60);
    }
    life.is(Phase::Aborted, "blue", Some("green"), None, 3);
}

#[test]
fn an_auto_promotion_waits_for_its_time_and_starts_over_when_a_gate_breaks() {
    let mut life = Life::begins(Wanted {
        policy: policy(AutoPromotion::After(Duration::from_secs(60)), MinReady::Percent(100)),
        ..wanted("blue", Some("green"), &["blue", "green"])
    });
    life.sees("green", 2, 2);
    assert_eq!(life.rollout.deadline(), Some(at(60)));
    life.waits(50);
    life.sees("green", 1, 2);
    assert_eq!(life.rollout.deadline(), None);
    life.sees("green", 2, 2);
    life.waits(59);
    life.is(Phase::Previewing, "blue", Some("green"), None, 1);
    life.waits(1);
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
}

#[test]
fn no_flip_goes_to_a_pool_that_is_not_ready_whoever_asks() {
    let mut life = Life::begins(Wanted {
        policy: policy(AutoPromotion::Never, MinReady::Count(2)),
        ..wanted("blue", Some("green"), &["blue", "green"])
    });
    life.sees("green", 1, 2);
    assert_eq!(life.promotes(), Err(RefusalCode::NotReady));
    assert_eq!(life.obeys(Command::Rollback { to: Some(rev("green")) }), Err(RefusalCode::NotReady));
    life.sees("green", 0, 2);
    let skipping = Command::Promote { revision: None, skip_gates: true };
    assert_eq!(life.obeys(skipping.clone()), Err(RefusalCode::NotReady), "never into an empty pool");
    life.sees("green", 1, 2);
    life.obeys(skipping).expect("the gates were set aside, and one endpoint is ready");
}

#[test]
fn a_pin_keeps_the_active_revision_until_it_is_off_or_over() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    life.sees("green", 2, 2);
    let pin = |expires| Command::Pin { revision: rev("blue"), expires };
    assert_eq!(life.obeys(Command::Pin { revision: rev("green"), expires: None }), Err(RefusalCode::Invalid));
    assert_eq!(life.obeys(pin(Some(at(0)))), Err(RefusalCode::Invalid));
    life.obeys(pin(Some(at(10)))).expect("blue is active");
    assert_eq!(life.promotes(), Err(RefusalCode::Pinned));
    life.waits(10);
    life.promotes().expect("the pin is over");
    assert_eq!(life.obeys(Command::Unpin), Err(RefusalCode::Invalid));
}

#[test]
fn orders_that_make_no_sense_are_refused_with_their_reason() {
    let mut life = Life::begins(wanted("blue", None, &["blue", "green"]));
    for (command, code) in [
        (Command::Promote { revision: None, skip_gates: false }, RefusalCode::NoCandidate),
        (Command::Promote { revision: Some(rev("blue")), skip_gates: false }, RefusalCode::AlreadyActive),
        (Command::Promote { revision: Some(rev("teal")), skip_gates: false }, RefusalCode::UnknownRevision),
        (Command::Rollback { to: None }, RefusalCode::NoPrevious),
        (Command::Rollback { to: Some(rev("blue")) }, RefusalCode::AlreadyActive),
        (Command::Rollback { to: Some(rev("teal")) }, RefusalCode::UnknownRevision),
        (Command::Abort { only: None }, RefusalCode::NoCandidate),
        (Command::Unpin, RefusalCode::Invalid),
        (Command::Discard { revision: rev("blue") }, RefusalCode::InUse),
        (Command::Discard { revision: rev("green") }, RefusalCode::InUse),
        (Command::Discard { revision: rev("teal") }, RefusalCode::UnknownRevision),
        (
            Command::Deploy { revision: rev("teal"), endpoints: Vec::new(), labels: BTreeMap::new() },
            RefusalCode::Invalid,
        ),
    ] {
        assert_eq!(life.obeys(command.clone()), Err(code), "{command:?}");
    }
    life.is(Phase::Steady, "blue", None, None, 1);
}

#[test]
fn a_promotion_that_names_another_revision_than_the_candidate_is_refused() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    life.deploys("teal").expect("deployed");
    life.sees("green", 2, 2);
    life.sees("teal", 1, 1);
    let named = Command::Promote { revision: Some(rev("green")), skip_gates: false };
    assert_eq!(life.obeys(named), Err(RefusalCode::NoCandidate));
    life.is(Phase::Previewing, "blue", Some("teal"), None, 2);
}

#[test]
fn only_the_candidate_that_is_named_is_aborted() {
    let mut life = Life::begins(wanted("blue", None, &["blue", "green"]));
    let only = |name| Command::Abort { only: Some(Only::Revision(rev(name))) };
    assert_eq!(life.obeys(only("green")), Err(RefusalCode::NoCandidate));
    life.deploys("teal").expect("deployed");
    assert_eq!(life.obeys(only("green")), Err(RefusalCode::Overtaken));
    assert_eq!(life.obeys(only("blue")), Err(RefusalCode::AlreadyActive));
    let image = Command::Abort { only: Some(Only::Image("shop:1".to_owned())) };
    assert_eq!(life.obeys(image), Err(RefusalCode::Overtaken));
    life.obeys(only("teal")).expect("it is the candidate");
}

#[test]
fn an_order_meant_for_another_generation_is_refused() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    let order = |generation| Input::Order {
        command: Command::Abort { only: None },
        by: "ann".to_owned(),
        reason: String::new(),
        if_generation: Some(generation),
    };
    assert_eq!(life.takes(order(7)).map_err(|refusal| refusal.code), Err(RefusalCode::GenerationMismatch));
    life.takes(order(1)).expect("it is at 1");
    life.is(Phase::Aborted, "blue", None, None, 2);
}

#[test]
fn new_endpoints_are_not_trusted_on_the_word_of_the_old_ones() {
    let mut life = Life::begins(Wanted {
        policy: policy(AutoPromotion::WhenReady, MinReady::Count(1)),
        ..wanted("blue", None, &["blue"])
    });
    life.sees("teal", 1, 1);
    life.deploys("teal").expect("deployed");
    life.is(Phase::Starting, "blue", Some("teal"), None, 2);
    life.sees("teal", 1, 1);
    life.is(Phase::Promoted, "teal", None, Some("blue"), 3);
}

#[test]
fn a_source_that_repeats_itself_leaves_what_people_did() {
    let will = wanted("blue", Some("green"), &["blue", "green"]);
    let mut life = Life::begins(will.clone());
    life.sees("green", 2, 2);
    life.promotes().expect("ready");
    let step = life.follows(will);
    assert_eq!((step.deeds, step.held_back), (vec![], vec![]));
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
    assert!(life.rollout.drift().is_some_and(|drift| drift.contains("active blue")));
}

#[test]
fn a_source_that_changes_its_mind_flips_once_the_target_is_ready() {
    let mut life = Life::begins(wanted("blue", None, &["blue", "green"]));
    let step = life.follows(wanted("green", None, &["blue", "green"]));
    assert!(step.held_back[0].contains("green"), "{:?}", step.held_back);
    life.is(Phase::Steady, "blue", None, None, 1);
    let step = life.sees("green", 1, 2);
    assert_eq!(step.deeds[0].action, Action::Source);
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
}

#[test]
fn the_active_pool_never_loses_its_last_endpoint_to_the_source() {
    let mut life = Life::begins(wanted("blue", None, &["blue", "green"]));
    let mut emptied = wanted("blue", None, &["blue", "green"]);
    emptied.revisions.insert(rev("blue"), Vec::new());
    for will in [emptied, wanted("green", None, &["green"])] {
        let step = life.follows(will);
        assert!(!step.held_back.is_empty());
        let (_, endpoints) = life.rollout.revisions().find(|(r, _)| *r == life.rollout.active()).expect("known");
        assert_eq!(endpoints.len(), 2);
    }
}

#[test]
fn a_restart_finds_the_roles_and_nothing_of_the_health() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    life.sees("green", 2, 2);
    life.promotes().expect("ready");
    life.deploys("teal").expect("deployed");
    let json = serde_json::to_string(life.rollout.kept()).expect("serialises");
    life.rollout = Rollout::restored(serde_json::from_str(&json).expect("reads back"));
    life.follows(wanted("blue", Some("green"), &["blue", "green"]));
    life.is(Phase::Starting, "green", Some("teal"), Some("blue"), 3);
    assert_eq!(life.promotes(), Err(RefusalCode::NotReady));
}

#[test]
fn that_live_traffic_fails_is_said_first_and_not_before_it_is_known() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    let unprobed = Readiness { total: 2, ..Readiness::default() };
    life.takes(Input::Readiness { revision: rev("blue"), readiness: unprobed }).expect("readiness is never refused");
    assert!(life.rollout.message().starts_with("candidate green has"), "{}", life.rollout.message());
    life.sees("blue", 0, 2);
    let message = life.rollout.message();
    assert!(
        message.starts_with("live traffic is failing: blue has 0 of 2 endpoints ready; candidate green"),
        "{message}"
    );
    life.sees("blue", 1, 2);
    assert!(life.rollout.message().starts_with("candidate green has"), "{}", life.rollout.message());
}

fn five_percent() -> Policy {
    Policy { split: SplitPolicy { weight: percent(5), ..SplitPolicy::default() }, ..Policy::default() }
}

fn percent(percent: u8) -> Weight {
    Weight::of_percent(percent).expect("percent")
}

#[test]
fn a_share_is_the_candidates_and_goes_with_it() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    assert_eq!(life.rollout.weight(), Weight::ZERO);
    let step = life.weighs(10).expect("there is a candidate");
    assert_eq!((step.deeds[0].action, step.deeds[0].weight), (Action::Weight, Some(percent(10))));
    assert!(life.rollout.split().is_none(), "it is not ready");
    assert!(life.rollout.message().ends_with("10 % of live traffic goes to green once it is ready"));
    life.sees("green", 1, 2);
    assert!(life.rollout.split().is_some());
    assert!(life.rollout.message().ends_with("10 % of live traffic goes to green"), "{}", life.rollout.message());
    life.is(Phase::Previewing, "blue", Some("green"), None, 1);

    life.promotes().expect("ready");
    assert_eq!((life.rollout.weight(), life.weighs(5)), (Weight::ZERO, Err(RefusalCode::NoCandidate)));
    life.deploys("teal").expect("deployed");
    assert_eq!(life.rollout.weight(), Weight::ZERO, "of the next candidate nothing was said");
    life.weighs(20).expect("there is a candidate");
    life.deploys("teal").expect("the same with other endpoints");
    assert_eq!(life.rollout.weight(), percent(20));
    life.obeys(Command::Abort { only: None }).expect("there is a candidate");
    assert_eq!(life.rollout.weight(), Weight::ZERO);
}

#[test]
fn the_sources_share_is_every_candidates_but_not_of_one_that_was_rolled_back() {
    let will = Wanted { policy: Arc::new(five_percent()), ..wanted("blue", Some("green"), &["blue", "green"]) };
    let mut life = Life::begins(will.clone());
    life.sees("blue", 2, 2);
    life.sees("green", 2, 2);
    assert_eq!(life.rollout.weight(), percent(5));
    life.weighs(50).expect("there is a candidate");
    life.follows(will.clone());
    assert_eq!(life.rollout.weight(), percent(50), "a source that repeats itself leaves what people did");
    let other = Policy { split: SplitPolicy { weight: percent(7), ..SplitPolicy::default() }, ..Policy::default() };
    life.follows(Wanted { policy: Arc::new(other), ..will });
    assert_eq!(life.rollout.weight(), percent(7), "and one that changes its mind does not");

    life.promotes().expect("ready");
    life.rolls_back().expect("blue lives");
    life.is(Phase::Aborted, "blue", Some("green"), None, 3);
    assert_eq!(life.rollout.weight(), Weight::ZERO, "what failed gets no live traffic by itself");
    assert!(life.rollout.split().is_none());
    life.weighs(1).expect("but on request");
    assert!(life.rollout.split().is_some());
}

#[test]
fn a_pin_keeps_the_share_from_growing_and_not_from_shrinking() {
    let will = Wanted { policy: Arc::new(five_percent()), ..wanted("blue", Some("green"), &["blue", "green"]) };
    let mut life = Life::begins(will);
    life.weighs(10).expect("there is a candidate");
    life.obeys(Command::Pin { revision: rev("blue"), expires: None }).expect("blue is active");
    assert_eq!(life.weighs(11), Err(RefusalCode::Pinned));
    life.weighs(9).expect("less is always possible");
    life.deploys("teal").expect("deployed");
    assert_eq!(life.rollout.weight(), Weight::ZERO, "and none is given by itself");
}

#[test]
fn taking_all_live_traffic_back_waits_for_no_disk() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    for (weight, waits) in [(10, true), (5, true), (0, false)] {
        let step = life.weighs(weight).expect("there is a candidate");
        assert_eq!(step.deeds[0].must_not_wait(), !waits, "{weight}");
    }
}

const BOUNDS: HoldBounds = HoldBounds { max_age: Duration::from_secs(5), max_requests: 10, max_bytes: 1024 };

fn hold() -> Command {
    Command::Hold { bounds: BOUNDS }
}

fn promote_held() -> Command {
    Command::PromoteHeld { revision: None, skip_gates: false, bounds: BOUNDS }
}

/// Any order of anything, twenty thousand times over, with the seed of the walk that went wrong in the message.
#[test]
fn the_invariants_hold_on_random_walks() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    for walk in 0..200 {
        let mut life = Life::begins(Wanted {
            policy: random_policy(&mut rng),
            ..wanted("r0", rng.bool().then_some("r1"), &["r0", "r1"])
        });
        let mut ready = BTreeMap::new();
        for step in 0..100 {
            let input = random_input(&mut rng);
            if let Random::Input(Input::Readiness { revision, readiness }) = &input {
                ready.insert(revision.clone(), *readiness);
            }
            life.now += rng.i64(0..200);
            let before = life.rollout.clone();
            let told = format!("seed {seed}, walk {walk}, step {step}: {input:?}\nbefore {before:?}");
            let taken = match input {
                Random::Input(input) => life.takes(input),
                Random::Wanted(wanted) => Ok(life.follows(*wanted)),
            };
            match taken {
                Err(_) => assert_eq!(life.rollout, before, "a refusal changes nothing\n{told}"),
                Ok(done) => {
                    check(&before, &done, &ready, &told);
                    let again = life.rollout.handle(Input::Clock, at(life.now)).expect("never refused");
                    assert_eq!(again.next, life.rollout, "settling twice is settling once\n{told}");
                }
            }
        }
    }
}

fn check(before: &Rollout, done: &Step, ready: &BTreeMap<Revision, Readiness>, told: &str) {
    let after = &done.next;
    let (flips, active) = (done.deeds.iter().filter(|deed| deed.is_flip()).count(), after.active());
    assert!(
        after.revisions().any(|(r, endpoints)| r == active && !endpoints.is_empty()),
        "active has endpoints\n{told}"
    );
    assert!(after.preview().is_none_or(|(preview, _)| preview != active), "one active\n{told}");
    assert!(after.previous().is_none_or(|previous| previous.revision != *active), "one active\n{told}");
    for role in after.preview().map(|(r, _)| r).into_iter().chain(after.previous().map(|p| &p.revision)) {
        assert!(after.revisions().any(|(r, _)| r == role), "a role names a known revision\n{told}");
    }
    let roles = |r: &Rollout| (r.active().clone(), r.preview().map(|(r, _)| r.clone()));
    assert!(after.generation() >= before.generation(), "generations only grow\n{told}");
    assert_eq!(roles(before) != roles(after), before.generation() != after.generation(), "and with the roles\n{told}");
    // Two in one step: the source's wish, and then the candidate whose gates hold already.
    assert!(flips <= 2, "{told}");
    assert!(before.active() == active || flips > 0, "the active revision changes by a flip only\n{told}");
    assert!(before.active() != active || flips != 1, "and a flip changes it\n{told}");
    if flips > 0 {
        assert!(ready.get(active).is_some_and(|readiness| readiness.ready > 0), "never into a hole\n{told}");
    }
    let is_weighed = after.weight() > Weight::ZERO;
    assert!(!is_weighed || after.preview().is_some(), "a share is a candidate's\n{told}");
    assert!(!is_weighed || flips == 0 || after.is_underway(), "a flip moves all\n{told}");
    let is_ready =
        after.preview().is_some_and(|(candidate, _)| ready.get(candidate).is_some_and(|readiness| readiness.ready > 0));
    assert!(after.split().is_none() || is_ready, "no live traffic to a candidate that is not ready\n{told}");
    let waits = |r: &Rollout| r.holding().and_then(|holding| holding.promotes().cloned());
    if let (Some(before), Some(waiting)) = (waits(before), waits(after)) {
        assert_eq!(before, waiting, "a promotion that waits waits for what it was asked for\n{told}");
        assert_eq!(flips, 0, "and nobody flips before it\n{told}");
    }
    let began = done.deeds.iter().any(|deed| deed.action == Action::Hold);
    let ended = done.deeds.iter().any(|deed| deed.action == Action::Resume);
    let (was, is) = (before.holding().is_some(), after.holding().is_some());
    assert_eq!(began, !was && is, "a hold begins by a deed\n{told}");
    let promoted = done.deeds.first().is_some_and(|deed| deed.action == Action::Promote) && waits(before).is_some();
    assert_eq!(ended || promoted, was && !is, "and ends by one\n{told}");
    if before.pin().is_some() && after.pin().is_some() {
        assert!(after.weight() <= before.weight(), "a pin holds\n{told}");
        assert_eq!(before.active(), active, "a pin holds\n{told}");
    }
}

fn random_policy(rng: &mut fastrand::Rng) -> Arc<Policy> {
    let auto = [AutoPromotion::Never, AutoPromotion::WhenReady, AutoPromotion::After(Duration::from_secs(300))];
    let min_ready = [MinReady::Count(1), MinReady::Count(2), MinReady::Percent(50), MinReady::Percent(100)];
    let (auto, min_ready) = (auto[rng.usize(0..3)], min_ready[rng.usize(0..4)]);
    let promotion = Promotion { auto, min_ready, smoke: rng.bool().then(smoke::smoke), ..Promotion::default() };
    let split = SplitPolicy { weight: percent([0, 0, 5, 50][rng.usize(0..4)]), ..SplitPolicy::default() };
    Arc::new(Policy { promotion, split, ..Policy::default() })
}

/// What may come next in a walk.
#[derive(Debug)]
enum Random {
    Input(Input),
    Wanted(Box<Wanted>),
}

fn random_input(rng: &mut fastrand::Rng) -> Random {
    let names = ["r0", "r1", "r2", "r3"];
    let one = |rng: &mut fastrand::Rng| names[rng.usize(0..4)];
    let maybe = |rng: &mut fastrand::Rng| rng.bool().then(|| rev(names[rng.usize(0..4)]));
    let endpoints = |n: usize| (0..n).map(|i| std::net::SocketAddr::from(([127, 0, 0, 1], 9000 + i as u16)).into());
    let command = match rng.u8(0..20) {
        0 | 1 => {
            let total = rng.usize(0..4);
            let ready = rng.usize(0..=total);
            let readiness = Readiness { ready, down: rng.usize(0..=total - ready), total, warm: ready, cold: None };
            return Random::Input(Input::Readiness { revision: rev(one(rng)), readiness });
        }
        2 => return Random::Input(Input::Clock),
        3 => {
            let will = wanted(names[rng.usize(0..2)], rng.bool().then(|| names[rng.usize(0..2)]), &["r0", "r1"]);
            return Random::Wanted(Box::new(Wanted { policy: random_policy(rng), ..will }));
        }
        4 | 5 => Command::Deploy {
            revision: rev(one(rng)),
            endpoints: endpoints(rng.usize(0..3)).collect(),
            labels: BTreeMap::new(),
        },
        6 => Command::Discard { revision: rev(one(rng)) },
        7 => Command::Promote { revision: maybe(rng), skip_gates: rng.bool() },
        8 | 9 => Command::Rollback { to: maybe(rng) },
        10 => Command::Abort { only: None },
        12 => {
            let ends = [HoldEnd::Aged, HoldEnd::Emptied, HoldEnd::Failed("no disk".to_owned())];
            return Random::Input(Input::HoldOver(ends[rng.usize(0..3)].clone()));
        }
        13 => match rng.u8(0..4) {
            0 => hold(),
            1 => Command::Resume,
            2 => Command::Maintain { retry_after: Duration::from_secs(1) },
            _ => Command::Reopen,
        },
        14 => Command::PromoteHeld { revision: maybe(rng), skip_gates: rng.bool(), bounds: BOUNDS },
        17 | 18 => return Random::Input(Input::Smoked(smoke::smoked(rng))),
        19 => Command::Smoke { revision: maybe(rng) },
        15 | 16 => Command::Weigh { weight: percent(rng.u8(0..=100)) },
        _ if rng.bool() => Command::Unpin,
        _ => Command::Pin { revision: rev(one(rng)), expires: rng.bool().then(|| at(rng.i64(0..20_000))) },
    };
    Random::Input(Input::Order { command, by: "walk".to_owned(), reason: String::new(), if_generation: None })
}
