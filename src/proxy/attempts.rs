//! Trying a request on an endpoint, and judging whether it may be tried again when that came to nothing. A request is
//! repeated only where nobody can tell: nothing of it was sent, or its method is idempotent and nothing of an answer came.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    connect::Origin,
    error::ProxyError,
    exchange::{Exchange, Failure},
    h1::FailureKind,
    headers,
    outgoing::Outgoing,
    patience::{Impatience, Patience},
    upstream::{Reuse, Upstream},
};
use crate::{
    switch::{Attempt, Ticket, Traffic},
    telemetry::request_log::{Recent, RequestLog},
};

/// So many retries a worker grants an app within the last while whatever its budget, or one with little traffic would have
/// none: three a second.
const RETRIES_ALWAYS: f64 = 30.0;

/// What has been tried of one request.
pub(super) struct Attempts {
    /// How often, this time included.
    made: u32,
    /// The endpoints that failed, by id.
    tried: Vec<u64>,
    /// Which of the connections that are there will do.
    reuse: Reuse,
    idempotent: bool,
}

/// Why an attempt got no answer.
pub(super) enum Cause {
    Connect(ProxyError),
    Exchange(FailureKind),
    Impatience(Impatience),
}

/// An attempt that came to nothing; `R` is what is needed to send the request once more.
pub(super) struct Failed<R> {
    pub(super) cause: Cause,
    /// Whether any of the request was sent.
    pub(super) sent: bool,
    /// Whether the connection had been there: then the upstream may have closed it in the same instant.
    pub(super) reused: bool,
    /// The number of the newest HTTP/2 connection there was.
    pub(super) newest: u64,
    /// The request, if it can be sent once more.
    pub(super) request: Option<R>,
}

impl Attempts {
    /// None yet, of a request with this method.
    pub(super) fn new(method: &Method) -> Self {
        Self { made: 1, tried: Vec::new(), reuse: Reuse::Any, idempotent: method.is_idempotent() }
    }

    /// Which of the connections that are there will do.
    pub(super) fn reuse(&self) -> Reuse {
        self.reuse
    }

    /// The endpoints to avoid, by id.
    pub(super) fn tried(&self) -> &[u64] {
        &self.tried
    }

    /// Sends the request to the ticket's endpoint, for `origin` where endpoints are told, and awaits the head of its answer.
    pub(super) async fn attempt(
        &self,
        upstream: &Upstream,
        ticket: &Ticket,
        origin: Option<Origin>,
        request: Outgoing,
        patience: &Patience,
    ) -> Result<(Box<Exchange>, StatusCode, HeaderMap), Failed<Outgoing>> {
        let traffic = &ticket.policy().traffic;
        patience.follow(ticket.tenure());
        let within = self.within(traffic, request.is_bodyless());
        let begun = upstream.begin(ticket.endpoint(), request, origin, self.reuse, traffic.connect);
        let (mut exchange, reused) = match begun.await {
            Ok(begun) => begun,
            Err((error, request)) => {
                return Err(Failed {
                    cause: Cause::Connect(error),
                    sent: false,
                    reused: false,
                    newest: upstream.newest(),
                    request: Some(request),
                });
            }
        };
        let head = patience.head(within, |cx| exchange.poll_head(cx)).await;
        let (kind, whose) = match head {
            Ok(Ok((status, headers))) => {
                note_answer(ticket, status);
                if headers::is_event_stream(headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes)) {
                    patience.with_stream(ticket);
                }
                return Ok((exchange, status, headers));
            }
            Ok(Err(kind)) => (kind, None),
            Err(whose) => (FailureKind::Closed { answering: false }, Some(whose)),
        };
        let Failure { kind, sent, is_well, request } = exchange.fail(kind);
        let cause = whose.map_or(Cause::Exchange(kind), Cause::Impatience);
        Err(Failed { cause, sent, reused: reused && !is_well, newest: upstream.newest(), request })
    }

    /// How long this attempt may take: less, if another is allowed after it was sent. A body that has begun is not sent
    /// again, so a request with one has all its time at once.
    pub(super) fn within(&self, traffic: &Traffic, bodyless: bool) -> Duration {
        match bodyless && self.idempotent && self.made < traffic.attempts {
            true => traffic.per_try.min(traffic.response),
            false => traffic.response,
        }
    }

    /// What the client would be told, and the request if it is to be sent once more instead: of any method while nothing
    /// of it was sent, of an idempotent one (RFC 9110 §9.2.2) while nothing of an answer came.
    pub(super) fn judge<R>(
        &mut self,
        failed: Failed<R>,
        ticket: &Ticket,
        patience: &Patience,
        log: &mut RequestLog,
    ) -> (ProxyError, Option<R>) {
        let Failed { cause, sent, reused, newest, request } = failed;
        let harmless = !sent || self.idempotent;
        let (repeatable, stale) = match &cause {
            // What one endpoint cannot do, the others of its revision cannot either.
            Cause::Connect(ProxyError::HttpUpgradeFailed(_)) => (false, false),
            Cause::Connect(_) => (true, false),
            Cause::Exchange(FailureKind::Closed { answering: false }) => (harmless, reused && harmless),
            Cause::Exchange(_) => (false, false),
            Cause::Impatience(whose) => (*whose == Impatience::Upstream && self.idempotent, false),
        };
        let error = match cause {
            Cause::Connect(error) => error,
            Cause::Exchange(kind) => ProxyError::of_exchange(kind, patience.upload()),
            Cause::Impatience(whose) => ProxyError::of_impatience(whose),
        };
        let again = request.filter(|_| repeatable);
        if stale && again.is_some() {
            // The upstream closed a connection as we took it: no fault of the endpoint, and no attempt.
            self.reuse = Reuse::NewerThan(newest);
            return (error, again);
        }
        if error.is_upstreams() {
            log.attempt_failed(error.label());
            ticket.note(Attempt::Failed);
        }
        let traffic = &ticket.policy().traffic;
        if self.made >= traffic.attempts {
            return (error, None);
        }
        // What was never sent is no more work for the upstreams than it was before, however often it is tried.
        if sent && again.is_some() {
            if !log.recent().is_none_or(|recent| has_budget(&recent, traffic.retry_budget)) {
                log.retry_denied();
                return (error, None);
            }
            log.retry_granted();
        }
        self.made += 1;
        self.tried.push(ticket.endpoint().id());
        (error, again)
    }
}

/// Takes note, for the endpoint's sake, that an answer came. Some statuses say that somebody behind the endpoint failed
/// (RFC 9110 §15.6).
pub(super) fn note_answer(ticket: &Ticket, status: StatusCode) {
    ticket.note(match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Attempt::GatewayError
        }
        _ => Attempt::Answered,
    });
}

/// Whether the app's traffic can bear one more retry: when most requests fail, to send each of them again is what keeps
/// the upstream down.
fn has_budget(recent: &Recent, percent: u32) -> bool {
    let share = recent.requests * f64::from(percent) / 100.0;
    recent.retries + 1.0 <= share.max(RETRIES_ALWAYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_is_cut_short_only_where_another_may_follow() {
        let traffic = Traffic { attempts: 2, ..Traffic::default() };
        let (get, post) = (Attempts::new(&Method::GET), Attempts::new(&Method::POST));
        assert_eq!(get.within(&traffic, true), traffic.per_try);
        assert_eq!(Attempts::new(&Method::PUT).within(&traffic, false), traffic.response, "its body is on its way");
        assert_eq!(post.within(&traffic, true), traffic.response, "it may have been acted upon");
        assert_eq!(Attempts { made: 2, ..get }.within(&traffic, true), traffic.response, "it is the last");
    }
}
