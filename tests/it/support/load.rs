//! Steady mixed load: requests of every kind, over and over, until told to stop. Each lane keeps its own books, and each
//! request its own number, so that a test can ask both what clients saw and which request reached which upstream.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Display, Formatter},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::{sync::watch, task::JoinSet};

use super::{
    backend::{Backend, Seen},
    eventually,
    lanes::Driver,
    within,
};

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// HTTP/1.1, one request after the other on kept connections.
    KeepAlive,
    /// HTTP/1.1, a connection for each request.
    NewConnections,
    /// HTTP/2, many streams at once on one connection.
    H2Streams,
    /// Chunked request bodies of many sizes, echoed.
    Uploads,
    /// Answers that take half a second to stream.
    Downloads,
    /// Server-sent events without end.
    Events,
    /// WebSocket messages without end, echoed.
    WebSockets,
    /// gRPC messages without end on a stream, echoed.
    Calls,
}

impl Lane {
    pub const ALL: [Self; 8] = [
        Self::KeepAlive,
        Self::NewConnections,
        Self::H2Streams,
        Self::Uploads,
        Self::Downloads,
        Self::Events,
        Self::WebSockets,
        Self::Calls,
    ];
    /// Without the streams that only end when somebody ends them.
    pub const REQUESTS: [Self; 5] =
        [Self::KeepAlive, Self::NewConnections, Self::H2Streams, Self::Uploads, Self::Downloads];

    /// How many do it at once.
    fn width(self) -> usize {
        match self {
            Self::KeepAlive | Self::Downloads => 4,
            Self::NewConnections | Self::Events | Self::WebSockets | Self::Calls => 2,
            Self::H2Streams | Self::Uploads => 1,
        }
    }
}

/// One lane's books. `sent` is `ok` and `failed` together.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
    /// The numbers of those that failed.
    pub lost: Vec<String>,
    /// The first few reasons of failures and breaks.
    pub reasons: Vec<String>,
    /// Of the ok ones, how many were answered by which upstream.
    pub by_colour: BTreeMap<String, u64>,
    /// When each upstream's first answer began.
    pub first_seen: BTreeMap<String, Instant>,
    /// Streams without end that ended, though they had begun well.
    pub broken: u64,
    /// Events and messages received on them.
    pub messages: u64,
    /// Each request's number, and when it was about to be sent.
    pub requests: Vec<(String, Instant)>,
}

impl Tally {
    pub fn explain(&mut self, id: &str, reason: &str) {
        if self.reasons.len() < 5 {
            self.reasons.push(format!("{id}: {reason}"));
        }
    }
}

/// Load that is running.
pub struct Load {
    stop: watch::Sender<bool>,
    tallies: BTreeMap<Lane, Arc<Mutex<Tally>>>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Every kind.
    pub fn start(address: SocketAddr) -> Self {
        Self::of(&Lane::ALL, address)
    }

    /// Some kinds.
    pub fn of(lanes: &[Lane], address: SocketAddr) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut load = Self { stop, tallies: BTreeMap::new(), tasks: JoinSet::new() };
        for lane in lanes {
            let tally = Arc::clone(load.tallies.entry(*lane).or_default());
            for n in 0..lane.width() {
                let name = format!("{lane:?}-{n}");
                let driver = Driver { lane: *lane, name, address, tally: Arc::clone(&tally), stopped: stopped.clone() };
                load.tasks.spawn(driver.run());
            }
        }
        load
    }

    /// The books as they stand.
    pub fn report(&self) -> Report {
        Report { lanes: self.tallies.iter().map(|(lane, tally)| (*lane, tally.lock().unwrap().clone())).collect() }
    }

    /// Waits until every lane has had an answer from this upstream.
    pub async fn reached(&self, colour: &str) {
        let all = async || self.report().lanes.values().all(|tally| tally.by_colour.contains_key(colour));
        eventually(&format!("every lane on {colour}"), all).await;
    }

    /// Lets what is under way finish, and closes the books.
    pub async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        within("the load to end", async { while self.tasks.join_next().await.is_some() {} }).await;
        self.report()
    }
}

/// What became of the load.
#[derive(Clone, Debug)]
pub struct Report {
    pub lanes: BTreeMap<Lane, Tally>,
}

impl Report {
    pub fn sent(&self) -> u64 {
        self.lanes.values().map(|tally| tally.sent).sum()
    }

    pub fn failed(&self) -> u64 {
        self.lanes.values().map(|tally| tally.failed).sum()
    }

    pub fn broken(&self) -> u64 {
        self.lanes.values().map(|tally| tally.broken).sum()
    }

    /// No request failed; streams without end may have been ended, as the app's policy has it.
    pub fn assert_no_request_failed(&self) {
        assert!(self.failed() == 0 && self.lanes.values().all(|tally| tally.ok > 0), "{self}");
    }

    /// Requests sent after this instant that started on that upstream all the same.
    pub fn started_on(&self, backend: &Backend, after: Instant) -> Vec<String> {
        self.started_between(&backend.seen(), after, Instant::now())
    }

    /// Requests sent between these instants that started on that upstream before the second.
    pub fn started_between(&self, seen: &[Seen], after: Instant, until: Instant) -> Vec<String> {
        let seen = seen.iter().filter(|seen| seen.at > after && seen.at < until);
        let seen: HashSet<_> = seen.map(|seen| &seen.id).collect();
        let sent = self.lanes.values().flat_map(|tally| &tally.requests).filter(|(_, at)| *at > after);
        sent.filter(|(id, _)| seen.contains(id)).map(|(id, _)| id.clone()).collect()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (lane, Tally { sent, ok, failed, broken, by_colour, reasons, .. }) in &self.lanes {
            writeln!(f, "{lane:?}: {sent} sent, {ok} ok {by_colour:?}, {failed} failed, {broken} broken {reasons:?}")?;
        }
        Ok(())
    }
}
