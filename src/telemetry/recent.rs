//! What an app's requests and retries came to lately, on one worker: what a retry budget is a share of. Nothing is done for
//! it as requests come and go; it is brought up to date when it is asked for, which is when an attempt has failed.

use std::time::Duration;

use tokio::time::Instant;

/// How far back "lately" goes.
const LATELY: Duration = Duration::from_secs(10);

/// Counts of about the last `LATELY`: what lies back fades out evenly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recent {
    /// Requests that began.
    pub requests: f64,
    /// Retries that were granted.
    pub retries: f64,
    /// When it was last asked for, and how many requests had begun by then since the start.
    asked: Instant,
    begun: u64,
}

impl Recent {
    pub(super) fn since(start: Instant) -> Self {
        Self { requests: 0.0, retries: 0.0, asked: start, begun: 0 }
    }

    /// Brings it up to date. `begun` is how many requests have begun since the start.
    pub(super) fn renew(&mut self, now: Instant, begun: u64) {
        let passed = now.duration_since(self.asked).as_secs_f64() / LATELY.as_secs_f64();
        let more = begun.wrapping_sub(self.begun) as f64;
        let left = (1.0 - passed).max(0.0);
        // Of those that came over a longer time, the share that falls into the last while.
        self.requests = self.requests * left + more / passed.max(1.0);
        self.retries *= left;
        (self.asked, self.begun) = (now, begun);
    }

    pub(super) fn retried(&mut self) {
        self.retries += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_back_fades_out() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::since(start);
        recent.renew(at(1), 100);
        assert_eq!(recent.requests, 100.0);
        recent.retried();
        recent.renew(at(6), 100);
        assert_eq!((recent.requests, recent.retries), (50.0, 0.5));
        // A hundred seconds at ten a second.
        recent.renew(at(106), 1100);
        assert_eq!((recent.requests, recent.retries), (100.0, 0.0));
        recent.renew(at(1000), 1100);
        assert_eq!(recent.requests, 0.0);
    }

    #[test]
    fn steady_traffic_is_seen_as_what_it_is_however_often_one_asks() {
        let start = Instant::now();
        for every in [1, 100, 5_000, 10_000] {
            let mut recent = Recent::since(start);
            for step in 1..=60_000 / every {
                recent.renew(start + Duration::from_millis(step * every), step * every / 10 * 10);
            }
            // A thousand a second.
            assert!((5_000.0..=15_000.0).contains(&recent.requests), "asked every {every} ms: {}", recent.requests);
        }
    }
}
