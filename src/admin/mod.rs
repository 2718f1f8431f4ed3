//! The admin API: promote, roll back, look. [`AdminServer`] binds its sockets; a request passes `accept` (connections),
//! `edge` (foreign web pages, headers of safety), `caller` (who asks), and reaches one of `actions`, `rollouts`, `doors`,
//! `views` or `events`; what is to be done has `work` carried out.
//! An error leaves as the [`api::Problem`] that `problem` makes of it. [`HealthServer`] is the listener beside it that
//! asks for no name.
//!
//! It holds the power to act and to look ([`Api`]), and decides nothing itself: whether an action is carried out is the
//! switch's to say.

pub mod api;

mod accept;
mod action;
mod actions;
mod answers;
mod caller;
mod doors;
mod edge;
mod events;
mod health;
mod links;
mod problem;
mod review;
mod rollouts;
mod routes;
mod smoke;
#[cfg(test)]
mod tests;
mod tokens;
mod views;
mod work;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::accept::Listener;
pub use self::{
    health::{HealthServer, Metrics, Readiness},
    review::{NotReviewed, Review, Reviewed},
    routes::{Api, Reload, ReloadError},
    tokens::{TokenEntry, Tokens, TokensError, mint},
};
use crate::switch::HostPattern;

/// Where the admin API listens, and who may use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A Unix socket (mode 0660): whoever may open it is `admin`.
    pub socket: Option<PathBuf>,
    /// A TCP address; it wants `tokens` or `kubernetes_auth`.
    pub bind: Option<SocketAddr>,
    /// Names that requests on the TCP address may be for, besides its IP address and `localhost`.
    pub hosts: Vec<HostPattern>,
    /// The token file (see `tealgate token`).
    pub tokens: Option<PathBuf>,
    /// Whether to let in whom the cluster vouches for.
    pub kubernetes_auth: bool,
}

/// The running admin API.
pub struct AdminServer {
    socket: Option<PathBuf>,
    address: Option<SocketAddr>,
    closing: CancellationToken,
    listeners: JoinSet<()>,
}

/// Why a listener could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A TCP address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A Unix socket cannot be made.
    #[error("cannot listen on {}: {source}", path.display())]
    Socket {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// On TCP nobody could be told from anybody else.
    #[error(
        "the admin API on {address} wants a token file: set admin.tokens or admin.kubernetes_auth, or use admin.socket"
    )]
    NoTokens {
        /// The address.
        address: SocketAddr,
    },
}

impl AdminServer {
    /// Binds what the options name, and serves on the current runtime. Of the options' token file nothing is read here:
    /// `api.tokens` are in force.
    pub async fn start(options: &Options, api: Api) -> Result<Self, StartError> {
        let mut bound = Vec::new();
        if let Some(path) = &options.socket {
            let listener = Listener::unix(path).await;
            bound.push(listener.map_err(|source| StartError::Socket { path: path.clone(), source })?);
        }
        let mut address = None;
        if let Some(asked) = options.bind {
            if api.tokens.is_none() && api.review.is_none() {
                return Err(StartError::NoTokens { address: asked });
            }
            let failed = |source| StartError::Bind { address: asked, source };
            let listener = Listener::tcp(asked).await.map_err(failed)?;
            address = listener.address().map_err(failed)?;
            bound.push(listener);
        }
        let closing = CancellationToken::new();
        let router = routes::router(api, &options.hosts, closing.clone());
        let mut listeners = JoinSet::new();
        for listener in bound {
            listeners.spawn(listener.serve(router.clone(), closing.clone()));
        }
        Ok(Self { socket: options.socket.clone(), address, closing, listeners })
    }

    /// The Unix socket it listens on.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The TCP address it listens on, with the port that was given if 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Ends it: no new connection, event streams end, open calls get five seconds.
    pub async fn stop(mut self) {
        self.closing.cancel();
        while self.listeners.join_next().await.is_some() {}
    }
}

impl fmt::Debug for AdminServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { socket, address, .. } = self;
        f.debug_struct("AdminServer").field("socket", socket).field("address", address).finish_non_exhaustive()
    }
}
