//! Clients: one that speaks HTTP/1.1 or HTTP/2 over a connection it keeps, so that one test serves both, and one that sends
//! raw octets, for what no HTTP library would send.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::future::{self, Either};
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Body, BoxError, COLOUR, full, within};

/// The host that requests name if they do not name their own.
pub const HOST: &str = "shop.test";

/// How the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

impl Protocol {
    /// All, for what must not depend on it.
    pub const ALL: [Self; 2] = [Self::H1, Self::H2];
}

/// A client on one connection.
pub enum Client {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Client {
    /// Over TCP; HTTP/2 by prior knowledge.
    pub async fn connect(protocol: Protocol, address: SocketAddr) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(protocol, stream).await
    }

    /// Over TLS to `host`, ALPN asking for this protocol alone.
    pub async fn connect_tls(
        protocol: Protocol,
        address: SocketAddr,
        host: &str,
        mut config: ClientConfig,
    ) -> Result<Self, BoxError> {
        config.alpn_protocols = vec![match protocol {
            Protocol::H1 => b"http/1.1".to_vec(),
            Protocol::H2 => b"h2".to_vec(),
        }];
        Self::over(protocol, tls(address, host, config).await?).await
    }

    /// Over anything.
    pub async fn over<S>(protocol: Protocol, stream: S) -> Result<Self, BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        match protocol {
            Protocol::H1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection.with_upgrades());
                Ok(Self::H1(sender))
            }
            Protocol::H2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Ok(Self::H2(sender))
            }
        }
    }

    /// Sends a request as it is, and answers once the head of the response is there. On HTTP/2 the requests of one client
    /// do not wait for each other; on HTTP/1.1 the body before must have been read.
    pub fn send(&mut self, request: Request<Body>) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        match self {
            Self::H1(sender) => Either::Left(sender.send_request(request)),
            Self::H2(sender) => Either::Right(sender.send_request(request)),
        }
    }

    /// Whether another request can be sent: waits for the last one to be over, on HTTP/1.1.
    pub async fn ready(&mut self) -> bool {
        match self {
            Self::H1(sender) => sender.ready().await.is_ok(),
            Self::H2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request and reads the whole answer.
    pub async fn fetch(&mut self, request: Request<Body>) -> Result<Answer, BoxError> {
        let what = format!("{} {}", request.method(), request.uri());
        within(&what, async {
            if !self.ready().await {
                return Err("the connection is closed".into());
            }
            Answer::read(self.send(request).await?).await
        })
        .await
    }

    /// Gets a path.
    pub async fn get(&mut self, path: &str) -> Result<Answer, BoxError> {
        let request = self.request("GET", path).body(full("")).expect("a request");
        self.fetch(request).await
    }

    /// Sends a request, and leaves its answer to a task.
    pub fn get_later(&mut self, path: &str) -> tokio::task::JoinHandle<Result<Answer, BoxError>> {
        let request = self.request("GET", path).body(full("")).expect("a request");
        let response = self.send(request);
        tokio::spawn(async { Answer::read(response.await?).await })
    }

    /// A request to [`HOST`] in the form its protocol wants.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        match self {
            Self::H1(_) => Request::builder().method(method).uri(path).header(header::HOST, HOST),
            Self::H2(_) => Request::builder().method(method).uri(format!("http://{HOST}{path}")),
        }
    }
}

impl Answer {
    /// Reads the whole of it.
    pub async fn read(response: Response<Incoming>) -> Result<Self, BoxError> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        Ok(Self {
            status: head.status,
            version: head.version,
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        })
    }

    /// The upstream that answered; empty if it was the proxy itself.
    pub fn colour(&self) -> &str {
        self.header(COLOUR)
    }

    /// A field's first value; empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A TLS connection to `host` at this address.
pub async fn tls(address: SocketAddr, host: &str, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).expect("a host name");
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

/// A client that sends the very octets it is given.
pub struct Raw {
    pub stream: TcpStream,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream }
    }

    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.expect("octets taken");
    }

    /// Reads up to and with the end of a head, octet by octet so that nothing after it is taken.
    pub async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        within("a response head", async {
            while !head.ends_with(b"\r\n\r\n") {
                match self.stream.read_u8().await {
                    Ok(octet) => head.push(octet),
                    Err(e) => panic!("{e} after {:?}", String::from_utf8_lossy(&head)),
                }
            }
        })
        .await;
        String::from_utf8_lossy(&head).into_owned()
    }

    /// Reads exactly so many octets.
    pub async fn read(&mut self, octets: usize) -> Vec<u8> {
        let mut buffer = vec![0; octets];
        within("octets", self.stream.read_exact(&mut buffer)).await.expect("octets");
        buffer
    }

    /// Reads until the other side closes; `Err` holds what came before a reset.
    pub async fn read_to_end(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let mut octets = Vec::new();
        match within("the end of the connection", self.stream.read_to_end(&mut octets)).await {
            Ok(_) => Ok(octets),
            Err(_) => Err(octets),
        }
    }

    /// Sends these octets on a connection of their own, and reads until the other side closes or resets.
    pub async fn exchange(address: SocketAddr, octets: impl AsRef<[u8]>) -> String {
        let mut raw = Self::connect(address).await;
        // The other side may refuse before it has read all.
        raw.stream.write_all(octets.as_ref()).await.ok();
        let answer = raw.read_to_end().await.unwrap_or_else(|so_far| so_far);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Sends the same request so many times at once, each as soon as it can.
pub async fn at_once(client: &mut Client, path: &str, times: usize) -> Vec<Result<Answer, BoxError>> {
    let requests: Vec<_> = (0..times)
        .map(|_| {
            let request = client.request("GET", path).body(full("")).expect("a request");
            client.send(request)
        })
        .collect();
    let answers = requests.into_iter().map(async |response| Answer::read(response.await?).await);
    within("answers", future::join_all(answers)).await
}
