//! A request's head, as HTTP/2 wants it (RFC 9113 §8.3). Pure.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::super::{
    h1::Framing,
    headers::{add_lines, keep_requests_own_out_of_tables},
    outgoing::Message,
};

/// The head of this request, for a connection that TLS carries or does not.
pub(super) fn request<B>(message: &Message<B>, secure: bool) -> Request<()> {
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = message.method.clone();
    let fields = request.headers_mut();
    fields.clone_from(&message.fields);
    // What was put there for HTTP/1, and what the pseudo-fields say.
    for name in [header::CONNECTION, header::UPGRADE, header::HOST] {
        fields.remove(name);
    }
    add_lines(fields, &message.lines.forwarded);
    if let Some(id) = &message.lines.request_id {
        add_lines(fields, &Bytes::copy_from_slice(id.line()));
    }
    keep_requests_own_out_of_tables(fields);
    match message.framing {
        Framing::Length(length) => drop(fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
        Framing::Empty | Framing::Chunked => drop(fields.remove(header::CONTENT_LENGTH)),
    }
    if let Some(ask) = &message.ask {
        ask.write_h2(fields);
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    }
    match target(message, secure) {
        Some(uri) => *request.uri_mut() = uri,
        None => {
            // A client of HTTP/1.0 may name no host, and then there is none to pass on.
            *request.version_mut() = Version::HTTP_11;
            request.uri_mut().clone_from(&message.uri);
        }
    }
    request
}

fn target<B>(message: &Message<B>, secure: bool) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(message.authority.as_bytes()).ok()?);
    let root = || PathAndQuery::from_static("/");
    parts.path_and_query = Some(message.uri.path_and_query().cloned().unwrap_or_else(root));
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::{
        super::super::{outgoing::Lines, websocket::Ask},
        *,
    };

    fn message(method: &str, uri: &str, authority: &'static str, framing: Framing) -> Message<()> {
        let mut fields = HeaderMap::new();
        for (name, value) in [("host", "shop.test"), ("te", "trailers"), ("connection", "te"), ("content-length", "9")]
        {
            fields.append(name, HeaderValue::from_static(value));
        }
        let forwarded = Bytes::from_static(b"x-forwarded-for: ::1\r\nforwarded: for=\"[::1]\"\r\n");
        Message {
            method: method.parse().expect("a method"),
            uri: uri.parse().expect("a target"),
            authority: HeaderValue::from_static(authority),
            fields,
            lines: Lines { forwarded, request_id: None },
            framing,
            body: (),
            ask: None,
        }
    }

    #[test]
    fn a_head_says_in_pseudo_fields_what_http1_says_in_its_first_lines() {
        for (uri, secure, expected) in [
            ("/a?b=c", false, "http://shop.test:8080/a?b=c"),
            ("/", true, "https://shop.test:8080/"),
            ("http://shop.test:8080/x", true, "https://shop.test:8080/x"),
        ] {
            let request = request(&message("GET", uri, "shop.test:8080", Framing::Empty), secure);
            assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::GET, expected));
            let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["forwarded", "te", "x-forwarded-for"]);
            assert_eq!(request.headers()["forwarded"], "for=\"[::1]\"");
        }
        let asterisk = request(&message("OPTIONS", "*", "shop.test", Framing::Empty), false);
        assert_eq!(asterisk.uri().path(), "*");
        let nobody = request(&message("GET", "/a", "", Framing::Empty), false);
        assert_eq!((nobody.uri().to_string().as_str(), nobody.uri().authority()), ("/a", None));
    }

    #[test]
    fn a_length_is_said_where_it_is_known() {
        let length = |framing| {
            let request = request(&message("POST", "/", "shop.test", framing), false);
            request.headers().get(header::CONTENT_LENGTH).map(|length| length.to_str().expect("text").to_owned())
        };
        assert_eq!(length(Framing::Empty), None);
        assert_eq!(length(Framing::Length(0)).as_deref(), Some("0"));
        assert_eq!(length(Framing::Length(12)).as_deref(), Some("12"));
        assert_eq!(length(Framing::Chunked), None);
    }

    #[test]
    fn a_websocket_is_asked_for_by_extended_connect() {
        let mut message = message("GET", "/ws", "shop.test", Framing::Empty);
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ] {
            message.fields.append(name, HeaderValue::from_static(value));
        }
        message.ask = Ask::by_upgrade(&message.fields);
        let request = request(&message, false);
        assert_eq!((request.method(), request.uri().path()), (&Method::CONNECT, "/ws"));
        assert_eq!(request.extensions().get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str), Some("websocket"));
        assert_eq!(request.headers()["sec-websocket-version"], "13");
        assert!(
            ["upgrade", "connection", "sec-websocket-key"].iter().all(|name| !request.headers().contains_key(*name))
        );
    }
}
