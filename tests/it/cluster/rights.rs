//! What the proxy may do in the cluster: the role of the plain manifests is enough, and where a right of it is missing the
//! proxy says which.

use std::path::Path;

use http::StatusCode;
use k8s_openapi::api::{events::v1::Event, rbac::v1::RoleBinding};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use super::{
    bed::{Bed, NAMESPACE, Shop},
    follower::{Traffic, answers_at, revision_at},
    manifests::rules,
    patiently,
};
use crate::support::{proxy::Proxy, setup::Setup};

/// What is read of the cluster, and the API group it belongs to.
const READ: [(&str, &str); 4] = [("services", ""), ("pods", ""), ("replicasets", "apps"), ("rollouts", "argoproj.io")];

/// These rules, without what lets them read this resource.
fn without(rules: &Value, group: &str, resource: &str) -> Value {
    let mut rules = rules.clone();
    for rule in rules.as_array_mut().expect("rules") {
        let of_group = rule["apiGroups"].as_array().expect("groups").contains(&json!(group));
        let reads = rule["verbs"].as_array().expect("verbs").contains(&json!("list"));
        if of_group && reads {
            rule["resources"].as_array_mut().expect("resources").retain(|it| it != resource);
        }
    }
    rules.as_array_mut().expect("rules").retain(|rule| rule["resources"] != json!([]));
    rules
}

/// A proxy that follows the shop with these rights.
async fn follower(bed: &Bed, user: &str, rules: Value) -> Proxy {
    Proxy::start(setup(&bed.user_with(user, rules).await)).await
}

fn setup(kubeconfig: &Path) -> Setup {
    Setup::following(json!({ "namespace": NAMESPACE, "rollout": "shop" }), kubeconfig)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn the_roles_of_the_manifests_are_enough_and_each_right_that_is_missing_is_named() {
    let bed = Bed::start().await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;

    for file in ["tealgate.yaml", "tealgate-observe.yaml"] {
        let proxy = Proxy::start(setup(&bed.installs(file).await)).await;
        answers_at(proxy.live, &v1).await;
        answers_at(proxy.preview, &v2).await;
        let problem = proxy.status().await["source"]["problem"].clone();
        assert!(problem.is_null(), "{file}: {problem}");
    }

    for (resource, group) in READ {
        let whole = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let proxy =
            follower(&bed, &format!("without-{resource}"), without(&rules("tealgate.yaml"), group, resource)).await;
        let words = format!("we may not list {whole} in namespace {NAMESPACE}");
        patiently(&format!("{words:?} to be said"), async || {
            proxy.status().await["source"]["problem"].as_str().is_some_and(|problem| problem.contains(&words))
        })
        .await;
        println!("{resource}: {}", proxy.status().await["source"]["problem"]);
        // Nothing is served on half of what there is to know; with the right given, all of it.
        bed.user_with(&format!("without-{resource}"), rules("tealgate.yaml")).await;
        answers_at(proxy.live, &v1).await;
        answers_at(proxy.preview, &v2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn an_act_that_the_role_does_not_allow_is_refused_in_words_that_name_the_right() {
    let bed = Bed::start().await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    let proxy = Proxy::start(setup(&bed.installs("tealgate-observe.yaml").await)).await;
    answers_at(proxy.live, &v1).await;
    patiently("a ready candidate", async || {
        let preview = &proxy.status().await["preview"];
        preview["revision"] == v2.as_str() && preview["ready"] == 2
    })
    .await;
    let (status, answer) = proxy.admin.call("POST", "/apps/shop/promote", Some(json!({}))).await;
    println!("{status}: {answer}");
    assert!(!status.is_success() && answer.to_string().contains("patch rollouts"), "{status}: {answer:#}");
    answers_at(proxy.live, &v1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn the_role_of_the_manifests_is_enough_to_promote_to_roll_back_and_to_tell_of_it() {
    let bed = Bed::start().await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    let proxy = Proxy::start(bed.following().await).await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    patiently("a ready candidate", async || {
        let preview = &proxy.status().await["preview"];
        preview["revision"] == v2.as_str() && preview["ready"] == 2
    })
    .await;
    for (action, to) in [("promote", &v2), ("rollback", &v1)] {
        let path = format!("/apps/shop/{action}");
        let (status, receipt) = traffic.moves_to(to, proxy.admin.call("POST", &path, Some(json!({})))).await;
        assert_eq!((status, &receipt["to"]), (StatusCode::OK, &json!(to)), "{receipt:#}");
    }
    // Argo Rollouts is made to agree with the rollback.
    shop.service_selects("shop-active", &v1).await;
    shop.settles_on("shop:v1").await;
    let status = proxy.status().await;
    assert!(!status.to_string().contains("may not"), "{status:#}");
    let events: Api<Event> = Api::namespaced(bed.admin(), NAMESPACE);
    patiently("events on the Rollout", async || {
        let all = events.list(&ListParams::default()).await.expect("events").items;
        let reasons: Vec<_> = all.into_iter().filter_map(|event| event.reason).collect();
        reasons.iter().filter(|reason| reason.starts_with("Tealgate")).count() >= 2
    })
    .await;
    traffic.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn rights_that_are_taken_away_are_named_move_nothing_and_are_taken_up_again() {
    let bed = Bed::start().await;
    let proxy = Proxy::start(bed.following().await).await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;

    // A watch that has begun goes on to its end, which is not long.
    let bindings: Api<RoleBinding> = Api::namespaced(bed.admin(), NAMESPACE);
    bindings.delete("tealgate", &DeleteParams::default()).await.expect("a RoleBinding");
    let mut said = String::new();
    patiently("the missing right to be named", async || {
        said = proxy.status().await["source"]["problem"].as_str().unwrap_or_default().to_owned();
        ["services", "pods", "replicasets.apps", "rollouts.argoproj.io"]
            .iter()
            .any(|what| said.contains(&format!(" {what} in namespace {NAMESPACE}")) && said.contains("we may not "))
    })
    .await;
    println!("{said}");
    assert_eq!(proxy.status().await["source"]["stale"], true);
    traffic.goes_on().await;
    // What happens meanwhile is not seen.
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    traffic.goes_on().await;
    assert_eq!(revision_at(proxy.live).await, v1);

    bed.installs("tealgate.yaml").await;
    answers_at(proxy.preview, &v2).await;
    patiently("all to be well", async || {
        let source = &proxy.status().await["source"];
        source["problem"].is_null() && source["stale"] == false
    })
    .await;
    traffic.moves_to(&v2, shop.verb("promote")).await;
    traffic.ends_well().await;
}
