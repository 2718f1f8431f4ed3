//! One request, from its head to the end of its answer: a straight road with one fork, where an attempt that came to nothing
//! may be made again. Whatever fails before an answer begins is a [`ProxyError`], and becomes an answer at the end of
//! [`Http1::transact`].

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
};

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use tokio::io::AsyncWrite;

use super::{
    Http1,
    answer::Answering,
    desk::{Buffer, Desk},
    pump::Pump,
    relay::{Before, Broken, Relay, poll_gone},
    target::{Last, Target},
};
use crate::{
    proxy::{
        admit::{Hindrance, Visitor},
        attempts::{Attempts, Cause, Failed},
        client::Client,
        error::ProxyError,
        exchange::Wire,
        h1::{self, Decoder, Framing, Name, RequestHead, Token, Violation},
        half_close::HalfClose,
        handle,
        headers::{self, Added, Head, RequestId, Seen},
        mirror::{self, Copied, Sampled},
        patience::Patience,
        tunnel,
        upload::Upload,
    },
    switch::{Policy, Protocol, Ticket, Traffic, Whose},
    telemetry::request_log::{self, RequestLog},
};

/// What becomes of the connection.
pub(super) enum Next {
    /// It may bring another request.
    Again,
    /// It is closed so that the client can read all that was sent.
    Close,
    /// It is closed at once: the client sends nothing more, and has all its answer with the close.
    CloseAtOnce,
    /// It is reset: the client has left, or what it has must not pass for whole.
    Reset,
    /// It has another protocol from now on.
    Switched(Box<tunnel::Opening>),
}

/// What became of a request that was forwarded.
pub(super) enum Forwarded {
    /// It was answered, whole or not.
    Answered(Next),
    /// The client left before there was an answer.
    Left,
    /// The 101 is written. What the upstream sent behind its own comes along.
    Switched(Box<(Wire, Bytes, Ticket)>),
}

/// A request under way, beside what stands on the desk.
struct Passage {
    patience: Patience,
    /// What is known of its body, if it has one.
    tracker: Option<Rc<Upload>>,
    upload: Pump,
    /// What the client waits to read before it sends its body.
    interim: &'static [u8],
    upgrades: bool,
    trailers: bool,
    /// What is to hear of its answer, if a copy of it was sent as well.
    sampled: Option<Box<Sampled>>,
}

impl Http1 {
    /// Serves a request whose head has come.
    pub(super) async fn transact(&mut self, desk: &mut Desk, request: &RequestHead) -> Next {
        let client = Rc::clone(&self.client);
        let serving = client.begin();
        desk.incoming.keep_head(request.length);
        let (target, mut log) = match self.open(desk, request) {
            (Ok(target), log) => (target, log),
            // Boxed, as few requests need the room for it.
            (Err(error), mut log) => {
                return Box::pin(self.refuse(desk, Some(request), error, None, &mut log)).await;
            }
        };
        match self.forward(desk, request, &target, &mut log).await {
            Ok(Forwarded::Answered(next)) => next,
            Ok(Forwarded::Left) => Next::Reset,
            Ok(Forwarded::Switched(switched)) => {
                let (upstream, early, ticket) = *switched;
                // Nothing is switched to but what was asked for.
                let asked = Head { octets: desk.incoming.head(), lines: &desk.lines }.values(Name::Upgrade).next();
                let is_websocket = asked.is_some_and(|asked| asked.eq_ignore_ascii_case(b"websocket"));
                Next::Switched(Box::new(tunnel::Opening { upstream, early, is_websocket, ticket, log, serving }))
            }
            Err(error) => {
                let policy = self.policy(desk, &target, &log);
                Box::pin(self.refuse(desk, Some(request), error, policy.as_deref(), &mut log)).await
            }
        }
    }

    /// Opens the log of a request, and reads what it is for.
    fn open(&mut self, desk: &Desk, request: &RequestHead) -> (Result<Target, ProxyError>, RequestLog) {
        let Self { client, last, .. } = self;
        let head = Head { octets: desk.incoming.head(), lines: &desk.lines };
        let asker = client.forwarding().asker(head.fields());
        let target = match client.is_over_limit() {
            true => Err(ProxyError::ConnectionLimitReached),
            false => last.read(request, head, client.forwarding(), &asker),
        };
        let mut log = client.worker.recorder.open(request_log::Head {
            method: &request.method,
            host: last.host(),
            path: last.path(),
            version: if request.is_http_10 { Version::HTTP_10 } else { Version::HTTP_11 },
            client: asker.address,
        });
        if log.is_written() {
            log.described(head.values(Name::UserAgent).next(), head.values(Name::Referer).next());
        }
        (target, log)
    }

    /// Answers what is no request.
    pub(super) async fn turn_away(&mut self, desk: &mut Desk, violation: Violation) -> Next {
        let client = Rc::clone(&self.client);
        let _serving = client.begin();
        let mut log = client.worker.recorder.open(request_log::Head {
            method: &Method::GET,
            host: "",
            path: "/",
            version: Version::HTTP_11,
            client: client.forwarding().address(),
        });
        let error = match violation {
            Violation::Malformed(why) => ProxyError::BadRequest(why),
            Violation::HeadTooLarge => ProxyError::HeadTooLarge,
            Violation::TargetTooLong => ProxyError::TargetTooLong,
            Violation::TooSlow => ProxyError::RequestTimeout,
        };
        self.refuse(desk, None, error, None, &mut log).await
    }

    /// Admits the request, sends it, and sees its answer through. What may be tried again is, each time admitted anew, so
    /// that a retry reads the current snapshot.
    async fn forward(
        &mut self,
        desk: &mut Desk,
        request: &RequestHead,
        target: &Target,
        log: &mut RequestLog,
    ) -> Result<Forwarded, ProxyError> {
        let client = Rc::clone(&self.client);
        let mut ticket = match self.admit_at_once(desk, target, None, &[], log) {
            Ok(ticket) => ticket,
            // Boxed, as is whatever few requests need.
            Err(hindrance) => match Box::pin(self.admit_past(hindrance, desk, target, None, &[], log)).await {
                Some(admitted) => admitted?,
                None => return Ok(Forwarded::Left),
            },
        };
        if !speaks_http1(&ticket) {
            return Box::pin(self.carry(desk, request, target, ticket, log)).await;
        }
        let mut passage = self.prepare(&client, desk, request, target, &ticket, log)?;
        let mut attempts = Attempts::new(&request.method);
        loop {
            let failed = 'attempt: {
                let (traffic, endpoint) = (&ticket.policy().traffic, ticket.endpoint());
                passage.patience.follow(ticket.tenure());
                let upstream = &client.worker.upstream;
                let (upstream, reused) = match upstream.idle(endpoint, attempts.reuse()) {
                    Some(idle) => (idle.into_io(), true),
                    None => {
                        let origin = client.origin(target.client);
                        match upstream.open_http1(endpoint, origin, traffic.connect).await {
                            Ok(opened) => (opened.into_io(), false),
                            Err(error) => {
                                let cause = Cause::Connect(error);
                                let request = passage.again();
                                break 'attempt Failed { cause, sent: false, reused: false, newest: 0, request };
                            }
                        }
                    }
                };
                let within = attempts.within(traffic, passage.tracker.is_none());
                let mut relay = Relay {
                    client: &client,
                    stream: &mut self.stream,
                    half_close: &mut self.half_close,
                    upstream,
                    desk,
                    tray: None,
                    request,
                    upload: &mut passage.upload,
                    tracker: passage.tracker.as_deref(),
                    interim: &mut passage.interim,
                    upgrades: passage.upgrades,
                    trailers: passage.trailers,
                    refused: false,
                    before: Before::default(),
                    parting: false,
                };
                let patience = &passage.patience;
                let cause = match patience.head(within, |cx| relay.poll_head(cx)).await {
                    Ok(Ok(head)) => {
                        let sampled = passage.sampled.take();
                        let mut answering = Answering::begin(&mut relay, patience, &head, &ticket, sampled, log);
                        let ended = poll_fn(|cx| relay.poll_rest(&mut answering.download, patience, cx)).await;
                        let answered = answering.end(relay, ended, ticket, log);
                        self.timer = Some(passage.patience.into_timer());
                        return Ok(answered);
                    }
                    Ok(Err(Broken::Client)) => return Ok(Forwarded::Left),
                    Ok(Err(Broken::Upload(failure))) => return Err(failure.into_error()),
                    Ok(Err(Broken::Upstream(kind))) => Cause::Exchange(kind),
                    Ok(Err(Broken::Impatience(whose))) | Err(whose) => Cause::Impatience(whose),
                };
                relay.put_back_tray();
                drop(relay);
                Failed { cause, sent: passage.upload.has_sent(), reused, newest: 0, request: passage.again() }
            };
            let (failure, again) = attempts.judge(failed, &ticket, &passage.patience, log);
            if again.is_none() {
                return Err(failure);
            }
            // Whatever it may have to wait for, it waits for it outside of its pool.
            let whose = Some(ticket.whose());
            drop(ticket);
            let tried = attempts.tried();
            ticket = match self.admit_at_once(desk, target, whose, tried, log) {
                Ok(ticket) => ticket,
                Err(hindrance) => match Box::pin(self.admit_past(hindrance, desk, target, whose, tried, log)).await {
                    Some(admitted) => admitted?,
                    None => return Ok(Forwarded::Left),
                },
            };
            if !speaks_http1(&ticket) {
                // The configuration has changed meanwhile, and what is written is for another protocol.
                return Err(failure);
            }
        }
    }

    /// Admits it, if nothing hinders that.
    fn admit_at_once(
        &self,
        desk: &Desk,
        target: &Target,
        whose: Option<Whose>,
        tried: &[u64],
        log: &mut RequestLog,
    ) -> Result<Ticket, Hindrance> {
        let head = Head { octets: desk.incoming.head(), lines: &desk.lines };
        let visitor = Visitor { whose, ..visitor(&self.client, target, &self.last, &head, log) };
        visitor.admit_at_once(tried, log)
    }

    /// Admits it past what hindered it. It may have to wait for that: `None` if its client left meanwhile.
    async fn admit_past(
        &mut self,
        hindrance: Hindrance,
        desk: &mut Desk,
        target: &Target,
        whose: Option<Whose>,
        tried: &[u64],
        log: &mut RequestLog,
    ) -> Option<Result<Ticket, ProxyError>> {
        let Self { client, stream, last, half_close, .. } = self;
        let Desk { incoming, lines, .. } = desk;
        let (octets, mut behind) = incoming.split();
        let head = Head { octets, lines };
        let visitor = Visitor { whose, ..visitor(client, target, last, &head, log) };
        let mut admission = pin!(visitor.admit_past(hindrance, tried, log));
        poll_fn(|cx| match admission.as_mut().poll(cx) {
            Poll::Ready(admitted) => Poll::Ready(Some(admitted)),
            Poll::Pending => poll_gone(stream, &mut behind, half_close, client, cx).map(|()| None),
        })
        .await
    }

    /// How the app treats a request that came to nothing.
    fn policy(&self, desk: &Desk, target: &Target, log: &RequestLog) -> Option<Arc<Policy>> {
        let head = Head { octets: desk.incoming.head(), lines: &desk.lines };
        self.client.worker.reader.policy(&visitor(&self.client, target, &self.last, &head, log))
    }

    /// Makes the client's head the upstream's.
    fn prepare(
        &mut self,
        client: &Client,
        desk: &mut Desk,
        request: &RequestHead,
        target: &Target,
        ticket: &Ticket,
        log: &mut RequestLog,
    ) -> Result<Passage, ProxyError> {
        let Traffic { body_size, request: whole, .. } = ticket.policy().traffic;
        let has_body = !matches!(request.framing, Framing::Empty | Framing::Length(0));
        if let (Framing::Length(length), Some(limit)) = (request.framing, body_size)
            && length > limit
        {
            return Err(ProxyError::BodyTooLarge);
        }
        let head = Head { octets: desk.incoming.head(), lines: &desk.lines };
        let seen = Seen::of_lines(head);
        let request_id = headers::wants_request_id(&seen);
        identify(log, head, request_id.as_ref());
        let outgoing = &mut desk.outgoing;
        outgoing.clear();
        // Most request lines pass as they are.
        let first = Some(request.first).filter(|_| !target.is_absolute && !request.is_http_10);
        if first.is_none() {
            for part in [request.method.as_str(), " ", self.last.path(), " HTTP/1.1\r\n"] {
                outgoing.extend_from_slice(part.as_bytes());
            }
        }
        let added = Added {
            host: ticket
                .policy()
                .traffic
                .host
                .as_deref()
                .map(str::as_bytes)
                .or_else(|| (!target.is_from_host).then(|| self.last.authority())),
            forwarded: self.last.forwarded(),
            request_id: request_id.as_ref(),
            chunked: request.framing == Framing::Chunked,
            may_upgrade: !request.is_http_10 && !has_body,
            keeps_authorization: ticket.keeps_authorization(),
        };
        let upgrades = headers::write_request_lines(outgoing, head, first, &seen, &added);
        let timer = self.timer.take().unwrap_or_else(|| client.clock().timer());
        let tracker = has_body.then(|| Upload::new(body_size, client.clock()));
        let copy = || Copied::of_head(&desk.outgoing);
        let sampled = match has_body || upgrades {
            true => None,
            false => mirror::sample(&client.worker, ticket, &request.method, copy),
        };
        let waits = seen.has(Name::Expect) && has_body && desk.incoming.is_empty() && !request.is_http_10;
        Ok(Passage {
            patience: Patience::new(timer, client.options.timeouts.body, whole, tracker.clone()),
            tracker,
            upload: Pump::new(Some(request.framing), added.chunked, true),
            interim: if waits { handle::CONTINUE } else { b"" },
            upgrades,
            trailers: seen.trailers,
            sampled,
        })
    }

    /// The only place where a failure becomes an answer. `policy` is of the app it was for, if there is one.
    async fn refuse(
        &mut self,
        desk: &mut Desk,
        request: Option<&RequestHead>,
        error: ProxyError,
        policy: Option<&Policy>,
        log: &mut RequestLog,
    ) -> Next {
        // Where the next request begins is known only if this one's body is here, from its first octet on.
        let goes_on = request.is_some_and(|request| {
            request.keep_alive
                && !self.client.is_closing()
                && desk.incoming.is_untouched()
                && pass_by_body(&mut desk.incoming, request.framing)
        });
        let closes = error.closes() || !goes_on;
        log.ended(error.outcome(), error.label());
        let (parts, text) = error.into_parts(policy);
        log.answered(parts.status);
        let reply = &mut desk.outgoing;
        reply.clear();
        write_status_line(reply, parts.status, b"");
        for (name, value) in &parts.headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                reply.extend_from_slice(part);
            }
        }
        reply.extend_from_slice(match (closes, request.is_some_and(|request| request.is_http_10)) {
            (true, _) => b"connection: close\r\n\r\n",
            (false, true) => b"connection: keep-alive\r\n\r\n",
            (false, false) => b"\r\n",
        });
        if request.is_none_or(|request| request.method != Method::HEAD) {
            reply.extend_from_slice(&text);
            log.sent(text.len() as u64);
        }
        let ahead = self.half_close.as_mut().map_or(0, HalfClose::catch_up);
        match self.write_all(&desk.outgoing[ahead..]).await {
            Ok(()) if closes => Next::Close,
            Ok(()) => Next::Again,
            Err(_) => Next::Reset,
        }
    }

    async fn write_all(&mut self, mut octets: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            while !octets.is_empty() {
                let written = Pin::new(&mut self.stream).poll_write(cx, octets);
                self.client.wrote(written.is_ready());
                match ready!(written)? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => octets = &octets[written..],
                }
            }
            let flushed = Pin::new(&mut self.stream).poll_flush(cx);
            self.client.wrote(flushed.is_ready());
            flushed
        })
        .await
    }
}

impl Passage {
    /// Makes it ready to be sent once more, if it can be.
    fn again(&mut self) -> Option<()> {
        self.upload.begin_again().then_some(())
    }
}

fn visitor<'a>(
    client: &'a Client,
    target: &Target,
    last: &'a Last,
    head: &'a Head<'a>,
    log: &RequestLog,
) -> Visitor<'a> {
    let (host, path, arrived) = (last.host(), last.path(), log.began());
    Visitor { client, address: target.client, secure: target.secure, host, path, fields: head, arrived, whose: None }
}

fn speaks_http1(ticket: &Ticket) -> bool {
    ticket.endpoint().destination().transport.protocol == Protocol::Http1
}

fn identify(log: &mut RequestLog, head: Head<'_>, made: Option<&RequestId>) {
    if log.is_written() {
        let text = |name| head.values(name).next().and_then(|value| std::str::from_utf8(value).ok());
        let id = made.map_or_else(|| text(Name::RequestId).unwrap_or_default(), RequestId::as_str);
        log.identified(id, text(Name::TraceParent).and_then(|trace| trace.split('-').nth(1)));
    }
}

pub(super) fn write_status_line(into: &mut Vec<u8>, status: StatusCode, reason: &[u8]) {
    let reason = if reason.is_empty() { status.canonical_reason().unwrap_or_default().as_bytes() } else { reason };
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        into.extend_from_slice(part);
    }
}

/// Passes by a body of a request that nobody wants, as far as it has come. Whether that is to its end.
fn pass_by_body(incoming: &mut Buffer, framing: Framing) -> bool {
    let (mut decoder, mut lines) = (Decoder::new(Some(framing)), h1::Lines::default());
    loop {
        match decoder.token(incoming.rest(), &mut lines) {
            Ok(Some(Token::Framing(octets) | Token::Content(octets) | Token::Trailers(octets))) => {
                incoming.consume(octets);
            }
            Ok(Some(Token::End)) => return true,
            Ok(None) | Err(_) => return false,
        }
    }
}
