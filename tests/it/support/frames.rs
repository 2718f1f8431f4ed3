//! HTTP/2 by hand, in frames (RFC 9113 §4.1), as a client or as an upstream: for what no library would send, and for what it
//! would not show.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{client::Raw, raw_backend::ByHand, within};

/// RFC 9113 §3.4.
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One end of a connection.
pub struct Frames {
    pub raw: Raw,
}

impl Frames {
    /// A client's end.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut raw = Raw::connect(address).await;
        raw.send(PREFACE).await;
        let mut frames = Self { raw };
        frames.send(SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// A server's end, of the next connection at this upstream; `settings` are what it says of itself.
    pub async fn accept(upstream: &ByHand, settings: &[(u16, u32)]) -> Self {
        let mut raw = upstream.accept().await;
        assert_eq!(raw.read(PREFACE.len()).await, PREFACE.as_bytes());
        let mut frames = Self { raw };
        let settings: Vec<u8> = settings.iter().flat_map(|(id, value)| setting(*id, *value)).collect();
        frames.send(SETTINGS, 0, 0, &settings).await;
        frames
    }

    /// The stream of the next request.
    pub async fn next_request(&mut self) -> u32 {
        self.first(&[HEADERS]).await.expect("a request").stream
    }

    /// Answers with these fields, status first, and ends the stream with `body`.
    pub async fn answer(&mut self, stream: u32, fields: &[(&str, &str)], body: &str) {
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        self.send(HEADERS, END_HEADERS, stream, &block).await;
        self.send(DATA, END_STREAM, stream, body.as_bytes()).await;
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        assert!(self.try_send(&frame(kind, flags, stream, payload)).await, "the connection is closed");
    }

    /// Whether it was taken.
    pub async fn try_send(&mut self, octets: &[u8]) -> bool {
        within("octets to be taken", self.raw.stream.write_all(octets)).await.is_ok()
    }

    pub async fn request(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let pseudo = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "shop.test")];
        let pseudo = pseudo.iter().filter(|(name, _)| fields.iter().all(|(given, _)| given != name));
        // Pseudo-fields come first; an empty value leaves one out.
        let (own, rest): (Vec<&(&str, &str)>, Vec<_>) = fields.iter().partition(|(name, _)| name.starts_with(':'));
        let own = own.into_iter().filter(|(_, value)| !value.is_empty());
        let block: Vec<u8> = pseudo.chain(own).chain(rest).flat_map(|(name, value)| literal(name, value)).collect();
        self.send(HEADERS, END_HEADERS | flags, stream, &block).await;
    }

    /// `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within("a frame", self.raw.stream.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        within("a payload", self.raw.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The first frame of one of these kinds; `None` if the connection ends before.
    pub async fn first(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }
}

/// The octets of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 7541 §6.2.2: a field as it is, without an index.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let string = |text: &str| match u8::try_from(text.len()) {
        Ok(short @ ..127) => [&[short], text.as_bytes()].concat(),
        _ => {
            let mut octets = vec![127];
            let mut rest = text.len() - 127;
            while rest >= 128 {
                octets.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            octets.push(rest as u8);
            [&octets, text.as_bytes()].concat()
        }
    };
    [vec![0], string(name), string(value)].concat()
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}
