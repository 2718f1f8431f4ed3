//! A stream as a tunnel (RFC 8441 §5): octets both ways in its DATA frames, each direction ended by END_STREAM.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{connection::Place, exchange::poll_window};

/// A stream that was taken as a tunnel, by an upstream or by us. Dropped before its end, it is reset.
pub(in super::super) struct Tunnel {
    sender: SendStream<Bytes>,
    receiver: RecvStream,
    received: Bytes,
    ended: bool,
    /// At an upstream; given up last, with the stream.
    _place: Option<Place>,
}

impl Tunnel {
    pub(super) fn new(place: Place, sender: SendStream<Bytes>, receiver: RecvStream) -> Self {
        Self { sender, receiver, received: Bytes::new(), ended: false, _place: Some(place) }
    }

    /// One that a client has asked for.
    pub(in super::super) fn of_client(sender: SendStream<Bytes>, receiver: RecvStream) -> Self {
        Self { sender, receiver, received: Bytes::new(), ended: false, _place: None }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.received.is_empty() {
            match ready!(this.receiver.poll_data(cx)) {
                Some(Ok(data)) => this.received = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let here = this.received.len().min(buf.remaining());
        buf.put_slice(&this.received[..here]);
        this.received.advance(here);
        // It fails only where the stream has gone.
        this.receiver.flow_control().release_capacity(here).ok();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Some(window) = ready!(poll_window(&mut this.sender, buf.len(), cx)) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let here = window.min(buf.len());
        this.sender.send_data(Bytes::copy_from_slice(&buf[..here]), false).map_err(broken)?;
        Poll::Ready(Ok(here))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.ended, true) {
            this.sender.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}
