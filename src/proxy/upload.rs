//! A request's body on its way to the upstream: cleaned, counted, limited, and watched, so that whoever awaits the answer knows
//! whether the client stalls, sends too much, or breaks off.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::time::Instant;

use super::{clock::Clock, error::ProxyError, headers, http1::Streamed, http2::Received};

/// The body as an exchange takes it.
pub(super) enum UploadBody {
    Empty,
    Streamed { incoming: Inflow, upload: Rc<Upload> },
}

/// Where a body comes from.
pub(super) enum Inflow {
    None,
    Http1(Streamed),
    Http2(Received),
}

/// What is known of a body on its way.
pub(super) struct Upload {
    clock: Rc<Clock>,
    limit: Option<u64>,
    octets: Cell<u64>,
    /// When the last piece came, or was taken; the end, if `state` says so.
    moved: Cell<Instant>,
    state: Cell<State>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The upstream is to take what there is.
    Upstreams,
    /// The client is to send.
    Clients,
    /// It is over.
    Done,
    /// It is over, and not well.
    Failed(Failure),
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Failure {
    #[error("the body is over the limit")]
    TooLarge,
    #[error("the body is malformed")]
    Malformed,
    #[error("the client broke off")]
    ClientGone,
}

impl UploadBody {
    /// The body of a request that has one, limited to so many octets.
    pub(super) fn new(incoming: Inflow, limit: Option<u64>, clock: &Rc<Clock>) -> (Self, Rc<Upload>) {
        let upload = Upload::new(limit, clock);
        (Self::Streamed { incoming, upload: Rc::clone(&upload) }, upload)
    }
}

impl Upload {
    /// Of a body that has not begun to come.
    pub(super) fn new(limit: Option<u64>, clock: &Rc<Clock>) -> Rc<Self> {
        Rc::new(Self {
            clock: Rc::clone(clock),
            limit,
            octets: Cell::new(0),
            moved: Cell::new(clock.now()),
            state: Cell::new(State::Upstreams),
        })
    }

    pub(super) fn octets(&self) -> u64 {
        self.octets.get()
    }

    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    /// Takes note that the request gets on, if not by its body.
    pub(super) fn touch(&self) {
        self.moved.set(self.clock.now());
    }

    /// When it last got on.
    pub(super) fn moved(&self) -> Instant {
        self.moved.get()
    }

    /// Takes note of whose turn it is, and that it got on.
    pub(super) fn turn(&self, state: State) {
        self.moved.set(self.clock.now());
        self.state.set(state);
    }

    /// Takes note of what is wrong with it.
    pub(super) fn fail(&self, failure: Failure) -> Failure {
        self.turn(State::Failed(failure));
        failure
    }

    fn count(&self, octets: usize) -> Result<(), Failure> {
        self.reached(self.octets.get() + octets as u64).map_err(|failure| self.fail(failure))
    }

    /// Takes note of how much has come in all.
    pub(super) fn reached(&self, octets: u64) -> Result<(), Failure> {
        self.octets.set(octets);
        match self.limit {
            Some(limit) if octets > limit => Err(Failure::TooLarge),
            _ => Ok(()),
        }
    }
}

impl Failure {
    /// What the client is told, should it still listen.
    pub(super) fn into_error(self) -> ProxyError {
        match self {
            Self::TooLarge => ProxyError::BodyTooLarge,
            Self::Malformed => ProxyError::BadRequest("malformed body"),
            Self::ClientGone => ProxyError::BadRequest("the body broke off"),
        }
    }
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Http1(streamed) => Pin::new(streamed).poll_frame(cx),
            // It tells little of what is wrong; a stream that was reset is a client that has left.
            Self::Http2(received) => Pin::new(received).poll_frame(cx).map_err(|_| Failure::ClientGone),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Http1(streamed) => streamed.is_end_stream(),
            Self::Http2(received) => received.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Http1(streamed) => streamed.size_hint(),
            Self::Http2(received) => received.size_hint(),
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Self::Streamed { incoming, upload } = self.get_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        // To be asked again is not to get on.
        if polled.is_pending() && upload.state() != State::Clients {
            upload.turn(State::Clients);
        }
        match ready!(polled) {
            None => {
                upload.turn(State::Done);
                Poll::Ready(None)
            }
            Some(Err(error)) => Poll::Ready(Some(Err(upload.fail(error)))),
            Some(Ok(mut frame)) => {
                frame.trailers_mut().into_iter().for_each(headers::clean_trailers);
                if let Err(failure) = upload.count(frame.data_ref().map_or(0, Bytes::len)) {
                    return Poll::Ready(Some(Err(failure)));
                }
                upload.turn(if incoming.is_end_stream() { State::Done } else { State::Upstreams });
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed { incoming, .. } => incoming.size_hint(),
        }
    }
}
