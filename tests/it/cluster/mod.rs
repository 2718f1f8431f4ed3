//! Against real software: a real kube-apiserver and etcd, the real controllers that make Pods and EndpointSlices, and the
//! real Argo Rollouts controller and its kubectl plugin, with this process as the one node. `tests/cluster/run` brings
//! all of it and a network namespace for it; without that, each of these tests is left out.

// Each instrument is whole, whichever of its parts the tests of the day use.
#![allow(dead_code, unreachable_pub)]

// The programs, who starts them, and who plays the node.
mod bed;
mod manifests;
mod node;
mod plane;
mod program;
mod rollout;

// The proxy before it, and load.
mod follower;

// What is asked of Argo Rollouts.
mod commands;
// The testbed itself.
mod proven;

// How soon live traffic follows the Service, beside a peer.
mod flip;
// What breaks, and what is deleted.
mod chaos;
// Pods that die without a word.
mod silent;
// What it may do in the cluster.
mod rights;
// First deploy, updates, promotions, rollbacks, aborts.
mod life;
// Canaries, by weights and by steps.
mod canary;
// Two Services without a Rollout.
mod services;
// Many of all.
mod crowd;
// Pods of both families.
mod dual_stack;

use std::time::Duration;

/// The label that tells which revision a Pod and a ReplicaSet are of, and the selector key of a Service.
const HASH: &str = "rollouts-pod-template-hash";

/// Asks again and again until the answer is yes, with the patience that whole programs want on a machine that has more to
/// do.
async fn patiently(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    in_good_time(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    })
    .await;
}

/// Waits for what whole programs do; what hangs says what it hung on.
async fn in_good_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(120), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within two minutes"),
    }
}
