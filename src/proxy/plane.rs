//! The data plane as the rest of the program holds it: start it, tell it which listeners there are, drain it.

use std::{
    io,
    rc::Rc,
    sync::{Arc, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustls::server::ProducesTickets;
use tokio::{
    sync::{Mutex, oneshot},
    task::{AbortHandle, spawn_blocking},
};

use super::{
    Bind, Entry, ListenerOptions,
    listener::{self, Bound, ListenError, Listening},
    rate::Rates,
    tls::{self, CertificateFacts, Certificates, Loaded},
    worker::{self, Order, Running, Terms},
};
use crate::{connector::Connector, switch::Readers, telemetry::request_log::Recorder};

/// How often certificate files are looked at for changes.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);
/// How long workers may take to end after their drain has ended.
const ENDING: Duration = Duration::from_secs(5);

/// The running data plane: workers, and the listeners they accept on.
pub struct DataPlane {
    workers: Vec<Running>,
    /// Taken by the drain, which waits for them.
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
    installed: Mutex<Installed>,
    entry: Entry,
    /// What listeners encrypt their session tickets by.
    tickets: Arc<dyn ProducesTickets>,
}

#[derive(Default)]
struct Installed {
    listeners: Vec<Listener>,
    last_key: u64,
    /// The task that looks after the certificate files of all listeners.
    watch: Option<AbortHandle>,
}

/// A listener in service, or about to be.
struct Listener {
    key: u64,
    bound: Bind,
    terms: Terms,
}

/// What installing a listener takes, all of it at hand.
struct Planned {
    listener: Listener,
    /// For a new one, a socket for each worker.
    sockets: Vec<Listening>,
    /// The certificates to be put in service, if those that are will not do.
    loaded: Option<Loaded>,
}

impl DataPlane {
    /// Starts this many workers, without listeners. They reach endpoints by `connector`; `recorder` is called on each worker's thread, with its number from 0.
    pub fn start(
        workers: usize,
        readers: Readers,
        connector: Connector,
        recorder: impl Fn(usize) -> Rc<Recorder> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let recorder: Arc<dyn Fn(usize) -> Rc<Recorder> + Send + Sync> = Arc::new(recorder);
        let rates: Arc<Rates> = Arc::default();
        let start = |index| {
            let (recorder, rates) = (Arc::clone(&recorder), Arc::clone(&rates));
            worker::start(index, readers.clone(), connector.clone(), recorder, rates)
        };
        let started = (0..workers).map(start).collect::<io::Result<Vec<_>>>()?;
        let (workers, threads): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        let tickets = tls::shared_tickets().map_err(io::Error::other)?;
        let entry = Entry::new(workers.clone());
        Ok(Self { workers, threads: threads.into(), installed: Mutex::default(), entry, tickets })
    }

    /// Makes these the listeners: binds what is new, closes what is gone (its connections finish), and changes the rest in
    /// place, for the connections that come from now on. All or nothing: on error, nothing has changed. Returns where each
    /// listens, in the order given.
    pub async fn apply(&self, listeners: Vec<ListenerOptions>) -> Result<Vec<Bound>, ListenError> {
        let mut installed = self.installed.lock().await;
        let mut planned: Vec<Planned> = Vec::with_capacity(listeners.len());
        for options in listeners {
            if planned.iter().any(|other| other.listener.terms.options.name == options.name) {
                return Err(ListenError::RepeatedName(options.name));
            }
            installed.last_key += 1;
            let key = installed.last_key;
            let taken = |old: &Listener| planned.iter().any(|planned| planned.listener.key == old.key);
            let old = installed.listeners.iter().find(|old| old.serves(&options) && !taken(old));
            planned.push(self.plan(Arc::new(options), old, key).await?);
        }
        Ok(self.install(&mut installed, planned))
    }

    /// Does all that may fail. `old` is the listener whose sockets this one takes over; `key` is for it if there is none.
    async fn plan(
        &self,
        options: Arc<ListenerOptions>,
        old: Option<&Listener>,
        key: u64,
    ) -> Result<Planned, ListenError> {
        let broken = |source| ListenError::Certificate { name: options.name.clone(), source: Box::new(source) };
        let (mut certificates, mut loaded) = (None, None);
        if let Some(wanted) = options.tls.clone() {
            let serving = old.and_then(|old| old.terms.tls.clone());
            let (tickets, in_service) = (Arc::clone(&self.tickets), serving.clone());
            let load = move || match in_service.is_some_and(|it| it.is_made_of(&wanted)) {
                true => Ok(None),
                false => Loaded::load(wanted, &tickets).map(Some),
            };
            loaded = spawn_blocking(load).await.map_err(|_| ListenError::Ended)?.map_err(broken)?;
            certificates = match (serving, loaded.take()) {
                (None, Some(first)) => Some(Certificates::new(first, Arc::clone(&self.tickets))),
                (serving, next) => {
                    loaded = next;
                    serving
                }
            };
        }
        let crowd = old.map(|old| Arc::clone(&old.terms.crowd)).unwrap_or_default();
        let (sockets, bound, key) = match old {
            Some(old) => (Vec::new(), old.bound.clone(), old.key),
            None => {
                let (sockets, bound) = listener::bind(&options, self.workers.len())?;
                (sockets, bound, key)
            }
        };
        let listener = Listener { key, bound, terms: Terms { options, tls: certificates, crowd, inspects: None } };
        Ok(Planned { listener, sockets, loaded })
    }

    fn install(&self, installed: &mut Installed, planned: Vec<Planned>) -> Vec<Bound> {
        let before = std::mem::take(&mut installed.listeners);
        for Planned { listener, sockets, loaded } in planned {
            if let (Some(certificates), Some(loaded)) = (&listener.terms.tls, loaded) {
                certificates.put(loaded);
            }
            if sockets.is_empty() {
                self.tell(|| Order::Change { key: listener.key, terms: listener.terms.clone() });
            }
            for (worker, socket) in self.workers.iter().zip(sockets) {
                worker.tell(Order::Open { key: listener.key, socket, terms: listener.terms.clone() });
            }
            installed.listeners.push(listener);
        }
        self.entry.stands_beside(installed.listeners.iter().map(|listener| &*listener.terms.options));
        for gone in before.iter().filter(|old| installed.listeners.iter().all(|new| new.key != old.key)) {
            self.tell(|| Order::Close { key: gone.key });
            gone.remove_file();
        }
        let watched = installed
            .listeners
            .iter()
            .filter_map(|listener| Some((listener.terms.options.name.clone(), listener.terms.tls.clone()?)));
        let watch = tokio::spawn(watch(watched.collect())).abort_handle();
        if let Some(old) = installed.watch.replace(watch) {
            old.abort();
        }
        let bound =
            |listener: &Listener| Bound { name: listener.terms.options.name.clone(), bind: listener.bound.clone() };
        installed.listeners.iter().map(bound).collect()
    }

    fn tell(&self, order: impl Fn() -> Order) {
        self.workers.iter().for_each(|worker| worker.tell(order()));
    }

    /// The certificates in service, of all listeners: as files change, so does this.
    pub async fn certificates(&self) -> Vec<CertificateFacts> {
        let installed = self.installed.lock().await;
        let tls = installed.listeners.iter().filter_map(|it| Some((&it.terms.options.name, it.terms.tls.as_ref()?)));
        tls.flat_map(|(name, certificates)| certificates.facts(name)).collect()
    }

    /// A way in for requests of our own.
    pub fn entry(&self) -> Entry {
        self.entry.clone()
    }

    /// Accepts no more, ends idle connections, lets the rest finish, and cuts what is left `within` so long. Returns how
    /// many requests and tunnels were cut.
    pub async fn drain(&self, within: Duration) -> usize {
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (cut, answer) = oneshot::channel();
            worker.tell(Order::Drain { within, cut });
            answers.push(answer);
        }
        let mut cut = 0;
        for answer in answers {
            // A worker that has ended had nothing to cut.
            cut += answer.await.unwrap_or(0);
        }
        let installed = std::mem::take(&mut *self.installed.lock().await);
        installed.watch.iter().for_each(AbortHandle::abort);
        installed.listeners.iter().for_each(Listener::remove_file);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join())));
        if tokio::time::timeout(ENDING, ended).await.is_err() {
            tracing::warn!("a worker did not end in time; the process ends without it");
        }
        cut
    }
}

impl Listener {
    /// Whether its sockets are the ones that these options ask for.
    fn serves(&self, options: &ListenerOptions) -> bool {
        let any_port = matches!(options.bind, Bind::Tcp(address) if address.port() == 0);
        self.terms.options.bind == options.bind && (!any_port || self.terms.options.name == options.name)
    }

    fn remove_file(&self) {
        if let Bind::Unix(path) = &self.bound
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "a socket's file is left behind");
        }
    }
}

/// Puts changed certificate files in service; what is broken is reported once, and changes nothing.
async fn watch(listeners: Vec<(String, Arc<Certificates>)>) {
    let mut looks = tokio::time::interval(CERTIFICATE_INTERVAL);
    loop {
        looks.tick().await;
        for (listener, certificates) in &listeners {
            let certificates = Arc::clone(certificates);
            match spawn_blocking(move || certificates.refresh()).await {
                Ok(Ok(true)) => tracing::info!(listener, "new certificates are in service"),
                Ok(Err(error)) => tracing::error!(%error, listener, "the certificates in service stay"),
                Ok(Ok(false)) | Err(_) => {}
            }
        }
    }
}
