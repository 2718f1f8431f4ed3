//! One request, from top to bottom. The outer function answers; the inner one forwards, and may fail anywhere with `?`.

use std::{convert::Infallible, rc::Rc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    admit::Visitor,
    attempts::Attempts,
    body::{Download, Record, TrackedBody},
    client::{Answer, Client, Serving},
    clock::Timer,
    error::ProxyError,
    h1::{Framing, Outgoing},
    headers::{self, Going, RequestId},
    patience::Patience,
    target::Target,
    tunnel,
    upload::UploadBody,
    upstream::Exchange,
};
use crate::{
    switch::{Standing, Ticket, Traffic},
    telemetry::request_log::{Head, RequestLog},
};

/// What hyper calls with every request.
pub(super) fn call(
    client: &Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<TrackedBody>, Infallible>> + use<> {
    let serving = client.begin();
    let timer = client.clock().timer();
    if request.version() == Version::HTTP_2 {
        client.spawning.set(Some(timer.key()));
    }
    async move { Ok(answer(serving, timer, request).await) }
}

/// Whatever happens, there is an answer.
async fn answer(serving: Serving, timer: Timer, request: Request<Incoming>) -> Response<TrackedBody> {
    let arrived = Instant::now();
    let client = Rc::clone(serving.client());
    let (parts, incoming) = request.into_parts();
    let version = parts.version;
    let target = target(&client, &parts);
    let mut log = open(&client, &parts, target.as_ref().map_or("", |target| &target.host));
    let forwarded = match target {
        Ok(target) => forward(&client, &target, parts, incoming, timer, arrived, &mut log).await,
        Err(error) => Err(error),
    };
    let mut response = match forwarded {
        Ok(reply) if reply.status == StatusCode::SWITCHING_PROTOCOLS => return switch(reply, log, serving),
        Ok(reply) => {
            if version != Version::HTTP_2 {
                client.downloading.set(Some(reply.patience.timer()));
            }
            log.answered(reply.status);
            let download = Download { exchange: reply.exchange, ticket: reply.ticket, patience: reply.patience };
            let keeps_length = reply.status == StatusCode::NOT_MODIFIED
                && version != Version::HTTP_2
                && reply.headers.contains_key(header::CONTENT_LENGTH);
            let body = TrackedBody::upstream(download, keeps_length, Record { log, serving });
            respond(reply.status, reply.headers, body)
        }
        Err(error) => refuse(error, version, Record { log, serving }),
    };
    client.decline_upgrade();
    let has_length =
        response.headers().contains_key(header::CONTENT_LENGTH) || response.body().size_hint().exact().is_some();
    client.answers(match version {
        Version::HTTP_11 if !has_length => Answer::InChunks,
        Version::HTTP_10 if !has_length => Answer::UntilClose,
        _ => Answer::Otherwise,
    });
    if client.is_closing() && version != Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What the request is for, unless it was refused before it came here.
fn target(client: &Client, parts: &Parts) -> Result<Target, ProxyError> {
    if let Some(refusal) = client.refusal() {
        return Err(refusal);
    }
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
    let mut ticket = visitor(client, target, &parts, arrived, None).admit(&[], log).await?;
    let (mut request, patience) = prepare(client, target, &mut parts, incoming, timer, &ticket, log)?;
    let mut attempts = Attempts::new(&parts.method);
    loop {
        let (failure, again) = match attempts.attempt(&client.worker.upstream, &ticket, request, &patience).await {
            Ok((exchange, status, mut headers)) => {
                headers::to_downstream(&mut headers, &ticket, status == StatusCode::SWITCHING_PROTOCOLS);
                return Ok(Reply { status, headers, exchange, ticket, patience });
            }
            Err(failed) => attempts.judge(failed, &ticket, &patience, log),
        };
        request = again.ok_or(failure)?;
        let standing = Some(ticket.standing());
        ticket = visitor(client, target, &parts, arrived, standing).admit(attempts.tried(), log).await?;
    }
}

fn visitor<'a>(
    client: &'a Client,
    target: &'a Target,
    parts: &'a Parts,
    arrived: Instant,
    standing: Option<Standing>,
) -> Visitor<'a> {
    Visitor { client, host: &target.host, path: path(parts), fields: &parts.headers, arrived, standing }
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
) -> Result<(Outgoing<UploadBody>, Patience), ProxyError> {
    let Traffic { body_size, request: whole, .. } = ticket.policy().traffic;
    let length = incoming.size_hint();
    if body_size.is_some_and(|limit| length.lower() > limit) {
        return Err(ProxyError::BodyTooLarge);
    }
    if ticket.keeps_authorization() {
        parts.headers.remove(header::AUTHORIZATION);
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
    let fields = std::mem::take(&mut parts.headers);
    let lines = [&*forwarded, request_id.as_ref().map_or(&[], RequestId::line)];
    let request = Outgoing::new(parts.method.clone(), &parts.uri, fields, lines, framing, body);
    Ok((request, Patience::new(timer, client.options.timeouts.body, whole, upload)))
}

/// The 101: the tunnel begins when it is written (see `connection`).
fn switch(reply: Reply, mut log: RequestLog, serving: Serving) -> Response<TrackedBody> {
    log.answered(reply.status);
    let client = Rc::clone(serving.client());
    let (upstream, early) = reply.exchange.into_tunnel();
    client.tunnel.replace(Some(tunnel::Opening { upstream, early, ticket: reply.ticket, log, serving }));
    respond(reply.status, reply.headers, TrackedBody::nothing())
}

fn respond(status: StatusCode, headers: HeaderMap, body: TrackedBody) -> Response<TrackedBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The only place where a failure becomes an answer.
fn refuse(error: ProxyError, version: Version, mut record: Record) -> Response<TrackedBody> {
    let closes = error.closes() && version != Version::HTTP_2;
    record.log.ended(error.outcome(), error.label());
    let (parts, text) = error.into_parts();
    record.log.answered(parts.status);
    let mut response = Response::from_parts(parts, TrackedBody::text(text, record));
    if closes {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Records a request that hyper refused by itself: it did not parse.
pub(super) fn record_unparsed(client: &Client) {
    let head = Head {
        method: &Method::GET,
        host: "",
        path: "",
        version: Version::HTTP_11,
        client: client.peer.map(|peer| peer.ip()),
    };
    let mut log = client.worker.recorder.open(head);
    let error = ProxyError::BadRequest("it does not parse");
    log.answered(error.status());
    log.ended(error.outcome(), error.label());
}
