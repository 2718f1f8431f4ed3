//! What gRPC asks of a proxy beyond HTTP/2: to know its requests, to heed how long a client will wait, and to tell it what
//! went wrong in its own words. Everything else (trailers, answers of trailers alone, messages both ways at once) is HTTP/2,
//! and passes as it is.
//!
//! `grpc-timeout` is passed on unchanged, and bounds the whole call here too: when it has run out, the client waits no
//! longer, and neither do we for the upstream. It never lengthens the app's own limits. Between two messages of a call
//! there may be as much silence as in a tunnel (`timeouts.upgrade_idle`); the listener's limit for bodies is for uploads.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};

use super::error::ProxyError;

const GRPC: &[u8] = b"application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Nobody has to look into it: to call again may help.
const UNAVAILABLE: u16 = 14;

/// Whether a request or an answer with these fields is a gRPC call's. gRPC-Web is none: its clients read answers as a browser
/// does.
pub(super) fn is_call(fields: &HeaderMap) -> bool {
    let Some(content) = fields.get(header::CONTENT_TYPE) else { return false };
    let rest = content.as_bytes().strip_prefix(GRPC);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// How long the client waits for the whole call: at most eight digits and a unit.
pub(super) fn timeout(fields: &HeaderMap) -> Option<Duration> {
    let (digits, unit) = fields.get(GRPC_TIMEOUT)?.as_bytes().split_last_chunk::<1>()?;
    if !matches!(digits.len(), 1..=8) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b"H" => Duration::from_secs(number * 3600),
        b"M" => Duration::from_secs(number * 60),
        b"S" => Duration::from_secs(number),
        b"m" => Duration::from_millis(number),
        b"u" => Duration::from_micros(number),
        b"n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// An answer of trailers alone, which says what went wrong: what else an answer of ours has for people is left out.
pub(super) fn refusal(error: ProxyError) -> (response::Parts, Bytes) {
    let status = status(&error);
    let message = escaped(&error.to_string());
    let (mut parts, _) = error.into_parts(None);
    parts.status = StatusCode::OK;
    for name in [header::CONTENT_LENGTH, header::ALLOW] {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    parts.headers.insert(GRPC_STATUS, HeaderValue::from(status));
    parts.headers.extend(HeaderValue::try_from(message).ok().map(|message| (GRPC_MESSAGE, message)));
    (parts, Bytes::new())
}

/// The trailers of an answer that is ended before its time, so that its client may call again.
pub(super) fn call_again() -> HeaderMap {
    let message = "the pool that served this call was replaced, call again";
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(UNAVAILABLE));
    trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    trailers
}

/// What gRPC's own table makes of our status, except where that knows more: who waited for whom, and which limit it was.
fn status(error: &ProxyError) -> u16 {
    const UNKNOWN: u16 = 2;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAUTHENTICATED: u16 = 16;
    match (error, error.status().as_u16()) {
        // It was not sent to anybody.
        (ProxyError::ConnectionTimeout, _) => UNAVAILABLE,
        (ProxyError::ConnectionLimitReached, _) => RESOURCE_EXHAUSTED,
        (_, 400) => INTERNAL,
        (_, 401) => UNAUTHENTICATED,
        (_, 403) => PERMISSION_DENIED,
        (_, 404 | 405 | 421 | 501) => UNIMPLEMENTED,
        (_, 408 | 504) => DEADLINE_EXCEEDED,
        (_, 413 | 414 | 429 | 431) => RESOURCE_EXHAUSTED,
        (_, 502 | 503) => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// As `grpc-message` has it: what is not printable ASCII, and the percent sign, by percent-encoding.
fn escaped(text: &str) -> String {
    let escape = |octet: u8| match octet {
        b' '..=b'~' if octet != b'%' => char::from(octet).to_string(),
        _ => format!("%{octet:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: HeaderName, value: &'static str) -> HeaderMap {
        [(name, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn a_call_is_known_by_its_content_and_grpc_web_is_none() {
        for (content, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&fields(header::CONTENT_TYPE, content)), expected, "{content}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn a_timeout_is_eight_digits_and_a_unit_or_none() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("100m", Some(Duration::from_millis(100))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("10", None),
            ("-1S", None),
            ("1.5S", None),
            ("100000000S", None),
        ] {
            assert_eq!(timeout(&fields(GRPC_TIMEOUT, text)), expected, "{text}");
        }
    }

    #[test]
    fn what_went_wrong_is_told_in_trailers_alone() {
        let app = || "shop".parse().expect("a name");
        for (error, status) in [
            (ProxyError::DestinationUnavailable { app: app() }, "14"),
            (ProxyError::ConnectionTerminated, "14"),
            (ProxyError::ConnectionTimeout, "14"),
            (ProxyError::HttpResponseTimeout, "4"),
            (ProxyError::PreviewForbidden, "7"),
            (ProxyError::BodyTooLarge, "8"),
            (ProxyError::ConnectionLimitReached, "8"),
            (ProxyError::UnknownHost(StatusCode::MISDIRECTED_REQUEST), "12"),
            (ProxyError::BadRequest("100 % wrong"), "13"),
        ] {
            let shown = error.to_string();
            let (parts, body) = refusal(error);
            assert_eq!((parts.status, body.len()), (StatusCode::OK, 0), "{shown}");
            assert_eq!(parts.headers["content-type"], "application/grpc");
            assert_eq!(parts.headers["grpc-status"], status, "{shown}");
            assert_eq!(parts.headers["grpc-message"], shown.replace('%', "%25").as_str());
            assert!(parts.headers.contains_key("proxy-status") && !parts.headers.contains_key("content-length"));
        }
        assert_eq!(escaped("grün %\n"), "gr%C3%BCn %25%0A");
    }
}
