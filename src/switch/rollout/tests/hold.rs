//! Holds and maintenance, by table.

use super::*;

/// What each deed did, and who is named for it.
fn deeds(step: &Step) -> Vec<(Action, &str)> {
    step.deeds.iter().map(|deed| (deed.action, deed.by.as_str())).collect()
}

#[test]
fn a_hold_changes_no_role_and_a_flip_leaves_it_on() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    life.sees("green", 2, 2);
    assert_eq!(deeds(&life.obeys(hold()).expect("none is on")), [(Action::Hold, "ann")]);
    life.is(Phase::Previewing, "blue", Some("green"), None, 1);
    let holding = life.rollout.holding().cloned().expect("it is on");
    assert_eq!((holding.deadline, holding.promotes()), (at(5), None));
    assert!(life.rollout.message().starts_with("new requests are held until 00:00:05Z, by ann; candidate green"));
    assert_eq!(life.obeys(hold()), Err(RefusalCode::Held));
    life.promotes().expect("a hold forbids no flip");
    assert_eq!(life.rollout.holding(), Some(&holding));
    assert_eq!(deeds(&life.obeys(Command::Resume).expect("it is on")), [(Action::Resume, "ann")]);
    assert_eq!(life.obeys(Command::Resume), Err(RefusalCode::NotHeld));
}

#[test]
fn a_hold_ends_by_itself_and_says_why() {
    let mut life = Life::begins(wanted("blue", None, &["blue"]));
    life.obeys(hold()).expect("none is on");
    let step = life.takes(Input::HoldOver(HoldEnd::Aged)).expect("never refused");
    assert_eq!(deeds(&step), [(Action::Resume, "tealgate")]);
    assert_eq!(step.deeds[0].why_resumed(), "it has lasted for the 5 s it may");
    let step = life.takes(Input::HoldOver(HoldEnd::Aged)).expect("never refused");
    assert_eq!((deeds(&step), step.next.holding()), (vec![], None), "there is none any more");
}

#[test]
fn a_promotion_with_a_hold_flips_when_the_pool_is_empty_and_ends_the_hold() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
    assert_eq!(life.obeys(promote_held()), Err(RefusalCode::NotReady), "nobody waits for what is refused anyway");
    life.sees("green", 2, 2);
    let step = life.obeys(promote_held()).expect("its gates hold");
    assert_eq!(deeds(&step), [(Action::Hold, "ann")]);
    life.is(Phase::Previewing, "blue", Some("green"), None, 1);
    assert_eq!(life.promotes(), Err(RefusalCode::Held), "no other goes before it");
    let step = life.takes(Input::HoldOver(HoldEnd::Emptied)).expect("never refused");
    assert_eq!(deeds(&step), [(Action::Promote, "ann")]);
    assert_eq!((step.deeds[0].reason.as_str(), step.next.holding()), ("because", None));
    life.is(Phase::Promoted, "green", None, Some("blue"), 2);
}

#[test]
fn a_promotion_whose_pool_does_not_empty_moves_nothing() {
    for (how, why) in [
        (HoldEnd::Aged, "blue was not empty within 5 s"),
        (HoldEnd::Failed("no disk".to_owned()), "no disk"),
        // Its gates no longer hold by then.
        (HoldEnd::Emptied, "green has 0 of 2 endpoints ready, and 1 are wanted"),
    ] {
        let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green"]));
        life.sees("green", 2, 2);
        life.obeys(promote_held()).expect("its gates hold");
        if how == HoldEnd::Emptied {
            life.sees("green", 0, 2);
        }
        let step = life.takes(Input::HoldOver(how)).expect("never refused");
        assert_eq!((deeds(&step), step.deeds[0].why_resumed()), (vec![(Action::Resume, "tealgate")], why.to_owned()));
        assert_eq!((life.rollout.active().as_str(), life.rollout.holding()), ("blue", None));
    }
}

#[test]
fn a_promotion_that_waits_falls_with_the_roles_it_was_asked_for() {
    let back = |life: &mut Life| life.obeys(Command::Rollback { to: Some(rev("red")) });
    let other = |life: &mut Life| life.deploys("teal");
    let abort = |life: &mut Life| life.obeys(Command::Abort { only: None });
    type Change<'a> = &'a dyn Fn(&mut Life) -> Result<Step, RefusalCode>;
    let changes: [Change<'_>; 3] = [&back, &other, &abort];
    for change in changes {
        let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green", "red"]));
        life.sees("green", 2, 2);
        life.sees("red", 2, 2);
        life.obeys(promote_held()).expect("its gates hold");
        let step = change(&mut life).expect("a promotion that waits forbids nothing else");
        let ended = step.deeds.last().expect("the hold has ended");
        assert_eq!((ended.action, ended.by.as_str(), step.next.holding()), (Action::Resume, "tealgate", None));
        let before = life.rollout.clone();
        assert_eq!(life.takes(Input::HoldOver(HoldEnd::Emptied)).expect("never refused").next, before);
    }
}

#[test]
fn the_source_waits_for_a_promotion_that_waits() {
    let mut life = Life::begins(wanted("blue", Some("green"), &["blue", "green", "red"]));
    life.sees("green", 2, 2);
    life.sees("red", 2, 2);
    life.obeys(promote_held()).expect("its gates hold");
    life.follows(wanted("red", Some("green"), &["blue", "green", "red"]));
    assert_eq!(life.rollout.active().as_str(), "blue");
    life.takes(Input::HoldOver(HoldEnd::Aged)).expect("never refused");
    life.is(Phase::Previewing, "red", Some("green"), Some("blue"), 2);
}

#[test]
fn maintenance_outlives_a_restart_and_a_hold_does_not() {
    let mut life = Life::begins(wanted("blue", None, &["blue"]));
    assert_eq!(life.obeys(Command::Reopen), Err(RefusalCode::NotInMaintenance));
    let maintain = |seconds| Command::Maintain { retry_after: Duration::from_secs(seconds) };
    life.obeys(maintain(60)).expect("always");
    life.now = 7;
    life.obeys(maintain(120)).expect("by other terms");
    life.obeys(hold()).expect("none is on");
    let json = serde_json::to_string(life.rollout.kept()).expect("serialises");
    life.rollout = Rollout::restored(serde_json::from_str(&json).expect("reads back"));
    let maintenance = life.rollout.maintenance().expect("it is on");
    assert_eq!((maintenance.since, maintenance.retry_after_seconds, maintenance.by.as_str()), (at(0), 120, "ann"));
    assert_eq!(life.rollout.holding(), None);
    assert!(life.rollout.message().starts_with("live traffic gets the maintenance page, by ann; "));
    life.obeys(Command::Reopen).expect("it is on");
    assert_eq!(life.rollout.maintenance(), None);
}

#[test]
fn a_state_that_was_kept_before_there_was_maintenance_is_read() {
    let life = Life::begins(wanted("blue", None, &["blue"]));
    let mut kept = serde_json::to_value(life.rollout.kept()).expect("serialises");
    assert_eq!(kept.as_object_mut().expect("an object").remove("maintenance"), Some(serde_json::Value::Null));
    let restored = Rollout::restored(serde_json::from_value(kept).expect("reads back"));
    assert_eq!(restored.maintenance(), None);
}
