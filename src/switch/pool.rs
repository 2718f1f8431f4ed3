//! The live facts of an app: its endpoints, its pools, and each revision's tenure in routing. All atomics: workers,
//! probes and drains meet here without a lock. An `Arc<Endpoint>` is kept while its address stays in its revision, so
//! idle connections, health and counts outlive a snapshot.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use crossbeam_utils::CachePadded;
use tokio::{sync::Notify, sync::watch, time::Instant};

use super::{
    address::{Address, HostPort},
    admission::{InFlight, Occupancy},
    name::Revision,
    policy::{Balance, Transport},
    status::Health,
};

/// Where connections to an endpoint go, and how they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where it listens.
    pub address: Address,
    /// The name that the address was found by, if the source gave one.
    pub name: Option<HostPort>,
    /// How connections are made.
    pub transport: Arc<Transport>,
}

/// What becomes an endpoint: an address that the source gave, or one of those that its name has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) destination: Destination,
    pub(super) weight: u32,
}

/// One address serving one revision.
pub struct Endpoint {
    id: u64,
    site: Site,
    health: AtomicU8,
    in_flight: InFlight,
}

impl Endpoint {
    pub(super) fn new(site: Site, workers: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            site,
            health: AtomicU8::new(Health::Unknown as u8),
            in_flight: InFlight::new(workers),
        }
    }

    /// A number no other endpoint of this process has or had: the key of its idle connections.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.site.destination.address
    }

    /// Where connections to it go, and how they are made.
    pub fn destination(&self) -> &Destination {
        &self.site.destination
    }

    /// Its share relative to the others of its pool.
    pub fn weight(&self) -> u32 {
        self.site.weight
    }

    /// What its probes say.
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            h if h == Health::Healthy as u8 => Health::Healthy,
            h if h == Health::Unhealthy as u8 => Health::Unhealthy,
            _ => Health::Unknown,
        }
    }

    pub(super) fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// Requests and tunnels in flight on it.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }
}

/// The endpoints of one revision of one app.
pub struct Pool {
    pub(super) revision: Revision,
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
    pub(super) balance: Balance,
    pub(super) tenure: Arc<Tenure>,
}

impl Pool {
    /// The same endpoints at the beginning of another stay in routing.
    pub(super) fn with_new_tenure(&self, workers: usize) -> Self {
        let Self { revision, endpoints, balance, .. } = self;
        Self {
            revision: revision.clone(),
            endpoints: endpoints.clone(),
            balance: *balance,
            tenure: Tenure::new(workers),
        }
    }

    /// The revision it serves.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Its endpoints, in the order the source gave them.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// How many of them are healthy.
    pub fn ready(&self) -> usize {
        self.endpoints.iter().filter(|e| e.health() == Health::Healthy).count()
    }

    /// Whether any of them is healthy.
    pub(super) fn is_ready(&self) -> bool {
        self.endpoints.iter().any(|e| e.health() == Health::Healthy)
    }

    /// The stay in routing that requests on this pool count against.
    pub fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }
}

/// How far a tenure has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// In routing.
    Serving,
    /// Out of routing; what is in flight finishes.
    Retired,
    /// The drain deadline has come: whatever is left ends now.
    Cut,
}

/// One stay of a revision in routing, from publication to drained. A rollback begins a new one.
pub struct Tenure {
    id: u64,
    occupancy: Occupancy,
    emptied: Arc<Notify>,
    stage: watch::Sender<Stage>,
    /// Each worker's next turn, for round robin.
    turns: Box<[CachePadded<AtomicUsize>]>,
    /// When the flip that ended it was acknowledged: nanoseconds after `began`, 0 while there was none.
    acknowledged: AtomicU64,
    began: Instant,
}

impl Tenure {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let emptied = Arc::new(Notify::new());
        let bell = Arc::clone(&emptied);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            occupancy: Occupancy::new(workers, Box::new(move || bell.notify_one())),
            emptied,
            stage: watch::Sender::new(Stage::Serving),
            turns: (0..workers).map(|_| CachePadded::new(AtomicUsize::new(0))).collect(),
            acknowledged: AtomicU64::new(0),
            began: Instant::now(),
        })
    }

    /// A number no other tenure of this process has or had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Requests and tunnels in flight.
    pub fn in_flight(&self) -> u64 {
        self.occupancy.sum()
    }

    /// Watches how far it has come: a tunnel ends by this.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Whether a request whose head arrived at `head` starts too late on this tenure: after the flip that ended it was
    /// acknowledged. G2 says never; the data plane counts it as `flip_late_starts_total`.
    pub fn is_late(&self, head: Instant) -> bool {
        match self.acknowledged.load(Ordering::Acquire) {
            0 => false,
            nanos => head.saturating_duration_since(self.began).as_nanos() > u128::from(nanos),
        }
    }

    pub(super) fn occupancy(&self) -> &Occupancy {
        &self.occupancy
    }

    pub(super) fn take_turn(&self, worker: usize) -> usize {
        // Only this worker writes its slot, so a load and a store do.
        let turn = self.turns[worker].load(Ordering::Relaxed);
        self.turns[worker].store(turn.wrapping_add(1), Ordering::Relaxed);
        turn
    }

    /// Takes note that no snapshot leads here any more. To be called after the publication that did it.
    pub(super) fn retire(&self) {
        self.occupancy.retire();
        self.stage.send_replace(Stage::Retired);
    }

    pub(super) fn acknowledge(&self) {
        let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        self.acknowledged.store(nanos, Ordering::Release);
    }

    /// Ends whatever is left.
    pub(super) fn cut(&self) {
        self.stage.send_replace(Stage::Cut);
    }

    /// Waits until a retired tenure is empty. Every departure after [`Self::retire`] rings.
    pub(super) async fn emptied(&self) {
        while self.occupancy.sum() > 0 {
            self.emptied.notified().await;
        }
    }
}
