//! More than is let in: a bounded number in flight, a bounded queue before it, a rate for each client; and what those are
//! told who are over it.

use std::fs;

use futures_util::future::join_all;
use http::StatusCode;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::Error};

use crate::support::{
    backend::Backend,
    client::{Answer, Client, Protocol, Raw, at_once},
    eventually, full,
    process::Process,
    proxy::Proxy,
    setup::Setup,
    within,
};

/// A proxy between two upstreams whose app has these limits.
async fn proxy(blue: &Backend, green: &Backend, limits: serde_json::Value) -> Proxy {
    let mut setup = Setup::between(blue, green);
    setup.app()["limits"] = limits;
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

fn colours() -> (Backend, Backend) {
    (Backend::spawn("blue"), Backend::spawn("green"))
}

/// So many GETs at once, each on a connection of its own.
async fn crowd(proxy: &Proxy, size: usize) -> Vec<tokio::task::JoinHandle<Answer>> {
    let mut answers = Vec::new();
    for n in 0..size {
        let mut client = proxy.client(Protocol::ALL[n % 2]).await;
        answers.push(tokio::spawn(async move { client.get("/").await.expect("an answer") }));
    }
    answers
}

async fn waiting(proxy: &Proxy, count: usize) {
    eventually("requests to wait", async || proxy.metric("tealgate_requests_waiting", &[]).await == count as f64).await;
}

fn is_refused(answer: &Answer, status: StatusCode) {
    assert_eq!((answer.status, answer.colour()), (status, ""), "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{:?}", answer.headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_limit_some_wait_in_line_and_the_rest_are_told_when_to_come_back() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({ "in_flight": 3, "queue": 4, "queue_timeout": "20s" })).await;
    blue.hang(true);
    let let_in = crowd(&proxy, 3).await;
    eventually("three to be in flight", async || blue.seen().len() == 3).await;
    let in_line = crowd(&proxy, 4).await;
    waiting(&proxy, 4).await;
    for over in join_all(crowd(&proxy, 4).await).await {
        let answer = over.expect("a task");
        is_refused(&answer, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.header("proxy-status"), "tealgate; error=connection_limit_reached");
    }
    assert_eq!(blue.seen().len(), 3, "nobody else has been let in");
    blue.hang(false);
    for answer in join_all(let_in.into_iter().chain(in_line)).await {
        assert_eq!(answer.expect("a task").status, StatusCode::OK);
    }
    waiting(&proxy, 0).await;
    assert_eq!(proxy.metric("tealgate_requests_refused_total", &[r#"reason="overloaded""#]).await, 4.0);
    // All places are free again.
    let mut client = proxy.client(Protocol::H2).await;
    blue.hang(true);
    let all = tokio::spawn(async move { at_once(&mut client, "/", 3).await });
    eventually("three more to be in flight", async || blue.seen().len() == 10).await;
    waiting(&proxy, 0).await;
    blue.hang(false);
    assert!(all.await.expect("a task").iter().all(|answer| answer.as_ref().is_ok_and(|a| a.status == 200)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_waits_for_too_long_or_leaves_makes_room_in_the_line() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({ "in_flight": 1, "queue": 1, "queue_timeout": "1500ms" })).await;
    blue.hang(true);
    let let_in = crowd(&proxy, 1).await;
    eventually("one to be in flight", async || blue.seen().len() == 1).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let answer = client.get_later("/");
        waiting(&proxy, 1).await;
        answer.abort();
        drop(client);
        waiting(&proxy, 0).await;
    }
    let late = crowd(&proxy, 1).await;
    waiting(&proxy, 1).await;
    let answer = join_all(late).await.pop().expect("one").expect("a task");
    is_refused(&answer, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(proxy.metric("tealgate_requests_refused_total", &[r#"reason="queue_timeout""#]).await, 1.0);
    blue.hang(false);
    assert_eq!(join_all(let_in).await.pop().expect("one").expect("a task").status, StatusCode::OK);
    assert_eq!(blue.seen().len(), 1);
    let gone = proxy.metric("tealgate_requests_ended_total", &[r#"app="shop""#, "client_gone"]).await;
    assert_eq!(gone, 2.0, "who left the line was the app's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_waits_while_traffic_flips_is_let_in_on_the_new_pool() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({ "in_flight": 1, "queue": 5, "queue_timeout": "20s" })).await;
    blue.hang(true);
    let first = crowd(&proxy, 1).await;
    eventually("one to be in flight", async || blue.seen().len() == 1).await;
    let in_line = crowd(&proxy, 4).await;
    waiting(&proxy, 4).await;
    proxy.promote().await;
    blue.hang(false);
    let colours: Vec<_> = join_all(first.into_iter().chain(in_line)).await;
    let colours: Vec<_> = colours.iter().map(|answer| answer.as_ref().expect("a task").colour()).collect();
    assert_eq!(colours, ["blue", "green", "green", "green", "green"]);
    assert_eq!(proxy.metric("tealgate_flip_late_starts_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_kept_to_the_last_octet_over_a_retry_and_through_a_tunnel() {
    let (mut dead, alive) = colours();
    let mut setup = Setup::before(&[dead.address(), alive.address()]);
    setup.app()["limits"] = json!({ "in_flight": 1 });
    setup.app()["retries"] = json!({ "attempts": 2 });
    setup.app()["health"] = json!({ "interval": "1h", "rise": 1 });
    let proxy = Proxy::start(setup).await;
    eventually("both to be ready", async || proxy.status().await["active"]["ready"] == 2).await;
    dead.stop();
    let mut client = proxy.client(Protocol::H1).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.expect("an answer").colour(), alive.colour());
    }

    // The head has come, the body has not.
    let mut raw = Raw::connect(proxy.live).await;
    raw.send("GET /sse?ms=50 HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
    is_refused(&client.get("/").await.expect("an answer"), StatusCode::SERVICE_UNAVAILABLE);
    drop(raw);
    let let_in = async |client: &mut Client| client.get("/").await.is_ok_and(|answer| answer.status == StatusCode::OK);
    eventually("a place", async || let_in(&mut client).await).await;

    // The place of the last answer may not be free yet when its octets are here.
    let mut socket = loop {
        let stream = TcpStream::connect(proxy.live).await.expect("it accepts");
        match client_async("ws://shop.test/ws", stream).await {
            Ok((socket, _)) => break socket,
            Err(Error::Http(refused)) => assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE),
            Err(error) => panic!("{error}"),
        }
    };
    is_refused(&client.get("/").await.expect("an answer"), StatusCode::SERVICE_UNAVAILABLE);
    socket.close(None).await.expect("a close");
    drop(socket);
    eventually("a place", async || let_in(&mut client).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_its_rate_is_told_so_and_others_are_not() {
    let (blue, green) = colours();
    let rate = json!({ "requests": 10, "per": "1h", "burst": 3, "by": "header:X-Api-Key" });
    let proxy = proxy(&blue, &green, json!({ "rate": rate })).await;
    for (protocol, key) in [(Protocol::H1, "ann"), (Protocol::H2, "bob")] {
        // On whatever worker, over however many connections.
        for n in 0..6 {
            let mut client = proxy.client(protocol).await;
            let request = client.request("GET", "/").header("x-api-key", key).body(full("")).expect("a request");
            let answer = client.fetch(request).await.expect("an answer");
            if n < 3 {
                assert_eq!(answer.status, StatusCode::OK);
            } else {
                is_refused(&answer, StatusCode::TOO_MANY_REQUESTS);
                assert!(
                    answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| (300..=360).contains(&seconds))
                );
            }
        }
    }
    // Without the field it is the address that counts.
    let mut client = proxy.client(Protocol::H1).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(client.get("/").await.expect("an answer").status.as_u16());
    }
    assert_eq!(seen, [200, 200, 200, 429]);
    assert_eq!(proxy.metric("tealgate_requests_refused_total", &[r#"reason="rate_limited""#]).await, 7.0);
    assert_eq!(blue.seen().len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_the_owners_stands_for_our_text_and_changes_with_its_file() {
    let (blue, green) = colours();
    let mut setup = Setup::between(&blue, &green);
    let page = setup.path("sorry.html");
    fs::write(&page, "<h1>sorry</h1>").expect("a file");
    setup.app()["limits"] = json!({ "in_flight": 1 });
    setup.app()["errors"] = json!({ "503": { "file": "sorry.html" } });
    let process = Process::start(setup).await;
    let mut raw = Raw::connect(process.live).await;
    raw.send("GET /sse HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
    for protocol in Protocol::ALL {
        let mut client = Client::connect(protocol, process.live).await.expect("it accepts");
        let answer = client.get("/").await.expect("an answer");
        is_refused(&answer, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            (answer.text().as_str(), answer.header("content-type")),
            ("<h1>sorry</h1>", "text/html; charset=utf-8")
        );
        assert!(!answer.header("proxy-status").is_empty());
        let head = client.request("HEAD", "/").body(full("")).expect("a request");
        let answer = client.fetch(head).await.expect("an answer");
        assert_eq!((answer.header("content-length"), answer.text().as_str()), ("14", ""));
    }
    fs::write(&page, "<h1>still sorry</h1>").expect("a file");
    let mut client = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    eventually("the new page", async || {
        within("an answer", client.get("/")).await.expect("an answer").text() == "<h1>still sorry</h1>"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_raised_or_lifted_lets_in_who_waits() {
    let (blue, green) = colours();
    let mut setup = Setup::between(&blue, &green);
    setup.app()["limits"] = json!({ "in_flight": 1, "queue": 5, "queue_timeout": "20s" });
    let mut process = Process::start(setup).await;
    blue.hang(true);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
        waiting.push(tokio::spawn(async move { client.get("/").await.expect("an answer").status }));
    }
    eventually("one to be in flight", async || blue.seen().len() == 1).await;
    for (limit, seen) in [(json!({ "in_flight": 2, "queue": 5 }), 2), (json!({}), 3)] {
        process.setup().app()["limits"] = limit;
        process.rewrite();
        eventually("one more to be let in", async || blue.seen().len() == seen).await;
    }
    blue.hang(false);
    for status in join_all(waiting).await {
        assert_eq!(status.expect("a task"), StatusCode::OK);
    }
}
