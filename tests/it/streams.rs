//! Long-lived streams, tunnels and event streams alike, when their pool is retired or the proxy ends: they stay, leave at
//! the deadline, or leave at once, as their app's owner wants it; never all at the same moment, and a WebSocket never
//! without a word.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::support::{
    backend::Backend,
    client::{Client, Protocol, Raw},
    eventually, full,
    proxy::Proxy,
    raw_backend::ByHand,
    setup::Setup,
    within,
};

async fn proxy(blue: &Backend, green: &Backend, drain: Value) -> Proxy {
    let mut setup = Setup::between(blue, green);
    setup.app()["drain"] = drain;
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

fn colours() -> (Backend, Backend) {
    (Backend::spawn("blue"), Backend::spawn("green"))
}

/// An event stream that has begun, with its client.
async fn events(proxy: &Proxy, protocol: Protocol) -> (Client, Incoming) {
    let mut client = proxy.client(protocol).await;
    let request = client.request("GET", "/sse?ms=20").body(full("")).expect("a request");
    let mut body = within("a head", client.send(request)).await.expect("an answer").into_body();
    within("an event", body.frame()).await.expect("more").expect("no error");
    (client, body)
}

/// Reads until the stream ends; whether that can be seen to be a cut.
async fn is_cut(body: &mut Incoming) -> bool {
    within("the end of the stream", async {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return true,
                None => return false,
            }
        }
    })
    .await
}

async fn socket(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(proxy.live).await.expect("it accepts");
    client_async("ws://shop.test/ws", stream).await.expect("a handshake").0
}

/// The code of the close frame that comes next, and nothing but the end after it.
async fn close_code(socket: &mut WebSocketStream<TcpStream>) -> u16 {
    let message = within("a close frame", socket.next()).await.expect("more").expect("no error");
    let Message::Close(Some(close)) = message else { panic!("{message:?}") };
    assert!(within("the end", socket.next()).await.is_none(), "a clean end");
    close.code.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_streams_outlive_the_deadline_that_cuts_requests() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({ "timeout": "200ms", "streams": "keep" })).await;
    let mut streams = Vec::new();
    for protocol in Protocol::ALL {
        streams.push(events(&proxy, protocol).await);
    }
    let mut socket = socket(&proxy).await;
    let mut client = proxy.client(Protocol::H2).await;
    let ordinary = client.get_later("/slow?ms=100&chunks=1000");
    eventually("it to begin", async || blue.seen().len() == 4).await;
    proxy.promote().await;
    assert!(within("the end", ordinary).await.expect("a task").is_err(), "an ordinary answer is cut");
    for (_, body) in &mut streams {
        for _ in 0..10 {
            let frame = within("an event", body.frame()).await.expect("more").expect("no error");
            assert!(frame.data_ref().is_some_and(|data| data.ends_with(b"data: blue\n\n")), "{frame:?}");
        }
    }
    socket.send(Message::text("still here")).await.expect("it lives");
    assert_eq!(within("an echo", socket.next()).await.expect("more").expect("no error"), Message::text("still here"));
    drop((streams, socket));
    eventually("the drain to end", async || proxy.status().await["draining"] == json!([])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_streams_leave_when_their_pool_does_and_requests_stay() {
    let (blue, green) = colours();
    let proxy = proxy(&blue, &green, json!({ "timeout": "30s", "streams": "cut" })).await;
    let mut streams = Vec::new();
    for protocol in Protocol::ALL {
        streams.push(events(&proxy, protocol).await);
    }
    let mut socket = socket(&proxy).await;
    let mut client = proxy.client(Protocol::H1).await;
    let ordinary = client.get_later("/slow?ms=100&chunks=10");
    eventually("it to begin", async || blue.seen().len() == 4).await;
    proxy.promote().await;
    for (_, body) in &mut streams {
        assert!(is_cut(body).await, "an end that can be seen to be none");
    }
    assert_eq!(close_code(&mut socket).await, 1012);
    assert_eq!(within("an answer", ordinary).await.expect("a task").expect("a whole answer").status, 200);
    eventually("all to be counted", async || {
        proxy.metric("tealgate_requests_ended_total", &[r#"outcome="answered""#]).await >= 4.0
    })
    .await;
    assert_eq!(proxy.metric("tealgate_requests_lost_total", &[]).await, 0.0, "that is what their owner wants");
    // Streams that begin from now on are on the new pool, and stay.
    let (_client, mut body) = events(&proxy, Protocol::H1).await;
    let frame = within("an event", body.frame()).await.expect("more").expect("no error");
    assert!(frame.data_ref().is_some_and(|data| data.ends_with(b"data: green\n\n")), "{frame:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_do_not_all_leave_at_once() {
    let (blue, green) = colours();
    for drain in [
        json!({ "timeout": "30s", "streams": "cut", "close_rate": 20 }),
        json!({ "timeout": "100ms", "streams": "drain", "close_rate": 20 }),
    ] {
        let proxy = proxy(&blue, &green, drain).await;
        let mut leaving = JoinSet::new();
        for _ in 0..20 {
            let mut socket = socket(&proxy).await;
            leaving.spawn(async move { close_code(&mut socket).await });
        }
        for _ in 0..10 {
            let (client, mut body) = events(&proxy, Protocol::H1).await;
            leaving.spawn(async move {
                let _client = client;
                is_cut(&mut body).await.into()
            });
        }
        let began = Instant::now();
        proxy.promote().await;
        while let Some(left) = leaving.join_next().await {
            assert!([1, 1012].contains(&left.expect("a task")));
        }
        // The last of thirty has its turn in the thirtieth twentieth of a second.
        assert!(began.elapsed() >= Duration::from_millis(1450), "{:?}", began.elapsed());
        eventually("the drain to end", async || proxy.status().await["draining"] == json!([])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_proxy_ends_its_websockets_are_told() {
    let (blue, green) = colours();
    for streams in ["cut", "drain", "keep"] {
        let proxy = proxy(&blue, &green, json!({ "timeout": "30s", "streams": streams })).await;
        let mut socket = socket(&proxy).await;
        // Those that leave at once leave nothing to be cut.
        let within = if streams == "cut" { Duration::from_secs(10) } else { Duration::from_millis(300) };
        let ending = tokio::spawn(proxy.shutdown(within));
        assert_eq!(close_code(&mut socket).await, 1001, "{streams}");
        assert_eq!(ending.await.expect("a task"), usize::from(streams != "cut"));
    }
}

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_comes_between_two_others_and_both_sides_get_theirs() {
    let (upstream, green) = (ByHand::listen().await, Backend::spawn("green"));
    let mut setup = Setup::before(&[upstream.address()]);
    setup.app()["source"]["static"]["revisions"]["green"] = json!({ "endpoints": [green.address()] });
    setup.app()["source"]["static"]["preview"] = json!("green");
    setup.app()["drain"] = json!({ "timeout": "30s", "streams": "cut" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    for ends_its_frame in [true, false] {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(ASK).await;
        let (mut connection, _) = upstream.request().await;
        // The beginning of a frame of ten octets; towards the upstream a whole one.
        connection.send([SWITCH.as_bytes(), b"\x82\x0Aabc"].concat()).await;
        raw.read_head().await;
        assert_eq!(raw.read(5).await, b"\x82\x0Aabc");
        raw.send(b"\x81\x82\0\0\0\0hi").await;
        assert_eq!(connection.read(8).await, b"\x81\x82\0\0\0\0hi");
        proxy.promote().await;
        if ends_its_frame {
            connection.send("defghij").await;
            assert_eq!(raw.read(7).await, b"defghij");
            assert_eq!(raw.read(4).await, [0x88, 2, 0x03, 0xF4]);
            raw.send(b"\x88\x80\0\0\0\0").await;
        }
        let head = connection.read(8).await;
        let (mask, code) = (&head[2..6], &head[6..]);
        assert_eq!(head[..2], [0x88, 0x82], "a masked close frame");
        assert_eq!([code[0] ^ mask[0], code[1] ^ mask[1]], [0x03, 0xE9]);
        connection.send(b"\x88\0").await;
        assert_eq!(connection.read_to_end().await.expect("a clean end"), b"");
        assert!(raw.read_to_end().await.unwrap_or_else(|so_far| so_far).is_empty(), "within a frame there is no other");
        proxy.rollback().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_of_another_protocol_is_not_spoken_into() {
    let (upstream, green) = (ByHand::listen().await, Backend::spawn("green"));
    let mut setup = Setup::before(&[upstream.address()]);
    setup.app()["source"]["static"]["revisions"]["green"] = json!({ "endpoints": [green.address()] });
    setup.app()["source"]["static"]["preview"] = json!("green");
    setup.app()["drain"] = json!({ "streams": "cut" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send(ASK.replace("websocket", "chat")).await;
    let (mut connection, _) = upstream.request().await;
    connection.send(SWITCH.replace("WebSocket", "chat")).await;
    raw.read_head().await;
    proxy.promote().await;
    assert_eq!(raw.read_to_end().await.expect("a clean end"), b"");
    assert_eq!(connection.read_to_end().await.expect("a clean end"), b"");
    drop(connection.stream.shutdown().await);
}
