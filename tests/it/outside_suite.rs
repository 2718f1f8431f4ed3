//! What others have written down of HTTP/2 and of WebSocket, against the proxy from outside: h2spec, over plain TCP and
//! TLS, and the cases of Autobahn, as kosoku runs them.

use std::{collections::BTreeMap, env, fs, net::SocketAddr, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{backend::Backend, certs::Authority, proxy::Proxy, setup::Setup};

/// A plain listener speaks HTTP/1 as well: what does not begin as HTTP/2 is answered in HTTP/1, with a 400 and a close,
/// which h2spec does not take for a close.
const NOT_ON_PLAIN: &[&str] = &["http2/3.5 Sends invalid connection preface"];

/// Runs the whole suite, strict cases too, and returns what failed: section and title.
async fn h2spec(address: SocketAddr, more: &'static [&'static str]) -> Vec<String> {
    let program = env::var("TEALGATE_H2SPEC").expect("TEALGATE_H2SPEC names the h2spec program");
    let dir = TempDir::new().expect("a directory");
    let report = dir.path().join("report.xml");
    let mut command = Command::new(program);
    command.args(["--host", "127.0.0.1", "--timeout", "3", "--strict", "--port", &address.port().to_string()]);
    // An upstream that answers before the end of a body would be quicker, now and then, than what is wrong with the body.
    command.args(["--path", "/heard"]).args(more).arg("--junit-report").arg(&report);
    let output = tokio::task::spawn_blocking(move || command.output().expect("h2spec runs")).await.expect("a task");
    let text = String::from_utf8_lossy(&output.stdout);
    let report = fs::read_to_string(report).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let cases: Vec<_> = report.split("<testcase ").skip(1).collect();
    assert!(cases.len() >= 146, "h2spec ran {} cases\n{text}", cases.len());
    let attribute = |case: &str, name: &str| {
        let value = case.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        value.expect("an attribute").0.to_owned()
    };
    let bad = cases.iter().filter(|case| ["<failure", "<error"].iter().any(|mark| case.contains(mark)));
    let failed: Vec<_> = bad.map(|case| attribute(case, "package") + " " + &attribute(case, "classname")).collect();
    assert_eq!(failed.is_empty(), output.status.success(), "{text}");
    // Shown where the test fails.
    println!("{text}");
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs h2spec; .ci/run brings it"]
async fn outside_suite_h2spec_finds_nothing_wrong_with_a_plain_listener() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    assert_eq!(h2spec(proxy.live, &[]).await, NOT_ON_PLAIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs h2spec; .ci/run brings it"]
async fn outside_suite_h2spec_finds_nothing_wrong_with_a_tls_listener() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("live", &["localhost"]);
    let mut setup = Setup::between(&blue, &green);
    setup.listener("live")["tls"] = json!({ "certificates": [{ "cert": leaf.cert, "key": leaf.key }] });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    assert_eq!(h2spec(proxy.live, &["--tls", "--insecure"]).await, [""; 0]);
}

/// Runs Autobahn's cases as a client, but for those that measure speed, and returns what came of each: how the server
/// behaved, how it closed, and with which code.
async fn autobahn(address: SocketAddr) -> BTreeMap<String, [Value; 3]> {
    let program = env::var("TEALGATE_KOSOKU").expect("TEALGATE_KOSOKU names the kosoku program");
    let dir = TempDir::new().expect("a directory");
    let mut command = Command::new(program);
    command.args([&address.to_string(), "--exclude", "9.*", "--parallelism", "4", "--outdir"]).arg(dir.path());
    // It ends in an error where a case fails: what counts here is in the report.
    let output = tokio::task::spawn_blocking(move || command.output().expect("kosoku runs")).await.expect("a task");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = fs::read(dir.path().join("index.json")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let report: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_slice(&report).expect("a report");
    let cases = report.into_values().flatten();
    let outcome = |case: Value| ["behavior", "behaviorClose", "remoteCloseCode"].map(|key| case[key].clone());
    cases.map(|(number, case)| (number, outcome(case))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs kosoku; .ci/run brings it"]
async fn outside_suite_autobahn_sees_the_same_through_the_proxy_as_without_it() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    // It asks for the host it connects to.
    setup.app().as_object_mut().expect("a map").remove("hosts");
    let proxy = Proxy::start(setup).await;
    let (direct, proxied) = (autobahn(blue.address()).await, autobahn(proxy.live).await);
    assert!(direct.len() >= 240, "{} cases ran", direct.len());
    let differ: Vec<_> = direct.iter().filter(|(number, outcome)| proxied.get(*number) != Some(outcome)).collect();
    assert!(differ.is_empty(), "without the proxy these came to something else: {differ:#?}");
    assert_eq!(direct.len(), proxied.len());
}
