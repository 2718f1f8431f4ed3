//! Why a request did not get an upstream's answer, and what the client is told instead. The variants are named after the
//! proxy error types of RFC 9209 §2.3 where that has one; [`ProxyError::into_parts`] is the only place where a failure
//! becomes an answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use rustls::AlertDescription;
use thiserror::Error;

use super::{
    door::Answer,
    h1::{FailureKind, Malformed},
    patience::Impatience,
    upload::{self, Upload},
};
use crate::{
    switch::{AppName, Closed, Door, NotAdmitted, Policy, Revision, Role, Stranger},
    telemetry::request_log::Outcome,
};

/// RFC 9209 §2.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// How long a client that was told "not now" should wait: a probe's interval.
const RETRY_AFTER_SECONDS: u64 = 2;

const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Why a request failed.
#[derive(Debug, Error)]
pub(super) enum ProxyError {
    /// The request is malformed, or ambiguous.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// The head, or a piece of the body, took too long to come.
    #[error("the request took too long to arrive")]
    RequestTimeout,
    /// The body is over the app's limit.
    #[error("the request body is too large")]
    BodyTooLarge,
    /// The request line is over the listener's limit.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The head is over the listener's limit.
    #[error("the request header section is too large")]
    HeadTooLarge,
    /// CONNECT (RFC 9110 §9.3.6) is for forward proxies.
    #[error("CONNECT is not served here")]
    Connect,
    /// No app answers to this host; the status is the listener's choice.
    #[error("no app answers to this host")]
    UnknownHost(StatusCode),
    /// The preview is not for this client.
    #[error("this client may not see the preview")]
    PreviewForbidden,
    /// The preview is for those who say who they are.
    #[error("the preview of {app} is for those who are known")]
    PreviewUnauthorised {
        /// The app.
        app: AppName,
        /// Whether HTTP Basic may do.
        basic: bool,
        /// Whether a bearer token may do.
        bearer: bool,
    },
    /// A link to the preview that leads nowhere.
    #[error("{0}; ask for a new link")]
    BadLink(&'static str),
    /// Nothing failed: the request is for the proxy, and here is its answer.
    #[error("the proxy answers this itself")]
    Own(Box<Answer>),
    /// The listener, or the client, has too many connections.
    #[error("too many connections")]
    ConnectionLimitReached,
    /// Requests are held, and no more may wait; they come in again after so long at the latest.
    #[error("{app} holds as many requests as it may just now")]
    Held {
        /// The app.
        app: AppName,
        /// How long the hold lasts at most.
        retry_after: Duration,
    },
    /// The app is under maintenance.
    #[error("{app} is down for maintenance; please come back later")]
    Maintenance {
        /// The app.
        app: AppName,
        /// When to come back.
        retry_after: Duration,
    },
    /// There is nothing to send it to.
    #[error("{app} has no endpoint to serve this")]
    DestinationUnavailable {
        /// The app.
        app: AppName,
    },
    /// There is no candidate to preview.
    #[error("{app} has no candidate to preview just now")]
    NoCandidate {
        /// The app.
        app: AppName,
    },
    /// There is one, and it cannot serve.
    #[error("candidate not ready: no endpoint of {revision} is healthy")]
    CandidateNotReady {
        /// The candidate.
        revision: Revision,
    },
    /// As many requests of the app as may be are in flight, and as many as may wait do.
    #[error("{app} has as many requests in flight as it may")]
    Overloaded {
        /// The app.
        app: AppName,
    },
    /// It has waited for a place among the requests in flight, and there was none in time.
    #[error("{app} had no place for another request in time")]
    QueueTimeout {
        /// The app.
        app: AppName,
    },
    /// The client asks more often than it may.
    #[error("too many requests")]
    RateLimited {
        /// After how long the next one would be let in.
        wait: Duration,
    },
    /// The pool it ran on was drained, and the drain's deadline came first.
    #[error("the revision that served this has been drained")]
    Drained,
    /// The endpoint refused the connection.
    #[error("the upstream refused the connection")]
    ConnectionRefused(#[source] std::io::Error),
    /// The endpoint's address cannot be reached.
    #[error("the upstream cannot be reached")]
    DestinationIpUnroutable(#[source] std::io::Error),
    /// The connection could not be opened for another reason.
    #[error("the connection to the upstream failed")]
    ConnectionFailed(#[source] std::io::Error),
    /// The connection was not open in time.
    #[error("the connection to the upstream timed out")]
    ConnectionTimeout,
    /// The endpoint and we did not come to terms on TLS.
    #[error("the TLS handshake with the upstream failed")]
    TlsProtocolError(#[source] std::io::Error),
    /// The endpoint's certificate is not good, or not for its name.
    #[error("the upstream's certificate is not accepted")]
    TlsCertificateError(#[source] rustls::Error),
    /// The endpoint broke the TLS handshake off.
    #[error("the upstream refused the TLS handshake: {0:?}")]
    TlsAlertReceived(AlertDescription),
    /// The connection ended before the head of an answer was whole.
    #[error("the upstream closed the connection before it answered")]
    ConnectionTerminated,
    /// No head of an answer in time.
    #[error("the upstream did not answer in time")]
    HttpResponseTimeout,
    /// The upstream's answer is not HTTP, or its framing is ambiguous.
    #[error("the upstream's answer is malformed: {0}")]
    HttpProtocolError(Malformed),
    /// The header section of the answer is larger than we take.
    #[error("the header section of the upstream's answer is too large")]
    HttpResponseHeaderSectionSize,
    /// The client's WebSocket could not be had of the upstream, whose version of HTTP differs.
    #[error("{0}")]
    HttpUpgradeFailed(&'static str),
    /// An extended CONNECT (RFC 8441) to something that is no WebSocket.
    #[error("only websocket is served by extended CONNECT")]
    UnknownProtocol,
}

impl ProxyError {
    /// The status the client is told.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownHost(status) => *status,
            Self::PreviewForbidden | Self::BadLink(_) => StatusCode::FORBIDDEN,
            Self::PreviewUnauthorised { .. } => StatusCode::UNAUTHORIZED,
            Self::Own(answer) => answer.status,
            Self::ConnectionLimitReached
            | Self::Held { .. }
            | Self::Maintenance { .. }
            | Self::DestinationUnavailable { .. }
            | Self::NoCandidate { .. }
            | Self::CandidateNotReady { .. }
            | Self::Overloaded { .. }
            | Self::QueueTimeout { .. }
            | Self::Drained => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::ConnectionRefused(_)
            | Self::DestinationIpUnroutable(_)
            | Self::ConnectionFailed(_)
            | Self::TlsProtocolError(_)
            | Self::TlsCertificateError(_)
            | Self::TlsAlertReceived(_)
            | Self::ConnectionTerminated
            | Self::HttpProtocolError(_)
            | Self::HttpResponseHeaderSectionSize
            | Self::HttpUpgradeFailed(_) => StatusCode::BAD_GATEWAY,
            // RFC 9220 §3.
            Self::UnknownProtocol => StatusCode::NOT_IMPLEMENTED,
            Self::ConnectionTimeout | Self::HttpResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The error type of RFC 9209 §2.3 for the `Proxy-Status` field.
    fn error_type(&self) -> &'static str {
        match self {
            // It is no error, and has no such field.
            Self::Own(_) => "",
            Self::BadRequest(_)
            | Self::RequestTimeout
            | Self::BodyTooLarge
            | Self::TargetTooLong
            | Self::HeadTooLarge
            | Self::Connect
            | Self::UnknownProtocol => "http_request_error",
            Self::UnknownHost(_) => "destination_not_found",
            Self::PreviewForbidden | Self::PreviewUnauthorised { .. } | Self::BadLink(_) | Self::RateLimited { .. } => {
                "http_request_denied"
            }
            Self::ConnectionLimitReached | Self::Overloaded { .. } | Self::QueueTimeout { .. } => {
                "connection_limit_reached"
            }
            Self::DestinationUnavailable { .. }
            | Self::Held { .. }
            | Self::Maintenance { .. }
            | Self::NoCandidate { .. }
            | Self::CandidateNotReady { .. }
            | Self::Drained
            | Self::ConnectionFailed(_) => "destination_unavailable",
            Self::ConnectionRefused(_) => "connection_refused",
            Self::DestinationIpUnroutable(_) => "destination_ip_unroutable",
            Self::ConnectionTimeout => "connection_timeout",
            Self::TlsProtocolError(_) => "tls_protocol_error",
            Self::TlsCertificateError(_) => "tls_certificate_error",
            Self::TlsAlertReceived(_) => "tls_alert_received",
            Self::ConnectionTerminated => "connection_terminated",
            Self::HttpResponseTimeout => "http_response_timeout",
            Self::HttpProtocolError(_) => "http_protocol_error",
            Self::HttpResponseHeaderSectionSize => "http_response_header_section_size",
            Self::HttpUpgradeFailed(_) => "http_upgrade_failed",
        }
    }

    /// The reason as it stands in metrics and the access log: one of a closed set.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::Connect => "connect_method",
            Self::UnknownHost(_) => "unknown_host",
            Self::PreviewForbidden => "preview_forbidden",
            Self::PreviewUnauthorised { .. } => "preview_unauthorised",
            Self::BadLink(_) => "bad_link",
            Self::Own(_) => "own",
            Self::ConnectionLimitReached => "connection_limit",
            Self::Held { .. } => "held",
            Self::Maintenance { .. } => "maintenance",
            Self::DestinationUnavailable { .. } => "no_endpoint",
            Self::NoCandidate { .. } => "no_candidate",
            Self::CandidateNotReady { .. } => "candidate_not_ready",
            Self::Overloaded { .. } => "overloaded",
            Self::QueueTimeout { .. } => "queue_timeout",
            Self::RateLimited { .. } => "rate_limited",
            Self::Drained => "drained",
            Self::ConnectionRefused(_) | Self::DestinationIpUnroutable(_) | Self::ConnectionFailed(_) => "connect",
            Self::ConnectionTimeout => "connect_timeout",
            Self::TlsProtocolError(_) => "tls_protocol",
            Self::TlsCertificateError(_) => "tls_certificate",
            Self::TlsAlertReceived(_) => "tls_alert",
            Self::ConnectionTerminated => "reset",
            Self::HttpResponseTimeout => "timeout",
            Self::HttpProtocolError(_) | Self::HttpResponseHeaderSectionSize => "protocol",
            Self::HttpUpgradeFailed(_) => "upgrade",
            Self::UnknownProtocol => "unknown_protocol",
        }
    }

    /// The ledger's bucket.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Own(_) => Outcome::Answered,
            Self::Drained => Outcome::UpstreamFailedBefore,
            _ if self.is_upstreams() => Outcome::UpstreamFailedBefore,
            _ => Outcome::Refused,
        }
    }

    /// Whether the client's connection is no good for another request: we no longer know where one would begin, or the
    /// rest of this one is not worth reading.
    pub(super) fn closes(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::RequestTimeout
                | Self::BodyTooLarge
                | Self::TargetTooLong
                | Self::HeadTooLarge
                | Self::Connect
                | Self::ConnectionLimitReached
        )
    }

    /// The answer: its head, and a short text, or the page that its app has for it.
    pub(super) fn into_parts(self, policy: Option<&Policy>) -> (response::Parts, Bytes) {
        if let Self::Own(answer) = self {
            return answer.into_parts();
        }
        let status = self.status();
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = status;
        let headers = &mut parts.headers;
        let page = policy.and_then(|policy| policy.errors.0.get(&status.as_u16()));
        let page = page.and_then(|page| Some((HeaderValue::try_from(&page.content_type).ok()?, page)));
        let (content_type, text) = match page {
            Some((content_type, page)) => (content_type, Bytes::from_owner(Arc::clone(&page.body))),
            None => (PLAIN_TEXT, Bytes::from(format!("{} {self}\n", status.as_u16()))),
        };
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        let details = self.details().map(|details| format!("; details=\"{details}\"")).unwrap_or_default();
        let proxy_status = format!("tealgate; error={}{details}", self.error_type());
        headers.extend(HeaderValue::try_from(proxy_status).ok().map(|value| (PROXY_STATUS, value)));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 §15.5.6: a 405 names what is allowed.
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            headers.insert(header::ALLOW, allowed);
        }
        self.challenge(headers);
        (parts, text)
    }

    /// What RFC 9209 §2.1.3 lets us say besides.
    fn details(&self) -> Option<&'static str> {
        match self {
            Self::NoCandidate { .. } => Some("no candidate"),
            Self::CandidateNotReady { .. } => Some("candidate not ready"),
            _ => None,
        }
    }

    /// RFC 9110 §11.6.1: a 401 says how one may make oneself known.
    fn challenge(&self, headers: &mut HeaderMap) {
        let Self::PreviewUnauthorised { app, basic, bearer } = self else { return };
        let basic = basic.then(|| format!("Basic realm=\"preview of {app}\", charset=\"UTF-8\""));
        let bearer = bearer.then(|| format!("Bearer realm=\"preview of {app}\""));
        for challenge in basic.into_iter().chain(bearer).filter_map(|text| HeaderValue::try_from(text).ok()) {
            headers.append(header::WWW_AUTHENTICATE, challenge);
        }
    }

    /// After how many seconds it is worth another try, where it is known to pass.
    fn retry_after(&self) -> Option<u64> {
        match self {
            // Rounded up: to come back a moment early is to be told so again.
            Self::Held { retry_after, .. } | Self::Maintenance { retry_after, .. } => {
                Some(retry_after.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX))
            }
            Self::RateLimited { wait } => Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)),
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_SECONDS),
        }
    }

    /// What broke an exchange with an upstream off. `upload` is the request's body, if it has one.
    pub(super) fn of_exchange(kind: FailureKind, upload: Option<&Upload>) -> Self {
        match (kind, upload.map(Upload::state)) {
            (FailureKind::Body(_), Some(upload::State::Failed(failure))) => failure.into_error(),
            (FailureKind::Body(_), _) => Self::BadRequest("the body is not as long as it says"),
            (FailureKind::Closed { .. }, _) => Self::ConnectionTerminated,
            (FailureKind::Malformed(Malformed::TooLarge), _) => Self::HttpResponseHeaderSectionSize,
            (FailureKind::Malformed(malformed), _) => Self::HttpProtocolError(malformed),
        }
    }

    /// Who took too long.
    pub(super) fn of_impatience(whose: Impatience) -> Self {
        match whose {
            Impatience::Client => Self::RequestTimeout,
            Impatience::Upstream | Impatience::Whole => Self::HttpResponseTimeout,
            Impatience::Cut | Impatience::Retired => Self::Drained,
        }
    }

    /// Whether it is the endpoint's failure, and counted as such.
    pub(super) fn is_upstreams(&self) -> bool {
        self.status() == StatusCode::BAD_GATEWAY || self.status() == StatusCode::GATEWAY_TIMEOUT
    }

    /// Why somebody may not see the preview.
    pub(super) fn of_stranger(app: AppName, stranger: Stranger) -> Self {
        match stranger {
            Stranger::FromAfar => Self::PreviewForbidden,
            Stranger::Unknown { basic, bearer } => Self::PreviewUnauthorised { app, basic, bearer },
        }
    }

    /// Why the switch did not admit it. `unknown_host` is the listener's status for that; what is said at an app's door is
    /// for `at_door` to know.
    pub(super) fn of_admission(error: NotAdmitted, unknown_host: u16, at_door: impl FnOnce(&Door) -> Self) -> Self {
        match error {
            NotAdmitted::Door(door) => at_door(&door),
            NotAdmitted::UnknownHost => {
                Self::UnknownHost(StatusCode::from_u16(unknown_host).unwrap_or(StatusCode::MISDIRECTED_REQUEST))
            }
            NotAdmitted::PreviewForbidden { app, stranger } => Self::of_stranger(app, stranger),
            NotAdmitted::NotReady { revision, .. } => Self::CandidateNotReady { revision },
            NotAdmitted::Closed { app, by: Closed::Held(hold) } => Self::Held { app, retry_after: hold.remaining() },
            NotAdmitted::Closed { app, by: Closed::Maintenance(retry_after) } => Self::Maintenance { app, retry_after },
            NotAdmitted::NoPool { app, role: Role::Preview } => Self::NoCandidate { app },
            NotAdmitted::NoPool { app, .. } | NotAdmitted::NoEndpoint { app, .. } => {
                Self::DestinationUnavailable { app }
            }
        }
    }
}

impl From<std::io::Error> for ProxyError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::ConnectionRefused(error),
            Kind::HostUnreachable | Kind::NetworkUnreachable => Self::DestinationIpUnroutable(error),
            Kind::TimedOut => Self::ConnectionTimeout,
            _ => Self::ConnectionFailed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_failed_and_when_to_come_back() {
        let app = "shop".parse().expect("a name");
        let (parts, text) = ProxyError::DestinationUnavailable { app }.into_parts(None);
        assert_eq!(parts.status, 503);
        assert_eq!(parts.headers["proxy-status"], "tealgate; error=destination_unavailable");
        assert!(parts.headers.contains_key("retry-after"));
        assert_eq!(text, "503 shop has no endpoint to serve this\n");
    }

    #[test]
    fn a_tester_is_told_what_he_lacks() {
        let shop = || "shop".parse::<AppName>().expect("a name");
        let unknown = |basic, bearer| ProxyError::of_stranger(shop(), Stranger::Unknown { basic, bearer });
        for (error, status, label, proxy_status, challenges) in [
            (ProxyError::of_stranger(shop(), Stranger::FromAfar), 403, "preview_forbidden", "http_request_denied", 0),
            (unknown(true, false), 401, "preview_unauthorised", "http_request_denied", 1),
            (unknown(true, true), 401, "preview_unauthorised", "http_request_denied", 2),
            (ProxyError::BadLink("this link is none"), 403, "bad_link", "http_request_denied", 0),
            (
                ProxyError::NoCandidate { app: shop() },
                503,
                "no_candidate",
                "destination_unavailable; details=\"no candidate\"",
                0,
            ),
            (
                ProxyError::CandidateNotReady { revision: "green".parse().expect("a name") },
                503,
                "candidate_not_ready",
                "destination_unavailable; details=\"candidate not ready\"",
                0,
            ),
        ] {
            assert_eq!((error.status().as_u16(), error.label(), error.outcome()), (status, label, Outcome::Refused));
            let (parts, _) = error.into_parts(None);
            assert_eq!(parts.headers["proxy-status"], format!("tealgate; error={proxy_status}"));
            assert_eq!(parts.headers.get_all("www-authenticate").iter().count(), challenges);
            assert_eq!(parts.headers.contains_key("retry-after"), status == 503);
        }
    }

    #[test]
    fn a_failed_connect_is_told_by_its_cause() {
        use std::io::{Error, ErrorKind};
        for (kind, status, label) in [
            (ErrorKind::ConnectionRefused, 502, "connect"),
            (ErrorKind::HostUnreachable, 502, "connect"),
            (ErrorKind::TimedOut, 504, "connect_timeout"),
            (ErrorKind::Other, 502, "connect"),
        ] {
            let error = ProxyError::from(Error::from(kind));
            assert_eq!((error.status().as_u16(), error.label()), (status, label));
            assert_eq!(error.outcome(), Outcome::UpstreamFailedBefore);
        }
    }

    #[test]
    fn what_goes_wrong_with_tls_is_told_apart() {
        let handshake = ProxyError::TlsProtocolError(std::io::ErrorKind::UnexpectedEof.into());
        let certificate = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let certificate = ProxyError::TlsCertificateError(certificate);
        let alert = ProxyError::TlsAlertReceived(AlertDescription::HandshakeFailure);
        for (error, kind, label) in [
            (handshake, "tls_protocol_error", "tls_protocol"),
            (certificate, "tls_certificate_error", "tls_certificate"),
            (alert, "tls_alert_received", "tls_alert"),
        ] {
            assert_eq!((error.status().as_u16(), error.error_type(), error.label()), (502, kind, label));
            assert_eq!(error.outcome(), Outcome::UpstreamFailedBefore);
        }
    }

    #[test]
    fn an_unknown_host_gets_the_status_the_listener_chose() {
        for status in [404, 421] {
            let error = ProxyError::of_admission(NotAdmitted::UnknownHost, status, |_| unreachable!("no door"));
            assert_eq!(error.status(), status);
        }
    }
}
