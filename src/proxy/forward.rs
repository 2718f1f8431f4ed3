//! A request that was admitted, on its way to an endpoint and back, whatever its client and the endpoint speak: its head is
//! made the upstream's, it is sent, and tried again where that does no harm, and the head of its answer is made the
//! client's. What stays with HTTP/1 from end to end has a road of its own, which is shorter (`http1`).

use std::task::{Context, Poll};

use http::{HeaderMap, Method, StatusCode, Version, request::Parts};
use tokio::time::Instant;

use super::{
    admit::Visitor,
    attempts::{Answered, Attempts},
    client::Client,
    clock::Timer,
    error::ProxyError,
    exchange::Exchange,
    grpc,
    h1::Framing,
    headers::{self, Going, RequestId},
    outgoing::{Lines, Message, Outgoing, OutgoingBody},
    patience::Patience,
    replay::Replay,
    target::Target,
    upload::{Source, UploadBody},
    websocket::Ask,
};
use crate::{
    switch::{Ticket, Traffic},
    telemetry::request_log::RequestLog,
};

/// A request as it came.
pub(super) struct Request<'a> {
    pub(super) client: &'a Client,
    pub(super) target: &'a Target,
    pub(super) parts: Parts,
    /// How its body is delimited, and where it comes from, if it has one.
    pub(super) framing: Framing,
    pub(super) body: Option<Source>,
    /// A request of HTTP/2 may be aborted by it.
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
}

/// Sends a request that was admitted with this ticket, and awaits the head of its answer, which `poll_head` polls for. What
/// may be tried again is, each time admitted anew, so that a retry reads the current snapshot.
pub(super) async fn forward(
    request: Request<'_>,
    mut ticket: Ticket,
    log: &mut RequestLog,
    mut poll_head: impl FnMut(&mut Exchange, &mut Context<'_>) -> Poll<Answered>,
) -> Result<Reply, ProxyError> {
    let Request { client, target, arrived, .. } = request;
    let uri = request.parts.uri.clone();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let (message, patience) = prepare(request, &ticket, log)?;
    let ask = message.ask.clone();
    let mut attempts = Attempts::new(&message.method);
    let mut outgoing = Outgoing::Any(Box::new(message));
    loop {
        let upstream = &client.worker.upstream;
        let (failure, again) = match attempts.attempt(upstream, &ticket, outgoing, &patience, &mut poll_head).await {
            Ok((exchange, status, mut headers)) => {
                let settled = match &ask {
                    Some(ask) => ask.settle(exchange.is_h2(), status, &mut headers),
                    None => Ok((status, status == StatusCode::SWITCHING_PROTOCOLS)),
                };
                let (status, switched) = settled.inspect_err(|error| log.attempt_failed(error.label()))?;
                headers::to_downstream(&mut headers, &ticket, status == StatusCode::SWITCHING_PROTOCOLS);
                return Ok(Reply { status, headers, switched, exchange, ticket, patience });
            }
            Err(failed) => attempts.judge(failed, &ticket, &patience, log),
        };
        outgoing = again.ok_or(failure)?;
        let visitor = Visitor { client, host: &target.host, path, fields: outgoing.fields(), arrived };
        ticket = visitor.admit(attempts.tried(), log).await?;
    }
}

/// Makes the client's request the upstream's.
fn prepare(
    request: Request<'_>,
    ticket: &Ticket,
    log: &mut RequestLog,
) -> Result<(Message<OutgoingBody>, Patience), ProxyError> {
    let Request { client, target, mut parts, framing, body, timer, .. } = request;
    let Traffic { body_size, request: whole, upgrade_idle, .. } = ticket.policy().traffic;
    if let (Framing::Length(length), Some(limit)) = (framing, body_size)
        && length > limit
    {
        return Err(ProxyError::BodyTooLarge);
    }
    let Going { forwarded, request_id, trace, has_length } =
        headers::to_upstream(&mut parts, target, &client.forwarding, body.is_none());
    if log.is_written() {
        let trace = trace.as_ref().and_then(|trace| trace.to_str().ok()?.split('-').nth(1));
        let id = request_id.as_ref().map_or_else(|| headers::request_id(&parts.headers), RequestId::as_str);
        log.identified(id, trace);
    }
    // A client that says there is nothing wants that said.
    let framing = match framing {
        Framing::Length(0) if !has_length => Framing::Empty,
        framing => framing,
    };
    let (body, upload) = match body {
        None => (UploadBody::Empty, None),
        Some(source) => {
            let (body, upload) = UploadBody::new(source, body_size, client.clock());
            (body, Some(upload))
        }
    };
    let is_grpc = parts.version == Version::HTTP_2 && grpc::is_request(&parts.headers);
    let deadline = if is_grpc { grpc::timeout(&parts.headers) } else { None };
    let whole = [whole, deadline].into_iter().flatten().min();
    let patience = Patience::new(timer, client.options.timeouts.body, whole, upload);
    let patience = if is_grpc { patience.conversing(upgrade_idle) } else { patience };
    let ask = match parts.method == Method::CONNECT {
        true => Some(Ask::by_connect()),
        false => Ask::by_upgrade(&parts.headers),
    };
    let message = Message {
        method: parts.method,
        uri: parts.uri,
        authority: target.authority.clone(),
        fields: parts.headers,
        lines: Lines { forwarded, request_id },
        framing,
        body: Replay::new(body),
        ask,
    };
    Ok((message, patience))
}
