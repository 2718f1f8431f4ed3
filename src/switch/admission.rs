//! The protocol at the heart: how a reader enters a pool while a writer replaces it, without a lock on the way.
//!
//! **The invariant.** *Once a retired occupancy has been seen empty, no request ever enters it.* [`enter`] takes the
//! worker's view, adds one to its slot, and then reads the version again; if that moved on, it takes the one back and
//! goes round. [`Current::swap`] puts the new snapshot in place, then raises the version; only after that may
//! [`Occupancy::await_departures`] be called, and only after that may a drain sum the slots. A `SeqCst` fence stands on each side
//! between the write and the read, so in the one order all fences share either the reader sees the new version or the
//! drain sees the reader (Dekker's argument; C++20 [atomics.order] §4).
//!
//! A slot has one writer, its worker, so it is counted with a load and a store; the two fences are all that a request
//! pays. The lock around the snapshot is taken once per reader and publication, never per request. The file uses only
//! what `sync` names, so that loom runs these very lines.

use std::{rc::Rc, sync::Arc};

use crossbeam_utils::CachePadded;

use super::sync::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    RwLock, fence,
};

/// The value all readers share, and its version.
pub(super) struct Current<T> {
    value: RwLock<Arc<T>>,
    version: AtomicU64,
}

/// One reader's copy of it. A request keeps the view it was admitted on.
pub(super) struct View<T> {
    /// The version read before the value was taken: the value is this old or newer.
    pub(super) version: u64,
    pub(super) value: Arc<T>,
}

impl<T> Current<T> {
    pub(super) fn new(first: Arc<T>) -> Self {
        Self { value: RwLock::new(first), version: AtomicU64::new(1) }
    }

    /// Puts `next` before the readers and returns its version. The switchboard is the only caller, so versions do not race.
    pub(super) fn swap(&self, next: Arc<T>) -> u64 {
        let replaced = match self.value.write() {
            Ok(mut value) => std::mem::replace(&mut *value, next),
            // Nothing can panic while the lock is held; a poisoned one still holds a whole value.
            Err(poisoned) => std::mem::replace(&mut *poisoned.into_inner(), next),
        };
        let version = self.version.load(Relaxed) + 1;
        self.version.store(version, Release);
        drop(replaced);
        version
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Takes the value as it is now. The version is read first, so a publication in between only costs another renewal.
    pub(super) fn view(&self) -> Rc<View<T>> {
        let version = self.version();
        let value = match self.value.read() {
            Ok(value) => Arc::clone(&value),
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        };
        Rc::new(View { version, value })
    }
}

/// Enters whatever `choose` picks from the current value, so that its drain cannot miss it. `choose` may be asked again
/// when a publication comes in between; `occupancy` names what the choice enters.
pub(super) fn enter<T, C, E>(
    current: &Current<T>,
    view: &mut Rc<View<T>>,
    worker: usize,
    mut choose: impl FnMut(&T) -> Result<C, E>,
    occupancy: impl for<'a> Fn(&'a T, &C) -> &'a Occupancy,
) -> Result<C, E> {
    loop {
        if current.version() != view.version {
            *view = current.view();
        }
        let choice = choose(&view.value)?;
        let entered = occupancy(&view.value, &choice);
        entered.enter(worker);
        if current.version() == view.version {
            return Ok(choice);
        }
        // The drain may have counted us in for an instant; leaving reports to it like any other departure.
        entered.leave(worker);
    }
}

/// Who is inside, and whether somebody waits for the last to leave.
pub(super) struct Occupancy {
    slots: InFlight,
    /// Whether departures are reported.
    awaited: AtomicBool,
    emptied: Box<dyn Fn() + Send + Sync>,
}

impl Occupancy {
    /// An empty one. `emptied` is called whenever somebody leaves while that is awaited; it may look at [`Self::sum`].
    pub(super) fn new(workers: usize, emptied: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { slots: InFlight::new(workers), awaited: AtomicBool::new(false), emptied }
    }

    fn enter(&self, worker: usize) {
        self.slots.add(worker);
        fence(SeqCst);
    }

    /// Either this sees that it is awaited, and reports, or the drain that waits sees the departure.
    pub(super) fn leave(&self, worker: usize) {
        self.slots.remove(worker);
        fence(SeqCst);
        if self.awaited.load(Relaxed) {
            (self.emptied)();
        }
    }

    /// From now on, leaving is reported. To be called after the publication since which nobody is let in here: of the
    /// snapshot that no longer leads here, or of the hold that stands before it.
    pub(super) fn await_departures(&self) {
        self.awaited.store(true, Relaxed);
        fence(SeqCst);
    }

    /// Nobody waits any more.
    pub(super) fn let_be(&self) {
        self.awaited.store(false, Relaxed);
    }

    pub(super) fn sum(&self) -> u64 {
        self.slots.sum()
    }

    #[cfg(test)]
    pub(super) fn enter_for_tests(&self, worker: usize) {
        self.enter(worker);
    }

    /// How many entered by this worker.
    pub(super) fn of(&self, worker: usize) -> u64 {
        self.slots.of(worker)
    }
}

/// A count with a cache line per worker: each worker alone writes its own, a drain or a scrape sums them.
pub struct InFlight {
    slots: Box<[CachePadded<AtomicU64>]>,
}

impl InFlight {
    pub(super) fn new(workers: usize) -> Self {
        Self { slots: (0..workers).map(|_| CachePadded::new(AtomicU64::new(0))).collect() }
    }

    pub(super) fn add(&self, worker: usize) {
        let slot = &self.slots[worker];
        slot.store(slot.load(Relaxed) + 1, Relaxed);
    }

    pub(super) fn remove(&self, worker: usize) {
        let slot = &self.slots[worker];
        slot.store(slot.load(Relaxed) - 1, Release);
    }

    /// This worker's own count.
    pub(super) fn of(&self, worker: usize) -> u64 {
        self.slots[worker].load(Relaxed)
    }

    /// The count over all workers: exact once nobody enters any more, a good picture before.
    pub fn sum(&self) -> u64 {
        self.slots.iter().map(|slot| slot.load(Acquire)).sum()
    }
}
