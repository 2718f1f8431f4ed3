//! The client of the admin API: one request to a connection, over TCP or a Unix socket. What changes something carries
//! an idempotency key, so that it can be sent again when the connection breaks before the answer is known.

use std::{collections::VecDeque, env, fmt, io, path::PathBuf, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    failure::{Exit, Failure},
    sse,
};
use crate::admin::api::{Problem, ROOT};

/// The largest answer read, in octets.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// How long a connect may take at most.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the admin API is asked for when nothing is said and the default socket does not answer.
const DEFAULT_TCP: &str = "127.0.0.1:7180";

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `host:port`.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Talks to one server as one person.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: Address,
    token: Option<String>,
    timeout: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// What it does, for people: `cannot promote shop`.
    what: String,
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    if_generation: Option<u64>,
}

/// Why there is no answer.
#[derive(Debug)]
enum Broken {
    Connect(io::Error),
    Exchange(hyper::Error),
}

/// The messages of an event stream, as they come.
pub(crate) struct Events {
    body: Incoming,
    decoder: sse::Decoder,
    messages: VecDeque<sse::Message>,
}

impl Client {
    /// A client of `address` that waits for each answer for at most `timeout`.
    pub(crate) fn new(address: Address, token: Option<String>, timeout: Duration) -> Self {
        Self { address, token, timeout }
    }

    /// The same, with at least so much time for an answer.
    pub(crate) fn patient(&self, at_least: Duration) -> Self {
        Self { timeout: self.timeout.max(at_least), ..self.clone() }
    }

    /// A client of the place where a server is to be expected: `socket` if somebody answers there, else TCP on the
    /// loopback interface, where the demo is.
    pub(crate) async fn nearby(socket: PathBuf, token: Option<String>, timeout: Duration) -> Result<Self, Failure> {
        let tcp = Address::Tcp(DEFAULT_TCP.to_owned());
        for address in [Address::Unix(socket.clone()), tcp] {
            if address.answers().await {
                return Ok(Self::new(address, token, timeout));
            }
        }
        let socket = socket.display();
        Err(Failure::new(Exit::Unreachable, "no server found")
            .detail(format!("nobody answers on unix:{socket} or http://{DEFAULT_TCP}"))
            .hint("start one with `tealgate demo` or `tealgate serve -c FILE`, or say where it is with --server"))
    }

    /// Asks for `path` under `/api/v1`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, what: impl Into<String>, path: &str) -> Result<T, Failure> {
        self.call(Call::new(what, Method::GET, path)).await
    }

    /// Sends a call and reads its answer; sends it once more if the connection breaks.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let key = format!("{:032x}", fastrand::u128(..));
        let exchange = async {
            match self.exchange(&call, &key).await {
                // If that fails as well, the first error counts: what was sent then may have been done.
                Err(first @ Broken::Exchange(_)) => self.exchange(&call, &key).await.map_err(|_| first),
                answer => answer,
            }
        };
        let (status, body) = timeout(self.timeout, exchange)
            .await
            .map_err(|_| self.too_late(&call))?
            .map_err(|broken| self.unreachable(&call, &broken))?;
        if !status.is_success() {
            return Err(Failure::answered(&call.what, status, problem(status, &body)));
        }
        // An answer without a body stands for `null`, so that callers who expect nothing need no second road.
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|error| self.not_understood(&call, &error))
    }

    /// Opens the event stream at `path` under `/api/v1`.
    pub(crate) async fn events(&self, path: &str) -> Result<Events, Failure> {
        let call = Call::new("cannot follow the events", Method::GET, path);
        let answer = timeout(self.timeout, self.send(&call, ""))
            .await
            .map_err(|_| self.too_late(&call))?
            .map_err(|broken| self.unreachable(&call, &broken))?;
        let (head, body) = answer.into_parts();
        if !head.status.is_success() {
            let body = read(body).await.unwrap_or_default();
            return Err(Failure::answered(&call.what, head.status, problem(head.status, &body)));
        }
        Ok(Events { body, decoder: sse::Decoder::default(), messages: VecDeque::new() })
    }

    /// Asks for `path`, taken as it is, and returns no more than the status.
    pub(crate) async fn status(&self, path: &str) -> Result<StatusCode, Failure> {
        let call = Call { path: path.to_owned(), ..Call::new("not healthy", Method::GET, "") };
        let answer = timeout(self.timeout, self.send(&call, "")).await.map_err(|_| self.too_late(&call))?;
        Ok(answer.map_err(|broken| self.unreachable(&call, &broken))?.status())
    }

    async fn exchange(&self, call: &Call, key: &str) -> Result<(StatusCode, Bytes), Broken> {
        let (head, body) = self.send(call, key).await?.into_parts();
        Ok((head.status, read(body).await?))
    }

    async fn send(&self, call: &Call, key: &str) -> Result<Response<Incoming>, Broken> {
        let request = self.request(call, key);
        match &self.address {
            Address::Tcp(authority) => {
                let stream = within(CONNECT, TcpStream::connect(authority)).await?;
                stream.set_nodelay(true).map_err(Broken::Connect)?;
                exchange_on(stream, request).await
            }
            Address::Unix(path) => exchange_on(within(CONNECT, UnixStream::connect(path)).await?, request).await,
        }
    }

    fn request(&self, call: &Call, key: &str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = call.method.clone();
        // Paths are made of names, which need no escapes; one that a user gave has been parsed before.
        *request.uri_mut() = call.path.parse().unwrap_or_default();
        let mut set = |name, value: &str| {
            if let Ok(value) = value.parse::<header::HeaderValue>() {
                request.headers_mut().insert(name, value);
            }
        };
        match &self.address {
            Address::Tcp(authority) => set(header::HOST, authority),
            Address::Unix(_) => set(header::HOST, "localhost"),
        }
        set(header::USER_AGENT, concat!("tealgate/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            set(header::AUTHORIZATION, &format!("Bearer {token}"));
        }
        if let Some(generation) = call.if_generation {
            set(header::IF_MATCH, &format!("\"{generation}\""));
        }
        if call.method != Method::GET {
            set(header::HeaderName::from_static("idempotency-key"), key);
        }
        if let Some(body) = &call.body {
            set(header::CONTENT_TYPE, "application/json");
            *request.body_mut() = Full::from(body.clone());
        }
        request
    }

    fn unreachable(&self, call: &Call, broken: &Broken) -> Failure {
        let address = &self.address;
        let detail = match broken {
            Broken::Connect(error) => format!("cannot connect to {address}: {error}"),
            Broken::Exchange(error) => format!("the connection to {address} broke: {error}"),
        };
        let hint = match broken {
            Broken::Connect(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "the socket is for its owner and group: use sudo, or join the group"
            }
            Broken::Connect(_) => "is it running? say where it is with --server URL|unix:PATH or TEALGATE_SERVER",
            Broken::Exchange(_) => "see what came of it with `tealgate status`",
        };
        Failure::new(Exit::Unreachable, call.what.clone()).detail(detail).hint(hint)
    }

    fn too_late(&self, call: &Call) -> Failure {
        let seconds = self.timeout.as_secs_f64();
        Failure::new(Exit::TimedOut, call.what.clone())
            .detail(format!("no answer from {} within {seconds} s", self.address))
            .hint("see what came of it with `tealgate status`; give it more time with --timeout")
    }

    fn not_understood(&self, call: &Call, error: &serde_json::Error) -> Failure {
        Failure::new(Exit::Failed, call.what.clone())
            .detail(format!("the answer of {} is not what it should be: {error}", self.address))
            .hint("is this a Tealgate admin API, and of this version? compare `tealgate version` with the server's")
    }
}

/// Sends one request on a new connection, which lives until the answer's body has been read or dropped.
async fn exchange_on<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors reach us through the answer and its body.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

async fn within<T>(limit: Duration, connect: impl Future<Output = io::Result<T>>) -> Result<T, Broken> {
    let connected = timeout(limit, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    connected.map_err(Broken::Connect)
}

async fn read(body: Incoming) -> Result<Bytes, hyper::Error> {
    match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        // Too long is no answer of ours; what is left out makes the JSON fail, which is then reported.
        Err(error) => error.downcast::<hyper::Error>().map_or(Ok(Bytes::new()), |error| Err(*error)),
    }
}

impl Call {
    /// A call of `path` under `/api/v1`; `what` is said when it fails.
    pub(crate) fn new(what: impl Into<String>, method: Method, path: &str) -> Self {
        Self { what: what.into(), method, path: format!("{ROOT}{path}"), body: None, if_generation: None }
    }

    /// With this body, as JSON.
    pub(crate) fn body(self, body: &impl Serialize) -> Self {
        // Our own types, made of strings and numbers, always have a JSON form.
        Self { body: serde_json::to_vec(body).ok(), ..self }
    }

    /// Only if the app's generation is still this one.
    pub(crate) fn if_generation(self, if_generation: Option<u64>) -> Self {
        Self { if_generation, ..self }
    }
}

impl Events {
    /// The next message; `None` when the server has ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<sse::Message>, Failure> {
        let broken = |detail: String| Failure::new(Exit::Unreachable, "the event stream broke").detail(detail);
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let Ok(piece) = frame.map_err(|error| broken(error.to_string()))?.into_data() else { continue };
            self.messages.extend(self.decoder.feed(&piece).map_err(|error| broken(error.to_string()))?);
        }
    }
}

/// The problem in an answer's body. What is none, e.g. from a proxy in between, is shown as it is, in part.
fn problem(status: StatusCode, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| Problem {
        kind: String::new(),
        title: String::new(),
        status: status.as_u16(),
        detail: String::from_utf8_lossy(body).chars().take(200).collect(),
        code: String::new(),
        hint: String::new(),
        gates: Vec::new(),
    })
}

impl Address {
    async fn answers(&self) -> bool {
        match self {
            Self::Tcp(authority) => within(CONNECT, TcpStream::connect(authority)).await.is_ok(),
            // A socket we may not open is there all the same: the error that follows says so.
            Self::Unix(path) => match within(CONNECT, UnixStream::connect(path)).await {
                Err(Broken::Connect(error)) => error.kind() == io::ErrorKind::PermissionDenied,
                other => other.is_ok(),
            },
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// `http://HOST[:PORT]`, `HOST:PORT` or `unix:PATH`.
    fn from_str(given: &str) -> Result<Self, String> {
        if let Some(path) = given.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err("unix: wants a path".to_owned()) } else { Ok(Self::Unix(path.into())) };
        }
        if given.starts_with("https:") {
            return Err("the admin API speaks plain HTTP: use http:// on loopback, or unix:PATH".to_owned());
        }
        let authority = given.strip_prefix("http://").unwrap_or(given).trim_end_matches('/');
        let authority: http::uri::Authority =
            authority.parse().map_err(|_| format!("{given:?} is neither http://HOST:PORT nor unix:PATH"))?;
        match authority.port() {
            Some(_) => Ok(Self::Tcp(authority.to_string())),
            None => Ok(Self::Tcp(format!("{authority}:7180"))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        Self::Exchange(error)
    }
}

/// The token of `--token-file`, else that of `TEALGATE_TOKEN`.
pub(crate) fn token(file: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    let Some(file) = file else {
        return Ok(env::var("TEALGATE_TOKEN").ok().map(|token| token.trim().to_owned()).filter(|t| !t.is_empty()));
    };
    let token = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read the token file {}: {error}", file.display())))?;
    Ok(Some(token.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn a_server_is_a_url_a_host_and_port_or_a_unix_socket() {
        let tcp = |authority: &str| Ok(Address::Tcp(authority.to_owned()));
        assert_eq!("http://127.0.0.1:7180".parse(), tcp("127.0.0.1:7180"));
        assert_eq!("http://[::1]:7180/".parse(), tcp("[::1]:7180"));
        assert_eq!("localhost".parse(), tcp("localhost:7180"));
        assert_eq!("unix:/run/a.sock".parse(), Ok(Address::Unix("/run/a.sock".into())));
        assert_eq!("unix:///run/a.sock".parse(), Ok(Address::Unix("/run/a.sock".into())));
        for bad in ["", "unix:", "https://a:1", "http://a b", "http://a/b/c"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_carries_its_key_its_guard_and_the_token() {
        let client = Client::new(Address::Tcp("a:1".to_owned()), Some("secret".to_owned()), CONNECT);
        let call = Call::new("cannot", Method::POST, "/apps/shop/promote")
            .if_generation(Some(7))
            .body(&serde_json::json!({"revision": "green"}));

        let request = client.request(&call, "key");
        let header = |name: &str| request.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(request.uri(), "/api/v1/apps/shop/promote");
        assert_eq!(header("idempotency-key"), "key");
        assert_eq!(header("if-match"), "\"7\"");
        assert_eq!(header("authorization"), "Bearer secret");
        assert_eq!(header("host"), "a:1");

        let look = client.request(&Call::new("cannot", Method::GET, "/apps"), "key");
        assert!(!look.headers().contains_key("idempotency-key"));
    }

    /// Reads a request's head and answers with these octets, if any; returns the head in lower case.
    async fn serve_one(listener: &TcpListener, answer: &str) -> String {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut head = Vec::new();
        while !head.windows(4).any(|w| w == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.expect("a request"), 0, "the request ends in its head");
        }
        stream.write_all(answer.as_bytes()).await.expect("the client listens");
        String::from_utf8_lossy(&head).to_lowercase()
    }

    async fn client() -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = Address::Tcp(listener.local_addr().expect("it is bound").to_string());
        (listener, Client::new(address, None, CONNECT))
    }

    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n42";

    #[tokio::test]
    async fn a_change_whose_connection_breaks_is_sent_once_more_under_the_same_key() {
        let (listener, client) = client().await;
        let call = client.call::<u32>(Call::new("cannot", Method::POST, "/x"));
        let server = async { [serve_one(&listener, "").await, serve_one(&listener, ANSWER).await] };
        let (answer, heads) = tokio::join!(call, server);
        assert_eq!(answer, Ok(42));
        let keys = heads.map(|head| head.lines().find(|line| line.starts_with("idempotency-key:")).map(str::to_owned));
        assert!(keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_twice_is_not_tried_again() {
        let (listener, client) = client().await;
        let call = client.call::<u32>(Call::new("cannot", Method::POST, "/x"));
        let server = async { [serve_one(&listener, "").await, serve_one(&listener, "").await] };
        let (answer, _) = tokio::join!(call, server);
        assert_eq!(answer.map_err(|failure| failure.exit), Err(Exit::Unreachable));
    }

    #[tokio::test]
    async fn where_nobody_listens_the_server_is_not_reachable() {
        let (listener, client) = client().await;
        drop(listener);
        let answer = client.get::<u32>("cannot", "/x").await;
        assert_eq!(answer.map_err(|failure| failure.exit), Err(Exit::Unreachable));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_in_time_is_a_timeout() {
        let (listener, client) = client().await;
        let client = Client { timeout: Duration::from_millis(20), ..client };
        let answer = client.get::<u32>("cannot", "/x").await;
        assert_eq!(answer.map_err(|failure| failure.exit), Err(Exit::TimedOut));
        drop(listener);
    }
}
