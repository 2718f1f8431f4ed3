//! One guard per request: it knows how the request went, and says so once, when it is dropped — to the worker's counters
//! (the ledger) and to the access log. Without an access log a request costs a few loads and stores of the worker's own
//! cells and two looks at the clock: no lock, no allocation, no cache line of somebody else's. `recorder` is the
//! worker's side of it.

mod recorder;

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Method, StatusCode, Version};
use tokio::time::Instant;

use self::recorder::Counters;
pub use self::recorder::Recorder;
pub use super::recent::Recent;
use super::series::{MethodLabel, Place};
use crate::switch::{Address, AppName, Capacity, Role, Slot, Ticket};

/// What is known of a request when its head has been read.
pub struct Head<'a> {
    /// The method, as received.
    pub method: &'a Method,
    /// The host, in lower case, without port.
    pub host: &'a str,
    /// The path with its query.
    pub path: &'a str,
    /// The protocol version.
    pub version: Version,
    /// The client's address, if it has one.
    pub client: Option<IpAddr>,
}

/// How a request ended: each accepted request ends in exactly one of these (G8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The whole answer, of an upstream or where the proxy speaks for itself, was handed to the client's connection.
    Answered,
    /// The client went away first.
    ClientGone,
    /// No answer began: connect, timeout, reset before the first byte.
    UpstreamFailedBefore,
    /// The answer broke off.
    UpstreamFailedAfter,
    /// We refused it: unknown host, limit, bad request, preview not allowed, nothing to send it to.
    Refused,
}

impl Outcome {
    /// All of them, in the order of their declaration.
    pub(super) const ALL: [Self; 5] =
        [Self::Answered, Self::ClientGone, Self::UpstreamFailedBefore, Self::UpstreamFailedAfter, Self::Refused];

    /// The outcome as it stands in labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::ClientGone => "client_gone",
            Self::UpstreamFailedBefore => "upstream_failed_before",
            Self::UpstreamFailedAfter => "upstream_failed_after",
            Self::Refused => "refused",
        }
    }
}

/// One request's record. If nobody says how the request ended, the client went away, or the worker cut it
/// ([`Recorder::cuts_what_is_left`]).
pub struct RequestLog {
    recorder: Rc<Recorder>,
    began: Instant,
    method: MethodLabel,
    status: Option<StatusCode>,
    attempts: u32,
    received: u64,
    sent: u64,
    outcome: Option<(Outcome, &'static str)>,
    started_late: bool,
    /// Its place among the app's requests in flight, where their number is limited. It is given up when the request ends.
    slot: Option<Slot>,
    /// It waited at the door while requests were held.
    held: bool,
    /// Of the pool it was last admitted to.
    counters: Option<Rc<Counters>>,
    /// What only the access log wants to know.
    words: Option<Box<Words>>,
}

impl RequestLog {
    /// When it began: its head had just been read.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// It was admitted: to this app, pool, revision and endpoint. Called again on a retry; counts the attempts.
    pub fn admitted(&mut self, ticket: &Ticket) {
        let at_once = self.counters.is_none();
        self.entered(ticket.tenure().id(), ticket.role(), || Place {
            app: ticket.app().clone(),
            pool: Some((ticket.role(), ticket.revision().clone())),
        });
        if let Some(words) = &mut self.words {
            words.generation = Some(ticket.generation().0);
            words.endpoint = Some(ticket.endpoint().address().clone());
            // The first admission mostly follows the head at once; the clock need not be asked for it.
            words.admitted = Some(if at_once { self.began } else { Instant::now() });
            words.upstream = None;
        }
    }

    fn entered(&mut self, tenure: u64, role: Role, place: impl FnOnce() -> Place) {
        let counters = self.recorder.counters(tenure, role, place);
        self.attempts += 1;
        match self.attempts {
            1 => counters.ledger().began(),
            _ => counters.ledger().retried(),
        }
        counters.cells().enter();
        if let Some(before) = self.counters.replace(counters) {
            before.cells().leave();
        }
    }

    /// It was for this app, and no pool has admitted it, or not yet. Says nothing new of a request that one has.
    pub fn turned_away(&mut self, app: &AppName) {
        if self.counters.is_none() {
            let counters = self.recorder.poolless(app);
            counters.cells().enter();
            self.counters = Some(counters);
        }
    }

    /// It waits while requests of this app are held.
    pub fn held(&mut self, app: &AppName) {
        self.turned_away(app);
        self.held = true;
    }

    /// Whether no pool has admitted it so far.
    pub fn is_new(&self) -> bool {
        self.attempts == 0
    }

    /// Keeps its place among the app's requests in flight until it ends.
    pub fn keep(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// Whether it has one of these places.
    pub fn has_place_of(&self, capacity: &Arc<Capacity>) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.is_of(capacity))
    }

    /// What its app's requests came to lately, on this worker. `retries` are those that were granted
    /// ([`Self::retry_granted`]).
    pub fn recent(&self) -> Option<Recent> {
        let counters = self.counters.as_ref()?;
        let app = counters.series.app()?;
        let mut recent = self.recorder.recent.borrow_mut();
        let recent = match recent.get_mut(app) {
            Some(recent) => recent,
            None => recent.entry(app.clone()).or_insert_with(|| Recent::since(self.recorder.started)),
        };
        recent.renew(Instant::now(), counters.ledger().begun());
        Some(*recent)
    }

    /// It may be tried once more.
    pub fn retry_granted(&mut self) {
        let app = self.current().series.app();
        let mut recent = self.recorder.recent.borrow_mut();
        app.and_then(|app| recent.get_mut(app)).into_iter().for_each(Recent::retried);
    }

    /// It is not tried once more, for that would be over the budget: `retries_denied_total`.
    pub fn retry_denied(&mut self) {
        self.current().ledger().retry_denied();
    }

    /// An attempt failed on its endpoint for this reason (`connect`, `connect_timeout`, `reset`, `timeout`, `protocol`, …):
    /// `upstream_errors_total`.
    pub fn attempt_failed(&mut self, reason: &'static str) {
        self.current().cells().upstream_error(reason);
    }

    /// It started on a tenure after the flip that ended it was acknowledged (G2 says never): `flip_late_starts_total`.
    pub fn late_start(&mut self) {
        self.started_late = true;
        self.current().ledger().started_late();
    }

    /// The request ID and trace ID it carries.
    pub fn identified(&mut self, request_id: &str, trace_id: Option<&str>) {
        if let Some(words) = &mut self.words {
            refill(&mut words.request_id, request_id);
            refill(&mut words.trace_id, trace_id.unwrap_or_default());
        }
    }

    /// Its query is nobody's to read: the line in the access log goes without.
    pub fn keeps_query_to_itself(&mut self) {
        if let Some(words) = &mut self.words
            && let Some(query) = words.path.find('?')
        {
            words.path.truncate(query);
        }
    }

    /// Whether it will have a line in the access log: if not, nobody need gather words for it.
    pub fn is_written(&self) -> bool {
        self.words.is_some()
    }

    /// What the client says of itself, for the combined form: the values of `User-Agent` and `Referer`.
    pub fn described(&mut self, user_agent: Option<&[u8]>, referer: Option<&[u8]>) {
        if let Some(words) = &mut self.words {
            words.user_agent.clear();
            words.user_agent.extend_from_slice(user_agent.unwrap_or_default());
            words.referer.clear();
            words.referer.extend_from_slice(referer.unwrap_or_default());
        }
    }

    /// The head of the answer is known. For an answer of an upstream this is also where `upstream_ms` ends.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        if let Some(words) = &mut self.words {
            words.upstream = words.admitted.map(|admitted| admitted.elapsed());
        }
    }

    /// Octets of the request's body that came in.
    pub fn received(&mut self, octets: u64) {
        self.received += octets;
    }

    /// Octets of the answer's body that went out.
    pub fn sent(&mut self, octets: u64) {
        self.sent += octets;
    }

    /// How it ended, with a short reason from a closed set where something went wrong (empty otherwise). The first word
    /// counts; later calls change nothing.
    pub fn ended(&mut self, outcome: Outcome, reason: &'static str) {
        self.outcome.get_or_insert((outcome, reason));
    }

    /// Whether a client that waited, and was not at fault, did not get its answer.
    fn is_loss(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::UpstreamFailedBefore | Outcome::UpstreamFailedAfter => true,
            Outcome::Refused => self.status.is_some_and(|status| status.is_server_error()),
            Outcome::Answered | Outcome::ClientGone => false,
        }
    }

    /// How it ended.
    fn outcome(&self) -> (Outcome, &'static str) {
        self.outcome.unwrap_or(match (self.recorder.cutting.get(), self.status) {
            (false, _) => (Outcome::ClientGone, ""),
            (true, None) => (Outcome::UpstreamFailedBefore, "drained"),
            (true, Some(_)) => (Outcome::UpstreamFailedAfter, "drained"),
        })
    }

    fn current(&self) -> &Counters {
        self.counters.as_ref().unwrap_or(&self.recorder.unrouted)
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let ended @ (outcome, reason) = self.outcome();
        let counters = self.current();
        counters.cells().finished(self.method, self.status, took);
        counters.ledger().ended(outcome);
        if self.is_loss(outcome) {
            counters.ledger().lost(reason);
        }
        if outcome == Outcome::Refused {
            counters.ledger().refused(reason);
        }
        if self.counters.is_some() {
            counters.cells().leave();
        }
        self.recorder.write(self, counters, took, ended);
        if let Some(words) = self.words.take() {
            self.recorder.put_back(words);
        }
    }
}

/// What is kept of a request for its line in the access log.
#[derive(Default)]
struct Words {
    method: Method,
    host: String,
    path: String,
    version: Version,
    client: Option<IpAddr>,
    request_id: String,
    trace_id: String,
    user_agent: Vec<u8>,
    referer: Vec<u8>,
    generation: Option<u64>,
    endpoint: Option<Address>,
    admitted: Option<Instant>,
    upstream: Option<Duration>,
}

impl Words {
    /// Begins anew, in the room the last request's texts took.
    fn begin(&mut self, head: &Head<'_>) {
        self.method.clone_from(head.method);
        self.version = head.version;
        self.client = head.client;
        refill(&mut self.host, head.host);
        refill(&mut self.path, head.path);
        self.request_id.clear();
        self.trace_id.clear();
        self.user_agent.clear();
        self.referer.clear();
        (self.generation, self.endpoint, self.admitted, self.upstream) = (None, None, None, None);
    }
}

fn refill(room: &mut String, text: &str) {
    room.clear();
    room.push_str(text);
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

    use serde_json::json;

    use super::*;
    use crate::telemetry::{AccessFormat, access_log::AccessLog, book::Book};

    pub(super) fn recorder(book: &Arc<Book>) -> Rc<Recorder> {
        Recorder::new(0, Arc::clone(book), None)
    }

    pub(super) fn open(recorder: &Rc<Recorder>) -> RequestLog {
        let client = Some(IpAddr::from([192, 0, 2, 7]));
        recorder.open(Head { method: &Method::GET, host: "shop.test", path: "/a", version: Version::HTTP_11, client })
    }

    pub(super) fn place(revision: &str) -> Place {
        Place { app: "shop".parse().unwrap(), pool: Some((Role::Active, revision.parse().unwrap())) }
    }

    pub(super) fn enter(log: &mut RequestLog, tenure: u64, revision: &str) {
        log.entered(tenure, Role::Active, || place(revision));
    }

    /// The shop's counts by outcome.
    fn shop(book: &Book) -> Vec<(Outcome, u64)> {
        let counts =
            |ledger: &super::super::series::Ledger| Outcome::ALL.map(|outcome| (outcome, ledger.ended(outcome)));
        let mut found = Vec::new();
        book.visit_ledgers(|app, ledger| {
            if app.is_some() {
                found = counts(ledger).into_iter().filter(|(_, count)| *count > 0).collect();
            }
        });
        found
    }

    #[test]
    fn a_request_nobody_speaks_for_was_left_by_its_client() {
        let book = Arc::new(Book::new(1));
        let recorder = recorder(&book);
        let mut log = open(&recorder);
        enter(&mut log, 1, "blue");
        assert_eq!(book.series(place("blue")).in_flight(), 1);
        drop(log);
        assert_eq!(shop(&book), [(Outcome::ClientGone, 1)]);
        assert_eq!(book.series(place("blue")).in_flight(), 0);
        assert_eq!(book.series(place("blue")).answers()[&("GET", None)], 1);
    }

    #[test]
    fn a_request_that_a_shutdown_cuts_was_not_left_by_its_client() {
        let book = Arc::new(Book::new(1));
        let recorder = recorder(&book);
        let [mut waiting, mut answered, mut whole] = [(); 3].map(|()| open(&recorder));
        for log in [&mut waiting, &mut answered, &mut whole] {
            enter(log, 1, "blue");
        }
        answered.answered(StatusCode::OK);
        whole.answered(StatusCode::OK);
        whole.ended(Outcome::Answered, "");
        recorder.cuts_what_is_left();
        drop((waiting, answered, whole));
        let expected = [Outcome::Answered, Outcome::UpstreamFailedBefore, Outcome::UpstreamFailedAfter]
            .map(|outcome| (outcome, 1));
        assert_eq!(shop(&book), expected);
        assert_eq!(book.series(place("blue")).ledger().lost_by_reason(), [("drained", 2)].into());
    }

    #[test]
    fn the_first_word_on_how_it_ended_counts() {
        let book = Arc::new(Book::new(1));
        let recorder = recorder(&book);
        let mut log = open(&recorder);
        enter(&mut log, 1, "blue");
        log.ended(Outcome::UpstreamFailedAfter, "reset");
        log.ended(Outcome::Answered, "");
        drop(log);
        assert_eq!(shop(&book), [(Outcome::UpstreamFailedAfter, 1)]);
        assert_eq!(book.series(place("blue")).ledger().lost_by_reason()["reset"], 1);
    }

    #[test]
    fn a_retry_on_another_pool_is_in_flight_and_counted_there_alone() {
        let book = Arc::new(Book::new(1));
        let recorder = recorder(&book);
        let mut log = open(&recorder);
        enter(&mut log, 1, "blue");
        log.attempt_failed("connect");
        enter(&mut log, 2, "green");
        let (blue, green) = (book.series(place("blue")), book.series(place("green")));
        assert_eq!((blue.in_flight(), green.in_flight()), (0, 1));
        log.answered(StatusCode::OK);
        log.ended(Outcome::Answered, "");
        drop(log);
        assert_eq!(blue.upstream_errors()["connect"], 1);
        assert!(blue.answers().is_empty());
        assert_eq!(green.answers()[&("GET", Some(200))], 1);
        assert_eq!(green.ledger().retries(), 1);
        assert_eq!(shop(&book), [(Outcome::Answered, 1)]);
    }

    #[test]
    fn a_request_without_an_app_is_counted_under_none() {
        let book = Arc::new(Book::new(1));
        let recorder = recorder(&book);
        let mut log = open(&recorder);
        log.answered(StatusCode::MISDIRECTED_REQUEST);
        log.ended(Outcome::Refused, "unknown_host");
        drop(log);
        assert_eq!(book.unrouted().answers()[&("GET", Some(421))], 1);
        assert_eq!(book.unrouted().ledger().ended(Outcome::Refused), 1);
        assert_eq!(shop(&book), []);
    }

    #[test]
    fn a_request_no_pool_admitted_is_counted_under_its_app_and_lost_only_where_we_are_at_fault() {
        let book = Arc::new(Book::new(1));
        let recorder = recorder(&book);
        for (status, reason) in
            [(StatusCode::FORBIDDEN, "preview_forbidden"), (StatusCode::SERVICE_UNAVAILABLE, "no_endpoint")]
        {
            let mut log = open(&recorder);
            log.turned_away(&"shop".parse().unwrap());
            log.answered(status);
            log.ended(Outcome::Refused, reason);
        }
        assert_eq!(shop(&book), [(Outcome::Refused, 2)]);
        let series = book.series(Place { app: "shop".parse().unwrap(), pool: None });
        assert_eq!(series.answers().len(), 2);
        assert_eq!(series.ledger().lost_by_reason(), [("no_endpoint", 1)].into());
        assert_eq!(series.in_flight(), 0);
    }

    #[test]
    fn a_line_says_what_became_of_the_request() {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Kept {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(octets);
                Ok(octets.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (book, kept) = (Arc::new(Book::new(1)), Kept::default());
        let access = AccessLog::start(AccessFormat::Json, 1, Box::new(kept.clone())).unwrap().unwrap();
        let recorder = Recorder::new(0, Arc::clone(&book), Some(&access));
        let mut log = open(&recorder);
        log.identified("r-1", Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        enter(&mut log, 1, "blue");
        log.attempt_failed("reset");
        enter(&mut log, 2, "green");
        log.received(3);
        log.late_start();
        log.answered(StatusCode::OK);
        log.sent(10);
        log.sent(5);
        log.ended(Outcome::UpstreamFailedAfter, "reset");
        drop(log);
        drop(open(&recorder));
        access.close();
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [first, second] = &lines[..] else { panic!("{text}") };
        for (field, expected) in [
            ("app", json!("shop")),
            ("pool", json!("active")),
            ("revision", json!("green")),
            ("host", json!("shop.test")),
            ("path", json!("/a")),
            ("status", json!(200)),
            ("bytes_in", json!(3)),
            ("bytes_out", json!(15)),
            ("attempts", json!(2)),
            ("client", json!("192.0.2.7")),
            ("request_id", json!("r-1")),
            ("trace_id", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
            ("flags", json!("upstream_failed_after,reset,late_start")),
        ] {
            assert_eq!(first[field], expected, "{field} in {text}");
        }
        assert_eq!(second["flags"], "client_gone");
        assert_eq!(second["request_id"], json!(null), "the first request's words are gone");
    }
}
