//! Bodies: telling where a response's ends, and framing a request's. Pure.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::{
    field::Lines,
    head::{self, Malformed},
};

/// The longest line that names a chunk's size, its extensions included, in octets.
const MAX_CHUNK_LINE: usize = 256;

/// How a message's body is delimited. A response has one way more: by the end of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Framing {
    /// There is none.
    Empty,
    /// By its length in octets.
    Length(u64),
    /// By chunks (RFC 9112 §7.1).
    Chunked,
}

/// What the next octets of a body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Token {
    /// So many are framing.
    Framing(usize),
    /// So many are content, at least one.
    Content(usize),
    /// So many are the trailer section, its final empty line included. The body has ended.
    Trailers(usize),
    /// None: the body has ended.
    End,
}

/// The next of a body, taken off the front of a buffer.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// Content, never empty.
    Data(Bytes),
    /// The trailer section, never empty. The body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
}

/// Takes a body apart as its octets come.
#[derive(Debug)]
pub(in super::super) enum Decoder {
    /// So much is still to come.
    Length(u64),
    /// Before a chunk's size.
    ChunkLine,
    /// So much of a chunk is still to come, at least one octet.
    Chunk(u64),
    /// After a chunk's content, before its CRLF.
    ChunkEnd,
    /// After the last chunk.
    Trailers,
    /// Whatever comes until the connection ends.
    UntilClose,
    /// Nothing more.
    Ended,
}

impl Decoder {
    /// Of a body that is delimited like this, or else by the end of the connection.
    pub(in super::super) fn new(framing: Option<Framing>) -> Self {
        match framing {
            Some(Framing::Empty | Framing::Length(0)) => Self::Ended,
            Some(Framing::Length(length)) => Self::Length(length),
            Some(Framing::Chunked) => Self::ChunkLine,
            None => Self::UntilClose,
        }
    }

    pub(in super::super) fn has_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// How many octets of content are still to come, where that is known.
    pub(in super::super) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Ended => Some(0),
            _ => None,
        }
    }

    /// What `octets` begin with, or `None` while more of them are needed. They are to be shown once, and then passed by.
    /// The lines of a trailer section go into `lines`.
    pub(in super::super) fn token(&mut self, octets: &[u8], lines: &mut Lines) -> Result<Option<Token>, Malformed> {
        match self {
            Self::Ended => Ok(Some(Token::End)),
            Self::UntilClose => Ok((!octets.is_empty()).then_some(Token::Content(octets.len()))),
            Self::Length(left) => {
                let (next, here) = take(left, octets, Self::Ended);
                *self = next.unwrap_or(Self::Length(*left));
                Ok(here)
            }
            Self::Chunk(left) => {
                let (next, here) = take(left, octets, Self::ChunkEnd);
                *self = next.unwrap_or(Self::Chunk(*left));
                Ok(here)
            }
            Self::ChunkEnd => match octets {
                [b'\r', b'\n', ..] => {
                    *self = Self::ChunkLine;
                    Ok(Some(Token::Framing(2)))
                }
                [] | [b'\r'] => Ok(None),
                _ => Err(Malformed::Chunk),
            },
            Self::ChunkLine => {
                let Some((size, length)) = chunk_size(octets)? else { return Ok(None) };
                *self = if size == 0 { Self::Trailers } else { Self::Chunk(size) };
                Ok(Some(Token::Framing(length)))
            }
            Self::Trailers => {
                let Some(length) = head::read_trailers(octets, lines)? else { return Ok(None) };
                *self = Self::Ended;
                Ok(Some(Token::Trailers(length)))
            }
        }
    }

    /// The next piece, or `None` while more octets are needed.
    pub(super) fn decode(&mut self, octets: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        let mut lines = Lines::default();
        loop {
            match self.token(octets, &mut lines)? {
                None => return Ok(None),
                Some(Token::Framing(length)) => octets.advance(length),
                Some(Token::Content(length)) => return Ok(Some(Piece::Data(octets.split_to(length).freeze()))),
                Some(Token::Trailers(length)) => {
                    let mut trailers = HeaderMap::new();
                    head::take_fields(octets, length, &lines, &mut trailers)?;
                    return Ok(Some(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) }));
                }
                Some(Token::End) => return Ok(Some(Piece::End)),
            }
        }
    }

    /// The connection has ended. Whether the body is whole.
    pub(in super::super) fn close(&mut self) -> bool {
        let whole = matches!(self, Self::UntilClose | Self::Ended);
        if whole {
            *self = Self::Ended;
        }
        whole
    }
}

/// Up to `left` octets of content; `then` is what comes when none is left.
fn take(left: &mut u64, octets: &[u8], then: Decoder) -> (Option<Decoder>, Option<Token>) {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(octets.len());
    *left -= here as u64;
    ((*left == 0).then_some(then), (here > 0).then_some(Token::Content(here)))
}

/// Reads a line that names a chunk's size: hexadecimal digits, then nothing or extensions, then CRLF. Says the size, and
/// how long the line is.
fn chunk_size(octets: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let there = &octets[..octets.len().min(MAX_CHUNK_LINE)];
    let Some(end) = memchr::memchr(b'\n', there) else {
        // A line that can become none need not be waited for.
        let digits = there.iter().take_while(|octet| octet.is_ascii_hexdigit()).count();
        let goes_on = there.get(digits).is_none_or(|octet| digits > 0 && matches!(octet, b';' | b'\r'));
        return if goes_on && digits <= 15 && octets.len() < MAX_CHUNK_LINE { Ok(None) } else { Err(Malformed::Chunk) };
    };
    let line = octets[..end].strip_suffix(b"\r").ok_or(Malformed::Chunk)?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    // Fifteen digits are more than any body and never overflow. An extension is ignored, as RFC 9112 §7.1.1 asks, if it
    // is one: it starts with a semicolon and hides no line's end.
    let fits = matches!(digits, 1..=15) && (extension.is_empty() || extension.starts_with(b";"));
    if !fits || extension.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return Err(Malformed::Chunk);
    }
    let value = |b: &u8| u64::from((*b as char).to_digit(16).unwrap_or(0));
    let size = line[..digits].iter().fold(0, |size, b| size << 4 | value(b));
    Ok(Some((size, end + 1)))
}

/// Frames a chunk around content that follows: its size line. The content wants [`CHUNK_END`] after it.
pub(in super::super) fn write_chunk_line(into: &mut Vec<u8>, size: usize) {
    use std::io::Write as _;
    // Writing to a Vec does not fail.
    write!(into, "{size:x}\r\n").ok();
}

/// What follows a chunk's content.
pub(in super::super) const CHUNK_END: &[u8] = b"\r\n";

/// Ends a chunked body.
pub(super) fn write_last_chunk(into: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    into.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        head::write_field(into, name, value);
    }
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes `octets` fed in pieces of `step`, and says the content, the trailers and what was left over.
    fn decode(
        framing: impl Into<Option<Framing>>,
        octets: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Malformed> {
        let (mut decoder, mut buffer, mut content) = (Decoder::new(framing.into()), BytesMut::new(), Vec::new());
        let mut trailers = HeaderMap::new();
        for piece in octets.chunks(step) {
            buffer.extend_from_slice(piece);
            while !decoder.has_ended() {
                match decoder.decode(&mut buffer)? {
                    Some(Piece::Data(data)) => content.extend_from_slice(&data),
                    Some(Piece::Trailers(fields)) => trailers = fields,
                    Some(Piece::End) => {}
                    None => break,
                }
            }
        }
        assert!(decoder.has_ended() || decoder.close(), "incomplete");
        Ok((content, trailers, buffer.to_vec()))
    }

    #[test]
    fn a_body_is_the_same_however_its_octets_arrive() {
        let chunked = b"4\r\nWiki\r\n5;a=\"b\"\r\npedia\r\n0\r\nX-Sum: 1\r\n\r\nsurplus";
        for step in 1..chunked.len() {
            let (content, trailers, left) = decode(Framing::Chunked, chunked, step).expect("well-formed");
            assert_eq!((&content[..], trailers["x-sum"].as_bytes()), (&b"Wikipedia"[..], &b"1"[..]));
            assert!(b"surplus".starts_with(&left[..]) || left == b"surplus");
            assert_eq!(decode(Framing::Length(9), b"Wikipedia", step).expect("well-formed").0, b"Wikipedia");
            assert_eq!(decode(None, b"Wikipedia", step).expect("well-formed").0, b"Wikipedia");
        }
    }

    #[test]
    fn a_chunk_that_two_parsers_could_read_differently_is_refused() {
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "1\na\n",
            "1\ra\r\n",
            "1 ;a\r\na\r\n",
            "1;a\rb\r\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\na0\r\n\r\n",
            "0\r\nA: 1\n\r\n",
            "0\r\n b: 1\r\n\r\n",
            "ffffffffffffffff\r\n",
            "1;\0\r\na\r\n",
        ] {
            let octets = format!("{bad}0\r\n\r\n");
            assert!(decode(Framing::Chunked, octets.as_bytes(), octets.len()).is_err(), "{bad:?}");
        }
        let endless = "1".to_owned() + ";" + &"a".repeat(MAX_CHUNK_LINE);
        assert_eq!(decode(Framing::Chunked, endless.as_bytes(), 1).err(), Some(Malformed::Chunk));
    }

    #[test]
    fn a_cut_body_is_never_taken_for_a_whole_one() {
        let whole = b"4\r\nWiki\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            let (mut decoder, mut buffer) = (Decoder::new(Some(Framing::Chunked)), BytesMut::from(&whole[..cut]));
            while let Some(Piece::Data(_)) = decoder.decode(&mut buffer).expect("well-formed") {}
            assert!(!decoder.close(), "{cut}");
        }
        assert!(!Decoder::new(Some(Framing::Length(1))).close());
        assert!(Decoder::new(None).close());
    }

    proptest! {
        #[test]
        fn any_octets_end_in_a_body_or_an_error_and_never_in_a_panic(octets: Vec<u8>, step in 1_usize..64) {
            let (mut decoder, mut buffer) = (Decoder::new(Some(Framing::Chunked)), BytesMut::new());
            'fed: for piece in octets.chunks(step) {
                buffer.extend_from_slice(piece);
                loop {
                    match decoder.decode(&mut buffer) {
                        Ok(Some(Piece::Data(data))) => prop_assert!(!data.is_empty()),
                        Ok(Some(_)) | Err(_) => break 'fed,
                        Ok(None) => break,
                    }
                }
            }
        }

        #[test]
        fn what_is_written_in_chunks_reads_back(parts: Vec<Vec<u8>>, step in 1_usize..64) {
            let mut written = Vec::new();
            for part in parts.iter().filter(|part| !part.is_empty()) {
                write_chunk_line(&mut written, part.len());
                written.extend_from_slice(part);
                written.extend_from_slice(CHUNK_END);
            }
            write_last_chunk(&mut written, None);
            let (content, _, left) = decode(Framing::Chunked, &written, step).expect("our own chunks");
            prop_assert_eq!((content, left), (parts.concat(), Vec::new()));
        }
    }
}
