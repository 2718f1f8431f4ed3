//! One line of the access log, in either form. Whatever a client chose (host, path, names) is escaped down to printable
//! ASCII, so that no request can forge a line or send a terminal an escape sequence.
//!
//! Lines are put together by hand: through serde they took more instructions than the rest of a request. What is not
//! plain text still goes through `serde_json`.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use http::{Method, Version};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::ser::Formatter;

use super::AccessFormat;
use crate::switch::{Address, Role};

/// The fields of a line, in the order of the JSON form.
pub(super) struct Line<'a> {
    /// When the head had been read, in milliseconds since 1970.
    pub(super) ts: i64,
    pub(super) app: Option<&'a str>,
    pub(super) pool: Option<Role>,
    pub(super) revision: Option<&'a str>,
    pub(super) generation: Option<u64>,
    pub(super) endpoint: Option<&'a Address>,
    pub(super) method: &'a Method,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) proto: Version,
    /// `None` if the request ended before an answer's head was known.
    pub(super) status: Option<u16>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// In microseconds; written in milliseconds.
    pub(super) dur: u64,
    /// From the last admission to the answer's head, in microseconds; written in milliseconds.
    pub(super) upstream: Option<u64>,
    pub(super) attempts: u32,
    pub(super) client: Option<IpAddr>,
    pub(super) request_id: Option<&'a str>,
    pub(super) trace_id: Option<&'a str>,
    /// What was out of the ordinary; the empty ones say nothing.
    pub(super) flags: [&'static str; 4],
    pub(super) referer: &'a [u8],
    pub(super) user_agent: &'a [u8],
}

impl Line<'_> {
    /// Appends the line, with its line feed, to `out`.
    pub(super) fn write(&self, format: AccessFormat, seconds: &mut Seconds, out: &mut Vec<u8>) {
        match format {
            AccessFormat::Json => self.json(seconds, out),
            AccessFormat::Combined => self.combined(seconds, out),
            AccessFormat::Off => return,
        }
        out.push(b'\n');
    }

    fn json(&self, seconds: &mut Seconds, out: &mut Vec<u8>) {
        put(r#"{"ts":""#, out);
        put(seconds.text(self.ts, "%Y-%m-%dT%H:%M:%S"), out);
        put(".", out);
        padded(self.ts.rem_euclid(1000).unsigned_abs(), out);
        put(r#"Z","app":"#, out);
        text(self.app, out);
        put(r#","pool":"#, out);
        text(self.pool.map(Role::as_str), out);
        put(r#","revision":"#, out);
        text(self.revision, out);
        put(r#","generation":"#, out);
        number(self.generation, out);
        put(r#","endpoint":"#, out);
        match self.endpoint {
            Some(Address::Ip(endpoint)) => quoted(out, |out| address(*endpoint, out)),
            Some(socket @ Address::Unix(_)) => text(Some(&socket.to_string()), out),
            None => put(NULL, out),
        }
        put(r#","method":"#, out);
        text(Some(self.method.as_str()), out);
        put(r#","host":"#, out);
        text(Some(self.host), out);
        put(r#","path":"#, out);
        text(Some(self.path), out);
        put(r#","proto":""#, out);
        put(protocol(self.proto), out);
        put(r#"","status":"#, out);
        number(self.status.map(u64::from), out);
        put(r#","bytes_in":"#, out);
        digits(self.bytes_in, out);
        put(r#","bytes_out":"#, out);
        digits(self.bytes_out, out);
        put(r#","dur_ms":"#, out);
        millis(Some(self.dur), out);
        put(r#","upstream_ms":"#, out);
        millis(self.upstream, out);
        put(r#","attempts":"#, out);
        digits(self.attempts.into(), out);
        put(r#","client":"#, out);
        match self.client {
            Some(client) => quoted(out, |out| ip(client, out)),
            None => put(NULL, out),
        }
        put(r#","request_id":"#, out);
        text(self.request_id, out);
        put(r#","trace_id":"#, out);
        text(self.trace_id, out);
        put(r#","flags":""#, out);
        let mut between = "";
        for flag in self.flags.iter().filter(|flag| !flag.is_empty()) {
            put(between, out);
            put(flag, out);
            between = ",";
        }
        put(r#""}"#, out);
    }

    fn combined(&self, seconds: &mut Seconds, out: &mut Vec<u8>) {
        match self.client {
            Some(client) => ip(client, out),
            None => put("-", out),
        }
        put(" - - [", out);
        put(seconds.text(self.ts, "%d/%b/%Y:%H:%M:%S +0000"), out);
        put("] \"", out);
        hexed(self.method.as_str().as_bytes(), out);
        put(" ", out);
        hexed(self.path.as_bytes(), out);
        put(" ", out);
        put(protocol(self.proto), out);
        put("\" ", out);
        // nginx's habit: three digits always, so that every parser finds a number there.
        padded(self.status.unwrap_or(0).into(), out);
        put(" ", out);
        digits(self.bytes_out, out);
        put(" \"", out);
        hexed(or_dash(self.referer), out);
        put("\" \"", out);
        hexed(or_dash(self.user_agent), out);
        put("\"", out);
    }
}

/// The second of the last line as text: it is made once a second, not once a line.
#[derive(Default)]
pub(super) struct Seconds {
    last: Option<i64>,
    text: String,
}

impl Seconds {
    /// The second of a time in milliseconds since 1970, in UTC and always in the same `format`.
    fn text(&mut self, millis: i64, format: &str) -> &str {
        let second = millis.div_euclid(1000);
        if self.last != Some(second) {
            self.last = Some(second);
            self.text = Timestamp::from_second(second).unwrap_or_default().strftime(format).to_string();
        }
        &self.text
    }
}

const NULL: &str = "null";

const NO_ERROR: &str = "a Vec takes every write, and text always serializes";

fn put(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
}

fn quoted(out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    value(out);
    out.push(b'"');
}

fn text(value: Option<&str>, out: &mut Vec<u8>) {
    match value {
        Some(value) if all_plain(value.as_bytes()) => quoted(out, |out| put(value, out)),
        Some(value) => value.serialize(&mut serde_json::Serializer::with_formatter(out, Printable)).expect(NO_ERROR),
        None => put(NULL, out),
    }
}

fn number(value: Option<u64>, out: &mut Vec<u8>) {
    match value {
        Some(value) => digits(value, out),
        None => put(NULL, out),
    }
}

fn millis(micros: Option<u64>, out: &mut Vec<u8>) {
    match micros {
        Some(micros) => {
            digits(micros / 1000, out);
            out.push(b'.');
            padded(micros % 1000, out);
        }
        None => put(NULL, out),
    }
}

fn digits(mut value: u64, out: &mut Vec<u8>) {
    let mut text = [0; 20];
    let mut from = text.len();
    loop {
        from -= 1;
        text[from] = digit(value);
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&text[from..]);
        }
    }
}

/// Three digits of a number below a thousand.
fn padded(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[digit(value / 100), digit(value / 10), digit(value)]);
}

fn digit(value: u64) -> u8 {
    b"0123456789"[(value % 10) as usize]
}

fn address(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(v4) => {
            ip((*v4.ip()).into(), out);
            out.push(b':');
            digits(v4.port().into(), out);
        }
        SocketAddr::V6(v6) => write!(out, "{v6}").expect(NO_ERROR),
    }
}

fn ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => {
            let [first, rest @ ..] = v4.octets();
            digits(first.into(), out);
            for octet in rest {
                out.push(b'.');
                digits(octet.into(), out);
            }
        }
        IpAddr::V6(v6) => write!(out, "{v6}").expect(NO_ERROR),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/0.9",
    }
}

fn or_dash(value: &[u8]) -> &[u8] {
    if value.is_empty() { b"-" } else { value }
}

fn is_printable(octet: u8) -> bool {
    (b' '..=b'~').contains(&octet)
}

/// Whether both forms may take it as it is. Without an early end, so that the compiler looks at many octets at once.
fn all_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, octet| plain & (is_printable(*octet) & (*octet != b'"') & (*octet != b'\\')))
}

/// Quotes, backslashes and everything unprintable as `\xHH`, as nginx does.
fn hexed(text: &[u8], out: &mut Vec<u8>) {
    if all_plain(text) {
        return out.extend_from_slice(text);
    }
    for octet in text {
        match octet {
            octet if all_plain(&[*octet]) => out.push(*octet),
            octet => write!(out, "\\x{octet:02X}").expect(NO_ERROR),
        }
    }
}

/// JSON in printable ASCII: `serde_json` escapes what JSON asks for; DEL and all beyond ASCII (C1 controls, bidirectional
/// marks) are escaped here.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for char in fragment.chars() {
            match u8::try_from(char) {
                Ok(octet) if is_printable(octet) => writer.write_all(&[octet])?,
                _ => char.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const NASTY: &str = "/a?\"\\\n\r\u{1b}[31m\u{7f}\u{9b}é\u{1f600}";

    static ENDPOINT: Address = Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9001));

    fn line<'a>(method: &'a Method, path: &'a str) -> Line<'a> {
        Line {
            ts: 1_767_225_600_123,
            app: Some("shop"),
            pool: Some(Role::Active),
            revision: Some("blue"),
            generation: Some(12),
            endpoint: Some(&ENDPOINT),
            method,
            host: "shop.test",
            path,
            proto: Version::HTTP_11,
            status: Some(200),
            bytes_in: 0,
            bytes_out: 5,
            dur: 12_250,
            upstream: Some(1_005),
            attempts: 1,
            client: Some("192.0.2.7".parse().unwrap()),
            request_id: Some("r-1"),
            trace_id: None,
            flags: [""; 4],
            referer: b"",
            user_agent: b"curl/8 \"x\"",
        }
    }

    fn text(line: &Line<'_>, format: AccessFormat) -> String {
        let mut out = Vec::new();
        line.write(format, &mut Seconds::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_line_has_the_fields_of_the_contract_in_their_order() {
        let expected = concat!(
            r#"{"ts":"2026-01-01T00:00:00.123Z","app":"shop","pool":"active","revision":"blue","generation":12,"#,
            r#""endpoint":"127.0.0.1:9001","method":"GET","host":"shop.test","path":"/","proto":"HTTP/1.1","#,
            r#""status":200,"bytes_in":0,"bytes_out":5,"dur_ms":12.250,"upstream_ms":1.005,"attempts":1,"#,
            r#""client":"192.0.2.7","request_id":"r-1","trace_id":null,"flags":""}"#,
            "\n"
        );
        assert_eq!(text(&line(&Method::GET, "/"), AccessFormat::Json), expected);
        let socket = Address::Unix(std::path::Path::new("/run/app.sock").into());
        let line = Line { endpoint: Some(&socket), ..line(&Method::GET, "/") };
        assert!(text(&line, AccessFormat::Json).contains(r#""endpoint":"unix:/run/app.sock""#));
    }

    #[test]
    fn a_combined_line_is_what_log_readers_know() {
        let expected = concat!(
            r#"192.0.2.7 - - [01/Jan/2026:00:00:00 +0000] "GET /x HTTP/1.1" 200 5 "-" "curl/8 \x22x\x22""#,
            "\n"
        );
        assert_eq!(text(&line(&Method::GET, "/x"), AccessFormat::Combined), expected);
        let unanswered = Line { status: None, client: None, ..line(&Method::GET, "/x") };
        assert!(text(&unanswered, AccessFormat::Combined).contains(r#"HTTP/1.1" 000 5"#));
    }

    #[test]
    fn nothing_a_client_sends_breaks_a_line_or_reaches_a_terminal() {
        for format in [AccessFormat::Json, AccessFormat::Combined] {
            let text = text(&line(&Method::GET, NASTY), format);
            assert!(text.trim_end_matches('\n').bytes().all(is_printable), "{text:?}");
        }
        let json = text(&line(&Method::GET, NASTY), AccessFormat::Json);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["path"], NASTY, "escaping loses nothing");
    }

    #[test]
    fn flags_are_joined() {
        let flags = |flags| {
            let text = text(&Line { flags, ..line(&Method::GET, "/") }, AccessFormat::Json);
            let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
            parsed["flags"].as_str().unwrap().to_owned()
        };
        assert_eq!(flags(["a", "", "c", ""]), "a,c");
        assert_eq!(flags(["a", "b", "c", "d"]), "a,b,c,d");
        assert_eq!(flags(["", "b", "", ""]), "b");
    }

    #[test]
    fn numbers_and_addresses_are_written_as_the_standard_library_does() {
        let written = |put: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            put(&mut out);
            String::from_utf8(out).unwrap()
        };
        for value in [0, 7, 10, 999, 1_000, u64::MAX] {
            assert_eq!(written(&|out| digits(value, out)), value.to_string());
        }
        for text in ["127.0.0.1:80", "255.255.255.255:65535", "[::1]:8080"] {
            let endpoint: SocketAddr = text.parse().unwrap();
            assert_eq!(written(&|out| address(endpoint, out)), text);
            assert_eq!(written(&|out| ip(endpoint.ip(), out)), endpoint.ip().to_string());
        }
    }

    #[test]
    fn the_second_is_renewed_when_it_passes() {
        let mut seconds = Seconds::default();
        let text = |millis, seconds: &mut Seconds| seconds.text(millis, "%H:%M:%S").to_owned();
        assert_eq!(text(999, &mut seconds), "00:00:00");
        assert_eq!(text(1000, &mut seconds), "00:00:01");
        assert_eq!(text(-1, &mut seconds), "23:59:59");
    }
}
