//! gRPC calls of every kind, through an HTTP/2 client connection to an HTTP/2 upstream: by the tonic library, and by hand.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future;
use h2::{
    RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_util::task::AbortOnDropHandle;
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_check_response::ServingStatus as Told, health_client::HealthClient},
    server::HealthReporter,
};
use tower_service::Service;

use crate::support::{
    client::{Client, Protocol},
    eventually,
    h2_backend::H2Backend,
    proxy::Proxy,
    setup::Setup,
    within,
};

fn setup(addresses: &[SocketAddr]) -> Setup {
    let mut setup = Setup::before(addresses);
    setup.app()["upstream"] = json!({ "protocol": "h2" });
    setup
}

/// The health service of the tonic library.
async fn health_service() -> (SocketAddr, HealthReporter, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    let (reporter, service) = tonic_health::server::health_reporter();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            let serve = service_fn(move |request| service.clone().call(request));
            let http2 = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), serve));
        }
    });
    (address, reporter, AbortOnDropHandle::new(serving))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_does_not_notice_the_proxy() {
    let (address, reporter, _serving) = health_service().await;
    let proxy = Proxy::start(setup(&[address])).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", proxy.live)).expect("an address");
    let mut client = HealthClient::new(channel.connect().await.expect("it accepts"));
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let answer = client.check(ask("")).await.expect("an answer").into_inner();
    assert_eq!(answer.status(), Told::Serving);
    // What goes wrong is told in trailers alone.
    let refused = client.check(ask("unheard.of")).await.expect_err("a refusal");
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused:?}");

    reporter.set_service_status("shop", ServingStatus::NotServing).await;
    let mut watching = client.watch(ask("shop")).await.expect("a stream").into_inner();
    for (set, told) in [
        (None, Told::NotServing),
        (Some(ServingStatus::Serving), Told::Serving),
        (Some(ServingStatus::NotServing), Told::NotServing),
    ] {
        if let Some(status) = set {
            reporter.set_service_status("shop", status).await;
        }
        let message = within("a message", watching.message()).await.expect("no error").expect("more");
        assert_eq!(message.status(), told);
    }
    drop(watching);
    eventually("the ledger to have every call", async || {
        proxy.metric("tealgate_requests_ended_total", &[]).await as u32 == 3
    })
    .await;
}

/// A server that gives every message back as it comes, and tells in its trailers how many there were.
async fn echo() -> H2Backend {
    H2Backend::spawn(server::Builder::new(), |_, request, respond| async move {
        echo_all(request, respond).await.ok();
    })
    .await
}

async fn echo_all(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let (parts, mut body) = request.into_parts();
    assert_eq!(parts.headers["te"], "trailers");
    let mut out = respond.send_response(head, false)?;
    let mut octets = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        octets += data.len();
        out.send_data(data, false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-octets", HeaderValue::from(octets));
    if let Some(timeout) = parts.headers.get("grpc-timeout") {
        trailers.insert("x-timeout", timeout.clone());
    }
    out.send_trailers(trailers)
}

/// A message, framed as gRPC does.
fn message(octets: usize) -> Bytes {
    let length = u32::try_from(octets).expect("a short message").to_be_bytes();
    [&[0][..], &length, &vec![7; octets]].concat().into()
}

async fn connect(proxy: &Proxy) -> SendRequest<Bytes> {
    connect_with(proxy, client::Builder::new()).await
}

async fn connect_with(proxy: &Proxy, settings: client::Builder) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy.live).await.expect("it accepts");
    stream.set_nodelay(true).expect("a socket option");
    let (sender, connection) = settings.handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn call(sender: &mut SendRequest<Bytes>, fields: &[(&str, &str)]) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::post("http://shop.test/echo.Echo/All").header("te", "trailers");
    let request = request.header("content-type", "application/grpc+proto");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    sender.send_request(request.body(()).expect("a request"), false).expect("a stream")
}

/// The next octets, as many as these.
async fn next(body: &mut RecvStream, octets: usize) -> Vec<u8> {
    let mut came = Vec::new();
    while came.len() < octets {
        let data = within("data", body.data()).await.expect("more").expect("no error");
        body.flow_control().release_capacity(data.len()).expect("a window");
        came.extend_from_slice(&data);
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_both_ways_one_by_one_and_trailers_end_the_call() {
    let upstream = echo().await;
    let mut setup = setup(&[upstream.address()]);
    // A silent side of a conversation is no stalled upload.
    setup.listener("live")["timeouts"] = json!({ "body": "100ms" });
    let proxy = Proxy::start(setup).await;
    let mut sender = connect(&proxy).await;
    let (response, mut request) = call(&mut sender, &[("grpc-timeout", "1H")]);
    let response = within("a head", response).await.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &HeaderValue::from_static("application/grpc"))
    );
    let mut body = response.into_body();
    for octets in [0, 1, 1000, 100_000] {
        request.send_data(message(octets), false).expect("a stream");
        assert_eq!(next(&mut body, octets + 5).await, message(octets));
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    request.send_data(message(3), true).expect("a stream");
    assert_eq!(next(&mut body, 8).await, message(3));
    assert!(within("the end", body.data()).await.is_none());
    let trailers = within("trailers", body.trailers()).await.expect("no error").expect("trailers");
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-octets"]),
        (&HeaderValue::from_static("0"), &HeaderValue::from(101_029))
    );
    assert_eq!(trailers["x-timeout"], "1H", "it is passed on as it came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_run_at_once_share_a_connection_and_mind_their_own_messages() {
    let upstream = echo().await;
    let mut setup = setup(&[upstream.address()]);
    setup.config["workers"] = json!(1);
    let proxy = Proxy::start(setup).await;
    let mut sender = connect(&proxy).await;
    let calls: Vec<_> = (0..60)
        .map(|n| {
            let (response, mut request) = call(&mut sender, &[]);
            async move {
                let mut body = response.await.expect("an answer").into_body();
                for _ in 0..5 {
                    request.send_data(message(n * 100), false).expect("a stream");
                    assert_eq!(next(&mut body, n * 100 + 5).await, message(n * 100));
                }
                request.send_data(Bytes::new(), true).expect("a stream");
                while body.data().await.is_some() {}
                body.trailers().await.expect("no error").expect("trailers")["x-octets"].clone()
            }
        })
        .collect();
    let octets = within("all calls", future::join_all(calls)).await;
    assert!(octets.iter().enumerate().all(|(n, octets)| *octets == HeaderValue::from(5 * (n * 100 + 5))));
    assert_eq!(upstream.accepted(), 1);
}

/// The status that a call was told in trailers alone, and its message.
async fn told(response: ResponseFuture) -> (u16, String) {
    let response = within("an answer", response).await.expect("an answer");
    assert!(response.body().is_end_stream(), "{response:?}");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &HeaderValue::from_static("application/grpc"))
    );
    let field = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    (field("grpc-status").parse().expect("a number"), field("grpc-message"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_told_what_went_wrong_in_its_own_words() {
    // Nobody there; nobody who answers; a body over the limit; an unknown host.
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let proxy = Proxy::start(setup(&[gone])).await;
    let (status, message_told) = told(call(&mut connect(&proxy).await, &[]).0).await;
    assert_eq!((status, &*message_told), (14, "the upstream refused the connection"));
    // Others are told as ever.
    let answer =
        Client::connect(Protocol::H2, proxy.live).await.expect("it accepts").get("/").await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.headers.get("grpc-status")), (502, None));
    let lost = proxy.metric("tealgate_http_requests_total", &[r#"code="502""#]).await;
    assert_eq!(lost as u32, 2, "counted as what it is");

    let silent = H2Backend::spawn(server::Builder::new(), |_, request, respond| async {
        future::pending::<()>().await;
        drop((request, respond));
    })
    .await;
    let mut slow = setup(&[silent.address()]);
    slow.app()["timeouts"] = json!({ "response": "1h" });
    slow.app()["limits"] = json!({ "body_size": 1000 });
    slow.app()["hosts"] = json!(["shop.test"]);
    let proxy = Proxy::start(slow).await;
    let mut sender = connect(&proxy).await;
    let (response, mut request) = call(&mut sender, &[("grpc-timeout", "200m")]);
    request.send_data(message(1), true).expect("a stream");
    assert_eq!(told(response).await.0, 4);
    let (response, mut request) = call(&mut sender, &[]);
    request.send_data(message(2000), true).expect("a stream");
    assert_eq!(told(response).await.0, 8);
    let elsewhere = Request::post("http://other.test/").header("content-type", "application/grpc");
    let (response, _) = sender.send_request(elsewhere.body(()).expect("a request"), true).expect("a stream");
    assert_eq!(told(response).await.0, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cancelled_or_cut_is_so_on_the_other_side() {
    let upstream = H2Backend::spawn(server::Builder::new(), |_, request, mut respond| async move {
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        let mut out = respond.send_response(head, false).expect("a stream");
        out.send_data(message(10), false).expect("a stream");
        if request.headers().contains_key("x-cut") {
            tokio::time::sleep(Duration::from_millis(50)).await;
            out.send_reset(h2::Reason::INTERNAL_ERROR);
            return;
        }
        // Until the other side has had enough.
        let reason = future::poll_fn(|cx| out.poll_reset(cx)).await.expect("a reset");
        assert_eq!(reason, h2::Reason::CANCEL);
    })
    .await;
    let proxy = Proxy::start(setup(&[upstream.address()])).await;
    let mut sender = connect(&proxy).await;
    let (response, _request) = call(&mut sender, &[("x-cut", "1")]);
    let mut body = within("a head", response).await.expect("an answer").into_body();
    next(&mut body, 15).await;
    let cut = within("the cut", body.data()).await.expect("more").expect_err("a reset");
    assert!(cut.is_reset(), "{cut:?}");

    let (response, mut request) = call(&mut sender, &[]);
    let mut body = within("a head", response).await.expect("an answer").into_body();
    next(&mut body, 15).await;
    request.send_reset(h2::Reason::CANCEL);
    drop((request, body));
    eventually("the ledger to have both", async || {
        let gone = proxy.metric("tealgate_requests_ended_total", &[r#"outcome="client_gone""#]).await;
        let after = proxy.metric("tealgate_requests_ended_total", &[r#"outcome="upstream_failed_after""#]).await;
        (gone as u32, after as u32) == (1, 1)
    })
    .await;
}

/// Answers every call with one message after another; one that asks for a single one has the second half of it, and its
/// trailers, when `rest` is called.
async fn streams(rest: &Arc<Notify>) -> H2Backend {
    let rest = Arc::clone(rest);
    H2Backend::spawn(server::Builder::new(), move |_, request, mut respond| {
        let rest = Arc::clone(&rest);
        async move {
            let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
            if request.headers().contains_key("x-no-answer") {
                future::pending::<()>().await;
            }
            let Ok(mut out) = respond.send_response(head, false) else { return };
            if request.headers().contains_key("x-single") {
                let message = message(100);
                out.send_data(message.slice(..50), false).expect("a stream");
                rest.notified().await;
                out.send_data(message.slice(50..), false).expect("a stream");
                let status = [(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))];
                out.send_trailers(status.into_iter().collect()).expect("a stream");
                return;
            }
            while out.send_data(message(10), false).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .await
}

/// Two revisions, the second ready to be promoted.
async fn between(blue: &H2Backend, green: &H2Backend, drain: Value) -> Proxy {
    let mut setup = setup(&[blue.address()]);
    setup.app()["source"]["static"]["revisions"]["green"] = json!({ "endpoints": [green.address()] });
    setup.app()["source"]["static"]["preview"] = json!("green");
    setup.app()["drain"] = drain;
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

/// What is left of an answer, in octets, and the status it ends with.
async fn ending(body: &mut RecvStream) -> (usize, HeaderValue) {
    within("the end", async {
        let mut octets = 0;
        while let Some(data) = body.data().await {
            let data = data.expect("no reset");
            body.flow_control().release_capacity(data.len()).expect("a window");
            octets += data.len();
        }
        (octets, body.trailers().await.expect("no error").expect("trailers")["grpc-status"].clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_goes_on_leaves_as_its_apps_policy_says_and_may_call_again() {
    let rest = Arc::default();
    let (blue, green) = (streams(&rest).await, streams(&rest).await);
    for (policy, timeout, lost) in [("cut", "30s", 0), ("drain", "200ms", 2), ("keep", "200ms", 1)] {
        let proxy = between(&blue, &green, json!({ "timeout": timeout, "streams": policy })).await;
        let mut sender = connect(&proxy).await;
        let (response, request) = call(&mut sender, &[]);
        let mut body = within("a head", response).await.expect("an answer").into_body();
        assert_eq!(next(&mut body, 15).await.len() % 15, 0, "whole messages");
        let (unanswered, asking) = call(&mut sender, &[("x-no-answer", "1")]);
        eventually("both to be in flight", async || proxy.status().await["active"]["inFlight"] == 2).await;
        proxy.promote().await;
        match policy {
            "keep" => {
                assert_eq!(told(unanswered).await.0, 14, "the deadline is past");
                next(&mut body, 20 * 15).await;
                drop((request, body));
            }
            "drain" => {
                assert_eq!(told(unanswered).await.0, 14, "the deadline is past");
                let (octets, status) = ending(&mut body).await;
                assert_eq!((octets % 15, status.as_bytes()), (0, &b"14"[..]), "{policy}");
            }
            _ => {
                let (octets, status) = ending(&mut body).await;
                assert_eq!((octets % 15, status.as_bytes()), (0, &b"14"[..]), "{policy}");
                assert_eq!(proxy.status().await["draining"][0]["inFlight"], 1, "what has no answer is no stream");
                drop((asking, unanswered));
            }
        }
        eventually("the drain to end", async || proxy.status().await["draining"] == json!([])).await;
        eventually("the ledger to have both", async || {
            proxy.metric("tealgate_requests_ended_total", &[r#"app="shop""#]).await >= 2.0
        })
        .await;
        assert_eq!(proxy.metric("tealgate_requests_lost_total", &[]).await as u32, lost, "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_one_message_is_not_cut_as_a_stream_is() {
    let rest = Arc::default();
    let (blue, green) = (streams(&rest).await, streams(&rest).await);
    let proxy = between(&blue, &green, json!({ "timeout": "30s", "streams": "cut" })).await;
    let mut sender = connect(&proxy).await;
    let (single, _request) = call(&mut sender, &[("x-single", "1")]);
    let mut single = within("a head", single).await.expect("an answer").into_body();
    next(&mut single, 50).await;
    let (stream, _request) = call(&mut sender, &[]);
    let mut stream = within("a head", stream).await.expect("an answer").into_body();
    next(&mut stream, 15).await;
    proxy.promote().await;
    assert_eq!(ending(&mut stream).await.1, "14", "the one that goes on");
    rest.notify_one();
    assert_eq!(ending(&mut single).await, (55, HeaderValue::from_static("0")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_does_not_end_is_cut_so_that_it_shows() {
    let rest = Arc::default();
    let (blue, green) = (streams(&rest).await, streams(&rest).await);
    let proxy = between(&blue, &green, json!({ "timeout": "30s", "streams": "cut" })).await;
    let mut sender = connect(&proxy).await;
    let (single, _request) = call(&mut sender, &[("x-single", "1")]);
    let mut single = within("a head", single).await.expect("an answer").into_body();
    next(&mut single, 50).await;
    proxy.promote().await;
    let cut = within("the cut", single.data()).await.expect("more").expect_err("a reset");
    assert!(cut.is_reset(), "{cut:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_to_leave_and_is_not_read_is_lost_no_more_than_others() {
    let rest = Arc::default();
    let (blue, green) = (streams(&rest).await, streams(&rest).await);
    let proxy = between(&blue, &green, json!({ "timeout": "30s", "streams": "cut" })).await;
    let mut narrow = client::Builder::new();
    narrow.initial_window_size(50);
    let (single, _request) = call(&mut connect_with(&proxy, narrow).await, &[("x-single", "1")]);
    let mut single = within("a head", single).await.expect("an answer").into_body();
    let (stream, _other) = call(&mut connect(&proxy).await, &[]);
    let mut stream = within("a head", stream).await.expect("an answer").into_body();
    next(&mut stream, 15).await;
    let mut came = 0;
    while came < 50 {
        came += within("data", single.data()).await.expect("more").expect("no error").len();
    }
    proxy.promote().await;
    assert_eq!(ending(&mut stream).await.1, "14", "they are told to leave");
    // What comes now finds the client's window closed.
    rest.notify_one();
    let cut = within("the cut", single.data()).await.expect("more").expect_err("a reset");
    assert!(cut.is_reset(), "{cut:?}");
    eventually("the ledger to have both", async || {
        proxy.metric("tealgate_requests_ended_total", &[r#"app="shop""#]).await >= 2.0
    })
    .await;
    assert_eq!(proxy.metric("tealgate_requests_lost_total", &[]).await as u32, 0);
}
