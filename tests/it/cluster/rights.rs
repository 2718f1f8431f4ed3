//! What the proxy may do in the cluster: the role of the plain manifests is enough, and where a right of it is missing the
//! proxy says which.

use std::fs;

use serde_json::{Value, json};

use super::{
    bed::{Bed, NAMESPACE, Shop},
    follower::answers_at,
    patiently,
};
use crate::support::{proxy::Proxy, setup::Setup};

/// The plain manifests.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/");
/// What is read of the cluster, and the API group it belongs to.
const READ: [(&str, &str); 4] = [("services", ""), ("pods", ""), ("replicasets", "apps"), ("rollouts", "argoproj.io")];

/// The rules of the Role that these manifests hold.
fn rules(file: &str) -> Value {
    let text = fs::read_to_string(format!("{MANIFESTS}{file}")).expect("a file");
    let documents = text.split("\n---\n").map(|document| serde_saphyr::from_str::<Value>(document).expect("YAML"));
    let role = documents.into_iter().find(|document| document["kind"] == "Role").expect("a Role");
    role["rules"].clone()
}

/// The same without this resource.
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
    let kubeconfig = bed.user_with(user, rules).await;
    Proxy::start(Setup::following(json!({ "namespace": NAMESPACE, "rollout": "shop" }), &kubeconfig)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn the_roles_of_the_manifests_are_enough_and_each_right_that_is_missing_is_named() {
    let bed = Bed::start().await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;

    for (file, user) in [("tealgate.yaml", "acting"), ("tealgate-observe.yaml", "observing")] {
        let proxy = follower(&bed, user, rules(file)).await;
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
    let proxy = follower(&bed, "observing", rules("tealgate-observe.yaml")).await;
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
