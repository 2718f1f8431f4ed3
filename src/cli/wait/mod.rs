//! `wait`: returns when an app has come to where a pipeline wants it, or when that can no longer happen. The judgement is
//! pure ([`verdict`]); around it, the state is read again with every event, and once a second in case one was lost. What
//! else waits stands on this as well: `promote --when-ready`, `smoke`.

mod progress;
mod verdict;

use std::time::Duration;

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use tokio::time::{Instant, sleep, timeout};

use self::verdict::{Verdict, Watch};
pub(crate) use self::{
    progress::{Progress, Waited},
    verdict::Meant,
};
use super::{
    client::Events,
    failure::{Exit, Failure},
    output::clean,
    render::Reached,
    session::Session,
};
use crate::switch::{AppName, AppStatus, Receipt, Revision};

/// How long to wait if nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// How often the state is read when no event comes.
const POLL: Duration = Duration::from_secs(1);

/// `tealgate wait`
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// What to wait for
    #[arg(long = "for", value_name = "GOAL")]
    goal: Goal,
    /// The revision that is meant; if left out, the candidate there is, or the next to come
    #[arg(long, value_name = "REVISION")]
    revision: Option<Revision>,
    /// The revision made of this image, by its label `image`: NAME:TAG, or its digest (sha256:…)
    #[arg(long, value_name = "IMAGE", conflicts_with = "revision", value_parser = NonEmptyStringValueParser::new())]
    image: Option<String>,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// The candidate may be promoted, but for approvals; or it has been
    PreviewReady,
    /// The candidate is as ready as a smoke test wants it.
    #[value(skip)]
    Testable,
    /// Live traffic has moved to the revision
    Promoted,
    /// Nothing is in flight on a replaced pool any more
    Drained,
    /// The rollout is over: one revision is active, and there is no other
    Steady,
}

impl Goal {
    fn is_of_a_candidate(self) -> bool {
        matches!(self, Self::PreviewReady | Self::Testable)
    }
}

/// What has come of a wait.
pub(crate) struct Arrival {
    /// The same in a sentence.
    pub(crate) message: String,
    /// The revision it was about, if it was about one.
    pub(crate) revision: Option<String>,
    /// Whether that is active.
    pub(crate) is_active: bool,
}

impl Wait {
    /// Waits, and says what has come.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let meant = Meant::of(self.revision, self.image);
        let Arrival { message, .. } = arrival(session, &app, self.goal, meant, deadline(session)).await?;
        session.output.show(&Reached { app: app.to_string(), message })?;
        Ok(Exit::Done)
    }
}

/// When what waits has waited long enough.
pub(crate) fn deadline(session: &Session) -> Instant {
    Instant::now() + limit(session)
}

fn limit(session: &Session) -> Duration {
    session.timeout.unwrap_or(DEFAULT_TIMEOUT)
}

/// Waits for a goal, and says what has come.
pub(crate) async fn arrival(
    session: &Session,
    app: &AppName,
    goal: Goal,
    meant: Meant,
    deadline: Instant,
) -> Result<Arrival, Failure> {
    until(session, app, Watch::new(goal, meant), deadline).await
}

/// Waits until nothing is in flight on the pool that a promotion, just answered with `receipt`, has replaced.
pub(crate) async fn until_drained(session: &Session, app: &AppName, receipt: &Receipt) -> Result<Exit, Failure> {
    let watch = Watch::promoted(Goal::Drained, receipt.to.clone(), receipt.generation);
    let Arrival { message, .. } = until(session, app, watch, deadline(session)).await?;
    // Programs get the receipt, and nothing behind it.
    if session.output.is_text() {
        session.output.show(&Reached { app: app.to_string(), message })?;
    }
    Ok(Exit::Done)
}

/// Whether a revision may be promoted just now, or has been; an error if it can be no more.
pub(crate) async fn stands(session: &Session, app: &AppName, revision: &Revision) -> Result<Option<Arrival>, Failure> {
    let mut watch = Watch::new(Goal::PreviewReady, Meant::Revision(revision.to_string()));
    let status = session.status(app).await?;
    match watch.judge(&status) {
        Verdict::Reached(message) => {
            let is_active = watch.is_active(&status);
            Ok(Some(Arrival { message, revision: watch.revision, is_active }))
        }
        Verdict::NotYet(_) => Ok(None),
        Verdict::Never(exit, message) => Err(Failure::new(exit, message)),
    }
}

async fn until(session: &Session, app: &AppName, mut watch: Watch, deadline: Instant) -> Result<Arrival, Failure> {
    let mut progress = Progress::new(session.output)?;
    // Who is not there at the start is not waited for; later, a restart of the server is sat out.
    let mut status = Some(session.status(app).await?);
    let mut events = None;
    let mut last = String::new();
    loop {
        match &status {
            Some(status) => match watch.judge(status) {
                Verdict::Reached(message) => {
                    let is_active = watch.is_active(status);
                    return Ok(Arrival { message, revision: watch.revision, is_active });
                }
                Verdict::Never(exit, message) => {
                    let failure = Failure::new(exit, message).hint(format!("see `tealgate history {app}`"));
                    return Err(match left(session, app, &watch, status).await {
                        Some(how) => failure.detail(how),
                        None => failure,
                    });
                }
                Verdict::NotYet(message) => {
                    watch.generation = status.generation;
                    progress.show(status, &format!("{app}: {message}"))?;
                    last = message;
                }
            },
            None => "the server does not answer".clone_into(&mut last),
        }
        let look = async {
            change(session, app, &mut events).await;
            session.status(app).await
        };
        status = match progress.wait(look, deadline).await? {
            Waited::Came(Ok(status)) => Some(status),
            Waited::Came(Err(failure)) if matches!(failure.exit, Exit::Unreachable | Exit::TimedOut) => None,
            Waited::Came(Err(failure)) => return Err(failure),
            Waited::InVain => return Err(too_late(session, app, &last)),
        };
    }
}

/// It did not come in time; this is how it last stood.
pub(crate) fn too_late(session: &Session, app: &AppName, last: &str) -> Failure {
    let what = format!("{app} did not get there within {} s", limit(session).as_secs_f64());
    let hint = format!("see `tealgate status {app}`; give it more time with --timeout");
    Failure::new(Exit::TimedOut, what).detail(clean(last)).hint(hint)
}

/// Returns when something has happened to the app, or after [`POLL`].
pub(crate) async fn change(session: &Session, app: &AppName, events: &mut Option<Events>) {
    let Some(stream) = events else {
        *events = session.client.events(&format!("/events?app={app}")).await.ok();
        if events.is_none() {
            sleep(POLL).await;
        }
        return;
    };
    if let Ok(Err(_) | Ok(None)) = timeout(POLL, stream.next()).await {
        *events = None;
        sleep(POLL).await;
    }
}

/// What was done to the revision since there was hope, by whom and why; if that can be known.
async fn left(session: &Session, app: &AppName, watch: &Watch, status: &AppStatus) -> Option<String> {
    // The receipt follows the state, once every worker has it.
    for _ in 0..10 {
        let history: Vec<Receipt> = session.client.get("", &format!("/apps/{app}/history?limit=20")).await.ok()?;
        if history.first().is_some_and(|newest| newest.generation >= status.generation) {
            let mut since = history.iter().rev().filter(|receipt| receipt.generation > watch.generation);
            let receipt = since.find(|receipt| receipt.from == watch.revision)?;
            let said = format!("{} by {}: {}", receipt.action.as_str(), receipt.by, receipt.reason);
            return Some(clean(said.trim_end_matches(": ")));
        }
        sleep(POLL / 10).await;
    }
    None
}
