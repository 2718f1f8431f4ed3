//! One request and its answer on one stream, driven by whoever polls it, with the methods of `h1::Exchange`: sending and
//! receiving go on side by side, the one as fast as the upstream opens its window, the other as fast as its client takes
//! what there is.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, Method, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use super::{
    super::{
        h1::{FailureKind, Framing, Malformed},
        outgoing::Message,
        replay::Replay,
    },
    connection::Place,
    head,
    tunnel::Tunnel,
};

/// The most interim answers (RFC 9110 §15.2) an upstream may send before its final one.
const MAX_INTERIM: u8 = 16;
/// How much is sent at most for one piece of window, in octets: what others may have of the connection's in between.
const MOST_AT_ONCE: usize = 16 * 1024;

/// A request being sent and its answer being received.
pub(in super::super) struct Exchange<B> {
    message: Box<Message<Replay<B>>>,
    upload: Upload,
    sender: Option<SendStream<Bytes>>,
    /// Content that the upstream has yet to open its window for.
    waiting: Bytes,
    answer: Answer,
    interim: u8,
    /// Nobody has acted on the request, and nobody will.
    untouched: bool,
    /// The upstream has reset the stream.
    reset: bool,
    /// Given up last, with the stream.
    place: Place,
}

/// How far the request's body has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Upload {
    /// More of it may come; by length, so much.
    Going(Option<u64>),
    /// All of it was taken from the client; what waits is the last.
    Ending,
    /// All of it was given to h2.
    Sent,
    /// The upstream takes no more; it may yet say why.
    Refused,
}

enum Answer {
    Awaited(ResponseFuture),
    /// The stream could not be opened.
    Never(Option<h2::Error>),
    Coming {
        body: RecvStream,
        /// What was given last and counts against the window.
        owed: usize,
        /// How much is still to come, where that is known.
        left: Option<u64>,
        /// There is none, whatever the upstream sends: so it is by method and status.
        bodiless: bool,
    },
}

/// An exchange that came to no answer.
pub(in super::super) struct Failure<B> {
    pub(in super::super) kind: FailureKind,
    /// Whether somebody may have acted on the request.
    pub(in super::super) sent: bool,
    /// Whether the upstream has looked at the request and reset its stream: then all is well with the connection.
    pub(in super::super) reset: bool,
    /// The request, if it can be sent once more.
    pub(in super::super) message: Option<Box<Message<Replay<B>>>>,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Opens a stream for this request.
    pub(in super::super) fn begin(place: Place, mut message: Box<Message<Replay<B>>>) -> Self {
        let mut upload = match message.framing {
            _ if message.ask.is_some() => Upload::Sent,
            Framing::Empty | Framing::Length(0) => Upload::Sent,
            Framing::Length(length) => Upload::Going(Some(length)),
            Framing::Chunked => Upload::Going(None),
        };
        message.body.keep();
        let head = head::request(&message, place.connection().is_secure());
        // The stream of a WebSocket stays open for what follows its head.
        let ends = upload == Upload::Sent && message.ask.is_none();
        let (answer, sender) = match place.connection().sender().send_request(head, ends) {
            Ok((answer, sender)) => (Answer::Awaited(answer), Some(sender)),
            Err(error) => {
                upload = Upload::Refused;
                (Answer::Never(Some(error)), None)
            }
        };
        Self {
            message,
            upload,
            sender,
            waiting: Bytes::new(),
            answer,
            interim: 0,
            untouched: false,
            reset: false,
            place,
        }
    }

    /// Sends, and waits for the final answer's head.
    pub(in super::super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(StatusCode, HeaderMap), FailureKind>> {
        if let Poll::Ready(Err(failure)) = self.poll_upload(cx) {
            return Poll::Ready(Err(failure));
        }
        let answered = match &mut self.answer {
            Answer::Awaited(answer) => ready!(poll_final(answer, &mut self.interim, cx)),
            Answer::Never(error) => {
                self.untouched = true;
                let closed = FailureKind::Closed { answering: false };
                Err(Ended::Other(error.take().map_or(closed, |error| failed(&error, false))))
            }
            Answer::Coming { .. } => Err(Ended::Other(FailureKind::Closed { answering: true })),
        };
        Poll::Ready(answered.map_err(|error| self.judge(error)).and_then(|answer| self.begin_answer(answer)))
    }

    fn begin_answer(&mut self, answer: http::Response<RecvStream>) -> Result<(StatusCode, HeaderMap), FailureKind> {
        let (parts, body) = answer.into_parts();
        // RFC 9110 §15: there are no others.
        if !(200..600).contains(&parts.status.as_u16()) {
            return Err(Malformed::Head.into());
        }
        let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
        let length = lengths.next().and_then(|length| length.to_str().ok()?.parse().ok());
        if lengths.next().is_some() {
            return Err(Malformed::ContentLength.into());
        }
        let bodiless = self.message.method == Method::HEAD || matches!(parts.status.as_u16(), 204 | 304);
        self.message.body.forget();
        self.answer = Answer::Coming { body, owed: 0, left: length, bodiless };
        Ok((parts.status, parts.headers))
    }

    /// Sends what there is to send. Ready when all is sent, or nothing more will be taken.
    pub(in super::super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FailureKind>> {
        loop {
            match self.upload {
                Upload::Sent | Upload::Refused => return Poll::Ready(Ok(())),
                Upload::Going(_) | Upload::Ending if !self.waiting.is_empty() => ready!(self.poll_send(cx)),
                Upload::Ending => self.end(None),
                Upload::Going(left) => ready!(self.poll_take(left, cx))?,
            }
        }
    }

    /// Asks the client for the next piece.
    fn poll_take(&mut self, left: Option<u64>, cx: &mut Context<'_>) -> Poll<Result<(), FailureKind>> {
        let frame = ready!(Pin::new(&mut self.message.body).poll_frame(cx)).transpose();
        let Some(frame) = frame.map_err(|problem| FailureKind::Body(problem.into()))? else {
            return Poll::Ready(self.ended(left, None));
        };
        let content = match frame.into_data() {
            Ok(content) => content,
            Err(frame) => return Poll::Ready(self.ended(left, frame.into_trailers().ok())),
        };
        let left = match left {
            None => None,
            Some(left) => Some(left.checked_sub(content.len() as u64).ok_or_else(wrong_length)?),
        };
        // Trailers may follow, unless the body says that nothing does.
        self.upload = match self.message.body.is_end_stream() && left.is_none_or(|left| left == 0) {
            true => Upload::Ending,
            false => Upload::Going(left),
        };
        self.waiting = content;
        Poll::Ready(Ok(()))
    }

    /// The client's body has ended.
    fn ended(&mut self, left: Option<u64>, trailers: Option<HeaderMap>) -> Result<(), FailureKind> {
        if left.is_some_and(|left| left > 0) {
            return Err(wrong_length());
        }
        self.end(trailers);
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        let sent = match (&mut self.sender, trailers) {
            (Some(sender), Some(trailers)) => sender.send_trailers(trailers).is_ok(),
            (Some(sender), None) => sender.send_data(Bytes::new(), true).is_ok(),
            (None, _) => false,
        };
        self.upload = if sent { Upload::Sent } else { Upload::Refused };
    }

    /// Sends what waits, as far as the upstream's window goes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sender) = &mut self.sender else {
            self.refuse();
            return Poll::Ready(());
        };
        let Some(octets) = ready!(poll_window(sender, self.waiting.len(), cx)) else {
            self.refuse();
            return Poll::Ready(());
        };
        let piece = self.waiting.split_to(octets.min(self.waiting.len()));
        let ends = self.waiting.is_empty() && self.upload == Upload::Ending;
        match sender.send_data(piece, ends) {
            Ok(()) if ends => self.upload = Upload::Sent,
            Ok(()) => {}
            Err(_) => self.refuse(),
        }
        Poll::Ready(())
    }

    /// The upstream has reset the stream. It may have answered before; the answer, or its absence, decides.
    fn refuse(&mut self) {
        self.upload = Upload::Refused;
        self.waiting = Bytes::new();
    }

    /// The next piece of the answer's body, while the request's goes on beside it.
    pub(in super::super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FailureKind>>> {
        // A body that breaks off takes the exchange down only if the answer does not end first.
        if let Poll::Ready(Err(failure)) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(failure)));
        }
        let Answer::Coming { body, owed, left, bodiless: false } = &mut self.answer else { return Poll::Ready(None) };
        // Whoever asks for more has taken what there was. It fails only where the stream has gone.
        body.flow_control().release_capacity(std::mem::take(owed)).ok();
        loop {
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    *owed = data.len();
                    *left = left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(failed(&error, true)))),
                None => break,
            }
        }
        Poll::Ready(match ready!(body.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(failed(&error, true))),
        })
    }

    /// Whether the answer is whole.
    pub(in super::super) fn has_ended(&self) -> bool {
        matches!(&self.answer, Answer::Coming { body, bodiless, .. } if *bodiless || body.is_end_stream())
    }

    /// What is known of the length of what is still to come.
    pub(in super::super) fn size_hint(&self) -> SizeHint {
        match &self.answer {
            _ if self.has_ended() => SizeHint::with_exact(0),
            Answer::Coming { left: Some(left), .. } => SizeHint::with_exact(*left),
            _ => SizeHint::default(),
        }
    }

    /// After the upstream has taken an extended CONNECT: the stream, to be used as a tunnel.
    pub(in super::super) fn into_tunnel(self) -> Option<Tunnel> {
        let Self { place, sender: Some(sender), answer: Answer::Coming { body, .. }, .. } = self else { return None };
        Some(Tunnel::new(place, sender, body))
    }

    /// Gives up, with the request if it can be sent once more.
    pub(in super::super) fn fail(mut self, kind: FailureKind) -> Failure<B> {
        let again = self.message.body.rewind();
        let reset = self.reset && !self.untouched;
        Failure { kind, sent: !self.untouched, reset, message: again.then_some(self.message) }
    }

    fn judge(&mut self, error: Ended) -> FailureKind {
        match error {
            Ended::Stream(error) => {
                self.untouched = is_untouched(&error);
                self.reset = error.is_reset();
                failed(&error, false)
            }
            Ended::Other(kind) => kind,
        }
    }
}

/// What came in an answer's place.
enum Ended {
    Stream(h2::Error),
    Other(FailureKind),
}

/// Waits for the final head; interim ones are counted and skipped.
fn poll_final(
    answer: &mut ResponseFuture,
    interim: &mut u8,
    cx: &mut Context<'_>,
) -> Poll<Result<http::Response<RecvStream>, Ended>> {
    // Nothing more of that kind, or an error that the answer itself will give again: then it is asked for the answer.
    while let Some(Ok(head)) = ready!(answer.poll_informational(cx)) {
        *interim += 1;
        // RFC 9113 §8.6: there is no 101 in HTTP/2.
        if *interim > MAX_INTERIM || head.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Err(Ended::Other(Malformed::Interim.into())));
        }
    }
    Pin::new(answer).poll(cx).map_err(Ended::Stream)
}

/// How much may be sent just now, of so many octets; `None` if the stream takes no more.
pub(in super::super) fn poll_window(
    sender: &mut SendStream<Bytes>,
    octets: usize,
    cx: &mut Context<'_>,
) -> Poll<Option<usize>> {
    sender.reserve_capacity(octets.min(MOST_AT_ONCE));
    loop {
        match sender.capacity() {
            0 => match ready!(sender.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
            },
            window => return Poll::Ready(Some(window)),
        }
    }
}

/// Whether the upstream says that it has not acted on the stream: it refused it (RFC 9113 §8.7), or it is above the last
/// one that a GOAWAY speaks of (§6.8). h2 tells no other stream of a GOAWAY.
fn is_untouched(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

fn failed(error: &h2::Error, answering: bool) -> FailureKind {
    match error.reason() {
        // h2 found it at fault.
        Some(reason) if error.is_library() => Malformed::Http2(reason).into(),
        _ => FailureKind::Closed { answering },
    }
}

fn wrong_length() -> FailureKind {
    FailureKind::Body("the body is not as long as its Content-Length says".into())
}
