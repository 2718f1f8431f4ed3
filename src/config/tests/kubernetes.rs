//! What the file says of clusters.

use super::*;
use crate::{
    source::{Cluster, Objects, PortName, Target},
    switch::Authority,
};

const KUBERNETES: &str = include_str!("../../../config/kubernetes.yaml");

/// An app that follows these objects, and what stands after it.
fn following(objects: &str, more: &str) -> Result<Config, ConfigErrors> {
    let listeners = "listeners: [{ name: live, bind: \"127.0.0.1:8080\" }]";
    parsed(format!("{listeners}\napps:\n  shop:\n    source: {{ kubernetes: {objects} }}\n{more}\n"))
}

fn target(objects: &str) -> Target {
    let mut config = following(objects, "").unwrap_or_else(|errors| panic!("{errors}"));
    config.kubernetes.apps.remove(&"shop".parse().unwrap()).unwrap()
}

#[test]
fn an_app_follows_a_rollout_or_two_services() {
    let rollout = target("{ namespace: web, rollout: shop.v2, port: 8080 }");
    assert_eq!(rollout.namespace.as_deref(), Some("web"));
    assert_eq!(rollout.objects, Objects::Rollout("shop.v2".to_owned()));
    assert_eq!((rollout.port.clone(), rollout.authority()), (Some(PortName::Number(8080)), Authority::ArgoRollouts));
    let services = target("{ active_service: a, preview_service: b, port: http }");
    assert_eq!(services.objects, Objects::Services { active: "a".to_owned(), preview: "b".to_owned() });
    assert_eq!((services.namespace.as_deref(), services.authority()), (None, Authority::Services));
    assert_eq!(services.port, Some(PortName::Name("http".to_owned())));
    assert_eq!(services.to_string(), "Services a, b");
}

#[test]
fn what_is_followed_is_run_like_any_other_app_and_stated_nowhere() {
    let config = following("{ rollout: shop }", "    health: { path: /healthz }").unwrap();
    assert!(config.desired.apps.is_empty());
    let followed = &config.desired.followed[&"shop".parse::<AppName>().unwrap()];
    assert_eq!(followed.authority, Authority::ArgoRollouts);
    assert!(format!("{:?}", followed.policy.health).contains("/healthz"));
}

#[test]
fn the_cluster_is_found_as_kubectl_finds_it_or_as_the_file_says() {
    assert_eq!(following("{ rollout: shop }", "").unwrap().kubernetes.cluster, Cluster::default());
    let named = following("{ rollout: shop }", "kubernetes: { kubeconfig: kube/config, context: \"a@b\" }").unwrap();
    assert_eq!(
        named.kubernetes.cluster,
        Cluster { kubeconfig: Some("/etc/tealgate/kube/config".into()), context: Some("a@b".to_owned()) }
    );
}

#[test]
fn kubernetes_yaml_shows_both_forms() {
    let config = parsed(KUBERNETES).unwrap_or_else(|errors| panic!("{errors}"));
    let shown: Vec<_> = config.kubernetes.apps.values().map(ToString::to_string).collect();
    assert_eq!(shown, ["Rollout shop/shop", "Services shop/wiki-active, shop/wiki-preview"]);
}

#[test]
fn one_of_the_two_forms_is_told_whole() {
    for (objects, error) in [
        ("{}", "4:27: it is not said what to follow; name a `rollout`, or `active_service` and `preview_service`"),
        (
            "{ active_service: a }",
            "4:45: one of the two Services is missing; name both `active_service` and `preview_service`",
        ),
        (
            "{ rollout: r, preview_service: b }",
            "4:58: a Rollout names its Services itself; remove this, or follow the two Services alone, without `rollout`",
        ),
        (
            "{ active_service: a, preview_service: a }",
            "4:65: one Service cannot stand for live traffic and for the candidate as well; make a second one, whose \
             selector finds the candidate's pods",
        ),
        (
            "{ rollout: shop/shop }",
            "4:38: \"shop/shop\" is no name of an object in a cluster; use lower-case letters, digits, `-` and `.`, with a \
             letter or digit at both ends; its namespace is a key of its own",
        ),
        (
            "{ rollout: r, namespace: a.b }",
            "4:52: \"a.b\" is no name of a namespace; use up to 63 lower-case letters, digits and `-`, with a letter or digit \
             at both ends",
        ),
        ("{ rollout: r, port: 70000 }", "4:47: \"70000\" is no port of a Service; use 1 to 65535, or the port's name"),
        ("{ rollout: r, port: Http }", "4:47: \"Http\" is no port of a Service; use its name, or its number"),
        ("{ rolout: r }", "4:29: unknown key `rolout`; did you mean `rollout`?"),
    ] {
        assert_eq!(told(following(objects, "")), [error], "{objects}");
    }
}

#[test]
fn what_another_authority_decides_the_file_does_not() {
    let rollout = "{ rollout: shop }";
    let services = "{ active_service: a, preview_service: b }";
    for (objects, more, error) in [
        (
            rollout,
            "    promotion: { auto: true }",
            "5:24: Argo Rollouts decides when this app is promoted; remove this; the Rollout has `autoPromotionEnabled` and \
             `autoPromotionSeconds`",
        ),
        (
            services,
            "    promotion: { auto: after 10m }",
            "5:24: whoever moves the selector of the active Service promotes this app; remove this, and have the selector \
             moved when the time has come",
        ),
        (
            rollout,
            "    weight: 5%",
            "5:13: Argo Rollouts decides the candidate's share of this app's live traffic; remove this; a Rollout with the \
             canary strategy has `setWeight` steps",
        ),
        (
            rollout,
            "    upstream: { tls: {} }",
            "4:27: pods have no name that their certificates could be checked against; set `upstream.tls.server_name`",
        ),
    ] {
        assert_eq!(told(following(objects, more)), [error], "{more}");
    }
    following(rollout, "    promotion: { auto: false }\n    weight: 0%").expect("that says nothing against it");
    following(services, "    weight: 5%").expect("two Services know nothing of shares");
}

#[test]
fn an_app_has_one_source() {
    let both = "    source: { kubernetes: { rollout: shop }, static: { active: a, revisions: { a: { endpoints: [\"127.0.0.1:1\"] } } } }";
    let listeners = "listeners: [{ name: live, bind: \"127.0.0.1:8080\" }]";
    let outcome = parsed(format!("{listeners}\napps:\n  shop:\n{both}\n"));
    let error = "4:27: the app has two sources, and they may not agree; keep one of `static` and `kubernetes`";
    assert_eq!(told(outcome), [error]);
}
