//! Steady mixed load: requests of every kind, over and over, until told to stop. Each lane keeps its own books, and each
//! request its own number, so that a test can ask both what clients saw and which request reached which upstream.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Display, Formatter},
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, future, stream};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::{net::TcpStream, sync::watch, task::JoinSet};
use tokio_tungstenite::{
    client_async,
    tungstenite::{ClientRequestBuilder, Message},
};

use super::{
    Body, BoxError, COLOUR, TEST_ID,
    backend::Backend,
    client::{Client, HOST, Protocol},
    eventually, full, within,
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
}

impl Lane {
    pub const ALL: [Self; 7] = [
        Self::KeepAlive,
        Self::NewConnections,
        Self::H2Streams,
        Self::Uploads,
        Self::Downloads,
        Self::Events,
        Self::WebSockets,
    ];
    /// Without the streams that only end when somebody ends them.
    pub const REQUESTS: [Self; 5] =
        [Self::KeepAlive, Self::NewConnections, Self::H2Streams, Self::Uploads, Self::Downloads];

    /// How many do it at once.
    fn width(self) -> usize {
        match self {
            Self::KeepAlive | Self::Downloads => 4,
            Self::NewConnections | Self::Events | Self::WebSockets => 2,
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
        let seen: HashSet<_> = backend.seen().into_iter().map(|seen| seen.id).collect();
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

/// One of those that drive a lane.
struct Driver {
    lane: Lane,
    name: String,
    address: SocketAddr,
    tally: Arc<Mutex<Tally>>,
    stopped: watch::Receiver<bool>,
}

impl Driver {
    async fn run(mut self) {
        let mut client = None;
        while !*self.stopped.borrow() {
            match self.lane {
                Lane::KeepAlive => self.fetch(&mut client, Protocol::H1, 1).await,
                Lane::NewConnections => self.fetch(&mut None, Protocol::H1, 1).await,
                Lane::H2Streams => self.fetch(&mut client, Protocol::H2, 8).await,
                Lane::Uploads => self.upload(&mut client).await,
                Lane::Downloads => self.download(&mut client).await,
                Lane::Events => self.follow_events().await,
                Lane::WebSockets => self.converse().await,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn fetch(&self, client: &mut Option<Client>, protocol: Protocol, at_once: usize) {
        let ids: Vec<_> = (0..at_once).map(|_| self.begin()).collect();
        let client = match connected(client, protocol, self.address).await {
            Ok(client) => client,
            Err(e) => return ids.iter().for_each(|id| self.end(id, Err(e.to_string().into()))),
        };
        let exchanges: Vec<_> = ids.iter().map(|id| send(client, "GET", "/", id, full(""))).collect();
        let exchanges = exchanges.into_iter().zip(&ids).map(async |(response, id)| {
            let outcome = async {
                let (colour, body) = whole(response.await?).await?;
                expect(body == colour.as_bytes(), || format!("{colour} said {body:?}"))?;
                Ok(colour)
            };
            self.end(id, outcome.await);
        });
        future::join_all(exchanges).await;
    }

    async fn upload(&self, client: &mut Option<Client>) {
        let id = self.begin();
        let pieces: Vec<_> =
            (0..fastrand::usize(1..8)).map(|_| Bytes::from(vec![b'u'; fastrand::usize(1..20_000)])).collect();
        let sent = pieces.concat();
        let outcome = async {
            let client = connected(client, Protocol::H1, self.address).await?;
            let frames = stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
            let response = send(client, "POST", "/echo", &id, StreamBody::new(frames).boxed_unsync()).await?;
            let (colour, received) = whole(response).await?;
            expect(received == sent, || format!("{} octets of {} came back", received.len(), sent.len()))?;
            Ok(colour)
        };
        let outcome = outcome.await;
        self.end(&id, outcome);
    }

    async fn download(&self, client: &mut Option<Client>) {
        let id = self.begin();
        let outcome = async {
            let client = connected(client, Protocol::H1, self.address).await?;
            let (colour, body) = whole(send(client, "GET", "/slow?ms=20&chunks=25", &id, full("")).await?).await?;
            expect(body == "a piece\n".repeat(25), || format!("a download of {} octets", body.len()))?;
            Ok(colour)
        };
        let outcome = outcome.await;
        self.end(&id, outcome);
    }

    async fn follow_events(&mut self) {
        let id = self.begin();
        let opened = async {
            let mut client = Client::connect(Protocol::H1, self.address).await?;
            let response = send(&mut client, "GET", "/sse", &id, full("")).await?;
            Ok((colour(&response)?, response.into_body()))
        };
        let mut body = match opened.await {
            Ok((colour, body)) => {
                self.end(&id, Ok(colour));
                body
            }
            Err(e) => return self.end(&id, Err(e)),
        };
        while let Some(frame) = self.unless_stopped(body.frame()).await {
            match frame {
                Some(Ok(_)) => self.note(|tally| tally.messages += 1),
                Some(Err(e)) => return self.broke(&id, &e.to_string()),
                None => return self.broke(&id, "it ended"),
            }
        }
    }

    async fn converse(&mut self) {
        let id = self.begin();
        let opened = async {
            let uri = format!("ws://{HOST}/ws").parse()?;
            let request = ClientRequestBuilder::new(uri).with_header(TEST_ID, &id);
            let (socket, response) = client_async(request, TcpStream::connect(self.address).await?).await?;
            let colour = response.headers().get(COLOUR).ok_or("no colour")?.to_str()?.to_owned();
            Ok((colour, socket))
        };
        let mut socket = match opened.await {
            Ok((colour, socket)) => {
                self.end(&id, Ok(colour));
                socket
            }
            Err(e) => return self.end(&id, Err(e)),
        };
        for n in 0.. {
            let text = Message::text(format!("message {n}"));
            let echo = async {
                socket.send(text.clone()).await?;
                socket.next().await.transpose()
            };
            match self.unless_stopped(echo).await {
                None => return,
                Some(Ok(Some(answer))) if answer == text => self.note(|tally| tally.messages += 1),
                Some(other) => return self.broke(&id, &format!("{other:?} instead of an echo")),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn begin(&self) -> String {
        self.note(|tally| {
            tally.sent += 1;
            let id = format!("{}-{}", self.name, tally.sent);
            tally.requests.push((id.clone(), Instant::now()));
            id
        })
    }

    fn end(&self, id: &str, outcome: Result<String, BoxError>) {
        self.note(|tally| match outcome {
            Ok(colour) => {
                tally.ok += 1;
                tally.first_seen.entry(colour.clone()).or_insert_with(Instant::now);
                *tally.by_colour.entry(colour).or_default() += 1;
            }
            Err(e) => {
                tally.failed += 1;
                tally.explain(id, &described(&*e));
            }
        });
    }

    fn broke(&self, id: &str, reason: &str) {
        self.note(|tally| {
            tally.broken += 1;
            tally.explain(id, reason);
        });
    }

    fn note<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        change(&mut self.tally.lock().unwrap())
    }

    async fn unless_stopped<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            value = future => Some(value),
            _ = self.stopped.wait_for(|stopped| *stopped) => None,
        }
    }
}

impl Tally {
    fn explain(&mut self, id: &str, reason: &str) {
        if self.reasons.len() < 5 {
            self.reasons.push(format!("{id}: {reason}"));
        }
    }
}

/// The connection there is, or a new one: one that was closed in good order between two requests is no failure.
async fn connected(
    client: &mut Option<Client>,
    protocol: Protocol,
    address: SocketAddr,
) -> Result<&mut Client, BoxError> {
    let alive = match client {
        Some(client) => client.ready().await,
        None => false,
    };
    if !alive {
        *client = Some(Client::connect(protocol, address).await?);
    }
    client.as_mut().ok_or_else(|| "no connection".into())
}

fn send(
    client: &mut Client,
    method: &str,
    path: &str,
    id: &str,
    body: Body,
) -> impl Future<Output = Result<Response<Incoming>, BoxError>> + use<> {
    let request = client.request(method, path).header(TEST_ID, id).body(body).expect("a request");
    let response = client.send(request);
    async { tokio::time::timeout(Duration::from_secs(15), response).await?.map_err(Into::into) }
}

async fn whole(response: Response<Incoming>) -> Result<(String, Bytes), BoxError> {
    let colour = colour(&response)?;
    let body = tokio::time::timeout(Duration::from_secs(15), response.into_body().collect()).await??;
    Ok((colour, body.to_bytes()))
}

fn colour(response: &Response<Incoming>) -> Result<String, BoxError> {
    let status = response.status();
    expect(status == StatusCode::OK, || format!("status {status}"))?;
    Ok(response.headers().get(COLOUR).ok_or("no colour")?.to_str()?.to_owned())
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), BoxError> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
