//! A configuration between two upstreams, to be changed before it is used: it is JSON, and so YAML. Whatever runs by it
//! keeps to a directory of its own.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{admin::Admin, backend::Backend, shell::Minted};

/// The one app's name.
pub const APP: &str = "shop";

/// What to run a proxy by.
pub struct Setup {
    pub config: Value,
    dir: TempDir,
}

impl Setup {
    /// `blue` active, `green` the candidate; two workers, a live and a preview listener, quick probes.
    pub fn between(blue: &Backend, green: &Backend) -> Self {
        let endpoints = |backend: &Backend| json!({ "endpoints": [backend.address()] });
        let mut setup = Self::of(json!({
            "active": blue.colour(),
            "preview": green.colour(),
            "revisions": { blue.colour(): endpoints(blue), green.colour(): endpoints(green) },
        }));
        setup.app()["health"] = quick();
        setup
    }

    /// One active revision, `blue`, with these endpoints, of which a probe wants no more than that they accept.
    pub fn before(endpoints: &[SocketAddr]) -> Self {
        Self::of(json!({ "active": "blue", "revisions": { "blue": { "endpoints": endpoints } } }))
    }

    /// An app that follows these objects of the cluster that this kubeconfig leads to; quick probes.
    pub fn following(objects: Value, kubeconfig: &Path) -> Self {
        let mut setup = Self::of(Value::Null);
        setup.app()["source"] = json!({ "kubernetes": objects });
        setup.app()["health"] = quick();
        setup.config["kubernetes"] = json!({ "kubeconfig": kubeconfig });
        setup
    }

    fn of(source: Value) -> Self {
        let dir = TempDir::new().expect("a directory");
        let any = "127.0.0.1:0";
        let config = json!({
            "version": 1,
            "workers": 2,
            "log": { "level": "warn", "access": "off" },
            "listeners": [{ "name": "live", "bind": any }, { "name": "preview", "bind": any, "role": "preview" }],
            "admin": { "socket": dir.path().join("admin.sock") },
            "health": { "bind": any },
            "state": { "dir": dir.path().join("state") },
            "apps": { APP: { "source": { "static": source } } },
        });
        Self { config, dir }
    }

    /// The app's part, to be changed: `setup.app()["drain"] = json!({ "timeout": "1s" })`.
    pub fn app(&mut self) -> &mut Value {
        &mut self.config["apps"][APP]
    }

    /// A listener's part: `live` or `preview`.
    pub fn listener(&mut self, name: &str) -> &mut Value {
        let listeners = self.config["listeners"].as_array_mut().expect("listeners");
        listeners.iter_mut().find(|listener| listener["name"] == name).expect("a listener of that name")
    }

    /// Puts ports the system has free now in the place of those it would choose, and answers the live, the preview and the
    /// health address: for a process, which cannot be asked what it was given.
    pub fn settle(&mut self) -> [SocketAddr; 3] {
        let [live, preview, health] = [(); 3].map(|()| free());
        self.listener("live")["bind"] = json!(live);
        self.listener("preview")["bind"] = json!(preview);
        self.config["health"]["bind"] = json!(health);
        [live, preview, health]
    }

    /// Opens the admin API on TCP as well, to the holders of these tokens.
    pub fn open_to(&mut self, tokens: &[&Minted]) -> SocketAddr {
        let address = free();
        self.write_tokens(tokens);
        self.config["admin"]["bind"] = json!(address);
        self.config["admin"]["tokens"] = json!(self.path("tokens.yaml"));
        address
    }

    /// Writes the token file, also while the server runs.
    pub fn write_tokens(&self, tokens: &[&Minted]) {
        let entries: Vec<_> = tokens.iter().map(|minted| &minted.entry).collect();
        let (aside, path) = (self.path("tokens.yaml.new"), self.path("tokens.yaml"));
        fs::write(&aside, json!({ "tokens": entries }).to_string())
            .and_then(|()| fs::rename(aside, path))
            .expect("a file");
    }

    /// The text of the file.
    pub fn yaml(&self) -> String {
        format!("{:#}", self.config)
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn admin(&self) -> Admin {
        Admin { socket: self.path("admin.sock") }
    }
}

/// Probes that see a change at once.
fn quick() -> Value {
    json!({ "path": "/healthz", "interval": "50ms", "timeout": "2s", "rise": 1, "fall": 2 })
}

/// An address that nobody listens on, given out once. Its port lies below those that the system gives to connections: one
/// of those could be in use by the time a process comes to listen on it.
pub fn free() -> SocketAddr {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], 10_000 + NEXT.fetch_add(1, Relaxed) % 20_000));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
