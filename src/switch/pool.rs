//! The live facts of an app: its endpoints, its pools, and each revision's tenure in routing. All atomics: workers,
//! probes and drains meet here without a lock. An `Arc<Endpoint>` is kept while its address stays in its revision, so
//! idle connections, health and counts outlive a snapshot.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::CachePadded;
use tokio::{sync::Notify, sync::watch, time::Instant};

use super::{
    address::{Address, HostPort},
    admission::{InFlight, Occupancy},
    name::Revision,
    policy::{Balance, Transport},
    record::{Ejections, Record},
    roster::Lineup,
    status::Health,
    warmth::Warmth,
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

#[cfg(test)]
impl Site {
    pub(super) fn of_test(address: std::net::SocketAddr, weight: u32) -> Self {
        Self { destination: Destination { address: address.into(), name: None, transport: Arc::default() }, weight }
    }
}

impl Destination {
    /// The same host at another port; `None` for a Unix socket, which has none.
    pub fn at_port(&self, port: u16) -> Option<Self> {
        let mut address = self.address.ip()?;
        address.set_port(port);
        Some(Self { address: address.into(), ..self.clone() })
    }
}

/// One address serving one revision.
pub struct Endpoint {
    id: u64,
    site: Site,
    made: Instant,
    /// What its probes say.
    probed: AtomicU8,
    ejected: AtomicBool,
    /// When its slow start began: nanoseconds after `made`, 0 while it is in none.
    ramp: AtomicU64,
    /// Whether a pool in routing has it.
    routed: AtomicBool,
    in_flight: InFlight,
    record: Record,
    warmth: Warmth,
}

/// The share of its weight that an endpoint begins its slow start with.
const FIRST_SHARE: f32 = 0.1;

impl Endpoint {
    pub(super) fn new(site: Site, workers: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            site,
            made: Instant::now(),
            probed: AtomicU8::new(Health::Unknown as u8),
            ejected: AtomicBool::new(false),
            ramp: AtomicU64::new(0),
            routed: AtomicBool::new(false),
            in_flight: InFlight::new(workers),
            record: Record::new(workers),
            warmth: Warmth::new(workers),
        }
    }

    /// A healthy one in routing, of one worker.
    #[cfg(test)]
    pub(crate) fn for_tests(address: std::net::SocketAddr) -> Arc<Self> {
        let endpoint = Self::new(Site::of_test(address, 1), 1);
        endpoint.set_probed(Health::Healthy);
        endpoint.set_routed(true);
        Arc::new(endpoint)
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

    /// Whether it serves, by its probes and by what traffic says.
    pub fn health(&self) -> Health {
        match self.probed() {
            Health::Healthy | Health::Unknown if self.is_ejected() => Health::Ejected,
            probed => probed,
        }
    }

    /// What its probes say, whether it is ejected or not.
    pub(crate) fn probed(&self) -> Health {
        match self.probed.load(Ordering::Relaxed) {
            h if h == Health::Healthy as u8 => Health::Healthy,
            h if h == Health::Unhealthy as u8 => Health::Unhealthy,
            _ => Health::Unknown,
        }
    }

    pub(super) fn set_probed(&self, health: Health) {
        let before = self.health();
        self.probed.store(health as u8, Ordering::Relaxed);
        self.begin_ramp_after(before);
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        let before = self.health();
        self.ejected.store(ejected, Ordering::Relaxed);
        self.begin_ramp_after(before);
    }

    /// An endpoint that has just become healthy is not at its best yet.
    fn begin_ramp_after(&self, before: Health) {
        if before != Health::Healthy && self.health() == Health::Healthy {
            let nanos = u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
            self.ramp.store(nanos, Ordering::Relaxed);
        }
    }

    /// The share of its weight that it takes while its slow start, `full` long, goes on.
    pub(super) fn ramp(&self, full: Duration) -> Option<f32> {
        let began = self.ramp.load(Ordering::Relaxed);
        if began == 0 {
            return None;
        }
        let since = self.made.elapsed().saturating_sub(Duration::from_nanos(began));
        if since >= full {
            // Nobody needs to look at the time again, unless another one has begun meanwhile.
            self.ramp.compare_exchange(began, 0, Ordering::Relaxed, Ordering::Relaxed).ok();
            return None;
        }
        Some((since.as_secs_f32() / full.as_secs_f32()).max(FIRST_SHARE))
    }

    /// Whether a pool in routing has it: connections to others are not kept.
    pub fn is_routed(&self) -> bool {
        self.routed.load(Ordering::Acquire)
    }

    pub(super) fn set_routed(&self, routed: bool) {
        self.routed.store(routed, Ordering::Release);
    }

    /// What its requests came to.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// How many connections the workers hold open for it.
    pub fn warmth(&self) -> &Warmth {
        &self.warmth
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
    pub(super) lineup: Arc<Lineup>,
    pub(super) ejections: Arc<Ejections>,
    pub(super) tenure: Arc<Tenure>,
}

impl Pool {
    /// These endpoints, at the beginning of their first stay.
    pub(super) fn new(revision: Revision, endpoints: Box<[Arc<Endpoint>]>, balance: Balance, workers: usize) -> Self {
        let lineup = Lineup::new(&endpoints, &balance);
        let (ejections, tenure) = (Arc::default(), Tenure::new(workers));
        Self { revision, endpoints, balance, lineup, ejections, tenure }
    }

    /// The same endpoints at the beginning of another stay in routing.
    pub(super) fn with_new_tenure(&self, workers: usize) -> Self {
        let Self { revision, endpoints, balance, lineup, ejections, .. } = self;
        Self {
            revision: revision.clone(),
            endpoints: endpoints.clone(),
            balance: balance.clone(),
            lineup: Arc::clone(lineup),
            ejections: Arc::clone(ejections),
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

    /// How often its endpoints were ejected.
    pub fn ejections(&self) -> &Ejections {
        &self.ejections
    }

    /// How many of them are healthy.
    pub fn ready(&self) -> usize {
        self.endpoints.iter().filter(|e| e.health() == Health::Healthy).count()
    }

    /// Whether any of them is healthy.
    pub(super) fn is_ready(&self) -> bool {
        self.lineup.is_ready()
    }

    /// Has whoever chooses look at its endpoints anew: one of them serves from now on, or does not any more.
    pub(super) fn renew_lineup(&self) {
        self.lineup.renew(&self.endpoints);
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
    /// When the first of its streams was told to go, and how many have been.
    parting: OnceLock<Instant>,
    departures: AtomicU32,
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
            parting: OnceLock::new(),
            departures: AtomicU32::new(0),
            // Not all begin with the same endpoint.
            turns: (0..workers).map(|worker| CachePadded::new(AtomicUsize::new(worker))).collect(),
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

    /// When the next of its long-lived streams is to be closed: each asks once, at its time, and they get moments of their
    /// own, at most so many in a second. Where in its share of the second a moment lies is left to chance, so that clients
    /// that were closed in step do not come back in step.
    pub fn next_departure(&self, per_second: u32) -> Instant {
        let since = *self.parting.get_or_init(Instant::now);
        let turn = f64::from(self.departures.fetch_add(1, Ordering::Relaxed)) + fastrand::f64();
        since + Duration::from_secs_f64(turn / f64::from(per_second.max(1)))
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
        self.occupancy.await_departures();
        self.stage.send_replace(Stage::Retired);
    }

    /// Asks what is inside to leave, as on retirement, while a hold stands before the door. To be called after the
    /// publication of the hold.
    pub(super) fn clear(&self) {
        self.retire();
    }

    /// Goes on as before [`Self::clear`].
    pub(super) fn serve_on(&self) {
        self.occupancy.let_be();
        self.stage.send_replace(Stage::Serving);
    }

    pub(super) fn acknowledge(&self) {
        let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        self.acknowledged.store(nanos, Ordering::Release);
    }

    /// Ends whatever is left.
    pub(super) fn cut(&self) {
        self.stage.send_replace(Stage::Cut);
    }

    /// Waits until a tenure that was retired or is being cleared is empty. Every departure rings.
    pub(super) async fn emptied(&self) {
        while self.occupancy.sum() > 0 {
            self.emptied.notified().await;
        }
        // Whoever else waits is told in turn.
        self.emptied.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn streams_leave_one_by_one_at_the_close_rate() {
        let tenure = Tenure::new(1);
        let began = Instant::now();
        for turn in 0..50 {
            let share = Duration::from_millis(10);
            let after = tenure.next_departure(100) - began;
            assert!(after >= share * turn && after <= share * (turn + 1), "{turn}: {after:?}");
        }
    }
}
