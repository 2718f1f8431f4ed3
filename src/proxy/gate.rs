//! What hyper reads and writes for a client. On HTTP/1 every octet passes the scanner (see `framing`) on its way into
//! hyper's buffer: only whole heads go on, and in place of a request that is refused goes [`STAND_IN`], so that the refusal
//! takes the same road as any other answer, with its place in the order of pipelined answers, its log line and its count.
//! On HTTP/2 it only counts (see `flood`).

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    client::{Answer, Client},
    flood::Meter,
    framing::{Scanner, Violation},
    half_close::HalfClose,
    stream::Stream,
};

/// A request that parses, for hyper to call the service with.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost:\r\n\r\n";

/// How much may come behind a request for an upgrade before it is answered, in octets.
const MAX_EARLY: usize = 64 * 1024;

/// The stream as hyper sees it.
pub(super) struct Gate {
    stream: Rc<RefCell<Stream>>,
    client: Rc<Client>,
    /// `None` for HTTP/2, whose framing is not ours to check.
    scanner: Option<Scanner>,
    /// `None` for HTTP/1.
    meter: Option<Meter>,
    since: Instant,
    /// Octets read and not handed on, and how many of them may be.
    held: Vec<u8>,
    cleared: usize,
    /// Whether some that are held have not been scanned.
    unseen: bool,
    shut: Option<Shut>,
    /// The client has closed its direction.
    half_close: Option<HalfClose>,
}

/// Why nothing more is handed on.
#[derive(Clone, Copy)]
enum Shut {
    /// A stand-in was.
    Refused,
    /// A body is malformed.
    Broken(&'static str),
}

impl Gate {
    /// Watches over HTTP/1 requests, of which `read` has come already.
    pub(super) fn http1(stream: &Rc<RefCell<Stream>>, client: &Rc<Client>, read: Vec<u8>) -> Self {
        let mut gate = Self::new(stream, client, read);
        gate.scanner = Some(Scanner::new(client.options.limits.head_size));
        gate.unseen = !gate.held.is_empty();
        gate
    }

    /// Lets all HTTP/2 through that is not a flood; `read` has come already.
    pub(super) fn http2(stream: &Rc<RefCell<Stream>>, client: &Rc<Client>, read: Vec<u8>) -> Self {
        let mut gate = Self::new(stream, client, read);
        let mut meter = Meter::new();
        meter.received(&gate.held);
        gate.meter = Some(meter);
        gate.cleared = gate.held.len();
        gate
    }

    fn new(stream: &Rc<RefCell<Stream>>, client: &Rc<Client>, read: Vec<u8>) -> Self {
        Self {
            stream: Rc::clone(stream),
            client: Rc::clone(client),
            scanner: None,
            meter: None,
            since: client.clock().now(),
            cleared: 0,
            held: read,
            unseen: false,
            shut: None,
            half_close: None,
        }
    }

    /// What was read and not handed on: the first octets of a tunnel.
    pub(super) fn into_held(mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let here = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..here]);
        self.held.drain(..here);
        self.cleared -= here;
        if self.held.is_empty() {
            // Few connections ever hold anything; those that did need not keep the room.
            self.held = Vec::new();
        }
    }

    /// Shows the scanner what it has not seen of what is held.
    fn scan_held(&mut self) {
        self.unseen = false;
        if let Some(scanner) = &mut self.scanner {
            let (cleared, violation) = scanner.advance(&self.held[self.cleared..]);
            self.cleared += cleared;
            self.scanned(violation);
        }
    }

    /// Acts on what the scanner found. What it did not clear is in `held`.
    fn scanned(&mut self, violation: Option<Violation>) {
        let Some(scanner) = &self.scanner else { return };
        if scanner.is_upgrading() {
            self.client.expect_upgrade();
        }
        self.client.head_began(scanner.in_head() && self.held.len() > self.cleared);
        if let Some(violation) = violation {
            self.refuse(violation);
        }
    }

    fn refuse(&mut self, violation: Violation) {
        let Some(scanner) = &self.scanner else { return };
        self.client.head_began(false);
        self.held.truncate(self.cleared);
        self.shut = Some(match violation {
            _ if scanner.in_head() => {
                self.client.refuse(scanner.heads() + 1, violation);
                self.held.extend_from_slice(STAND_IN);
                self.cleared = self.held.len();
                Shut::Refused
            }
            Violation::Malformed(why) => Shut::Broken(why),
            _ => Shut::Broken("trailer section too large"),
        });
    }

    /// Whether there is something to hand on, or an end, without reading.
    fn look(&mut self) -> Option<Poll<io::Result<()>>> {
        loop {
            if self.cleared > 0 {
                return None;
            }
            match self.shut {
                Some(Shut::Refused) => return Some(Poll::Pending),
                Some(Shut::Broken(why)) => {
                    return Some(Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why))));
                }
                None => {}
            }
            let scanner = self.scanner.as_mut()?;
            if self.client.upgrade_is_pending() {
                return (self.held.len() > MAX_EARLY).then_some(Poll::Pending);
            }
            if scanner.is_upgrading() {
                scanner.resume();
            }
            if self.unseen {
                self.scan_held();
            } else if self.client.head_is_late() && scanner.in_head() && !self.held.is_empty() {
                self.refuse(Violation::TooSlow);
            } else {
                return None;
            }
        }
    }

    /// Takes note of a write.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        self.client.wrote(written.is_ready());
        if let (Poll::Ready(Ok(octets)), Some(meter)) = (written, &mut self.meter) {
            meter.sent(*octets);
        }
    }

    /// The client sends no more. hyper is told so when nothing is to be answered any more, or never will be.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let whole = self.held.is_empty() && self.scanner.as_ref().is_some_and(|scanner| !scanner.in_body());
        if !whole || self.client.in_flight() == 0 {
            return Poll::Ready(Ok(()));
        }
        let half_close = self.half_close.get_or_insert_with(HalfClose::new);
        half_close.poll(&mut self.stream.borrow_mut(), &self.client, cx).map(Err)
    }
}

impl Drop for Gate {
    /// hyper is done with the connection, or it was aborted.
    fn drop(&mut self) {
        if self.client.answer() == Answer::UntilClose {
            self.stream.borrow().reset_when_closed();
        }
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.client.wake_here(cx);
        loop {
            if let Some(end) = this.look() {
                return end;
            }
            if this.cleared > 0 {
                this.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            if this.half_close.is_some() {
                return this.poll_end(cx);
            }
            let before = buf.filled().len();
            let polled = Pin::new(&mut *this.stream.borrow_mut()).poll_read(cx, buf);
            if polled.is_pending() && this.scanner.is_some() && this.client.may_end() {
                // An end of the stream, as far as hyper can tell: it closes a connection that is idle.
                return Poll::Ready(Ok(()));
            }
            ready!(polled)?;
            let read = &buf.filled()[before..];
            if read.is_empty() {
                return this.poll_end(cx);
            }
            if let Some(meter) = &mut this.meter {
                meter.received(read);
                let age = this.client.clock().now().saturating_duration_since(this.since);
                return Poll::Ready(match meter.is_flooded(age.as_secs()) {
                    true => Err(io::Error::new(io::ErrorKind::InvalidData, "a flood of useless frames")),
                    false => Ok(()),
                });
            }
            let Some(scanner) = &mut this.scanner else { return Poll::Ready(Ok(())) };
            if this.held.is_empty() && !this.client.upgrade_is_pending() {
                let (cleared, violation) = scanner.advance(read);
                this.held.extend_from_slice(&read[cleared..]);
                buf.set_filled(before + cleared);
                this.scanned(violation);
                if cleared > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.held.extend_from_slice(read);
                buf.set_filled(before);
                this.unseen = true;
            }
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let (ahead, buf) = this.half_close.as_ref().map_or(Ok((0, buf)), |half_close| half_close.rest(buf))?;
        let written = Pin::new(&mut *this.stream.borrow_mut()).poll_write(cx, buf);
        this.wrote(&written);
        if let (Poll::Ready(Ok(_)), Some(half_close)) = (&written, &mut this.half_close) {
            half_close.caught_up();
        }
        written.map_ok(|octets| octets + ahead)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.half_close.is_some() {
            return self.poll_write(cx, bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| buf));
        }
        let this = self.get_mut();
        let written = Pin::new(&mut *this.stream.borrow_mut()).poll_write_vectored(cx, bufs);
        this.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}
