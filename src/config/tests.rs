//! What the configuration promises to whoever writes the file: good files mean what they say, bad ones are told exactly.

use std::{fmt::Write as _, path::Path};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    proxy::{Bind, ListenerRole, TlsVersion},
    switch::{AppName, AutoPromotion, Balance, MinReady, Streams, Wanted},
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
            "address",
            "bind",
            "cert",
            "dir",
            "key",
            "min_version",
            "name",
            "path",
            "preview",
            "socket",
            "tokens"
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
    balance: { policy: round_robin }
    health: { path: /healthz?deep, interval: 5s, timeout: 250ms, rise: 4, fall: 5 }
    promotion: { auto: after 10m, min_ready: 60% }
    rollback: { keep_previous: 0s }
    timeouts: { connect: 3s, response: 1m, upgrade_idle: 2h, request: 5m }
    limits: { body_size: 10MiB, in_flight: 0, queue: 0 }
    retries: { attempts: 1, per_try: 3s }
    drain: { timeout: 0s, streams: cut }
    expose_revision: true"#,
    );
    let shown = format!("{:?}", wanted.matching);
    assert!(
        shown.contains(r#"hosts: [Exact("shop.example.com"), Below(".shop.example.com")], paths: ["/shop"]"#),
        "{shown}"
    );
    assert!(
        shown.contains(r#"preview_hosts: [Exact("preview.shop.test")], preview_allow: [10.0.0.0/8, ::1/128]"#),
        "{shown}"
    );
    let policy = &wanted.policy;
    assert_eq!(policy.balance, Balance::RoundRobin);
    assert_eq!(policy.promotion.auto, AutoPromotion::After(std::time::Duration::from_secs(600)));
    assert_eq!(policy.promotion.min_ready, MinReady::Percent(60));
    assert_eq!(policy.drain.streams, Streams::Cut);
    let shown = format!("{policy:?}");
    for part in [
        "keep_previous: KeepPrevious(0ns)",
        "drain: Drain { timeout: 0ns",
        r#"path: Some("/healthz?deep"), interval: 5s, timeout: 250ms, rise: 4, fall: 5"#,
        "connect: 3s, response: 60s, upgrade_idle: 7200s, request: Some(300s), body_size: Some(10485760)",
        "attempts: 1, per_try: 3s, expose_revision: true",
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
    tls: { certificates: [{ cert: a.crt, key: /keys/a.key }], min_version: 1.3 }
    timeouts: { handshake: 1s, head: 2s, body: 3s, idle: 4s }
    limits: { head_size: 4KiB, connections: 5, connections_per_client: 6 }
    unknown_host: 404
admin: { socket: admin.sock, bind: "[::1]:7180", tokens: tokens.yaml }
health: { bind: "127.0.0.1:0" }
state: { dir: state }
apps: { a: { source: { static: { active: v1, preview: v2, revisions: {
  v1: { endpoints: ["[::1]:1"] }, v2: { endpoints: [{ address: "127.0.0.1:2", weight: 256 }] } } } } } }"#,
    )
    .unwrap();
    let listener = &config.listeners[0];
    assert_eq!(listener.bind, Bind::Unix("/etc/tealgate/run/live.sock".into()));
    assert_eq!((listener.role, listener.unknown_host), (ListenerRole::Preview, 404));
    let shown = format!("{config:?}");
    for part in [
        "workers: 3, log: Options { level: Debug, format: Json, access: Combined }",
        r#"cert: "/etc/tealgate/a.crt", key: "/keys/a.key" }], min_version: Tls13"#,
        "handshake: 1s, head: 2s, body: 3s, idle: 4s",
        "head_size: 4096, connections: 5, connections_per_client: 6",
        r#"socket: Some("/etc/tealgate/admin.sock"), bind: Some([::1]:7180), tokens: Some("/etc/tealgate/tokens.yaml")"#,
        r#"health: 127.0.0.1:0, state_dir: Some("/etc/tealgate/state")"#,
        "{v1: [EndpointSpec { address: [::1]:1, weight: 1 }], v2: [EndpointSpec { address: 127.0.0.1:2, weight: 256 }]}",
        "active: v1, preview: Some(v2)",
    ] {
        assert!(shown.contains(part), "{part}\nin {shown}");
    }
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

/// What stands after [`SHOP`], and every error it gives.
const MISTAKES: &[(&str, &[&str])] = &[
    // Keys.
    ("logg: {}", &["6:1: unknown key `logg`; did you mean `log`?"]),
    ("    tiemouts: {}", &["6:5: unknown key `tiemouts`; did you mean `timeouts`?"]),
    ("    limits: { bodySize: 1 }", &["6:15: unknown key `bodySize`; did you mean `body_size`?"]),
    ("    drain: { grace: 1s }", &["6:14: unknown key `grace`; use one of timeout, streams"]),
    ("version: 1\nversion: 1", &["7:1: \"version\" is given twice"]),
    // Types.
    ("    hosts: a.test", &["6:12: a list is expected here; write `[a, b]`, or one item a line, each after `- `"]),
    ("    hosts: [[a]]", &["6:13: a single value is expected here, not a list or a mapping"]),
    ("    retries: 3", &["6:14: a mapping of keys to values is expected here"]),
    ("    retries:", &["6:12: a mapping of keys to values is expected here"]),
    ("    drain: { timeout: }", &["6:21: a value is missing; write one, or remove the key"]),
    (
        "    preview: { allow: }",
        &["6:21: a list is expected here; write `[a, b]`, or one item a line, each after `- `"],
    ),
    ("    drain: { timeout: !!int 3 }", &["6:29: cannot deserialize tagged scalar into string"]),
    // Values, all of them at once.
    (
        "    timeouts: { connect: 2, response: 0s, request: 1d, upgrade_idle: 9000h }",
        &[
            "6:26: \"2\" is not a length of time; write a number with its unit, such as 10s, 500ms or 1h30m",
            "6:39: \"0s\" is too short; use 1ms or more; this one cannot be turned off",
            "6:52: \"1d\" is not a length of time here; days differ in length; write hours, such as 24h",
            "6:70: \"9000h\" is too long; use 8760h, a year, or less",
        ],
    ),
    (
        "    health: { path: healthz, rise: 0, fall: three, interval: 5ms }\n    balance: { policy: least_requests }",
        &[
            "6:21: \"healthz\" is not a path; a path starts with `/`",
            "6:36: \"0\" is out of bounds; use 1 to 100",
            "6:45: \"three\" is not a whole number",
            "6:62: \"5ms\" is too short; use 10ms or more",
            "7:24: \"least_requests\" is not a balancing policy; did you mean `least_request`?",
        ],
    ),
    (
        "version: 2\nworkers: 0\nlog: { level: verbose }",
        &[
            "6:10: \"2\" is not a version of this file's format; this program reads version 1",
            "7:10: \"0\" is out of bounds; use auto, or 1 to 256",
            "8:15: \"verbose\" is not a log level; use one of error, warn, info, debug",
        ],
    ),
    // What is not in force.
    ("    guard: { window: 30s }", &["6:12: `guard` is not enforced by this version; remove it"]),
    (
        "    limits: { in_flight: 3, queue: 0 }\n    weight: 5%\n    promotion: { approval: { required: 1 }, smoke: [] }",
        &[
            "6:26: `limits.in_flight` is not enforced by this version; remove it, or turn it off with 0",
            "7:13: `weight` is not enforced by this version; remove it, or turn it off with 0",
            "8:28: `promotion.approval` is not enforced by this version; remove it, or turn it off with {\"required\":0}",
        ],
    ),
    // Apps among each other, and within.
    (
        "  other: { source: { kubernetes: { namespace: shop, rollout: shop } } }",
        &[
            "6:3: app `other` names no host, and neither does app `shop` in line 3; one app only can take the hosts that \
             nobody names; give one `hosts`, or each its own `paths`",
            "6:34: `source.kubernetes` is not enforced by this version; remove it",
        ],
    ),
    ("  other: { hosts: [o.test], source: {} }", &["6:37: the app has no source; name one: `static`"]),
    (
        "    hosts: [a.test, A.test]\n    preview: { hosts: [a.test] }",
        &[
            "6:21: \"A.test\" is given twice",
            "7:24: a.test leads elsewhere already; in line 6 it is for the live traffic of app `shop`; a host and path can \
             lead to one place only",
        ],
    ),
    (
        "    hosts: []\n    paths: [shop, /a?b]",
        &[
            "6:12: this list is empty; leave the key out, or name at least one",
            "7:13: \"shop\" is not a path; a path starts with `/`",
            "7:19: \"/a?b\" is not a path; leave the query out",
        ],
    ),
    (
        "  -bad: { hosts: [b.test], source: { static: { active: a, revisions: { a: { endpoints: [\"127.0.0.1:1\"] } } } } }",
        &[
            "6:3: \"-bad\" is not a name: use 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends",
        ],
    ),
    // Addresses.
    (
        "admin: { bind: \"127.0.0.1:8080\" }\nhealth: { bind: \"127.0.0.1:8080\" }",
        &[
            "6:16: 127.0.0.1:8080 is taken; another listener has it, in line 1",
            "6:16: the admin API on TCP wants `tokens`, or anybody could flip traffic; `tealgate token new` prints a token \
             and its entry for a token file; name that file as `tokens`, or leave `bind` out and use the Unix socket",
            "7:17: 127.0.0.1:8080 is taken; another listener has it, in line 1",
        ],
    ),
    // YAML.
    ("\tworkers: 1", &["6:2: tabs disallowed within this context (block indentation)"]),
    ("log: { level: \"info }", &["6:15: unclosed quote"]),
    ("---\nversion: 1", &["6:1: a second document begins here; a configuration is one document"]),
    ("state: { dir: *home }", &["6:15: alias references unknown anchor"]),
];

#[test]
fn every_mistake_is_told_with_its_place_and_what_would_help() {
    for (more, expected) in MISTAKES {
        assert_eq!(told(with_shop(more)), *expected, "{more}");
    }
}

#[test]
fn mistakes_in_listeners_and_revisions_are_told_too() {
    let listeners = r#"listeners:
  - { name: live, bind: "127.0.0.1:80", tls: { certificates: [] } }
  - { name: live, bind: "127.0.0.1:80", unknown_host: 500, limits: { head_size: 16 } }
  - { name: other, bind: "127.0.0.1:7181", role: previw }
  - { name: any, bind: "127.0.0.1:0" }
  - { name: any2, bind: "127.0.0.1:0" }
  - { name: s1, bind: "unix:/run/s" }
  - { name: s2, bind: "unix:/run/s" }
"#;
    let app = SHOP.split_once('\n').unwrap().1;
    assert_eq!(
        told(parsed(format!("{listeners}{app}"))),
        [
            "2:62: TLS without a certificate; name at least one, or leave `tls` out",
            "3:13: two listeners are named `live`; the first is in line 2",
            "3:25: 127.0.0.1:80 is taken; another listener has it, in line 2",
            "3:55: \"500\" is not a status for an unknown host; use 421 or 404",
            "3:81: \"16\" is out of bounds; use 1KiB to 1MiB",
            "4:26: 127.0.0.1:7181 is taken; the health listener has it by default; use another, or set `health.bind`",
            "4:50: \"previw\" is not a listener's role; did you mean `preview`?",
            "8:23: /run/s is taken; another listener has it, in line 7",
        ]
    );
    let revisions = r#"listeners: [{ name: live, bind: "127.0.0.1:80" }]
apps:
  shop:
    source:
      static:
        active: blu
        preview: purple
        revisions:
          blue: { endpoints: [localhost:9001, 9001, { address: "127.0.0.1:0", weight: 0 }] }
          green: { endpoints: ["127.0.0.1:1", { address: "127.0.0.1:1", wait: 1 }] }
"#;
    assert_eq!(told(parsed(revisions)), ["10:73: unknown key `wait`; use one of address, weight"]);
    assert_eq!(
        told(parsed(revisions.replace(", wait: 1", ""))),
        [
            "6:17: there is no revision `blu`; did you mean `blue`?",
            "7:18: there is no revision `purple`; use one of blue, green",
            "9:31: \"localhost:9001\" is not an address; host names are not looked up; write IP:PORT, such as \
             127.0.0.1:8080 or [::1]:8080",
            "9:47: \"9001\" is not an address; write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080",
            "9:64: \"127.0.0.1:0\" has no port to connect to",
            "9:87: \"0\" is out of bounds; use 1 to 256",
            "10:58: 127.0.0.1:1 is given twice in this revision; the first is in line 10; to send it more, use weights",
        ]
    );
    let empty = SHOP.replace("[\"127.0.0.1:9001\"]", "[]").replace("active: blue", "active: blue, preview: blue");
    assert_eq!(
        told(parsed(empty)),
        [
            "4:48: `blue` is active already, so it is no candidate; name another revision, or leave `preview` out",
            "5:26: `blue` is active and has no endpoint; name at least one",
        ]
    );
}

#[test]
fn an_error_shows_the_line_and_marks_the_culprit() {
    let errors = with_shop("    timeouts: { conect: 2s }").unwrap_err();
    let expected = "error: unknown key `conect`
 --> /etc/tealgate/tealgate.yaml:6:17
  |
6 |     timeouts: { conect: 2s }
  |                 ^^^^^^
  |
  = help: did you mean `connect`?";
    assert_eq!(errors.to_string(), expected);

    let errors =
        parsed(SHOP.replace("active: blue", "active: gren") + "    drain: { timeout: \"é\\e[31m\", streams: x }\n");
    let expected = r#"error: there is no revision `gren`
 --> /etc/tealgate/tealgate.yaml:4:33
  |
4 |     source: { static: { active: gren, revisions: {
  |                                 ^^^^
  |
  = help: did you mean `green`?

error: "é\u{1b}[31m" is not a length of time
 --> /etc/tealgate/tealgate.yaml:6:23
  |
6 |     drain: { timeout: "é\e[31m", streams: x }
  |                       ^^^^^^^^^
  |
  = help: write a number with its unit, such as 10s, 500ms or 1h30m

error: "x" is not something streams can do
 --> /etc/tealgate/tealgate.yaml:6:43
  |
6 |     drain: { timeout: "é\e[31m", streams: x }
  |                                           ^
  |
  = help: use one of keep, drain, cut"#;
    assert_eq!(errors.unwrap_err().to_string(), expected);

    // Of a very long line only the surroundings are shown, and the column is the true one.
    let errors = with_shop(&format!("    drain: {{ {}timeout: 3 }}", " ".repeat(500_000))).unwrap_err();
    assert_eq!(errors.iter().next().map(|e| (e.line, e.column)), Some((6, 500_023)));
    assert!(errors.to_string().len() < 1_000, "{errors}");
}

#[test]
fn files_that_are_no_configuration_get_a_clear_error() {
    let deep = "[".repeat(5_000);
    let mut bomb = String::from("a0: &a0 [x]\n");
    for n in 1..30 {
        let before = n - 1;
        writeln!(bomb, "a{n}: &a{n} [{}]", format!("*a{before}, ").repeat(9)).unwrap();
    }
    let hosts: String = (0..50_000).map(|n| format!("h{n}..test, ")).collect();
    for (octets, expected) in [
        (&b""[..], "1:1: the file is empty, or ends too early"),
        (b"# only a comment\n", "2:1: the file is empty, or ends too early"),
        (b"version: 1\n", "1:1: `listeners` is missing"),
        (b"just text", "1:1: a mapping of keys to values is expected here"),
        (b"null", "1:1: a mapping of keys to values is expected here"),
        (b"version: 1\n\xff\xfe", "line 2 is not UTF-8 text; save the file as UTF-8"),
        (&[b' '; 10 << 20], "the file is larger than 1MiB; is it the right one?"),
        (deep.as_bytes(), "1:256: recursion limit exceeded"),
        (
            bomb.as_bytes(),
            "1:1: unknown key `a0`; use one of version, workers, log, listeners, admin, health, state, apps",
        ),
        (
            format!("{SHOP}    hosts: [{hosts}]").as_bytes(),
            "6:13: \"h0..test\" is not a host; use letters, digits, '-' and '_' in labels of 1 to 63, joined by dots",
        ),
    ] {
        let told = told(parsed(octets));
        assert_eq!(told[0].replace("/etc/tealgate/tealgate.yaml: ", "").trim_start(), expected);
        assert!(told.len() <= 20, "{} errors", told.len());
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let windows = format!("\u{feff}{}", FULL.replace('\n', "\r\n"));
    assert_eq!(parsed(windows).unwrap(), parsed(FULL).unwrap());
    assert_eq!(
        told(parsed(format!("\u{feff}{SHOP}workers: x\r\n"))),
        ["6:10: \"x\" is not a whole number; use auto, or 1 to 256"]
    );
}

#[test]
fn an_alias_bomb_is_refused_soon() {
    let mut bomb = format!("{SHOP}    guard:\n      a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let before = n - 1;
        let aliases = vec![format!("*a{before}"); 9].join(", ");
        writeln!(bomb, "      a{n}: &a{n} [{aliases}]").unwrap();
    }
    let told = told(parsed(&bomb));
    assert_eq!(told, ["7:34: the aliases in this file stand for too much"]);
}

/// One edit of a text.
fn edit() -> impl Strategy<Value = (prop::sample::Index, prop::sample::Index, String)> {
    let pieces = prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "\t", "\n", ":", "- ", "{", "}", "[", "]", "\"", "&a ", "*a", "${", "!!int ", "|\n", "~", "\u{0}", "é",
            "<<: *a"
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), pieces)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(edits in prop::collection::vec(edit(), 1..6)) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, length, piece) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + length.index(12)).min(text.len());
            text.splice(start..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parsed(&text) {
            for error in &errors {
                prop_assert!(!error.to_string().is_empty() && error.line <= text.lines().count() + 1);
            }
        }
    }
}
