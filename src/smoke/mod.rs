//! Smoke tests: whenever the board shows a run of one, its checks are sent to the candidate, through the proxy, and what
//! came of them goes to the switch; round after round, until the board shows the run no more. When a run is due and what
//! it comes to is the switch's to say; whether an answer is as expected is [`judge`]'s.

mod judge;

use std::{collections::HashMap, io, os::unix::net::UnixStream, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::judge::Answer;
use crate::switch::{
    AppBoard, AppName, Board, CheckReport, Feed, GateState, HostPattern, Matching, Revision, SmokeCheck, SmokeRun,
    Viewer,
};

/// How long after a round that failed the next one begins: at first, and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The most of a body that is read, in octets.
const MOST: usize = 1 << 20;

/// What the proxy tells of who has answered.
const REVISION: &str = "x-tealgate-revision";

const USER_AGENT: &str = concat!("tealgate-smoke/", env!("CARGO_PKG_VERSION"));

/// Opens a connection whose requests reach this candidate of this app or nobody; it must not block.
pub type Open = Arc<dyn Fn(AppName, Revision) -> io::Result<UnixStream> + Send + Sync>;

/// Sends the checks of whatever run the board shows, until the switch stops.
pub async fn run(mut viewer: Viewer, feed: Feed, open: Open) {
    let mut running = HashMap::new();
    loop {
        follow(&viewer.board(), &mut running, &feed, &open);
        if !viewer.changed().await {
            return;
        }
    }
}

/// A run whose checks are being sent; that ends when this is dropped.
struct Running {
    number: u64,
    _task: AbortOnDropHandle<()>,
}

fn follow(board: &Board, running: &mut HashMap<AppName, Running>, feed: &Feed, open: &Open) {
    let number = |app: &AppName| Some(board.apps.get(app)?.rollout.smoke_run()?.number);
    running.retain(|app, running| number(app) == Some(running.number));
    for (name, app) in &board.apps {
        let Some(run) = app.rollout.smoke_run().filter(|_| !running.contains_key(name)) else { continue };
        let trial = Trial::new(name, app, run, open);
        let task = AbortOnDropHandle::new(tokio::spawn(trial.go_on(feed.clone())));
        running.insert(name.clone(), Running { number: run.number, _task: task });
    }
}

/// One run, on its way.
struct Trial {
    app: AppName,
    /// What requests call the candidate that say nothing else.
    host: String,
    run: SmokeRun,
    open: Open,
}

impl Trial {
    fn new(name: &AppName, app: &AppBoard, run: &SmokeRun, open: &Open) -> Self {
        Self { app: name.clone(), host: host(&app.matching), run: run.clone(), open: Arc::clone(open) }
    }

    /// Sends all checks, round after round.
    async fn go_on(self, feed: Feed) {
        let Self { app, run, .. } = &self;
        tracing::info!(%app, revision = %run.revision, run = run.number, "the smoke test begins");
        let mut reports: Vec<_> = run.smoke.checks.iter().map(CheckReport::pending).collect();
        let mut pause = PAUSE;
        loop {
            for (index, check) in run.smoke.checks.iter().enumerate() {
                reports[index] = self.send(check).await;
                feed.smoked(app.clone(), run.number, reports.clone(), index + 1 == reports.len()).await;
            }
            // The last round begins when the time is over.
            let left = Duration::try_from(run.until.duration_since(Timestamp::now())).unwrap_or_default();
            sleep(pause.min(left.max(PAUSE))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends one check, and says what came of it.
    async fn send(&self, check: &SmokeCheck) -> CheckReport {
        let begun = Instant::now();
        let answered = timeout(check.timeout, self.exchange(check)).await;
        let took = begun.elapsed();
        let (status, found) = match answered {
            Ok(Ok(answer)) => (Some(answer.status.as_u16()), self.judged(check, &answer)),
            Ok(Err(broken)) => (None, Err(broken)),
            Err(_) => (None, Err(format!("no whole answer within {:?}", check.timeout))),
        };
        let Self { app, run: SmokeRun { revision, .. }, .. } = self;
        if let Err(why) = &found {
            tracing::info!(%app, %revision, check = check.name, why, "a check of the smoke test failed");
        }
        CheckReport {
            state: if found.is_ok() { GateState::Passed } else { GateState::Failed },
            message: found.err().unwrap_or_default(),
            status,
            millis: u64::try_from(took.as_millis()).ok(),
            ..CheckReport::pending(check)
        }
    }

    fn judged(&self, check: &SmokeCheck, answer: &Answer) -> Result<(), String> {
        let by = answer.fields.get(REVISION).map(HeaderValue::as_bytes);
        match by == Some(self.run.revision.as_str().as_bytes()) {
            true => judge::judge(&check.expected, answer),
            false => Err(format!("{} did not answer, the proxy did: {}", self.run.revision, answer.in_words())),
        }
    }

    async fn exchange(&self, check: &SmokeCheck) -> Result<Answer, String> {
        let request = self.request(check).map_err(|error| format!("it cannot be sent: {error}"))?;
        let socket = (self.open)(self.app.clone(), self.run.revision.clone());
        let socket = socket.and_then(tokio::net::UnixStream::from_std);
        let socket = socket.map_err(|error| format!("the proxy cannot be asked: {error}"))?;
        let broken = |error: hyper::Error| format!("the answer broke off: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(broken)?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        read(sender.send_request(request).await.map_err(broken)?).await.map_err(broken)
    }

    fn request(&self, check: &SmokeCheck) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder().method(check.method.as_str()).uri(check.path.as_str());
        for (name, value) in &check.headers {
            request = request.header(name, HeaderValue::from_bytes(value.octets())?);
        }
        let said = |name: &HeaderName| check.headers.iter().any(|(said, _)| said == name.as_str());
        for (name, value) in [(header::HOST, self.host.as_str()), (header::USER_AGENT, USER_AGENT)] {
            if !said(&name) {
                request = request.header(name, value);
            }
        }
        request.body(Full::from(check.body.clone()))
    }
}

/// The answer, and as much of its body as is looked at.
async fn read(answer: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let (head, mut incoming) = answer.into_parts();
    let (mut body, mut cut) = (BytesMut::new(), false);
    while let Some(frame) = incoming.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        let room = MOST - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            cut = true;
            break;
        }
    }
    Ok(Answer { status: head.status, fields: head.headers, body: body.freeze(), cut })
}

/// The first of the app's hosts that testers would use, or its users.
fn host(matching: &Matching) -> String {
    let hosts = || matching.preview_hosts.iter().chain(&matching.hosts);
    let exact = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(host) => Some(host.clone()),
        HostPattern::Below(_) => None,
    };
    let below = |pattern: &HostPattern| match pattern {
        HostPattern::Below(suffix) => Some(format!("smoke{suffix}")),
        HostPattern::Exact(_) => None,
    };
    hosts().find_map(exact).or_else(|| hosts().find_map(below)).unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_for_the_host_that_testers_use() {
        let exact = |host: &str| HostPattern::Exact(host.to_owned());
        let below = HostPattern::Below(".shop.test".to_owned());
        let with = |preview_hosts, hosts| host(&Matching { hosts, preview_hosts, ..Matching::default() });
        assert_eq!(with(vec![exact("preview.shop.test")], vec![exact("shop.test")]), "preview.shop.test");
        assert_eq!(with(vec![], vec![below.clone(), exact("shop.test")]), "shop.test");
        assert_eq!(with(vec![below], vec![]), "smoke.shop.test");
        assert_eq!(with(vec![], vec![]), "localhost");
    }
}
