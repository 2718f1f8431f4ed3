//! A request of an HTTP/1 client for an upstream that may speak HTTP/2: the two have nothing in common that could be edited
//! in place, so the head is made into a message and takes the road of HTTP/2's requests ([`handle`]); only reading from the
//! client and writing to it is ours. The client's stream stands between the two, and nobody holds it while he waits.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncWrite, empty};

use super::{
    Http1,
    desk::{Buffer, Desk},
    relay::poll_gone,
    target::Target,
    transaction::{Forwarded, Next, write_status_line},
};
use crate::{
    proxy::{
        body::{BodyError, Download},
        client::{Answer, Client},
        error::ProxyError,
        h1::{self, Decoder, Framing, Lines, Name, RequestHead, Token},
        half_close::HalfClose,
        handle::{self, Asked, Reply},
        headers::{Head, Seen},
        stream::Stream,
        upload::{self, Inflow},
    },
    switch::Ticket,
    telemetry::request_log::{Outcome, RequestLog},
};

/// The client's side of a request that is carried.
struct Side {
    stream: Stream,
    incoming: Buffer,
    half_close: Option<HalfClose>,
    /// What the client waits to read before it sends its body.
    interim: &'static [u8],
    /// Whether all of the body was read.
    uploaded: bool,
}

/// A request's body, read from the client's stream.
pub(in super::super) struct Streamed {
    side: Rc<RefCell<Side>>,
    decoder: Decoder,
    lines: Lines,
}

impl Http1 {
    /// Forwards a request that was admitted, and sees its answer through.
    pub(super) async fn carry(
        &mut self,
        desk: &mut Desk,
        request: &RequestHead,
        target: &Target,
        ticket: Ticket,
        log: &mut RequestLog,
    ) -> Result<Forwarded, ProxyError> {
        let client = Rc::clone(&self.client);
        let head = Head { octets: desk.incoming.head(), lines: &desk.lines };
        let seen = Seen::of_lines(head);
        let mut parts = self.parts(request, head)?;
        let general = self.last.general(target);
        let has_body = !matches!(request.framing, Framing::Empty | Framing::Length(0));
        let waits = seen.has(Name::Expect) && has_body && desk.incoming.is_empty() && !request.is_http_10;
        let side = Rc::new(RefCell::new(Side {
            stream: std::mem::replace(&mut self.stream, Stream::Taken(empty())),
            incoming: std::mem::replace(&mut desk.incoming, Buffer::new()),
            // It may have closed its direction while it waited for its admission.
            half_close: self.half_close.take(),
            interim: if waits { handle::CONTINUE } else { b"" },
            uploaded: !has_body,
        }));
        let body = match request.framing {
            Framing::Empty => Inflow::None,
            framing => Inflow::Http1(Streamed {
                side: Rc::clone(&side),
                decoder: Decoder::new(Some(framing)),
                lines: Lines::default(),
            }),
        };
        let (timer, arrived) = (client.clock().timer(), log.began());
        let carried = {
            let asked = Asked { client: &client, target: &general, parts: &mut parts, incoming: body, timer, arrived };
            let mut asked = pin!(handle::forward(asked, ticket, log));
            poll_fn(|cx| match asked.as_mut().poll(cx) {
                Poll::Ready(replied) => Poll::Ready(Some(replied)),
                Poll::Pending => side.borrow_mut().poll_gone(&client, cx).map(|()| None),
            })
            .await
        };
        let forwarded = match carried {
            None => Ok(Forwarded::Left),
            Some(Err(error)) => Err(error),
            Some(Ok(reply)) => Ok(answer(&client, &side, request, seen.trailers, reply, desk, log).await),
        };
        let mut side = side.borrow_mut();
        self.stream = std::mem::replace(&mut side.stream, Stream::Taken(empty()));
        self.half_close = side.half_close.take();
        std::mem::swap(&mut desk.incoming, &mut side.incoming);
        forwarded
    }

    /// The request's head as a message of any version.
    fn parts(&self, request: &RequestHead, head: Head<'_>) -> Result<http::request::Parts, ProxyError> {
        let malformed = |_: http::Error| ProxyError::BadRequest("it does not parse");
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = request.method.clone();
        let uri = Uri::try_from(self.last.path());
        parts.uri = uri.map_err(|error| malformed(error.into()))?;
        parts.version = if request.is_http_10 { Version::HTTP_10 } else { Version::HTTP_11 };
        parts.headers = head.to_map().map_err(malformed)?;
        Ok(parts)
    }
}

/// Writes the answer in the client's version, and sees it through.
async fn answer(
    client: &Client,
    side: &RefCell<Side>,
    request: &RequestHead,
    trailers: bool,
    reply: Reply,
    desk: &mut Desk,
    log: &mut RequestLog,
) -> Forwarded {
    let Reply { status, headers, switched, exchange, ticket, patience, sampled } = reply;
    log.answered(status);
    let bodiless = matches!(status.as_u16(), 100..200 | 204 | 304) || request.method == http::Method::HEAD;
    let length = exchange.size_hint().exact().filter(|_| !headers.contains_key(header::CONTENT_LENGTH));
    let unframed = !bodiless && length.is_none() && !headers.contains_key(header::CONTENT_LENGTH);
    let (chunked, until_close) = (unframed && !request.is_http_10, unframed && request.is_http_10);
    let mut closes = !request.keep_alive || until_close || client.is_closing();
    let framed = &mut desk.outgoing;
    framed.clear();
    write_status_line(framed, status, b"");
    write_fields(framed, &headers);
    match length.filter(|_| !bodiless) {
        Some(length) => framed.extend_from_slice(format!("content-length: {length}\r\n").as_bytes()),
        None if chunked => framed.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        None => {}
    }
    framed.extend_from_slice(match (closes, request.is_http_10) {
        _ if switched => b"\r\n",
        (true, _) => b"connection: close\r\n\r\n",
        (false, true) => b"connection: keep-alive\r\n\r\n",
        (false, false) => b"\r\n",
    });
    client.answers(match (chunked, until_close) {
        (true, _) => Answer::InChunks,
        (_, true) => Answer::UntilClose,
        _ => Answer::Otherwise,
    });
    side.borrow_mut().interim = b"";
    let mut written = side.borrow_mut().half_close.as_mut().map_or(0, HalfClose::catch_up);
    if switched {
        let told = poll_fn(|cx| side.borrow_mut().poll_write(client, framed, &mut written, cx)).await;
        return match (told, exchange.into_tunnel()) {
            (Ok(()), Some((wire, early))) => Forwarded::Switched(Box::new((wire, early, ticket))),
            _ => Forwarded::Left,
        };
    }
    let mut download = Download { exchange, ticket, patience, sampled };
    // A piece is framed behind the head, or behind nothing; and how the answer ends.
    let (mut staged, mut ended) = (false, None);
    let ran = poll_fn(|cx| {
        loop {
            // What is there already goes out with the head, in one call.
            if !staged && ended.is_none() {
                match download.poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        log.sent(frame.data_ref().map_or(0, Bytes::len) as u64);
                        staged = true;
                        ended = stage(framed, frame, chunked, trailers).then_some(Ok(()));
                    }
                    Poll::Ready(None) => {
                        framed.extend_from_slice(if chunked { b"0\r\n\r\n" } else { b"" });
                        ended = Some(Ok(()));
                    }
                    Poll::Ready(Some(Err(broken))) => ended = Some(Err(Some(broken))),
                    Poll::Pending if framed.is_empty() => {
                        return side.borrow_mut().poll_gone(client, cx).map(|()| Err(None));
                    }
                    Poll::Pending => {}
                }
            }
            let polled = side.borrow_mut().poll_write(client, framed, &mut written, cx);
            match polled {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(None)),
                Poll::Pending => return download.poll_untaken(cx).map(|broken| Err(Some(broken))),
            }
            framed.clear();
            (written, staged) = (0, false);
            if let Some(ended) = ended.take() {
                return Poll::Ready(ended);
            }
        }
    })
    .await;
    client.answers(Answer::Otherwise);
    download.finish(client, log);
    let (outcome, reason) = match &ran {
        Ok(()) => (Outcome::Answered, ""),
        Err(Some(broken)) => BodyError::outcome(broken),
        Err(None) => (Outcome::ClientGone, ""),
    };
    log.ended(outcome, reason);
    closes |= !side.borrow().uploaded;
    Forwarded::Answered(match ran {
        Ok(()) if closes => Next::Close,
        Ok(()) => Next::Again,
        // An answer cut off without a sign of its own is reset, not seen out.
        Err(Some(_)) if !until_close => Next::Close,
        Err(_) => Next::Reset,
    })
}

/// Frames a piece of an answer. Whether it is the last.
fn stage(framed: &mut Vec<u8>, frame: Frame<Bytes>, chunked: bool, trailers: bool) -> bool {
    match frame.into_data() {
        Ok(data) if chunked && !data.is_empty() => {
            h1::write_chunk_line(framed, data.len());
            framed.extend_from_slice(&data);
            framed.extend_from_slice(h1::CHUNK_END);
            false
        }
        Ok(data) => {
            framed.extend_from_slice(&data);
            false
        }
        Err(frame) => {
            if chunked {
                framed.extend_from_slice(b"0\r\n");
                frame.into_trailers().iter().filter(|_| trailers).for_each(|fields| write_fields(framed, fields));
                framed.extend_from_slice(b"\r\n");
            }
            true
        }
    }
}

fn write_fields(into: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            into.extend_from_slice(part);
        }
    }
}

impl Side {
    /// Ready when the client has left. While its body is on the way, it is the body that tells.
    fn poll_gone(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<()> {
        match self.uploaded {
            true => poll_gone(&mut self.stream, &mut self.incoming.split().1, &mut self.half_close, client, cx),
            false => Poll::Pending,
        }
    }

    fn poll_write(
        &mut self,
        client: &Client,
        octets: &[u8],
        written: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        while *written < octets.len() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &octets[*written..]);
            client.wrote(polled.is_ready());
            match ready!(polled)? {
                0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        client.wrote(flushed.is_ready());
        flushed
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = upload::Failure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, upload::Failure>>> {
        let Self { side, decoder, lines } = self.get_mut();
        let Side { stream, incoming, interim, uploaded, .. } = &mut *side.borrow_mut();
        loop {
            match decoder.token(incoming.rest(), lines) {
                Ok(Some(Token::Framing(octets))) => {
                    // What it frames may be here.
                    incoming.consume(octets);
                    continue;
                }
                Ok(Some(Token::Content(octets))) => {
                    let data = Bytes::copy_from_slice(&incoming.rest()[..octets]);
                    incoming.consume(octets);
                    *uploaded = decoder.has_ended();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Some(Token::Trailers(octets))) => {
                    let section = Head { octets: &incoming.rest()[..octets], lines };
                    let trailers = section.to_map().map_err(|_| upload::Failure::Malformed);
                    incoming.consume(octets);
                    *uploaded = true;
                    let trailers = trailers.map(|trailers| Some(trailers).filter(|trailers| !trailers.is_empty()));
                    return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose());
                }
                Ok(Some(Token::End)) => {
                    *uploaded = true;
                    return Poll::Ready(None);
                }
                Ok(None) if incoming.has_room() => {}
                Ok(None) | Err(_) => return Poll::Ready(Some(Err(upload::Failure::Malformed))),
            }
            if !incoming.is_empty() {
                *interim = b"";
            }
            while !interim.is_empty() {
                match ready!(Pin::new(&mut *stream).poll_write(cx, interim)) {
                    Ok(octets) if octets > 0 => *interim = &interim[octets..],
                    _ => return Poll::Ready(Some(Err(upload::Failure::ClientGone))),
                }
            }
            match ready!(incoming.poll_fill(stream, cx)) {
                Ok(octets) if octets > 0 => {}
                _ => return Poll::Ready(Some(Err(upload::Failure::ClientGone))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
