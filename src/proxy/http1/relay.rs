//! A request and its answer between two sockets, in one task: both directions go on side by side, so an early answer stops no
//! upload and an upload holds up no answer; and whoever leaves is noticed while nobody else speaks.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::StatusCode;
use tokio::io::AsyncWrite;

use super::{
    super::{
        client::Client,
        connect::Socket,
        h1::{self, FailureKind, Malformed, Name, RequestHead, ResponseHead},
        half_close::HalfClose,
        headers::Head,
        patience::{Impatience, Patience},
        stream::Stream,
        upload::{self, Upload},
    },
    desk::{Behind, Desk, Tray},
    pump::Pump,
};
use crate::telemetry::request_log::Outcome;

/// The most interim answers (RFC 9110 §15.2) an upstream may send before its final one.
const MAX_INTERIM: u8 = 16;

/// One attempt at a request, and then its answer.
pub(super) struct Relay<'a> {
    pub(super) client: &'a Client,
    pub(super) stream: &'a mut Stream,
    pub(super) half_close: &'a mut Option<HalfClose>,
    pub(super) upstream: Socket,
    pub(super) desk: &'a mut Desk,
    /// There while something of the answer is.
    pub(super) tray: Option<Box<Tray>>,
    pub(super) request: &'a RequestHead,
    pub(super) upload: &'a mut Pump,
    /// What is known of the request's body, if it has one.
    pub(super) tracker: Option<&'a Upload>,
    /// What the client waits to read before it sends its body.
    pub(super) interim: &'a mut &'static [u8],
    /// The request asks for another protocol.
    pub(super) upgrades: bool,
    /// The client takes trailers.
    pub(super) trailers: bool,
    /// The upstream takes no more; it may yet say why.
    pub(super) refused: bool,
    pub(super) before: Before,
    /// The client has said that it sends nothing more, and has all of its answer with the close.
    pub(super) parting: bool,
}

/// What came before the final answer.
#[derive(Default)]
pub(super) struct Before {
    interim: u8,
    /// An interim answer leaves it in doubt where the next begins, or announced a close.
    pub(super) doubtful: bool,
    begun: bool,
    /// It has been waited for.
    awaited: bool,
}

/// What broke it off.
#[derive(Debug)]
pub(super) enum Broken {
    /// The upstream closed or reset the connection, or its answer is malformed.
    Upstream(FailureKind),
    /// The request's body.
    Upload(upload::Failure),
    /// The client has left.
    Client,
    Impatience(Impatience),
}

impl Broken {
    /// How a request ended whose answer was broken off by this, and why.
    pub(super) fn outcome(&self) -> (Outcome, &'static str) {
        match self {
            Self::Upstream(FailureKind::Malformed(_)) => (Outcome::UpstreamFailedAfter, "protocol"),
            Self::Upstream(_) => (Outcome::UpstreamFailedAfter, "reset"),
            Self::Upload(_) => (Outcome::ClientGone, "body"),
            Self::Client => (Outcome::ClientGone, ""),
            Self::Impatience(Impatience::Client) => (Outcome::ClientGone, "request_timeout"),
            Self::Impatience(Impatience::Cut) => (Outcome::UpstreamFailedAfter, "drained"),
            // As its app's owner wants it.
            Self::Impatience(Impatience::Retired) => (Outcome::Answered, "retired"),
            Self::Impatience(Impatience::Upstream | Impatience::Whole) => (Outcome::UpstreamFailedAfter, "timeout"),
        }
    }
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Self {
        Self::Upstream(malformed.into())
    }
}

impl Relay<'_> {
    /// Sends, and waits for the final answer's head: it stands at the front of what came of the answer.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        if !self.upload.is_done(&self.desk.outgoing)
            && let Poll::Ready(Err(broken)) = self.poll_upload(cx)
        {
            return Poll::Ready(Err(broken));
        }
        match self.poll_answer_head(cx) {
            Poll::Ready(head) => Poll::Ready(head),
            Poll::Pending => self.poll_client(cx).map(Err),
        }
    }

    fn poll_answer_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        loop {
            if let Some(tray) = &mut self.tray {
                let Desk { incoming, lines, .. } = &*self.desk;
                match h1::read_response(tray.answer.rest(), &self.request.method, &mut tray.lines)? {
                    Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                        let asked = Head { octets: incoming.head(), lines };
                        let given = Head { octets: tray.answer.rest(), lines: &tray.lines };
                        let asked = asked.values(Name::Upgrade).next().filter(|_| self.upgrades);
                        return Poll::Ready(match h1::switches(asked, given.values(Name::Upgrade)) {
                            true => Ok(head),
                            false => Err(Malformed::Interim.into()),
                        });
                    }
                    Some(head) if !head.status.is_informational() => return Poll::Ready(Ok(head)),
                    Some(interim) => {
                        tray.answer.consume(interim.length);
                        self.before.doubtful |= !interim.keep_alive;
                        self.before.interim += 1;
                        if self.before.interim > MAX_INTERIM {
                            return Poll::Ready(Err(Malformed::Interim.into()));
                        }
                        continue;
                    }
                    None => {}
                }
            }
            if !std::mem::replace(&mut self.before.awaited, true) {
                // The request has just gone out: there is nothing yet.
                ready!(self.upstream.poll_readable(cx));
            }
            let tray = self.tray.get_or_insert_with(|| self.client.worker.tray());
            match tray.answer.poll_fill(&mut self.upstream, cx) {
                Poll::Ready(Ok(octets)) if octets > 0 => self.before.begun = true,
                Poll::Ready(_) => {
                    let closed = FailureKind::Closed { answering: self.before.begun };
                    return Poll::Ready(Err(Broken::Upstream(closed)));
                }
                Poll::Pending => {
                    if tray.answer.is_empty() {
                        self.put_back_tray();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Gives the tray back, when nothing on it is needed.
    pub(super) fn put_back_tray(&mut self) {
        self.client.worker.put_back_tray(self.tray.take());
    }

    /// Sends what there is to send. Ready when all is sent, or nothing more will be taken.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Desk { incoming, outgoing, trailer_lines, .. } = &mut *self.desk;
        loop {
            if let Some(tracker) = self.tracker {
                let staged = self.upload.stage(incoming, outgoing, trailer_lines);
                let checked = staged.map_err(|_| upload::Failure::Malformed);
                if let Err(failure) = checked.and_then(|()| tracker.reached(self.upload.moved())) {
                    return Poll::Ready(Err(Broken::Upload(tracker.fail(failure))));
                }
            }
            if self.upload.has_unwritten(outgoing) {
                if ready!(self.upload.poll_write(incoming, outgoing, &mut self.upstream, cx)).is_err() {
                    // It may have answered before it closed its ears; the answer, or its absence, decides.
                    self.upload.give_up();
                    self.refused = true;
                }
                continue;
            }
            let Some(tracker) = self.tracker.filter(|_| !self.upload.has_ended()) else {
                self.tracker.into_iter().for_each(|tracker| tracker.turn(upload::State::Done));
                return Poll::Ready(Ok(()));
            };
            while !self.interim.is_empty() {
                match ready!(Pin::new(&mut *self.stream).poll_write(cx, self.interim)) {
                    Ok(octets) if octets > 0 => *self.interim = &self.interim[octets..],
                    _ => return Poll::Ready(Err(Broken::Client)),
                }
            }
            if !incoming.has_room() {
                // A line or a section that no buffer holds.
                return Poll::Ready(Err(Broken::Upload(tracker.fail(upload::Failure::Malformed))));
            }
            // To be asked again is not to get on.
            if tracker.state() != upload::State::Clients {
                tracker.turn(upload::State::Clients);
            }
            match ready!(incoming.poll_fill(self.stream, cx)) {
                Ok(octets) if octets > 0 => tracker.turn(upload::State::Upstreams),
                _ => return Poll::Ready(Err(Broken::Upload(tracker.fail(upload::Failure::ClientGone)))),
            }
        }
    }

    /// Sends the answer, whose head is framed already, while the rest of the request goes on beside it.
    pub(super) fn poll_rest(
        &mut self,
        download: &mut Pump,
        patience: &Patience,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if let Some(whose) = patience.is_over() {
            return Poll::Ready(Err(Broken::Impatience(whose)));
        }
        if !self.upload.has_ended() || self.upload.has_unwritten(&self.desk.outgoing) {
            // A body that breaks off takes the exchange down only if the answer does not end first.
            if let Poll::Ready(Err(broken)) = self.poll_upload(cx) {
                return Poll::Ready(Err(broken));
            }
        }
        loop {
            let Tray { answer, lines, reply } = &mut **self.tray.get_or_insert_with(|| self.client.worker.tray());
            let Desk { incoming, outgoing, .. } = &mut *self.desk;
            if !download.has_ended() {
                download.stage(answer, reply, lines)?;
            }
            if download.has_unwritten(reply) {
                let has_sent_all = incoming.is_empty() && self.upload.is_done(outgoing) && !self.refused;
                self.parting = !self.request.keep_alive
                    && download.has_ended()
                    && has_sent_all
                    && self.half_close.is_none()
                    && self.stream.is_quiet(cx);
                let written = match self.parting {
                    true => download.poll_write(answer, reply, &mut self.stream.last(), cx),
                    false => download.poll_write(answer, reply, self.stream, cx),
                };
                self.client.wrote(written.is_ready());
                match written {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Client)),
                    Poll::Pending => {
                        return patience.poll_download(cx).map(|whose| Err(Broken::Impatience(whose)));
                    }
                }
            }
            if download.has_ended() {
                return Poll::Ready(Ok(()));
            }
            match answer.poll_fill(&mut self.upstream, cx) {
                Poll::Ready(Ok(octets)) if octets > 0 || download.close() => {}
                Poll::Ready(_) => {
                    let closed = FailureKind::Closed { answering: true };
                    return Poll::Ready(Err(Broken::Upstream(closed)));
                }
                Poll::Pending => {
                    if answer.is_empty() && download.settle(reply) {
                        self.put_back_tray();
                    }
                    if let Poll::Ready(broken) = self.poll_client(cx) {
                        return Poll::Ready(Err(broken));
                    }
                    return patience.poll_download(cx).map(|whose| Err(Broken::Impatience(whose)));
                }
            }
        }
    }

    /// Looks whether the client is still there, when nobody else has anything to say.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match self.upload.has_ended() {
            true => poll_gone(self.stream, &mut self.desk.incoming.split().1, self.half_close, self.client, cx)
                .map(|()| Broken::Client),
            false => Poll::Pending,
        }
    }
}

/// Ready when the client has left. What it sends meanwhile is the next request, and is read ahead as far as there is room.
pub(super) fn poll_gone(
    stream: &mut Stream,
    behind: &mut Behind<'_>,
    half_close: &mut Option<HalfClose>,
    client: &Client,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if client.is_blocked() {
        return Poll::Pending;
    }
    loop {
        if let Some(half_close) = half_close {
            return half_close.poll(stream, client, cx).map(drop);
        }
        if !behind.has_room() {
            return Poll::Pending;
        }
        ready!(stream.poll_readable(cx));
        match ready!(behind.poll_fill(stream, cx)) {
            Ok(0) => {
                client.sends_no_more();
                *half_close = Some(HalfClose::new());
            }
            Ok(_) => {}
            Err(_) => return Poll::Ready(()),
        }
    }
}
