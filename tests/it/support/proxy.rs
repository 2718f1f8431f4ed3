//! The proxy in this very process, on ports the system chose: for all that needs no signal and no kill.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::Value;
use tealgate::{config::Config, server::Server};

use super::{
    admin::Admin,
    backend::Backend,
    client::{Client, Protocol},
    eventually,
    setup::{APP, Setup},
    within,
};

/// A running proxy.
pub struct Proxy {
    pub live: SocketAddr,
    pub preview: SocketAddr,
    pub health: SocketAddr,
    pub admin: Admin,
    pub server: Server,
    setup: Setup,
}

impl Proxy {
    /// Starts it between two upstreams, and waits until both pools are ready.
    pub async fn between(blue: &Backend, green: &Backend) -> Self {
        let proxy = Self::start(Setup::between(blue, green)).await;
        proxy.is_ready_to_promote().await;
        proxy
    }

    /// Starts it by this setup.
    pub async fn start(setup: Setup) -> Self {
        Self::run(setup, None).await
    }

    /// Starts it by this setup in a file, which it can read again.
    pub async fn start_from_file(setup: Setup) -> Self {
        let file = setup.path("tealgate.yaml");
        std::fs::write(&file, setup.yaml()).expect("a file");
        Self::run(setup, Some(file)).await
    }

    async fn run(setup: Setup, file: Option<PathBuf>) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let config = Config::parse(&setup.yaml(), &setup.path("tealgate.yaml")).unwrap_or_else(|e| panic!("{e}"));
        let server =
            within("the proxy to start", Server::start(config, file)).await.unwrap_or_else(|e| panic!("{e:#}"));
        let addresses = server.addresses();
        let listener = |name: &str| {
            let found = addresses.listeners.iter().find(|(n, _)| n == name);
            found.and_then(|(_, address)| address.parse().ok()).unwrap_or_else(|| panic!("no listener {name}"))
        };
        let (live, preview, health) = (listener("live"), listener("preview"), addresses.health);
        Self { live, preview, health, admin: setup.admin(), server, setup }
    }

    /// The app's state.
    pub async fn status(&self) -> Value {
        self.admin.status(APP).await
    }

    /// Promotes the candidate, and answers the receipt.
    pub async fn promote(&self) -> Value {
        self.admin.promote(APP).await
    }

    /// Returns to the revision before, and answers the receipt.
    pub async fn rollback(&self) -> Value {
        self.admin.rollback(APP).await
    }

    /// Waits until the app is in this phase.
    pub async fn reached(&self, phase: &str) {
        eventually(&format!("the app to be {phase}"), async || self.status().await["phase"] == phase).await;
    }

    /// Waits until the active pool and the candidate have all their endpoints ready.
    pub async fn is_ready_to_promote(&self) {
        eventually("both pools to be ready", async || {
            let status = self.status().await;
            ["active", "preview"].iter().all(|role| status[role]["ready"] == status[role]["total"])
        })
        .await;
    }

    /// A new client of the live address.
    pub async fn client(&self, protocol: Protocol) -> Client {
        Client::connect(protocol, self.live).await.expect("it accepts")
    }

    /// The value of a metric: all its series added up whose labels contain these parts.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let mut client = Client::connect(Protocol::H1, self.health).await.expect("the health listener accepts");
        let text = client.get("/metrics").await.expect("metrics").text();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
        });
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Stops it in good order, within this time; answers how many connections were cut.
    pub async fn shutdown(self, patience: Duration) -> usize {
        within("the proxy to end", self.server.shutdown(patience)).await
    }

    /// What it runs by; its directory lives as long as the proxy.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }
}
