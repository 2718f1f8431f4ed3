//! One HTTP/2 request, from top to bottom. The outer function answers; the inner one forwards, and may fail anywhere with `?`.

use std::{convert::Infallible, rc::Rc};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    admit::Visitor,
    attempts::Attempts,
    body::{Download, Record, TrackedBody},
    client::{Client, Serving},
    clock::Timer,
    error::ProxyError,
    h1::{Framing, Outgoing},
    headers::{self, Going, RequestId},
    mirror::{self, Copied, Sampled},
    patience::Patience,
    target::Target,
    upload::UploadBody,
    upstream::Exchange,
};
use crate::{
    switch::{Ticket, Traffic},
    telemetry::request_log::{Head, RequestLog},
};

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
    let (parts, incoming) = request.into_parts();
    let target = target(&client, &parts);
    let mut log = open(&client, &parts, target.as_ref().map_or("", |target| &target.host));
    let forwarded = match target {
        Ok(target) => forward(&client, &target, parts, incoming, timer, arrived, &mut log).await,
        Err(error) => Err(error),
    };
    match forwarded {
        Ok(reply) => {
            log.answered(reply.status);
            let download = Download {
                exchange: reply.exchange,
                ticket: reply.ticket,
                patience: reply.patience,
                sampled: reply.sampled,
            };
            let body = TrackedBody::upstream(download, Record { log, serving });
            respond(reply.status, reply.headers, body)
        }
        Err(error) => refuse(error, Record { log, serving }),
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

/// An upstream's answer, from its head on.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    exchange: Box<Exchange>,
    ticket: Ticket,
    patience: Patience,
    sampled: Option<Box<Sampled>>,
}

/// A request ready to be sent.
struct Prepared {
    request: Outgoing<UploadBody>,
    patience: Patience,
    /// What is to hear of its answer, if a copy of it was sent as well.
    sampled: Option<Box<Sampled>>,
}

/// Admits the request, sends it, and awaits an answer. What may be tried again is, each time admitted anew, so that a retry
/// reads the current snapshot.
async fn forward(
    client: &Client,
    target: &Target,
    mut parts: Parts,
    incoming: Incoming,
    timer: Timer,
    arrived: Instant,
    log: &mut RequestLog,
) -> Result<Reply, ProxyError> {
    let mut ticket = visitor(client, target, &parts, arrived).admit(&[], log).await?;
    let Prepared { mut request, patience, mut sampled } =
        prepare(client, target, &mut parts, incoming, timer, &ticket, log)?;
    let mut attempts = Attempts::new(&parts.method);
    loop {
        let (failure, again) = match attempts.attempt(&client.worker.upstream, &ticket, request, &patience).await {
            Ok((exchange, status, mut headers)) => {
                if let Some(sampled) = &mut sampled {
                    sampled.answer_head(status, headers.clone());
                }
                headers::to_downstream(&mut headers, &ticket, status == StatusCode::SWITCHING_PROTOCOLS);
                return Ok(Reply { status, headers, exchange, ticket, patience, sampled });
            }
            Err(failed) => attempts.judge(failed, &ticket, &patience, log),
        };
        request = again.ok_or(failure)?;
        // Whatever it may have to wait for, it waits for it outside of its pool.
        drop(ticket);
        ticket = visitor(client, target, &parts, arrived).admit(attempts.tried(), log).await?;
    }
}

fn visitor<'a>(client: &'a Client, target: &'a Target, parts: &'a Parts, arrived: Instant) -> Visitor<'a> {
    Visitor { client, host: &target.host, path: path(parts), fields: &parts.headers, arrived }
}

/// Makes the client's request the upstream's.
fn prepare(
    client: &Client,
    target: &Target,
    parts: &mut Parts,
    incoming: Incoming,
    timer: Timer,
    ticket: &Ticket,
    log: &mut RequestLog,
) -> Result<Prepared, ProxyError> {
    let Traffic { body_size, request: whole, .. } = ticket.policy().traffic;
    let length = incoming.size_hint();
    if body_size.is_some_and(|limit| length.lower() > limit) {
        return Err(ProxyError::BodyTooLarge);
    }
    let bodyless = incoming.is_end_stream();
    let Going { forwarded, request_id, trace, has_length } =
        headers::to_upstream(parts, target, &client.forwarding, bodyless);
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
    let lines = [&*forwarded, request_id.as_ref().map_or(&[], RequestId::line)];
    let copy = || Copied::of_parts(&parts.method, &parts.uri, &parts.headers, lines);
    let sampled = upload.is_none().then(|| mirror::sample(&client.worker, ticket, &parts.method, copy)).flatten();
    let fields = std::mem::take(&mut parts.headers);
    let request = Outgoing::new(parts.method.clone(), &parts.uri, fields, lines, framing, body);
    let patience = Patience::new(timer, client.options.timeouts.body, whole, upload);
    Ok(Prepared { request, patience, sampled })
}

fn respond(status: StatusCode, headers: HeaderMap, body: TrackedBody) -> Response<TrackedBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The only place where a failure becomes an answer.
fn refuse(error: ProxyError, mut record: Record) -> Response<TrackedBody> {
    record.log.ended(error.outcome(), error.label());
    let (parts, text) = error.into_parts();
    record.log.answered(parts.status);
    Response::from_parts(parts, TrackedBody::text(text, record))
}
