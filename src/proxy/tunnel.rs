//! What follows a 101, or an extended CONNECT (RFC 8441) that was taken: octets both ways, until one side ends it. Each
//! direction is closed on its own, so a half-close is passed on. The ticket is held all the while: a tunnel keeps its pool
//! from being drained, unless its app's policy says otherwise.
//!
//! When it is we who end a WebSocket, both sides are told by a close frame, put between two frames of the conversation, and
//! have a moment to answer: a client then knows that it may come back at once.

use std::{
    cell::Cell,
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes},
    time::{Instant, timeout},
};

use super::{
    client::Serving,
    clock::{Alarm, Clock, TICK},
    exchange::Wire,
    frames::{self, CloseCode, Frames},
};
use crate::{
    switch::Ticket,
    telemetry::request_log::{Outcome, RequestLog},
};

/// The buffer of each direction, in octets.
const BUFFER: usize = 16 * 1024;
/// How long frames that have begun may take to end; after that, theirs is a conversation that ends without a word.
const LAST_FRAMES: Duration = Duration::from_millis(500);
/// How long both sides have to answer a close frame.
const GOODBYES: Duration = Duration::from_secs(1);
/// How long a tunnel that is to end may take for it, at most.
pub(super) const CLOSING: Duration = LAST_FRAMES.saturating_add(GOODBYES);

/// A tunnel that begins when the client has been told so.
pub(super) struct Opening {
    pub(super) upstream: Wire,
    /// What the upstream sent right behind its answer.
    pub(super) early: Bytes,
    /// Whether WebSocket is what they speak from here on.
    pub(super) is_websocket: bool,
    pub(super) ticket: Ticket,
    pub(super) log: RequestLog,
    pub(super) serving: Serving,
}

/// Runs a tunnel to its end. `early` is what the client sent right behind its request.
pub(super) async fn run(opening: Opening, stream: impl AsyncRead + AsyncWrite + Unpin, early: Bytes) {
    let Opening { upstream, early: from_upstream, is_websocket, ticket, mut log, serving } = opening;
    let clock = serving.client().clock();
    let watch = Rc::new(Watch {
        clock: Rc::clone(clock),
        is_websocket,
        moved: Cell::new(clock.now()),
        halting: Cell::new(false),
        mid_frame: Cell::new(0),
        broken_by: Cell::new(None),
    });
    let mut client = Side::new(Who::Client, stream, early, &watch);
    let mut upstream = Side::new(Who::Upstream, upstream, from_upstream, &watch);
    let ended = {
        let mut copying = pin!(copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER));
        let ended = tokio::select! {
            // How it ended, the sides know.
            _ = &mut copying => Ok(()),
            alarm = overstay(&ticket, &watch) => Err(alarm),
        };
        if ended.is_err() && is_websocket {
            watch.halting.set(true);
            timeout(LAST_FRAMES, halted(copying, &watch)).await.ok();
            watch.halting.set(false);
        }
        ended
    };
    let (outcome, reason) = match (ended, watch.broken_by.get()) {
        // The first to break it off counts, whatever the other made of it.
        (Ok(()), Some(Who::Client)) => (Outcome::ClientGone, ""),
        (Ok(()), Some(Who::Upstream)) => (Outcome::UpstreamFailedAfter, "reset"),
        (Ok(()), None) => (Outcome::Answered, ""),
        (Err(Alarm::Due), _) => (Outcome::Answered, "idle"),
        (Err(Alarm::Cut), _) => (Outcome::UpstreamFailedAfter, "drained"),
        (Err(Alarm::Retired), _) => (Outcome::Answered, "retired"),
    };
    log.received(client.read);
    log.sent(upstream.read);
    log.ended(outcome, reason);
    if let Err(alarm) = ended
        && is_websocket
    {
        let comes_back = alarm != Alarm::Due && !serving.client().is_closing();
        let code = if comes_back { CloseCode::ServiceRestart } else { CloseCode::GoingAway };
        let mask = Some(fastrand::u32(..).to_ne_bytes());
        let goodbyes = async {
            tokio::join!(
                client.part(frames::close(code, None)),
                upstream.part(frames::close(CloseCode::GoingAway, mask))
            )
        };
        // Who does not answer, or cannot, is left as any other tunnel is.
        timeout(GOODBYES, goodbyes).await.ok();
    }
}

/// Until it has been silent for too long, or its time is over by its app's policy.
async fn overstay(ticket: &Ticket, watch: &Watch) -> Alarm {
    let idle = ticket.policy().traffic.upgrade_idle + TICK;
    let timer = watch.clock.timer();
    timer.follow(ticket.tenure());
    timer.is_for_stream(ticket.tenure(), ticket.policy().drain);
    loop {
        timer.set(watch.moved.get().checked_add(idle));
        let Err(alarm) = timer.guard(pending::<()>()).await else { continue };
        if alarm != Alarm::Due || watch.moved.get() + idle <= watch.clock.now() {
            return alarm;
        }
    }
}

/// Until the frames that have begun have ended, both ways, while no others are taken up.
async fn halted(mut copying: Pin<&mut impl Future>, watch: &Watch) {
    poll_fn(|cx| match copying.as_mut().poll(cx) {
        Poll::Pending if watch.mid_frame.get() > 0 => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
}

/// What both ends of a tunnel are watched with.
struct Watch {
    clock: Rc<Clock>,
    is_websocket: bool,
    /// When an octet last moved.
    moved: Cell<Instant>,
    /// No other frame is to be begun.
    halting: Cell<bool>,
    /// To how many of the two sides a frame has begun to be written and has not ended.
    mid_frame: Cell<u8>,
    /// Who was the first to break it off, if anybody did.
    broken_by: Cell<Option<Who>>,
}

/// One of the two who speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    Upstream,
}

/// One end of a tunnel: what came early is read first, and every octet is taken note of.
struct Side<IO> {
    who: Who,
    io: IO,
    early: Bytes,
    read: u64,
    /// What this side has said, and what it has heard, if it is WebSocket.
    said: Frames,
    heard: Frames,
    watch: Rc<Watch>,
}

impl<IO> Side<IO> {
    fn new(who: Who, io: IO, early: Bytes, watch: &Rc<Watch>) -> Self {
        let (said, heard) = <_>::default();
        Self { who, io, early, read: 0, said, heard, watch: Rc::clone(watch) }
    }

    fn note<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Ready(Ok(_)) => self.watch.moved.set(self.watch.clock.now()),
            Poll::Ready(Err(_)) => self.breaks_off(),
            Poll::Pending => {}
        }
        polled
    }

    /// This side says nothing more. In most tunnels that is how they end; a WebSocket ends with a word, and one whose peer
    /// ends without is broken (RFC 6455 §7.1.5): the system closes the sockets of a process that dies in good order.
    fn falls_silent(&self) {
        let one_has_closed = self.said.have_closed() || self.heard.have_closed();
        if self.watch.is_websocket && !one_has_closed {
            self.breaks_off();
        }
    }

    fn breaks_off(&self) {
        let first = self.watch.broken_by.get().unwrap_or(self.who);
        self.watch.broken_by.set(Some(first));
    }

    fn hear(&mut self, octets: &[u8]) {
        let before = self.heard.is_between();
        self.heard.pass(octets);
        let mid_frame = &self.watch.mid_frame;
        match (before, self.heard.is_between()) {
            (true, false) => mid_frame.set(mid_frame.get() + 1),
            (false, true) => mid_frame.set(mid_frame.get() - 1),
            _ => {}
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Side<IO> {
    /// Says that the conversation is over, where that can be said, and listens until this side has said so too.
    async fn part(&mut self, farewell: Vec<u8>) -> io::Result<()> {
        if !self.heard.is_between() {
            return Ok(());
        }
        if !self.heard.have_closed() {
            self.write_all(&farewell).await?;
            self.flush().await?;
        }
        let mut ignored = [0; 1024];
        while !self.said.have_closed() && self.read(&mut ignored).await? > 0 {}
        self.shutdown().await
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Side<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let room = buf.remaining();
        let polled = if this.early.is_empty() {
            Pin::new(&mut this.io).poll_read(cx, buf)
        } else {
            let here = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early[..here]);
            this.early.advance(here);
            Poll::Ready(Ok(()))
        };
        this.read += (buf.filled().len() - before) as u64;
        if this.watch.is_websocket {
            this.said.pass(&buf.filled()[before..]);
        }
        if matches!(polled, Poll::Ready(Ok(()))) && buf.filled().len() == before && room > 0 {
            this.falls_silent();
        }
        this.note(polled)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Side<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.watch.halting.get() {
            buf = &buf[..this.heard.rest_of_frame(buf)];
            if buf.is_empty() {
                // Whoever halts us sees that we have, and does not wait for us.
                return Poll::Pending;
            }
        }
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        if this.watch.is_websocket
            && let Poll::Ready(Ok(written)) = polled
        {
            this.hear(&buf[..written]);
        }
        this.note(polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_who_halts_ends_the_frame_it_is_in_and_begins_no_other() {
        let clock = Clock::new();
        let now = clock.now();
        let (halting, mid_frame) = (Cell::new(false), Cell::new(0));
        let broken_by = Cell::new(None);
        let watch = Rc::new(Watch { clock, is_websocket: true, moved: Cell::new(now), halting, mid_frame, broken_by });
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut side = Side::new(Who::Upstream, ours, Bytes::new(), &watch);
        side.write_all(b"\x82\x05ab").await.unwrap();
        assert_eq!(watch.mid_frame.get(), 1);
        watch.halting.set(true);
        let more = side.write(b"cde\x82\x05next one").await.unwrap();
        assert_eq!((more, watch.mid_frame.get()), (3, 0));
        let none = poll_fn(|cx| Poll::Ready(Pin::new(&mut side).poll_write(cx, b"\x82\x05"))).await;
        assert!(none.is_pending());
        watch.halting.set(false);
        let parting = async {
            let mut heard = [0; 11];
            theirs.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"\x82\x05abcde\x88\x02\x03\xE9");
            // What was under way is read over, up to the answer.
            theirs.write_all(b"\x81\x83\0\0\0\0bye\x88\x80\0\0\0\0").await.unwrap();
            theirs.read_to_end(&mut Vec::new()).await.unwrap()
        };
        let (parted, after) = tokio::join!(side.part(frames::close(CloseCode::GoingAway, None)), parting);
        assert_eq!((parted.unwrap(), after), ((), 0));
    }
}
