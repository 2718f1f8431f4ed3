//! The tests' own instruments, without a proxy between: load that is well sees no failure, and load that is not says which.

use http::StatusCode;
use serde_json::json;
use tealgate::config::Config;

use crate::support::{
    backend::Backend,
    client::{Client, Protocol, Raw},
    eventually, full,
    load::{Lane, Load},
    raw_backend::{RawBackend, Then},
    setup::Setup,
};

#[tokio::test]
async fn load_on_a_sound_upstream_fails_nowhere_and_is_all_accounted_for() {
    let blue = Backend::spawn("blue");
    let start = std::time::Instant::now();
    let load = Load::start(blue.address());
    load.reached("blue").await;
    let report = load.stop().await;
    report.assert_no_request_failed();
    assert_eq!(report.broken(), 0, "{report}");
    for tally in report.lanes.values() {
        assert_eq!(tally.sent, tally.ok + tally.failed, "{report}");
    }
    assert_eq!(report.started_on(&blue, start).len() as u64, report.sent());
    assert!(report.started_on(&blue, std::time::Instant::now()).is_empty());
}

#[tokio::test]
async fn load_on_an_upstream_that_dies_tells_what_failed_and_what_broke() {
    let mut blue = Backend::spawn("blue");
    let load = Load::start(blue.address());
    load.reached("blue").await;
    blue.stop();
    eventually("failures", async || load.report().lanes.values().all(|tally| tally.failed > 0)).await;
    let report = load.stop().await;
    assert_eq!(report.lanes[&Lane::Events].broken, 2, "{report}");
    assert_eq!(report.lanes[&Lane::WebSockets].broken, 2, "{report}");
    assert!(report.lanes.values().all(|tally| !tally.reasons.is_empty()), "{report}");
}

#[tokio::test]
async fn a_backend_answers_as_each_path_says() {
    let mut blue = Backend::spawn("blue");
    let mut client = Client::connect(Protocol::H1, blue.address()).await.unwrap();
    let answer = client.get("/").await.unwrap();
    assert_eq!((answer.status, answer.colour(), &*answer.text()), (StatusCode::OK, "blue", "blue"));
    assert_eq!(client.get("/bytes/200000").await.unwrap().body.len(), 200_000);
    assert_eq!(client.get("/slow?ms=1&chunks=3").await.unwrap().text(), "a piece\n".repeat(3));
    assert_eq!(client.get("/status/503").await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    blue.unhealthy(true);
    assert_eq!(client.get("/healthz").await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    let paths: Vec<_> = blue.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(paths, ["/", "/bytes/200000", "/slow?ms=1&chunks=3", "/status/503"]);
    assert!(client.get("/reset").await.is_err(), "a cut answer is no answer");

    blue.stop();
    assert!(Client::connect(Protocol::H1, blue.address()).await.is_err());
    blue.start();
    assert!(Client::connect(Protocol::H1, blue.address()).await.is_ok());
}

#[tokio::test]
async fn an_echo_keeps_trailers() {
    let blue = Backend::spawn("blue");
    let request = "POST /echo HTTP/1.1\r\nhost: x\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\
                   connection: close\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n";
    let answer = Raw::exchange(blue.address(), request).await;
    assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_hanging_backend_answers_when_let_go() {
    let blue = Backend::spawn("blue");
    blue.hang(true);
    let mut client = Client::connect(Protocol::H1, blue.address()).await.unwrap();
    let request = client.request("GET", "/").body(full("")).unwrap();
    let response = tokio::spawn(client.send(request));
    eventually("the request to start", async || !blue.seen().is_empty()).await;
    assert!(!response.is_finished());
    blue.hang(false);
    assert_eq!(response.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_raw_backend_says_just_what_it_was_told() {
    let rude = RawBackend::spawn("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", Then::Close);
    assert!(Raw::exchange(rude.address(), "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("\r\n\r\nab"));
    assert_eq!(rude.received(), [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"]);

    let reset = RawBackend::spawn("", Then::Reset);
    let mut raw = Raw::connect(reset.address()).await;
    raw.send("GET / HTTP/1.1\r\n\r\n").await;
    assert!(raw.read_to_end().await.is_err(), "a reset is not an end");
}

#[tokio::test]
async fn a_setup_is_a_configuration() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["drain"] = json!({ "timeout": "1s" });
    setup.settle();
    let config = Config::parse(&setup.yaml(), &setup.path("tealgate.yaml")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.listeners.len(), 2);
}
