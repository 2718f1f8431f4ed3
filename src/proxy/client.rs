//! One client connection, as its requests, its octets and its worker see it: who the client is, how much is in flight, and
//! whether it is to end. All of it lives on one thread.

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tokio::{task::AbortHandle, time::Instant};

use super::{
    Bind, Candidate, ListenerOptions, ListenerRole, clock::Clock, connect::Origin, forwarding::Forwarding,
    worker::Worker,
};

/// How long a connection without a request stays open once it is asked to end. A client that has just had an answer is
/// about to send its next request, and would lose it to a close that crosses it on the way; given this long, it sends it,
/// and is told `connection: close` with the answer (RFC 9112 §9.6).
const FAREWELL: Duration = Duration::from_secs(1);

/// One client connection.
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    /// The listener's options when the connection was accepted.
    pub(super) options: Arc<ListenerOptions>,
    /// What its requests are for, whatever their host: it is one of our own.
    inspects: Option<Arc<Candidate>>,
    /// Who it is: known when it has arrived.
    forwarding: OnceCell<Forwarding>,
    over_limit: Cell<bool>,
    pub(super) task: RefCell<Option<AbortHandle>>,
    in_flight: Cell<u32>,
    /// When the last request ended, or the connection began.
    quiet_since: Cell<Instant>,
    /// When the first octet of a head that is not whole came.
    head_since: Cell<Option<Instant>>,
    head_is_late: Cell<bool>,
    /// Since when a write waits for the client to read.
    blocked_since: Cell<Option<Instant>>,
    closing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    answer: Cell<Answer>,
    half_closed: Cell<bool>,
}

/// How the answer to the last request of an HTTP/1 connection gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Its head is not known.
    NotYet,
    /// It is being sent, in chunks.
    InChunks,
    /// It is being sent, and nothing but the connection's end will tell its own.
    UntilClose,
    /// It is being sent in another way, or has been.
    Otherwise,
}

impl Client {
    pub(super) fn new(
        worker: &Rc<Worker>,
        options: Arc<ListenerOptions>,
        inspects: Option<Arc<Candidate>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker: Rc::clone(worker),
            options,
            inspects,
            forwarding: OnceCell::new(),
            over_limit: Cell::new(false),
            task: RefCell::default(),
            in_flight: Cell::new(0),
            quiet_since: Cell::new(worker.clock.now()),
            head_since: Cell::new(None),
            head_is_late: Cell::new(false),
            blocked_since: Cell::new(None),
            closing: Cell::new(false),
            waker: RefCell::default(),
            answer: Cell::new(Answer::NotYet),
            half_closed: Cell::new(false),
        })
    }

    pub(super) fn clock(&self) -> &Rc<Clock> {
        &self.worker.clock
    }

    /// Says who it is, once, before its first request; `over_limit`: it came in over a limit, and is to be told so.
    pub(super) fn introduce(&self, forwarding: Forwarding, over_limit: bool) {
        self.forwarding.set(forwarding).ok();
        self.over_limit.set(over_limit);
    }

    pub(super) fn forwarding(&self) -> &Forwarding {
        self.forwarding.get_or_init(Forwarding::unknown)
    }

    /// Whether its requests are refused because it came in over a limit.
    pub(super) fn is_over_limit(&self) -> bool {
        self.over_limit.get()
    }

    /// Whose a request is, for endpoints that are told; `None` where addresses mean nothing. `asker` is its client's address,
    /// as [`Forwarding`] makes it out. The listener is named as it is bound.
    pub(super) fn origin(&self, asker: Option<IpAddr>) -> Option<Origin> {
        let Bind::Tcp(listener) = self.options.bind else { return None };
        let peer = self.forwarding().peer().filter(|peer| asker == Some(peer.ip()));
        // Of a client behind a trusted proxy no port is known.
        let client = peer.or_else(|| asker.map(|asker| SocketAddr::new(asker, 0)))?;
        Some(Origin { client, listener })
    }

    /// The candidate that its requests are for, if it is one of our own.
    pub(super) fn inspects(&self) -> Option<&Candidate> {
        self.inspects.as_deref()
    }

    /// Whether only previews are shown here.
    pub(super) fn sees_previews(&self) -> bool {
        self.options.role == ListenerRole::Preview
    }

    /// Counts a request in, until the value it returns is dropped.
    pub(super) fn begin(self: &Rc<Self>) -> Serving {
        self.in_flight.set(self.in_flight.get() + 1);
        self.answer.set(Answer::NotYet);
        Serving { client: Rc::clone(self) }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Takes note of whether a head has begun to come and is not whole.
    pub(super) fn head_began(&self, begun: bool) {
        match (begun, self.head_since.get()) {
            (true, None) => self.head_since.set(Some(self.clock().now())),
            (false, Some(_)) => {
                self.head_since.set(None);
                // It may have come whole in the very tick that found it late.
                self.head_is_late.set(false);
            }
            _ => {}
        }
    }

    pub(super) fn head_is_late(&self) -> bool {
        self.head_is_late.get()
    }

    /// Takes note of whether a write got through.
    pub(super) fn wrote(&self, through: bool) {
        match (through, self.blocked_since.get()) {
            (false, None) => self.blocked_since.set(Some(self.clock().now())),
            (true, Some(_)) => self.blocked_since.set(None),
            _ => {}
        }
    }

    /// Whether a write waits for the client to read.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
    }

    pub(super) fn answer(&self) -> Answer {
        self.answer.get()
    }

    /// Takes note of how the last request is being answered.
    pub(super) fn answers(&self, answer: Answer) {
        self.answer.set(answer);
    }

    /// The client has closed its direction: the connection ends with what is in flight.
    pub(super) fn sends_no_more(&self) {
        self.half_closed.set(true);
    }

    /// Asks the connection to end when its requests have, and no other has followed.
    pub(super) fn close(&self) {
        if !self.closing.replace(true) {
            self.wake();
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Whether it is to be closed now: it was asked to end, and no request has come for a while.
    pub(super) fn may_end(&self) -> bool {
        let idle = self.in_flight.get() == 0 && self.head_since.get().is_none();
        idle && self.closing.get() && self.clock().now() >= self.quiet_since.get() + FAREWELL
    }

    /// Ends it without regard for what is in flight.
    pub(super) fn abort(&self) {
        self.task.borrow().iter().for_each(AbortHandle::abort);
    }

    /// Whoever polls the connection leaves its waker here, for [`Self::close`] and late heads.
    pub(super) fn wake_here(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        self.waker.borrow().iter().for_each(Waker::wake_by_ref);
    }

    /// Looks whether the client has taken too long. The worker calls it with every tick.
    pub(super) fn tick(&self, now: Instant) {
        let timeouts = &self.options.timeouts;
        if self.head_since.get().is_some_and(|since| now >= since + timeouts.head) && !self.head_is_late.replace(true) {
            self.wake();
        }
        if self.blocked_since.get().is_some_and(|since| now >= since + timeouts.body) {
            self.abort();
        }
        if self.may_end() {
            self.wake();
        }
        if self.in_flight.get() == 0 && now >= self.quiet_since.get() + timeouts.idle {
            let overdue = now >= self.quiet_since.get() + timeouts.idle + timeouts.head;
            match self.closing.get() {
                false => self.close(),
                // It was asked to end and does not: its peer takes nothing.
                true if overdue => self.abort(),
                true => {}
            }
        }
    }
}

/// A request in flight on its client's connection.
pub(super) struct Serving {
    client: Rc<Client>,
}

impl Serving {
    pub(super) fn client(&self) -> &Rc<Client> {
        &self.client
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.client.in_flight.set(self.client.in_flight.get() - 1);
        self.client.quiet_since.set(self.client.clock().now());
        if self.client.half_closed.get() {
            self.client.wake();
        }
    }
}
