//! The verbs that keep live requests out for a while: `hold`, `resume` and `maintenance`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Method;

use super::{
    act::{Guards, Plain},
    failure::{Exit, Failure},
    parse,
    session::Session,
};
use crate::{
    admin::api::{HoldRequest, HoldTerms, MaintenanceRequest, Period},
    switch::AppName,
};

/// `tealgate hold`
#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    #[command(flatten)]
    bounds: Bounds,
    #[command(flatten)]
    guards: Guards,
}

/// How far a hold may go; what is left out is as the app's configuration says.
#[derive(Debug, Args)]
pub(crate) struct Bounds {
    /// How long the hold lasts at most, e.g. 5s, up to 1h; then all that wait are let in
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) max_age: Option<Duration>,
    /// How many requests may wait; beyond, they are answered 503
    #[arg(long, value_name = "N")]
    pub(crate) max_requests: Option<u32>,
    /// How much memory the heads of those who wait may take, e.g. 64MiB; beyond, they are answered 503
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub(crate) max_bytes: Option<u64>,
}

/// `tealgate maintenance`
#[derive(Debug, Args)]
#[command(override_usage = "tealgate maintenance [OPTIONS] [APP] <on|off>")]
pub(crate) struct Maintenance {
    /// The app, which may be left out when the server has exactly one; then `on` or `off`
    #[arg(value_name = "[APP] on|off", required = true, num_args = 1..=2)]
    words: Vec<String>,
    /// When clients are told to come back, e.g. 2m; 60s if left out
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    retry_after: Option<Duration>,
    #[command(flatten)]
    guards: Guards,
}

/// What `maintenance` is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

impl Bounds {
    /// As the API takes them.
    pub(crate) fn terms(&self) -> HoldTerms {
        let Self { max_age, max_requests, max_bytes } = *self;
        HoldTerms { max_age: max_age.map(Period), max_requests, max_bytes }
    }
}

impl Hold {
    /// Lets new live requests wait.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let HoldTerms { max_age, max_requests, max_bytes } = self.bounds.terms();
        let reason = self.guards.reason().to_owned();
        let body = HoldRequest { max_age, max_requests, max_bytes, reason, if_generation: None };
        let what = format!("cannot hold the requests of {app}");
        self.guards.send(session, what, Method::POST, &app, "hold", &body).await?;
        Ok(Exit::Done)
    }
}

impl Plain {
    /// Ends the hold.
    pub(crate) async fn resume(self, session: &Session) -> Result<Exit, Failure> {
        let (app, guards) = (session.app(self.app).await?, self.guards);
        let what = format!("cannot end the hold of {app}");
        guards.send(session, what, Method::POST, &app, "resume", &guards.plain()).await?;
        Ok(Exit::Done)
    }
}

impl Maintenance {
    /// Keeps live requests out, or lets them in again.
    pub(crate) async fn run(mut self, session: &Session) -> Result<Exit, Failure> {
        let (named, on) = self.asked()?;
        let app = session.app(named).await?;
        if on {
            let question = format!("Answer all live traffic of {app} with the maintenance page?");
            self.guards.confirm(session, &app, |_| Some(question)).await?;
        }
        let body = MaintenanceRequest {
            on,
            retry_after: self.retry_after.map(Period),
            reason: self.guards.reason().to_owned(),
            if_generation: None,
        };
        let what = format!("cannot {} maintenance of {app}", if on { "begin" } else { "end" });
        self.guards.send(session, what, Method::POST, &app, "maintenance", &body).await?;
        Ok(Exit::Done)
    }

    fn asked(&self) -> Result<(Option<AppName>, bool), Failure> {
        let (app, word) = match self.words.as_slice() {
            [app, word] => (Some(app), word),
            [word] => (None, word),
            _ => return Err(Failure::usage("on or off?")),
        };
        let app = app.map(|app| app.parse()).transpose();
        let app = app.map_err(|wrong| Failure::usage(format!("not the name of an app: {wrong}")))?;
        let on = OnOff::from_str(word, false);
        let on =
            on.map_err(|_| Failure::usage(format!("{word:?} is neither on nor off")).hint("write `on` or `off`"))?;
        Ok((app, on == OnOff::On))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_is_of_an_app_or_of_the_only_one() {
        let asked = |words: &[&str]| {
            #[derive(Debug, clap::Parser)]
            struct Line {
                #[command(flatten)]
                verb: Maintenance,
            }
            let line = ["maintenance"].into_iter().chain(words.iter().copied());
            let line = <Line as clap::Parser>::try_parse_from(line).expect("it parses");
            line.verb.asked().map(|(app, on)| (app.map(|app| app.to_string()), on)).map_err(|failure| failure.exit)
        };
        assert_eq!(asked(&["shop", "on"]), Ok((Some("shop".to_owned()), true)));
        assert_eq!(asked(&["off"]), Ok((None, false)));
        assert_eq!(asked(&["shop"]), Err(Exit::Usage));
        assert_eq!(asked(&["sh op", "on"]), Err(Exit::Usage));
    }
}
