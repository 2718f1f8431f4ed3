//! Following another authority, by table: what a sighting does to the roles, and what it cannot take away.

use super::{
    super::super::desired::{Authority, EndpointSpec, Returned, Sighted, Sighting, Standing},
    *,
};

/// A followed app whose life is told by sightings.
pub(super) fn followed() -> Life {
    let rollout = Rollout::unseen("shop".parse().expect("a name"), Authority::ArgoRollouts, Arc::default(), at(0));
    Life { rollout, now: 0 }
}

fn endpoints(revision: &str, standing: Standing) -> Vec<EndpointSpec> {
    let port = 9000 + u16::from(revision.as_bytes()[1]);
    let address = std::net::SocketAddr::from(([10, 0, 0, 1], port));
    vec![EndpointSpec { standing, ..address.into() }]
}

/// Each revision with one ready endpoint.
pub(super) fn sighting(active: &str, preview: &str, revisions: &[&str]) -> Sighting {
    let sighted =
        |name: &&str| (rev(name), Sighted { endpoints: endpoints(name, Standing::Ready), labels: BTreeMap::new() });
    Sighting {
        revisions: revisions.iter().map(sighted).collect(),
        active: Some(rev(active)),
        preview: Some(rev(preview)),
        ..Sighting::default()
    }
}

fn returned(seconds: i64) -> Option<Returned> {
    let (by, reason) = ("ann".to_owned(), "errors".to_owned());
    Some(Returned { to: rev("h1"), from: rev("h2"), at: at(seconds), by, reason, released: false })
}

impl Life {
    pub(super) fn sights(&mut self, sighting: Sighting) -> Step {
        self.now += 1;
        let step = self.rollout.sight(sighting, at(self.now));
        self.rollout = step.next.clone();
        step
    }

    /// A life in which h2 has just been made active by the authority, and h1 is kept.
    fn promoted() -> Self {
        let mut life = followed();
        life.sights(sighting("h1", "h1", &["h1"]));
        life.sights(sighting("h1", "h2", &["h1", "h2"]));
        life.sees("h1", 1, 1);
        life.sees("h2", 1, 1);
        life.sights(sighting("h2", "h2", &["h1", "h2"]));
        life.is(Phase::Promoted, "h2", None, Some("h1"), 3);
        life
    }
}

fn actions(step: &Step) -> Vec<(Action, &str)> {
    step.deeds.iter().map(|deed| (deed.action, deed.by.as_str())).collect()
}

#[test]
fn an_app_serves_nobody_until_it_is_seen_and_begins_where_its_authority_says() {
    let mut life = followed();
    assert!(!life.rollout.is_seen());
    assert!(life.rollout.message().starts_with("nothing has been seen"), "{}", life.rollout.message());
    let step = life.sights(sighting("h1", "h1", &["h1"]));
    life.is(Phase::Steady, "h1", None, None, 1);
    assert!(step.deeds.is_empty(), "nobody flipped anything");
}

#[test]
fn the_authority_is_followed_through_an_update_and_a_flip_waits_for_no_warm_connection() {
    let mut life = followed();
    life.rollout.policy =
        Arc::new(Policy { promotion: Promotion { warm: 2, ..Promotion::default() }, ..Policy::default() });
    life.sights(sighting("h1", "h1", &["h1"]));
    let step = life.sights(sighting("h1", "h2", &["h1", "h2"]));
    assert_eq!(actions(&step), [(Action::Deploy, "argo-rollouts")]);
    life.is(Phase::Starting, "h1", Some("h2"), None, 2);
    let readiness = Readiness { ready: 1, total: 1, ..Readiness::default() };
    life.takes(Input::Readiness { revision: rev("h2"), readiness }).expect("never refused");
    life.is(Phase::Previewing, "h1", Some("h2"), None, 2);
    let step = life.sights(sighting("h2", "h2", &["h1", "h2"]));
    assert_eq!(actions(&step), [(Action::Source, "argo-rollouts")]);
    assert!(step.deeds[0].is_flip() && step.deeds[0].must_not_wait());
    life.is(Phase::Promoted, "h2", None, Some("h1"), 3);
}

#[test]
fn a_flip_into_a_hole_waits_until_there_is_an_endpoint_and_the_candidate_stays_meanwhile() {
    let mut life = followed();
    life.sights(sighting("h1", "h1", &["h1"]));
    life.sights(sighting("h1", "h2", &["h1", "h2"]));
    let step = life.sights(sighting("h2", "h2", &["h1", "h2"]));
    assert!(step.held_back[0].contains("wants h2 active"), "{:?}", step.held_back);
    life.is(Phase::Starting, "h1", Some("h2"), None, 2);
    life.sees("h2", 1, 1);
    life.is(Phase::Promoted, "h2", None, Some("h1"), 3);
}

#[test]
fn the_same_sighting_again_changes_nothing() {
    let mut life = Life::promoted();
    let before = life.rollout.clone();
    for _ in 0..3 {
        assert!(life.sights(sighting("h2", "h2", &["h1", "h2"])).deeds.is_empty());
    }
    assert_eq!(life.rollout, before);
}

#[test]
fn what_is_kept_without_end_is_kept_from_half_time_to_half_time() {
    let mut life = Life::promoted();
    let kept = Sighting { previous: Some(rev("h1")), ..sighting("h2", "h2", &["h1", "h2"]) };
    let until = |life: &Life| life.rollout.previous().expect("kept").until;
    let first = until(&life);
    life.sights(kept.clone());
    assert_eq!(until(&life), first, "not every sighting is written down");
    life.waits(400);
    life.sights(kept);
    assert_eq!(until(&life), at(life.now + 600));
}

#[test]
fn live_traffic_keeps_its_last_endpoints_when_none_would_be_left() {
    for (what, endpoints) in
        [("empty", Vec::new()), ("none of the new set is ready", endpoints("h1", Standing::Unready))]
    {
        let mut life = followed();
        life.sights(sighting("h1", "h1", &["h1"]));
        let mut bare = sighting("h1", "h1", &["h1"]);
        bare.revisions.insert(rev("h1"), Sighted { endpoints, labels: BTreeMap::new() });
        let step = life.sights(bare);
        assert!(step.held_back[0].contains(what), "{:?}", step.held_back);
        assert!(life.rollout.message().contains(what), "{}", life.rollout.message());
        assert_eq!(life.rollout.troubles(), step.held_back);
        assert_eq!(life.rollout.endpoints(&rev("h1"))[0].standing, Standing::Ready);
    }
    let mut life = followed();
    life.sights(sighting("h1", "h1", &["h1"]));
    let step = life.sights(Sighting { active: None, preview: None, ..sighting("h1", "h1", &[]) });
    assert!(step.held_back[0].contains("names it no more"), "{:?}", step.held_back);
    life.is(Phase::Steady, "h1", None, None, 1);
}

#[test]
fn an_abort_drops_the_candidate_and_a_retry_brings_it_back() {
    let mut life = followed();
    life.sights(sighting("h1", "h1", &["h1"]));
    life.sights(sighting("h1", "h2", &["h1", "h2"]));
    let step = life.sights(Sighting { aborted: true, ..sighting("h1", "h2", &["h1", "h2"]) });
    assert_eq!(actions(&step), [(Action::Abort, "argo-rollouts")]);
    life.is(Phase::Aborted, "h1", None, None, 3);
    life.sights(sighting("h1", "h2", &["h1", "h2"]));
    life.is(Phase::Starting, "h1", Some("h2"), None, 4);
}

#[test]
fn a_new_revision_overtakes_the_candidate() {
    let mut life = followed();
    life.sights(sighting("h1", "h1", &["h1"]));
    life.sights(sighting("h1", "h2", &["h1", "h2"]));
    life.sights(sighting("h1", "h3", &["h1", "h2", "h3"]));
    life.is(Phase::Starting, "h1", Some("h3"), None, 3);
}

#[test]
fn the_authority_says_how_long_the_previous_revision_is_kept() {
    let mut life = Life::promoted();
    let said = |until| Sighting {
        previous: Some(rev("h1")),
        previous_until: Some(at(until)),
        ..sighting("h2", "h2", &["h1", "h2"])
    };
    life.sights(said(5000));
    assert_eq!(life.rollout.previous().map(|previous| previous.until), Some(at(5000)));
    life.sights(said(9000));
    assert_eq!(life.rollout.previous().map(|previous| previous.until), Some(at(9000)));
    life.sights(sighting("h2", "h2", &["h2"]));
    life.is(Phase::Steady, "h2", None, None, 3);
}

#[test]
fn a_rollback_is_possible_as_long_as_the_previous_revision_is_seen_to_live() {
    let mut life = Life::promoted();
    let due = Sighting {
        previous: Some(rev("h1")),
        previous_until: Some(at(life.now + 30)),
        ..sighting("h2", "h2", &["h1", "h2"])
    };
    life.sights(due.clone());
    // Nobody has come to take it down: neither silence nor a look at it changes that.
    life.waits(3600);
    assert_eq!(life.rollout.deadline(), None, "there is nothing to wake up for");
    life.sights(due);
    life.is(Phase::Promoted, "h2", None, Some("h1"), 3);
    life.rolls_back().expect("its endpoints live");
    life.is(Phase::Aborted, "h1", Some("h2"), None, 4);
}

#[test]
fn what_its_authority_decides_is_refused_and_a_rollback_is_not() {
    let mut life = Life::promoted();
    assert_eq!(life.promotes(), Err(RefusalCode::OtherAuthority));
    assert_eq!(life.obeys(Command::Abort { only: None }), Err(RefusalCode::OtherAuthority));
    assert_eq!(life.deploys("h9"), Err(RefusalCode::OtherAuthority));
    assert_eq!(life.weighs(5), Err(RefusalCode::OtherAuthority));
    life.rolls_back().expect("h1 lives");
    life.is(Phase::Aborted, "h1", Some("h2"), None, 4);
}

#[test]
fn a_rollback_stands_while_the_authority_says_as_before_and_until_it_agrees() {
    let mut life = Life::promoted();
    life.rolls_back().expect("h1 lives");
    life.sights(sighting("h2", "h2", &["h1", "h2"]));
    life.is(Phase::Aborted, "h1", Some("h2"), None, 4);
    assert!(life.rollout.drift().is_some());
    // Argo Rollouts brings h1 back: first as the newest revision, then as the active one.
    life.sights(sighting("h2", "h1", &["h1", "h2"]));
    life.is(Phase::Aborted, "h1", None, None, 5);
    life.sights(sighting("h1", "h1", &["h1", "h2"]));
    life.is(Phase::Aborted, "h1", None, None, 5);
    assert_eq!(life.rollout.drift(), None);
    // Whoever wants h2 again has to say so anew.
    life.sights(sighting("h2", "h2", &["h1", "h2"]));
    life.is(Phase::Promoted, "h2", None, Some("h1"), 6);
}

#[test]
fn a_rollback_ordered_elsewhere_is_joined_once_it_can_be_and_never_twice() {
    let mut life = Life::promoted();
    life.sees("h1", 0, 1);
    let told = Sighting { returned: returned(50), ..sighting("h2", "h2", &["h1", "h2"]) };
    life.sights(told.clone());
    life.is(Phase::Promoted, "h2", None, Some("h1"), 3);
    let step = life.sees("h1", 1, 1);
    assert_eq!(actions(&step), [(Action::Rollback, "ann")]);
    life.is(Phase::Aborted, "h1", Some("h2"), None, 4);
    // The cluster agrees, and is brought back by something that knows nothing of it: not while the word stands.
    life.sights(Sighting { returned: returned(50), ..sighting("h1", "h1", &["h1", "h2"]) });
    life.sights(told.clone());
    life.is(Phase::Aborted, "h1", Some("h2"), None, 6);
    let message = life.rollout.message();
    assert!(message.contains("ann rolled back from it to h1"), "{message}");
    assert!(message.contains("tealgate promote shop --revision h2"), "{message}");
    // Whoever takes it away means it.
    life.sights(sighting("h2", "h2", &["h1", "h2"]));
    life.is(Phase::Promoted, "h2", None, Some("h1"), 7);
    assert!(!life.rollout.message().contains("rolled back"), "{}", life.rollout.message());
    // The same word is no new one.
    life.sights(told);
    life.is(Phase::Promoted, "h2", None, Some("h1"), 7);
    life.sights(Sighting { returned: returned(70), ..sighting("h2", "h2", &["h1", "h2"]) });
    life.is(Phase::Aborted, "h1", Some("h2"), None, 8);
}

#[test]
fn a_word_that_stands_keeps_nobody_from_a_newer_revision() {
    let mut life = Life::promoted();
    let told = |active: &str| Sighting { returned: returned(50), ..sighting(active, "h3", &["h1", "h2", "h3"]) };
    life.sights(told("h2"));
    life.is(Phase::Aborted, "h1", Some("h3"), None, 5);
    life.sights(told("h1"));
    life.sees("h3", 1, 1);
    life.sights(told("h3"));
    life.is(Phase::Promoted, "h3", None, Some("h1"), 6);
}

#[test]
fn once_a_person_has_to_approve_it_the_way_back_is_free() {
    let mut life = Life::promoted();
    let told = |active: &str, released| Sighting {
        returned: returned(50).map(|told| Returned { released, ..told }),
        ..sighting(active, "h2", &["h1", "h2"])
    };
    life.sights(told("h2", false));
    life.is(Phase::Aborted, "h1", Some("h2"), None, 4);
    life.sights(told("h1", false));
    life.sights(told("h1", true));
    life.sights(told("h2", true));
    life.is(Phase::Promoted, "h2", None, Some("h1"), 5);
    // And whoever begins then is not told to go back.
    let mut late = followed();
    late.sights(told("h2", true));
    late.sees("h1", 1, 1);
    late.sees("h2", 1, 1);
    late.is(Phase::Steady, "h2", None, None, 1);
}

#[test]
fn a_rollback_away_from_what_is_not_wanted_any_more_is_not_joined() {
    let mut life = Life::promoted();
    life.sights(sighting("h2", "h3", &["h1", "h2", "h3"]));
    life.sees("h3", 1, 1);
    life.sights(Sighting { returned: returned(50), ..sighting("h3", "h3", &["h1", "h2", "h3"]) });
    life.is(Phase::Promoted, "h3", None, Some("h2"), 5);
}

#[test]
fn a_flip_that_was_asked_for_is_ascribed_to_who_asked() {
    let mut life = followed();
    life.sights(sighting("h1", "h1", &["h1"]));
    life.sights(sighting("h1", "h2", &["h1", "h2"]));
    life.sees("h2", 1, 1);
    let asked = super::super::Asked { revision: rev("h2"), by: "ann".to_owned(), reason: "looks good".to_owned() };
    life.takes(Input::Asked(Some(asked))).expect("never refused");
    let step = life.sights(sighting("h2", "h2", &["h1", "h2"]));
    assert_eq!(actions(&step), [(Action::Promote, "ann")]);
    assert!(step.deeds[0].must_not_wait(), "it has happened already");
}

#[test]
fn a_pin_keeps_the_active_revision_until_it_is_taken_off() {
    let mut life = followed();
    life.sights(sighting("h1", "h1", &["h1"]));
    life.sights(sighting("h1", "h2", &["h1", "h2"]));
    life.sees("h2", 1, 1);
    life.obeys(Command::Pin { revision: rev("h1"), expires: None }).expect("h1 is active");
    life.sights(sighting("h2", "h2", &["h1", "h2"]));
    life.is(Phase::Previewing, "h1", Some("h2"), None, 2);
    life.obeys(Command::Unpin).expect("it is pinned");
    life.is(Phase::Promoted, "h2", None, Some("h1"), 3);
}

#[test]
fn a_canary_has_the_share_that_its_authority_says() {
    let mut life = followed();
    life.sights(sighting("h1", "h1", &["h1"]));
    let share = |weight| Sighting { weight: Some(percent(weight)), ..sighting("h1", "h2", &["h1", "h2"]) };
    life.sights(share(20));
    life.sees("h2", 1, 1);
    assert_eq!(life.rollout.weight(), percent(20));
    life.sights(share(0));
    assert_eq!(life.rollout.weight(), Weight::ZERO);
    life.sights(share(100));
    life.sights(Sighting { weight: Some(percent(0)), ..sighting("h2", "h2", &["h1", "h2"]) });
    life.is(Phase::Promoted, "h2", None, Some("h1"), 3);
}

#[test]
fn alarms_are_told_until_a_sighting_without_them() {
    let mut life = followed();
    let alarm = "Service shop-active has lost its hash".to_owned();
    life.sights(Sighting { alarms: vec![alarm.clone()], ..sighting("h1", "h1", &["h1"]) });
    assert!(life.rollout.message().starts_with(&alarm), "{}", life.rollout.message());
    life.sights(sighting("h1", "h1", &["h1"]));
    assert!(!life.rollout.message().contains(&alarm));
}

/// Whatever the order of sightings, orders and probes: what was followed once is followed, nothing is lost by it, and what
/// is left in the end is what was sighted last.
#[test]
fn whatever_is_sighted_in_whatever_order_nothing_is_lost_by_it() {
    let seed =
        std::env::var("TEALGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("TEALGATE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for walk in 0..300 {
        let mut life = followed();
        let mut last = sighting("h1", "h1", &["h1"]);
        life.sights(last.clone());
        for step in 0..60 {
            let before = life.rollout.clone();
            let told = format!("seed {seed}, walk {walk}, step {step}\nbefore {before:?}");
            life.now += rng.i64(1..100);
            match rng.u8(0..6) {
                0..3 => {
                    last = random_sighting(&mut rng, life.now);
                    life.sights(last.clone());
                    let told = format!("{told}\nsighting {last:?}");
                    nothing_is_lost(&before, &life.rollout, &told);
                    // What a flip in between has made a difference to gives way; then there is nothing left to do.
                    life.sights(last.clone());
                    let settled = life.rollout.clone();
                    let again = settled.sight(last.clone(), at(life.now));
                    assert_eq!((again.deeds, again.next), (Vec::new(), settled), "then it changes nothing\n{told}");
                }
                3 => {
                    let revision = ["h1", "h2", "h3", "h4"][rng.usize(0..4)];
                    // A pool has no ready endpoint that its source does not have.
                    let most = usize::from(serves(&life.rollout, &rev(revision)));
                    life.sees(revision, rng.usize(0..=most), 1);
                }
                4 => _ = life.rolls_back(),
                _ => _ = life.waits(rng.i64(0..400)),
            }
            assert!(life.rollout.generation() >= before.generation(), "generations only grow\n{told}");
            let (active, preview) = (life.rollout.active(), life.rollout.preview().map(|(revision, _)| revision));
            assert_ne!(Some(active), preview, "one role each\n{told}");
        }
        // The authority has the last word, once its revision can serve and nobody has returned from it.
        let last = sighting("h4", "h4", &["h1", "h4"]);
        life.sights(Sighting { active: Some(rev("h1")), ..last.clone() });
        life.sights(last);
        life.sees("h4", 1, 1);
        assert_eq!(life.rollout.active().as_str(), "h4", "seed {seed}, walk {walk}: {}", life.rollout.message());
        assert_eq!(life.rollout.drift(), None, "seed {seed}, walk {walk}");
    }
}

fn serves(rollout: &Rollout, revision: &Revision) -> bool {
    rollout.endpoints(revision).iter().any(|endpoint| endpoint.standing != Standing::Unready)
}

fn nothing_is_lost(before: &Rollout, after: &Rollout, told: &str) {
    let served = serves(before, before.active());
    assert!(!served || serves(after, after.active()), "live traffic keeps an endpoint\n{told}");
    let flipped = before.active() != after.active();
    assert!(!flipped || after.readiness(after.active()).ready > 0, "never into a hole\n{told}");
}

fn random_sighting(rng: &mut fastrand::Rng, now: i64) -> Sighting {
    let names = ["h1", "h2", "h3", "h4"];
    let one = |rng: &mut fastrand::Rng| rev(names[rng.usize(0..4)]);
    let maybe = |rng: &mut fastrand::Rng| rng.bool().then(|| rev(names[rng.usize(0..4)]));
    let standings = [Standing::Ready, Standing::Ready, Standing::Leaving, Standing::Unready];
    let mut revisions = BTreeMap::new();
    for name in names {
        let endpoints = if rng.u8(0..4) == 0 { Vec::new() } else { endpoints(name, standings[rng.usize(0..4)]) };
        if rng.u8(0..5) > 0 {
            revisions.insert(rev(name), Sighted { endpoints, labels: BTreeMap::new() });
        }
    }
    let returned = (rng.u8(0..4) == 0).then(|| Returned {
        to: one(rng),
        from: one(rng),
        at: at(rng.i64(0..=now)),
        by: "bob".to_owned(),
        reason: String::new(),
        released: rng.bool(),
    });
    Sighting {
        revisions,
        active: maybe(rng),
        preview: maybe(rng),
        aborted: rng.bool(),
        weight: rng.bool().then(|| percent(rng.u8(0..=100))),
        previous: maybe(rng),
        previous_until: rng.bool().then(|| at(now + rng.i64(1..1000))),
        returned,
        alarms: Vec::new(),
    }
}
