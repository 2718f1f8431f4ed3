//! What is asked of Argo Rollouts through the proxy, and what becomes of a rollback, with the real controller.

use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::{
    bed::{Bed, NAMESPACE, Shop},
    patiently,
    rollout::Rollout,
};
use crate::support::{
    proxy::Proxy,
    setup::{APP, Setup},
};

/// A proxy that follows the shop of this bed.
async fn follower(bed: &Bed) -> Proxy {
    let mut setup = Setup::before(&[]);
    setup.config["kubernetes"] = json!({ "kubeconfig": bed.plane.admin_config });
    setup.app()["source"] = json!({ "kubernetes": { "namespace": NAMESPACE, "rollout": "shop" } });
    setup.app()["health"] = json!({ "path": "/healthz", "interval": "50ms", "timeout": "2s", "rise": 1, "fall": 2 });
    Proxy::start(setup).await
}

/// v1 is live, v2 waits for its promotion, and the proxy knows.
async fn offering(bed: &Bed, shop: &Shop) -> (Rollout, Proxy, String, String) {
    let rollout = bed.deploy(shop).await;
    let v1 = rollout.settles_on("shop:v1").await;
    let proxy = follower(bed).await;
    serves(&proxy, &v1).await;
    rollout.set_image("shop:v2").await;
    let v2 = rollout.hash_of("shop:v2").await;
    (rollout, proxy, v1, v2)
}

async fn serves(proxy: &Proxy, hash: &str) {
    patiently(&format!("live traffic to go to {hash}"), async || proxy.status().await["active"]["revision"] == hash)
        .await;
}

async fn is_ready(proxy: &Proxy, hash: &str) {
    patiently(&format!("{hash} to be a ready candidate"), async || {
        let preview = &proxy.status().await["preview"];
        preview["revision"] == hash && preview["ready"] == preview["total"] && preview["ready"] == 2
    })
    .await;
}

async fn asked(proxy: &Proxy, action: &str, body: Value) -> Value {
    let (status, answer) = proxy.admin.call("POST", &format!("/apps/{APP}/{action}"), Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{action}: {answer:#}");
    answer
}

async fn refused(proxy: &Proxy, action: &str, body: Value) -> (u16, String) {
    let (status, answer) = proxy.admin.call("POST", &format!("/apps/{APP}/{action}"), Some(body)).await;
    (status.as_u16(), answer["code"].as_str().unwrap_or_default().to_owned())
}

fn annotation(rollout: &Value) -> &Value {
    &rollout["metadata"]["annotations"]["tealgate.dev/returned"]
}

async fn reasons(bed: &Bed) -> Vec<String> {
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(bed.admin(), NAMESPACE);
    let all = events.list(&ListParams::default()).await.expect("events");
    all.items.into_iter().filter_map(|event| event.reason).filter(|reason| reason.starts_with("Tealgate")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_life_by_commands() {
    let bed = Bed::start().await;
    let mut shop = Shop::new();
    shop.blue_green()["abortScaleDownDelaySeconds"] = json!(10);
    let (rollout, proxy, v1, v2) = offering(&bed, &shop).await;

    is_ready(&proxy, &v2).await;

    // An abort is there when it is answered; promote wants a retry first, and that waits until the Pods are gone.
    asked(&proxy, "abort", json!({ "reason": "not yet" })).await;
    assert_eq!(rollout.api.get("shop").await.unwrap().data["status"]["abort"], true);
    assert_eq!(refused(&proxy, "promote", json!({})).await, (409, "aborted".to_owned()));
    assert_eq!(refused(&proxy, "retry", json!({})).await, (409, "gate-failed".to_owned()));
    assert_eq!(rollout.api.get("shop").await.unwrap().data["status"]["abort"], true);
    patiently("the candidate's Pods to go", async || rollout.pods_of(&v2).await.is_empty()).await;
    asked(&proxy, "retry", json!({})).await;
    assert_eq!(rollout.offers("shop:v2").await, v2);
    is_ready(&proxy, &v2).await;
    assert_eq!(proxy.status().await["active"]["revision"], v1.as_str());

    // A promotion is answered when traffic has moved.
    let receipt = asked(&proxy, "promote", json!({ "revision": v2, "reason": "release", "timeout": "15s" })).await;
    assert_eq!((&receipt["action"], &receipt["to"]), (&json!("promote"), &json!(v2)), "{receipt:#}");
    assert_eq!(proxy.status().await["active"]["revision"], v2.as_str());
    assert_eq!(refused(&proxy, "promote", json!({})).await, (409, "already-active".to_owned()));
    rollout.settles_on("shop:v2").await;

    // The previous one is kept longer.
    let before = proxy.status().await["previous"]["rollbackUntil"].clone();
    asked(&proxy, "keep", json!({ "for": "2h" })).await;
    patiently("the deadline to be put off", async || proxy.status().await["previous"]["rollbackUntil"] != before).await;

    // A rollback is there at once, told, and then agreed with.
    let begun = Instant::now();
    let receipt = asked(&proxy, "rollback", json!({ "reason": "errors" })).await;
    println!("rollback answered after {:?}", begun.elapsed());
    assert_eq!((&receipt["action"], &receipt["to"]), (&json!("rollback"), &json!(v1)), "{receipt:#}");
    rollout.service_selects("shop-active", &v1).await;
    println!("the Service followed after {:?}", begun.elapsed());
    rollout.settles_on("shop:v1").await;
    println!("the Rollout settled after {:?}", begun.elapsed());
    assert!(!annotation(&rollout.is("Healthy").await).is_null(), "it stands for a while, so that Git cannot undo it");
    assert_eq!(proxy.status().await["active"]["revision"], v1.as_str());

    // What is rejected is gone from the Rollout as well.
    rollout.set_image("shop:v3").await;
    let v3 = rollout.offers("shop:v3").await;
    is_ready(&proxy, &v3).await;
    let receipt = asked(&proxy, "reject", json!({ "reason": "smoke" })).await;
    assert_eq!((&receipt["action"], &receipt["from"], &receipt["to"]), (&json!("reject"), &json!(v3), &json!(v1)));
    rollout.settles_on("shop:v1").await;
    assert_eq!(proxy.status().await["active"]["revision"], v1.as_str());

    let said = reasons(&bed).await;
    for reason in [
        "TealgateAborted",
        "TealgateRetried",
        "TealgateFlipped",
        "TealgateRolledBack",
        "TealgateAgreed",
        "TealgateRejected",
    ] {
        assert!(said.iter().any(|said| said == reason), "{reason} is missing: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_timed_pause_is_cut_short_by_a_promotion() {
    let bed = Bed::start().await;
    let mut shop = Shop::new();
    shop.blue_green()["autoPromotionEnabled"] = json!(true);
    shop.blue_green()["autoPromotionSeconds"] = json!(600);
    let (_, proxy, _, v2) = offering(&bed, &shop).await;
    is_ready(&proxy, &v2).await;
    let receipt = asked(&proxy, "promote", json!({})).await;
    assert_eq!(receipt["to"], v2.as_str(), "{receipt:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_promotion_waits_for_a_smaller_preview_to_grow() {
    let bed = Bed::start().await;
    let mut shop = Shop::new();
    shop.blue_green()["previewReplicaCount"] = json!(1);
    let (_, proxy, _, v2) = offering(&bed, &shop).await;
    patiently("the candidate", async || proxy.status().await["preview"]["ready"] == 1).await;
    let receipt = asked(&proxy, "promote", json!({})).await;
    assert_eq!(receipt["to"], v2.as_str(), "{receipt:#}");
    assert_eq!(proxy.status().await["active"]["ready"], 2);
}

/// Waits until the proxy says what to do in Git, or says it no more; live traffic stays with this hash.
async fn says_what_to_do_in_git(proxy: &Proxy, says: bool, active: &str) {
    patiently("the proxy to say what is to be done in Git, or no more", async || {
        let status = proxy.status().await;
        assert_eq!(status["active"]["revision"], active);
        status["message"].as_str().is_some_and(|message| message.contains("in Git")) == says
    })
    .await;
    println!("{}", proxy.status().await["message"]);
}

/// v2 was promoted and rolled back from, and whoever changes the template has it put back to v2, until that is dropped; the
/// proxy has said what to do.
async fn healing(bed: &Bed) -> (Rollout, Proxy, String, String, AbortOnDropHandle<()>) {
    let (rollout, proxy, v1, v2) = offering(bed, &Shop::new()).await;
    is_ready(&proxy, &v2).await;
    asked(&proxy, "promote", json!({})).await;
    rollout.settles_on("shop:v2").await;
    let healed = bed.rollout("shop");
    let healing = AbortOnDropHandle::new(tokio::spawn(async move {
        let is_v1 =
            |object: &Value| object.pointer("/spec/template/spec/containers/0/image") == Some(&json!("shop:v1"));
        loop {
            healed.until("a change to heal", is_v1).await;
            healed.set_image("shop:v2").await;
        }
    }));
    asked(&proxy, "rollback", json!({ "reason": "errors" })).await;
    says_what_to_do_in_git(&proxy, true, &v1).await;
    (rollout, proxy, v1, v2, healing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn git_that_heals_itself_does_not_bring_back_what_was_rolled_back() {
    let bed = Bed::start().await;
    let (rollout, proxy, v1, _, healing) = healing(&bed).await;
    drop(healing);
    // Git follows: the two agree.
    rollout.set_image("shop:v1").await;
    rollout.service_selects("shop-active", &v1).await;
    says_what_to_do_in_git(&proxy, false, &v1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn what_git_brings_back_is_promoted_by_whoever_asks_us_for_it() {
    let bed = Bed::start().await;
    let (rollout, proxy, _, v2, _healing) = healing(&bed).await;
    let receipt = asked(&proxy, "promote", json!({ "revision": v2, "reason": "it was not the cause" })).await;
    assert_eq!(receipt["to"], v2.as_str(), "{receipt:#}");
    rollout.settles_on("shop:v2").await;
    says_what_to_do_in_git(&proxy, false, &v2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn what_was_rolled_back_and_waits_for_approval_again_is_promoted_by_the_plain_plugin() {
    let bed = Bed::start().await;
    let (rollout, proxy, v1, v2) = offering(&bed, &Shop::new()).await;
    is_ready(&proxy, &v2).await;
    asked(&proxy, "promote", json!({})).await;
    rollout.settles_on("shop:v2").await;
    // What is rolled back from goes soon: as long as it is there Argo Rollouts returns to it without asking.
    let soon = json!({ "spec": { "strategy": { "blueGreen": { "scaleDownDelaySeconds": 1 } } } });
    rollout.merge(soon).await;
    asked(&proxy, "rollback", json!({ "reason": "errors" })).await;
    rollout.settles_on("shop:v1").await;
    patiently("the Pods of v2 to go", async || rollout.pods_of(&v2).await.is_empty()).await;
    rollout.set_image("shop:v2").await;
    assert_eq!(rollout.offers("shop:v2").await, v2);
    says_what_to_do_in_git(&proxy, true, &v1).await;
    is_ready(&proxy, &v2).await;
    rollout.verb("promote").await;
    serves(&proxy, &v2).await;
    rollout.settles_on("shop:v2").await;
    rollout.until("the word to be taken back", |rollout| annotation(rollout).is_null()).await;
    assert_eq!(proxy.status().await["active"]["revision"], v2.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_retry_whose_pods_are_still_up_is_a_promotion_and_wants_to_be_meant() {
    let bed = Bed::start().await;
    let (rollout, proxy, v1, v2) = offering(&bed, &Shop::new()).await;
    is_ready(&proxy, &v2).await;
    asked(&proxy, "abort", json!({})).await;
    assert_eq!(refused(&proxy, "retry", json!({})).await, (409, "gate-failed".to_owned()));
    assert_eq!(proxy.status().await["active"]["revision"], v1.as_str());
    // Nobody is asked for an approval.
    let receipt = asked(&proxy, "retry", json!({ "skipGates": true, "reason": "it was fine" })).await;
    assert!(receipt["warnings"][0].as_str().is_some_and(|why| why.contains("promote it at once")), "{receipt:#}");
    rollout.settles_on("shop:v2").await;
    serves(&proxy, &v2).await;
}

/// Three proxies before the shop, of which v2 is live and v1 is kept; the controller of Argo Rollouts is down.
async fn replicas(bed: &mut Bed) -> (Rollout, [Proxy; 3], String, String) {
    let (rollout, first, v1, v2) = offering(bed, &Shop::new()).await;
    let (second, third) = (follower(bed).await, follower(bed).await);
    is_ready(&first, &v2).await;
    asked(&first, "promote", json!({})).await;
    rollout.settles_on("shop:v2").await;
    for proxy in [&second, &third] {
        serves(proxy, &v2).await;
    }
    bed.argo.kill();
    (rollout, [first, second, third], v1, v2)
}

/// When live traffic went to this hash last.
async fn moved_at(proxy: &Proxy, hash: &str) -> Timestamp {
    let (_, history) = proxy.admin.call("GET", &format!("/apps/{APP}/history"), None).await;
    let all = history.as_array().expect("a list");
    let to = all.iter().filter(|receipt| receipt["action"] == "rollback" && receipt["to"] == hash);
    let at = to.filter_map(|receipt| receipt["publishedAt"].as_str()?.parse().ok());
    at.max().unwrap_or_else(|| panic!("no rollback to {hash}: {history:#}"))
}

/// Waits until all have returned to this hash, and says how far apart they did.
async fn all_returned(proxies: &[Proxy; 3], hash: &str) {
    let mut moved = Vec::new();
    for proxy in proxies {
        serves(proxy, hash).await;
        moved.push(moved_at(proxy, hash).await);
    }
    let after = moved.iter().map(|at| at.duration_since(moved[0]).as_millis()).collect::<Vec<_>>();
    println!("the replicas returned after {after:?} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn three_replicas_follow_a_rollback_together_also_when_the_controller_is_down() {
    let mut bed = Bed::start().await;
    let (rollout, proxies, v1, v2) = replicas(&mut bed).await;
    let receipt = asked(&proxies[0], "rollback", json!({})).await;
    assert_eq!(receipt["warnings"], Value::Null, "{receipt:#}");
    all_returned(&proxies, &v1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    rollout.service_selects("shop-active", &v2).await;
    for proxy in &proxies {
        assert_eq!(proxy.status().await["active"]["revision"], v1.as_str());
    }
    bed.argo.start_again();
    rollout.service_selects("shop-active", &v1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn three_replicas_follow_a_rollback_after_whose_answer_the_api_server_dies() {
    let mut bed = Bed::start().await;
    let (rollout, proxies, v1, _) = replicas(&mut bed).await;
    let receipt = asked(&proxies[0], "rollback", json!({})).await;
    bed.plane.api_server.kill();
    assert_eq!(receipt["warnings"], Value::Null, "{receipt:#}");
    all_returned(&proxies, &v1).await;
    // The cluster agrees when it can.
    bed.plane.start_api_server_again().await;
    bed.argo.start_again();
    rollout.service_selects("shop-active", &v1).await;
    rollout.settles_on("shop:v1").await;
    for proxy in &proxies {
        assert_eq!(proxy.status().await["active"]["revision"], v1.as_str());
    }
}
