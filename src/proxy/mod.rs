//! THE DATA PLANE: it accepts connections, and forwards each request to the endpoint the switch admits it to.
//!
//! # Life of a request
//!
//! A [`worker`] accepts a connection on a socket of its own; from here on, nothing is shared with other threads. The
//! [`connection`] shakes hands where TLS is spoken, finds out the protocol, and gives hyper's server the stream, behind a
//! [`gate`] that lets only well-framed HTTP/1 requests through. hyper calls [`handle`] with each request, whatever its
//! version. There the request's [`target`] is read, its log line opened, and [`Reader::admit`](crate::switch::Reader::admit)
//! asked, in [`admit`], for a ticket: the pool and endpoint it is for, on one snapshot. The head is made the upstream's in [`headers`];
//! [`attempts`] takes an idle connection or a new one from [`upstream`], and [`h1`] sends the one and receives the other head.
//! That is made the client's, and the answer leaves in a [`body::TrackedBody`], which carries ticket and log. When the body
//! ends, or is dropped, both close. After a 101 a [`tunnel`] takes over both streams, and ticket and log with them.
//!
//! At one path, [`door`], the proxy answers for itself: there testers come in by a link.
//!
//! Whatever fails on this road is an [`error::ProxyError`], and becomes an answer in one place, the end of [`handle`].
//!
//! # What a request costs
//!
//! No lock, no timer of the runtime, no task of its own on HTTP/1. Deadlines are slots on the worker's [`clock`], which
//! looks at them ten times a second; [`patience`] says which deadline is a request's at the moment. A client that leaves
//! makes hyper drop the request's future, and with it the upstream connection: every count, slot and line is released by a
//! `Drop`.

mod admit;
mod attempts;
mod body;
mod client;
mod clock;
mod connect;
mod connection;
mod cookie;
mod door;
mod error;
mod exchange;
mod flood;
mod gate;
mod grpc;
mod h1;
mod h2;
mod half_close;
mod handle;
mod headers;
mod http1;
mod listener;
mod options;
mod outgoing;
mod patience;
mod plane;
mod replay;
mod stream;
mod target;
mod tls;
mod tunnel;
mod upload;
mod upstream;
mod websocket;
mod worker;

pub use self::{
    listener::{Bound, ListenError},
    options::{
        Bind, CertificateFiles, ListenerLimits, ListenerOptions, ListenerRole, ListenerTimeouts, TlsOptions, TlsVersion,
    },
    plane::DataPlane,
    tls::{CertificateError, CertificateFacts},
};
