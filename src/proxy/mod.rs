//! THE DATA PLANE: it accepts connections, and forwards each request to the endpoint the switch admits it to.
//!
//! # Life of a request
//!
//! A [`worker`] accepts a connection on a socket of its own; from here on, nothing is shared with other threads. On its
//! [`arrival`] a PROXY header is read and TLS hands are shaken, where the listener wants that, and it is known who asks
//! ([`forwarding`]). The [`connection`] finds out the protocol, and each has its engine.
//!
//! HTTP/1 has ours, [`http1`]: one task drives both sockets, heads are edited on their way from one buffer to the other, and
//! what is read and written is a pure codec's affair, [`h1`]. HTTP/2 has [`http2`], on the `h2` crate: one task drives the
//! client's connection and all of its streams. On both roads the [`target`] is read, the log line opened, and
//! [`Reader::admit`](crate::switch::Reader::admit) asked, in [`admit`], for a ticket: the pool and endpoint the request is for,
//! on one snapshot. The head is made the upstream's in [`headers`]; [`attempts`] judges what may be tried again; [`upstream`]
//! keeps the connections. A request that has HTTP/2 on either side takes the road of [`handle`], as an [`exchange`] on [`h1`] or
//! [`h2`]; what differs between the versions is in [`websocket`] and [`grpc`]. The answer carries ticket and log line with it:
//! when it ends, or is dropped, both close. After a 101 a [`tunnel`] takes over both streams, and
//! ticket and log with them.
//!
//! At one path, [`door`], the proxy answers for itself: there testers come in by a link. Requests of our own, to find out
//! whether a candidate is good, come in by an [`entry`] that is no address.
//!
//! Whatever fails on these roads is an [`error::ProxyError`], and becomes an answer in one place of each engine.
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
//! | Connect to an endpoint, TLS included | `timeouts.connect` | 504 `connect_timeout`, if no other endpoint can be tried |
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
//! has its request's future dropped, and with it the upstream connection: every count, slot and line is released by a `Drop`.
//! A connection at rest holds no buffer: a worker lends the memory of a request ([`http1::Desk`]) when octets have come, and
//! that of its answer when some of that has.

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
mod door;
mod entry;
mod error;
mod exchange;
mod forwarding;
mod frames;
mod grpc;
mod h1;
mod h2;
mod half_close;
mod handle;
mod headers;
mod http1;
mod http2;
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
    entry::{Candidate, Entry},
    listener::{Bound, ListenError},
    options::{
        Alpn, Bind, CertificateFiles, ClientAuth, ClientAuthMode, ForwardingField, ListenerLimits, ListenerOptions,
        ListenerRole, ListenerTimeouts, ProxyProtocol, TcpOptions, TlsOptions, TlsVersion, TrustedProxies,
    },
    plane::DataPlane,
    tls::{CertificateError, CertificateFacts},
};
