//! A request of HTTP/1 for an endpoint that speaks HTTP/2, or may choose to: its head becomes a map, its body pieces, and
//! both go the way of every request that is not HTTP/1 from end to end ([`forward`]). Its answer is framed for the client
//! here. One task does it all: it feeds the exchange with the client's body when that is wanted, and looks after the client
//! when nobody else has anything to say.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::{
    Http1,
    desk::{Buffer, Desk},
    relay::{Broken, poll_client},
    target::Target,
    transaction::{CONTINUE, Forwarded, Next, path, write_status_line},
};
use crate::{
    proxy::{
        attempts::Answered,
        client::{Answer, Client},
        error::ProxyError,
        exchange::Exchange,
        forward::{self, Reply, forward},
        h1::{self, Decoder, FailureKind, Framing, Line, RequestHead, Token},
        half_close::HalfClose,
        headers::{self, Head},
        patience::{Impatience, Patience},
        stream::Stream,
        target,
        upload::{Failure, Hand, Source, State},
    },
    switch::Ticket,
    telemetry::request_log::{Outcome, RequestLog},
};

impl Http1 {
    /// Sends the request, which was admitted with this ticket, and sees its answer through.
    pub(super) async fn translate(
        &mut self,
        desk: &mut Desk,
        request: &RequestHead,
        target: &Target,
        ticket: Ticket,
        log: &mut RequestLog,
    ) -> Result<Forwarded, ProxyError> {
        let client = Rc::clone(&self.client);
        let head = Head { octets: desk.incoming.head(), lines: &desk.lines };
        let has_body = !matches!(request.framing, Framing::Empty | Framing::Length(0));
        let hand = has_body.then(Rc::<Hand>::default);
        let asked = forward::Request {
            client: &client,
            target: &target::Target {
                host: self.last.host().to_owned(),
                authority: HeaderValue::from_bytes(self.last.authority())
                    .map_err(|_| ProxyError::BadRequest("malformed Host"))?,
                is_from_host: target.is_from_host,
            },
            parts: parts(request, target, head)?,
            framing: request.framing,
            body: hand.clone().map(Source::Hand),
            timer: client.clock().timer(),
            arrived: log.began(),
        };
        let welcomes_trailers = asked
            .parts
            .headers
            .get(header::TE)
            .is_some_and(|te| h1::members(te.as_bytes()).any(|member| member.eq_ignore_ascii_case(b"trailers")));
        let waits = asked.parts.headers.contains_key(header::EXPECT) && has_body && desk.incoming.is_empty();
        let mut side = ClientSide {
            client: &client,
            stream: &mut self.stream,
            half_close: &mut self.half_close,
            incoming: &mut desk.incoming,
            lines: &mut desk.trailer_lines,
            decoder: Decoder::new(Some(request.framing)),
            hand,
            interim: if waits && !request.is_http_10 { CONTINUE } else { b"" },
            left: false,
        };
        let reply = forward(asked, ticket, log, |exchange, cx| side.poll_head(exchange, cx)).await;
        match reply {
            Ok(reply) => Ok(answer(side, &mut desk.reply, reply, request, welcomes_trailers, log).await),
            Err(_) if side.left => Ok(Forwarded::Left),
            Err(error) => Err(error),
        }
    }
}

/// The head as a map.
fn parts(request: &RequestHead, target: &Target, head: Head<'_>) -> Result<http::request::Parts, ProxyError> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = request.method.clone();
    parts.version = if request.is_http_10 { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.uri = Uri::try_from(path(request, Some(target), head))
        .map_err(|_| ProxyError::BadRequest("a character that no target may have"))?;
    fill(&mut parts.headers, head.octets, head.lines).ok_or(ProxyError::BadRequest("it does not parse"))?;
    Ok(parts)
}

fn fill(fields: &mut HeaderMap, octets: &[u8], lines: &[Line]) -> Option<()> {
    for line in lines {
        let name = HeaderName::from_bytes(line.name_in(octets)).ok()?;
        fields.append(name, HeaderValue::from_bytes(line.value_in(octets)).ok()?);
    }
    Some(())
}

/// The client, while its request is under way.
struct ClientSide<'a> {
    client: &'a Client,
    stream: &'a mut Stream,
    half_close: &'a mut Option<HalfClose>,
    incoming: &'a mut Buffer,
    lines: &'a mut Vec<Line>,
    decoder: Decoder,
    /// Hands its body over, if it has one.
    hand: Option<Rc<Hand>>,
    /// What it waits to read before it sends its body.
    interim: &'static [u8],
    /// It has left.
    left: bool,
}

impl ClientSide<'_> {
    /// Waits for the head of an answer.
    fn poll_head(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Answered> {
        loop {
            if let Poll::Ready(answered) = exchange.poll_head(cx) {
                return Poll::Ready(answered);
            }
            if self.is_asked() {
                ready!(self.poll_feed(cx));
            } else {
                ready!(self.poll_leave(cx));
                self.left = true;
                return Poll::Ready(Err(FailureKind::Body("the client has left".into())));
            }
        }
    }

    fn is_asked(&self) -> bool {
        self.hand.as_ref().is_some_and(|hand| hand.is_wanted())
    }

    /// Ready when the client has left.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.decoder.has_ended() || self.client.is_blocked() {
            return Poll::Pending;
        }
        poll_client(self.client, self.stream, self.half_close, self.incoming, cx)
    }

    /// Hands the next piece of the body over.
    fn poll_feed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(hand) = self.hand.clone() else { return Poll::Ready(()) };
        let piece = match ready!(self.poll_piece(cx)) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => return Poll::Ready(hand.end()),
            Err(failure) => Err(failure),
        };
        hand.put(piece);
        if self.decoder.has_ended() {
            hand.end();
        }
        Poll::Ready(())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Failure>> {
        loop {
            let rest = self.incoming.rest();
            match self.decoder.token(rest, self.lines).map_err(|_| Failure::Malformed)? {
                Some(Token::End) => return Poll::Ready(Ok(None)),
                Some(Token::Framing(octets)) => self.incoming.consume(octets),
                Some(Token::Content(octets)) => {
                    let content = Bytes::copy_from_slice(&rest[..octets]);
                    self.incoming.consume(octets);
                    return Poll::Ready(Ok(Some(Frame::data(content))));
                }
                Some(Token::Trailers(octets)) => {
                    let mut trailers = HeaderMap::new();
                    fill(&mut trailers, &rest[..octets], self.lines).ok_or(Failure::Malformed)?;
                    self.incoming.consume(octets);
                    return Poll::Ready(Ok(Some(trailers).filter(|fields| !fields.is_empty()).map(Frame::trailers)));
                }
                None => {
                    while !self.interim.is_empty() {
                        match ready!(Pin::new(&mut *self.stream).poll_write(cx, self.interim)) {
                            Ok(octets) if octets > 0 => self.interim = &self.interim[octets..],
                            _ => return Poll::Ready(Err(Failure::ClientGone)),
                        }
                    }
                    if !self.incoming.has_room() {
                        // A line or a section that no buffer holds.
                        return Poll::Ready(Err(Failure::Malformed));
                    }
                    if !matches!(ready!(self.incoming.poll_fill(self.stream, cx)), Ok(1..)) {
                        return Poll::Ready(Err(Failure::ClientGone));
                    }
                }
            }
        }
    }
}

/// Frames an answer for the client, and sees it through.
async fn answer(
    mut side: ClientSide<'_>,
    framed: &mut Vec<u8>,
    reply: Reply,
    request: &RequestHead,
    welcomes_trailers: bool,
    log: &mut RequestLog,
) -> Forwarded {
    let Reply { status, headers, switched, mut exchange, ticket, patience } = reply;
    let client = side.client;
    log.answered(status);
    side.interim = b"";
    let bodiless = switched || request.method == Method::HEAD || matches!(status.as_u16(), 204 | 304);
    let has_length = headers.contains_key(header::CONTENT_LENGTH);
    let unframed = !bodiless && !has_length && !exchange.has_ended();
    let (chunked, until_close) = (unframed && !request.is_http_10, unframed && request.is_http_10);
    let closes = !request.keep_alive || until_close || client.is_closing();
    framed.clear();
    write_status_line(framed, status, b"");
    for (name, value) in &headers {
        // RFC 9110 §8.6: what has no body must not speak of one.
        if *name != header::CONTENT_LENGTH || !(switched || status.as_u16() == 204) {
            write_line(framed, name.as_str(), value.as_bytes());
        }
    }
    if chunked {
        write_line(framed, "transfer-encoding", b"chunked");
    } else if !bodiless && !has_length && !until_close {
        write_line(framed, "content-length", b"0");
    }
    match (closes, request.is_http_10) {
        _ if switched => {}
        (true, _) => write_line(framed, "connection", b"close"),
        (false, true) => write_line(framed, "connection", b"keep-alive"),
        (false, false) => {}
    }
    framed.extend_from_slice(b"\r\n");
    client.answers(match (chunked, until_close) {
        (true, _) => Answer::InChunks,
        (_, true) => Answer::UntilClose,
        _ => Answer::Otherwise,
    });
    let ahead = side.half_close.as_mut().map_or(0, HalfClose::catch_up);
    let mut download = Download {
        framed,
        written: ahead,
        content: Bytes::new(),
        tail: b"",
        chunked,
        trailers: welcomes_trailers,
        moved: 0,
        ended: bodiless,
    };

    let rest = poll_fn(|cx| side.poll_rest(&mut exchange, &mut download, &patience, cx)).await;
    log.sent(download.moved);
    log.received(patience.upload().map_or(0, |upload| upload.octets()));
    client.answers(Answer::Otherwise);
    let broken = match rest {
        Ok(()) if switched => match exchange.into_tunnel() {
            Some((wire, early)) => return Forwarded::Switched(wire, early, ticket),
            None => Broken::Upstream(FailureKind::Closed { answering: true }),
        },
        Ok(()) => {
            log.ended(Outcome::Answered, "");
            if let Some(connection) = exchange.into_connection() {
                client.worker.upstream.keep(ticket.endpoint().id(), connection);
            }
            let closes = closes || !side.decoder.has_ended() || (until_close && side.half_close.is_none());
            return Forwarded::Answered(if closes { Next::Close } else { Next::Again });
        }
        Err(broken) => broken,
    };
    let (outcome, reason) = broken.outcome();
    log.ended(outcome, reason);
    // An answer cut off without a sign of its own is reset, not seen out.
    let resets = until_close || matches!(broken, Broken::Client);
    Forwarded::Answered(if resets { Next::Reset } else { Next::Close })
}

fn write_line(into: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        into.extend_from_slice(part);
    }
}

/// An answer on its way to the client.
struct Download<'a> {
    /// The head, and then what frames each piece.
    framed: &'a mut Vec<u8>,
    written: usize,
    /// Content to be written after that, and what follows it.
    content: Bytes,
    tail: &'static [u8],
    chunked: bool,
    /// Whether trailers go out with the last chunk.
    trailers: bool,
    /// Octets of content so far.
    moved: u64,
    ended: bool,
}

impl Download<'_> {
    fn has_unwritten(&self) -> bool {
        self.written < self.framed.len() || !self.content.is_empty() || !self.tail.is_empty()
    }

    fn stage(&mut self, frame: Option<Frame<Bytes>>) {
        self.framed.clear();
        self.written = 0;
        match frame.map(Frame::into_data) {
            Some(Ok(content)) => {
                self.moved += content.len() as u64;
                if self.chunked && !content.is_empty() {
                    h1::write_chunk_line(self.framed, content.len());
                    self.tail = h1::CHUNK_END;
                }
                self.content = content;
            }
            Some(Err(frame)) => {
                let trailers = frame.into_trailers().ok().filter(|_| self.trailers);
                self.end(trailers.as_ref());
            }
            None => self.end(None),
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.ended = true;
        if self.chunked {
            self.framed.extend_from_slice(b"0\r\n");
            for (name, value) in trailers.into_iter().flatten() {
                write_line(self.framed, name.as_str(), value.as_bytes());
            }
            self.framed.extend_from_slice(b"\r\n");
        }
    }

    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_unwritten() {
            let slices =
                [IoSlice::new(&self.framed[self.written..]), IoSlice::new(&self.content), IoSlice::new(self.tail)];
            let octets = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices))?;
            if octets == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_framed = octets.min(self.framed.len() - self.written);
            self.written += of_framed;
            let of_content = (octets - of_framed).min(self.content.len());
            self.content.advance(of_content);
            self.tail = &self.tail[octets - of_framed - of_content..];
        }
        Pin::new(stream).poll_flush(cx)
    }
}

impl ClientSide<'_> {
    /// Sends the answer, whose head is framed already, while the rest of the request goes on beside it.
    fn poll_rest(
        &mut self,
        exchange: &mut Exchange,
        download: &mut Download<'_>,
        patience: &Patience,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if let Some(whose) = patience.is_over() {
            return Poll::Ready(Err(Broken::Impatience(whose)));
        }
        // A body that breaks off takes the exchange down only if the answer does not end first.
        if let Poll::Ready(Err(kind)) = self.poll_upload(exchange, cx) {
            return Poll::Ready(Err(broken(kind, patience)));
        }
        loop {
            if download.has_unwritten() {
                let written = download.poll_write(self.stream, cx);
                self.client.wrote(written.is_ready());
                match written {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Client)),
                    Poll::Pending => return poll_impatience(patience, cx),
                }
            }
            if download.ended {
                return Poll::Ready(Ok(()));
            }
            match exchange.poll_body(cx) {
                Poll::Ready(Some(Ok(mut frame))) => {
                    frame.trailers_mut().into_iter().for_each(headers::clean_trailers);
                    download.stage(Some(frame));
                }
                Poll::Ready(Some(Err(kind))) => return Poll::Ready(Err(broken(kind, patience))),
                Poll::Ready(None) => download.stage(None),
                Poll::Pending if self.is_asked() => {
                    if let Poll::Ready(Err(kind)) = self.poll_upload(exchange, cx) {
                        return Poll::Ready(Err(broken(kind, patience)));
                    }
                    if !self.is_asked() {
                        continue;
                    }
                    return poll_impatience(patience, cx);
                }
                Poll::Pending => {
                    if self.poll_leave(cx).is_ready() {
                        return Poll::Ready(Err(Broken::Client));
                    }
                    return poll_impatience(patience, cx);
                }
            }
        }
    }

    fn poll_upload(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Result<(), FailureKind>> {
        loop {
            if let Poll::Ready(done) = exchange.poll_upload(cx) {
                return Poll::Ready(done);
            }
            if !self.is_asked() {
                return Poll::Pending;
            }
            ready!(self.poll_feed(cx));
        }
    }
}

fn poll_impatience(patience: &Patience, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
    patience.poll_download(cx).map(|whose: Impatience| Err(Broken::Impatience(whose)))
}

fn broken(kind: FailureKind, patience: &Patience) -> Broken {
    match (kind, patience.upload().map(|upload| upload.state())) {
        (FailureKind::Body(_), Some(State::Failed(failure))) => Broken::Upload(failure),
        (FailureKind::Body(_), _) => Broken::Upload(Failure::Malformed),
        (kind, _) => Broken::Upstream(kind),
    }
}
