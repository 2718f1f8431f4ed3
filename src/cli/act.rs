//! The verbs that change something. Each is one call of the admin API, whose receipt is printed; the guards are the
//! same for all.

use std::time::Duration;

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use http::Method;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    client::Call,
    door::Bounds,
    failure::{Exit, Failure},
    parse,
    render::Reached,
    session::{Session, ask, can_ask},
    wait::{self, Goal, Meant},
};
use crate::{
    admin::api::{
        DeployRequest, EndpointRequest, GiveUpRequest, HoldFirst, HoldTerms, KeepRequest, Period, PinRequest,
        PlainRequest, PromoteRequest, RetryRequest, RollbackRequest, Share, WeightRequest,
    },
    switch::{AppName, AppStatus, PoolStatus, Receipt, RefusalCode, Revision, Weight},
};

/// What goes with every change.
#[derive(Debug, Args)]
pub(crate) struct Guards {
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Only if the app's generation is still N; otherwise exit 5
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,
    /// Why; it goes into the journal, with your name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Do not ask for confirmation on a terminal
    #[arg(long, short)]
    yes: bool,
}

/// `tealgate deploy`
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// The revision's name: 1 to 63 letters, digits, '-', '_' or '.'
    #[arg(long, value_name = "REVISION")]
    revision: Revision,
    /// An endpoint that serves it: IP:PORT, NAME:PORT (every address the name has) or unix:/PATH, with a weight of 1 to
    /// 256 (default 1); repeat for each
    #[arg(long = "endpoint", value_name = "ADDRESS[,WEIGHT]", value_parser = parse::endpoint, required = true)]
    endpoints: Vec<EndpointRequest>,
    /// A label shown with the revision; repeat for each
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    guards: Guards,
}

/// `tealgate promote`
#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// Only if the candidate is this revision
    #[arg(long, value_name = "REVISION")]
    revision: Option<Revision>,
    /// Wait until the candidate may be promoted (--timeout, default 10m); one that is active already is done
    #[arg(long)]
    when_ready: bool,
    /// With --when-ready: the candidate made of this image, by its label `image`: NAME:TAG, or its digest (sha256:…)
    #[arg(long, value_name = "IMAGE", requires = "when_ready", conflicts_with = "revision")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    image: Option<String>,
    /// Set the gates aside; wants --reason and the role admin. A pool without ready endpoints is refused all the same
    #[arg(long, requires = "reason", conflicts_with = "when_ready")]
    skip_gates: bool,
    /// For changes where old and new must not overlap: let new requests wait, move them when the old revision is idle.
    /// If it is not within --max-age, nothing has moved
    #[arg(long)]
    hold: bool,
    #[command(flatten)]
    bounds: Bounds,
    /// When to return: `flipped` as soon as traffic has moved, `drained` when the replaced pool is empty as well
    #[arg(long, value_name = "WHEN", default_value = "flipped")]
    wait: Until,
    #[command(flatten)]
    guards: Guards,
}

/// How long the answer to a promotion that holds may take, if nobody says.
const HELD_ANSWER: Duration = Duration::from_secs(600);

/// How long before us a server that waits for somebody else is to give up.
const LEAD: Duration = Duration::from_secs(2);
/// The shortest and the longest it waits.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// When `promote` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// Traffic has moved.
    Flipped,
    /// The replaced pool is empty as well.
    Drained,
}

/// `tealgate rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// The revision to go to, if not the previous one; it needs ready endpoints
    #[arg(long, value_name = "REVISION")]
    to: Option<Revision>,
    #[command(flatten)]
    guards: Guards,
}

/// `tealgate abort`, `tealgate reject`
#[derive(Debug, Args)]
pub(crate) struct GiveUp {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// Only this revision: another candidate is left alone (exit 5); where there is none any more, there is nothing to do
    #[arg(long, value_name = "REVISION")]
    revision: Option<Revision>,
    /// The same by its image, as its label `image` has it: NAME:TAG, or its digest (sha256:…)
    #[arg(long, value_name = "IMAGE", conflicts_with = "revision", value_parser = NonEmptyStringValueParser::new())]
    image: Option<String>,
    #[command(flatten)]
    guards: Guards,
}

/// `tealgate retry`
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// Also where Argo Rollouts would promote it at once, without pause and analysis; wants --reason and the role admin
    #[arg(long, requires = "reason")]
    skip_gates: bool,
    #[command(flatten)]
    guards: Guards,
}

/// `tealgate pause`, `unpause`, `unpin`, `resume`
#[derive(Debug, Args)]
pub(crate) struct Plain {
    /// The app; may be left out when the server has exactly one
    pub(super) app: Option<AppName>,
    #[command(flatten)]
    pub(super) guards: Guards,
}

/// `tealgate keep`
#[derive(Debug, Args)]
pub(crate) struct Keep {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// How long from now, 1m to 720h; what it is kept for already is not made shorter
    #[arg(long = "for", value_name = "DURATION", value_parser = parse::duration)]
    period: Duration,
    #[command(flatten)]
    guards: Guards,
}

/// `tealgate weight`
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct SetWeight {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// The share of live traffic, 0% to 100%
    weight: Weight,
    #[command(flatten)]
    guards: Guards,
}

/// `tealgate pin`
#[derive(Debug, Args)]
#[command(mut_arg("reason", |reason| reason.required(true)))]
pub(crate) struct Pin {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// The revision to keep; it must be the active one
    #[arg(long, value_name = "REVISION")]
    revision: Revision,
    /// When the pin ends by itself, e.g. 2h; never if left out
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    guards: Guards,
}

/// `tealgate discard`
#[derive(Debug, Args)]
pub(crate) struct Discard {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// The revision to forget; it must not carry live traffic
    #[arg(long, value_name = "REVISION")]
    revision: Revision,
    #[command(flatten)]
    guards: Guards,
}

impl Deploy {
    /// Makes a revision the candidate.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let body = DeployRequest {
            endpoints: self.endpoints,
            labels: self.labels.into_iter().collect(),
            reason: self.guards.reason.clone(),
            if_generation: None,
        };
        let path = format!("revisions/{}", self.revision);
        let what = format!("cannot deploy {} to {app}", self.revision);
        self.guards.send(session, what, Method::PUT, &app, &path, &body).await?;
        Ok(Exit::Done)
    }
}

impl Promote {
    /// Makes the candidate active, and waits until the replaced pool is empty if asked to.
    pub(crate) async fn run(mut self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app.take()).await?;
        if !self.hold && self.bounds.terms() != HoldTerms::default() {
            return Err(Failure::usage("--max-age, --max-requests and --max-bytes are of a hold").hint("add --hold"));
        }
        let receipt = match self.when_ready {
            true => self.promote_when_ready(session, &app).await?,
            false => Some(self.promote(session, &app).await?),
        };
        match (self.wait, receipt) {
            (Until::Drained, Some(receipt)) if !self.guards.dry_run => {
                wait::until_drained(session, &app, &receipt).await
            }
            (Until::Drained | Until::Flipped, _) => Ok(Exit::Done),
        }
    }

    /// Waits until the candidate may be promoted, promotes it, and looks where traffic goes. `None` if it was active
    /// already: whoever asks again for what was done has it done.
    async fn promote_when_ready(&mut self, session: &Session, app: &AppName) -> Result<Option<Receipt>, Failure> {
        let deadline = wait::deadline(session);
        let active_already = |message| session.output.show(&Reached { app: app.to_string(), message });
        loop {
            let meant = Meant::of(self.revision.clone(), self.image.take());
            let arrival = wait::arrival(session, app, Goal::PreviewReady, meant, deadline).await?;
            if arrival.is_active {
                active_already(arrival.message)?;
                return Ok(None);
            }
            // From now on it is this one or none.
            let revision = arrival.revision.and_then(|revision| revision.parse::<Revision>().ok());
            let revision =
                revision.ok_or_else(|| Failure::new(Exit::Failed, "the server's revision has no valid name"))?;
            self.revision = Some(revision.clone());
            let refused = match self.promote(session, app).await {
                Ok(receipt) if self.guards.dry_run => return Ok(Some(receipt)),
                Ok(receipt) => {
                    let status = session.status(app).await?;
                    return match name(&status.active) {
                        Some(active) if active == revision.as_str() => Ok(Some(receipt)),
                        active => {
                            let active = active.unwrap_or("nothing");
                            let what = format!("{revision} was promoted, and {active} is active now");
                            Err(Failure::new(Exit::RolledBack, what).hint(format!("see `tealgate history {app}`")))
                        }
                    };
                }
                Err(refused) if matches!(refused.exit, Exit::Refused | Exit::Conflict) => refused,
                Err(failure) => return Err(failure),
            };
            // Something may have changed between the look and the order; then it is waited for again.
            match wait::stands(session, app, &revision).await? {
                Some(arrival) if arrival.is_active => {
                    active_already(arrival.message)?;
                    return Ok(None);
                }
                Some(_) => return Err(refused),
                None => {}
            }
        }
    }

    async fn promote(&mut self, session: &Session, app: &AppName) -> Result<Receipt, Failure> {
        self.guards
            .confirm(session, app, |status| {
                let to = self.revision.as_ref().map(Revision::as_str).or_else(|| name(&status.preview))?;
                let from = name(&status.active).unwrap_or("nothing");
                Some(format!("Move all live traffic of {app} from {from} to {to}?"))
            })
            .await?;
        let body = PromoteRequest {
            revision: self.revision.clone(),
            skip_gates: self.skip_gates,
            reason: self.guards.reason.clone(),
            // A server that gives up first says where it hangs.
            timeout: session.timeout.map(|patience| Period(patience.saturating_sub(LEAD).clamp(SHORTEST, LONGEST))),
            hold: HoldFirst(self.hold.then(|| self.bounds.terms())),
            ..PromoteRequest::default()
        };
        let session = &match (self.hold, session.timeout) {
            (true, None) => session.patient(self.bounds.max_age.unwrap_or_default().max(HELD_ANSWER)),
            (true, Some(_)) | (false, _) => session.clone(),
        };
        self.guards.send(session, format!("cannot promote {app}"), Method::POST, app, "promote", &body).await
    }
}

impl Rollback {
    /// Brings an earlier revision back.
    pub(crate) async fn run(mut self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        self.guards
            .confirm(session, &app, |status| {
                let to = self.to.as_ref().map(Revision::as_str).or_else(|| name(&status.previous))?;
                let from = name(&status.active).unwrap_or("nothing");
                Some(format!("Move all live traffic of {app} from {from} back to {to}?"))
            })
            .await?;
        let body = RollbackRequest { to: self.to, reason: self.guards.reason.clone(), if_generation: None };
        let what = format!("cannot roll {app} back");
        self.guards.send(session, what, Method::POST, &app, "rollback", &body).await?;
        Ok(Exit::Done)
    }
}

impl GiveUp {
    /// Drops the candidate.
    pub(crate) async fn abort(self, session: &Session) -> Result<Exit, Failure> {
        self.run(session, "abort", "Drop").await
    }

    /// Gives the candidate up for good.
    pub(crate) async fn reject(self, session: &Session) -> Result<Exit, Failure> {
        self.run(session, "reject", "Reject").await
    }

    async fn run(mut self, session: &Session, verb: &str, question: &str) -> Result<Exit, Failure> {
        let app = session.app(self.app.take()).await?;
        self.guards
            .confirm(session, &app, |status| {
                Some(format!("{question} the candidate {} of {app}?", name(&status.preview)?))
            })
            .await?;
        let (revision, image) = (self.revision, self.image);
        let is_named = revision.is_some() || image.is_some();
        let body = GiveUpRequest { revision, image, reason: self.guards.reason.clone(), if_generation: None };
        let what = format!("cannot {verb} the candidate of {app}");
        match self.guards.send(session, what, Method::POST, &app, verb, &body).await {
            Ok(_) => Ok(Exit::Done),
            // Whoever asks again for what was done has it done.
            Err(none) if is_named && none.code == RefusalCode::NoCandidate.as_str() => {
                session.output.show(&Reached { app: app.to_string(), message: none.detail })?;
                Ok(Exit::Done)
            }
            Err(failure) => Err(failure),
        }
    }
}

impl Retry {
    /// Takes up again what was aborted.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let what = format!("cannot take the rollout of {app} up again");
        let reason = self.guards.reason.clone();
        let body = RetryRequest { skip_gates: self.skip_gates, reason, ..RetryRequest::default() };
        self.guards.send(session, what, Method::POST, &app, "retry", &body).await?;
        Ok(Exit::Done)
    }
}

impl Plain {
    /// Lets the rollout stand where it is.
    pub(crate) async fn pause(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let what = format!("cannot pause the rollout of {app}");
        self.guards.send(session, what, Method::POST, &app, "pause", &self.guards.plain()).await?;
        Ok(Exit::Done)
    }

    /// Lets it go on.
    pub(crate) async fn unpause(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let what = format!("cannot let the rollout of {app} go on");
        self.guards.send(session, what, Method::POST, &app, "unpause", &self.guards.plain()).await?;
        Ok(Exit::Done)
    }

    /// Takes the pin off.
    pub(crate) async fn unpin(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let what = format!("cannot unpin {app}");
        self.guards.send(session, what, Method::DELETE, &app, "pin", &self.guards.plain()).await?;
        Ok(Exit::Done)
    }
}

impl Keep {
    /// Keeps the previous revision longer.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let body = KeepRequest { period: Period(self.period), reason: self.guards.reason.clone(), if_generation: None };
        let what = format!("cannot keep the previous revision of {app}");
        self.guards.send(session, what, Method::POST, &app, "keep", &body).await?;
        Ok(Exit::Done)
    }
}

impl SetWeight {
    /// Sends a share of live traffic to the candidate.
    pub(crate) async fn run(mut self, session: &Session) -> Result<Exit, Failure> {
        let (app, weight) = (session.app(self.app).await?, self.weight);
        self.guards
            .confirm(session, &app, |status| {
                let to = name(&status.preview)?;
                Some(format!("Send {weight} of live traffic of {app} to {to}, instead of {} %?", status.weight))
            })
            .await?;
        let body = WeightRequest { weight: Share(weight), reason: self.guards.reason.clone(), if_generation: None };
        let what = format!("cannot send {weight} of live traffic of {app} to the candidate");
        self.guards.send(session, what, Method::POST, &app, "weight", &body).await?;
        Ok(Exit::Done)
    }
}

impl Pin {
    /// Keeps the active revision active whatever the source says.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let expires = self.expires.map(|after| Timestamp::now().checked_add(after));
        let expires = expires.transpose().map_err(|_| Failure::usage("--expires is too far in the future"))?;
        let what = format!("cannot pin {app} to {}", self.revision);
        let (revision, reason) = (self.revision, self.guards.reason.clone());
        let body = PinRequest { revision, reason, expires, if_generation: None };
        self.guards.send(session, what, Method::POST, &app, "pin", &body).await?;
        Ok(Exit::Done)
    }
}

impl Discard {
    /// Forgets a revision that carries no live traffic.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let app = session.app(self.app).await?;
        let what = format!("cannot discard {} of {app}", self.revision);
        let path = format!("revisions/{}", self.revision);
        self.guards.send(session, what, Method::DELETE, &app, &path, &self.guards.plain()).await?;
        Ok(Exit::Done)
    }
}

/// Has the server read its configuration file again.
pub(crate) async fn reload(session: &Session) -> Result<Exit, Failure> {
    let call = Call::new("cannot reload the configuration", Method::POST, "/reload").body(&serde_json::json!({}));
    let applied: Value = session.client.call(call).await?;
    session.output.show(&applied)?;
    Ok(Exit::Done)
}

impl Guards {
    /// Asks the person at the terminal, if there is one. What was agreed to is what is then asked of the server: if the
    /// app has moved on between question and answer, the server refuses. Where there is nothing to ask, since nothing can
    /// be done, the server says why.
    pub(super) async fn confirm(
        &mut self,
        session: &Session,
        app: &AppName,
        question: impl FnOnce(&AppStatus) -> Option<String>,
    ) -> Result<(), Failure> {
        if self.yes || self.dry_run || !can_ask() {
            return Ok(());
        }
        let status = session.status(app).await?;
        if let Some(question) = question(&status) {
            ask(&question)?;
        }
        self.if_generation.get_or_insert(status.generation);
        Ok(())
    }

    /// Sends the action and prints its receipt.
    pub(super) async fn send(
        &self,
        session: &Session,
        what: String,
        method: Method,
        app: &AppName,
        action: &str,
        body: &impl Serialize,
    ) -> Result<Receipt, Failure> {
        let query = if self.dry_run { "?dryRun=true" } else { "" };
        let call = Call::new(what, method, &format!("/apps/{app}/{action}{query}"));
        let receipt = session.client.call(call.body(body).if_generation(self.if_generation)).await?;
        session.output.show(&receipt)?;
        Ok(receipt)
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn plain(&self) -> PlainRequest {
        PlainRequest { reason: self.reason.clone(), if_generation: None }
    }
}

fn name(pool: &Option<PoolStatus>) -> Option<&str> {
    pool.as_ref().map(|pool| pool.revision.as_str())
}
