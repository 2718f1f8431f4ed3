//! A blue-green Rollout in every state that it goes through.

use super::*;

/// h1 is stable and active, with two ready pods, and nothing is under way.
fn steady() -> World {
    let spec =
        json!({ "strategy": { "blueGreen": { "activeService": "shop-active", "previewService": "shop-preview" } } });
    let selectors = json!({ "activeSelector": "h1", "previewSelector": "h1" });
    let status = json!({ "currentPodHash": "h1", "stableRS": "h1", "blueGreen": selectors });
    World {
        rollout: Some(rollout(spec, status)),
        services: vec![
            service("shop-active", json!({ "app": "shop", "rollouts-pod-template-hash": "h1" })),
            service("shop-preview", json!({ "app": "shop", "rollouts-pod-template-hash": "h1" })),
        ],
        replica_sets: vec![set("h1", 1, 2)],
        pods: vec![pod("h1", "10.0.0.1"), pod("h1", "10.0.0.2")],
        ..World::of(Objects::Rollout("shop".to_owned()))
    }
}

/// h2 is the candidate, with two ready pods.
fn previewing() -> World {
    let mut world = steady();
    world.select("shop-preview", hashed("h2"));
    world.patch(json!({ "status": { "currentPodHash": "h2", "blueGreen": { "previewSelector": "h2" } } }));
    world.replica_sets.push(set("h2", 2, 2));
    world.pods.extend([pod("h2", "10.0.0.3"), pod("h2", "10.0.0.4")]);
    world
}

/// h2 was promoted, and its analysis goes on: h1 is stable.
fn promoted() -> World {
    let mut world = previewing();
    world.select("shop-active", hashed("h2"));
    world.patch(json!({ "status": { "blueGreen": { "activeSelector": "h2" } } }));
    world
}

fn hashed(hash: &str) -> Value {
    json!({ "rollouts-pod-template-hash": hash })
}

fn aborted() -> Value {
    json!({ "status": { "abort": true, "phase": "Degraded" } })
}

#[test]
fn nothing_is_under_way_when_preview_is_what_is_live() {
    let sighting = steady().sight();
    assert_eq!(roles(&sighting), (Some("h1"), None, false));
    assert_eq!(endpoints(&sighting, "h1"), ["10.0.0.1:8080 ready", "10.0.0.2:8080 ready"]);
    assert_eq!((sighting.weight, &sighting.previous, &sighting.returned), (None, &None, &None));
    assert!(sighting.alarms.is_empty(), "{:?}", sighting.alarms);
}

#[test]
fn revisions_tell_their_images_number_and_replica_set() {
    let sighting = previewing().sight();
    assert_eq!(label(&sighting, "h2", "image"), Some("shop:h2,envoy:1"));
    assert_eq!(label(&sighting, "h2", "number"), Some("2"));
    assert_eq!(label(&sighting, "h2", "replicaset"), Some("shop-h2"));
}

#[test]
fn before_the_first_deploy_is_through_whatever_the_plain_selector_finds_is_active() {
    let mut world = steady();
    world.select("shop-active", json!({ "rollouts-pod-template-hash": null }));
    world.patch(json!({ "status": { "blueGreen": { "activeSelector": null } } }));
    // A Deployment that the Rollout takes the place of.
    let owner = json!([{ "kind": "ReplicaSet", "name": "shop-old", "uid": "rs-old", "controller": true }]);
    let old = json!({ "metadata": { "labels": { "rollouts-pod-template-hash": null }, "ownerReferences": owner } });
    world.pods.push(changed("old", "10.0.0.9", old));
    world.pods.push(changed("h1", "10.0.0.5", unready()));
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some(UNHASHED), Some("h1"), false));
    assert_eq!(
        endpoints(&sighting, UNHASHED),
        ["10.0.0.1:8080 ready", "10.0.0.2:8080 ready", "10.0.0.5:8080 unready", "10.0.0.9:8080 ready"]
    );
    assert_eq!(endpoints(&sighting, "h1").len(), 3, "its pool stands before the hash comes");
    assert!(sighting.alarms.is_empty(), "{:?}", sighting.alarms);
    assert_eq!(world.scope().as_deref(), Some("app=shop"));
}

#[test]
fn a_service_that_loses_its_hash_moves_nobody_and_raises_an_alarm() {
    let mut world = previewing();
    world.select("shop-active", json!({ "rollouts-pod-template-hash": null }));
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("h1"), Some("h2"), false));
    assert_eq!(endpoints(&sighting, "h1").len(), 2);
    assert!(alarmed(&sighting, "`shop-active` has lost its hash"), "{:?}", sighting.alarms);
}

#[test]
fn a_candidate_without_pods_is_a_candidate() {
    let mut world = steady();
    world.select("shop-preview", hashed("h2"));
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("h1"), Some("h2"), false));
    assert!(endpoints(&sighting, "h2").is_empty());
    world.replica_sets.push(set("h2", 2, 0));
    assert_eq!(label(&world.sight(), "h2", "image"), Some("shop:h2,envoy:1"), "it can be waited for already");
}

#[test]
fn without_a_preview_service_the_newest_revision_is_the_candidate() {
    let mut world = previewing();
    world.patch(json!({
        "spec": { "strategy": { "blueGreen": { "previewService": null } } },
        "status": { "blueGreen": { "previewSelector": null } },
    }));
    assert_eq!(roles(&world.sight()), (Some("h1"), Some("h2"), false));
}

#[test]
fn the_service_moves_traffic_whatever_the_status_says_yet() {
    let mut world = previewing();
    world.select("shop-active", hashed("h2"));
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("h2"), None, false));
    assert_eq!(sighting.previous.as_ref().map(Revision::as_str), Some("h1"));
}

#[test]
fn an_abort_before_the_switch_leaves_traffic_where_it_is() {
    let mut world = previewing();
    world.patch(aborted());
    assert_eq!(roles(&world.sight()), (Some("h1"), Some("h2"), true));
    // The pods of the candidate go; the preview Service still selects them.
    world.pods.truncate(2);
    world.replica_sets[1].replicas = 0;
    assert_eq!(roles(&world.sight()), (Some("h1"), Some("h2"), true));
}

#[test]
fn an_abort_after_the_switch_returns_to_stable_at_once() {
    let mut world = promoted();
    assert_eq!(roles(&world.sight()), (Some("h2"), None, false));
    world.patch(aborted());
    assert_eq!(roles(&world.sight()), (Some("h1"), Some("h2"), true));
    // The controller follows if it can.
    world.select("shop-active", hashed("h1"));
    world.patch(json!({ "status": { "blueGreen": { "activeSelector": "h1" } } }));
    assert_eq!(roles(&world.sight()), (Some("h1"), Some("h2"), true));
}

#[test]
fn an_abort_after_the_switch_does_not_wait_for_pods_that_crash() {
    let mut world = promoted();
    world.pods[2] = changed("h2", "10.0.0.3", unready());
    world.pods[3] = changed("h2", "10.0.0.4", unready());
    world.patch(aborted());
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("h1"), Some("h2"), true));
    assert_eq!(endpoints(&sighting, "h1").len(), 2);
}

#[test]
fn an_abort_after_the_switch_does_not_lead_into_a_hole() {
    let mut world = promoted();
    world.pods[0] = changed("h1", "10.0.0.1", unready());
    world.pods[1] = changed("h1", "10.0.0.2", unready());
    world.patch(aborted());
    assert_eq!(roles(&world.sight()).0, Some("h2"));
}

#[test]
fn an_abort_that_a_full_promotion_takes_back_is_none() {
    let mut world = promoted();
    world.patch(json!({ "status": { "abort": true, "promoteFull": true } }));
    assert_eq!(roles(&world.sight()).0, Some("h2"));
}

#[test]
fn an_abort_of_the_revision_before_does_not_count_for_the_new_one() {
    let mut world = previewing();
    world.patch(aborted());
    // The preview Service is heard of first.
    world.select("shop-preview", hashed("h3"));
    assert_eq!(roles(&world.sight()), (Some("h1"), Some("h3"), false));
}

#[test]
fn a_new_revision_overtakes_and_the_overtaken_one_keeps_its_pool() {
    let mut world = previewing();
    world.select("shop-preview", hashed("h3"));
    world.replica_sets.push(set("h3", 3, 2));
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("h1"), Some("h3"), false));
    assert_eq!(revisions(&sighting), ["h1", "h2", "h3"]);
    assert_eq!(endpoints(&sighting, "h2").len(), 2);
    assert_eq!(sighting.previous, None, "what was overtaken never carried live traffic");
}

#[test]
fn a_fast_rollback_is_one_move_of_the_service() {
    let mut world = promoted();
    world.patch(json!({ "status": { "stableRS": "h2" } }));
    // Undo: h1 gets a new number, then the preview Service, then the active one.
    world.replica_sets[0] = set("h1", 3, 2);
    world.select("shop-preview", hashed("h1"));
    assert_eq!(roles(&world.sight()), (Some("h2"), Some("h1"), false));
    world.select("shop-active", hashed("h1"));
    assert_eq!(roles(&world.sight()), (Some("h1"), None, false));
    assert_eq!(world.sight().previous.as_ref().map(Revision::as_str), Some("h2"));
}

#[test]
fn the_previous_revision_is_the_newest_before_the_active_one_that_still_lives() {
    let later = "2026-01-01T12:10:00Z";
    for (numbered, previous, until) in [
        (vec![("h1", 1, 2, Some(later))], Some("h1"), Some(later)),
        (vec![("h1", 1, 2, None)], Some("h1"), None),
        (vec![("h1", 1, 2, Some("2026-01-01T11:59:59Z"))], Some("h1"), Some("2026-01-01T11:59:59Z")),
        (vec![("h1", 1, 0, Some(later))], None, None),
        (vec![("h0", 1, 2, None), ("h1", 2, 2, Some(later))], Some("h1"), Some(later)),
        (vec![("h0", 1, 2, None), ("h1", 2, 0, None)], Some("h0"), None),
        (vec![("h1", 9, 2, None)], None, None),
        (vec![("h1", 1, 2, Some("soon"))], Some("h1"), None),
    ] {
        let mut world = promoted();
        let older = |(hash, number, replicas, deadline)| set_of("ro-1", hash, number, replicas, deadline);
        world.replica_sets = numbered.iter().copied().map(older).chain([set("h2", 5, 2)]).collect();
        let sighting = world.sight();
        let until = until.map(|until| until.parse::<Timestamp>().expect("a time"));
        assert_eq!(sighting.previous.as_ref().map(Revision::as_str), previous, "{numbered:?}");
        assert_eq!(sighting.previous_until, until, "{numbered:?}");
    }
}

#[test]
fn only_the_rollouts_own_pods_count_and_only_while_they_live() {
    let mut world = steady();
    let foreign = |uid: &str, name: &str| json!({ "metadata": { "ownerReferences": [{ "kind": "ReplicaSet", "name": name, "uid": uid, "controller": true }] } });
    // An experiment's ReplicaSet has the hash too, and so has that of a Rollout of the same name before this one.
    let mut experiment = set_of("experiment-1", "h1", 0, 1, None);
    experiment.uid = "rs-experiment".to_owned();
    let mut old = set_of("ro-0", "h1", 1, 1, None);
    old.uid = "rs-h0".to_owned();
    world.replica_sets.extend([experiment, old]);
    world.pods = vec![
        pod("h1", "10.0.0.1"),
        changed("h1", "10.0.1.1", foreign("rs-experiment", "shop-h1")),
        changed("h1", "10.0.1.2", foreign("rs-h0", "shop-h1")),
        changed("h1", "10.0.1.3", foreign("rs-unheard", "another-h1")),
        changed("h1", "10.0.1.4", json!({ "metadata": { "ownerReferences": [] } })),
        changed("h1", "10.0.1.5", json!({ "metadata": { "labels": { "app": "quarantine" } } })),
        changed("h1", "10.0.1.6", json!({ "status": { "phase": "Succeeded" } })),
        changed("h1", "10.0.1.7", json!({ "status": { "phase": "Failed" } })),
        changed("h1", "10.0.1.8", json!({ "status": { "podIP": null, "podIPs": null } })),
        changed("h1", "10.0.1.9", json!({ "metadata": { "labels": { "rollouts-pod-template-hash": "h2" } } })),
    ];
    let sighting = world.sight();
    assert_eq!(endpoints(&sighting, "h1"), ["10.0.0.1:8080 ready"]);
    assert_eq!(revisions(&sighting), ["h1"]);
}

#[test]
fn pods_count_before_their_replica_set_is_heard_of() {
    let mut world = previewing();
    world.replica_sets.truncate(1);
    assert_eq!(endpoints(&world.sight(), "h2").len(), 2);
}

#[test]
fn pods_on_their_way_out_are_told_from_those_that_are_not_ready() {
    let mut world = steady();
    let leaving = json!({ "metadata": { "deletionTimestamp": "2026-01-01T11:59:00Z" } });
    let mut both = unready();
    merge(&mut both, leaving.clone());
    world.pods =
        vec![changed("h1", "10.0.0.1", leaving), changed("h1", "10.0.0.2", unready()), changed("h1", "10.0.0.3", both)];
    let found = endpoints(&world.sight(), "h1");
    assert_eq!(found, ["10.0.0.1:8080 leaving", "10.0.0.2:8080 unready", "10.0.0.3:8080 unready"]);
}

#[test]
fn a_pod_that_waits_for_a_readiness_gate_is_not_ready() {
    let mut world = steady();
    let conditions = json!([{ "type": "ContainersReady", "status": "True" }, { "type": "Ready", "status": "False" }]);
    world.pods = vec![changed("h1", "10.0.0.1", json!({ "status": { "conditions": conditions } }))];
    assert_eq!(endpoints(&world.sight(), "h1"), ["10.0.0.1:8080 unready"]);
}

#[test]
fn an_address_that_was_given_away_is_the_new_pods() {
    let mut world = steady();
    let leaving = json!({ "metadata": { "name": "a", "deletionTimestamp": "2026-01-01T11:59:00Z" } });
    world.pods = vec![changed("h1", "10.0.0.1", leaving), pod("h1", "10.0.0.1")];
    assert_eq!(endpoints(&world.sight(), "h1"), ["10.0.0.1:8080 ready"]);
}

#[test]
fn a_deleted_service_or_rollout_leaves_its_last_word_and_an_alarm() {
    let mut world = previewing();
    world.deleted_services = std::mem::take(&mut world.services);
    world.pods.remove(0);
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("h1"), Some("h2"), false));
    assert_eq!(endpoints(&sighting, "h1"), ["10.0.0.2:8080 ready"], "pods are still followed");
    assert!(alarmed(&sighting, "the Service `shop-active` was deleted"), "{:?}", sighting.alarms);
    assert!(alarmed(&sighting, "the Service `shop-preview` was deleted"), "{:?}", sighting.alarms);

    let mut world = previewing();
    world.deleted = true;
    // Its ReplicaSets may be left to themselves.
    world.replica_sets.iter_mut().for_each(|set| set.owner = None);
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("h1"), Some("h2"), false));
    assert_eq!(endpoints(&sighting, "h1").len(), 2);
    assert!(alarmed(&sighting, "the Rollout `shop` was deleted"), "{:?}", sighting.alarms);
}

#[test]
fn what_was_never_there_is_named() {
    let mut world = steady();
    world.services.remove(1);
    assert!(alarmed(&world.sight(), "there is no Service `shop-preview`"));
    world.services.clear();
    assert_eq!(world.silence(), "there is no Service `shop-active`");
    assert_eq!(world.scope(), None);
    world.rollout = None;
    assert_eq!(world.silence(), "there is no Rollout `shop`");
    let mut world = steady();
    world.patch(json!({ "spec": { "strategy": null } }));
    assert!(world.silence().contains("neither a blue-green nor a canary strategy"));
}

#[test]
fn a_rollback_that_another_replica_was_ordered_is_told() {
    let mut world = promoted();
    let told = r#"{"to":"h1","from":"h2","at":"2026-01-01T11:59:00Z","by":"ann","reason":"errors"}"#;
    world.patch(json!({ "metadata": { "annotations": { "tealgate.dev/returned": told } } }));
    let returned = world.sight().returned.expect("it was told");
    assert_eq!((returned.to.as_str(), returned.from.as_str(), &*returned.by), ("h1", "h2", "ann"));
    world.patch(json!({ "metadata": { "annotations": { "tealgate.dev/returned": "h1" } } }));
    let sighting = world.sight();
    assert_eq!(sighting.returned, None);
    assert!(alarmed(&sighting, "annotation tealgate.dev/returned cannot be read"), "{:?}", sighting.alarms);
}

#[test]
fn of_annotations_only_ours_are_kept() {
    let mut rollout = steady().rollout.expect("a Rollout");
    let annotations = [("tealgate.dev/returned", "x"), ("kubectl.kubernetes.io/last-applied-configuration", "y")];
    rollout.metadata.annotations =
        Some(annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
    let slim = rollout.slim();
    assert_eq!(slim.metadata.annotations.expect("annotations").len(), 1);
    assert_eq!(slim.metadata.uid.as_deref(), Some("ro-1"));
}
