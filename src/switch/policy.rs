//! What an app's owner asked for, as plain values: how promotions are gated, how endpoints are probed and chosen, and
//! how long requests may take. Parsed by `config`, carried in the snapshot, read by whoever acts on it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{address::Whereabouts, split::SplitPolicy};

/// Everything one app's owner can set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What must hold before a promotion, and whether it happens by itself.
    pub promotion: Promotion,
    /// How long a replaced revision stays warm for a rollback.
    pub keep_previous: KeepPrevious,
    /// What becomes of requests on a retired pool.
    pub drain: Drain,
    /// How endpoints are probed.
    pub health: HealthCheck,
    /// How one endpoint of a pool is chosen.
    pub balance: Balance,
    /// Timeouts, limits and retries of a request.
    pub traffic: Traffic,
    /// Which live traffic goes to the candidate.
    pub split: SplitPolicy,
    /// How connections to endpoints are made.
    pub transport: Arc<Transport>,
    /// How the names of endpoints are looked up.
    pub lookup: Lookup,
}

/// The gates before a promotion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Promotion {
    /// Whether the candidate is promoted without being asked for.
    pub auto: AutoPromotion,
    /// How many endpoints of the candidate must be ready.
    pub min_ready: MinReady,
}

/// Whether, and when, a ready candidate is promoted by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoPromotion {
    /// Only on request.
    #[default]
    Never,
    /// As soon as its gates pass.
    WhenReady,
    /// Once its gates have passed for this long without a break.
    After(Duration),
}

/// How many endpoints must be ready, by number or as a share of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinReady {
    /// At least this many endpoints, one or more.
    Count(u32),
    /// At least this percentage of the pool's endpoints, rounded up, 1 to 100.
    Percent(u8),
}

impl Default for MinReady {
    fn default() -> Self {
        Self::Count(1)
    }
}

impl MinReady {
    /// The number this asks of a pool of `total` endpoints; never less than one, so that no flip goes to an empty pool.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => (count as usize).max(1),
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100).max(1),
        }
    }
}

/// How long the revision that was replaced is kept for a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepPrevious(pub Duration);

impl Default for KeepPrevious {
    fn default() -> Self {
        Self(Duration::from_secs(600))
    }
}

/// What becomes of what is in flight on a pool that was retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long ordinary requests may go on before they are cut.
    pub timeout: Duration,
    /// What long-lived streams (tunnels) do.
    pub streams: Streams,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), streams: Streams::Drain }
    }
}

/// What long-lived streams do when their pool is retired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// Stay until one side ends them.
    Keep,
    /// Stay until the drain deadline.
    #[default]
    Drain,
    /// End at once, so that the client comes back on the new pool.
    Cut,
}

/// How endpoints are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path to GET, expecting a 2xx or 3xx; without one a TCP connect is enough.
    pub path: Option<String>,
    /// Time between the starts of two probes of an endpoint, with a tenth of jitter.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// How many good probes in a row make an endpoint healthy. The first verdict of a new endpoint takes one.
    pub rise: u32,
    /// How many bad probes in a row make an endpoint unhealthy.
    pub fall: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { path: None, interval: Duration::from_secs(2), timeout: Duration::from_secs(1), rise: 2, fall: 3 }
    }
}

/// How one endpoint of a pool is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The less busy of two drawn at random (power of two choices), weighted.
    #[default]
    LeastRequest,
    /// Each in its turn.
    RoundRobin,
    /// Any, by weight.
    Random,
}

/// Timeouts, limits and retries of one request. The data plane reads them from the snapshot it admitted the request on.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// How long a connect to an endpoint may take, its TLS handshake included.
    pub connect: Duration,
    /// From the end of the request to the response's head.
    pub response: Duration,
    /// How long a tunnel may be silent in both directions.
    pub upgrade_idle: Duration,
    /// The whole request, from its head to the last octet of its answer; `None` for no limit.
    pub request: Option<Duration>,
    /// The largest request body in octets; `None` for no limit.
    pub body_size: Option<u64>,
    /// How often a request may be tried at most, the first try included; one or more.
    pub attempts: u32,
    /// How long one try may take to the response's head while another is still allowed.
    pub per_try: Duration,
    /// Whether live clients too are told the revision and generation that answered.
    pub expose_revision: bool,
    /// The `Host` that endpoints are sent, with its port if there is one; `None` for the one the client sent.
    pub host: Option<String>,
}

/// What is spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; over plain text by prior knowledge (RFC 9113 §3.3).
    H2,
    /// Over TLS what the endpoint chooses (ALPN, RFC 7301), HTTP/2 if it can; over plain text HTTP/1.1.
    Auto,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            upgrade_idle: Duration::from_secs(3600),
            request: None,
            body_size: None,
            attempts: 2,
            per_try: Duration::from_secs(10),
            expose_revision: false,
            host: None,
        }
    }
}

/// How connections to the endpoints of an app are made. An endpoint that is reached in another way is another endpoint:
/// what was opened under the one is never used under the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Transport {
    /// What is spoken.
    pub protocol: Protocol,
    /// TLS, and whom to trust; `None` for plain text.
    pub tls: Option<UpstreamTls>,
    /// Whether each connection begins with the client's address, and in which form.
    pub proxy_protocol: Option<ProxyVersion>,
}

impl Transport {
    /// Whether an endpoint there would have no name that its certificate could be checked against.
    pub fn lacks_name_of(&self, there: &Whereabouts) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.server_name.is_none()) && there.name().is_none()
    }
}

/// TLS towards endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// Who may vouch for an endpoint.
    pub roots: Roots,
    /// What we show to endpoints that ask who we are.
    pub identity: Option<ClientIdentity>,
    /// The name that certificates must be for, and that is sent as SNI; `None` for the name the endpoint is given by.
    pub server_name: Option<String>,
    /// The oldest version we speak.
    pub min_version: TlsVersion,
}

impl UpstreamTls {
    /// The files that are read for it.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let roots = match &self.roots {
            Roots::System => None,
            Roots::File(path) => Some(path),
        };
        let identity = self.identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
        roots.into_iter().chain(identity)
    }
}

/// Who may vouch for an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Roots {
    /// Those the system trusts.
    #[default]
    System,
    /// The certificates in this PEM file, and nobody else.
    File(PathBuf),
}

/// A certificate of our own, and its key: PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientIdentity {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246) and later.
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446) and later.
    Tls13,
}

/// How a connection says whom it is for, before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// In binary.
    V2,
}

/// How the names of endpoints are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Time between two lookups of a name, with a tenth of jitter.
    pub interval: Duration,
    /// Which of its addresses are endpoints.
    pub family: Family,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), family: Family::Any }
    }
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// All of them.
    #[default]
    Any,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_ready_never_lets_a_flip_go_to_an_empty_pool() {
        for policy in [MinReady::Count(0), MinReady::Percent(0), MinReady::Percent(1), MinReady::default()] {
            assert_eq!(policy.of(0), 1, "{policy:?}");
        }
        assert_eq!(MinReady::Percent(50).of(3), 2);
        assert_eq!(MinReady::Percent(100).of(4), 4);
    }
}
