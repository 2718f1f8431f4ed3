//! The road of a request that has HTTP/2 on either side, from its admission to the head of its answer. Whoever brought it
//! answers; here anything may fail, with `?`.

use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use http_body::Body as _;
use tokio::time::Instant;

use super::{
    admit::Visitor,
    attempts::Attempts,
    client::Client,
    clock::Timer,
    error::ProxyError,
    exchange::Exchange,
    grpc,
    h1::Framing,
    headers::{self, Going, RequestId},
    mirror::{self, Copied, Sampled},
    outgoing::{Lines, Message, Outgoing},
    patience::Patience,
    replay::Replay,
    target::Target,
    upload::{Inflow, UploadBody},
    websocket::Ask,
};
use crate::{
    switch::{Ticket, Traffic},
    telemetry::request_log::RequestLog,
};

/// RFC 9110 §15.2.1.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Its path, with its query.
pub(super) fn path(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |path| path.as_str())
}

/// A request as it came.
pub(super) struct Asked<'a> {
    pub(super) client: &'a Client,
    pub(super) target: &'a Target,
    pub(super) parts: &'a mut Parts,
    pub(super) incoming: Inflow,
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
    let mut attempts = Attempts::new(&parts.method);
    loop {
        let origin = client.origin(target.client);
        let attempt = attempts.attempt(&client.worker.upstream, &ticket, origin, request, &patience);
        let (failure, again) = match attempt.await {
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

/// Who stands before the door with it.
pub(super) fn visitor<'a>(client: &'a Client, target: &'a Target, parts: &'a Parts, arrived: Instant) -> Visitor<'a> {
    let (host, path) = (&target.host, path(parts));
    Visitor {
        client,
        address: target.client,
        secure: target.secure,
        host,
        path,
        fields: &parts.headers,
        arrived,
        whose: None,
    }
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
