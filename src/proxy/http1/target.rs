//! What an HTTP/1 request is for. A client's connection mostly names one host, so what was made of the last one is kept,
//! and used again for as long as the octets are the same.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderValue, Method};

use super::super::{
    error::ProxyError,
    forwarding::{Asker, Forwarding},
    h1::{Name, RequestHead},
    headers::Head,
    target::{self, host_of},
};

/// What a connection named last.
#[derive(Default)]
pub(super) struct Last {
    /// The path with its query.
    path: String,
    /// Host and port as the client gave them.
    authority: Vec<u8>,
    /// In lower case, without port.
    host: String,
    /// What upstreams are told of the client: whole lines.
    forwarded: Option<Bytes>,
}

/// What a request is for, and whose it is.
pub(super) struct Target {
    /// Whether it named a host itself (RFC 9112 §3.2.2).
    pub(super) is_absolute: bool,
    /// Whether the host is what the request's own `Host` says.
    pub(super) is_from_host: bool,
    /// The client's address, and whether it asked over TLS (see [`Asker`]).
    pub(super) client: Option<IpAddr>,
    pub(super) secure: bool,
}

impl Last {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// The same for a message of any version.
    pub(super) fn general(&self, target: &Target) -> target::Target {
        // It was checked when it became the last.
        let authority = HeaderValue::from_bytes(&self.authority).unwrap_or(HeaderValue::from_static(""));
        let Target { is_from_host, client, secure, .. } = *target;
        let forwarded = self.forwarded.clone().unwrap_or_default();
        target::Target { host: self.host.clone(), authority, is_from_host, client, secure, forwarded }
    }

    pub(super) fn forwarded(&self) -> &[u8] {
        self.forwarded.as_deref().unwrap_or_default()
    }

    /// Reads and checks what a request is for (RFC 9112 §3.2); the host is the last one from now on. If it is for nothing that
    /// makes sense, there is no last one.
    pub(super) fn read(
        &mut self,
        request: &RequestHead,
        head: Head<'_>,
        forwarding: &Forwarding,
        asker: &Asker,
    ) -> Result<Target, ProxyError> {
        let target = self.check(request, head, forwarding, asker);
        if target.is_err() {
            *self = Self::default();
        }
        target
    }

    fn check(
        &mut self,
        request: &RequestHead,
        head: Head<'_>,
        forwarding: &Forwarding,
        asker: &Asker,
    ) -> Result<Target, ProxyError> {
        if request.method == Method::CONNECT {
            return Err(ProxyError::Connect);
        }
        let mut hosts = head.values(Name::Host);
        let host = match (hosts.next(), hosts.next()) {
            (_, Some(_)) => return Err(ProxyError::BadRequest("repeated Host")),
            (None, None) if !request.is_http_10 => return Err(ProxyError::BadRequest("missing Host")),
            (host, None) => host,
        };
        let &Asker { address: client, secure, .. } = asker;
        let target = &head.octets[request.target.clone()];
        match target {
            [b'/', ..] => {
                self.is(host.unwrap_or_default(), forwarding, asker)?;
                self.is_at(target);
                // HTTP/1.0 knows no Host; RFC 9112 §3.2 has it sent on, empty.
                Ok(Target { is_absolute: false, is_from_host: host.is_some(), client, secure })
            }
            b"*" if request.method == Method::OPTIONS => {
                self.is(host.unwrap_or_default(), forwarding, asker)?;
                self.is_at(target);
                Ok(Target { is_absolute: false, is_from_host: host.is_some(), client, secure })
            }
            b"*" => Err(ProxyError::BadRequest("the target * is for OPTIONS")),
            _ => {
                let (authority, path) = absolute(target)?;
                // RFC 9112 §3.2.2 has a proxy believe the target; but the upstream may have logged, cached or routed by
                // the other, so we take only what agrees.
                if host.is_some_and(|host| !host.eq_ignore_ascii_case(authority)) {
                    return Err(ProxyError::BadRequest("the target and Host disagree"));
                }
                self.is(authority, forwarding, asker)?;
                self.path.clear();
                self.path.push_str(if path.starts_with(b"/") { "" } else { "/" });
                self.path.push_str(text(path));
                Ok(Target { is_absolute: true, is_from_host: false, client, secure })
            }
        }
    }

    fn is_at(&mut self, path: &[u8]) {
        self.path.clear();
        self.path.push_str(text(path));
    }

    fn is(&mut self, authority: &[u8], forwarding: &Forwarding, asker: &Asker) -> Result<(), ProxyError> {
        if self.forwarded.is_some() && self.authority == authority {
            if !asker.is_the_peer() {
                self.forwarded = Some(forwarding.lines(asker, authority));
            }
            return Ok(());
        }
        let malformed = || ProxyError::BadRequest("malformed Host");
        let host = host_of(authority).ok_or_else(malformed)?;
        self.forwarded = Some(forwarding.lines(asker, authority));
        self.authority.clear();
        self.authority.extend_from_slice(authority);
        self.host.clear();
        self.host.push_str(host);
        self.host.make_ascii_lowercase();
        Ok(())
    }
}

/// A target was checked to be visible ASCII.
fn text(target: &[u8]) -> &str {
    std::str::from_utf8(target).unwrap_or_default()
}

/// The authority and the path of a target in absolute form (RFC 9112 §3.2.2).
fn absolute(target: &[u8]) -> Result<(&[u8], &[u8]), ProxyError> {
    let colon = memchr::memchr(b':', target).filter(|at| target[at + 1..].starts_with(b"//"));
    let colon = colon.ok_or(ProxyError::BadRequest("the target is not a path"))?;
    let (scheme, rest) = (&target[..colon], &target[colon + 3..]);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(ProxyError::BadRequest("the target has a foreign scheme"));
    }
    let end = rest.iter().position(|octet| matches!(octet, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err(ProxyError::BadRequest("the target names no host"));
    }
    Ok((authority, path))
}

#[cfg(test)]
mod tests {
    use super::{super::super::h1, *};

    fn read(request: &str) -> Result<(String, String, bool), ProxyError> {
        let mut lines = h1::Lines::default();
        let head = h1::read_request(request.as_bytes(), &mut 0, 4096, &mut lines).expect("well-formed").expect("whole");
        let mut last = Last::default();
        let forwarding = Forwarding::unknown();
        let read = Head { octets: request.as_bytes(), lines: &lines };
        let target = last.read(&head, read, &forwarding, &forwarding.asker([]))?;
        Ok((last.host().to_owned(), last.path().to_owned(), target.is_from_host))
    }

    #[test]
    fn the_host_is_read_in_lower_case_and_without_port() {
        for (request, host, path, is_from_host) in [
            ("GET / HTTP/1.1\r\nHost: Shop.Test:8080\r\n\r\n", "shop.test", "/", true),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "[::1]", "/", true),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "", "/", true),
            ("GET / HTTP/1.0\r\n\r\n", "", "/", false),
            ("GET http://shop.test/a?b HTTP/1.1\r\nHost: SHOP.test\r\n\r\n", "shop.test", "/a?b", false),
            ("GET HTTP://shop.test?b HTTP/1.1\r\nHost: shop.test\r\n\r\n", "shop.test", "/?b", false),
            ("GET http://shop.test HTTP/1.1\r\nHost: shop.test\r\n\r\n", "shop.test", "/", false),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "a", "*", true),
        ] {
            let expected = (host.to_owned(), path.to_owned(), is_from_host);
            assert_eq!(read(request).expect(request), expected, "{request:?}");
        }
    }

    #[test]
    fn a_target_that_can_be_read_in_two_ways_is_refused() {
        for (target, hosts) in [
            ("/", ""),
            ("/", "Host: a\r\nHost: a\r\n"),
            ("/", "Host: a b\r\n"),
            ("/", "Host: user@a\r\n"),
            ("/", "Host: a:b\r\n"),
            ("/", "Host: a:80:80\r\n"),
            ("/", "Host: a:123456\r\n"),
            ("/", "Host: a/b\r\n"),
            ("/", "Host: [::1\r\n"),
            ("/", "Host: []\r\n"),
            ("/", "Host: a,b\r\n"),
            ("http://a/", "Host: b\r\n"),
            ("http://user@a/", "Host: user@a\r\n"),
            ("ftp://a/", "Host: a\r\n"),
            ("http:///a", "Host: a\r\n"),
            ("a", "Host: a\r\n"),
            ("*", "Host: a\r\n"),
        ] {
            let refused = read(&format!("GET {target} HTTP/1.1\r\n{hosts}\r\n"));
            assert!(matches!(refused, Err(ProxyError::BadRequest(_))), "{target} {hosts:?}: {refused:?}");
        }
        let connect = read("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n");
        assert!(matches!(connect, Err(ProxyError::Connect)), "{connect:?}");
    }
}
