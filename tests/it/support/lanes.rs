//! How each lane of the load is driven: one exchange, or one stream, after the other, each noted in the lane's books.

use std::{
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
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{ClientRequestBuilder, Message},
};

use super::{
    Body, BoxError, COLOUR, TEST_ID,
    client::{Client, HOST, Protocol},
    full,
    load::{Lane, Tally},
};

/// One of those that drive a lane.
pub struct Driver {
    pub lane: Lane,
    pub name: String,
    pub address: SocketAddr,
    pub tally: Arc<Mutex<Tally>>,
    pub stopped: watch::Receiver<bool>,
}

impl Driver {
    pub async fn run(mut self) {
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
                Lane::Calls => self.call().await,
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

    /// A gRPC stream in both directions (each message behind five octets of prefix), as the wire sees it.
    async fn call(&mut self) {
        let id = self.begin();
        let (speak, spoken) = mpsc::channel::<Bytes>(1);
        let opened = async {
            let mut client = Client::connect(Protocol::H2, self.address).await?;
            let frames =
                stream::unfold(spoken, async |mut spoken| Some((Ok(Frame::data(spoken.recv().await?)), spoken)));
            let body = StreamBody::new(Box::pin(frames)).boxed_unsync();
            let request = client.request("POST", "/echo").header(TEST_ID, &id);
            let request = request.header("content-type", "application/grpc").header("te", "trailers").body(body)?;
            let response = tokio::time::timeout(Duration::from_secs(15), client.send(request)).await??;
            Ok((colour(&response)?, response.into_body(), client))
        };
        let (mut body, _client) = match opened.await {
            Ok((colour, body, client)) => {
                self.end(&id, Ok(colour));
                (body, client)
            }
            Err(e) => return self.end(&id, Err(e)),
        };
        for n in 0_u32.. {
            let message = Bytes::from([&[0, 0, 0, 0, 4][..], &n.to_be_bytes()].concat());
            let echo = async {
                speak.send(message.clone()).await.map_err(|_| "the upload ended")?;
                let mut heard = Vec::new();
                while heard.len() < message.len() {
                    let frame = body.frame().await.ok_or("the answer ended")??;
                    heard.extend_from_slice(&frame.into_data().map_err(|_| "trailers")?);
                }
                Ok::<_, BoxError>(heard)
            };
            match self.unless_stopped(echo).await {
                None => return,
                Some(Ok(heard)) if heard == message => self.note(|tally| tally.messages += 1),
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
                tally.lost.push(id.to_owned());
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
