//! What flips do, counted from the switch's events: rare, so plain metrics of the `prometheus` crate serve.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, Opts,
    core::{Collector, MetricVec, MetricVecBuilder},
    exponential_buckets,
};

use super::{
    metrics::{FLIP_BARRIER, FLIP_DRAIN, FLIPS, Family},
    sheet::Sheet,
};
use crate::switch::{Action, Board, Event, Happening, Receipt};

const DONE: &str = "done";
const REFUSED: &str = "refused";

/// What can come of what; each is there, at zero, from an app's first day.
const RESULTS: [(Action, &str); 5] = [
    (Action::Promote, DONE),
    (Action::Promote, REFUSED),
    (Action::Rollback, DONE),
    (Action::Rollback, REFUSED),
    (Action::Source, DONE),
];

pub(super) struct Flips {
    flips: IntCounterVec,
    barrier: HistogramVec,
    drain: HistogramVec,
}

impl Flips {
    pub(super) fn new() -> Self {
        const VALID: &str = "names, labels and buckets are valid";
        let histogram = |family: &Family, first, factor, count| {
            let buckets = exponential_buckets(first, factor, count).expect(VALID);
            let opts = HistogramOpts::new(family.name, family.help).buckets(buckets);
            HistogramVec::new(opts, family.labels).expect(VALID)
        };
        Self {
            flips: IntCounterVec::new(Opts::new(FLIPS.name, FLIPS.help), FLIPS.labels).expect(VALID),
            // 10 us to 2.6 s
            barrier: histogram(&FLIP_BARRIER, 0.000_01, 4.0, 10),
            // 10 ms to 44 min
            drain: histogram(&FLIP_DRAIN, 0.01, 4.0, 10),
        }
    }

    pub(super) fn count(&self, event: &Event) {
        let app = event.app.as_str();
        match &event.what {
            Happening::Acted { receipt } if is_flip(receipt) => {
                self.flips.with_label_values(&[app, receipt.action.as_str(), DONE]).inc();
                let barrier = receipt.barrier_micros as f64 / 1_000_000.0;
                self.barrier.with_label_values(&[app]).observe(barrier);
            }
            Happening::Refused { action: action @ (Action::Promote | Action::Rollback), .. } => {
                self.flips.with_label_values(&[app, action.as_str(), REFUSED]).inc();
            }
            Happening::Drained { seconds, .. } => self.drain.with_label_values(&[app]).observe(*seconds),
            Happening::Added => self.begin(app),
            Happening::Removed => self.forget(app),
            Happening::Acted { .. }
            | Happening::Refused { .. }
            | Happening::Changed { .. }
            | Happening::Invited { .. } => {}
        }
    }

    /// Makes sure that all apps on the board have their series, where events were missed.
    pub(super) fn begin_all(&self, board: &Board) {
        board.apps.keys().for_each(|app| self.begin(app.as_str()));
    }

    fn begin(&self, app: &str) {
        for (action, result) in RESULTS {
            self.flips.with_label_values(&[app, action.as_str(), result]);
        }
        self.barrier.with_label_values(&[app]);
        self.drain.with_label_values(&[app]);
    }

    fn forget(&self, app: &str) {
        for (action, result) in RESULTS {
            remove(&self.flips, &[app, action.as_str(), result]);
        }
        remove(&self.barrier, &[app]);
        remove(&self.drain, &[app]);
    }

    pub(super) fn put(&self, sheet: &mut Sheet) {
        let metrics = [
            (&FLIPS, self.flips.collect()),
            (&FLIP_BARRIER, self.barrier.collect()),
            (&FLIP_DRAIN, self.drain.collect()),
        ];
        for (family, values) in metrics {
            values.into_iter().for_each(|values| sheet.family(family, values));
        }
    }
}

fn is_flip(receipt: &Receipt) -> bool {
    match receipt.action {
        Action::Promote | Action::Rollback => true,
        Action::Source => receipt.from.is_some() && receipt.from != receipt.to,
        Action::Deploy
        | Action::Discard
        | Action::Abort
        | Action::Smoke
        | Action::Weight
        | Action::Pin
        | Action::Unpin
        | Action::Hold
        | Action::Resume
        | Action::Maintenance
        | Action::Reopen
        | Action::Retry
        | Action::Reject
        | Action::Pause
        | Action::Unpause
        | Action::Keep => false,
    }
}

fn remove<T: MetricVecBuilder>(metrics: &MetricVec<T>, labels: &[&str]) {
    // An error says only that it was not there.
    metrics.remove_label_values(labels).ok();
}
