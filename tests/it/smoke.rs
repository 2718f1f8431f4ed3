//! Smoke tests: sent through the proxy to the candidate and nobody else, whatever guards it; and no promotion without them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    admin::Admin,
    backend::Backend,
    certs::Authority,
    client::{Client, HOST, Protocol},
    eventually, full,
    process::Process,
    proxy::Proxy,
    raw_backend::{RawBackend, Then},
    setup::{APP, Setup},
    shell::Shell,
};

/// A candidate whose `/warm` answers 503 until it is told that it is warm; every other path answers 200.
struct Slow {
    backend: RawBackend,
    warm: Arc<AtomicBool>,
}

impl Slow {
    fn spawn() -> Self {
        let warm = Arc::new(AtomicBool::new(false));
        let is_warm = Arc::clone(&warm);
        let backend = RawBackend::script(move |head| {
            let cold = head.contains(" /warm ") && !is_warm.load(SeqCst);
            let (status, body) = if cold { ("503 Starting", "warming up") } else { ("200 OK", r#"{"status":"UP"}"#) };
            let length = body.len();
            let kind = "content-type: application/json;charset=UTF-8";
            (format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{kind}\r\n\r\n{body}").into(), Then::Keep)
        });
        Self { backend, warm }
    }

    fn is_warm(&self) {
        self.warm.store(true, SeqCst);
    }

    /// The heads of the checks it was sent, with what came of their bodies.
    fn checks(&self) -> Vec<String> {
        let heads = self.backend.received().into_iter().map(|head| String::from_utf8_lossy(&head).into_owned());
        heads.filter(|head| head.contains("user-agent: tealgate-smoke/")).collect()
    }
}

/// `blue` live, and this candidate; the app's `promotion` is this.
fn setup(blue: &Backend, green: &Slow, promotion: Value) -> Setup {
    let mut setup = Setup::between(blue, blue);
    setup.app()["source"] = json!({ "static": {
        "active": "blue",
        "preview": "green",
        "revisions": {
            "blue": { "endpoints": [blue.address()] },
            "green": { "endpoints": [green.backend.address()] },
        },
    } });
    setup.app()["promotion"] = promotion;
    setup
}

/// How the gate stands, and what it says.
async fn gate(admin: &Admin) -> (String, String) {
    let status = admin.status(APP).await;
    let gate = status["gates"].as_array().into_iter().flatten().find(|gate| gate["name"] == "smoke").cloned();
    let gate = gate.unwrap_or_default();
    let text = |key: &str| gate[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("message"))
}

async fn comes_to(admin: &Admin, state: &str) {
    eventually(&format!("the smoke test to be {state}"), async || gate(admin).await.0 == state).await;
}

async fn call(admin: &Admin, method: &str, what: &str, body: Value) -> (StatusCode, Value) {
    let body = (method != "GET").then_some(body);
    admin.call(method, &format!("/apps/{APP}/{what}"), body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_is_promoted_only_once_it_has_passed_and_may_take_its_time_for_that() {
    let (blue, green) = (Backend::spawn("blue"), Slow::spawn());
    let checks = json!([
        { "name": "up", "path": "/warm", "status": 200, "json": { "status": "UP" } },
        {
            "method": "POST", "path": "/search?x=1", "body": "{\"q\": 1}", "body_contains": "UP",
            "headers": { "Content-Type": "application/json" }, "expect_headers": { "Content-Type": "application/json*" },
        },
    ]);
    let mut setup = setup(&blue, &green, json!({ "smoke": checks }));
    setup.app()["hosts"] = json!([HOST]);
    setup.app()["preview"] = json!({ "hosts": ["preview.shop.test"] });
    let proxy = Proxy::start(setup).await;

    comes_to(&proxy.admin, "running").await;
    let told =
        "1 of 2 checks passed; up: expected status 200, got 503; its body begins: warming up; tried again until ";
    eventually("a round to be over", async || gate(&proxy.admin).await.1.starts_with(told)).await;
    let (status, refused) = call(&proxy.admin, "POST", "promote", json!({})).await;
    assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("gate-failed")), "{refused:#}");
    assert_eq!(refused["gates"][1]["state"], "running", "{refused:#}");
    let (_, plan) = call(&proxy.admin, "GET", "plan", Value::Null).await;
    assert_eq!((&plan["possible"], &plan["refusal"]["code"]), (&json!(false), &json!("gate-failed")), "{plan:#}");

    green.is_warm();
    comes_to(&proxy.admin, "passed").await;
    let (status, report) = call(&proxy.admin, "GET", "smoke", Value::Null).await;
    assert_eq!((status.as_u16(), &report["state"], &report["revision"]), (200, &json!("passed"), &json!("green")));
    let checks: Vec<_> = report["checks"].as_array().expect("checks").iter().map(|check| &check["name"]).collect();
    assert_eq!(checks, ["up", "POST /search?x=1"], "{report:#}");
    assert!(report["rounds"].as_u64() > Some(1) && report["ended"].is_string(), "{report:#}");
    assert_eq!(proxy.metric("tealgate_gate_state", &["gate=\"smoke\""]).await, 2.0);

    let sent = green.checks();
    let search = sent.iter().find(|head| head.starts_with("POST ")).expect("a search");
    for line in ["POST /search?x=1 HTTP/1.1\r\n", "host: preview.shop.test\r\n", "content-type: application/json\r\n"] {
        assert!(search.contains(line), "{line:?} in {search}");
    }
    assert_eq!(blue.begun(), 0, "nobody else is asked");
    proxy.promote().await;
    let mut client = proxy.client(Protocol::H1).await;
    assert_eq!(client.get("/warm").await.expect("an answer").status, 200);
    let (_, report) = call(&proxy.admin, "GET", "smoke", Value::Null).await;
    assert_eq!(report["state"], "passed", "what it was promoted by can be read later: {report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_guard_of_the_preview_keeps_our_own_checks_out_and_none_of_them_needs_an_open_listener() {
    let (blue, green) = (Backend::spawn("blue"), Slow::spawn());
    green.is_warm();
    let checks = json!([
        { "path": "/warm", "headers": { "Host": "other.test", "Authorization": "Bearer of the app" } },
        { "path": "/.tealgate/preview" },
    ]);
    let mut setup = setup(&blue, &green, json!({ "smoke": checks, "auto": true }));
    setup.app()["hosts"] = json!([HOST]);
    setup.app()["preview"] = json!({
        "hosts": ["preview.shop.test"],
        "allow": ["10.0.0.0/8"],
        "credentials": [{ "sha256": "0".repeat(64) }],
        "cookie": { "secret": "a secret of sixteen octets or more" },
    });
    setup.app()["limits"] = json!({ "rate": "1/h" });
    // Another app has the host that a check names.
    setup.config["apps"]["other"] = json!({ "hosts": ["other.test"], "source": { "static": {
        "active": "v1", "preview": "v2", "revisions": { "v1": { "endpoints": [blue.address()] }, "v2": { "endpoints": [blue.address()] } },
    } } });
    let authority = Authority::new();
    let leaf = authority.sign("shop", &[HOST]);
    for listener in ["live", "preview"] {
        setup.listener(listener)["tls"] = json!({ "certificates": [leaf] });
    }
    let proxy = Proxy::start(setup).await;
    // It is promoted by itself, as soon as it has passed.
    eventually("green to be active", async || proxy.status().await["active"]["revision"] == "green").await;
    let sent = green.checks();
    assert_eq!(sent.len(), 2, "{sent:#?}");
    for line in ["host: other.test\r\n", "authorization: Bearer of the app\r\n", "x-forwarded-proto: https\r\n"] {
        assert!(sent[0].contains(line), "{line:?} in {}", sent[0]);
    }
    assert!(!sent.concat().contains("x-tealgate-"), "{sent:#?}");
    assert_eq!(blue.begun(), 0, "the other app's revisions are not asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_that_failed_is_run_again_when_somebody_asks_and_by_itself_for_what_is_new() {
    let (blue, green) = (Backend::spawn("blue"), Slow::spawn());
    let checks = json!([{ "name": "up", "path": "/warm" }, { "name": "front", "path": "/" }]);
    let mut setup = setup(&blue, &green, json!({ "smoke": checks, "smoke_within": "0s" }));
    setup.app()["preview"] = json!({ "hosts": ["preview.shop.test"] });
    let proxy = Proxy::start(setup).await;
    comes_to(&proxy.admin, "failed").await;
    let told = "1 of 2 checks failed; up: expected status 2xx, got 503; its body begins: warming up";
    assert_eq!(gate(&proxy.admin).await.1, told);

    let (status, report) = call(&proxy.admin, "POST", "smoke", json!({ "reason": "again" })).await;
    assert_eq!((status.as_u16(), &report["run"], &report["state"]), (200, &json!(2), &json!("failed")), "{report:#}");
    let states: Vec<_> = report["checks"].as_array().expect("checks").iter().map(|check| &check["state"]).collect();
    assert_eq!(states, ["failed", "passed"], "{report:#}");
    green.is_warm();
    let (_, started) = call(&proxy.admin, "POST", "smoke", json!({ "wait": "started", "revision": "green" })).await;
    assert_eq!(started["run"], 3, "{started:#}");
    comes_to(&proxy.admin, "passed").await;
    let (status, refused) = call(&proxy.admin, "POST", "smoke", json!({ "revision": "blue" })).await;
    assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("already-active")), "{refused:#}");
    let (_, history) = call(&proxy.admin, "GET", "history?limit=10", Value::Null).await;
    let tests = history.as_array().expect("receipts").iter().filter(|receipt| receipt["action"] == "smoke").count();
    assert_eq!(tests, 2, "{history:#}");

    // The same revision again, and another one: nothing that was found before counts for them.
    let sent = green.checks().len();
    for (run, revision) in [(4, "green"), (5, "teal")] {
        proxy.admin.deploy(APP, revision, &[green.backend.address()]).await;
        comes_to(&proxy.admin, "passed").await;
        let (_, report) = call(&proxy.admin, "GET", "smoke", Value::Null).await;
        assert_eq!((&report["run"], &report["revision"]), (&json!(run), &json!(revision)), "{report:#}");
    }
    assert_eq!(green.checks().len(), sent + 4);

    // Without a candidate there is nothing to test.
    call(&proxy.admin, "POST", "abort", json!({})).await;
    let (status, refused) = call(&proxy.admin, "POST", "smoke", json!({})).await;
    assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("no-candidate")), "{refused:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_cannot_be_reached_fails_and_the_proxy_says_that_it_was_not_asked() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["promotion"] = json!({
        "smoke": [{ "path": "/hang", "timeout": "50ms" }, { "name": "cut", "path": "/reset" }, { "path": "/status/500" }],
        "smoke_within": "0s",
    });
    let proxy = Proxy::start(setup).await;
    comes_to(&proxy.admin, "failed").await;
    let (_, report) = call(&proxy.admin, "GET", "smoke", Value::Null).await;
    let why: Vec<_> = report["checks"].as_array().expect("checks").iter().map(|check| &check["message"]).collect();
    assert_eq!(why[0], "no whole answer within 50ms");
    assert!(why[1].as_str().is_some_and(|why| why.starts_with("the answer broke off")), "{report:#}");
    assert_eq!(why[2], "expected status 2xx, got 500; it has no body");
    // No endpoint is left: the answer is the proxy's own.
    proxy.admin.deploy(APP, "teal", &[([127, 0, 0, 1], 9).into()]).await;
    let (status, refused) = call(&proxy.admin, "POST", "smoke", json!({})).await;
    assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("not-ready")), "{refused:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_check_by_check_what_a_test_comes_to_and_ends_by_it() {
    let (blue, green) = (Backend::spawn("blue"), Slow::spawn());
    let checks =
        json!([{ "name": "up", "path": "/warm" }, { "name": "front", "path": "/", "json": { "status": "UP" } }]);
    let mut process = Process::start(setup(&blue, &green, json!({ "smoke": checks }))).await;
    let shell = Shell::at(format_args!("unix:{}", process.admin.socket.display()));
    let late = shell.run("smoke shop --timeout 300ms").await.ends_with(4);
    late.says("shop: ").says("expected status 2xx, got 503").says("did not get there within 0.3 s");
    shell.run("wait --for preview-ready --timeout 200ms").await.ends_with(4).says("waiting for its smoke test");
    shell.run("promote").await.ends_with(3).says("has not passed its smoke test yet");
    shell.run("promote --skip-gates --reason hotfix --dry-run").await.ends_with(0);
    green.is_warm();
    let passed = shell.run("smoke").await.ends_with(0);
    passed.says("the smoke test of green: passed").says("GET /warm").says("200");
    let report: Value = shell.run("smoke --revision green -o json").await.ends_with(0).json();
    assert_eq!(
        (&report["state"], report["checks"].as_array().map(Vec::len)),
        (&json!("passed"), Some(2)),
        "{report:#}"
    );
    shell.run("wait --for preview-ready").await.ends_with(0).says("green is ready");
    shell.run("status").await.ends_with(0).says("gate smoke: passed  2 of 2 checks passed");
    shell.run("smoke nobody").await.ends_with(1);

    // What has passed is not kept: the process that starts again finds out for itself.
    let sent = green.checks().len();
    process.start_again().await;
    shell.run("wait --for preview-ready --timeout 20s").await.ends_with(0);
    assert_eq!(green.checks().len(), sent + 2);
    shell.run("promote --when-ready --revision green --timeout 20s").await.ends_with(0).says("blue → green");
    shell.run("promote --when-ready --revision green").await.ends_with(0).says("green is active already");
    shell.run("smoke --revision green").await.ends_with(0).says("green is active already: nothing is tested");
    shell.run("smoke").await.ends_with(1).says("no candidate to test");
    let mut client = Client::connect(Protocol::H1, process.live).await.expect("it accepts");
    let request = client.request("GET", "/warm").body(full("")).expect("a request");
    assert_eq!(client.fetch(request).await.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_moves_live_traffic_to_a_candidate_only_once_that_has_passed() {
    let (blue, green) = (Backend::spawn("blue"), Slow::spawn());
    let mut process = Process::start(setup(&blue, &green, json!({ "smoke": [{ "path": "/warm" }] }))).await;
    let admin = process.admin.clone();
    comes_to(&admin, "running").await;
    let fixed = &mut process.setup().app()["source"]["static"];
    fixed["active"] = json!("green");
    fixed.as_object_mut().expect("a mapping").remove("preview");
    process.rewrite();
    let held_back = "the source wants green active; it waits until its smoke test is passed";
    let is_held_back =
        async || admin.status(APP).await["message"].as_str().is_some_and(|words| words.contains(held_back));
    eventually("the file to be held back", is_held_back).await;
    green.is_warm();
    eventually("green to be active", async || admin.status(APP).await["active"]["revision"] == "green").await;
}
