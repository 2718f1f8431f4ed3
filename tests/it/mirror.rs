//! The mirror: what the candidate gets of live traffic, what is found, and that nobody else notices.

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    backend::{Backend, Seen},
    client::{Client, Protocol},
    eventually, full,
    load::{Lane, Load},
    proxy::Proxy,
    raw_backend::{RawBackend, Then},
    setup::{APP, Setup},
    within,
};

/// A proxy between two upstreams that mirrors by these settings.
async fn mirroring(blue: &Backend, green: &Backend, mirror: Value) -> Proxy {
    let mut setup = Setup::between(blue, green);
    setup.app()["mirror"] = mirror;
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

/// A proxy between two upstreams that answer every request with these octets.
async fn between_answers(live: &str, candidate: &str, mirror: Value) -> Proxy {
    let [live, candidate] = [live, candidate].map(|answer| RawBackend::spawn(answer, Then::Keep));
    let mut setup = Setup::before(&[live.address()]);
    setup.app()["source"]["static"]["preview"] = json!("green");
    setup.app()["source"]["static"]["revisions"]["green"] = json!({ "endpoints": [candidate.address()] });
    setup.app()["health"] = json!({ "interval": "50ms", "rise": 1 });
    setup.app()["mirror"] = mirror;
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

async fn report(proxy: &Proxy) -> Value {
    let (status, report) = proxy.admin.call("GET", &format!("/apps/{APP}/mirror"), None).await;
    assert_eq!(status, StatusCode::OK, "{report:#}");
    report
}

/// Waits until so many copies ended so.
async fn compared(proxy: &Proxy, result: &str, count: u64) {
    eventually(&format!("{count} {result}"), async || report(proxy).await["compared"][result] == count).await;
    let label = format!(r#"result="{result}""#);
    assert_eq!(proxy.metric("tealgate_mirror_compared_total", &[&label]).await, count as f64);
}

fn copies(backend: &Backend) -> Vec<Seen> {
    backend.seen().into_iter().filter(|seen| seen.headers.contains_key("x-tealgate-mirror")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_candidate_gets_marked_copies_and_clients_get_the_live_answer() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = mirroring(&blue, &green, json!({ "share": "100%" })).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let request = client.request("GET", "/bytes/100000?a=b").header("cookie", "s=1").header("x-mine", "yes");
        let request = request.header("x-tealgate-mirror", "1").body(full("")).expect("a request");
        let answer = client.fetch(request).await.expect("an answer");
        assert_eq!((answer.colour(), answer.body.len()), ("blue", 100_000));
    }
    compared(&proxy, "equal", 2).await;
    let (copies, live) = (copies(&green), blue.seen());
    assert_eq!((copies.len(), live.len()), (2, 2));
    for (copy, live) in copies.iter().zip(&live) {
        assert_eq!((&copy.method, &copy.target), (&live.method, &live.target));
        assert!(!live.headers.contains_key("x-tealgate-mirror"), "a client cannot mark its own");
        for name in ["host", "cookie", "x-mine", "x-forwarded-for", "x-request-id"] {
            assert_eq!(copy.headers.get(name), live.headers.get(name), "{name}");
        }
    }
    let found = report(&proxy).await;
    assert_eq!((&found["share"], &found["differences"], &found["inFlight"]), (&json!(100.0), &json!([]), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_of_http2_get_copies_too() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["upstream"] = json!({ "protocol": "h2" });
    setup.app()["mirror"] = json!({ "share": "100%" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let request = client.request("GET", "/bytes/10000").header("cookie", "s=1").body(full("")).expect("a request");
        assert_eq!(client.fetch(request).await.expect("an answer").body.len(), 10_000);
    }
    compared(&proxy, "equal", 2).await;
    assert!(copies(&green).iter().all(|copy| copy.headers["cookie"] == "s=1" && copy.target.ends_with("/bytes/10000")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_is_told_by_its_place_and_without_secrets() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let compare = json!({ "headers": ["content-type", "x-colour"] });
    let proxy = mirroring(&blue, &green, json!({ "share": "100%", "compare": compare })).await;
    let mut client = proxy.client(Protocol::H1).await;
    assert_eq!(client.get("/?id=7").await.expect("an answer").text(), "blue");
    compared(&proxy, "headers", 1).await;
    let found = report(&proxy).await["differences"][0].clone();
    assert_eq!(
        (&found["method"], &found["path"], &found["result"]),
        (&json!("GET"), &json!("/?id=7"), &json!("headers"))
    );
    let expected = [
        r#"header x-colour: live "blue", candidate "green""#,
        "body: from octet 0 on; live 4 octets, candidate 5 octets",
    ];
    assert_eq!(found["differs"], json!(expected));
    assert_eq!((&found["live"]["revision"], &found["candidate"]["revision"]), (&json!("blue"), &json!("green")));

    let with =
        |status: &str, cookie: &str| format!("HTTP/1.1 {status}\r\nset-cookie: {cookie}\r\ncontent-length: 0\r\n\r\n");
    let proxy =
        between_answers(&with("200 OK", "s=hush1"), &with("503 Gone", "s=hush2"), json!({ "share": "100%" })).await;
    proxy.client(Protocol::H2).await.get("/").await.expect("an answer");
    compared(&proxy, "status", 1).await;
    let found = report(&proxy).await;
    assert!(!found.to_string().contains("hush"), "{found:#}");
    assert_eq!(found["differences"][0]["candidate"]["status"], 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_compared_as_such_but_for_what_is_ignored() {
    let answer = |body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let live = answer(r#"{"time": 1, "items": [{"id": 1, "n": 1}], "price": 10}"#);
    let candidate = answer(r#"{"items":[{"n":1,"id":2}],"price":10,"time":2}"#);
    let mirror = |ignore: Value| json!({ "share": "100%", "compare": { "body": "json", "ignore": ignore } });
    let proxy = between_answers(&live, &candidate, mirror(json!(["$.time", "$.items[*].id"]))).await;
    proxy.client(Protocol::H1).await.get("/").await.expect("an answer");
    compared(&proxy, "equal", 1).await;

    let proxy = between_answers(&live, &candidate, mirror(json!(["$.time"]))).await;
    proxy.client(Protocol::H2).await.get("/").await.expect("an answer");
    compared(&proxy, "body", 1).await;
    assert_eq!(report(&proxy).await["differences"][0]["differs"], json!(["body: $.items[0].id (another value)"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_safe_requests_without_a_body_are_copied() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = mirroring(&blue, &green, json!({ "share": "100%", "methods": ["GET"] })).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for (method, body) in [("POST", "x"), ("DELETE", ""), ("HEAD", ""), ("GET", "x")] {
            let request = client.request(method, "/echo").body(full(body)).expect("a request");
            client.fetch(request).await.expect("an answer");
        }
    }
    let mut tester = Client::connect(Protocol::H1, proxy.preview).await.expect("it accepts");
    tester.get("/").await.expect("green answers");
    proxy.client(Protocol::H1).await.get("/bytes/1").await.expect("an answer");
    compared(&proxy, "equal", 1).await;
    assert_eq!(copies(&green).len(), 1, "{:?}", copies(&green));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_hangs_holds_up_no_client_and_copies_keep_to_their_budget() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mirror = json!({ "share": "100%", "max_in_flight": 3, "timeout": "2s" });
    let proxy = mirroring(&blue, &green, mirror).await;
    green.hang(true);
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for _ in 0..10 {
            assert_eq!(within("blue", client.get("/")).await.expect("an answer").colour(), "blue");
        }
    }
    let found = report(&proxy).await;
    assert!(found["inFlight"].as_u64().is_some_and(|copies| copies <= 3), "{found:#}");
    eventually("the rest to fail", async || {
        let found = report(&proxy).await;
        let count = |result: &str| found["compared"][result].as_u64().unwrap_or_default();
        found["inFlight"] == 0 && count("failed") >= 3 && count("failed") + count("dropped") == 20
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_nobodys_requests_and_a_flip_under_load_is_as_safe_as_without() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["mirror"] = json!({ "share": "50%", "compare": { "body": "none" } });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let load = Load::of(&Lane::REQUESTS, proxy.live);
    load.reached("blue").await;
    eventually("some copies", async || copies(&green).len() > 20).await;
    for _ in 0..5 {
        proxy.promote().await;
        load.reached("green").await;
        proxy.rollback().await;
        eventually("the candidate to be ready", async || proxy.status().await["preview"]["ready"] == 1).await;
    }
    let report = load.stop().await;
    report.assert_no_request_failed();
    eventually("the ledger to equal the clients' count", async || {
        proxy.metric("tealgate_requests_ended_total", &[]).await == report.sent() as f64
    })
    .await;
    assert_eq!(proxy.metric("tealgate_http_requests_total", &[r#"pool="preview""#]).await, 0.0);
    assert!(proxy.metric("tealgate_mirror_compared_total", &[r#"result="equal""#]).await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_drain_waits_for_a_copy() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["mirror"] = json!({ "share": "100%", "timeout": "60s" });
    setup.app()["drain"] = json!({ "timeout": "1h" });
    // Its probes must go on while it hangs.
    setup.app()["health"] = json!({ "interval": "50ms", "rise": 1 });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    green.hang(true);
    proxy.client(Protocol::H1).await.get("/").await.expect("an answer");
    eventually("a copy to hang", async || proxy.status().await["preview"]["inFlight"] == 1).await;
    proxy.promote().await;
    eventually("the candidate's tenure to be drained", async || proxy.status().await["draining"] == json!([])).await;
    compared(&proxy, "dropped", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_its_client_cuts_off_compares_to_nothing() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = mirroring(&blue, &green, json!({ "share": "100%" })).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let request = client.request("GET", "/bytes/100000000").body(full("")).expect("a request");
        let answer = within("a head", client.send(request)).await.expect("an answer begins");
        drop((answer, client));
    }
    compared(&proxy, "dropped", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_mirror_there_is_nothing_to_report() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    proxy.client(Protocol::H1).await.get("/").await.expect("an answer");
    let found = report(&proxy).await;
    assert_eq!((&found["share"], &found["compared"]["equal"]), (&json!(0.0), &json!(0)), "{found:#}");
    assert!(copies(&green).is_empty());
}
