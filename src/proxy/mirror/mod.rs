//! The mirror: a share of safe live requests goes to the candidate as well, and the two answers are compared. It may cost a
//! little, and must change nothing: a copy has its own task and its own budget, is sent only when the live request is on its
//! way, counts as nobody's request, and is dropped wherever it would be in the way. Where no mirror is set, a request pays
//! for one look at its policy.
//!
//! ```text
//! engine ── sample ──▶ Sampled (goes with the live answer: head, pieces, done) ──┐
//!              └─────▶ copy::run (own task: candidate's answer) ─────────────────┴─▶ compare ──▶ telemetry::mirror
//! ```
//!
//! An engine asks [`sample`] once it knows what it sends upstream, and tells the [`Sampled`] it may get what the live answer
//! is: [`Sampled::answer_head`], [`Sampled::answer_body`] with each piece, [`Sampled::done`] when it was whole. A `Sampled`
//! that is dropped before was cut off, and compares to nothing.

mod compare;
mod copy;

use std::{net::IpAddr, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use tokio::sync::oneshot;

use self::compare::Answer;
use super::{admit::Fields, outgoing::Message, worker::Worker};
use crate::switch::{Mirror, RequestKey, Role, Ticket};

/// A request as it goes upstream, to be sent once more.
pub(super) struct Copied {
    method: Method,
    uri: Uri,
    authority: HeaderValue,
    fields: HeaderMap,
    /// Whole lines that go with the fields.
    lines: Bytes,
}

impl Copied {
    /// Of a message for whatever protocol the endpoint speaks.
    pub(super) fn of_message<B>(message: &Message<B>) -> Self {
        Self {
            method: message.method.clone(),
            uri: message.uri.clone(),
            authority: message.authority.clone(),
            fields: message.fields.clone(),
            lines: message.lines.each().concat().into(),
        }
    }

    /// Of a head in the octets it is sent in on HTTP/1.
    pub(super) fn of_head(octets: &[u8]) -> Option<Self> {
        const MOST: usize = 128;
        let mut slots = [httparse::EMPTY_HEADER; MOST];
        let mut parsed = httparse::Request::new(&mut slots);
        if !matches!(parsed.parse(octets), Ok(httparse::Status::Complete(_))) {
            return None;
        }
        let method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
        let mut fields = HeaderMap::with_capacity(parsed.headers.len() + 1);
        for line in parsed.headers.iter() {
            let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
            fields.append(name, HeaderValue::from_bytes(line.value).ok()?);
        }
        let authority = fields.get(header::HOST).cloned().unwrap_or_else(|| HeaderValue::from_static(""));
        Some(Self { method, uri: parsed.path?.parse().ok()?, authority, fields, lines: Bytes::new() })
    }
}

/// What the choice of an endpoint may ask of it.
impl RequestKey for Copied {
    fn host(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    fn path(&self) -> &str {
        self.uri.path()
    }

    fn on_preview_listener(&self) -> bool {
        true
    }

    fn client(&self) -> Option<IpAddr> {
        None
    }

    fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name).map(HeaderValue::as_bytes)
    }

    fn cookie(&self, name: &str) -> Option<&[u8]> {
        Fields::cookie(&self.fields, name)
    }
}

/// A live request whose copy is on its way. It hears what the client is given.
pub(super) struct Sampled {
    heard: Answer,
    /// How many octets of the body are kept.
    most: usize,
    to: oneshot::Sender<Answer>,
}

/// Sends a copy of a live request to the candidate, if the app's mirror draws it. `copy` makes it; the request must have no
/// body, and ask for no other protocol.
pub(super) fn sample(
    worker: &Rc<Worker>,
    ticket: &Ticket,
    method: &Method,
    copy: impl FnOnce() -> Option<Copied>,
) -> Option<Box<Sampled>> {
    let mirror = ticket.policy().mirror.as_ref()?;
    let candidate = ticket.route().preview.as_ref().filter(|_| ticket.role() == Role::Active)?;
    if !draws(mirror, method) || candidate.ready() == 0 {
        return None;
    }
    let place = worker.recorder.mirrors().of(ticket.app()).enter(mirror.max_in_flight)?;
    let copied = copy().filter(|copied| !copied.fields.contains_key(header::UPGRADE))?;
    let (to, live) = oneshot::channel();
    let run = copy::run(Rc::clone(worker), copy::Order::new(ticket, candidate.revision(), copied, live, place));
    tokio::task::spawn_local(run);
    Some(Box::new(Sampled { heard: Answer::default(), most: mirror.max_body, to }))
}

fn draws(mirror: &Mirror, method: &Method) -> bool {
    let is_one = || mirror.methods.iter().any(|one| one.as_str() == method.as_str());
    (mirror.share >= Mirror::WHOLE || fastrand::u32(0..Mirror::WHOLE) < mirror.share) && is_one()
}

impl Sampled {
    /// The head of the live answer, as the upstream gave it.
    pub(super) fn answer_head(&mut self, status: StatusCode, fields: HeaderMap) {
        (self.heard.status, self.heard.fields) = (status, fields);
    }

    /// The next piece of its body.
    pub(super) fn answer_body(&mut self, octets: &[u8]) {
        self.heard.add(octets, self.most);
    }

    /// It was whole.
    pub(super) fn done(self) {
        // Whoever compares may have given up.
        drop(self.to.send(self.heard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_request_as_it_is_sent() {
        let head = b"GET /a?b=c HTTP/1.1\r\nhost: shop.test\r\nCookie: s=1\r\ncookie: t=2\r\n\r\n";
        let copied = Copied::of_head(head).expect("a head");
        assert_eq!((copied.method, copied.uri.to_string()), (Method::GET, "/a?b=c".to_owned()));
        let cookies: Vec<_> = copied.fields.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["s=1", "t=2"]);
        assert_eq!(copied.fields["host"], "shop.test");
        assert!(Copied::of_head(b"GET / HTTP/1.1\r\nhost: shop").is_none());
    }

    #[test]
    fn the_share_is_that_of_the_methods_it_is_for() {
        let share = |share| Mirror { share, ..Mirror::default() };
        assert!((0..1000).all(|_| draws(&share(Mirror::WHOLE), &Method::GET)));
        assert!(!draws(&share(Mirror::WHOLE), &Method::POST) && !draws(&share(Mirror::WHOLE), &Method::OPTIONS));
        let drawn = (0..10_000).filter(|_| draws(&share(1000), &Method::HEAD)).count();
        // Six standard deviations: once in a billion runs.
        assert!((820..=1180).contains(&drawn), "{drawn} of 10,000 at 10 %");
    }
}
