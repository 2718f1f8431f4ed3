//! Seeing a retired tenure out: wait until it is empty, and end what is left when its deadline comes. Streams that their
//! app keeps whatever happens may outlive the deadline, and those it does not keep leave one by one; the tenure is drained
//! when they too have ended.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    policy::{Drain, Streams},
    pool::Tenure,
};

/// How long those that are cut have to be gone where streams are kept; what is left then was not cut but kept.
const CUTTING: Duration = Duration::from_secs(1);

/// How a drain ended.
pub(super) struct Drained {
    /// Requests and tunnels that were ended at the deadline.
    pub(super) cut: u64,
    /// How long it took.
    pub(super) took: Duration,
}

/// Waits on a tenure that was retired; when its time is up, cuts it.
pub(super) async fn drain(tenure: Arc<Tenure>, policy: Drain) -> Drained {
    let began = Instant::now();
    let mut cut = 0;
    if timeout(policy.timeout, tenure.emptied()).await.is_err() {
        cut = tenure.in_flight();
        tenure.cut();
        if policy.streams == Streams::Keep {
            timeout(CUTTING, tenure.emptied()).await.ok();
            cut = cut.saturating_sub(tenure.in_flight());
        }
        tenure.emptied().await;
    }
    Drained { cut, took: began.elapsed() }
}
