//! One HTTP/2 request, from top to bottom. The outer function answers; the inner one forwards, and may fail anywhere with `?`.

use std::{convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{
    admit::Visitor,
    body::{Download, Record, TrackedBody},
    client::{Client, Serving},
    clock::Timer,
    error::ProxyError,
    forward::{self, Reply, forward},
    grpc,
    h1::Framing,
    target::Target,
    tunnel,
    upload::Source,
};
use crate::telemetry::request_log::{Head, RequestLog};

/// What hyper calls with every request of HTTP/2.
pub(super) fn call(
    client: &Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<TrackedBody>, Infallible>> + use<> {
    let serving = client.begin();
    let timer = client.clock().timer();
    client.spawning.set(Some(timer.key()));
    async move { Ok(answer(serving, timer, request).await) }
}

/// Whatever happens, there is an answer.
async fn answer(serving: Serving, timer: Timer, request: Request<Incoming>) -> Response<TrackedBody> {
    let arrived = Instant::now();
    let client = Rc::clone(serving.client());
    let (mut parts, incoming) = request.into_parts();
    let is_grpc = grpc::is_request(&parts.headers);
    let stream = parts.extensions.remove::<OnUpgrade>();
    let target = target(&client, &parts);
    let mut log = open(&client, &parts, target.as_ref().map_or("", |target| &target.host));
    let forwarded = match target {
        Ok(target) => pass_on(&client, &target, parts, incoming, timer, arrived, &mut log).await,
        Err(error) => Err(error),
    };
    match forwarded {
        Ok(reply) if reply.switched => open_tunnel(reply, stream, log, serving),
        Ok(reply) => {
            log.answered(reply.status);
            let download = Download { exchange: reply.exchange, ticket: reply.ticket, patience: reply.patience };
            let body = TrackedBody::upstream(download, Record { log, serving });
            respond(reply.status, reply.headers, body)
        }
        Err(error) => refuse(error, is_grpc, Record { log, serving }),
    }
}

/// What the request is for, unless it was refused before it came here.
fn target(client: &Client, parts: &Parts) -> Result<Target, ProxyError> {
    if client.over_limit {
        return Err(ProxyError::ConnectionLimitReached);
    }
    Target::of(parts)
}

fn open(client: &Client, parts: &Parts, host: &str) -> RequestLog {
    let mut log = client.worker.recorder.open(Head {
        method: &parts.method,
        host,
        path: path(parts),
        version: parts.version,
        client: client.peer.map(|peer| peer.ip()),
    });
    if log.is_written() {
        let field = |name| parts.headers.get(name).map(HeaderValue::as_bytes);
        log.described(field(header::USER_AGENT), field(header::REFERER));
    }
    log
}

fn path(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Admits the request and forwards it.
async fn pass_on(
    client: &Client,
    target: &Target,
    parts: Parts,
    incoming: Incoming,
    timer: Timer,
    arrived: Instant,
    log: &mut RequestLog,
) -> Result<Reply, ProxyError> {
    let visitor = Visitor { client, host: &target.host, path: path(&parts), fields: &parts.headers, arrived };
    let ticket = visitor.admit(&[], log).await?;
    let has_body = !incoming.is_end_stream();
    let framing = match incoming.size_hint().exact() {
        _ if parts.method == Method::CONNECT => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    let body = has_body.then_some(Source::Stream(incoming));
    let request = forward::Request { client, target, parts, framing, body, timer, arrived };
    forward(request, ticket, log, |exchange, cx| exchange.poll_head(cx)).await
}

/// After an extended CONNECT (RFC 8441) that the upstream has taken. The tunnel begins when the client has been told, in a
/// task of its own.
fn open_tunnel(
    reply: Reply,
    stream: Option<OnUpgrade>,
    mut log: RequestLog,
    serving: Serving,
) -> Response<TrackedBody> {
    let Reply { status, headers, exchange, ticket, .. } = reply;
    let (Some((upstream, early)), Some(stream)) = (exchange.into_tunnel(), stream) else {
        let error = ProxyError::HttpUpgradeFailed("the upstream has closed the stream");
        return refuse(error, false, Record { log, serving });
    };
    log.answered(status);
    let opening = tunnel::Opening { upstream, early, ticket, log, serving };
    tokio::task::spawn_local(async move {
        // If it comes to nothing, the client has gone, and the log says so.
        if let Ok(stream) = stream.await {
            tunnel::run(opening, TokioIo::new(stream), Bytes::new()).await;
        }
    });
    respond(status, headers, TrackedBody::nothing())
}

fn respond(status: StatusCode, headers: HeaderMap, body: TrackedBody) -> Response<TrackedBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The only place where a failure becomes an answer.
fn refuse(error: ProxyError, is_grpc: bool, mut record: Record) -> Response<TrackedBody> {
    record.log.ended(error.outcome(), error.label());
    // Whatever words it is told in, this is what it is counted as.
    record.log.answered(error.status());
    let (parts, text) = match is_grpc {
        true => grpc::refusal(error),
        false => error.into_parts(),
    };
    Response::from_parts(parts, TrackedBody::text(text, record))
}
