//! A connection to an endpoint as a stream of octets, whatever carries it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

/// What carries a connection to an endpoint.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    TlsUnix(Box<TlsStream<UnixStream>>),
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
            Socket::Tls($stream) => $call,
            Socket::TlsUnix($stream) => $call,
        }
    };
}

impl Socket {
    /// Ready when there may be something to read. To find that there is not costs less than to try.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx).map(drop),
            Self::Unix(stream) => stream.poll_read_ready(cx).map(drop),
            Self::Tls(_) | Self::TlsUnix(_) => Poll::Ready(()),
        }
    }

    /// Whether nothing has come and nothing was closed since it was used last. Costs no system call: the runtime's driver
    /// knows.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let is_nothing = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        match self {
            Self::Tcp(stream) => is_nothing(stream.try_read(&mut [0])),
            Self::Unix(stream) => is_nothing(stream.try_read(&mut [0])),
            Self::Tls(_) | Self::TlsUnix(_) => {
                let (mut nobody, mut octet) = (Context::from_waker(Waker::noop()), [0]);
                Pin::new(self).poll_read(&mut nobody, &mut ReadBuf::new(&mut octet)).is_pending()
            }
        }
    }

    /// The protocol that ALPN (RFC 7301) has settled for, if the endpoint took part in it.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
            Self::TlsUnix(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }
}

/// Writes. Mostly there is room, and to write costs less than to get ready for it.
pub(crate) fn poll_write(socket: &mut TcpStream, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
    match socket.try_write(octets) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pin::new(socket).poll_write(cx, octets),
        written => Poll::Ready(written),
    }
}

impl AsyncRead for Socket {
    /// Whoever reads has written what he wants answered. TLS may still hold some of it back, where the socket was full, so
    /// that goes out first; what TLS itself has to say (a session ticket) is no octet of the stream, and leaves it pending.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let held_back = match this {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
            Self::TlsUnix(stream) => stream.get_ref().1.wants_write(),
        };
        if held_back {
            // Should it fail, there may be an answer to be read all the same.
            let _ = Pin::new(&mut *this).poll_flush(cx);
        }
        each!(this, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
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
