//! The light load of the demo: a few kept-alive connections through the live address, each request counted by the colour
//! that answered it. A request fails if it is not answered 200, whole, by one of the two revisions.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections kept open, each with one request at a time.
const CONNECTIONS: u32 = 4;

/// Requests a second over all connections.
const RATE: u32 = 50;

/// How long a request may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most octets of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// What became of the requests so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) blue: u64,
    pub(super) green: u64,
    pub(super) failed: u64,
    /// The longest that an answered request took.
    pub(super) slowest: Duration,
    /// What went wrong the first time.
    pub(super) first_failure: Option<String>,
}

/// A running load.
pub(super) struct Load {
    counts: Arc<Mutex<Counts>>,
    stop: CancellationToken,
    connections: JoinSet<()>,
}

#[derive(Deserialize)]
struct Answer {
    revision: String,
}

impl Counts {
    /// Requests in all.
    pub(super) fn total(&self) -> u64 {
        self.blue + self.green + self.failed
    }

    fn count(&mut self, result: Result<String, String>, took: Duration) {
        match result.as_deref() {
            Ok("blue") => self.blue += 1,
            Ok("green") => self.green += 1,
            Ok(_) | Err(_) => {
                self.failed += 1;
                let why = result.map_or_else(|error| error, |who| format!("{who:?} answered, which is no revision"));
                self.first_failure.get_or_insert(why);
                return;
            }
        }
        self.slowest = self.slowest.max(took);
    }
}

impl Load {
    /// Starts asking `live`.
    pub(super) fn start(live: SocketAddr) -> Self {
        let counts = Arc::<Mutex<Counts>>::default();
        let stop = CancellationToken::new();
        let mut connections = JoinSet::new();
        for number in 0..CONNECTIONS {
            // Spread evenly, not in volleys.
            let delay = Duration::from_secs(1) / RATE * number;
            connections.spawn(ask(live, delay, Arc::clone(&counts), stop.clone()));
        }
        Self { counts, stop, connections }
    }

    /// The counts as of now.
    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends nothing more, and returns the counts when the last answer is in.
    pub(super) async fn stop(mut self) -> Counts {
        self.stop.cancel();
        while self.connections.join_next().await.is_some() {}
        self.counts()
    }
}

async fn ask(live: SocketAddr, delay: Duration, counts: Arc<Mutex<Counts>>, stop: CancellationToken) {
    sleep(delay).await;
    let mut ticks = interval(Duration::from_secs(1) / RATE * CONNECTIONS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let began = Instant::now();
        let result = match timeout(PATIENCE, exchange(live, &mut connection)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        if result.is_err() {
            connection = None;
        }
        counts.lock().unwrap_or_else(PoisonError::into_inner).count(result, began.elapsed());
    }
}

/// One request; returns who answered it.
async fn exchange(live: SocketAddr, connection: &mut Option<SendRequest<Empty<Bytes>>>) -> Result<String, String> {
    let fresh = match connection.take() {
        // A connection that the proxy has closed between two requests is replaced, as any client does.
        Some(mut kept) => kept.ready().await.is_ok().then_some(kept),
        None => None,
    };
    let sender = match fresh {
        Some(kept) => connection.insert(kept),
        None => connection.insert(connect(live).await.map_err(|error| format!("cannot connect: {error}"))?),
    };
    let request = Request::get("/api").header(header::HOST, live.to_string()).body(Empty::new());
    let request = request.map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
    if status != StatusCode::OK {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body).trim()));
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| format!("the answer is garbled: {error}"))?;
    Ok(answer.revision)
}

async fn connect(live: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(live).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors reach us through the requests on it.
    tokio::spawn(connection);
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::{super::upstream::Upstream, *};

    #[tokio::test]
    async fn each_request_is_counted_by_the_colour_that_answered_it() {
        let blue = Upstream::spawn("blue").await.expect("a port on loopback");
        let load = Load::start(blue.address());
        while load.counts().total() < 8 {
            tokio::task::yield_now().await;
        }
        let counts = load.stop().await;
        assert_eq!((counts.green, counts.failed), (0, 0), "{counts:?}");
        assert!(counts.blue >= 8 && counts.slowest > Duration::ZERO, "{counts:?}");
    }

    #[tokio::test]
    async fn what_is_not_answered_by_a_colour_has_failed_and_says_why() {
        let red = Upstream::spawn("red").await.expect("a port on loopback");
        let address = red.address();
        let mut counts = Counts::default();
        let mut connection = None;
        counts.count(exchange(address, &mut connection).await, Duration::ZERO);
        assert_eq!(counts.failed, 1);
        assert_eq!(counts.first_failure.as_deref(), Some("\"red\" answered, which is no revision"));
    }
}
