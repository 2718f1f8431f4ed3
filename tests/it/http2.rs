//! HTTP/2 from clients: many streams, long bodies, what has to be translated for an HTTP/1.1 upstream, and clients that
//! would wear the proxy out.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use http::header;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{
    backend::Backend,
    client::{Protocol, at_once},
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, frame, literal,
    },
    full,
    proxy::Proxy,
    raw_backend::{ByHand, closed},
    setup::Setup,
    within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_streams_share_a_connection() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut client = proxy.client(Protocol::H2).await;
    let started = std::time::Instant::now();
    let answers = at_once(&mut client, "/slow?ms=20&chunks=5", 300).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.text() == "a piece\n".repeat(5))));
    // One after the other they would take half a minute.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_bodies_flow_both_ways_side_by_side_and_a_stalled_one_holds_up_no_other() {
    const MIB: usize = 1024 * 1024;
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut client = proxy.client(Protocol::H2).await;
    let request = client.request("GET", "/bytes/100000000").body(full("")).expect("a request");
    let stalled = client.send(request).await.expect("an answer");
    let sent = Bytes::from((0..5 * MIB).map(|n| (n * 31 % 251) as u8).collect::<Vec<_>>());
    let transfers = (0..6).map(|n| {
        let (method, path) = if n % 2 == 0 { ("POST", "/echo") } else { ("GET", "/bytes/5242880") };
        let body = if n % 2 == 0 { full(sent.clone()) } else { full("") };
        let response = client.send(client.request(method, path).body(body).expect("a request"));
        let expected = if n % 2 == 0 { sent.clone() } else { Bytes::from(vec![b'x'; 5 * MIB]) };
        async move {
            let body = response.await.expect("an answer").into_body().collect().await.expect("all of it").to_bytes();
            assert!(body == expected, "{method} {path}");
        }
    });
    within("all transfers", future::join_all(transfers.collect::<Vec<_>>())).await;
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_http2_may_split_or_leave_out_is_whole_for_the_upstream() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut client = proxy.client(Protocol::H2).await;
    let request = client.request("GET", "/a?b=c").header("cookie", "a=1").header("cookie", "b=2; c=3");
    let request = request.header(header::TE, "trailers").body(full("")).expect("a request");
    client.fetch(request).await.expect("an answer");
    let seen = blue.seen().pop().expect("a request");
    let cookies: Vec<_> = seen.headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3"]);
    assert_eq!((&*seen.target, &seen.headers["host"]), ("/a?b=c", &"shop.test".parse().unwrap()));
    assert_eq!(seen.headers["te"], "trailers");
    assert!(!seen.headers.contains_key(header::CONTENT_LENGTH));
    assert!(!seen.headers.contains_key(header::TRANSFER_ENCODING));
}

/// RFC 7541 Appendix A: the status codes of the static table, which is what the proxy's encoder uses; others follow
/// index 8 as three literal digits or as Huffman code.
fn is_refusal(frame: &Frame) -> bool {
    // 400 is index 12; 405, 421 and 431 are literals on the name of index 8.
    frame.kind == RST_STREAM || frame.payload.first().is_some_and(|octet| matches!(octet, 0x8c | 0x48 | 0x08))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_read_otherwise_in_http1_is_refused_and_the_other_streams_go_on() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut wrong = Vec::new();
    for fields in [
        &[("host", "other.test")][..],
        &[(":authority", "user@shop.test")],
        &[(":authority", "shop.test/a")],
        &[(":authority", "shop.test, other.test")],
        &[(":authority", "shop test")],
        &[("host", "shop.test"), ("host", "shop.test")],
        &[("host", "shop.test"), ("host", "other.test")],
        &[(":path", "")],
        &[(":path", "a")],
        &[(":path", "*")],
        &[(":path", "/a b")],
        &[(":path", "/a\r\nx: y")],
        &[(":path", "/a HTTP/1.1\r\nhost: other.test\r\n\r\n")],
        &[(":path", "/a\0")],
        &[(":path", "http://other.test/")],
        &[(":method", "GET / HTTP/1.1\r\nx: y\r\n\r\nGET")],
        &[(":method", "G T")],
        &[(":method", "CONNECT")],
        &[(":scheme", "ftp")],
        &[(":scheme", "http://other.test/?")],
        &[(":protocol", "websocket")],
        &[("connection", "close")],
        &[("connection", "x"), ("x", "y")],
        &[("keep-alive", "timeout=5")],
        &[("proxy-connection", "keep-alive")],
        &[("transfer-encoding", "chunked")],
        &[("transfer-encoding", "identity")],
        &[("upgrade", "h2c")],
        &[("te", "gzip")],
        &[("x", "a\r\nb: c")],
        &[("x", "a\nb")],
        &[("x", "a\0b")],
        &[("x y", "a")],
        &[("x:", "a")],
        &[("x\r\ny", "a")],
        &[("X-Upper", "a")],
        &[("content-length", "5")],
        &[("content-length", "+0")],
        &[("content-length", "0"), ("content-length", "0")],
        &[("content-length", "0, 0")],
        &[("content-length", "0"), ("content-length", "5")],
    ] {
        let mut frames = Frames::connect(proxy.live).await;
        frames.request(1, END_STREAM, fields).await;
        let refusal = frames.first(&[HEADERS, RST_STREAM, GOAWAY]).await;
        let refused = refusal.as_ref().is_none_or(|frame| frame.kind == GOAWAY || is_refusal(frame));
        let seen = blue.seen().len();
        if !refused || seen > wrong.len() {
            wrong.push(format!("{fields:?}: {refusal:?}, the upstream saw {seen}"));
            continue;
        }
        if refusal.is_some_and(|frame| frame.kind != GOAWAY) {
            // It was that stream's fault alone.
            frames.send(PING, 0, 0, &[7; 8]).await;
            assert!(frames.first(&[PING]).await.is_some_and(|pong| pong.payload == [7; 8]), "{fields:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_and_authority_may_stand_for_each_other_where_they_agree() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    for fields in [
        &[("host", "shop.test")][..],
        &[(":authority", ""), ("host", "shop.test")],
        &[(":authority", "shop.test:8080"), ("host", "shop.test:8080")],
    ] {
        let mut frames = Frames::connect(proxy.live).await;
        frames.request(1, END_STREAM, fields).await;
        let answer = frames.first(&[HEADERS, RST_STREAM, GOAWAY]).await.expect("an answer");
        assert_eq!((answer.kind, answer.payload.first()), (HEADERS, Some(&0x88)), "{fields:?}: {answer:?}");
        let seen = blue.seen().pop().expect("a request");
        assert!(seen.headers["host"].as_bytes().starts_with(b"shop.test"), "{seen:?}");
        assert_eq!(seen.headers.get_all("host").iter().count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_says_goaway_and_lets_the_streams_there_are_finish() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut frames = Frames::connect(proxy.live).await;
    frames.request(1, END_STREAM, &[]).await;
    let (mut connection, _) = upstream.request().await;
    let draining = tokio::spawn(proxy.shutdown(Duration::from_secs(10)));
    assert!(frames.first(&[GOAWAY]).await.is_some());
    let ping = frames.first(&[PING]).await.expect("a PING, to know when the client has read that");
    frames.send(PING, ACK, 0, &ping.payload).await;
    let last = frames.first(&[GOAWAY]).await.expect("the stream that was the last");
    assert_eq!(last.payload, [0, 0, 0, 1, 0, 0, 0, 0], "stream 1, no error");
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let answer = frames.first(&[DATA]).await.expect("an answer");
    assert_eq!((answer.flags, &*answer.payload), (END_STREAM, &b"ok"[..]));
    drop(frames);
    assert_eq!(draining.await.expect("a task"), 0, "nothing was cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_as_long_as_it_says_never_ends_well_at_the_upstream() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for (length, body, flags) in [("10", "hello", END_STREAM), ("3", "hello", END_STREAM), ("3", "hello", 0)] {
        let mut frames = Frames::connect(proxy.live).await;
        frames.request(1, 0, &[(":method", "POST"), ("content-length", length)]).await;
        let (mut connection, _) = upstream.request().await;
        frames.send(DATA, flags, 1, body.as_bytes()).await;
        closed(&mut connection).await;
        let told = frames.first(&[RST_STREAM, GOAWAY, HEADERS]).await;
        assert!(told.is_none_or(|frame| frame.kind == GOAWAY || is_refusal(&frame)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_a_body_stops_that_without_an_error_and_the_connection_goes_on() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut frames = Frames::connect(proxy.live).await;
    frames.request(1, 0, &[(":method", "POST"), ("content-length", "3")]).await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let answer = frames.first(&[DATA]).await.expect("an answer");
    assert_eq!((answer.flags, &*answer.payload), (END_STREAM, &b"ok"[..]));
    let stop = frames.first(&[RST_STREAM]).await.expect("a word about the rest");
    assert_eq!((stop.stream, &*stop.payload), (1, &[0; 4][..]), "no error (RFC 9113 §8.1)");
    // It may have been on its way, and be as wrong as can be: nobody looks at it any more.
    frames.send(DATA, END_STREAM, 1, b"longer than it said").await;
    frames.request(3, END_STREAM, &[]).await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(frames.first(&[DATA, RST_STREAM, GOAWAY]).await.map(|frame| frame.stream), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_told_so_and_closed_whatever_is_under_way() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut frames = Frames::connect(proxy.live).await;
    for (stream, flags) in [(1, END_STREAM), (3, 0)] {
        frames.request(stream, flags, &[(":method", "POST")]).await;
    }
    let (mut first, _) = upstream.request().await;
    let (mut second, _) = upstream.request().await;
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    frames.first(&[DATA]).await.expect("the half of it");
    frames.send(DATA, 0, 0, b"on no stream at all").await;
    let told = frames.first(&[GOAWAY]).await.expect("the reason");
    assert_eq!(told.payload[..8], [0, 0, 0, 3, 0, 0, 0, 1], "stream 3 was the last; a protocol error");
    assert!(frames.next().await.is_none(), "the end");
    closed(&mut first).await;
    closed(&mut second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_answer_resets_its_stream_and_no_other() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut client = proxy.client(Protocol::H2).await;
    let whole = client.get_later("/slow?ms=100&chunks=5");
    for _ in 0..3 {
        assert!(client.get("/reset").await.is_err());
    }
    assert_eq!(whole.await.expect("a task").expect("an answer").text(), "a piece\n".repeat(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_the_connection_and_nothing_else() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let block: Vec<u8> = [(":method", "GET"), (":scheme", "http"), (":path", "/hang"), (":authority", "shop.test")]
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect();
    let field = literal("x", &"a".repeat(1000));
    let opened = [frame(HEADERS, END_HEADERS, 1, &block)].concat();
    type Nth<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let floods: [(&str, Vec<u8>, Nth<'_>); 7] = [
        ("resets", Vec::new(), &|n| {
            let stream = 2 * n + 1;
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, &block), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
                .concat()
        }),
        ("continuations", frame(HEADERS, 0, 1, &block), &|_| frame(CONTINUATION, 0, 1, &field)),
        ("empty continuations", frame(HEADERS, 0, 1, &block), &|_| frame(CONTINUATION, 0, 1, &[])),
        ("settings", Vec::new(), &|n| frame(SETTINGS, 0, 0, &[&[0, 3][..], &n.to_be_bytes()].concat())),
        ("pings", Vec::new(), &|n| frame(PING, 0, 0, &[&[0; 4][..], &n.to_be_bytes()].concat())),
        ("empty data", opened.clone(), &|_| frame(DATA, 0, 1, &[])),
        ("window updates", opened, &|_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 0])),
    ];
    for (name, begin, nth) in floods {
        let mut frames = Frames::connect(proxy.live).await;
        assert!(frames.try_send(&begin).await);
        let flooding = async {
            let mut n = 0;
            // What is answered is not read: whoever floods does not wait.
            loop {
                let batch: Vec<u8> = (0..100)
                    .flat_map(|_| {
                        n += 1;
                        nth(n)
                    })
                    .collect();
                if frames.raw.stream.write_all(&batch).await.is_err() {
                    break;
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), flooding).await;
        assert!(ended.is_ok(), "{name} go on and on");
        assert_eq!(proxy.client(Protocol::H2).await.get("/").await.expect("an answer").text(), "blue", "after {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_allowed_are_refused() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = Proxy::between(&blue, &green).await;
    let mut frames = Frames::connect(proxy.live).await;
    let settings = frames.first(&[SETTINGS]).await.expect("settings").payload;
    let most = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("a limit of streams");
    assert_eq!(most[2..], [0, 0, 0, 128]);
    for n in 0..130 {
        frames.request(2 * n + 1, END_STREAM, &[(":path", "/hang")]).await;
    }
    let refused = frames.first(&[RST_STREAM, GOAWAY]).await.expect("a refusal");
    assert_eq!((refused.kind, refused.payload.last()), (RST_STREAM, Some(&7)), "REFUSED_STREAM: {refused:?}");
    assert!(refused.stream > 2 * 128, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_do_not_get_on_end_at_the_limit() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.listener("live")["timeouts"] = json!({ "body": "300ms" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    // An upload that stalls is told so, or reset.
    let mut frames = Frames::connect(proxy.live).await;
    frames.request(1, 0, &[(":method", "POST"), (":path", "/echo"), ("content-length", "10")]).await;
    frames.send(DATA, 0, 1, b"half").await;
    let mut end = frames.first(&[HEADERS, RST_STREAM]).await.expect("an end");
    if end.kind == HEADERS && end.payload.first() == Some(&0x88) {
        // The upstream had begun to echo.
        end = frames.first(&[RST_STREAM]).await.expect("an end");
    }
    assert_eq!(end.stream, 1);
    // So is a download whose window stays shut; the connection itself is well.
    let mut frames = Frames::connect(proxy.live).await;
    frames.request(1, END_STREAM, &[(":path", "/bytes/1000000")]).await;
    let end = frames.first(&[RST_STREAM]).await.expect("an end");
    assert_eq!((end.stream, end.flags), (1, 0));
    frames.send(PING, 0, 0, &[7; 8]).await;
    assert!(frames.first(&[PING]).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_over_the_limit_is_refused_on_its_stream() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.listener("live")["limits"] = json!({ "head_size": "4KiB" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let mut client = proxy.client(Protocol::H2).await;
    let request = client.request("GET", "/").header("x", "a".repeat(5000)).body(full("")).expect("a request");
    let answer = client.fetch(request).await;
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 431), "{answer:?}");
    assert!(blue.seen().is_empty());
    assert_eq!(proxy.client(Protocol::H2).await.get("/").await.expect("an answer").text(), "blue");
}
