//! Listeners: the sockets, one per worker so that the kernel spreads connections over them, and what all workers together
//! must know of a listener: how many connections it has.

use std::{
    cell::Cell,
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;

use super::{Bind, ListenerLimits, ListenerOptions, TcpOptions, rate::network, tls::CertificateError};

/// A listener as it was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The listener's name.
    pub name: String,
    /// Where it listens: with the port the system chose, if it was asked to.
    pub bind: Bind,
}

/// Why listeners could not be applied. Nothing was changed.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Two listeners have one name.
    #[error("listener {0}: there are two of this name; give each its own")]
    RepeatedName(String),
    /// Its address cannot be bound.
    #[error("listener {name}: cannot listen on {bind}: {source}; {}", hint(.source))]
    Bind {
        /// The listener.
        name: String,
        /// Where it should listen.
        bind: Bind,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("listener {name}: {source}")]
    Certificate {
        /// The listener.
        name: String,
        /// Which file, and why.
        source: Box<CertificateError>,
    },
    /// The data plane has ended.
    #[error("the data plane has ended")]
    Ended,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another address",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE, a socket a directory this user may write to"
        }
        io::ErrorKind::AddrNotAvailable => "no interface has this address: use one of this machine's, or 0.0.0.0",
        io::ErrorKind::NotFound => "create the socket's directory",
        _ => "check the listener's bind",
    }
}

/// A bound socket of one worker.
pub(super) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// Binds a socket for each worker, and says where.
pub(super) fn bind(options: &ListenerOptions, workers: usize) -> Result<(Vec<Listening>, Bind), ListenError> {
    let bound = match &options.bind {
        Bind::Tcp(address) => bind_tcp(*address, &options.tcp, workers),
        Bind::Unix(path) => bind_unix(path, workers),
    };
    let (name, bind) = (options.name.clone(), options.bind.clone());
    bound.map_err(|source| ListenError::Bind { name, bind, source })
}

fn bind_tcp(address: SocketAddr, options: &TcpOptions, workers: usize) -> io::Result<(Vec<Listening>, Bind)> {
    // SO_REUSEPORT would let us share an address with any other process of this user, unasked and unnoticed: a socket
    // without it finds out whether the address is free.
    let probe = tcp_socket(address, false)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = tcp_socket(address, true)?;
        listen(SockRef::from(&socket), options)?;
        sockets.push(Listening::Tcp(socket.into()));
    }
    Ok((sockets, Bind::Tcp(address)))
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two addresses, on every system alike.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Listens with these options; again, with others, on a socket that listens already. Accepted sockets inherit them, and that
/// nothing short is held back in them: no system call is spent on each.
pub(super) fn listen(socket: SockRef<'_>, options: &TcpOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    match options.keepalive {
        Some(silence) => {
            // The system counts in seconds: three more questions, ten seconds apart, and the connection is dead.
            let silence = Duration::from_secs(silence.as_secs_f64().ceil() as u64);
            let asking = TcpKeepalive::new().with_time(silence).with_interval(Duration::from_secs(10)).with_retries(3);
            socket.set_tcp_keepalive(&asking)?;
        }
        None => socket.set_keepalive(false)?,
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(options.user_timeout)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<(Vec<Listening>, Bind)> {
    let first = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    first.set_nonblocking(true)?;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        sockets.push(Listening::Unix(first.try_clone()?));
    }
    sockets.push(Listening::Unix(first));
    Ok((sockets, Bind::Unix(path.to_owned())))
}

/// Whether nobody listens on a socket any more.
fn is_stale(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The connections of a listener, over all workers.
#[derive(Default)]
pub(super) struct Crowd {
    all: AtomicUsize,
    /// By the network that stands for a client.
    by_client: Mutex<HashMap<u128, usize>>,
}

/// Whether there is room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Room {
    /// Serve it.
    Enough,
    /// Tell it that there are too many.
    Crowded,
    /// There are too many even of those who are told so.
    Shut,
}

impl Room {
    fn of(count: usize, limit: usize) -> Self {
        match limit {
            0 => Self::Enough,
            // Turning a client away politely takes a connection too; an eighth more may be turned away at a time.
            _ if count > limit + limit / 8 + 16 => Self::Shut,
            _ if count > limit => Self::Crowded,
            _ => Self::Enough,
        }
    }
}

/// A connection counted in, until dropped.
pub(super) struct Admitted {
    crowd: Arc<Crowd>,
    client: Cell<Option<u128>>,
}

impl Crowd {
    /// Counts a connection in, whoever it is from.
    pub(super) fn enter(self: &Arc<Self>, limits: &ListenerLimits) -> (Admitted, Room) {
        let all = self.all.fetch_add(1, Ordering::Relaxed) + 1;
        (Admitted { crowd: Arc::clone(self), client: Cell::new(None) }, Room::of(all, limits.connections))
    }

    fn by_client(&self) -> MutexGuard<'_, HashMap<u128, usize>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// Counts it as its client's, once that is known. Not to be called twice.
    pub(super) fn is_from(&self, client: IpAddr, limits: &ListenerLimits) -> Room {
        if limits.connections_per_client == 0 {
            return Room::Enough;
        }
        let client = network(client);
        self.client.set(Some(client));
        let mut by_client = self.crowd.by_client();
        let count = by_client.entry(client).or_insert(0);
        *count += 1;
        Room::of(*count, limits.connections_per_client)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.crowd.all.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client.get() else { return };
        let mut by_client = self.crowd.by_client();
        if let Some(count) = by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                by_client.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(bind: Bind) -> ListenerOptions {
        ListenerOptions::new("live", bind)
    }

    fn anywhere() -> Bind {
        Bind::Tcp(([127, 0, 0, 1], 0).into())
    }

    #[test]
    fn an_address_somebody_listens_on_is_an_error_that_says_what_to_do() {
        let (_held, bound) = bind(&options(anywhere()), 2).expect("a free port");
        let Err(error) = bind(&options(bound), 1) else { panic!("the address is taken") };
        let text = error.to_string();
        assert!(
            text.contains("listener live: cannot listen on 127.0.0.1:") && text.contains("another process"),
            "{text}"
        );
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = Bind::Unix(directory.path().join("live.sock"));
        let held = bind(&options(path.clone()), 2).expect("a free path");
        assert!(matches!(bind(&options(path.clone()), 1), Err(ListenError::Bind { .. })));
        drop(held);
        bind(&options(path), 1).expect("nobody listens any more");
    }

    #[test]
    fn what_is_set_of_tcp_holds_for_the_connections_accepted() {
        let tcp = TcpOptions {
            keepalive: Some(Duration::from_millis(59_500)),
            user_timeout: Some(Duration::from_secs(7)),
            backlog: 1,
        };
        let (sockets, Bind::Tcp(address)) = bind(&ListenerOptions { tcp, ..options(anywhere()) }, 1).expect("a port")
        else {
            panic!("an address")
        };
        let Listening::Tcp(listener) = &sockets[0] else { panic!("a TCP socket") };
        listener.set_nonblocking(false).expect("a socket option");
        let _client = std::net::TcpStream::connect(address).expect("a connection");
        let (accepted, _) = listener.accept().expect("a connection");
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.tcp_keepalive_time().expect("a time"), Duration::from_secs(60));
        assert_eq!(accepted.tcp_user_timeout().expect("a time"), Some(Duration::from_secs(7)));

        listen(SockRef::from(listener), &TcpOptions::default()).expect("it listens still");
        let _client = std::net::TcpStream::connect(address).expect("a connection");
        let (accepted, _) = listener.accept().expect("a connection");
        assert!(!SockRef::from(&accepted).keepalive().expect("an option"));
    }

    #[test]
    fn the_crowd_is_limited_in_all_and_by_client_and_forgets_who_left() {
        let crowd = Arc::new(Crowd::default());
        let limits = ListenerLimits { connections: 3, connections_per_client: 2, ..Default::default() };
        let [one, two] = [1, 2].map(|host| IpAddr::from([127, 0, 0, host]));
        let enter = |client| {
            let (admitted, room) = crowd.enter(&limits);
            let room = room.max(admitted.is_from(client, &limits));
            (admitted, room)
        };
        let (first, second, third) = (enter(one), enter(one), enter(one));
        assert_eq!([first.1, second.1, third.1], [Room::Enough, Room::Enough, Room::Crowded]);
        drop((first, third));
        let other = enter(two);
        assert_eq!(other.1, Room::Enough);
        let many: Vec<_> = (0..19).map(|_| enter(two)).collect();
        assert_eq!((many[0].1, many[1].1, many[18].1), (Room::Enough, Room::Crowded, Room::Shut));
        drop((second, other, many));
        assert_eq!(crowd.all.load(Ordering::Relaxed), 0);
        assert!(crowd.by_client.lock().expect("not poisoned").is_empty());
    }
}
