//! HTTP/2 towards upstreams: which connection carries which stream, what is sent again when an upstream refuses it or goes
//! away, and every shape of body between all versions of both sides.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future;
use h2::{Reason, SendStream, server};
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{
    Body, BoxError,
    backend::Backend,
    certs::{Authority, Leaf},
    client::{Answer, Client, Protocol, Raw, at_once, tls},
    eventually,
    frames::{DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, literal},
    full,
    h2_backend::{H2Backend, answer, whole},
    proxy::Proxy,
    raw_backend::{ByHand, RawBackend, Then, closed},
    setup::Setup,
    within,
};

/// RFC 9113 §6.5.2.
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// One worker before one revision that speaks HTTP/2.
fn setup(addresses: &[SocketAddr]) -> Setup {
    let mut setup = Setup::before(addresses);
    setup.config["workers"] = json!(1);
    setup.app()["upstream"] = json!({ "protocol": "h2" });
    setup.app()["retries"] = json!({ "attempts": 1 });
    setup
}

async fn proxy(upstream: &H2Backend) -> Proxy {
    Proxy::start(setup(&[upstream.address()])).await
}

/// A body in pieces, and trailers at its end.
fn pieces(pieces: usize, trailers: bool) -> Body {
    let data = (0..pieces).map(|n| Frame::data(Bytes::from(vec![b'a' + (n % 26) as u8; 1000])));
    let fields = trailers.then(|| [("x-sum", "1")].into_iter());
    let fields = fields.map(|fields| {
        let field =
            |(name, value): (&'static str, &str)| (name.parse().expect("a name"), value.parse().expect("a value"));
        Frame::trailers(fields.map(field).collect::<HeaderMap>())
    });
    let frames: Vec<Result<Frame<Bytes>, BoxError>> = data.chain(fields).map(Ok).collect();
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_any_shape_is_the_same_between_all_versions_of_both_sides_with_tls_and_without() {
    const MIB: usize = 1024 * 1024;
    let backend = Backend::spawn("blue");
    let authority = Authority::new();
    let (over_tls, _serving) =
        tls_before(backend.address(), &authority.sign("upstream", &["app.test"]), &["h2", "http/1.1"]).await;
    let long = Bytes::from((0..4 * MIB).map(|n| (n * 31 % 251) as u8).collect::<Vec<_>>());
    let plain = backend.address();
    for (upstream, address) in
        [("http1", plain), ("h2", plain), ("auto", plain), ("http1", over_tls), ("h2", over_tls), ("auto", over_tls)]
    {
        let mut setup = setup(&[address]);
        setup.app()["upstream"] = match address == over_tls {
            true => json!({ "protocol": upstream, "tls": { "roots": authority.roots(), "server_name": "app.test" } }),
            false => json!({ "protocol": upstream }),
        };
        let proxy = Proxy::start(setup).await;
        eventually("it is ready", async || proxy.status().await["active"]["ready"] == 1).await;
        for downstream in Protocol::ALL {
            let mut client = proxy.client(downstream).await;
            let case = format!("{downstream:?} before {upstream} at {address} ({over_tls} has TLS)");
            // Twice each: what one leaves on a connection must not be in the way of the next.
            for _ in 0..2 {
                for (method, path, status, length) in [
                    ("GET", "/", 200, 4),
                    ("GET", "/status/204", 204, 0),
                    ("GET", "/status/304", 304, 0),
                    ("HEAD", "/bytes/1000", 200, 0),
                    ("HEAD", "/slow?ms=1&chunks=2", 200, 0),
                    ("GET", "/bytes/0", 200, 0),
                    ("GET", "/bytes/1000", 200, 1000),
                    ("GET", "/bytes/3000000", 200, 3_000_000),
                    ("GET", "/slow?ms=1&chunks=5", 200, 40),
                    ("POST", "/echo", 200, 0),
                ] {
                    let request = client.request(method, path).body(full("")).expect("a request");
                    let answer = client.fetch(request).await.unwrap_or_else(|e| panic!("{case} {method} {path}: {e}"));
                    assert_eq!((answer.status.as_u16(), answer.body.len()), (status, length), "{case} {method} {path}");
                    if let Some(length) = path.strip_prefix("/bytes/") {
                        assert_eq!(answer.header("content-length"), length, "{case} {method} {path}");
                    }
                }
                for (body, expected) in [
                    (full("of a length"), "of a length".len()),
                    (full(long.clone()), long.len()),
                    (pieces(0, false), 0),
                    (pieces(50, false), 50_000),
                ] {
                    let request = client.request("POST", "/echo").body(body).expect("a request");
                    let answer = client.fetch(request).await.unwrap_or_else(|e| panic!("{case} of {expected}: {e}"));
                    assert_eq!(answer.body.len(), expected, "{case}");
                    assert!(expected != long.len() || answer.body == long, "{case}");
                }
                let request = client.request("POST", "/echo").header("te", "trailers").header("trailer", "x-sum");
                let request = request.body(pieces(3, true)).expect("a request");
                let answer = client.fetch(request).await.unwrap_or_else(|e| panic!("{case} with trailers: {e}"));
                let sum = answer.trailers.as_ref().and_then(|trailers| trailers.get("x-sum"));
                assert_eq!((answer.body.len(), sum), (3000, Some(&"1".parse().expect("a value"))), "{case}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_has_come_with_its_head_goes_on_though_nothing_more_comes() {
    let backend = Backend::spawn("blue");
    let proxy = Proxy::start(setup(&[backend.address()])).await;
    let mut raw = Raw::connect(proxy.live).await;
    for body in [
        "Content-Length: 10\r\n\r\nhelloworld",
        "Transfer-Encoding: chunked\r\n\r\na\r\nhelloworld\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n5\r\nworld\r\n0\r\nX-Sum: 1\r\n\r\n",
    ] {
        raw.send(format!("POST /heard HTTP/1.1\r\nHost: shop.test\r\n{body}")).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "), "{body}");
        assert_eq!(raw.read("blue".len()).await, b"blue");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_is_told_in_its_own_words_what_is_asked_and_by_whom() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["upstream"] = json!({ "protocol": "h2" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let request = client.request("GET", "/a?b=c").header("x-request-id", "mine").header("cookie", "a=1");
        client.fetch(request.body(full("")).expect("a request")).await.expect("an answer");
        let seen = blue.seen().pop().expect("a request");
        assert_eq!(seen.target, "http://shop.test/a?b=c", "{protocol:?}");
        assert!(!seen.headers.contains_key("host") && !seen.headers.contains_key("connection"));
        for (name, value) in [("x-request-id", "mine"), ("cookie", "a=1"), ("x-forwarded-for", "127.0.0.1")] {
            assert_eq!(seen.headers[name], value, "{protocol:?}");
        }
    }
    // A client of HTTP/1.0 that names no host.
    let answer = Raw::exchange(proxy.live, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(blue.seen().pop().expect("a request").target, "/");
}

/// Holds every stream until it is told to let go.
async fn holding(limit: Option<u32>) -> (H2Backend, watch::Sender<bool>, Arc<AtomicUsize>) {
    let (release, released) = watch::channel(false);
    let most = Arc::new(AtomicUsize::new(0));
    let held = Arc::new(AtomicUsize::new(0));
    let mut builder = server::Builder::new();
    if let Some(limit) = limit {
        builder.max_concurrent_streams(limit);
    }
    let seen = Arc::clone(&most);
    let upstream = H2Backend::spawn(builder, move |_, _, respond| {
        let (mut released, held, most) = (released.clone(), Arc::clone(&held), Arc::clone(&seen));
        async move {
            most.fetch_max(held.fetch_add(1, SeqCst) + 1, SeqCst);
            released.wait_for(|released| *released).await.ok();
            held.fetch_sub(1, SeqCst);
            answer(respond, "ok");
        }
    })
    .await;
    (upstream, release, most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_share_connections_and_others_are_opened_only_when_all_are_full() {
    for (limit, requests, connections) in [(None, 90, 1), (None, 250, 3), (Some(10), 45, 5), (Some(1), 4, 4)] {
        let (upstream, release, most) = holding(limit).await;
        let proxy = proxy(&upstream).await;
        // One first, so that the limit is known.
        release.send_replace(true);
        let mut client = proxy.client(Protocol::H1).await;
        assert_eq!(client.get("/").await.expect("an answer").text(), "ok");
        release.send_replace(false);
        let mut clients = Vec::new();
        for _ in 0..requests {
            clients.push(proxy.client(Protocol::H1).await);
        }
        let answers: Vec<_> = clients.iter_mut().map(|client| client.get_later("/")).collect();
        let case = format!("{requests} requests of {limit:?} at once");
        eventually(&case, async || most.load(SeqCst) == requests).await;
        assert_eq!(upstream.accepted(), connections, "{case}");
        release.send_replace(true);
        for answer in answers {
            assert_eq!(within("an answer", answer).await.expect("a task").expect("an answer").text(), "ok");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_before_the_first_connection_does_not_open_one_each() {
    let (upstream, release, most) = holding(None).await;
    let proxy = proxy(&upstream).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(proxy.client(Protocol::H1).await);
    }
    let answers: Vec<_> = clients.iter_mut().map(|client| client.get_later("/")).collect();
    eventually("all to be there", async || most.load(SeqCst) == 50).await;
    assert_eq!(upstream.accepted(), 1);
    release.send_replace(true);
    future::join_all(answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_upstream_has_not_looked_at_is_sent_again_whatever_its_method() {
    for body in ["", "a body"] {
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        let upstream = H2Backend::spawn(server::Builder::new(), move |connection, mut request, mut respond| {
            let count = Arc::clone(&count);
            async move {
                // The first connection takes one request, and refuses all after it.
                if connection == 1 && request.uri().path() != "/first" {
                    let sent = whole(request.body_mut()).await.expect("a body").0;
                    assert_eq!(sent, body.as_bytes());
                    count.fetch_add(1, SeqCst);
                    respond.send_reset(Reason::REFUSED_STREAM);
                    return;
                }
                let sent = whole(request.body_mut()).await.expect("a body").0;
                answer(respond, sent);
            }
        })
        .await;
        let proxy = proxy(&upstream).await;
        for (n, protocol) in Protocol::ALL.into_iter().enumerate() {
            let mut client = proxy.client(protocol).await;
            if n == 0 {
                client.get("/first").await.expect("an answer");
            }
            let request = client.request("POST", "/").body(full(body)).expect("a request");
            let answer = client.fetch(request).await.expect("an answer");
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, body.to_owned()), "{protocol:?}");
        }
        assert_eq!(refused.load(SeqCst), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goaway_costs_no_request_neither_those_below_its_last_stream_nor_those_above() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(setup(&[upstream.address()])).await;
    let mut clients = [proxy.client(Protocol::H2).await, proxy.client(Protocol::H1).await];
    let ask = |client: &mut Client| {
        let request = client.request("POST", "/").body(full("a body")).expect("a request");
        let response = client.send(request);
        tokio::spawn(async move { Answer::read(response.await?).await })
    };
    let below = ask(&mut clients[0]);
    let mut old = Frames::accept(&upstream, &[]).await;
    let first = old.next_request().await;
    let above = clients.each_mut().map(ask);
    for _ in 0..2 {
        old.next_request().await;
    }
    old.send(GOAWAY, 0, 0, &[&first.to_be_bytes()[..], &0_u32.to_be_bytes()].concat()).await;
    // Those above go elsewhere, while the one below goes on.
    let mut new = Frames::accept(&upstream, &[]).await;
    for _ in 0..2 {
        let stream = new.next_request().await;
        new.answer(stream, &[(":status", "200")], "new").await;
    }
    for answer in above {
        assert_eq!(within("an answer", answer).await.expect("a task").expect("an answer").text(), "new");
    }
    old.answer(first, &[(":status", "200")], "old").await;
    assert_eq!(within("an answer", below).await.expect("a task").expect("an answer").text(), "old");
    // The connection ends with its last stream.
    closed(&mut old.raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_acted_on_is_sent_again_only_where_that_does_no_harm() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let upstream = H2Backend::spawn(server::Builder::new(), move |_, mut request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            whole(request.body_mut()).await.ok();
            match count.fetch_add(1, SeqCst) % 2 {
                0 => respond.send_reset(Reason::INTERNAL_ERROR),
                _ => answer(respond, "ok"),
            }
        }
    })
    .await;
    let other = upstream.address();
    let mut setup = setup(&[other]);
    setup.app()["retries"] = json!({ "attempts": 2 });
    let proxy = Proxy::start(setup).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for (method, body, status, times) in [
            ("GET", "", 200, 2),
            ("PUT", "small", 200, 2),
            ("DELETE", "", 200, 2),
            ("POST", "", 502, 1),
            ("PATCH", "x", 502, 1),
        ] {
            served.store(0, SeqCst);
            let request = client.request(method, "/").body(full(body)).expect("a request");
            let answer = client.fetch(request).await.expect("an answer");
            assert_eq!((answer.status.as_u16(), served.load(SeqCst)), (status, times), "{method} over {protocol:?}");
        }
    }
    assert_eq!(upstream.accepted(), 1, "a reset stream costs no connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_costs_its_stream_and_no_other() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(setup(&[upstream.address()])).await;
    let mut client = proxy.client(Protocol::H2).await;
    let staying = client.get_later("/stays");
    let mut frames = Frames::accept(&upstream, &[]).await;
    let stays = frames.next_request().await;
    for protocol in Protocol::ALL {
        let mut leaving = proxy.client(protocol).await;
        let request = leaving.request("GET", "/leaves").body(full("")).expect("a request");
        let response = tokio::spawn(leaving.send(request));
        let left = frames.next_request().await;
        response.abort();
        drop(leaving);
        let reset = frames.first(&[RST_STREAM]).await.expect("a reset");
        assert_eq!((reset.stream, &reset.payload[..]), (left, &8_u32.to_be_bytes()[..]), "{protocol:?}");
    }
    frames.answer(stays, &[(":status", "200")], "ok").await;
    assert_eq!(within("an answer", staying).await.expect("a task").expect("an answer").text(), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_off_is_seen_to_be_with_tls_and_without() {
    let upstream = H2Backend::spawn(server::Builder::new(), |_, request, mut respond| async move {
        let mut head = Response::new(());
        if request.uri().path() == "/length" {
            head.headers_mut().insert(header::CONTENT_LENGTH, "1000".parse().expect("a value"));
        }
        let mut stream = respond.send_response(head, false).expect("a stream");
        stream.send_data("half of it".into(), false).expect("a stream");
        // The head and the first piece leave before the reset.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let authority = Authority::new();
    let leaf = authority.sign("upstream", &["app.test"]);
    let (over_tls, _serving) = tls_before(upstream.address(), &leaf, &["h2"]).await;
    for address in [upstream.address(), over_tls] {
        let mut setup = setup(&[address]);
        if address == over_tls {
            setup.app()["upstream"]["tls"] = json!({ "roots": authority.roots(), "server_name": "app.test" });
        }
        let proxy = Proxy::start(setup).await;
        for path in ["/length", "/chunks"] {
            for protocol in Protocol::ALL {
                let answer = proxy.client(protocol).await.get(path).await;
                assert!(answer.is_err(), "{path} over {protocol:?}: {answer:?}");
            }
            let mut raw = Raw::connect(proxy.live).await;
            raw.send(format!("GET {path} HTTP/1.0\r\n\r\n")).await;
            let head = raw.read_head().await.to_lowercase();
            let end = raw.read_to_end().await;
            assert!(end.is_err() || head.contains("content-length: 1000"), "{head}");
        }
        let lost = proxy.metric("tealgate_requests_lost_total", &["reset"]).await;
        assert_eq!(lost as u32, 6);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_takes_is_not_read_and_holds_up_no_other() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let upstream = H2Backend::spawn(server::Builder::new(), move |_, request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            if request.uri().path() == "/short" {
                return answer(respond, "ok");
            }
            let mut stream = respond.send_response(Response::new(()), false).expect("a stream");
            for _ in 0..1024 {
                let piece = Bytes::from_static(&[b'x'; 64 * 1024]);
                stream.reserve_capacity(piece.len());
                let mut left = piece.len();
                while left > 0 {
                    let Some(Ok(window)) = future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                    let now = window.min(left);
                    if stream.send_data(piece.slice(..now), false).is_err() {
                        return;
                    }
                    left -= now;
                    count.fetch_add(now, SeqCst);
                }
            }
            stream.send_data(Bytes::new(), true).ok();
        }
    })
    .await;
    let proxy = proxy(&upstream).await;
    let mut stalled = Vec::new();
    for n in 0..40 {
        let mut client = proxy.client(Protocol::ALL[n % 2]).await;
        let request = client.request("GET", "/endless").body(full("")).expect("a request");
        let response = within("a head", client.send(request)).await.expect("an answer");
        stalled.push((client, response));
    }
    let mut client = proxy.client(Protocol::H2).await;
    for _ in 0..20 {
        assert_eq!(client.get("/short").await.expect("an answer").text(), "ok");
    }
    assert_eq!(upstream.accepted(), 1);
    // What is on its way: the windows of both sides, and the sockets between them.
    let sent = sent.load(SeqCst);
    assert!(sent < 40 * 8 * 1024 * 1024, "{sent} octets for clients that take none");
}

/// Sends so much of an answer, as fast as it is taken.
async fn send(stream: &mut SendStream<Bytes>, octets: usize) -> Result<(), h2::Error> {
    let mut left = octets;
    while left > 0 {
        stream.reserve_capacity(left.min(64 * 1024));
        let Some(window) = future::poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
        let now = window?.min(left);
        stream.send_data(vec![b'x'; now].into(), now == left)?;
        left -= now;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_all_of_its_request_before_it_takes_its_answer_is_served() {
    const OCTETS: usize = 16 * 1024 * 1024;
    let (came, mut whole_came) = watch::channel(0);
    let upstream = H2Backend::spawn(server::Builder::new(), move |_, request, mut respond| {
        let came = came.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).expect("a stream");
            let mut body = request.into_body();
            let takes = async {
                let octets = whole(&mut body).await.map_or(0, |(octets, _)| octets.len());
                came.send_modify(|came| *came += octets);
            };
            let _ = tokio::join!(takes, send(&mut stream, OCTETS));
        }
    })
    .await;
    let proxy = proxy(&upstream).await;
    for (n, protocol) in [1, 2].into_iter().zip(Protocol::ALL) {
        let mut client = proxy.client(protocol).await;
        let request = client.request("POST", "/").body(full(vec![b'x'; OCTETS])).expect("a request");
        let response = within("a head", client.send(request)).await.expect("an answer");
        let all = within("the request", whole_came.wait_for(|came| *came == n * OCTETS)).await;
        drop(all.expect("an upstream"));
        let answer = within("the answer", Answer::read(response)).await.expect("it ends well");
        assert_eq!(answer.body.len(), OCTETS, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_cut_off_at_the_limit_with_tls_and_without() {
    let backend = Backend::spawn("blue");
    let authority = Authority::new();
    let leaf = authority.sign("shop", &["shop.test"]);
    for secure in [false, true] {
        let mut setup = setup(&[backend.address()]);
        setup.listener("live")["timeouts"] = json!({ "body": "300ms" });
        if secure {
            setup.listener("live")["tls"] = json!({ "certificates": [{ "cert": leaf.cert, "key": leaf.key }] });
        }
        let proxy = Proxy::start(setup).await;
        let request = b"GET /bytes/100000000 HTTP/1.1\r\nHost: shop.test\r\n\r\n";
        let (mut plain, mut over_tls) = (None, None);
        if secure {
            let stream = tls(proxy.live, "shop.test", authority.trusted()).await.expect("a handshake");
            over_tls.insert(stream).write_all(request).await.expect("it is read");
        } else {
            plain.insert(Raw::connect(proxy.live).await).send(request).await;
        }
        let gone = [r#"outcome="client_gone""#];
        let gone = async || proxy.metric("tealgate_requests_ended_total", &gone).await == 1.0;
        eventually(if secure { "an end over TLS" } else { "an end" }, gone).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_as_fast_as_the_upstream_takes_it_and_holds_up_no_other() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(setup(&[upstream.address()])).await;
    let mut uploader = Raw::connect(proxy.live).await;
    uploader.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000000000\r\n\r\n").await;
    let mut frames = Frames::accept(&upstream, &[(INITIAL_WINDOW_SIZE, 1000)]).await;
    frames.next_request().await;
    // The stream's window is all that comes.
    let mut came = 0;
    let piece = vec![b'x'; 64 * 1024];
    let mut taken = 0;
    while let Ok(Ok(octets)) = tokio::time::timeout(Duration::from_millis(500), uploader.stream.write(&piece)).await {
        taken += octets;
        assert!(taken < 64 * 1024 * 1024, "{taken} octets were taken of the client");
    }
    while came < 1000 {
        came += frames.first(&[DATA]).await.expect("data").payload.len();
    }
    assert_eq!(came, 1000);
    let mut client = proxy.client(Protocol::H1).await;
    let other = client.get_later("/");
    let stream = frames.first(&[HEADERS]).await.expect("a request").stream;
    frames.answer(stream, &[(":status", "200")], "ok").await;
    assert_eq!(within("an answer", other).await.expect("a task").expect("an answer").text(), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_an_upload_reaches_the_client() {
    let upstream = H2Backend::spawn(server::Builder::new(), |_, _request, mut respond| async move {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::FORBIDDEN;
        if let Ok(mut stream) = respond.send_response(head, false) {
            stream.send_data("no".into(), true).ok();
        }
        // What is left of the request is refused by a reset with NO_ERROR (RFC 9113 §8.1).
    })
    .await;
    let proxy = proxy(&upstream).await;
    let mut raw = Raw::connect(proxy.live).await;
    raw.send("PUT / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100000000\r\n\r\nthe first octets").await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let mut client = proxy.client(Protocol::H2).await;
    let endless = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>()).boxed_unsync();
    let request = client.request("PUT", "/").body(endless).expect("a request");
    let answer = within("an answer", client.send(request)).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "no");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_the_rules_is_a_502_and_costs_no_other() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(setup(&[upstream.address()])).await;
    let mut client = proxy.client(Protocol::H2).await;
    let staying = client.get_later("/stays");
    let mut frames = Frames::accept(&upstream, &[]).await;
    let stays = frames.next_request().await;
    let long = "x".repeat(40_000);
    for fields in [
        &[(":status", "200"), ("content-length", "1"), ("content-length", "1")][..],
        &[(":status", "200"), ("content-length", "1"), ("content-length", "2")],
        &[(":status", "200"), ("content-length", "x")],
        &[(":status", "200"), ("connection", "close")],
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        &[(":status", "101")],
        &[(":status", "600")],
        &[("x", "no status")],
        &[(":status", "200"), ("x-long", &long[..16_000]), ("x-longer", &long[..16_000]), ("x-more", &long[..8000])],
    ] {
        let answer = client.get_later("/");
        let stream = frames.next_request().await;
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        send_block(&mut frames, stream, &block).await;
        let answer = within("an answer", answer).await.expect("a task").expect("an answer");
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{:?}", &fields[..2.min(fields.len())]);
    }
    // Interim answers are passed by, up to a point.
    for (interim, status) in [(3, 200), (1000, 502)] {
        let answer = client.get_later("/");
        let stream = frames.next_request().await;
        let hint = [literal(":status", "103"), literal("link", "</a>; rel=preload")].concat();
        for _ in 0..interim {
            if !frames.try_send(&crate::support::frames::frame(HEADERS, END_HEADERS, stream, &hint)).await {
                break;
            }
        }
        frames.answer(stream, &[(":status", "200")], "").await;
        assert_eq!(within("an answer", answer).await.expect("a task").expect("an answer").status.as_u16(), status);
    }
    frames.answer(stays, &[(":status", "200")], "ok").await;
    assert_eq!(within("an answer", staying).await.expect("a task").expect("an answer").text(), "ok");
}

/// A header block in as many frames as it takes.
async fn send_block(frames: &mut Frames, stream: u32, block: &[u8]) {
    let mut pieces = block.chunks(16_000).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let ends = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let ended = if kind == HEADERS { END_STREAM } else { 0 };
        frames.send(kind, ends | ended, stream, piece).await;
        kind = crate::support::frames::CONTINUATION;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_speak_http2_is_found_out_before_a_request_is_sent() {
    let other = RawBackend::spawn("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", Then::Close);
    let proxy = Proxy::start(setup(&[other.address()])).await;
    for protocol in Protocol::ALL {
        let answer = proxy.client(protocol).await.get("/").await.expect("an answer");
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{protocol:?}");
    }
    // One that says nothing at all, and one that takes no stream.
    for silent in [true, false] {
        let upstream = ByHand::listen().await;
        let mut setup = setup(&[upstream.address()]);
        setup.app()["timeouts"] = json!({ "connect": "300ms" });
        let proxy = Proxy::start(setup).await;
        let answer = proxy.client(Protocol::H1).await.get_later("/");
        let _kept = match silent {
            true => upstream.accept().await,
            false => Frames::accept(&upstream, &[(MAX_CONCURRENT_STREAMS, 0)]).await.raw,
        };
        let answer = within("an answer", answer).await.expect("a task").expect("an answer");
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_revision_that_is_out_of_routing_end_with_their_streams() {
    let blue = ByHand::listen().await;
    let (other, green) = (Backend::spawn("other"), Backend::spawn("green"));
    let mut setup = Setup::between(&other, &green);
    setup.config["workers"] = json!(1);
    setup.app()["upstream"] = json!({ "protocol": "h2" });
    setup.app()["health"] = json!({ "interval": "50ms", "rise": 1 });
    setup.app()["source"]["static"]["revisions"]["other"]["endpoints"] = json!([blue.address()]);
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let mut client = proxy.client(Protocol::H1).await;
    let first = client.get_later("/");
    let mut frames = Frames::accept(&blue, &[]).await;
    let stream = frames.next_request().await;
    proxy.promote().await;
    assert_eq!(proxy.client(Protocol::H2).await.get("/").await.expect("an answer").colour(), "green");
    frames.answer(stream, &[(":status", "200")], "to its end").await;
    assert_eq!(within("an answer", first).await.expect("a task").expect("an answer").text(), "to its end");
    closed(&mut frames.raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_closes_its_connections_now_and_then_fails_no_request() {
    let upstream = H2Backend::closing_after(10).await;
    let proxy = proxy(&upstream).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for n in 0..60 {
            let request = client.request("POST", "/").body(full("a body")).expect("a request");
            let answer = client.fetch(request).await.unwrap_or_else(|e| panic!("{n} over {protocol:?}: {e}"));
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "a body".to_owned()), "{n} over {protocol:?}");
        }
        if protocol == Protocol::H2 {
            let answers = at_once(&mut client, "/", 200).await;
            assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)));
        }
    }
    assert!(upstream.accepted() > 10, "{} connections", upstream.accepted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_at_all_ends_its_connection_and_the_next_request_has_another() {
    let upstream = ByHand::listen().await;
    let proxy = Proxy::start(setup(&[upstream.address()])).await;
    let mut client = proxy.client(Protocol::H2).await;
    for fields in [
        &[(":status", "200"), ("X-Upper", "1")][..],
        &[(":status", "200"), ("x", "a\r\nb: c")],
        &[(":status", "99")],
        &[(":status", "2000")],
    ] {
        let answer = client.get_later("/");
        let mut frames = Frames::accept(&upstream, &[]).await;
        let stream = frames.next_request().await;
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        send_block(&mut frames, stream, &block).await;
        let answer = within("an answer", answer).await.expect("a task").expect("an answer");
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{fields:?}");
        closed(&mut frames.raw).await;
    }
}

/// TLS in front of an upstream, in which these protocols can be chosen.
async fn tls_before(behind: SocketAddr, leaf: &Leaf, alpn: &[&str]) -> (SocketAddr, AbortOnDropHandle<()>) {
    let chain = vec![CertificateDer::from_pem_file(&leaf.cert).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&leaf.key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.expect("a key for the certificate");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut behind = TcpStream::connect(behind).await.expect("it accepts");
                tokio::io::copy_bidirectional(&mut stream, &mut behind).await.ok();
            });
        }
    });
    (address, AbortOnDropHandle::new(serving))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_endpoint_chooses_where_it_may() {
    let authority = Authority::new();
    let leaf = authority.sign("upstream", &["app.test"]);
    for (protocol, alpn, chosen) in [
        ("auto", &["h2", "http/1.1"][..], "h2"),
        ("auto", &["http/1.1"], "http1"),
        ("auto", &[], "http1"),
        ("h2", &["h2", "http/1.1"], "h2"),
        ("http1", &["h2", "http/1.1"], "http1"),
    ] {
        let backend = Backend::spawn("blue");
        let (address, _serving) = tls_before(backend.address(), &leaf, alpn).await;
        let mut setup = setup(&[address]);
        let tls = json!({ "roots": authority.roots(), "server_name": "app.test" });
        setup.app()["upstream"] = json!({ "protocol": protocol, "tls": tls });
        setup.app()["health"] = json!({ "path": "/healthz", "interval": "50ms", "rise": 1 });
        let proxy = Proxy::start(setup).await;
        let case = format!("{protocol} before {alpn:?}");
        eventually(&case, async || proxy.status().await["active"]["ready"] == 1).await;
        for downstream in Protocol::ALL {
            let mut client = proxy.client(downstream).await;
            for _ in 0..3 {
                let request = client.request("POST", "/echo").body(pieces(20, false)).expect("a request");
                let answer = client.fetch(request).await.unwrap_or_else(|e| panic!("{case}: {e}"));
                assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 20_000), "{case}");
                let target = backend.seen().pop().expect("a request").target;
                let expected = if chosen == "h2" { "https://shop.test/echo" } else { "/echo" };
                assert_eq!(target, expected, "{case} for {downstream:?}");
            }
        }
        // A WebSocket goes the way that every server knows, where that is open.
        let stream = TcpStream::connect(proxy.live).await.expect("it accepts");
        let (_socket, response) = tokio_tungstenite::client_async("ws://shop.test/ws", stream).await.expect(&case);
        assert_eq!(response.status(), 101, "{case}");
        let target = backend.seen().pop().expect("a request").target;
        assert_eq!(target, if protocol == "h2" { "https://shop.test/ws" } else { "/ws" }, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_speaks_nothing_else_is_probed_in_http2() {
    let well = Arc::new(AtomicUsize::new(200));
    let status = Arc::clone(&well);
    let upstream = H2Backend::spawn(server::Builder::new(), move |_, request, mut respond| {
        let status = Arc::clone(&status);
        async move {
            assert_eq!(request.uri().path(), "/healthz");
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::from_u16(status.load(SeqCst) as u16).expect("a status");
            respond.send_response(head, true).ok();
        }
    })
    .await;
    let mut setup = setup(&[upstream.address()]);
    setup.app()["health"] = json!({ "path": "/healthz", "interval": "50ms", "rise": 1, "fall": 1 });
    let proxy = Proxy::start(setup).await;
    for (now, ready) in [(200, 1), (503, 0), (204, 1)] {
        well.store(now, SeqCst);
        eventually("the probes to notice", async || proxy.status().await["active"]["ready"] == ready).await;
    }
}
