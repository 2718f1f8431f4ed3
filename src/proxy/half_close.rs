//! A client that closes its direction may want the rest of its answer, or may have left for good: the end of its octets
//! looks the same. Only an octet sent to it tells: who has left resets the connection. So it is sent the first octets of
//! what it is to get anyway, whatever that will be.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::AsyncWrite,
    time::{Instant, Sleep, sleep},
};

use super::{
    client::{Answer, Client},
    stream::Stream,
};

/// What every HTTP/1 answer begins with.
const ANY_ANSWER: &[u8] = b"HTTP/1.";
/// What every chunk's size may begin with (RFC 9112 §7.1).
const ANY_CHUNK: &[u8] = b"0";
/// How soon a reset is looked for at first; each further look waits twice as long.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// What is known of a client that has closed its direction.
pub(super) struct HalfClose {
    /// What had come of the answer when it was asked last.
    asked: Option<Answer>,
    /// How much of an answer's head was sent ahead, in octets.
    ahead: usize,
    look: Pin<Box<Sleep>>,
    pause: Duration,
}

impl HalfClose {
    pub(super) fn new() -> Self {
        Self { asked: None, ahead: 0, look: Box::pin(sleep(FIRST_LOOK)), pause: FIRST_LOOK }
    }

    /// Ready with an error when the client has left.
    pub(super) fn poll(&mut self, stream: &mut Stream, client: &Client, cx: &mut Context<'_>) -> Poll<io::Error> {
        // While a write waits, it is the write that finds out, and what is under way is not at a border.
        if self.asked != Some(client.answer()) && !client.is_blocked() {
            self.asked = Some(client.answer());
            match self.ask(stream, client.answer(), cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        loop {
            if let Ok(Some(error)) | Err(error) = stream.take_error() {
                return Poll::Ready(error);
            }
            ready!(self.look.as_mut().poll(cx));
            self.pause *= 2;
            self.look.as_mut().reset(Instant::now() + self.pause);
        }
    }

    fn ask(&mut self, stream: &mut Stream, answer: Answer, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = pin!(stream);
        match answer {
            Answer::NotYet => self.ahead = ready!(stream.as_mut().poll_write(cx, ANY_ANSWER))?,
            Answer::InChunks => _ = ready!(stream.as_mut().poll_write(cx, ANY_CHUNK))?,
            // An octet too many would be one of the body. The next that comes tells.
            Answer::UntilClose | Answer::Otherwise => return Poll::Ready(Ok(())),
        }
        stream.poll_flush(cx)
    }

    /// How much of the answer's head was sent ahead, in octets. What is written next leaves it out.
    pub(super) fn catch_up(&mut self) -> usize {
        std::mem::take(&mut self.ahead)
    }
}
