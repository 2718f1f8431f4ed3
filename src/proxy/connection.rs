//! One client connection, from accept to close: TLS, which protocol, hyper's server for it, and a close that lets the
//! client read our last answer.

use std::{cell::RefCell, io, pin::pin, rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use hyper::{
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsAcceptor;

use super::{
    client::{Answer, Client},
    clock::{Alarm, Timer},
    gate::Gate,
    handle,
    stream::Stream,
    tunnel,
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
pub(super) async fn serve(client: Rc<Client>, socket: Socket, tls: Option<TlsAcceptor>) {
    let timer = client.clock().timer();
    timer.set_within(client.options.timeouts.handshake);
    let Ok(Ok((stream, is_h2))) = timer.guard(secure(socket, tls)).await else { return };
    let stream = Rc::new(RefCell::new(stream));
    let (is_h2, read) = match is_h2 {
        Some(is_h2) => (is_h2, Vec::new()),
        None => {
            let Some(read) = sniff(&client, &stream, &timer).await else { return };
            (read.starts_with(H2_PREFACE), read)
        }
    };
    let may_come = match is_h2 {
        true => {
            http2(&client, &stream, read).await;
            CONNECTION_WINDOW as usize
        }
        false => {
            http1(&client, &stream, read).await;
            usize::MAX
        }
    };
    // An answer cut off without a sign of its own is reset, not seen out.
    if let Some(stream) = Rc::into_inner(stream).filter(|_| client.answer() != Answer::UntilClose) {
        timer.set_within(LINGER);
        drop(timer.guard(linger(stream.into_inner(), may_come)).await);
    }
}

/// The stream to talk on, and whether ALPN (RFC 7301) has settled for HTTP/2; `None` without TLS.
async fn secure(socket: Socket, tls: Option<TlsAcceptor>) -> io::Result<(Stream, Option<bool>)> {
    let is_h2 = |connection: &rustls::ServerConnection| Some(connection.alpn_protocol() == Some(b"h2"));
    Ok(match (socket, tls) {
        (Socket::Tcp(socket), None) => (Stream::Tcp(socket), None),
        (Socket::Unix(socket), None) => (Stream::Unix(socket), None),
        (Socket::Tcp(socket), Some(tls)) => {
            let stream = tls.accept(socket).await?;
            let is_h2 = is_h2(stream.get_ref().1);
            (Stream::Tls(Box::new(stream)), is_h2)
        }
        (Socket::Unix(socket), Some(tls)) => {
            let stream = tls.accept(socket).await?;
            let is_h2 = is_h2(stream.get_ref().1);
            (Stream::TlsUnix(Box::new(stream)), is_h2)
        }
    })
}

/// Reads until it is clear whether the client speaks HTTP/2 with prior knowledge (RFC 9113 §3.3). `None` if it leaves, or
/// takes too long: for the first octet as long as an idle connection may, from then on as long as a head may.
async fn sniff(client: &Rc<Client>, stream: &Rc<RefCell<Stream>>, timer: &Timer) -> Option<Vec<u8>> {
    let mut read = Vec::with_capacity(1024);
    timer.set_within(client.options.timeouts.idle);
    loop {
        let more = std::future::poll_fn(|cx| {
            client.wake_here(cx);
            match tokio_util::io::poll_read_buf(pin!(&mut *stream.borrow_mut()), cx, &mut read) {
                Poll::Pending if client.may_end() && read.is_empty() => Poll::Ready(Ok(0)),
                polled => polled,
            }
        });
        match timer.guard(more).await {
            Ok(Ok(octets)) if octets > 0 => {}
            // A preface that does not get on is nothing anybody could be answered to.
            Ok(_) | Err(Alarm::Due | Alarm::Cut | Alarm::Retired) => return None,
        }
        if read.len() >= H2_PREFACE.len() || !H2_PREFACE.starts_with(&read) {
            return Some(read);
        }
        timer.set_within(client.options.timeouts.head);
    }
}

async fn http1(client: &Rc<Client>, stream: &Rc<RefCell<Stream>>, read: Vec<u8>) {
    let service = service_fn(|request| handle::call(client, request));
    let io = TokioIo::new(Gate::http1(stream, client, read));
    let mut http1 = http1::Builder::new();
    // The gate has deadlines and the limit of heads; hyper's would cost a timer with every request.
    http1.max_buf_size(MAX_BUFFER.max(2 * client.options.limits.head_size)).header_read_timeout(None);
    match http1.serve_connection(io, service).without_shutdown().await {
        Ok(parts) => {
            if let Some(opening) = client.tunnel.take() {
                let early = [&parts.read_buf[..], &parts.io.into_inner().into_held()].concat();
                let stream = stream.replace(Stream::Taken(tokio::io::empty()));
                tunnel::run(opening, stream, Bytes::from(early)).await;
            }
        }
        Err(error) if error.is_parse() => handle::record_unparsed(client),
        // Anything else was told to the request it befell.
        Err(_) => {}
    }
}

async fn http2(client: &Rc<Client>, stream: &Rc<RefCell<Stream>>, read: Vec<u8>) {
    let service = service_fn(|request| handle::call(client, request));
    let io = TokioIo::new(Gate::http2(stream, client, read));
    let mut http2 = http2::Builder::new(Streams { client: Rc::clone(client) });
    http2
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(client.options.limits.head_size).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_BUFFER);
    let mut connection = pin!(http2.serve_connection(io, service));
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
