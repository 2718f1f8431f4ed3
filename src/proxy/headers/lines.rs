//! A head of HTTP/1 in the octets it came in, and the lines that go on from it: those that pass are copied as they stand,
//! and ours are put behind them. The rules are those for maps; no map is made.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    super::{
        admit::Fields,
        cookie::cookie,
        h1::{Line, Lines, Name, Names, is_keep_alive},
    },
    RequestId, Seen, may_be_asked_for, nominated,
};
use crate::switch::Ticket;

/// A head in the octets it came in.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Head<'a> {
    pub(in crate::proxy) octets: &'a [u8],
    pub(in crate::proxy) lines: &'a Lines,
}

impl<'a> Head<'a> {
    /// The values of the lines of this name, in their order.
    pub(in crate::proxy) fn values(self, name: Name) -> impl Iterator<Item = &'a [u8]> {
        self.lines.called(name).map(move |line| line.value_in(self.octets))
    }

    /// Name and value of each line, in their order.
    pub(in crate::proxy) fn fields(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.lines.iter().map(move |line| (line.name_in(self.octets), line.value_in(self.octets)))
    }

    /// The lines as a map.
    pub(in crate::proxy) fn to_map(self) -> Result<HeaderMap, http::Error> {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for line in self.lines.iter() {
            let name = HeaderName::from_bytes(line.name_in(self.octets))?;
            map.try_append(name, HeaderValue::from_bytes(line.value_in(self.octets))?)?;
        }
        Ok(map)
    }

    /// Copies the lines but those of `dropped` names and those that do not pass, those that follow each other in one piece.
    /// `from` is where the first line begins, if that passes as it is.
    pub(super) fn copy(
        self,
        into: &mut Vec<u8>,
        mut from: Option<usize>,
        dropped: Names,
        passes: impl Fn(Line) -> bool,
    ) {
        for line in self.lines.iter() {
            match (!dropped.has(line.name()) && passes(*line), from) {
                (true, None) => from = Some(line.start()),
                (false, Some(start)) => {
                    into.extend_from_slice(&self.octets[start..line.start()]);
                    from = None;
                }
                _ => {}
            }
        }
        if let Some(start) = from {
            // The last line ends before the empty one.
            into.extend_from_slice(&self.octets[start..self.octets.len() - 2]);
        }
    }
}

impl Fields for Head<'_> {
    fn first(&self, name: &str) -> Option<&[u8]> {
        let is_it = |line: &&Line| line.name_in(self.octets).eq_ignore_ascii_case(name.as_bytes());
        self.lines.iter().find(is_it).map(|line| line.value_in(self.octets))
    }

    fn octets(&self) -> usize {
        self.octets.len()
    }

    /// Some clients send several lines, though RFC 6265 §5.4 allows one.
    fn cookie(&self, name: &str) -> Option<&[u8]> {
        let is_one = |line: &&Line| line.name_in(self.octets).eq_ignore_ascii_case(b"cookie");
        self.lines.iter().filter(is_one).find_map(|line| cookie(line.value_in(self.octets), name))
    }
}

/// What a request's lines are made of beside those the client sent.
pub(in crate::proxy) struct Added<'a> {
    /// The value of `Host`, if it is not the client's own.
    pub(in crate::proxy) host: Option<&'a [u8]>,
    /// Who asks, and how: whole lines.
    pub(in crate::proxy) forwarded: &'a [u8],
    /// A new request ID, if it has none.
    pub(in crate::proxy) request_id: Option<&'a RequestId>,
    pub(in crate::proxy) chunked: bool,
    /// Whether another protocol may be asked for.
    pub(in crate::proxy) may_upgrade: bool,
    /// Its `Authorization` was meant for us.
    pub(in crate::proxy) keeps_authorization: bool,
}

/// Writes the lines of a request for the upstream, and the empty one: from the request line on, which begins at `first`, if
/// that passes as it is. Says whether another protocol is asked for.
pub(in crate::proxy) fn write_request_lines(
    into: &mut Vec<u8>,
    head: Head<'_>,
    first: Option<usize>,
    seen: &Seen,
    added: &Added<'_>,
) -> bool {
    const HOP_BY_HOP: Names = Names::of(&[
        Name::Connection,
        Name::ProxyConnection,
        Name::KeepAlive,
        Name::Te,
        Name::TransferEncoding,
        Name::Upgrade,
        Name::ProxyCredentials,
        Name::Expect,
        Name::Http2Settings,
        Name::Ours,
        Name::Forwarding,
    ]);
    let mut dropped = HOP_BY_HOP;
    if added.host.is_some() {
        dropped.note(Name::Host);
    }
    if seen.names.repeats(Name::Cookie) {
        dropped.note(Name::Cookie);
    }
    if seen.nominates || added.keeps_authorization {
        let named = if seen.nominates { nominated(head.values(Name::Connection)) } else { Vec::new() };
        head.copy(into, first, dropped, |line| {
            let is = |name: &str| line.name_in(head.octets).eq_ignore_ascii_case(name.as_bytes());
            let kept = added.keeps_authorization && is("authorization");
            !kept && !named.iter().any(|name| is(name.as_str()))
        });
    } else {
        head.copy(into, first, dropped, |_| true);
    }
    let mut line = |name: &[u8], value: &[u8]| {
        into.extend_from_slice(name);
        into.extend_from_slice(value);
        into.extend_from_slice(b"\r\n");
    };
    if let Some(host) = added.host {
        line(b"host: ", host);
    }
    if seen.names.repeats(Name::Cookie) {
        line(b"cookie: ", &head.values(Name::Cookie).collect::<Vec<_>>().join(&b"; "[..]));
    }
    if seen.trailers {
        // RFC 9110 §10.1.4: TE speaks for one hop, and so do we: trailers pass.
        line(b"te: ", b"trailers");
        line(b"connection: ", b"te");
    }
    let upgrade = head
        .values(Name::Upgrade)
        .next()
        .filter(|wanted| added.may_upgrade && seen.asks_to_upgrade && may_be_asked_for(wanted));
    if let Some(wanted) = upgrade {
        line(b"upgrade: ", wanted);
        line(b"connection: ", b"upgrade");
    }
    into.extend_from_slice(added.forwarded);
    if let Some(request_id) = added.request_id {
        into.extend_from_slice(&request_id.0);
    }
    if added.chunked {
        into.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    into.extend_from_slice(b"\r\n");
    upgrade.is_some()
}

/// Whether a request ID is to be made.
pub(in crate::proxy) fn wants_request_id(seen: &Seen) -> Option<RequestId> {
    (!seen.has(Name::RequestId)).then(RequestId::new)
}

/// What an answer's lines are made of beside those the upstream sent.
pub(in crate::proxy) struct Told {
    pub(in crate::proxy) chunked: bool,
    /// What is said of the connection, if anything.
    pub(in crate::proxy) connection: Option<&'static str>,
    /// It switches protocols.
    pub(in crate::proxy) switched: bool,
    /// It has no body, and must not speak of one (RFC 9110 §8.6).
    pub(in crate::proxy) lengthless: bool,
}

/// Writes the lines of an answer for the client, and the empty one: from the status line on, which begins at `first`, if
/// that passes as it is.
pub(in crate::proxy) fn write_answer_lines(
    into: &mut Vec<u8>,
    head: Head<'_>,
    first: Option<usize>,
    ticket: &Ticket,
    told: &Told,
) {
    const HOP_BY_HOP: Names = Names::of(&[
        Name::Connection,
        Name::ProxyConnection,
        Name::KeepAlive,
        Name::Te,
        Name::TransferEncoding,
        Name::ProxyCredentials,
        Name::Ours,
    ]);
    let mut dropped = HOP_BY_HOP;
    if !told.switched {
        dropped.note(Name::Upgrade);
    }
    if told.lengthless {
        dropped.note(Name::ContentLength);
    }
    let nominates = head.values(Name::Connection).any(|value| {
        let is = |usual: &str| value.eq_ignore_ascii_case(usual.as_bytes());
        !is_keep_alive(value) && !is("close") && !is("upgrade")
    });
    if nominates {
        let named = nominated(head.values(Name::Connection));
        head.copy(into, first, dropped, |line| {
            let name = line.name_in(head.octets);
            // To what it switches is for the client to know.
            line.name() == Name::Upgrade
                || !named.iter().any(|named| name.eq_ignore_ascii_case(named.as_str().as_bytes()))
        });
    } else {
        head.copy(into, first, dropped, |_| true);
    }
    if told.switched {
        into.extend_from_slice(b"connection: upgrade\r\n");
    }
    if ticket.tells_revision() {
        into.extend_from_slice(b"x-tealgate-revision: ");
        into.extend_from_slice(ticket.revision().as_str().as_bytes());
        into.extend_from_slice(format!("\r\nx-tealgate-generation: {}\r\n", ticket.generation().0).as_bytes());
    }
    into.extend_from_slice(ticket.answer_lines().as_bytes());
    if let Some(connection) = told.connection {
        into.extend_from_slice(b"connection: ");
        into.extend_from_slice(connection.as_bytes());
        into.extend_from_slice(b"\r\n");
    }
    if told.chunked {
        into.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    into.extend_from_slice(b"\r\n");
}
