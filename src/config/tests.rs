//! What the configuration promises to whoever writes the file: good files mean what they say, bad ones are told exactly.

mod audience;
mod doors;
mod hostile;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod mistakes;

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::{
    proxy::{Bind, ListenerRole, TlsVersion},
    switch::{AppName, AutoPromotion, BalanceRule, Ejection, HashBy, Hashing, MinReady, Secret, Streams, Wanted},
};

const FULL: &str = include_str!("../../config/full.yaml");
const MINIMAL: &str = include_str!("../../config/minimal.yaml");
const TLS: &str = include_str!("../../config/tls.yaml");

/// A sound file in five lines, with a line or more to come after it, within the app `shop`.
const SHOP: &str = r#"listeners: [{ name: live, bind: "127.0.0.1:8080" }]
apps:
  shop:
    source: { static: { active: blue, revisions: {
      blue: { endpoints: ["127.0.0.1:9001"] }, green: { endpoints: ["127.0.0.1:9011"] } } } }
"#;

fn environment(name: &str) -> Option<String> {
    let known = [("APP_HOST", "shop.test"), ("ATTEMPTS", "3"), ("YAML", "[a, b]"), ("EMPTY", "")];
    known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn parsed(text: impl AsRef<[u8]>) -> Result<Config, ConfigErrors> {
    parse(text.as_ref(), Path::new("/etc/tealgate/tealgate.yaml"), &environment, false)
}

fn with_shop(more: &str) -> Result<Config, ConfigErrors> {
    parsed(format!("{SHOP}{more}\n"))
}

fn shop(more: &str) -> Wanted {
    let mut config = with_shop(more).unwrap_or_else(|errors| panic!("{more}\n{errors}"));
    config.desired.apps.remove(&"shop".parse::<AppName>().unwrap()).unwrap()
}

/// The errors as `line:column what; hint`.
fn told(outcome: Result<Config, ConfigErrors>) -> Vec<String> {
    let errors = outcome.expect_err("it was taken");
    errors.iter().map(|e| e.summary().replace("/etc/tealgate/tealgate.yaml:", "")).collect()
}

#[test]
fn full_yaml_says_what_minimal_yaml_leaves_out() {
    assert_eq!(parsed(FULL).unwrap(), parsed(MINIMAL).unwrap());
}

#[test]
fn what_full_yaml_shows_in_comments_can_be_uncommented() {
    let is_key = |line: &str| {
        let key = line.trim_start().split_once(':').map(|(key, _)| key);
        line.trim_start().starts_with("- {")
            || key.is_some_and(|k| k.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let uncommented = |line: &str| match line.split_once("# ") {
        Some((indent, rest)) if indent.trim().is_empty() && is_key(rest) => format!("{indent}{rest}\n"),
        _ => format!("{line}\n"),
    };
    let config = parsed(FULL.lines().map(uncommented).collect::<String>()).unwrap_or_else(|errors| panic!("{errors}"));
    let shown = format!("{config:?}");
    for part in [
        "tls.crt",
        "tokens.yaml",
        "shop.example.com",
        "10.0.0.0/8",
        "/healthz",
        "/var/lib/tealgate/this",
        "roots.pem",
        "V2",
        "/actuator/health",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn the_schema_shows_every_key_of_full_yaml_and_its_default() {
    let schema = schema();
    let mut lacking = Vec::new();
    visit_keys(&schema, &mut |key, property| {
        assert!(FULL.contains(&format!("{key}:")), "full.yaml does not show `{key}`");
        assert!(property.get("description").is_some() || property.get("$ref").is_some(), "`{key}` has no description");
        let scalar =
            property.get("$ref").is_none() && property.get("type").is_none_or(|t| t != "array" && t != "object");
        if scalar && property.get("default").is_none() {
            lacking.push(key.to_owned());
        }
    });
    lacking.sort();
    lacking.dedup();
    // Either required, or off when left out.
    assert_eq!(
        lacking,
        [
            "active",
            "active_service",
            "address",
            "bind",
            "body",
            "body_contains",
            "burst",
            "by",
            "cert",
            "client_ip",
            "content_type",
            "context",
            "cookie",
            "crl",
            "dir",
            "equals",
            "error_ratio",
            "file",
            "header",
            "host",
            "key",
            "kubeconfig",
            "kubernetes_auth",
            "max_body",
            "max_in_flight",
            "min_version",
            "mode",
            "name",
            "namespace",
            "path",
            "per",
            "port",
            "preview",
            "preview_service",
            "proxy_protocol",
            "requests",
            "rollout",
            "roots",
            "secret",
            "server_name",
            "sha256",
            "share",
            "socket",
            "status",
            "timeout",
            "tokens",
            "ttl",
            "user",
            "value"
        ]
    );
    assert_eq!(schema["title"], "Tealgate configuration");
    assert_eq!(schema["required"], json!(["listeners", "apps"]));
    assert_eq!(schema["$defs"]["Timeouts"]["properties"]["connect"]["default"], "2s");
    assert_eq!(schema["$defs"]["WeightedEndpoint"]["properties"]["weight"]["default"], 1);
    assert_eq!(schema["additionalProperties"], false);
}

fn visit_keys(schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    let Some(object) = schema.as_object() else { return };
    for (key, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        visit(key, property);
    }
    for definition in object.get("$defs").and_then(Value::as_object).into_iter().flat_map(|defs| defs.values()) {
        visit_keys(definition, visit);
    }
}

#[test]
fn tls_yaml_loads_once_its_files_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tls.yaml");
    std::fs::write(&file, TLS).unwrap();
    let errors = Config::load(&file).unwrap_err();
    let lines: Vec<usize> = errors.iter().map(|e| e.line).collect();
    assert_eq!(lines, [11, 11, 15], "{errors}");
    assert!(errors.summary().contains("tls.crt: No such file"), "{errors}");

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    // The key where the certificate should be, and the other way round.
    std::fs::write(dir.path().join("tls.key"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("tls.crt"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.path().join("tokens.yaml"), "tokens: []\n").unwrap();
    let errors = Config::load(&file).unwrap_err();
    assert!(errors.to_string().contains("tls.crt holds no certificate in PEM form"), "{errors}");
    assert!(errors.to_string().contains("tls.key holds no private key in PEM form"), "{errors}");

    std::fs::write(dir.path().join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let config = Config::load(&file).unwrap();
    let files = ["tls.crt", "tls.key", "tokens.yaml"].map(|name| dir.path().join(name));
    assert_eq!(config.files(), files);
    assert_eq!(config.listeners[1].tls.as_ref().unwrap().min_version, TlsVersion::Tls12);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let errors = Config::load(Path::new("/nowhere/tealgate.yaml")).unwrap_err();
    let expected = "/nowhere/tealgate.yaml: the configuration cannot be read: No such file or directory (os error 2)";
    assert_eq!(errors.summary(), expected);
    assert_eq!(errors.to_string(), format!("error: {expected}"));
}

#[test]
fn every_key_reaches_its_place() {
    let wanted = shop(
        r#"    hosts: [Shop.Example.com, "*.shop.example.com"]
    paths: [/shop]
    preview: { hosts: [preview.shop.test], allow: [10.0.0.0/8, "::1"] }
    balance: { policy: round_robin, slow_start: 30s }
    upstream:
      tls: { roots: roots.pem, cert: c.crt, key: /keys/c.key, server_name: App.internal, min_version: 1.3 }
      protocol: h2
      proxy_protocol: v1
      host: App.internal:8443
      resolve: 1m
      family: ipv6
    health: { path: /healthz?deep, status: "200,301-302", host: shop.test, port: 9100, interval: 5s, jitter: 0%, timeout: 250ms, rise: 4, fall: 5 }
    ejection: { consecutive_failures: 7, error_ratio: 25%, window: 5s, min_requests: 3, for: 1m, max_share: 100%, gateway_errors: false }
    promotion:
      auto: after 10m
      min_ready: 60%
      smoke:
        - { path: "/health?x", status: 200, json: { status: UP, components.db: { up: "${ATTEMPTS}" }, "$.n": 1 } }
        - name: search
          method: POST
          path: /search
          headers: { Host: A.test, X-Key: "file:search.key", X-Host: "${APP_HOST}" }
          body: '{"q": 1}'
          status: [200, 3xx]
          expect_headers: { Content-Type: "text/*" }
          body_contains: [a, b]
          timeout: 1s
      smoke_within: 0s
    rollback: { keep_previous: 0s }
    timeouts: { connect: 3s, response: 1m, upgrade_idle: 2h, request: 5m }
    limits: { body_size: 10MiB, in_flight: 100, queue: 50, queue_timeout: 3s,
              rate: { requests: 100, per: 1m, burst: 7, by: header:X-Api-Key } }
    retries: { attempts: 1, per_try: 3s, budget: 5% }
    drain: { timeout: 0s, streams: cut, close_rate: 50 }
    errors: { "503": { file: sorry.html }, "429": { file: /pages/429.json, content_type: application/json } }
    expose_revision: true"#,
    );
    let shown = format!("{:?}", wanted.matching);
    assert!(
        shown.contains(r#"hosts: [Exact("shop.example.com"), Below(".shop.example.com")], paths: ["/shop"]"#),
        "{shown}"
    );
    assert!(
        shown.contains(
            r#"preview_hosts: [Exact("preview.shop.test")], preview: PreviewAccess { allow: [10.0.0.0/8, ::1/128]"#
        ),
        "{shown}"
    );
    let policy = &wanted.policy;
    assert_eq!(policy.balance.rule, BalanceRule::RoundRobin);
    assert_eq!(policy.promotion.auto, AutoPromotion::After(std::time::Duration::from_secs(600)));
    assert_eq!(policy.promotion.min_ready, MinReady::Percent(60));
    assert_eq!(policy.drain.streams, Streams::Cut);
    let shown = format!("{policy:?}");
    for part in [
        "keep_previous: KeepPrevious(0ns)",
        "drain: Drain { timeout: 0ns, streams: Cut, close_rate: 50 }",
        r#"path: Some("/healthz?deep"), status: Statuses([200..=200, 301..=302]), host: Some("shop.test"), port: Some(9100)"#,
        "interval: 5s, jitter: 0, timeout: 250ms, rise: 4, fall: 5",
        "consecutive_failures: 7, error_percent: 25, window: 5s, min_requests: 3, lasts: 60s, max_percent: 100, gateway_errors: false",
        "slow_start: 30s",
        "connect: 3s, response: 60s, upgrade_idle: 7200s, request: Some(300s), body_size: Some(10485760)",
        r#"attempts: 1, per_try: 3s, retry_budget: 5, expose_revision: true, host: Some("app.internal:8443")"#,
        "InFlightLimit { most: 100, queue: 50, queue_timeout: 3s }",
        r#"Rate { requests: 100, per: 60s, burst: 7, by: Header("x-api-key") }"#,
        "503: ErrorPage(/etc/tealgate/sorry.html as text/html; charset=utf-8, 0 octets)",
        "429: ErrorPage(/pages/429.json as application/json, 0 octets)",
        r#"roots: File("/etc/tealgate/roots.pem"), identity: Some(ClientIdentity { cert: "/etc/tealgate/c.crt""#,
        r#"key: "/keys/c.key" }), server_name: Some("app.internal"), min_version: Tls13 }), proxy_protocol: Some(V1)"#,
        "lookup: Lookup { interval: 60s, family: Ipv6 }",
        r#"SmokeCheck { name: "/health?x", method: "GET", path: "/health?x", headers: [], body: "", timeout: 5s"#,
        "expected: Expected { status: Statuses([200..=200]), headers: [], body_contains: []",
        r#"{"up": String("3")}"#,
        r#"name: "search", method: "POST", path: "/search", headers: [("host", Secret), ("x-key", Secret), ("x-host", Secret)]"#,
        r#"body: "{\"q\": 1}", timeout: 1s, expected: Expected { status: Statuses([200..=200, 300..=399])"#,
        r#"headers: [("content-type", "text/*")], body_contains: ["a", "b"]"#,
        "within: 0ns",
    ] {
        assert!(shown.contains(part), "{part}\nin {shown}");
    }
    let config = parsed(
        r#"
version: 1
workers: 3
log: { level: debug, format: json, access: combined }
listeners:
  - name: socket
    bind: unix:run/live.sock
    role: preview
    tls:
      certificates: [{ cert: a.crt, key: /keys/a.key }]
      min_version: 1.3
      alpn: [http/1.1]
      client_auth: { roots: ca.crt, mode: optional, crl: /keys/ca.crl }
    proxy_protocol: {}
    trusted_proxies: [10.0.0.0/8, "::1"]
    trusted_field: forwarded
    tcp: { keepalive: 60s, user_timeout: 30s, backlog: 7 }
    timeouts: { handshake: 1s, head: 2s, body: 3s, idle: 4s }
    limits: { head_size: 4KiB, connections: 5, connections_per_client: 6, handshakes: 8 }
    unknown_host: 404
  - { name: balanced, bind: "127.0.0.1:1", proxy_protocol: { trusted: [10.0.0.0/8], timeout: 2s } }
admin: { socket: admin.sock, bind: "[::1]:7180", hosts: [Admin.shop, "*.shop.svc"], tokens: tokens.yaml }
health: { bind: "127.0.0.1:0" }
state: { dir: state }
apps: { a: { source: { static: { active: v1, preview: v2, revisions: {
  v1: { endpoints: ["[::1]:1", App.internal:2, unix:run/app.sock] }, v2: { endpoints: [{ address: "127.0.0.1:2", weight: 256 }] } } } } } }"#,
    )
    .unwrap();
    let listener = &config.listeners[0];
    assert_eq!(listener.bind, Bind::Unix("/etc/tealgate/run/live.sock".into()));
    let files =
        ["/etc/tealgate/a.crt", "/keys/a.key", "/etc/tealgate/ca.crt", "/keys/ca.crl", "/etc/tealgate/tokens.yaml"];
    assert_eq!(config.files(), files.map(std::path::PathBuf::from));
    assert_eq!((listener.role, listener.unknown_host), (ListenerRole::Preview, 404));
    let shown = format!("{config:?}");
    for part in [
        "workers: 3, log: Options { level: Debug, format: Json, access: Combined }",
        r#"cert: "/etc/tealgate/a.crt", key: "/keys/a.key" }], min_version: Tls13, alpn: [Http11]"#,
        r#"ClientAuth { roots: "/etc/tealgate/ca.crt", mode: Optional, crl: Some("/keys/ca.crl") }"#,
        "proxy_protocol: Some(ProxyProtocol { trusted: [], timeout: 1s })",
        "proxy_protocol: Some(ProxyProtocol { trusted: [10.0.0.0/8], timeout: 2s })",
        "TrustedProxies { networks: [10.0.0.0/8, ::1/128], field: Forwarded }",
        "TcpOptions { keepalive: Some(60s), user_timeout: Some(30s), backlog: 7 }",
        "handshake: 1s, head: 2s, body: 3s, idle: 4s",
        "head_size: 4096, connections: 5, connections_per_client: 6, handshakes: 8",
        r#"socket: Some("/etc/tealgate/admin.sock"), bind: Some([::1]:7180)"#,
        r#"hosts: [Exact("admin.shop"), Below(".shop.svc")], tokens: Some("/etc/tealgate/tokens.yaml")"#,
        r#"health: 127.0.0.1:0, state_dir: Some("/etc/tealgate/state")"#,
        "{v1: [EndpointSpec { address: [::1]:1, weight: 1, standing: Ready }, EndpointSpec { address: app.internal:2, weight: 1, \
         standing: Ready }, EndpointSpec { address: unix:/etc/tealgate/run/app.sock, weight: 1, standing: Ready }], v2: \
         [EndpointSpec { address: 127.0.0.1:2, weight: 256, standing: Ready }]}",
        "active: v1, preview: Some(v2)",
    ] {
        assert!(shown.contains(part), "{part}\nin {shown}");
    }
}

#[test]
fn a_consistent_hash_goes_by_one_thing() {
    let rule = |hash: &str| {
        let wanted = shop(&format!("    balance: {{ policy: consistent_hash, {hash} }}"));
        match &wanted.policy.balance.rule {
            BalanceRule::ConsistentHash(Hashing { by, bounded_load }) => (by.clone(), *bounded_load),
            other => panic!("{other:?}"),
        }
    };
    let cookie = |ttl| HashBy::Cookie { name: "lb".to_owned(), ttl };
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(rule("hash: { cookie: lb }"), (cookie(None), Some(125)));
    assert_eq!(rule("hash: { cookie: lb, ttl: 1h }, bounded_load: 1.5"), (cookie(Some(hour)), Some(150)));
    assert_eq!(rule("hash: { header: X-User }, bounded_load: off"), (HashBy::Header("x-user".to_owned()), None));
    assert_eq!(rule("hash: { client_ip: true, }"), (HashBy::ClientIp, Some(125)));
    assert_eq!(shop("    promotion: { warm: 2 }").policy.promotion.warm, 2);
    assert_eq!(shop("    ejection: {}").policy.ejection, Some(Ejection::default()));
    assert_eq!(shop("").policy.ejection, None);
}

#[test]
fn variables_stand_for_values_and_are_never_read_as_yaml() {
    let wanted = shop("    hosts: [\"${APP_HOST}\"]\n    retries: { attempts: \"${ATTEMPTS}\" }");
    assert_eq!(format!("{:?}", wanted.matching.hosts), r#"[Exact("shop.test")]"#);
    assert_eq!(wanted.policy.traffic.attempts, 3);
    assert_eq!(
        told(with_shop("    hosts: [\"${YAML}\"]\n    retries: { attempts: \"${PORT}\", per_try: \"${EMPTY}\" }")),
        [
            r#"6:13: "[a, b]" is not a host; use letters, digits, '-' and '_' in labels of 1 to 63, joined by dots"#,
            "7:26: the environment variable `PORT` is not set",
            r#"7:46: "" is not a length of time; write a number with its unit, such as 10s, 500ms or 1h30m"#,
        ]
    );
}

#[test]
fn yaml_anchors_and_json_are_fine() {
    let anchored = "    timeouts: &t { connect: 3s }\n  other: { hosts: [o.test], timeouts: *t, source: { static: { \
                    active: a, revisions: { a: { endpoints: [\"127.0.0.1:1\"] } } } } }";
    let config = with_shop(anchored).unwrap();
    assert!(config.desired.apps.values().all(|app| app.policy.traffic.connect.as_secs() == 3));
    let value: Value = serde_saphyr::from_str(FULL).unwrap();
    assert_eq!(parsed(serde_json::to_string(&value).unwrap()).unwrap(), parsed(FULL).unwrap());
}
