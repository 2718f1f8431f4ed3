//! What requests came to on an endpoint, as the workers saw it. Each worker counts for itself, in a cache line of its own;
//! somebody else adds up now and then (see `ejection`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// What an attempt to have a request answered came to, once its outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The head of an answer came, and its status is none of the gateway's.
    Answered,
    /// An answer of 502, 503 or 504 came.
    GatewayError,
    /// No connection could be had, it ended before the head of an answer, or none came in time.
    Failed,
}

/// The outcomes of an endpoint's requests, worker by worker.
pub struct Record {
    slots: Box<[CachePadded<Slot>]>,
}

#[derive(Default)]
struct Slot {
    good: AtomicU64,
    failed: AtomicU64,
    /// Failures since the last good one.
    streak: AtomicU64,
    /// How often a streak has come to its limit, or a multiple of it.
    strikes: AtomicU64,
}

/// What has come in so far, of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) good: u64,
    pub(super) failed: u64,
    pub(super) strikes: u64,
}

impl Record {
    pub(super) fn new(workers: usize) -> Self {
        Self { slots: (0..workers).map(|_| CachePadded::default()).collect() }
    }

    /// Only this worker writes its slot, so loads and stores do. `limit` failures in a row are a strike; 0 is no limit.
    pub(super) fn note(&self, worker: usize, failed: bool, limit: u32) {
        let slot = &*self.slots[worker];
        let raise = |count: &AtomicU64| {
            let raised = count.load(Relaxed) + 1;
            count.store(raised, Relaxed);
            raised
        };
        if !failed {
            raise(&slot.good);
            slot.streak.store(0, Relaxed);
            return;
        }
        raise(&slot.failed);
        if limit > 0 && raise(&slot.streak).is_multiple_of(limit.into()) {
            raise(&slot.strikes);
        }
    }

    pub(super) fn read(&self) -> Reading {
        self.slots.iter().fold(Reading::default(), |sum, slot| Reading {
            good: sum.good + slot.good.load(Relaxed),
            failed: sum.failed + slot.failed.load(Relaxed),
            strikes: sum.strikes + slot.strikes.load(Relaxed),
        })
    }
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionReason {
    /// So many requests in a row failed.
    ConsecutiveFailures,
    /// Too large a share of them did.
    ErrorRatio,
}

impl EjectionReason {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ConsecutiveFailures, Self::ErrorRatio];

    /// The reason as it stands in labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::ErrorRatio => "error_ratio",
        }
    }
}

/// How often endpoints of a pool were ejected, by reason.
#[derive(Default)]
pub struct Ejections {
    counts: [AtomicU64; EjectionReason::ALL.len()],
}

impl Ejections {
    pub(super) fn count(&self, reason: EjectionReason) {
        self.counts[reason as usize].fetch_add(1, Relaxed);
    }

    /// How often for this reason, since the revision is known.
    pub fn of(&self, reason: EjectionReason) -> u64 {
        self.counts[reason as usize].load(Relaxed)
    }
}
