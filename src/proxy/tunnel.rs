//! What follows a 101, or an extended CONNECT (RFC 8441) that was taken: octets both ways, until one side ends it. Each
//! direction is closed on its own, so a half-close is passed on. The ticket is held all the while: a tunnel keeps its pool from being drained, unless its app's policy says
//! otherwise.

use std::{
    cell::Cell,
    future::pending,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    time::Instant,
};

use super::{
    client::Serving,
    clock::{Alarm, Clock, TICK},
    exchange::Wire,
};
use crate::{
    switch::{Stage, Streams, Ticket},
    telemetry::request_log::{Outcome, RequestLog},
};

/// The buffer of each direction, in octets.
const BUFFER: usize = 16 * 1024;

/// A tunnel that begins when the client has been told so.
pub(super) struct Opening {
    pub(super) upstream: Wire,
    /// What the upstream sent right behind its answer.
    pub(super) early: Bytes,
    pub(super) ticket: Ticket,
    pub(super) log: RequestLog,
    pub(super) serving: Serving,
}

/// Runs a tunnel to its end. `early` is what the client sent right behind its request.
pub(super) async fn run(opening: Opening, stream: impl AsyncRead + AsyncWrite + Unpin, early: Bytes) {
    let Opening { upstream, early: from_upstream, ticket, mut log, serving } = opening;
    let clock = serving.client().clock();
    let moved = Rc::new(Cell::new(clock.now()));
    let mut client = Side::new(stream, early, &moved, clock);
    let mut upstream = Side::new(upstream, from_upstream, &moved, clock);
    let (outcome, reason) = tokio::select! {
        ended = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER) => match ended {
            Ok(_) => (Outcome::Answered, ""),
            Err(_) if client.failed => (Outcome::ClientGone, ""),
            Err(_) => (Outcome::UpstreamFailedAfter, "reset"),
        },
        alarm = overstay(&ticket, clock, &moved) => match alarm {
            Alarm::Due => (Outcome::Answered, "idle"),
            Alarm::Cut => (Outcome::UpstreamFailedAfter, "drained"),
        },
        () = retired(&ticket) => (Outcome::Answered, "retired"),
    };
    log.received(client.read);
    log.sent(upstream.read);
    log.ended(outcome, reason);
}

/// Until it has been silent for too long, or its tenure is cut, where the policy minds.
async fn overstay(ticket: &Ticket, clock: &Rc<Clock>, moved: &Cell<Instant>) -> Alarm {
    let idle = ticket.policy().traffic.upgrade_idle + TICK;
    let timer = clock.timer();
    if ticket.policy().drain.streams != Streams::Keep {
        timer.follow(ticket.tenure());
    }
    loop {
        timer.set(moved.get().checked_add(idle));
        let Err(alarm) = timer.guard(pending::<()>()).await else { continue };
        if alarm == Alarm::Cut || moved.get() + idle <= clock.now() {
            return alarm;
        }
    }
}

/// Until its pool is out of routing, where the policy has it end then, so that the client comes back on the new one.
async fn retired(ticket: &Ticket) {
    if ticket.policy().drain.streams == Streams::Cut
        && ticket.tenure().stage().wait_for(|stage| *stage >= Stage::Retired).await.is_ok()
    {
        return;
    }
    pending::<()>().await;
}

/// One end of a tunnel: what came early is read first, and every octet is taken note of.
struct Side<IO> {
    io: IO,
    early: Bytes,
    read: u64,
    failed: bool,
    moved: Rc<Cell<Instant>>,
    clock: Rc<Clock>,
}

impl<IO> Side<IO> {
    fn new(io: IO, early: Bytes, moved: &Rc<Cell<Instant>>, clock: &Rc<Clock>) -> Self {
        Self { io, early, read: 0, failed: false, moved: Rc::clone(moved), clock: Rc::clone(clock) }
    }

    fn note<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Ready(Ok(_)) => self.moved.set(self.clock.now()),
            Poll::Ready(Err(_)) => self.failed = true,
            Poll::Pending => {}
        }
        polled
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Side<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = if this.early.is_empty() {
            Pin::new(&mut this.io).poll_read(cx, buf)
        } else {
            let here = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early[..here]);
            this.early.advance(here);
            Poll::Ready(Ok(()))
        };
        this.read += (buf.filled().len() - before) as u64;
        this.note(polled)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Side<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.note(polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
