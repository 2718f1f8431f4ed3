//! What a request is for: the host and path it is routed by, and the checks that there is only one way to read them.

use std::net::IpAddr;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Method, Version, header, request::Parts, uri::Scheme};

use super::{
    error::ProxyError,
    forwarding::{Asker, Forwarding},
};

/// The one `:protocol` (RFC 8441 §4) we serve.
const WEBSOCKET: &str = "websocket";

/// What a request is for, and whose it is.
#[derive(Debug)]
pub(super) struct Target {
    /// The host in lower case, without port.
    pub(super) host: String,
    /// Host and port as the client gave them: what the upstream is told.
    pub(super) authority: HeaderValue,
    /// It is the value of the request's own `Host`.
    pub(super) is_from_host: bool,
    /// The client's address, and whether it asked over TLS (see [`Asker`]).
    pub(super) client: Option<IpAddr>,
    pub(super) secure: bool,
    /// What the upstream is told of the client: whole lines.
    pub(super) forwarded: Bytes,
}

impl Target {
    /// Reads and checks it (RFC 9112 §3.2, RFC 9113 §8.3.1).
    pub(super) fn of(request: &Parts, forwarding: &Forwarding, asker: &Asker) -> Result<Self, ProxyError> {
        if request.method == Method::CONNECT {
            match request.extensions.get::<Protocol>().map(Protocol::as_str) {
                None => return Err(ProxyError::Connect),
                // RFC 8441: it has a target like any other request, and asks for a tunnel to what stands there.
                Some(WEBSOCKET) => {}
                Some(_) => return Err(ProxyError::UnknownProtocol),
            }
        }
        check_form(request)?;
        // On HTTP/1 the scanner has seen to it.
        if request.version == Version::HTTP_2 && request.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
        {
            return Err(ProxyError::BadRequest("repeated Content-Length"));
        }
        let (authority, is_from_host) = match (request.uri.authority(), one_host(&request.headers, request.version)?) {
            (None, host) => (host, true),
            (Some(named), host) => {
                // RFC 9112 §3.2.2 has a proxy believe the target; but the upstream may have logged, cached or routed by
                // the other, so we take only what agrees.
                let agrees =
                    host.as_ref().is_none_or(|host| host.as_bytes().eq_ignore_ascii_case(named.as_str().as_bytes()));
                if !agrees {
                    return Err(ProxyError::BadRequest("the target and Host disagree"));
                }
                (HeaderValue::from_str(named.as_str()).ok(), false)
            }
        };
        // HTTP/1.0 knows no Host; RFC 9112 §3.2 has it sent on, empty.
        let is_from_host = is_from_host && authority.is_some();
        let authority = authority.unwrap_or(HeaderValue::from_static(""));
        let host = host_of(authority.as_bytes()).ok_or(ProxyError::BadRequest("malformed Host"))?;
        let host = host.to_ascii_lowercase();
        let forwarded = forwarding.lines(asker, authority.as_bytes());
        Ok(Self { host, authority, is_from_host, client: asker.address, secure: asker.secure, forwarded })
    }
}

/// RFC 9112 §3.2: origin-form, absolute-form, or `*` for OPTIONS.
fn check_form(request: &Parts) -> Result<(), ProxyError> {
    let uri = &request.uri;
    match uri.scheme() {
        Some(scheme) if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS => {
            Err(ProxyError::BadRequest("the target has a foreign scheme"))
        }
        _ if uri.path() == "*" && request.method != Method::OPTIONS => {
            Err(ProxyError::BadRequest("the target * is for OPTIONS"))
        }
        Some(_) => Ok(()),
        None if uri.authority().is_some() && request.version < Version::HTTP_2 => {
            Err(ProxyError::BadRequest("the target is not a path"))
        }
        None => Ok(()),
    }
}

/// The one Host line. RFC 9112 §3.2 wants a 400 if there is none in HTTP/1.1, or more than one.
fn one_host(headers: &HeaderMap, version: Version) -> Result<Option<HeaderValue>, ProxyError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(ProxyError::BadRequest("repeated Host")),
        (None, None) if version == Version::HTTP_11 => Err(ProxyError::BadRequest("missing Host")),
        (host, None) => Ok(host.cloned()),
    }
}

/// The host of `uri-host [ ":" port ]` (RFC 3986 §3.2.2, §3.2.3), or `None` if that is not what it is. Userinfo is not.
pub(super) fn host_of(authority: &[u8]) -> Option<&str> {
    let authority = std::str::from_utf8(authority).ok()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => {
            let end = literal.find(']')? + 2;
            let address = &authority[1..end - 1];
            let plain = address.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
            if !plain || address.is_empty() {
                return None;
            }
            authority.split_at(end)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(end);
            if !host.bytes().all(is_reg_name) {
                return None;
            }
            (host, port)
        }
    };
    let port_is_one = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    port_is_one.then_some(host)
}

/// RFC 3986 §3.2.2 `reg-name`, without the percent-encoding that no registry uses.
fn is_reg_name(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'')
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn target(method: &str, uri: &str, version: Version, hosts: &[&str]) -> Result<Target, ProxyError> {
        let mut request = Request::builder().method(method).uri(uri).version(version);
        for host in hosts {
            request = request.header("host", *host);
        }
        let forwarding = Forwarding::unknown();
        let parts = request.body(()).expect("a request").into_parts().0;
        Target::of(&parts, &forwarding, &forwarding.asker([]))
    }

    #[test]
    fn the_host_is_read_in_lower_case_and_without_port() {
        for (uri, version, hosts, host) in [
            ("/", Version::HTTP_11, &["Shop.Test:8080"][..], "shop.test"),
            ("/", Version::HTTP_11, &["[::1]:80"], "[::1]"),
            ("/", Version::HTTP_11, &[""], ""),
            ("/", Version::HTTP_10, &[], ""),
            ("http://shop.test/a", Version::HTTP_11, &["SHOP.test"], "shop.test"),
            ("https://shop.test/a", Version::HTTP_2, &[], "shop.test"),
            ("https://shop.test/a", Version::HTTP_2, &["shop.test"], "shop.test"),
        ] {
            assert_eq!(target("GET", uri, version, hosts).expect(uri).host, host);
        }
        assert!(target("OPTIONS", "*", Version::HTTP_11, &["a"]).is_ok());
    }

    #[test]
    fn a_target_that_can_be_read_in_two_ways_is_refused() {
        for (method, uri, hosts) in [
            ("GET", "/", &[][..]),
            ("GET", "/", &["a", "a"]),
            ("GET", "/", &["a b"]),
            ("GET", "/", &["user@a"]),
            ("GET", "/", &["a:b"]),
            ("GET", "/", &["a:80:80"]),
            ("GET", "/", &["a:123456"]),
            ("GET", "/", &["a/b"]),
            ("GET", "/", &["[::1"]),
            ("GET", "/", &["[]"]),
            ("GET", "/", &["[::1]x"]),
            ("GET", "/", &["a,b"]),
            ("GET", "http://a/", &["b"]),
            ("GET", "http://user@a/", &["user@a"]),
            ("GET", "ftp://a/", &["a"]),
            ("GET", "a", &["a"]),
            ("GET", "*", &["a"]),
        ] {
            let refused = target(method, uri, Version::HTTP_11, hosts);
            assert!(matches!(refused, Err(ProxyError::BadRequest(_))), "{method} {uri} {hosts:?}: {refused:?}");
        }
        assert!(matches!(target("CONNECT", "a:80", Version::HTTP_11, &["a:80"]), Err(ProxyError::Connect)));
    }
}
