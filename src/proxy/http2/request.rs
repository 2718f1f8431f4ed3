//! One request of HTTP/2, from top to bottom: [`forward`] may fail anywhere with `?`, and is answered here whatever happens.

use std::{
    future::{Future, poll_fn},
    net::IpAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};

use super::{
    super::{
        body::Download,
        client::{Client, Serving},
        error::ProxyError,
        forwarding::Asker,
        grpc, h2 as upstream,
        handle::{Asked, Reply, forward, path, visitor},
        headers,
        target::Target,
        tunnel,
        upload::Inflow,
    },
    call::Call,
    delivery::{self, Delivery},
    received::Received,
};
use crate::{
    switch::Policy,
    telemetry::request_log::{Head, RequestLog},
};

/// Why there is no answer, and how the app treats such requests, if it was for one.
type Refused = (ProxyError, Option<Arc<Policy>>);

/// Serves a request whose head has come. It counts as the client's from now on.
pub(super) fn serve(
    client: &Rc<Client>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> + use<> {
    transact(client.begin(), request, respond)
}

async fn transact(serving: Serving, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let client = Rc::clone(serving.client());
    let (mut parts, body) = request.into_parts();
    let fields = parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let asker = client.forwarding().asker(fields);
    let target = target(&client, &parts, &asker);
    let mut log = open(&client, &parts, target.as_ref().map_or("", |target| &target.host), asker.address);
    let (is_call, is_head) = (grpc::is_call(&parts.headers), parts.method == Method::HEAD);
    // That of a CONNECT is the tunnel's.
    let (incoming, stream) = match parts.method == Method::CONNECT {
        true => (Inflow::None, Some(body)),
        false => (Inflow::Http2(Received::new(body, &parts.headers)), None),
    };
    let replied = {
        let mut work = pin!(reply(&client, target, &mut parts, incoming, &mut log));
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(replied) => Poll::Ready(Some(replied)),
            // It has been reset: nobody waits any more.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    match replied {
        None => {}
        Some(Ok(reply)) if reply.switched => switch(reply, respond, stream, log, serving).await,
        Some(Ok(reply)) => deliver(reply, &mut respond, is_call, &client, log).await,
        Some(Err((error, policy))) => {
            refuse(error, policy.as_deref(), respond, is_call, is_head, &client, &mut log).await;
        }
    }
}

async fn reply(
    client: &Client,
    target: Result<Target, ProxyError>,
    parts: &mut Parts,
    incoming: Inflow,
    log: &mut RequestLog,
) -> Result<Reply, Refused> {
    let arrived = log.began();
    let target = target.map_err(|error| (error, None))?;
    let replied = match visitor(client, &target, parts, arrived).admit(&[], log).await {
        Ok(ticket) => {
            let timer = client.clock().timer();
            forward(Asked { client, target: &target, parts, incoming, timer, arrived }, ticket, log).await
        }
        Err(error) => Err(error),
    };
    replied.map_err(|error| (error, client.worker.reader.policy(&visitor(client, &target, parts, arrived))))
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

/// Sends the upstream's answer.
async fn deliver(
    reply: Reply,
    respond: &mut SendResponse<Bytes>,
    is_call: bool,
    client: &Rc<Client>,
    mut log: RequestLog,
) {
    let Reply { status, mut headers, exchange, ticket, patience, sampled, .. } = reply;
    log.answered(status);
    headers::keep_answers_own_out_of_tables(&mut headers);
    let call = (is_call && grpc::is_call(&headers)).then(Call::default);
    let ends = exchange.has_ended();
    let sender = respond.send_response(response(status, headers), ends);
    let mut delivery = Delivery::new(Download { exchange, ticket, patience, sampled }, call, client, log);
    match sender {
        Ok(_) if ends => delivery.done(),
        Ok(mut sender) => poll_fn(|cx| delivery.poll(&mut sender, cx)).await,
        // The client has reset the stream.
        Err(_) => {}
    }
}

/// The tunnel of an extended CONNECT begins when the client has been told.
async fn switch(
    reply: Reply,
    mut respond: SendResponse<Bytes>,
    stream: Option<RecvStream>,
    mut log: RequestLog,
    serving: Serving,
) {
    let Reply { status, mut headers, exchange, ticket, .. } = reply;
    let (Some((upstream, early)), Some(stream)) = (exchange.into_tunnel(), stream) else {
        let error = ProxyError::HttpUpgradeFailed("the upstream has closed the stream");
        return refuse(error, None, respond, false, false, serving.client(), &mut log).await;
    };
    log.answered(status);
    headers.remove(header::CONTENT_LENGTH);
    // If it comes to nothing, the client has gone, and the log says so.
    if let Ok(sender) = respond.send_response(response(status, headers), false) {
        // An extended CONNECT is for nothing else (see `target`).
        let opening = tunnel::Opening { upstream, early, is_websocket: true, ticket, log, serving };
        Box::pin(tunnel::run(opening, upstream::Tunnel::of_client(sender, stream), Bytes::new())).await;
    }
}

/// The only place where a failure becomes an answer. `policy` is of the app it was for, if there is one.
async fn refuse(
    error: ProxyError,
    policy: Option<&Policy>,
    mut respond: SendResponse<Bytes>,
    is_call: bool,
    is_head: bool,
    client: &Client,
    log: &mut RequestLog,
) {
    log.ended(error.outcome(), error.label());
    // Whatever words it is told in, this is what it is counted as.
    log.answered(error.status());
    let (parts, text) = match is_call {
        true => grpc::refusal(error),
        false => error.into_parts(policy),
    };
    let text = if is_head { Bytes::new() } else { text };
    if let Ok(mut sender) = respond.send_response(response(parts.status, parts.headers), text.is_empty())
        && !text.is_empty()
    {
        log.sent(text.len() as u64);
        let timer = client.clock().timer();
        timer.set_within(client.options.timeouts.body);
        // Who does not take it in time does without it.
        timer.guard(delivery::send_text(&mut sender, text)).await.ok();
    }
}

fn response(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
