//! The flip: what the product is for. Judged at the upstreams, which note every request they begin, and by what clients
//! got back.

use std::time::Instant;

use http::StatusCode;
use serde_json::json;

use crate::support::{
    backend::Backend,
    client::{Client, HOST, Protocol, Raw},
    eventually, full,
    load::{Lane, Load},
    proxy::Proxy,
    setup::{APP, Setup},
    within,
};

/// How often the long test flips, unless `TEALGATE_FLIPS` says otherwise.
const FLIPS: usize = 200;

fn flips() -> usize {
    std::env::var("TEALGATE_FLIPS").map_or(FLIPS, |flips| flips.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_none_comes_late_while_traffic_flips_two_hundred_times() {
    flip_under_load("http1", flips()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_any_while_it_flips_between_upstreams_of_http2() {
    flip_under_load("h2", flips() / 4).await;
}

async fn flip_under_load(protocol: &str, flips: usize) {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["upstream"] = json!({ "protocol": protocol });
    // Streams without end stay where they are, however slow the machine: not one may break.
    setup.app()["drain"] = json!({ "timeout": "1h", "streams": "keep" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let load = Load::start(proxy.live);
    load.reached("blue").await;

    // When each flip was asked for and answered, and the pool it left.
    let mut answered = Vec::new();
    let (mut h1, mut h2) = (proxy.client(Protocol::H1).await, proxy.client(Protocol::H2).await);
    for flip in 0..flips {
        let asked = Instant::now();
        let (receipt, left, joined) = match flip % 2 {
            0 => (proxy.promote().await, &blue, &green),
            _ => (proxy.rollback().await, &green, &blue),
        };
        answered.push((asked, Instant::now(), left));
        // A slow disk or a starved worker may be warned of; what was answered must hold all the same.
        assert_eq!(receipt["generation"], json!(flip + 2), "{receipt:#}");
        for kept in [&mut h1, &mut h2] {
            assert_eq!(kept.get("/").await.expect("an answer").colour(), joined.colour(), "after flip {flip}");
        }
        // Let the load go on for a while on this side.
        let (begun, enough) = (joined.begun(), 20);
        eventually("load on the new pool", async || joined.begun() >= begun + enough).await;
    }
    let report = load.stop().await;

    report.assert_no_request_failed();
    assert_eq!(report.broken(), 0, "{report}");
    let seen = [blue.seen(), green.seen()];
    for (i, (_, after, left)) in answered.iter().enumerate() {
        // The next flip leads back to the pool that this one left.
        let until = answered.get(i + 1).map_or_else(Instant::now, |next| next.0);
        let late = report.started_between(&seen[i % 2], *after, until);
        assert!(late.is_empty(), "flip {i} was answered, yet these started on {}: {late:?}", left.colour());
    }
    assert_eq!(proxy.metric("tealgate_flip_late_starts_total", &[]).await, 0.0);
    ledger_equals_the_clients_count(&proxy, report.sent() + 2 * flips as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_moves_all_though_a_share_was_on_the_candidate_already() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["drain"] = json!({ "timeout": "1h", "streams": "keep" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let load = Load::start(proxy.live);
    load.reached("blue").await;
    let mut answered = Vec::new();
    for flip in 0..20 {
        let weight = json!({ "weight": if flip % 3 == 0 { "100%" } else { "50%" } });
        let (status, receipt) = proxy.admin.call("POST", &format!("/apps/{APP}/weight"), Some(weight)).await;
        assert_eq!(status, StatusCode::OK, "{receipt:#}");
        let (left, joined) = if flip % 2 == 0 { (&blue, &green) } else { (&green, &blue) };
        let begun = joined.begun();
        eventually("the share to arrive", async || joined.begun() >= begun + 20).await;
        proxy.promote().await;
        let after = Instant::now();
        // What was live becomes the candidate again, and gets nothing until it is said so.
        let endpoints = [left.address()];
        proxy.admin.deploy(APP, left.colour(), &endpoints).await;
        proxy.is_ready_to_promote().await;
        assert_eq!(proxy.status().await["weight"], 0);
        let begun = joined.begun();
        eventually("load on the new pool", async || joined.begun() >= begun + 20).await;
        answered.push((after, Instant::now(), left));
    }
    let report = load.stop().await;

    report.assert_no_request_failed();
    assert_eq!(report.broken(), 0, "{report}");
    let seen = [blue.seen(), green.seen()];
    for (flip, (after, until, left)) in answered.iter().enumerate() {
        let late = report.started_between(&seen[flip % 2], *after, *until);
        assert!(late.is_empty(), "flip {flip} was answered, yet these started on {}: {late:?}", left.colour());
    }
    assert_eq!(proxy.metric("tealgate_flip_late_starts_total", &[]).await, 0.0);
}

/// G8: every accepted request ends in exactly one bucket, and the buckets add up to what clients sent.
async fn ledger_equals_the_clients_count(proxy: &Proxy, sent: u64) {
    eventually("the ledger to equal the clients' count", async || {
        let ended = proxy.metric("tealgate_requests_ended_total", &[]).await;
        assert!(ended <= sent as f64, "{ended} requests ended, only {sent} were sent");
        ended == sent as f64
    })
    .await;
    let answered = proxy.metric("tealgate_requests_ended_total", &[r#"outcome="answered""#]).await;
    let gone = proxy.metric("tealgate_requests_ended_total", &[r#"outcome="client_gone""#]).await;
    // The streams without end are the ones that their clients left.
    assert_eq!(answered + gone, sent as f64);
    assert!(gone <= 6.0, "{gone} requests were left by their clients");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_to_a_pool_that_is_not_ready_is_refused_and_changes_nothing() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    green.unhealthy(true);
    let proxy = Proxy::start(Setup::between(&blue, &green)).await;
    let (status, problem) = proxy.admin.call("POST", &format!("/apps/{APP}/promote"), Some(json!({}))).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("not-ready")), "{problem:#}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("0 of 1")), "{problem:#}");
    let state = proxy.admin.status(APP).await;
    assert_eq!((&state["active"]["revision"], &state["generation"]), (&json!("blue"), &json!(1)), "{state:#}");
    assert_eq!(proxy.client(Protocol::H1).await.get("/").await.expect("blue answers").colour(), "blue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_for_another_generation_changes_nothing() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let wrong = Some(json!({ "ifGeneration": 7 }));
    let (status, problem) = proxy.admin.call("POST", &format!("/apps/{APP}/promote"), wrong).await;
    assert_eq!((status, &problem["code"]), (StatusCode::PRECONDITION_FAILED, &json!("generation-mismatch")));
    assert_eq!(proxy.admin.status(APP).await["generation"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_promotions_at_once_exactly_one_wins() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let path = format!("/apps/{APP}/promote");
    let call = || proxy.admin.call("POST", &path, Some(json!({ "ifGeneration": 1 })));
    let ((one, _), (two, _)) = tokio::join!(call(), call());
    let mut both = [one, two];
    both.sort();
    assert_eq!(both, [StatusCode::OK, StatusCode::PRECONDITION_FAILED]);
    assert_eq!(proxy.admin.status(APP).await["generation"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_answers_at_once_while_the_new_pool_hangs() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    proxy.admin.promote(APP).await;
    green.hang(true);
    // Requests that green will never answer are under way when the rollback comes.
    let (mut h1, mut h2) = (proxy.client(Protocol::H1).await, proxy.client(Protocol::H2).await);
    let stuck: Vec<_> = [&mut h1, &mut h2]
        .map(|client| {
            let request = client.request("GET", "/").body(full("")).expect("a request");
            tokio::spawn(client.send(request))
        })
        .into();
    eventually("both to hang", async || green.seen().len() >= 2).await;
    let receipt = proxy.admin.rollback(APP).await;
    assert_eq!((&receipt["to"], &receipt["inFlightOnOld"]), (&json!("blue"), &json!(2)), "{receipt:#}");
    for mut client in [proxy.client(Protocol::H1).await, proxy.client(Protocol::H2).await] {
        assert_eq!(within("blue", client.get("/")).await.expect("blue answers").colour(), "blue");
    }
    // The very h2 connection that has a stuck stream is on the new pool with its next.
    assert_eq!(within("blue", h2.get("/")).await.expect("blue answers").colour(), "blue");
    stuck.into_iter().for_each(|task| task.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preview_listener_shows_the_candidate_and_never_the_live_revision() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut tester = Client::connect(Protocol::H1, proxy.preview).await.expect("it accepts");
    let answer = tester.get("/").await.expect("green answers");
    assert_eq!((answer.colour(), answer.header("x-tealgate-revision")), ("green", "green"));
    proxy.admin.promote(APP).await;
    let answer = tester.get("/").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "there is no candidate any more");
    assert_eq!(
        proxy.client(Protocol::H1).await.get("/").await.expect("green answers").header("x-tealgate-revision"),
        ""
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployed_revision_is_previewed_promoted_and_rolled_back() {
    let (blue, green, teal) = (Backend::spawn("blue"), Backend::spawn("green"), Backend::spawn("teal"));
    let proxy = Proxy::between(&blue, &green).await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    proxy.admin.deploy(APP, "teal", &[teal.address()]).await;
    proxy.is_ready_to_promote().await;
    let receipt = proxy.admin.promote(APP).await;
    assert_eq!((&receipt["from"], &receipt["to"]), (&json!("blue"), &json!("teal")), "{receipt:#}");
    load.reached("teal").await;
    proxy.admin.rollback(APP).await;
    load.stop().await.assert_no_request_failed();
    let history = proxy.admin.call("GET", &format!("/apps/{APP}/history"), None).await.1;
    let actions: Vec<_> = history.as_array().expect("a list").iter().map(|receipt| receipt["action"].clone()).collect();
    assert_eq!(actions, ["rollback", "promote", "deploy"], "{history:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_streams_end_at_once_when_the_policy_cuts_them() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["drain"] = json!({ "timeout": "30s", "streams": "cut" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let load = Load::of(&[Lane::WebSockets], proxy.live);
    load.reached("blue").await;
    proxy.admin.promote(APP).await;
    // They come back by themselves, on the new pool.
    load.reached("green").await;
    assert!(load.stop().await.broken() >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_at_the_drain_deadline_is_cut_visibly() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["drain"] = json!({ "timeout": "200ms", "streams": "drain" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let load = Load::of(&[Lane::Events, Lane::WebSockets], proxy.live);
    load.reached("blue").await;
    proxy.admin.promote(APP).await;
    load.reached("green").await;
    let report = load.stop().await;
    assert!(report.lanes.values().all(|tally| tally.broken >= 1), "{report}");
    let draining = proxy.admin.status(APP).await["draining"].clone();
    assert_eq!(draining, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_deadline_reaches_an_answer_that_its_client_does_not_take() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    // By then the proxy has long filled what buffers there are.
    setup.app()["drain"] = json!({ "timeout": "2s" });
    // Longer than the test waits for anything.
    setup.listener("live")["timeouts"] = json!({ "body": "120s" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let mut h1 = Raw::connect(proxy.live).await;
    h1.send(format!("GET /bytes/100000000 HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
    assert!(h1.read_head().await.starts_with("HTTP/1.1 200"));
    let mut client = proxy.client(Protocol::H2).await;
    let h2 = client.request("GET", "/bytes/100000000").body(full("")).expect("a request");
    let h2 = within("a head", client.send(h2)).await.expect("an answer begins");
    proxy.admin.promote(APP).await;
    eventually("both to be cut", async || {
        let cut = [r#"outcome="upstream_failed_after""#];
        proxy.metric("tealgate_requests_ended_total", &cut).await == 2.0
    })
    .await;
    drop((h1, h2));
}
