//! Knowing that every worker has adopted a snapshot. Admission does not depend on it (see `admission`): it tells the
//! operator, in the receipt, how long the flip took to be everywhere, and that no idle connection of the old pool is left.

use std::{
    sync::atomic::{AtomicU64, Ordering},
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
}

impl Barrier {
    pub(super) fn new(workers: usize) -> Self {
        let worker = |_| CachePadded::new(Worker { adopted: AtomicU64::new(ABSENT), bell: Notify::new() });
        Self { workers: (0..workers).map(worker).collect(), progress: Notify::new() }
    }

    pub(super) fn workers(&self) -> usize {
        self.workers.len()
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
