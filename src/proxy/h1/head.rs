//! Heads of exchanges with upstreams: writing a request's, reading a response's. Pure.

use std::ops::Range;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use thiserror::Error;

use super::{
    body::Framing,
    field::{self, Lines, MAX_FIELDS, Name},
    scan::{self, Stop},
};

/// The largest head accepted of an upstream, in octets; trailers have the same limit.
pub(super) const MAX_HEAD: usize = 32 * 1024;

/// What is wrong with an upstream's octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(in super::super) enum Malformed {
    /// The status line or a field does not follow the grammar.
    #[error("the head does not follow the grammar")]
    Head,
    /// A line ends in a bare line feed (RFC 9112 §2.2 lets a recipient accept it; two recipients then may differ).
    #[error("a line of the head ends in a bare line feed")]
    BareLineFeed,
    /// The field section is larger than we accept.
    #[error("the field section is larger than {MAX_HEAD} octets or has more than {MAX_FIELDS} fields")]
    TooLarge,
    /// Content-Length is repeated, not a number, or comes with Transfer-Encoding (RFC 9112 §6.3).
    #[error("Content-Length is repeated, not a number, or stands beside Transfer-Encoding")]
    ContentLength,
    /// Transfer-Encoding is anything but a single `chunked`, or comes in HTTP/1.0 (RFC 9112 §6.1).
    #[error("Transfer-Encoding is not a single `chunked`")]
    TransferEncoding,
    /// A chunk does not follow the grammar (RFC 9112 §7.1).
    #[error("a chunk does not follow the grammar")]
    Chunk,
    /// A 101 that nobody asked for, or too many interim answers.
    #[error("an interim answer that nobody asked for")]
    Interim,
    /// It breaks the rules of HTTP/2.
    #[error("it breaks the rules of HTTP/2: {0}")]
    Http2(h2::Reason),
}

/// A response's head, whose lines stand in the octets it was read from.
#[derive(Debug)]
pub(in super::super) struct ResponseHead {
    pub(in super::super) status: StatusCode,
    pub(in super::super) is_http_10: bool,
    /// Where its reason phrase stands, which may be empty.
    pub(in super::super) reason: Range<usize>,
    /// How many octets it takes.
    pub(in super::super) length: usize,
    /// How its body is delimited; `None`: by the end of the connection.
    pub(in super::super) framing: Option<Framing>,
    /// Whether the connection may serve another request once this answer is complete.
    pub(in super::super) keep_alive: bool,
}

/// Writes a request's head; `lines` are whole field lines to go with it. `Content-Length` and `Transfer-Encoding` are the
/// codec's own, by `framing`: what the map has of them is left out.
pub(super) fn write_request(
    into: &mut Vec<u8>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    lines: [&[u8]; 2],
    framing: Framing,
) {
    into.extend_from_slice(method.as_str().as_bytes());
    into.push(b' ');
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    into.extend_from_slice(target.as_bytes());
    into.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in headers {
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
            write_field(into, name, value);
        }
    }
    for line in lines {
        into.extend_from_slice(line);
    }
    match framing {
        Framing::Empty => {}
        Framing::Length(length) => {
            into.extend_from_slice(b"content-length: ");
            write_decimal(into, length);
            into.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => into.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    into.extend_from_slice(b"\r\n");
}

pub(super) fn write_field(into: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    into.extend_from_slice(name.as_str().as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value.as_bytes());
    into.extend_from_slice(b"\r\n");
}

fn write_decimal(into: &mut Vec<u8>, number: u64) {
    use std::io::Write as _;
    // Writing to a Vec does not fail.
    write!(into, "{number}").ok();
}

/// Reads the head of an answer to `to` that `octets` begin with, or `None` while it is not whole. Its lines go into `lines`.
pub(in super::super) fn read_response(
    octets: &[u8],
    to: &Method,
    lines: &mut Lines,
) -> Result<Option<ResponseHead>, Malformed> {
    if octets.is_empty() {
        return Ok(None);
    }
    let (StatusLine { is_http_10, code, reason }, length) = match read_lines(octets, lines) {
        Ok(read) => read,
        Err(Stop::Partial) if octets.len() < MAX_HEAD => return Ok(None),
        Err(stop) => return Err(stop.into()),
    };
    if length > MAX_HEAD {
        return Err(Malformed::TooLarge);
    }
    let head = &octets[..length];
    // RFC 9110 §15: there are no others.
    let code = Some(code).filter(|code| (100..600).contains(code));
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Head)?;
    let mut said = Said::default();
    for name in [Name::ContentLength, Name::TransferEncoding, Name::Connection] {
        lines.called(name).try_for_each(|line| said.note(name, line.value_in(head)))?;
    }
    let framing = said.framing(status, is_http_10, to)?;
    let keep_alive = said.keeps_alive(is_http_10) && framing.is_some() && !said.is_doubtful(status);
    Ok(Some(ResponseHead { status, is_http_10, reason, length, framing, keep_alive }))
}

/// A status line (RFC 9112 §4).
pub(super) struct StatusLine {
    pub(super) is_http_10: bool,
    pub(super) code: u16,
    /// Where the reason phrase stands.
    pub(super) reason: Range<usize>,
}

/// Reads the status line and the field lines. Says where they end, too.
pub(super) fn read_lines(octets: &[u8], lines: &mut Lines) -> Result<(StatusLine, usize), Stop> {
    let place = |rest: &[u8]| octets.len() - rest.len();
    let (is_http_10, rest) = scan::version(octets)?;
    let (code, rest) = match rest {
        [b' ', hundreds @ b'0'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] => {
            ([hundreds, tens, ones].iter().fold(0, |code, digit| code * 10 + u16::from(**digit - b'0')), rest)
        }
        _ if rest.len() < " 200".len() => return Err(Stop::Partial),
        _ => return Err(Stop::Line),
    };
    // The blank may be missing where there is no reason.
    let (reason, rest) = match rest {
        [b' ', rest @ ..] => rest.split_at(scan::text(rest)),
        _ => rest.split_at(0),
    };
    let fields = scan::line_end(rest, Stop::Line)?;
    let reason = place(rest) - reason.len()..place(rest);
    Ok((StatusLine { is_http_10, code, reason }, lines.read(octets, place(fields))?))
}

/// Takes a head of this length off the front of `octets`, and puts its fields, which stand at `lines`, into `fields`: a map
/// that was used before brings its memory along.
pub(super) fn take_fields(
    octets: &mut BytesMut,
    length: usize,
    lines: &Lines,
    fields: &mut HeaderMap,
) -> Result<(), Malformed> {
    let head = octets.split_to(length).freeze();
    fields.clear();
    for line in lines.iter() {
        let name = HeaderName::from_bytes(line.name_in(&head));
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value_in(&head)));
        match (name, value) {
            (Ok(name), Ok(value)) => fields.try_append(name, value).map_err(|_| Malformed::TooLarge)?,
            _ => return Err(Malformed::Head),
        };
    }
    Ok(())
}

/// Reads the trailer section that `octets` begin with, its final empty line included, and says how long it is, or `None`
/// while it is not whole. Its lines go into `lines`.
pub(in super::super) fn read_trailers(octets: &[u8], lines: &mut Lines) -> Result<Option<usize>, Malformed> {
    match lines.read(octets, 0) {
        Ok(length) if length > MAX_HEAD => Err(Malformed::TooLarge),
        Ok(length) => Ok(Some(length)),
        Err(Stop::Partial) if octets.len() < MAX_HEAD => Ok(None),
        Err(stop) => Err(stop.into()),
    }
}

impl From<Stop> for Malformed {
    fn from(stop: Stop) -> Self {
        match stop {
            // It is over the limit, and not whole yet.
            Stop::Partial | Stop::TooMany => Self::TooLarge,
            Stop::BareLineFeed => Self::BareLineFeed,
            Stop::Line | Stop::Target | Stop::Version | Stop::Name | Stop::Value => Self::Head,
        }
    }
}

/// What a response's fields say of its framing and of its connection, taken down as they are read.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    codings: u32,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Said {
    fn note(&mut self, name: Name, value: &[u8]) -> Result<(), Malformed> {
        match name {
            Name::ContentLength => {
                let length = field::decimal(value).ok_or(Malformed::ContentLength)?;
                if self.length.replace(length).is_some() {
                    return Err(Malformed::ContentLength);
                }
            }
            Name::TransferEncoding => {
                self.codings += 1;
                self.chunked = value.eq_ignore_ascii_case(b"chunked");
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

    /// How the body that follows is delimited: RFC 9112 §6.3, read strictly. `None`: by the end of the connection.
    fn framing(&self, status: StatusCode, is_http_10: bool, to: &Method) -> Result<Option<Framing>, Malformed> {
        let chunked = match self.codings {
            0 => false,
            1 if self.chunked && !is_http_10 => true,
            _ => return Err(Malformed::TransferEncoding),
        };
        if chunked && self.length.is_some() {
            return Err(Malformed::ContentLength);
        }
        let bodiless = status.is_informational() || matches!(status.as_u16(), 204 | 304) || to == Method::HEAD;
        Ok(match self.length {
            _ if bodiless => Some(Framing::Empty),
            _ if chunked => Some(Framing::Chunked),
            Some(length) => Some(Framing::Length(length)),
            None => None,
        })
    }

    /// Whether the answer has none, and yet its head speaks of a body (RFC 9112 §6.1, RFC 9110 §8.6 forbid it): whoever sent
    /// one may send it, and the next answer would begin in its midst. A 304's length is that of another answer.
    fn is_doubtful(&self, status: StatusCode) -> bool {
        let has_length = self.length.is_some_and(|length| length > 0);
        match status.as_u16() {
            304 => self.codings > 0,
            100..200 | 204 => self.codings > 0 || has_length,
            _ => false,
        }
    }

    /// Whether the connection stays open after the answer (RFC 9112 §9.3).
    fn keeps_alive(&self, is_http_10: bool) -> bool {
        !self.close && (!is_http_10 || self.keep_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(octets: &[u8], to: Method) -> Result<Option<ResponseHead>, Malformed> {
        read_response(octets, &to, &mut Lines::default())
    }

    #[test]
    fn how_a_body_is_delimited_is_never_guessed() {
        use Framing::{Chunked, Empty, Length};
        for (head, to, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Method::GET, Ok((Some(Length(12)), true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Method::HEAD, Ok((Some(Empty), true))),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n", Method::GET, Ok((Some(Empty), true))),
            ("HTTP/1.1 204\r\n\r\n", Method::GET, Ok((Some(Empty), true))),
            ("HTTP/1.1 204\r\nContent-Length: 0\r\n\r\n", Method::GET, Ok((Some(Empty), true))),
            ("HTTP/1.1 204\r\nContent-Length: 12\r\n\r\n", Method::GET, Ok((Some(Empty), false))),
            ("HTTP/1.1 204\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET, Ok((Some(Empty), false))),
            ("HTTP/1.1 304\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET, Ok((Some(Empty), false))),
            ("HTTP/1.1 103\r\nContent-Length: 12\r\n\r\n", Method::GET, Ok((Some(Empty), false))),
            ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Method::HEAD, Ok((Some(Empty), true))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Method::GET, Ok((Some(Chunked), true))),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::GET, Ok((None, false))),
            (
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
                Method::GET,
                Ok((Some(Length(0)), false)),
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", Method::GET, Ok((Some(Length(1)), false))),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n",
                Method::GET,
                Ok((Some(Length(1)), true)),
            ),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET, Err(Malformed::TransferEncoding)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                Method::GET,
                Err(Malformed::TransferEncoding),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
                Method::GET,
                Err(Malformed::ContentLength),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                Method::GET,
                Err(Malformed::ContentLength),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", Method::GET, Err(Malformed::ContentLength)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1,1\r\n\r\n", Method::GET, Err(Malformed::ContentLength)),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                Method::GET,
                Err(Malformed::ContentLength),
            ),
            ("HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n", Method::GET, Err(Malformed::BareLineFeed)),
            ("HTTP/1.1 200 OK\r\nA: 1\r\n b\r\n\r\n", Method::GET, Err(Malformed::Head)),
            ("HTTP/1.1 200 OK\r\nA : 1\r\n\r\n", Method::GET, Err(Malformed::Head)),
            ("HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", Method::GET, Err(Malformed::Head)),
            ("HTTP/2 200 OK\r\n\r\n", Method::GET, Err(Malformed::Head)),
            ("HTTP/1.1 099 Low\r\n\r\n", Method::GET, Err(Malformed::Head)),
            ("HTTP/1.1 600 High\r\n\r\n", Method::GET, Err(Malformed::Head)),
        ] {
            let found = read(head.as_bytes(), to).map(|head| head.map(|h| (h.framing, h.keep_alive)));
            assert_eq!(found, expected.map(Some), "{head:?}");
        }
    }

    #[test]
    fn a_head_is_read_whole_or_not_at_all_wherever_it_is_cut() {
        let head = b"HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 3\r\n\r\n";
        for cut in 0..head.len() {
            assert!(matches!(read(&head[..cut], Method::GET), Ok(None)), "{cut}");
        }
        let (mut octets, mut lines) = (BytesMut::from(&[&head[..], b"abc"].concat()[..]), Lines::default());
        let read = read_response(&octets, &Method::GET, &mut lines).expect("well-formed").expect("whole");
        assert_eq!((&octets[read.reason], read.length), (&b"OK"[..], head.len()));
        let mut fields = HeaderMap::new();
        take_fields(&mut octets, read.length, &lines, &mut fields).expect("fields");
        assert_eq!((fields.get_all("set-cookie").iter().count(), &octets[..]), (2, &b"abc"[..]));
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &[b'a'; MAX_HEAD]].concat();
        assert_eq!(read(&endless, Method::GET).err(), Some(Malformed::TooLarge));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(read(many.as_bytes(), Method::GET).err(), Some(Malformed::TooLarge));
        let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(2 * MAX_HEAD));
        assert_eq!(read(long.as_bytes(), Method::GET).err(), Some(Malformed::TooLarge));
    }

    #[test]
    fn the_codec_alone_decides_on_framing() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("shop.test"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("99"));
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("gzip"));
        let uri = Uri::from_static("http://ignored.test/a?b=c");
        for (framing, line) in [
            (Framing::Empty, ""),
            (Framing::Length(7), "content-length: 7\r\n"),
            (Framing::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let mut written = Vec::new();
            write_request(&mut written, &Method::PUT, &uri, &headers, [b"a: b\r\n", b""], framing);
            let expected = format!("PUT /a?b=c HTTP/1.1\r\nhost: shop.test\r\na: b\r\n{line}\r\n");
            assert_eq!(String::from_utf8(written), Ok(expected));
        }
    }
}
