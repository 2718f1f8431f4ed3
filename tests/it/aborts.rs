//! Whoever leaves in the middle is missed by the other side, between all versions of both sides, with TLS to the upstream and
//! without: a request that its client cuts off never looks whole to the upstream, nor an answer that its upstream cuts off to
//! the client; nobody is blamed who did not leave, and the next request is served.

use std::time::Duration;

use serde_json::json;
use socket2::SockRef;

use crate::support::{
    certs::Authority,
    client::{Protocol, Raw},
    eventually,
    frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, literal},
    outlet::Outlet,
    proxy::Proxy,
    raw_backend::{ByHand, closed},
    setup::Setup,
    within,
};

/// RFC 9113 §7.
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();

/// How somebody goes.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// With the connection, in good order.
    Closing,
    /// With the connection; where there are streams, with the stream alone.
    Resetting,
}

/// A proxy, and the upstream behind it, played by the test.
struct Stage {
    proxy: Proxy,
    by_hand: ByHand,
    _outlet: Option<Outlet>,
    protocol: &'static str,
    asked: Option<Asked>,
}

/// The request that came last: the only one on its connection, or one of its streams.
enum Asked {
    Alone(Raw),
    Stream(Frames, u32),
}

impl Stage {
    /// Of an upstream that speaks this.
    async fn set(protocol: &'static str, authority: Option<&Authority>) -> Self {
        let by_hand = ByHand::listen().await;
        let outlet = authority.map(|authority| {
            let mut tls = authority.sign("upstream", &["app.test"]).server();
            tls.alpn_protocols = vec![if protocol == "h2" { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
            Outlet::tls(tls, by_hand.address())
        });
        let address = outlet.as_ref().map_or(by_hand.address(), Outlet::address);
        let mut setup = Setup::before(&[address]);
        setup.config["workers"] = json!(1);
        setup.app()["retries"] = json!({ "attempts": 1 });
        setup.app()["upstream"] = json!({ "protocol": protocol });
        if let Some(authority) = authority {
            setup.app()["upstream"]["tls"] = json!({ "roots": authority.roots(), "server_name": "app.test" });
        }
        Self { proxy: Proxy::start(setup).await, by_hand, _outlet: outlet, protocol, asked: None }
    }

    /// Waits for the next request.
    async fn is_asked(&mut self) {
        self.asked = Some(match (self.protocol, self.asked.take()) {
            ("h2", Some(Asked::Stream(mut frames, _))) => {
                let stream = frames.next_request().await;
                Asked::Stream(frames, stream)
            }
            ("h2", _) => {
                let mut frames = Frames::accept(&self.by_hand, &[]).await;
                let stream = frames.next_request().await;
                Asked::Stream(frames, stream)
            }
            _ => Asked::Alone(self.by_hand.request().await.0),
        });
    }

    /// Answers the half of it, whose length nobody is told: what has one says nothing to a client that has closed its own
    /// direction, until there is more.
    async fn answers_half(&mut self) {
        match self.asked.as_mut().expect("a request") {
            Asked::Alone(raw) => {
                raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
            }
            Asked::Stream(frames, stream) => {
                frames.send(HEADERS, END_HEADERS, *stream, &literal(":status", "200")).await;
                frames.send(DATA, 0, *stream, b"hello").await;
            }
        }
    }

    /// Answers all of it.
    async fn answers(&mut self) {
        match self.asked.as_mut().expect("a request") {
            Asked::Alone(raw) => {
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
            }
            Asked::Stream(frames, stream) => frames.answer(*stream, &[(":status", "200")], "ok").await,
        }
    }

    /// Leaves the request alone.
    async fn leaves(&mut self, how: Leaving) {
        match (self.asked.take().expect("a request"), how) {
            (Asked::Stream(mut frames, stream), Leaving::Resetting) => {
                frames.send(RST_STREAM, 0, stream, &CANCEL).await;
                self.asked = Some(Asked::Stream(frames, stream));
            }
            (Asked::Alone(raw) | Asked::Stream(Frames { raw }, _), how) => leave(raw, how),
        }
    }

    /// Waits until it learns that nobody wants an answer any more, and that there was no more to the request.
    async fn is_left(&mut self) {
        match self.asked.as_mut().expect("a request") {
            Asked::Alone(raw) => closed(raw).await,
            Asked::Stream(frames, stream) => loop {
                let frame = frames.first(&[DATA, RST_STREAM]).await.expect("the connection lives on");
                assert_eq!(frame.stream, *stream, "{frame:?}");
                if frame.kind == RST_STREAM {
                    assert_eq!(frame.payload, CANCEL);
                    return;
                }
                assert!(frame.flags & END_STREAM == 0, "a whole request: {frame:?}");
            },
        }
    }

    /// Another request is served as if nothing had been.
    async fn goes_on(&mut self, downstream: Protocol) {
        let mut client = self.proxy.client(downstream).await;
        let answer = client.get_later("/");
        self.is_asked().await;
        self.answers().await;
        assert_eq!(within("an answer", answer).await.expect("a task").expect("an answer").text(), "ok");
    }

    async fn ended(&self, outcome: &str) -> u32 {
        self.proxy.metric("tealgate_requests_ended_total", &[&format!(r#"outcome="{outcome}""#)]).await as u32
    }
}

fn leave(raw: Raw, how: Leaving) {
    if let Leaving::Resetting = how {
        SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }
    drop(raw);
}

/// Every kind of upstream.
async fn stages(authority: &Authority) -> Vec<(String, Stage)> {
    let mut stages = Vec::new();
    for (protocol, tls) in [("http1", None), ("http1", Some(authority)), ("h2", None), ("h2", Some(authority))] {
        let case = format!("{protocol}{}", if tls.is_some() { " over TLS" } else { "" });
        stages.push((case, Stage::set(protocol, tls).await));
    }
    stages
}

/// A client sends a request, leaves in the middle of its body or of the answer, and the upstream learns of it.
async fn comes_and_goes(stage: &mut Stage, downstream: Protocol, uploads: bool, how: Leaving) {
    match downstream {
        Protocol::H1 => {
            let mut raw = Raw::connect(stage.proxy.live).await;
            let rest = if uploads { "Content-Length: 10\r\n\r\nhello" } else { "\r\n" };
            raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{rest}")).await;
            stage.is_asked().await;
            if !uploads {
                stage.answers_half().await;
                raw.read_head().await;
                assert_eq!(raw.read(10).await, b"5\r\nhello\r\n");
            }
            leave(raw, how);
            stage.is_left().await;
        }
        Protocol::H2 => {
            let mut frames = Frames::connect(stage.proxy.live).await;
            let length = if uploads { ("content-length", "10") } else { ("content-length", "0") };
            frames.request(1, if uploads { 0 } else { END_STREAM }, &[(":method", "POST"), length]).await;
            if uploads {
                frames.send(DATA, 0, 1, b"hello").await;
            }
            stage.is_asked().await;
            if !uploads {
                stage.answers_half().await;
                assert_eq!(frames.first(&[DATA]).await.expect("the half of it").payload, b"hello");
            }
            match how {
                Leaving::Closing => drop(frames),
                Leaving::Resetting => frames.send(RST_STREAM, 0, 1, &CANCEL).await,
            }
            // The connection stays while the upstream is to learn of the stream's end.
            stage.is_left().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_learns_of_a_client_that_leaves_in_the_middle_and_is_not_blamed() {
    let authority = Authority::new();
    for (upstream, mut stage) in stages(&authority).await {
        let mut left = 0;
        for downstream in Protocol::ALL {
            for uploads in [true, false] {
                for how in [Leaving::Closing, Leaving::Resetting] {
                    let case = format!("{downstream:?} before {upstream}, {how:?}, uploads: {uploads}");
                    println!("{case}");
                    comes_and_goes(&mut stage, downstream, uploads, how).await;
                    stage.goes_on(downstream).await;
                    left += 1;
                }
            }
        }
        let ended = async || stage.proxy.metric("tealgate_requests_ended_total", &[]).await as u32;
        eventually("all to be counted", async || ended().await == 2 * left).await;
        // Of a body that broke off, a client that has only closed its own direction is told.
        let theirs = (stage.ended("client_gone").await, stage.ended("refused").await);
        assert_eq!((theirs.0 + theirs.1, stage.ended("answered").await), (left, left), "{upstream}");
        for blame in ["tealgate_requests_lost_total", "tealgate_upstream_errors_total", "tealgate_retries_total"] {
            assert_eq!(stage.proxy.metric(blame, &[]).await, 0.0, "{blame}, {upstream}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sees_that_its_upstream_has_left_in_the_middle() {
    let authority = Authority::new();
    for (upstream, mut stage) in stages(&authority).await {
        let mut left = 0;
        for downstream in Protocol::ALL {
            for how in [Leaving::Closing, Leaving::Resetting] {
                let case = format!("{downstream:?} before {upstream}, {how:?}");
                println!("{case}");
                let mut client = stage.proxy.client(downstream).await;
                let answer = client.get_later("/");
                stage.is_asked().await;
                stage.answers_half().await;
                stage.leaves(how).await;
                let answer = within(&case, answer).await.expect("a task");
                // A reset may overtake the head, and then there is no answer to cut.
                assert!(
                    answer.as_ref().is_ok_and(|answer| answer.status == 502) || answer.is_err(),
                    "{case}: {answer:?}"
                );
                left += 1;
                eventually(&case, async || {
                    stage.proxy.metric("tealgate_requests_lost_total", &[r#"reason="reset""#]).await as u32 == left
                })
                .await;
                stage.goes_on(downstream).await;
            }
        }
        assert_eq!(stage.ended("client_gone").await, 0, "{upstream}");
    }
}
