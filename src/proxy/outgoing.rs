//! A request on its way out, while it is open which protocol the endpoint speaks. On HTTP/1 it becomes octets, once, which
//! are sent again as they are on a retry; on HTTP/2 its head is made from what stands here, each time it is sent.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::{
    h1::{self, Framing},
    headers::RequestId,
    replay::Replay,
    upload::UploadBody,
    websocket::Ask,
};

/// The body of a request, as an exchange takes it.
pub(super) type OutgoingBody = Replay<UploadBody>;

/// A request on its way out.
pub(super) enum Outgoing {
    /// For whatever the endpoint speaks.
    Any(Box<Message<OutgoingBody>>),
    /// Written for HTTP/1, and for nothing else.
    H1(Box<h1::Outgoing<OutgoingBody>>),
}

/// A request that is not written yet.
pub(super) struct Message<B> {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Host and port as the client gave them; empty if it gave none.
    pub(super) authority: HeaderValue,
    pub(super) fields: HeaderMap,
    pub(super) lines: Lines,
    pub(super) framing: Framing,
    pub(super) body: B,
    /// It asks for a WebSocket.
    pub(super) ask: Option<Ask>,
}

/// Whole field lines to go with the map.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) forwarded: Bytes,
    pub(super) request_id: Option<RequestId>,
}

impl Outgoing {
    /// Its fields, as the upstream is told them.
    pub(super) fn fields(&self) -> &HeaderMap {
        match self {
            Self::Any(message) => &message.fields,
            Self::H1(request) => request.fields(),
        }
    }

    /// Whether no body goes with it.
    pub(super) fn is_bodyless(&self) -> bool {
        match self {
            Self::Any(message) => matches!(message.framing, Framing::Empty | Framing::Length(0)),
            Self::H1(request) => request.is_bodyless(),
        }
    }
}

impl<B> Message<B> {
    /// Writes it for HTTP/1.
    pub(super) fn into_h1(mut self) -> h1::Outgoing<B> {
        if let Some(ask) = &self.ask {
            ask.write_h1(&mut self.method, &mut self.fields);
        }
        let lines = self.lines.each();
        h1::Outgoing::new(self.method, &self.uri, self.fields, lines, self.framing, self.body)
    }
}

impl Lines {
    pub(super) fn each(&self) -> [&[u8]; 2] {
        [&*self.forwarded, self.request_id.as_ref().map_or(&[], RequestId::line)]
    }
}
