//! Whether a server that has just started may take traffic yet: not before what its apps follow has been heard of. A new
//! replica would else be sent requests for apps that it does not know; where it never hears of any, as without the right to
//! look, the replicas before it stay. What is remembered from before a restart is good enough (G6), and whoever was ready
//! once stays so until the drain.

use tokio::sync::watch;

use crate::{
    admin::Readiness,
    switch::{AppName, Board, Viewer},
};

/// What `/readyz` says from the start of a drain on.
const DRAINING: &str = "draining";

/// What `/readyz` tells.
pub(crate) struct Gate {
    told: watch::Sender<Readiness>,
}

impl Gate {
    /// As it stands at the start.
    pub(crate) fn new(board: &Board) -> Self {
        Self { told: watch::Sender::new(judge(board)) }
    }

    /// For whoever answers `/readyz`.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.told.subscribe()
    }

    /// Looks on until it is ready, or drains.
    pub(crate) fn open(&self, mut viewer: Viewer) -> impl Future<Output = ()> + Send + use<> {
        let told = self.told.clone();
        async move {
            loop {
                let now = judge(&viewer.board());
                told.send_if_modified(|told| {
                    let news = is_waiting(told) && *told != now;
                    if news {
                        *told = now;
                    }
                    news
                });
                let waiting = is_waiting(&told.borrow());
                if !waiting || !viewer.changed().await {
                    return;
                }
            }
        }
    }

    /// From now on it is not ready any more, whatever is heard.
    pub(crate) fn drain(&self) {
        self.told.send_replace(Readiness::NotReady(DRAINING.to_owned()));
    }
}

fn is_waiting(told: &Readiness) -> bool {
    matches!(told, Readiness::NotReady(why) if why != DRAINING)
}

/// Not ready while it may still hear of an app for the first time, nor where nothing at all is known to serve.
fn judge(board: &Board) -> Readiness {
    let unseen = || board.apps.iter().filter(|(_, app)| app.rollout.is_unseen());
    let unheard: Vec<_> = unseen().filter(|(_, app)| app.source.problem.is_none()).map(|(name, _)| name).collect();
    if !unheard.is_empty() {
        return Readiness::NotReady(format!("not heard yet of {}", list(&unheard)));
    }
    let known = board.apps.len() - unseen().count();
    match unseen().next() {
        Some((name, app)) if known == 0 => {
            let why = app.source.problem.as_deref().unwrap_or_default();
            Readiness::NotReady(format!("nothing is known to serve; of {name}: {why}"))
        }
        _ => Readiness::Ready,
    }
}

fn list(names: &[&AppName]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}
