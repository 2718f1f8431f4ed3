//! What becomes of fields on their way: what is for one hop ends there, what we say of a client is ours alone to say, and
//! the rest passes untouched.

use http::{HeaderMap, HeaderValue};
use serde_json::json;

use crate::support::{
    backend::Backend,
    client::{Client, Protocol, Raw},
    full,
    proxy::Proxy,
    raw_backend::{ByHand, RawBackend, Then},
    setup::Setup,
};

/// What the upstream is told when a client of this listener sends these field lines.
async fn told(proxy: &Proxy, blue: &Backend, fields: &str) -> HeaderMap {
    let mut raw = Raw::connect(proxy.live).await;
    raw.send(format!("GET / HTTP/1.1\r\nHost: Shop.test:8080\r\n{fields}\r\n")).await;
    let answer = raw.read_head().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{fields:?} -> {answer}");
    blue.seen().pop().expect("a request").headers
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_one_hop_ends_there_on_whatever_line_it_is_named() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let one_hop = "x-one: 1\r\nx-two: 2\r\nX-Three: 3\r\nx-three: 3\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: gzip;q=1\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAMAAABk\r\nx-kept: kept\r\n";
    for connection in [
        "Connection: x-one, X-Two\r\nConnection: x-three\r\n",
        "Connection: keep-alive\r\nConnection: X-One,x-two,,x-three\r\n",
        "Connection: x-one\r\nX: y\r\nConnection: x-two\r\nconnection:\r\nCONNECTION:\tX-THREE ,\t\r\n",
        "Connection: x-one, \u{e9}, x-two\r\nConnection: x-three, \u{e9}\r\n",
        "Connection: upgrade, HTTP2-Settings, x-one, x-two, x-three\r\n",
    ] {
        let headers = told(&proxy, &blue, &format!("{connection}{one_hop}")).await;
        for name in [
            "x-one",
            "x-two",
            "x-three",
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "te",
            "upgrade",
            "http2-settings",
            "transfer-encoding",
        ] {
            assert!(!headers.contains_key(name), "{name} passes with {connection:?}: {headers:?}");
        }
        assert_eq!(headers["x-kept"], "kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cannot_have_taken_out_what_the_upstream_relies_on() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let fields = "Connection: host, x-forwarded-for, x-forwarded-proto, x-forwarded-host, forwarded, x-request-id, \
        content-length, transfer-encoding\r\nX-Request-ID: mine\r\n";
    let headers = told(&proxy, &blue, fields).await;
    assert_eq!(all(&headers, "host"), [b"Shop.test:8080"]);
    assert_eq!(all(&headers, "x-forwarded-for"), [b"127.0.0.1"]);
    assert_eq!(all(&headers, "x-forwarded-proto"), [b"http"]);
    assert_eq!(all(&headers, "forwarded").len(), 1);
    assert_eq!(all(&headers, "x-request-id").len(), 1);

    let body = "Connection: content-length\r\nContent-Length: 5\r\n\r\nhello";
    let answer =
        Raw::exchange(proxy.live, format!("POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{body}")).await;
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_us_says_who_asks() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let spoofed = "X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: other.test\r\nForwarded: for=1.2.3.4;proto=https\r\nForwarded: for=5.6.7.8\r\n\
        X-Tealgate-Revision: green\r\nx-tealgate-anything: a\r\nX-Tealgate-Generation: 7\r\n";
    for fields in ["", spoofed] {
        let headers = told(&proxy, &blue, fields).await;
        assert_eq!(all(&headers, "x-forwarded-for"), [b"127.0.0.1"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), [b"http"]);
        assert_eq!(all(&headers, "x-forwarded-host"), [b"Shop.test:8080"]);
        let forwarded = String::from_utf8_lossy(all(&headers, "forwarded")[0]).to_lowercase();
        assert_eq!(forwarded, "for=127.0.0.1;proto=http;host=\"shop.test:8080\"");
        assert_eq!(all(&headers, "forwarded").len(), 1);
        assert_eq!(all(&headers, "host"), [b"Shop.test:8080"], "as the client gave it");
        assert!(headers.keys().all(|name| !name.as_str().starts_with("x-tealgate-")), "{headers:?}");
        assert!(!headers.contains_key("via"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_passes_untouched_and_in_its_order() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let request = client.request("GET", "/%7Ea//b/../c?d=%20e&f").header("traceparent", trace);
        let request = request.header("tracestate", "a=b").header("x-request-id", "mine");
        let request = request.header("x-many", "1").header("x-many", "").header("x-many", " 2, 3\t");
        let request = request.header("x-latin", HeaderValue::from_bytes(b"caf\xe9").expect("a value"));
        let request = request.header("accept-encoding", "gzip, br").header("authorization", "Bearer a");
        client.fetch(request.body(full("")).expect("a request")).await.expect("an answer");
        let seen = blue.seen().pop().expect("a request");
        assert_eq!(seen.target, "/%7Ea//b/../c?d=%20e&f");
        assert_eq!(all(&seen.headers, "traceparent"), [trace.as_bytes()]);
        assert_eq!(all(&seen.headers, "tracestate"), [b"a=b"]);
        assert_eq!(all(&seen.headers, "x-request-id"), [b"mine"]);
        assert_eq!(all(&seen.headers, "x-many"), [&b"1"[..], b"", b"2, 3"]);
        assert_eq!(all(&seen.headers, "x-latin"), [b"caf\xe9"]);
        assert_eq!(all(&seen.headers, "accept-encoding"), [b"gzip, br"]);
        assert_eq!(all(&seen.headers, "authorization"), [b"Bearer a"]);
        assert!(!seen.headers.contains_key("user-agent"), "nothing is made up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_without_an_id_gets_one_of_its_own() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for _ in 0..2 {
            client.get("/").await.expect("an answer");
        }
    }
    let mut ids: Vec<_> = blue.seen().iter().map(|seen| seen.headers["x-request-id"].clone()).collect();
    assert!(ids.iter().all(|id| id.len() >= 16), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_keeps_what_is_the_upstreams_and_loses_what_was_for_us() {
    let date = "Mon, 01 Jan 2001 00:00:00 GMT";
    let upstream = RawBackend::spawn(
        format!(
            "HTTP/1.1 200 Fine\r\nDate: {date}\r\nServer: mine/1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Many: 1\r\n\
            Connection: keep-alive, x-one\r\nConnection: x-two\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: timeout=5\r\n\
            Proxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Tealgate-Revision: spoofed\r\n\
            X-Request-ID: theirs\r\nETag: W/\"a\"\r\nContent-Encoding: gzip\r\nX-Many: 2\r\nContent-Length: 2\r\n\r\nok"
        ),
        Then::Keep,
    );
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for protocol in Protocol::ALL {
        let answer = proxy.client(protocol).await.get("/").await.expect("an answer");
        for (name, values) in [
            ("date", &[date][..]),
            ("server", &["mine/1"]),
            ("set-cookie", &["a=1", "b=2"]),
            ("x-many", &["1", "2"]),
            ("x-request-id", &["theirs"]),
            ("etag", &["W/\"a\""]),
            ("content-encoding", &["gzip"]),
            ("content-length", &["2"]),
        ] {
            let values: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(all(&answer.headers, name), values, "{name} over {protocol:?}");
        }
        for name in [
            "connection",
            "x-one",
            "x-two",
            "keep-alive",
            "proxy-authenticate",
            "proxy-connection",
            "upgrade",
            "x-tealgate-revision",
            "via",
            "transfer-encoding",
        ] {
            assert!(!answer.headers.contains_key(name), "{name} over {protocol:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_cannot_say_what_only_a_head_may() {
    // What a recipient might take into the head it has read already (RFC 9110 §6.5.1).
    const FORBIDDEN: [&str; 9] = [
        "content-length",
        "transfer-encoding",
        "host",
        "connection",
        "te",
        "forwarded",
        "x-forwarded-for",
        "x-tealgate-revision",
        "x-request-id",
    ];
    let lines: String = FORBIDDEN.iter().map(|name| format!("{name}: 1\r\n")).collect();
    let chunked = format!("2\r\nok\r\n0\r\n{lines}X-Sum: 1\r\n\r\n");

    let upstream = RawBackend::spawn(
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, host\r\n\r\n{chunked}"),
        Then::Keep,
    );
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let request = client.request("POST", "/").header("te", "trailers").body(full("")).expect("a request");
        let trailers = client.fetch(request).await.expect("an answer").trailers.expect("trailers");
        let names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["x-sum"], "{protocol:?}");
    }

    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}")).await;
    let (mut connection, _) = upstream.request().await;
    assert_eq!(connection.read_head().await.to_lowercase(), "2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_clients_are_told_the_revision_only_where_that_is_wanted() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    for wanted in [false, true] {
        let mut setup = Setup::between(&blue, &green);
        setup.app()["expose_revision"] = json!(wanted);
        let proxy = Proxy::start(setup).await;
        proxy.is_ready_to_promote().await;
        let live = proxy.client(Protocol::H1).await.get("/").await.expect("an answer");
        let expected = if wanted { ("blue", "1") } else { ("", "") };
        assert_eq!((live.header("x-tealgate-revision"), live.header("x-tealgate-generation")), expected);
        let mut tester = Client::connect(Protocol::H1, proxy.preview).await.expect("it accepts");
        let preview = tester.get("/").await.expect("an answer");
        assert_eq!((preview.header("x-tealgate-revision"), preview.header("x-tealgate-generation")), ("green", "1"));
    }
}
