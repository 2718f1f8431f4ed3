//! Canaries of the real controller, under live load: by the weights that it writes where it has a router, and by the steps
//! where it has none. The candidate's share is exact at each step, an abort gives all of it back, and no request fails.

use serde_json::{Value, json};

use super::{
    bed::{Bed, NAMESPACE, Shop},
    follower::answers_at,
    patiently,
    rollout::Rollout,
};
use crate::support::{
    client::{Client, Protocol},
    load::Load,
    proxy::Proxy,
};

/// So many new users are looked at to see a share.
const USERS: usize = 600;
/// The Ingress that the router of these tests changes a copy of; nobody serves it.
const INGRESS: &str = "shop";

/// Four Pods; a person ends each of the two pauses, at 20 % and at 60 %.
fn shop(routing: Option<Value>) -> Shop {
    let mut shop = Shop::new();
    let mut canary = json!({
        "stableService": "shop-active",
        "canaryService": "shop-preview",
        "steps": [{ "setWeight": 20 }, { "pause": {} }, { "setWeight": 60 }, { "pause": {} }],
    });
    if let Some(routing) = routing {
        canary["trafficRouting"] = routing;
    }
    shop.rollout["spec"]["replicas"] = json!(4);
    shop.rollout["spec"]["strategy"] = json!({ "canary": canary });
    shop
}

/// Waits until the Rollout pauses at this step, and the proxy gives its share to a candidate that is ready.
async fn pauses_at(rollout: &Rollout, proxy: &Proxy, step: u64, candidate: &str, percent: u64) {
    let at = |rollout: &Value| rollout["status"]["currentStepIndex"] == step && rollout["status"]["phase"] == "Paused";
    rollout.until(&format!("a pause at step {step}"), at).await;
    patiently(&format!("{percent} % on {candidate}"), async || {
        let status = proxy.status().await;
        status["weight"] == percent && status["preview"]["revision"] == candidate && status["preview"]["ready"] != 0
    })
    .await;
    let on_candidate = share(proxy, candidate).await;
    println!("step {step}: {percent} % wanted, {on_candidate} of {USERS} new users on {candidate}");
    // Five standard deviations.
    let (wanted, all) = (percent as f64 / 100.0, USERS as f64);
    let off = (on_candidate as f64 - wanted * all).abs();
    assert!(off <= 5.0 * (all * wanted * (1.0 - wanted)).sqrt(), "{on_candidate} of {USERS} at {percent} %");
}

/// How many of [`USERS`] new users this revision answers.
async fn share(proxy: &Proxy, hash: &str) -> usize {
    let mut client = Client::connect(Protocol::H1, proxy.live).await.expect("it accepts");
    let mut there = 0;
    for _ in 0..USERS {
        there += usize::from(client.get("/").await.expect("an answer").colour() == hash);
    }
    there
}

/// Waits until all live traffic is on this revision, and there is no candidate to share it with.
async fn all_on(proxy: &Proxy, hash: &str) {
    patiently(&format!("all traffic on {hash}"), async || {
        let status = proxy.status().await;
        status["weight"] == 0 && status["active"]["revision"] == hash
    })
    .await;
    assert_eq!(share(proxy, hash).await, USERS, "{hash} is not alone");
}

/// Two rollouts: one that is given up on the way and taken up again, and one that goes through all steps.
async fn lives(bed: &Bed, manifests: &Shop) {
    let proxy = Proxy::start(bed.following().await).await;
    let rollout = bed.deploy(manifests).await;
    let v1 = rollout.settles_on("shop:v1").await;
    answers_at(proxy.live, &v1).await;
    let load = Load::start(proxy.live);
    all_on(&proxy, &v1).await;

    rollout.set_image("shop:v2").await;
    let v2 = rollout.hash_of("shop:v2").await;
    pauses_at(&rollout, &proxy, 1, &v2, 20).await;
    answers_at(proxy.preview, &v2).await;
    rollout.verb("promote").await;
    pauses_at(&rollout, &proxy, 3, &v2, 60).await;
    rollout.verb("abort").await;
    rollout.is("Degraded").await;
    all_on(&proxy, &v1).await;
    println!("aborted: all on the stable revision");

    rollout.retry().await;
    pauses_at(&rollout, &proxy, 1, &v2, 20).await;
    rollout.promote_in_full().await;
    rollout.settles_on("shop:v2").await;
    all_on(&proxy, &v2).await;
    println!("promoted in full: all on the new revision");

    rollout.set_image("shop:v3").await;
    let v3 = rollout.hash_of("shop:v3").await;
    pauses_at(&rollout, &proxy, 1, &v3, 20).await;
    rollout.verb("promote").await;
    pauses_at(&rollout, &proxy, 3, &v3, 60).await;
    rollout.verb("promote").await;
    rollout.settles_on("shop:v3").await;
    all_on(&proxy, &v3).await;
    let report = load.stop().await;
    println!("{report}");
    report.assert_no_request_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_canary_with_a_router_has_the_shares_of_its_weights_and_fails_no_request() {
    let bed = Bed::start().await;
    let backend = json!({ "service": { "name": "shop-active", "port": { "number": 80 } } });
    bed.apply(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": { "name": INGRESS, "namespace": NAMESPACE },
        "spec": { "rules": [{ "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } }] },
    }))
    .await;
    lives(&bed, &shop(Some(json!({ "nginx": { "stableIngress": INGRESS } })))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_canary_without_a_router_has_the_shares_of_its_steps_and_fails_no_request() {
    let bed = Bed::start().await;
    lives(&bed, &shop(None)).await;
}
