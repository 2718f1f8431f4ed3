//! What happens to clusters: the API server goes away, its past is compacted, tokens run out, Pods die, objects are deleted.
//! Live traffic stays where it is through all of it, and what was missed is made up for.

use std::{fs, time::Duration};

use http::StatusCode;
use kube::api::DeleteParams;
use serde_json::json;

use super::{
    bed::{Bed, NAMESPACE, Shop},
    follower::{Traffic, answers_at, revision_at, rights},
    patiently,
    plane::{Plane, Proof},
};
use crate::support::{
    proxy::Proxy,
    setup::{APP, Setup},
};

/// Waits until the proxy says this of its source.
async fn says(proxy: &Proxy, part: &str) -> String {
    let mut said = String::new();
    patiently(&format!("the proxy to say {part:?}"), async || {
        let status = proxy.status().await;
        said = format!("{} {}", status["source"]["problem"], status["message"]);
        said.contains(part)
    })
    .await;
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn an_api_server_that_goes_away_moves_no_traffic_and_a_rollback_does_not_wait_for_it() {
    let mut bed = Bed::start().await;
    let proxy = Proxy::start(bed.following().await).await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    answers_at(proxy.preview, &v2).await;

    // Away while there is a candidate, and back with its past forgotten.
    bed.plane.api_server.kill();
    println!("{}", says(&proxy, "the API server cannot be reached").await);
    traffic.goes_on().await;
    assert_eq!((revision_at(proxy.live).await, revision_at(proxy.preview).await), (v1.clone(), v2.clone()));
    bed.plane.forget_the_past().await;
    bed.plane.start_api_server_again().await;
    traffic.moves_to(&v2, shop.verb("promote")).await;
    shop.settles_on("shop:v2").await;

    // Away once it is promoted: the way back leads through the proxy alone.
    bed.plane.api_server.kill();
    println!("{}", says(&proxy, "the API server cannot be reached").await);
    traffic.goes_on().await;
    let back = proxy.admin.call("POST", "/apps/shop/rollback", Some(json!({ "reason": "errors" })));
    let (status, receipt) = traffic.moves_to(&v1, back).await;
    assert_eq!((status, &receipt["to"]), (StatusCode::OK, &json!(v1)), "{receipt:#}");
    let told = receipt["warnings"][0].as_str().unwrap_or_default();
    assert!(told.contains("other replicas could not be told"), "{receipt:#}");
    traffic.goes_on().await;
    bed.plane.start_api_server_again().await;
    shop.service_selects("shop-active", &v1).await;
    shop.settles_on("shop:v1").await;
    traffic.goes_on().await;
    assert_eq!(revision_at(proxy.live).await, v1);
    traffic.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn an_api_server_that_is_away_for_a_while_in_any_other_phase_costs_nothing_and_is_caught_up_with() {
    let mut bed = Bed::start().await;
    let proxy = Proxy::start(bed.following().await).await;

    // While the first revision starts.
    let shop = bed.deploy(&Shop::new()).await;
    is_away_for_a_while(&mut bed.plane, &proxy).await;
    let v1 = shop.settles_on("shop:v1").await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;

    // While a candidate does.
    shop.merge(json!({ "spec": { "strategy": { "blueGreen": { "abortScaleDownDelaySeconds": 1 } } } })).await;
    shop.set_image("shop:v2").await;
    is_away_for_a_while(&mut bed.plane, &proxy).await;
    let v2 = shop.offers("shop:v2").await;
    answers_at(proxy.preview, &v2).await;
    traffic.goes_on().await;

    // Once it is given up.
    shop.verb("abort").await;
    shop.is("Degraded").await;
    is_away_for_a_while(&mut bed.plane, &proxy).await;
    traffic.goes_on().await;
    patiently("the candidate's Pods to go", async || shop.pods_of(&v2).await.is_empty()).await;
    shop.retry().await;
    shop.offers("shop:v2").await;

    // Just as it is promoted: the flip comes before, or when the server is back.
    let promoted = async {
        shop.verb("promote").await;
        is_away_for_a_while(&mut bed.plane, &proxy).await;
    };
    traffic.moves_to(&v2, promoted).await;
    shop.settles_on("shop:v2").await;
    assert_eq!(revision_at(proxy.live).await, v2);
    traffic.ends_well().await;
}

/// Kills the API server, and starts it again once the proxy has noticed.
async fn is_away_for_a_while(plane: &mut Plane, proxy: &Proxy) {
    plane.api_server.kill();
    says(proxy, "the API server cannot be reached").await;
    plane.start_api_server_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn changes_are_followed_after_a_compaction_in_the_midst_of_a_frozen_api_server() {
    let bed = Bed::start().await;
    let proxy = Proxy::start(bed.following().await).await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;
    bed.plane.api_server.freeze();
    bed.plane.forget_the_past().await;
    traffic.goes_on().await;
    bed.plane.api_server.thaw();
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    traffic.moves_to(&v2, shop.verb("promote")).await;
    traffic.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_token_that_ran_out_is_told_moves_nothing_and_its_successor_is_taken_up() {
    let mut bed = Bed::start().await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    bed.account_with("tealgate", rights()).await;
    let file = bed.plane.path("token");
    let token = bed.plane.token(NAMESPACE, "tealgate", Duration::from_secs(20)).await;
    fs::write(&file, token).expect("a file");
    let kubeconfig = bed.plane.kubeconfig(&Proof::TokenFile(&file));
    let mut setup = Setup::following(json!({ "namespace": NAMESPACE, "rollout": "shop" }), &kubeconfig);
    setup.app()["drain"] = json!({ "timeout": "1h", "streams": "keep" });
    let proxy = Proxy::start(setup).await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;

    // What the token was shown for goes on for a while; the new API server asks again.
    tokio::time::sleep(Duration::from_secs(20)).await;
    bed.plane.api_server.kill();
    bed.plane.start_api_server_again().await;
    println!("{}", says(&proxy, "does not know us").await);
    traffic.goes_on().await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    assert_eq!(revision_at(proxy.live).await, v1);

    let token = bed.plane.token(NAMESPACE, "tealgate", Duration::from_secs(3600)).await;
    fs::write(&file, token).expect("a file");
    answers_at(proxy.preview, &v2).await;
    traffic.moves_to(&v2, shop.verb("promote")).await;
    traffic.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn no_request_fails_while_the_active_pods_are_deleted_one_by_one() {
    let bed = Bed::start().await;
    let proxy = Proxy::start(bed.following().await).await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    let traffic = Traffic::on(&bed.node, &proxy, &v1).await;
    for pod in shop.pods_of(&v1).await {
        shop.pods.delete(pod.metadata.name.as_deref().expect("a name"), &DeleteParams::default()).await.expect("a Pod");
        patiently("another Pod to serve", async || {
            let status = proxy.status().await;
            let gone = shop.pods.get_opt(pod.metadata.name.as_deref().expect("a name")).await.expect("an answer");
            gone.is_none_or(|now| now.metadata.uid != pod.metadata.uid) && status["active"]["ready"] == 2
        })
        .await;
        traffic.goes_on().await;
    }
    traffic.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn deleted_objects_move_no_traffic_and_are_followed_again_once_they_are_back() {
    let bed = Bed::start().await;
    let proxy = Proxy::start(bed.following().await).await;
    let manifests = Shop::new();
    let shop = bed.deploy(&manifests).await;
    let v1 = shop.settles_on("shop:v1").await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;

    shop.services.delete("shop-active", &DeleteParams::default()).await.expect("a Service");
    println!("{}", says(&proxy, "shop-active").await);
    traffic.goes_on().await;
    bed.apply(manifests.active.clone()).await;
    // The controller looks again when the Rollout changes.
    shop.merge(json!({ "metadata": { "annotations": { "looked": "again" } } })).await;
    shop.service_selects("shop-active", &v1).await;

    // Its ReplicaSets and Pods stay; whoever deletes them too has nothing left that could answer.
    shop.api.delete("shop", &DeleteParams::orphan()).await.expect("a Rollout");
    println!("{}", says(&proxy, "Rollout").await);
    traffic.goes_on().await;
    assert_eq!(revision_at(proxy.live).await, v1);
    bed.apply(manifests.rollout.clone()).await;
    assert_eq!(shop.settles_on("shop:v1").await, v1);

    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    traffic.moves_to(&v2, shop.verb("promote")).await;
    traffic.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_cluster_that_never_heard_of_rollouts_is_told_and_followed_once_it_has() {
    let mut bed = Bed::without_definitions().await;
    let proxy = Proxy::start(bed.following().await).await;
    println!("{}", says(&proxy, "install Argo Rollouts").await);
    assert_eq!(proxy.status().await["name"], APP);
    bed.define().await;
    bed.argo.start_again();
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    answers_at(proxy.live, &v1).await;
}
