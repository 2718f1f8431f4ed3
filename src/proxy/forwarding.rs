//! Who asks, and how: what upstreams are told of it (`X-Forwarded-*`, `Forwarded` of RFC 7239, the client's certificate),
//! and which address counts for allow-lists, limits, logs and balancing. That is the connection's peer, unless the peer is a
//! proxy that the listener trusts: then it is the one that the proxy speaks for.
//!
//! What a client says is replaced. What a trusted proxy says is kept and added to: of the hops it names, the right-most that
//! is not itself a trusted proxy is the client, since all to the left of it is what that client claimed. One field is
//! believed, X-Forwarded-For or Forwarded, as the listener says; the other is written anew from it, for a proxy that does
//! not know a field passes on what its client wrote there. Of what cannot be read, it and all before it are left out.

use std::{
    cell::RefCell,
    fmt::Write,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;

use super::{ForwardingField, ListenerOptions, target::host_of};

/// The most hops that are sent on: those nearest to us.
const MAX_HOPS: usize = 32;

/// What there is to tell of a connection, made once for it.
pub(super) struct Forwarding {
    /// The client's address, or that of the proxy which speaks for it.
    peer: Option<SocketAddr>,
    proto: &'static str,
    /// The listener's options, where the peer is a trusted proxy.
    trusted: Option<Arc<ListenerOptions>>,
    /// The line that tells of its certificate, or nothing.
    certificate: Box<str>,
    /// The last authority, and the lines for it: it rarely changes on a connection.
    last: RefCell<Option<Last>>,
}

struct Last {
    authority: Box<[u8]>,
    lines: Bytes,
}

/// Whose a request is.
pub(super) struct Asker {
    /// The client's address; `None` on a Unix socket, or where a trusted proxy does not say.
    pub(super) address: Option<IpAddr>,
    /// Whether it asked over TLS, so that nobody could read along.
    pub(super) secure: bool,
    /// What a trusted proxy said.
    told: Option<Box<Told>>,
}

/// What a trusted proxy says of those it speaks for.
#[derive(Default)]
struct Told {
    /// The hops it names, the first of them first; `None` is one without an address.
    hops: Vec<Option<IpAddr>>,
    /// The elements of `Forwarded`, as they came; only if that is believed.
    elements: Vec<String>,
    /// How the client asked, and for whom.
    proto: Option<&'static str>,
    host: Option<String>,
    /// There were more hops, or one that cannot be read.
    cut: bool,
}

impl Asker {
    /// Whether it is who is at the other end, so that all requests of the connection are its.
    pub(super) fn is_the_peer(&self) -> bool {
        self.told.is_none()
    }
}

impl Forwarding {
    /// `peer` is who is at the other end, or whom its PROXY header names; `certificate` is the line that tells of its
    /// certificate, or nothing.
    pub(super) fn new(options: &Arc<ListenerOptions>, peer: Option<SocketAddr>, certificate: String) -> Self {
        // Of the mapped form of an IPv4 address no list of networks knows anything.
        let peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        let trusted = options.trusted_proxies.include(peer.map(|peer| peer.ip())).then(|| Arc::clone(options));
        let proto = if options.tls.is_some() { "https" } else { "http" };
        Self { peer, proto, trusted, certificate: certificate.into(), last: RefCell::new(None) }
    }

    /// Of somebody nobody has introduced.
    pub(super) fn unknown() -> Self {
        Self { peer: None, proto: "http", trusted: None, certificate: "".into(), last: RefCell::new(None) }
    }

    /// Who is at the other end of the connection.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Its address.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip())
    }

    /// Whose a request with these fields is. Names may be in any case; of a peer that is not trusted, none is looked at.
    pub(super) fn asker<'a>(&self, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Asker {
        let secure = |proto| proto == "https";
        let Some(options) = &self.trusted else {
            return Asker { address: self.address(), secure: secure(self.proto), told: None };
        };
        let mut told = match options.trusted_proxies.field {
            ForwardingField::XForwardedFor => Told::by_x_forwarded(fields.into_iter()),
            ForwardingField::Forwarded => Told::by_forwarded(fields.into_iter()),
        };
        let address = told.settle(self.address(), |hop| options.trusted_proxies.include(Some(hop)));
        Asker { address, secure: secure(told.proto.unwrap_or(self.proto)), told: Some(Box::new(told)) }
    }

    /// The field lines to send with its request for this authority, in place of all that came under their names
    /// (see `headers`).
    pub(super) fn lines(&self, asker: &Asker, authority: &[u8]) -> Bytes {
        let text = std::str::from_utf8(authority).unwrap_or_default();
        if let Some(told) = &asker.told {
            return self.write(told, text).into();
        }
        let mut last = self.last.borrow_mut();
        if let Some(last) = last.as_ref().filter(|last| *last.authority == *authority) {
            return last.lines.clone();
        }
        // Kept as long as the connection is, so without the room behind it.
        let lines = Bytes::from(self.write(&Told::default(), text).into_boxed_str().into_boxed_bytes());
        *last = Some(Last { authority: authority.into(), lines: lines.clone() });
        lines
    }

    fn write(&self, told: &Told, authority: &str) -> String {
        let mut lines = String::with_capacity(256);
        let proto = told.proto.unwrap_or(self.proto);
        let host = told.host.as_deref().unwrap_or(authority);
        let mut hops = told.hops.iter().copied().chain(self.peer.map(|peer| Some(peer.ip()))).peekable();
        if hops.peek().is_some() {
            lines.push_str("x-forwarded-for: ");
            while let Some(hop) = hops.next() {
                match hop {
                    Some(address) => write_address(&mut lines, address),
                    None => lines.push_str("unknown"),
                }
                lines.push_str(if hops.peek().is_some() { ", " } else { "\r\n" });
            }
        }
        lines.extend(["x-forwarded-proto: ", proto, "\r\nx-forwarded-host: ", host, "\r\nforwarded: "]);
        // The first element is about the client's request, and tells how that came.
        let mut first = Some((proto, host));
        for element in &told.elements {
            lines.extend([element, ", "]);
            first = None;
        }
        for hop in told.hops.iter().filter(|_| told.elements.is_empty()) {
            write_element(&mut lines, *hop, first.take());
            lines.push_str(", ");
        }
        write_element(&mut lines, self.address(), Some(first.unwrap_or((self.proto, authority))));
        lines.push_str("\r\n");
        lines.push_str(&self.certificate);
        lines
    }
}

/// Most are of IPv4, and the general way to write one costs as much as parsing a request's line.
fn write_address(lines: &mut String, address: IpAddr) {
    let IpAddr::V4(v4) = address else { return write!(lines, "{address}").unwrap_or_default() };
    let digit = |value: u8| char::from(b'0' + value % 10);
    for (place, octet) in v4.octets().into_iter().enumerate() {
        if place > 0 {
            lines.push('.');
        }
        lines.extend((octet >= 100).then(|| digit(octet / 100)));
        lines.extend((octet >= 10).then(|| digit(octet / 10)));
        lines.push(digit(octet));
    }
}

/// RFC 7239 §4.
fn write_element(lines: &mut String, node: Option<IpAddr>, request: Option<(&str, &str)>) {
    match node {
        Some(address @ IpAddr::V4(_)) => {
            lines.push_str("for=");
            write_address(lines, address);
        }
        // RFC 7239 §6: brackets, and therefore quotes. Writing to a string does not fail.
        Some(IpAddr::V6(v6)) => write!(lines, "for=\"[{v6}]\"").unwrap_or_default(),
        None => lines.push_str("for=unknown"),
    }
    if let Some((proto, host)) = request {
        // A checked authority has neither quotes nor backslashes; a port or a literal needs the quotes.
        let quote = if host.contains([':', '[']) || host.is_empty() { "\"" } else { "" };
        lines.extend([";proto=", proto, ";host=", quote, host, quote]);
    }
}

impl Told {
    /// What the `X-Forwarded-*` fields tell: a hop is added at the end of the last line.
    fn by_x_forwarded<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut told = Self::default();
        for (name, value) in fields {
            if name.eq_ignore_ascii_case(b"x-forwarded-for") {
                members(value).for_each(|hop| told.push(node(hop)));
            } else if name.eq_ignore_ascii_case(b"x-forwarded-proto") {
                told.proto = members(value).next_back().and_then(proto);
            } else if name.eq_ignore_ascii_case(b"x-forwarded-host") {
                told.host = members(value).next_back().and_then(host).map(str::to_owned);
            }
        }
        told
    }

    /// What the `Forwarded` field tells.
    fn by_forwarded<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut told = Self::default();
        for (_, value) in fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"forwarded")) {
            // A comma within quotes, which no address, host or protocol has, makes an element that cannot be read.
            for element in members(value) {
                let read = Element::read(element);
                told.push(read.as_ref().map(|read| read.node));
                match read {
                    Some(read) => told.elements.push(read.text.to_owned()),
                    None => told.elements.clear(),
                }
            }
        }
        told
    }

    /// One more hop; `None` is one that cannot be read.
    fn push(&mut self, hop: Option<Option<IpAddr>>) {
        match hop {
            Some(hop) => self.hops.push(hop),
            None => {
                self.hops.clear();
                self.cut = true;
            }
        }
    }

    /// Finds the client, and with it what `Forwarded` tells of its request: the right-most hop that is no trusted proxy; if
    /// all are, the left-most.
    fn settle(&mut self, peer: Option<IpAddr>, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let over = self.hops.len().saturating_sub(MAX_HOPS);
        self.cut |= over > 0;
        self.hops.drain(..over);
        self.elements.drain(..over.min(self.elements.len()));
        let untrusted = self.hops.iter().rposition(|hop| !hop.is_some_and(&is_trusted));
        let at = untrusted.unwrap_or(0);
        if let Some(read) = self.elements.get(at).and_then(|element| Element::read(element.as_bytes())) {
            let host = read.host.map(str::to_owned);
            (self.proto, self.host) = (read.proto, host);
        }
        match untrusted {
            // Whoever it was, it is none of the proxies.
            None if self.cut => None,
            _ => self.hops.get(at).copied().unwrap_or(peer),
        }
    }
}

/// An element of `Forwarded`.
struct Element<'a> {
    text: &'a str,
    node: Option<IpAddr>,
    proto: Option<&'static str>,
    host: Option<&'a str>,
}

impl<'a> Element<'a> {
    fn read(octets: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(octets).ok().filter(|_| octets.iter().all(|b| matches!(b, b' '..=b'~')))?;
        let mut element = Self { text, node: None, proto: None, host: None };
        for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
            let (name, value) = pair.trim().split_once('=')?;
            let value = match value.strip_prefix('"') {
                Some(quoted) => quoted.strip_suffix('"').filter(|value| !value.contains(['"', '\\']))?,
                None => Some(value).filter(|value| !value.is_empty() && value.bytes().all(is_token))?,
            };
            match name.to_ascii_lowercase().as_str() {
                "for" => element.node = node(value.as_bytes())?,
                "proto" => element.proto = proto(value.as_bytes()),
                "host" => element.host = host(value.as_bytes()),
                name if !name.is_empty() && name.bytes().all(is_token) => {}
                _ => return None,
            }
        }
        Some(element)
    }
}

/// RFC 9110 §5.6.2.
fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

/// The members of a list.
fn members(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|octet| *octet == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// A hop's address, with or without port; `Some(None)` is one that does not tell its own (RFC 7239 §6), `None` is none.
fn node(octets: &[u8]) -> Option<Option<IpAddr>> {
    let text = std::str::from_utf8(octets).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(Some(address.to_canonical()));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Some(address.ip().to_canonical()));
    }
    let hidden = text.eq_ignore_ascii_case("unknown") || (text.starts_with('_') && text.bytes().all(is_token));
    hidden.then_some(None)
}

fn proto(octets: &[u8]) -> Option<&'static str> {
    ["http", "https", "ws", "wss"].into_iter().find(|known| octets.eq_ignore_ascii_case(known.as_bytes()))
}

/// An authority whose host is not empty.
fn host(octets: &[u8]) -> Option<&str> {
    host_of(octets).filter(|host| !host.is_empty())?;
    std::str::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::{Bind, TrustedProxies};

    fn options(field: ForwardingField) -> Arc<ListenerOptions> {
        let mut options = ListenerOptions::new("live", Bind::Tcp(([127, 0, 0, 1], 0).into()));
        options.trusted_proxies = TrustedProxies { networks: vec!["10.0.0.0/8".parse().expect("a network")], field };
        Arc::new(options)
    }

    /// The client, and the lines, of a request with these fields from this peer.
    fn told(field: ForwardingField, peer: &str, fields: &[(&str, &str)]) -> (String, String) {
        let forwarding = Forwarding::new(
            &options(field),
            Some(SocketAddr::new(peer.parse().expect("an address"), 4711)),
            String::new(),
        );
        let asker = forwarding.asker(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let lines = forwarding.lines(&asker, b"shop.test").to_vec();
        (asker.address.map_or("-".to_owned(), |client| client.to_string()), String::from_utf8(lines).expect("text"))
    }

    #[test]
    fn an_address_is_written_as_the_library_does() {
        for octet in 0..=255 {
            for address in
                [IpAddr::from([octet, 0, 10, 255 - octet]), IpAddr::from([octet, 0, 0, 0, 1, 0, 0, 0].map(u16::from))]
            {
                let mut lines = String::new();
                write_address(&mut lines, address);
                assert_eq!(lines, address.to_string());
            }
        }
    }

    fn by_x(peer: &str, fields: &[(&str, &str)]) -> (String, String) {
        told(ForwardingField::XForwardedFor, peer, fields)
    }

    #[track_caller]
    fn says(lines: &str, expected: [&str; 4]) {
        let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];
        let expected: String = names.iter().zip(expected).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_a_client_says_of_itself_is_replaced() {
        let claims = [("x-forwarded-for", "10.0.0.9"), ("forwarded", "for=10.0.0.9"), ("x-forwarded-proto", "https")];
        let (client, lines) = by_x("1.2.3.4", &claims);
        assert_eq!(client, "1.2.3.4");
        says(&lines, ["1.2.3.4", "http", "shop.test", "for=1.2.3.4;proto=http;host=shop.test"]);
    }

    #[test]
    fn a_trusted_proxys_client_is_the_right_most_hop_that_is_none_itself() {
        for (hops, client) in [
            ("1.2.3.4", "1.2.3.4"),
            ("9.9.9.9, 1.2.3.4", "1.2.3.4"),
            ("1.2.3.4, 10.0.0.2,10.0.0.3", "1.2.3.4"),
            ("1.2.3.4:4711", "1.2.3.4"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:1.2.3.4, ::ffff:10.0.0.2", "1.2.3.4"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("", "10.0.0.1"),
            ("1.2.3.4, unknown", "-"),
            ("1.2.3.4, _hidden", "-"),
            ("1.2.3.4, evil.test", "-"),
            ("1.2.3.4, <script>, 10.0.0.2", "-"),
            ("<script>, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ] {
            assert_eq!(by_x("10.0.0.1", &[("X-Forwarded-For", hops)]).0, client, "{hops}");
        }
        let lines = [("x-forwarded-for", "9.9.9.9"), ("x-forwarded-for", "1.2.3.4, 10.0.0.2")];
        assert_eq!(by_x("10.0.0.1", &lines).0, "1.2.3.4", "all lines are one list");
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_added_to() {
        let (_, lines) = by_x(
            "10.0.0.1",
            &[
                ("x-forwarded-for", "9.9.9.9, 2001:db8::1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "www.shop.test:444"),
                ("forwarded", "for=6.6.6.6;proto=gopher"),
            ],
        );
        says(
            &lines,
            [
                "9.9.9.9, 2001:db8::1, 10.0.0.1",
                "https",
                "www.shop.test:444",
                "for=9.9.9.9;proto=https;host=\"www.shop.test:444\", for=\"[2001:db8::1]\", \
                 for=10.0.0.1;proto=http;host=shop.test",
            ],
        );
        // A proxy that says nothing is the client.
        let (_, lines) = by_x("10.0.0.1", &[("x-forwarded-proto", "https")]);
        says(&lines, ["10.0.0.1", "https", "shop.test", "for=10.0.0.1;proto=https;host=shop.test"]);
    }

    #[test]
    fn forwarded_is_believed_where_the_listener_says_so_and_the_others_are_not() {
        let (client, lines) = told(
            ForwardingField::Forwarded,
            "10.0.0.1",
            &[
                ("forwarded", "for=9.9.9.9;proto=http, For=\"[2001:db8::1]:443\";Proto=HTTPS;host=a.test;by=_x"),
                ("Forwarded", "for=10.0.0.2"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "ws"),
            ],
        );
        assert_eq!(client, "2001:db8::1");
        says(
            &lines,
            [
                "9.9.9.9, 2001:db8::1, 10.0.0.2, 10.0.0.1",
                "https",
                "a.test",
                "for=9.9.9.9;proto=http, For=\"[2001:db8::1]:443\";Proto=HTTPS;host=a.test;by=_x, for=10.0.0.2, \
                 for=10.0.0.1;proto=http;host=shop.test",
            ],
        );
        for (field, client) in [
            ("for=1.2.3.4", "1.2.3.4"),
            ("for=\", for=1.2.3.4", "1.2.3.4"),
            ("for=\"1.2.3.4\\\"", "-"),
            ("for=1.2.3.4 for=6.6.6.6", "-"),
            ("proto=https", "-"),
            ("for=[2001:db8::1]", "-"),
            ("nonsense", "-"),
            (";;for=1.2.3.4;", "1.2.3.4"),
        ] {
            let (found, _) = told(ForwardingField::Forwarded, "10.0.0.1", &[("forwarded", field)]);
            assert_eq!(found, client, "{field}");
        }
    }

    #[test]
    fn what_cannot_be_believed_or_is_too_much_is_left_out() {
        let many = vec!["10.0.0.2"; 100].join(",");
        let (client, lines) = by_x(
            "10.0.0.1",
            &[
                ("x-forwarded-for", &many),
                ("x-forwarded-proto", "javascript"),
                ("x-forwarded-host", "evil.test/\"><script>"),
            ],
        );
        assert_eq!(client, "-", "who stood before all those proxies is not known");
        assert_eq!(lines.matches("10.0.0.2").count(), 2 * MAX_HOPS);
        assert!(lines.contains("x-forwarded-proto: http\r\nx-forwarded-host: shop.test\r\n"), "{lines}");
    }

    #[test]
    fn the_lines_of_an_authority_are_made_once_and_end_with_the_certificates() {
        let options = options(ForwardingField::XForwardedFor);
        let forwarding = Forwarding::new(&options, None, "x-forwarded-client-cert: Hash=00\r\n".to_owned());
        let asker = forwarding.asker([]);
        let [first, second] =
            [(); 2].map(|()| forwarding.lines(&Asker { address: None, secure: false, told: None }, b"a"));
        assert_eq!(first.as_ptr(), second.as_ptr());
        // Whoever may open a Unix socket is trusted, if anybody is.
        assert!(asker.told.is_some() && asker.address.is_none());
        let expected = "x-forwarded-proto: http\r\nx-forwarded-host: a\r\nforwarded: for=unknown;proto=http;host=a\r\n\
                        x-forwarded-client-cert: Hash=00\r\n";
        assert_eq!(std::str::from_utf8(&first), Ok(expected));
    }

    proptest! {
        #[test]
        fn whatever_is_claimed_the_lines_are_four_and_the_client_is_no_proxy_of_ours(
            claims in proptest::collection::vec("[ -~]{0,40}", 0..4), forwarded in any::<bool>(), real in any::<u32>(),
        ) {
            let real = IpAddr::from(real.to_be_bytes());
            let (field, name, written) = match forwarded {
                true => (ForwardingField::Forwarded, "forwarded", format!("for={real}")),
                false => (ForwardingField::XForwardedFor, "x-forwarded-for", real.to_string()),
            };
            let mut fields: Vec<(&str, &str)> = claims.iter().map(|claim| (name, claim.as_str())).collect();
            fields.push((name, &written));
            let (client, lines) = told(field, "10.0.0.1", &fields);
            prop_assert_eq!(lines.matches("\r\n").count(), 4);
            prop_assert_eq!(lines.matches(['\r', '\n']).count(), 8);
            if options(field).trusted_proxies.include(Some(real)) {
                return Ok(());
            }
            prop_assert_eq!(client, real.to_string());
        }
    }
}
