//! The configuration, parsed and complete.

use std::{net::SocketAddr, path::PathBuf};

use crate::{admin, proxy::ListenerOptions, switch::Desired, telemetry};

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
}
