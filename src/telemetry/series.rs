//! The cells that requests move. Each worker has its own, a cache line away from the next worker's, and is the only one
//! to write them: a relaxed load and a relaxed store, no locked instruction. A scrape sums them over the workers, so its
//! figures are a moment's picture while requests run and exact once they have ended.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::CachePadded;
use http::{Method, StatusCode};

use super::request_log::Outcome;
use crate::switch::{AppName, Revision, Role};

/// What the requests of one place add up to.
pub(super) struct Series {
    /// What it counts; `None` for requests that no app was found for.
    place: Option<Place>,
    ledger: Arc<Ledger>,
    workers: PerWorker<Cells>,
    retired: AtomicBool,
}

/// What tells one series from another: an app, and one of its revisions in one role. Without a pool: what was for the
/// app, and was admitted nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) app: AppName,
    pub(super) pool: Option<(Role, Revision)>,
}

impl Series {
    pub(super) fn new(place: Option<Place>, ledger: Arc<Ledger>, workers: usize) -> Self {
        Self { place, ledger, workers: per_worker(workers), retired: AtomicBool::new(false) }
    }

    pub(super) fn app(&self) -> Option<&AppName> {
        self.place.as_ref().map(|place| &place.app)
    }

    pub(super) fn pool(&self) -> Option<&(Role, Revision)> {
        self.place.as_ref().and_then(|place| place.pool.as_ref())
    }

    /// The values of the labels `app`, `pool` and `revision`.
    pub(super) fn labels(&self) -> [&str; 3] {
        let app = self.place.as_ref().map_or("", |place| place.app.as_str());
        let [pool, revision] = self.pool().map_or([""; 2], |(role, revision)| [role.as_str(), revision.as_str()]);
        [app, pool, revision]
    }

    pub(super) fn cells(&self, worker: usize) -> &Cells {
        &self.workers[worker]
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes it out of use: a worker that meets it again asks for a new one.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> u64 {
        // A request ends on the worker it began on, so no worker's cell is ever below zero.
        sum(&self.workers, |cells| &cells.in_flight)
    }

    /// Finished requests by method and status; `None` where no head of an answer was ever known.
    pub(super) fn answers(&self) -> BTreeMap<(&'static str, Option<u16>), u64> {
        let mut answers = BTreeMap::new();
        for cells in &self.workers {
            for (method, row) in METHODS.iter().zip(&cells.methods) {
                row.each(|code, count| *answers.entry((*method, code)).or_default() += count);
            }
        }
        answers
    }

    pub(super) fn durations(&self) -> Durations {
        let mut durations = Durations { counts: [0; BUCKETS], total: Duration::ZERO };
        for cells in &self.workers {
            for (count, cell) in durations.counts.iter_mut().zip(&cells.durations) {
                *count += read(cell);
            }
            durations.total += Duration::from_nanos(read(&cells.nanos));
        }
        durations
    }

    pub(super) fn upstream_errors(&self) -> BTreeMap<&'static str, u64> {
        Tally::sum(self.workers.iter().map(|cells| &cells.upstream_errors))
    }
}

/// What the requests of one app, whatever pool they went to, add up to. It outlives the series of its revisions, so
/// that each accepted request stays in exactly one bucket (G8).
pub(super) struct Ledger {
    workers: PerWorker<LedgerCells>,
}

impl Ledger {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers: per_worker(workers) }
    }

    pub(super) fn cells(&self, worker: usize) -> &LedgerCells {
        &self.workers[worker]
    }

    pub(super) fn ended(&self, outcome: Outcome) -> u64 {
        sum(&self.workers, |cells| &cells.outcomes[outcome as usize])
    }

    pub(super) fn retries(&self) -> u64 {
        sum(&self.workers, |cells| &cells.retries)
    }

    pub(super) fn retries_denied(&self) -> u64 {
        sum(&self.workers, |cells| &cells.retries_denied)
    }

    pub(super) fn late_starts(&self) -> u64 {
        sum(&self.workers, |cells| &cells.late_starts)
    }

    pub(super) fn refused_by_reason(&self) -> BTreeMap<&'static str, u64> {
        Tally::sum(self.workers.iter().map(|cells| &cells.refused))
    }

    pub(super) fn lost_by_reason(&self) -> BTreeMap<&'static str, u64> {
        Tally::sum(self.workers.iter().map(|cells| &cells.lost))
    }
}

/// One worker's part of a [`Series`].
#[derive(Default)]
pub(super) struct Cells {
    in_flight: AtomicU64,
    nanos: AtomicU64,
    durations: [AtomicU64; BUCKETS],
    methods: [Statuses; METHODS.len()],
    upstream_errors: Tally,
}

impl Cells {
    pub(super) fn enter(&self) {
        add(&self.in_flight, 1);
    }

    pub(super) fn leave(&self) {
        add(&self.in_flight, u64::MAX);
    }

    pub(super) fn finished(&self, method: MethodLabel, status: Option<StatusCode>, took: Duration) {
        self.methods[method.0].count(status);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        add(&self.durations[BOUNDS.partition_point(|bound| *bound < nanos)], 1);
        add(&self.nanos, nanos);
    }

    pub(super) fn upstream_error(&self, reason: &'static str) {
        self.upstream_errors.count(reason);
    }
}

/// One worker's part of a [`Ledger`].
#[derive(Default)]
pub(super) struct LedgerCells {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    begun: AtomicU64,
    retries: AtomicU64,
    retries_denied: AtomicU64,
    late_starts: AtomicU64,
    lost: Tally,
    refused: Tally,
}

impl LedgerCells {
    pub(super) fn ended(&self, outcome: Outcome) {
        add(&self.outcomes[outcome as usize], 1);
    }

    pub(super) fn lost(&self, reason: &'static str) {
        self.lost.count(reason);
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.count(reason);
    }

    /// Counts a request that was let in for the first time.
    pub(super) fn began(&self) {
        add(&self.begun, 1);
    }

    pub(super) fn begun(&self) -> u64 {
        read(&self.begun)
    }

    pub(super) fn retry_denied(&self) {
        add(&self.retries_denied, 1);
    }

    pub(super) fn retried(&self) {
        add(&self.retries, 1);
    }

    pub(super) fn started_late(&self) {
        add(&self.late_starts, 1);
    }
}

/// A method as a label: one of [`METHODS`].
#[derive(Clone, Copy)]
pub(super) struct MethodLabel(usize);

/// The values of the label `method`.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "OTHER"];

impl MethodLabel {
    pub(super) fn of(method: &Method) -> Self {
        Self(match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::PATCH => 4,
            Method::DELETE => 5,
            Method::OPTIONS => 6,
            Method::CONNECT => 7,
            Method::TRACE => 8,
            _ => 9,
        })
    }
}

/// Requests of one method by status. Most classes of status are never seen, so each is made when it first is.
#[derive(Default)]
struct Statuses {
    classes: [OnceLock<Box<CachePadded<[AtomicU64; 100]>>>; 5],
    /// Ended before the head of an answer was known.
    none: AtomicU64,
    /// Statuses from 600 on, which mean nothing in HTTP.
    odd: AtomicU64,
}

impl Statuses {
    const ODD: u16 = 600;

    fn count(&self, status: Option<StatusCode>) {
        let Some(status) = status else { return add(&self.none, 1) };
        let code = usize::from(status.as_u16());
        match self.classes.get((code / 100).wrapping_sub(1)) {
            Some(class) => {
                let class = class.get_or_init(|| Box::new(CachePadded::new([const { AtomicU64::new(0) }; 100])));
                add(&class[code % 100], 1);
            }
            None => add(&self.odd, 1),
        }
    }

    fn each(&self, mut seen: impl FnMut(Option<u16>, u64)) {
        let mut seen = |code, cell| match read(cell) {
            0 => {}
            count => seen(code, count),
        };
        seen(None, &self.none);
        for (class, base) in self.classes.iter().zip((100..).step_by(100)) {
            for (cell, code) in class.get().into_iter().flat_map(|class| class.iter()).zip(base..) {
                seen(Some(code), cell);
            }
        }
        seen(Some(Self::ODD), &self.odd);
    }
}

/// The upper bounds of the duration buckets, in nanoseconds: 0.5 ms to 60 s.
const BOUNDS: [u64; 16] = {
    const MICROS: u64 = 1_000;
    const MILLIS: u64 = 1_000 * MICROS;
    [
        500 * MICROS,
        MILLIS,
        2_500 * MICROS,
        5 * MILLIS,
        10 * MILLIS,
        25 * MILLIS,
        50 * MILLIS,
        100 * MILLIS,
        250 * MILLIS,
        500 * MILLIS,
        1_000 * MILLIS,
        2_500 * MILLIS,
        5_000 * MILLIS,
        10_000 * MILLIS,
        30_000 * MILLIS,
        60_000 * MILLIS,
    ]
};

/// The last bucket has no bound.
const BUCKETS: usize = BOUNDS.len() + 1;

/// How long the requests of a series took.
pub(super) struct Durations {
    counts: [u64; BUCKETS],
    pub(super) total: Duration,
}

impl Durations {
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bound in seconds, with how many requests took no longer.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut below = 0;
        BOUNDS.iter().zip(&self.counts).map(move |(bound, count)| {
            below += count;
            (Duration::from_nanos(*bound).as_secs_f64(), below)
        })
    }
}

/// Counts by a reason from a closed set, which the callers keep. The set's size is bounded here all the same: what does
/// not fit is counted together.
#[derive(Default)]
struct Tally {
    reasons: [(OnceLock<&'static str>, AtomicU64); 24],
    rest: AtomicU64,
}

impl Tally {
    const OTHER: &'static str = "other";

    fn count(&self, reason: &'static str) {
        let reason = if reason.is_empty() { Self::OTHER } else { reason };
        let same = self.reasons.iter().find(|(name, _)| *name.get_or_init(|| reason) == reason);
        add(same.map_or(&self.rest, |(_, count)| count), 1);
    }

    fn sum<'a>(tallies: impl Iterator<Item = &'a Self>) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for tally in tallies {
            let named = tally.reasons.iter().filter_map(|(name, count)| Some((*name.get()?, read(count))));
            let rest = Some((Self::OTHER, read(&tally.rest))).filter(|(_, count)| *count > 0);
            for (reason, count) in named.chain(rest) {
                *sums.entry(reason).or_default() += count;
            }
        }
        sums
    }
}

type PerWorker<T> = Box<[CachePadded<T>]>;

fn per_worker<T: Default>(workers: usize) -> PerWorker<T> {
    (0..workers).map(|_| CachePadded::default()).collect()
}

/// Adds, as the only writer of this cell.
fn add(cell: &AtomicU64, by: u64) {
    cell.store(read(cell).wrapping_add(by), Ordering::Relaxed);
}

fn read(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

fn sum<T>(workers: &PerWorker<T>, cell: impl Fn(&T) -> &AtomicU64) -> u64 {
    workers.iter().map(|cells| read(cell(cells))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(workers: usize) -> Series {
        Series::new(None, Arc::new(Ledger::new(workers)), workers)
    }

    fn status(code: u16) -> Option<StatusCode> {
        StatusCode::from_u16(code).ok()
    }

    #[test]
    fn every_status_is_counted_under_its_own_code_over_all_workers() {
        let series = series(2);
        let get = MethodLabel::of(&Method::GET);
        for (worker, code) in [(0, 100), (0, 200), (1, 200), (1, 299), (0, 599), (1, 600), (0, 999)] {
            series.cells(worker).finished(get, status(code), Duration::ZERO);
        }
        series.cells(0).finished(MethodLabel::of(&Method::from_bytes(b"BREW").unwrap()), None, Duration::ZERO);
        let expected = [
            (("GET", Some(100)), 1),
            (("GET", Some(200)), 2),
            (("GET", Some(299)), 1),
            (("GET", Some(599)), 1),
            (("GET", Some(600)), 2),
            (("OTHER", None), 1),
        ];
        assert_eq!(series.answers(), BTreeMap::from(expected));
        assert_eq!(series.durations().count(), 8);
    }

    #[test]
    fn every_method_of_the_closed_set_keeps_its_name() {
        for name in &METHODS[..METHODS.len() - 1] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(METHODS[MethodLabel::of(&method).0], *name);
        }
    }

    #[test]
    fn a_bucket_holds_what_took_no_longer_than_its_bound() {
        let series = series(1);
        let get = MethodLabel::of(&Method::GET);
        for nanos in [0, 500_000, 500_001, 60_000_000_000, 60_000_000_001] {
            series.cells(0).finished(get, None, Duration::from_nanos(nanos));
        }
        let durations = series.durations();
        let cumulative: Vec<_> = durations.cumulative().collect();
        assert_eq!(cumulative[0], (0.0005, 2));
        assert_eq!(cumulative[1], (0.001, 3));
        assert_eq!(cumulative[15], (60.0, 4));
        assert_eq!(durations.count(), 5);
        assert_eq!(durations.total, Duration::from_nanos(120_001_000_002));
    }

    #[test]
    fn in_flight_returns_to_zero() {
        let series = series(2);
        series.cells(0).enter();
        series.cells(1).enter();
        assert_eq!(series.in_flight(), 2);
        series.cells(0).leave();
        series.cells(1).leave();
        assert_eq!(series.in_flight(), 0);
    }

    #[test]
    fn reasons_beyond_the_bound_are_counted_together() {
        const MANY: [&str; 28] = [
            "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u",
            "v", "w", "x", "y", "z", "å", "ö",
        ];
        let tally = Tally::default();
        for reason in MANY.iter().chain(&["a", ""]) {
            tally.count(reason);
        }
        let sums = Tally::sum([&tally].into_iter());
        assert_eq!((sums["a"], sums["x"], sums["other"], sums.get("y")), (2, 1, 5, None));
    }
}
