//! The verbs that read a configuration file: `serve` runs the proxy until a signal ends it, `check` and `schema` only
//! look.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use tracing::{info, warn};

use super::{
    failure::{Exit, Failure},
    output::{BOLD, DIM, GOOD, Output, Page, Show, print},
    signals::Signals,
    systemd,
};
use crate::{
    config::Config,
    proxy::{Bind, ListenerRole},
    server::{Addresses, Server},
    switch::HostPattern,
    telemetry,
};

/// What a drain is given beyond the longest drain timeout of an app: the time to close what is left, in order.
const CLOSING: Duration = Duration::from_secs(5);

/// `tealgate serve`
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration file (YAML)
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

/// `tealgate check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The configuration file (YAML)
    #[arg(long, short, value_name = "FILE", default_value = "/etc/tealgate/tealgate.yaml")]
    config: PathBuf,
}

impl Serve {
    /// Runs the proxy until it is told to end.
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        use_crypto();
        let config = load(&self.config)?;
        let log = telemetry::init(&config.log)
            .map_err(|error| Failure::usage("cannot start the log").detail(error.to_string()))?;
        let patience = patience(&config);
        // Before the first listener opens: a signal that comes early is not lost.
        let mut signals = Signals::listen()?;
        let server = start(config, Some(self.config)).await?;
        server.attach_log(log);
        announce(server.addresses())?;
        systemd::ready();
        tokio::spawn(systemd::stay_alive());
        while signals.reload().await {
            systemd::reloading();
            // The server logs what came of it.
            server.reload().await.ok();
            systemd::ready();
        }
        systemd::stopping();
        info!(within = ?patience, "draining");
        tokio::select! {
            cut = server.shutdown(patience) => info!(cut, "ended"),
            () = signals.interrupt() => warn!("ended at once, as asked; what was in flight is cut"),
        }
        Ok(Exit::Done)
    }
}

/// Starts the proxy; what stands in its way is an error of the configuration or of the machine it is for.
pub(crate) async fn start(config: Config, file: Option<PathBuf>) -> Result<Server, Failure> {
    Server::start(config, file).await.map_err(|error| Failure::new(Exit::Failed, "cannot start").detail(causes(&error)))
}

/// The error and its causes, from the outside in; what one has said of the next is not said again.
fn causes(error: &anyhow::Error) -> String {
    let causes = error.chain().map(ToString::to_string);
    let chain = causes.reduce(|said, cause| if said.contains(&cause) { said } else { format!("{said}: {cause}") });
    chain.unwrap_or_default()
}

/// Makes aws-lc-rs the one provider of TLS's cryptography. A second call changes nothing.
pub(crate) fn use_crypto() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
}

fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|errors| match errors.iter().next() {
        // It is not what the file says, but that it cannot be read.
        Some(whole) if whole.line == 0 => Failure::usage(whole.summary()),
        _ => Failure::usage(format!("{} is not a valid configuration", file.display()))
            .detail(errors.to_string())
            .hint("`tealgate schema` describes the whole file"),
    })
}

/// How long a drain may take: the longest that an app allows its requests, and a little more.
fn patience(config: &Config) -> Duration {
    let drains = config.desired.policies().map(|policy| policy.drain.timeout);
    drains.max().unwrap_or_default() + CLOSING
}

/// Says where the proxy listens: to a person in one block, otherwise in the log.
fn announce(addresses: &Addresses) -> Result<(), Failure> {
    let listeners = addresses.listeners.iter().map(|(name, address)| (name.as_str(), address.as_str()));
    let admin = addresses.admin.iter().map(|address| ("admin", address.as_str()));
    let health = addresses.health.to_string();
    let all = listeners.chain(admin).chain([("health", health.as_str())]);
    if !io::stderr().is_terminal() {
        all.for_each(|(name, address)| info!(name, address, "listening"));
        return Ok(());
    }
    let mut err = anstream::stderr();
    writeln!(err, "{BOLD}tealgate {}{BOLD:#} is {GOOD}ready{GOOD:#}", env!("CARGO_PKG_VERSION"))?;
    for (name, address) in all {
        writeln!(err, "  {name:<12} {address}")?;
    }
    Ok(writeln!(err, "{DIM}ctrl-c drains and ends; a second one ends at once{DIM:#}")?)
}

impl Check {
    /// Loads the file and shows what it says.
    pub(crate) fn run(self, output: Output) -> Result<Exit, Failure> {
        use_crypto();
        let config = load(&self.config)?;
        output.show(&Checked::of(&config))?;
        Ok(Exit::Done)
    }
}

/// Prints the schema of the file.
pub(crate) fn schema() -> Result<Exit, Failure> {
    let schema = serde_json::to_string_pretty(&crate::config::schema())
        .map_err(|error| Failure::new(Exit::Failed, "cannot write the schema").detail(error.to_string()))?;
    print(&(schema + "\n"))?;
    Ok(Exit::Done)
}

/// A good file in short.
#[derive(Serialize)]
struct Checked {
    ok: bool,
    workers: usize,
    listeners: Vec<CheckedListener>,
    apps: Vec<CheckedApp>,
}

#[derive(Serialize)]
struct CheckedListener {
    name: String,
    bind: String,
    role: &'static str,
    tls: bool,
}

#[derive(Serialize)]
struct CheckedApp {
    name: String,
    hosts: Vec<String>,
    source: String,
    /// Of an app that follows a cluster, the file does not say the rest.
    active: Option<String>,
    preview: Option<String>,
    revisions: Option<usize>,
    endpoints: Option<usize>,
}

impl Checked {
    fn of(config: &Config) -> Self {
        let listeners = config.listeners.iter().map(|listener| CheckedListener {
            name: listener.name.clone(),
            bind: match &listener.bind {
                Bind::Tcp(address) => address.to_string(),
                Bind::Unix(path) => format!("unix:{}", path.display()),
            },
            role: match listener.role {
                ListenerRole::Live => "live",
                ListenerRole::Preview => "preview",
            },
            tls: listener.tls.is_some(),
        });
        let stated = config.desired.apps.iter().map(|(name, app)| CheckedApp {
            name: name.to_string(),
            hosts: app.matching.hosts.iter().map(host).collect(),
            source: "static".to_owned(),
            active: Some(app.active.to_string()),
            preview: app.preview.as_ref().map(ToString::to_string),
            revisions: Some(app.revisions.len()),
            endpoints: Some(app.revisions.values().map(Vec::len).sum()),
        });
        let followed = config.desired.followed.iter().map(|(name, app)| CheckedApp {
            name: name.to_string(),
            hosts: app.matching.hosts.iter().map(host).collect(),
            source: config.kubernetes.apps.get(name).map(ToString::to_string).unwrap_or_default(),
            active: None,
            preview: None,
            revisions: None,
            endpoints: None,
        });
        let mut apps: Vec<_> = stated.chain(followed).collect();
        apps.sort_by(|one, other| one.name.cmp(&other.name));
        Self { ok: true, workers: config.workers, listeners: listeners.collect(), apps }
    }
}

fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Below(suffix) => format!("*{suffix}"),
    }
}

impl Show for Checked {
    fn names(&self) -> Vec<String> {
        self.apps.iter().map(|app| app.name.clone()).collect()
    }

    fn text(&self, page: &mut Page) {
        let ok = page.paint(GOOD, "ok");
        page.line(ok);
        let listeners = self.listeners.iter().map(|listener| {
            let tls = if listener.tls { "yes" } else { "no" };
            [listener.name.clone(), listener.bind.clone(), listener.role.to_owned(), tls.to_owned()]
        });
        page.table(["LISTENER", "BIND", "ROLE", "TLS"], listeners.collect());
        page.line("");
        let apps = self.apps.iter().map(|app| {
            let hosts = if app.hosts.is_empty() { "(any)".to_owned() } else { app.hosts.join(", ") };
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let count = |count: Option<usize>| or_dash(count.map(|count| count.to_string()));
            let [active, preview] = [app.active.clone(), app.preview.clone()].map(or_dash);
            [app.name.clone(), hosts, app.source.clone(), active, preview, count(app.revisions), count(app.endpoints)]
        });
        page.table(["APP", "HOSTS", "SOURCE", "ACTIVE", "PREVIEW", "REVISIONS", "ENDPOINTS"], apps.collect());
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn every_cause_is_said_and_said_once() {
        let refused = || std::io::Error::other("no such luck");
        let chain = anyhow::Result::<()>::Err(refused().into()).context("the workers cannot be started");
        assert_eq!(causes(&chain.unwrap_err()), "the workers cannot be started: no such luck");
        let chain = anyhow::Error::from(refused()).context("cannot listen: no such luck; listen elsewhere");
        assert_eq!(causes(&chain), "cannot listen: no such luck; listen elsewhere");
    }
}
