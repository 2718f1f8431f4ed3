//! What following a cluster costs, how soon a flip follows its event, and what requests feel of it. Printed, not judged: run
//! alone, with `cargo test --profile quick --test it kubernetes_figures -- --ignored --nocapture --test-threads=1`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::{Client, HOST, Protocol},
    cluster::Cluster,
    eventually,
    process::Process,
    proxy::Proxy,
    rollouts::{HASH, following, the_rollout},
    setup::APP,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it prints figures, and wants the machine for itself"]
async fn how_soon_a_request_follows_the_event() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let cluster = Cluster::with_shop(&blue);
    let proxy = Proxy::start(following(&cluster, the_rollout())).await;
    cluster.updates("h2", 2, &green);
    proxy.reached("previewing").await;
    let mut client = proxy.client(Protocol::H1).await;
    let mut took = Vec::new();
    for flip in 0..200 {
        let (hash, colour) = [("h2", "green"), ("h1", "blue")][flip % 2];
        cluster.select("shop-active", Some(hash));
        let patched = Instant::now();
        while client.get("/").await.expect("an answer").colour() != colour {}
        took.push(patched.elapsed());
        // The status follows, and the other Service: what is candidate now.
        cluster.promotes(hash);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort();
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    println!("from the patch's end to the first answer: p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), at(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it prints figures, and wants the machine for itself"]
async fn what_fifty_rollouts_with_five_hundred_pods_cost() {
    let cluster = Cluster::spawn();
    let mut setup = following(&cluster, the_rollout());
    let mut apps = serde_json::Map::new();
    for app in 0..50 {
        make(&cluster, app);
        let source = json!({ "kubernetes": { "rollout": format!("app-{app}") } });
        // Nobody is at the pods' addresses, and that is not what is measured.
        let health = json!({ "interval": "1h" });
        apps.insert(
            format!("app-{app}"),
            json!({ "hosts": [format!("{app}.test")], "source": source, "health": health }),
        );
    }
    let untouched = Backend::spawn("blue");
    let revisions = json!({ "blue": { "endpoints": [untouched.address()] } });
    let fixed = json!({ "hosts": [HOST], "source": { "static": { "active": "blue", "revisions": revisions } } });
    apps.insert(APP.to_owned(), fixed.clone());
    let mut bare = following(&cluster, json!({ "rollout": "none" }));
    bare.config["apps"] = json!({ "none": { "source": { "kubernetes": { "rollout": "none" } } }, APP: fixed });
    let bare = Process::start(bare).await;
    setup.config["apps"] = Value::Object(apps);
    let process = Process::start(setup).await;
    eventually("all to be seen", async || {
        let (_, all) = process.admin.call("GET", "/apps", None).await;
        let apps = all.as_array().or_else(|| all["apps"].as_array()).cloned().unwrap_or_default();
        apps.len() == 51 && apps.iter().all(|app| app["name"] == APP || app["active"]["total"] == 10)
    })
    .await;
    println!("memory: {} KiB above one app that sees nothing", (process.peak_memory() - bare.peak_memory()) / 1024);
    for (name, per_second) in [("at rest", 0), ("20 updates a second", 20), ("200 updates a second", 200)] {
        let (before, begun) = (process.cpu_time(), Instant::now());
        update(&cluster, per_second, Duration::from_secs(10)).await;
        let share = (process.cpu_time() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        let lasts = Duration::from_secs(5);
        let asking = tokio::spawn(ask(process.live, lasts));
        update(&cluster, per_second, lasts).await;
        let took = asking.await.expect("answers");
        let at = |share: usize| took[(took.len() - 1) * share / 100];
        let (asked, p50, p99, most) = (took.len(), at(50), at(99), at(100));
        println!("{name}: {:.2} % of a core; {asked} requests: p50 {p50:?}, p99 {p99:?}, most {most:?}", share * 100.0);
    }
}

/// Changes a pod of one Rollout after the other, so often.
async fn update(cluster: &Cluster, per_second: u32, lasts: Duration) {
    let begun = Instant::now();
    let mut turn = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    for n in 0_u32.. {
        turn.tick().await;
        if begun.elapsed() >= lasts {
            return;
        }
        if per_second > 0 {
            let pod = format!("app-{}-h1-{}", n % 50, n / 50 % 10);
            let touched = format!("{begun:?} {n}");
            cluster.patch("pods", &pod, json!({ "metadata": { "annotations": { "touched": touched } } }));
        }
    }
}

/// Asks an app that nobody changes, some hundred times a second on one connection; how long each answer took, the shortest
/// first.
pub(crate) async fn ask(address: SocketAddr, lasts: Duration) -> Vec<Duration> {
    let mut client = Client::connect(Protocol::H1, address).await.expect("it accepts");
    let (begun, mut took) = (Instant::now(), Vec::new());
    while begun.elapsed() < lasts {
        let asked = Instant::now();
        assert_eq!(client.get("/").await.expect("an answer").colour(), "blue");
        took.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort();
    took
}

fn make(cluster: &Cluster, app: u16) {
    let name = format!("app-{app}");
    let selectors = json!({ "activeSelector": "h1", "previewSelector": "h1" });
    let active = format!("{name}-active");
    cluster.put(
        "rollouts",
        json!({
            "metadata": { "name": name, "uid": format!("ro-{app}") },
            "spec": { "strategy": { "blueGreen": { "activeService": active } } },
            "status": { "currentPodHash": "h1", "stableRS": "h1", "blueGreen": selectors },
        }),
    );
    cluster.put_service(&active, json!({ "app": name, HASH: "h1" }));
    cluster.put("replicasets", json!({
        "metadata": {
            "name": format!("{name}-h1"), "uid": format!("rs-{app}"), "labels": { "app": name, HASH: "h1" },
            "ownerReferences": [{ "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": name, "uid": format!("ro-{app}"), "controller": true }],
        },
        "spec": { "replicas": 10 },
    }));
    for pod in 0..10 {
        let owner = json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-h1"), "uid": format!("rs-{app}"), "controller": true }]);
        let address = ([127, 0, 0, 1], 1 + app * 10 + pod).into();
        cluster.put_pod_of(&format!("{name}-h1-{pod}"), json!({ "app": name, HASH: "h1" }), owner, address);
    }
}
