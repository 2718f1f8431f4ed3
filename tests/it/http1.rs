//! HTTP/1 as clients and upstreams speak it when they are well, and what each side learns when the other leaves.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use socket2::SockRef;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    Body, BoxError,
    backend::Backend,
    certs::Authority,
    client::{Client, Protocol, Raw},
    eventually, full,
    outlet::Outlet,
    process::Process,
    proxy::Proxy,
    raw_backend::{ByHand, RawBackend, Then, closed},
    setup::Setup,
    within,
};

const MIB: usize = 1024 * 1024;

/// A body in pieces, whose length nobody is told, and trailers behind it.
fn streamed(octets: &Bytes, trailers: Option<HeaderMap>) -> Body {
    let pieces: Vec<_> = octets.chunks(10_000).map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect();
    let frames = pieces.into_iter().chain(trailers.map(Frame::trailers)).map(Ok::<_, BoxError>);
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// Octets that show where some are missing or in another place.
fn octets(count: usize) -> Bytes {
    let mut state = 7_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_any_shape_and_size_comes_through_whole_both_ways() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for size in [0, 1, 16 * 1024, 16 * 1024 + 1, 5 * MIB] {
            let sent = octets(size);
            let request = |client: &Client| client.request("POST", "/echo").header(header::TRAILER, "x-sum");
            let told = request(&client).body(full(sent.clone())).expect("a request");
            let answer = client.fetch(told).await.expect("an answer");
            assert!(answer.body == sent, "{size} octets over {protocol:?}");
            assert_eq!(answer.trailers, None);

            let untold = request(&client).header(header::TE, "trailers");
            let untold = untold.body(streamed(&sent, Some(trailers.clone()))).expect("a request");
            let answer = client.fetch(untold).await.expect("an answer");
            assert!(answer.body == sent, "{size} octets of unknown length over {protocol:?}");
            assert_eq!(answer.trailers.as_ref(), Some(&trailers), "{size} octets over {protocol:?}");
        }
    }
    // What was told is told on, and only that.
    for pair in blue.seen().chunks(2) {
        assert_eq!(pair[1].headers.get(header::CONTENT_LENGTH), None);
        assert_eq!(pair[1].headers[header::TRANSFER_ENCODING], "chunked");
        assert_eq!(pair[0].headers.get(header::TRANSFER_ENCODING), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_has_come_with_its_head_reaches_the_upstream_with_it() {
    let upstream = RawBackend::spawn("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Close);
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let long = "a".repeat(10_000);
    for (fields, body) in [
        ("Content-Length: 5", "hello"),
        ("Content-Length: 5\r\nExpect: 100-continue", "hello"),
        ("Content-Length: 10000", &long),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n5\r\nworld\r\n0\r\nX-Sum: 1\r\n\r\n"),
    ] {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n\r\n{body}")).await;
        // Nobody is told to go on who has not stopped.
        assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "), "{fields}");
        let received = upstream.received().pop().expect("a request");
        let received = String::from_utf8_lossy(&received);
        assert_eq!(received.split_once("\r\n\r\n").expect("a head").1, body, "{fields}: in one read");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_body_stays_one_and_an_empty_body_keeps_its_length() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut raw = Raw::connect(proxy.live).await;
    for (method, fields, length) in
        [("GET", "", None), ("POST", "Content-Length: 0\r\n", Some("0")), ("DELETE", "", None)]
    {
        raw.send(format!("{method} /status/204 HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n")).await;
        raw.read_head().await;
        let seen = blue.seen().pop().expect("a request");
        assert_eq!(seen.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes), length.map(str::as_bytes));
        assert_eq!(seen.headers.get(header::TRANSFER_ENCODING), None, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_has_no_body_by_definition_leaves_the_connection_in_order() {
    let upstream = RawBackend::script(|head| {
        let answer = match head.split(' ').nth(1) {
            Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
            Some("/304") => "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"a\"\r\n\r\n",
            _ if head.starts_with("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        (answer.into(), Then::Keep)
    });
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for (method, path, status, length) in
            [("HEAD", "/", 200, "1000"), ("GET", "/204", 204, ""), ("GET", "/304", 304, "1000"), ("GET", "/", 200, "2")]
        {
            let request = client.request(method, path).body(full("")).expect("a request");
            let answer = client.fetch(request).await.expect("an answer");
            assert_eq!((answer.status.as_u16(), answer.header("content-length")), (status, length), "{method} {path}");
            assert_eq!(answer.text(), if length == "2" { "ok" } else { "" });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_1_0_client_is_answered_in_its_own_way() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    // Chunks are not for HTTP/1.0: the end of the connection ends the body.
    let answer = Raw::exchange(proxy.live, "GET /slow?ms=1&chunks=3 HTTP/1.0\r\nHost: shop.test\r\n\r\n").await;
    assert!(answer.ends_with(&format!("\r\n\r\n{}", "a piece\n".repeat(3))), "{answer}");
    assert!(!answer.to_lowercase().contains("transfer-encoding"), "{answer}");
    // Not even a host is asked of it.
    let answer = Raw::exchange(proxy.live, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.") && answer.ends_with("\r\n\r\nblue"), "{answer}");

    let mut raw = Raw::connect(proxy.live).await;
    for _ in 0..3 {
        raw.send("GET / HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n").await;
        let head = raw.read_head().await.to_lowercase();
        assert!(head.contains("connection: keep-alive") && head.contains("content-length: 4"), "{head}");
        assert_eq!(raw.read(4).await, b"blue");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_to_close_is_closed_on_when_it_has_its_answer() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    // What follows its last request is not read, and costs it nothing of its answer.
    for surplus in ["", "\r\n", "GET /never HTTP/1.1\r\n"] {
        for octets in [0, 1, 4_000, 5_000, 300_000] {
            for asks in ["1.1\r\nConnection: close", "1.0"] {
                let mut raw = Raw::connect(proxy.live).await;
                raw.send(format!("GET /bytes/{octets} HTTP/{asks}\r\nHost: shop.test\r\n\r\n{surplus}")).await;
                let answer = raw.read_to_end().await.expect("no reset");
                let answer = String::from_utf8_lossy(&answer);
                let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
                assert!(head.to_lowercase().contains("connection: close") && body.len() == octets, "{asks}: {head}");
            }
        }
    }
    assert!(blue.seen().iter().all(|seen| seen.target != "/never"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_their_order() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut requests = String::from("GET /slow?ms=100&chunks=1 HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    for n in 10..30 {
        requests += &format!("POST /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 14\r\n\r\nthe body of {n}");
    }
    requests += "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\n\r\n";
    let answer = Raw::exchange(proxy.live, requests).await;
    let bodies = answer.match_indices("the body of ").map(|(at, name)| answer[at + name.len()..][..2].parse());
    assert!(bodies.eq((10..30).map(Ok::<u32, _>)), "{answer}");
    assert!(answer.find("a piece").expect("the first") < answer.find("the body of").expect("the second"));
    assert!(answer.ends_with("blue"), "{answer}");
    assert!(blue.seen().iter().all(|seen| seen.target != "/never"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_to_continue_only_when_somebody_is_there_to_read() {
    let upstream = ByHand::listen().await;
    let refused = ByHand::listen().await.address();
    let mut setup = Setup::before(&[upstream.address()]);
    setup.app()["limits"] = json!({ "body_size": 10 });
    let proxy = Proxy::start(setup).await;
    let nobody = Proxy::start(Setup::before(&[refused])).await;
    let expecting = |length: u32| {
        format!("PUT / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    let mut raw = Raw::connect(nobody.live).await;
    raw.send(expecting(5)).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 502 "));

    let mut raw = Raw::connect(proxy.live).await;
    raw.send(expecting(11)).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 413 "));

    let mut raw = Raw::connect(proxy.live).await;
    raw.send(expecting(5)).await;
    assert_eq!(raw.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send("hello").await;
    let (mut connection, head) = upstream.request().await;
    assert!(!head.to_lowercase().contains("expect"), "{head}");
    assert_eq!(connection.read(5).await, b"hello");
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));

    // HTTP/1.0 knows no interim answers.
    let mut raw = Raw::connect(proxy.live).await;
    raw.send(expecting(5).replace("HTTP/1.1", "HTTP/1.0") + "hello").await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let answer = raw.read_head().await;
    assert!(answer.contains(" 200 OK"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_never_stand_for_the_final_one() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let upstream = RawBackend::spawn(
        format!("HTTP/1.1 100 Continue\r\n\r\n{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        Then::Keep,
    );
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for _ in 0..2 {
            let answer = client.get("/").await.expect("an answer");
            assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "ok"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_at_the_client_before_the_next_one_is_made() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for framing in ["Transfer-Encoding: chunked\r\n", ""] {
        for protocol in Protocol::ALL {
            let mut client = proxy.client(protocol).await;
            let request = client.request("GET", "/").body(full("")).expect("a request");
            let response = tokio::spawn(client.send(request));
            let (mut connection, _) = upstream.request().await;
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n")).await;
            // The head comes while there is no event yet.
            let mut body = within("a head", response).await.expect("a task").expect("an answer").into_body();
            for n in 0..3 {
                let event = format!("data: {n}\n\n");
                let chunk =
                    if framing.is_empty() { event.clone() } else { format!("{:x}\r\n{event}\r\n", event.len()) };
                connection.send(chunk).await;
                let frame = within("an event", body.frame()).await.expect("more").expect("no error");
                assert_eq!(frame.into_data().expect("data"), event, "{protocol:?} {framing}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_only_its_own_direction_gets_its_whole_answer() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let slow = "a piece\n".repeat(5);
    for (request, ending) in [
        // While the upstream thinks, while an answer of unknown length comes, while a long one does.
        ("GET /slow?ms=100&chunks=5 HTTP/1.1\r\nHost: shop.test\r\n\r\n", "\r\n0\r\n\r\n"),
        ("GET /slow?ms=100&chunks=5 HTTP/1.0\r\n\r\n", &slow),
        ("GET /bytes/3000000 HTTP/1.1\r\nHost: shop.test\r\n\r\n", "xxx"),
        ("POST /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello", "\r\n\r\nhello"),
    ] {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(request).await;
        raw.stream.shutdown().await.expect("a half-closed connection");
        let answer = raw.read_to_end().await.expect("a clean end");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.") && answer.ends_with(ending), "{request:?} -> {answer}");
        assert!(!request.contains("bytes") || answer.len() > 3_000_000, "{} octets", answer.len());
    }
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let (mut connection, _) = upstream.request().await;
    raw.stream.shutdown().await.expect("a half-closed connection");
    // Long enough for anybody to take it for gone.
    tokio::time::sleep(Duration::from_millis(500)).await;
    connection.send("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").await;
    let answer = String::from_utf8(raw.read_to_end().await.expect("a clean end")).expect("text");
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    Closing,
    Resetting,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_learns_soon_that_the_client_has_left() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let get = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let put = "PUT / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100\r\n\r\nhalf of it";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for (request, answer) in [(get, ""), (put, ""), (get, chunked), (get, &chunked[..chunked.len() - 7])] {
        for leaving in [Leaving::Closing, Leaving::Resetting] {
            let mut raw = Raw::connect(proxy.live).await;
            raw.send(request).await;
            let (mut connection, _) = upstream.request().await;
            if !answer.is_empty() {
                connection.send(answer).await;
                raw.read_head().await;
                if answer.ends_with("hello\r\n") {
                    raw.read("5\r\nhello\r\n".len()).await;
                }
            }
            if let Leaving::Resetting = leaving {
                SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).expect("a socket option");
            }
            drop(raw);
            let gone = tokio::time::timeout(Duration::from_secs(2), closed(&mut connection)).await;
            assert!(gone.is_ok(), "{leaving:?} after {request:?} and {answer:?}");
        }
    }
    // On HTTP/2 a stream is reset, and the connection lives on.
    let mut client = proxy.client(Protocol::H2).await;
    let request = client.request("GET", "/").body(full("")).expect("a request");
    let response = tokio::spawn(client.send(request));
    let (mut connection, _) = upstream.request().await;
    response.abort();
    closed(&mut connection).await;
    let again = client.get_later("/");
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(within("an answer", again).await.expect("a task").expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_cut_off_at_the_upstream_is_cut_off_at_the_client() {
    let cuts = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: a\nb\r\n\r\n",
    ];
    let authority = Authority::new();
    for (then, tls) in [(Then::Close, false), (Then::Reset, false), (Then::Close, true), (Then::Reset, true)] {
        let upstream = RawBackend::script(move |head| {
            let number = head.as_bytes()["GET /".len()] - b'0';
            (cuts[usize::from(number)].into(), then)
        });
        let (setup, _outlet) = before(&upstream, tls.then_some(&authority));
        let proxy = Proxy::start(setup).await;
        for (number, cut) in cuts.iter().enumerate() {
            for protocol in Protocol::ALL {
                let answer = proxy.client(protocol).await.get(&format!("/{number}")).await;
                // A reset may overtake the head, and then there is no answer to cut.
                let visible = answer.as_ref().map_or(true, |answer| answer.status == 502);
                assert!(visible, "{cut:?} over {protocol:?}, TLS {tls}: {answer:?}");
            }
        }
    }
}

/// What a proxy before this upstream runs by, and the TLS between the two, if there is to be any.
fn before(upstream: &RawBackend, authority: Option<&Authority>) -> (Setup, Option<Outlet>) {
    let Some(authority) = authority else { return (Setup::before(&[upstream.address()]), None) };
    let outlet = Outlet::tls(authority.sign("upstream", &["app.test"]).server(), upstream.address());
    let mut setup = Setup::before(&[outlet.address()]);
    setup.app()["upstream"] = json!({ "tls": { "roots": authority.roots(), "server_name": "app.test" } });
    (setup, Some(outlet))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_1_0_client_whose_answer_is_cut_off_is_reset() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for head in ["Transfer-Encoding: chunked\r\n\r\n5\r\n", "Content-Length: 10\r\n\r\n"] {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send("GET / HTTP/1.0\r\n\r\n").await;
        let (mut connection, _) = upstream.request().await;
        connection.send(format!("HTTP/1.1 200 OK\r\n{head}hello")).await;
        let head = raw.read_head().await;
        assert_eq!(raw.read(5).await, b"hello");
        drop(connection);
        // Either a length or a reset tells that something is missing.
        let end = raw.read_to_end().await;
        assert!(end.is_err() || head.to_lowercase().contains("content-length: 10"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_the_connections_end_delimits_is_whole_at_the_client() {
    let upstream = RawBackend::spawn("HTTP/1.1 200 OK\r\n\r\nuntil the end", Then::Close);
    let cut = RawBackend::spawn("HTTP/1.1 200 OK\r\n\r\nuntil the end", Then::Reset);
    let authority = Authority::new();
    for tls in [None, Some(&authority)] {
        let ((setup, _outlet), (of_cut, _other)) = (before(&upstream, tls), before(&cut, tls));
        let (proxy, cutting) = (Proxy::start(setup).await, Proxy::start(of_cut).await);
        for protocol in Protocol::ALL {
            let mut client = proxy.client(protocol).await;
            for _ in 0..2 {
                assert_eq!(client.get("/").await.expect("an answer").text(), "until the end");
            }
            // What is reset has not ended, nor what TLS does not say the end of (RFC 8446 §6.1).
            let answer = cutting.client(protocol).await.get("/").await;
            assert!(answer.as_ref().map_or(true, |answer| answer.status == 502), "{protocol:?}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_an_upload_reaches_the_client() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send("PUT / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100000000\r\n\r\nthe first octets").await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
    drop(connection);
    assert!(raw.read_head().await.starts_with("HTTP/1.1 403 "));
    assert_eq!(raw.read(2).await, b"no");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded_however_slow_either_side_is() {
    const SLOW: usize = 8;
    const OCTETS: usize = 100 * MIB;
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let process = Process::between(&blue, &green).await;
    let before = process.peak_memory();

    // Clients that ask for much and read nothing.
    let mut clients = Vec::new();
    for protocol in [Protocol::H1, Protocol::H2].into_iter().cycle().take(SLOW) {
        let mut client = Client::connect(protocol, process.live).await.expect("it accepts");
        let request = client.request("GET", &format!("/bytes/{OCTETS}")).body(full("")).expect("a request");
        let response = within("a head", client.send(request)).await.expect("an answer");
        clients.push((client, response));
    }
    // Clients that send much to an upstream that reads nothing.
    blue.hang(true);
    let piece = Bytes::from(vec![0; 64 * 1024]);
    let mut uploads = Vec::new();
    for protocol in [Protocol::H1, Protocol::H2].into_iter().cycle().take(SLOW) {
        let mut client = Client::connect(protocol, process.live).await.expect("it accepts");
        let frames = stream::repeat_with({
            let piece = piece.clone();
            move || Ok::<_, BoxError>(Frame::data(piece.clone()))
        });
        let request = client.request("PUT", "/status/200").body(StreamBody::new(frames).boxed_unsync());
        let response = client.send(request.expect("a request"));
        uploads.push((client, tokio::spawn(response)));
    }
    eventually("all uploads to have begun", async || blue.seen().len() >= 2 * SLOW).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = process.peak_memory().saturating_sub(before);
    assert!(grown < 32 * MIB, "{SLOW} slow downloads and uploads took {} MiB", grown / MIB);

    // The slow readers get all of it once they read.
    blue.hang(false);
    for (_client, response) in clients.into_iter().take(2) {
        let body = within("the rest", response.into_body().collect()).await.expect("the whole body").to_bytes();
        assert_eq!(body.len(), OCTETS);
    }
    let grown = process.peak_memory().saturating_sub(before);
    assert!(grown < 32 * MIB, "{} MiB once they were read", grown / MIB);
    uploads.iter().for_each(|(_, task)| task.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_closes_idle_connections_fails_no_request() {
    let upstream = RawBackend::spawn("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Close);
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut client = proxy.client(Protocol::H1).await;
    for n in 0..50 {
        // Every other one finds the close already there, the rest race it.
        if n % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        assert_eq!(client.get("/").await.expect("an answer").text(), "ok", "request {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_says_nothing_holds_up_nobody() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut silent = Vec::new();
    for octets in ["", "G", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost"].into_iter().cycle().take(100) {
        let mut stream = TcpStream::connect(proxy.live).await.expect("a connection");
        stream.write_all(octets.as_bytes()).await.expect("octets taken");
        silent.push(stream);
    }
    for protocol in Protocol::ALL {
        assert_eq!(proxy.client(protocol).await.get("/").await.expect("an answer").text(), "blue");
    }
}
