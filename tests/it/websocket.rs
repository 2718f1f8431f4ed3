//! WebSockets, and whatever else takes a connection over by `Upgrade`: octets both ways, unaltered, until one side ends it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::Response;
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::support::{
    backend::Backend,
    certs::Authority,
    client::{Client, Protocol, Raw, tls},
    eventually, full,
    h2_backend::{H2Backend, answer},
    proxy::Proxy,
    raw_backend::{ByHand, RawBackend, Then, closed},
    setup::Setup,
    within,
};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n";
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";

/// All that comes back in a conversation about everything a WebSocket can carry.
async fn conversation(stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<Message> {
    let (socket, response) = client_async("ws://shop.test/ws", stream).await.expect("a handshake");
    assert_eq!(response.status(), 101);
    converse(socket).await
}

async fn converse(mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) -> Vec<Message> {
    let close = CloseFrame { code: CloseCode::from(4001), reason: "enough".into() };
    let said = [
        Message::text("grüß dich"),
        Message::binary(vec![0, 1, 2, 255]),
        Message::text(""),
        Message::Ping("are you there?".into()),
        Message::binary(vec![7; 1024 * 1024]),
        Message::text("a".repeat(100_000)),
        Message::Close(Some(close)),
    ];
    let mut heard = Vec::new();
    for message in said {
        socket.send(message).await.expect("a message taken");
        // The pings' answers come among the others.
        heard.push(within("an answer", socket.next()).await.expect("more").expect("no error"));
    }
    assert!(within("the end", socket.next()).await.is_none());
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_through_the_proxy_is_the_one_without() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("live", &["shop.test"]);
    let mut setup = Setup::between(&blue, &green);
    setup.listener("preview")["tls"] = json!({ "certificates": [{ "cert": leaf.cert, "key": leaf.key }] });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let direct = conversation(TcpStream::connect(blue.address()).await.expect("it accepts")).await;
    assert_eq!(direct.len(), 7);
    assert!(matches!(&direct[6], Message::Close(Some(close)) if u16::from(close.code) == 4001), "{:?}", direct[6]);
    assert_eq!(conversation(TcpStream::connect(proxy.live).await.expect("it accepts")).await, direct);
    let secure = tls(proxy.preview, "shop.test", authority.trusted()).await.expect("a handshake");
    assert_eq!(conversation(secure).await, direct);
}

/// Asks for a WebSocket by extended CONNECT (RFC 8441) on this connection, with these fields.
async fn ask_over_h2(client: &mut Client, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
    // The server's settings are there with its first answer.
    client.get("/status/200").await.expect("an answer");
    let request = client.request("CONNECT", path).header("sec-websocket-version", "13");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let mut request = request.body(full("")).expect("a request");
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    within("a head", client.send(request)).await.expect("an answer")
}

async fn socket_over_h2(client: &mut Client) -> WebSocketStream<TokioIo<Upgraded>> {
    let response = ask_over_h2(client, "/ws", &[]).await;
    assert_eq!(response.status(), 200);
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(name), "{response:?}");
    }
    let upgraded = within("the stream", hyper::upgrade::on(response)).await.expect("a stream");
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_is_the_same_between_all_versions_of_both_sides() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let direct = conversation(TcpStream::connect(blue.address()).await.expect("it accepts")).await;
    for upstream in ["http1", "h2", "auto"] {
        let mut setup = Setup::between(&blue, &green);
        setup.app()["upstream"] = json!({ "protocol": upstream });
        let proxy = Proxy::start(setup).await;
        proxy.is_ready_to_promote().await;
        assert_eq!(conversation(TcpStream::connect(proxy.live).await.expect("it accepts")).await, direct, "{upstream}");
        let mut client = proxy.client(Protocol::H2).await;
        for _ in 0..3 {
            assert_eq!(converse(socket_over_h2(&mut client).await).await, direct, "{upstream}");
        }
        // The streams of a connection mind their own octets.
        let mut sockets = Vec::new();
        for _ in 0..5 {
            sockets.push(socket_over_h2(&mut client).await);
        }
        let conversations = sockets.into_iter().map(converse);
        assert!(futures_util::future::join_all(conversations).await.iter().all(|heard| *heard == direct));
        let answered = proxy.metric("tealgate_http_requests_total", &[r#"code="200""#]).await;
        assert!(answered >= 8.0, "{answered}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extended_connect_is_told_what_became_of_it_and_nothing_else_is_one() {
    let upstream = RawBackend::script(|head| {
        let answer = match head.split(' ').nth(1).unwrap_or_default() {
            "/status/200" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "/refused" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            // It knows nothing of WebSockets, or answers another's question.
            "/page" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            _ => {
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            }
        };
        (answer.into(), Then::Keep)
    });
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut client = proxy.client(Protocol::H2).await;
    for (path, status) in [("/refused", 403), ("/page", 502), ("/ws", 502)] {
        let response = ask_over_h2(&mut client, path, &[("sec-websocket-protocol", "chat")]).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        let asked = String::from_utf8(upstream.received().pop().expect("a request")).expect("text").to_lowercase();
        assert!(asked.starts_with(&format!("get {path} http/1.1\r\n")), "{asked}");
        for line in
            ["upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13", "sec-websocket-protocol: chat"]
        {
            assert!(asked.contains(&format!("\r\n{line}\r\n")), "{line} in {asked}");
        }
        assert!(asked.contains("\r\nsec-websocket-key: "), "{asked}");
    }
    // A plain CONNECT is for forward proxies, and we serve no other protocol.
    for (protocol, status) in [(None, 405), (Some("connect-udp"), 501)] {
        let target = if protocol.is_none() { "shop.test:80" } else { "http://shop.test/" };
        let mut request = http::Request::connect(target).body(full("")).expect("a request");
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
        }
        let response = within("an answer", client.send(request)).await.expect("an answer");
        assert_eq!(response.status().as_u16(), status, "{protocol:?}");
    }
    // An upstream of HTTP/2 that takes no extended CONNECT.
    let plain =
        H2Backend::spawn(h2::server::Builder::new(), |_, _, respond| async move { answer(respond, "ok") }).await;
    let mut setup = Setup::before(&[plain.address()]);
    setup.app()["upstream"] = json!({ "protocol": "h2" });
    let proxy = Proxy::start(setup).await;
    let response = ask_over_h2(&mut proxy.client(Protocol::H2).await, "/ws", &[]).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["proxy-status"]),
        (502, &"tealgate; error=http_upgrade_failed".parse().unwrap())
    );
    let stream = TcpStream::connect(proxy.live).await.expect("it accepts");
    assert!(client_async("ws://shop.test/ws", stream).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_on_a_stream_ends_as_its_sides_and_its_policy_say() {
    for upstream in ["http1", "h2"] {
        let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
        let mut setup = Setup::between(&blue, &green);
        setup.app()["upstream"] = json!({ "protocol": upstream });
        setup.app()["drain"] = json!({ "timeout": "1h", "streams": "cut" });
        let proxy = Proxy::start(setup).await;
        proxy.is_ready_to_promote().await;
        let mut client = proxy.client(Protocol::H2).await;
        // The client leaves without a word: the place is free, and the ledger says so.
        let left = socket_over_h2(&mut client).await;
        let in_flight = async || proxy.status().await["active"]["inFlight"].as_u64();
        eventually("the tunnel to be counted", async || in_flight().await == Some(1)).await;
        drop(left);
        eventually("the tunnel to be over", async || in_flight().await == Some(0)).await;
        // A flip cuts it where the policy wants that.
        let mut kept = socket_over_h2(&mut client).await;
        kept.send(Message::text("a")).await.expect("it lives");
        assert_eq!(within("an echo", kept.next()).await.expect("more").expect("no error"), Message::text("a"));
        proxy.promote().await;
        let end = within("the end", kept.next()).await;
        assert!(end.is_none_or(|end| end.is_ok_and(|message| message.is_close())), "{upstream}");
        let mut anew = socket_over_h2(&mut client).await;
        anew.send(Message::text("b")).await.expect("it lives");
        assert_eq!(within("an echo", anew.next()).await.expect("more").expect("no error"), Message::text("b"));
        assert!(green.seen().iter().any(|seen| seen.target.ends_with("/ws")));
    }
}

/// A WebSocket through the proxy.
async fn socket(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(proxy.live).await.expect("it accepts");
    client_async("ws://shop.test/ws", stream).await.expect("a handshake").0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tunnel_ends_and_one_that_talks_does_not() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["timeouts"] = json!({ "upgrade_idle": "1s" });
    // A tunnel is not an idle connection, and has no body.
    setup.listener("live")["timeouts"] = json!({ "idle": "100ms", "body": "100ms", "head": "100ms" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let (mut silent, mut talking) = (socket(&proxy).await, socket(&proxy).await);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(180)).await;
        talking.send(Message::text("a")).await.expect("it lives");
        assert_eq!(within("an echo", talking.next()).await.expect("more").expect("no error"), Message::text("a"));
    }
    let end = within("the end", silent.next()).await.expect("more").expect("no error");
    assert!(matches!(&end, Message::Close(Some(close)) if u16::from(close.code) == 1001), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_right_behind_the_heads_is_not_lost() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send(format!("{ASK}\0\r\n\r\nany octets")).await;
    let (mut connection, head) = upstream.request().await;
    let head = head.to_lowercase();
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: chat\r\n"), "{head}");
    connection.send(format!("{SWITCH}\x01welcome")).await;
    let head = raw.read_head().await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: chat\r\n"), "{head}");
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    assert_eq!(raw.read(8).await, b"\x01welcome");
    assert_eq!(connection.read(15).await, b"\0\r\n\r\nany octets");
    // Each direction ends on its own.
    raw.stream.shutdown().await.expect("a half-closed connection");
    assert_eq!(connection.read_to_end().await.expect("a clean end"), b"");
    connection.send("the rest").await;
    drop(connection);
    assert_eq!(raw.read_to_end().await.expect("a clean end"), b"the rest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_learns_that_the_other_has_gone() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for client_goes in [true, false] {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(ASK).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(SWITCH).await;
        raw.read_head().await;
        let (gone, mut left) = if client_goes { (raw, connection) } else { (connection, raw) };
        drop(gone);
        closed(&mut left).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_upgrade_passes_and_the_connection_goes_on() {
    let upstream = RawBackend::script(|head| {
        let answer = match head.contains("/chat") {
            true => "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            false => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
        };
        (answer.into(), Then::Keep)
    });
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    let mut raw = Raw::connect(proxy.live).await;
    let next = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    // The next request comes after the refusal, or before.
    for requests in [&[ASK, next][..], &[&[ASK, next].concat()]] {
        for request in requests {
            raw.send(request).await;
            let head = raw.read_head().await;
            if request.starts_with(ASK) {
                assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
                assert_eq!(raw.read(2).await, b"no");
            }
            if request.ends_with(next) {
                let head = if request.starts_with(ASK) { raw.read_head().await } else { head };
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                assert_eq!(raw.read(3).await, b"yes");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_asked_for_can_be_switched_to() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ] {
        let upstream = RawBackend::spawn(answer, Then::Keep);
        let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(ASK).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer:?} -> {head}");
    }
    // Nobody asked at all.
    let upstream = RawBackend::spawn(SWITCH, Then::Keep);
    let proxy = Proxy::start(Setup::before(&[upstream.address()])).await;
    for ask in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: chat, h2c\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: chat\r\nContent-Length: 1\r\n\r\na",
    ] {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(ask).await;
        let head = raw.read_head().await;
        assert!(head[8..].starts_with(" 502 "), "{ask:?} -> {head}");
        let seen = String::from_utf8(upstream.received().pop().expect("a request")).expect("text").to_lowercase();
        assert!(!seen.contains("upgrade"), "{ask:?} -> {seen}");
    }
    let answer = proxy.client(Protocol::H2).await.get("/").await.expect("an answer");
    assert_eq!(answer.status, 502);
}
