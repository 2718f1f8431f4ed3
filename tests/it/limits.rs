//! How much, how many and how long: over a limit a client is told so, and an upstream that takes too long costs its request
//! and nothing else.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use crate::support::{
    BoxError,
    backend::Backend,
    client::{Answer, Client, Protocol, Raw},
    eventually, full,
    proxy::Proxy,
    raw_backend::{ByHand, closed},
    setup::Setup,
    within,
};

/// A proxy between two upstreams whose live listener, and app, are set up like this.
async fn proxy(blue: &Backend, green: &Backend, listener: Value, app: Value) -> Proxy {
    let mut setup = Setup::between(blue, green);
    let add = |part: &mut Value, values: Value| {
        part.as_object_mut().expect("a map").extend(values.as_object().expect("a map").clone());
    };
    add(setup.listener("live"), listener);
    add(setup.app(), app);
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

/// How many requests were refused for this reason.
async fn refused(proxy: &Proxy, reason: &str) -> u32 {
    proxy.metric("tealgate_requests_refused_total", &[&format!("reason=\"{reason}\"")]).await as u32
}

fn colours() -> (Backend, Backend) {
    (Backend::spawn("blue"), Backend::spawn("green"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_over_the_limit_is_a_414_or_a_431() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({ "limits": { "head_size": "4KiB" } }), json!({})).await;
    let long = "a".repeat(5000);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "414"),
        // Nobody has to wait for the end of it.
        (format!("GET /{long}"), "414"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(1000)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X:\r\n".repeat(200)), "431"),
    ] {
        let answer = Raw::exchange(proxy.live, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{} -> {answer}", &request[..40]);
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    assert!(blue.seen().is_empty());
    assert_eq!((refused(&proxy, "target_too_long").await, refused(&proxy, "head_too_large").await), (2, 4));
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n", "a".repeat(4000));
    assert!(Raw::exchange(proxy.live, fits).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_nobody_here_is_refused_and_counts_by_its_reason() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({}), json!({ "hosts": ["shop.test"] })).await;
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n", 421, "unknown_host"),
        ("CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n", 405, "connect_method"),
    ] {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(request).await;
        let head = raw.read_head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{reason}: {head}");
        assert_eq!(refused(&proxy, reason).await, 1, "{reason}");
    }
    assert!(blue.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_a_413_before_it_is_read_or_as_soon_as_it_is_seen() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({}), json!({ "limits": { "body_size": 10_000 } })).await;
    for protocol in Protocol::ALL {
        for (length, status) in [(10_000, StatusCode::OK), (10_001, StatusCode::PAYLOAD_TOO_LARGE)] {
            let mut client = proxy.client(protocol).await;
            let request = client.request("POST", "/echo").body(full(vec![b'a'; length])).expect("a request");
            assert_eq!(client.fetch(request).await.expect("an answer").status, status, "{length} over {protocol:?}");
            let pieces = (0..length).step_by(1000).map(|at| 1000.min(length - at));
            let frames = pieces.map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'a'; piece]))));
            let body = StreamBody::new(stream::iter(frames.collect::<Vec<_>>())).boxed_unsync();
            let mut client = proxy.client(protocol).await;
            // An upstream that answers early would hide it.
            let path = if status == StatusCode::OK { "/echo" } else { "/hang" };
            let request = client.request("PUT", path).body(body).expect("a request");
            assert_eq!(client.fetch(request).await.expect("an answer").status, status, "{length} over {protocol:?}");
        }
    }
    let posts = blue.seen().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(posts, 2, "nothing of what said it was too long goes on");
    assert_eq!(refused(&proxy, "body_too_large").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_too_long_is_told_so() {
    let (blue, green) = colours();
    let timeouts = json!({ "timeouts": { "head": "300ms", "body": "600ms", "idle": "5s" } });
    let proxy = proxy(&blue, &green, timeouts, json!({})).await;
    let started = Instant::now();
    let slow_head = async {
        // An octet now and then does not help.
        let mut raw = Raw::connect(proxy.live).await;
        raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\nX: ").await;
        for _ in 0..6 {
            raw.send("a").await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        raw.read_to_end().await.expect("a clean end")
    };
    let slow_body = async {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send("PUT /hang HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\nhalf").await;
        raw.read_to_end().await.expect("a clean end")
    };
    let slow_second_head = async {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send("GET /status/204 HTTP/1.1\r\nHost: shop.test\r\n\r\nGET / HT").await;
        raw.read_head().await;
        raw.read_to_end().await.expect("a clean end")
    };
    for answer in <[_; 3]>::from(tokio::join!(slow_head, slow_body, slow_second_head)) {
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(refused(&proxy, "request_timeout").await, 3);
    // A body that gets on may take as long as it likes.
    let mut raw = Raw::connect(proxy.live).await;
    raw.send("PUT /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\n").await;
    for _ in 0..10 {
        raw.send("a").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(raw.read(10).await, [b'a'; 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_in_silence() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({ "timeouts": { "idle": "300ms" } }), json!({})).await;
    let silent = async { Raw::exchange(proxy.live, "").await };
    let h1 = async {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send("GET /status/204 HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        raw.read_head().await;
        String::from_utf8(raw.read_to_end().await.expect("a clean end")).expect("text")
    };
    let h2 = async {
        let mut client = proxy.client(Protocol::H2).await;
        client.get("/").await.expect("an answer");
        eventually("the connection to end", async || !client.ready().await).await;
        String::new()
    };
    let ends: [String; 3] = tokio::join!(silent, h1, h2).into();
    assert_eq!(ends, ["", "", ""]);
    // Not while a request is under way.
    let mut client = proxy.client(Protocol::H1).await;
    assert_eq!(client.get("/slow?ms=200&chunks=5").await.expect("an answer").status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_connections_are_told_when_to_come_back() {
    let (blue, green) = colours();
    for limit in ["connections", "connections_per_client"] {
        let proxy = proxy(&blue, &green, json!({ "limits": { limit: 3 } }), json!({})).await;
        let mut welcome: Vec<Client> = Vec::new();
        for protocol in [Protocol::H1, Protocol::H2, Protocol::H1] {
            let mut client = proxy.client(protocol).await;
            assert_eq!(client.get("/").await.expect("an answer").status, StatusCode::OK);
            welcome.push(client);
        }
        for protocol in Protocol::ALL {
            let answer = proxy.client(protocol).await.get("/").await.expect("an answer");
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{limit} over {protocol:?}");
            assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{:?}", answer.headers);
        }
        // Those who are in stay in, and who leaves makes room.
        assert_eq!(welcome[0].get("/").await.expect("an answer").status, StatusCode::OK);
        welcome.truncate(2);
        eventually("room", async || {
            proxy.client(Protocol::H1).await.get("/").await.is_ok_and(|answer| answer.status == StatusCode::OK)
        })
        .await;
    }
}

/// An address where a connection is neither accepted nor refused, as long as the sockets live.
async fn hole() -> (SocketAddr, Socket, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a loopback port");
    socket.listen(0).expect("a listener");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    let mut waiting = Vec::new();
    // Until the queue is full.
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        waiting.push(stream.expect("a connection"));
    }
    (address, socket, waiting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_cannot_be_reached_is_a_502_at_once_or_a_504_at_the_limit() {
    let refusing = ByHand::listen().await.address();
    let proxy = Proxy::start(Setup::before(&[refusing])).await;
    let started = Instant::now();
    let answer = proxy.client(Protocol::H1).await.get("/").await.expect("an answer");
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (StatusCode::BAD_GATEWAY, "tealgate; error=connection_refused")
    );
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());

    let (address, _socket, _waiting) = hole().await;
    let mut setup = Setup::before(&[address]);
    setup.app()["timeouts"] = json!({ "connect": "200ms" });
    setup.app()["retries"] = json!({ "attempts": 1 });
    let proxy = Proxy::start(setup).await;
    let answer = proxy.client(Protocol::H1).await.get("/").await.expect("an answer");
    let expected = (StatusCode::GATEWAY_TIMEOUT, "tealgate; error=connection_timeout");
    assert_eq!((answer.status, answer.header("proxy-status")), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_does_not_answer_is_a_504_and_hears_of_it() {
    let upstream = ByHand::listen().await;
    let mut setup = Setup::before(&[upstream.address()]);
    setup.app()["timeouts"] = json!({ "response": "300ms" });
    setup.app()["retries"] = json!({ "attempts": 1 });
    let proxy = Proxy::start(setup).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let response = client.get_later("/");
        let (mut connection, _) = upstream.request().await;
        // The beginning of a head is no head.
        connection.send("HTTP/1.1 200 OK\r\n").await;
        let answer: Answer = within("an answer", response).await.expect("a task").expect("an answer");
        let expected = (StatusCode::GATEWAY_TIMEOUT, "tealgate; error=http_response_timeout");
        assert_eq!((answer.status, answer.header("proxy-status")), expected, "{protocol:?}");
        closed(&mut connection).await;
        // The client's own connection is as good as before.
        let response = client.get_later("/");
        let (mut connection, _) = upstream.request().await;
        connection.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        assert_eq!(response.await.expect("a task").expect("an answer").status, StatusCode::NO_CONTENT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_for_a_whole_request_ends_it_wherever_it_is() {
    let (blue, green) = colours();
    let app = json!({ "timeouts": { "request": "700ms" }, "retries": { "attempts": 1 } });
    let proxy = &proxy(&blue, &green, json!({}), app).await;
    let get = async |protocol, path: &str| proxy.client(protocol).await.get(path).await;
    for protocol in Protocol::ALL {
        // Once the answer has begun there is no other: it is cut, visibly.
        let (unanswered, endless, long, short) = tokio::join!(
            get(protocol, "/hang"),
            get(protocol, "/sse"),
            get(protocol, "/slow?ms=50&chunks=100"),
            get(protocol, "/slow?ms=10&chunks=5")
        );
        assert_eq!(unanswered.expect("an answer").status, StatusCode::GATEWAY_TIMEOUT, "{protocol:?}");
        assert!(endless.is_err() && long.is_err(), "{protocol:?}: {endless:?} {long:?}");
        assert_eq!(short.expect("an answer").status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_its_answer_is_cut_off_at_the_limit() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({ "timeouts": { "body": "300ms" } }), json!({})).await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send("GET /bytes/100000000 HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    eventually("the request to begin", async || !blue.seen().is_empty()).await;
    eventually("the request to end", async || {
        let state = proxy.status().await;
        state["active"]["inFlight"] == 0
    })
    .await;
    let got = raw.read_to_end().await.unwrap_or_else(|so_far| so_far);
    assert!(got.len() < 100_000_000, "{} octets", got.len());
}
