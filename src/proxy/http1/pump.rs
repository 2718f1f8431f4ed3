//! One direction of a message: its body is taken apart as it comes, framed anew, and written on. What is small is copied
//! behind the head and goes out with it in one call; what is large is written from where it was read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use super::{
    super::{
        h1::{self, Decoder, Framing, Lines, Malformed, Token},
        headers,
        mirror::Sampled,
    },
    desk::Buffer,
};

/// Up to this size, in octets, a piece of content is copied.
const SMALL: usize = 4 * 1024;
/// When so much waits to be written, nothing more is framed.
const ENOUGH: usize = 16 * 1024;

/// One direction.
pub(super) struct Pump {
    decoder: Decoder,
    /// Whether it goes out in chunks; else as it is.
    chunked: bool,
    /// Whether trailers go out with the last chunk.
    trailers: bool,
    /// How much of what was framed is written.
    written: usize,
    /// How much of the source's rest is to follow it, and what comes behind.
    content: usize,
    tail: &'static [u8],
    /// Octets of content that were staged.
    moved: u64,
    begun: bool,
    ended: bool,
    sent: bool,
    /// What was written may not be on its way yet: TLS takes what its socket has no room for.
    held_back: bool,
    /// Whoever it goes to takes no more.
    given_up: bool,
    /// Hears of the content.
    sampled: Option<Box<Sampled>>,
}

impl Pump {
    /// Of a body that is delimited like this, or else by the end of the connection.
    pub(super) fn new(framing: Option<Framing>, chunked: bool, trailers: bool) -> Self {
        let decoder = Decoder::new(framing);
        let ended = decoder.has_ended() && !chunked;
        Self {
            decoder,
            chunked,
            trailers,
            written: 0,
            content: 0,
            tail: b"",
            moved: 0,
            begun: false,
            ended,
            sent: false,
            held_back: false,
            given_up: false,
            sampled: None,
        }
    }

    /// Lets somebody hear of the content as it passes.
    pub(super) fn let_hear(&mut self, sampled: Option<Box<Sampled>>) {
        self.sampled = sampled;
    }

    /// The message was whole.
    pub(super) fn whole(self) {
        self.sampled.into_iter().for_each(|sampled| sampled.done());
    }

    /// Octets of content so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Makes it ready to be sent once more, from its head on, if all that was framed is still there: nothing of the body was
    /// taken, or nothing was written. Whether it is.
    pub(super) fn begin_again(&mut self) -> bool {
        let again = !self.begun || !self.sent;
        if again {
            (self.written, self.sent, self.held_back, self.given_up) = (0, false, false, false);
        }
        again
    }

    /// Whether any octet was written.
    pub(super) fn has_sent(&self) -> bool {
        self.sent
    }

    /// Whether nothing more is to be staged.
    pub(super) fn has_ended(&self) -> bool {
        self.ended || self.given_up
    }

    /// Whether all is written, and on its way.
    pub(super) fn is_done(&self, framed: &[u8]) -> bool {
        self.has_ended() && !self.has_unwritten(framed)
    }

    pub(super) fn has_unwritten(&self, framed: &[u8]) -> bool {
        !self.given_up && (self.held_back || self.has_staged(framed))
    }

    fn has_staged(&self, framed: &[u8]) -> bool {
        self.written < framed.len() || self.content > 0 || !self.tail.is_empty()
    }

    /// Leaves out this much of what is framed: it was written in another way.
    pub(super) fn skip(&mut self, octets: usize) {
        self.written += octets;
    }

    /// Forgets what is framed, if all of it is written. Whether it is.
    pub(super) fn settle(&mut self, framed: &mut Vec<u8>) -> bool {
        let settled = !self.has_unwritten(framed);
        if settled {
            framed.clear();
            self.written = 0;
        }
        settled
    }

    /// Gives up what there is to write, and what would follow.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// The source's connection has ended. Whether the body is whole.
    pub(super) fn close(&mut self) -> bool {
        self.decoder.close()
    }

    /// Frames what has come, behind what is framed already, so that it goes out with it in one call.
    pub(super) fn stage(
        &mut self,
        source: &mut Buffer,
        framed: &mut Vec<u8>,
        lines: &mut Lines,
    ) -> Result<(), Malformed> {
        while !self.has_ended() && self.content == 0 && self.tail.is_empty() && framed.len() - self.written < ENOUGH {
            let Some(token) = self.decoder.token(source.rest(), lines)? else { return Ok(()) };
            if self.written == framed.len() && token != Token::End {
                // Only a head whose body has not begun is kept, to be sent again.
                framed.clear();
                self.written = 0;
            }
            self.begun |= token != Token::End;
            match token {
                Token::Framing(octets) => source.consume(octets),
                Token::Content(octets) => {
                    self.stage_content(octets, source, framed);
                    self.ended = self.decoder.has_ended() && !self.chunked;
                }
                Token::Trailers(octets) => {
                    let section = &source.rest()[..octets];
                    self.stage_end(framed, |framed| headers::write_trailers(framed, section, lines));
                    source.consume(octets);
                }
                Token::End => self.stage_end(framed, |_| {}),
            }
        }
        Ok(())
    }

    fn stage_content(&mut self, octets: usize, source: &mut Buffer, framed: &mut Vec<u8>) {
        self.moved += octets as u64;
        if let Some(sampled) = &mut self.sampled {
            sampled.answer_body(&source.rest()[..octets]);
        }
        if self.chunked {
            h1::write_chunk_line(framed, octets);
            self.tail = h1::CHUNK_END;
        }
        if octets > SMALL {
            self.content = octets;
            return;
        }
        framed.extend_from_slice(&source.rest()[..octets]);
        framed.extend_from_slice(self.tail);
        self.tail = b"";
        source.consume(octets);
    }

    fn stage_end(&mut self, framed: &mut Vec<u8>, trailers: impl FnOnce(&mut Vec<u8>)) {
        self.ended = true;
        if self.chunked {
            framed.extend_from_slice(b"0\r\n");
            if self.trailers {
                trailers(framed);
            }
            framed.extend_from_slice(b"\r\n");
        }
    }

    /// Writes all that is staged, and sees it on its way.
    pub(super) fn poll_write(
        &mut self,
        source: &mut Buffer,
        framed: &[u8],
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.has_staged(framed) {
            let left = &framed[self.written..];
            let octets = if self.content == 0 && self.tail.is_empty() {
                ready!(Pin::new(&mut *to).poll_write(cx, left))?
            } else {
                let content = &source.rest()[..self.content];
                let slices = [IoSlice::new(left), IoSlice::new(content), IoSlice::new(self.tail)];
                ready!(Pin::new(&mut *to).poll_write_vectored(cx, &slices))?
            };
            if octets == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.sent, self.held_back) = (true, true);
            let of_framed = octets.min(framed.len() - self.written);
            self.written += of_framed;
            let of_content = (octets - of_framed).min(self.content);
            self.content -= of_content;
            source.consume(of_content);
            self.tail = &self.tail[octets - of_framed - of_content..];
        }
        ready!(Pin::new(to).poll_flush(cx))?;
        self.held_back = false;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// A socket that takes a few octets at a time, and may hold them back.
    #[derive(Default)]
    struct Narrow {
        took: Vec<u8>,
        at_once: usize,
        holds_back: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            let here = octets.len().min(this.at_once);
            this.took.extend_from_slice(&octets[..here]);
            Poll::Ready(Ok(here))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.holds_back { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What comes out behind the head "HEAD" when `octets` go in, `step` at a time; and whether it ended.
    fn pumped(mut pump: Pump, octets: &[u8], step: usize, at_once: usize) -> Result<(Vec<u8>, bool), Malformed> {
        let (mut source, mut framed, mut lines) = (Buffer::new(), b"HEAD".to_vec(), Lines::default());
        let mut to = Narrow { at_once, ..Narrow::default() };
        let mut cx = Context::from_waker(Waker::noop());
        let mut left = octets;
        loop {
            pump.stage(&mut source, &mut framed, &mut lines)?;
            if pump.has_unwritten(&framed) {
                assert!(pump.poll_write(&mut source, &framed, &mut to, &mut cx).is_ready());
            } else if pump.has_ended() || left.is_empty() {
                return Ok((to.took.split_off(4), pump.has_ended()));
            } else {
                let came = source.add(&left[..step.min(left.len())]);
                left = &left[came..];
            }
        }
    }

    fn in_chunks(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut octets = Vec::new();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            h1::write_chunk_line(&mut octets, part.len());
            octets.extend_from_slice(part);
            octets.extend_from_slice(h1::CHUNK_END);
        }
        octets.extend_from_slice(b"0\r\n\r\n");
        octets
    }

    /// The content of a chunked body.
    fn content(octets: &[u8]) -> Vec<u8> {
        let plain = Pump::new(Some(Framing::Chunked), false, false);
        let (content, ended) = pumped(plain, octets, usize::MAX, usize::MAX).expect("well-formed");
        assert!(ended, "{octets:?}");
        content
    }

    fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let size = prop_oneof![0..20_usize, SMALL - 2..SMALL + 3, 0..3 * ENOUGH];
        let part =
            (size, any::<u8>()).prop_map(|(size, octet)| (0..size).map(|at| octet.wrapping_add(at as u8)).collect());
        proptest::collection::vec(part, 0..5)
    }

    proptest! {
        #[test]
        fn content_comes_out_as_it_went_in_however_it_is_framed(
            parts in parts(),
            step in 1..40_000_usize,
            at_once in 1..40_000_usize,
        ) {
            let whole = parts.concat();
            let chunked = in_chunks(&parts);
            let length = Some(Framing::Length(whole.len() as u64));
            let to_chunks = Pump::new(Some(Framing::Chunked), true, false);
            let (out, ended) = pumped(to_chunks, &chunked, step, at_once).expect("well-formed");
            prop_assert!(ended && content(&out) == whole);
            let (out, ended) = pumped(Pump::new(length, false, false), &whole, step, at_once).expect("well-formed");
            prop_assert!(ended && out == whole);
            let plain = Pump::new(Some(Framing::Chunked), false, false);
            let (out, ended) = pumped(plain, &chunked, step, at_once).expect("well-formed");
            prop_assert!(ended && out == whole);
        }

        #[test]
        fn what_is_cut_off_never_ends(parts in parts(), cut in any::<prop::sample::Index>(), step in 1..40_000_usize) {
            let chunked = in_chunks(&parts);
            let there = &chunked[..cut.index(chunked.len())];
            let (out, ended) = pumped(Pump::new(Some(Framing::Chunked), true, false), there, step, 1000).expect("no error");
            prop_assert!(!ended && !out.ends_with(b"0\r\n\r\n"));
        }
    }

    #[test]
    fn trailers_that_may_go_on_do_so_where_they_are_wanted() {
        let body = b"1\r\na\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\n\r\n";
        for (wanted, expected) in [(true, &b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"[..]), (false, b"1\r\na\r\n0\r\n\r\n")] {
            let (out, ended) =
                pumped(Pump::new(Some(Framing::Chunked), true, wanted), body, 3, 7).expect("well-formed");
            assert!(ended && out == expected, "{:?}", String::from_utf8_lossy(&out));
        }
    }

    /// A pump of a body of two octets behind the head "HEAD", of which so much has come and was staged.
    fn staged(body: &[u8]) -> (Pump, Buffer, Vec<u8>) {
        let (mut source, mut framed) = (Buffer::new(), b"HEAD".to_vec());
        let mut pump = Pump::new(Some(Framing::Length(2)), false, false);
        source.add(body);
        pump.stage(&mut source, &mut framed, &mut Lines::default()).expect("nothing is malformed");
        (pump, source, framed)
    }

    #[test]
    fn a_body_that_is_there_goes_out_with_its_head() {
        let (pump, _, framed) = staged(b"ab");
        assert!(pump.has_ended() && framed == b"HEADab");
    }

    #[test]
    fn what_was_written_and_is_held_back_is_not_done() {
        let mut to = Narrow { at_once: 100, holds_back: true, ..Narrow::default() };
        let mut cx = Context::from_waker(Waker::noop());
        let (mut pump, mut source, framed) = staged(b"ab");
        for _ in 0..2 {
            assert!(pump.poll_write(&mut source, &framed, &mut to, &mut cx).is_pending());
            assert!(to.took == b"HEADab" && !pump.is_done(&framed) && pump.has_unwritten(&framed));
        }
        to.holds_back = false;
        assert!(pump.poll_write(&mut source, &framed, &mut to, &mut cx).is_ready());
        assert!(to.took == b"HEADab" && pump.is_done(&framed));
    }

    #[test]
    fn a_request_is_kept_to_be_sent_again_until_its_body_is_on_the_way() {
        let (mut to, mut cx) = (Narrow { at_once: 100, ..Narrow::default() }, Context::from_waker(Waker::noop()));
        let (mut pump, mut source, mut framed) = staged(b"");
        assert!(pump.poll_write(&mut source, &framed, &mut to, &mut cx).is_ready());
        assert!(
            pump.begin_again() && pump.has_unwritten(&framed) && framed == b"HEAD",
            "of its body, nothing had come"
        );
        assert!(pump.poll_write(&mut source, &framed, &mut to, &mut cx).is_ready());
        source.add(b"ab");
        pump.stage(&mut source, &mut framed, &mut Lines::default()).expect("nothing is malformed");
        assert!(!pump.begin_again() && framed == b"ab");

        let (mut pump, mut source, framed) = staged(b"ab");
        pump.give_up();
        assert!(pump.is_done(&framed) && pump.begin_again() && !pump.is_done(&framed), "nothing of it was written");
        to.took.clear();
        assert!(pump.poll_write(&mut source, &framed, &mut to, &mut cx).is_ready() && pump.is_done(&framed));
        assert_eq!(to.took, b"HEADab");
        assert!(!pump.begin_again());
    }
}
