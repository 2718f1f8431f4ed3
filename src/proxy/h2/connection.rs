//! One connection to an endpoint: opening it, the task that drives it, and the places for streams on it.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{self, SendRequest},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::Instant,
};

use super::super::clock::{Clock, Timer};

/// How much of an answer a stream may have on its way, or waiting for its client, in octets.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;
/// The most streams we open at once on a connection, however many more the peer allows.
pub(super) const MOST_STREAMS: usize = 100;
/// The connection's window has room for all of its streams.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;
/// How much of a request h2 holds for a stream that may not send it yet, in octets.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest field section we accept, by RFC 9113's count (§6.5.2), in octets: what HTTP/1 may send, too.
const MAX_FIELD_SECTION: u32 = 32 * 1024;
/// What the short DATA frames that wait for their clients may cost us on one connection, in octets. h2's own limit is a
/// fraction of the window, and three clients that do not read their events would cost all others the connection.
const SHORT_FRAMES: usize = 64 * 1024 * 1024;
/// Streams we have reset lately, whose frames are still expected.
const MOST_RESET: usize = 1024;
/// How often a connection with streams is looked at. One that was silent is sent a ping, and given up if it is as silent
/// at the next look: its peer is gone without a word, and every new request would wait for it in vain.
const LOOK: Duration = Duration::from_secs(10);

/// A connection, for those who want to send on it. It ends with the last of them.
#[derive(Clone)]
pub(in super::super) struct Connection(Rc<Shared>);

struct Shared {
    requests: RefCell<SendRequest<Bytes>>,
    /// Whether TLS carries it.
    secure: bool,
    /// Which of its worker's connections it is.
    number: u64,
    /// The most streams the peer allows at once; 0 until it has said.
    limit: Cell<usize>,
    streams: Cell<usize>,
    /// When the last stream ended.
    quiet_since: Cell<Instant>,
    state: Cell<State>,
    settled: Notify,
    /// Rung when there is a place again.
    places: Rc<Notify>,
    clock: Rc<Clock>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// It takes no new stream.
    Retired,
}

/// Why there is no HTTP/2 connection over an open socket.
#[derive(Debug, Error)]
#[error("the endpoint closed the connection, or does not speak HTTP/2")]
pub(in super::super) struct NotHttp2(#[source] Option<h2::Error>);

impl Connection {
    /// Opens it, and waits until the peer has said how many streams it allows: a request that is sent before could find
    /// itself in a queue behind others while another connection would be free.
    pub(in super::super) async fn open<IO>(
        io: IO,
        secure: bool,
        number: u64,
        clock: &Rc<Clock>,
        places: &Rc<Notify>,
    ) -> Result<Self, NotHttp2>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let heard = Rc::new(Cell::new(0));
        let io = Ear { io, heard: Rc::clone(&heard) };
        let (requests, connection) = settings().handshake(io).await.map_err(|error| NotHttp2(Some(error)))?;
        let shared = Rc::new(Shared {
            requests: RefCell::new(requests),
            secure,
            number,
            limit: Cell::new(0),
            streams: Cell::new(0),
            quiet_since: Cell::new(clock.now()),
            state: Cell::new(State::Open),
            settled: Notify::new(),
            places: Rc::clone(places),
            clock: Rc::clone(clock),
        });
        let driver = Driver::new(connection, heard, Rc::downgrade(&shared), clock.timer());
        tokio::task::spawn_local(driver.run());
        while shared.limit.get() == 0 {
            let settled = shared.settled.notified();
            if shared.state.get() == State::Retired {
                return Err(NotHttp2(None));
            }
            settled.await;
        }
        Ok(Self(shared))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    pub(super) fn is_secure(&self) -> bool {
        self.0.secure
    }

    /// Whether it takes new streams, now or later.
    pub(super) fn is_open(&self) -> bool {
        self.0.state.get() == State::Open
    }

    /// How many streams at once it takes.
    pub(super) fn capacity(&self) -> usize {
        self.0.limit.get().min(MOST_STREAMS)
    }

    /// Since when it has carried nothing; `None` while it does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        Some(self.0.quiet_since.get()).filter(|_| self.0.streams.get() == 0)
    }

    /// Whether it has carried nothing since then.
    pub(super) fn is_idle_since(&self, then: Instant) -> bool {
        self.idle_since().is_some_and(|since| since <= then)
    }

    /// A place for one stream, if there is one.
    pub(super) fn place(&self) -> Option<Place> {
        if !self.is_open() || self.0.streams.get() >= self.capacity() {
            return None;
        }
        self.0.streams.set(self.0.streams.get() + 1);
        Some(Place(self.clone()))
    }

    /// Whether the peer takes an extended CONNECT (RFC 8441 §3).
    pub(in super::super) fn takes_tunnels(&self) -> bool {
        self.0.requests.borrow().is_extended_connect_protocol_enabled()
    }

    /// To send one request with. A clone of its own: h2 refuses a second request while the first of the same sender waits.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.0.requests.borrow().clone()
    }
}

impl Shared {
    fn retire(&self) {
        self.state.set(State::Retired);
        self.settled.notify_waiters();
        self.places.notify_waiters();
    }
}

/// A place for one stream, given up when dropped.
pub(in super::super) struct Place(Connection);

impl Place {
    pub(in super::super) fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.0.0;
        shared.streams.set(shared.streams.get() - 1);
        shared.quiet_since.set(shared.clock.now());
        shared.places.notify_waiters();
    }
}

fn settings() -> client::Builder {
    let mut settings = client::Builder::new();
    settings
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_FIELD_SECTION)
        .max_send_buffer_size(SEND_BUFFER)
        // None until the peer's settings are there: that is how they are noticed.
        .initial_max_send_streams(0)
        .max_concurrent_reset_streams(MOST_RESET)
        // A malformed answer is the fault of its stream, and of no other.
        .max_local_error_reset_streams(None)
        .data_frame_budget(SHORT_FRAMES);
    settings
}

/// What drives a connection: a task, until it is closed or nobody is left who wants it.
struct Driver<IO> {
    connection: client::Connection<Ear<IO>, Bytes>,
    pings: Option<PingPong>,
    shared: Weak<Shared>,
    timer: Timer,
    /// How often octets have come, and how often until the last look.
    heard: Rc<Cell<u64>>,
    heard_before: u64,
    /// A ping is on its way.
    asked: bool,
    /// At the last look, nobody wanted it any more.
    unwanted: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    fn new(
        mut connection: client::Connection<Ear<IO>, Bytes>,
        heard: Rc<Cell<u64>>,
        shared: Weak<Shared>,
        timer: Timer,
    ) -> Self {
        let pings = connection.ping_pong();
        timer.set_within(LOOK);
        Self { connection, pings, shared, timer, heard, heard_before: 0, asked: false, unwanted: false }
    }

    async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
        self.shared.upgrade().iter().for_each(|shared| shared.retire());
        // With the connection go its streams.
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closed = Pin::new(&mut self.connection).poll(cx).is_ready();
        if !closed && let Some(shared) = self.shared.upgrade() {
            self.tell(&shared, cx);
        }
        while !closed && self.timer.poll(cx).is_ready() {
            if self.is_dead(cx) {
                return Poll::Ready(());
            }
            self.timer.set_within(LOOK);
        }
        if closed { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Passes on what the peer has said of the streams it takes.
    fn tell(&self, shared: &Shared, cx: &mut Context<'_>) {
        let limit = self.connection.max_concurrent_send_streams();
        if shared.limit.replace(limit) < limit {
            shared.settled.notify_waiters();
            shared.places.notify_waiters();
        }
        // After a GOAWAY, or when stream numbers have run out, h2 takes no more.
        let takes_none = matches!(shared.requests.borrow_mut().poll_ready(cx), Poll::Ready(Err(_)));
        if takes_none && shared.state.get() == State::Open {
            shared.retire();
        }
    }

    /// Whether its peer is gone without a word, as far as can be told.
    fn is_dead(&mut self, cx: &mut Context<'_>) -> bool {
        let heard = self.heard.get();
        let silent = std::mem::replace(&mut self.heard_before, heard) == heard;
        let Some(shared) = self.shared.upgrade() else {
            // It was told that we are leaving, and had its time to take that.
            return std::mem::replace(&mut self.unwanted, true);
        };
        let Some(pings) = &mut self.pings else { return false };
        if self.asked && pings.poll_pong(cx).is_ready() {
            self.asked = false;
        }
        if !silent || shared.streams.get() == 0 {
            return false;
        }
        if self.asked {
            return true;
        }
        self.asked = pings.send_ping(Ping::opaque()).is_ok();
        false
    }
}

/// The socket, as h2 reads it: takes note that something has come.
struct Ear<IO> {
    io: IO,
    heard: Rc<Cell<u64>>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Ear<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.heard.set(this.heard.get() + 1);
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Ear<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
