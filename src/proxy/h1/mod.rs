//! HTTP/1.1 towards upstreams (RFC 9112), as our own small engine: a pure codec ([`head`], [`body`]: octets in, events out)
//! and one [`Exchange`] that puts it on a socket. It exists for its cost. The request's head is written once into a buffer
//! that is sent again as it is on a retry; the answer is read by the very task that needs it, so there is no channel, no
//! second task and no wake between; and a connection at rest is a socket and nothing else.
//!
//! It refuses whatever two parsers could read differently: an answer with doubtful framing is an error, never a guess, and
//! a connection with an octet too many is never used again.

mod body;
mod exchange;
mod field;
mod head;
mod request;

pub(super) use self::{
    body::Framing,
    exchange::{Connection, Exchange, FailureKind, Outgoing},
    head::Malformed,
};
