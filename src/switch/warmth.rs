//! How many connections the workers hold open to an endpoint before it takes live traffic. Each worker reports its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// The open connections of each worker to one endpoint, and what is in their way.
pub struct Warmth {
    slots: Box<[CachePadded<AtomicU64>]>,
}

/// Why a worker cannot keep connections to an endpoint open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cold {
    /// It is opening them.
    NotYet,
    /// They could not be opened.
    Refused,
    /// The endpoint closes them as soon as they are open.
    Closed,
}

impl Warmth {
    pub(super) fn new(workers: usize) -> Self {
        Self { slots: (0..workers).map(|_| CachePadded::default()).collect() }
    }

    /// A worker says how many it holds, and what it is that keeps it from holding more.
    pub fn report(&self, worker: usize, open: u32, cold: Cold) {
        self.slots[worker].store(u64::from(open) | (cold as u64) << 32, Relaxed);
    }

    /// `None` if every worker holds at least so many; else the worst reason why not.
    pub(super) fn lacking(&self, least: u32) -> Option<Cold> {
        let short = self.slots.iter().map(|slot| slot.load(Relaxed)).filter(|slot| (*slot as u32) < least);
        short
            .map(|slot| match slot >> 32 {
                closed if closed == Cold::Closed as u64 => Cold::Closed,
                refused if refused == Cold::Refused as u64 => Cold::Refused,
                _ => Cold::NotYet,
            })
            .max()
    }
}
