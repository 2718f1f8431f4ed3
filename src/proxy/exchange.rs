//! A request and its answer, whatever protocol the endpoint speaks: two engines behind one set of methods, so that those
//! who send, wait, relay and give up need not know which it is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    connect::Socket,
    h1::{self, FailureKind},
    h2,
    outgoing::{Outgoing, OutgoingBody},
    upload::UploadBody,
};

/// A request being sent, and its answer being received.
#[expect(clippy::large_enum_variant, reason = "it lives in a box, mostly as the larger one")]
pub(super) enum Exchange {
    H1(h1::Exchange<Socket, OutgoingBody>),
    H2(h2::Exchange<UploadBody>),
}

/// An exchange that came to no answer.
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// Whether anybody may have acted on the request.
    pub(super) sent: bool,
    /// Whether the connection is well for all that can be told.
    pub(super) is_well: bool,
    /// The request, if it can be sent once more.
    pub(super) request: Option<Outgoing>,
}

macro_rules! each {
    ($self:expr, $exchange:ident => $call:expr) => {
        match $self {
            Exchange::H1($exchange) => $call,
            Exchange::H2($exchange) => $call,
        }
    };
}

impl Exchange {
    /// Sends, and waits for the final answer's head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(StatusCode, HeaderMap), FailureKind>> {
        each!(self, exchange => exchange.poll_head(cx))
    }

    /// The next piece of the answer's body, while the request's goes on beside it.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FailureKind>>> {
        each!(self, exchange => exchange.poll_body(cx))
    }

    /// Sends what there is to send, while nobody takes the answer. Ready when all is sent, or nothing more will be taken.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FailureKind>> {
        each!(self, exchange => exchange.poll_upload(cx))
    }

    /// Whether the answer is whole.
    pub(super) fn has_ended(&self) -> bool {
        each!(self, exchange => exchange.has_ended())
    }

    /// What is known of the length of what is still to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        each!(self, exchange => exchange.size_hint())
    }

    pub(super) fn is_h2(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// The connection, if it is this exchange's alone and may serve another.
    pub(super) fn into_connection(self) -> Option<h1::Connection<Socket>> {
        match self {
            Self::H1(exchange) => exchange.into_connection(),
            Self::H2(_) => None,
        }
    }

    /// After the upstream has agreed to one: the tunnel, and what came on it already.
    pub(super) fn into_tunnel(self) -> Option<(Wire, Bytes)> {
        match self {
            Self::H1(exchange) => {
                let (socket, early) = exchange.into_tunnel();
                Some((Wire::Socket(socket), early))
            }
            Self::H2(exchange) => Some((Wire::Stream(exchange.into_tunnel()?), Bytes::new())),
        }
    }

    /// Gives up, with the request if it can be sent once more.
    pub(super) fn fail(self, kind: FailureKind) -> Failure {
        match self {
            Self::H1(exchange) => {
                let h1::Failure { kind, sent, request } = exchange.fail(kind);
                Failure { kind, sent, is_well: false, request: request.map(Box::new).map(Outgoing::H1) }
            }
            Self::H2(exchange) => {
                let h2::Failure { kind, sent, reset, message } = exchange.fail(kind);
                Failure { kind, sent, is_well: reset, request: message.map(Outgoing::Any) }
            }
        }
    }
}

/// The upstream's end of a tunnel.
pub(super) enum Wire {
    Socket(Socket),
    Stream(h2::Tunnel),
}

macro_rules! either {
    ($self:expr, $wire:ident => $call:expr) => {
        match $self.get_mut() {
            Wire::Socket($wire) => $call,
            Wire::Stream($wire) => $call,
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, wire => Pin::new(wire).poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, wire => Pin::new(wire).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, wire => Pin::new(wire).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, wire => Pin::new(wire).poll_shutdown(cx))
    }
}
