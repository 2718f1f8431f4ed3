//! Field lines where they stand: a head is never taken apart. A line is five numbers into the octets it came in, and lines
//! that follow each other are copied in one piece. Which of them a proxy must know is told by length and first letter, so
//! that most names cost a comparison or two.

use super::scan::{self, Stop};

/// The most fields accepted in one section.
pub(super) const MAX_FIELDS: usize = 128;

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
    /// Where among the lines the first of each known name is, if it is there.
    firsts: [u8; Name::COUNT],
}

impl Lines {
    /// None, with room for as many as are usual.
    pub(in super::super) fn roomy() -> Self {
        Self { lines: Vec::with_capacity(32), ..Self::default() }
    }

    pub(in super::super) fn names(&self) -> Names {
        self.names
    }

    /// Those of this name, in their order. Costs nothing where there are none, and little where there is one.
    pub(in super::super) fn called(&self, name: Name) -> impl Iterator<Item = &Line> {
        let first = usize::from(self.firsts[name as usize]);
        let among = match (self.names.has(name), self.names.repeats(name)) {
            (false, _) => 0..0,
            (true, false) => first..first + 1,
            (true, true) => first..self.lines.len(),
        };
        self.lines.get(among).unwrap_or_default().iter().filter(move |line| line.name() == name)
    }

    /// Reads the field lines that `head` has from `at` on, with the empty line behind them, and says where that ends. They stand
    /// here in place of what was there. A head is shorter than 4 GiB.
    pub(super) fn read(&mut self, head: &[u8], at: usize) -> Result<usize, Stop> {
        let place = |rest: &[u8]| (head.len() - rest.len()) as u32;
        let mut names = Names::default();
        self.lines.clear();
        let mut line = &head[at..];
        loop {
            let name_length = scan::token(line);
            let mut value = match &line[name_length..] {
                [b':', value @ ..] if name_length > 0 => value,
                [b'\r' | b'\n', ..] if name_length == 0 => {
                    self.names = names;
                    return scan::line_end(line, Stop::Line).map(|behind| head.len() - behind.len());
                }
                [] => return Err(Stop::Partial),
                // A blank: a folded line, or a name that one parser would trim and another would not.
                _ => return Err(Stop::Name),
            };
            // Mostly it is one blank.
            if let [b' ', behind @ ..] = value {
                value = behind;
            }
            while let [b' ' | b'\t', behind @ ..] = value {
                value = behind;
            }
            let (mut text, behind) = value.split_at(scan::text(value));
            let next = scan::line_end(behind, Stop::Value)?;
            while let [before @ .., b' ' | b'\t'] = text {
                text = before;
            }
            if self.lines.len() == MAX_FIELDS {
                return Err(Stop::TooMany);
            }
            let name = Name::of(&line[..name_length]);
            if name != Name::Other {
                if !names.has(name) {
                    self.firsts[name as usize] = self.lines.len() as u8;
                }
                names.note(name);
            }
            let (start, value_start) = (place(line), place(value));
            self.lines.push(Line {
                start,
                name_end: start + name_length as u32,
                value_start,
                value_end: value_start + text.len() as u32,
                name,
            });
            line = next;
        }
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
    /// These, once each.
    pub(in super::super) const fn of(names: &[Name]) -> Self {
        let (mut there, mut at) = (0, 0);
        while at < names.len() {
            there |= 1 << names[at] as u32;
            at += 1;
        }
        Self { there, again: 0 }
    }

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
    const COUNT: usize = Self::Other as usize + 1;

    pub(in super::super) fn of(name: &[u8]) -> Self {
        let is = |known: &str| is_word(name, known.as_bytes());
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
            (12.., b'x') if is_word(&name[..11], b"x-tealgate-") => Self::Ours,
            _ => Self::Other,
        }
    }
}

/// Whether a word of a head, in which there are no control characters, is `known`, which is as long, and of lower-case
/// letters, digits and dashes. Among such octets, setting one bit makes letters lower and takes nothing else for a letter, a
/// digit or a dash; so eight are compared at a time, the last eight once more where they overlap.
fn is_word(name: &[u8], known: &[u8]) -> bool {
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

/// Whether a value of `Connection` is what it usually is, if there is one.
pub(in super::super) fn is_keep_alive(value: &[u8]) -> bool {
    value.len() == 10 && is_word(value, b"keep-alive")
}

/// Whether a value of `Connection` asks to close the connection, and to keep it (RFC 9112 §9.3).
pub(super) fn persistence(value: &[u8]) -> (bool, bool) {
    if is_keep_alive(value) {
        return (false, true);
    }
    members(value).fold((false, false), |(close, keep_alive), option| {
        (close | option.eq_ignore_ascii_case(b"close"), keep_alive | is_keep_alive(option))
    })
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
