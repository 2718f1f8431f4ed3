//! HTTP/2 with a client (RFC 9113), on the `h2` crate: one task is a connection and all of its streams. Each [`request`] is a
//! future in it; those that were woken go first, and then the connection, so that all they had to say leaves in one write.
//! What is read and written passes a [`gate`] that watches for floods.
//!
//! A connection whose client has left drops its streams, and each stream that its client resets is dropped: every count, slot
//! and line of theirs goes by a `Drop`.

mod bell;
mod call;
mod delivery;
mod flood;
mod gate;
mod received;
mod request;

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use h2::server::Builder;

pub(super) use self::received::Received;
use self::{bell::Bell, gate::Gate};
use super::{client::Client, connection::Close, http1::Desk, stream::Stream};

/// How much of an answer h2 holds for a stream whose client does not take it, in octets.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams at once on a connection.
const MAX_STREAMS: u32 = 128;
/// How much of an upload a stream, and a connection, may have on its way, in octets.
const STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Serves a connection to its end. What is on the desk has come already.
pub(super) async fn serve(client: &Rc<Client>, stream: Stream, desk: Option<Box<Desk>>) -> Close {
    let read = desk.as_ref().map_or_else(Vec::new, |desk| desk.incoming.rest().to_vec());
    client.worker.put_back(desk);
    let stream = Rc::new(RefCell::new(stream));
    // How it ended was told to the requests it befell.
    run(client, Gate::new(&stream, client, read)).await.ok();
    Rc::into_inner(stream).map_or(Close::Done, |stream| Close::Lingering(stream.into_inner()))
}

async fn run(client: &Rc<Client>, gate: Gate) -> Result<(), h2::Error> {
    let mut opening = settings(client).handshake::<_, Bytes>(gate);
    let mut connection = poll_fn(|cx| {
        client.wake_here(cx);
        Pin::new(&mut opening).poll(cx)
    })
    .await?;
    let (mut streams, mut told) = (FuturesUnordered::new(), false);
    let mut bell: Option<Arc<Bell>> = None;
    poll_fn(|cx| {
        client.wake_here(cx);
        if client.is_closing() && !std::mem::replace(&mut told, true) {
            connection.graceful_shutdown();
        }
        let bell = match &mut bell {
            Some(bell) if bell.is_of(cx.waker()) => bell,
            other => other.insert(Bell::of(cx.waker())),
        };
        let waker = Waker::from(Arc::clone(bell));
        bell.awake();
        let polled = loop {
            while let Poll::Ready(Some(())) = streams.poll_next_unpin(cx) {}
            bell.hush();
            match connection.poll_accept(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(Ok((asked, respond)))) => streams.push(request::serve(client, asked, respond)),
                Poll::Ready(Some(Err(error))) => break Poll::Ready(Err(error)),
                Poll::Ready(None) => break Poll::Ready(Ok(())),
                Poll::Pending => break Poll::Pending,
            }
        };
        bell.asleep();
        polled
    })
    .await
}

fn settings(client: &Client) -> Builder {
    let mut settings = Builder::new();
    settings
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(client.options.limits.head_size).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        // RFC 8441, for WebSockets.
        .enable_connect_protocol();
    settings
}
