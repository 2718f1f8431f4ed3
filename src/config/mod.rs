//! The configuration, parsed and complete.
//!
//! ```text
//! text ──▶ syntax ──▶ file::File (as written, every value with its place) ──▶ Pass::config ──▶ Config
//! ```
//!
//! The file is strict: an unknown key, a bad value or a dangling reference is an error with its place, and an error
//! anywhere means no configuration at all, so a reload either takes the whole file or changes nothing. `syntax` stops at
//! the first error; the pass over the values finds them all.

mod address;
mod audience;
mod balancing;
mod claims;
mod duration;
mod environment;
mod error;
mod file;
mod kubernetes;
mod mirror;
mod node;
mod not_yet;
mod notation;
mod pass;
mod places;
mod schema;
mod size;
mod smoke;
mod syntax;
#[cfg(test)]
mod tests;
mod translate;

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use self::{
    environment::Environment,
    error::{Document, Findings, Wrong},
    pass::Pass,
};
pub use self::{
    error::{ConfigError, ConfigErrors},
    places::{default_socket, default_state_dir},
    schema::schema,
};
use crate::{
    admin,
    proxy::{ListenerOptions, TlsOptions},
    source::Targets,
    switch::Desired,
    telemetry,
};

/// An amount of data as the file writes it (`64MiB`, `10kB`, a number of octets), for the command line.
pub(crate) fn octets(text: &str) -> Result<u64, String> {
    size::read(text).map_err(|Wrong { what, hint }| hint.map_or_else(|| what.clone(), |hint| format!("{what}; {hint}")))
}

/// All that the file says, checked, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Data-plane threads, one or more.
    pub workers: usize,
    /// What is logged, and how.
    pub log: telemetry::Options,
    /// Where traffic is accepted.
    pub listeners: Vec<ListenerOptions>,
    /// The admin API.
    pub admin: admin::Options,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub health: SocketAddr,
    /// Where run-time state is kept; `None` keeps it in memory only.
    pub state_dir: Option<PathBuf>,
    /// The apps.
    pub desired: Desired,
    /// What those of them follow that follow a cluster.
    pub kubernetes: Targets,
    /// The files that secrets were read from.
    pub secret_files: Vec<PathBuf>,
}

impl Config {
    /// Reads a file, and makes sure that the files it names (certificates, keys, tokens, pages) are there and hold what
    /// they should.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        let unreadable = |error| {
            let wrong = Wrong::new(format!("the configuration cannot be read: {error}"));
            Document { file, text: "" }.wrong(wrong)
        };
        let octets = pass::read_up_to(file, syntax::LARGEST).map_err(unreadable)?;
        parse(&octets, file, &variable, true)
    }

    /// Reads the text of a file. `file` names it in errors, and relative paths in it start at its directory; neither it
    /// nor any file it names is opened, so error pages are empty.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigErrors> {
        parse(text.as_bytes(), file, &variable, false)
    }

    /// The files it names, each once: certificates, keys, authorities, tokens, secrets, pages. When one of them changes,
    /// whoever uses it reads it anew.
    pub fn files(&self) -> Vec<PathBuf> {
        let tls = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let transports = self.desired.policies().filter_map(|policy| policy.transport.tls.as_ref());
        let towards_endpoints = transports.flat_map(|tls| tls.files());
        let pages = self.desired.policies().flat_map(|policy| policy.errors.0.values()).map(|page| &page.file);
        let named = tls.flat_map(TlsOptions::files).chain(towards_endpoints).chain(&self.admin.tokens);
        let mut seen = HashSet::new();
        named.chain(pages).chain(&self.secret_files).filter(|file| seen.insert(*file)).cloned().collect()
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn parse(octets: &[u8], file: &Path, environment: Environment<'_>, open_files: bool) -> Result<Config, ConfigErrors> {
    let text = syntax::text(octets).map_err(|wrong| Document { file, text: "" }.wrong(wrong))?;
    let document = Document { file, text };
    let written = syntax::parse(document)?;
    let (findings, secret_files) = (Findings::default(), Vec::new());
    let mut pass = Pass { document, environment, open_files, findings, secret_files };
    let config = pass.config(&written);
    pass.findings.or(config)
}
