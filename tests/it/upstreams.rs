//! Reaching upstreams: over TLS, at Unix sockets, by name, and with the client's address said first.

use std::{fs, net::SocketAddr};

use http::StatusCode;
use proxy_header::{ParseConfig, ProxyHeader};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    backend::Backend,
    certs::Authority,
    client::{Client, HOST, Protocol, Raw},
    eventually, full,
    outlet::{Handshake, Outlet},
    proxy::Proxy,
    raw_backend::{ByHand, RawBackend, Then},
    setup::{APP, Setup},
    within,
};

/// Two upstreams behind TLS, each with a certificate of this authority for `app.test`.
struct Secure {
    authority: Authority,
    backends: [Backend; 2],
    outlets: [Outlet; 2],
}

impl Secure {
    fn new() -> Self {
        let authority = Authority::new();
        let backends = [Backend::spawn("blue"), Backend::spawn("green")];
        let leaf = authority.sign("app", &["app.test"]);
        let outlets = backends.each_ref().map(|backend| Outlet::tls(leaf.server(), backend.address()));
        Self { authority, backends, outlets }
    }

    /// A proxy before them, with these settings of TLS beside the roots.
    fn setup(&self, tls: &Value) -> Setup {
        let mut setup = Setup::between(&self.backends[0], &self.backends[1]);
        let [blue, green] = self.outlets.each_ref().map(|outlet| json!({ "endpoints": [outlet.address()] }));
        setup.app()["source"]["static"]["revisions"] = json!({ "blue": blue, "green": green });
        let mut settings = json!({ "roots": self.authority.roots(), "server_name": "app.test" });
        settings.as_object_mut().unwrap().extend(tls.as_object().unwrap().clone());
        setup.app()["upstream"] = json!({ "tls": settings });
        setup
    }
}

#[tokio::test]
async fn requests_and_probes_speak_tls_and_sessions_are_resumed() {
    let secure = Secure::new();
    let mut setup = secure.setup(&json!({}));
    // One probe, lest others be taken for connections of requests.
    setup.app()["health"]["interval"] = json!("1h");
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let mut client = proxy.client(Protocol::H1).await;
    for protocol in [Protocol::H1, Protocol::H2] {
        assert_eq!(proxy.client(protocol).await.get("/").await.unwrap().colour(), "blue");
    }
    let body = vec![b'x'; 3_000_000];
    let request = client.request("PUT", "/echo").body(full(body.clone())).unwrap();
    assert!(client.fetch(request).await.unwrap().body == body, "a body went there and back");

    // An idle connection is used again, session tickets notwithstanding.
    let connections = secure.backends[0].connections();
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().colour(), "blue");
    }
    assert_eq!(secure.backends[0].connections(), connections);

    proxy.promote().await;
    assert_eq!(client.get("/").await.unwrap().colour(), "green");
    let seen = secure.outlets[1].handshakes();
    assert!(seen.iter().all(|handshake| handshake.server_name.as_deref() == Some("app.test")), "{seen:?}");
    assert!(seen[1].resumed, "the session that the probe began: {seen:?}");
}

#[tokio::test]
async fn probes_speak_what_requests_do() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let mut only_h2 = authority.sign("app", &["app.test"]).server();
    only_h2.alpn_protocols = vec![b"h2".to_vec()];
    let outlet = Outlet::tls(only_h2, blue.address());
    let tls = json!({ "roots": authority.roots(), "server_name": "app.test" });
    for (endpoint, upstream) in [
        (blue.address(), json!({ "protocol": "h2" })),
        (outlet.address(), json!({ "protocol": "h2", "tls": tls })),
        (outlet.address(), json!({ "protocol": "auto", "tls": tls })),
    ] {
        let mut setup = Setup::between(&blue, &green);
        let revisions = json!({ "blue": { "endpoints": [endpoint] } });
        setup.app()["source"]["static"] = json!({ "active": "blue", "revisions": revisions });
        setup.app()["upstream"] = upstream.clone();
        let proxy = Proxy::start(setup).await;
        eventually("a good probe", async || proxy.status().await["active"]["ready"] == 1).await;
        assert_eq!(proxy.client(Protocol::H1).await.get("/").await.unwrap().colour(), "blue", "{upstream}");
    }
    assert!(blue.seen().iter().all(|seen| seen.target.starts_with("http")), "HTTP/2 gives the whole URI");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_and_nothing_is_sent() {
    let secure = Secure::new();
    let other = Authority::new();
    for (settings, what) in [
        (json!({ "roots": other.roots() }), "another authority"),
        (json!({ "server_name": "elsewhere.test" }), "another name"),
    ] {
        let proxy = Proxy::start(secure.setup(&settings)).await;
        let answer = proxy.client(Protocol::H1).await.get("/").await.unwrap();
        assert_eq!((answer.status, answer.colour()), (StatusCode::BAD_GATEWAY, ""), "{what}");
        assert_eq!(answer.header("proxy-status"), "tealgate; error=tls_certificate_error", "{what}");
        eventually("the metrics to tell", async || {
            proxy.metric("tealgate_requests_lost_total", &["tls_certificate"]).await == 1.0
        })
        .await;
        eventually("the probe to say so", async || {
            proxy.status().await["active"]["endpoints"][0]["health"] == "unhealthy"
        })
        .await;
    }
    assert!(secure.backends.iter().all(|backend| backend.seen().is_empty()));
}

#[tokio::test]
async fn an_upstream_that_speaks_no_tls_is_told_from_one_that_is_down() {
    let authority = Authority::new();
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut setup = Setup::before(&[plain.local_addr().unwrap()]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok();
        }
    });
    setup.app()["upstream"] = json!({ "tls": { "roots": authority.roots(), "server_name": "app.test" } });
    let proxy = Proxy::start(setup).await;
    let answer = proxy.client(Protocol::H1).await.get("/").await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.header("proxy-status"), "tealgate; error=tls_protocol_error");
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_those_who_ask() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let backend = Backend::spawn("blue");
    let ours = clients.sign("client", &["proxy.test"]);
    let outlet = Outlet::tls(authority.sign("app", &["app.test"]).server_for(&clients), backend.address());
    let mut setup = Setup::before(&[outlet.address()]);
    let tls = json!({ "roots": authority.roots(), "server_name": "app.test", "cert": ours.cert, "key": ours.key });
    setup.app()["upstream"] = json!({ "tls": tls });
    let proxy = Proxy::start(setup).await;
    assert_eq!(proxy.client(Protocol::H1).await.get("/").await.unwrap().colour(), "blue");
    assert!(outlet.handshakes().iter().all(|handshake| handshake.certified));

    let mut setup = Setup::before(&[outlet.address()]);
    setup.app()["upstream"] = json!({ "tls": { "roots": authority.roots(), "server_name": "app.test" } });
    let proxy = Proxy::start(setup).await;
    let answer = proxy.client(Protocol::H1).await.get("/").await.unwrap();
    assert_eq!((answer.status, answer.colour()), (StatusCode::BAD_GATEWAY, ""), "nothing to show");
}

#[tokio::test]
async fn renewed_roots_are_put_in_service_and_broken_ones_are_not() {
    let secure = Secure::new();
    let other = Authority::new();
    let file = secure.authority.roots();
    let proxy = Proxy::start(secure.setup(&json!({}))).await;
    proxy.is_ready_to_promote().await;

    fs::write(&file, "no PEM").unwrap();
    let handshakes = secure.outlets[0].handshakes().len();
    eventually("more probes to go well", async || secure.outlets[0].handshakes().len() > handshakes + 50).await;
    assert_eq!(proxy.status().await["active"]["ready"], 1, "the old roots are in service");

    fs::copy(other.roots(), &file).unwrap();
    eventually("the new roots to count", async || {
        proxy.status().await["active"]["endpoints"][0]["health"] == "unhealthy"
    })
    .await;
}

/// Two upstreams at Unix sockets.
struct Sockets {
    dir: TempDir,
    backends: [Backend; 2],
    outlets: [Outlet; 2],
}

impl Sockets {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let backends = [Backend::spawn("blue"), Backend::spawn("green")];
        let outlets = backends.each_ref().map(|backend| {
            let path = dir.path().join(format!("{}.sock", backend.colour()));
            Outlet::unix(&path, backend.address())
        });
        Self { dir, backends, outlets }
    }

    fn endpoint(&self, colour: &str) -> String {
        format!("unix:{}", self.dir.path().join(format!("{colour}.sock")).display())
    }

    fn setup(&self) -> Setup {
        let mut setup = Setup::between(&self.backends[0], &self.backends[1]);
        let [blue, green] = ["blue", "green"].map(|colour| json!({ "endpoints": [self.endpoint(colour)] }));
        setup.app()["source"]["static"]["revisions"] = json!({ "blue": blue, "green": green });
        setup
    }
}

#[tokio::test]
async fn unix_sockets_are_endpoints_like_others() {
    let sockets = Sockets::new();
    let proxy = Proxy::start(sockets.setup()).await;
    proxy.is_ready_to_promote().await;
    let mut client = proxy.client(Protocol::H1).await;
    assert_eq!(client.get("/").await.unwrap().colour(), "blue");
    assert_eq!(proxy.status().await["active"]["endpoints"][0]["address"], sockets.endpoint("blue"));
    let up = proxy.metric("tealgate_endpoint_up", &[&sockets.endpoint("blue")]).await;
    assert_eq!(up, 1.0);

    proxy.promote().await;
    assert_eq!(client.get("/").await.unwrap().colour(), "green");
    proxy.rollback().await;
    assert_eq!(client.get("/").await.unwrap().colour(), "blue");

    sockets.backends[0].unhealthy(true);
    eventually("the probe to see it", async || proxy.status().await["active"]["endpoints"][0]["health"] == "unhealthy")
        .await;
    drop(sockets.outlets);
    let answer = client.get("/").await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.header("proxy-status"), "tealgate; error=connection_refused");
}

#[tokio::test]
async fn a_unix_socket_can_be_deployed_and_spoken_tls_to() {
    let (authority, backend) = (Authority::new(), Backend::spawn("green"));
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("green.sock");
    let leaf = authority.sign("app", &["app.test"]);
    let outlet = Outlet::tls_unix(&path, leaf.server(), backend.address());
    let over_tcp = Outlet::tls(leaf.server(), backend.address());
    let mut setup = Setup::before(&[over_tcp.address()]);
    setup.app()["upstream"] = json!({ "tls": { "roots": authority.roots(), "server_name": "app.test" } });
    let proxy = Proxy::start(setup).await;
    let endpoint = format!("unix:{}", path.display());
    let deploy = json!({ "endpoints": [{ "address": endpoint, "weight": 2 }] });
    let (status, _) = proxy.admin.call("PUT", &format!("/apps/{APP}/revisions/green"), Some(deploy)).await;
    assert_eq!(status, StatusCode::OK);
    proxy.reached("previewing").await;
    assert_eq!(proxy.status().await["preview"]["endpoints"][0]["address"], endpoint);
    let answer = Client::connect(Protocol::H1, proxy.preview).await.unwrap().get("/").await.unwrap();
    assert_eq!(answer.colour(), "green");
    let expected = Handshake { server_name: Some("app.test".to_owned()), resumed: false, certified: false };
    assert_eq!(outlet.handshakes()[0], expected);
}

#[tokio::test]
async fn endpoints_without_a_name_are_not_deployed_where_a_certificate_is_to_be_checked() {
    let (authority, backend) = (Authority::new(), Backend::spawn("blue"));
    let mut setup = Setup::between(&backend, &backend);
    let named = json!({ "endpoints": [format!("localhost:{}", backend.address().port())] });
    setup.app()["source"]["static"] = json!({ "active": "blue", "revisions": { "blue": named } });
    setup.app()["upstream"] = json!({ "tls": { "roots": authority.roots() } });
    let proxy = Proxy::start(setup).await;
    let deploy = json!({ "endpoints": [backend.address()] });
    let (status, problem) = proxy.admin.call("PUT", &format!("/apps/{APP}/revisions/green"), Some(deploy)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem:#}");
    assert!(problem["hint"].as_str().unwrap().contains("upstream.tls.server_name"), "{problem:#}");
}

fn by_name(address: SocketAddr) -> String {
    format!("localhost:{}", address.port())
}

#[tokio::test]
async fn a_name_stands_for_its_addresses_also_when_it_is_deployed() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    let revisions = json!({ "blue": { "endpoints": [{ "address": by_name(blue.address()), "weight": 3 }] } });
    setup.app()["source"]["static"] = json!({ "active": "blue", "revisions": revisions });
    setup.app()["upstream"] = json!({ "resolve": "100ms", "family": "ipv4" });
    let proxy = Proxy::start(setup).await;
    eventually("the name to be found", async || proxy.status().await["active"]["ready"] == 1).await;
    let endpoint = proxy.status().await["active"]["endpoints"][0].clone();
    assert_eq!(endpoint["address"], blue.address().to_string());
    assert_eq!((&endpoint["name"], &endpoint["weight"]), (&json!(by_name(blue.address())), &json!(3)));
    let mut client = proxy.client(Protocol::H1).await;
    assert_eq!(client.get("/").await.unwrap().colour(), "blue");

    let deploy = json!({ "endpoints": [by_name(green.address())] });
    let (status, _) = proxy.admin.call("PUT", &format!("/apps/{APP}/revisions/green"), Some(deploy)).await;
    assert_eq!(status, StatusCode::OK);
    proxy.reached("previewing").await;
    proxy.promote().await;
    assert_eq!(client.get("/").await.unwrap().colour(), "green");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_told_and_changes_nothing_for_others() {
    let blue = Backend::spawn("blue");
    let mut setup = Setup::between(&blue, &blue);
    setup.app()["source"]["static"] =
        json!({ "active": "blue", "revisions": { "blue": { "endpoints": [blue.address()] } } });
    let proxy = Proxy::start(setup).await;
    let deploy = json!({ "endpoints": ["nobody.invalid:80"] });
    let (status, _) = proxy.admin.call("PUT", &format!("/apps/{APP}/revisions/green"), Some(deploy)).await;
    assert_eq!(status, StatusCode::OK);
    eventually("the lookup to fail", async || proxy.status().await["names"][0]["problem"].is_string()).await;
    let state = proxy.status().await;
    let message = state["message"].as_str().unwrap();
    assert!(message.contains("nobody.invalid:80 cannot be looked up"), "{message}");
    assert_eq!((&state["phase"], &state["preview"]["total"]), (&json!("starting"), &json!(1)));
    assert_eq!(proxy.metric("tealgate_endpoint_name_up", &["nobody.invalid:80"]).await, 0.0);
    assert_eq!(proxy.client(Protocol::H1).await.get("/").await.unwrap().colour(), "blue");
}

#[tokio::test]
async fn the_upstream_is_told_whose_each_connection_is() {
    for version in ["v1", "v2"] {
        let upstream = ByHand::listen().await;
        let mut setup = Setup::before(&[upstream.address()]);
        setup.app()["upstream"] = json!({ "proxy_protocol": version });
        setup.app()["health"] = json!({ "interval": "1h" });
        let proxy = Proxy::start(setup).await;
        // The first probe speaks for nobody.
        let probe = upstream.accept().await;
        assert_eq!(greeting(probe).await.0, None);
        let mut client = Raw::connect(proxy.live).await;
        let mine = client.stream.local_addr().unwrap();
        for _ in 0..2 {
            client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
            let (said, mut raw) = greeting(upstream.accept().await).await;
            assert_eq!(said, Some(mine), "{version}: on a connection of its own each time");
            assert!(raw.read_head().await.starts_with("GET / HTTP/1.1\r\n"));
            raw.send("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert!(client.read_head().await.starts_with("HTTP/1.1 204"));
            assert_eq!(raw.read_to_end().await, Ok(Vec::new()), "nobody else may use it");
        }
    }
}

/// The client that a PROXY header names, and the connection behind it.
async fn greeting(mut raw: Raw) -> (Option<SocketAddr>, Raw) {
    let mut octets = Vec::new();
    let parsed = within("a PROXY header", async {
        loop {
            octets.push(raw.stream.read_u8().await.expect("an octet"));
            if let Ok((header, length)) = ProxyHeader::parse(&octets, ParseConfig::default()) {
                assert_eq!(length, octets.len());
                return header.proxied_address().map(|address| address.source);
            }
        }
    })
    .await;
    (parsed, raw)
}

#[tokio::test]
async fn the_host_may_be_another_than_the_client_asks_for() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    for spoken in ["http1", "h2"] {
        let mut setup = Setup::between(&blue, &green);
        setup.app()["upstream"] = json!({ "host": "app.internal:8443", "protocol": spoken });
        let proxy = Proxy::start(setup).await;
        for protocol in [Protocol::H1, Protocol::H2] {
            proxy.client(protocol).await.get("/").await.unwrap();
            let seen = blue.seen().pop().unwrap();
            let hosts = seen.headers.get_all("host").iter().map(|host| host.to_str().unwrap());
            let authority = seen.target.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
            let named: Vec<_> = hosts.chain(authority).collect();
            assert_eq!(named, ["app.internal:8443"], "{protocol:?} to {spoken}");
            assert_eq!(seen.headers["x-forwarded-host"], HOST, "what it asked for is told");
        }
    }
}

#[tokio::test]
async fn a_tunnel_runs_over_tls_as_well() {
    let authority = Authority::new();
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nwelcome";
    let backend = RawBackend::spawn(answer, Then::Close);
    let outlet = Outlet::tls(authority.sign("app", &["app.test"]).server(), backend.address());
    let mut setup = Setup::before(&[outlet.address()]);
    setup.app()["upstream"] = json!({ "tls": { "roots": authority.roots(), "server_name": "app.test" } });
    let proxy = Proxy::start(setup).await;
    let mut client = Raw::connect(proxy.live).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")).await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(client.read(7).await, b"welcome");
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.read_to_end().await, Ok(Vec::new()), "a half-close is passed on");
}
