//! Active probes: every endpoint of every known pool (active, preview, previous, or merely known) is asked at its app's
//! interval, and each change of verdict goes to the switch. A new endpoint's first probe settles its first verdict, so
//! that a start is ready at once; from then on `rise` and `fall` probes in a row change it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    connector::{ConnectError, Connector, Socket},
    switch::{Address, AppBoard, AppName, Destination, Feed, Follower, HealthCheck, Protocol, Revision, Viewer},
};

/// How many probes may be under way at once.
const AT_ONCE: usize = 64;

/// How far apart the first probes of endpoints are that come at the same time: thousands of them must not all ask at once,
/// and a few must not wait.
const APART: Duration = Duration::from_millis(1);

/// The shortest interval between two probes of an endpoint, whatever the policy says.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// The largest head of an answer that a probe reads, in octets.
const HEAD_SIZE: usize = 16 * 1024;

const USER_AGENT: &str = concat!("tealgate-health/", env!("CARGO_PKG_VERSION"));

/// Probes whatever the board shows, until the switch stops.
pub async fn run(viewer: Viewer, feed: Feed, connector: Connector) {
    let mut probes = Probes { running: BTreeMap::new(), slots: Arc::new(Semaphore::new(AT_ONCE)), feed, connector };
    let mut follower = viewer.follow();
    loop {
        probes.follow(&mut follower);
        if !follower.changed().await {
            return;
        }
    }
}

/// The probes under way.
struct Probes {
    running: BTreeMap<AppName, Running>,
    slots: Arc<Semaphore>,
    feed: Feed,
    connector: Connector,
}

/// Those of one app.
struct Running {
    check: watch::Sender<HealthCheck>,
    /// By the endpoint's id. A probing ends when its handle is dropped.
    tasks: HashMap<u64, AbortOnDropHandle<()>>,
}

impl Probes {
    /// Starts what is new on the board, ends what has left it, and tells the rest when their policy has changed.
    fn follow(&mut self, follower: &mut Follower) {
        let (board, names) = follower.news(|| self.running.keys().cloned().collect());
        let mut started = 0;
        for name in names {
            let before = self.running.remove(&name);
            if let Some(state) = board.apps.get(&name) {
                let running = self.of_app(&name, state, before, &mut started);
                self.running.insert(name, running);
            }
        }
    }

    /// The probes of one app, given those of before; counts those that are new.
    fn of_app(&self, app: &AppName, state: &AppBoard, before: Option<Running>, started: &mut u32) -> Running {
        let check = &state.policy.health;
        let new = || Running { check: watch::Sender::new(check.clone()), tasks: HashMap::new() };
        let Running { check: told, tasks: mut before } = before.unwrap_or_else(new);
        told.send_if_modified(|told| {
            let news = told != check;
            if news {
                told.clone_from(check);
            }
            news
        });
        let endpoints = state.pools.iter().flat_map(|(r, pool)| pool.endpoints().iter().map(move |e| (r, e)));
        let tasks = endpoints.map(|(revision, endpoint)| {
            let task = before.remove(&endpoint.id()).unwrap_or_else(|| {
                let target = Target {
                    app: app.clone(),
                    revision: revision.clone(),
                    destination: endpoint.destination().clone(),
                    connector: self.connector.clone(),
                };
                *started += 1;
                self.start(target, told.subscribe(), APART.saturating_mul(*started).min(check.interval))
            });
            (endpoint.id(), task)
        });
        let tasks = tasks.collect();
        Running { check: told, tasks }
    }

    /// Begins to probe within `spread`.
    fn start(&self, target: Target, told: watch::Receiver<HealthCheck>, spread: Duration) -> AbortOnDropHandle<()> {
        let first = Instant::now() + spread.mul_f64(fastrand::f64());
        let probing = target.probe_on(told, first, Arc::clone(&self.slots), self.feed.clone());
        AbortOnDropHandle::new(tokio::spawn(probing))
    }
}

/// Whom a probe asks, and on whose behalf.
struct Target {
    app: AppName,
    revision: Revision,
    destination: Destination,
    connector: Connector,
}

impl Target {
    async fn probe_on(self, mut told: watch::Receiver<HealthCheck>, first: Instant, slots: Arc<Semaphore>, feed: Feed) {
        let mut verdict = Verdict::default();
        let mut next = first;
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                // A new policy is tried at once.
                changed = told.changed() => if changed.is_err() { return },
            }
            let check = told.borrow_and_update().clone();
            let Ok(slot) = slots.acquire().await else { return };
            next = Instant::now() + jittered(&check);
            // On the heap, so that an endpoint that is not being probed does not take the room for it.
            let found = Box::pin(probe(&self.connector, &self.destination, &check)).await;
            drop(slot);
            if let Some(healthy) = verdict.note(found.is_ok(), &check) {
                self.tell(&found);
                let address = self.destination.address.clone();
                feed.observed(self.app.clone(), self.revision.clone(), address, healthy).await;
            }
        }
    }

    fn tell(&self, found: &Result<(), Failure>) {
        let Self { app, revision, destination: Destination { address, .. }, .. } = self;
        match found {
            Ok(()) => tracing::info!(%app, %revision, endpoint = %address, "the endpoint is healthy"),
            Err(reason) => tracing::warn!(%app, %revision, endpoint = %address, %reason, "the endpoint is unhealthy"),
        }
    }
}

/// An interval with its jitter either way, so that probes do not march in step.
fn jittered(check: &HealthCheck) -> Duration {
    let jitter = f64::from(check.jitter) / 100.0;
    check.interval.max(LEAST_INTERVAL).mul_f64(1.0 - jitter + 2.0 * jitter * fastrand::f64())
}

/// What the probes of one endpoint have come to.
#[derive(Default)]
struct Verdict {
    healthy: Option<bool>,
    /// How many probes in a row spoke against it.
    against: u32,
}

impl Verdict {
    /// Takes a probe's outcome, and says the new verdict if it changed.
    fn note(&mut self, good: bool, check: &HealthCheck) -> Option<bool> {
        if self.healthy == Some(good) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match self.healthy {
            None => 1,
            Some(_) => {
                if good {
                    check.rise
                } else {
                    check.fall
                }
            }
        };
        if self.against < enough {
            return None;
        }
        *self = Self { healthy: Some(good), against: 0 };
        self.healthy
    }
}

/// Why a probe failed, as an operator wants to read it.
#[derive(Debug)]
enum Failure {
    Connect(ConnectError),
    TimedOut(Duration),
    Status(StatusCode),
    Http(hyper::Error),
    Path(http::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(ConnectError::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                f.write_str("connection refused")
            }
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::TimedOut(limit) => write!(f, "no answer within {limit:?}"),
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::Http(error) => match std::error::Error::source(error) {
                Some(source) => write!(f, "{error}: {source}"),
                None => error.fmt(f),
            },
            Self::Path(error) => write!(f, "the health path cannot be asked for: {error}"),
        }
    }
}

async fn probe(connector: &Connector, destination: &Destination, check: &HealthCheck) -> Result<(), Failure> {
    let elsewhere = check.port.and_then(|port| destination.at_port(port.get()));
    let destination = elsewhere.as_ref().unwrap_or(destination);
    let asked = async {
        let stream = connector.connect(destination, None).await.map_err(Failure::Connect)?;
        match &check.path {
            Some(path) => {
                let h2 = match destination.transport.protocol {
                    Protocol::Http1 => false,
                    Protocol::H2 => true,
                    Protocol::Auto => stream.alpn() == Some(b"h2"),
                };
                let host = host(destination, check);
                let status = match h2 {
                    true => get_h2(stream, destination, host, path).await,
                    false => get(stream, host, path).await,
                }?;
                match check.status.contains(status.as_u16()) {
                    true => Ok(()),
                    false => Err(Failure::Status(status)),
                }
            }
            None => Ok(()),
        }
    };
    timeout(check.timeout, asked).await.map_err(|_| Failure::TimedOut(check.timeout))?
}

/// What the probe calls the endpoint: as its check says, or by its name, if it has one.
fn host(destination: &Destination, check: &HealthCheck) -> String {
    match (&check.host, &destination.name, &destination.address) {
        (Some(host), _, _) => host.clone(),
        (None, Some(name), _) => name.to_string(),
        (None, None, Address::Ip(address)) => address.to_string(),
        (None, None, Address::Unix(_)) => "localhost".to_owned(),
    }
}

/// The body is left unread: the connection is not used again.
async fn get(stream: Socket, host: String, path: &str) -> Result<StatusCode, Failure> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(Failure::Path)?;
    let mut http = http1::Builder::new();
    let (mut sender, connection) =
        http.max_buf_size(HEAD_SIZE).handshake(TokioIo::new(stream)).await.map_err(Failure::Http)?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(sender.send_request(request).await.map_err(Failure::Http)?.status())
}

/// The same over HTTP/2.
async fn get_h2(stream: Socket, to: &Destination, host: String, path: &str) -> Result<StatusCode, Failure> {
    let scheme = if to.transport.tls.is_some() { "https" } else { "http" };
    let request = Request::get(format!("{scheme}://{host}{path}"))
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(Failure::Path)?;
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.max_header_list_size(HEAD_SIZE as u32);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(Failure::Http)?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(sender.send_request(request).await.map_err(Failure::Http)?.status())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::switch::{Board, Desired, EndpointSpec, Health, Matching, Policy, Switch, SwitchOptions, Wanted};

    fn to(address: SocketAddr) -> Destination {
        Destination { address: address.into(), name: None, transport: Arc::default() }
    }

    async fn found(address: SocketAddr, check: &HealthCheck) -> Result<(), Failure> {
        probe(&Connector::default(), &to(address), check).await
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

    #[test]
    fn the_first_probe_settles_the_first_verdict_and_then_it_takes_rise_or_fall_in_a_row() {
        let check = HealthCheck { rise: 2, fall: 3, ..HealthCheck::default() };
        for (probes, expected) in [
            ("+", "+"),
            ("-", "-"),
            ("++++", "+..."),
            ("+--+--+", "+......"),
            ("+---", "+..-"),
            ("-+-++", "-...+"),
            ("+-----++", "+..-...+"),
        ] {
            let mut verdict = Verdict::default();
            let news = |probe| match verdict.note(probe == '+', &check) {
                Some(true) => '+',
                Some(false) => '-',
                None => '.',
            };
            assert_eq!(probes.chars().map(news).collect::<String>(), expected, "{probes}");
        }
    }

    /// A server that answers every connection with what it was last told to say, once a head has come in.
    struct Backend {
        address: SocketAddr,
        answer: watch::Sender<&'static str>,
        heads: watch::Receiver<String>,
        _task: AbortOnDropHandle<()>,
    }

    impl Backend {
        async fn answering(first: &'static str) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (answer, told) = watch::channel(first);
            let (seen, heads) = watch::channel(String::new());
            let task = tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let (told, seen) = (told.clone(), seen.clone());
                    tokio::spawn(async move {
                        let mut head = vec![0; 4096];
                        let length = stream.read(&mut head).await.unwrap_or(0);
                        seen.send_replace(String::from_utf8_lossy(&head[..length]).into_owned());
                        let answer = *told.borrow();
                        stream.write_all(answer.as_bytes()).await.ok();
                        // Until the probe closes.
                        while stream.read(&mut head).await.is_ok_and(|length| length > 0) {}
                    });
                }
            });
            Self { address, answer, heads, _task: AbortOnDropHandle::new(task) }
        }
    }

    fn by_path(path: &str) -> HealthCheck {
        let (interval, timeout) = (Duration::from_millis(10), Duration::from_secs(5));
        HealthCheck { path: Some(path.to_owned()), interval, timeout, rise: 2, fall: 2, ..HealthCheck::default() }
    }

    #[tokio::test]
    async fn two_and_three_hundreds_are_good_and_the_rest_has_a_reason() {
        for (answer, expected) in [
            (OK, "good"),
            ("HTTP/1.1 204 No Content\r\n\r\n", "good"),
            ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", "good"),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "good"),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404"),
            (UNAVAILABLE, "status 503"),
            ("HELLO\r\n\r\n", "invalid HTTP version parsed"),
        ] {
            let backend = Backend::answering(answer).await;
            let found = found(backend.address, &by_path("/healthz?full=1")).await;
            let told = found.map_or_else(|reason| reason.to_string(), |()| "good".to_owned());
            assert_eq!(told, expected, "{answer:?}");
            let head = backend.heads.borrow().clone();
            assert!(head.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{head}");
            assert!(head.contains(&format!("host: {}\r\n", backend.address)), "{head}");
            assert!(head.contains(&format!("user-agent: {USER_AGENT}\r\n")), "{head}");
        }
    }

    #[tokio::test]
    async fn an_endless_head_is_not_read_to_its_end() {
        let long: String = std::iter::repeat_n("x: y\r\n", HEAD_SIZE).collect();
        let backend = Backend::answering(format!("HTTP/1.1 200 OK\r\n{long}").leak()).await;
        assert!(matches!(found(backend.address, &by_path("/")).await, Err(Failure::Http(_))));
    }

    #[tokio::test]
    async fn silence_and_a_closed_port_are_told_apart() {
        let backend = Backend::answering("").await;
        let check = HealthCheck { timeout: Duration::from_millis(50), ..by_path("/") };
        assert_eq!(found(backend.address, &check).await.unwrap_err().to_string(), "no answer within 50ms");
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(found(closed, &HealthCheck::default()).await.unwrap_err().to_string(), "connection refused");
        assert!(found(backend.address, &HealthCheck::default()).await.is_ok(), "a connect is enough without a path");
    }

    fn desired(endpoints: &[SocketAddr], check: HealthCheck) -> Desired {
        let specs = endpoints.iter().copied().map(EndpointSpec::from).collect();
        let wanted = Wanted {
            matching: Matching::default(),
            revisions: [("blue".parse().unwrap(), specs)].into(),
            active: "blue".parse().unwrap(),
            preview: None,
            policy: Arc::new(Policy { health: check, ..Policy::default() }),
        };
        Desired { apps: [("shop".parse().unwrap(), wanted)].into(), ..Desired::default() }
    }

    fn switch() -> Switch {
        Switch::start(SwitchOptions { workers: 1, replica: "here".to_owned(), journal: None }).unwrap()
    }

    /// Waits until the one endpoint on the board is found to be so.
    async fn until(viewer: &mut Viewer, health: Health) {
        let seen = async {
            let is = |board: &Board| {
                let mut pools = board.apps.values().flat_map(|app| app.pools.values());
                pools.any(|pool| pool.endpoints().iter().any(|endpoint| endpoint.health() == health))
            };
            while !is(&viewer.board()) {
                assert!(viewer.changed().await, "the switch has stopped");
            }
        };
        timeout(Duration::from_secs(10), seen).await.unwrap_or_else(|_| panic!("it never was {health:?}"));
    }

    #[tokio::test]
    async fn the_switch_learns_of_each_change() {
        let backend = Backend::answering(OK).await;
        let Switch { feed, mut viewer, control, .. } = switch();
        let running = tokio::spawn(run(viewer.clone(), feed.clone(), Connector::default()));
        feed.desired(desired(&[backend.address], by_path("/"))).await.unwrap();
        until(&mut viewer, Health::Healthy).await;
        backend.answer.send_replace(UNAVAILABLE);
        until(&mut viewer, Health::Unhealthy).await;
        backend.answer.send_replace(OK);
        until(&mut viewer, Health::Healthy).await;
        control.stop().await;
        running.await.unwrap();
    }

    #[tokio::test]
    async fn a_changed_policy_takes_effect_at_once() {
        let backend = Backend::answering(UNAVAILABLE).await;
        let Switch { feed, mut viewer, .. } = switch();
        let _running = AbortOnDropHandle::new(tokio::spawn(run(viewer.clone(), feed.clone(), Connector::default())));
        let hourly = HealthCheck { interval: Duration::from_secs(3600), fall: 1, ..HealthCheck::default() };
        feed.desired(desired(&[backend.address], hourly.clone())).await.unwrap();
        until(&mut viewer, Health::Healthy).await;
        feed.desired(desired(&[backend.address], HealthCheck { path: Some("/".to_owned()), ..hourly })).await.unwrap();
        until(&mut viewer, Health::Unhealthy).await;
    }

    #[tokio::test]
    async fn what_is_on_the_board_is_probed_and_nothing_else() {
        let Switch { feed, viewer, .. } = switch();
        let slots = Arc::new(Semaphore::new(0));
        let (running, connector) = (BTreeMap::new(), Connector::default());
        let mut probes = Probes { running, slots, feed: feed.clone(), connector };
        let mut follower = viewer.follow();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut rounds = Vec::new();
        for ports in [[1, 2], [2, 3], [3, 1]] {
            feed.desired(desired(&ports.map(address), HealthCheck::default())).await.unwrap();
            probes.follow(&mut follower);
            let tasks = probes.running.values().flat_map(|running| running.tasks.keys());
            rounds.push(tasks.copied().collect::<BTreeSet<_>>());
        }
        assert_eq!(rounds.iter().map(BTreeSet::len).collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(rounds[0].intersection(&rounds[1]).count(), 1, "the one that stays goes on");
        assert!(rounds[0].is_disjoint(&rounds[2]), "one that comes back is another endpoint, and probed afresh");
    }
}
