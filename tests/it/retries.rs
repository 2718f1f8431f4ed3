//! What is tried again, where, and how often: a request nobody can have seen may go to another endpoint, one that somebody
//! may have acted on goes nowhere else.

use std::{
    net::Shutdown,
    time::{Duration, Instant},
};

use http::StatusCode;
use serde_json::json;
use socket2::SockRef;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use crate::support::{
    backend::Backend,
    client::{Protocol, Raw},
    eventually, full,
    proxy::Proxy,
    raw_backend::{ByHand, RawBackend, Then},
    setup::Setup,
    within,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A proxy before one revision with these endpoints, which are probed once and then left alone.
async fn proxy(endpoints: &[&Backend], attempts: u32) -> Proxy {
    let addresses: Vec<_> = endpoints.iter().map(|backend| backend.address()).collect();
    let mut setup = Setup::before(&addresses);
    setup.app()["health"] = json!({ "interval": "1h", "rise": 1 });
    setup.app()["retries"] = json!({ "attempts": attempts, "per_try": "300ms" });
    let proxy = Proxy::start(setup).await;
    eventually("all endpoints to be ready", async || proxy.status().await["active"]["ready"] == addresses.len()).await;
    proxy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_no_failure_while_another_endpoint_accepts() {
    let (mut dead, alive) = (Backend::spawn("dead"), Backend::spawn("alive"));
    let proxy = proxy(&[&dead, &alive], 2).await;
    dead.stop();
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for n in 0..40 {
            let method = ["GET", "POST", "PUT", "DELETE", "PATCH"][n % 5];
            let body = if n % 2 == 0 { full("") } else { full("a body") };
            let request = client.request(method, "/echo").body(body).expect("a request");
            let answer = client.fetch(request).await.expect("an answer");
            assert_eq!((answer.status, answer.colour()), (StatusCode::OK, "alive"), "{method} over {protocol:?}");
            assert_eq!(answer.text(), if n % 2 == 0 { "" } else { "a body" });
        }
    }
    assert_eq!(alive.seen().len(), 80, "each came once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_attempt_or_one_endpoint_a_refused_connection_is_a_502() {
    let (mut dead, alive) = (Backend::spawn("dead"), Backend::spawn("alive"));
    let (lonely, once) = (proxy(&[&dead], 5).await, proxy(&[&dead, &alive], 1).await);
    dead.stop();
    let started = Instant::now();
    assert_eq!(lonely.client(Protocol::H1).await.get("/").await.expect("an answer").status, StatusCode::BAD_GATEWAY);
    assert!(started.elapsed() < Duration::from_secs(1));
    let mut client = once.client(Protocol::H1).await;
    let mut refused = 0;
    for _ in 0..40 {
        refused += u32::from(client.get("/").await.expect("an answer").status == StatusCode::BAD_GATEWAY);
    }
    assert!(refused > 0, "none was sent to the dead one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_sent_again_only_if_that_does_no_harm_and_only_so_often() {
    for (then, answer) in [(Then::Close, ""), (Then::Reset, ""), (Then::Close, "HTTP/1.1 200 O")] {
        for (method, attempts, received) in
            [("GET", 1, 1), ("GET", 2, 2), ("GET", 3, 3), ("DELETE", 2, 2), ("POST", 3, 1), ("PATCH", 3, 1)]
        {
            // Once an answer has begun, nothing is tried again.
            let received = if answer.is_empty() { received } else { 1 };
            let upstreams = [(); 4].map(|()| RawBackend::spawn(answer, then));
            let mut setup = Setup::before(&upstreams.each_ref().map(RawBackend::address));
            setup.app()["retries"] = json!({ "attempts": attempts });
            let proxy = Proxy::start(setup).await;
            let mut client = proxy.client(Protocol::H1).await;
            let request = client.request(method, "/").body(full("")).expect("a request");
            assert_eq!(client.fetch(request).await.expect("an answer").status, StatusCode::BAD_GATEWAY);
            let heads: Vec<_> = upstreams.iter().map(|upstream| upstream.received().len()).collect();
            assert_eq!(heads.iter().sum::<usize>(), received, "{method} with {attempts} attempts, {then:?} {answer:?}");
            assert!(heads.iter().all(|heads| *heads <= 1), "each at another endpoint: {heads:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_dies_as_it_is_used_again_costs_a_get_nothing_and_a_post_its_answer() {
    let upstream = ByHand::listen().await;
    let mut setup = Setup::before(&[upstream.address()]);
    setup.config["workers"] = json!(1);
    setup.app()["retries"] = json!({ "attempts": 1 });
    let proxy = Proxy::start(setup).await;
    for (method, body, again) in [("GET", "", true), ("DELETE", "", true), ("POST", "", false), ("PUT", "body", false)]
    {
        let mut client = proxy.client(Protocol::H1).await;
        let first = client.get_later("/");
        let (mut connection, _) = upstream.request().await;
        connection.send(OK).await;
        assert_eq!(within("an answer", first).await.expect("a task").expect("an answer").text(), "ok");

        assert!(client.ready().await);
        let request = client.request(method, "/").body(full(body)).expect("a request");
        let second = tokio::spawn(client.send(request));
        assert!(connection.read_head().await.starts_with(method), "on the same connection");
        drop(connection);
        if again {
            let (mut connection, head) = upstream.request().await;
            assert!(head.starts_with(method), "{head}");
            connection.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        }
        let status = within("an answer", second).await.expect("a task").expect("an answer").status();
        assert_eq!(status, if again { StatusCode::OK } else { StatusCode::BAD_GATEWAY }, "{method}");
    }
    let quiet = tokio::time::timeout(Duration::from_millis(300), upstream.request()).await;
    assert!(quiet.is_err(), "a request came a second time: {}", quiet.expect("a request").1);
}

/// The next connection that has something to say, and the head of its first request.
async fn asked(listener: &UnixListener) -> (UnixStream, String) {
    within("a request", async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while let Ok(octet) = stream.read_u8().await {
                head.push(octet);
                if head.ends_with(b"\r\n\r\n") {
                    return (stream, String::from_utf8(head).expect("text"));
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_which_nothing_could_be_written_is_sent_again_whole_with_its_body() {
    // Who closes only what it reads of a Unix socket is not heard of by anybody who does not write.
    let dir = TempDir::new().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("shop.sock")).expect("a socket");
    let mut setup = Setup::before(&[]);
    let endpoint = format!("unix:{}", dir.path().join("shop.sock").display());
    setup.app()["source"]["static"]["revisions"]["blue"] = json!({ "endpoints": [endpoint] });
    setup.app()["retries"] = json!({ "attempts": 1 });
    setup.config["workers"] = json!(1);
    let proxy = Proxy::start(setup).await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let (mut kept, _) = asked(&listener).await;
    kept.write_all(OK.as_bytes()).await.expect("octets taken");
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 ") && raw.read(2).await == b"ok");
    let long = "a".repeat(10_000);
    for (framing, with_head, later) in [
        ("Content-Length: 5", "hello", ""),
        ("Content-Length: 10", "hello", "world"),
        ("Content-Length: 10000", &*long, ""),
        ("Content-Length: 20000", &*long, &*long),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", ""),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n", "5\r\nworld\r\n0\r\nX: y\r\n\r\n"),
    ] {
        let case = format!("{framing}, {} octets with the head, {} later", with_head.len(), later.len());
        SockRef::from(&kept).shutdown(Shutdown::Read).expect("a half-closed socket");
        raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\n\r\n{with_head}")).await;
        eventually("the request to be tried", async || proxy.status().await["active"]["inFlight"] == 1).await;
        raw.send(later).await;
        drop(kept);
        let (mut connection, head) = asked(&listener).await;
        assert!(head.starts_with("POST / ") && head.to_lowercase().contains(&framing.to_lowercase()), "{case}: {head}");
        let mut body = vec![0; with_head.len() + later.len()];
        within(&case, connection.read_exact(&mut body)).await.expect("all of it");
        assert_eq!(String::from_utf8_lossy(&body), format!("{with_head}{later}"), "{case}");
        connection.write_all(OK.as_bytes()).await.expect("octets taken");
        assert!(raw.read_head().await.starts_with("HTTP/1.1 200 ") && raw.read(2).await == b"ok", "{case}");
        kept = connection;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_hangs_costs_an_idempotent_request_one_try() {
    let (hanging, well) = (Backend::spawn("hanging"), Backend::spawn("well"));
    let proxy = proxy(&[&hanging, &well], 2).await;
    hanging.hang(true);
    let mut client = proxy.client(Protocol::H2).await;
    let answers: Vec<_> = (0..10).map(|_| client.get_later("/")).collect();
    for answer in answers {
        let answer = within("an answer", answer).await.expect("a task").expect("an answer");
        assert_eq!((answer.status, answer.colour()), (StatusCode::OK, "well"));
    }
    assert!(!hanging.seen().is_empty(), "none was sent to the one that hangs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_flip_is_on_the_new_pool() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["retries"] = json!({ "attempts": 2, "per_try": "500ms" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    blue.hang(true);
    let mut clients = [proxy.client(Protocol::H1).await, proxy.client(Protocol::H2).await];
    let waiting = clients.each_mut().map(|client| client.get_later("/"));
    eventually("both to hang on blue", async || blue.seen().len() >= 2).await;
    proxy.promote().await;
    for answer in waiting {
        let answer = within("an answer", answer).await.expect("a task").expect("an answer");
        assert_eq!((answer.status, answer.colour()), (StatusCode::OK, "green"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_an_answer_whatever_its_status() {
    let (one, other) = (Backend::spawn("one"), Backend::spawn("other"));
    let proxy = proxy(&[&one, &other], 3).await;
    let mut client = proxy.client(Protocol::H1).await;
    for status in [500, 502, 503, 504, 429] {
        assert_eq!(client.get(&format!("/status/{status}")).await.expect("an answer").status, status);
    }
    assert_eq!(one.seen().len() + other.seen().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unhealthy_endpoints_are_avoided_until_there_are_no_others() {
    let (sick, well) = (Backend::spawn("sick"), Backend::spawn("well"));
    let mut setup = Setup::before(&[sick.address(), well.address()]);
    setup.app()["health"] = json!({ "path": "/healthz", "interval": "50ms", "rise": 1, "fall": 2 });
    let proxy = Proxy::start(setup).await;
    let ready = async |count: u32| {
        eventually("the probes to notice", async || proxy.status().await["active"]["ready"] == count).await;
    };
    ready(2).await;
    sick.unhealthy(true);
    ready(1).await;
    let mut client = proxy.client(Protocol::H1).await;
    for _ in 0..30 {
        assert_eq!(client.get("/").await.expect("an answer").colour(), "well");
    }
    // When all are ejected, all are used: an application that fails its probes may still answer.
    well.unhealthy(true);
    ready(0).await;
    let before = (sick.seen().len(), well.seen().len());
    for _ in 0..60 {
        assert_eq!(client.get("/").await.expect("an answer").status, StatusCode::OK);
    }
    assert!(sick.seen().len() > before.0 && well.seen().len() > before.1, "one of them got none");
    sick.unhealthy(false);
    ready(1).await;
    for _ in 0..30 {
        assert_eq!(client.get("/").await.expect("an answer").colour(), "sick");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_of_what_was_sent_stay_within_their_budget() {
    const REQUESTS: usize = 200;
    for (budget, bounded) in [("10%", true), ("100%", false)] {
        let upstreams = [(); 2].map(|()| RawBackend::spawn("", Then::Reset));
        let mut setup = Setup::before(&upstreams.each_ref().map(RawBackend::address));
        setup.config["workers"] = json!(1);
        setup.app()["retries"] = json!({ "attempts": 2, "budget": budget });
        let proxy = Proxy::start(setup).await;
        let mut client = proxy.client(Protocol::H1).await;
        for _ in 0..REQUESTS {
            assert_eq!(
                client.get("/").await.expect("an answer").status,
                StatusCode::BAD_GATEWAY,
                "the failure is told"
            );
        }
        let retries = upstreams.iter().map(|upstream| upstream.received().len()).sum::<usize>() - REQUESTS;
        // A few are always granted, and the share of a tenth is less than those.
        assert_eq!(retries < REQUESTS / 2, bounded, "{retries} with a budget of {budget}");
        assert!(retries >= 30, "{retries}");
        assert_eq!(proxy.metric("tealgate_retries_total", &[]).await, retries as f64);
        assert_eq!(proxy.metric("tealgate_retries_denied_total", &[]).await, (REQUESTS - retries) as f64);
    }
}
