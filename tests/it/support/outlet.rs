//! What stands before an upstream: a Unix socket, or TLS, on either kind of socket. It passes octets on, and takes note of
//! how its clients came.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

/// A running one; it closes its listener and all its connections when it is dropped.
pub struct Outlet {
    address: Option<SocketAddr>,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// A handshake that came to its good end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub server_name: Option<String>,
    pub resumed: bool,
    /// Whether the client has shown a certificate.
    pub certified: bool,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Outlet {
    /// A Unix socket that leads there.
    pub fn unix(path: &Path, to: SocketAddr) -> Self {
        Self::start(std::os::unix::net::UnixListener::bind(path).map(Bound::Unix), None, to)
    }

    /// TLS that leads there.
    pub fn tls(tls: ServerConfig, to: SocketAddr) -> Self {
        Self::start(std::net::TcpListener::bind("127.0.0.1:0").map(Bound::Tcp), Some(tls), to)
    }

    /// TLS on a Unix socket that leads there.
    pub fn tls_unix(path: &Path, tls: ServerConfig, to: SocketAddr) -> Self {
        Self::start(std::os::unix::net::UnixListener::bind(path).map(Bound::Unix), Some(tls), to)
    }

    fn start(bound: io::Result<Bound>, tls: Option<ServerConfig>, to: SocketAddr) -> Self {
        let bound = bound.expect("a socket");
        let address = bound.address();
        let handshakes = Arc::<Mutex<Vec<Handshake>>>::default();
        let seen = Arc::clone(&handshakes);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            // When this returns, the runtime drops every connection's task, and with it the connection.
            runtime.block_on(async {
                let listener = bound.listen();
                tokio::select! {
                    () = accept(listener, tls.map(|tls| Arc::new(tls).into()), to, seen) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, handshakes, running: Some((stop, thread)) }
    }

    /// Its TCP address.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it listens on TCP")
    }

    /// All handshakes so far, probes included, in order.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().clone()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.send(()).ok();
            thread.join().ok();
        }
    }
}

enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Bound {
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => Some(listener.local_addr().expect("an address")),
            Self::Unix(_) => None,
        }
    }

    fn listen(self) -> Listener {
        match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true).expect("a socket option");
                Listener::Tcp(TcpListener::from_std(listener).expect("a listener"))
            }
            Self::Unix(listener) => {
                listener.set_nonblocking(true).expect("a socket option");
                Listener::Unix(UnixListener::from_std(listener).expect("a listener"))
            }
        }
    }
}

async fn accept(listener: Listener, tls: Option<TlsAcceptor>, to: SocketAddr, seen: Arc<Mutex<Vec<Handshake>>>) {
    loop {
        let (tls, seen) = (tls.clone(), Arc::clone(&seen));
        match &listener {
            Listener::Tcp(listener) => {
                let Ok((stream, _)) = listener.accept().await else { return };
                stream.set_nodelay(true).ok();
                tokio::spawn(async move { connection(stream, tls, to, &seen).await.ok() });
            }
            Listener::Unix(listener) => {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(async move { connection(stream, tls, to, &seen).await.ok() });
            }
        }
    }
}

async fn connection(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    tls: Option<TlsAcceptor>,
    to: SocketAddr,
    seen: &Mutex<Vec<Handshake>>,
) -> io::Result<()> {
    let Some(tls) = tls else {
        copy_bidirectional(&mut stream, &mut TcpStream::connect(to).await?).await?;
        return Ok(());
    };
    let mut stream = tls.accept(stream).await?;
    let connection = stream.get_ref().1;
    let handshake = Handshake {
        server_name: connection.server_name().map(str::to_owned),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        certified: connection.peer_certificates().is_some(),
    };
    seen.lock().unwrap().push(handshake);
    copy_bidirectional(&mut stream, &mut TcpStream::connect(to).await?).await?;
    Ok(())
}
