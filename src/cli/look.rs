//! The verbs that only look: `status`, `plan`, `history`, `events`.

use clap::Args;
use http::StatusCode;
use serde_json::Value;

use super::{
    failure::{Exit, Failure},
    render::Line,
    session::Session,
    watch,
};
use crate::{
    admin::api::{EventMessage, Plan, StateMessage},
    switch::{AppName, Receipt},
    telemetry::mirror::MirrorReport,
};

/// `tealgate status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The app; all apps if left out
    app: Option<AppName>,
    /// Go on showing it: redrawn on a terminal, one line per change in a pipe
    #[arg(long, short)]
    watch: bool,
}

/// `tealgate plan`
#[derive(Debug, Args)]
pub(crate) struct PlanOf {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
}

/// `tealgate mirror`
#[derive(Debug, Args)]
pub(crate) struct Mirror {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
}

/// `tealgate history`
#[derive(Debug, Args)]
pub(crate) struct History {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// How many actions at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

/// `tealgate events`
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only this app's
    #[arg(long, value_name = "APP")]
    app: Option<AppName>,
}

impl Status {
    /// Shows one app in full, or all in a row each; an only one is shown in full, too.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        if self.watch {
            return watch::run(session, self.app).await;
        }
        match self.app {
            Some(app) => session.output.show(&session.status(&app).await?)?,
            None => watch::show(session, &session.apps().await?)?,
        }
        Ok(Exit::Done)
    }
}

impl PlanOf {
    /// Shows what a promotion would do, and ends as it would.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let plan: Plan = session.client.get(format!("cannot plan for {app}"), &format!("/apps/{app}/plan")).await?;
        session.output.show(&plan)?;
        let refusal = plan.refusal.filter(|_| !plan.possible);
        Ok(refusal.map_or(Exit::Done, |refusal| Exit::of_answer(&refusal.code, StatusCode::CONFLICT)))
    }
}

impl Mirror {
    /// Shows how the candidate's answers compare with the live ones.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let what = format!("cannot see the mirror of {app}");
        let report: MirrorReport = session.client.get(what, &format!("/apps/{app}/mirror")).await?;
        session.output.show(&report)?;
        Ok(Exit::Done)
    }
}

impl History {
    /// Shows what was done, the newest first.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let path = format!("/apps/{app}/history?limit={}", self.limit);
        let history: Vec<Receipt> = session.client.get(format!("cannot see the history of {app}"), &path).await?;
        session.output.show(&history)?;
        Ok(Exit::Done)
    }
}

impl Events {
    /// Prints what happens, until the server ends the stream.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let path = self.app.map_or_else(|| "/events".to_owned(), |app| format!("/events?app={app}"));
        let mut events = session.client.events(&path).await?;
        while let Some(message) = events.next().await? {
            match serde_json::from_str::<EventMessage>(&message.data) {
                Ok(event) if message.event != "state" => session.output.show_next(&event)?,
                _ => state(session, &message.data)?,
            }
        }
        Err(Failure::new(Exit::Unreachable, "the server ended the event stream"))
    }
}

/// The stream's first message, or one of a kind that this version does not know.
fn state(session: &Session, data: &str) -> Result<(), Failure> {
    match serde_json::from_str(data) {
        Ok(StateMessage::One(app)) => session.output.show_next(&Line(&app)),
        Ok(StateMessage::All(apps)) if session.output.is_text() => {
            apps.iter().try_for_each(|app| session.output.show_next(&Line(app)))
        }
        Ok(StateMessage::All(apps)) => session.output.show_next(&apps),
        Err(_) => session.output.show_next(&serde_json::from_str(data).unwrap_or(Value::from(data))),
    }
}
