//! One client connection, from accept to close: its [arrival](super::arrival), which protocol, the engine for it (ours for
//! HTTP/1, hyper's server for HTTP/2), and a close that lets the client read our last answer.

use std::{cell::RefCell, io, rc::Rc, task::Poll, time::Duration};

use hyper::{rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::{
    arrival::{Arrival, Arrived},
    client::Client,
    clock::{Alarm, Timer},
    gate::Gate,
    handle,
    http1::{self, Desk},
    stream::Stream,
};

/// RFC 9113 §3.4: what an HTTP/2 client sends first.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most hyper buffers of a connection in one direction, in octets.
const MAX_BUFFER: usize = 64 * 1024;
/// Streams at once on an HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// How much of an upload a stream, and a connection, may have on its way, in octets.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long a client has to read our last answer before the connection is closed under it.
const LINGER: Duration = Duration::from_secs(2);

/// An accepted socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves a connection to its end.
pub(super) async fn serve(client: Rc<Client>, arrival: Box<Arrival>) {
    let timer = client.clock().timer();
    // What is large and short-lived, or rare, is on the heap: a connection at rest is what this future is.
    let Some(arrived) = Box::pin(arrival.complete(&client, &timer)).await else { return };
    let Arrived { mut stream, is_h2, admitted: _admitted } = arrived;
    let (is_h2, desk) = match is_h2 {
        Some(is_h2) => (is_h2, None),
        None => match sniff(&client, &mut stream, &timer).await {
            Some(desk) => (desk.incoming.rest().starts_with(H2_PREFACE), Some(desk)),
            None => return,
        },
    };
    timer.set(None);
    let (stream, may_come) = match is_h2 {
        true => (Box::pin(http2(&client, stream, desk)).await, CONNECTION_WINDOW as usize),
        false => (http1::serve(&client, stream, desk, timer).await, usize::MAX),
    };
    if let Some(stream) = stream {
        let timer = client.clock().timer();
        timer.set_within(LINGER);
        drop(timer.guard(Box::pin(linger(stream, may_come))).await);
    }
}

/// Reads until it is clear whether the client speaks HTTP/2 with prior knowledge (RFC 9113 §3.3). `None` if it leaves, or
/// takes too long: for the first octet as long as an idle connection may, from then on as long as a head may.
async fn sniff(client: &Rc<Client>, stream: &mut Stream, timer: &Timer) -> Option<Box<Desk>> {
    let mut desk = None;
    timer.set_within(client.options.timeouts.idle);
    loop {
        let more = std::future::poll_fn(|cx| {
            client.wake_here(cx);
            let lent = desk.get_or_insert_with(|| client.worker.desk());
            let polled = lent.incoming.poll_fill(stream, cx);
            if polled.is_pending() && lent.incoming.is_empty() {
                client.worker.put_back(desk.take());
                if client.may_end() {
                    return Poll::Ready(Ok(0));
                }
            }
            polled
        });
        let came = timer.guard(more).await;
        let octets = desk.as_ref().map_or(&[][..], |desk| desk.incoming.rest());
        match came {
            Ok(Ok(more)) if more > 0 && (octets.len() >= H2_PREFACE.len() || !H2_PREFACE.starts_with(octets)) => {
                return desk;
            }
            Ok(Ok(more)) if more > 0 => timer.set_within(client.options.timeouts.head),
            // A preface that does not get on is nothing anybody could be answered to.
            Ok(_) | Err(Alarm::Due | Alarm::Cut | Alarm::Retired) => {
                client.worker.put_back(desk);
                return None;
            }
        }
    }
}

/// Serves HTTP/2, of which what is on the desk has come already. Returns the stream when all is over.
async fn http2(client: &Rc<Client>, stream: Stream, desk: Option<Box<Desk>>) -> Option<Stream> {
    let read = desk.as_ref().map_or_else(Vec::new, |desk| desk.incoming.rest().to_vec());
    client.worker.put_back(desk);
    let stream = Rc::new(RefCell::new(stream));
    let service = service_fn(|request| handle::call(client, request));
    let io = TokioIo::new(Gate::new(&stream, client, read));
    let mut http2 = http2::Builder::new(Streams { client: Rc::clone(client) });
    http2
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(client.options.limits.head_size).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_BUFFER)
        // RFC 8441, for WebSockets.
        .enable_connect_protocol();
    let mut connection = Box::pin(http2.serve_connection(io, service));
    let mut told = false;
    // How it ended was told to the requests it befell.
    drop(
        std::future::poll_fn(|cx| {
            client.wake_here(cx);
            if client.is_closing() && !std::mem::replace(&mut told, true) {
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        })
        .await,
    );
    drop(connection);
    Rc::into_inner(stream).map(RefCell::into_inner)
}

/// Runs the streams of an HTTP/2 connection, each as a task of its own, and tells its timer which.
#[derive(Clone)]
struct Streams {
    client: Rc<Client>,
}

impl<F: Future<Output: 'static> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let task = tokio::task::spawn_local(stream);
        if let Some(timer) = self.client.spawning.take() {
            self.client.clock().belongs_to(timer, task.abort_handle());
        }
    }
}

/// Closes our direction, and reads on until the client closes the other: to close with octets unread would reset the
/// connection, and the client might lose our answer (RFC 9112 §9.6). More than `most` octets is a flood, and not read on.
async fn linger(mut stream: Stream, most: usize) -> io::Result<()> {
    stream.shutdown().await?;
    let mut ignored = vec![0; 8 * 1024];
    let mut octets = 0;
    while octets <= most {
        match stream.read(&mut ignored).await? {
            0 => break,
            more => octets += more,
        }
    }
    Ok(())
}
