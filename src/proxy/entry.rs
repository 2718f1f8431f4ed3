//! A way in for requests of our own, which ask whether a candidate is good: a pair of sockets, one end served by a worker
//! as any connection is, through the same engine, to the same pool. There is no address that anybody else could connect
//! to. Whom its requests are for is said when it is opened, by app and revision, and they reach that or nobody; who may
//! see previews, by which host and over which listener, are questions for others.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    Bind, ListenerOptions, ListenerRole, TlsOptions, TlsVersion, TrustedProxies,
    worker::{Order, Running, Terms},
};
use crate::switch::{AppName, Revision};

/// The candidate that requests of our own are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The app.
    pub app: AppName,
    /// The revision. If it is not the candidate any more, they are refused.
    pub revision: Revision,
}

/// A way in for requests of our own.
#[derive(Clone)]
pub struct Entry {
    workers: Arc<[Running]>,
    next: Arc<AtomicUsize>,
    /// Whether clients can come over TLS only, so that upstreams are told the same of us.
    secure: Arc<AtomicBool>,
    options: [Arc<ListenerOptions>; 2],
}

impl Entry {
    pub(super) fn new(workers: impl Into<Arc<[Running]>>) -> Self {
        let mut options = ListenerOptions::new("inside", Bind::Unix("inside".into()));
        options.role = ListenerRole::Preview;
        // What a check says of how it came (`X-Forwarded-Proto`, say) is believed: nobody else can be at this door.
        let everywhere = ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect();
        options.trusted_proxies = TrustedProxies { networks: everywhere, ..TrustedProxies::default() };
        let mut over_tls = options.clone();
        let tls = TlsOptions {
            certificates: Vec::new(),
            min_version: TlsVersion::Tls12,
            alpn: Vec::new(),
            client_auth: None,
        };
        over_tls.tls = Some(tls);
        let options = [options, over_tls].map(Arc::new);
        Self { workers: workers.into(), next: Arc::default(), secure: Arc::default(), options }
    }

    /// Takes note of the listeners that clients have.
    pub(super) fn stands_beside<'a>(&self, listeners: impl IntoIterator<Item = &'a ListenerOptions>) {
        self.secure.store(listeners.into_iter().all(|options| options.tls.is_some()), Ordering::Relaxed);
    }

    /// Opens a connection whose requests are for this candidate, plain HTTP, each time at another worker. The socket does
    /// not block.
    pub fn open(&self, candidate: Candidate) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let options = Arc::clone(&self.options[usize::from(self.secure.load(Ordering::Relaxed))]);
        let inspects = Some(Arc::new(candidate));
        let terms = Terms { options, tls: None, crowd: Arc::default(), inspects };
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let worker = self.workers.get(turn % self.workers.len().max(1)).ok_or(io::ErrorKind::NotConnected)?;
        worker.tell(Order::Serve { socket: theirs, terms });
        Ok(ours)
    }
}
