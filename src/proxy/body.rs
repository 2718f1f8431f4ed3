//! An answer's body on its way to the client. It carries what lives as long as the request does: the ticket, the log line,
//! the place among the client's requests and the upstream's connection. When it ends, or is dropped, all close; the
//! connection goes back to the idle ones only after a whole answer.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::{
    call::Call,
    client::{Client, Serving},
    exchange::Exchange,
    h1::FailureKind,
    headers,
    mirror::Sampled,
    patience::{Impatience, Patience},
    upload::Upload,
};
use crate::{
    switch::Ticket,
    telemetry::request_log::{Outcome, RequestLog},
};

/// An answer's body.
pub(super) struct TrackedBody {
    source: Source,
    /// The log line and the place in flight; a tunnel's are its own.
    record: Option<Record>,
}

pub(super) struct Record {
    pub(super) log: RequestLog,
    pub(super) serving: Serving,
}

enum Source {
    /// Ours; `None` when it has been given.
    Text(Option<Bytes>),
    Upstream(Download),
    Call(Download, Call),
    Nothing,
}

/// An upstream's answer.
pub(super) struct Download {
    pub(super) exchange: Box<Exchange>,
    pub(super) ticket: Ticket,
    pub(super) patience: Patience,
    /// Hears of it, where a copy of the request was sent as well.
    pub(super) sampled: Option<Box<Sampled>>,
}

/// Why an answer breaks off. The client sees it: no last chunk on HTTP/1, a reset stream on HTTP/2.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("the upstream's answer broke off")]
    Upstream(#[source] FailureKind),
    #[error("the request's body broke off")]
    Request,
    #[error("it took too long")]
    Impatience(Impatience),
}

impl TrackedBody {
    /// A short text of ours. The log has been told how the request ended.
    pub(super) fn text(text: Bytes, record: Record) -> Self {
        let text = Some(text).filter(|text| !text.is_empty());
        Self { source: Source::Text(text), record: Some(record) }
    }

    /// What stands before a tunnel.
    pub(super) fn nothing() -> Self {
        Self { source: Source::Nothing, record: None }
    }

    /// An answer of an upstream; `call` if it is one to a gRPC call.
    pub(super) fn upstream(download: Download, call: Option<Call>, record: Record) -> Self {
        download.patience.client_to_take();
        let source = match call {
            Some(call) => Source::Call(download, call),
            None => Source::Upstream(download),
        };
        Self { source, record: Some(record) }
    }
}

impl Download {
    /// Ends it: the upstream's connection is kept, if it may serve another request.
    pub(super) fn finish(self, client: &Client, log: &mut RequestLog) {
        log.received(self.patience.upload().map_or(0, Upload::octets));
        if self.exchange.has_ended() {
            self.sampled.into_iter().for_each(|sampled| sampled.done());
        }
        if let Some(connection) = self.exchange.into_connection() {
            client.worker.upstream.keep(self.ticket.endpoint(), connection);
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(impatience) = self.patience.is_over() {
            return Poll::Ready(Some(Err(BodyError::Impatience(impatience))));
        }
        match self.exchange.poll_body(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                frame.trailers_mut().into_iter().for_each(headers::clean_trailers);
                if let (Some(sampled), Some(data)) = (&mut self.sampled, frame.data_ref()) {
                    sampled.answer_body(data);
                }
                self.patience.client_to_take();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(FailureKind::Body(_)))) => Poll::Ready(Some(Err(BodyError::Request))),
            Poll::Ready(Some(Err(kind))) => Poll::Ready(Some(Err(BodyError::Upstream(kind)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.patience.poll_download(cx).map(|whose| Some(Err(BodyError::Impatience(whose)))),
        }
    }
}

impl BodyError {
    pub(super) fn outcome(&self) -> (Outcome, &'static str) {
        match self {
            Self::Upstream(FailureKind::Malformed(_)) => (Outcome::UpstreamFailedAfter, "protocol"),
            Self::Upstream(_) => (Outcome::UpstreamFailedAfter, "reset"),
            Self::Request => (Outcome::ClientGone, "body"),
            Self::Impatience(Impatience::Client) => (Outcome::ClientGone, "request_timeout"),
            Self::Impatience(Impatience::Cut) => (Outcome::UpstreamFailedAfter, "drained"),
            // As its app's owner wants it.
            Self::Impatience(Impatience::Retired) => (Outcome::Answered, "retired"),
            Self::Impatience(Impatience::Upstream | Impatience::Whole) => (Outcome::UpstreamFailedAfter, "timeout"),
        }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match (&mut this.source, &mut this.record) {
            (Source::Text(text), _) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            (Source::Call(download, call), Some(Record { log, .. })) => call.poll_frame(download, log, cx),
            (Source::Upstream(download) | Source::Call(download, _), _) => download.poll_frame(cx),
            (Source::Nothing, _) => Poll::Ready(None),
        };
        match (&polled, &mut this.record) {
            (Poll::Ready(Some(Ok(frame))), Some(Record { log, .. })) => {
                log.sent(frame.data_ref().map_or(0, Bytes::len) as u64);
            }
            (Poll::Ready(Some(Err(error))), Some(Record { log, .. })) => {
                let (outcome, reason) = error.outcome();
                log.ended(outcome, reason);
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Upstream(download) | Source::Call(download, _) => download.exchange.has_ended(),
            Source::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Upstream(download) | Source::Call(download, _) => download.exchange.size_hint(),
            Source::Nothing => SizeHint::with_exact(0),
        }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        let source = std::mem::replace(&mut self.source, Source::Nothing);
        let (Source::Upstream(download) | Source::Call(download, _), Some(Record { log, serving })) =
            (source, &mut self.record)
        else {
            return;
        };
        if let Some(whose) = download.patience.is_over().filter(|_| !download.exchange.has_ended()) {
            // It was ended while it waited for its client, and could not say so itself.
            let (outcome, reason) = BodyError::Impatience(whose).outcome();
            log.ended(outcome, reason);
        }
        if download.exchange.has_ended() {
            log.ended(Outcome::Answered, "");
        }
        download.finish(serving.client(), log);
    }
}
