//! Connections to endpoints: opening them, keeping the idle ones of this worker, and sending one request to one endpoint.
//! Nothing here is shared between workers, and an idle connection costs no task: it is looked at before it is used, and now
//! and then, so that what an upstream has closed is closed on our side too.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use tokio::{
    net::TcpStream,
    task::yield_now,
    time::{Instant, timeout},
};

use super::{clock::Clock, error::ProxyError, h1, upload::UploadBody};
use crate::switch::Endpoint;

/// Idle connections kept for one endpoint by one worker.
const MAX_IDLE: usize = 1024;
/// How long one is kept.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);
/// How long before its end a connection that is kept ready is replaced.
const RENEWED: Duration = Duration::from_secs(15);
/// How many endpoints are let go of before requests have their turn.
const AT_ONCE: usize = 64;

/// A worker's connections to endpoints.
pub(super) struct Upstream {
    clock: Rc<Clock>,
    /// By endpoint.
    idle: RefCell<HashMap<u64, Bench, RandomState>>,
}

/// The idle connections to one endpoint, the one used last at the end.
struct Bench {
    endpoint: Arc<Endpoint>,
    connections: Vec<Idle>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// An open connection.
pub(super) type Connection = h1::Connection<TcpStream>;

/// A request being sent, and its answer being received.
pub(super) type Exchange = h1::Exchange<TcpStream, UploadBody>;

impl Upstream {
    pub(super) fn new(clock: &Rc<Clock>) -> Self {
        Self { clock: Rc::clone(clock), idle: RefCell::default() }
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
        Ok((Self::open(endpoint, within).await?, false))
    }

    /// A new connection.
    async fn open(endpoint: &Endpoint, within: Duration) -> Result<Connection, ProxyError> {
        let connect = timeout(within, TcpStream::connect(endpoint.address()));
        let socket = connect.await.map_err(|_| ProxyError::ConnectionTimeout)??;
        socket.set_nodelay(true)?;
        Ok(h1::Connection::new(socket))
    }

    /// The idle connection used last, if there is one that is still good.
    fn take_idle(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = &mut idle.get_mut(&endpoint.id())?.connections;
        while let Some(Idle { mut connection, .. }) = connections.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps the connection of an exchange that went well to its end.
    pub(super) fn keep(&self, endpoint: &Arc<Endpoint>, exchange: Exchange) {
        exchange.into_connection().into_iter().for_each(|connection| self.put(endpoint, connection));
    }

    /// Opens a connection and keeps it, idle as it is.
    pub(super) async fn open_ahead(&self, endpoint: &Arc<Endpoint>, within: Duration) -> Result<(), ProxyError> {
        let connection = Self::open(endpoint, within).await?;
        self.put(endpoint, connection);
        Ok(())
    }

    /// Nothing is kept for an endpoint that is in no pool.
    fn put(&self, endpoint: &Arc<Endpoint>, connection: Connection) {
        if !endpoint.is_routed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let bench = || Bench { endpoint: Arc::clone(endpoint), connections: Vec::new() };
        let connections = &mut idle.entry(endpoint.id()).or_insert_with(bench).connections;
        if connections.len() < MAX_IDLE {
            connections.push(Idle { connection, since: self.clock.now() });
        }
    }

    /// How many idle connections to an endpoint will be there for a while yet, and how many were found closed that had not
    /// been idle for as long as `young`.
    pub(super) fn census(&self, endpoint: &Endpoint, young: Duration) -> (usize, usize) {
        let mut idle = self.idle.borrow_mut();
        let Some(Bench { connections, .. }) = idle.get_mut(&endpoint.id()) else { return (0, 0) };
        let (now, mut closed) = (self.clock.now(), 0);
        connections.retain_mut(|idle| {
            let open = idle.connection.is_quiet();
            closed += usize::from(!open && now < idle.since + young);
            open
        });
        let lasting = connections.iter().filter(|idle| now < idle.since + MAX_IDLE_AGE - RENEWED).count();
        (lasting, closed)
    }

    /// Closes the idle connections to endpoints that are in no pool any more: a few at a time, so that requests go on
    /// however many there are.
    pub(super) async fn let_go(&self) {
        let all: Vec<_> = self.idle.borrow().keys().copied().collect();
        for some in all.chunks(AT_ONCE) {
            {
                let mut idle = self.idle.borrow_mut();
                for id in some {
                    if idle.get(id).is_some_and(|bench| !bench.endpoint.is_routed()) {
                        idle.remove(id);
                    }
                }
            }
            yield_now().await;
        }
    }

    /// Closes what has been idle for too long, and what its upstream has closed; the rest keeps its socket and nothing else.
    pub(super) fn sweep(&self) {
        let now = self.clock.now();
        for Bench { connections, .. } in self.idle.borrow_mut().values_mut() {
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
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_connection_at_rest_keeps_its_socket_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let ours = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("it accepts");
        let (mut theirs, _) = listener.accept().await.expect("a connection");
        let uri = Uri::from_static("/");
        let (none, framing) = (HeaderMap::new(), h1::Framing::Empty);
        let request = h1::Outgoing::new(Method::GET, &uri, none, [b""; 2], framing, UploadBody::Empty);
        let mut exchange = h1::Connection::new(ours).exchange(request);
        theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("it is read");
        poll_fn(|cx| exchange.poll_head(cx)).await.expect("well-formed");

        let upstream = Upstream::new(&Clock::new());
        let endpoint = Endpoint::for_tests(listener.local_addr().expect("an address"));
        upstream.keep(&endpoint, exchange);
        let memory = || {
            upstream.idle.borrow()[&endpoint.id()]
                .connections
                .iter()
                .map(|idle| idle.connection.memory())
                .collect::<Vec<_>>()
        };
        assert!(memory()[0] > 0);
        upstream.sweep();
        assert_eq!(memory(), [0]);
    }
}
