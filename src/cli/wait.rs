//! `wait`: returns when an app has come to where a pipeline wants it, or when that can no longer happen. The judgement is
//! pure ([`Watch::judge`]); around it, the state is read again with every event, and once a second in case one was lost.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    client::Events,
    failure::{Exit, Failure},
    output::clean,
    render::Reached,
    session::Session,
};
use crate::switch::{AppName, AppStatus, Phase, Receipt, Revision};

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
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// The candidate is ready to be promoted, or has been
    PreviewReady,
    /// Live traffic has moved to the revision
    Promoted,
    /// Nothing is in flight on a replaced pool any more
    Drained,
    /// The rollout is over: one revision is active, and there is no other
    Steady,
}

/// What has been seen of an app since the wait began.
#[derive(Debug)]
struct Watch {
    goal: Goal,
    /// The revision it is about, once that is known.
    revision: Option<String>,
    /// The active revision when the wait began.
    active_at_start: Option<Option<String>>,
    was_candidate: bool,
    was_active: bool,
    /// The generation of the last state that left hope.
    generation: u64,
}

/// What to make of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Reached(String),
    NotYet(String),
    Never(Exit, String),
}

impl Wait {
    /// Waits, and says what has come.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let watch = Watch::new(self.goal, self.revision.map(String::from));
        let message = until(session, &app, watch).await?;
        session.output.show(&Reached { app: app.to_string(), message })?;
        Ok(Exit::Done)
    }
}

/// Waits until nothing is in flight on the pool that a promotion, just answered with `receipt`, has replaced.
pub(crate) async fn until_drained(session: &Session, app: &AppName, receipt: &Receipt) -> Result<Exit, Failure> {
    let generation = receipt.generation;
    let watch = Watch { was_active: true, generation, ..Watch::new(Goal::Drained, receipt.to.clone()) };
    let message = until(session, app, watch).await?;
    // Programs get the receipt, and nothing behind it.
    if session.output.is_text() {
        session.output.show(&Reached { app: app.to_string(), message })?;
    }
    Ok(Exit::Done)
}

/// Waits, and returns what has come in a sentence.
async fn until(session: &Session, app: &AppName, mut watch: Watch) -> Result<String, Failure> {
    let limit = session.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let deadline = Instant::now() + limit;
    // Who is not there at the start is not waited for; later, a restart of the server is sat out.
    let mut status = Some(session.status(app).await?);
    let mut events = None;
    let mut last = String::new();
    loop {
        match &status {
            Some(status) => match watch.judge(status) {
                Verdict::Reached(message) => return Ok(message),
                Verdict::Never(exit, message) => {
                    let failure = Failure::new(exit, message).hint(format!("see `tealgate history {app}`"));
                    return Err(match left(session, app, &watch, status).await {
                        Some(how) => failure.detail(how),
                        None => failure,
                    });
                }
                Verdict::NotYet(message) => {
                    watch.generation = status.generation;
                    last = message;
                }
            },
            None => "the server does not answer".clone_into(&mut last),
        }
        let look = async {
            change(session, app, &mut events).await;
            session.status(app).await
        };
        let Ok(seen) = timeout_at(deadline, look).await else {
            return Err(Failure::new(
                Exit::TimedOut,
                format!("{app} did not get there within {} s", limit.as_secs_f64()),
            )
            .detail(clean(&last))
            .hint(format!("see `tealgate status {app}`; give it more time with --timeout")));
        };
        status = match seen {
            Ok(status) => Some(status),
            Err(failure) if matches!(failure.exit, Exit::Unreachable | Exit::TimedOut) => None,
            Err(failure) => return Err(failure),
        };
    }
}

/// Returns when something has happened to the app, or after [`POLL`].
async fn change(session: &Session, app: &AppName, events: &mut Option<Events>) {
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

impl Watch {
    fn new(goal: Goal, revision: Option<String>) -> Self {
        Self { goal, revision, active_at_start: None, was_candidate: false, was_active: false, generation: 0 }
    }

    /// Takes in a state.
    fn judge(&mut self, status: &AppStatus) -> Verdict {
        let active = status.active.as_ref().map(|pool| pool.revision.as_str());
        let preview = status.preview.as_ref().map(|pool| pool.revision.as_str());
        let at_start = self.active_at_start.get_or_insert_with(|| active.map(str::to_owned)).clone();
        let began = self.was_candidate || self.was_active;
        if self.revision.is_none() && self.goal != Goal::Drained {
            // The next candidate it is; or what became active without our having seen it as one.
            let moved = active.filter(|_| at_start.as_deref() != active || status.phase == Phase::Promoted);
            self.revision = preview.or(moved).map(str::to_owned);
        }
        let revision = self.revision.as_deref();
        let is = |other: Option<&str>| revision.is_some() && revision == other;
        self.was_candidate |= is(preview);
        self.was_active |= is(active);

        let named = revision.unwrap_or("a candidate");
        if self.goal != Goal::Drained || is(active) || self.was_active {
            if self.was_active && !is(active) {
                let active = active.unwrap_or("nothing");
                return Verdict::Never(Exit::RolledBack, format!("{named} was active, and {active} is now"));
            }
            if began && !is(preview) && !is(active) {
                return Verdict::Never(Exit::Failed, format!("{named} is no longer the candidate: {}", status.message));
            }
        }
        let reached = match self.goal {
            Goal::PreviewReady => is(active) || is(preview) && status.phase == Phase::Previewing,
            Goal::Promoted => is(active),
            Goal::Drained => status.draining.is_empty(),
            Goal::Steady => is_over(status) && (revision.is_none() || is(active)),
        };
        match (reached, self.goal) {
            (false, Goal::Drained) => {
                let left: u64 = status.draining.iter().map(|pool| pool.in_flight).sum();
                Verdict::NotYet(format!("{left} requests are still in flight on replaced pools"))
            }
            (false, _) => Verdict::NotYet(status.message.clone()),
            (true, Goal::Drained) => Verdict::Reached("nothing is in flight on a replaced pool".to_owned()),
            (true, Goal::PreviewReady) if is(preview) => Verdict::Reached(format!("{named} is ready")),
            (true, Goal::Steady) => Verdict::Reached(format!("{} is active, and steady", active.unwrap_or("nothing"))),
            (true, Goal::PreviewReady | Goal::Promoted) => Verdict::Reached(format!("{named} is active")),
        }
    }
}

/// Whether nothing is left of a rollout, be it that it came to its end or that it was aborted.
fn is_over(status: &AppStatus) -> bool {
    let alone = status.preview.is_none() && status.previous.is_none();
    status.phase == Phase::Steady || (status.phase == Phase::Aborted && alone)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(phase: &str, active: &str, preview: Option<&str>, draining: u64) -> AppStatus {
        let pool = |revision: &str| {
            json!({"revision": revision, "since": "2026-01-01T00:00:00Z", "ready": 2, "total": 2, "inFlight": 0,
                   "labels": {}, "endpoints": []})
        };
        let retired = json!({"revision": "old", "inFlight": draining, "oldestSeconds": 1.0,
                             "deadline": "2026-01-01T00:00:00Z"});
        let status = json!({
            "name": "shop", "generation": 1, "phase": phase, "message": phase, "active": pool(active),
            "preview": preview.map(pool), "previous": null, "gates": [], "pin": null, "weight": 0,
            "draining": if draining > 0 { vec![retired] } else { vec![] },
            "source": {"kind": "static", "authority": "tealgate", "stale": false, "lastEvent": null},
        });
        serde_json::from_value(status).expect("a state as the API words it")
    }

    /// What each state of a row is judged, as an exit code; `None` for "not yet".
    fn judged(mut watch: Watch, states: &[AppStatus]) -> Vec<Option<u8>> {
        let verdicts = states.iter().map(|state| watch.judge(state));
        let codes = verdicts.map(|verdict| match verdict {
            Verdict::Reached(_) => Some(0),
            Verdict::NotYet(_) => None,
            Verdict::Never(exit, _) => Some(exit as u8),
        });
        codes.collect()
    }

    fn green(goal: Goal) -> Watch {
        Watch::new(goal, Some("green".to_owned()))
    }

    #[test]
    fn a_candidate_is_waited_for_before_it_appears_and_until_it_is_ready() {
        let states = [
            status("aborted", "blue", None, 0),
            status("starting", "blue", Some("green"), 0),
            status("previewing", "blue", Some("green"), 0),
        ];
        assert_eq!(judged(green(Goal::PreviewReady), &states), [None, None, Some(0)]);
        assert_eq!(judged(Watch::new(Goal::PreviewReady, None), &states), [None, None, Some(0)]);
        assert_eq!(judged(green(Goal::PreviewReady), &[status("promoted", "green", None, 0)]), [Some(0)]);
    }

    #[test]
    fn a_candidate_that_goes_away_ends_the_wait_with_1() {
        let states = [status("previewing", "blue", Some("green"), 0), status("aborted", "blue", None, 0)];
        assert_eq!(judged(green(Goal::Promoted), &states), [None, Some(1)]);
        assert_eq!(judged(Watch::new(Goal::Promoted, None), &states), [None, Some(1)]);
        assert_eq!(judged(green(Goal::Steady), &states), [None, Some(1)]);
    }

    #[test]
    fn a_promotion_is_seen_with_and_without_a_name_even_if_the_candidate_was_not() {
        let states = [status("steady", "blue", None, 0), status("promoted", "green", None, 1)];
        assert_eq!(judged(green(Goal::Promoted), &states), [None, Some(0)]);
        assert_eq!(judged(Watch::new(Goal::Promoted, None), &states), [None, Some(0)]);
        assert_eq!(judged(Watch::new(Goal::Promoted, None), &states[1..]), [Some(0)]);
    }

    #[test]
    fn what_was_promoted_and_is_no_longer_active_ends_the_wait_with_6() {
        let states = [status("promoted", "green", None, 1), status("steady", "blue", None, 1)];
        assert_eq!(judged(green(Goal::Steady), &states), [None, Some(6)]);
        assert_eq!(judged(green(Goal::Drained), &states), [None, Some(6)]);
        let promoted = Watch { was_active: true, ..green(Goal::Drained) };
        assert_eq!(judged(promoted, &states[1..]), [Some(6)]);
    }

    #[test]
    fn drained_is_when_nothing_is_left_and_steady_when_nothing_goes_on() {
        let states = [status("promoted", "green", None, 3), status("promoted", "green", None, 0)];
        assert_eq!(judged(Watch::new(Goal::Drained, None), &states), [None, Some(0)]);
        let states = [status("promoted", "green", None, 0), status("steady", "green", None, 0)];
        assert_eq!(judged(Watch::new(Goal::Steady, None), &states), [None, Some(0)]);
        for phase in ["steady", "aborted"] {
            assert_eq!(judged(Watch::new(Goal::Steady, None), &[status(phase, "blue", None, 0)]), [Some(0)]);
        }
        assert_eq!(judged(Watch::new(Goal::Steady, None), &[status("aborted", "blue", Some("green"), 0)]), [None]);
    }
}
