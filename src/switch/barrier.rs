//! Knowing that every worker has adopted a snapshot. Admission does not depend on it (see `admission`): it tells the
//! operator, in the receipt, how long the flip took to be everywhere, and that no idle connection of the old pool is left.
//! So that a worker need not look through all its connections for those, it is told whose they would be.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

/// A worker that does not run holds nobody up.
const ABSENT: u64 = u64::MAX;

pub(super) struct Barrier {
    workers: Box<[CachePadded<Worker>]>,
    progress: Notify,
}

struct Worker {
    adopted: AtomicU64,
    bell: Notify,
    /// The endpoints, by id, that have left routing since it last asked.
    departed: Mutex<Vec<u64>>,
}

impl Barrier {
    pub(super) fn new(workers: usize) -> Self {
        let worker = || Worker { adopted: AtomicU64::new(ABSENT), bell: Notify::new(), departed: Mutex::default() };
        Self { workers: (0..workers).map(|_| CachePadded::new(worker())).collect(), progress: Notify::new() }
    }

    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Leaves word for every worker that runs which endpoints leave routing with the next snapshot. To be called before that
    /// is published: whoever adopts it then finds the word.
    pub(super) fn leave_word(&self, departed: &[u64]) {
        for worker in self.workers.iter().filter(|worker| worker.adopted.load(Ordering::Acquire) != ABSENT) {
            worker.departed.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(departed);
        }
    }

    /// Takes, as a worker, the word that was left.
    pub(super) fn departed(&self, worker: usize) -> Vec<u64> {
        std::mem::take(&mut *self.workers[worker].departed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells every worker that there is something to adopt.
    pub(super) fn ring(&self) {
        self.workers.iter().for_each(|worker| worker.bell.notify_one());
    }

    /// Waits, as a worker, until `version` is past what it adopted.
    pub(super) async fn changed(&self, worker: usize, version: impl Fn() -> u64) {
        let worker = &self.workers[worker];
        while version() <= worker.adopted.load(Ordering::Acquire) {
            worker.bell.notified().await;
        }
    }

    pub(super) fn adopted(&self, worker: usize, version: u64) {
        self.workers[worker].adopted.store(version, Ordering::Release);
        self.progress.notify_waiters();
    }

    pub(super) fn absent(&self, worker: usize) {
        self.adopted(worker, ABSENT);
    }

    /// Waits until every running worker has adopted `version`; after `patience` it returns those that have not.
    pub(super) async fn passed(&self, version: u64, patience: Duration) -> Vec<usize> {
        let everywhere = async {
            loop {
                // Listen first, look second: what happens in between still wakes us.
                let mut progress = std::pin::pin!(self.progress.notified());
                progress.as_mut().enable();
                if self.behind(version).is_empty() {
                    return;
                }
                progress.await;
            }
        };
        match tokio::time::timeout(patience, everywhere).await {
            Ok(()) => Vec::new(),
            Err(_) => self.behind(version),
        }
    }

    fn behind(&self, version: u64) -> Vec<usize> {
        let late = |worker: &Worker| worker.adopted.load(Ordering::Acquire) < version;
        self.workers.iter().enumerate().filter(|(_, worker)| late(worker)).map(|(index, _)| index).collect()
    }
}
