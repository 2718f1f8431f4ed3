//! The health listener: `/livez`, `/readyz` and `/metrics`, for whoever probes and scrapes. No authentication, and
//! nothing to change; it stands apart from the admin API so that it can be reached where that must not be.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{StartError, accept::Listener};

/// Whether this process may take traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It may.
    Ready,
    /// It may not, for this reason: one line.
    NotReady(String),
}

/// Makes the text of `/metrics`.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The running health listener.
pub struct HealthServer {
    address: SocketAddr,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Health {
    ready: watch::Receiver<Readiness>,
    metrics: Metrics,
}

impl HealthServer {
    /// Binds, and serves on the current runtime.
    pub async fn start(
        bind: SocketAddr,
        ready: watch::Receiver<Readiness>,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Bind { address: bind, source };
        let listener = Listener::tcp(bind).await.map_err(failed)?;
        let address = listener.address().map_err(failed)?.unwrap_or(bind);
        let closing = CancellationToken::new();
        let task = tokio::spawn(listener.serve(router(Health { ready, metrics }), closing.clone()));
        Ok(Self { address, closing, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, after the calls that are open.
    pub async fn stop(self) {
        self.closing.cancel();
        self.task.await.ok();
    }
}

fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { plain(StatusCode::OK, "ok\n".into()) }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn readyz(State(health): State<Health>) -> Response {
    match &*health.ready.borrow() {
        Readiness::Ready => plain(StatusCode::OK, "ok\n".into()),
        Readiness::NotReady(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let exposition = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (exposition, [(header::CACHE_CONTROL, "no-store")], (health.metrics)()).into_response()
}

fn plain(status: StatusCode, text: String) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], text).into_response()
}

impl fmt::Debug for HealthServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthServer").field("address", &self.address).finish_non_exhaustive()
    }
}
