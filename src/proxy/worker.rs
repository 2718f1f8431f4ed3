//! A worker: a thread, its runtime, its own sockets, its own idle connections. Workers share nothing on a request's way;
//! they hear of listeners by messages, and of new snapshots by their reader.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::SocketAddr,
    os::unix::net::UnixStream as Unregistered,
    rc::Rc,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use slab::Slab;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Candidate, ListenerOptions,
    arrival::{Arrival, Arrivals},
    client::Client,
    clock::{Clock, TICK},
    connect::Connector,
    connection::{self, Socket},
    http1::{Desk, Tray},
    listener::{self, Crowd, Listening, Room},
    rate::{RateLimits, Rates},
    tls::Certificates,
    tunnel,
    upstream::Upstream,
    warm::Warming,
};
use crate::{
    switch::{Reader, Readers},
    telemetry::{connections::NotServed, request_log::Recorder},
};

/// How many ticks pass between two looks at the idle upstream connections, and at the rates of clients.
const SWEEP: u32 = 10;
/// How many ticks pass between two looks at the connections of pools that are kept warm.
const WARM: u32 = 2;
/// How many desks are kept for requests to come, and how many trays for their answers, some 32 KiB each.
const SPARE_DESKS: usize = 64;
/// How long accepting pauses when the system is out of files.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// What the tasks of one worker share.
pub(super) struct Worker {
    pub(super) clock: Rc<Clock>,
    pub(super) reader: Reader,
    pub(super) recorder: Rc<Recorder>,
    pub(super) upstream: Upstream,
    pub(super) warming: Warming,
    pub(super) rate_limits: RateLimits,
    rates: Arc<Rates>,
    clients: RefCell<Slab<Rc<Client>>>,
    /// Memory for requests to come.
    #[expect(clippy::vec_box, reason = "the boxes themselves go to and fro between here and the connections")]
    desks: RefCell<Vec<Box<Desk>>>,
    #[expect(clippy::vec_box, reason = "as with the desks")]
    trays: RefCell<Vec<Box<Tray>>>,
}

/// What is asked of a worker.
pub(super) enum Order {
    /// Accept on this socket.
    Open { key: u64, socket: Listening, terms: Terms },
    /// From now on, serve those it accepts like this.
    Change { key: u64, terms: Terms },
    /// Accept no more on it.
    Close { key: u64 },
    /// Serve a connection of our own.
    Serve { socket: Unregistered, terms: Terms },
    /// Accept no more at all, see out what there is, and end: what is left `within` so long is cut, and counted.
    Drain { within: Duration, cut: oneshot::Sender<usize> },
}

/// How a listener's connections are served.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) options: Arc<ListenerOptions>,
    pub(super) tls: Option<Arc<Certificates>>,
    pub(super) crowd: Arc<Crowd>,
    /// What its requests are for, whatever their host; only of connections of our own.
    pub(super) inspects: Option<Arc<Candidate>>,
}

/// A running worker.
#[derive(Clone)]
pub(super) struct Running {
    orders: mpsc::UnboundedSender<Order>,
}

impl Running {
    /// Asks it for something. A worker that has ended does nothing any more.
    pub(super) fn tell(&self, order: Order) {
        drop(self.orders.send(order));
    }
}

/// Starts a worker on a thread of its own.
pub(super) fn start(
    index: usize,
    readers: Readers,
    connector: Connector,
    recorder: Arc<dyn Fn(usize) -> Rc<Recorder> + Send + Sync>,
    rates: Arc<Rates>,
) -> io::Result<(Running, thread::JoinHandle<()>)> {
    let (orders, received) = mpsc::unbounded_channel();
    let (started, outcome) = std_mpsc::channel();
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => {
                drop(started.send(Ok(())));
                runtime.block_on(async {
                    let worker = Worker::new(readers.reader(index), connector, recorder(index), rates);
                    worker.run(received).await;
                });
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    // A thread that ends without a word has failed.
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("a worker's thread ended at once")))?;
    Ok((Running { orders }, thread))
}

impl Worker {
    fn new(reader: Reader, connector: Connector, recorder: Rc<Recorder>, rates: Arc<Rates>) -> Rc<Self> {
        let clock = Clock::new();
        let upstream = Upstream::new(&clock, connector);
        let (warming, rate_limits) = (Warming::default(), RateLimits::new(&rates));
        let (clients, desks, trays) = (RefCell::default(), RefCell::default(), RefCell::default());
        Rc::new(Self { clock, reader, recorder, upstream, warming, rate_limits, rates, clients, desks, trays })
    }

    async fn run(self: Rc<Self>, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut listeners: HashMap<u64, Accepting> = HashMap::new();
        tokio::task::spawn_local(Rc::clone(&self).follow_snapshots());
        tokio::task::spawn_local(Rc::clone(&self).tick());
        tokio::task::spawn_local(Rc::clone(&self).sweep());
        while let Some(order) = orders.recv().await {
            match order {
                Order::Open { key, socket, terms } => match Accepting::start(&self, socket, terms) {
                    Ok(accepting) => drop(listeners.insert(key, accepting)),
                    Err(error) => tracing::error!(%error, "a bound socket cannot be accepted on"),
                },
                Order::Change { key, terms } => {
                    if let Some(accepting) = listeners.get(&key) {
                        accepting.change(terms);
                    }
                }
                Order::Close { key } => {
                    if let Some(accepting) = listeners.remove(&key) {
                        accepting.end().await;
                    }
                }
                Order::Serve { socket, terms } => match UnixStream::from_std(socket) {
                    Ok(socket) => self.serve(Socket::Unix(socket), None, &terms, &Rc::default()),
                    Err(error) => tracing::warn!(%error, "a connection of our own cannot be served"),
                },
                Order::Drain { within, cut } => {
                    for (_, accepting) in listeners {
                        accepting.end().await;
                    }
                    // Nobody who asked is left to be told; it is drained all the same.
                    cut.send(self.drain(within).await).ok();
                    return;
                }
            }
        }
    }

    /// Lends the memory of one request.
    pub(super) fn desk(&self) -> Box<Desk> {
        self.desks.borrow_mut().pop().unwrap_or_else(Desk::new)
    }

    /// Takes back what was lent.
    pub(super) fn put_back(&self, desk: Option<Box<Desk>>) {
        let mut desks = self.desks.borrow_mut();
        if let Some(mut desk) = desk
            && desks.len() < SPARE_DESKS
            && desk.clear()
        {
            desks.push(desk);
        }
    }

    /// Lends the memory of one answer.
    pub(super) fn tray(&self) -> Box<Tray> {
        self.trays.borrow_mut().pop().unwrap_or_else(Tray::new)
    }

    /// Takes back what was lent.
    pub(super) fn put_back_tray(&self, tray: Option<Box<Tray>>) {
        let mut trays = self.trays.borrow_mut();
        if let Some(mut tray) = tray
            && trays.len() < SPARE_DESKS
            && tray.clear()
        {
            trays.push(tray);
        }
    }

    /// Adopts each snapshot as it is published, and says so when nothing is left of the one before: no idle connection to
    /// an endpoint that is out of routing. New requests adopt it by themselves (see `switch::reader`).
    async fn follow_snapshots(self: Rc<Self>) {
        loop {
            let adopted = self.reader.adopt();
            self.upstream.let_go(&self.reader.departed()).await;
            self.reader.acknowledge(&adopted);
            drop(adopted);
            self.reader.changed().await;
        }
    }

    async fn tick(self: Rc<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for count in 0_u32.. {
            ticks.tick().await;
            self.clock.tick();
            let now = self.clock.now();
            for (_, client) in self.clients.borrow().iter() {
                client.tick(now);
            }
            if count.is_multiple_of(SWEEP) && self.reader.worker() == 0 {
                self.rates.sweep();
            }
            if count.is_multiple_of(WARM) {
                self.warming.look(&self);
            }
        }
    }

    /// Looks at the idle upstream connections now and then. Apart from the ticks, which must not wait for that.
    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TICK * SWEEP).await;
            self.upstream.sweep().await;
        }
    }

    /// Lets what is in flight finish, and counts what did not in time.
    async fn drain(&self, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        let mut looks = interval(TICK / 4);
        self.clock.begin_to_end();
        loop {
            // Also those that came in with the last accepts.
            self.clients.borrow().iter().for_each(|(_, client)| client.close());
            if self.clients.borrow().is_empty() {
                return 0;
            }
            if Instant::now() >= deadline {
                break;
            }
            looks.tick().await;
        }
        let cut = self.clients.borrow().iter().map(|(_, client)| client.in_flight() as usize).sum();
        self.recorder.cuts_what_is_left();
        // Who can still be told so is told.
        self.clock.cut_all();
        let last_words = Instant::now() + tunnel::CLOSING;
        while !self.clients.borrow().is_empty() && Instant::now() < last_words {
            looks.tick().await;
        }
        self.clients.borrow().iter().for_each(|(_, client)| client.abort());
        // Aborted tasks are dropped when the runtime comes round to them.
        while !self.clients.borrow().is_empty() {
            looks.tick().await;
        }
        cut
    }

    fn serve(self: &Rc<Self>, socket: Socket, peer: Option<SocketAddr>, terms: &Terms, others: &Rc<Arrivals>) {
        let Terms { options, tls, crowd, inspects } = terms;
        let not_served = |why| self.recorder.not_served(&options.name, why);
        if options.proxy_protocol.as_ref().is_some_and(|proxy| !proxy.trusts(peer.map(|peer| peer.ip()))) {
            return not_served(NotServed::Untrusted);
        }
        let (admitted, room) = crowd.enter(&options.limits);
        if room == Room::Shut {
            return not_served(NotServed::Limit);
        }
        let tls = tls.as_ref().map(|tls| TlsAcceptor::from(tls.settings()));
        let arrival = Box::new(Arrival { socket, peer, tls, admitted, room, others: Rc::clone(others) });
        let client = Client::new(self, Arc::clone(options), inspects.clone());
        let key = self.clients.borrow_mut().insert(Rc::clone(&client));
        let place = Place { worker: Rc::clone(self), key };
        let task = tokio::task::spawn_local({
            let client = Rc::clone(&client);
            async move {
                let _place = place;
                connection::serve(client, arrival).await;
            }
        });
        client.task.replace(Some(task.abort_handle()));
    }
}

/// A connection's place among its worker's, given up when dropped.
struct Place {
    worker: Rc<Worker>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.clients.borrow_mut().remove(self.key);
    }
}

/// A socket being accepted on.
struct Accepting {
    acceptor: Rc<Acceptor>,
    terms: Rc<RefCell<Terms>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    fn start(worker: &Rc<Worker>, socket: Listening, terms: Terms) -> io::Result<Self> {
        let acceptor = match socket {
            Listening::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket) => Acceptor::Unix(UnixListener::from_std(socket)?),
        };
        let (acceptor, terms) = (Rc::new(acceptor), Rc::new(RefCell::new(terms)));
        let (stop, stopped) = oneshot::channel();
        let task =
            tokio::task::spawn_local(accept(Rc::clone(worker), Rc::clone(&acceptor), Rc::clone(&terms), stopped));
        Ok(Self { acceptor, terms, stop, task })
    }

    /// From now on, serves those it accepts like this.
    fn change(&self, terms: Terms) {
        let before = self.terms.replace(terms);
        let tcp = self.terms.borrow().options.tcp;
        if let Acceptor::Tcp(socket) = &*self.acceptor
            && before.options.tcp != tcp
            && let Err(error) = listener::listen(SockRef::from(socket), &tcp)
        {
            tracing::error!(%error, listener = before.options.name, "the system refuses the new TCP options");
        }
    }

    /// Serves what waits to be accepted, and closes the socket.
    async fn end(self) {
        // The accepting task is to have the socket for itself.
        drop(self.acceptor);
        drop(self.stop);
        drop(self.task.await);
    }
}

async fn accept(
    worker: Rc<Worker>,
    acceptor: Rc<Acceptor>,
    terms: Rc<RefCell<Terms>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let arrivals = Rc::default();
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            _ = &mut stopped => break,
        };
        match accepted {
            Ok((socket, peer)) => worker.serve(socket, peer, &terms.borrow(), &arrivals),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, listener = terms.borrow().options.name, "cannot accept; raise the limit of files");
                tokio::time::sleep(OUT_OF_FILES).await;
            }
        }
    }
    // The kernel has completed these connections already: to close the socket would reset them.
    for (socket, peer) in Rc::into_inner(acceptor).into_iter().flat_map(Acceptor::into_waiting) {
        worker.serve(socket, peer, &terms.borrow(), &arrivals);
    }
}

/// Whether an error of accept says something of the connection that would have come, and not of us.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                Ok((Socket::Tcp(socket), Some(peer)))
            }
            Self::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), None)),
        }
    }

    /// What waits to be accepted, without waiting for more.
    fn into_waiting(self) -> Vec<(Socket, Option<SocketAddr>)> {
        let mut waiting = Vec::new();
        match self {
            Self::Tcp(listener) => {
                let Ok(listener) = listener.into_std() else { return waiting };
                while let Ok((socket, peer)) = listener.accept() {
                    let socket = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
                    waiting.extend(socket.ok().map(|socket| (Socket::Tcp(socket), Some(peer))));
                }
            }
            Self::Unix(listener) => {
                let Ok(listener) = listener.into_std() else { return waiting };
                while let Ok((socket, _)) = listener.accept() {
                    let socket = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
                    waiting.extend(socket.ok().map(|socket| (Socket::Unix(socket), None)));
                }
            }
        }
        waiting
    }
}
