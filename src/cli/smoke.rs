//! `smoke`: has the candidate's smoke test sent again, and shows what comes of it, check by check.

use clap::{Args, builder::NonEmptyStringValueParser};
use http::Method;

use super::{
    client::Call,
    failure::{Exit, Failure},
    render::Reached,
    session::Session,
    wait::{self, Arrival, Goal, Meant, Progress, Waited},
};
use crate::{
    admin::api::{SmokeRequest, SmokeWait},
    switch::{AppName, GateState, Revision, SmokeReport},
};

/// `tealgate smoke`
#[derive(Debug, Args)]
pub(crate) struct Smoke {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// The candidate that is meant; it is waited for. If left out, the candidate there is
    #[arg(long, value_name = "REVISION")]
    revision: Option<Revision>,
    /// The candidate made of this image, by its label `image`: NAME:TAG, or its digest (sha256:…); it is waited for
    #[arg(long, value_name = "IMAGE", conflicts_with = "revision", value_parser = NonEmptyStringValueParser::new())]
    image: Option<String>,
    /// Why; it goes into the journal, with your name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

impl Smoke {
    /// Waits until the candidate can be tested, has it tested, and says what came of it.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let deadline = wait::deadline(session);
        let meant = Meant::of(self.revision, self.image);
        let mut revision = None;
        // Where nothing is named and nobody is there, the server says so.
        if meant != Meant::Any || session.status(&app).await?.preview.is_some() {
            let Arrival { message, revision: found, is_active } =
                wait::arrival(session, &app, Goal::Testable, meant, deadline).await?;
            if is_active {
                session
                    .output
                    .show(&Reached { app: app.to_string(), message: format!("{message}: nothing is tested") })?;
                return Ok(Exit::Done);
            }
            revision = found.and_then(|found| found.parse().ok());
        }
        let body = SmokeRequest { revision, reason: self.reason, wait: SmokeWait::Started, ..SmokeRequest::default() };
        let call = Call::new(format!("cannot test {app}"), Method::POST, &format!("/apps/{app}/smoke"));
        let mut report: SmokeReport = session.client.call(call.body(&body)).await?;
        let (mut progress, mut events) = (Progress::new(session.output)?, None);
        while !matches!(report.state, GateState::Passed | GateState::Failed) {
            progress.show(&report, &format!("{app}: {}", report.message))?;
            let look = async {
                wait::change(session, &app, &mut events).await;
                session.client.get(format!("cannot see the test of {app}"), &format!("/apps/{app}/smoke")).await
            };
            report = match progress.wait(look, deadline).await? {
                Waited::Came(Ok(next)) => still(next, &report)?,
                Waited::Came(Err(failure)) if matches!(failure.exit, Exit::Unreachable | Exit::TimedOut) => report,
                Waited::Came(Err(failure)) => return Err(failure),
                Waited::InVain => return Err(wait::too_late(session, &app, &report.message)),
            };
        }
        drop(progress);
        session.output.show(&report)?;
        Ok(if report.state == GateState::Passed { Exit::Done } else { Exit::Refused })
    }
}

/// The next report, unless it is of another candidate.
fn still(next: SmokeReport, before: &SmokeReport) -> Result<SmokeReport, Failure> {
    if next.revision == before.revision {
        return Ok(next);
    }
    Err(Failure::new(Exit::Conflict, format!("{} was overtaken by {}", before.revision, next.revision)))
}
