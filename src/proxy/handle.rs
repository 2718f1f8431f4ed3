//! One request of HTTP/2, from top to bottom. The outer function answers; the inner one forwards, and may fail anywhere with `?`.

use std::{convert::Infallible, net::IpAddr, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{
    admit::Visitor,
    attempts::Attempts,
    body::{Download, Record, TrackedBody},
    call::Call,
    client::{Client, Serving},
    clock::Timer,
    error::ProxyError,
    exchange::Exchange,
    forwarding::Asker,
    grpc,
    h1::Framing,
    headers::{self, Going, RequestId},
    mirror::{self, Copied, Sampled},
    outgoing::{Lines, Message, Outgoing},
    patience::Patience,
    replay::Replay,
    target::Target,
    tunnel,
    upload::{Inflow, UploadBody},
    websocket::Ask,
};
use crate::{
    switch::{Policy, Ticket, Traffic},
    telemetry::request_log::{Head, RequestLog},
};

/// RFC 9110 §15.2.1.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What hyper calls with every request.
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
    let is_grpc = grpc::is_call(&parts.headers);
    let stream = parts.extensions.remove::<OnUpgrade>();
    let fields = parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let asker = client.forwarding().asker(fields);
    let target = target(&client, &parts, &asker);
    let mut log = open(&client, &parts, target.as_ref().map_or("", |target| &target.host), asker.address);
    let is_head = parts.method == Method::HEAD;
    let mut policy = None;
    let forwarded = match target {
        Ok(target) => {
            let forwarded = match visitor(&client, &target, &parts, arrived).admit(&[], &mut log).await {
                Ok(ticket) => {
                    let incoming = Inflow::Http2(incoming);
                    let asked = Asked { client: &client, target: &target, parts: &mut parts, incoming, timer, arrived };
                    forward(asked, ticket, &mut log).await
                }
                Err(error) => Err(error),
            };
            if forwarded.is_err() {
                policy = client.worker.reader.policy(&visitor(&client, &target, &parts, arrived));
            }
            forwarded
        }
        Err(error) => Err(error),
    };
    match forwarded {
        Ok(reply) if reply.switched => switch(reply, stream, log, serving),
        Ok(mut reply) => {
            log.answered(reply.status);
            headers::keep_out_of_tables(&mut reply.headers);
            let Reply { exchange, ticket, patience, sampled, .. } = reply;
            let download = Download { exchange, ticket, patience, sampled };
            let call = (is_grpc && grpc::is_call(&reply.headers)).then(Call::default);
            let body = TrackedBody::upstream(download, call, Record { log, serving });
            respond(reply.status, reply.headers, body)
        }
        Err(error) => refuse(error, policy.as_deref(), is_grpc, is_head, Record { log, serving }),
    }
}

/// What the request is for, unless it was refused before it came here.
fn target(client: &Client, parts: &Parts, asker: &Asker) -> Result<Target, ProxyError> {
    if client.is_over_limit() {
        return Err(ProxyError::ConnectionLimitReached);
    }
    Target::of(parts, client.forwarding(), asker)
}

fn open(client: &Client, parts: &Parts, host: &str, asker: Option<IpAddr>) -> RequestLog {
    let mut log = client.worker.recorder.open(Head {
        method: &parts.method,
        host,
        path: path(parts),
        version: parts.version,
        client: asker,
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

/// A request as it came.
pub(super) struct Asked<'a> {
    pub(super) client: &'a Client,
    pub(super) target: &'a Target,
    pub(super) parts: &'a mut Parts,
    pub(super) incoming: Inflow,
    /// On HTTP/2, the one that its task is aborted by.
    pub(super) timer: Timer,
    /// When its head was whole.
    pub(super) arrived: Instant,
}

/// An upstream's answer, from its head on.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// A tunnel follows.
    pub(super) switched: bool,
    pub(super) exchange: Box<Exchange>,
    pub(super) ticket: Ticket,
    pub(super) patience: Patience,
    /// Hears of it, where a copy of the request was sent as well.
    pub(super) sampled: Option<Box<Sampled>>,
}

/// Sends a request that was admitted, and awaits an answer. What may be tried again is, each time admitted anew, so that a
/// retry reads the current snapshot.
pub(super) async fn forward(asked: Asked<'_>, mut ticket: Ticket, log: &mut RequestLog) -> Result<Reply, ProxyError> {
    let Asked { client, target, parts, incoming, timer, arrived } = asked;
    let (message, patience) = prepare(client, target, parts, incoming, timer, &ticket, log)?;
    let ask = message.ask.clone();
    let safe = patience.upload().is_none() && ask.is_none();
    let copy = || Some(Copied::of_message(&message));
    let mut sampled = safe.then(|| mirror::sample(&client.worker, &ticket, &message.method, copy)).flatten();
    let mut request = Outgoing::Any(Box::new(message));
    let mut attempts = Attempts::new(&parts.method, client.origin(target.client));
    loop {
        let (failure, again) = match attempts.attempt(&client.worker.upstream, &ticket, request, &patience).await {
            Ok((exchange, status, mut headers)) => {
                let settled = match &ask {
                    Some(ask) => ask.settle(exchange.is_h2(), status, &mut headers),
                    None => Ok((status, status == StatusCode::SWITCHING_PROTOCOLS)),
                };
                let (status, switched) = settled.inspect_err(|error| log.attempt_failed(error.label()))?;
                if let Some(sampled) = &mut sampled {
                    sampled.answer_head(status, headers.clone());
                }
                headers::to_downstream(&mut headers, &ticket, status == StatusCode::SWITCHING_PROTOCOLS);
                return Ok(Reply { status, headers, switched, exchange, ticket, patience, sampled });
            }
            Err(failed) => attempts.judge(failed, &ticket, &patience, log),
        };
        request = again.ok_or(failure)?;
        // Whatever it may have to wait for, it waits for it outside of its pool.
        let whose = Some(ticket.whose());
        drop(ticket);
        let visitor = Visitor { fields: request.fields(), whose, ..visitor(client, target, parts, arrived) };
        ticket = visitor.admit(attempts.tried(), log).await?;
    }
}

fn visitor<'a>(client: &'a Client, target: &'a Target, parts: &'a Parts, arrived: Instant) -> Visitor<'a> {
    let (host, path) = (&target.host, path(parts));
    Visitor { client, address: target.client, host, path, fields: &parts.headers, arrived, whose: None }
}

/// Makes the client's request the upstream's.
fn prepare(
    client: &Client,
    target: &Target,
    parts: &mut Parts,
    incoming: Inflow,
    timer: Timer,
    ticket: &Ticket,
    log: &mut RequestLog,
) -> Result<(Message<Replay<UploadBody>>, Patience), ProxyError> {
    let Traffic { body_size, request: whole, upgrade_idle, .. } = ticket.policy().traffic;
    let length = incoming.size_hint();
    if body_size.is_some_and(|limit| length.lower() > limit) {
        return Err(ProxyError::BodyTooLarge);
    }
    if ticket.keeps_authorization() {
        parts.headers.remove(header::AUTHORIZATION);
    }
    let bodyless = incoming.is_end_stream();
    let Going { forwarded, request_id, trace, has_length } = headers::to_upstream(parts, target, bodyless);
    let authority = match &ticket.policy().traffic.host {
        Some(host) => headers::rewrite_host(&mut parts.headers, host),
        None => target.authority.clone(),
    };
    if log.is_written() {
        let trace = trace.as_ref().and_then(|trace| trace.to_str().ok()?.split('-').nth(1));
        let id = request_id.as_ref().map_or_else(|| headers::request_id(&parts.headers), RequestId::as_str);
        log.identified(id, trace);
    }
    let framing = match length.exact() {
        Some(0) if bodyless && !has_length => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    let (body, upload) = match bodyless {
        true => (UploadBody::Empty, None),
        false => {
            let (body, upload) = UploadBody::new(incoming, body_size, client.clock());
            (body, Some(upload))
        }
    };
    let grpc = grpc::is_call(&parts.headers);
    let whole = [whole, grpc.then(|| grpc::timeout(&parts.headers)).flatten()].into_iter().flatten().min();
    let patience = Patience::new(timer, client.options.timeouts.body, whole, upload);
    let patience = if grpc { patience.conversing(upgrade_idle) } else { patience };
    let ask = match parts.method == Method::CONNECT {
        true => Some(Ask::by_connect()),
        false => Ask::by_upgrade(&parts.headers),
    };
    let message = Message {
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        authority,
        fields: std::mem::take(&mut parts.headers),
        lines: Lines { forwarded, request_id },
        framing,
        body: Replay::new(body),
        ask,
    };
    Ok((message, patience))
}

/// The tunnel of an extended CONNECT begins when the client has been told, on its stream, in a task of its own.
fn switch(reply: Reply, stream: Option<OnUpgrade>, mut log: RequestLog, serving: Serving) -> Response<TrackedBody> {
    let Reply { status, headers, exchange, ticket, .. } = reply;
    let (Some((upstream, early)), Some(stream)) = (exchange.into_tunnel(), stream) else {
        let error = ProxyError::HttpUpgradeFailed("the upstream has closed the stream");
        return refuse(error, None, false, false, Record { log, serving });
    };
    log.answered(status);
    // An extended CONNECT is for nothing else (see `target`).
    let opening = tunnel::Opening { upstream, early, is_websocket: true, ticket, log, serving };
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

/// The only place where a failure becomes an answer. `policy` is of the app it was for, if there is one.
fn refuse(
    error: ProxyError,
    policy: Option<&Policy>,
    is_grpc: bool,
    is_head: bool,
    mut record: Record,
) -> Response<TrackedBody> {
    record.log.ended(error.outcome(), error.label());
    // Whatever words it is told in, this is what it is counted as.
    record.log.answered(error.status());
    let (parts, text) = match is_grpc {
        true => grpc::refusal(error),
        false => error.into_parts(policy),
    };
    let text = if is_head { Bytes::new() } else { text };
    Response::from_parts(parts, TrackedBody::text(text, record))
}
