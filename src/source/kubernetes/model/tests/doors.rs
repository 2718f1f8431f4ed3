//! On which port and address a pod is reached.

use super::*;

/// One ready pod behind a Service that is made of this.
fn behind(spec: Value) -> World {
    let mut whole =
        json!({ "selector": { "app": "shop", "rollouts-pod-template-hash": "h1" }, "ipFamilies": ["IPv4"] });
    merge(&mut whole, spec);
    let strategy = json!({ "strategy": { "blueGreen": { "activeService": "shop-active" } } });
    let status = json!({ "currentPodHash": "h1", "stableRS": "h1" });
    World {
        rollout: Some(rollout(strategy, status)),
        services: vec![service_of("shop-active", whole)],
        replica_sets: vec![set("h1", 1, 2)],
        pods: vec![pod("h1", "10.0.0.1")],
        ..World::of(Objects::Rollout("shop".to_owned()))
    }
}

fn port(target: Value) -> Value {
    json!({ "ports": [{ "port": 80, "targetPort": target }] })
}

#[test]
fn a_port_is_a_number_or_the_services_own() {
    for (spec, expected) in [
        (port(json!(9090)), "10.0.0.1:9090 ready"),
        (port(json!(null)), "10.0.0.1:80 ready"),
        (json!({ "ports": [{ "port": 80 }] }), "10.0.0.1:80 ready"),
        (port(json!(0)), "10.0.0.1:80 ready"),
        (port(json!("http")), "10.0.0.1:8080 ready"),
    ] {
        assert_eq!(endpoints(&behind(spec.clone()).sight(), "h1"), [expected], "{spec}");
    }
}

#[test]
fn a_named_port_is_looked_up_in_each_pod() {
    let mut world = behind(port(json!("http")));
    let containers = |ports: Value| json!({ "spec": { "containers": [{ "image": "a", "ports": ports }] } });
    let sidecar = |policy: Value| {
        let port = json!([{ "name": "http", "containerPort": 15001 }]);
        json!({
            "spec": { "containers": [{ "image": "a" }], "initContainers": [{ "image": "b", "restartPolicy": policy, "ports": port }] }
        })
    };
    world.pods = vec![
        changed("h1", "10.0.0.1", containers(json!([{ "name": "http", "containerPort": 8081 }]))),
        changed("h1", "10.0.0.2", containers(json!([{ "name": "web", "containerPort": 8082 }]))),
        changed(
            "h1",
            "10.0.0.3",
            containers(json!([
                { "name": "http", "containerPort": 8083, "protocol": "UDP" }, { "name": "http", "containerPort": 8084, "protocol": "TCP" },
            ])),
        ),
        changed("h1", "10.0.0.4", sidecar(json!("Always"))),
        changed("h1", "10.0.0.5", sidecar(json!(null))),
    ];
    let sighting = world.sight();
    assert_eq!(endpoints(&sighting, "h1"), ["10.0.0.1:8081 ready", "10.0.0.3:8084 ready", "10.0.0.4:15001 ready"]);
    assert!(sighting.alarms.is_empty(), "{:?}", sighting.alarms);
}

#[test]
fn a_port_that_no_pod_names_raises_an_alarm() {
    let sighting = behind(port(json!("grpc"))).sight();
    assert!(endpoints(&sighting, "h1").is_empty());
    assert!(alarmed(&sighting, "no pod of h1 has a TCP port that is called `grpc`"), "{:?}", sighting.alarms);
}

#[test]
fn of_several_ports_one_is_chosen() {
    let ports = json!({ "ports": [
        { "name": "http", "port": 80, "targetPort": 8080 }, { "name": "metrics", "port": 9100 },
        { "name": "dns", "port": 53, "protocol": "UDP" },
    ] });
    let mut world = behind(ports);
    let silence = world.silence();
    assert_eq!(
        silence,
        "the Service `shop-active` has several TCP ports, 80 (http), 9100 (metrics); choose one as `port`"
    );
    world.target.port = Some(PortName::Name("metrics".to_owned()));
    assert_eq!(endpoints(&world.sight(), "h1"), ["10.0.0.1:9100 ready"]);
    world.target.port = Some(PortName::Number(80));
    assert_eq!(endpoints(&world.sight(), "h1"), ["10.0.0.1:8080 ready"]);
    world.target.port = Some(PortName::Name("dns".to_owned()));
    assert!(world.silence().contains("has no TCP port `dns`"), "{}", world.silence());
    assert!(behind(json!({ "ports": [{ "port": 53, "protocol": "UDP" }] })).silence().contains("has no TCP port"));
}

#[test]
fn of_two_families_the_services_order_decides() {
    let both = json!({ "status": { "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] } });
    let only_v4 = json!({});
    for (families, change, expected) in [
        (json!(["IPv4"]), &both, vec!["10.0.0.1:80 ready"]),
        (json!(["IPv6"]), &both, vec!["[fd00::1]:80 ready"]),
        (json!(["IPv6", "IPv4"]), &both, vec!["[fd00::1]:80 ready"]),
        (json!(["IPv6", "IPv4"]), &only_v4, vec!["10.0.0.1:80 ready"]),
        (json!(["IPv6"]), &only_v4, vec![]),
        (json!(null), &both, vec!["10.0.0.1:80 ready"]),
    ] {
        let mut world = behind(json!({ "ipFamilies": families, "ports": [{ "port": 80 }] }));
        world.pods = vec![changed("h1", "10.0.0.1", change.clone())];
        assert_eq!(endpoints(&world.sight(), "h1"), expected, "{families}");
    }
}

#[test]
fn a_headless_service_is_as_good_as_any() {
    let world = behind(json!({ "clusterIP": "None", "ports": [{ "port": 8080 }] }));
    assert_eq!(endpoints(&world.sight(), "h1"), ["10.0.0.1:8080 ready"]);
}

#[test]
fn services_without_pods_behind_them_are_refused() {
    let external = behind(json!({ "type": "ExternalName", "selector": null, "ports": [{ "port": 80 }] }));
    assert!(external.silence().contains("is of type ExternalName"), "{}", external.silence());
    let bare = behind(json!({ "selector": null, "ports": [{ "port": 80 }] }));
    assert!(bare.silence().contains("has no selector"), "{}", bare.silence());
    assert_eq!((external.scope(), bare.scope()), (None, None));
}

#[test]
fn session_affinity_is_not_taken_over_and_that_is_said() {
    let sticky = behind(json!({ "sessionAffinity": "ClientIP", "ports": [{ "port": 80 }] })).sight();
    assert!(alarmed(&sticky, "sessionAffinity"), "{:?}", sticky.alarms);
}

#[test]
fn pods_are_watched_by_what_all_revisions_have_in_common() {
    assert_eq!(behind(json!({})).scope().as_deref(), Some("app=shop"));
    let bare = behind(json!({ "selector": { "app": null } }));
    assert_eq!(bare.scope().as_deref(), Some("rollouts-pod-template-hash"));
}
