//! What an app's owner asked for, as plain values: how promotions are gated, how endpoints are probed and chosen, and
//! how long requests may take. Parsed by `config`, carried in the snapshot, read by whoever acts on it.

use std::{num::NonZeroU16, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use super::{
    address::Whereabouts,
    limits::{ErrorPages, Limits},
    mirror::Mirror,
    smoke::Smoke,
    split::SplitPolicy,
};

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
    /// When an endpoint is ejected; `None` for never.
    pub ejection: Option<Ejection>,
    /// Timeouts, limits and retries of a request.
    pub traffic: Traffic,
    /// Which live traffic goes to the candidate.
    pub split: SplitPolicy,
    /// How much is let in.
    pub limits: Limits,
    /// Answers of the owner's own in place of ours.
    pub errors: ErrorPages,
    /// How connections to endpoints are made.
    pub transport: Arc<Transport>,
    /// How the names of endpoints are looked up.
    pub lookup: Lookup,
    /// How far a hold goes that does not say so itself.
    pub hold: HoldBounds,
    /// What of live traffic is copied to the candidate; `None` for nothing.
    pub mirror: Option<Arc<Mirror>>,
}

/// The gates before a promotion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Promotion {
    /// Whether the candidate is promoted without being asked for.
    pub auto: AutoPromotion,
    /// How many endpoints of the candidate must be ready.
    pub min_ready: MinReady,
    /// How many connections each worker must hold open to each ready endpoint of the candidate; 0 for none.
    pub warm: u32,
    /// What the candidate must be found to answer; `None` for nothing.
    pub smoke: Option<Arc<Smoke>>,
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
    /// What long-lived streams do: tunnels, and answers that may go on for ever.
    pub streams: Streams,
    /// How many of those are closed in a second at most when their time has come, so that their clients do not all come
    /// back at once; one or more.
    pub close_rate: u32,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), streams: Streams::Drain, close_rate: 100 }
    }
}

/// What long-lived streams do when their pool is retired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// Stay until one side ends them.
    Keep,
    /// Stay until the drain deadline; from then on they are closed at the close rate.
    #[default]
    Drain,
    /// End at once, at the close rate, so that the client comes back on the new pool.
    Cut,
}

/// How far a hold may go: beyond, a request is refused, or the hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldBounds {
    /// How long it lasts at most; then all that wait are let in, wherever live traffic goes then. 1 ms to 1 h.
    pub max_age: Duration,
    /// How many requests may wait, 1 to 1,000,000.
    pub max_requests: u32,
    /// How many octets of memory the heads of all that wait may take, 1 KiB to 64 GiB. Bodies are not read meanwhile.
    pub max_bytes: u64,
}

impl HoldBounds {
    /// The longest that a hold may be asked to last.
    pub const LONGEST: Duration = Duration::from_secs(3600);
    /// The most requests that it may be asked to hold.
    pub const MOST_REQUESTS: u32 = 1_000_000;
    /// The least octets that it may be asked to keep.
    pub const LEAST_BYTES: u64 = 1 << 10;
    /// The most octets that it may be asked to keep.
    pub const MOST_BYTES: u64 = 1 << 36;
}

impl Default for HoldBounds {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(10), max_requests: 1000, max_bytes: 64 << 20 }
    }
}

/// How endpoints are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path to GET; without one a TCP connect is enough.
    pub path: Option<String>,
    /// The statuses that are good.
    pub status: Statuses,
    /// The `Host` of the GET; `None` for the endpoint's address.
    pub host: Option<String>,
    /// The port to ask, on the endpoint's own address; `None` for the endpoint's own port.
    pub port: Option<NonZeroU16>,
    /// Time between the starts of two probes of an endpoint.
    pub interval: Duration,
    /// By how much of itself an interval may be shorter or longer, in percent, 0 to 50: so that probes do not march in
    /// step.
    pub jitter: u32,
    /// How long a probe may take.
    pub timeout: Duration,
    /// How many good probes in a row make an endpoint healthy. The first verdict of a new endpoint takes one.
    pub rise: u32,
    /// How many bad probes in a row make an endpoint unhealthy.
    pub fall: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            status: Statuses::default(),
            host: None,
            port: None,
            interval: Duration::from_secs(2),
            jitter: 10,
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// Statuses of an answer, as ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(pub Vec<RangeInclusive<u16>>);

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl Statuses {
    /// Whether this status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// How one endpoint of a pool is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// By what rule.
    pub rule: BalanceRule,
    /// How long an endpoint that has just become healthy takes to its full share, starting with a tenth of it. Zero gives
    /// it the full share at once.
    pub slow_start: Duration,
}

/// The rules by which one endpoint of a pool is chosen. All mind the weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BalanceRule {
    /// The less busy of two drawn at random (power of two choices).
    #[default]
    LeastRequest,
    /// Each in its turn.
    RoundRobin,
    /// Any.
    Random,
    /// Always the same one for the same key, as long as it serves.
    ConsistentHash(Hashing),
}

/// How requests are told apart by a consistent hash, and how much of them one endpoint takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// What the key is.
    pub by: HashBy,
    /// How far above the average an endpoint's requests in flight may be, in percent of it, more than 100: over that, the
    /// next endpoint on the ring takes the request. `None` for no bound.
    pub bounded_load: Option<u32>,
}

impl Hashing {
    /// The bound where none is given, in percent.
    pub const BOUNDED_LOAD: u32 = 125;
}

/// What of a request is its key on the ring. A request without it is balanced by least request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// A cookie. A client that has none is given one with its answer.
    Cookie {
        /// Its name.
        name: String,
        /// How long the client keeps it; `None` until it ends its session.
        ttl: Option<Duration>,
    },
    /// A field, by its name in lower case.
    Header(String),
    /// The client's address.
    ClientIp,
}

/// When an endpoint is taken out of use because of what traffic says of it, whatever its probes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// So many failures in a row eject; 0 turns this off.
    pub consecutive_failures: u32,
    /// A share of failures of this many percent or more, within `window`, ejects; 0 turns this off.
    pub error_percent: u32,
    /// How far back the share of failures looks.
    pub window: Duration,
    /// How many attempts within `window` it takes to judge by their share.
    pub min_requests: u32,
    /// How long the first ejection lasts. Each further one lasts as much longer, up to ten times this.
    pub lasts: Duration,
    /// At most this many percent of a pool's endpoints are ejected at once.
    pub max_percent: u32,
    /// Whether an answer of 502, 503 or 504 is a failure too.
    pub gateway_errors: bool,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            error_percent: 0,
            window: Duration::from_secs(10),
            min_requests: 20,
            lasts: Duration::from_secs(30),
            max_percent: 50,
            gateway_errors: true,
        }
    }
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
    /// How many retries of what an upstream may have begun to work on the app's requests of the last while may cause, in
    /// percent of them. What was never sent counts for nothing.
    pub retry_budget: u32,
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
            retry_budget: 20,
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
