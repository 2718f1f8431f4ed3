//! Two Services and no Rollout: whoever patches their selectors decides, and live traffic follows the patch.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::{
    bed::{Bed, NAMESPACE, Shop},
    follower::{Traffic, answers_at, revision_at},
    patiently,
    rollout::Rollout,
};
use crate::support::proxy::Proxy;

/// Pods of this version.
async fn deploy(bed: &Bed, version: &str) {
    let labels = json!({ "app": "shop", "version": version });
    let ports = json!([{ "name": "http", "containerPort": 8080 }]);
    let container = json!({ "name": "web", "image": format!("shop:{version}"), "ports": ports });
    bed.apply(json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": { "name": format!("shop-{version}"), "namespace": NAMESPACE },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        },
    }))
    .await;
}

/// What `kubectl patch` sends.
async fn point(shop: &Rollout, service: &str, version: &str) {
    let patch = json!({ "spec": { "selector": { "version": version } } });
    shop.services.patch(service, &PatchParams::default(), &Patch::Strategic(patch)).await.expect("a patch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_patch_of_the_selector_flips_live_traffic_and_fails_no_request() {
    let bed = Bed::start().await;
    let services = json!({
        "namespace": NAMESPACE, "active_service": "shop-active", "preview_service": "shop-preview",
    });
    let proxy = Proxy::start(bed.following_objects(services).await).await;
    let Shop { active, preview, .. } = Shop::new();
    for (mut service, version) in [(active, "v1"), (preview, "v2")] {
        service["spec"]["selector"]["version"] = json!(version);
        bed.apply(service).await;
        deploy(&bed, version).await;
    }
    let shop = bed.rollout("shop");
    let mut traffic = Traffic::on(&bed.node, &proxy, "v1").await;
    answers_at(proxy.preview, "v2").await;

    // There and back and there again, the other Service last, as people do it by hand.
    traffic.moves_to("v2", point(&shop, "shop-active", "v2")).await;
    traffic.moves_to("v1", point(&shop, "shop-active", "v1")).await;
    traffic.moves_to("v2", point(&shop, "shop-active", "v2")).await;
    point(&shop, "shop-preview", "v3").await;
    traffic.goes_on().await;
    deploy(&bed, "v3").await;
    answers_at(proxy.preview, "v3").await;
    assert_eq!(revision_at(proxy.live).await, "v2");
    traffic.moves_to("v3", point(&shop, "shop-active", "v3")).await;

    // A name that no Pod has is no place to send anybody to.
    point(&shop, "shop-active", "v33").await;
    patiently("the hole to be told", async || {
        let status = proxy.status().await;
        status["message"].as_str().is_some_and(|message| message.contains("v33"))
    })
    .await;
    println!("{}", proxy.status().await["message"]);
    traffic.goes_on().await;
    assert_eq!(revision_at(proxy.live).await, "v3");
    point(&shop, "shop-active", "v3").await;
    patiently("all to be well", async || {
        let status = proxy.status().await;
        status["active"]["revision"] == "v3" && status["source"]["problem"].is_null()
    })
    .await;

    // What is no longer wanted goes, and nobody notices.
    for gone in ["shop-v1", "shop-v2"] {
        shop.sets.delete(gone, &DeleteParams::background()).await.expect("a ReplicaSet");
    }
    patiently("their Pods to be forgotten", async || {
        proxy.status().await["previous"]["total"].as_u64().unwrap_or(0) == 0
    })
    .await;
    traffic.goes_on().await;
    let report = traffic.ends_well().await;
    println!("{report}");
}
