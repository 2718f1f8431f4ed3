//! HTTP/2 towards upstreams (RFC 9113), on the `h2` crate: one [`Exchange`] is one stream, driven by the very task that
//! needs its answer; one [`Connection`] is a socket with a task of its own, and the streams on it; a [`Set`] is what a
//! worker has of them for one endpoint. Another connection is opened when all are at their limit, and those that are not
//! needed any more are the ones that fall idle.
//!
//! An exchange that is dropped resets its stream (CANCEL), and only that. What an upstream has refused, or was not going to
//! look at any more when it said GOAWAY, nobody has acted on: its failure says so, and it may be tried again whatever its
//! method, if its body can be begun again (see `replay`).
//!
//! Memory is bounded by windows: a stream holds at most [`connection::STREAM_WINDOW`] of an answer that its client does not
//! take, and all the streams of a connection together can have that much, so a stalled one never holds up its neighbours.
//!
//! Interim answers (1xx, Early Hints among them) are counted and dropped, as on HTTP/1: no server of ours can pass them on.

mod connection;
mod exchange;
mod head;
mod set;
mod tunnel;

pub(super) use self::{
    connection::{Connection, Place},
    exchange::{Exchange, Failure, poll_window},
    set::{Found, Opened, Set},
    tunnel::Tunnel,
};
