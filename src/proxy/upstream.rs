//! Connections to endpoints: opening them, keeping the idle ones of this worker, and sending one request on one of them.
//! Nothing here is shared between workers. Each connection is driven by a task of its own, which ends when the connection
//! does, so that one the upstream has closed is known to be closed before it is used.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use foldhash::fast::RandomState;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, Parts, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{clock::Clock, error::ProxyError, upload::UploadBody};
use crate::switch::{Endpoint, Snapshot};

/// Idle connections kept for one endpoint by one worker.
const MAX_IDLE: usize = 1024;
/// How long one is kept.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);
/// The largest header section taken from an upstream, in octets.
const MAX_HEAD: usize = 32 * 1024;
/// The most hyper buffers of a body in one direction, in octets.
const MAX_BUFFER: usize = 64 * 1024;

/// The socket of a connection whose upstream switched protocols, and what came on it already.
pub(super) type Raw = Parts<TokioIo<TcpStream>>;

/// A worker's connections to endpoints.
pub(super) struct Upstream {
    clock: Rc<Clock>,
    http1: http1::Builder,
    /// By endpoint; endpoints that are in no pool have no entry, and nothing is kept for them.
    idle: RefCell<HashMap<u64, Vec<Idle>, RandomState>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// An open connection to an endpoint.
pub(super) struct Connection {
    endpoint: u64,
    sender: SendRequest<UploadBody>,
    heir: Rc<Cell<Option<oneshot::Sender<Raw>>>>,
    reused: bool,
}

/// Why a request got no answer.
pub(super) struct Failure {
    pub(super) error: ProxyError,
    /// The request, if nothing of it was sent.
    pub(super) unsent: Option<Request<UploadBody>>,
}

impl Upstream {
    pub(super) fn new(clock: &Rc<Clock>) -> Self {
        let mut http1 = http1::Builder::new();
        http1.max_buf_size(MAX_BUFFER).max_header_size(MAX_HEAD);
        Self { clock: Rc::clone(clock), http1, idle: RefCell::default() }
    }

    /// The idle connection used last, if it is still good.
    pub(super) fn idle(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&endpoint.id())?;
        while let Some(Idle { connection, .. }) = connections.pop() {
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Opens a connection.
    pub(super) async fn connect(&self, endpoint: &Endpoint, within: Duration) -> Result<Connection, ProxyError> {
        let connect = timeout(within, TcpStream::connect(endpoint.address()));
        let socket = connect.await.map_err(|_| ProxyError::ConnectionTimeout)??;
        socket.set_nodelay(true)?;
        let handshake = self.http1.handshake(TokioIo::new(socket)).await;
        let (sender, connection) = handshake.map_err(ProxyError::of_attempt)?;
        let heir = Rc::new(Cell::new(None::<oneshot::Sender<Raw>>));
        let will = Rc::clone(&heir);
        tokio::task::spawn_local(async move {
            // What went wrong is told to whoever waits for an answer, and to nobody if nobody does.
            if let Ok(parts) = connection.without_shutdown().await
                && let Some(heir) = will.take()
            {
                drop(heir.send(parts));
            }
        });
        Ok(Connection { endpoint: endpoint.id(), sender, heir, reused: false })
    }

    /// Takes a connection back after a whole answer.
    pub(super) fn give_back(&self, mut connection: Connection) {
        // Not ready means that the upstream closes, or has not taken the whole request.
        if !connection.sender.is_ready() {
            return;
        }
        if let Some(connections) = self.idle.borrow_mut().get_mut(&connection.endpoint)
            && connections.len() < MAX_IDLE
        {
            connection.reused = true;
            connections.push(Idle { connection, since: self.clock.now() });
        }
    }

    /// Closes the idle connections to endpoints that are in no pool of this snapshot, and keeps no more of them.
    pub(super) fn keep_only(&self, snapshot: &Snapshot) {
        let mut idle = self.idle.borrow_mut();
        let mut kept = HashMap::default();
        let pools = snapshot.routes().iter().flat_map(|route| route.active.iter().chain(&route.preview));
        for endpoint in pools.flat_map(|pool| pool.endpoints()) {
            kept.insert(endpoint.id(), idle.remove(&endpoint.id()).unwrap_or_default());
        }
        *idle = kept;
    }

    /// Closes the connections that have been idle for too long or were closed by their upstream.
    pub(super) fn sweep(&self, now: Instant) {
        for connections in self.idle.borrow_mut().values_mut() {
            connections.retain(|idle| !idle.connection.sender.is_closed() && now < idle.since + MAX_IDLE_AGE);
        }
    }
}

impl Connection {
    /// Whether it has carried a request before, and so may have been closed by the upstream in the same instant.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request and awaits the head of its answer. Dropping the future closes the connection.
    pub(super) async fn send(&mut self, request: Request<UploadBody>) -> Result<Response<Incoming>, Failure> {
        self.sender.try_send_request(request).await.map_err(|mut failed| Failure {
            unsent: failed.take_message(),
            error: ProxyError::of_attempt(failed.into_error()),
        })
    }

    /// Has the socket kept when the answer is 101, instead of closed: to be called before sending.
    pub(super) fn expect_switch(&self) -> oneshot::Receiver<Raw> {
        let (heir, raw) = oneshot::channel();
        self.heir.set(Some(heir));
        raw
    }
}
