//! Pods that die without a word: the API server holds them ready, for nobody there is left to say otherwise. What had
//! begun on them may be lost with them; everybody else is served by the others, and they are out of use once that is seen.

use std::{collections::BTreeSet, time::Instant};

use serde_json::json;

use super::{
    bed::{Bed, Shop},
    follower::answers_at,
    patiently,
};
use crate::support::{
    load::{Lane, Load, Report},
    proxy::Proxy,
};

/// How a Pod dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Its process ends, and the kernel below it says so to whoever is connected or comes.
    Killed,
    /// Its machine loses its power: nobody answers any more, not even to say no.
    CutOff,
}

/// Three Pods under load, of which one dies; what became of the load, and the numbers of the requests that the dead Pod
/// had seen.
async fn outlives(death: Death) -> (Report, BTreeSet<String>) {
    let bed = Bed::start().await;
    let mut manifests = Shop::new();
    manifests.rollout["spec"]["replicas"] = json!(3);
    let mut setup = bed.following().await;
    // Nobody wants to wait as long as the defaults do for who is dead.
    setup.app()["health"] =
        json!({ "path": "/healthz", "interval": "200ms", "timeout": "500ms", "rise": 1, "fall": 2 });
    setup.app()["ejection"] = json!({ "consecutive_failures": 3, "for": "5s" });
    setup.app()["timeouts"] = json!({ "connect": "500ms", "response": "5s" });
    setup.app()["retries"] = json!({ "attempts": 2, "per_try": "2s", "budget": "100%" });
    let proxy = Proxy::start(setup).await;
    let shop = bed.deploy(&manifests).await;
    let v1 = shop.settles_on("shop:v1").await;
    answers_at(proxy.live, &v1).await;
    patiently("three endpoints", async || proxy.status().await["active"]["ready"] == 3).await;
    let load = Load::start(proxy.live);
    load.reached(&v1).await;

    let pod = shop.pods_of(&v1).await.remove(0).metadata.name.expect("a name");
    let before = load.report();
    match death {
        Death::Killed => bed.node.kill(&pod),
        Death::CutOff => bed.node.cut_off(&pod),
    }
    let died = Instant::now();
    patiently("the dead one to be out of use", async || proxy.status().await["active"]["ready"] == 2).await;
    let out = Instant::now();
    let begun = bed.node.begun(&v1);
    patiently("load on the others", async || bed.node.begun(&v1) > begun + 500).await;
    let held = shop.pods_of(&v1).await.len();
    let report = load.stop().await;
    println!("{death:?}: out of use after {:?}; {report}", out - died);
    assert_eq!(before.failed(), 0, "before it died: {before}");
    assert_eq!(held, 3, "the API server knows of no death");
    for tally in report.lanes.values() {
        let late = tally.requests.iter().filter(|(id, at)| *at > out && tally.lost.contains(id));
        assert_eq!(late.count(), 0, "lost after the dead one was out of use: {report}");
    }
    (report, bed.node.seen_by(&pod).into_iter().map(|seen| seen.id).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_pod_whose_process_dies_takes_nothing_with_it_but_what_had_begun_there() {
    let (report, seen) = outlives(Death::Killed).await;
    let lost: Vec<_> = report.lanes.values().flat_map(|tally| &tally.lost).collect();
    println!("lost: {lost:?}");
    let elsewhere: Vec<_> = lost.iter().filter(|id| !seen.contains(**id)).collect();
    assert!(elsewhere.is_empty(), "these never began on the dead Pod: {elsewhere:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn a_pod_that_is_cut_off_takes_nothing_with_it_but_what_had_been_sent_there() {
    let (report, seen) = outlives(Death::CutOff).await;
    for (lane, tally) in &report.lanes {
        // What cannot be sent twice is lost if it was sent there; there is one of these at a time.
        let most = if *lane == Lane::Uploads { 1 } else { 0 };
        let elsewhere = tally.lost.iter().filter(|id| !seen.contains(*id)).count();
        assert!(elsewhere <= most, "{lane:?}: {elsewhere} lost that had not begun on the dead Pod: {report}");
    }
}
