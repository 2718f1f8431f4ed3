//! One request and its answer on one connection, driven by whoever polls it: sending and receiving go on side by side, so
//! an early answer stops no upload and an upload holds up no answer. Dropping it closes the connection, which is how an
//! upstream learns that its client has left.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::{
    body::{self, CHUNK_END, Decoder, Framing, Piece},
    head::{self, Malformed},
};

/// What one read may take: a 16 KiB body with its head, and one field to spare, in one call.
const READ: usize = 32 * 1024;
/// The most interim answers (RFC 9110 §15.2) an upstream may send before its final one.
const MAX_INTERIM: u8 = 16;

/// A connection at rest: its socket, and the memory of its last use.
pub(in super::super) struct Connection<IO> {
    io: IO,
    received: BytesMut,
}

/// A request on its way out: its head as octets, ready to be sent again, and its body.
pub(in super::super) struct Outgoing<B> {
    method: Method,
    /// The protocols it asks for instead of this one.
    upgrade: Option<HeaderValue>,
    head: Vec<u8>,
    framing: Framing,
    body: B,
    /// Whether the body has been asked for a first piece: then it cannot be sent again.
    begun: bool,
    /// The request's map, whose memory the answer's takes over.
    fields: HeaderMap,
}

/// What broke an exchange off.
#[derive(Debug, Error)]
pub(in super::super) enum FailureKind {
    /// The upstream closed or reset the connection, or left its answer unfinished.
    #[error("the upstream closed the connection{}", if *.answering { " in the middle of its answer" } else { " without an answer" })]
    Closed {
        /// Whether some of the answer had come.
        answering: bool,
    },
    /// What the upstream sent is no HTTP/1.1 that we accept.
    #[error("the upstream's answer is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The request's own body could not be read: the client has gone, or broke a rule.
    #[error("the request's body broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// An exchange that came to no answer.
pub(in super::super) struct Failure<B> {
    pub(in super::super) kind: FailureKind,
    /// Whether any octet of the request had left: if not, nobody can have acted on it.
    pub(in super::super) sent: bool,
    /// The request, if it can be sent once more.
    pub(in super::super) request: Option<Outgoing<B>>,
}

impl<B> Outgoing<B> {
    /// A request with this head: of the fields in the map, and of whole `lines` of more. The body must be as long as
    /// `framing` says.
    pub(in super::super) fn new(
        method: Method,
        uri: &Uri,
        fields: HeaderMap,
        lines: [&[u8]; 2],
        framing: Framing,
        body: B,
    ) -> Self {
        let mut head = Vec::with_capacity(1024);
        head::write_request(&mut head, &method, uri, &fields, lines, framing);
        let upgrade = fields.get(header::UPGRADE).cloned();
        Self { method, upgrade, head, framing, body, begun: false, fields }
    }

    /// Its fields, until an answer's took their place.
    pub(in super::super) fn fields(&self) -> &HeaderMap {
        &self.fields
    }

    /// Whether no body goes with it: then it can be sent again, however much of it was sent.
    pub(in super::super) fn is_bodyless(&self) -> bool {
        matches!(self.framing, Framing::Empty | Framing::Length(0))
    }
}

/// A request being sent and its answer being received.
pub(in super::super) struct Exchange<IO, B> {
    connection: Connection<IO>,
    request: Outgoing<B>,
    upload: Upload,
    /// What is framed and waits to be written: the request's head first, from this octet on; later chunk lines.
    staged: Vec<u8>,
    staged_at: usize,
    /// Content to be written after `staged`, and what follows it.
    content: Bytes,
    content_end: &'static [u8],
    sent: bool,
    interim: u8,
    /// An interim answer leaves it in doubt where the next begins, or announced a close.
    doubtful: bool,
    answering: bool,
    keep_alive: bool,
    decoder: Decoder,
}

/// How far the request's body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// More of it may come; by length, so much.
    Going(Option<u64>),
    /// All of it is staged.
    Staged,
    /// The upstream takes no more; it may yet say why.
    Refused,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    pub(in super::super) fn new(io: IO) -> Self {
        Self { io, received: BytesMut::new() }
    }

    /// The socket of a connection at rest.
    pub(in super::super) fn into_io(self) -> IO {
        self.io
    }

    pub(in super::super) fn io(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Gives back the memory of its last use. What is used again at once is better off with it.
    pub(in super::super) fn release_memory(&mut self) {
        self.received = BytesMut::new();
    }

    /// Octets of memory it holds beside its socket.
    #[cfg(test)]
    pub(in super::super) fn memory(&self) -> usize {
        self.received.capacity()
    }

    pub(in super::super) fn exchange<B>(self, mut request: Outgoing<B>) -> Exchange<IO, B> {
        let upload = match request.framing {
            Framing::Empty | Framing::Length(0) => Upload::Staged,
            Framing::Length(length) => Upload::Going(Some(length)),
            Framing::Chunked => Upload::Going(None),
        };
        Exchange {
            connection: self,
            staged: std::mem::take(&mut request.head),
            request,
            upload,
            staged_at: 0,
            content: Bytes::new(),
            content_end: b"",
            sent: false,
            interim: 0,
            doubtful: false,
            answering: false,
            keep_alive: false,
            decoder: Decoder::Ended,
        }
    }
}

impl<IO, B> Exchange<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends, and waits for the final answer's head.
    pub(in super::super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(StatusCode, HeaderMap), FailureKind>> {
        if let Poll::Ready(Err(failure)) = self.poll_upload(cx) {
            return Poll::Ready(Err(failure));
        }
        loop {
            if let Some(head) = self.read_head()? {
                return Poll::Ready(Ok(head));
            }
            if !matches!(ready!(self.poll_receive(cx)), Ok(true)) {
                return Poll::Ready(Err(FailureKind::Closed { answering: self.answering }));
            }
        }
    }

    /// The final head, if it is there; interim ones are skipped.
    fn read_head(&mut self) -> Result<Option<(StatusCode, HeaderMap)>, Malformed> {
        let mut lines = super::Lines::default();
        loop {
            let received = &mut self.connection.received;
            let Some(head) = head::read_response(received, &self.request.method, &mut lines)? else { return Ok(None) };
            let mut fields = std::mem::take(&mut self.request.fields);
            head::take_fields(received, head.length, &lines, &mut fields)?;
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return if self.asked_for(&fields) { Ok(Some((head.status, fields))) } else { Err(Malformed::Interim) };
            }
            if !head.status.is_informational() {
                self.keep_alive = head.keep_alive && !self.doubtful;
                self.decoder = Decoder::new(head.framing);
                return Ok(Some((head.status, fields)));
            }
            self.request.fields = fields;
            self.doubtful |= !head.keep_alive;
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Malformed::Interim);
            }
        }
    }

    fn asked_for(&self, switched: &HeaderMap) -> bool {
        let asked = self.request.upgrade.as_ref().map(HeaderValue::as_bytes);
        super::switches(asked, switched.get_all(header::UPGRADE).iter().map(HeaderValue::as_bytes))
    }

    /// Reads some more. `false` if the upstream has closed its direction in good order; an error is no such end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let received = &mut self.connection.received;
        if received.capacity() - received.len() < READ / 2 {
            received.reserve(READ);
        }
        let some = ready!(poll_read_buf(Pin::new(&mut self.connection.io), cx, received))? > 0;
        self.answering |= some;
        Poll::Ready(Ok(some))
    }

    /// Sends what there is to send. Ready when all is sent, or nothing more will be taken.
    pub(in super::super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FailureKind>> {
        loop {
            if self.content.is_empty() && self.content_end.is_empty() {
                // Content that is at hand goes out with the head, in one call.
                self.stage_next(cx)?;
            }
            if self.has_unwritten() {
                if ready!(self.poll_write(cx)).is_err() {
                    // It may have answered before it closed its ears; the answer, or its absence, decides.
                    self.upload = Upload::Refused;
                    (self.staged_at, self.content, self.content_end) = (self.staged.len(), Bytes::new(), b"");
                }
            } else if matches!(self.upload, Upload::Going(_)) {
                return Poll::Pending;
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn has_unwritten(&self) -> bool {
        self.staged_at < self.staged.len() || !self.content.is_empty() || !self.content_end.is_empty()
    }

    /// Asks the body for its next piece and frames it.
    fn stage_next(&mut self, cx: &mut Context<'_>) -> Result<(), FailureKind> {
        let Upload::Going(left) = self.upload else { return Ok(()) };
        self.request.begun = true;
        loop {
            return match Pin::new(&mut self.request.body).poll_frame(cx) {
                Poll::Pending => Ok(()),
                // Behind what is empty there may be more, and nobody would wake us for it.
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty) => continue,
                Poll::Ready(Some(Ok(frame))) => self.stage(frame, left),
                Poll::Ready(Some(Err(problem))) => Err(FailureKind::Body(problem.into())),
                Poll::Ready(None) => self.stage_end(left, None),
            };
        }
    }

    fn stage(&mut self, frame: Frame<Bytes>, left: Option<u64>) -> Result<(), FailureKind> {
        let content = match frame.into_data() {
            Ok(content) => content,
            Err(frame) => return self.stage_end(left, frame.into_trailers().ok()),
        };
        match left {
            None => {
                self.forget_written();
                body::write_chunk_line(&mut self.staged, content.len());
                self.content_end = CHUNK_END;
            }
            Some(left) => {
                let left = left.checked_sub(content.len() as u64).ok_or_else(wrong_length)?;
                self.upload = if left == 0 { Upload::Staged } else { Upload::Going(Some(left)) };
            }
        }
        self.content = content;
        Ok(())
    }

    fn stage_end(&mut self, left: Option<u64>, trailers: Option<HeaderMap>) -> Result<(), FailureKind> {
        match left {
            Some(_) => return Err(wrong_length()),
            None => {
                self.forget_written();
                body::write_last_chunk(&mut self.staged, trailers.as_ref());
            }
        }
        self.upload = Upload::Staged;
        Ok(())
    }

    /// Lets go of staged octets that were written; what was not stays in front.
    fn forget_written(&mut self) {
        if self.staged_at == self.staged.len() {
            self.staged.clear();
            self.staged_at = 0;
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let slices = [
            io::IoSlice::new(&self.staged[self.staged_at..]),
            io::IoSlice::new(&self.content),
            io::IoSlice::new(self.content_end),
        ];
        let io = Pin::new(&mut self.connection.io);
        let written = match slices[1].is_empty() && slices[2].is_empty() {
            true => ready!(io.poll_write(cx, &slices[0]))?,
            false => ready!(io.poll_write_vectored(cx, &slices))?,
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent = true;
        let of_staged = written.min(self.staged.len() - self.staged_at);
        self.staged_at += of_staged;
        let of_content = (written - of_staged).min(self.content.len());
        self.content.advance(of_content);
        self.content_end = &self.content_end[written - of_staged - of_content..];
        Poll::Ready(Ok(()))
    }

    /// The next piece of the answer's body, while the request's goes on beside it.
    pub(in super::super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FailureKind>>> {
        if self.upload != Upload::Staged || self.has_unwritten() {
            // A body that breaks off takes the exchange down only if the answer does not end first.
            if let Poll::Ready(Err(failure)) = self.poll_upload(cx) {
                return Poll::Ready(Some(Err(failure)));
            }
        }
        loop {
            match self.decoder.decode(&mut self.connection.received) {
                Ok(Some(Piece::Data(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Some(Piece::Trailers(trailers))) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Some(Piece::End)) => return Poll::Ready(None),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Some(Err(malformed.into()))),
            }
            let goes_on = match ready!(self.poll_receive(cx)) {
                Ok(more) => more || self.decoder.close(),
                Err(_) => false,
            };
            if !goes_on {
                return Poll::Ready(Some(Err(FailureKind::Closed { answering: true })));
            }
        }
    }

    /// Whether the answer is whole.
    pub(in super::super) fn has_ended(&self) -> bool {
        self.decoder.has_ended()
    }

    /// What is known of the length of what is still to come.
    pub(in super::super) fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// The connection, if it may serve another request: the answer is whole, the request was sent to its end, and not one
    /// octet came that belongs to neither.
    pub(in super::super) fn into_connection(self) -> Option<Connection<IO>> {
        let clean = self.keep_alive
            && self.decoder.has_ended()
            && self.upload == Upload::Staged
            && !self.has_unwritten()
            && self.connection.received.is_empty();
        clean.then_some(self.connection)
    }

    /// After a 101: the socket, and what the upstream has sent on it already.
    pub(in super::super) fn into_tunnel(self) -> (IO, Bytes) {
        (self.connection.io, self.connection.received.freeze())
    }

    /// Gives up, with the request if it can be sent once more.
    pub(in super::super) fn fail(mut self, kind: FailureKind) -> Failure<B> {
        // The request's head leads what was staged; once the body has begun it may be gone.
        let again = !self.request.begun;
        if again {
            self.request.head = self.staged;
        }
        Failure { kind, sent: self.sent, request: again.then_some(self.request) }
    }
}

fn wrong_length() -> FailureKind {
    FailureKind::Body("the body is not as long as its Content-Length says".into())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_util::io::StreamReader;

    use super::*;

    type TestBody = BoxBody<Bytes, io::Error>;
    type TestExchange = Exchange<DuplexStream, TestBody>;

    fn request(method: &str, framing: Framing, body: impl Into<Bytes>) -> Outgoing<TestBody> {
        let (method, uri) = (method.parse().expect("a method"), Uri::from_static("/a"));
        let mut fields = HeaderMap::new();
        fields.insert("host", "shop.test".parse().expect("a value"));
        let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
        Outgoing::new(method, &uri, fields, [b""; 2], framing, body)
    }

    fn get() -> Outgoing<TestBody> {
        request("GET", Framing::Empty, Bytes::new())
    }

    fn connected(request: Outgoing<TestBody>) -> (TestExchange, DuplexStream) {
        let (ours, theirs) = duplex(64 * 1024);
        (Connection::new(ours).exchange(request), theirs)
    }

    async fn head(exchange: &mut TestExchange) -> Result<(StatusCode, HeaderMap), FailureKind> {
        poll_fn(|cx| exchange.poll_head(cx)).await
    }

    async fn content(exchange: &mut TestExchange) -> Result<Vec<u8>, FailureKind> {
        let mut content = Vec::new();
        while let Some(frame) = poll_fn(|cx| exchange.poll_body(cx)).await {
            content.extend(frame?.into_data().unwrap_or_default());
        }
        Ok(content)
    }

    /// Answers a bodiless request with these octets and nothing more.
    async fn answered(octets: &[u8]) -> (Result<(StatusCode, Vec<u8>), FailureKind>, TestExchange) {
        let (mut exchange, mut upstream) = connected(get());
        upstream.write_all(octets).await.expect("the pipe is wide");
        drop(upstream);
        let result = async {
            let (status, _) = head(&mut exchange).await?;
            Ok((status, content(&mut exchange).await?))
        };
        (result.await, exchange)
    }

    #[tokio::test]
    async fn a_whole_answer_leaves_the_connection_for_the_next_request() {
        let (mut exchange, mut upstream) = connected(get());
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
            ("HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        ] {
            upstream.write_all(answer.as_bytes()).await.expect("the pipe is wide");
            assert_eq!(head(&mut exchange).await.expect("well-formed").0, 200);
            assert_eq!(content(&mut exchange).await.expect("whole"), expected.as_bytes());
            let connection = exchange.into_connection().expect("clean");
            exchange = connection.exchange(get());
        }
        let mut received = vec![0; 256];
        let length = upstream.read(&mut received).await.expect("requests came");
        let sent = String::from_utf8_lossy(&received[..length]);
        assert!(sent.starts_with("GET /a HTTP/1.1\r\nhost: shop.test\r\n\r\n"), "{sent}");
    }

    #[tokio::test]
    async fn an_octet_too_many_costs_the_connection() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
            "HTTP/1.1 204 No Content\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx",
        ] {
            let (result, exchange) = answered(answer.as_bytes()).await;
            assert!(result.is_ok() && exchange.into_connection().is_none(), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_must_not_be_costs_the_connection_before_it_comes() {
        for answer in [
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ] {
            let (result, exchange) = answered(answer.as_bytes()).await;
            assert!(result.is_ok() && exchange.into_connection().is_none(), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_answer_is_an_error_wherever_it_is_cut() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        for cut in 0..whole.len() {
            let (result, exchange) = answered(&whole[..cut]).await;
            let Err(FailureKind::Closed { answering }) = result else { panic!("{cut}: {result:?}") };
            assert_eq!(answering, cut > 0);
            assert!(exchange.into_connection().is_none());
        }
    }

    #[tokio::test]
    async fn a_reset_is_no_end_of_an_answer_that_ends_with_its_connection() {
        let answer = Bytes::from_static(b"HTTP/1.1 200 OK\r\n\r\nhalf of i");
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let received = StreamReader::new(futures_util::stream::iter([Ok(answer), Err(reset)]));
        let mut exchange = Connection::new(tokio::io::join(received, tokio::io::sink())).exchange(get());
        poll_fn(|cx| exchange.poll_head(cx)).await.expect("well-formed");
        let first = poll_fn(|cx| exchange.poll_body(cx)).await.expect("there is content").expect("it came");
        assert_eq!(first.into_data().expect("content"), "half of i");
        let then = poll_fn(|cx| exchange.poll_body(cx)).await;
        assert!(matches!(then, Some(Err(FailureKind::Closed { answering: true }))), "{then:?}");
        assert!(!exchange.has_ended());
    }

    #[tokio::test]
    async fn interim_answers_that_nobody_asked_for_are_an_error() {
        let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(usize::from(MAX_INTERIM) + 1);
        for answer in ["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", flood.as_str()] {
            let (result, _) = answered(answer.as_bytes()).await;
            assert!(matches!(result, Err(FailureKind::Malformed(Malformed::Interim))), "{result:?}");
        }
    }

    #[tokio::test]
    async fn a_body_is_framed_as_said_and_sent_whole() {
        for (framing, expected) in [
            (Framing::Length(5), "content-length: 5\r\n\r\nhello"),
            (Framing::Chunked, "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ] {
            let (mut exchange, mut upstream) = connected(request("PUT", framing, "hello"));
            let mut received = vec![0; 256];
            let (answer, length) = tokio::join!(head(&mut exchange), async {
                let mut length = 0;
                while !String::from_utf8_lossy(&received[..length]).ends_with(expected) {
                    length += upstream.read(&mut received[length..]).await.expect("the request comes");
                }
                upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("the pipe is wide");
                length
            });
            assert_eq!(answer.expect("well-formed").0, 204);
            assert!(length > expected.len() && exchange.into_connection().is_some());
        }
    }

    #[tokio::test]
    async fn an_empty_piece_holds_up_nothing_of_a_body() {
        let pieces = ["hello", "", "!", ""].map(|piece| Ok::<_, io::Error>(Frame::data(Bytes::from(piece))));
        let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)));
        let (mut exchange, mut upstream) = connected(Outgoing { body, ..request("PUT", Framing::Chunked, "") });
        let all = async {
            let mut received = Vec::new();
            while !received.ends_with(b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n") {
                upstream.read_buf(&mut received).await.expect("the request comes");
            }
            upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("the pipe is wide");
        };
        let both = async { tokio::join!(head(&mut exchange), all) };
        let answered = tokio::time::timeout(std::time::Duration::from_secs(5), both).await;
        assert_eq!(answered.expect("nothing is held up").0.expect("well-formed").0, 204);
    }

    #[tokio::test]
    async fn a_body_of_another_length_than_said_is_never_passed_on_as_whole() {
        for length in [4, 6] {
            let (mut exchange, _upstream) = connected(request("PUT", Framing::Length(length), "hello"));
            assert!(matches!(head(&mut exchange).await, Err(FailureKind::Body(_))), "{length}");
        }
    }

    #[tokio::test]
    async fn an_early_answer_is_received_while_the_upload_stands_still() {
        let never = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, io::Error>>());
        let request = Outgoing { body: BodyExt::boxed(never), ..request("PUT", Framing::Chunked, "") };
        let (mut exchange, mut upstream) = connected(request);
        upstream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await.expect("the pipe is wide");
        assert_eq!(head(&mut exchange).await.expect("well-formed").0, 413);
        assert_eq!(content(&mut exchange).await.expect("whole"), b"no");
        assert!(exchange.into_connection().is_none(), "half a request is still on it");
    }

    #[tokio::test]
    async fn a_request_whose_body_has_not_begun_is_given_back_as_it_was() {
        let (mut exchange, upstream) = connected(get());
        drop(upstream);
        let kind = head(&mut exchange).await.expect_err("nobody answers");
        let failure = exchange.fail(kind);
        let again = failure.request.expect("nothing of its body was taken");
        let (mut exchange, mut upstream) = connected(again);
        upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("the pipe is wide");
        head(&mut exchange).await.expect("well-formed");
        let mut received = vec![0; 64];
        let length = upstream.read(&mut received).await.expect("the request came");
        assert_eq!(&received[..length], b"GET /a HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_ends_the_exchange() {
        let broken = StreamBody::new(futures_util::stream::iter([Err(io::Error::other("gone"))]));
        let body: TestBody = BodyExt::boxed(broken);
        let (mut exchange, _upstream) = connected(Outgoing { body, ..request("PUT", Framing::Chunked, "") });
        let kind = head(&mut exchange).await.expect_err("the body broke off");
        assert!(matches!(kind, FailureKind::Body(_)));
        assert!(exchange.fail(kind).request.is_none());
    }
}
