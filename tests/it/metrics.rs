//! What is counted and what is logged, against what clients did: the metrics of a running server from its first day on, and
//! the lines of its access log as they stand on its standard output.

use std::collections::BTreeMap;

use http::Request;
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    certs::Authority,
    client::{Client, Protocol, Raw},
    eventually, full,
    process::Process,
    setup::{APP, Setup},
};

/// A scrape: the value of each series, by its name with its labels in the order of the alphabet.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(process: &Process) -> Self {
        let mut client = Client::connect(Protocol::H1, process.health).await.expect("it accepts");
        let text = client.get("/metrics").await.expect("metrics").text();
        let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            (sorted(series.strip_prefix("tealgate_").expect("the prefix")), value.parse().expect("a number"))
        });
        Self(series.collect())
    }

    /// A series' value: `app_generation{app=shop}`.
    #[track_caller]
    fn at(&self, series: &str) -> f64 {
        let quoted = series.replace('=', "=\"").replace(',', "\",").replace('}', "\"}");
        let found = self.0.get(&sorted(&quoted));
        *found.unwrap_or_else(|| panic!("no {series} in {:#?}", self.0.keys()))
    }

    /// All series of a family added up whose labels contain these.
    fn sum(&self, family: &str, labels: &[&str]) -> f64 {
        let matching = self.0.iter().filter(|(series, _)| {
            series.split('{').next() == Some(family) && labels.iter().all(|label| series.contains(label))
        });
        matching.map(|(_, value)| value).sum()
    }
}

fn sorted(series: &str) -> String {
    let Some((name, labels)) = series.split_once('{') else { return series.to_owned() };
    let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_there_with_its_labels_from_the_first_day() {
    let (blue, green, authority) = (Backend::spawn("blue"), Backend::spawn("green"), Authority::new());
    let leaf = authority.sign("live", &["shop.test"]);
    let mut setup = Setup::between(&blue, &green);
    setup.listener("live")["tls"] = json!({ "certificates": [leaf] });
    let process = Process::start(setup).await;
    eventually("the candidate to be ready", async || process.admin.status(APP).await["phase"] == "previewing").await;
    let scrape = Scrape::of(&process).await;

    let mut expected = vec![
        ("app_generation{app=shop}".to_owned(), 1.0),
        ("pool_info{app=shop,pool=active,revision=blue}".to_owned(), 1.0),
        ("pool_info{app=shop,pool=preview,revision=green}".to_owned(), 1.0),
        (format!("endpoint_up{{app=shop,revision=blue,endpoint={}}}", blue.address()), 1.0),
        (format!("endpoint_up{{app=shop,revision=green,endpoint={}}}", green.address()), 1.0),
        ("rollback_ready{app=shop}".to_owned(), 0.0),
        ("rollback_window_seconds{app=shop}".to_owned(), 0.0),
        ("gate_state{app=shop,gate=min_ready}".to_owned(), 2.0),
        ("source_stale{app=shop}".to_owned(), 0.0),
        ("retries_total{app=shop}".to_owned(), 0.0),
        ("retries_denied_total{app=shop}".to_owned(), 0.0),
        ("flip_late_starts_total{app=shop}".to_owned(), 0.0),
        ("flip_barrier_seconds_count{app=shop}".to_owned(), 0.0),
        ("flip_drain_seconds_count{app=shop}".to_owned(), 0.0),
        ("flips_total{app=shop,kind=promote,result=done}".to_owned(), 0.0),
        ("flips_total{app=shop,kind=promote,result=refused}".to_owned(), 0.0),
        ("flips_total{app=shop,kind=rollback,result=done}".to_owned(), 0.0),
        ("config_last_reload_successful".to_owned(), 1.0),
        ("access_log_dropped_total".to_owned(), 0.0),
        (format!("build_info{{version={}}}", env!("CARGO_PKG_VERSION")), 1.0),
    ];
    for (pool, revision) in [("active", "blue"), ("preview", "green")] {
        let place = format!("app=shop,pool={pool},revision={revision}");
        expected.push((format!("http_requests_total{{{place},method=GET,code=200}}"), 0.0));
        expected.push((format!("http_request_duration_seconds_count{{{place}}}"), 0.0));
        expected.push((format!("http_requests_in_flight{{{place}}}"), 0.0));
        expected.push((format!("upstream_errors_total{{{place},reason=connect}}"), 0.0));
        for (state, count) in [("healthy", 1.0), ("unhealthy", 0.0), ("unknown", 0.0)] {
            expected.push((format!("pool_endpoints{{app=shop,pool={pool},state={state}}}"), count));
        }
    }
    for outcome in ["answered", "client_gone", "upstream_failed_before", "upstream_failed_after", "refused"] {
        expected.push((format!("requests_ended_total{{app=shop,outcome={outcome}}}"), 0.0));
    }
    for reason in ["connect", "connect_timeout", "protocol", "reset", "timeout"] {
        expected.push((format!("requests_lost_total{{app=shop,reason={reason}}}"), 0.0));
    }
    for reason in ["connection_limit", "handshake_limit", "untrusted_peer", "proxy_header", "handshake"] {
        expected.push((format!("connections_not_served_total{{listener=live,reason={reason}}}"), 0.0));
    }
    for (series, value) in expected {
        assert_eq!(scrape.at(&series), value, "{series}");
    }
    assert!(scrape.at("source_last_event_seconds{app=shop}") < 20.0);
    let ends = scrape.sum("tls_certificate_expiry_seconds", &["listener=\"live\""]);
    assert!(ends > jiff::Timestamp::now().as_second() as f64, "{ends}");
}

async fn ask(client: &mut Client, path: &str, times: usize) {
    for _ in 0..times {
        client.get(path).await.expect("an answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counts_are_what_clients_did() {
    let (mut blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["hosts"] = json!(["shop.test"]);
    // The dead endpoint is to be met by requests, not by a probe.
    setup.app()["health"] = json!({ "interval": "1h" });
    let process = Process::start(setup).await;
    eventually("the candidate to be ready", async || process.admin.status(APP).await["phase"] == "previewing").await;

    let mut h1 = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let mut h2 = Client::connect(Protocol::H2, process.live).await.expect("it accepts");
    let mut tester = Client::connect(Protocol::H1, process.preview).await.expect("it accepts");
    ask(&mut h1, "/", 7).await;
    ask(&mut h2, "/", 5).await;
    ask(&mut h2, "/status/404", 3).await;
    ask(&mut tester, "/status/500", 2).await;
    h1.fetch(h1.request("POST", "/echo").body(full("hello")).expect("a request")).await.expect("an answer");
    Raw::exchange(process.live, "GET / HTTP/1.1\r\nhost: other.test\r\nconnection: close\r\n\r\n").await;
    let hanging = h2.get_later("/hang");
    eventually("it to begin", async || blue.seen().iter().any(|seen| seen.target == "/hang")).await;
    let busy = Scrape::of(&process).await;
    assert_eq!(busy.at("http_requests_in_flight{app=shop,pool=active,revision=blue}"), 1.0);
    hanging.abort();
    drop(h2);
    let gone = async || Scrape::of(&process).await.sum("requests_ended_total", &["client_gone"]) == 1.0;
    eventually("the client to be gone", gone).await;
    process.admin.promote(APP).await;
    ask(&mut h1, "/", 4).await;
    assert_eq!(tester.get("/").await.expect("an answer").text(), "503 shop has no candidate to preview just now\n");
    process.admin.rollback(APP).await;
    process.admin.call("POST", "/apps/shop/rollback", Some(json!({}))).await;
    blue.stop();
    ask(&mut h1, "/", 2).await;

    let ended = async || Scrape::of(&process).await.sum("requests_ended_total", &[]) == 27.0;
    eventually("every request to end", ended).await;
    let scrape = Scrape::of(&process).await;
    let requests = |labels: &str| scrape.at(&format!("http_requests_total{{app=shop,{labels}}}"));
    assert_eq!(requests("pool=active,revision=blue,method=GET,code=200"), 12.0);
    assert_eq!(requests("pool=active,revision=blue,method=GET,code=404"), 3.0);
    assert_eq!(requests("pool=active,revision=blue,method=GET,code=502"), 2.0);
    assert_eq!(requests("pool=active,revision=blue,method=GET,code=none"), 1.0);
    assert_eq!(requests("pool=active,revision=blue,method=POST,code=200"), 1.0);
    assert_eq!(requests("pool=active,revision=green,method=GET,code=200"), 4.0);
    assert_eq!(requests("pool=preview,revision=green,method=GET,code=500"), 2.0);
    assert_eq!(requests("pool=,revision=,method=GET,code=503"), 1.0);
    assert_eq!(scrape.at("http_requests_total{app=,pool=,revision=,method=GET,code=421}"), 1.0);
    assert_eq!(scrape.sum("http_requests_total", &[]), 27.0);
    assert_eq!(scrape.sum("http_request_duration_seconds_count", &[]), 27.0);
    assert_eq!(scrape.sum("http_requests_in_flight", &[]), 0.0);

    let ended = |outcome: &str| scrape.sum("requests_ended_total", &[&format!("outcome=\"{outcome}\"")]);
    let outcomes = ["answered", "client_gone", "upstream_failed_before", "upstream_failed_after", "refused"].map(ended);
    assert_eq!(outcomes, [22.0, 1.0, 2.0, 0.0, 2.0]);
    assert_eq!(scrape.at("requests_lost_total{app=shop,reason=connect}"), 2.0);
    assert_eq!(scrape.at("requests_lost_total{app=shop,reason=no_candidate}"), 1.0);
    assert_eq!(scrape.sum("requests_lost_total", &[]), 3.0);
    let attempts = scrape.at("upstream_errors_total{app=shop,pool=active,revision=blue,reason=connect}");
    assert_eq!(attempts, 2.0 + scrape.at("retries_total{app=shop}"), "each attempt at a dead endpoint is one error");

    for (kind, result, times) in [("promote", "done", 1.0), ("rollback", "done", 1.0), ("rollback", "refused", 1.0)] {
        assert_eq!(
            scrape.at(&format!("flips_total{{app=shop,kind={kind},result={result}}}")),
            times,
            "{kind} {result}"
        );
    }
    assert_eq!(scrape.at("flip_barrier_seconds_count{app=shop}"), 2.0);
    assert_eq!(scrape.at("app_generation{app=shop}"), 3.0);
    assert_eq!(scrape.at("flip_late_starts_total{app=shop}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_a_line_of_json_that_says_how_it_ended() {
    let (mut blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.config["log"]["access"] = json!("json");
    setup.app()["hosts"] = json!(["shop.test"]);
    setup.app()["health"] = json!({ "interval": "1h" });
    setup.app()["limits"] = json!({ "body_size": "1KiB" });
    let process = Process::start(setup).await;
    let logged = async |path: &str| -> Value {
        let line = || process.access_log().into_iter().find(|line| line["path"] == path);
        eventually(&format!("a line of {path}"), async || line().is_some()).await;
        line().expect("seen just now")
    };

    let mut client = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let request = Request::post("/echo?n=1")
        .header("host", "shop.test")
        .header("x-request-id", "r-42")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    client.fetch(request.body(full("x".repeat(1000))).expect("a request")).await.expect("an answer");
    let line = logged("/echo?n=1").await;
    let fields: Vec<_> = line.as_object().expect("an object").keys().map(String::as_str).collect();
    let contract = "ts app pool revision generation endpoint method host path proto status bytes_in bytes_out dur_ms \
                    upstream_ms attempts client request_id trace_id flags";
    assert_eq!(fields, contract.split_whitespace().collect::<Vec<_>>());
    assert!(line["ts"].as_str().is_some_and(|ts| ts.parse::<jiff::Timestamp>().is_ok()), "{line:#}");
    let (dur, upstream) = (line["dur_ms"].as_f64(), line["upstream_ms"].as_f64());
    assert!(dur >= upstream && upstream >= Some(0.0), "{line:#}");
    let known = json!({
        "app": "shop", "pool": "active", "revision": "blue", "generation": 1, "endpoint": blue.address(), "method": "POST",
        "host": "shop.test", "path": "/echo?n=1", "proto": "HTTP/1.1", "status": 200, "bytes_in": 1000, "bytes_out": 1000,
        "attempts": 1, "client": "127.0.0.1", "request_id": "r-42", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "flags": "",
    });
    for (field, value) in known.as_object().expect("an object") {
        assert_eq!(&line[field], value, "{field}: {line:#}");
    }

    let mut h2 = Client::connect(Protocol::H2, process.live).await.expect("it accepts");
    h2.get("/bytes/5").await.expect("an answer");
    let line = logged("/bytes/5").await;
    assert_eq!((&line["proto"], &line["bytes_out"]), (&json!("HTTP/2.0"), &json!(5)), "{line:#}");
    assert!(line["request_id"].as_str().is_some_and(|made| !made.is_empty()), "{line:#}");

    // Each end that is out of the ordinary, with its status and its flags.
    Raw::exchange(process.live, "GET /nobody HTTP/1.1\r\nhost: other.test\r\nconnection: close\r\n\r\n").await;
    let large = "POST /large HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 2000\r\n\r\n";
    Raw::exchange(process.live, large).await;
    h2.get("/reset").await.expect_err("it is cut");
    let mut leaver = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let waiting = leaver.get_later("/hang");
    eventually("it to begin", async || blue.seen().iter().any(|seen| seen.target == "/hang")).await;
    waiting.abort();
    drop(leaver);
    // Only then the upstream: who leaves first is what is told.
    logged("/hang").await;
    blue.stop();
    assert_eq!(h2.get("/gone").await.expect("an answer").status, 502);
    for (path, status, flags, app) in [
        ("/nobody", json!(421), "refused,unknown_host", json!(null)),
        ("/large", json!(413), "refused,body_too_large", json!("shop")),
        ("/reset", json!(200), "upstream_failed_after,reset", json!("shop")),
        ("/hang", json!(null), "client_gone", json!("shop")),
        ("/gone", json!(502), "upstream_failed_before,connect", json!("shop")),
    ] {
        let line = logged(path).await;
        assert_eq!((&line["status"], &line["flags"], &line["app"]), (&status, &json!(flags), &app), "{line:#}");
    }
    let lines = process.access_log();
    assert_eq!(lines.len(), 7, "one line each: {lines:#?}");
}
