//! Listening sockets and their connections: HTTP/1.1 by our own accept loop, so that a silent client, a hoard of
//! connections or a stop are dealt with on our terms.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;
use tracing::{debug, warn};

use super::caller::Peer;

/// The most connections one listener serves at a time; more wait in its backlog.
const CONNECTIONS: usize = 256;

/// How long a request's head may take, and how long a kept connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long what was written may stay unacknowledged before a TCP client counts as gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How long open calls may take to end once the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait when no connection can be taken, e.g. for want of file descriptors.
const RELIEF: Duration = Duration::from_millis(100);

/// A bound socket.
pub(super) enum Listener {
    /// A TCP address.
    Tcp(TcpListener),
    /// A Unix socket. Its file is removed at the end.
    Unix {
        /// The socket.
        socket: UnixListener,
        /// What removes the file in the end.
        _file: SocketFile,
    },
}

/// The file of a Unix socket, removed on drop if it is still ours.
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listener {
    /// Binds a TCP address.
    pub(super) async fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// Binds a Unix socket that only its owner and group may use. A file that nobody answers on any more is replaced.
    pub(super) async fn unix(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        must_be_free(path).await?;
        // Bound under another name and moved into place, so that it is never there with a wider mode.
        let mut aside = path.as_os_str().to_owned();
        aside.push("~");
        let aside = PathBuf::from(aside);
        remove_if_there(&aside)?;
        let socket = UnixListener::bind(&aside)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o660))?;
        fs::rename(&aside, path)?;
        let found = fs::metadata(path)?;
        let file = SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
        Ok(Self::Unix { socket, _file: file })
    }

    /// The address it is bound to, if it is one of TCP.
    pub(super) fn address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Some),
            Self::Unix { .. } => Ok(None),
        }
    }

    /// Serves until `closing`; then no connection is taken any more, and open calls get a grace to end.
    pub(super) async fn serve(self, router: Router, closing: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => break,
                accepted = self.accept(&slots) => accepted,
            };
            while connections.try_join_next().is_some() {}
            let (router, closing) = (router.clone(), closing.clone());
            match accepted {
                Ok(Accepted::Tcp(io, peer, slot)) => {
                    connections.spawn(serve_connection(io, peer, router, closing, slot));
                }
                Ok(Accepted::Unix(io, peer, slot)) => {
                    connections.spawn(serve_connection(io, peer, router, closing, slot));
                }
                Err(error) => {
                    warn!(%error, "an admin listener cannot take a connection");
                    tokio::time::sleep(RELIEF).await;
                }
            }
        }
        drop(self);
        tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await.ok();
    }

    async fn accept(&self, slots: &Arc<Semaphore>) -> io::Result<Accepted> {
        let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
        match self {
            Self::Tcp(listener) => {
                let (io, address) = listener.accept().await?;
                let socket = socket2::SockRef::from(&io);
                socket.set_tcp_nodelay(true)?;
                socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
                Ok(Accepted::Tcp(io, Peer::Tcp(address), slot))
            }
            Self::Unix { socket, .. } => {
                let (io, _) = socket.accept().await?;
                let peer = Peer::Unix { uid: io.peer_cred()?.uid() };
                Ok(Accepted::Unix(io, peer, slot))
            }
        }
    }
}

enum Accepted {
    Tcp(tokio::net::TcpStream, Peer, OwnedSemaphorePermit),
    Unix(UnixStream, Peer, OwnedSemaphorePermit),
}

async fn serve_connection(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    closing: CancellationToken,
    _slot: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, ?peer, "an admin connection ended early");
    }
}

/// Refuses to take the place of what is no socket, or of a socket that somebody answers on.
async fn must_be_free(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket is there"));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => remove_if_there(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on it")),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_group_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/tealgate/admin.sock");
        let listener = Listener::unix(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let first = Listener::unix(&path).await.unwrap();
        assert_eq!(Listener::unix(&path).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);

        drop(first);

        // As after SIGKILL: the file is there, and nobody behind it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = Listener::unix(&path).await.unwrap();
        drop(second);

        fs::write(&path, "notes").unwrap();
        assert_eq!(Listener::unix(&path).await.err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"notes");
    }

    #[tokio::test]
    async fn a_successor_s_socket_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let ours = Listener::unix(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }
}
