//! The testbed does what a cluster does, and what Argo Rollouts does that one would not think, no proxy near it.

use super::bed::{Bed, Shop};
use crate::support::client::{Client, Protocol};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn the_testbed_lives_through_an_update() {
    let bed = Bed::start().await;
    let shop = bed.deploy(&Shop::new()).await;
    let v1 = shop.settles_on("shop:v1").await;
    shop.service_selects("shop-active", &v1).await;

    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    shop.service_selects("shop-preview", &v2).await;
    shop.service_selects("shop-active", &v1).await;

    shop.verb("promote").await;
    assert_eq!(shop.settles_on("shop:v2").await, v2);
    shop.service_selects("shop-active", &v2).await;
    // What was live is still there, and answers.
    for (hash, image) in [(&v1, "shop:v1"), (&v2, "shop:v2")] {
        let pods = shop.pods_of(hash).await;
        assert_eq!(pods.len(), 2, "{pods:#?}");
        for pod in pods {
            let address = pod.status.and_then(|status| status.pod_ip).expect("an address");
            let place = format!("{address}:8080").parse().expect("an address");
            let mut client = Client::connect(Protocol::H1, place).await.expect("it accepts");
            let answer = client.get("/").await.expect("an answer");
            assert_eq!((answer.colour(), answer.header("x-image")), (hash.as_str(), image));
        }
    }
    assert_eq!((bed.node.begun(&v1), bed.node.begun(&v2)), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_retry_while_the_candidate_still_stands_is_a_promotion_that_nobody_approved() {
    let bed = Bed::start().await;
    let shop = bed.deploy(&Shop::new()).await;
    shop.settles_on("shop:v1").await;
    shop.set_image("shop:v2").await;
    let v2 = shop.offers("shop:v2").await;
    shop.verb("abort").await;
    shop.is("Degraded").await;
    // The aborted ReplicaSet has a scale-down deadline, and what has one is taken for a rollback.
    shop.retry().await;
    shop.service_selects("shop-active", &v2).await;
    shop.settles_on("shop:v2").await;
}
