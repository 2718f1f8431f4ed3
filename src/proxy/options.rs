//! What an operator can set of the data plane: its listeners, as plain values. `config` fills them in.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

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
    /// The PROXY protocol; `None` where clients come by themselves.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// HTTP proxies before us whose word about clients counts.
    pub trusted_proxies: TrustedProxies,
    /// Settings of its TCP sockets.
    pub tcp: TcpOptions,
    /// How long a client may take.
    pub timeouts: ListenerTimeouts,
    /// How much a client may send, and how many may come.
    pub limits: ListenerLimits,
    /// The status for a host that no app answers to: 421 (RFC 9110 §15.5.20) or 404.
    pub unknown_host: u16,
}

impl ListenerOptions {
    /// Plain HTTP for live traffic, and every other setting as it is when left out.
    pub fn new(name: impl Into<String>, bind: Bind) -> Self {
        Self {
            name: name.into(),
            bind,
            role: ListenerRole::default(),
            tls: None,
            proxy_protocol: None,
            trusted_proxies: TrustedProxies::default(),
            tcp: TcpOptions::default(),
            timeouts: ListenerTimeouts::default(),
            limits: ListenerLimits::default(),
            unknown_host: 421,
        }
    }
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
    /// The protocols offered in ALPN, the best first; a client that asks for none speaks HTTP/1.1.
    pub alpn: Vec<Alpn>,
    /// Certificates of clients; `None` if none are asked for.
    pub client_auth: Option<ClientAuth>,
}

impl TlsOptions {
    /// The files they name, in no particular order.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let pairs = self.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
        let auth = self.client_auth.iter().flat_map(|auth| std::iter::once(&auth.roots).chain(&auth.crl));
        pairs.chain(auth)
    }
}

/// A protocol that ALPN (RFC 7301) can settle for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2.
    H2,
    /// HTTP/1.1.
    Http11,
}

impl Alpn {
    /// All, as offered by default.
    pub const ALL: [Self; 2] = [Self::H2, Self::Http11];

    /// Its name on the wire.
    pub fn id(self) -> &'static [u8] {
        match self {
            Self::H2 => b"h2",
            Self::Http11 => b"http/1.1",
        }
    }
}

/// How clients prove who they are by a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// The authorities that may have signed it, as a PEM file.
    pub roots: PathBuf,
    /// Whether a client may do without.
    pub mode: ClientAuthMode,
    /// What they have revoked, as a PEM file. If there is one, it must speak for every certificate in a client's chain but
    /// the root; a list past its next update counts as before.
    pub crl: Option<PathBuf>,
}

/// Whether a client may do without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// No handshake without one.
    #[default]
    Required,
    /// It may; one that it shows must be good all the same.
    Optional,
}

/// The PROXY protocol, versions 1 and 2, towards those who connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Who must begin with its header; nobody else may connect. On a Unix socket it is whoever may open that.
    pub trusted: Vec<IpNet>,
    /// How long the header may take to come, from accept.
    pub timeout: Duration,
}

impl ProxyProtocol {
    /// Whether a connection from this address may name another; `None` is one on a Unix socket.
    pub(super) fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|peer| covers(&self.trusted, peer))
    }
}

/// HTTP proxies before us whose word about clients counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Where they are; if there are any, whoever may open a Unix socket is one too.
    pub networks: Vec<IpNet>,
    /// Which field they tell in whom they speak for.
    pub field: ForwardingField,
}

impl TrustedProxies {
    /// Whether there is one at this address; `None` is a Unix socket.
    pub(super) fn include(&self, peer: Option<IpAddr>) -> bool {
        !self.networks.is_empty() && peer.is_none_or(|peer| covers(&self.networks, peer))
    }
}

/// The field that trusted proxies tell in whom they speak for. The other one is not believed: a proxy that does not know
/// it passes on whatever its client wrote there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardingField {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto` and `X-Forwarded-Host`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

fn covers(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Settings of a listener's TCP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// How long a connection is silent before the system asks whether its peer is still there, rounded up to seconds;
    /// `None` for the system's own default, which is not to ask.
    pub keepalive: Option<Duration>,
    /// How long octets sent may stay unacknowledged before the system gives the connection up (Linux); `None` for its own
    /// default, a quarter of an hour or so.
    pub user_timeout: Option<Duration>,
    /// How many connections may wait to be accepted by one worker; the system may cap it lower (`net.core.somaxconn`).
    pub backlog: u32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { keepalive: None, user_timeout: None, backlog: 4096 }
    }
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
    /// From accept, or the end of a PROXY header, to the end of the TLS handshake.
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
    /// Connections at once from one client address (of IPv6 one /64 network), over all workers: that of a PROXY header where
    /// there is one. Trusted HTTP proxies, which speak for many clients, are not counted.
    pub connections_per_client: usize,
    /// Arrivals at once by one worker: PROXY headers awaited, and TLS handshakes. When one more comes, the oldest of them
    /// is closed: a client in good order is through in a round trip or two, and a crowd of stalled ones does not keep it
    /// out.
    pub handshakes: usize,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self { head_size: 32 * 1024, connections: 20_000, connections_per_client: 0, handshakes: 1024 }
    }
}
