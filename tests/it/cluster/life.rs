//! The whole life of a Rollout, under live load: whatever Argo Rollouts and its users do, no request fails, and once the
//! first has arrived at the new pool none is sent to the old one.

use serde_json::json;

use super::{
    bed::{Bed, Shop},
    follower::{Traffic, answers_at, revision_at},
    patiently,
};
use crate::support::proxy::Proxy;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn no_request_fails_and_none_goes_astray_in_a_whole_life() {
    let bed = Bed::start().await;
    let proxy = Proxy::start(bed.following().await).await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;

    // An update: the candidate is for testers alone, until a person promotes it.
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    answers_at(proxy.preview, &v2).await;
    assert_eq!(revision_at(proxy.live).await, v1);
    traffic.moves_to(&v2, shop.verb("promote")).await;
    shop.settles_on("shop:v2").await;

    // Back while the old Pods are still there.
    traffic.moves_to(&v1, shop.verb("undo")).await;
    shop.settles_on("shop:v1").await;

    // Given up, taken up again once its Pods are gone, promoted. From here on the old Pods do not stay.
    let delays = json!({ "scaleDownDelaySeconds": 2, "abortScaleDownDelaySeconds": 1 });
    shop.merge(json!({ "spec": { "strategy": { "blueGreen": delays } } })).await;
    shop.set_image("shop:v3").await;
    let v3 = shop.offers("shop:v3").await;
    shop.verb("abort").await;
    shop.is("Degraded").await;
    traffic.goes_on().await;
    patiently("the candidate's Pods to go", async || shop.pods_of(&v3).await.is_empty()).await;
    shop.retry().await;
    shop.offers("shop:v3").await;
    traffic.moves_to(&v3, shop.verb("promote")).await;
    shop.settles_on("shop:v3").await;

    // Back when the old Pods are gone: an update like any other.
    patiently("the old Pods to go", async || shop.pods_of(&v1).await.is_empty()).await;
    shop.verb("undo").await;
    shop.offers("shop:v1").await;
    answers_at(proxy.preview, &v1).await;
    traffic.moves_to(&v1, shop.verb("promote")).await;
    shop.settles_on("shop:v1").await;

    // Promoted by the clock.
    let auto = json!({ "autoPromotionEnabled": true, "autoPromotionSeconds": 2 });
    shop.merge(json!({ "spec": { "strategy": { "blueGreen": auto } } })).await;
    shop.set_image("shop:v4").await;
    let v4 = shop.hash_of("shop:v4").await;
    traffic.moves_to(&v4, shop.settles_on("shop:v4")).await;

    traffic.ends_well().await;
}
