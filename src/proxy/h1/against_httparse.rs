//! Our reading of heads against httparse's, on heads made of good and bad parts and then damaged: the two take the same ones,
//! and read the same in them. But we take no bare LF for a line's end, no target that is no URI, and no empty line before an
//! answer.

use proptest::{prelude::*, sample::select};

use super::{
    Lines,
    against_hyper::{damage, damaged, field_lines},
    head, request,
    scan::Stop,
};

/// What stands in a head: the parts of its first line, its fields, and how long it is.
type Read = (String, Vec<(String, Vec<u8>)>, usize);

fn our_request(octets: &[u8]) -> Result<Read, Stop> {
    let mut lines = Lines::default();
    let (line, length) = request::read_lines(octets, &mut lines)?;
    let text = |part| String::from_utf8_lossy(&octets[part]).into_owned();
    let first = format!("{} {} {}", text(line.method), text(line.target), u8::from(!line.is_http_10));
    Ok((first, fields(octets, &lines), length))
}

fn our_answer(octets: &[u8]) -> Result<Read, Stop> {
    let mut lines = Lines::default();
    let (line, length) = head::read_lines(octets, &mut lines)?;
    let reason = String::from_utf8_lossy(&octets[line.reason]).into_owned();
    Ok((format!("{} {} {reason}", u8::from(!line.is_http_10), line.code), fields(octets, &lines), length))
}

fn fields(octets: &[u8], lines: &Lines) -> Vec<(String, Vec<u8>)> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    lines.iter().map(|line| (text(line.name_in(octets)), line.value_in(octets).to_vec())).collect()
}

fn their_request(octets: &[u8]) -> Option<Read> {
    let mut slots = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut slots);
    let Ok(httparse::Status::Complete(length)) = parsed.parse(octets) else { return None };
    let target = parsed.path?;
    let is_uri = target.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'#');
    let first = format!("{} {target} {}", parsed.method?, parsed.version?);
    let fields = parsed.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
    (is_uri && !has_bare_line_feed(&octets[..length])).then_some((first, fields, length))
}

fn their_answer(octets: &[u8]) -> Option<Read> {
    let mut slots = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut slots);
    let Ok(httparse::Status::Complete(length)) = parsed.parse(octets) else { return None };
    let first = format!("{} {} {}", parsed.version?, parsed.code?, parsed.reason?);
    let fields = parsed.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
    let begins = octets.starts_with(b"H");
    (begins && !has_bare_line_feed(&octets[..length])).then_some((first, fields, length))
}

fn has_bare_line_feed(octets: &[u8]) -> bool {
    octets.iter().enumerate().any(|(at, octet)| *octet == b'\n' && (at == 0 || octets[at - 1] != b'\r'))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_requests_head_is_read_alike(
        line in select(vec![
            "GET / HTTP/1.1\r\n", "POST /a?b=c HTTP/1.1\r\n", "PUT http://shop.test/a HTTP/1.1\r\n", "GET / HTTP/1.0\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n", "GET  / HTTP/1.1\r\n", "M-SEARCH * HTTP/1.1\r\n", "GET /\u{e9}#a HTTP/1.1\r\n",
            "GET / HTTP/1.1 \r\n", " GET / HTTP/1.1\r\n", "G@T / HTTP/1.1\r\n", "GET /\r\n", "\nGET / HTTP/1.1\r\n",
        ]),
        fields in field_lines(),
        damage in damage(),
        cut in any::<prop::sample::Index>(),
    ) {
        let octets = damaged(format!("{line}{fields}\r\nbehind"), damage);
        let shown = String::from_utf8_lossy(&octets).into_owned();
        let ours = our_request(&octets);
        prop_assert_eq!(ours.clone().ok(), their_request(&octets), "{:?}", shown);
        if let Ok((_, _, length)) = ours {
            let cut = our_request(&octets[..cut.index(length)]);
            prop_assert_eq!(cut.err(), Some(Stop::Partial), "a beginning of {:?}", shown);
        }
    }

    #[test]
    fn an_answers_head_is_read_alike(
        line in select(vec![
            "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200\r\n", "HTTP/1.1 404 \r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 204 No\tone \r\n",
            "HTTP/1.1  200 OK\r\n", "HTTP/1.1 20 OK\r\n", "HTTP/1.2 200 OK\r\n", "\r\nHTTP/1.1 200 OK\r\n", "HTTP/1.1 2000\r\n",
        ]),
        fields in field_lines(),
        damage in damage(),
        cut in any::<prop::sample::Index>(),
    ) {
        let octets = damaged(format!("{line}{fields}\r\nbehind"), damage);
        let shown = String::from_utf8_lossy(&octets).into_owned();
        let (ours, theirs) = (our_answer(&octets), their_answer(&octets));
        // Of a reason that is not ASCII httparse says nothing, though RFC 9112 §4 has it.
        let ours_in_ascii = ours.clone().ok().filter(|(first, ..)| first.is_ascii());
        if ours.is_ok() && ours_in_ascii.is_none() {
            prop_assert_eq!(ours.clone().map(|(_, f, l)| (f, l)).ok(), theirs.map(|(_, f, l)| (f, l)), "{:?}", shown);
        } else {
            prop_assert_eq!(ours_in_ascii, theirs, "{:?}", shown);
        }
        if let Ok((_, _, length)) = ours {
            let cut = our_answer(&octets[..cut.index(length)]);
            prop_assert_eq!(cut.err(), Some(Stop::Partial), "a beginning of {:?}", shown);
        }
    }

    #[test]
    fn any_octets_are_read_alike(octets in proptest::collection::vec(
        select(b"GET / HTTP/1.1\r\nA: b\t\0\x7f\xff".to_vec()), 0..60,
    )) {
        let octets = [&b"GET / HTTP/1.1\r\n"[..], &octets, b"\r\n\r\n"].concat();
        prop_assert_eq!(our_request(&octets).ok(), their_request(&octets), "{:?}", String::from_utf8_lossy(&octets));
    }
}
