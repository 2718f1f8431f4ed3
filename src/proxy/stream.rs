//! A client's connection as a stream of octets, whatever carries it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Empty, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use super::connect::poll_write;

/// What carries a client's connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    TlsUnix(Box<TlsStream<UnixStream>>),
    /// Nothing any more: somebody else has taken the stream.
    Taken(Empty),
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::TlsUnix($stream) => $call,
            Stream::Taken($stream) => $call,
        }
    };
}

impl Stream {
    /// Ready when there may be something to read. To find that there is not costs less than to try.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx).map(drop),
            Self::Unix(stream) => stream.poll_read_ready(cx).map(drop),
            _ => Poll::Ready(()),
        }
    }

    /// Whether nothing has come that was not read, for all that is known.
    pub(super) fn is_quiet(&self, cx: &mut Context<'_>) -> bool {
        let readable = match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.get_ref().0.poll_read_ready(cx),
            Self::TlsUnix(stream) => stream.get_ref().0.poll_read_ready(cx),
            Self::Taken(_) => return false,
        };
        readable.is_pending()
    }

    /// To write what is the last that is written.
    pub(super) fn last(&mut self) -> Last<'_> {
        Last(self)
    }

    /// Says what there is to say before the socket is closed: to TLS, that this is the end, and no cut (RFC 8446 §6.1).
    pub(super) fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tls(stream) => stream.get_mut().1.send_close_notify(),
            Self::TlsUnix(stream) => stream.get_mut().1.send_close_notify(),
            Self::Tcp(_) | Self::Unix(_) | Self::Taken(_) => return Poll::Ready(()),
        }
        // Who does not hear it has left.
        Pin::new(self).poll_flush(cx).map(drop)
    }

    /// The TLS session, if there is one.
    pub(super) fn tls(&self) -> Option<&ServerConnection> {
        match self {
            Self::Tls(stream) => Some(stream.get_ref().1),
            Self::TlsUnix(stream) => Some(stream.get_ref().1),
            Self::Tcp(_) | Self::Unix(_) | Self::Taken(_) => None,
        }
    }

    /// What has befallen the socket since it was last asked.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(stream) => stream.take_error(),
            Self::Unix(stream) => stream.take_error(),
            Self::Tls(stream) => stream.get_ref().0.take_error(),
            Self::TlsUnix(stream) => stream.get_ref().0.take_error(),
            Self::Taken(_) => Ok(None),
        }
    }

    /// Has the socket reset when it is closed, so that what it carried cannot pass for whole. A Unix socket cannot be.
    pub(super) fn reset_when_closed(&self) {
        let socket = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Unix(_) | Self::TlsUnix(_) | Self::Taken(_) => return,
        };
        // What cannot be reset any more has no reader.
        SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => poll_write(stream, cx, buf),
            this => each!(this, stream => Pin::new(stream).poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A stream on which nothing is written but what is followed by its end. The system holds back what is short until then, and
/// sends both in one packet.
pub(super) struct Last<'a>(&'a mut Stream);

impl AsyncWrite for Last<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self.get_mut().0 {
            #[cfg(target_os = "linux")]
            Stream::Tcp(stream) => poll_write_more(stream, cx, buf),
            stream => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(target_os = "linux")]
fn poll_write_more(stream: &TcpStream, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
    use rustix::net::{SendFlags, send};
    let send = || Ok(send(stream, octets, SendFlags::MORE | SendFlags::NOSIGNAL)?);
    loop {
        std::task::ready!(stream.poll_write_ready(cx))?;
        match stream.try_io(tokio::io::Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}
