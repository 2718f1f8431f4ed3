//! An upstream's answer, from the end of its head on: watched over while its pieces come, and how it can break off.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use thiserror::Error;

use super::{
    client::Client,
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

    /// To be asked while the client does not take what there is: it may have to send all of its request before it does.
    /// Ready when that broke off.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match self.exchange.poll_upload(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(BodyError::Request),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// The same, and whether it is over meanwhile. How long the client may leave it at that, others see to.
    pub(super) fn poll_untaken(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if let Poll::Ready(broken) = self.poll_upload(cx) {
            return Poll::Ready(broken);
        }
        self.patience.poll_download(cx).map(BodyError::Impatience)
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
