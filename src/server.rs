//! The composition root: what is started in which order, how a changed file is taken over, and what is stopped in which
//! order. Everything else gets from here the handles it works with, and no more power than it needs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;
use thiserror::Error;
use tokio::{
    sync::{Mutex, watch},
    task::{JoinSet, spawn_blocking},
};

use crate::{
    admin::{self, AdminServer, Api, HealthServer, ReloadError, Tokens},
    config::{Config, ConfigErrors},
    connector::{Connector, TrustError},
    health, lookout,
    proxy::{Candidate, DataPlane, ListenError},
    readiness::Gate,
    smoke,
    source::{self, FileWatch, Targets},
    switch::{Applied, Control, Feed, Journal, Switch, SwitchOptions},
    telemetry::{self, access_log::AccessLog, metrics::Metrics},
};

/// How often the metrics are told of the certificates in service.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(5);

/// A running Tealgate.
pub struct Server {
    running: Arc<Running>,
    addresses: Addresses,
    control: Control,
    readiness: Gate,
    admin: AdminServer,
    health: HealthServer,
    access: Option<AccessLog>,
    /// What runs beside: probes, metrics, the watch on the file. Ended with the server.
    tasks: JoinSet<()>,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Each listener's name and address, in the order of the configuration.
    pub listeners: Vec<(String, String)>,
    /// The admin API: a Unix socket's path, a TCP address, or both.
    pub admin: Vec<String>,
    /// `/livez`, `/readyz`, `/metrics`.
    pub health: SocketAddr,
}

/// What a reload changed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// Apps added, changed and removed, and what was held back.
    #[serde(flatten)]
    pub applied: Applied,
    /// Settings that differ and take effect with the next start only.
    pub needs_restart: Vec<&'static str>,
}

/// Why a reload changed nothing.
#[derive(Debug, Error)]
pub enum NotReloaded {
    /// The server was not started from a file.
    #[error("this server was not started from a file")]
    NoFile,
    /// The file is wrong.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// A listener cannot be had.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// Endpoints cannot be reached over TLS as it asks.
    #[error("{0}")]
    Trust(#[from] TrustError),
    /// The token file is wrong.
    #[error("{0}")]
    Tokens(#[from] admin::TokensError),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// What a reload works with.
struct Running {
    data_plane: DataPlane,
    connector: Connector,
    feed: Feed,
    /// What is followed in a cluster.
    targets: watch::Sender<Targets>,
    metrics: Arc<Metrics>,
    tokens: Option<Arc<Tokens>>,
    log: OnceLock<telemetry::Handle>,
    file: Option<PathBuf>,
    /// What is in force. The lock makes reloads wait for each other.
    config: Mutex<Config>,
}

impl Server {
    /// Starts everything that `config` asks for, on the current runtime and the workers' own threads, and returns once it
    /// accepts connections. `file` is where the configuration came from: it is read again when it changes.
    pub async fn start(config: Config, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let switch = start_switch(&config).await?;
        let mut tasks = JoinSet::new();

        let metrics = Metrics::new(config.workers, switch.viewer.clone());
        tasks.spawn(Arc::clone(&metrics).follow());
        let access = AccessLog::start(config.log.access, config.workers, Box::new(std::io::stdout()))
            .context("the access log cannot be started")?;

        let connector = Connector::sparing(config.admin.socket.as_deref());
        connector.adopt(connector.prepare(&config.desired).await?);
        tasks.spawn(connector.clone().follow_files());
        let recorder = {
            let (metrics, access) = (Arc::clone(&metrics), access.clone());
            move |worker| metrics.recorder(worker, access.clone())
        };
        let data_plane = DataPlane::start(config.workers, switch.readers.clone(), connector.clone(), recorder)
            .context("the workers cannot be started")?;
        switch.feed.desired(config.desired.clone()).await.context("the switch ended while it was started")?;
        let bound = data_plane.apply(config.listeners.clone()).await?;
        metrics.listeners(bound.iter().map(|bound| bound.name.as_str()));
        let looking_up = source::look_up(
            switch.viewer.clone(),
            switch.feed.clone(),
            source::system_resolver(),
            config.state_dir.clone(),
        );
        tasks.spawn(looking_up);
        tasks.spawn(health::run(switch.viewer.clone(), switch.feed.clone(), connector.clone()));
        tasks.spawn(lookout::run(switch.viewer.clone(), switch.feed.clone()));
        let entry = data_plane.entry();
        let open = Arc::new(move |app, revision| entry.open(Candidate { app, revision }));
        tasks.spawn(smoke::run(switch.viewer.clone(), switch.feed.clone(), open));
        let targets = watch::Sender::new(config.kubernetes.clone());
        #[cfg(feature = "kubernetes")]
        let (authorities, review) = follow_clusters(&mut tasks, &targets, &switch);
        #[cfg(not(feature = "kubernetes"))]
        let (authorities, review) = (None, None);

        let tokens = config.admin.tokens.as_deref().map(Tokens::load).transpose()?.map(Arc::new);
        let (health, admin_options) = (config.health, config.admin.clone());
        let running = Arc::new(Running {
            data_plane,
            connector: connector.clone(),
            feed: switch.feed,
            targets,
            metrics: Arc::clone(&metrics),
            tokens: tokens.clone(),
            log: OnceLock::new(),
            file: file.clone(),
            config: Mutex::new(config),
        });
        tasks.spawn(follow_certificates(Arc::clone(&running)));
        let readiness = Gate::new(&switch.viewer.board());
        tasks.spawn(readiness.open(switch.viewer.clone()));
        let api = Api {
            control: switch.control.clone(),
            viewer: switch.viewer,
            authorities,
            mirrors: metrics.mirrors(),
            reload: reload_call(&running),
            tokens,
            review: review.filter(|_| admin_options.kubernetes_auth),
            version: admin::api::Version::of_this_build(),
        };
        let admin = AdminServer::start(&admin_options, api).await?;
        let health = HealthServer::start(health, readiness.subscribe(), Arc::new(move || metrics.render())).await?;
        if let Some(file) = file {
            tasks.spawn(follow_file(Arc::clone(&running), file));
        }

        let socket = admin.socket().map(|path| format!("unix:{}", path.display()));
        let addresses = Addresses {
            listeners: bound.into_iter().map(|bound| (bound.name, bound.bind.to_string())).collect(),
            admin: socket.into_iter().chain(admin.address().map(|address| format!("http://{address}"))).collect(),
            health: health.address(),
        };
        Ok(Self { running, addresses, control: switch.control, readiness, admin, health, access, tasks })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Lets a reload set the level of this log.
    pub fn attach_log(&self, log: telemetry::Handle) {
        self.running.log.set(log).ok();
    }

    /// Reads the file again and takes over what changed, or nothing.
    pub async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        self.running.reload().await
    }

    /// Stops: from now on not ready, no new connection, and what is in flight has `within` to finish. Returns how many
    /// connections were cut then.
    pub async fn shutdown(mut self, within: Duration) -> usize {
        self.readiness.drain();
        let cut = self.running.data_plane.drain(within).await;
        self.admin.stop().await;
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        self.control.stop().await;
        self.health.stop().await;
        if let Some(access) = self.access {
            spawn_blocking(move || access.close()).await.ok();
        }
        cut
    }
}

/// Follows what the targets name, and gives the powers to ask there: for what people want of a rollout, and about callers.
#[cfg(feature = "kubernetes")]
fn follow_clusters(
    tasks: &mut JoinSet<()>,
    targets: &watch::Sender<Targets>,
    switch: &Switch,
) -> (Option<Arc<dyn crate::switch::Authorities>>, Option<admin::Review>) {
    use source::kubernetes::{Alarms, Commander, follow};

    let alarms = watch::Sender::new(Alarms::new());
    tasks.spawn(follow(targets.subscribe(), alarms.subscribe(), switch.feed.clone()));
    let (commander, desk) = Commander::new(targets.subscribe(), switch.control.clone(), switch.viewer.clone());
    tasks.spawn(commander.clone().attend(desk, alarms));
    let reviewer = commander.clone();
    let review: admin::Review = Arc::new(move |token| Box::pin(vouched(reviewer.clone(), token)));
    (Some(Arc::new(commander)), Some(review))
}

/// What the cluster says of a token, as the admin API has it.
#[cfg(feature = "kubernetes")]
async fn vouched(
    commander: source::kubernetes::Commander,
    token: String,
) -> Result<admin::Reviewed, admin::NotReviewed> {
    use source::kubernetes::{Level, Vouched};

    let Vouched { name, level, apps } =
        commander.vouch(token).await.map_err(admin::NotReviewed::Away)?.ok_or(admin::NotReviewed::Unknown)?;
    let role = match level {
        Some(Level::View) => admin::api::Role::Viewer,
        Some(Level::Act) => admin::api::Role::Operator,
        Some(Level::Manage) => admin::api::Role::Admin,
        None => {
            let hint = "grant get, update or manage on apps of tealgate.dev".to_owned();
            return Err(admin::NotReviewed::Powerless { name, hint });
        }
    };
    Ok(admin::Reviewed { name, role, apps })
}

async fn start_switch(config: &Config) -> anyhow::Result<Switch> {
    let journal = match config.state_dir.clone() {
        Some(dir) => Some(spawn_blocking(move || Journal::open(&dir)).await??),
        None => {
            tracing::warn!("no state directory: promotions and rollbacks do not survive a restart");
            None
        }
    };
    if let Some((offset, octets)) = journal.as_ref().and_then(|(_, recovered)| recovered.torn) {
        tracing::warn!(
            offset,
            octets,
            "the journal's last record was torn and has been cut off; it was never acknowledged"
        );
    }
    Ok(Switch::start(SwitchOptions { workers: config.workers, replica: replica_name(), journal })?)
}

/// The host's name, which is the Pod's name in Kubernetes.
fn replica_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

fn reload_call(running: &Arc<Running>) -> admin::Reload {
    let running = Arc::clone(running);
    Arc::new(move || {
        let running = Arc::clone(&running);
        Box::pin(async move {
            let reloaded = running.reload().await.map_err(|error| ReloadError { detail: error.to_string() })?;
            Ok(serde_json::to_value(reloaded).unwrap_or_default())
        })
    })
}

/// Takes the file over whenever it, or a file it names, has changed.
async fn follow_file(running: Arc<Running>, file: PathBuf) {
    let mut watch = FileWatch::start(&file);
    // It may have changed between the start and now.
    let in_force = running.config.lock().await.clone();
    if read(&file).await.is_ok_and(|config| config != in_force) {
        running.reload().await.ok();
    }
    loop {
        watch.follow(running.config.lock().await.files());
        watch.changed().await;
        // What is wrong is logged where it is found; the next change gets its own chance.
        running.reload().await.ok();
    }
}

/// Keeps the metrics told of the certificates in service: files are renewed without anybody asking.
async fn follow_certificates(running: Arc<Running>) {
    let mut looks = tokio::time::interval(CERTIFICATE_INTERVAL);
    loop {
        looks.tick().await;
        let mut ends: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for facts in running.data_plane.certificates().await {
            ends.entry(facts.listener).or_default().push((facts.file.display().to_string(), facts.ends));
        }
        running.metrics.certificates(ends);
    }
}

impl Running {
    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        let reloaded = self.take_over().await;
        self.metrics.reloaded(reloaded.is_ok());
        match &reloaded {
            Ok(Reloaded { applied, needs_restart }) => {
                let Applied { added, changed, removed, held_back } = applied;
                tracing::info!(?added, ?changed, ?removed, ?held_back, ?needs_restart, "configuration reloaded");
            }
            Err(error) => tracing::error!("configuration not reloaded, the old one stays in force:\n{error}"),
        }
        reloaded
    }

    /// What can fail comes first, so that a failure leaves everything as it was.
    async fn take_over(&self) -> Result<Reloaded, NotReloaded> {
        let mut in_force = self.config.lock().await;
        let file = self.file.clone().ok_or(NotReloaded::NoFile)?;
        let config = read(&file).await?;
        if let Some(tokens) = &self.tokens {
            tokens.reload()?;
        }
        let prepared = self.connector.prepare(&config.desired).await?;
        let bound = self.data_plane.apply(config.listeners.clone()).await?;
        self.metrics.listeners(bound.iter().map(|bound| bound.name.as_str()));
        self.connector.adopt(prepared);
        let applied = self.feed.desired(config.desired.clone()).await.ok_or(NotReloaded::Stopping)?;
        self.targets.send_replace(config.kubernetes.clone());
        if let Some(log) = self.log.get() {
            log.set_level(config.log.level);
        }
        let needs_restart = needs_restart(&in_force, &config);
        *in_force = config;
        Ok(Reloaded { applied, needs_restart })
    }
}

async fn read(file: &Path) -> Result<Config, NotReloaded> {
    let file = file.to_owned();
    match spawn_blocking(move || Config::load(&file)).await {
        Ok(config) => Ok(config?),
        // The runtime is being shut down.
        Err(_) => Err(NotReloaded::Stopping),
    }
}

/// The settings that are read at the start only and differ between the two.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("workers", old.workers != new.workers),
        ("log.format", old.log.format != new.log.format),
        ("log.access", old.log.access != new.log.access),
        ("admin", old.admin != new.admin),
        ("health.bind", old.health != new.health),
        ("state.dir", old.state_dir != new.state_dir),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(setting, _)| setting).collect()
}
