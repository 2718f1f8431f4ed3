//! Connections opened ahead: before a candidate may be promoted, each worker holds as many to each of its ready endpoints as
//! the policy asks for, and keeps them up until the pool goes live or goes away. What has been opened lies among the idle
//! connections like any other (see `upstream`), and goes with them when the pool leaves routing. To an endpoint that is
//! spoken HTTP/2 to, or that chooses it by ALPN, they are connections of HTTP/2, each with room for all its streams.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::{task::spawn_local, time::Instant};

use super::{upstream::Census, worker::Worker};
use crate::switch::{Cold, Endpoint, Health};

/// How many connections a worker opens at once.
const OPENING: usize = 16;
/// A connection that is closed before it has been idle for this long was closed at once.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How often in a row it must come to nothing before that is said, and a pause made.
const TIMES: u32 = 3;
/// The longest pause before it is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What one worker does to keep endpoints warm.
#[derive(Default)]
pub(super) struct Warming {
    efforts: RefCell<HashMap<u64, Effort, RandomState>>,
}

/// What has been tried for one endpoint.
struct Effort {
    endpoint: Arc<Endpoint>,
    opening: usize,
    cold: Cold,
    /// How often in a row it came to nothing, and when it last did.
    in_vain: u32,
    failed: Option<Instant>,
    /// Not to be tried again before this.
    pause: Option<Instant>,
}

impl Warming {
    /// Counts what is open, tells the switch, and opens what is missing.
    pub(super) fn look(&self, worker: &Rc<Worker>) {
        let view = worker.reader.view();
        let wanted = view.snapshot().warmed().flat_map(|(route, pool, least)| {
            pool.endpoints().iter().map(move |endpoint| (endpoint, least, route.policy.traffic.connect))
        });
        let mut efforts = self.efforts.borrow_mut();
        let mut before = std::mem::take(&mut *efforts);
        let mut opening: usize = before.values().map(|effort| effort.opening).sum();
        for (endpoint, least, within) in wanted {
            let mut effort = before.remove(&endpoint.id()).unwrap_or_else(|| Effort::new(endpoint));
            let now = worker.clock.now();
            let open = effort.count(worker, now);
            if open >= least && effort.failed.is_none_or(|failed| now >= failed + 2 * AT_ONCE) {
                effort.went_well();
            }
            let missing = (least as usize).saturating_sub(open as usize + effort.opening);
            let missing = missing.min(OPENING.saturating_sub(opening));
            if endpoint.health() == Health::Healthy && effort.pause.is_none_or(|until| until <= now) {
                effort.opening += missing;
                opening += missing;
                for _ in 0..missing {
                    spawn_local(open_one(Rc::downgrade(worker), Arc::clone(endpoint), within));
                }
            }
            efforts.insert(endpoint.id(), effort);
        }
        // What is a candidate no more may become one again, and is cold until looked at then.
        before.values().for_each(|effort| effort.endpoint.warmth().report(worker.reader.worker(), 0, Cold::NotYet));
    }

    /// Takes note of what became of a connection.
    fn opened(&self, worker: &Rc<Worker>, endpoint: &Endpoint, well: bool) {
        let mut efforts = self.efforts.borrow_mut();
        let Some(effort) = efforts.get_mut(&endpoint.id()) else { return };
        effort.opening = effort.opening.saturating_sub(1);
        let now = worker.clock.now();
        if !well {
            effort.failed(Cold::Refused, now);
        }
        effort.count(worker, now);
    }
}

async fn open_one(worker: Weak<Worker>, endpoint: Arc<Endpoint>, within: Duration) {
    // Held for as long as the connect may take, and no task of a worker outlives it.
    let Some(worker) = worker.upgrade() else { return };
    let well = worker.upstream.open_ahead(&endpoint, within).await.is_ok();
    worker.warming.opened(&worker, &endpoint, well);
}

impl Effort {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self { endpoint: Arc::clone(endpoint), opening: 0, cold: Cold::NotYet, in_vain: 0, failed: None, pause: None }
    }

    /// Counts what is open, and tells the switch. What does not stay open does not count, and is not opened again and again.
    fn count(&mut self, worker: &Worker, now: Instant) -> u32 {
        let Census { open, closed } = worker.upstream.census(&self.endpoint);
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        if closed.is_some_and(|since| now < since + AT_ONCE) {
            self.failed(Cold::Closed, now);
        }
        let counts = if self.cold == Cold::Closed { 0 } else { open };
        self.endpoint.warmth().report(worker.reader.worker(), counts, self.cold);
        open
    }

    fn went_well(&mut self) {
        (self.in_vain, self.cold, self.failed, self.pause) = (0, Cold::NotYet, None, None);
    }

    fn failed(&mut self, cold: Cold, now: Instant) {
        self.in_vain += 1;
        self.failed = Some(now);
        if self.in_vain >= TIMES {
            self.cold = cold;
            let pause = Duration::from_secs(1).saturating_mul(1 << (self.in_vain - TIMES).min(5)).min(LONGEST_PAUSE);
            self.pause = Some(now + pause);
        }
    }
}
