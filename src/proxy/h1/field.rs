//! Field lines where they stand: a head is never taken apart. A line is five numbers into the octets it came in, and lines
//! that follow each other are copied in one piece. Which of them a proxy must know is told by length and first letter, so
//! that most names cost a comparison or two.

use std::mem::MaybeUninit;

/// The most fields accepted in one section.
pub(super) const MAX_FIELDS: usize = 128;

/// Room for a parser's fields, which it fills itself.
pub(super) type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; MAX_FIELDS];

pub(super) fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// One field line of a head.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Line {
    start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
    name: Name,
}

impl Line {
    /// Which field it is.
    pub(in super::super) fn name(self) -> Name {
        self.name
    }

    /// Where in its head it begins, name first.
    pub(in super::super) fn start(self) -> usize {
        self.start as usize
    }

    /// Its name as it was written.
    pub(in super::super) fn name_in(self, head: &[u8]) -> &[u8] {
        &head[self.start as usize..self.name_end as usize]
    }

    /// Its value, without white space around it.
    pub(in super::super) fn value_in(self, head: &[u8]) -> &[u8] {
        &head[self.value_start as usize..self.value_end as usize]
    }
}

/// The field lines of a head, and which of the known ones are among them.
#[derive(Debug, Default)]
pub(in super::super) struct Lines {
    lines: Vec<Line>,
    names: Names,
}

impl Lines {
    /// None, with room for as many as are usual.
    pub(in super::super) fn roomy() -> Self {
        Self { lines: Vec::with_capacity(32), names: Names::default() }
    }

    pub(in super::super) fn names(&self) -> Names {
        self.names
    }

    /// Those of this name, in their order. Costs nothing where there are none.
    pub(in super::super) fn called(&self, name: Name) -> impl Iterator<Item = &Line> {
        let among = if self.names.has(name) { &self.lines[..] } else { &[] };
        among.iter().filter(move |line| line.name() == name)
    }

    /// Takes down where these fields of `head` stand, in place of what was there. A head is shorter than 4 GiB.
    pub(super) fn place(&mut self, head: &[u8], fields: &[httparse::Header<'_>]) {
        let origin = head.as_ptr() as usize;
        let at = |part: &[u8]| (part.as_ptr() as usize - origin) as u32;
        let mut names = Names::default();
        self.lines.clear();
        self.lines.extend(fields.iter().map(|field| {
            let (start, value_start) = (at(field.name.as_bytes()), at(field.value));
            let name = Name::of(field.name.as_bytes());
            names.note(name);
            Line {
                start,
                name_end: start + field.name.len() as u32,
                value_start,
                value_end: value_start + field.value.len() as u32,
                name,
            }
        }));
        self.names = names;
    }
}

impl std::ops::Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.lines
    }
}

/// Which of the known fields a head has, and which of them more than once.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Names {
    there: u32,
    again: u32,
}

impl Names {
    pub(in super::super) fn note(&mut self, name: Name) {
        let bit = 1 << name as u32;
        self.again |= self.there & bit;
        self.there |= bit;
    }

    pub(in super::super) fn has(self, name: Name) -> bool {
        self.there & 1 << name as u32 != 0
    }

    pub(in super::super) fn repeats(self, name: Name) -> bool {
        self.again & 1 << name as u32 != 0
    }
}

/// The fields something is done about, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Name {
    Connection,
    ContentLength,
    Cookie,
    Expect,
    /// `X-Forwarded-For`, `-Host`, `-Proto`, `-Client-Cert`, and `Forwarded` (RFC 7239).
    Forwarding,
    Host,
    Http2Settings,
    KeepAlive,
    /// `X-Tealgate-…`.
    Ours,
    ProxyConnection,
    /// `Proxy-Authenticate` and `Proxy-Authorization`.
    ProxyCredentials,
    Referer,
    RequestId,
    Te,
    TraceParent,
    TransferEncoding,
    Upgrade,
    UserAgent,
    /// Any other: it passes.
    Other,
}

impl Name {
    pub(in super::super) fn of(name: &[u8]) -> Self {
        let is = |known: &str| is_name(name, known.as_bytes());
        let first = name.first().map_or(0, |octet| octet | 0x20);
        match (name.len(), first) {
            (2, b't') if is("te") => Self::Te,
            (4, b'h') if is("host") => Self::Host,
            (6, b'c') if is("cookie") => Self::Cookie,
            (6, b'e') if is("expect") => Self::Expect,
            (7, b'u') if is("upgrade") => Self::Upgrade,
            (7, b'r') if is("referer") => Self::Referer,
            (9, b'f') if is("forwarded") => Self::Forwarding,
            (10, b'c') if is("connection") => Self::Connection,
            (10, b'k') if is("keep-alive") => Self::KeepAlive,
            (10, b'u') if is("user-agent") => Self::UserAgent,
            (11, b't') if is("traceparent") => Self::TraceParent,
            (12, b'x') if is("x-request-id") => Self::RequestId,
            (14, b'c') if is("content-length") => Self::ContentLength,
            (14, b'h') if is("http2-settings") => Self::Http2Settings,
            (15, b'x') if is("x-forwarded-for") => Self::Forwarding,
            (16, b'x') if is("x-forwarded-host") => Self::Forwarding,
            (16, b'p') if is("proxy-connection") => Self::ProxyConnection,
            (17, b'x') if is("x-forwarded-proto") => Self::Forwarding,
            (17, b't') if is("transfer-encoding") => Self::TransferEncoding,
            (18, b'p') if is("proxy-authenticate") => Self::ProxyCredentials,
            (19, b'p') if is("proxy-authorization") => Self::ProxyCredentials,
            (23, b'x') if is("x-forwarded-client-cert") => Self::Forwarding,
            (12.., b'x') if is_name(&name[..11], b"x-tealgate-") => Self::Ours,
            _ => Self::Other,
        }
    }
}

/// Whether a name, made of what names are made of (RFC 9110 §5.6.2), is `known`, which is as long and in lower case. Among
/// such octets, setting one bit makes letters lower and takes nothing else for a letter, a digit or a dash; so eight are
/// compared at a time, the last eight once more where they overlap.
fn is_name(name: &[u8], known: &[u8]) -> bool {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    let word = |octets: &[u8; 8]| u64::from_le_bytes(*octets);
    match (name.first_chunk(), known.first_chunk(), name.last_chunk(), known.last_chunk()) {
        (Some(start), Some(known_start), Some(end), Some(known_end)) => {
            let middle =
                || name.len() <= 16 || name.get(8..16).is_some_and(|octets| octets.eq_ignore_ascii_case(&known[8..16]));
            word(start) | LOWER == word(known_start) && word(end) | LOWER == word(known_end) && middle()
        }
        _ => name.iter().zip(known).all(|(octet, known)| octet | 0x20 == *known),
    }
}

/// The members of a list, without white space around them, empty ones left out. Not as text: one that is none must not
/// hide the others.
pub(in super::super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|octet| *octet == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Whether a value of `Connection` asks to close the connection, and to keep it (RFC 9112 §9.3). Mostly it is one word.
pub(super) fn persistence(value: &[u8]) -> (bool, bool) {
    if value.eq_ignore_ascii_case(b"keep-alive") {
        return (false, true);
    }
    members(value).fold((false, false), |(close, keep_alive), option| {
        (close | option.eq_ignore_ascii_case(b"close"), keep_alive | option.eq_ignore_ascii_case(b"keep-alive"))
    })
}

/// Whether octets, which may be the start of a head, have a line that ends in a bare LF.
pub(super) fn has_bare_line_feed(octets: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', octets).any(|at| at == 0 || octets[at - 1] != b'\r')
}

/// Whether each line of a head, whose first one begins at `first`, ends in CRLF. httparse takes a bare LF for a line's end;
/// we do not: two recipients then may differ (RFC 9112 §2.2). It takes LFs nowhere else, so only the ends need a look.
pub(super) fn ends_in_crlf(head: &[u8], first: usize, lines: &[Line]) -> bool {
    let ends_at = |end: usize| end < 2 || head[end - 2] == b'\r';
    (first == 0 || !has_bare_line_feed(&head[..first]))
        && lines.iter().all(|line| ends_at(line.start()))
        && ends_at(head.len() - 2)
        && ends_at(head.len())
}

/// Digits only, and few enough not to overflow: no sign, no blank, no list.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let digit = |number: u64, b: &u8| number * 10 + u64::from(b - b'0');
    (matches!(digits.len(), 1..=19) && digits.iter().all(u8::is_ascii_digit)).then(|| digits.iter().fold(0, digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_in_any_case_and_by_its_whole_length() {
        for (name, expected) in [
            ("Host", Name::Host),
            ("hOST", Name::Host),
            ("TE", Name::Te),
            ("Transfer-Encoding", Name::TransferEncoding),
            ("X-Forwarded-Proto", Name::Forwarding),
            ("FORWARDED", Name::Forwarding),
            ("X-Forwarded-Client-Cert", Name::Forwarding),
            ("Proxy-Authorization", Name::ProxyCredentials),
            ("X-Tealgate-Revision", Name::Ours),
            ("x-tealgate-", Name::Other),
            ("Hosts", Name::Other),
            ("Accept", Name::Other),
            ("", Name::Other),
        ] {
            assert_eq!(Name::of(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn a_number_is_digits_and_nothing_else() {
        for (digits, expected) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("9999999999999999999", Some(9_999_999_999_999_999_999)),
            ("", None),
            ("+1", None),
            ("1 ", None),
            ("0x1", None),
            ("1,1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(decimal(digits.as_bytes()), expected, "{digits:?}");
        }
    }
}
