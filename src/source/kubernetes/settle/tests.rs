//! Situations between a rollback and the cluster, and the one move that is right in each.

use super::{
    super::{
        call::Call,
        fake::{merge, revision},
    },
    *,
};

/// h2 was promoted in full; h1 is kept for a rollback.
fn promoted() -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "shop", "namespace": "demo", "uid": "u1", "generation": 7, "resourceVersion": "100", "annotations": {}},
        "spec": {
            "strategy": {"blueGreen": {"activeService": "shop-active", "autoPromotionEnabled": false}},
            "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"image": "v2"}]}},
        },
        "status": {
            "observedGeneration": "7", "currentPodHash": "h2", "stableRS": "h2",
            "blueGreen": {"activeSelector": "h2", "previewSelector": "h2"}, "phase": "Healthy",
        },
    })
}

struct Case {
    rollout: Value,
    service: Option<&'static str>,
    active: &'static str,
    ours: Option<Ours>,
    told: Option<Returned>,
    tries: u32,
    ready: usize,
    set: Option<Value>,
    after: u64,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn told() -> Returned {
    let (by, reason) = ("ann".into(), "errors".into());
    Returned { to: revision("h1"), from: revision("h2"), at: at(0), by, reason, released: false }
}

fn ours(second: i64) -> Ours {
    Ours { at: at(second), by: "ann".into(), reason: "errors".into() }
}

fn of_h1(deadline: Option<&str>, replicas: u32) -> Value {
    json!({
        "metadata": {"name": "shop-h1", "annotations": {DEADLINE: deadline}},
        "spec": {"replicas": replicas, "template": {
            "metadata": {"labels": {"app": "shop", "rollouts-pod-template-hash": "h1"}},
            "spec": {"containers": [{"image": "v1"}]},
        }},
        "status": {"replicas": replicas},
    })
}

/// Ann's rollback to h1 holds here and is told, a second ago; the cluster has h2.
fn case() -> Case {
    Case {
        rollout: promoted(),
        service: Some("h2"),
        active: "h1",
        ours: Some(ours(0)),
        told: Some(told()),
        tries: 0,
        ready: 1,
        set: Some(of_h1(None, 1)),
        after: 1,
    }
}

impl Case {
    fn changed(mut self, changes: Value) -> Self {
        merge(&mut self.rollout, &changes);
        self
    }

    fn next(self) -> Move {
        let seen = Seen::of(self.rollout).unwrap();
        decide(&Situation {
            seen: &seen,
            service: self.service.map(revision),
            told: self.told,
            known_for: Duration::from_secs(self.after),
            tries: self.tries,
            active: revision(self.active),
            ready: self.ready,
            ours: self.ours,
            replica_set: self.set.as_ref(),
            held: None,
            may_extend: true,
            now: at(self.after as i64),
        })
    }
}

fn pushed(next: Move) -> Vec<String> {
    match next {
        Move::Push(calls) => calls.iter().map(Call::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn stuck(next: Move) -> String {
    match next {
        Move::Stuck(why) => why,
        other => panic!("{other:?}"),
    }
}

fn announced(next: Move) -> Returned {
    match next {
        Move::Announce(call) => {
            let annotations = &call.body["metadata"]["annotations"];
            assert_eq!(annotations[TRIES], Value::Null);
            annotation::read(annotations[annotation::RETURNED].as_str().unwrap(), at(60)).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rollback_here_is_told_first() {
    assert_eq!(announced(Case { told: None, ..case() }.next()), told());
    // One after another: the cluster is told from where *it* is, and an older word is replaced.
    let further = Case { active: "h0", ours: Some(ours(5)), ..case() };
    assert_eq!(announced(further.next()), Returned { to: revision("h0"), at: at(5), ..told() });
    // Back again to what the cluster has: that is told as well, since others obeyed the first.
    let back = Case { active: "h2", ours: Some(ours(5)), ..case() };
    assert_eq!(announced(back.next()), Returned { to: revision("h2"), at: at(5), ..told() });
    // The same again, after the cluster had agreed and h2 was promoted once more.
    let again = Case { ours: Some(ours(300)), after: 301, ..case() };
    assert_eq!(announced(again.next()), Returned { at: at(300), ..told() });
}

#[test]
fn a_replica_that_obeyed_tells_nobody() {
    let obeyed = Case { ours: Some(ours(2)), after: 3, ..case() };
    assert!(!matches!(obeyed.next(), Move::Announce(_)));
    let older = Case { ours: Some(ours(-60)), ..case() };
    assert!(!matches!(older.next(), Move::Announce(_)));
    assert_eq!(Case { ours: None, told: None, active: "h2", ..case() }.next(), Move::Rest);
    // A rollback that the cluster itself was ahead of.
    assert_eq!(Case { told: None, service: Some("h1"), ..case() }.next(), Move::Rest);
}

#[test]
fn after_a_full_promotion_the_template_is_put_back_counted_and_then_promoted_in_full() {
    let Move::Push(calls) = case().next() else { panic!("nothing is pushed") };
    assert_eq!(calls[0].body[0], json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "100"}));
    assert_eq!(calls[0].body[1]["value"]["spec"]["containers"][0]["image"], "v1");
    let count = json!({"op": "add", "path": "/metadata/annotations/tealgate.dev~1returned-tries", "value": "1"});
    assert_eq!(calls[0].body[2], count);
    let back =
        json!({"metadata": {"generation": 8}, "spec": {"template": {"spec": {"containers": [{"image": "v1"}]}}}});
    assert_eq!(case().changed(back.clone()).next(), Move::Wait);
    let taken_in = json!({"status": {"observedGeneration": "8", "currentPodHash": "h1", "stableRS": "h2"}});
    let full = case().changed(back.clone()).changed(taken_in.clone());
    assert!(pushed(full.next())[0].contains(r#""promoteFull":true"#));
    let under_way =
        case().changed(back.clone()).changed(taken_in.clone()).changed(json!({"status": {"promoteFull": true}}));
    assert_eq!(under_way.next(), Move::Wait);
    // A template that differs by what it defaults to makes another hash, and is as good.
    let other_hash =
        case().changed(back.clone()).changed(taken_in.clone()).changed(json!({"status": {"currentPodHash": "h9"}}));
    assert!(pushed(other_hash.next())[0].contains("promoteFull"));
    let paused = case().changed(back).changed(taken_in).changed(json!({"spec": {"paused": true}}));
    assert!(stuck(paused.next()).contains("unpause"));
}

#[test]
fn while_it_is_judged_an_abort_is_enough_unless_the_controller_hangs() {
    let judged = json!({"status": {"stableRS": "h1"}});
    assert!(pushed(case().changed(judged).next())[0].contains(r#""abort":true"#));
    let aborted = json!({"status": {"stableRS": "h1", "abort": true}});
    assert_eq!(case().changed(aborted.clone()).next(), Move::Wait);
    let hangs = Case { after: 25, ..case() }.changed(aborted);
    assert!(pushed(hangs.next())[0].contains("/spec/template"));
}

#[test]
fn what_puts_the_template_back_twice_is_stronger_and_told_what_to_do() {
    let git = json!({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "x"}}});
    let why = stuck(Case { tries: 2, ..case() }.changed(git).next());
    assert!(
        why.contains("Argo CD") && why.contains("v1") && why.contains("in Git") && why.contains("promote h2"),
        "{why}"
    );
}

#[test]
fn a_newer_revision_under_way_is_not_fought() {
    let newer = json!({"status": {"currentPodHash": "h3"}});
    let why = stuck(case().changed(newer).next());
    assert!(why.contains("h3 is being rolled out"), "{why}");
}

#[test]
fn what_was_returned_to_is_kept_alive() {
    let soon = Case { set: Some(of_h1(Some("2026-01-01T00:00:20Z"), 1)), ..case() };
    match soon.next() {
        Move::Extend(call) => {
            let patch = r#"patch replicasets/shop-h1 in demo: {"metadata":{"annotations":{"scale-down-deadline":"2026-01-01T00:15:01Z"}}}"#;
            assert_eq!(call.to_string(), patch);
        }
        other => panic!("{other:?}"),
    }
    let far = Case { set: Some(of_h1(Some("2026-01-01T01:00:00Z"), 1)), ..case() };
    assert!(matches!(far.next(), Move::Push(_)));
}

#[test]
fn a_rollback_to_pods_that_are_gone_ends_loudly() {
    for set in [None, Some(of_h1(None, 0))] {
        match (Case { set, ready: 0, ..case() }).next() {
            Move::GiveWay(to, why) => {
                assert_eq!(to, revision("h2"));
                assert!(why.contains("h1") && why.contains("gone"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    // While they answer they are not gone, whatever is said of them.
    assert!(!matches!(Case { set: Some(of_h1(None, 0)), ..case() }.next(), Move::GiveWay(..)));
    assert!(!matches!(Case { ready: 0, ..case() }.next(), Move::GiveWay(..)));
}

#[test]
fn what_is_settled_or_overtaken_is_taken_back() {
    let agreed = || Case { service: Some("h1"), ..case() };
    assert_eq!(agreed().next(), Move::Linger);
    assert!(matches!(Case { after: 901, ..agreed() }.next(), Move::Forget(_)));
    let overtaken = Case { service: Some("h3"), active: "h3", ours: None, ..case() };
    match overtaken.next() {
        Move::Forget(call) => {
            assert_eq!(call.body["metadata"]["resourceVersion"], "100");
            assert_eq!(call.body["metadata"]["annotations"][annotation::RETURNED], Value::Null);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_waits_for_a_person_again_is_released_and_told_what_to_do() {
    let offered = || {
        Case { service: Some("h1"), ..case() }.changed(json!({"status": {
            "stableRS": "h1", "blueGreen": {"activeSelector": "h1"}, "controllerPause": true,
            "pauseConditions": [{"reason": "BlueGreenPause", "startTime": "2026-01-01T00:00:00Z"}],
        }}))
    };
    match offered().next() {
        Move::Release(call) => {
            assert_eq!(call.body["metadata"]["resourceVersion"], "100");
            let value = call.body["metadata"]["annotations"][annotation::RETURNED].as_str().unwrap();
            assert_eq!(annotation::read(value, at(60)).unwrap(), Returned { released: true, ..told() });
        }
        other => panic!("{other:?}"),
    }
    let released = || Some(Returned { released: true, ..told() });
    let why = stuck(Case { told: released(), ..offered() }.next());
    assert!(why.contains("in Git") && why.contains("v1") && why.contains("promote h2"), "{why}");
    // Approved: that is meant, also where it has not been followed yet.
    assert!(matches!(Case { told: released(), active: "h2", ours: None, ..case() }.next(), Move::Forget(_)));
    assert!(matches!(Case { told: released(), ours: Some(ours(60)), ..case() }.next(), Move::Forget(_)));
    // What the controller promotes by itself asks nobody.
    let by_itself = json!({"spec": {"strategy": {"blueGreen": {"autoPromotionEnabled": true}}}});
    assert_eq!(offered().changed(by_itself).next(), Move::Linger);
    assert!(matches!(Case { after: 901, told: released(), ..offered() }.next(), Move::Forget(_)));
}

#[test]
fn a_replica_that_could_not_obey_has_no_say() {
    assert_eq!(Case { active: "h2", ours: None, ..case() }.next(), Move::Wait);
    assert_eq!(Case { service: None, ..case() }.next(), Move::Wait);
}
