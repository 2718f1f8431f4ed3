//! One line of the access log, in either form. Whatever a client chose (host, path, names) is escaped down to printable
//! ASCII, so that no request can forge a line or send a terminal an escape sequence.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use http::{Method, Version};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

use super::AccessFormat;
use crate::switch::Role;

/// The fields of a line, in the order of the JSON form.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    /// When the head had been read.
    #[serde(serialize_with = "millis")]
    pub(super) ts: Timestamp,
    pub(super) app: Option<&'a str>,
    pub(super) pool: Option<Role>,
    pub(super) revision: Option<&'a str>,
    pub(super) generation: Option<u64>,
    pub(super) endpoint: Option<SocketAddr>,
    #[serde(serialize_with = "method")]
    pub(super) method: &'a Method,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    #[serde(serialize_with = "debug")]
    pub(super) proto: Version,
    /// `null` if the request ended before an answer's head was known.
    pub(super) status: Option<u16>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) dur_ms: f64,
    /// From the last admission to the answer's head.
    pub(super) upstream_ms: Option<f64>,
    pub(super) attempts: u32,
    pub(super) client: Option<IpAddr>,
    pub(super) request_id: Option<&'a str>,
    pub(super) trace_id: Option<&'a str>,
    /// What was out of the ordinary, joined by commas.
    #[serde(serialize_with = "flags")]
    pub(super) flags: [&'static str; 3],
    #[serde(skip)]
    pub(super) referer: &'a [u8],
    #[serde(skip)]
    pub(super) user_agent: &'a [u8],
}

impl Line<'_> {
    /// Appends the line, with its line feed, to `out`.
    pub(super) fn write(&self, format: AccessFormat, out: &mut Vec<u8>) {
        let written = match format {
            AccessFormat::Json => self.json(out),
            AccessFormat::Combined => self.combined(out),
            AccessFormat::Off => return,
        };
        written.expect("a Vec takes every write, and no field fails to serialize");
        out.push(b'\n');
    }

    fn json(&self, out: &mut Vec<u8>) -> io::Result<()> {
        self.serialize(&mut serde_json::Serializer::with_formatter(out, Printable)).map_err(io::Error::from)
    }

    fn combined(&self, out: &mut Vec<u8>) -> io::Result<()> {
        match self.client {
            Some(client) => write!(out, "{client}")?,
            None => out.push(b'-'),
        }
        write!(out, " - - [{}] \"{} ", self.ts.strftime("%d/%b/%Y:%H:%M:%S %z"), self.method)?;
        quote(self.path.as_bytes(), out)?;
        // nginx's habit: three digits always, so that every parser finds a number there.
        write!(out, " {:?}\" {:03} {} \"", self.proto, self.status.unwrap_or(0), self.bytes_out)?;
        quote(or_dash(self.referer), out)?;
        out.extend_from_slice(b"\" \"");
        quote(or_dash(self.user_agent), out)?;
        out.push(b'"');
        Ok(())
    }
}

fn millis<S: Serializer>(ts: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{ts:.3}"))
}

fn method<S: Serializer>(method: &&Method, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(method.as_str())
}

fn debug<S: Serializer>(version: &Version, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{version:?}"))
}

fn flags<S: Serializer>(flags: &[&'static str; 3], to: S) -> Result<S::Ok, S::Error> {
    let mut set = flags.iter().filter(|flag| !flag.is_empty());
    let [first, second, third] = [set.next(), set.next(), set.next()];
    match (first, second, third) {
        (Some(first), Some(second), Some(third)) => to.collect_str(&format_args!("{first},{second},{third}")),
        (Some(first), Some(second), None) => to.collect_str(&format_args!("{first},{second}")),
        _ => to.serialize_str(first.unwrap_or(&"")),
    }
}

fn or_dash(value: &[u8]) -> &[u8] {
    if value.is_empty() { b"-" } else { value }
}

fn is_plain(octet: u8) -> bool {
    (b' '..=b'~').contains(&octet)
}

/// Writes `text` with quotes, backslashes and everything unprintable as `\xHH`, as nginx does.
fn quote(text: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    for octet in text {
        match octet {
            b'"' | b'\\' => write!(out, "\\x{octet:02X}")?,
            plain if is_plain(*plain) => out.push(*plain),
            other => write!(out, "\\x{other:02X}")?,
        }
    }
    Ok(())
}

/// JSON in printable ASCII: `serde_json` escapes what JSON asks for; DEL and all beyond ASCII (C1 controls, bidirectional
/// marks) are escaped here.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.bytes().all(is_plain) {
            return writer.write_all(fragment.as_bytes());
        }
        for char in fragment.chars() {
            match u8::try_from(char) {
                Ok(octet) if is_plain(octet) => writer.write_all(&[octet])?,
                _ => char.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "/a?\"\\\n\r\u{1b}[31m\u{7f}\u{9b}é\u{1f600}";

    fn line<'a>(method: &'a Method, path: &'a str) -> Line<'a> {
        Line {
            ts: Timestamp::from_millisecond(1_767_225_600_123).unwrap(),
            app: Some("shop"),
            pool: Some(Role::Active),
            revision: Some("blue"),
            generation: Some(12),
            endpoint: Some("127.0.0.1:9001".parse().unwrap()),
            method,
            host: "shop.test",
            path,
            proto: Version::HTTP_11,
            status: Some(200),
            bytes_in: 0,
            bytes_out: 5,
            dur_ms: 1.25,
            upstream_ms: Some(1.0),
            attempts: 1,
            client: Some("192.0.2.7".parse().unwrap()),
            request_id: Some("r-1"),
            trace_id: None,
            flags: [""; 3],
            referer: b"",
            user_agent: b"curl/8 \"x\"",
        }
    }

    fn text(line: &Line<'_>, format: AccessFormat) -> String {
        let mut out = Vec::new();
        line.write(format, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_line_has_the_fields_of_the_contract_in_their_order() {
        let expected = concat!(
            r#"{"ts":"2026-01-01T00:00:00.123Z","app":"shop","pool":"active","revision":"blue","generation":12,"#,
            r#""endpoint":"127.0.0.1:9001","method":"GET","host":"shop.test","path":"/","proto":"HTTP/1.1","#,
            r#""status":200,"bytes_in":0,"bytes_out":5,"dur_ms":1.25,"upstream_ms":1.0,"attempts":1,"#,
            r#""client":"192.0.2.7","request_id":"r-1","trace_id":null,"flags":""}"#,
            "\n"
        );
        assert_eq!(text(&line(&Method::GET, "/"), AccessFormat::Json), expected);
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
            assert!(text.trim_end_matches('\n').bytes().all(is_plain), "{text:?}");
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
        assert_eq!(flags(["a", "", "c"]), "a,c");
        assert_eq!(flags(["a", "b", "c"]), "a,b,c");
        assert_eq!(flags(["", "b", ""]), "b");
    }
}
