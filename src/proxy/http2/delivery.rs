//! An upstream's answer on its way to a client of HTTP/2: as fast as the client opens its window, and no longer than it may
//! leave that closed. It carries what lives as long as the request does, the log line and the upstream's connection among it;
//! when it ends, or is dropped, all close. The connection goes back to the idle ones only after a whole answer.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, SendStream};

use super::{
    super::{
        body::{BodyError, Download},
        client::Client,
        h2::poll_window,
        patience::Impatience,
    },
    call::Call,
};
use crate::telemetry::request_log::{Outcome, RequestLog};

/// An answer whose head is sent.
pub(super) struct Delivery {
    /// Taken when it is dropped.
    download: Option<Download>,
    /// It is one to a gRPC call.
    call: Option<Call>,
    /// What has come and is to be sent.
    waiting: Bytes,
    client: Rc<Client>,
    log: RequestLog,
}

impl Delivery {
    pub(super) fn new(download: Download, call: Option<Call>, client: &Rc<Client>, log: RequestLog) -> Self {
        Self { download: Some(download), call, waiting: Bytes::new(), client: Rc::clone(client), log }
    }

    /// All of it was handed to the client's connection.
    pub(super) fn done(&mut self) {
        self.log.ended(Outcome::Answered, "");
    }

    /// Ready when it has ended, well or not: the log knows.
    pub(super) fn poll(&mut self, sender: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(download) = &mut self.download else { return Poll::Ready(()) };
            if !self.waiting.is_empty() {
                let Poll::Ready(window) = poll_window(sender, self.waiting.len(), cx) else {
                    if let Poll::Ready(broken) = download.poll_upload(cx) {
                        return self.broke_off(&broken, sender);
                    }
                    return download.patience.poll_take(cx).map(|whose| self.gave_up(whose));
                };
                // Else it has been reset.
                let Some(window) = window else { return Poll::Ready(()) };
                let piece = self.waiting.split_to(window.min(self.waiting.len()));
                let ends = self.waiting.is_empty() && download.exchange.has_ended();
                if sender.send_data(piece, ends).is_err() {
                    return Poll::Ready(());
                }
                if ends {
                    self.done();
                    return Poll::Ready(());
                }
                download.patience.client_to_take();
                continue;
            }
            let polled = match &mut self.call {
                Some(call) => call.poll_frame(download, &mut self.log, cx),
                None => download.poll_frame(cx),
            };
            let sent = match polled {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.log.sent(data.len() as u64);
                        self.waiting = data;
                        continue;
                    }
                    Err(frame) => sender.send_trailers(frame.into_trailers().unwrap_or_default()),
                },
                Poll::Ready(None) => sender.send_data(Bytes::new(), true),
                Poll::Ready(Some(Err(broken))) => return self.broke_off(&broken, sender),
                Poll::Pending => return sender.poll_reset(cx).map(drop),
            };
            if sent.is_ok() {
                self.done();
            }
            return Poll::Ready(());
        }
    }

    /// It breaks off.
    fn broke_off(&mut self, broken: &BodyError, sender: &mut SendStream<Bytes>) -> Poll<()> {
        let (outcome, reason) = broken.outcome();
        self.log.ended(outcome, reason);
        // A cut answer is to be seen as one (RFC 9113 §8.1).
        sender.send_reset(Reason::INTERNAL_ERROR);
        Poll::Ready(())
    }

    /// It ends while it waits for its client: for what it was to end for already, if it was.
    fn gave_up(&mut self, whose: Impatience) {
        let (outcome, reason) = match self.call.as_ref().and_then(Call::leaving).unwrap_or(whose) {
            Impatience::Client => (Outcome::ClientGone, ""),
            other => BodyError::Impatience(other).outcome(),
        };
        self.log.ended(outcome, reason);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some(download) = self.download.take() else { return };
        if let Some(whose) = download.patience.is_over().filter(|_| !download.exchange.has_ended()) {
            // It was dropped before it could say so itself.
            self.gave_up(whose);
        }
        download.finish(&self.client, &mut self.log);
    }
}

/// Sends a short text of ours, as fast as the client takes it.
pub(super) async fn send_text(sender: &mut SendStream<Bytes>, mut text: Bytes) {
    while !text.is_empty() {
        let Some(window) = poll_fn(|cx| poll_window(sender, text.len(), cx)).await else { return };
        let piece = text.split_to(window.min(text.len()));
        if sender.send_data(piece, text.is_empty()).is_err() {
            return;
        }
    }
}
