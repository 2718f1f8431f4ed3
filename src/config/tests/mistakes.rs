//! Every mistake is told with its exact place, and with what would help.

use super::*;

/// What stands after [`SHOP`], and every error it gives.
const MISTAKES: &[(&str, &[&str])] = &[
    // Keys.
    ("logg: {}", &["6:1: unknown key `logg`; did you mean `log`?"]),
    ("    tiemouts: {}", &["6:5: unknown key `tiemouts`; did you mean `timeouts`?"]),
    ("    limits: { bodySize: 1 }", &["6:15: unknown key `bodySize`; did you mean `body_size`?"]),
    ("    drain: { grace: 1s }", &["6:14: unknown key `grace`; use one of timeout, streams, close_rate"]),
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
    // Of smoke tests.
    ("    promotion: { smoke: [] }", &["6:25: this list is empty; leave the key out, or name at least one"]),
    (
        "    promotion: { smoke: { path: / } }",
        &["6:25: a list is expected here; write `[a, b]`, or one item a line, each after `- `"],
    ),
    ("    promotion: { smoke: [{ paht: / }] }", &["6:28: unknown key `paht`; did you mean `path`?"]),
    (
        "    promotion: { smoke: [{ path: x, method: get, status: [2xx, 700], timeout: 0s, body: \"\" }] }",
        &[
            "6:34: \"x\" is not a path; a path starts with `/`",
            "6:45: \"get\" is not a method of a check; use one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
            "6:64: \"700\" is not a list of statuses; such as 200-399, 2xx, or 200,204",
            "6:79: \"0s\" is too short; use 1ms or more; this one cannot be turned off",
            "6:89: this text is empty; leave the key out",
        ],
    ),
    (
        "    promotion: { smoke: [{ path: /, headers: { Content-Length: 3, \"a b\": c, X-A: \"\\n\" } }, { path: /, json: { \"$x\": 1, y: \"${PORT}\" }, body_contains: [] }] }",
        &[
            "6:64: `content-length` is not yours to say: it is about the connection; leave it out",
            "6:67: \"a b\" is not the name of a header; write it like X-Preview",
            "6:82: this cannot be the value of x-a",
            "6:100: two checks are called \"/\"; give each a `name` of its own",
            "6:111: \"$x\": it is not a place in a JSON document; write $.a.b, $.items[*].id, $.list[0] or $..id",
            "6:123: the environment variable `PORT` is not set",
            "6:151: this list is empty; leave the key out, or name at least one",
        ],
    ),
    // Of endpoints.
    (
        "    balance: { policy: consistent_hash }",
        &[
            "6:24: what is to be hashed is missing; name it as `hash: { cookie: NAME }`, `{ header: NAME }` or `{ client_ip: \
             true }`",
        ],
    ),
    (
        "    balance: { policy: consistent_hash, hash: { cookie: a b, header: X, ttl: 1s } }",
        &[
            "6:47: a hash is of one thing; name one of cookie, header, client_ip",
            "6:57: \"a b\" is no name of a cookie or header; use letters, digits, `-` and `_`",
        ],
    ),
    (
        "    balance: { policy: consistent_hash, hash: { client_ip: false } }",
        &["6:47: a hash is of one thing; name one of cookie, header, client_ip"],
    ),
    (
        "    balance: { policy: consistent_hash, hash: { header: X, ttl: 1s }, bounded_load: 1 }",
        &["6:65: `ttl` is how long a cookie is kept; leave it out", "6:85: \"1\" is no factor; use 1.05 to 10, or off"],
    ),
    (
        "    balance: { hash: { cookie: a }, bounded_load: 2 }",
        &[
            "6:22: `hash` is for the policy consistent_hash; say `policy: consistent_hash`, or leave this out",
            "6:51: `bounded_load` is for the policy consistent_hash; say `policy: consistent_hash`, or leave this out",
        ],
    ),
    (
        "    health: { status: 200, host: a b, port: 0, jitter: 51% }",
        &[
            "6:23: `status` is for checks by HTTP; name a `path` to GET; without one a TCP connect is all there is",
            "6:34: \"a b\" is no host; such as shop.example.com, or with a port",
            "6:34: `host` is for checks by HTTP; name a `path` to GET; without one a TCP connect is all there is",
            "6:45: \"0\" is out of bounds; use 1 to 65535",
            "6:56: \"51%\" is not such a share; use 0% to 50%",
        ],
    ),
    (
        "    upstream: { proxy_protocol: v2 }\n    promotion: { warm: 1 }",
        &["7:24: with `upstream.proxy_protocol` no connection can be opened ahead; each is begun with its client's \
             address; set this to 0"],
    ),
    (
        "    ejection: { error_ratio: 0%, for: 0s, max_share: 101% }\n    promotion: { warm: 101 }",
        &[
            "6:30: \"0%\" is not such a share; use 1% to 100%",
            "6:39: \"0s\" is too short; use 1000ms or more; this one cannot be turned off",
            "6:54: \"101%\" is not such a share; use 1% to 100%",
            "7:24: \"101\" is out of bounds; use 0 to 100",
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
    (
        "    limits: { in_flight: many, queue: 3, queue_timeout: 0s, rate: 100 }\n    retries: { budget: 120% }\n    errors: { \
         \"200\": { file: a }, \"503\": { file: \"\", content_type: html } }",
        &[
            "6:26: \"many\" is not a whole number",
            "6:57: \"0s\" is too short; use 1ms or more; this one cannot be turned off",
            "6:67: \"100\" is not a rate; use 1/s to 1000000/s, /m or /h, or 0",
            "7:24: \"120%\" is not a share; use \"0%\" to \"100%\"",
            "8:15: \"200\" is not a status that we answer ourselves; use one of 400, 403, 408, 413, 429, 502, 503, 504",
            "8:50: the path is missing",
            "8:68: \"html\" is not a media type; write one such as text/html",
        ],
    ),
    (
        "    limits: { queue: 3 }",
        &[
            "6:22: a queue without a limit of requests in flight: nobody would ever wait in it; set `in_flight`, or leave `queue` out",
        ],
    ),
    ("    limits: { rate: { per: 1s } }", &["6:23: `requests` is missing"]),
    ("    limits: { rate: [1] }", &["6:15: a rate: 100/s, or { requests: 100, per: 1s } is expected here"]),
    (
        "    upstream: { tls: { cert: c.crt, server_name: \"a b\", min_version: 1.1 }, proxy_protocol: v3, resolve: 10ms, host: a/b }",
        &[
            "6:30: a certificate is of no use without its key, nor a key without its certificate; name both `cert` and \
             `key`, or neither",
            "6:50: \"a b\" is not a server's name; write the host's name alone, such as app.internal",
            "6:70: \"1.1\" is not a TLS version we speak; did you mean `1.2`?",
            "6:93: \"v3\" is not a version of the PROXY protocol; did you mean `v1`?",
            "6:106: \"10ms\" is too short; use 100ms or more",
            "6:118: \"a/b\" is not a host; write pass for the host that the client asked for, or NAME or NAME:PORT to send \
             instead",
        ],
    ),
    (
        "    upstream: { tls: {} }",
        &[
            "5:27: 127.0.0.1:9001 has no name that its certificate could be checked against; set \
             `upstream.tls.server_name`, or give the endpoint by its host's name",
            "5:69: 127.0.0.1:9011 has no name that its certificate could be checked against; set \
             `upstream.tls.server_name`, or give the endpoint by its host's name",
        ],
    ),
    // What is not in force.
    ("    guard: { window: 30s }", &["6:12: `guard` is not enforced by this version; remove it"]),
    (
        "    hosts: [a.test]\n    promotion: { approval: { required: 1 }, bake: 0s }",
        &[
            "7:28: `promotion.approval` is not enforced by this version; remove it, or turn it off with {\"required\":0}",
        ],
    ),
    // Apps among each other, and within.
    (
        "  other: { source: { etcd: {} } }",
        &[
            "6:3: app `other` names no host, and neither does app `shop` in line 3; one app only can take the hosts that \
             nobody names; give one `hosts`, or each its own `paths`",
            "6:28: `source.etcd` is not enforced by this version; remove it",
        ],
    ),
    ("  other: { hosts: [o.test], source: {} }", &["6:37: the app has no source; name one: `static` or `kubernetes`"]),
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
    (
        "admin: { hosts: [admin.shop] }",
        &["6:17: `hosts` without `bind` has no effect; name the TCP address as `bind`; the Unix socket takes any name"],
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
    let listeners = r#"listeners:
  - { name: a, bind: "127.0.0.1:80", proxy_protocol: { timeout: 1s }, trusted_field: forwarded, tcp: { backlog: 0 } }
  - { name: b, bind: "unix:/run/s", proxy_protocol: { trusted: [::1] }, trusted_proxies: [] }
  - name: c
    bind: "127.0.0.1:81"
    proxy_protocol: { trusted: [lan] }
    trusted_field: via
    tls: { certificates: [{ cert: a, key: b }], alpn: [h3, h2, h2], client_auth: { roots: c, mode: maybe } }
"#;
    assert_eq!(
        told(parsed(format!("{listeners}{app}"))),
        [
            "2:54: nobody is trusted to name clients in a PROXY header, so nobody could connect; name the load balancers' \
             networks as `trusted`",
            "2:86: `trusted_field` without `trusted_proxies` has no effect; name the proxies' networks as `trusted_proxies`",
            "2:113: \"0\" is out of bounds; use 1 to 65535",
            "3:64: connections on a Unix socket have no address to be trusted by; leave `trusted` out: whoever may open \
             the socket is trusted",
            "3:90: this list is empty; leave the key out, or name at least one",
            "6:33: \"lan\" is not a network; write ADDRESS/BITS, such as 10.0.0.0/8 or fd00::/8",
            "7:20: \"via\" is not a field that tells of clients; use one of x-forwarded-for, forwarded",
            "8:56: \"h3\" is not a protocol we speak over TLS; did you mean `h2`?",
            "8:64: \"h2\" is given twice",
            "8:100: \"maybe\" is not a way to ask for client certificates; use one of required, optional",
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
          blue: { endpoints: [http://a:9001, 9001, { address: "127.0.0.1:0", weight: 0 }] }
          green: { endpoints: ["127.0.0.1:1", { address: "127.0.0.1:1", wait: 1 }] }
"#;
    assert_eq!(told(parsed(revisions)), ["10:73: unknown key `wait`; use one of address, weight"]);
    assert_eq!(
        told(parsed(revisions.replace(", wait: 1", ""))),
        [
            "6:17: there is no revision `blu`; did you mean `blue`?",
            "7:18: there is no revision `purple`; use one of blue, green",
            "9:31: \"http://a:9001\" is not an address; write IP:PORT, NAME:PORT or unix:/PATH, such as 127.0.0.1:9001",
            "9:46: \"9001\" is not an address; write IP:PORT, NAME:PORT or unix:/PATH, such as 127.0.0.1:9001",
            "9:63: \"127.0.0.1:0\" is not an address; it has no port to connect to",
            "9:86: \"0\" is out of bounds; use 1 to 256",
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
