//! A canary, with weights in its status and without.

use super::*;

/// h1 is stable, h2 the candidate, by these steps.
fn canary(steps: Value, status: Value) -> World {
    let spec = json!({ "strategy": { "canary": {
        "stableService": "shop-stable", "canaryService": "shop-canary", "steps": steps,
    } } });
    let mut whole = json!({ "currentPodHash": "h2", "stableRS": "h1" });
    merge(&mut whole, status);
    World {
        rollout: Some(rollout(spec, whole)),
        services: vec![service("shop-stable", json!({ "app": "shop", "rollouts-pod-template-hash": "h1" }))],
        replica_sets: vec![set("h1", 1, 3), set("h2", 2, 1)],
        pods: vec![pod("h1", "10.0.0.1"), pod("h1", "10.0.0.2"), pod("h1", "10.0.0.3"), pod("h2", "10.0.0.4")],
        ..World::of(Objects::Rollout("shop".to_owned()))
    }
}

fn weights(canary: (&str, i32), stable: (&str, i32)) -> Value {
    json!({ "canary": { "weights": {
        "canary": { "weight": canary.1, "serviceName": "shop-canary", "podTemplateHash": canary.0 },
        "stable": { "weight": stable.1, "serviceName": "shop-stable", "podTemplateHash": stable.0 },
        "verified": true,
    } } })
}

/// Active, candidate, its share, and whether it was given up.
fn split(world: &World) -> (String, Option<String>, u8, bool) {
    let sighting = world.sight();
    let (active, preview, aborted) = roles(&sighting);
    let weight = sighting.weight.expect("a canary has a share").percent();
    (active.unwrap_or_default().to_owned(), preview.map(str::to_owned), weight, aborted)
}

fn told(active: &str, preview: Option<&str>, weight: u8, aborted: bool) -> (String, Option<String>, u8, bool) {
    (active.to_owned(), preview.map(str::to_owned), weight, aborted)
}

#[test]
fn the_weights_in_the_status_are_followed_by_hash() {
    for (status, expected) in [
        (weights(("h2", 20), ("h1", 80)), told("h1", Some("h2"), 20, false)),
        (weights(("h2", 0), ("h1", 100)), told("h1", Some("h2"), 0, false)),
        (weights(("h2", 100), ("h1", 0)), told("h1", Some("h2"), 100, false)),
        (weights(("h2", 15), ("h1", 35)), told("h1", Some("h2"), 30, false)),
        (weights(("h2", 1), ("h1", 999)), told("h1", Some("h2"), 1, false)),
        // The weights are one document: the status may say more already.
        (
            {
                let mut status = weights(("h2", 100), ("h1", 0));
                status["stableRS"] = "h2".into();
                status
            },
            told("h1", Some("h2"), 100, false),
        ),
    ] {
        assert_eq!(split(&canary(json!([]), status.clone())), expected, "{status}");
    }
}

#[test]
fn a_share_that_is_rounded_is_told() {
    let alarms = |canary_weight, stable_weight| {
        canary(json!([]), weights(("h2", canary_weight), ("h1", stable_weight))).sight().alarms
    };
    assert_eq!(alarms(1, 999), ["the canary's weight 1 of 1000 is no whole percentage: 1 % is used"]);
    assert_eq!(alarms(333, 667).len(), 1);
    for (canary_weight, stable_weight) in [(20, 80), (15, 35), (50, 950), (0, 1000), (1000, 0)] {
        assert_eq!(alarms(canary_weight, stable_weight), [""; 0], "{canary_weight} of both");
    }
}

#[test]
fn experiments_have_their_share_and_it_is_nobody_elses() {
    let mut status = weights(("h2", 20), ("h1", 60));
    status["canary"]["weights"]["additional"] = json!([{ "weight": 20, "podTemplateHash": "h9" }]);
    assert_eq!(split(&canary(json!([]), status)).2, 20);
}

#[test]
fn at_the_end_the_candidate_is_stable() {
    let mut status = weights(("h2", 0), ("h2", 100));
    status["stableRS"] = "h2".into();
    let world = canary(json!([]), status);
    assert_eq!(split(&world), told("h2", None, 0, false));
    assert_eq!(world.sight().previous.as_ref().map(Revision::as_str), Some("h1"));
}

#[test]
fn an_abort_takes_the_share_away_at_once() {
    let mut status = weights(("h2", 20), ("h1", 80));
    status["abort"] = true.into();
    assert_eq!(split(&canary(json!([]), status)), told("h1", Some("h2"), 0, true));
}

#[test]
fn the_share_of_an_overtaken_candidate_is_not_the_new_ones() {
    let mut status = weights(("h2", 20), ("h1", 80));
    status["currentPodHash"] = "h3".into();
    assert_eq!(split(&canary(json!([]), status)), told("h1", Some("h3"), 0, false));
}

#[test]
fn without_weights_the_steps_tell_the_share() {
    let steps = json!([{ "setWeight": 10 }, { "pause": {} }, { "setWeight": 50 }, { "pause": { "duration": 60 } }]);
    for (index, weight) in
        [(json!(null), 10), (json!(0), 10), (json!(1), 10), (json!(2), 50), (json!(3), 50), (json!(4), 100)]
    {
        let world = canary(steps.clone(), json!({ "currentStepIndex": index }));
        assert_eq!(split(&world), told("h1", Some("h2"), weight, false), "{index}");
    }
    let paused_first = canary(json!([{ "pause": {} }, { "setWeight": 50 }]), json!({ "currentStepIndex": 0 }));
    assert_eq!(split(&paused_first).2, 0);
    let aborted = canary(steps.clone(), json!({ "currentStepIndex": 2, "abort": true }));
    assert_eq!(split(&aborted), told("h1", Some("h2"), 0, true));
    let through = canary(steps, json!({ "currentStepIndex": 4, "stableRS": "h2" }));
    assert_eq!(split(&through), told("h2", None, 0, false));
}

#[test]
fn a_step_is_a_share_of_what_all_traffic_weighs() {
    let mut world = canary(json!([{ "setWeight": 50 }]), json!({}));
    let routing = json!({ "spec": { "strategy": { "canary": { "trafficRouting": { "maxTrafficWeight": 1000 } } } } });
    world.patch(routing);
    assert_eq!(split(&world).2, 5);
}

#[test]
fn without_steps_each_ready_pod_takes_its_part() {
    let mut world = canary(json!([]), json!({}));
    assert_eq!(split(&world), told("h1", Some("h2"), 25, false));
    world.pods[3] = changed("h2", "10.0.0.4", unready());
    assert_eq!(split(&world).2, 0);
}

#[test]
fn a_canary_without_services_is_followed_by_its_own_selector_and_a_chosen_port() {
    let mut world = canary(json!([{ "setWeight": 20 }]), json!({}));
    let nothing = json!({ "stableService": null, "canaryService": null });
    let selector = json!({
        "matchLabels": { "app": "shop" }, "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["batch"] }],
    });
    world.patch(json!({ "spec": { "selector": selector, "strategy": { "canary": nothing } } }));
    assert!(world.silence().contains("choose one as `port`"), "{}", world.silence());
    world.target.port = Some(PortName::Name("http".to_owned()));
    assert_eq!(endpoints(&world.sight(), "h2"), ["10.0.0.4:8080 ready"]);
    assert_eq!(world.scope().as_deref(), Some("app=shop,tier notin (batch)"));
}

#[test]
fn of_ping_and_pong_either_tells_the_port() {
    let mut world = canary(json!([{ "setWeight": 20 }]), json!({}));
    let both = json!({ "pingService": "shop-stable", "pongService": "shop-canary" });
    let only = json!({ "stableService": null, "canaryService": null, "pingPong": both });
    world.patch(json!({ "spec": { "strategy": { "canary": only } } }));
    assert_eq!(endpoints(&world.sight(), "h1").len(), 3);
}

#[test]
fn before_argo_rollouts_has_seen_it_nothing_is_said() {
    let world = canary(json!([]), json!({ "currentPodHash": null, "stableRS": null }));
    assert!(world.silence().contains("has not said yet"), "{}", world.silence());
    // The first deploy is stable from the start.
    let first = canary(json!([]), json!({ "currentPodHash": "h1", "stableRS": null }));
    assert_eq!(split(&first), told("h1", None, 0, false));
}
