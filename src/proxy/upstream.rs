//! Connections to endpoints: opening them, keeping the idle ones of this worker, and sending one request to one endpoint.
//! Nothing here is shared between workers, and an idle connection costs no task: it is looked at before it is used, and now
//! and then, so that what an upstream has closed is closed on our side too.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};

use super::{
    clock::Clock,
    connect::{Connector, Origin, Socket, connect, connect_http1},
    error::ProxyError,
    exchange::Exchange,
    h1, h2,
    outgoing::{Message, Outgoing, OutgoingBody},
};
use crate::switch::{Endpoint, Protocol};

/// Idle connections kept for one endpoint by one worker.
const MAX_IDLE: usize = 1024;
/// How long one is kept.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);
/// How long before its end a connection that is kept ready is replaced.
const RENEWED: Duration = Duration::from_secs(15);
/// How many endpoints are looked at before requests have their turn.
const AT_ONCE: usize = 64;

/// A worker's connections to endpoints.
pub(super) struct Upstream {
    clock: Rc<Clock>,
    connector: Connector,
    /// By endpoint. Nothing is kept for those in no pool, nor for those that are told whose a connection is.
    kept: RefCell<HashMap<u64, Kept, RandomState>>,
    /// How many HTTP/2 connections were opened, the failed ones included.
    opened: Cell<u64>,
}

/// What is kept for one endpoint.
struct Kept {
    endpoint: Arc<Endpoint>,
    /// HTTP/1: the one used last at the end.
    idle: Vec<Idle>,
    /// HTTP/2, once it was asked for.
    streams: Option<Rc<h2::Set>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// An open HTTP/1 connection.
pub(super) type Connection = h1::Connection<Socket>;

/// The connections to an endpoint that are ready, and will be for a while.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    /// Those of HTTP/2 if there are any, else those of HTTP/1: what is opened ahead is of the one that requests will use.
    pub(super) open: usize,
    /// Since when the last one had been idle that was found closed since this was last asked.
    pub(super) closed: Option<Instant>,
}

/// Which of the connections that are there will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Any,
    /// None of HTTP/1, and of HTTP/2 those with a higher number than this.
    NewerThan(u64),
}

/// A request being sent, and whether its connection was there before: then the upstream may be closing it at this very
/// moment. Or why it cannot be sent, and the request.
pub(super) type Begun = Result<(Box<Exchange>, bool), (ProxyError, Outgoing)>;

impl Upstream {
    pub(super) fn new(clock: &Rc<Clock>, connector: Connector) -> Self {
        Self { clock: Rc::clone(clock), connector, kept: RefCell::default(), opened: Cell::new(0) }
    }

    /// Begins to send a request to an endpoint: on a connection that is there, if `reuse` allows, or on a new one, open
    /// `within` so long.
    pub(super) async fn begin(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Outgoing,
        origin: Option<Origin>,
        reuse: Reuse,
        within: Duration,
    ) -> Begun {
        match (request, endpoint.destination().transport.protocol) {
            (Outgoing::H1(request), _) => self.begin_h1(endpoint, *request, origin, reuse, within).await,
            (Outgoing::Any(message), Protocol::Http1) => {
                self.begin_h1(endpoint, message.into_h1(), origin, reuse, within).await
            }
            // Every server takes a WebSocket by Upgrade, and few by extended CONNECT.
            (Outgoing::Any(message), Protocol::Auto) if message.ask.is_some() => {
                self.begin_h1(endpoint, message.into_h1(), origin, reuse, within).await
            }
            (Outgoing::Any(message), protocol @ (Protocol::H2 | Protocol::Auto)) => {
                self.begin_stream(endpoint, message, origin, protocol, reuse, within).await
            }
        }
    }

    /// The number of the newest HTTP/2 connection.
    pub(super) fn newest(&self) -> u64 {
        self.opened.get()
    }

    async fn begin_h1(
        &self,
        endpoint: &Endpoint,
        request: h1::Outgoing<OutgoingBody>,
        origin: Option<Origin>,
        reuse: Reuse,
        within: Duration,
    ) -> Begun {
        if let Some(idle) = self.idle(endpoint, reuse) {
            return Ok((Box::new(Exchange::H1(idle.exchange(request))), true));
        }
        match self.open_http1(endpoint, origin, within).await {
            Ok(connection) => Ok((Box::new(Exchange::H1(connection.exchange(request))), false)),
            Err(error) => Err((error, Outgoing::H1(Box::new(request)))),
        }
    }

    /// An idle HTTP/1 connection to an endpoint, if `reuse` allows and there is one.
    pub(super) fn idle(&self, endpoint: &Endpoint, reuse: Reuse) -> Option<Connection> {
        if reuse == Reuse::Any { self.take_idle(endpoint) } else { None }
    }

    /// A new HTTP/1 connection to an endpoint, for `origin`. On the heap, so that a request that has a connection already
    /// does not carry the room for opening one.
    pub(super) fn open_http1<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        origin: Option<Origin>,
        within: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Connection, ProxyError>> + 'a>> {
        let socket = connect_http1(&self.connector, endpoint, origin, within);
        Box::pin(async move { Ok(Connection::new(socket.await?)) })
    }

    /// On HTTP/2, or on what the endpoint chooses where `protocol` lets it.
    async fn begin_stream(
        &self,
        endpoint: &Arc<Endpoint>,
        message: Box<Message<OutgoingBody>>,
        origin: Option<Origin>,
        protocol: Protocol,
        reuse: Reuse,
        within: Duration,
    ) -> Begun {
        let set = self.streams(endpoint);
        let after = match reuse {
            Reuse::Any => 0,
            Reuse::NewerThan(number) => number,
        };
        if let Some(place) = set.take(after) {
            return begin_on(place, message, true);
        }
        if protocol == Protocol::Auto
            && reuse == Reuse::Any
            && let Some(idle) = self.take_idle(endpoint)
        {
            return Ok((Box::new(Exchange::H1(idle.exchange(message.into_h1()))), true));
        }
        let open = async || self.open(endpoint, origin, protocol, set.places(), within).await;
        // On the heap, as with HTTP/1.
        match Box::pin(timeout(within, set.seek(after, open))).await {
            Ok(Ok(h2::Found::Place(place, reused))) => begin_on(place, message, reused),
            Ok(Ok(h2::Found::Other(socket))) => {
                Ok((Box::new(Exchange::H1(Connection::new(socket).exchange(message.into_h1()))), false))
            }
            Ok(Err(error)) => Err((error, Outgoing::Any(message))),
            Err(_) => Err((ProxyError::ConnectionTimeout, Outgoing::Any(message))),
        }
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        origin: Option<Origin>,
        protocol: Protocol,
        places: &Rc<tokio::sync::Notify>,
        within: Duration,
    ) -> Result<h2::Opened<Socket>, ProxyError> {
        let socket = connect(&self.connector, endpoint, origin, within).await?;
        // Over plain text there is nothing to choose by, and `auto` stays with what every server speaks.
        if protocol == Protocol::Auto && socket.alpn() != Some(b"h2") {
            return Ok(h2::Opened::Other(socket));
        }
        let number = self.opened.get() + 1;
        self.opened.set(number);
        let secure = matches!(socket, Socket::Tls(_) | Socket::TlsUnix(_));
        let connection = h2::Connection::open(socket, secure, number, &self.clock, places).await;
        connection.map(h2::Opened::H2).map_err(|error| ProxyError::ConnectionFailed(io::Error::other(error)))
    }

    /// The HTTP/2 connections to an endpoint. What one in no pool gets is not kept.
    fn streams(&self, endpoint: &Arc<Endpoint>) -> Rc<h2::Set> {
        let of_kept = |kept: &mut Kept| Rc::clone(kept.streams.get_or_insert_default());
        self.with_kept(endpoint, of_kept).unwrap_or_default()
    }

    /// Does something to what is kept for an endpoint, if anything is.
    fn with_kept<T>(&self, endpoint: &Arc<Endpoint>, work: impl FnOnce(&mut Kept) -> T) -> Option<T> {
        let mut kept = self.kept.borrow_mut();
        let nothing = || Kept { endpoint: Arc::clone(endpoint), idle: Vec::new(), streams: None };
        // One that is told whose a connection is gets a new one for each request: nobody else may use it.
        let keeps = endpoint.is_routed() && endpoint.destination().transport.proxy_protocol.is_none();
        keeps.then(|| work(kept.entry(endpoint.id()).or_insert_with(nothing)))
    }

    /// The idle connection used last, if there is one that is still good.
    fn take_idle(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut kept = self.kept.borrow_mut();
        let idle = &mut kept.get_mut(&endpoint.id())?.idle;
        while let Some(Idle { mut connection, .. }) = idle.pop() {
            if connection.io().is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose last exchange went well to its end.
    pub(super) fn keep(&self, endpoint: &Arc<Endpoint>, connection: Connection) {
        let since = self.clock.now();
        self.with_kept(endpoint, |kept| {
            if kept.idle.len() < MAX_IDLE {
                kept.idle.push(Idle { connection, since });
            }
        });
    }

    /// Opens a connection before there is a request for it, and keeps it.
    pub(super) async fn open_ahead(&self, endpoint: &Arc<Endpoint>, within: Duration) -> Result<(), ProxyError> {
        let opened = match endpoint.destination().transport.protocol {
            Protocol::Http1 => h2::Opened::Other(connect(&self.connector, endpoint, None, within).await?),
            protocol @ (Protocol::H2 | Protocol::Auto) => {
                let places = Rc::clone(self.streams(endpoint).places());
                let open = self.open(endpoint, None, protocol, &places, within);
                timeout(within, open).await.map_err(|_| ProxyError::ConnectionTimeout)??
            }
        };
        match opened {
            h2::Opened::H2(connection) => self.streams(endpoint).keep(connection),
            h2::Opened::Other(socket) => self.keep(endpoint, Connection::new(socket)),
        }
        Ok(())
    }

    /// What of the connections to an endpoint is ready for requests.
    pub(super) fn census(&self, endpoint: &Endpoint) -> Census {
        let mut kept = self.kept.borrow_mut();
        let Some(Kept { idle, streams, .. }) = kept.get_mut(&endpoint.id()) else { return Census::default() };
        let (now, mut closed) = (self.clock.now(), None);
        idle.retain_mut(|idle| {
            let open = idle.connection.io().is_quiet();
            if !open {
                closed = closed.max(Some(idle.since));
            }
            open
        });
        let lasting = idle.iter().filter(|idle| now < idle.since + MAX_IDLE_AGE - RENEWED).count();
        match streams.as_ref().map(|set| set.lasting(now.checked_sub(MAX_IDLE_AGE - RENEWED))) {
            Some((streams, gone)) if streams > 0 => Census { open: streams, closed: gone },
            Some((_, gone)) => Census { open: lasting, closed: closed.max(gone) },
            None => Census { open: lasting, closed },
        }
    }

    /// Closes the idle connections to those of these endpoints, by id, that are in no pool any more, and keeps no more of
    /// them; what has streams is closed with the last of those.
    pub(super) async fn let_go(&self, departed: &[u64]) {
        self.for_each(departed, |kept| kept.endpoint.is_routed()).await;
    }

    /// Closes what has been idle for too long, and what its upstream has closed; the rest keeps its socket and nothing else.
    pub(super) async fn sweep(&self) {
        let all: Vec<_> = self.kept.borrow().keys().copied().collect();
        let sweep = |kept: &mut Kept| {
            let now = self.clock.now();
            kept.idle.retain_mut(|idle| {
                idle.connection.release_memory();
                now < idle.since + MAX_IDLE_AGE && idle.connection.io().is_quiet()
            });
            if let Some(streams) = &kept.streams {
                streams.sweep(now.checked_sub(MAX_IDLE_AGE));
            }
            kept.streams.is_some() || !kept.idle.is_empty()
        };
        self.for_each(&all, sweep).await;
    }

    /// Looks at what is kept for these endpoints, and forgets those of which `stays` says so. A few at a time, so that
    /// requests go on however many there are.
    async fn for_each(&self, endpoints: &[u64], mut stays: impl FnMut(&mut Kept) -> bool) {
        for some in endpoints.chunks(AT_ONCE) {
            {
                let mut kept = self.kept.borrow_mut();
                for id in some {
                    if kept.get_mut(id).is_some_and(|kept| !stays(kept)) {
                        kept.remove(id);
                    }
                }
            }
            yield_now().await;
        }
    }
}

fn begin_on(place: h2::Place, message: Box<Message<OutgoingBody>>, reused: bool) -> Begun {
    if message.ask.is_some() && !place.connection().takes_tunnels() {
        let error = ProxyError::HttpUpgradeFailed("the upstream takes no WebSocket over HTTP/2");
        return Err((error, Outgoing::Any(message)));
    }
    Ok((Box::new(Exchange::H2(h2::Exchange::begin(place, message))), reused))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::{HeaderMap, Method, Uri};
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::{
        super::{replay::Replay, upload::UploadBody},
        *,
    };

    #[tokio::test]
    async fn a_connection_at_rest_keeps_its_socket_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let ours = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("it accepts");
        let (mut theirs, _) = listener.accept().await.expect("a connection");
        let uri = Uri::from_static("/");
        let (none, framing) = (HeaderMap::new(), h1::Framing::Empty);
        let body = Replay::new(UploadBody::Empty);
        let request = h1::Outgoing::new(Method::GET, &uri, none, [b""; 2], framing, body);
        let mut exchange = h1::Connection::new(Socket::Tcp(ours)).exchange(request);
        theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("it is read");
        poll_fn(|cx| exchange.poll_head(cx)).await.expect("well-formed");

        let upstream = Upstream::new(&Clock::new(), Connector::default());
        let endpoint = Endpoint::for_tests(listener.local_addr().expect("an address"));
        upstream.keep(&endpoint, exchange.into_connection().expect("clean"));
        let memory = || {
            let kept = upstream.kept.borrow();
            kept[&endpoint.id()].idle.iter().map(|idle| idle.connection.memory()).collect::<Vec<_>>()
        };
        assert!(memory()[0] > 0);
        upstream.sweep().await;
        assert_eq!(memory(), [0]);
    }
}
