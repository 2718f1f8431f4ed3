//! What every request and every answer of the admin listeners goes through, whoever asks: the checks against foreign web
//! pages, and the headers of safety.
//!
//! A page on the web can make its reader's browser send requests to an address of his machine, even one that its own
//! name suddenly resolves to (DNS rebinding). Such a request carries the page's host name in `Host`, or its origin in
//! `Origin`; so a host *name* other than `localhost` and those that were configured is turned away, and so is an origin
//! that is not this listener.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority};

use super::{
    caller::Peer,
    problem::{Error, as_problem},
};
use crate::switch::HostPattern;

/// The outermost layer. On TCP, requests for `names` are for us too.
pub(super) async fn guard(State(names): State<Arc<[HostPattern]>>, request: Request, next: Next) -> Response {
    let names = match request.extensions().get() {
        Some(Peer::Unix { .. }) => None,
        _ => Some(&*names),
    };
    let response = match own_host(&request, names).and_then(|host| same_origin(request.headers(), &host)) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let mut response = as_problem(response).await;
    for (name, value) in SAFETY {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

const SAFETY: [(http::HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (http::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The request's host, if it is one of ours: an IP literal, `localhost`, or one of `names`. A Unix socket has no name that
/// could be rebound (`names` is `None`); there any will do.
fn own_host(request: &Request, names: Option<&[HostPattern]>) -> Result<String, Error> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let (line, second) = (lines.next(), lines.next());
    if second.is_some() {
        return Err(Error::invalid("the request has more than one Host header", "send one"));
    }
    let host = line.and_then(|line| line.to_str().ok()).unwrap_or_default();
    let Some(names) = names else { return Ok(host.to_owned()) };
    let target = request.uri().authority().map(Authority::as_str);
    for name in [Some(host), target].into_iter().flatten() {
        if !is_own(name, names) {
            return Err(Error::new(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                format!("this listener is not {name:?}"),
                "use its IP address or localhost, or let the configuration name it in admin.hosts",
            ));
        }
    }
    Ok(host.to_owned())
}

fn is_own(authority: &str, names: &[HostPattern]) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let host = host.to_ascii_lowercase();
    host == "localhost" || literal.parse::<std::net::IpAddr>().is_ok() || names.iter().any(|name| name.covers(&host))
}

/// A browser says whose page sends a request; anybody else says nothing. Only a page of this very listener may.
fn same_origin(headers: &HeaderMap, host: &str) -> Result<(), Error> {
    for origin in headers.get_all(header::ORIGIN) {
        let uri = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
        let from = uri.as_ref().filter(|uri| uri.scheme().is_some()).and_then(Uri::authority).map(Authority::as_str);
        if from.is_none_or(|from| !from.eq_ignore_ascii_case(host)) {
            return Err(Error::forbidden(
                format!("a page of {origin:?} may not use this API"),
                "call it from the command line, or from a page of its own",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_name_that_could_be_rebound_is_not_ours() {
        for own in ["127.0.0.1", "127.0.0.1:7180", "[::1]:7180", "localhost", "LOCALHOST:7180", "10.0.0.5:80"] {
            assert!(is_own(own, &[]), "{own}");
        }
        for foreign in ["", "evil.example", "localhost.evil.example:7180", "127.0.0.1.nip.io", "a@127.0.0.1", "::1"] {
            assert!(!is_own(foreign, &[]), "{foreign}");
        }
    }

    #[test]
    fn a_name_that_was_configured_is_ours_too() {
        let names = [HostPattern::Exact("tealgate-admin.shop".into()), HostPattern::Below(".shop.svc".into())];
        for own in ["tealgate-admin.shop:7180", "Tealgate-Admin.Shop", "tealgate-admin.shop.svc:7180", "127.0.0.1"] {
            assert!(is_own(own, &names), "{own}");
        }
        for foreign in ["shop.svc", "evil.example", "tealgate-admin.shop.evil.example", "a@tealgate-admin.shop"] {
            assert!(!is_own(foreign, &names), "{foreign}");
        }
    }

    #[test]
    fn the_target_counts_like_the_host() {
        let request =
            |uri: &str, host: &str| Request::builder().uri(uri).header("host", host).body(Body::empty()).unwrap();
        assert!(own_host(&request("/x", "127.0.0.1"), Some(&[])).is_ok());
        assert_eq!(own_host(&request("http://evil.example/x", "127.0.0.1"), Some(&[])).unwrap_err().status, 421);
        assert_eq!(own_host(&request("/x", "evil.example"), Some(&[])).unwrap_err().code, "misdirected");
        assert!(own_host(&request("/x", "evil.example"), None).is_ok());
    }

    #[test]
    fn only_a_page_of_this_listener_may_ask() {
        let asks = |origin: &str| {
            let headers = HeaderMap::from_iter([(header::ORIGIN, origin.parse().unwrap())]);
            same_origin(&headers, "127.0.0.1:7180").is_ok()
        };
        assert!(asks("http://127.0.0.1:7180"));
        for foreign in ["null", "http://evil.example", "http://127.0.0.1:7181", "127.0.0.1:7180", "http://127.0.0.1"] {
            assert!(!asks(foreign), "{foreign}");
        }
        assert!(same_origin(&HeaderMap::new(), "").is_ok());
    }
}
