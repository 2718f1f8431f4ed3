//! Following a cluster: the real client against an API server with faults, and live traffic through the proxy meanwhile.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::{Client, Protocol},
    cluster::Cluster,
    eventually,
    load::{Lane, Load},
    proxy::Proxy,
    rollouts::{HASH, following, the_rollout},
    setup::{APP, Setup},
    shell::Shell,
};

/// A Rollout with `h1` at blue, followed.
async fn followed() -> (Backend, Backend, Cluster, Proxy) {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let cluster = Cluster::with_shop(&blue);
    let proxy = Proxy::start(following(&cluster, the_rollout())).await;
    proxy.serves("blue").await;
    (blue, green, cluster, proxy)
}

impl Proxy {
    /// Waits until live traffic reaches this upstream.
    async fn serves(&self, colour: &str) {
        eventually(&format!("{colour} to be live"), async || self.colour().await == colour).await;
    }

    async fn colour(&self) -> String {
        let mut client = self.client(Protocol::H1).await;
        client.get("/").await.map(|answer| answer.colour().to_owned()).unwrap_or_default()
    }

    /// Waits until the source says so of itself, or of what is wrong.
    async fn says(&self, words: &str) {
        eventually(&format!("{words:?} to be said"), async || {
            let status = self.status().await;
            [&status["source"]["problem"], &status["message"]]
                .iter()
                .any(|s| s.as_str().is_some_and(|s| s.contains(words)))
        })
        .await;
    }

    /// What `/readyz` says.
    async fn ready(&self) -> (u16, String) {
        let mut client = Client::connect(Protocol::H1, self.health).await.expect("the health listener accepts");
        let answer = client.get("/readyz").await.expect("an answer");
        (answer.status.as_u16(), answer.text())
    }

    /// Waits until `/readyz` says so.
    async fn is_ready(&self, status: u16, words: &str) {
        eventually(&format!("/readyz to say {status} {words:?}"), async || {
            let (answered, said) = self.ready().await;
            answered == status && said.contains(words)
        })
        .await;
    }

    /// Waits until the source is heard, or not.
    async fn is_stale(&self, stale: bool) {
        eventually(&format!("stale to be {stale}"), async || self.status().await["source"]["stale"] == stale).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_from_the_update_to_the_rollback_and_the_next_one() {
    let (blue, green, cluster, proxy) = followed().await;
    let status = proxy.status().await;
    assert_eq!(
        (&status["source"]["kind"], &status["source"]["authority"]),
        (&json!("kubernetes"), &json!("argo-rollouts"))
    );
    assert_eq!(status["active"]["labels"], json!({ "image": "shop:h1", "number": "1", "replicaset": "shop-h1" }));
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;

    cluster.updates("h2", 2, &green);
    proxy.reached("previewing").await;
    let mut tester = Client::connect(Protocol::H1, proxy.preview).await.expect("it accepts");
    assert_eq!(tester.get("/").await.expect("an answer").colour(), "green");
    assert!(load.report().lanes.values().all(|tally| !tally.by_colour.contains_key("green")), "by accident");

    cluster.promotes("h2");
    load.reached("green").await;
    proxy.reached("promoted").await;
    // Undo within the delay: h1 is the newest revision again, then the Service follows.
    cluster.put_replica_set("h1", 3, 1);
    cluster.select("shop-preview", Some("h1"));
    cluster.promotes("h1");
    proxy.serves("blue").await;
    let begun = blue.begun();
    eventually("load on blue", async || blue.begun() > begun + 20).await;
    load.stop().await.assert_no_request_failed();
    assert!(cluster.patches().is_empty(), "following writes nothing: {:?}", cluster.patches());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_of_ours_stands_until_the_cluster_agrees() {
    let (_blue, green, cluster, proxy) = followed().await;
    cluster.updates("h2", 2, &green);
    proxy.reached("previewing").await;
    cluster.promotes("h2");
    proxy.serves("green").await;
    proxy.rollback().await;
    assert_eq!(proxy.colour().await, "blue");
    // Events that say nothing new about it change nothing.
    cluster.patch("rollouts", "shop", json!({ "status": { "message": "all is well" } }));
    cluster.put_replica_set("h1", 1, 1);
    cluster.put_pod("h2", green.address());
    cluster.updates("h1", 3, &_blue);
    cluster.promotes("h1");
    eventually("agreement", async || proxy.status().await["source"]["drift"].is_null()).await;
    assert_eq!(proxy.colour().await, "blue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_gives_up_its_own_candidate_and_never_anothers() {
    let (_blue, green, cluster, proxy) = followed().await;
    cluster.patch("rollouts", "shop", json!({ "status": { "observedGeneration": "1" } }));
    let shell = Shell::at(format_args!("unix:{}", proxy.admin.socket.display()));
    // It was given up already.
    shell.run("reject shop --image shop:h2 --yes").await.ends_with(0).says("there is none");
    shell.run("abort shop --revision h2 --yes").await.ends_with(0).says("there is none");
    shell.run("reject shop --image shop:h1 --yes").await.ends_with(5).says("active in shop already");
    // Another pipeline's has come, and the proxy does not know of it yet.
    for resource in ["rollouts", "services", "replicasets", "pods"] {
        cluster.hold(resource);
    }
    cluster.updates("h3", 3, &green);
    assert_eq!(proxy.status().await["preview"], Value::Null);
    shell.run("reject shop --revision h2 --yes").await.ends_with(5).says("the candidate is h3");
    for resource in ["rollouts", "services", "replicasets", "pods"] {
        cluster.release(resource);
    }
    shell.run("wait shop --for preview-ready --revision h3").await.ends_with(0);
    shell.run("reject shop --image shop:h2 --yes").await.ends_with(5).says("the candidate is h3");
    assert_eq!(cluster.patches().len(), 0, "{:?}", cluster.patches());
    proxy.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_deploy_serves_as_soon_as_a_pod_is_ready() {
    let blue = Backend::spawn("blue");
    let cluster = Cluster::spawn();
    cluster.put_rollout(json!({}));
    cluster.put_service("shop-active", json!({ "app": "shop" }));
    cluster.put_service("shop-preview", json!({ "app": "shop" }));
    let proxy = Proxy::start(following(&cluster, the_rollout())).await;
    cluster.put_replica_set("h1", 1, 1);
    cluster.select("shop-preview", Some("h1"));
    cluster.patch("rollouts", "shop", json!({ "status": { "currentPodHash": "h1", "stableRS": "h1" } }));
    cluster.put_pod("h1", blue.address());
    proxy.serves("blue").await;
    assert_eq!(proxy.status().await["active"]["revision"], "unhashed");
    cluster.promotes("h1");
    eventually("h1 to be active", async || proxy.status().await["active"]["revision"] == "h1").await;
    assert_eq!(proxy.colour().await, "blue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_at_once_and_serves_when_the_cluster_comes() {
    let blue = Backend::spawn("blue");
    let mut cluster = Cluster::with_shop(&blue);
    cluster.stop();
    let proxy = Proxy::start(following(&cluster, the_rollout())).await;
    proxy.says("cannot be reached").await;
    assert_eq!(proxy.client(Protocol::H1).await.get("/").await.expect("an answer").status, 503);
    cluster.start();
    proxy.serves("blue").await;
    proxy.is_stale(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_is_not_ready_before_it_knows_what_to_serve() {
    let blue = Backend::spawn("blue");
    let mut cluster = Cluster::with_shop(&blue);
    cluster.stop();
    let mut setup = following(&cluster, the_rollout());
    let wiki = json!({ "hosts": ["wiki.test"], "source": { "kubernetes": { "rollout": "wiki" } } });
    setup.config["apps"]["wiki"] = wiki;
    let proxy = Proxy::start(setup).await;
    proxy.is_ready(503, "nothing is known to serve").await;
    cluster.hold("pods");
    cluster.start();
    eventually("the pods to be asked for", async || cluster.asked("list pods") > 0).await;
    assert_eq!(proxy.ready().await.0, 503, "pods are not listed yet");
    cluster.release("pods");
    // One app is there. The other never was: that holds up nobody.
    proxy.is_ready(200, "ok").await;
    proxy.serves("blue").await;
    cluster.stop();
    proxy.is_stale(true).await;
    assert_eq!(proxy.ready().await.0, 200, "what is known goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_changes_nothing_and_is_caught_up_with() {
    let (_blue, green, mut cluster, proxy) = followed().await;
    cluster.updates("h2", 2, &green);
    proxy.reached("previewing").await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    cluster.stop();
    proxy.is_stale(true).await;
    proxy.says("the API server cannot be reached").await;
    assert_eq!(proxy.colour().await, "blue");
    // Meanwhile, where we cannot see it.
    cluster.promotes("h2");
    let lists = cluster.asked("list services");
    cluster.start();
    load.reached("green").await;
    proxy.is_stale(false).await;
    load.stop().await.assert_no_request_failed();
    assert_eq!(cluster.asked("list services"), lists, "it was taken up where it broke off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_the_api_server_serves_what_was_known() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let state = tempfile::tempdir().expect("a directory");
    let setup = |cluster: &Cluster| {
        let mut setup = following(cluster, the_rollout());
        setup.config["state"]["dir"] = json!(state.path());
        setup
    };
    let mut cluster = Cluster::with_shop(&blue);
    let proxy = Proxy::start(setup(&cluster)).await;
    proxy.serves("blue").await;
    cluster.updates("h2", 2, &green);
    proxy.reached("previewing").await;
    cluster.promotes("h2");
    proxy.serves("green").await;
    cluster.stop();
    proxy.shutdown(Duration::ZERO).await;

    let proxy = Proxy::start(setup(&cluster)).await;
    assert_eq!(proxy.ready().await.0, 200);
    proxy.serves("green").await;
    proxy.is_stale(true).await;
    proxy.rollback().await;
    assert_eq!(proxy.colour().await, "blue", "and a rollback needs nobody (G5)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_and_outdated_watches_lose_nothing() {
    let (blue, green, cluster, proxy) = followed().await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    for (round, end) in [Cluster::cut_watches, Cluster::compact].into_iter().enumerate() {
        let number = 2 * round as u64 + 2;
        let (upstream, colour, next) = [(&green, "green", "h2"), (&blue, "blue", "h3")][round];
        end(&cluster);
        cluster.updates(next, number, upstream);
        end(&cluster);
        proxy.reached("previewing").await;
        end(&cluster);
        cluster.promotes(next);
        proxy.serves(colour).await;
        end(&cluster);
    }
    proxy.is_stale(false).await;
    load.stop().await.assert_no_request_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_takes_its_time_empties_no_pool() {
    let (_blue, green, cluster, proxy) = followed().await;
    cluster.updates("h2", 2, &green);
    proxy.reached("previewing").await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    // The watches have to begin with lists, and those of pods and ReplicaSets do not come.
    let lists = cluster.asked("list services");
    for resource in ["pods", "replicasets"] {
        cluster.hold(resource);
    }
    cluster.compact();
    eventually("a new list", async || cluster.asked("list services") > lists).await;
    // A flip goes by what is known of the pods.
    cluster.promotes("h2");
    load.reached("green").await;
    for resource in ["pods", "replicasets"] {
        cluster.release(resource);
    }
    proxy.is_stale(false).await;
    load.stop().await.assert_no_request_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_that_are_late_lead_into_no_hole() {
    for late in ["rollouts", "services", "replicasets", "pods"] {
        let (_blue, green, cluster, proxy) = followed().await;
        let load = Load::of(&[Lane::KeepAlive, Lane::NewConnections], proxy.live);
        load.reached("blue").await;
        cluster.hold(late);
        cluster.updates("h2", 2, &green);
        cluster.promotes("h2");
        cluster.release(late);
        load.reached("green").await;
        let report = load.stop().await;
        assert!(report.failed() == 0, "{late}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_named_with_what_would_grant_it() {
    let blue = Backend::spawn("blue");
    for (verb, resource, named) in [
        ("list", "rollouts", "rollouts.argoproj.io"),
        ("list", "services", "services"),
        ("list", "replicasets", "replicasets.apps"),
        ("list", "pods", "pods"),
        ("watch", "services", "services"),
    ] {
        let cluster = Cluster::with_shop(&blue);
        let right = format!("{verb} {resource}");
        cluster.forbid(&right, true);
        let proxy = Proxy::start(following(&cluster, the_rollout())).await;
        proxy.says(&format!("we may not {verb} {named} in namespace web")).await;
        proxy.says("rbac.create").await;
        cluster.forbid(&right, false);
        proxy.serves("blue").await;
        proxy.is_stale(false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_argo_rollouts_it_says_what_to_install_and_keeps_trying() {
    let blue = Backend::spawn("blue");
    let cluster = Cluster::with_shop(&blue);
    cluster.unlearn("rollouts", true);
    let proxy = Proxy::start(following(&cluster, the_rollout())).await;
    proxy.says("the cluster does not know rollouts.argoproj.io: install Argo Rollouts").await;
    cluster.unlearn("rollouts", false);
    proxy.serves("blue").await;
    proxy.is_stale(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_credentials_are_taken_when_the_old_ones_are_refused() {
    let (_blue, green, cluster, proxy) = followed().await;
    cluster.know_only("another");
    cluster.cut_watches();
    proxy.says("the API server does not know us").await;
    assert_eq!(proxy.colour().await, "blue");
    cluster.write_kubeconfig(&proxy.setup().path("kubeconfig"), "another");
    proxy.is_stale(false).await;
    cluster.updates("h2", 2, &green);
    cluster.promotes("h2");
    proxy.serves("green").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_stripped_or_deleted_and_a_rollout_that_is_gone_move_nobody() {
    let (_blue, green, cluster, proxy) = followed().await;
    cluster.updates("h2", 2, &green);
    proxy.reached("previewing").await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    cluster.select("shop-active", None);
    proxy.says("the Service `shop-active` has lost its hash").await;
    cluster.delete("services", "shop-active");
    proxy.says("the Service `shop-active` was deleted").await;
    cluster.delete("rollouts", "shop");
    proxy.says("the Rollout `shop` was deleted").await;
    assert_eq!(proxy.colour().await, "blue");
    let report = load.stop().await;
    report.assert_no_request_failed();
    assert!(report.lanes.values().all(|tally| !tally.by_colour.contains_key("green")), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_named() {
    let blue = Backend::spawn("blue");
    let cluster = Cluster::with_shop(&blue);
    let proxy = Proxy::start(following(&cluster, json!({ "rollout": "shopp" }))).await;
    proxy.says("there is no Rollout `shopp`").await;
    cluster.delete("services", "shop-active");
    let proxy = Proxy::start(following(&cluster, the_rollout())).await;
    proxy.says("there is no Service `shop-active`").await;
    cluster.put_service("shop-active", json!({ "app": "shop", HASH: "h1" }));
    proxy.serves("blue").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_are_followed_whoever_moves_them() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let cluster = Cluster::spawn();
    for (version, upstream) in [("v1", &blue), ("v2", &green)] {
        let labels = json!({ "app": "shop", "version": version });
        cluster.put_pod_of(&format!("shop-{version}"), labels, json!([]), upstream.address());
    }
    cluster.put_service("live", json!({ "app": "shop", "version": "v1" }));
    cluster.put_service("next", json!({ "app": "shop", "version": "v2" }));
    let objects = json!({ "active_service": "live", "preview_service": "next" });
    let proxy = Proxy::start(following(&cluster, objects)).await;
    proxy.reached("previewing").await;
    let status = proxy.status().await;
    assert_eq!((&status["active"]["revision"], &status["preview"]["revision"]), (&json!("v1"), &json!("v2")));
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    cluster.patch("services", "live", json!({ "spec": { "selector": { "version": "v2" } } }));
    load.reached("green").await;
    proxy.rollback().await;
    assert_eq!(proxy.colour().await, "blue");
    load.stop().await.assert_no_request_failed();
    assert_eq!(cluster.asked("list rollouts") + cluster.asked("list replicasets"), 0, "no right is needed for those");
    assert!(cluster.patches().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_has_the_share_that_its_weights_say() {
    let (_blue, green, cluster, proxy) = followed().await;
    let canary = json!({ "blueGreen": null, "canary": { "stableService": "shop-active", "trafficRouting": {} } });
    cluster.put_replica_set("h2", 2, 1);
    cluster.put_pod("h2", green.address());
    let weights = |canary: u8| {
        json!({
            "canary": { "weight": canary, "podTemplateHash": "h2" }, "stable": { "weight": 100 - canary, "podTemplateHash": "h1" },
        })
    };
    let status = |weight: u8| json!({ "currentPodHash": "h2", "canary": { "weights": weights(weight) } });
    cluster.patch("rollouts", "shop", json!({ "spec": { "strategy": canary }, "status": status(20) }));
    eventually("a fifth", async || proxy.status().await["weight"] == 20).await;
    let mut greens = 0;
    for _ in 0..200 {
        greens += usize::from(proxy.colour().await == "green");
    }
    assert!((22..=60).contains(&greens), "{greens} of 200 are no fifth");
    cluster.patch("rollouts", "shop", json!({ "status": status(100) }));
    eventually("all of it", async || proxy.status().await["weight"] == 100).await;
    assert_eq!(proxy.colour().await, "green");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_up_what_is_new_and_leaves_the_rest_alone() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let cluster = Cluster::with_shop(&blue);
    cluster.put_pod_of("wiki", json!({ "app": "wiki", "version": "v1" }), json!([]), green.address());
    cluster.put_service("wiki-active", json!({ "app": "wiki", "version": "v1" }));
    cluster.put_service("wiki-preview", json!({ "app": "wiki", "version": "v1" }));
    let proxy = Proxy::start_from_file(following(&cluster, the_rollout())).await;
    proxy.serves("blue").await;
    let watches = cluster.asked("watch rollouts");
    let objects = json!({ "active_service": "wiki-active", "preview_service": "wiki-preview" });
    let mut config = proxy.setup().config.clone();
    config["apps"]["wiki"] = json!({ "hosts": ["wiki.test"], "source": { "kubernetes": objects } });
    reload(&proxy, &config).await;
    eventually("the wiki", async || {
        let mut client = proxy.client(Protocol::H1).await;
        let request = http::Request::get("/").header("host", "wiki.test").body(crate::support::full(""));
        client.fetch(request.expect("a request")).await.is_ok_and(|answer| answer.colour() == "green")
    })
    .await;
    config["apps"].as_object_mut().expect("apps").remove(APP);
    config["apps"]["wiki"]["hosts"] = Value::Null;
    config["apps"]["wiki"].as_object_mut().expect("an app").remove("hosts");
    reload(&proxy, &config).await;
    proxy.serves("green").await;
    assert_eq!(cluster.asked("watch rollouts"), watches, "the first app's watches were not disturbed");
}

async fn reload(proxy: &Proxy, config: &Value) {
    std::fs::write(proxy.setup().path("tealgate.yaml"), format!("{config:#}")).expect("a file");
    proxy.server.reload().await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_come_page_by_page() {
    let blue = Backend::spawn("blue");
    let cluster = Cluster::with_shop(&blue);
    for n in 0..600_u16 {
        // Nobody is there: they are never healthy.
        cluster.put_pod_of(&format!("shop-h1-{n:03}"), labels(), owner(), ([127, 0, 0, 1], 1 + n).into());
    }
    let proxy = Proxy::start(following(&cluster, the_rollout())).await;
    eventually("all of them", async || proxy.status().await["active"]["total"] == 601).await;
    assert!(cluster.asked("list pods") >= 2);
}

fn labels() -> Value {
    json!({ "app": "shop", HASH: "h1" })
}

fn owner() -> Value {
    json!([{ "kind": "ReplicaSet", "apiVersion": "apps/v1", "name": "shop-h1", "uid": "rs-h1", "controller": true }])
}

/// A proxy that is told to follow no cluster looks for none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_nothing_asks_nobody() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let cluster = Cluster::with_shop(&blue);
    let mut setup = Setup::between(&blue, &green);
    cluster.write_kubeconfig(&setup.path("kubeconfig"), "t0ken");
    setup.config["kubernetes"] = json!({ "kubeconfig": setup.path("kubeconfig") });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    assert_eq!(cluster.asked("list services"), 0);
}
