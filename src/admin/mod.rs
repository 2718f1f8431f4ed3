//! The admin API.

pub mod api;

use std::{net::SocketAddr, path::PathBuf};

/// Where the admin API listens, and who may use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A Unix socket (mode 0660): whoever may open it is `admin`.
    pub socket: Option<PathBuf>,
    /// A TCP address; it wants `tokens`.
    pub bind: Option<SocketAddr>,
    /// The token file (see `tealgate token`).
    pub tokens: Option<PathBuf>,
}
