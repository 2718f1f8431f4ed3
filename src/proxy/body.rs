//! An answer's body on its way to the client. It carries what lives as long as the request does: the ticket, the log line,
//! the place among the client's requests and the upstream's connection. When it ends, or is dropped, all close; the
//! connection goes back to the idle ones only after a whole answer.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::Instant;

use super::{
    client::Serving,
    clock::{Alarm, Timer},
    upload::{self, Upload},
    upstream::Connection,
};
use crate::{
    switch::Ticket,
    telemetry::request_log::{Outcome, RequestLog},
};

/// An answer's body.
pub(super) struct TrackedBody {
    source: Source,
    log: RequestLog,
    timer: Timer,
    serving: Serving,
    whole: bool,
}

enum Source {
    /// Ours.
    Text(Bytes),
    Upstream(Box<Download>),
}

/// An upstream's answer.
pub(super) struct Download {
    pub(super) incoming: Incoming,
    pub(super) ticket: Ticket,
    /// Given back, or closed, in the end.
    pub(super) connection: Option<Connection>,
    /// The request's body, which may not be through yet.
    pub(super) upload: Option<std::rc::Rc<Upload>>,
    /// When the whole request is to end.
    pub(super) deadline: Option<Instant>,
}

/// Why an answer breaks off. The client sees it: no last chunk on HTTP/1, a reset stream on HTTP/2.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("the upstream's answer broke off")]
    Incomplete(#[source] hyper::Error),
    #[error("the drain's deadline came first")]
    Cut,
    #[error("the request took too long")]
    TimedOut,
    #[error("the request's body stalled")]
    UploadStalled,
}

impl BodyError {
    fn label(&self) -> &'static str {
        match self {
            Self::Incomplete(_) => "incomplete",
            Self::Cut => "drained",
            Self::TimedOut => "timeout",
            Self::UploadStalled => "request_timeout",
        }
    }
}

impl TrackedBody {
    /// A short text of ours.
    pub(super) fn text(text: Bytes, log: RequestLog, timer: Timer, serving: Serving) -> Self {
        Self { source: Source::Text(text), log, timer, serving, whole: false }
    }

    /// What an upstream answers.
    pub(super) fn upstream(download: Download, log: RequestLog, timer: Timer, serving: Serving) -> Self {
        Self { source: Source::Upstream(Box::new(download)), log, timer, serving, whole: false }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let outcome = match &error {
            BodyError::UploadStalled => Outcome::ClientGone,
            _ => Outcome::UpstreamFailedAfter,
        };
        self.log.ended(outcome, error.label());
        Poll::Ready(Some(Err(error)))
    }
}
