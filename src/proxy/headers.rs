//! What is changed in a head on its way: hop-by-hop fields go, and each side is told who the other is. A head is gone over
//! once, to see what is there, and touched only where something is. Here are the rules, and what they make of a map; `lines`
//! has what they make of a head of HTTP/1, which passes without one; `trailers` what they make of the fields behind a body.

mod lines;
mod trailers;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request};

pub(super) use self::{
    lines::{Added, Head, Told, wants_request_id, write_answer_lines, write_request_lines},
    trailers::{clean_trailers, write_trailers},
};
use super::{
    h1::{Name, Names, members},
    target::Target,
};
use crate::switch::Ticket;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDING: [HeaderName; 5] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-client-cert"),
];
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What is mostly new in each request, and in each answer.
const NEW_IN_REQUESTS: [HeaderName; 4] =
    [header::REFERER, HeaderName::from_static("grpc-timeout"), TRACEPARENT, X_REQUEST_ID];
const NEW_IN_ANSWERS: [HeaderName; 3] = [header::DATE, HeaderName::from_static("server-timing"), X_REQUEST_ID];
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
    pub(super) forwarded: Bytes,
    /// A new request ID, if it has none.
    pub(super) request_id: Option<RequestId>,
    /// The trace the request belongs to, if it says.
    pub(super) trace: Option<HeaderValue>,
    /// The client said how long its body is, if only that it is empty.
    pub(super) has_length: bool,
}

/// What is in a head that something must be done about.
#[derive(Default)]
pub(super) struct Seen {
    names: Names,
    /// A `Connection` line names other fields than it usually does.
    nominates: bool,
    /// A `Connection` line asks for another protocol.
    asks_to_upgrade: bool,
    /// Trailers are welcome.
    pub(super) trailers: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            let name = Name::of(name.as_str().as_bytes());
            seen.names.note(name);
            match name {
                Name::Connection => seen.connection(value.as_bytes()),
                Name::Te => seen.te(value.as_bytes()),
                _ => {}
            }
        }
        seen
    }

    pub(super) fn of_lines(head: Head<'_>) -> Self {
        let mut seen = Self { names: head.lines.names(), ..Self::default() };
        head.values(Name::Connection).for_each(|value| seen.connection(value));
        head.values(Name::Te).for_each(|value| seen.te(value));
        seen
    }

    pub(super) fn has(&self, name: Name) -> bool {
        self.names.has(name)
    }

    fn connection(&mut self, value: &[u8]) {
        for option in members(value) {
            let is = |known: &str| option.eq_ignore_ascii_case(known.as_bytes());
            match option.len() {
                10 if is("keep-alive") => {}
                5 if is("close") => {}
                7 if is("upgrade") => self.asks_to_upgrade = true,
                2 if is("te") => {}
                _ => self.nominates = true,
            }
        }
    }

    fn te(&mut self, value: &[u8]) {
        self.trailers |= members(value).any(|member| member.eq_ignore_ascii_case(b"trailers"));
    }

    /// Takes out what is for this hop alone (RFC 9110 §7.6.1), whatever its `Connection` lines name included.
    fn remove_hop_by_hop(&self, headers: &mut HeaderMap) {
        if self.nominates {
            remove_nominated(headers);
        }
        for (known, name) in [
            (Name::Connection, header::CONNECTION),
            (Name::ProxyConnection, PROXY_CONNECTION),
            (Name::KeepAlive, KEEP_ALIVE),
            (Name::Te, header::TE),
            (Name::TransferEncoding, header::TRANSFER_ENCODING),
            (Name::Upgrade, header::UPGRADE),
            (Name::ProxyCredentials, header::PROXY_AUTHENTICATE),
            (Name::ProxyCredentials, header::PROXY_AUTHORIZATION),
        ] {
            if self.has(known) {
                headers.remove(name);
            }
        }
    }
}

/// `remove` returns the first line only, so that names on a second one would survive: all lines are walked first.
fn remove_nominated(headers: &mut HeaderMap) {
    let lines = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    for name in nominated(lines) {
        headers.remove(name);
    }
}

/// Whether an answer with this `Content-Type` is a stream of events, which may never end (HTML, server-sent events).
pub(super) fn is_event_stream(content_type: Option<&[u8]>) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    let Some((essence, rest)) = content_type.and_then(|value| value.split_at_checked(EVENT_STREAM.len())) else {
        return false;
    };
    essence.eq_ignore_ascii_case(EVENT_STREAM) && matches!(rest.first(), None | Some(b';' | b' ' | b'\t'))
}

/// The fields that these `Connection` lines name, but those that nobody may take out.
fn nominated<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<HeaderName> {
    let names = lines.flat_map(members).filter_map(|member| HeaderName::from_bytes(member).ok());
    names.filter(|name| !NEVER_NOMINATED.contains(name)).collect()
}

/// Makes a client's head one for the upstream. `bodyless` says that no body follows it.
pub(super) fn to_upstream(parts: &mut request::Parts, target: &Target, bodyless: bool) -> Going {
    let headers = &mut parts.headers;
    let seen = Seen::of(headers);
    let is_h1 = parts.version == Version::HTTP_11;
    let upgrade = if seen.has(Name::Upgrade) && is_h1 && bodyless && seen.asks_to_upgrade {
        headers.get(header::UPGRADE).filter(|wanted| may_be_asked_for(wanted.as_bytes())).cloned()
    } else {
        None
    };
    seen.remove_hop_by_hop(headers);
    if seen.has(Name::Http2Settings) {
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
    if seen.has(Name::Expect) {
        // The body follows at once; the client is told to go on as soon as somebody reads it (RFC 9110 §10.1.1).
        headers.remove(header::EXPECT);
    }
    if seen.names.repeats(Name::Cookie) {
        join_cookies(headers);
    }
    if seen.has(Name::Ours) {
        remove_ours(headers);
    }
    if seen.has(Name::Forwarding) {
        // What a trusted proxy says of those before it is told anew; what anybody else does is not passed on.
        for name in FORWARDING {
            headers.remove(name);
        }
    }
    if !target.is_from_host {
        headers.insert(header::HOST, target.authority.clone());
    }
    Going {
        forwarded: target.forwarded.clone(),
        request_id: (!seen.has(Name::RequestId)).then(RequestId::new),
        trace: headers.get(TRACEPARENT).cloned(),
        has_length: seen.has(Name::ContentLength),
    }
}

/// Names the app's own host instead of the client's, which `X-Forwarded-Host` and `Forwarded` still tell.
pub(super) fn rewrite_host(headers: &mut HeaderMap, host: &str) -> HeaderValue {
    // A host as the file takes it is always a field value.
    let host = HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static(""));
    headers.insert(header::HOST, host.clone());
    host
}

/// Whether a client's `Upgrade` may pass. RFC 9113 §3.1 took h2c by Upgrade out of HTTP/2; to pass it on would let a client
/// past us.
fn may_be_asked_for(protocols: &[u8]) -> bool {
    !members(protocols).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
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
        let bits = fastrand::u128(..);
        for (eight, digits) in line[Self::NAME.len()..].chunks_exact_mut(8).zip([0, 32, 64, 96]) {
            eight.copy_from_slice(&hexadecimal((bits >> digits) as u32));
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

/// Eight digits, all of them made at once.
fn hexadecimal(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Each half octet comes to stand in an octet of its own.
    let halves = u64::from(number);
    let halves = (halves | halves << 16) & 0x0000_ffff_0000_ffff;
    let halves = (halves | halves << 8) & 0x00ff_00ff_00ff_00ff;
    let halves = (halves | halves << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let are_letters = (halves + EACH * 6) >> 4 & EACH;
    (halves + EACH * u64::from(b'0') + are_letters * u64::from(b'a' - 10 - b'0')).to_be_bytes()
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
    if seen.has(Name::Ours) {
        remove_ours(headers);
    }
    append_lines(headers, ticket.answer_lines());
    if ticket.tells_revision() {
        let revision = HeaderValue::from_str(ticket.revision().as_str());
        headers.extend(revision.map(|revision| (X_TEALGATE_REVISION, revision)));
        headers.insert(X_TEALGATE_GENERATION, HeaderValue::from(ticket.generation().0));
    }
}

/// Puts field lines into a head.
pub(super) fn append_lines(headers: &mut HeaderMap, lines: &str) {
    for (name, value) in lines.split_terminator("\r\n").filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
}

/// Adds whole field lines of our making to a head for HTTP/2. They differ from client to client, or from request to request.
pub(super) fn add_lines(headers: &mut HeaderMap, lines: &Bytes) {
    let mut from = 0;
    for end in memchr::memchr_iter(b'\n', lines) {
        let line = &lines[from..end];
        if let Some(colon) = memchr::memchr(b':', line)
            && let Some(name) =
                FORWARDING.iter().chain([&X_REQUEST_ID]).find(|name| name.as_str().as_bytes() == &line[..colon])
            && let Ok(mut value) = HeaderValue::from_maybe_shared(lines.slice_ref(line[colon + 1..].trim_ascii()))
        {
            value.set_sensitive(true);
            headers.append(name, value);
        }
        from = end + 1;
    }
}

/// Keeps what is new in each request out of HPACK's tables (RFC 7541 §7.1.3): it would push out what is not, and be compared
/// with all that came before.
pub(super) fn keep_requests_own_out_of_tables(headers: &mut HeaderMap) {
    keep_out_of_tables(headers, &NEW_IN_REQUESTS);
}

/// The same for an answer.
pub(super) fn keep_answers_own_out_of_tables(headers: &mut HeaderMap) {
    keep_out_of_tables(headers, &NEW_IN_ANSWERS);
}

fn keep_out_of_tables(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::proxy::{Bind, ListenerOptions, forwarding::Forwarding};

    #[test]
    fn a_number_is_written_in_hexadecimal() {
        for number in [0, 0x0123_4567, 0x89ab_cdef, 0xffff_ffff, 0x0a90_9f9a] {
            assert_eq!(hexadecimal(number), *format!("{number:08x}").as_bytes());
        }
    }

    #[test]
    fn what_is_new_in_each_head_stays_out_of_tables_and_what_recurs_does_not() {
        let kept_out = |keep_out: fn(&mut HeaderMap)| {
            let names = ["date", "referer", "grpc-timeout", "server-timing", "traceparent", "x-request-id", "cookie"];
            let mut headers: HeaderMap =
                names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("a"))).into_iter().collect();
            keep_out(&mut headers);
            names.into_iter().filter(|name| headers[*name].is_sensitive()).collect::<Vec<_>>()
        };
        assert_eq!(
            kept_out(keep_requests_own_out_of_tables),
            ["referer", "grpc-timeout", "traceparent", "x-request-id"]
        );
        assert_eq!(kept_out(keep_answers_own_out_of_tables), ["date", "server-timing", "x-request-id"]);
    }

    fn sent(version: Version, fields: &[(&str, &str)]) -> (HeaderMap, Going) {
        let mut request = http::Request::builder().version(version).uri("/a?b").header("host", "shop.test:8080");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).expect("a request").into_parts().0;
        let options = ListenerOptions::new("live", Bind::Tcp(([127, 0, 0, 1], 0).into()));
        let client = "[2001:db8::1]:4711".parse().expect("an address");
        let forwarding = Forwarding::new(&Arc::new(options), Some(client), String::new());
        let target = Target::of(&parts, &forwarding, &forwarding.asker([])).expect("a target");
        let going = to_upstream(&mut parts, &target, true);
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
        let spoofed = [
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-client-cert", "Hash=00"),
        ];
        let (headers, _) = sent(Version::HTTP_11, &spoofed);
        assert_eq!(headers["host"], "shop.test:8080");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop.test:8080");
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";proto=http;host=\"shop.test:8080\"");
        assert!(!headers.contains_key("x-forwarded-client-cert"));
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
