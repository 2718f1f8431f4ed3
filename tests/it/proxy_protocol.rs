//! Behind a TCP load balancer: the client is the one that its PROXY header names, and nobody else may write one.

use std::{net::SocketAddr, sync::Arc};

use http::StatusCode;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use crate::support::{
    backend::Backend,
    certs::Authority,
    client::{Client, Protocol, Raw},
    eventually,
    proxy::Proxy,
    raw_backend::closed,
    setup::Setup,
};

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n";

/// A proxy between two upstreams whose live and preview listener have these keys too.
async fn balanced(blue: &Backend, green: &Backend, keys: Value) -> Proxy {
    let mut setup = Setup::between(blue, green);
    for listener in ["live", "preview"] {
        let part = setup.listener(listener).as_object_mut().expect("a map");
        part.insert("proxy_protocol".to_owned(), json!({ "trusted": ["127.0.0.0/8"] }));
        part.extend(keys.as_object().expect("a map").clone());
    }
    setup.app()["preview"] = json!({ "allow": ["192.0.2.0/24"] });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

/// A connection that begins with this header.
async fn begun(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(header).await.expect("octets taken");
    stream
}

async fn client(protocol: Protocol, address: SocketAddr, header: &[u8]) -> Client {
    Client::over(protocol, begun(address, header).await).await.expect("a client")
}

async fn secure(protocol: Protocol, address: SocketAddr, header: &[u8], mut config: ClientConfig) -> Client {
    config.alpn_protocols = vec![if protocol == Protocol::H2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let name = ServerName::try_from("shop.test").expect("a name");
    let stream = begun(address, header).await;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
    Client::over(protocol, stream).await.expect("a client")
}

/// Version 2, with this command, and addresses and whatever else.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

fn told(blue: &Backend) -> String {
    let seen = blue.seen().pop().expect("a request");
    seen.headers.get("x-forwarded-for").map_or_else(String::new, |value| value.to_str().expect("text").to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_is_the_one_that_the_header_names() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = balanced(&blue, &green, json!({})).await;
    let ipv6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 27], &[1, 0, 1, 0, 2], &[4, 0, 1, 0]].concat();
    for protocol in Protocol::ALL {
        for (header, address) in [
            (HEADER.to_vec(), "192.0.2.7"),
            (v2(0x21, 0x11, &[192, 0, 2, 8, 198, 51, 100, 1, 0, 1, 0, 2]), "192.0.2.8"),
            (v2(0x21, 0x21, &ipv6), "2001:db8::"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
            (v2(0x20, 0x00, &[]), "127.0.0.1"),
        ] {
            let mut client = client(protocol, proxy.live, &header).await;
            for _ in 0..2 {
                assert_eq!(client.get("/").await.expect("an answer").colour(), "blue", "{protocol:?}");
                assert_eq!(told(&blue), address, "{protocol:?}");
            }
        }
        // So it is for those who may see the preview.
        for (header, status) in [(HEADER, StatusCode::OK), (b"PROXY UNKNOWN\r\n", StatusCode::FORBIDDEN)] {
            let answer = client(protocol, proxy.preview, header).await.get("/").await.expect("an answer");
            assert_eq!(answer.status, status, "{protocol:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_follows_the_header() {
    let (blue, green, authority) = (Backend::spawn("blue"), Backend::spawn("green"), Authority::new());
    let leaf = authority.sign("live", &["shop.test"]);
    let proxy = balanced(&blue, &green, json!({ "tls": { "certificates": [leaf] } })).await;
    for protocol in Protocol::ALL {
        let mut client = secure(protocol, proxy.live, HEADER, authority.trusted()).await;
        assert_eq!(client.get("/").await.expect("an answer").colour(), "blue");
        assert_eq!(told(&blue), "192.0.2.7", "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_limited_by_the_address_that_is_named() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = balanced(&blue, &green, json!({ "limits": { "connections_per_client": 1 } })).await;
    let mut first = client(Protocol::H1, proxy.live, HEADER).await;
    assert_eq!(first.get("/").await.expect("an answer").status, StatusCode::OK);
    let mut second = client(Protocol::H1, proxy.live, HEADER).await;
    assert_eq!(second.get("/").await.expect("an answer").status, StatusCode::SERVICE_UNAVAILABLE);
    let mut another = client(Protocol::H1, proxy.live, b"PROXY TCP4 192.0.2.8 198.51.100.1 1 80\r\n").await;
    assert_eq!(another.get("/").await.expect("an answer").status, StatusCode::OK, "of the same peer");
    drop((first, second));
    eventually("room", async || {
        let answer = client(Protocol::H1, proxy.live, HEADER).await.get("/").await;
        answer.is_ok_and(|answer| answer.status == StatusCode::OK)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_header_or_with_a_bad_one_nothing_is_served() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let keys = json!({ "proxy_protocol": { "trusted": ["127.0.0.1"], "timeout": "300ms" } });
    let proxy = balanced(&blue, &green, keys).await;
    let request = b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    // A connection is closed, and then counted.
    let counted = async |reason: &str, count: usize| {
        let labels = ["listener=\"live\"", &format!("reason=\"{reason}\"")];
        let is_it = async || proxy.metric("tealgate_connections_not_served_total", &labels).await == count as f64;
        eventually(&format!("{count} by {reason}"), is_it).await;
    };
    let bad = [
        &b""[..],
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80 ",
        &v2(0x21, 0x12, &[0; 12]),
        &v2(0x21, 0x11, &[0; 5000]),
    ];
    for (count, begin) in bad.iter().enumerate() {
        let answer = Raw::exchange(proxy.live, [begin, &request[..]].concat()).await;
        assert_eq!(answer, "", "{}", begin.escape_ascii());
        counted("proxy_header", count + 1).await;
    }
    // Part of one, and then silence.
    for (count, begin) in [&b""[..], b"PROXY TCP4", &HEADER[..HEADER.len() - 1]].iter().enumerate() {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(begin).await;
        closed(&mut raw).await;
        counted("handshake_timeout", count + 1).await;
    }
    assert!(blue.seen().is_empty());

    let keys = json!({ "proxy_protocol": { "trusted": ["192.0.2.0/24"] } });
    let proxy = balanced(&blue, &green, keys).await;
    assert_eq!(Raw::exchange(proxy.live, [HEADER, request].concat()).await, "");
    let labels = ["listener=\"live\"", "reason=\"untrusted_peer\""];
    assert_eq!(proxy.metric("tealgate_connections_not_served_total", &labels).await, 1.0);
    assert!(blue.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_open_a_unix_socket_may_name_clients() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    let path = setup.path("balanced.sock");
    let listener = json!({ "name": "socket", "bind": format!("unix:{}", path.display()), "proxy_protocol": {} });
    setup.config["listeners"].as_array_mut().expect("a list").push(listener);
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    for (header, address) in [(HEADER, "192.0.2.7"), (b"PROXY UNKNOWN\r\n", "")] {
        let mut stream = UnixStream::connect(&path).await.expect("a connection");
        stream.write_all(header).await.expect("octets taken");
        let mut client = Client::over(Protocol::H1, stream).await.expect("a client");
        assert_eq!(client.get("/").await.expect("an answer").colour(), "blue");
        assert_eq!(told(&blue), address);
    }
}
