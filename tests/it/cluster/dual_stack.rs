//! Pods with an address of each family: they are reached by the family that their Service puts first, and by no other.

use serde_json::{Value, json};

use super::{
    bed::{Bed, Shop},
    follower::Traffic,
};
use crate::support::proxy::Proxy;

/// The addresses of the active revision's endpoints.
async fn addresses(proxy: &Proxy) -> Vec<String> {
    let status = proxy.status().await;
    let endpoints = status["active"]["endpoints"].as_array().expect("endpoints").clone();
    endpoints.iter().map(|endpoint| endpoint["address"].as_str().expect("an address").to_owned()).collect()
}

/// A flip before Services of these families; every endpoint's address begins so.
async fn lives(bed: &Bed, policy: &str, families: Value, begins: &str) {
    let mut manifests = Shop::new();
    for service in [&mut manifests.active, &mut manifests.preview] {
        service["spec"]["ipFamilyPolicy"] = json!(policy);
        service["spec"]["ipFamilies"] = families.clone();
    }
    let proxy = Proxy::start(bed.following().await).await;
    let shop = bed.deploy(&manifests).await;
    let v1 = shop.settles_on("shop:v1").await;
    let mut traffic = Traffic::on(&bed.node, &proxy, &v1).await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    traffic.moves_to(&v2, shop.verb("promote")).await;
    let addresses = addresses(&proxy).await;
    println!("{policy} {families}: {addresses:?}");
    assert!(addresses.len() == 2 && addresses.iter().all(|address| address.starts_with(begins)), "{addresses:?}");
    traffic.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn pods_are_reached_by_the_family_that_their_service_puts_first() {
    for (policy, families, begins) in [
        ("RequireDualStack", json!(["IPv6", "IPv4"]), "[fd77:"),
        ("SingleStack", json!(["IPv6"]), "[fd77:"),
        ("RequireDualStack", json!(["IPv4", "IPv6"]), "10.77."),
    ] {
        let bed = Bed::start().await;
        if !bed.node.speaks_v6() {
            return println!("this machine has no IPv6: there is nothing to see here");
        }
        lives(&bed, policy, families, begins).await;
    }
}
