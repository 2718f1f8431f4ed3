//! HTTP/1.1 towards upstreams (RFC 9112), as our own small engine: a pure codec ([`head`], [`body`]: octets in, events out)
//! and one [`Exchange`] that puts it on a socket. It exists for its cost. The request's head is written once into a buffer
//! that is sent again as it is on a retry; the answer is read by the very task that needs it, so there is no channel, no
//! second task and no wake between; and a connection at rest is a socket and nothing else.
//!
//! It refuses whatever two parsers could read differently: an answer with doubtful framing is an error, never a guess, and
//! a connection with an octet too many is never used again.

#[cfg(test)]
mod against_httparse;
#[cfg(test)]
mod against_hyper;
mod body;
mod exchange;
mod field;
mod head;
mod request;
mod scan;

/// Whether a 101 with these `Upgrade` lines switches to what the request `asked` for (RFC 9110 §7.8), and to nothing else.
pub(super) fn switches<'a>(asked: Option<&[u8]>, to: impl Iterator<Item = &'a [u8]>) -> bool {
    let Some(asked) = asked else { return false };
    let mut to = to.flat_map(members).peekable();
    to.peek().is_some() && to.all(|protocol| members(asked).any(|asked| asked.eq_ignore_ascii_case(protocol)))
}

pub(super) use self::{
    body::{CHUNK_END, Decoder, Framing, Token, write_chunk_line},
    exchange::{Connection, Exchange, Failure, FailureKind, Outgoing},
    field::{Line, Lines, Name, Names, is_keep_alive, members},
    head::{Malformed, ResponseHead, read_response},
    request::{RequestHead, Violation, read_request},
};
