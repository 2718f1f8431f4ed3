//! Holds and maintenance, judged by clients and at the upstreams: who waits, who is refused, and where they go from there.

use std::time::Instant;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{
    backend::Backend,
    client::{Answer, Client, HOST, Protocol, Raw},
    eventually, full,
    load::{Lane, Load},
    proxy::Proxy,
    raw_backend::ByHand,
    setup::{APP, Setup},
    within,
};

/// Makes a call on the app, which is to be done.
async fn done(proxy: &Proxy, call: &str, body: Value) -> Value {
    let (status, answer) = proxy.admin.call("POST", &format!("/apps/{APP}/{call}"), Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{call}: {answer:#}");
    answer
}

/// Waits until so many requests are held.
async fn held(proxy: &Proxy, count: u64) {
    eventually(&format!("{count} to be held"), async || proxy.status().await["hold"]["waiting"] == count).await;
}

/// A request that is under way.
fn asked(protocol: Protocol, proxy: &Proxy, path: &str) -> tokio::task::JoinHandle<Answer> {
    let (address, path) = (proxy.live, path.to_owned());
    tokio::spawn(async move {
        let mut client = Client::connect(protocol, address).await.expect("it accepts");
        client.get(&path).await.expect("an answer")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_traffic_is_held_flipped_and_let_in() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    for round in 0..10 {
        let asked = Instant::now();
        done(&proxy, "hold", json!({ "maxAge": "60s" })).await;
        let answered = Instant::now();
        // What was in flight finishes; nobody takes its place.
        eventually("the old pool to be empty", async || proxy.status().await["active"]["inFlight"] == 0).await;
        let (left, joined) = if round % 2 == 0 { (&blue, &green) } else { (&green, &blue) };
        if round % 2 == 0 {
            proxy.promote().await
        } else {
            proxy.rollback().await
        };
        let begun = joined.seen().len();
        done(&proxy, "resume", json!({})).await;
        eventually("load on the new pool", async || joined.seen().len() >= begun + 20).await;
        let late = load.report().started_between(&left.seen(), answered, Instant::now());
        assert!(late.is_empty(), "held since {asked:?}, yet these started on {}: {late:?}", left.colour());
    }
    load.stop().await.assert_no_request_failed();
    assert_eq!(proxy.metric("tealgate_flip_late_starts_total", &[]).await, 0.0);
    assert!(proxy.metric("tealgate_held_requests_ended_total", &[r#"outcome="released""#]).await > 0.0);
    assert_eq!(proxy.metric("tealgate_held_requests", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_never_overlap_under_load_where_a_promotion_holds() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    let receipt = done(&proxy, "promote", json!({ "hold": { "maxAge": "30s" }, "reason": "schema" })).await;
    assert_eq!((&receipt["to"], &receipt["inFlightOnOld"]), (&json!("green"), &json!(0)), "{receipt:#}");
    load.reached("green").await;
    load.stop().await.assert_no_request_failed();
    let last = blue.seen().iter().map(|seen| seen.at).max().expect("blue had some");
    let first = green.seen().iter().map(|seen| seen.at).min().expect("green had some");
    assert!(last < first, "green began {:?} before the last on blue", last - first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_holds_gives_up_when_the_old_pool_does_not_empty_and_nothing_has_moved() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let stuck = asked(Protocol::H1, &proxy, "/hang");
    eventually("it to be in flight", async || proxy.status().await["active"]["inFlight"] == 1).await;
    let promotion = {
        let admin = proxy.admin.clone();
        let body = json!({ "hold": { "maxAge": "1s" } });
        tokio::spawn(async move { admin.call("POST", &format!("/apps/{APP}/promote"), Some(body)).await })
    };
    eventually("the hold", async || !proxy.status().await["hold"].is_null()).await;
    let waiting = Protocol::ALL.map(|protocol| asked(protocol, &proxy, "/"));
    let (status, problem) = within("an answer", promotion).await.expect("it ends well");
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("not-drained")), "{problem:#}");
    assert_eq!(problem["detail"], "blue was not empty within 1 s");
    for answer in waiting {
        assert_eq!(within("an answer", answer).await.expect("it ends well").colour(), "blue");
    }
    let state = proxy.status().await;
    assert_eq!((&state["hold"], &state["generation"]), (&Value::Null, &json!(1)), "{state:#}");
    stuck.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_let_in_in_the_order_of_arrival() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    // One worker: two would each keep their own order.
    setup.config["workers"] = json!(1);
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    // One connection to the upstream for each, opened before, so that none overtakes another on the way there.
    let warm: Vec<_> = (0..12).map(|_| asked(Protocol::H1, &proxy, "/slow?chunks=2")).collect();
    for answer in warm {
        within("an answer", answer).await.expect("it ends well");
    }
    let before = blue.seen().len();
    done(&proxy, "hold", json!({ "maxAge": "60s" })).await;
    let mut waiting = Vec::new();
    for number in 0..12 {
        let protocol = Protocol::ALL[number % 2];
        waiting.push(asked(protocol, &proxy, &format!("/status/{}", 200 + number)));
        held(&proxy, number as u64 + 1).await;
    }
    done(&proxy, "resume", json!({})).await;
    for (number, answer) in waiting.into_iter().enumerate() {
        assert_eq!(usize::from(within("an answer", answer).await.expect("it ends well").status.as_u16()), 200 + number);
    }
    let order: Vec<_> = blue.seen()[before..].iter().map(|seen| seen.target.clone()).collect();
    let expected: Vec<_> = (0..12).map(|number| format!("/status/{}", 200 + number)).collect();
    assert_eq!(order, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_bounds_a_request_is_refused_at_once_and_told_when_to_come_back() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    done(&proxy, "hold", json!({ "maxAge": "60s", "maxRequests": 2 })).await;
    let waiting = Protocol::ALL.map(|protocol| asked(protocol, &proxy, "/"));
    held(&proxy, 2).await;
    for protocol in Protocol::ALL {
        let refused = proxy.client(protocol).await.get("/").await.expect("an answer");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{protocol:?}");
        let retry: u64 = refused.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&retry), "{retry}");
        assert!(refused.header("proxy-status").contains("destination_unavailable"), "{refused:?}");
    }
    assert_eq!(proxy.metric("tealgate_held_requests", &[]).await, 2.0);
    assert_eq!(proxy.metric("tealgate_held_requests_ended_total", &[r#"outcome="refused""#]).await, 2.0);
    assert_eq!(proxy.metric("tealgate_requests_lost_total", &[r#"reason="held""#]).await, 2.0);
    done(&proxy, "resume", json!({})).await;
    for answer in waiting {
        assert_eq!(within("an answer", answer).await.expect("it ends well").status, StatusCode::OK);
    }
    // And by memory: a head that fits into no hold.
    done(&proxy, "hold", json!({ "maxAge": "60s", "maxBytes": 1024 })).await;
    let mut client = proxy.client(Protocol::H1).await;
    let large = client.request("GET", "/").header("x-large", "x".repeat(2000)).body(full("")).expect("a request");
    assert_eq!(client.fetch(large).await.expect("an answer").status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_nobody_ends_lets_all_in_at_its_age() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    done(&proxy, "hold", json!({ "maxAge": "500ms" })).await;
    for answer in Protocol::ALL.map(|protocol| asked(protocol, &proxy, "/")) {
        assert_eq!(within("an answer", answer).await.expect("it ends well").colour(), "blue");
    }
    assert_eq!(proxy.status().await["hold"], Value::Null);
    let history = proxy.admin.call("GET", &format!("/apps/{APP}/history"), None).await.1;
    assert_eq!((&history[0]["action"], &history[0]["by"]), (&json!("resume"), &json!("tealgate")), "{history:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_its_place() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    done(&proxy, "hold", json!({ "maxAge": "60s", "maxRequests": 2 })).await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
    let h2 = asked(Protocol::H2, &proxy, "/");
    held(&proxy, 2).await;
    drop(raw);
    h2.abort();
    held(&proxy, 0).await;
    let outcomes = async |outcome: &str| {
        proxy.metric("tealgate_held_requests_ended_total", &[&format!(r#"outcome="{outcome}""#)]).await
    };
    eventually("both to be counted", async || outcomes("left").await == 2.0).await;
    let gone = [r#"outcome="client_gone""#, r#"app="shop""#];
    eventually("the ledger", async || proxy.metric("tealgate_requests_ended_total", &gone).await == 2.0).await;
    assert!(blue.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_closes_its_direction_keeps_its_place() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    for protocol in ["http1", "h2"] {
        let mut setup = Setup::between(&blue, &green);
        setup.app()["upstream"] = json!({ "protocol": protocol });
        let proxy = Proxy::start(setup).await;
        done(&proxy, "hold", json!({ "maxAge": "60s" })).await;
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
        held(&proxy, 1).await;
        raw.stream.shutdown().await.expect("it closes");
        proxy.promote().await;
        assert_eq!(proxy.status().await["hold"]["waiting"], 1);
        done(&proxy, "resume", json!({})).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("x-colour: green"), "{protocol}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_waits_unread_with_its_client_and_arrives_whole() {
    const OCTETS: usize = 4 * 1024 * 1024;
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    done(&proxy, "hold", json!({ "maxAge": "60s" })).await;
    let mut uploads = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let request = client.request("POST", "/echo").body(full(vec![b'x'; OCTETS])).expect("a request");
        uploads.push(tokio::spawn(async move { client.fetch(request).await.expect("an answer") }));
    }
    held(&proxy, 2).await;
    let waiting = proxy.status().await["hold"]["waitingBytes"].as_u64().expect("a number");
    assert!(waiting < 4096, "{waiting} octets: more than their heads");
    proxy.promote().await;
    done(&proxy, "resume", json!({})).await;
    for upload in uploads {
        let answer = within("an answer", upload).await.expect("it ends well");
        assert_eq!((answer.colour(), answer.body.len()), ("green", OCTETS));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn previews_are_neither_held_nor_closed() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    done(&proxy, "hold", json!({ "maxAge": "60s" })).await;
    let mut tester = Client::connect(Protocol::H1, proxy.preview).await.expect("it accepts");
    assert_eq!(within("green", tester.get("/")).await.expect("an answer").colour(), "green");
    done(&proxy, "maintenance", json!({ "on": true })).await;
    assert_eq!(within("green", tester.get("/")).await.expect("an answer").colour(), "green");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_the_candidate_are_held_as_well_and_testers_of_it_are_not() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    proxy.is_ready_to_promote().await;
    done(&proxy, "weight", json!({ "weight": "100%" })).await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("green").await;
    done(&proxy, "hold", json!({ "maxAge": "60s" })).await;
    let answered = Instant::now();
    // Whoever was in flight finishes, on either side of the split.
    eventually("both pools to be empty", async || {
        let state = proxy.status().await;
        state["active"]["inFlight"] == 0 && state["preview"]["inFlight"] == 0
    })
    .await;
    let before = proxy.status().await["hold"]["waiting"].as_u64().expect("a count");
    let pending = Protocol::ALL.map(|protocol| asked(protocol, &proxy, "/"));
    // Also those of the load's that were still on their way.
    let at_least = before + pending.len() as u64;
    eventually("they are held", async || proxy.status().await["hold"]["waiting"].as_u64() >= Some(at_least)).await;
    for protocol in Protocol::ALL {
        let mut tester = Client::connect(protocol, proxy.preview).await.expect("it accepts");
        assert_eq!(within("green", tester.get("/")).await.expect("an answer").colour(), "green");
    }
    assert!(pending.iter().all(|user| !user.is_finished()));
    let resumed = Instant::now();
    done(&proxy, "resume", json!({})).await;
    for user in pending {
        assert_eq!(within("an answer", user).await.expect("it ends well").colour(), "green");
    }
    for backend in [&blue, &green] {
        let early = load.report().started_between(&backend.seen(), answered, resumed);
        assert!(early.is_empty(), "these started on {} while all were held: {early:?}", backend.colour());
    }
    load.stop().await.assert_no_request_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_goes_where_the_weight_has_him_go_when_he_is_let_in() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    for (weight, colour) in [("100%", "green"), ("0%", "blue")] {
        done(&proxy, "hold", json!({ "maxAge": "60s" })).await;
        let pending = Protocol::ALL.map(|protocol| asked(protocol, &proxy, "/"));
        held(&proxy, pending.len() as u64).await;
        done(&proxy, "weight", json!({ "weight": weight })).await;
        held(&proxy, pending.len() as u64).await;
        assert!(pending.iter().all(|user| !user.is_finished()), "a weight lets nobody in");
        done(&proxy, "resume", json!({})).await;
        for user in pending {
            assert_eq!(within("an answer", user).await.expect("it ends well").colour(), colour, "{weight}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_waits_outside_of_the_pool_that_is_being_emptied() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let by_hand = ByHand::listen().await;
    let mut setup = Setup::between(&blue, &green);
    setup.app()["source"]["static"]["revisions"]["blue"] = json!({ "endpoints": [by_hand.address()] });
    setup.app()["health"] = json!({ "interval": "50ms", "rise": 1, "fall": 100 });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let trying = asked(Protocol::H1, &proxy, "/");
    let (upstream, _) = by_hand.request().await;
    let promotion = {
        let admin = proxy.admin.clone();
        let body = json!({ "hold": { "maxAge": "60s" } });
        tokio::spawn(async move { admin.call("POST", &format!("/apps/{APP}/promote"), Some(body)).await })
    };
    eventually("the hold", async || !proxy.status().await["hold"].is_null()).await;
    // The try fails; the next one waits at the door, and blue is empty.
    drop(upstream);
    let (status, receipt) = within("an answer", promotion).await.expect("it ends well");
    assert_eq!(status, StatusCode::OK, "{receipt:#}");
    assert_eq!(within("an answer", trying).await.expect("it ends well").colour(), "green");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_refuses_live_requests_and_lets_finish_what_is_in_flight() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let slow = asked(Protocol::H2, &proxy, "/slow?chunks=20");
    eventually("it to be in flight", async || proxy.status().await["active"]["inFlight"] == 1).await;
    done(&proxy, "maintenance", json!({ "on": true, "reason": "secret plans", "retryAfter": "2m" })).await;
    for protocol in Protocol::ALL {
        let refused = proxy.client(protocol).await.get("/").await.expect("an answer");
        assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "120"));
        assert!(refused.text().contains("maintenance") && !refused.text().contains("secret"), "{}", refused.text());
    }
    assert_eq!(within("an answer", slow).await.expect("it ends well").status, StatusCode::OK);
    assert_eq!(proxy.metric("tealgate_maintenance", &[]).await, 1.0);
    done(&proxy, "maintenance", json!({ "on": false })).await;
    assert_eq!(proxy.client(Protocol::H1).await.get("/").await.expect("an answer").colour(), "blue");
}
