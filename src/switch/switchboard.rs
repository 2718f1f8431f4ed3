//! The one writer.

use std::sync::Arc;

use super::{
    admission::Current,
    barrier::Barrier,
    control::{Control, Feed, Viewer},
    reader::{Reader, Shared},
    snapshot::Snapshot,
};

/// The handles of a running switch.
pub struct Switch {
    /// The power to act.
    pub control: Control,
    /// The power to report.
    pub feed: Feed,
    /// The power to look.
    pub viewer: Viewer,
    /// The power to admit, worker by worker.
    pub readers: Readers,
}

/// Hands each worker its [`Reader`]. A reader lives on its worker's thread, so it is made there.
#[derive(Clone)]
pub struct Readers {
    shared: Arc<Shared>,
}

impl Readers {
    /// The access of one worker, numbered from 0. Each number is taken once at a time.
    pub fn reader(&self, worker: usize) -> Reader {
        Reader::new(Arc::clone(&self.shared), worker)
    }
}

#[allow(dead_code)]
fn stub(workers: usize) -> Shared {
    Shared { current: Current::new(Arc::new(Snapshot::empty())), barrier: Barrier::new(workers) }
}
