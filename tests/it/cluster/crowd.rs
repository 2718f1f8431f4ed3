//! Many Rollouts with many Pods, and Pods that change all the time: what following them costs, and what requests to an app
//! that none of it concerns feel. Printed, not judged: `TEALGATE_PROFILE=quick tests/cluster/run cluster::crowd`.

use std::time::{Duration, Instant};

use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::bed::{Bed, NAMESPACE, Shop};
use crate::{
    kubernetes_figures::ask,
    support::{backend::Backend, client::HOST, process::Process, setup::APP},
};

const ROLLOUTS: usize = 50;
const PODS_EACH: usize = 10;

/// The manifests of the shop, of another name.
fn named(name: &str, object: &Value) -> Value {
    serde_json::from_str(&object.to_string().replace("shop", name)).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real cluster: tests/cluster/run"]
async fn fifty_rollouts_with_five_hundred_pods_are_followed_and_others_requests_go_on() {
    let bed = Bed::start().await;
    let mut setup = bed.following().await;
    let untouched = Backend::spawn("blue");
    let revisions = json!({ "blue": { "endpoints": [untouched.address()] } });
    let fixed = json!({ "hosts": [HOST], "source": { "static": { "active": "blue", "revisions": revisions } } });
    let mut apps = serde_json::Map::from_iter([(APP.to_owned(), fixed)]);
    for name in (0..ROLLOUTS).map(|n| format!("app-{n}")) {
        let mut shop = Shop::new();
        shop.rollout["spec"]["replicas"] = json!(PODS_EACH);
        for object in [&shop.active, &shop.preview, &shop.rollout] {
            bed.apply(named(&name, object)).await;
        }
        let source = json!({ "kubernetes": { "namespace": NAMESPACE, "rollout": name } });
        let health = json!({ "interval": "1h" });
        apps.insert(name.clone(), json!({ "hosts": [format!("{name}.test")], "source": source, "health": health }));
    }
    setup.config["apps"] = Value::Object(apps);
    let process = Process::start(setup).await;
    let begun = Instant::now();
    loop {
        let (_, all) = process.admin.call("GET", "/apps", None).await;
        let apps = all.as_array().or_else(|| all["apps"].as_array()).cloned().unwrap_or_default();
        let whole = apps.iter().filter(|app| app["active"]["total"] == PODS_EACH).count();
        if whole == ROLLOUTS {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(240), "{whole} of {ROLLOUTS} are seen whole");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("all seen after {:?}; {} KiB at most", begun.elapsed(), process.peak_memory() / 1024);

    let pods = bed.rollout("shop").pods;
    let names: Vec<_> = pods.list(&ListParams::default()).await.expect("Pods").items;
    let names: Vec<String> = names.into_iter().filter_map(|pod| pod.metadata.name).collect();
    assert!(names.len() >= ROLLOUTS * PODS_EACH, "{} Pods", names.len());
    for per_second in [0, 20] {
        let lasts = Duration::from_secs(8);
        let (before, begun) = (process.cpu_time(), Instant::now());
        let asking = tokio::spawn(ask(process.live, lasts));
        let mut turn = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
        let mut updates = 0;
        while begun.elapsed() < lasts {
            turn.tick().await;
            if per_second > 0 {
                let touched = json!({ "metadata": { "annotations": { "touched": updates.to_string() } } });
                let name = &names[updates * 7 % names.len()];
                pods.patch(name, &PatchParams::default(), &Patch::Merge(touched)).await.expect("a Pod");
                updates += 1;
            }
        }
        let took = asking.await.expect("every request is answered");
        let share = (process.cpu_time() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        let at = |share: usize| took[(took.len() - 1) * share / 100];
        println!(
            "{updates} updates: {:.1} % of a core, {} requests: p50 {:?}, p99 {:?}, most {:?}",
            share * 100.0,
            took.len(),
            at(50),
            at(99),
            at(100)
        );
    }
}
