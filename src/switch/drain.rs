//! Seeing a retired tenure out: wait until it is empty, and end what is left when its deadline comes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::pool::Tenure;

/// How a drain ended.
pub(super) struct Drained {
    /// Requests and tunnels that were told to end at the deadline.
    pub(super) cut: u64,
    /// How long it took.
    pub(super) took: Duration,
}

/// Waits on a tenure that was retired; after `within`, cuts it.
pub(super) async fn drain(tenure: Arc<Tenure>, within: Duration) -> Drained {
    let began = Instant::now();
    let cut = match tokio::time::timeout(within, tenure.emptied()).await {
        Ok(()) => 0,
        Err(_) => {
            let left = tenure.in_flight();
            tenure.cut();
            left
        }
    };
    Drained { cut, took: began.elapsed() }
}
