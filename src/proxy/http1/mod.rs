//! HTTP/1 with a client, as our own engine (RFC 9112): a connection is a [`Http1`], and each of its requests takes one road,
//! [`transaction`]. Both sockets are driven by one task. Heads are edited on their way from one buffer to the other
//! ([`headers`](super::headers)), bodies go through a [`pump`], and [`relay`] turns all wheels. What is read and written is
//! the pure codec's affair ([`h1`](super::h1)).
//!
//! The memory a request needs is a [`Desk`], and that of its answer a [`Tray`], which its worker lends: a connection at rest has
//! none, not even for reading, and one that waits for its upstream no tray. It borrows one when octets have come, and gives
//! it back when there were none.

mod answer;
mod carry;
mod desk;
mod pump;
mod relay;
mod target;
mod transaction;

use std::{future::poll_fn, rc::Rc, task::Poll};

use bytes::Bytes;

pub(super) use self::{
    carry::Streamed,
    desk::{Desk, Tray},
};
use self::{target::Last, transaction::Next};
use super::{
    client::Client,
    clock::Timer,
    connection::Close,
    h1::{self, RequestHead, Violation},
    half_close::HalfClose,
    stream::Stream,
    tunnel,
};

/// A client's connection.
pub(super) struct Http1 {
    client: Rc<Client>,
    stream: Stream,
    last: Last,
    /// There while no request has it.
    timer: Option<Timer>,
    /// The client has closed its direction, while it waits for its answer.
    half_close: Option<HalfClose>,
}

/// What a connection brings.
enum Brought {
    Request(RequestHead),
    /// What is no request.
    Refused(Violation),
    /// Nothing more: it is to end.
    End,
    /// Nothing more: the client has closed it.
    Left,
}

/// Serves a connection to its end. What has come of it is on the desk; the timer is its own.
pub(super) async fn serve(client: &Rc<Client>, stream: Stream, mut desk: Option<Box<Desk>>, timer: Timer) -> Close {
    let client = Rc::clone(client);
    let mut http1 = Http1 { client, stream, last: Last::default(), timer: Some(timer), half_close: None };
    loop {
        let brought = http1.next(&mut desk).await;
        let Some(lent) = &mut desk else { return Close::Lingering(http1.stream) };
        let next = match &brought {
            // Boxed: a connection at rest is what this future is.
            Brought::Request(request) => Box::pin(http1.transact(lent, request)).await,
            Brought::Refused(violation) => Box::pin(http1.turn_away(lent, *violation)).await,
            Brought::End => Next::Close,
            Brought::Left => Next::CloseAtOnce,
        };
        http1.half_close = None;
        lent.incoming.drop_head();
        match next {
            Next::Again => {}
            Next::Close => {
                http1.client.worker.put_back(desk.take());
                return Close::Lingering(http1.stream);
            }
            Next::CloseAtOnce => {
                http1.client.worker.put_back(desk.take());
                return Close::AtOnce(http1.stream);
            }
            Next::Reset => {
                http1.client.worker.put_back(desk.take());
                http1.stream.reset_when_closed();
                return Close::Done;
            }
            Next::Switched(opening) => {
                let early = Bytes::copy_from_slice(lent.incoming.rest());
                http1.client.worker.put_back(desk.take());
                Box::pin(tunnel::run(*opening, http1.stream, early)).await;
                return Close::Done;
            }
        }
    }
}

impl Http1 {
    /// Awaits the next request. Without a desk, nothing has come.
    async fn next(&mut self, desk: &mut Option<Box<Desk>>) -> Brought {
        let limit = self.client.options.limits.head_size;
        let (mut searched, mut awaited) = (0, false);
        poll_fn(|cx| {
            self.client.wake_here(cx);
            let is_at_rest = desk.as_ref().is_none_or(|desk| desk.incoming.is_empty());
            if is_at_rest && !std::mem::replace(&mut awaited, true) && self.stream.poll_readable(cx).is_pending() {
                // It has just had its answer: there is nothing yet.
                self.client.worker.put_back(desk.take());
                return if self.client.may_end() { Poll::Ready(Brought::End) } else { Poll::Pending };
            }
            loop {
                let lent = desk.get_or_insert_with(|| self.client.worker.desk());
                let Desk { incoming, lines, .. } = &mut **lent;
                if !incoming.is_empty() {
                    match h1::read_request(incoming.rest(), &mut searched, limit, lines) {
                        Ok(Some(request)) => {
                            self.client.head_began(false);
                            return Poll::Ready(Brought::Request(request));
                        }
                        Err(violation) => {
                            self.client.head_began(false);
                            return Poll::Ready(Brought::Refused(violation));
                        }
                        Ok(None) => self.client.head_began(true),
                    }
                    if self.client.head_is_late() {
                        self.client.head_began(false);
                        return Poll::Ready(Brought::Refused(Violation::TooSlow));
                    }
                    incoming.grow(limit.saturating_add(1));
                }
                match incoming.poll_fill(&mut self.stream, cx) {
                    Poll::Ready(Ok(octets)) if octets > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Brought::Left),
                    Poll::Pending => {
                        if incoming.is_empty() {
                            self.client.worker.put_back(desk.take());
                            if self.client.may_end() {
                                return Poll::Ready(Brought::End);
                            }
                        }
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function makes.
    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_at_rest_is_small() {
        type Serve = (&'static Rc<Client>, Stream, Option<Box<Desk>>, Timer);
        let serves = size(|(client, stream, desk, timer): Serve| serve(client, stream, desk, timer));
        type Transact = (&'static mut Http1, &'static mut Desk, &'static RequestHead);
        let transacts = size(|(http1, desk, request): Transact| http1.transact(desk, request));
        assert!(serves <= 512 && transacts <= 1024, "{serves} {transacts}");
    }
}
