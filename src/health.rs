//! Active probes: every endpoint of every known pool (active, preview, previous, or merely known) is asked at its app's
//! interval, and each change of verdict goes to the switch. A new endpoint's first probe settles its first verdict, so
//! that a start is ready at once; from then on `rise` and `fall` probes in a row change it.

use std::{collections::HashMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::switch::{AppName, Board, Feed, HealthCheck, Revision, Viewer};

/// How many probes may be under way at once.
const AT_ONCE: usize = 64;

/// The first probes are spread over this long.
const SPREAD: Duration = Duration::from_millis(10);

/// The largest head of an answer that a probe reads, in octets.
const HEAD_SIZE: usize = 16 * 1024;

const USER_AGENT: &str = concat!("tealgate-health/", env!("CARGO_PKG_VERSION"));

/// Probes whatever the board shows, until the switch stops.
pub async fn run(mut viewer: Viewer, feed: Feed) {
    let mut probes = Probes { running: HashMap::new(), slots: Arc::new(Semaphore::new(AT_ONCE)), feed };
    loop {
        probes.follow(&viewer.board());
        if !viewer.changed().await {
            return;
        }
    }
}

/// The probes under way, by the endpoint's id.
struct Probes {
    running: HashMap<u64, Running>,
    slots: Arc<Semaphore>,
    feed: Feed,
}

struct Running {
    check: watch::Sender<HealthCheck>,
    /// Ends the probing when it is dropped.
    _task: AbortOnDropHandle<()>,
}

impl Probes {
    /// Starts what is new on the board, ends what has left it, and tells the rest when their policy has changed.
    fn follow(&mut self, board: &Board) {
        let mut before = std::mem::take(&mut self.running);
        for (app, state) in &board.apps {
            let check = &state.policy.health;
            for (revision, endpoint) in
                state.pools.iter().flat_map(|(r, pool)| pool.endpoints().iter().map(move |e| (r, e)))
            {
                let running = before.remove(&endpoint.id()).unwrap_or_else(|| {
                    let target = Target { app: app.clone(), revision: revision.clone(), address: endpoint.address() };
                    self.start(target, check.clone())
                });
                running.check.send_if_modified(|told| {
                    let news = told != check;
                    if news {
                        told.clone_from(check);
                    }
                    news
                });
                self.running.insert(endpoint.id(), running);
            }
        }
    }

    fn start(&self, target: Target, check: HealthCheck) -> Running {
        let (check, told) = watch::channel(check);
        let probing = target.probe_on(told, Arc::clone(&self.slots), self.feed.clone());
        Running { check, _task: AbortOnDropHandle::new(tokio::spawn(probing)) }
    }
}

/// Whom a probe asks, and on whose behalf.
struct Target {
    app: AppName,
    revision: Revision,
    address: SocketAddr,
}

impl Target {
    async fn probe_on(self, mut told: watch::Receiver<HealthCheck>, slots: Arc<Semaphore>, feed: Feed) {
        let mut verdict = Verdict::default();
        let mut next = Instant::now() + SPREAD.mul_f64(fastrand::f64());
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                // A new policy is tried at once.
                changed = told.changed() => if changed.is_err() { return },
            }
            let check = told.borrow_and_update().clone();
            let Ok(slot) = slots.acquire().await else { return };
            next = Instant::now() + jittered(check.interval);
            let found = probe(self.address, &check).await;
            drop(slot);
            if let Some(healthy) = verdict.note(found.is_ok(), &check) {
                self.tell(&found);
                feed.observed(self.app.clone(), self.revision.clone(), self.address, healthy).await;
            }
        }
    }

    fn tell(&self, found: &Result<(), Failure>) {
        let Self { app, revision, address } = self;
        match found {
            Ok(()) => tracing::info!(%app, %revision, endpoint = %address, "the endpoint is healthy"),
            Err(reason) => tracing::warn!(%app, %revision, endpoint = %address, %reason, "the endpoint is unhealthy"),
        }
    }
}

/// An interval with a tenth of jitter either way, so that probes do not march in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
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
    Connect(io::Error),
    TimedOut(Duration),
    Status(StatusCode),
    Http(hyper::Error),
    Path(http::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
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

async fn probe(address: SocketAddr, check: &HealthCheck) -> Result<(), Failure> {
    let asked = async {
        let stream = TcpStream::connect(address).await.map_err(Failure::Connect)?;
        match &check.path {
            Some(path) => get(stream, address, path).await,
            None => Ok(()),
        }
    };
    timeout(check.timeout, asked).await.map_err(|_| Failure::TimedOut(check.timeout))?
}

/// Good is a status of 2xx or 3xx. The body is left unread: the connection is not used again.
async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<(), Failure> {
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(Failure::Path)?;
    let mut http = http1::Builder::new();
    let (mut sender, connection) =
        http.max_buf_size(HEAD_SIZE).handshake(TokioIo::new(stream)).await.map_err(Failure::Http)?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(Failure::Http)?;
    match answer.status() {
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(Failure::Status(status)),
    }
}
