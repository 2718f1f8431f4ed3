//! The application of the demo: an endpoint that says which revision it is, as a page in its colour, as JSON, and as a
//! stream of events.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::interval,
};

const PAGE: &str = include_str!("page.html");

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A running endpoint; it ends when this is dropped.
pub(super) struct Upstream {
    address: SocketAddr,
    task: AbortHandle,
}

/// What an endpoint knows of itself.
struct Identity {
    revision: &'static str,
    endpoint: SocketAddr,
    served: AtomicU64,
}

impl Upstream {
    /// Starts an endpoint of `revision` on a port of the system's choice, on the loopback interface.
    pub(super) async fn spawn(revision: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let identity = Arc::new(Identity { revision, endpoint: address, served: AtomicU64::new(0) });
        let task = tokio::spawn(accept(listener, identity)).abort_handle();
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves until it is aborted, and the connections with it.
async fn accept(listener: TcpListener, identity: Arc<Identity>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // What fails here is a connection that went away, or a machine out of descriptors: the load will show that.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let identity = Arc::clone(&identity);
        let service = service_fn(move |request| {
            let identity = Arc::clone(&identity);
            async move { Ok::<_, Infallible>(identity.answer(&request)) }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

impl Identity {
    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let (revision, endpoint) = (self.revision, self.endpoint);
        match request.uri().path() {
            "/" => {
                let page = PAGE.replace("{{revision}}", revision).replace("{{endpoint}}", &endpoint.to_string());
                answer(StatusCode::OK, "text/html; charset=utf-8", page)
            }
            "/api" => {
                let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
                let body = json!({"revision": revision, "endpoint": endpoint, "served": served});
                answer(StatusCode::OK, "application/json", format!("{body}\n"))
            }
            "/healthz" => answer(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/events" => {
                let mut response = Response::new(ticks(revision));
                let kind = header::HeaderValue::from_static("text/event-stream");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            _ => answer(StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// A message a second, for as long as somebody listens.
fn ticks(revision: &'static str) -> Body {
    let ticks = stream::unfold((interval(Duration::from_secs(1)), 0_u64), move |(mut interval, tick)| async move {
        interval.tick().await;
        let message = format!("data: {}\n\n", json!({"revision": revision, "tick": tick}));
        Some((Ok(Frame::data(Bytes::from(message))), (interval, tick + 1)))
    });
    StreamBody::new(ticks).boxed_unsync()
}
