//! A request's body as a client of HTTP/2 sends it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};

/// A body that is being received. Dropped before its end, it tells the client to stop.
pub(in super::super) struct Received {
    body: RecvStream,
    /// How much is still to come, where that was said.
    left: Option<u64>,
    /// What was given last and counts against the window.
    owed: usize,
}

impl Received {
    /// Of a request with these fields.
    pub(super) fn new(body: RecvStream, fields: &HeaderMap) -> Self {
        let length = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { body, left: length, owed: 0 }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Self { body, left, owed } = self.get_mut();
        // Whoever asks for more has taken what there was. It fails only where the stream has gone.
        body.flow_control().release_capacity(std::mem::take(owed)).ok();
        loop {
            match ready!(body.poll_data(cx)?) {
                Some(data) if data.is_empty() && !body.is_end_stream() => {}
                Some(data) => {
                    *owed = data.len();
                    *left = left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                None => break,
            }
        }
        body.poll_trailers(cx).map(|trailers| trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.body.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
