//! What others have written down of HTTP/2, against the proxy: h2spec, from outside, over plain TCP and TLS.

use std::{env, fs, net::SocketAddr, process::Command};

use serde_json::json;
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
    command.args(more).arg("--junit-report").arg(&report);
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
