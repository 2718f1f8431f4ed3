//! One client connection, from accept to close: its [arrival](super::arrival), which protocol, the engine for it
//! ([`http1`] or [`http2`]), and a close that lets the client read our last answer.

use std::{future::poll_fn, io, rc::Rc, task::Poll, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::{
    arrival::{Arrival, Arrived},
    client::Client,
    clock::{Alarm, Timer},
    http1::{self, Desk},
    http2,
    stream::Stream,
};

/// RFC 9113 §3.4: what an HTTP/2 client sends first.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client has to read our last answer before the connection is closed under it.
const LINGER: Duration = Duration::from_secs(2);

/// An accepted socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How a connection is to be closed.
pub(super) enum Close {
    /// It is in other hands, or has been reset.
    Done,
    /// So that the client can read our last answer, whatever it sends meanwhile.
    Lingering(Stream),
    /// The client has said that it sends nothing more, and has sent nothing that was not read: there is nothing to linger
    /// for.
    AtOnce(Stream),
}

/// Serves a connection to its end.
pub(super) async fn serve(client: Rc<Client>, arrival: Box<Arrival>) {
    let timer = client.clock().timer();
    let Some(arrived) = arrival.complete(&client, &timer).await else { return };
    let Arrived { mut stream, is_h2, admitted: _admitted } = arrived;
    let (is_h2, desk) = match is_h2 {
        Some(is_h2) => (is_h2, None),
        None => match sniff(&client, &mut stream, &timer).await {
            Some(desk) => (desk.incoming.rest().starts_with(H2_PREFACE), Some(desk)),
            None => return,
        },
    };
    timer.set(None);
    // What is large and short-lived, or rare, is on the heap: a connection at rest is what this future is.
    let (close, may_come) = match is_h2 {
        true => (Box::pin(http2::serve(&client, stream, desk)).await, http2::CONNECTION_WINDOW as usize),
        false => (http1::serve(&client, stream, desk, timer).await, usize::MAX),
    };
    let timer = client.clock().timer();
    timer.set_within(LINGER);
    match close {
        Close::Done => {}
        Close::AtOnce(mut stream) => drop(timer.guard(poll_fn(|cx| stream.poll_farewell(cx))).await),
        Close::Lingering(stream) => drop(timer.guard(Box::pin(linger(stream, may_come))).await),
    }
}

/// Reads until it is clear whether the client speaks HTTP/2 with prior knowledge (RFC 9113 §3.3). `None` if it leaves, or
/// takes too long: for the first octet as long as an idle connection may, from then on as long as a head may.
async fn sniff(client: &Rc<Client>, stream: &mut Stream, timer: &Timer) -> Option<Box<Desk>> {
    let mut desk = None;
    timer.set_within(client.options.timeouts.idle);
    loop {
        let more = poll_fn(|cx| {
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

/// Closes our direction, and reads on until the client closes the other: to close with octets unread would reset the
/// connection, and the client might lose our answer (RFC 9112 §9.6). More than `most` octets is a flood, and not read on.
async fn linger(mut stream: Stream, most: usize) -> io::Result<()> {
    stream.shutdown().await?;
    let mut ignored = Vec::with_capacity(8 * 1024);
    let mut octets = 0;
    while octets <= most {
        match stream.read_buf(&mut ignored).await? {
            0 => break,
            more => octets += more,
        }
        ignored.clear();
    }
    Ok(())
}
