//! Seeing a retired tenure out: wait until it is empty, and end what is left when its deadline comes. Streams that their
//! app keeps whatever happens may outlive the deadline; the tenure is drained when they too have ended.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::pool::Tenure;

/// How long those that are cut have to be gone; what is left then was not cut but kept.
const CUTTING: Duration = Duration::from_secs(1);

/// How a drain ended.
pub(super) struct Drained {
    /// Requests and tunnels that were ended at the deadline.
    pub(super) cut: u64,
    /// How long it took.
    pub(super) took: Duration,
}

/// Waits on a tenure that was retired; after `within`, cuts it.
pub(super) async fn drain(tenure: Arc<Tenure>, within: Duration) -> Drained {
    let began = Instant::now();
    let mut cut = 0;
    if timeout(within, tenure.emptied()).await.is_err() {
        let left = tenure.in_flight();
        tenure.cut();
        // What stays beyond this is kept on purpose.
        timeout(CUTTING, tenure.emptied()).await.ok();
        cut = left.saturating_sub(tenure.in_flight());
        tenure.emptied().await;
    }
    Drained { cut, took: began.elapsed() }
}
