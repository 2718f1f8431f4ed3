//! Rollouts as they stand in the moments that matter, and what each command makes of them.

use super::*;

/// h2 waits for approval; h1 is stable and active.
fn paused() -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "shop", "namespace": "demo", "uid": "u1", "generation": 7, "resourceVersion": "100"},
        "spec": {
            "strategy": {"blueGreen": {"activeService": "shop-active", "autoPromotionEnabled": false}},
            "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"image": "v2"}]}},
        },
        "status": {
            "observedGeneration": "7", "currentPodHash": "h2", "stableRS": "h1",
            "blueGreen": {"activeSelector": "h1", "previewSelector": "h2"},
            "pauseConditions": [{"reason": "BlueGreenPause", "startTime": "2026-01-01T00:00:00Z"}],
            "controllerPause": true, "phase": "Paused", "message": "BlueGreenPause",
        },
    })
}

fn seen(changes: Value) -> Seen {
    let mut rollout = paused();
    json_merge(&mut rollout, &changes);
    Seen::of(rollout).unwrap()
}

/// RFC 7396.
fn json_merge(target: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        *target = changes.clone();
        return;
    };
    for (key, change) in changes {
        match change {
            Value::Null => _ = target.as_object_mut().unwrap().shift_remove(key),
            change => json_merge(&mut target[key.as_str()], change),
        }
    }
}

fn sent(next: Next) -> Vec<String> {
    match next {
        Next::Send(calls) => calls.iter().map(Call::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn refused(next: Next) -> RefusalCode {
    match next {
        Next::Refuse(refusal) => {
            assert!(!refusal.detail.is_empty() && !refusal.hint.is_empty(), "{refusal:?}");
            refusal.code
        }
        other => panic!("{other:?}"),
    }
}

fn waits(next: Next) -> String {
    match next {
        Next::Wait(why) => why,
        other => panic!("{other:?}"),
    }
}

const STATUS: &str = r#"patch rollouts/shop/status in demo: {"metadata":{"resourceVersion":"100"},"status":"#;

#[test]
fn a_promotion_ends_the_pause() {
    let calls = sent(promote(&seen(json!({})), false));
    assert_eq!(calls, [format!(r#"{STATUS}{{"pauseConditions":null}}}}"#)]);
    let by_hand_too = sent(promote(&seen(json!({"spec": {"paused": true}})), false));
    assert_eq!(by_hand_too[1], r#"patch rollouts/shop in demo: {"spec":{"paused":false}}"#);
    let full = sent(promote(&seen(json!({})), true));
    assert_eq!(full, [format!(r#"{STATUS}{{"promoteFull":true}}}}"#)]);
}

#[test]
fn a_timed_pause_is_not_cleared_since_it_would_begin_anew() {
    let timed =
        json!({"spec": {"strategy": {"blueGreen": {"autoPromotionEnabled": null, "autoPromotionSeconds": 60}}}});
    assert_eq!(sent(promote(&seen(timed.clone()), false)), [format!(r#"{STATUS}{{"promoteFull":true}}}}"#)]);
    assert_eq!(costs(&seen(timed.clone()), false), None);
    let mut judged = timed;
    judged["spec"]["strategy"]["blueGreen"]["postPromotionAnalysis"] = json!({"templates": []});
    assert!(costs(&seen(judged), false).unwrap().contains("skips the analysis"));
}

#[test]
fn where_the_plugin_is_silent_there_is_something_to_wait_for() {
    let rolling = json!({"status": {
        "pauseConditions": null, "controllerPause": null, "phase": "Progressing", "message": "more replicas need to be updated",
    }});
    let why = waits(promote(&seen(rolling.clone()), false));
    assert!(why.contains("not come to its pause") && why.contains("more replicas need to be updated"), "{why}");
    let mut by_itself = rolling;
    by_itself["spec"] = json!({"strategy": {"blueGreen": {"autoPromotionEnabled": true}}});
    assert!(waits(promote(&seen(by_itself), false)).contains("promoted by itself"));
    let resumed = json!({"status": {"pauseConditions": null}});
    assert!(waits(promote(&seen(resumed), false)).contains("resumed"));
    assert!(waits(promote(&seen(json!({"metadata": {"generation": 8}})), false)).contains("controller"));
    assert!(waits(promote(&seen(json!({"status": {"promoteFull": true}})), false)).contains("in full"));
}

#[test]
fn what_cannot_be_promoted_is_refused_with_what_would_help() {
    let aborted = json!({"status": {"abort": true, "pauseConditions": null, "phase": "Degraded"}});
    assert_eq!(refused(promote(&seen(aborted), false)), RefusalCode::Aborted);
    let stuck = json!({"status": {
        "pauseConditions": null, "controllerPause": null, "phase": "Degraded", "message": "ProgressDeadlineExceeded: x",
    }});
    assert_eq!(refused(promote(&seen(stuck), false)), RefusalCode::NotReady);
    assert_eq!(promote(&seen(json!({"status": {"blueGreen": {"activeSelector": "h2"}}})), false), Next::Done);
}

#[test]
fn a_canary_goes_on_by_one_step() {
    let canary = |status: Value| {
        let steps = json!([{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
        let mut changes = json!({
            "spec": {"strategy": {"blueGreen": null, "canary": {"steps": steps}}},
            "status": {"currentStepIndex": 1, "blueGreen": null},
        });
        json_merge(&mut changes["status"], &status);
        changes["status"]["blueGreen"] = Value::Null;
        seen(changes)
    };
    assert_eq!(sent(promote(&canary(json!({})), false)), [format!(r#"{STATUS}{{"pauseConditions":null}}}}"#)]);
    let full = sent(promote(&canary(json!({})), true));
    assert_eq!(full, [format!(r#"{STATUS}{{"promoteFull":true}}}}"#)]);
}

#[test]
fn an_abort_is_there_when_the_controller_says_so() {
    assert_eq!(sent(abort(&seen(json!({})))), [format!(r#"{STATUS}{{"abort":true}}}}"#)]);
    let asked = json!({"status": {"abort": true}});
    assert!(waits(abort(&seen(asked))).contains("being given up"));
    let given_up = json!({"status": {"abort": true, "phase": "Degraded", "message": "RolloutAborted: by hand"}});
    assert_eq!(abort(&seen(given_up.clone())), Next::Done);
    let mut judged = given_up;
    judged["status"]["blueGreen"] = json!({"activeSelector": "h2"});
    assert!(waits(abort(&seen(judged))).contains("pods of the revision it leaves"));
    assert_eq!(refused(abort(&seen(json!({"status": {"stableRS": "h2"}})))), RefusalCode::NoCandidate);
    assert_eq!(refused(abort(&seen(json!({"status": {"promoteFull": true}})))), RefusalCode::InUse);
}

#[test]
fn only_what_was_given_up_is_taken_up_again() {
    assert_eq!(refused(retry(&seen(json!({})), false)), RefusalCode::NotAborted);
    let given_up = json!({"status": {"abort": true, "message": "RolloutAborted: by hand"}});
    assert_eq!(sent(retry(&seen(given_up), false)), [format!(r#"{STATUS}{{"abort":false}}}}"#)]);
    let not_yet = json!({"status": {"message": "RolloutAborted: by hand"}});
    assert!(waits(retry(&seen(not_yet), true)).contains("RolloutAborted"));
    assert_eq!(retry(&seen(json!({})), true), Next::Done);
}

#[test]
fn only_a_retry_of_what_is_still_up_and_would_be_asked_about_is_a_promotion() {
    let aborted = || json!({"status": {"abort": true, "abortedAt": "2026-01-01T00:00:00Z", "pauseConditions": null}});
    let set = |replicas: u32, until: Option<&str>| json!({"metadata": {"annotations": {DEADLINE: until}}, "spec": {"replicas": replicas}});
    let up = set(2, Some("2026-01-01T00:00:30Z"));
    let refusal = retry_promotes(&seen(aborted()), Some(&up)).expect("it would promote");
    assert!(refusal.code == RefusalCode::GateFailed && refusal.hint.contains("2026-01-01T00:00:30Z"), "{refusal:?}");
    for safe in [None, Some(set(0, Some("2026-01-01T00:00:30Z"))), Some(set(2, None))] {
        assert_eq!(retry_promotes(&seen(aborted()), safe.as_ref()), None, "{safe:?}");
    }
    // Where nobody would be asked anyway, nothing is lost.
    let mut by_itself = aborted();
    by_itself["spec"] = json!({"strategy": {"blueGreen": {"autoPromotionEnabled": true}}});
    assert_eq!(retry_promotes(&seen(by_itself.clone()), Some(&up)), None);
    by_itself["spec"]["strategy"]["blueGreen"]["prePromotionAnalysis"] = json!({"templates": []});
    assert!(retry_promotes(&seen(by_itself), Some(&up)).is_some());
    // Before the controller has given it up it cannot be told.
    assert!(waits(given_up(&seen(json!({"status": {"abort": true}})))).contains("being given up"));
    assert_eq!(given_up(&seen(aborted())), Next::Done);
}

#[test]
fn a_pause_by_hand_is_there_when_it_was_taken_in() {
    assert_eq!(sent(pause(&seen(json!({})), true)), [r#"patch rollouts/shop in demo: {"spec":{"paused":true}}"#]);
    assert!(
        waits(pause(&seen(json!({"spec": {"paused": true}, "metadata": {"generation": 8}})), true))
            .contains("controller")
    );
    assert_eq!(pause(&seen(json!({"spec": {"paused": true}})), true), Next::Done);
    assert_eq!(pause(&seen(json!({})), false), Next::Done);
}

fn of_h1() -> Value {
    json!({"spec": {"template": {
        "metadata": {"creationTimestamp": null, "labels": {"app": "shop", "rollouts-pod-template-hash": "h1"}},
        "spec": {"containers": [{"image": "v1"}]},
    }}})
}

#[test]
fn the_stable_template_is_put_back_where_templates_come_from() {
    let Next::Send(calls) = restore(&seen(json!({})), Some(&of_h1()), None) else { panic!("nothing is sent") };
    let template = json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"image": "v1"}]}});
    assert_eq!(calls[0].object, Object::rollout("demo", "shop"));
    assert_eq!(
        calls[0].body,
        json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": "100"},
            {"op": "replace", "path": "/spec/template", "value": template},
        ])
    );
    let back = json!({"spec": {"template": {"spec": {"containers": [{"image": "v1"}]}}}});
    assert!(waits(restore(&seen(back), Some(&of_h1()), None)).contains("not taken in"));
    assert_eq!(restore(&seen(json!({"status": {"currentPodHash": "h1"}})), None, None), Next::Done);
    assert_eq!(refused(restore(&seen(json!({})), None, None)), RefusalCode::AuthorityRefused);
}

#[test]
fn a_template_that_a_deployment_holds_is_put_back_there() {
    let by_reference =
        |kind: &str| seen(json!({"spec": {"workloadRef": {"kind": kind, "name": "shop"}, "template": null}}));
    let deployment = json!({"metadata": {"resourceVersion": "55"}, "spec": {"template": {"spec": {}}}});
    let Next::Send(calls) = restore(&by_reference("Deployment"), Some(&of_h1()), Some(&deployment)) else {
        panic!("nothing is sent")
    };
    assert_eq!(calls[0].object, Object::deployment("demo", "shop"));
    assert_eq!(calls[0].body[0]["value"], "55");
    assert_eq!(refused(restore(&by_reference("Deployment"), Some(&of_h1()), None)), RefusalCode::AuthorityRefused);
    assert_eq!(refused(restore(&by_reference("PodTemplate"), Some(&of_h1()), None)), RefusalCode::AuthorityRefused);
}
