//! What two parsers could read in two ways reaches neither side: a client's request is refused with a 400 and the connection
//! closed before the upstream hears of it, an upstream's answer becomes a 502.

use std::time::Duration;

use h2::{Reason, server};
use serde_json::json;

use crate::support::{
    backend::Backend,
    client::{Client, Protocol, Raw},
    h2_backend::{H2Backend, whole},
    proxy::Proxy,
    raw_backend::{RawBackend, Then},
    setup::Setup,
};

/// Head and host of a request that is sound as far as it goes.
const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: shop.test\r\n";
/// What an attacker would have the upstream take for a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// Requests no two parsers are sure to agree on.
fn ambiguous() -> Vec<String> {
    let framing = [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 6\r\nContent-Length: 6",
        "Content-Length: 6\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-Length: 6",
        "Content-Length: +6",
        "Content-Length: -6",
        "Content-Length: 0x6",
        "Content-Length: 6,6",
        "Content-Length: 6, 6",
        "Content-Length: 6 6",
        "Content-Length: 6\u{b}",
        "Content-Length: 6.0",
        "Content-Length: six",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length: 6\r\nContent-length : 0",
        "Content_Length: 6\r\nContent-Length: +0",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding: ch\u{212a}nked",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\nTransfer-Encoding: chunked",
    ];
    let fields = [
        "X: a\r\n folded: 1",
        "X: a\r\n\tfolded: 1",
        "X : a",
        "X\t: a",
        "X: a\nY: b",
        "X: a\rY: b",
        "X: a\0b",
        "X: a\u{7f}b",
        "X: a\u{1}b",
        "X: a\r\r\nY: b",
        "X\0: a",
        "X\u{e9}: a",
        "X Y: a",
        "X(Y): a",
        "X",
        ": a",
        "Host: shop.test",
        "Host: other.test",
        "hOST: other.test",
    ];
    let hosts = [
        "",
        "Host: user@shop.test\r\n",
        "Host: user:password@shop.test\r\n",
        "Host: shop.test/\r\n",
        "Host: shop.test:port\r\n",
        "Host: shop.test:80:80\r\n",
        "Host: shop.test:99999999\r\n",
        "Host: shop test\r\n",
        "Host: shop.test, other.test\r\n",
        "Host: shop.test#a\r\n",
        "Host: shop.test?a\r\n",
        "Host: shop.test\\a\r\n",
        "Host: shop\u{e9}.test\r\n",
        "Host: [::1\r\n",
        "Host: [::1]x\r\n",
        "Host: http://shop.test\r\n",
    ];
    let request_lines = [
        "GET http://other.test/ HTTP/1.1",
        "GET http://user@shop.test/ HTTP/1.1",
        "GET http:///path HTTP/1.1",
        "GET http:/shop.test/ HTTP/1.1",
        "GET ftp://shop.test/ HTTP/1.1",
        "GET //shop.test\\@other.test HTTP/1.1 HTTP/1.1",
        "GET shop.test HTTP/1.1",
        "GET shop.test:80 HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ?a HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "GET /\u{b}a HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /#fragment HTTP/1.1",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / HTTP/0.9",
        "GET / HTTP/01.1",
        "GET / HTTP/1.1.1",
        "GET / HTTP/11",
        "GET / http/1.1",
        "GET / XTTP/1.1",
        "GET / HTTP /1.1",
        "GET / HTTP/1.1\u{b}",
        "G(T / HTTP/1.1",
        "GÉT / HTTP/1.1",
        "GET / ",
        "GET /",
        "GET",
        "PRI * HTTP/2.0",
        "HTTP/1.1 200 OK",
    ];
    let mut all: Vec<String> = Vec::new();
    all.extend(framing.map(|fields| format!("{POST}{fields}\r\n\r\n0\r\n\r\n")));
    all.extend(fields.map(|fields| format!("{GET}{fields}\r\n\r\n")));
    all.extend(hosts.map(|host| format!("GET / HTTP/1.1\r\n{host}\r\n")));
    all.extend(request_lines.map(|line| format!("{line}\r\nHost: shop.test\r\n\r\n")));
    all.extend([
        "POST / HTTP/1.0\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: shop.test\n\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: shop.test\r\n\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\nHost: shop.test\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n Host: shop.test\r\n\r\n".to_owned(),
        "\n\nGET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(),
        "\rGET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(),
        "\0GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".replace("\r\n", "\r"),
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(),
    ]);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ambiguous_request_is_a_400_and_nothing_of_it_reaches_the_upstream() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut wrong = Vec::new();
    for request in ambiguous() {
        let before = blue.seen().len();
        let answer = Raw::exchange(proxy.live, format!("{request}{SMUGGLED}"));
        let answer = tokio::time::timeout(Duration::from_secs(5), answer).await.unwrap_or_default();
        let refused = answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.1 ").count() == 1;
        let seen: Vec<_> = blue.seen().drain(before..).map(|seen| seen.target).collect();
        if !refused || !seen.is_empty() {
            wrong.push(format!("{request:?} -> {answer:?}, and the upstream saw {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_what_its_chunks_say_is_a_400_and_hides_no_request() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    for body in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "1\na\n0\n\n",
        "1\ra\r0\r\r",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "5\r\na\r\n0\r\n\r\n\r\n\r\n",
        "1;a\nb\r\na\r\n0\r\n\r\n",
        "1;a\rb\r\na\r\n0\r\n\r\n",
        "1;\0\r\na\r\n0\r\n\r\n",
        "1 ;a\r\na\r\n0\r\n\r\n",
        "10000000000000000\r\na\r\n0\r\n\r\n",
        "fffffffffffffffe\r\na\r\n0\r\n\r\n",
        "0\r\nX: a\nY: b\r\n\r\n",
        "0\r\nX: a\rY: b\r\n\r\n",
        "0\r\n X: a\r\n\r\n",
        "0\r\nX : a\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        "0\r\n\n",
        "0\n\r\n",
    ] {
        let request = format!("{POST}Transfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}");
        let answer = Raw::exchange(proxy.live, request).await;
        let refused = answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.1 ").count() == 1;
        assert!(refused, "{body:?} -> {answer:?}");
    }
    let seen: Vec<_> = blue.seen().into_iter().map(|seen| seen.target).filter(|target| target != "/").collect();
    assert!(seen.is_empty(), "the upstream saw {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_body_that_was_sent_in_vain_is_never_read_from_its_middle() {
    let plain = RawBackend::spawn("", Then::Close);
    let streams = H2Backend::spawn(server::Builder::new(), |_, mut request, mut respond| async move {
        let sent = whole(request.body_mut()).await;
        assert!(request.method() == "POST" && sent.is_ok(), "{request:?}");
        respond.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    // As long as the body is what comes before the smuggled request, in a field of the request behind it.
    let before = format!("{GET}X: ");
    let length = before.len();
    for (protocol, address) in [("http1", plain.address()), ("h2", streams.address())] {
        let mut setup = Setup::before(&[address]);
        setup.app()["upstream"] = json!({ "protocol": protocol });
        let proxy = Proxy::start(setup).await;
        for framing in [
            format!("Content-Length: {length}\r\n\r\n{}", "a".repeat(length)),
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{}\r\n0\r\n\r\n", "a".repeat(length)),
        ] {
            let mut raw = Raw::connect(proxy.live).await;
            raw.send(format!("{POST}{framing}{before}{SMUGGLED}")).await;
            let head = raw.read_head().await.to_lowercase();
            assert!(head.starts_with("http/1.1 502 ") && head.contains("connection: close"), "{protocol}: {head}");
            let rest = raw.read_to_end().await.unwrap_or_else(|so_far| so_far);
            assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1 "), "{protocol}: {rest:?}");
        }
    }
    let heads = plain.received();
    assert!(heads.len() == 2 && heads.iter().all(|head| head.starts_with(b"POST ")), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_one_reading_only_passes() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    for (request, target, body) in [
        ("\r\nGET /status/201 HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/status/201", ""),
        ("GET http://shop.test/?a=b HTTP/1.1\r\nHost: SHOP.test\r\n\r\n", "/?a=b", "blue"),
        ("GET http://shop.test HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/", "blue"),
        ("OPTIONS * HTTP/1.1\r\nHost: shop.test\r\n\r\n", "*", ""),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "/", "blue"),
        ("GET //a/../%2e%2E/?%00 HTTP/1.1\r\nHost: shop.test:1\r\n\r\n", "//a/../%2e%2E/?%00", ""),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: \t 05 \t\r\n\r\nhello", "/echo", "hello"),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\ntransfer-encoding:CHUNKED\r\n\r\n00005;a=\"b\"\r\nhello\r\n0;x\r\nT: 1\r\n\r\n",
            "/echo",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        ("M-SEARCH!#$%&'*+.^_`|~ /status/202 HTTP/1.1\r\nHost: a\r\n\r\n", "/status/202", ""),
        ("GET /status/203 HTTP/1.1\r\nHost: a\r\nX: \u{e9}\tok\r\nEmpty:\r\n\r\n", "/status/203", ""),
    ] {
        let request = request.replacen("Host:", "Connection: close\r\nHost:", 1);
        let answer = Raw::exchange(proxy.live, &request).await;
        let seen = blue.seen().pop().expect("it reached the upstream").target;
        assert_eq!(seen, target, "{request:?} -> {answer:?}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{request:?} -> {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_is_refused() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    for request in [
        "CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        "CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ] {
        let answer = Raw::exchange(proxy.live, format!("{request}{SMUGGLED}")).await;
        let refused = ["HTTP/1.1 405 ", "HTTP/1.1 400 "].iter().any(|status| answer.starts_with(status));
        assert!(refused && answer.matches("HTTP/1.1 ").count() == 1, "{request:?} -> {answer:?}");
    }
    assert!(blue.seen().is_empty());
}

/// Answers of an upstream that make a 502, by name: each is a sound one but for one thing.
fn bad_answers() -> Vec<(String, String)> {
    let heads = [
        ("repeated length", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na"),
        ("length list", "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na"),
        ("signed length", "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na"),
        ("no length", "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\na"),
        ("length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("foreign coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("twice chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ("chunks in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("folded", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
        ("bare LF in fields", "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 0\r\n\r\n"),
        ("bare LF at the end", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n"),
        ("bare CR", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"),
        ("NUL", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("control character", "HTTP/1.1 200 OK\r\nX: a\u{1}b\r\nContent-Length: 0\r\n\r\n"),
        ("space before colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n"),
        ("no colon", "HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n"),
        ("empty name", "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n"),
        ("two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        ("four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
        ("no status", "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n"),
        ("status 000", "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n"),
        ("status 099", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
        ("status 600", "HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n"),
        ("status 999", "HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n"),
        ("signed status", "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n"),
        ("other version", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("other protocol", "SSH-2.0-OpenSSH\r\n\r\n"),
        ("no version", "<html>\r\n\r\n"),
        ("leading space", " HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("unsolicited 101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
    ];
    let mut all: Vec<_> = heads.map(|(name, answer)| (name.to_owned(), answer.to_owned())).into();
    let long = "a".repeat(33 * 1024);
    all.push(("33 KiB field".to_owned(), format!("HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n")));
    let many: String = (0..3000).map(|n| format!("X-{n}: a\r\n")).collect();
    all.push(("3000 fields".to_owned(), format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n")));
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(2000);
    all.push(("interim flood".to_owned(), format!("{flood}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ambiguous_answer_is_a_502_on_every_protocol() {
    let upstream = RawBackend::script(|head| {
        let number: usize = head["GET /".len()..].split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        (bad_answers()[number].1.clone().into_bytes(), Then::Keep)
    });
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut wrong = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for (number, (name, _)) in bad_answers().iter().enumerate() {
            // The client's own connection is none the worse for it.
            let answer = client.get(&format!("/{number}")).await;
            if !answer.as_ref().is_ok_and(|answer| answer.status == 502 && !answer.header("proxy-status").is_empty()) {
                wrong.push(format!("{name} over {protocol:?}: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_head_from_an_upstream_passes_up_to_its_limit() {
    let field = "a".repeat(31 * 1024);
    let upstream = RawBackend::spawn(format!("HTTP/1.1 200 OK\r\nX: {field}\r\nContent-Length: 0\r\n\r\n"), Then::Keep);
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let answer = proxy.client(Protocol::H1).await.get("/").await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.header("x")), (200, &*field));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surplus_octets_behind_an_answer_never_become_an_answer() {
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "ok"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil", "ok"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", ""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil", ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n", "ok"),
    ] {
        let upstream = RawBackend::spawn(answer, Then::Keep);
        let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
        let mut client: Client = proxy.client(Protocol::H1).await;
        for _ in 0..3 {
            let given = client.get("/").await.expect("an answer");
            assert_eq!(given.text(), body, "{answer:?}");
        }
        assert_eq!(upstream.received().len(), 3, "one request for each");
    }
}
