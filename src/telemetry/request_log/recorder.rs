//! A worker's place to record requests: it finds the counters a request moves, keeps the records of finished ones for the
//! next, and writes their lines. All of it is the worker's own.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::Hash,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::{
        access_line::Line,
        access_log::{AccessLog, Pen},
        book::Book,
        connections::NotServed,
        mirror::Mirrors,
        series::{Cells, LedgerCells, MethodLabel, Place, Series},
    },
    Head, Outcome, Recent, RequestLog, Words,
};
use crate::switch::{AppName, Role};

/// How long the wall clock is inferred from the other one before it is read again.
const WALL: Duration = Duration::from_secs(1);

/// How many records of finished requests are kept for the next ones.
const SPARE: usize = 64;

/// How many counters a worker may remember beyond twice the series there are.
const KNOWN: usize = 64;

/// A worker's place to record requests: its own counters, its own access-log buffer. Not shared between threads.
pub struct Recorder {
    worker: usize,
    book: Arc<Book>,
    pub(super) unrouted: Rc<Counters>,
    /// By tenure and role. A tenure serves one revision of one app, so this finds the series without looking at names.
    known: RefCell<HashMap<(u64, Role), Rc<Counters>, RandomState>>,
    /// By app: what was admitted nowhere.
    poolless: RefCell<HashMap<AppName, Rc<Counters>, RandomState>>,
    /// By app: what it came to lately. Asked for only where an attempt has failed.
    pub(super) recent: RefCell<HashMap<AppName, Recent, RandomState>>,
    pub(super) started: Instant,
    pen: Option<Pen>,
    /// The wall clock as last read, in milliseconds since 1970. A line's time is inferred from it: one look at a clock
    /// less a request.
    wall: Cell<(Instant, i64)>,
    /// Whether requests that nobody speaks for were cut by us.
    pub(super) cutting: Cell<bool>,
    /// Records to be used again, so that the access log allocates only while traffic grows.
    #[expect(clippy::vec_box, reason = "the boxes themselves go to and fro between here and the records")]
    spare: RefCell<Vec<Box<Words>>>,
}

impl Recorder {
    pub(in crate::telemetry) fn new(worker: usize, book: Arc<Book>, access: Option<&AccessLog>) -> Rc<Self> {
        let unrouted = Rc::new(Counters { worker, series: Arc::clone(book.unrouted()) });
        Rc::new(Self {
            worker,
            book,
            unrouted,
            known: RefCell::default(),
            poolless: RefCell::default(),
            recent: RefCell::default(),
            started: Instant::now(),
            pen: access.map(|access| access.pen(worker)),
            wall: Cell::new((Instant::now(), Timestamp::now().as_millisecond())),
            cutting: Cell::new(false),
            spare: RefCell::default(),
        })
    }

    /// What the mirrors of all apps found.
    pub fn mirrors(&self) -> &Mirrors {
        self.book.mirrors()
    }

    /// Opens the record of a request whose head has just been read.
    pub fn open(self: &Rc<Self>, head: Head<'_>) -> RequestLog {
        RequestLog {
            recorder: Rc::clone(self),
            began: Instant::now(),
            method: MethodLabel::of(head.method),
            status: None,
            attempts: 0,
            received: 0,
            sent: 0,
            outcome: None,
            started_late: false,
            slot: None,
            held: false,
            counters: None,
            words: self.pen.as_ref().map(|_| self.note(&head)),
        }
    }

    /// Counts a connection that was closed before a request of it was accepted.
    pub fn not_served(&self, listener: &str, why: NotServed) {
        self.book.unserved().count(listener, why);
    }

    /// The worker is about to cut what is in flight: a request that nobody speaks for from now on was not left by its
    /// client, but cut by us.
    pub fn cuts_what_is_left(&self) {
        self.cutting.set(true);
    }

    fn note(&self, head: &Head<'_>) -> Box<Words> {
        let mut words = self.spare.borrow_mut().pop().unwrap_or_default();
        words.begin(head);
        words
    }

    pub(super) fn counters(&self, tenure: u64, role: Role, place: impl FnOnce() -> Place) -> Rc<Counters> {
        self.find(&self.known, &(tenure, role), place)
    }

    pub(super) fn poolless(&self, app: &AppName) -> Rc<Counters> {
        self.find(&self.poolless, app, || Place { app: app.clone(), pool: None })
    }

    fn find<K: Clone + Eq + Hash>(
        &self,
        among: &RefCell<HashMap<K, Rc<Counters>, RandomState>>,
        key: &K,
        place: impl FnOnce() -> Place,
    ) -> Rc<Counters> {
        let mut among = among.borrow_mut();
        if let Some(counters) = among.get(key).filter(|counters| !counters.series.is_retired()) {
            return Rc::clone(counters);
        }
        let counters = Rc::new(Counters { worker: self.worker, series: self.book.series(place()) });
        // Once there may be more of tenures that are over than of others, all are let go of: whoever is asked for again
        // comes back at the cost of a lock, and no request goes through thousands of them.
        if among.len() >= KNOWN + 2 * self.book.size() {
            among.clear();
        }
        among.insert(key.clone(), Rc::clone(&counters));
        counters
    }

    /// When a request began, in milliseconds since 1970, that ended just now after it took so long.
    fn began_at(&self, ended: Instant, took: Duration) -> i64 {
        let (mut read, mut wall) = self.wall.get();
        if ended.duration_since(read) > WALL {
            (read, wall) = (ended, Timestamp::now().as_millisecond());
            self.wall.set((read, wall));
        }
        let since = ended.duration_since(read).as_millis() as i64;
        wall.saturating_add(since).saturating_sub_unsigned(took.as_millis() as u64)
    }

    pub(super) fn put_back(&self, words: Box<Words>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE {
            spare.push(words);
        }
    }

    pub(super) fn write(&self, log: &RequestLog, counters: &Counters, took: Duration, ended: (Outcome, &'static str)) {
        let (Some(pen), Some(words)) = (&self.pen, &log.words) else { return };
        let pool = counters.series.pool();
        let (outcome, reason) = ended;
        pen.write(&Line {
            ts: self.began_at(log.began + took, took),
            app: counters.series.app().map(AppName::as_str),
            pool: pool.map(|(role, _)| *role),
            revision: pool.map(|(_, revision)| revision.as_str()),
            generation: words.generation,
            endpoint: words.endpoint.as_ref(),
            method: &words.method,
            host: &words.host,
            path: &words.path,
            proto: words.version,
            status: log.status.map(|status| status.as_u16()),
            bytes_in: log.received,
            bytes_out: log.sent,
            dur: micros(took),
            upstream: words.upstream.map(micros),
            attempts: log.attempts,
            client: words.client,
            request_id: some(&words.request_id),
            trace_id: some(&words.trace_id),
            flags: [
                if outcome == Outcome::Answered { "" } else { outcome.as_str() },
                reason,
                if log.started_late { "late_start" } else { "" },
                if log.held { "held" } else { "" },
            ],
            referer: &words.referer,
            user_agent: &words.user_agent,
        });
    }
}

/// One worker's cells of a series and of its app's ledger.
pub(super) struct Counters {
    worker: usize,
    pub(super) series: Arc<Series>,
}

impl Counters {
    pub(super) fn cells(&self) -> &Cells {
        self.series.cells(self.worker)
    }

    pub(super) fn ledger(&self) -> &LedgerCells {
        self.series.ledger().cells(self.worker)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{enter, open, place, recorder},
        *,
    };

    #[test]
    fn a_revision_that_comes_back_keeps_its_series_and_flips_to_and_fro_fill_no_memory() {
        let book = Arc::new(Book::new(1));
        let recorder = recorder(&book);
        for tenure in 0..1000 {
            enter(&mut open(&recorder), tenure, "blue");
        }
        assert_eq!(book.series(place("blue")).answers()[&("GET", None)], 1000);
        let known = recorder.known.borrow().len();
        assert!(known <= KNOWN + 2, "{known}");
    }
}
