//! TLS towards a server of rustls' own, over a Unix socket: nothing but the file system is needed.

use std::{
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use rustls::{HandshakeKind, ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, ReadBuf},
    net::UnixListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::switch::{Matching, Policy, Roots, Transport, Wanted};

/// A TLS server with a certificate of its own.
struct Server {
    listener: UnixListener,
    acceptor: TlsAcceptor,
    dir: TempDir,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
        std::fs::write(dir.path().join("app.crt"), made.cert.pem()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()], key)
            .unwrap();
        let listener = UnixListener::bind(dir.path().join("app.sock")).unwrap();
        Self { listener, acceptor: Arc::new(config).into(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn destination(&self, server_name: Option<&str>, roots: &str) -> Destination {
        let roots = Roots::File(self.path(roots));
        let server_name = server_name.map(str::to_owned);
        let tls = UpstreamTls { roots, server_name, ..UpstreamTls::default() };
        let transport = Arc::new(Transport { tls: Some(tls), ..Transport::default() });
        Destination { address: Address::Unix(self.path("app.sock").into()), name: None, transport }
    }

    async fn accept(&self) -> io::Result<tokio_rustls::server::TlsStream<UnixStream>> {
        self.acceptor.accept(self.listener.accept().await?.0).await
    }
}

async fn connector(to: &Destination) -> Connector {
    let wanted = Wanted {
        matching: Matching::default(),
        revisions: [("blue".parse().unwrap(), Vec::new())].into(),
        active: "blue".parse().unwrap(),
        preview: None,
        policy: Arc::new(Policy { transport: Arc::clone(&to.transport), ..Policy::default() }),
    };
    let connector = Connector::default();
    let desired = Desired { apps: [("shop".parse().unwrap(), wanted)].into(), ..Desired::default() };
    connector.adopt(connector.prepare(&desired).await.unwrap());
    connector
}

fn poll_read(socket: &mut Socket) -> Poll<Vec<u8>> {
    let mut octets = [0; 64];
    let mut buffer = ReadBuf::new(&mut octets);
    let mut nobody = Context::from_waker(Waker::noop());
    Pin::new(socket).poll_read(&mut nobody, &mut buffer).map(|read| {
        read.unwrap();
        buffer.filled().to_vec()
    })
}

#[tokio::test]
async fn a_session_ticket_is_no_octet_of_the_stream_and_serves_the_next_connection() {
    let server = Server::new();
    let to = server.destination(Some("app.test"), "app.crt");
    let connector = connector(&to).await;
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (socket, accepted) = tokio::join!(connector.connect(&to, None), server.accept());
        let (mut socket, mut accepted) = (socket.unwrap(), accepted.unwrap());
        let Socket::TlsUnix(stream) = &socket else { panic!("TLS over a Unix socket") };
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
        // What comes after the tickets says that they have come.
        accepted.write_all(b"x").await.unwrap();
        let read = socket.read_u8().await.unwrap();
        assert_eq!(read, b'x');
        assert!(poll_read(&mut socket).is_pending());
        accepted.shutdown().await.unwrap();
        assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(poll_read(&mut socket).is_ready(), "a close is no silence");
    }
}

#[tokio::test]
async fn whoever_awaits_the_answer_has_the_request_flushed() {
    let server = Server::new();
    let to = server.destination(Some("app.test"), "app.crt");
    let connector = connector(&to).await;
    let (socket, accepted) = tokio::join!(connector.connect(&to, None), server.accept());
    let (mut socket, mut accepted) = (socket.unwrap(), accepted.unwrap());
    let mut taken = 0;
    let mut nobody = Context::from_waker(Waker::noop());
    while let Poll::Ready(written) = Pin::new(&mut socket).poll_write(&mut nobody, &[b'x'; 16 * 1024]) {
        taken += written.unwrap();
    }
    let serving = async {
        accepted.read_exact(&mut vec![0; taken]).await.unwrap();
        accepted.write_all(b"!").await.unwrap();
    };
    let (answer, ()) = tokio::join!(socket.read_u8(), serving);
    assert_eq!(answer.unwrap(), b'!');
}

#[tokio::test]
async fn a_certificate_that_is_anothers_or_nobodys_is_not_accepted() {
    let server = Server::new();
    let stranger = rcgen::generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
    std::fs::write(server.path("stranger.crt"), stranger.cert.pem()).unwrap();
    for (name, roots) in [(Some("other.test"), "app.crt"), (Some("app.test"), "stranger.crt")] {
        let to = server.destination(name, roots);
        let connector = connector(&to).await;
        let (socket, accepted) = tokio::join!(connector.connect(&to, None), server.accept());
        assert!(matches!(socket, Err(ConnectError::Certificate(_))));
        assert!(accepted.is_err());
    }
    let to = server.destination(None, "app.crt");
    let connector = connector(&to).await;
    assert!(matches!(connector.connect(&to, None).await, Err(ConnectError::Unprepared(_))), "a socket has no name");
}

#[tokio::test]
async fn one_that_speaks_no_tls_is_told_from_one_that_refuses() {
    let server = Server::new();
    let to = server.destination(Some("app.test"), "app.crt");
    let connector = connector(&to).await;
    let refusing = async {
        let (mut socket, _) = server.listener.accept().await.unwrap();
        // RFC 8446 §6: a fatal handshake_failure.
        socket.write_all(&[21, 3, 3, 0, 2, 2, 40]).await.unwrap();
        socket
    };
    let (refused, _socket) = tokio::join!(connector.connect(&to, None), refusing);
    assert!(matches!(refused, Err(ConnectError::Alert(AlertDescription::HandshakeFailure))));
    let plain = async {
        let (mut socket, _) = server.listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        socket
    };
    let (failed, _socket) = tokio::join!(connector.connect(&to, None), plain);
    assert!(matches!(failed, Err(ConnectError::Handshake(_))));
}

#[tokio::test]
async fn nobody_gets_to_our_own_admin_socket_by_whatever_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    let _admin = UnixListener::bind(path("admin.sock")).unwrap();
    let _app = UnixListener::bind(path("app.sock")).unwrap();
    std::os::unix::fs::symlink(path("admin.sock"), path("link.sock")).unwrap();
    std::fs::hard_link(path("admin.sock"), path("twin.sock")).unwrap();
    let connector = Connector::sparing(Some(&path("admin.sock")));
    let to = |name| Destination { address: Address::Unix(path(name).into()), name: None, transport: Arc::default() };
    for name in ["admin.sock", "link.sock", "twin.sock"] {
        let refused = connector.connect(&to(name), None).await;
        assert!(matches!(refused, Err(ConnectError::Io(e)) if e.kind() == io::ErrorKind::PermissionDenied), "{name}");
    }
    assert!(connector.connect(&to("app.sock"), None).await.is_ok());
}

#[test]
fn the_name_is_the_one_set_or_the_one_given_or_the_address() {
    let name = |address: &str, set: Option<&str>| {
        let address: crate::switch::Whereabouts = address.parse().unwrap();
        let (address, name) = match address {
            crate::switch::Whereabouts::At(address) => (address, None),
            crate::switch::Whereabouts::Named(name) => (Address::Ip("10.0.0.1:1".parse().unwrap()), Some(name)),
        };
        let tls = UpstreamTls { server_name: set.map(str::to_owned), ..UpstreamTls::default() };
        let to = Destination { address, name, transport: Arc::default() };
        server_name(&to, &tls).map(|name| name.to_str().into_owned())
    };
    assert_eq!(name("app.test:1", Some("set.test")).as_deref(), Some("set.test"));
    assert_eq!(name("app.test.:1", None).as_deref(), Some("app.test"));
    assert_eq!(name("10.0.0.1:1", None).as_deref(), Some("10.0.0.1"));
    assert_eq!(name("unix:/a", None), None);
}
