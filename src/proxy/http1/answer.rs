//! An upstream's answer on its way to the client: how it begins, and what becomes of both connections when it has ended.
//! What is in between is the [`Relay`]'s work.

use bytes::Bytes;
use http::StatusCode;

use super::{
    super::{
        attempts,
        client::Answer,
        exchange::Wire,
        h1::{self, Framing, ResponseHead},
        half_close::HalfClose,
        headers::{self, Head, Told},
        mirror::Sampled,
        patience::Patience,
    },
    desk::Tray,
    pump::Pump,
    relay::{Broken, Relay},
    transaction::{Forwarded, Next, write_status_line},
};
use crate::{
    proxy::admit::Fields,
    switch::Ticket,
    telemetry::request_log::{Outcome, RequestLog},
};

/// An answer under way.
pub(super) struct Answering {
    pub(super) download: Pump,
    /// It switches to another protocol.
    switched: bool,
    /// The client's connection ends with it, and with nothing else telling its end.
    closes: bool,
    until_close: bool,
    /// The upstream's connection may serve another request.
    keep_alive: bool,
}

impl Answering {
    /// Makes the upstream's head, which stands at the front of what has come, the client's.
    pub(super) fn begin(
        relay: &mut Relay<'_>,
        patience: &Patience,
        head: &ResponseHead,
        ticket: &Ticket,
        mut sampled: Option<Box<Sampled>>,
        log: &mut RequestLog,
    ) -> Self {
        let (client, request) = (relay.client, relay.request);
        log.answered(head.status);
        attempts::note_answer(ticket, head.status);
        let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
        // What says neither its length nor where it ends, and what comes in chunks to whom knows none.
        let unframed = matches!(head.framing, None | Some(Framing::Chunked));
        let (chunked, until_close) = (unframed && !request.is_http_10, unframed && request.is_http_10);
        let closes = !request.keep_alive || until_close || client.is_closing();
        let mut download = Pump::new(head.framing, chunked, relay.trailers);
        let Tray { answer, lines, reply } = &mut **relay.tray.get_or_insert_with(|| client.worker.tray());
        let octets = &answer.rest()[..head.length];
        reply.clear();
        let first = Some(0).filter(|_| !head.is_http_10 && !head.reason.is_empty());
        if first.is_none() {
            write_status_line(reply, head.status, &octets[head.reason.clone()]);
        }
        let told = Told {
            chunked,
            connection: match (closes, request.is_http_10) {
                _ if switched => None,
                (true, _) => Some("close"),
                (false, true) => Some("keep-alive"),
                (false, false) => None,
            },
            switched,
            lengthless: matches!(head.status.as_u16(), 100..200 | 204),
        };
        let lines = Head { octets, lines };
        // One that may never end says no length.
        if unframed && headers::is_event_stream(lines.first("content-type")) {
            patience.with_stream(ticket);
        }
        headers::write_answer_lines(reply, lines, first, ticket, &told);
        if let Some(sampled) = &mut sampled {
            sampled.answer_head(head.status, lines.to_map().unwrap_or_default());
        }
        download.let_hear(sampled);
        answer.consume(head.length);
        client.answers(match (chunked, until_close) {
            (true, _) => Answer::InChunks,
            (_, true) => Answer::UntilClose,
            _ => Answer::Otherwise,
        });
        download.skip(relay.half_close.as_mut().map_or(0, HalfClose::catch_up));
        *relay.interim = b"";
        Self { download, switched, closes, until_close, keep_alive: head.keep_alive }
    }

    /// The relay has come to an end: to that of the answer, or another.
    pub(super) fn end(
        self,
        mut relay: Relay<'_>,
        ended: Result<(), Broken>,
        ticket: Ticket,
        log: &mut RequestLog,
    ) -> Forwarded {
        let client = relay.client;
        log.sent(self.download.moved());
        if !self.switched {
            log.received(relay.upload.moved());
        }
        client.answers(Answer::Otherwise);
        if let Err(broken) = ended {
            let (outcome, reason) = broken.outcome();
            log.ended(outcome, reason);
            // An answer cut off without a sign of its own is reset, not seen out.
            let resets = self.until_close || matches!(broken, Broken::Client);
            return Forwarded::Answered(if resets { Next::Reset } else { Next::Close });
        }
        let behind = relay.tray.as_ref().map_or(&[][..], |tray| tray.answer.rest());
        if self.switched {
            let early = Bytes::copy_from_slice(behind);
            return Forwarded::Switched(Box::new((Wire::Socket(relay.upstream), early, ticket)));
        }
        let whole_upload = relay.upload.is_done(&relay.desk.outgoing) && !relay.refused;
        let clean = self.keep_alive && !relay.before.doubtful && whole_upload && behind.is_empty();
        log.ended(Outcome::Answered, "");
        self.download.whole();
        relay.put_back_tray();
        let parting = relay.parting;
        if clean {
            client.worker.upstream.keep(ticket.endpoint(), h1::Connection::new(relay.upstream));
        }
        Forwarded::Answered(match self.closes || !whole_upload {
            true if parting => Next::CloseAtOnce,
            true => Next::Close,
            false => Next::Again,
        })
    }
}
