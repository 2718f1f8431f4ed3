//! Every metric, by name, once; and [`Metrics`], which the program holds. Counters and histograms of requests come from
//! the workers' cells, gauges from the switch's board at the moment of the scrape, and what flips did from its events.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use prometheus::{
    Registry, TextEncoder,
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use super::{
    access_log::AccessLog,
    book::Book,
    flips::Flips,
    gauges,
    mirror::{Compared, Mirrors},
    request_log::{Outcome, Recorder},
    series::{Ledger, Series},
    sheet::Sheet,
};
use crate::switch::{AppName, Viewer};

/// A metric's name, meaning and labels.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(pub(super) const $id: Family = Family {
            name: concat!("tealgate_", $name),
            help: $help,
            kind: MetricType::$kind,
            labels: &[$($label),*],
        };)*

        /// All of them.
        pub(super) const FAMILIES: &[&Family] = &[$(&$id),*];
    };
}

families! {
    HTTP_REQUESTS: COUNTER "http_requests_total" ["app" "pool" "revision" "method" "code"]
        "Finished requests by method and status; code is none where no answer's head was known, pool is empty where no \
         pool admitted it, app where no app was found.";
    HTTP_DURATION: HISTOGRAM "http_request_duration_seconds" ["app" "pool" "revision"]
        "Time from a request's head to the last octet of its answer.";
    HTTP_IN_FLIGHT: GAUGE "http_requests_in_flight" ["app" "pool" "revision"]
        "Requests and tunnels admitted and not yet ended.";
    UPSTREAM_ERRORS: COUNTER "upstream_errors_total" ["app" "pool" "revision" "reason"]
        "Attempts that failed on their endpoint; one request may make several.";
    REQUESTS_ENDED: COUNTER "requests_ended_total" ["app" "outcome"]
        "The ledger: each accepted request ends in exactly one outcome. app is empty where no app was found.";
    REQUESTS_LOST: COUNTER "requests_lost_total" ["app" "reason"]
        "Requests whose client waited, was not at fault, and did not get the whole answer of an upstream: the upstream \
         failed, or we refused with a 5xx.";
    RETRIES: COUNTER "retries_total" ["app"]
        "Attempts after a request's first.";
    RETRIES_DENIED: COUNTER "retries_denied_total" ["app"]
        "Attempts that were not made because they would have been over the retry budget.";
    REQUESTS_REFUSED: COUNTER "requests_refused_total" ["app" "reason"]
        "Requests that we refused, by what was in the way: a limit, a malformed request, nothing to send it to. app is \
         empty where no app was found.";
    REQUESTS_WAITING: GAUGE "requests_waiting" ["app"]
        "Requests that wait for a place among those in flight; shown where their number is limited.";
    LATE_STARTS: COUNTER "flip_late_starts_total" ["app"]
        "Requests that started on a pool after the flip that replaced it was acknowledged; there should be none.";
    FLIPS: COUNTER "flips_total" ["app" "kind" "result"]
        "Flips done, and flips asked for and refused.";
    FLIP_BARRIER: HISTOGRAM "flip_barrier_seconds" ["app"]
        "From the publication of a flip until every worker had adopted it.";
    FLIP_DRAIN: HISTOGRAM "flip_drain_seconds" ["app"]
        "From the retirement of a pool until it was empty, or cut at its deadline.";
    ENDPOINT_UP: GAUGE "endpoint_up" ["app" "revision" "endpoint"]
        "1 if its probes succeed, 0 if not, or not yet, or while it is ejected.";
    ENDPOINT_EJECTED: GAUGE "endpoint_ejected" ["app" "revision" "endpoint"]
        "1 while it rests because requests failed on it.";
    EJECTIONS: COUNTER "ejections_total" ["app" "revision" "reason"]
        "Endpoints taken out of use because requests failed on them.";
    ENDPOINT_NAME_UP: GAUGE "endpoint_name_up" ["app" "name"]
        "1 if the last lookup of the name of an endpoint found it, 0 if it failed and what was found before stays.";
    POOL_ENDPOINTS: GAUGE "pool_endpoints" ["app" "pool" "state"]
        "Endpoints of a pool by what is thought of them: unhealthy by their probes, ejected by their traffic.";
    POOL_INFO: GAUGE "pool_info" ["app" "pool" "revision"]
        "1 for the revision that has this role.";
    APP_GENERATION: GAUGE "app_generation" ["app"]
        "How often the app's roles have changed.";
    WEIGHT: GAUGE "weight" ["app"]
        "The share of live traffic that goes to the candidate while that is ready, in percent.";
    ROLLBACK_READY: GAUGE "rollback_ready" ["app"]
        "1 if there is a previous revision with enough ready endpoints to return to.";
    ROLLBACK_WINDOW: GAUGE "rollback_window_seconds" ["app"]
        "How long the previous revision is still kept; 0 without one.";
    HELD_REQUESTS: GAUGE "held_requests" ["app"]
        "Requests that wait at the door while a hold is on.";
    HELD_ENDED: COUNTER "held_requests_ended_total" ["app" "outcome"]
        "How the waiting of held requests ended: released by somebody or a flip, expired with the hold's age, refused over \
         its bounds, left by their clients.";
    MAINTENANCE: GAUGE "maintenance" ["app"]
        "1 while live requests get the maintenance page.";
    MIRROR_COMPARED: COUNTER "mirror_compared_total" ["app" "result"]
        "Copies of live requests sent to the candidate, by how the answers compared: equal, or the first of status, headers \
         and body that differs; failed without a whole answer of the candidate, dropped where nothing could be compared.";
    GATE_STATE: GAUGE "gate_state" ["app" "gate"]
        "A gate of the candidate's promotion: 0 pending, 1 running, 2 passed, 3 failed, 4 skipped.";
    SOURCE_STALE: GAUGE "source_stale" ["app"]
        "1 while the source is out of reach and the last known state serves.";
    SOURCE_LAST_EVENT: GAUGE "source_last_event_seconds" ["app"]
        "Time since the source last spoke.";
    CONNECTIONS_NOT_SERVED: COUNTER "connections_not_served_total" ["listener" "reason"]
        "Connections closed by us before a request of them was accepted: over a limit, an untrusted peer, a bad PROXY \
         header, a failed or slow handshake, no good client certificate.";
    CERTIFICATE_EXPIRY: GAUGE "tls_certificate_expiry_seconds" ["listener" "certificate"]
        "When a certificate ends, in seconds since 1970.";
    RELOAD_SUCCESSFUL: GAUGE "config_last_reload_successful" []
        "1 if the configuration was applied when it was last read, 0 if it was refused.";
    ACCESS_LOG_DROPPED: COUNTER "access_log_dropped_total" []
        "Lines of the access log lost because its output was too slow or failed.";
    BUILD_INFO: GAUGE "build_info" ["version"]
        "1 for the version that runs.";
}

/// How upstreams fail. Every pool, and every app, shows these from its creation, at zero.
const UPSTREAM_REASONS: [&str; 9] = [
    "connect",
    "connect_timeout",
    "protocol",
    "reset",
    "timeout",
    "tls_alert",
    "tls_certificate",
    "tls_protocol",
    "upgrade",
];

/// All that the program measures.
pub struct Metrics {
    viewer: Viewer,
    facts: Arc<Facts>,
    registry: Registry,
}

/// What a scrape reads.
struct Facts {
    viewer: Viewer,
    book: Arc<Book>,
    flips: Flips,
    access: OnceLock<AccessLog>,
    reloaded: AtomicBool,
    /// By listener: each certificate's name and end.
    certificates: Mutex<BTreeMap<String, Vec<(String, Timestamp)>>>,
}

impl Metrics {
    /// Metrics of `workers` workers and of the switch that `viewer` looks at.
    pub fn new(workers: usize, viewer: Viewer) -> Arc<Self> {
        let facts = Arc::new(Facts {
            viewer: viewer.clone(),
            book: Arc::new(Book::new(workers)),
            flips: Flips::new(),
            access: OnceLock::new(),
            reloaded: AtomicBool::new(true),
            certificates: Mutex::default(),
        });
        let registry = Registry::new();
        registry.register(Box::new(Scrape::of(Arc::clone(&facts)))).expect("each family has a name of its own");
        Arc::new(Self { viewer, facts, registry })
    }

    /// The recorder of one worker, numbered from 0 and below the number of workers; to be made on the worker's thread.
    /// Each number is taken once at a time, since its cells have one writer. `access` is the same log for all.
    pub fn recorder(&self, worker: usize, access: Option<AccessLog>) -> Rc<Recorder> {
        let access = access.map(|access| self.facts.access.get_or_init(|| access));
        Recorder::new(worker, Arc::clone(&self.facts.book), access)
    }

    /// Counts what the switch tells from now on, and keeps the series in line with its board, until it stops. To be
    /// called before the source first speaks, so that nothing is missed.
    pub fn follow(self: Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let mut events = self.viewer.events();
        let mut follower = self.viewer.follow();
        async move {
            loop {
                let (board, apps) = follower.news(|| self.facts.book.apps());
                self.facts.book.follow(&board, apps, Instant::now());
                tokio::select! {
                    // What was told before the switch stopped is counted before we stop.
                    biased;
                    event = events.recv() => match event {
                        Ok(event) => self.facts.flips.count(&event),
                        Err(RecvError::Lagged(missed)) => {
                            tracing::info!(missed, "more happened at once than the metrics of flips could count");
                            self.facts.flips.begin_all(&board);
                        }
                        Err(RecvError::Closed) => return,
                    },
                    running = follower.changed() => if !running { return },
                }
            }
        }
    }

    /// Shows these listeners from now on, at zero until something happens to their connections.
    pub fn listeners<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        names.into_iter().for_each(|name| self.facts.book.unserved().begin(name));
    }

    /// Whether the configuration, just read again, was applied.
    pub fn reloaded(&self, applied: bool) {
        self.facts.reloaded.store(applied, Ordering::Relaxed);
    }

    /// The certificates in service from now on, by listener: what each is called, and when it ends.
    pub fn certificates(&self, ends: BTreeMap<String, Vec<(String, Timestamp)>>) {
        *self.facts.certificates.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    /// What the mirrors of all apps found.
    pub fn mirrors(&self) -> Arc<Mirrors> {
        Arc::clone(self.facts.book.mirrors())
    }

    /// Everything, in the Prometheus text format.
    pub fn render(&self) -> String {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather());
        text.expect("the registry leaves out families without metrics, the one thing the encoder refuses")
    }
}

impl Facts {
    fn families(&self) -> Vec<MetricFamily> {
        let board = self.viewer.board();
        self.book.follow_all(&board, Instant::now());
        let mut sheet = Sheet::default();
        self.book.all_series().iter().for_each(|series| put_series(series, &mut sheet));
        self.book.visit_ledgers(|app, ledger| put_ledger(app, ledger, &mut sheet));
        gauges::put_board(&board, Timestamp::now(), &mut sheet);
        self.book.mirrors().visit(|app, book| {
            for result in Compared::ALL {
                sheet.counter(&MIRROR_COMPARED, &[app.as_str(), result.as_str()], book.count(result));
            }
        });
        self.book.unserved().visit(|listener, why, count| {
            sheet.counter(&CONNECTIONS_NOT_SERVED, &[listener, why], count);
        });
        self.put_process(&mut sheet);
        self.flips.put(&mut sheet);
        sheet.into_families()
    }

    fn put_process(&self, sheet: &mut Sheet) {
        for (listener, certificates) in &*self.certificates.lock().unwrap_or_else(PoisonError::into_inner) {
            for (name, ends) in certificates {
                sheet.gauge(&CERTIFICATE_EXPIRY, &[listener, name], ends.as_second() as f64);
            }
        }
        sheet.gauge(&RELOAD_SUCCESSFUL, &[], self.reloaded.load(Ordering::Relaxed).into());
        sheet.counter(&ACCESS_LOG_DROPPED, &[], self.access.get().map_or(0, AccessLog::dropped));
        sheet.gauge(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    }
}

fn put_series(series: &Series, sheet: &mut Sheet) {
    let labels @ [app, pool, revision] = series.labels();
    let (mut answers, mut errors) = (series.answers(), series.upstream_errors());
    if series.pool().is_some() {
        // A rate over a series that is born at 1 misses its first request.
        answers.entry(("GET", Some(200))).or_default();
        begin(&mut errors);
        sheet.gauge(&HTTP_IN_FLIGHT, &labels, series.in_flight() as f64);
    }
    for ((method, code), count) in answers {
        let code = code.map_or("none".to_owned(), |code| code.to_string());
        sheet.counter(&HTTP_REQUESTS, &[app, pool, revision, method, &code], count);
    }
    for (reason, count) in errors {
        sheet.counter(&UPSTREAM_ERRORS, &[app, pool, revision, reason], count);
    }
    sheet.durations(&HTTP_DURATION, &labels, &series.durations());
}

fn put_ledger(app: Option<&AppName>, ledger: &Ledger, sheet: &mut Sheet) {
    let mut lost = ledger.lost_by_reason();
    if app.is_some() {
        begin(&mut lost);
    }
    let app = app.map_or("", AppName::as_str);
    for outcome in Outcome::ALL {
        sheet.counter(&REQUESTS_ENDED, &[app, outcome.as_str()], ledger.ended(outcome));
    }
    for (reason, count) in lost {
        sheet.counter(&REQUESTS_LOST, &[app, reason], count);
    }
    for (reason, count) in ledger.refused_by_reason() {
        sheet.counter(&REQUESTS_REFUSED, &[app, reason], count);
    }
    sheet.counter(&RETRIES, &[app], ledger.retries());
    sheet.counter(&RETRIES_DENIED, &[app], ledger.retries_denied());
    sheet.counter(&LATE_STARTS, &[app], ledger.late_starts());
}

/// Adds, at zero, the reasons that are shown from the first day.
fn begin(counts: &mut BTreeMap<&'static str, u64>) {
    for reason in UPSTREAM_REASONS {
        counts.entry(reason).or_default();
    }
}

/// The facts as a collector of the `prometheus` crate.
struct Scrape {
    facts: Arc<Facts>,
    descriptions: Vec<Desc>,
}

impl Scrape {
    fn of(facts: Arc<Facts>) -> Self {
        let describe = |family: &&Family| {
            let labels = family.labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new())
                .expect("names, labels and help of the families are valid")
        };
        Self { facts, descriptions: FAMILIES.iter().map(describe).collect() }
    }
}

impl Collector for Scrape {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.facts.families()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, StatusCode, Version};

    use super::*;
    use crate::{
        switch::{
            Command, Desired, HostPattern, Matching, Order, Plain, Policy, Reader, Receipt, Refusal, Revision, Switch,
            SwitchOptions, Wanted,
        },
        telemetry::request_log::{Head, RequestLog},
    };

    /// Asks for the shop.
    const GET: Plain = Plain("shop.test");

    fn name(text: &str) -> Revision {
        text.parse().unwrap()
    }

    fn shop() -> Desired {
        let endpoints = |port| vec![std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()];
        let wanted = Wanted {
            matching: Matching { hosts: vec![HostPattern::Exact("shop.test".to_owned())], ..Matching::default() },
            revisions: [(name("blue"), endpoints(1)), (name("green"), endpoints(2))].into(),
            active: name("blue"),
            preview: Some(name("green")),
            policy: Arc::new(Policy::default()),
        };
        Desired { apps: [("shop".parse().unwrap(), wanted)].into(), ..Desired::default() }
    }

    fn promote() -> Order {
        Order {
            app: "shop".parse().unwrap(),
            command: Command::Promote { revision: None, skip_gates: false },
            by: "ann".to_owned(),
            reason: String::new(),
            if_generation: None,
            dry_run: false,
        }
    }

    struct Proxy {
        switch: Switch,
        metrics: Arc<Metrics>,
        recorder: Rc<Recorder>,
        reader: Reader,
        following: tokio::task::JoinHandle<()>,
    }

    impl Proxy {
        async fn start() -> Self {
            let options = SwitchOptions { workers: 1, replica: "here".to_owned(), journal: None };
            let switch = Switch::start(options).unwrap();
            let metrics = Metrics::new(1, switch.viewer.clone());
            let following = tokio::spawn(Arc::clone(&metrics).follow());
            switch.feed.desired(shop()).await.unwrap();
            let (recorder, reader) = (metrics.recorder(0, None), switch.readers.reader(0));
            Self { switch, metrics, recorder, reader, following }
        }

        async fn observe(&self, revision: &str, port: u16, healthy: bool) {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            self.switch.feed.observed("shop".parse().unwrap(), name(revision), address, healthy).await;
        }

        /// Asks the switch, while the worker adopts what is published.
        async fn submit(&self, order: Order) -> Result<Receipt, Refusal> {
            let work = async {
                loop {
                    self.reader.changed().await;
                    self.reader.acknowledge(&self.reader.adopt());
                }
            };
            tokio::select! {
                answer = self.switch.control.submit(order) => answer,
                () = work => unreachable!("a worker works on"),
            }
        }

        fn open(&self) -> RequestLog {
            let (host, path, version) = ("shop.test", "/", Version::HTTP_11);
            self.recorder.open(Head { method: &Method::GET, host, path, version, client: None })
        }

        /// The one line that begins with this name and these labels, and its value.
        #[track_caller]
        fn value(&self, series: &str) -> f64 {
            let text = self.metrics.render();
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("tealgate_{series} ")));
            value.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
        }

        /// Ends the switch, so that all it told is counted.
        async fn settle(mut self) -> Arc<Metrics> {
            self.switch.control.stop().await;
            (&mut self.following).await.unwrap();
            self.metrics
        }
    }

    #[tokio::test]
    async fn series_of_every_pool_are_there_at_zero_before_the_first_request() {
        let proxy = Proxy::start().await;
        for series in [
            r#"http_requests_total{app="shop",pool="active",revision="blue",method="GET",code="200"}"#,
            r#"http_requests_total{app="shop",pool="preview",revision="green",method="GET",code="200"}"#,
            r#"http_request_duration_seconds_count{app="shop",pool="active",revision="green"}"#,
            r#"http_requests_in_flight{app="shop",pool="active",revision="blue"}"#,
            r#"upstream_errors_total{app="shop",pool="active",revision="blue",reason="connect"}"#,
            r#"requests_ended_total{app="shop",outcome="answered"}"#,
            r#"requests_ended_total{app="",outcome="refused"}"#,
            r#"flip_late_starts_total{app="shop"}"#,
            r#"endpoint_up{app="shop",revision="blue",endpoint="127.0.0.1:1"}"#,
        ] {
            assert_eq!(proxy.value(series), 0.0, "{series}");
        }
        assert_eq!(proxy.value(r#"pool_endpoints{app="shop",pool="active",state="unknown"}"#), 1.0);
        assert_eq!(proxy.value(r#"pool_info{app="shop",pool="preview",revision="green"}"#), 1.0);
        assert_eq!(proxy.value(r#"config_last_reload_successful"#), 1.0);
        assert_eq!(proxy.value(&format!(r#"build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"))), 1.0);
    }

    #[tokio::test]
    async fn a_flip_moves_requests_from_one_series_to_the_other_and_is_counted() {
        let proxy = Proxy::start().await;
        proxy.observe("blue", 1, true).await;
        proxy.observe("green", 2, true).await;
        let admitted = || {
            let ticket = proxy.reader.admit(&GET, &[]).unwrap();
            let mut log = proxy.open();
            log.admitted(&ticket);
            (log, ticket)
        };
        let (mut on_blue, first) = admitted();
        assert_eq!(proxy.value(r#"http_requests_in_flight{app="shop",pool="active",revision="blue"}"#), 1.0);
        proxy.submit(promote()).await.unwrap();
        assert!(proxy.submit(promote()).await.is_err());
        let (mut on_green, second) = admitted();
        for log in [&mut on_blue, &mut on_green] {
            log.answered(StatusCode::OK);
            log.ended(Outcome::Answered, "");
        }
        drop((on_blue, on_green, first, second));
        for revision in ["blue", "green"] {
            let series = format!(r#"{{app="shop",pool="active",revision="{revision}",method="GET",code="200"}}"#);
            assert_eq!(proxy.value(&format!("http_requests_total{series}")), 1.0);
        }
        assert_eq!(proxy.value(r#"requests_ended_total{app="shop",outcome="answered"}"#), 2.0);
        assert_eq!(proxy.value(r#"rollback_ready{app="shop"}"#), 1.0);
        assert!(proxy.value(r#"rollback_window_seconds{app="shop"}"#) > 590.0);
        let metrics = proxy.settle().await;
        let text = metrics.render();
        assert!(text.contains(r#"tealgate_flips_total{app="shop",kind="promote",result="done"} 1"#), "{text}");
        assert!(text.contains(r#"tealgate_flips_total{app="shop",kind="promote",result="refused"} 1"#), "{text}");
        assert!(text.contains(r#"tealgate_flip_barrier_seconds_count{app="shop"} 1"#), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_series_of_a_forgotten_revision_go_and_its_ledger_stays() {
        let proxy = Proxy::start().await;
        let ticket = proxy.reader.admit(&GET, &[]).unwrap();
        let mut log = proxy.open();
        log.admitted(&ticket);
        proxy.switch.feed.desired(Desired::default()).await.unwrap();
        let blue = r#"revision="blue""#;
        proxy.metrics.render();
        tokio::time::advance(Duration::from_secs(120)).await;
        assert!(proxy.metrics.render().contains(blue), "a request is still in flight");
        drop((log, ticket));
        assert!(proxy.metrics.render().contains(blue), "it is scraped once more");
        tokio::time::advance(Duration::from_secs(120)).await;
        assert!(!proxy.metrics.render().contains(blue));
        assert_eq!(proxy.value(r#"requests_ended_total{app="shop",outcome="client_gone"}"#), 1.0);
    }

    #[tokio::test]
    async fn certificates_and_reloads_are_shown_as_last_told() {
        let proxy = Proxy::start().await;
        let end = Timestamp::from_second(1_800_000_000).unwrap();
        proxy.metrics.certificates([("live-tls".to_owned(), vec![("old.test".to_owned(), end)])].into());
        proxy.metrics.certificates([("live-tls".to_owned(), vec![("shop.test".to_owned(), end)])].into());
        proxy.metrics.reloaded(false);
        let series = r#"tls_certificate_expiry_seconds{listener="live-tls",certificate="shop.test"}"#;
        assert_eq!(proxy.value(series), 1_800_000_000.0);
        assert!(!proxy.metrics.render().contains("old.test"));
        assert_eq!(proxy.value("config_last_reload_successful"), 0.0);
    }
}
