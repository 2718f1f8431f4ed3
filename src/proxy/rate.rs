//! How often one client may ask an app, where its owner limits that. The cells (GCRA, by governor) are shared by all
//! workers, or a client with many connections would have as many limits; each worker remembers where they are, so that a
//! request meets no lock but that of its own client's shard.
//!
//! What is kept of clients is bounded: those who have been away for long enough are forgotten every second, and while there
//! are too many all the same, those who are new share cells among them.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState as FastState;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::DashMapStateStore,
};

use super::admit::Visitor;
use crate::switch::{AppName, Rate, RateBy, RequestKey};

/// So many clients of an app have cells of their own.
const MOST_CLIENTS: usize = 100_000;
/// So many cells are shared by those beyond.
const SHARED_CELLS: u128 = 1 << 12;

/// The limits of all apps, shared by all workers.
#[derive(Default)]
pub(super) struct Rates {
    meters: Mutex<HashMap<AppName, Arc<Meter>>>,
    hasher: RandomState,
}

/// One worker's way to them.
pub(super) struct RateLimits {
    rates: Arc<Rates>,
    known: RefCell<HashMap<AppName, Arc<Meter>, FastState>>,
}

/// The cells of one app's clients.
struct Meter {
    rate: Rate,
    cells: RateLimiter<u128, DashMapStateStore<u128>, DefaultClock>,
    crowded: AtomicBool,
}

impl RateLimits {
    pub(super) fn new(rates: &Arc<Rates>) -> Self {
        Self { rates: Arc::clone(rates), known: RefCell::default() }
    }

    /// Counts a request in, or says after how long it would be.
    pub(super) fn check(&self, app: &AppName, rate: &Rate, visitor: &Visitor<'_>) -> Result<(), Duration> {
        let meter = self.meter(app, rate);
        meter.check(self.rates.client(&rate.by, visitor))
    }

    fn meter(&self, app: &AppName, rate: &Rate) -> Arc<Meter> {
        let mut known = self.known.borrow_mut();
        if let Some(meter) = known.get(app).filter(|meter| meter.rate == *rate) {
            return Arc::clone(meter);
        }
        let meter = self.rates.meter(app, rate);
        known.insert(app.clone(), Arc::clone(&meter));
        meter
    }
}

impl Rates {
    /// Forgets clients that have been away for so long that it makes no difference. Some worker calls it every second.
    pub(super) fn sweep(&self) {
        let meters: Vec<_> = self.meters.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for meter in meters {
            meter.cells.retain_recent();
            meter.crowded.store(meter.cells.len() >= MOST_CLIENTS, Ordering::Relaxed);
        }
    }

    /// A changed rate begins anew, for all clients.
    fn meter(&self, app: &AppName, rate: &Rate) -> Arc<Meter> {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = meters.get(app).filter(|meter| meter.rate == *rate) {
            return Arc::clone(meter);
        }
        let meter = Arc::new(Meter::new(rate.clone()));
        meters.insert(app.clone(), Arc::clone(&meter));
        meter
    }

    /// Whose request it is.
    fn client(&self, by: &RateBy, visitor: &Visitor<'_>) -> u128 {
        match by {
            RateBy::Header(name) if let Some(value) = visitor.field(name) => self.hash(value),
            RateBy::Header(_) | RateBy::ClientIp => visitor.client().map_or(0, network),
        }
    }

    /// Two hashes that nobody outside can foresee, since what clients choose must not make them share a cell.
    fn hash(&self, value: &[u8]) -> u128 {
        let [low, high] = [0_u8, 1].map(|half| u128::from(self.hasher.hash_one((half, value))));
        high << 64 | low
    }
}

/// What stands for all addresses of one client: of IPv6 its /64, out of which anybody can take addresses at will.
pub(super) fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & !u128::from(u64::MAX),
    }
}

impl Meter {
    fn new(rate: Rate) -> Self {
        // A period that no clock can tell from nothing is no limit worth the name; the shortest one is.
        let each = (rate.per / rate.requests.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(each).map_or(Quota::per_second(rate.requests), |q| q.allow_burst(rate.burst));
        Self { rate, cells: RateLimiter::dashmap(quota), crowded: AtomicBool::new(false) }
    }

    fn check(&self, client: u128) -> Result<(), Duration> {
        let client = match self.crowded.load(Ordering::Relaxed) {
            true => client % SHARED_CELLS,
            false => client,
        };
        self.cells.check_key(&client).map_err(|until| until.wait_time_from(self.cells.clock().now()))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn meter(requests: u32, burst: u32) -> Meter {
        let number = |n| NonZeroU32::new(n).unwrap();
        let (requests, burst) = (number(requests), number(burst));
        Meter::new(Rate { requests, per: Duration::from_secs(3600), burst, by: RateBy::ClientIp })
    }

    #[test]
    fn each_client_has_its_burst_and_is_told_how_long_to_wait() {
        let meter = meter(4, 2);
        for client in [1, 2] {
            assert_eq!(meter.check(client), Ok(()));
            assert_eq!(meter.check(client), Ok(()));
            let wait = meter.check(client).unwrap_err();
            assert!(wait > Duration::from_secs(890) && wait <= Duration::from_secs(900), "{wait:?}");
        }
    }

    #[test]
    fn addresses_are_one_clients_by_network_and_in_either_notation() {
        let at = |text: &str| network(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    #[test]
    fn a_crowd_shares_a_bounded_number_of_cells() {
        let meter = meter(1, 1);
        meter.crowded.store(true, Ordering::Relaxed);
        let let_in = (0..SHARED_CELLS * 2).filter(|client| meter.check(*client).is_ok()).count();
        assert_eq!(let_in as u128, SHARED_CELLS);
        assert_eq!(meter.cells.len() as u128, SHARED_CELLS);
    }
}
