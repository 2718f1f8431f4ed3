//! A gRPC call's answer on its way to a client of HTTP/2. A call that goes on is a long-lived stream, as an event stream is:
//! when its pool is retired, it does what its app's policy says. Where it is to end, that is told between two messages, in
//! trailers of ours: `UNAVAILABLE`, upon which a client calls again.
//!
//! A call of one message each way cannot be told from others by its head. So nothing is asked of the clock before there is
//! something to wait for; and one that was to end after its first message has a moment for the trailers of its own.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;

use super::super::{
    body::{BodyError, Download},
    grpc,
    patience::Impatience,
};
use crate::telemetry::request_log::RequestLog;

/// How long a message that has begun may take to end, and a first one to be the last.
const LAST_MESSAGE: Duration = Duration::from_millis(500);
/// What stands before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What is known of an answer.
#[derive(Default)]
pub(super) struct Call {
    messages: Messages,
    /// The clock knows it for a stream.
    is_stream: bool,
    /// It is about to end, and for whom.
    leaving: Option<Impatience>,
    /// It has had our trailers.
    parted: bool,
}

impl Call {
    /// The next piece of the answer, or the trailers that end it before its time.
    pub(super) fn poll_frame(
        &mut self,
        download: &mut Download,
        log: &mut RequestLog,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.parted {
            return Poll::Ready(None);
        }
        loop {
            if let Some(whose) = self.leaving.filter(|_| self.messages.are_many() && self.messages.are_whole()) {
                return self.part(whose, log);
            }
            let polled = download.poll_frame(cx);
            match &polled {
                Poll::Pending if !std::mem::replace(&mut self.is_stream, true) => {
                    download.patience.with_stream(&download.ticket);
                }
                Poll::Ready(Some(Ok(frame))) => self.messages.pass(frame.data_ref().map_or(&[][..], |data| data)),
                Poll::Ready(Some(Err(BodyError::Impatience(whose)))) => match (self.leaving, whose) {
                    (Some(whose), _) if self.messages.are_whole() => return self.part(whose, log),
                    (Some(whose), _) => return Poll::Ready(Some(Err(BodyError::Impatience(whose)))),
                    (None, Impatience::Cut | Impatience::Retired) => {
                        self.leaving = Some(*whose);
                        download.patience.grant(LAST_MESSAGE);
                        continue;
                    }
                    (None, Impatience::Client | Impatience::Upstream | Impatience::Whole) => {}
                },
                _ => {}
            }
            return polled;
        }
    }

    /// It is about to end, and for whom.
    pub(super) fn leaving(&self) -> Option<Impatience> {
        self.leaving
    }

    fn part(&mut self, whose: Impatience, log: &mut RequestLog) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.parted = true;
        let (outcome, reason) = BodyError::Impatience(whose).outcome();
        log.ended(outcome, reason);
        Poll::Ready(Some(Ok(Frame::trailers(grpc::call_again()))))
    }
}

/// Where in an answer's messages we are.
#[derive(Default)]
struct Messages {
    begun: u64,
    prefix: [u8; PREFIX],
    /// How much of a prefix has come.
    known: usize,
    /// How much of a message is to come.
    left: u32,
}

impl Messages {
    /// Walks over octets of the answer.
    fn pass(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            if self.left > 0 {
                let here = octets.len().min(self.left as usize);
                self.left -= here as u32;
                octets = &octets[here..];
                continue;
            }
            let here = octets.len().min(PREFIX - self.known);
            self.prefix[self.known..][..here].copy_from_slice(&octets[..here]);
            self.known += here;
            octets = &octets[here..];
            if self.known == PREFIX {
                let [_, length @ ..] = self.prefix;
                (self.begun, self.known, self.left) = (self.begun + 1, 0, u32::from_be_bytes(length));
            }
        }
    }

    /// Whether it is a stream of messages, beyond doubt.
    fn are_many(&self) -> bool {
        self.begun > 1
    }

    /// Whether none has begun that has not ended.
    fn are_whole(&self) -> bool {
        self.left == 0 && self.known == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_come() {
        let octets = [&b"\0\0\0\0\x03abc"[..], b"\0\0\0\0\0", b"\x01\0\0\x01\0", &[7; 256]].concat();
        let ends = [8, 13, 274];
        for step in [1, 2, 5, 7, 300] {
            let (mut messages, mut passed) = (Messages::default(), 0);
            for some in octets.chunks(step) {
                messages.pass(some);
                passed += some.len();
                assert_eq!(messages.are_whole(), ends.contains(&passed), "{passed} by {step}");
                assert!(!messages.are_many() || passed > 8, "{passed} by {step}");
            }
            assert!(messages.are_many() && messages.begun == 3);
        }
    }
}
