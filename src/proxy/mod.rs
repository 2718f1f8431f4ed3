//! THE DATA PLANE: it accepts connections, and forwards each request to the endpoint the switch admits it to.
//!
//! # Life of a request
//!
//! A [`worker`] accepts a connection on a socket of its own; from here on, nothing is shared with other threads. On its
//! [`arrival`] a PROXY header is read and TLS hands are shaken, where the listener wants that, and it is known who asks
//! ([`forwarding`]). The [`connection`] finds out the protocol, and gives hyper's server the stream, behind a [`gate`] that
//! lets only well-framed HTTP/1 requests through. hyper calls [`handle`] with each request, whatever its
//! version. There the request's [`target`] is read, its log line opened, and [`Reader::admit`](crate::switch::Reader::admit)
//! asked, in [`admit`], for a ticket: the pool and endpoint it is for, on one snapshot. The head is made the upstream's in [`headers`];
//! [`attempts`] takes a connection that is there or a new one from [`upstream`], and an [`exchange`] on it, of [`h1`] or [`h2`],
//! sends the one and receives the other head. What differs between the versions is in [`websocket`] and [`grpc`].
//! That is made the client's, and the answer leaves in a [`body::TrackedBody`], which carries ticket and log. When the body
//! ends, or is dropped, both close. After a 101 a [`tunnel`] takes over both streams, and ticket and log with them.
//!
//! Whatever fails on this road is an [`error::ProxyError`], and becomes an answer in one place, the end of [`handle`].
//!
//! # Limits of time and number
//!
//! | What | Setting | What the client is told, and the reason in metrics |
//! |---|---|---|
//! | TLS handshake | listener `timeouts.handshake` | nothing: the connection is closed |
//! | Request head | listener `timeouts.head` | 408 `request_timeout` |
//! | Pause in a request's body | listener `timeouts.body` | 408 `request_timeout` |
//! | Pause in taking an answer | listener `timeouts.body` | the answer is cut: `client_gone` |
//! | Idle connection | listener `timeouts.idle` | nothing: it is closed |
//! | Size of a head, of its first line | listener `limits.head_size` | 431 `head_too_large`, 414 `target_too_long` |
//! | Connections, of all and of one client | listener `limits.connections`, `…_per_client` | 503 `connection_limit` |
//! | Connect to an endpoint | `timeouts.connect` | 504 `connect_timeout`, if no other endpoint can be tried |
//! | Head of the answer | `timeouts.response`, `retries.per_try` | 504 `timeout`, likewise |
//! | Silence in a tunnel | `timeouts.upgrade_idle` | the tunnel ends: `idle` |
//! | The whole request | `timeouts.request` | 504 `timeout`, or the answer is cut |
//! | Size of a request's body | `limits.body_size` | 413 `body_too_large` |
//! | Requests in flight | `limits.in_flight`, `limits.queue` | 503 `overloaded` |
//! | Wait for a place among them | `limits.queue_timeout` | 503 `queue_timeout` |
//! | Rate of one client | `limits.rate` | 429 `rate_limited` |
//! | Retries of what was sent | `retries.budget` | what the last attempt came to; `retries_denied_total` |
//! | A replaced pool | `drain.timeout`, `drain.streams` | 503 `drained`, or the answer is cut |
//!
//! Each 503 and 429 says when to come back. Requests are never sent to two endpoints at once to see who is faster: an
//! application may mind, and a retry budget would be spent on those that are slow because they are overloaded.
//!
//! # What a request costs
//!
//! No lock, no timer of the runtime, no task of its own on HTTP/1. Deadlines are slots on the worker's [`clock`], which
//! looks at them ten times a second; [`patience`] says which deadline is a request's at the moment. A client that leaves
//! makes hyper drop the request's future, and with it the upstream connection: every count, slot and line is released by a
//! `Drop`.

mod admit;
mod arrival;
mod attempts;
mod body;
mod client;
mod client_certificate;
mod clock;
mod connect;
mod connection;
mod cookie;
mod error;
mod exchange;
mod flood;
mod forwarding;
mod frames;
mod gate;
mod grpc;
mod h1;
mod h2;
mod half_close;
mod handle;
mod headers;
mod http1;
mod listener;
mod mirror;
mod options;
mod outgoing;
mod patience;
mod plane;
mod proxy_header;
mod rate;
mod replay;
mod stream;
mod target;
mod tls;
mod tunnel;
mod upload;
mod upstream;
mod warm;
mod websocket;
mod worker;

pub use self::{
    listener::{Bound, ListenError},
    options::{
        Alpn, Bind, CertificateFiles, ClientAuth, ClientAuthMode, ForwardingField, ListenerLimits, ListenerOptions,
        ListenerRole, ListenerTimeouts, ProxyProtocol, TcpOptions, TlsOptions, TlsVersion, TrustedProxies,
    },
    plane::DataPlane,
    tls::{CertificateError, CertificateFacts},
};
