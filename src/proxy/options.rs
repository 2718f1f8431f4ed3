//! What an operator can set of the data plane: its listeners, as plain values. `config` fills them in.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

pub use crate::switch::TlsVersion;

/// One address we accept on.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerOptions {
    /// Its name, unique in the configuration.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// What it shows.
    pub role: ListenerRole,
    /// TLS; `None` for plain HTTP.
    pub tls: Option<TlsOptions>,
    /// How long a client may take.
    pub timeouts: ListenerTimeouts,
    /// How much a client may send, and how many may come.
    pub limits: ListenerLimits,
    /// The status for a host that no app answers to: 421 (RFC 9110 §15.5.20) or 404.
    pub unknown_host: u16,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// An IP address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What a listener shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerRole {
    /// Live traffic; previews by their own hosts.
    #[default]
    Live,
    /// The preview of whatever app matches.
    Preview,
}

/// A listener's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificates, chosen by SNI; the first is for clients that send none, or an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest protocol version accepted.
    pub min_version: TlsVersion,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first octet of a request's head to its end.
    pub head: Duration,
    /// Between two pieces of a body: of a request's, waiting for the client to send; of an answer's, for it to take.
    pub body: Duration,
    /// Between two requests on a connection.
    pub idle: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { handshake: seconds(10), head: seconds(10), body: seconds(30), idle: seconds(75) }
    }
}

/// How much a client may send, and how many may come. 0 is no limit for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// The largest request head in octets.
    pub head_size: usize,
    /// Connections at once on this listener, over all workers.
    pub connections: usize,
    /// Connections at once from one client address, over all workers.
    pub connections_per_client: usize,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self { head_size: 32 * 1024, connections: 20_000, connections_per_client: 0 }
    }
}
