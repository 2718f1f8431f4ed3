//! Where the requests of an HTTP/1 connection begin and end, octet by octet. hyper parses them; this scanner walks the same
//! octets before, and refuses what two parsers could read in two ways (RFC 9112 §11.2): hyper would take a request with
//! both `Content-Length` and `Transfer-Encoding`, or a bare LF, and the service above it cannot see that it did. It also
//! says where heads end, so that a head is handed on only when it is whole, and one that is slow or too large is
//! answered by us.
//!
//! The scanner is only ever stricter than hyper: should the two disagree, a request is refused, not smuggled.

/// What a request was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// It can be read in two ways, or in none.
    Malformed(&'static str),
    /// The head is over the limit.
    HeadTooLarge,
    /// The request line alone is over the limit.
    TargetTooLong,
    /// The head did not come in time.
    TooSlow,
}

/// Most fields hyper's parser takes without an allocation; more are refused.
const MAX_FIELDS: usize = 100;
/// RFC 9112 §7.1.1: extensions are to be limited.
const MAX_CHUNK_LINE: usize = 256;

/// Where in the stream of octets the scanner stands.
#[derive(Debug)]
enum State {
    /// Before the end of a head; so many octets of it have been searched for its end.
    Head {
        searched: usize,
    },
    /// In a body, with so many octets to come.
    Length(u64),
    Chunk(Chunk),
    /// Behind the head of a request that asks for another protocol.
    Upgrading,
}

/// Where in a chunked body (RFC 9112 §7.1).
#[derive(Debug)]
enum Chunk {
    /// In the line with the size; `digits` of it were seen, `octets` in all.
    Size {
        size: u64,
        digits: u8,
        octets: usize,
        extended: bool,
    },
    SizeLf {
        size: u64,
    },
    Octets(u64),
    OctetsCr,
    OctetsLf,
    /// In the trailer section: octets in all, and on this line; after a CR.
    Trailer {
        octets: usize,
        on_line: usize,
        cr: bool,
    },
}

const CHUNK_START: Chunk = Chunk::Size { size: 0, digits: 0, octets: 0, extended: false };

pub(super) struct Scanner {
    state: State,
    head_size: usize,
    heads: u64,
}

impl Scanner {
    pub(super) fn new(head_size: usize) -> Self {
        Self { state: State::Head { searched: 0 }, head_size, heads: 0 }
    }

    /// Walks on over `octets`, which begin where the last call stopped clearing. Returns how many of them may be handed
    /// on; those behind are the start of a head that is not whole yet, or belong behind an upgrade. On a violation the
    /// octets before it may be handed on; nothing after it will be.
    pub(super) fn advance(&mut self, octets: &[u8]) -> (usize, Option<Violation>) {
        let mut cleared = 0;
        while cleared < octets.len() {
            let rest = &octets[cleared..];
            let step = match &mut self.state {
                State::Head { .. } => self.head(rest),
                State::Length(left) => {
                    let here = (*left).min(rest.len() as u64);
                    *left -= here;
                    if *left == 0 {
                        self.state = State::Head { searched: 0 };
                    }
                    Ok(Some(here as usize))
                }
                State::Chunk(_) => self.chunk(rest).map(Some),
                State::Upgrading => Ok(None),
            };
            match step {
                Ok(Some(here)) => cleared += here,
                Ok(None) => break,
                Err(violation) => return (cleared, Some(violation)),
            }
        }
        (cleared, None)
    }

    /// How many whole heads it has seen.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether it stands between two requests, or in a head.
    pub(super) fn in_head(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// Whether more is to come of a body.
    pub(super) fn in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunk(_))
    }

    /// Whether it stopped behind a request that asks for another protocol.
    pub(super) fn is_upgrading(&self) -> bool {
        matches!(self.state, State::Upgrading)
    }

    /// The upgrade was declined: what follows is another request.
    pub(super) fn resume(&mut self) {
        self.state = State::Head { searched: 0 };
    }

    /// The length of the head that `octets` begin with; `None` if it is not whole.
    fn head(&mut self, octets: &[u8]) -> Result<Option<usize>, Violation> {
        let State::Head { searched } = &mut self.state else { return Ok(None) };
        // A head that comes in pieces is searched for its end only, and each octet once.
        if *searched > 0 && !ends_within(octets, searched.saturating_sub(3)) {
            *searched = octets.len();
            return self.unfinished(octets).map(|()| None);
        }
        let mut head = Head::default();
        let mut at = 0;
        for end in memchr::memchr_iter(b'\n', octets) {
            let line = octets[at..end].strip_suffix(b"\r").ok_or(Violation::Malformed("bare LF"))?;
            if end >= self.head_size {
                return Err(if at == 0 { Violation::TargetTooLong } else { Violation::HeadTooLarge });
            }
            at = end + 1;
            match (head.lines, line.is_empty()) {
                // RFC 9112 §2.2: empty lines before the request line are to be ignored.
                (0, true) => {}
                (_, true) => {
                    self.state = head.body()?;
                    self.heads += 1;
                    return Ok(Some(at));
                }
                (0, false) => head.request_line(line)?,
                (_, false) => head.field(line)?,
            }
        }
        self.state = State::Head { searched: octets.len() };
        self.unfinished(octets).map(|()| None)
    }

    fn unfinished(&self, octets: &[u8]) -> Result<(), Violation> {
        if octets.len() <= self.head_size {
            return Ok(());
        }
        Err(match memchr::memchr(b'\n', octets) {
            Some(_) => Violation::HeadTooLarge,
            None => Violation::TargetTooLong,
        })
    }

    /// Walks over a chunked body; returns how many octets belong to it.
    fn chunk(&mut self, octets: &[u8]) -> Result<usize, Violation> {
        let State::Chunk(chunk) = &mut self.state else { return Ok(0) };
        let mut at = 0;
        while let Some(&octet) = octets.get(at) {
            match chunk {
                Chunk::Octets(left) => {
                    let here = (*left).min((octets.len() - at) as u64);
                    *left -= here;
                    at += here as usize;
                    if *left == 0 {
                        *chunk = Chunk::OctetsCr;
                    }
                    continue;
                }
                Chunk::Size { size, digits, octets, extended } => {
                    *octets += 1;
                    match (octet, *extended) {
                        (b'\r', _) if *digits > 0 => *chunk = Chunk::SizeLf { size: *size },
                        (b'\n' | b'\0', _) => return Err(Violation::Malformed("bad chunk line")),
                        (b';', false) if *digits > 0 => *extended = true,
                        (_, true) if *octets <= MAX_CHUNK_LINE => {}
                        (_, false) if *digits < 15 && octet.is_ascii_hexdigit() => {
                            let digit = char::from(octet).to_digit(16).unwrap_or_default();
                            *size = *size << 4 | u64::from(digit);
                            *digits += 1;
                        }
                        _ => return Err(Violation::Malformed("bad chunk line")),
                    }
                }
                Chunk::SizeLf { size } => {
                    let size = expect(octet, b'\n').map(|()| *size)?;
                    *chunk = match size {
                        0 => Chunk::Trailer { octets: 0, on_line: 0, cr: false },
                        _ => Chunk::Octets(size),
                    };
                }
                Chunk::OctetsCr => {
                    expect(octet, b'\r')?;
                    *chunk = Chunk::OctetsLf;
                }
                Chunk::OctetsLf => {
                    expect(octet, b'\n')?;
                    *chunk = CHUNK_START;
                }
                Chunk::Trailer { octets, on_line, cr } => {
                    *octets += 1;
                    if *octets > self.head_size {
                        return Err(Violation::HeadTooLarge);
                    }
                    match (octet, *cr) {
                        (b'\n', true) if *on_line == 0 => {
                            self.state = State::Head { searched: 0 };
                            return Ok(at + 1);
                        }
                        (b'\n', true) => (*on_line, *cr) = (0, false),
                        (b'\n', false) | (_, true) => return Err(Violation::Malformed("bare CR or LF in a trailer")),
                        (b'\r', false) => *cr = true,
                        _ => *on_line += 1,
                    }
                }
            }
            at += 1;
        }
        Ok(at)
    }
}

fn expect(octet: u8, wanted: u8) -> Result<(), Violation> {
    if octet == wanted { Ok(()) } else { Err(Violation::Malformed("a chunk does not end where it says")) }
}

/// Whether an empty line ends somewhere behind `from`.
fn ends_within(octets: &[u8], from: usize) -> bool {
    memchr::memchr_iter(b'\n', &octets[from..]).any(|lf| {
        let behind = &octets[from + lf + 1..];
        // A bare LF ends nothing, but the head has to be looked at to be refused for it.
        behind.starts_with(b"\r\n") || behind.starts_with(b"\n")
    })
}

/// What decides on the length of the body (RFC 9112 §6.3).
#[derive(Default)]
struct Head {
    lines: usize,
    is_http_10: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl Head {
    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        // RFC 9112 §3.2 has no fragment in a target; hyper would drop it unseen. A method may have such a character.
        if memchr::memrchr(b'#', line) > memchr::memchr(b' ', line) {
            return Err(Violation::Malformed("fragment in the target"));
        }
        self.lines = 1;
        self.is_http_10 = line.ends_with(b"HTTP/1.0");
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        self.lines += 1;
        if self.lines > MAX_FIELDS + 1 {
            return Err(Violation::HeadTooLarge);
        }
        match line[0] {
            b' ' | b'\t' => return Err(Violation::Malformed("folded field line")),
            b'c' | b'C' => {
                if let Some(value) = value_of(line, b"content-length") {
                    let length = decimal(value).ok_or(Violation::Malformed("bad Content-Length"))?;
                    if self.length.replace(length).is_some() {
                        return Err(Violation::Malformed("repeated Content-Length"));
                    }
                }
            }
            b't' | b'T' => {
                if let Some(value) = value_of(line, b"transfer-encoding") {
                    if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Violation::Malformed("Transfer-Encoding other than a single chunked"));
                    }
                    self.chunked = true;
                }
            }
            b'u' | b'U' => self.upgrade |= value_of(line, b"upgrade").is_some(),
            _ => {}
        }
        Ok(())
    }

    fn body(&self) -> Result<State, Violation> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Violation::Malformed("both Content-Length and Transfer-Encoding")),
            (true, None) if self.is_http_10 => Err(Violation::Malformed("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(State::Chunk(CHUNK_START)),
            (false, Some(length)) if length > 0 => Ok(State::Length(length)),
            // A request with a body is not switched (see `headers`), so it needs no stop behind it.
            (false, _) if self.upgrade && !self.is_http_10 => Ok(State::Upgrading),
            (false, _) => Ok(State::Head { searched: 0 }),
        }
    }
}

/// The value of this field line without white space around it, if it is called `name`.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (given, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":").filter(|_| given.eq_ignore_ascii_case(name))?;
    Some(value.trim_ascii())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all_digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(octets: &[u8]) -> (usize, Option<Violation>) {
        Scanner::new(1024).advance(octets)
    }

    #[test]
    fn whole_requests_are_handed_on_and_the_start_of_the_next_is_held() {
        for (requests, next) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET / HT"),
            ("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", ""),
            ("POST / HTTP/1.1\r\nContent-Length:  5 \r\n\r\nhello", "P"),
            ("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", "P"),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nt: 1\r\n\r\n",
                "GET / HTTP/1.1\r\n",
            ),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", "\r\n"),
            ("GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n", "\u{1}\n\n any octets"),
        ] {
            let all = format!("{requests}{next}");
            assert_eq!(scan(all.as_bytes()), (requests.len(), None), "{all:?}");
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
            "transfer-encoding: gzip, chunked\r\n\r\n",
            "transfer-encoding: chunked, chunked\r\n\r\n",
            "transfer-encoding: identity\r\n\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer-encoding:\u{b}chunked\r\n\r\n",
            "host: a\nx: y\r\n\r\n",
            "x: y\r\n folded\r\n\r\n",
            "\n",
        ] {
            let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}");
            assert!(matches!(scan(request.as_bytes()), (0, Some(Violation::Malformed(_)))), "{request:?}");
        }
        let (_, refused) = scan(b"GET /#a HTTP/1.1\r\n");
        assert_eq!(refused, Some(Violation::Malformed("fragment in the target")));
        let (_, refused) = scan(b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(refused, Some(Violation::Malformed("Transfer-Encoding in HTTP/1.0")));
    }

    #[test]
    fn a_chunk_that_is_not_what_it_says_is_refused() {
        let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        for body in [
            "5\nhello",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhell\r\n\r\n",
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 \r\n",
            "ffffffffffffffff\r\n",
            "5;\0\r\n",
            "0\r\nt: 1\n\r\n",
            "0\r\n\n",
        ] {
            let request = format!("{head}{body}");
            let (cleared, refused) = scan(request.as_bytes());
            assert_eq!(cleared, head.len(), "{body:?}");
            assert!(matches!(refused, Some(Violation::Malformed(_))), "{body:?}");
        }
    }

    #[test]
    fn a_head_over_the_limit_is_refused_before_it_is_whole() {
        let long = "a".repeat(2000);
        assert_eq!(scan(format!("GET /{long}").as_bytes()).1, Some(Violation::TargetTooLong));
        assert_eq!(scan(format!("GET /{long} HTTP/1.1\r\n\r\n").as_bytes()).1, Some(Violation::TargetTooLong));
        assert_eq!(scan(format!("GET / HTTP/1.1\r\na: {long}").as_bytes()).1, Some(Violation::HeadTooLarge));
        assert_eq!(scan(format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n").as_bytes()).1, Some(Violation::HeadTooLarge));
        assert_eq!(
            scan(format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(101)).as_bytes()).1,
            Some(Violation::HeadTooLarge)
        );
    }

    proptest! {
        #[test]
        fn how_the_octets_arrive_does_not_matter(
            requests in proptest::collection::vec(prop_oneof![
                Just("GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
                Just("POST / HTTP/1.1\r\ncontent-length: 11\r\n\r\nhello\r\n\r\nab"),
                Just("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\n\r\n1\r\nb;x\r\nhello world\r\n0\r\na: b\r\n\r\n"),
                Just("POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
                Just("GET / HTTP/1.1\r\nhost: a\n\r\n"),
                Just("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nfour\r\n"),
            ], 1..6),
            cuts in proptest::collection::vec(1..40_usize, 1..60),
        ) {
            let all = requests.concat();
            let (whole, refused) = scan(all.as_bytes());
            let mut scanner = Scanner::new(1024);
            let (mut from, mut to, mut cuts) = (0, 0, cuts.into_iter().cycle());
            let mut seen = None;
            while to < all.len() && seen.is_none() {
                to = (to + cuts.next().unwrap_or(1)).min(all.len());
                let (cleared, violation) = scanner.advance(&all.as_bytes()[from..to]);
                from += cleared;
                seen = violation;
            }
            prop_assert_eq!(seen, refused);
            // A chunk may be handed on in part before its end is found wrong.
            prop_assert!(from == whole || refused.is_some());
        }

        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (cleared, _) = scan(&octets);
            prop_assert!(cleared <= octets.len());
        }
    }
}
