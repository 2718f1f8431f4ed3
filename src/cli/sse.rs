//! A reader of `text/event-stream` (HTML Living Standard §9.2.6) for what the admin API sends: `event` and `data`. It
//! takes the octets as they come, in any pieces, and holds no more than [`MAX_MESSAGE`] of them.

use std::mem;

use thiserror::Error;

/// The largest message in octets: the first one holds the whole state of every app.
pub(crate) const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// One message of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its type; empty if it names none.
    pub(crate) event: String,
    /// Its lines of data, joined by line feeds.
    pub(crate) data: String,
}

/// The stream holds a message that is larger than [`MAX_MESSAGE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the event stream holds a message of more than {MAX_MESSAGE} octets")]
pub(crate) struct TooLong;

/// The state between two pieces.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    after_cr: bool,
    message: Message,
    has_data: bool,
}

impl Decoder {
    /// Takes the next piece and returns the messages that it completes.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<Vec<Message>, TooLong> {
        let mut complete = Vec::new();
        for &octet in piece {
            // A line ends with LF, CR or CRLF: the LF of a CRLF ends nothing more.
            let lf_of_crlf = mem::replace(&mut self.after_cr, octet == b'\r') && octet == b'\n';
            match octet {
                b'\n' if lf_of_crlf => {}
                b'\r' | b'\n' => complete.extend(self.end_of_line()),
                _ if self.line.len() + self.message.data.len() >= MAX_MESSAGE => return Err(TooLong),
                _ => self.line.push(octet),
            }
        }
        Ok(complete)
    }

    fn end_of_line(&mut self) -> Option<Message> {
        let line = mem::take(&mut self.line);
        if line.is_empty() {
            let message = mem::take(&mut self.message);
            return mem::take(&mut self.has_data).then_some(message);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.message.event),
            "data" => {
                if mem::replace(&mut self.has_data, true) {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            // Comments (an empty field name) keep the connection alive; `id` and `retry` are not used.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: &str, data: &str) -> Message {
        Message { event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn a_stream_reads_the_same_wherever_it_is_cut_and_however_its_lines_end() {
        let lf = ": hello\nevent: state\ndata: {\"a\":\ndata: 1}\n\nid: 7\nretry: 5\n\ndata\n\ndata:x\n\n";
        let expected = [message("state", "{\"a\":\n1}"), message("", ""), message("", "x")];
        for stream in [lf.to_owned(), lf.replace('\n', "\r\n"), lf.replace('\n', "\r")] {
            for size in 1..stream.len() {
                let mut decoder = Decoder::default();
                let pieces = stream.as_bytes().chunks(size);
                let read: Vec<_> = pieces.flat_map(|piece| decoder.feed(piece).expect("short enough")).collect();
                assert_eq!(read, expected, "in pieces of {size}: {stream:?}");
            }
        }
    }

    #[test]
    fn what_is_not_ended_by_an_empty_line_is_no_message() {
        assert_eq!(Decoder::default().feed(b"event: state\ndata: {}\n"), Ok(Vec::new()));
    }

    #[test]
    fn a_huge_line_and_a_huge_message_are_refused() {
        let piece = vec![b'x'; MAX_MESSAGE / 2];
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(&piece), Ok(Vec::new()));
        assert_eq!(decoder.feed(&piece), Ok(Vec::new()));
        assert_eq!(decoder.feed(b"x"), Err(TooLong));

        let mut decoder = Decoder::default();
        let fed = (0..3).map(|_| decoder.feed(&[b"data:", piece.as_slice(), b"\n"].concat()).map(|_| ()));
        assert_eq!(fed.collect::<Result<Vec<_>, _>>(), Err(TooLong));
    }
}
