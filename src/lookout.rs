//! What the workers leave in their counters, looked at a few times a second on behalf of the switch, so that no request
//! waits for it: endpoints on which requests fail are ejected, and brought back; candidates whose connections are open are
//! said to be warm.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::switch::{AppBoard, AppName, Feed, Judge, Revision, Sentence, Viewer};

/// How often.
const EVERY: Duration = Duration::from_millis(200);

/// Looks, for ever.
pub async fn run(viewer: Viewer, feed: Feed) {
    let mut judge = Judge::default();
    let mut looks = interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let board = viewer.board();
        for (name, app) in &board.apps {
            for (revision, endpoint, sentence) in sentences(&mut judge, app) {
                tell(name, app, &revision, endpoint, sentence);
                let reason = match sentence {
                    Sentence::Eject { reason, .. } => Some(reason),
                    Sentence::Return => None,
                };
                feed.ejected(name.clone(), revision, endpoint, reason).await;
            }
            if app.has_untold_warmth() {
                feed.warmed(name.clone()).await;
            }
        }
        judge.forget_the_rest();
    }
}

fn sentences(judge: &mut Judge, app: &AppBoard) -> Vec<(Revision, u64, Sentence)> {
    let Some(policy) = &app.policy.ejection else { return Vec::new() };
    let now = Instant::now();
    let of_pool = |(revision, sentences): (&Revision, Vec<_>)| {
        let revision = revision.clone();
        sentences.into_iter().map(move |(endpoint, sentence)| (revision.clone(), endpoint, sentence))
    };
    app.pools.iter().map(|(revision, pool)| (revision, judge.look(pool, policy, now))).flat_map(of_pool).collect()
}

fn tell(app: &AppName, board: &AppBoard, revision: &Revision, endpoint: u64, sentence: Sentence) {
    let endpoints = board.pools.get(revision).map_or(&[][..], |pool| pool.endpoints());
    let Some(endpoint) = endpoints.iter().find(|e| e.id() == endpoint).map(|e| e.address()) else { return };
    match sentence {
        Sentence::Eject { reason, lasts } => {
            let (reason, seconds) = (reason.as_str(), lasts.as_secs_f64());
            tracing::warn!(%app, %revision, %endpoint, reason, seconds, "the endpoint is ejected");
        }
        Sentence::Return => tracing::info!(%app, %revision, %endpoint, "the endpoint is no longer ejected"),
    }
}
