//! Two Services, whoever moves their selectors.

use super::*;

/// Two Services with these selectors, and the pods of v1 and v2, by a label of this name.
fn two(label: &str, active: Value, preview: Value) -> World {
    let labelled = |version: &str, address: &str| {
        let owner =
            json!([{ "kind": "ReplicaSet", "name": format!("shop-{version}-5c"), "uid": version, "controller": true }]);
        let labels = json!({ "rollouts-pod-template-hash": null, label: version });
        changed(version, address, json!({ "metadata": { "labels": labels, "ownerReferences": owner } }))
    };
    let mut world = World {
        services: vec![service("shop-active", active), service("shop-preview", preview)],
        pods: vec![labelled("v1", "10.0.0.1"), labelled("v1", "10.0.0.2"), labelled("v2", "10.0.0.3")],
        ..World::of(Objects::Services { active: "shop-active".to_owned(), preview: "shop-preview".to_owned() })
    };
    learn(&mut world);
    world
}

fn learn(world: &mut World) {
    let mut learnt = world.learnt.clone();
    learnt.learn(&world.services[0], world.services.get(1));
    world.learnt = learnt;
}

fn versions(label: &str) -> World {
    two(label, json!({ "app": "shop", label: "v1" }), json!({ "app": "shop", label: "v2" }))
}

#[test]
fn a_revision_is_what_the_differing_label_says() {
    for label in ["version", "color", "rollouts-pod-template-hash", "pod-template-hash", "my.company/build"] {
        let world = versions(label);
        let sighting = world.sight();
        assert_eq!(roles(&sighting), (Some("v1"), Some("v2"), false), "{label}");
        assert_eq!(endpoints(&sighting, "v1"), ["10.0.0.1:8080 ready", "10.0.0.2:8080 ready"], "{label}");
        assert_eq!(endpoints(&sighting, "v2"), ["10.0.0.3:8080 ready"], "{label}");
        assert_eq!(label_of(&sighting, "v2"), Some("shop:v2"));
        assert_eq!(world.scope(), Some(format!("app=shop,{label}")));
        assert_eq!((sighting.weight, &sighting.previous), (None, &None));
    }
}

fn label_of<'a>(sighting: &'a Sighting, revision: &str) -> Option<&'a str> {
    label(sighting, revision, "image")
}

#[test]
fn a_patch_of_the_active_selector_is_a_promotion_and_the_old_pool_stays() {
    for label in ["version", "my.company/build"] {
        let mut world = versions(label);
        let scope = world.scope();
        world.select("shop-active", json!({ label: "v2" }));
        learn(&mut world);
        let sighting = world.sight();
        assert_eq!(roles(&sighting), (Some("v2"), None, false), "{label}");
        assert_eq!(endpoints(&sighting, "v1").len(), 2, "{label}");
        assert_eq!(world.scope(), scope, "the same pods are needed as before");
    }
}

#[test]
fn after_a_start_with_equal_selectors_a_common_label_is_the_best_guess() {
    let same = || json!({ "app": "shop", "color": "v2" });
    let mut world = two("color", same(), same());
    assert_eq!(roles(&world.sight()), (Some("v2"), None, false));
    assert_eq!(endpoints(&world.sight(), "v1").len(), 2);
    // What is seen to differ counts more than a guess.
    let both = || json!({ "app": "shop", "version": "1", "build": "v1" });
    world = two("build", both(), both());
    world.pods.clear();
    assert_eq!(roles(&world.sight()).0, Some("1"));
    world.select("shop-preview", json!({ "build": "v2" }));
    learn(&mut world);
    assert_eq!(roles(&world.sight()), (Some("v1"), Some("v2"), false));
}

#[test]
fn equal_selectors_without_a_common_label_tell_nothing() {
    let world = two("build", json!({ "app": "shop", "build": "v1" }), json!({ "app": "shop", "build": "v1" }));
    assert!(world.silence().contains("which label of the Service `shop-active`"), "{}", world.silence());
    assert_eq!(world.scope(), None);
}

#[test]
fn several_labels_may_differ_and_the_most_telling_one_names_the_revision() {
    let world = two(
        "version",
        json!({ "app": "shop", "version": "v1", "release": "a" }),
        json!({ "app": "shop", "version": "v2", "release": "b" }),
    );
    assert_eq!(roles(&world.sight()), (Some("v1"), Some("v2"), false));
    assert!(endpoints(&world.sight(), "v1").is_empty(), "a Service's own selector counts whole");
    assert_eq!(world.scope().as_deref(), Some("app=shop,version"));
}

#[test]
fn where_the_label_is_all_there_is_others_do_not_count() {
    let mut world = two("app", json!({ "app": "v1" }), json!({ "app": "v2" }));
    world.pods.push(changed("db", "10.0.9.9", json!({ "metadata": { "labels": { "app": "db" } } })));
    assert_eq!(revisions(&world.sight()), ["v1", "v2"]);
    world.select("shop-active", json!({ "app": "v2" }));
    learn(&mut world);
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("v2"), None, false));
    assert_eq!(revisions(&sighting), ["v1", "v2"], "v1 had a role, and may get it back");
}

#[test]
fn a_candidate_without_pods_is_a_candidate() {
    let mut world = versions("version");
    world.select("shop-preview", json!({ "version": "v3" }));
    learn(&mut world);
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("v1"), Some("v3"), false));
    assert!(endpoints(&sighting, "v3").is_empty());
    assert_eq!(endpoints(&sighting, "v2").len(), 1);
}

#[test]
fn a_selector_that_loses_its_label_moves_nobody() {
    let mut world = versions("version");
    world.select("shop-active", json!({ "version": null }));
    learn(&mut world);
    assert!(world.silence().contains("has lost the label `version`"), "{}", world.silence());
}

#[test]
fn a_preview_service_that_is_not_there_is_no_candidate() {
    let mut world = versions("version");
    world.services.truncate(1);
    let sighting = world.sight();
    assert_eq!(roles(&sighting), (Some("v1"), None, false));
    assert!(alarmed(&sighting, "there is no Service `shop-preview`"), "{:?}", sighting.alarms);
}

#[test]
fn what_cannot_name_a_revision_is_none() {
    let mut world = versions("version");
    world.pods.push(changed("v3", "10.0.0.9", json!({ "metadata": { "labels": { "version": "" } } })));
    assert_eq!(revisions(&world.sight()), ["v1", "v2"]);
}
