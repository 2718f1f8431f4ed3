//! A client's arrival: what comes on its connection before HTTP. First the PROXY header, where the listener wants one, then
//! the TLS handshake; after them it is known who the client is, and whether there is room for it. Each has a deadline, and
//! a worker has only so many at once: when one more comes, the oldest is closed. Whoever is in good order is through in a
//! round trip or two, so a crowd of stalled ones keeps nobody out.
//!
//! A connection that is closed here is counted by its reason, and no request of it was ever accepted. One whose client
//! left by itself, as those of TCP probes do, is not counted.
//!
//! A host that another certificate is for is answered all the same, without 421 (RFC 9110 §15.5.20): all hosts of a
//! listener have the same TLS settings, client certificates included, so none is guarded better than another.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::SocketAddr,
    rc::Rc,
};

use rustls::{CertificateError, Error as TlsError, ServerConnection};
use tokio_rustls::TlsAcceptor;

use super::{
    client::Client,
    client_certificate,
    clock::{Alarm, Timer},
    connection::Socket,
    forwarding::Forwarding,
    listener::{Admitted, Room},
    proxy_header,
    stream::Stream,
};
use crate::telemetry::connections::NotServed;

/// An accepted connection, of which nothing has been read.
pub(super) struct Arrival {
    pub(super) socket: Socket,
    /// Who connected; `None` on a Unix socket.
    pub(super) peer: Option<SocketAddr>,
    pub(super) tls: Option<TlsAcceptor>,
    /// Its place in the listener's crowd, not yet as its client's.
    pub(super) admitted: Admitted,
    pub(super) room: Room,
    pub(super) others: Rc<Arrivals>,
}

/// A connection that is ready for HTTP.
pub(super) struct Arrived {
    pub(super) stream: Stream,
    /// Whether ALPN (RFC 7301) has settled for HTTP/2; `None` without TLS.
    pub(super) is_h2: Option<bool>,
    /// Its place in the listener's crowd, to be kept as long as the connection.
    pub(super) admitted: Admitted,
}

/// Why it never is; `None` if the client left by itself.
type Failure = Option<NotServed>;

impl Arrival {
    /// Sees it through, and introduces the client. `None` if the connection is to be closed; it is counted then.
    pub(super) async fn complete(self: Box<Self>, client: &Rc<Client>, timer: &Timer) -> Option<Arrived> {
        let arrived = match self.tls.is_some() || client.options.proxy_protocol.is_some() {
            // Large, and soon over: a connection at rest does not carry it.
            true => Box::pin(self.steps(client, timer)).await,
            false => self.at_once(client),
        };
        let failure = match arrived {
            Ok(arrived) => return Some(arrived),
            Err(failure) => failure?,
        };
        client.worker.recorder.not_served(&client.options.name, failure);
        None
    }

    /// Where nothing comes before HTTP.
    #[expect(clippy::boxed_local, reason = "out of its box it would be moved, and it is large")]
    fn at_once(self: Box<Self>, client: &Rc<Client>) -> Result<Arrived, Failure> {
        let Self { socket, peer, admitted, room, .. } = *self;
        let stream = match socket {
            Socket::Tcp(socket) => Stream::Tcp(socket),
            Socket::Unix(socket) => Stream::Unix(socket),
        };
        let room = room.max(room_as_client(client, peer, &admitted)?);
        client.introduce(Forwarding::new(&client.options, peer, String::new()), room == Room::Crowded);
        Ok(Arrived { stream, is_h2: None, admitted })
    }

    async fn steps(self: Box<Self>, client: &Rc<Client>, timer: &Timer) -> Result<Arrived, Failure> {
        let Self { socket, mut peer, tls, admitted, mut room, others } = *self;
        let options = &client.options;
        let _arriving = others.enter(client);
        if let Some(proxy) = &options.proxy_protocol {
            timer.set_within(proxy.timeout);
            let named = timer.guard(proxy_header::read(&socket)).await.map_err(too_long)?;
            peer = named.map_err(not_named)?.or(peer);
        }
        room = room.max(room_as_client(client, peer, &admitted)?);
        timer.set_within(options.timeouts.handshake);
        let secured = timer.guard(secure(socket, tls)).await.map_err(too_long)?;
        let (stream, certificate) = secured.map_err(|error| not_secured(&error))?;
        let is_h2 = stream.tls().map(|tls| tls.alpn_protocol() == Some(b"h2"));
        client.introduce(Forwarding::new(options, peer, certificate), room == Room::Crowded);
        Ok(Arrived { stream, is_h2, admitted })
    }
}

/// Counts a connection as its client's, now that it is known who that is.
fn room_as_client(client: &Client, peer: Option<SocketAddr>, admitted: &Admitted) -> Result<Room, Failure> {
    let options = &client.options;
    // A trusted HTTP proxy speaks for many, and is not limited as one client.
    let itself = peer.map(|peer| peer.ip()).filter(|peer| !options.trusted_proxies.include(Some(*peer)));
    match itself.map_or(Room::Enough, |client| admitted.is_from(client, &options.limits)) {
        Room::Shut => Err(Some(NotServed::Limit)),
        room => Ok(room),
    }
}

/// The stream to talk on, and the line that tells of the client's certificate.
async fn secure(socket: Socket, tls: Option<TlsAcceptor>) -> io::Result<(Stream, String)> {
    let stream = match (socket, tls) {
        (Socket::Tcp(socket), None) => Stream::Tcp(socket),
        (Socket::Unix(socket), None) => Stream::Unix(socket),
        (Socket::Tcp(socket), Some(tls)) => Stream::Tls(Box::new(tls.accept(socket).await?)),
        (Socket::Unix(socket), Some(tls)) => Stream::TlsUnix(Box::new(tls.accept(socket).await?)),
    };
    let certificate = stream.tls().map(certificate).transpose()?;
    Ok((stream, certificate.unwrap_or_default()))
}

fn certificate(tls: &ServerConnection) -> io::Result<String> {
    let Some(leaf) = tls.peer_certificates().and_then(<[_]>::first) else { return Ok(String::new()) };
    // In a resumed session nobody has looked at the certificate's end.
    let ended = TlsError::InvalidCertificate(CertificateError::Expired);
    client_certificate::line(leaf).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, ended))
}

fn too_long(alarm: Alarm) -> Failure {
    match alarm {
        Alarm::Due => Some(NotServed::Timeout),
        // No tenure is followed before there is a request.
        Alarm::Cut | Alarm::Retired => None,
    }
}

fn not_named(failure: proxy_header::Failure) -> Failure {
    match failure {
        proxy_header::Failure::Gone => None,
        proxy_header::Failure::Malformed => Some(NotServed::ProxyHeader),
    }
}

fn not_secured(error: &io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>())? {
        TlsError::NoCertificatesPresented | TlsError::InvalidCertificate(_) => Some(NotServed::ClientCertificate),
        _ => Some(NotServed::Handshake),
    }
}

/// The arrivals of one listener at one worker, in the order they came.
#[derive(Default)]
pub(super) struct Arrivals {
    current: RefCell<BTreeMap<u64, Rc<Client>>>,
    next: Cell<u64>,
}

/// One of them, until dropped.
struct Arriving {
    all: Rc<Arrivals>,
    key: u64,
}

impl Arrivals {
    fn enter(self: Rc<Self>, client: &Rc<Client>) -> Arriving {
        let key = self.next.get();
        self.next.set(key + 1);
        let mut current = self.current.borrow_mut();
        current.insert(key, Rc::clone(client));
        let limit = client.options.limits.handshakes;
        while limit > 0 && current.len() > limit {
            let Some((_, oldest)) = current.pop_first() else { break };
            oldest.abort();
            oldest.worker.recorder.not_served(&oldest.options.name, NotServed::Handshakes);
        }
        drop(current);
        Arriving { all: self, key }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.all.current.borrow_mut().remove(&self.key);
    }
}
