//! What an upstream takes with it when it dies is counted as its clients count it: each stream and each tunnel that broke
//! under way, once, whether the dead end said no or nothing; and none that a client had left himself.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::support::{
    backend::Backend,
    eventually,
    load::{Lane, Load},
    proxy::Proxy,
    setup::Setup,
    within,
};

/// A proxy before this upstream, which it speaks this protocol to.
async fn proxy(backend: &Backend, protocol: &str) -> Proxy {
    let mut setup = Setup::before(&[backend.address()]);
    setup.app()["upstream"] = json!({ "protocol": protocol });
    Proxy::start(setup).await
}

/// A WebSocket on which one message has come back.
async fn socket(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(proxy.live).await.expect("it accepts");
    let (mut socket, _) = client_async("ws://shop.test/ws", stream).await.expect("a handshake");
    socket.send(Message::text("hello")).await.expect("it goes");
    within("an echo", socket.next()).await.expect("more").expect("no error");
    socket
}

/// Waits until so many requests have ended so.
async fn ended(proxy: &Proxy, outcome: &str, count: f64) {
    let label = format!(r#"outcome="{outcome}""#);
    eventually(&format!("{count} to be {outcome}"), async || {
        proxy.metric("tealgate_requests_ended_total", &[&label]).await == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_tunnels_that_break_with_their_upstream_are_lost_by_our_count_as_by_their_clients() {
    for protocol in ["http1", "h2"] {
        let mut backend = Backend::spawn("blue");
        let proxy = proxy(&backend, protocol).await;
        let load = Load::of(&[Lane::Events, Lane::WebSockets, Lane::Calls], proxy.live);
        eventually("all to be under way", async || load.report().lanes.values().all(|tally| tally.messages > 20)).await;
        let lost = async || proxy.metric("tealgate_requests_lost_total", &[]).await;
        assert_eq!(lost().await, 0.0);
        backend.stop();
        eventually("all to break", async || load.report().broken() == 6).await;
        let report = load.stop().await;
        // Whoever came again at once found nobody.
        let theirs = (report.broken() + report.failed()) as f64;
        eventually(&format!("{theirs} to be lost: {report}"), async || lost().await == theirs).await;
        ended(&proxy, "upstream_failed_after", 6.0).await;
        assert_eq!(proxy.metric("tealgate_requests_ended_total", &[r#"outcome="client_gone""#]).await, 0.0, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_socket_that_ends_without_a_word_is_laid_to_whoever_ended_it() {
    let mut backend = Backend::spawn("blue");
    let proxy = proxy(&backend, "http1").await;
    // A word, and nobody has lost anything.
    let mut parted = socket(&proxy).await;
    parted.close(None).await.expect("it goes");
    within("the end", async { while parted.next().await.is_some_and(|message| message.is_ok()) {} }).await;
    drop(parted);
    ended(&proxy, "answered", 1.0).await;
    // A client that is gone.
    drop(socket(&proxy).await);
    ended(&proxy, "client_gone", 1.0).await;
    // An upstream that is gone while nobody speaks: its system closes what it leaves behind, as if all were well.
    let mut idle = socket(&proxy).await;
    backend.stop();
    let end = within("the end", idle.next()).await;
    assert!(matches!(end, Some(Err(_)) | None), "{end:?}");
    drop(idle);
    ended(&proxy, "upstream_failed_after", 1.0).await;
    assert_eq!(proxy.metric("tealgate_requests_lost_total", &[r#"reason="reset""#]).await, 1.0);
}
