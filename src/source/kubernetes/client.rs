//! The way to the API server: found as `kubectl` finds it, or as the configuration says.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{sync::Notify, time::timeout};
use tower_service::Service;

use super::{Cluster, chain};

/// How long a connect to the API server may take, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the API server may take to begin an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long it may be silent within an answer: longer than a watch goes on.
const SILENCE: Duration = Duration::from_secs(60);

/// A client for this cluster. It opens no connection yet. An error says what is wrong with how the cluster is to be found.
pub(super) async fn connect(cluster: &Cluster) -> Result<Client, String> {
    let mut config = found(cluster).await?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(ANSWER);
    config.reset_reader_on_write = true;
    // Watches try again by themselves, and say so; commands are for their callers to repeat.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| format!("the cluster cannot be spoken to: {}", chain(&error)))
}

async fn found(cluster: &Cluster) -> Result<Config, String> {
    let options = KubeConfigOptions { context: cluster.context.clone(), ..KubeConfigOptions::default() };
    match (&cluster.kubeconfig, &cluster.context) {
        (Some(path), _) => {
            let unreadable = |error| format!("the kubeconfig {} is of no use: {}", path.display(), chain(&error));
            let file = Kubeconfig::read_from(path).map_err(unreadable)?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(unreadable)
        }
        (None, Some(_)) => Config::from_kubeconfig(&options)
            .await
            .map_err(|error| format!("no kubeconfig is of use: {}", chain(&error))),
        (None, None) => Config::infer().await.map_err(|error| {
            format!(
                "no cluster was found: {}; set `kubernetes.kubeconfig`, or run in a pod with a service account",
                chain(&error)
            )
        }),
    }
}

/// Whether a watch is in trouble, told by whoever sees its answers: a watch that is taken up again is silent until
/// something changes, and until then nobody would know that it is well.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse {
    in_trouble: Arc<AtomicBool>,
    recovered: Arc<Notify>,
}

impl Pulse {
    /// The watch has failed.
    pub(super) fn fails(&self) {
        self.in_trouble.store(true, Relaxed);
    }

    /// Waits until a request of a watch that had failed is answered well.
    pub(super) async fn recovers(&self) {
        self.recovered.notified().await;
    }

    /// The same client, listened to.
    pub(super) fn of(&self, client: &Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        Client::new(Heard { client: client.clone(), pulse: self.clone() }, namespace)
    }

    fn hears(&self, answer: &kube::Result<Response<Body>>) {
        let well = answer.as_ref().is_ok_and(|response| response.status().is_success());
        if well && self.in_trouble.swap(false, Relaxed) {
            self.recovered.notify_one();
        }
    }
}

/// A client whose answers are listened to, and do not take for ever to begin.
struct Heard {
    client: Client,
    pulse: Pulse,
}

/// No answer has begun in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", ANSWER.as_secs())]
struct NoAnswer;

impl Service<Request<Body>> for Heard {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = kube::Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<kube::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, pulse) = (self.client.clone(), self.pulse.clone());
        Box::pin(async move {
            let answer = timeout(ANSWER, client.send(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(kube::Error::Service(Box::new(NoAnswer))));
            pulse.hears(&answer);
            answer
        })
    }
}
