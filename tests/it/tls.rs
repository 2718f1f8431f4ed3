//! TLS towards clients: the right certificate for each name, new ones without a failed handshake, and nothing but TLS.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures_util::future;
use http::{StatusCode, Version};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    backend::Backend,
    certs::{Authority, Leaf},
    client::{Client, Protocol, Raw, tls},
    eventually, full,
    proxy::Proxy,
    setup::Setup,
    within,
};

/// A proxy between two upstreams whose live listener speaks TLS like this.
async fn secure(blue: &Backend, green: &Backend, tls: Value) -> Proxy {
    let mut setup = Setup::between(blue, green);
    setup.listener("live")["tls"] = tls;
    setup.listener("live")["timeouts"] = json!({ "handshake": "1s" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

fn files(leaf: &Leaf) -> Value {
    json!({ "cert": leaf.cert, "key": leaf.key })
}

fn in_file(leaf: &Leaf) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&leaf.cert).expect("a certificate")
}

/// The certificate shown to who asks for this name, `None` if the handshake fails.
async fn shown(address: SocketAddr, name: &str, config: ClientConfig) -> Option<CertificateDer<'static>> {
    let stream = within("a handshake", tls(address, name, config)).await.ok()?;
    let certificates = stream.get_ref().1.peer_certificates()?;
    Some(certificates.first()?.clone().into_owned())
}

/// Settings that believe every certificate: for names that are not in it.
fn gullible(authority: &Authority) -> ClientConfig {
    let mut config = authority.trusted();
    config.dangerous().set_certificate_verifier(Arc::new(Gullible));
    config
}

#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_to_close_is_told_that_its_session_ends() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("shop", &["shop.test"]);
    let proxy = secure(&blue, &green, json!({ "certificates": [files(&leaf)] })).await;
    for octets in [0, 1, 300_000] {
        let mut stream = within("a handshake", tls(proxy.live, "shop.test", authority.trusted())).await.expect("TLS");
        let request = format!("GET /bytes/{octets} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("octets taken");
        let mut answer = Vec::new();
        // An end without that word would be an error.
        within("the end", stream.read_to_end(&mut answer)).await.expect("an end, and no cut");
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.len() > octets);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_late_gets_the_very_end_of_its_answer() {
    const OCTETS: usize = 14_000;
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("shop", &["shop.test"]);
    let proxy = secure(&blue, &green, json!({ "certificates": [files(&leaf)] })).await;
    let mut stream = within("a handshake", tls(proxy.live, "shop.test", authority.trusted())).await.expect("TLS");
    // One answer after the other is left unread, until the sockets are full and the last one has nowhere to go.
    let mut asked = 0;
    loop {
        let request = format!("GET /bytes/{OCTETS} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("octets taken");
        asked += 1;
        let answered = eventually("an answer", async || {
            proxy.metric("tealgate_requests_ended_total", &[]).await == f64::from(asked)
        });
        if tokio::time::timeout(Duration::from_millis(500), answered).await.is_err() {
            break;
        }
    }
    let (mut bodies, mut piece) = (0, vec![0; 64 * 1024]);
    while bodies < asked as usize * OCTETS {
        let octets = within("the rest", stream.read(&mut piece)).await.expect("no error");
        assert!(octets > 0, "an end after {bodies} octets of {asked} answers");
        bodies += piece[..octets].iter().filter(|octet| **octet == b'x').count();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_name_gets_its_certificate_and_others_the_first() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let first = authority.sign("first", &["first.test"]);
    let wild = authority.sign("wild", &["*.shop.test"]);
    let exact = authority.sign("exact", &["a.shop.test"]);
    let certificates = json!({ "certificates": [files(&first), files(&wild), files(&exact)] });
    let proxy = secure(&blue, &green, certificates).await;
    for (name, leaf) in [
        ("first.test", &first),
        ("A.Shop.test", &exact),
        ("b.shop.test", &wild),
        ("c.b.shop.test", &first),
        ("shop.test", &first),
        ("other.test", &first),
        // An address is never sent as a name.
        ("127.0.0.1", &first),
    ] {
        assert_eq!(shown(proxy.live, name, gullible(&authority)).await, Some(in_file(leaf)), "{name}");
    }
    assert_eq!(shown(proxy.live, "b.shop.test", authority.trusted()).await, Some(in_file(&wild)));
    assert_eq!(shown(proxy.live, "other.test", authority.trusted()).await, None, "a careful client turns away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocol_is_settled_in_the_handshake() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("live", &["shop.test"]);
    let proxy = secure(&blue, &green, json!({ "certificates": [files(&leaf)] })).await;
    for (protocol, version) in [(Protocol::H1, Version::HTTP_11), (Protocol::H2, Version::HTTP_2)] {
        let client = Client::connect_tls(protocol, proxy.live, "shop.test", authority.trusted()).await;
        let answer = client.expect("a handshake").get("/").await.expect("an answer");
        assert_eq!((answer.version, answer.colour()), (version, "blue"));
        assert_eq!(blue.seen().pop().expect("a request").headers["x-forwarded-proto"], "https");
    }
    for (offered, settled) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let mut config = authority.trusted();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = tls(proxy.live, "shop.test", config).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), settled, "{offered:?}");
    }
    // Whoever offers nothing speaks HTTP/1.1 (RFC 9113 §3.2).
    let stream = tls(proxy.live, "shop.test", authority.trusted()).await.expect("a handshake");
    let mut client = Client::over(Protocol::H1, stream).await.expect("a client");
    assert_eq!(client.get("/").await.expect("an answer").colour(), "blue");
    let mut foreign = authority.trusted();
    foreign.alpn_protocols = vec![b"smtp".to_vec()];
    assert!(tls(proxy.live, "shop.test", foreign).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_offers_the_protocols_it_is_told_to_the_best_first() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("live", &["shop.test"]);
    for (ours, theirs, settled) in [
        (&["http/1.1", "h2"][..], &["h2", "http/1.1"][..], Some(Some(&b"http/1.1"[..]))),
        (&["http/1.1"], &["h2", "http/1.1"], Some(Some(b"http/1.1"))),
        (&["http/1.1"], &["h2"], None),
        (&["h2"], &["http/1.1", "h2"], Some(Some(b"h2"))),
        (&["h2"], &[], Some(None)),
    ] {
        let proxy = secure(&blue, &green, json!({ "certificates": [leaf], "alpn": ours })).await;
        let mut config = authority.trusted();
        config.alpn_protocols = theirs.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = within("a handshake", tls(proxy.live, "shop.test", config)).await.ok();
        let found = stream.as_ref().map(|stream| stream.get_ref().1.alpn_protocol());
        assert_eq!(found, settled, "{theirs:?} where {ours:?} is offered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_version_older_than_the_set_one_is_spoken() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("live", &["shop.test"]);
    for (oldest, accepts_12) in [("1.2", true), ("1.3", false)] {
        let settings = json!({ "certificates": [files(&leaf)], "min_version": oldest });
        let proxy = secure(&blue, &green, settings).await;
        for (version, accepted) in [(&rustls::version::TLS12, accepts_12), (&rustls::version::TLS13, true)] {
            let only = authority.trusted_in(&[version]);
            let stream = within("a handshake", tls(proxy.live, "shop.test", only)).await;
            let spoken = stream.ok().and_then(|stream| stream.get_ref().1.protocol_version());
            assert_eq!(spoken, accepted.then_some(version.version), "{version:?} where {oldest} is the oldest");
        }
    }
    // TLS 1.1 and what is older: a ClientHello as it was then.
    let proxy = secure(&blue, &green, json!({ "certificates": [files(&leaf)] })).await;
    for minor in [0, 1, 2] {
        let mut raw = Raw::connect(proxy.live).await;
        let hello = [&[3, minor][..], &[0; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
        let handshake = [&[1, 0, 0, hello.len() as u8][..], &hello].concat();
        raw.send([&[22, 3, minor, 0, handshake.len() as u8][..], &handshake].concat()).await;
        let end = raw.read_to_end().await.unwrap_or_else(|so_far| so_far);
        assert!(end.is_empty() || end[0] == 21, "an alert at most: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_comes_into_service_without_a_failed_handshake_and_a_broken_one_does_not() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let [broken, renewed] = ["broken", "renewed"].map(|label| authority.sign(label, &["shop.test"]));
    let mut setup = Setup::between(&blue, &green);
    setup.listener("live")["tls"] = json!({ "certificates": [files(&broken)] });
    setup.listener("preview")["tls"] = json!({ "certificates": [files(&renewed)] });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let connect = |protocol, address| Client::connect_tls(protocol, address, "shop.test", authority.trusted());
    let mut kept = connect(Protocol::H2, proxy.preview).await.expect("a client");

    let old = in_file(&broken);
    fs::write(&broken.cert, "no certificate").expect("a file");
    let renewed = authority.sign("renewed", &["shop.test"]);
    // Files are looked at one listener after the other: once the new one is seen, the broken one has been.
    eventually("the new certificate", async || {
        for address in [proxy.live, proxy.preview] {
            // Each a full handshake, and a request on it.
            let answer = connect(Protocol::H1, address).await.expect("a handshake").get("/").await;
            assert_eq!(answer.expect("an answer").status, StatusCode::OK);
        }
        shown(proxy.preview, "shop.test", authority.trusted()).await == Some(in_file(&renewed))
    })
    .await;
    assert_eq!(shown(proxy.live, "shop.test", authority.trusted()).await, Some(old));
    assert_eq!(kept.get("/").await.expect("an answer").colour(), "green", "old connections live on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_fails_during_a_hundred_reloads() {
    let (blue, green, authority) = (Backend::spawn("blue"), Backend::spawn("green"), Authority::new());
    let leaf = authority.sign("live", &["shop.test"]);
    let till = authority.sign_client("Shop", "till");
    let roots = authority.path("roots.pem");
    fs::write(&roots, authority.pem()).expect("a file");
    let mut setup = Setup::between(&blue, &green);
    setup.listener("live")["tls"] = json!({ "certificates": [files(&leaf)], "client_auth": { "roots": roots } });
    let proxy = Proxy::start_from_file(setup).await;
    proxy.is_ready_to_promote().await;

    let done = AtomicBool::new(false);
    let lane = async |protocol| {
        let mut requests = 0;
        while !done.load(SeqCst) {
            // Each a full handshake, with the client's certificate, and a request on it.
            let config = authority.trusted_with(&till, rustls::DEFAULT_VERSIONS);
            let client = Client::connect_tls(protocol, proxy.live, "shop.test", config).await;
            let answer = client.expect("a handshake").get("/").await.expect("an answer");
            assert_eq!(answer.status, StatusCode::OK);
            requests += 1;
        }
        requests
    };
    let reloads = async {
        for _ in 0..100 {
            authority.sign("live", &["shop.test"]);
            fs::write(&roots, authority.pem()).expect("a file");
            proxy.server.reload().await.expect("all is sound");
        }
        done.store(true, SeqCst);
    };
    let (first, second, ()) =
        within("reloads", async { tokio::join!(lane(Protocol::H1), lane(Protocol::H2), reloads) }).await;
    assert!(first > 10 && second > 10, "{first} and {second} requests");
    let config = authority.trusted_with(&till, rustls::DEFAULT_VERSIONS);
    assert_eq!(shown(proxy.live, "shop.test", config).await, Some(in_file(&leaf)), "the last one is in service");
}

/// Whether a request gets through with these settings: in TLS 1.3 the client learns only then that it is not wanted. It
/// also says of itself what is not for it to say.
async fn is_served(address: SocketAddr, config: ClientConfig) -> bool {
    let Ok(mut client) = Client::connect_tls(Protocol::H1, address, "shop.test", config).await else { return false };
    let request = client.request("GET", "/").header("x-forwarded-client-cert", "Hash=00;Subject=\"CN=boss\"");
    client.fetch(request.body(full("")).expect("a request")).await.is_ok()
}

/// Live and preview listener, of which the live one wants certificates like this.
async fn guarded(blue: &Backend, green: &Backend, leaf: &Leaf, client_auth: Value) -> Proxy {
    let mut setup = Setup::between(blue, green);
    setup.listener("live")["tls"] = json!({ "certificates": [files(leaf)], "client_auth": client_auth });
    setup.listener("preview")["tls"] = json!({ "certificates": [files(leaf)] });
    let proxy = Proxy::start_from_file(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_known_by_its_certificate_and_nobody_else_can_claim_it() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let (authority, other) = (Authority::new(), Authority::new());
    let leaf = authority.sign("live", &["shop.test"]);
    let roots = authority.path("roots.pem");
    fs::write(&roots, authority.pem()).expect("a file");
    let till = authority.sign_client("Shop, Ltd.", "till 7");
    let stranger = other.sign_client("Shop, Ltd.", "till 7");
    for mode in ["required", "optional"] {
        let proxy = guarded(&blue, &green, &leaf, json!({ "roots": roots, "mode": mode })).await;
        for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
            let started = blue.seen().len();
            let with = |leaf| authority.trusted_with(leaf, versions);
            assert!(is_served(proxy.live, with(&till)).await, "{mode} {versions:?}");
            assert!(!is_served(proxy.live, with(&stranger)).await, "{mode} {versions:?}");
            let without = is_served(proxy.live, authority.trusted_in(versions)).await;
            assert_eq!(without, mode == "optional", "{versions:?}");
            let told: Vec<_> = blue.seen()[started..]
                .iter()
                .map(|seen| {
                    seen.headers.get("x-forwarded-client-cert").map(|value| value.to_str().expect("text").to_owned())
                })
                .collect();
            let mine = told[0].as_deref().expect("who it is");
            assert!(mine.starts_with("Hash=") && mine.ends_with(r#";Subject="CN=till 7,O=Shop\, Ltd.""#), "{mine}");
            assert_eq!(told[1..], if without { vec![None] } else { vec![] });
        }
        let labels = ["listener=\"live\"", "reason=\"client_certificate\""];
        let refused = if mode == "optional" { 2.0 } else { 4.0 };
        eventually("the refusals to be counted", async || {
            proxy.metric("tealgate_connections_not_served_total", &labels).await == refused
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_and_revocations_are_taken_over_while_serving_and_broken_ones_are_not() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let (authority, other) = (Authority::new(), Authority::new());
    let leaf = authority.sign("live", &["shop.test"]);
    let [roots, crl] = ["roots.pem", "crl.pem"].map(|name| authority.path(name));
    fs::write(&roots, authority.pem()).expect("a file");
    fs::write(&crl, authority.revocations(&[])).expect("a file");
    let [till, lost] = ["till", "lost"].map(|name| authority.sign_client("Shop", name));
    let newcomer = other.sign_client("Shop", "newcomer");
    let proxy = guarded(&blue, &green, &leaf, json!({ "roots": roots, "crl": crl })).await;
    // Settings keep the tickets they were given.
    let with = |leaf| authority.trusted_with(leaf, rustls::DEFAULT_VERSIONS);
    let (mine, the_lost_ones) = (with(&till), with(&lost));
    let mut kept = Client::connect_tls(Protocol::H2, proxy.live, "shop.test", mine.clone()).await.expect("a handshake");
    for config in [&mine, &the_lost_ones] {
        assert!(is_served(proxy.live, config.clone()).await);
    }

    fs::write(&crl, authority.revocations(&[&lost])).expect("a file");
    proxy.server.reload().await.expect("all is sound");
    assert!(is_served(proxy.live, mine.clone()).await);
    assert!(!is_served(proxy.live, the_lost_ones.clone()).await, "nor does an old ticket help");

    for (file, broken) in [(&roots, "no authority"), (&crl, "no list"), (&crl, "")] {
        let sound = fs::read(file).expect("a file");
        fs::write(file, broken).expect("a file");
        proxy.server.reload().await.expect_err("broken");
        assert!(is_served(proxy.live, mine.clone()).await);
        assert!(!is_served(proxy.live, with(&newcomer)).await);
        fs::write(file, sound).expect("a file");
    }

    fs::write(&roots, other.pem()).expect("a file");
    fs::write(&crl, other.revocations(&[])).expect("a file");
    proxy.server.reload().await.expect("all is sound");
    assert!(is_served(proxy.live, with(&newcomer)).await);
    assert!(!is_served(proxy.live, mine).await);
    assert_eq!(kept.get("/").await.expect("an answer").colour(), "blue", "old connections live on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_resumed_by_every_worker_but_a_ticket_is_no_certificate() {
    let (blue, green, authority) = (Backend::spawn("blue"), Backend::spawn("green"), Authority::new());
    let leaf = authority.sign("live", &["shop.test"]);
    let roots = authority.path("roots.pem");
    fs::write(&roots, authority.pem()).expect("a file");
    let till = authority.sign_client("Shop", "till");
    let proxy = guarded(&blue, &green, &leaf, json!({ "roots": roots })).await;
    for (address, config) in [
        (proxy.preview, authority.trusted()),
        (proxy.preview, authority.trusted_in(&[&rustls::version::TLS12])),
        (proxy.live, authority.trusted_with(&till, rustls::DEFAULT_VERSIONS)),
        (proxy.live, authority.trusted_with(&till, &[&rustls::version::TLS12])),
    ] {
        let mut kinds = Vec::new();
        for _ in 0..8 {
            let stream = tls(address, "shop.test", config.clone()).await.expect("a handshake");
            kinds.push(stream.get_ref().1.handshake_kind());
            // A ticket of TLS 1.3 comes after the handshake.
            let mut client = Client::over(Protocol::H1, stream).await.expect("a client");
            assert_eq!(client.get("/").await.expect("an answer").status, StatusCode::OK);
        }
        let resumed = kinds.iter().filter(|kind| **kind == Some(HandshakeKind::Resumed)).count();
        assert_eq!(resumed, 7, "{kinds:?}");
        // Without 0-RTT: none is offered.
        let mut eager = config.clone();
        eager.enable_early_data = true;
        let name = ServerName::try_from("shop.test").expect("a name");
        let mut connection = ClientConnection::new(Arc::new(eager), name).expect("settings");
        assert!(connection.early_data().is_none());
    }
    // The same name, the same client: but the ticket was had where nobody asked for a certificate.
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let anonymous = authority.trusted_in(versions);
        assert!(is_served(proxy.preview, anonymous.clone()).await);
        assert!(!is_served(proxy.live, anonymous).await, "{versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_handshake_gives_way_when_there_are_too_many() {
    let (blue, green, authority) = (Backend::spawn("blue"), Backend::spawn("green"), Authority::new());
    let leaf = authority.sign("live", &["shop.test"]);
    let mut setup = Setup::between(&blue, &green);
    setup.config["workers"] = json!(1);
    setup.listener("live")["tls"] = json!({ "certificates": [files(&leaf)] });
    setup.listener("live")["limits"] = json!({ "handshakes": 2 });
    setup.listener("live")["timeouts"] = json!({ "handshake": "1m" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let mut stalled = Vec::new();
    for _ in 0..3 {
        stalled.push(Raw::connect(proxy.live).await);
    }
    assert_eq!(stalled.remove(0).read_to_end().await.unwrap_or_else(|so_far| so_far), b"");
    // Whoever is in good order gets in, and stays.
    let client = Client::connect_tls(Protocol::H1, proxy.live, "shop.test", authority.trusted()).await;
    let mut client = client.expect("a handshake");
    assert_eq!(client.get("/").await.expect("an answer").colour(), "blue");
    assert_eq!(stalled.remove(0).read_to_end().await.unwrap_or_else(|so_far| so_far), b"");
    assert_eq!(client.get("/").await.expect("an answer").colour(), "blue");
    let labels = ["listener=\"live\"", "reason=\"handshake_limit\""];
    assert_eq!(proxy.metric("tealgate_connections_not_served_total", &labels).await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_come_to_an_end_is_ended() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("live", &["shop.test"]);
    let proxy = secure(&blue, &green, json!({ "certificates": [files(&leaf)] })).await;
    let started = Instant::now();
    let begun = [&b""[..], b"\x16\x03\x01\x02", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"];
    let ends = begun.map(async |octets| {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(octets).await;
        raw.read_to_end().await.unwrap_or_else(|so_far| so_far)
    });
    assert_eq!(future::join_all(ends).await, [b""; 3]);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_tls_is_turned_away_and_reaches_nobody() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let authority = Authority::new();
    let leaf = authority.sign("live", &["shop.test"]);
    let proxy = secure(&blue, &green, json!({ "certificates": [files(&leaf)] })).await;
    for octets in [&b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 100]]
    {
        let mut raw = Raw::connect(proxy.live).await;
        raw.send(octets).await;
        let end = raw.read_to_end().await.unwrap_or_else(|so_far| so_far);
        assert!(end.is_empty() || end[0] == 21, "an alert at most: {:?}", String::from_utf8_lossy(&end));
    }
    assert!(blue.seen().is_empty());
}
