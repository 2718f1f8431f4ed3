//! Connections to endpoints: opening them, keeping the idle ones of this worker, and sending one request to one endpoint.
//! Nothing here is shared between workers, and an idle connection costs no task: it is looked at before it is used, and now
//! and then, so that what an upstream has closed is closed on our side too.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::{
    clock::Clock,
    connect::{Connector, Socket, connect},
    error::ProxyError,
    h1,
    upload::UploadBody,
};
use crate::switch::{Endpoint, Snapshot};

/// Idle connections kept for one endpoint by one worker.
const MAX_IDLE: usize = 1024;
/// How long one is kept.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);

/// A worker's connections to endpoints.
pub(super) struct Upstream {
    clock: Rc<Clock>,
    connector: Connector,
    /// By endpoint, the one used last at the end. Endpoints in no pool have no entry, and nothing is kept for them.
    idle: RefCell<HashMap<u64, Vec<Idle>, RandomState>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// An open connection.
pub(super) type Connection = h1::Connection<Socket>;

/// A request being sent, and its answer being received.
pub(super) type Exchange = h1::Exchange<Socket, UploadBody>;

impl Upstream {
    pub(super) fn new(clock: &Rc<Clock>, connector: Connector) -> Self {
        Self { clock: Rc::clone(clock), connector, idle: RefCell::default() }
    }

    /// A connection to an endpoint: an idle one, if `reuse` allows, or a new one, open `within` so long. Says whether it was
    /// idle: then the upstream may be closing it at this very moment.
    pub(super) async fn connection(
        &self,
        endpoint: &Endpoint,
        reuse: bool,
        within: Duration,
    ) -> Result<(Connection, bool), ProxyError> {
        if reuse && let Some(idle) = self.take_idle(endpoint) {
            return Ok((idle, true));
        }
        let socket = connect(&self.connector, endpoint, within).await?;
        Ok((h1::Connection::new(socket), false))
    }

    /// The idle connection used last, if there is one that is still good.
    fn take_idle(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&endpoint.id())?;
        while let Some(Idle { mut connection, .. }) = connections.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps the connection of an exchange that went well to its end.
    pub(super) fn keep(&self, endpoint: u64, exchange: Exchange) {
        if let Some(connection) = exchange.into_connection()
            && let Some(connections) = self.idle.borrow_mut().get_mut(&endpoint)
            && connections.len() < MAX_IDLE
        {
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

    /// Closes what has been idle for too long, and what its upstream has closed; the rest keeps its socket and nothing else.
    pub(super) fn sweep(&self) {
        let now = self.clock.now();
        for connections in self.idle.borrow_mut().values_mut() {
            connections.retain_mut(|idle| {
                idle.connection.release_memory();
                now < idle.since + MAX_IDLE_AGE && idle.connection.is_quiet()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::{HeaderMap, Method, Uri};
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_at_rest_keeps_its_socket_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let ours = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("it accepts");
        let (mut theirs, _) = listener.accept().await.expect("a connection");
        let uri = Uri::from_static("/");
        let (none, framing) = (HeaderMap::new(), h1::Framing::Empty);
        let request = h1::Outgoing::new(Method::GET, &uri, none, [b""; 2], framing, UploadBody::Empty);
        let mut exchange = h1::Connection::new(Socket::Tcp(ours)).exchange(request);
        theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("it is read");
        poll_fn(|cx| exchange.poll_head(cx)).await.expect("well-formed");

        let upstream = Upstream::new(&Clock::new(), Connector::default());
        upstream.idle.borrow_mut().insert(1, Vec::new());
        upstream.keep(1, exchange);
        let memory = || upstream.idle.borrow()[&1].iter().map(|idle| idle.connection.memory()).collect::<Vec<_>>();
        assert!(memory()[0] > 0);
        upstream.sweep();
        assert_eq!(memory(), [0]);
    }
}
