//! What h2 reads and writes for a client: it lets all through, and counts, so that a client that lives by
//! frames that cost us work and bring nothing is cut off (see `flood`).

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    super::{client::Client, stream::Stream},
    flood::Meter,
};

/// The stream as h2 sees it.
pub(super) struct Gate {
    stream: Rc<RefCell<Stream>>,
    client: Rc<Client>,
    meter: Meter,
    since: Instant,
    /// What came before h2 was there to read it.
    early: Bytes,
}

impl Gate {
    /// Lets all through that is not a flood; `read` has come already.
    pub(super) fn new(stream: &Rc<RefCell<Stream>>, client: &Rc<Client>, read: Vec<u8>) -> Self {
        let mut meter = Meter::new();
        meter.received(&read);
        Self {
            stream: Rc::clone(stream),
            client: Rc::clone(client),
            meter,
            since: client.clock().now(),
            early: read.into(),
        }
    }

    /// Takes note of a write.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        self.client.wrote(written.is_ready());
        if let Poll::Ready(Ok(octets)) = written {
            self.meter.sent(*octets);
        }
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let here = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early[..here]);
            this.early.advance(here);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut *this.stream.borrow_mut()).poll_read(cx, buf))?;
        this.meter.received(&buf.filled()[before..]);
        let age = this.client.clock().now().saturating_duration_since(this.since);
        Poll::Ready(match this.meter.is_flooded(age.as_secs()) {
            true => Err(io::Error::new(io::ErrorKind::InvalidData, "a flood of useless frames")),
            false => Ok(()),
        })
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut *this.stream.borrow_mut()).poll_write(cx, buf);
        this.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
