//! What is changed in a head on its way: hop-by-hop fields go, and each side is told who the other is. A head is gone over
//! once, to see what is there, and touched only where something is.

use std::{cell::RefCell, net::IpAddr, rc::Rc};

use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request};

use super::{door::append_lines, target::Target};
use crate::switch::Ticket;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDING: [&str; 4] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_TEALGATE_REVISION: HeaderName = HeaderName::from_static("x-tealgate-revision");
const X_TEALGATE_GENERATION: HeaderName = HeaderName::from_static("x-tealgate-generation");
const OURS: &str = "x-tealgate-";
/// End-to-end whatever a `Connection` line says (RFC 9110 §7.6.1 forbids to name such): without these, an upstream would take
/// the request for another one. The forwarding fields need no protection, being added behind the map.
const NEVER_NOMINATED: [HeaderName; 5] =
    [header::HOST, header::COOKIE, header::AUTHORIZATION, header::CONTENT_LENGTH, X_REQUEST_ID];

/// What a request's head turned out to be, and field lines to send with it. Those never become part of a map: that would
/// cost a hash, a search and a copy each.
pub(super) struct Going {
    /// Who asks, and how.
    pub(super) forwarded: Rc<[u8]>,
    /// A new request ID, if it has none.
    pub(super) request_id: Option<RequestId>,
    /// The trace the request belongs to, if it says.
    pub(super) trace: Option<HeaderValue>,
    /// The client said how long its body is, if only that it is empty.
    pub(super) has_length: bool,
}

/// What is in a head that something must be done about.
#[derive(Default)]
struct Seen {
    connection: bool,
    /// A `Connection` line names other fields than it usually does.
    nominates: bool,
    proxy_connection: bool,
    keep_alive: bool,
    te: bool,
    trailers: bool,
    transfer_encoding: bool,
    upgrade: bool,
    content_length: bool,
    proxy_credentials: bool,
    expect: bool,
    http2_settings: bool,
    cookies: u32,
    request_id: bool,
    forwarding: bool,
    trace: Option<HeaderValue>,
    ours: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            // Told apart by length first: most names match no arm and cost one comparison.
            match name.len() {
                2 if name == "te" => {
                    seen.te = true;
                    seen.trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
                }
                6 if name == "cookie" => seen.cookies += 1,
                6 if name == "expect" => seen.expect = true,
                7 if name == "upgrade" => seen.upgrade = true,
                9 if name == "forwarded" => seen.forwarding = true,
                10 if name == "connection" => {
                    seen.connection = true;
                    let value = value.as_bytes();
                    seen.nominates |= !["keep-alive", "close", "upgrade"]
                        .iter()
                        .any(|usual| value.eq_ignore_ascii_case(usual.as_bytes()));
                }
                10 if name == "keep-alive" => seen.keep_alive = true,
                11 if name == "traceparent" => seen.trace = Some(value.clone()),
                12 if name == "x-request-id" => seen.request_id = true,
                14 if name == "content-length" => seen.content_length = true,
                14 if name == "http2-settings" => seen.http2_settings = true,
                16 if name == "proxy-connection" => seen.proxy_connection = true,
                17 if name == "transfer-encoding" => seen.transfer_encoding = true,
                18 if name == "proxy-authenticate" => seen.proxy_credentials = true,
                19 if name == "proxy-authorization" => seen.proxy_credentials = true,
                15..=17 if FORWARDING.contains(&name) => seen.forwarding = true,
                12.. if name.starts_with(OURS) => seen.ours = true,
                _ => {}
            }
        }
        seen
    }

    /// Takes out what is for this hop alone (RFC 9110 §7.6.1), whatever its `Connection` lines name included.
    fn remove_hop_by_hop(&self, headers: &mut HeaderMap) {
        if self.nominates {
            remove_nominated(headers);
        }
        if self.connection {
            headers.remove(header::CONNECTION);
        }
        for (there, name) in [
            (self.proxy_connection, PROXY_CONNECTION),
            (self.keep_alive, KEEP_ALIVE),
            (self.te, header::TE),
            (self.transfer_encoding, header::TRANSFER_ENCODING),
            (self.upgrade, header::UPGRADE),
        ] {
            if there {
                headers.remove(name);
            }
        }
        if self.proxy_credentials {
            headers.remove(header::PROXY_AUTHENTICATE);
            headers.remove(header::PROXY_AUTHORIZATION);
        }
    }
}

/// `remove` returns the first line only, so that names on a second one would survive: all lines are walked first.
fn remove_nominated(headers: &mut HeaderMap) {
    let mut nominated = Vec::new();
    for token in headers.get_all(header::CONNECTION).iter().flat_map(tokens) {
        let known =
            ["keep-alive", "close", "upgrade", "te"].iter().any(|known| token.eq_ignore_ascii_case(known.as_bytes()));
        if !known {
            nominated.extend(HeaderName::from_bytes(token));
        }
    }
    for name in nominated.into_iter().filter(|name| !NEVER_NOMINATED.contains(name)) {
        headers.remove(name);
    }
}

/// The members of a list. Not as text: one that is none must not hide the others.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|octet| *octet == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn asks_to_upgrade(headers: &HeaderMap) -> bool {
    let mut nominated = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    nominated.any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// Makes a client's head one for the upstream. `bodyless` says that no body follows it.
pub(super) fn to_upstream(
    parts: &mut request::Parts,
    target: &Target,
    forwarding: &Forwarding,
    bodyless: bool,
) -> Going {
    let headers = &mut parts.headers;
    let mut seen = Seen::of(headers);
    let is_h1 = parts.version == Version::HTTP_11;
    let upgrade = if seen.upgrade && is_h1 && bodyless && asks_to_upgrade(headers) {
        // RFC 9113 §3.1 took h2c by Upgrade out of HTTP/2; to pass it on would let a client past us.
        let wanted = headers.get(header::UPGRADE).cloned();
        wanted.filter(|wanted| !tokens(wanted).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c")))
    } else {
        None
    };
    seen.remove_hop_by_hop(headers);
    if seen.http2_settings {
        headers.remove(HTTP2_SETTINGS);
    }
    if seen.trailers {
        // RFC 9110 §10.1.4: TE speaks for one hop, and so do we: trailers pass.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(wanted) = upgrade {
        headers.insert(header::UPGRADE, wanted);
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if seen.expect {
        // The body follows at once; the client is told to go on as soon as somebody reads it (RFC 9110 §10.1.1).
        headers.remove(header::EXPECT);
    }
    if seen.cookies > 1 {
        join_cookies(headers);
    }
    if seen.ours {
        remove_ours(headers);
    }
    if seen.forwarding {
        // There is no list of proxies to trust, so what a client says of others before it is not passed on.
        for name in FORWARDING {
            headers.remove(name);
        }
    }
    if !target.is_from_host {
        headers.insert(header::HOST, target.authority.clone());
    }
    Going {
        forwarded: forwarding.lines(&target.authority),
        request_id: (!seen.request_id).then(RequestId::new),
        trace: seen.trace.take(),
        has_length: seen.content_length,
    }
}

/// The request ID that a client gave.
pub(super) fn request_id(headers: &HeaderMap) -> &str {
    headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

/// A request ID of ours, as a field line: 128 random bits in hexadecimal.
pub(super) struct RequestId([u8; 48]);

impl RequestId {
    const NAME: &[u8; 14] = b"x-request-id: ";

    fn new() -> Self {
        let mut line = *b"x-request-id: 0123456789abcdef0123456789abcdef\r\n";
        let bits = fastrand::u128(..).to_le_bytes();
        for (pair, octet) in line[Self::NAME.len()..].chunks_exact_mut(2).zip(bits) {
            let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
            pair.copy_from_slice(&[digit(octet >> 4), digit(octet & 0xf)]);
        }
        Self(line)
    }

    pub(super) fn line(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0[Self::NAME.len()..46]).unwrap_or_default()
    }
}

/// RFC 9113 §8.2.3: what HTTP/2 may split has to be one line in HTTP/1.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// Nobody but us says which revision answers.
fn remove_ours(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Makes an upstream's head one for the client. `switched` says that the client asked for another protocol.
pub(super) fn to_downstream(headers: &mut HeaderMap, ticket: &Ticket, switched: bool) {
    let seen = Seen::of(headers);
    let protocol = if switched { headers.get(header::UPGRADE).cloned() } else { None };
    seen.remove_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if seen.ours {
        remove_ours(headers);
    }
    append_lines(headers, ticket.answer_lines());
    if ticket.tells_revision() {
        let revision = HeaderValue::from_str(ticket.revision().as_str());
        headers.extend(revision.map(|revision| (X_TEALGATE_REVISION, revision)));
        headers.insert(X_TEALGATE_GENERATION, HeaderValue::from(ticket.generation().0));
    }
}

/// Takes out of a trailer section, whichever way it goes, what no trailer may say (RFC 9110 §6.5.1): fields that frame,
/// route, authenticate or modify their message, or describe its content. Whoever merged them into the head would act on
/// what nobody has checked.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    let unfit: Vec<HeaderName> = trailers.keys().filter(|name| is_for_heads(name)).cloned().collect();
    for name in unfit {
        trailers.remove(name);
    }
}

fn is_for_heads(name: &HeaderName) -> bool {
    const UNFIT: [HeaderName; 35] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::UPGRADE,
        HTTP2_SETTINGS,
        header::TE,
        header::TRAILER,
        header::HOST,
        header::VIA,
        X_REQUEST_ID,
        header::AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::EXPECT,
        header::MAX_FORWARDS,
        header::CACHE_CONTROL,
        header::PRAGMA,
        header::AGE,
        header::EXPIRES,
        header::DATE,
        header::VARY,
        header::LOCATION,
        header::RETRY_AFTER,
        header::RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
    ];
    let text = name.as_str();
    UNFIT.contains(name) || text == "forwarded" || text.starts_with("x-forwarded-") || text.starts_with(OURS)
}

/// What upstreams are told about a client, made once for its connection.
pub(super) struct Forwarding {
    client: Option<IpAddr>,
    proto: &'static str,
    /// The last authority, and the lines for it: it rarely changes on a connection.
    last: RefCell<Option<(HeaderValue, Rc<[u8]>)>>,
}

impl Forwarding {
    pub(super) fn new(client: Option<IpAddr>, tls: bool) -> Self {
        let proto = if tls { "https" } else { "http" };
        Self { client: client.map(|client| client.to_canonical()), proto, last: RefCell::new(None) }
    }

    /// `X-Forwarded-*` and `Forwarded` (RFC 7239), as lines.
    fn lines(&self, authority: &HeaderValue) -> Rc<[u8]> {
        let mut last = self.last.borrow_mut();
        if let Some((_, lines)) = last.as_ref().filter(|(last, _)| last == authority) {
            return Rc::clone(lines);
        }
        let lines: Rc<[u8]> = self.write(authority.to_str().unwrap_or_default()).into_bytes().into();
        *last = Some((authority.clone(), Rc::clone(&lines)));
        lines
    }

    fn write(&self, authority: &str) -> String {
        let proto = self.proto;
        let node = match self.client {
            Some(IpAddr::V4(v4)) => v4.to_string(),
            // RFC 7239 §6: brackets, and therefore quotes.
            Some(IpAddr::V6(v6)) => format!("\"[{v6}]\""),
            None => "unknown".to_owned(),
        };
        // A checked authority has neither quotes nor backslashes; a port or a literal needs the quotes (RFC 7239 §4).
        let quote = if authority.contains([':', '[']) || authority.is_empty() { "\"" } else { "" };
        let address = self.client.map(|client| format!("x-forwarded-for: {client}\r\n")).unwrap_or_default();
        format!(
            "{address}x-forwarded-proto: {proto}\r\nx-forwarded-host: {authority}\r\n\
             forwarded: for={node};proto={proto};host={quote}{authority}{quote}\r\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(version: Version, fields: &[(&str, &str)]) -> (HeaderMap, Going) {
        let mut request = http::Request::builder().version(version).uri("/a?b").header("host", "shop.test:8080");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).expect("a request").into_parts().0;
        let target = Target::of(&parts).expect("a target");
        let forwarding = Forwarding::new(Some("2001:db8::1".parse().expect("an address")), true);
        let going = to_upstream(&mut parts, &target, &forwarding, true);
        let id = going.request_id.as_ref().map_or(&b""[..], RequestId::line);
        let lines = String::from_utf8([&going.forwarded, id].concat()).expect("text");
        for line in lines.split_terminator("\r\n") {
            let (name, value) = line.split_once(": ").expect("a field line");
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            parts.headers.append(name, value.parse().expect("a value"));
        }
        (parts.headers, going)
    }

    #[test]
    fn the_upstream_is_told_who_asks_and_how() {
        let spoofed = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4"), ("x-forwarded-proto", "gopher")];
        let (headers, _) = sent(Version::HTTP_11, &spoofed);
        assert_eq!(headers["host"], "shop.test:8080");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "shop.test:8080");
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";proto=https;host=\"shop.test:8080\"");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
    }

    #[test]
    fn hop_by_hop_fields_go_on_whatever_line_they_are_named() {
        let (headers, _) = sent(
            Version::HTTP_11,
            &[
                ("connection", "keep-alive, X-One"),
                ("connection", "x-two"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic eA=="),
                ("te", "gzip"),
                ("upgrade", "websocket"),
                ("x-three", "3"),
                ("expect", "100-continue"),
            ],
        );
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let expected = [
            "forwarded",
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id",
            "x-three",
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn what_a_request_is_known_by_is_never_hop_by_hop() {
        let kept =
            [("cookie", "a=b"), ("authorization", "Basic eA=="), ("content-length", "0"), ("x-request-id", "mine")];
        let named = "host, Cookie, authorization, content-length, x-request-id, x-forwarded-for, forwarded";
        let (headers, _) = sent(Version::HTTP_11, &[&[("connection", named)][..], &kept].concat());
        assert_eq!(headers["host"], "shop.test:8080");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert!(headers.contains_key("forwarded"));
        for (name, value) in kept {
            assert_eq!(headers.get(name).map(HeaderValue::as_bytes), Some(value.as_bytes()), "{name}");
        }
    }

    #[test]
    fn an_upgrade_passes_unless_it_is_h2c() {
        let (headers, _) = sent(Version::HTTP_11, &[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(
            (&headers["upgrade"], &headers["connection"]),
            (&"websocket".parse().unwrap(), &"upgrade".parse().unwrap())
        );
        for fields in [
            [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")],
            [("connection", "Upgrade"), ("upgrade", "websocket, H2C"), ("x", "y")],
        ] {
            let (headers, _) = sent(Version::HTTP_11, &fields);
            assert!(!headers.contains_key("upgrade") && !headers.contains_key("http2-settings"));
        }
        let (headers, _) = sent(Version::HTTP_10, &[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert!(!headers.contains_key("upgrade"), "HTTP/1.0 has no upgrade (RFC 9110 §7.8)");
    }

    #[test]
    fn trailers_are_asked_for_on_behalf_of_the_client() {
        let (headers, _) = sent(Version::HTTP_11, &[("te", "deflate;q=0.5, Trailers"), ("connection", "te")]);
        assert_eq!((&headers["te"], &headers["connection"]), (&"trailers".parse().unwrap(), &"te".parse().unwrap()));
    }

    #[test]
    fn a_request_id_is_kept_or_made() {
        let (headers, _) = sent(Version::HTTP_11, &[("x-request-id", "mine")]);
        assert_eq!(request_id(&headers), "mine");
        let (one, _) = sent(Version::HTTP_11, &[]);
        let (two, _) = sent(Version::HTTP_11, &[]);
        assert_eq!(request_id(&one).len(), 32);
        assert_ne!(request_id(&one), request_id(&two));
    }

    #[test]
    fn a_trailer_says_nothing_that_is_for_heads() {
        let unfit = [
            "content-length",
            "transfer-encoding",
            "connection",
            "host",
            "te",
            "trailer",
            "authorization",
            "cookie",
            "set-cookie",
            "x-forwarded-for",
            "x-forwarded-port",
            "forwarded",
            "x-tealgate-revision",
            "x-request-id",
            "content-type",
            "expect",
            "max-forwards",
            "cache-control",
        ];
        let mut trailers = HeaderMap::new();
        for name in unfit.into_iter().chain(["grpc-status", "server-timing", "digest"]) {
            trailers.append(name, HeaderValue::from_static("1"));
            trailers.append(name, HeaderValue::from_static("2"));
        }
        clean_trailers(&mut trailers);
        let mut left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["digest", "grpc-status", "server-timing"]);
        assert_eq!(trailers.len(), 6, "each with all its lines");
    }

    #[test]
    fn crumbs_are_joined_and_our_own_names_are_not_for_clients() {
        let (headers, _) =
            sent(Version::HTTP_2, &[("cookie", "a=b"), ("cookie", "c=d"), ("x-tealgate-revision", "green")]);
        assert_eq!(headers["cookie"], "a=b; c=d");
        assert_eq!(headers.get_all("cookie").iter().count(), 1);
        assert!(!headers.contains_key("x-tealgate-revision"));
    }

    proptest! {
        #[test]
        fn what_connection_names_never_passes(names in proptest::collection::vec("[a-z]{1,12}", 0..6), split in 0..6_usize) {
            let kept = ["host", "te", "upgrade", "close", "forwarded", "cookie"];
            let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !kept.contains(name)).collect();
            let (first, second) = names.split_at(split.min(names.len()));
            let (first, second) = (first.join(","), second.join(" , "));
            let mut fields = vec![("connection", first.as_str()), ("connection", second.as_str())];
            fields.extend(names.iter().map(|name| (*name, "value")));
            let (headers, _) = sent(Version::HTTP_11, &fields);
            prop_assert!(names.iter().all(|name| !headers.contains_key(*name)), "{headers:?}");
        }
    }
}
