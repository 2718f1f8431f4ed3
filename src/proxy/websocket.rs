//! Asking for a WebSocket, in the words of either version: by Upgrade on HTTP/1.1 (RFC 6455 §4), by extended CONNECT on
//! HTTP/2 (RFC 8441 §5). Where client and upstream speak different ones, the question and its answer are put into the
//! other's words here; what is said over the socket is the same in both, and passes as it is.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::error::ProxyError;

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// How a client asks for a WebSocket.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// By Upgrade, with this key.
    Upgrade(HeaderValue),
    /// By extended CONNECT. The key is ours, should the upstream speak HTTP/1.
    Connect(HeaderValue),
}

impl Ask {
    /// Whether these fields, already made the upstream's, ask for one.
    pub(super) fn by_upgrade(fields: &HeaderMap) -> Option<Self> {
        let to = fields.get(header::UPGRADE)?;
        let key = fields.get(header::SEC_WEBSOCKET_KEY)?;
        to.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()).then(|| Self::Upgrade(key.clone()))
    }

    /// That of a client that sent an extended CONNECT.
    pub(super) fn by_connect() -> Self {
        let key = BASE64_STANDARD.encode(fastrand::u128(..).to_le_bytes());
        // Base64 is made of what a value may be made of.
        Self::Connect(HeaderValue::from_str(&key).unwrap_or(WEBSOCKET))
    }

    /// Puts the question into the words of HTTP/1.
    pub(super) fn write_h1(&self, method: &mut Method, fields: &mut HeaderMap) {
        let Self::Connect(key) = self else { return };
        *method = Method::GET;
        fields.insert(header::UPGRADE, WEBSOCKET);
        fields.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    }

    /// Takes out of the fields what has no place in an extended CONNECT.
    pub(super) fn write_h2(&self, fields: &mut HeaderMap) {
        if let Self::Upgrade(_) = self {
            fields.remove(header::SEC_WEBSOCKET_KEY);
        }
        fields.remove(header::CONTENT_LENGTH);
    }

    /// Puts the answer of an upstream, which speaks HTTP/2 or does not, into the client's words. Says the status the client
    /// is told, and whether a tunnel follows.
    pub(super) fn settle(
        &self,
        over_h2: bool,
        status: StatusCode,
        fields: &mut HeaderMap,
    ) -> Result<(StatusCode, bool), ProxyError> {
        let switched = match over_h2 {
            true => status.is_success(),
            false => status == StatusCode::SWITCHING_PROTOCOLS,
        };
        match self {
            Self::Upgrade(key) if over_h2 && switched => {
                fields.remove(header::CONTENT_LENGTH);
                fields.insert(header::UPGRADE, WEBSOCKET);
                fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept(key));
                Ok((StatusCode::SWITCHING_PROTOCOLS, true))
            }
            Self::Connect(key) if !over_h2 && switched => {
                let mut accepts = fields.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
                if accepts.next() != Some(&accept(key)) || accepts.next().is_some() {
                    return Err(ProxyError::HttpUpgradeFailed("the upstream's Sec-WebSocket-Accept is wrong"));
                }
                fields.remove(header::SEC_WEBSOCKET_ACCEPT);
                Ok((StatusCode::OK, true))
            }
            // To the client it would look as if the socket were open.
            Self::Connect(_) if !over_h2 && status.is_success() => {
                Err(ProxyError::HttpUpgradeFailed("the upstream knows no WebSocket here"))
            }
            Self::Connect(_) | Self::Upgrade(_) => Ok((status, switched)),
        }
    }
}

/// What a server answers to a key (RFC 6455 §4.2.2).
fn accept(key: &HeaderValue) -> HeaderValue {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::from_str(&BASE64_STANDARD.encode(digest)).unwrap_or(WEBSOCKET)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn only_a_websocket_is_asked_for_and_only_with_a_key() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert!(Ask::by_upgrade(&fields(&[("upgrade", "WebSocket"), key])).is_some());
        for other in
            [&[("upgrade", "chat"), key][..], &[("upgrade", "websocket, chat"), key], &[("upgrade", "websocket")]]
        {
            assert!(Ask::by_upgrade(&fields(other)).is_none(), "{other:?}");
        }
    }

    #[test]
    fn an_accepted_extended_connect_is_a_101_with_the_answer_to_the_clients_key() {
        // The example of RFC 6455 §1.3.
        let ask = Ask::Upgrade(HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let mut answer = fields(&[("sec-websocket-protocol", "chat")]);
        let settled = ask.settle(true, StatusCode::OK, &mut answer).expect("a tunnel");
        assert_eq!(settled, (StatusCode::SWITCHING_PROTOCOLS, true));
        assert_eq!(answer["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!((&answer["upgrade"], &answer["sec-websocket-protocol"]), (&WEBSOCKET, &"chat".parse().unwrap()));
        assert_eq!(
            ask.settle(true, StatusCode::FORBIDDEN, &mut answer).expect("an answer"),
            (StatusCode::FORBIDDEN, false)
        );
    }

    #[test]
    fn a_101_opens_the_socket_of_an_extended_connect_only_if_it_answers_our_key() {
        let ask = Ask::by_connect();
        let (mut method, mut question) = (Method::CONNECT, HeaderMap::new());
        ask.write_h1(&mut method, &mut question);
        assert_eq!(
            (method, &question["upgrade"], &question["connection"]),
            (Method::GET, &WEBSOCKET, &"upgrade".parse().unwrap())
        );
        assert_eq!(question["sec-websocket-key"].len(), 24);
        let right = accept(&question["sec-websocket-key"]);
        let settle = |status: u16, accepts: &[&HeaderValue]| {
            let mut answer = HeaderMap::new();
            answer.extend(accepts.iter().map(|accept| (header::SEC_WEBSOCKET_ACCEPT, (*accept).clone())));
            ask.settle(false, StatusCode::from_u16(status).expect("a status"), &mut answer).ok()
        };
        assert_eq!(settle(101, &[&right]), Some((StatusCode::OK, true)));
        for wrong in [&[][..], &[&WEBSOCKET], &[&right, &right]] {
            assert_eq!(settle(101, wrong), None, "{wrong:?}");
        }
        assert_eq!(settle(200, &[]), None, "the client would take it for an open socket");
        assert_eq!(settle(404, &[]), Some((StatusCode::NOT_FOUND, false)));
    }
}
