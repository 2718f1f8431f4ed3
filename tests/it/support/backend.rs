//! An upstream that says its name: every answer carries its colour, and every request that starts on it is noted, so that a
//! test can judge at the upstream what the proxy promised at the front. It runs on a thread of its own; stopping it closes
//! its listener and all its connections at once, as a crash would.

use std::{
    convert::Infallible,
    future::{self, Future},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{oneshot, watch},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::{Body, BoxError, COLOUR, TEST_ID, full};

/// A running upstream.
pub struct Backend {
    state: Arc<State>,
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// A request as it started on the upstream: its head was read.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub id: String,
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
}

struct State {
    colour: &'static str,
    marks: HeaderMap,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    unhealthy: AtomicBool,
    hang: watch::Sender<bool>,
}

impl Backend {
    pub fn spawn(colour: &'static str) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), colour, HeaderMap::new())
    }

    /// Listens at this address, and says more of itself in every answer.
    pub fn at(address: SocketAddr, colour: &'static str, marks: HeaderMap) -> Self {
        let state = State {
            colour,
            marks,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            unhealthy: AtomicBool::new(false),
            hang: watch::Sender::new(false),
        };
        let mut backend = Self { state: Arc::new(state), address, running: None };
        backend.start();
        backend
    }

    /// Listens: for the first time, or again at the same address after [`Self::stop`].
    pub fn start(&mut self) {
        self.stop();
        let listener = TcpListener::bind(self.address).expect("an address of this machine");
        listener.set_nonblocking(true).expect("a socket option");
        self.address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&self.state);
        let thread = thread::spawn(move || serve(listener, state, stopped));
        self.running = Some((stop, thread));
    }

    /// Closes the listener and all connections at once.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.send(()).ok();
            thread.join().ok();
        }
    }

    /// Whether it listens.
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn colour(&self) -> &'static str {
        self.state.colour
    }

    /// `/healthz` answers 503.
    pub fn unhealthy(&self, unhealthy: bool) {
        self.state.unhealthy.store(unhealthy, SeqCst);
    }

    /// No request is answered until this is taken back; then all are.
    pub fn hang(&self, hang: bool) {
        self.state.hang.send_replace(hang);
    }

    /// All requests that have started here, probes left out, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// How many requests it has begun.
    pub fn begun(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }

    /// Connections accepted since the beginning, probes included.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(listener: TcpListener, state: Arc<State>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // When this returns, the runtime drops every connection's task, and with it the connection.
    runtime.block_on(async {
        tokio::select! {
            () = accept(listener, state) => {}
            _ = stopped => {}
        }
    });
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        state.connections.fetch_add(1, SeqCst);
        tokio::spawn(connection(stream, Arc::clone(&state)));
    }
}

/// Speaks HTTP/1.1, or HTTP/2 with a client that begins with its preface.
async fn connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| answer(Arc::clone(&state), request));
    let mut first = [0; 3];
    let preface = matches!(stream.peek(&mut first).await, Ok(3)) && first == *b"PRI";
    let io = TokioIo::new(stream);
    if preface {
        http2::Builder::new(TokioExecutor::new()).enable_connect_protocol().serve_connection(io, service).await.ok();
    } else {
        http1::Builder::new().serve_connection(io, service).with_upgrades().await.ok();
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.uri().path() != "/healthz" {
        let id = request.headers().get(TEST_ID).map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
        state.seen.lock().unwrap().push(Seen {
            at: Instant::now(),
            id: id.unwrap_or_default(),
            method: request.method().clone(),
            target: request.uri().to_string(),
            headers: request.headers().clone(),
        });
    }
    state.hang.subscribe().wait_for(|hang| !hang).await.ok();

    let mut response = route(&state, request).await;
    response.headers_mut().insert(COLOUR, HeaderValue::from_static(state.colour));
    response.headers_mut().extend(state.marks.clone());
    Ok(response)
}

async fn route(state: &State, request: Request<Incoming>) -> Response<Body> {
    let uri = request.uri().clone();
    let (colour, path) = (state.colour, uri.path());
    let number = |prefix: &str| path.strip_prefix(prefix).and_then(|n| n.parse::<u16>().ok());
    match path {
        // Outside suites ask for nothing but the root.
        "/" if request.headers().contains_key(header::SEC_WEBSOCKET_KEY) => web_socket(request),
        "/" => Response::new(full(colour)),
        "/healthz" => status(if state.unhealthy.load(SeqCst) { 503 } else { 200 }),
        "/slow" => {
            let (pause, chunks) = (Duration::from_millis(query(&uri, "ms", 50)), query(&uri, "chunks", 10));
            Response::new(pieces(move |n| {
                tokio::time::sleep(pause).map(move |()| (n < chunks).then(|| Ok("a piece\n".into())))
            }))
        }
        "/sse" => {
            let pause = Duration::from_millis(query(&uri, "ms", 20));
            let body = pieces(move |n| {
                tokio::time::sleep(pause).map(move |()| Some(Ok(format!("id: {n}\ndata: {colour}\n\n").into())))
            });
            with(Response::new(body), header::CONTENT_TYPE, "text/event-stream")
        }
        "/echo" => echo(request),
        // Its colour, when it has heard all.
        "/heard" => match request.into_body().collect().await {
            Ok(_) => Response::new(full(colour)),
            Err(_) => status(400),
        },
        "/ws" => web_socket(request),
        "/hang" => future::pending().await,
        // The head and the first piece leave while the second is pending.
        "/reset" => {
            let body = pieces(async |n| {
                tokio::task::yield_now().await;
                Some(if n == 0 { Ok("half of it".into()) } else { Err("cut on purpose".into()) })
            });
            with(Response::new(body), header::CONTENT_LENGTH, "1000")
        }
        _ if path.starts_with("/bytes/") => bytes(path["/bytes/".len()..].parse().expect("/bytes/N")),
        _ => status(number("/status/").unwrap_or(404)),
    }
}

fn query(uri: &Uri, name: &str, default: u64) -> u64 {
    let mut pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(n, _)| *n == name).map_or(default, |(_, value)| value.parse().expect("a number"))
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
}

fn with(mut response: Response<Body>, name: HeaderName, value: &str) -> Response<Body> {
    response.headers_mut().insert(name, HeaderValue::from_str(value).expect("a field value"));
    response
}

/// A body made piece by piece, until there is none.
fn pieces<F>(mut piece: impl FnMut(u64) -> F + Send + 'static) -> Body
where
    F: Future<Output = Option<Result<Bytes, BoxError>>> + Send + 'static,
{
    let frames = stream::unfold(0, move |n| piece(n).map(move |piece| Some((piece?.map(Frame::data), n + 1))));
    StreamBody::new(frames).boxed_unsync()
}

fn bytes(octets: usize) -> Response<Body> {
    const PIECE: &[u8] = &[b'x'; 64 * 1024];
    let body = pieces(move |n| {
        let left = octets.saturating_sub(usize::try_from(n).expect("a count") * PIECE.len());
        future::ready((left > 0).then(|| Ok(Bytes::from_static(&PIECE[..left.min(PIECE.len())]))))
    });
    with(Response::new(body), header::CONTENT_LENGTH, &octets.to_string())
}

/// The request's body as it comes, and its trailers.
fn echo(request: Request<Incoming>) -> Response<Body> {
    let announced = request.headers().get(header::TRAILER).cloned();
    let mut response = Response::new(request.into_body().map_err(Into::into).boxed_unsync());
    response.headers_mut().extend(announced.map(|names| (header::TRAILER, names)));
    response
}

/// Takes the connection over, or the stream of an extended CONNECT (RFC 8441), and sends back whatever comes.
fn web_socket(mut request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let response = match (request.method() == Method::CONNECT, key) {
        (true, None) => status(200),
        (false, Some(accept)) => {
            let response = with(status(101), header::CONNECTION, "upgrade");
            with(with(response, header::UPGRADE, "websocket"), header::SEC_WEBSOCKET_ACCEPT, &accept)
        }
        (true, Some(_)) | (false, None) => return status(400),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        // One by one, and to the end: what is seen of it does not hang on which frames came together, and no reset
        // overtakes the last message.
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
        socket.get_mut().shutdown().await.ok();
        tokio::io::copy(socket.get_mut(), &mut tokio::io::sink()).await.ok();
    });
    response
}
