//! Choosing one endpoint of a pool. A worker counts only what it has in flight itself: a shared count would cost every
//! request a cache line of somebody else's, and with enough traffic to matter the workers' pictures agree.

use super::{
    policy::Balance,
    pool::{Endpoint, Pool},
    status::Health,
};

/// The index of the endpoint to use, or `None` in an empty pool. Those in `tried` and those that are not healthy are used
/// only when nothing else is left: better a doubtful endpoint than none (the panic rule).
pub(super) fn choose(pool: &Pool, worker: usize, tried: &[u64], rng: &mut fastrand::Rng) -> Option<usize> {
    let healthy = |e: &Endpoint| e.health() == Health::Healthy;
    let fresh = |e: &Endpoint| !tried.contains(&e.id());
    let choose = Chooser { pool, worker };
    choose
        .among(rng, |e| healthy(e) && fresh(e))
        // One that has had no verdict yet is a better guess than one known to be down.
        .or_else(|| choose.among(rng, |e| e.health() == Health::Unknown && fresh(e)))
        .or_else(|| choose.among(rng, fresh))
        .or_else(|| choose.among(rng, healthy))
        .or_else(|| choose.among(rng, |_| true))
}

struct Chooser<'a> {
    pool: &'a Pool,
    worker: usize,
}

impl Chooser<'_> {
    fn among(&self, rng: &mut fastrand::Rng, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        match self.pool.balance {
            Balance::LeastRequest => self.less_busy_of_two(rng, fit),
            Balance::RoundRobin => self.next_in_turn(fit),
            Balance::Random => self.drawn(rng, fit, usize::MAX),
        }
    }

    /// Power of two choices, as in Mitzenmacher's paper of that name: nearly as even as asking all, at the cost of two.
    fn less_busy_of_two(&self, rng: &mut fastrand::Rng, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let one = self.drawn(rng, &fit, usize::MAX)?;
        let Some(two) = self.drawn(rng, &fit, one) else { return Some(one) };
        // Compare load / weight without dividing.
        let load = |i: usize| self.pool.endpoints[i].in_flight().of(self.worker);
        let weight = |i: usize| u64::from(self.pool.endpoints[i].weight());
        Some(if load(two) * weight(one) < load(one) * weight(two) { two } else { one })
    }

    /// Walks on from this worker's turn, giving an endpoint of weight w w turns in a row.
    fn next_in_turn(&self, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let total = self.weight_of(&fit, usize::MAX)?;
        let turn = self.pool.tenure.take_turn(self.worker) as u64 % total;
        self.at_share(turn, fit, usize::MAX)
    }

    /// Any but `except`, by weight.
    fn drawn(&self, rng: &mut fastrand::Rng, fit: impl Fn(&Endpoint) -> bool, except: usize) -> Option<usize> {
        let total = self.weight_of(&fit, except)?;
        let share = rng.u64(0..total);
        self.at_share(share, fit, except)
    }

    fn weight_of(&self, fit: impl Fn(&Endpoint) -> bool, except: usize) -> Option<u64> {
        let total = self.fitting(fit, except).map(|(_, weight)| weight).sum();
        (total > 0).then_some(total)
    }

    fn at_share(&self, mut share: u64, fit: impl Fn(&Endpoint) -> bool, except: usize) -> Option<usize> {
        for (index, weight) in self.fitting(fit, except) {
            match share.checked_sub(weight) {
                Some(rest) => share = rest,
                None => return Some(index),
            }
        }
        None
    }

    fn fitting(&self, fit: impl Fn(&Endpoint) -> bool, except: usize) -> impl Iterator<Item = (usize, u64)> {
        let all = self.pool.endpoints.iter().enumerate();
        all.filter(move |(i, e)| *i != except && fit(e)).map(|(i, e)| (i, u64::from(e.weight().max(1))))
    }
}
