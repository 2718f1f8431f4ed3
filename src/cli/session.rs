//! What every verb that talks to a server has at hand: the client, the output, and the app that is meant when none is
//! named.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use super::{
    client::Client,
    failure::{Exit, Failure},
    output::Output,
};
use crate::switch::{AppName, AppStatus};

/// One run of one verb against one server.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) output: Output,
    /// `--timeout`, if it was given.
    pub(crate) timeout: Option<Duration>,
}

impl Session {
    /// The same, with at least so much time for an answer.
    pub(crate) fn patient(&self, at_least: Duration) -> Self {
        Self { client: self.client.patient(at_least), ..self.clone() }
    }

    /// The app named, or the only one there is.
    pub(crate) async fn app(&self, named: Option<AppName>) -> Result<AppName, Failure> {
        if let Some(app) = named {
            return Ok(app);
        }
        let apps = self.apps().await?;
        match apps.as_slice() {
            [only] => only.name.parse().map_err(|_| Failure::new(Exit::Failed, "the server's app has no valid name")),
            [] => Err(Failure::new(Exit::Failed, "the server has no app")
                .hint("add one under `apps:` in its configuration, then `tealgate reload`")),
            several => {
                let names: Vec<_> = several.iter().map(|app| app.name.as_str()).collect();
                Err(Failure::usage("which app?")
                    .detail(format!("the server has {}", names.join(", ")))
                    .hint("name one"))
            }
        }
    }

    /// The state of all apps.
    pub(crate) async fn apps(&self) -> Result<Vec<AppStatus>, Failure> {
        self.client.get("cannot see the apps", "/apps").await
    }

    /// The state of an app.
    pub(crate) async fn status(&self, app: &AppName) -> Result<AppStatus, Failure> {
        self.client.get(format!("cannot see {app}"), &format!("/apps/{app}")).await
    }
}

/// Whether there is a person to ask.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a yes-or-no question; anything but a yes is a no.
pub(crate) fn ask(question: &str) -> Result<(), Failure> {
    let mut answer = String::new();
    let mut err = anstream::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "not confirmed: nothing was done")),
    }
}
