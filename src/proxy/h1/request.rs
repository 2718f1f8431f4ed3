//! A request's head: where it ends, what it says of its framing, and whether it can be read in one way only (RFC 9112 §11.2).
//! Pure: octets in, a [`RequestHead`] and the places of its lines out.

use std::ops::Range;

use http::Method;

use super::{
    body::Framing,
    field::{self, Lines, Name},
    scan::{self, Stop},
};

/// What a request was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Violation {
    /// It can be read in two ways, or in none.
    Malformed(&'static str),
    /// The head is over the limit.
    HeadTooLarge,
    /// The request line alone is over the limit.
    TargetTooLong,
    /// The head did not come in time.
    TooSlow,
}

/// A request's head, whose lines stand in the octets it was read from.
#[derive(Debug)]
pub(in super::super) struct RequestHead {
    /// Where its request line begins.
    pub(in super::super) first: usize,
    pub(in super::super) method: Method,
    /// Where its target stands.
    pub(in super::super) target: Range<usize>,
    pub(in super::super) is_http_10: bool,
    /// How many octets it takes, empty lines before it included.
    pub(in super::super) length: usize,
    /// How its body is delimited.
    pub(in super::super) framing: Framing,
    /// Whether another request may follow (RFC 9112 §9.3).
    pub(in super::super) keep_alive: bool,
}

/// Reads the head that `octets` begin with, or `None` while it is not whole. `searched` is how many of them were found not
/// to end it before: a head that comes in pieces is parsed once. Its lines go into `lines`.
pub(in super::super) fn read_request(
    octets: &[u8],
    searched: &mut usize,
    limit: usize,
    lines: &mut Lines,
) -> Result<Option<RequestHead>, Violation> {
    if *searched > 0 && !ends_within(octets, searched.saturating_sub(3)) {
        *searched = octets.len();
        return within(octets, limit).map(|()| None);
    }
    let (line, length) = match read_lines(octets, lines) {
        Ok(read) => read,
        Err(Stop::Partial) => {
            *searched = octets.len();
            return within(octets, limit).map(|()| None);
        }
        Err(stop) => return Err(why(stop, octets, limit)),
    };
    let head = &octets[..length];
    if length > limit {
        within(&head[..=limit], limit)?;
    }
    *searched = 0;
    let RequestLine { first, method, target, is_http_10 } = line;
    let mut said = Said::default();
    for name in [Name::ContentLength, Name::TransferEncoding, Name::Connection] {
        lines.called(name).try_for_each(|line| said.note(name, line.value_in(head)))?;
    }
    Ok(Some(RequestHead {
        first,
        method: Method::from_bytes(&head[method]).map_err(|_| Violation::Malformed("it does not parse"))?,
        target,
        is_http_10,
        length,
        framing: said.framing(is_http_10)?,
        keep_alive: !said.close && (!is_http_10 || said.keep_alive),
    }))
}

/// Where the parts of a request line stand (RFC 9112 §3).
pub(super) struct RequestLine {
    pub(super) first: usize,
    pub(super) method: Range<usize>,
    pub(super) target: Range<usize>,
    pub(super) is_http_10: bool,
}

/// Reads the request line and the field lines. Says where they end, too.
pub(super) fn read_lines(octets: &[u8], lines: &mut Lines) -> Result<(RequestLine, usize), Stop> {
    let place = |rest: &[u8]| octets.len() - rest.len();
    let line = scan::skip_empty_lines(octets)?;
    let method = scan::token(line);
    let rest = scan::word(line, method, Stop::Line)?;
    let target = place(rest)..place(rest) + scan::target(rest);
    let rest = scan::word(rest, target.len(), Stop::Target)?;
    let (is_http_10, rest) = scan::version(rest)?;
    let fields = scan::line_end(rest, Stop::Line)?;
    let first = place(line);
    let line = RequestLine { first, method: first..first + method, target, is_http_10 };
    Ok((line, lines.read(octets, place(fields))?))
}

/// Whether an empty line ends somewhere behind `from`. A bare LF ends nothing, but its head has to be looked at to be
/// refused for it.
fn ends_within(octets: &[u8], from: usize) -> bool {
    memchr::memchr_iter(b'\n', &octets[from..]).any(|lf| {
        let behind = &octets[from + lf + 1..];
        behind.starts_with(b"\r\n") || behind.starts_with(b"\n")
    })
}

/// Whether what there is of a head is within the limit.
fn within(octets: &[u8], limit: usize) -> Result<(), Violation> {
    if octets.len() <= limit {
        return Ok(());
    }
    // Empty lines before the request line are to be ignored (RFC 9112 §2.2).
    let line = octets.iter().position(|octet| !matches!(octet, b'\r' | b'\n')).unwrap_or(0);
    Err(match memchr::memchr(b'\n', &octets[line..]) {
        Some(_) => Violation::HeadTooLarge,
        None => Violation::TargetTooLong,
    })
}

fn why(stop: Stop, octets: &[u8], limit: usize) -> Violation {
    match stop {
        Stop::TooMany => Violation::HeadTooLarge,
        // What is over the limit is refused for that, whatever else is wrong with it.
        _ if octets.len() > limit => within(octets, limit).err().unwrap_or(Violation::HeadTooLarge),
        Stop::BareLineFeed => Violation::Malformed("bare LF"),
        Stop::Target => Violation::Malformed("a character that no target may have"),
        Stop::Version => Violation::Malformed("a protocol that is not HTTP/1"),
        Stop::Name => Violation::Malformed("a field name that is none, or a folded line"),
        Stop::Value => Violation::Malformed("a character that no field may have"),
        Stop::Line | Stop::Partial => Violation::Malformed("it does not parse"),
    }
}

/// What a request's fields say of its framing and of its connection.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Said {
    fn note(&mut self, name: Name, value: &[u8]) -> Result<(), Violation> {
        match name {
            Name::ContentLength => {
                let length = field::decimal(value).ok_or(Violation::Malformed("bad Content-Length"))?;
                if self.length.replace(length).is_some() {
                    return Err(Violation::Malformed("repeated Content-Length"));
                }
            }
            Name::TransferEncoding => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::Malformed("Transfer-Encoding other than a single chunked"));
                }
                self.chunked = true;
            }
            Name::Connection => {
                let (close, keep_alive) = field::persistence(value);
                self.close |= close;
                self.keep_alive |= keep_alive;
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §6.3, read strictly.
    fn framing(&self, is_http_10: bool) -> Result<Framing, Violation> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Violation::Malformed("both Content-Length and Transfer-Encoding")),
            (true, None) if is_http_10 => Err(Violation::Malformed("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::Empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(octets: &[u8]) -> Result<Option<RequestHead>, Violation> {
        read_request(octets, &mut 0, 1024, &mut Lines::default())
    }

    #[test]
    fn a_head_says_how_its_body_ends_and_whether_another_may_follow() {
        use Framing::{Chunked, Empty, Length};
        for (request, framing, keep_alive) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Empty, true),
            ("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", Empty, true),
            ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", Empty, false),
            ("GET / HTTP/1.0\r\n\r\n", Empty, false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Empty, true),
            ("POST / HTTP/1.1\r\nContent-Length:  5 \r\n\r\n", Length(5), true),
            ("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", Length(0), true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", Chunked, true),
            ("GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n", Empty, true),
        ] {
            let head = read(request.as_bytes()).expect(request).expect("whole");
            assert_eq!(
                (head.framing, head.keep_alive, head.length),
                (framing, keep_alive, request.len()),
                "{request:?}"
            );
            assert_eq!(&request[head.target], "/");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n\r\n",
            "content-length: 5, 5\r\n\r\n",
            "content-length: +5\r\n\r\n",
            "content-length: 0x5\r\n\r\n",
            "content-length:\r\n\r\n",
            "content-length: 99999999999999999999\r\n\r\n",
            "content-length : 5\r\n\r\n",
            "transfer-encoding: gzip, chunked\r\n\r\n",
            "transfer-encoding: chunked, chunked\r\n\r\n",
            "transfer-encoding: identity\r\n\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer-encoding:\u{b}chunked\r\n\r\n",
            "host: a\nx: y\r\n\r\n",
            "x: y\r\n folded\r\n\r\n",
            "x: y\rz: a\r\n\r\n",
            "x: \0\r\n\r\n",
            "\n",
        ] {
            let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}");
            assert!(matches!(read(request.as_bytes()), Err(Violation::Malformed(_))), "{request:?}");
        }
        for request in [
            "GET /#a HTTP/1.1\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\n\r\n",
            "GET /a\tb HTTP/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
            "\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert!(matches!(read(request.as_bytes()), Err(Violation::Malformed(_))), "{request:?}");
        }
    }

    #[test]
    fn a_head_over_the_limit_is_refused_before_it_is_whole() {
        let long = "a".repeat(2000);
        for (request, expected) in [
            (format!("GET /{long}"), Violation::TargetTooLong),
            (format!("\r\nGET /{long}"), Violation::TargetTooLong),
            (format!("GET /{long} HTTP/1.1\r\n\r\n"), Violation::TargetTooLong),
            (format!("GET / HTTP/1.1\r\na: {long}"), Violation::HeadTooLarge),
            (format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n"), Violation::HeadTooLarge),
            (format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(200)), Violation::HeadTooLarge),
        ] {
            assert_eq!(read(request.as_bytes()).err(), Some(expected), "{}", &request[..30]);
        }
    }

    proptest! {
        #[test]
        fn how_the_octets_arrive_does_not_matter(
            request in prop_oneof![
                Just("GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b"),
                Just("\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 11\r\n\r\nhello\r\n\r\nab"),
                Just("POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
                Just("GET / HTTP/1.1\r\nhost: a\n\r\n"),
                Just("GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n"),
            ],
            step in 1..40_usize,
        ) {
            let at_once = read(request.as_bytes());
            let (mut searched, mut lines, mut to) = (0, Lines::default(), 0);
            let in_pieces = loop {
                to = (to + step).min(request.len());
                match read_request(&request.as_bytes()[..to], &mut searched, 1024, &mut lines) {
                    Ok(None) if to < request.len() => {}
                    read => break read,
                }
            };
            match (at_once, in_pieces) {
                (Ok(Some(one)), Ok(Some(other))) => prop_assert_eq!(one.length, other.length),
                (Err(_), Err(_)) => {}
                (one, other) => prop_assert!(false, "{one:?} but {other:?}"),
            }
        }

        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some(head)) = read(&octets) {
                prop_assert!(head.length <= octets.len());
            }
        }
    }
}
