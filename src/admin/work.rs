//! What an action asks for on its way: to the switch, or to the app's authority; once for each key for safe retries. What
//! came of it is logged, and made the answer.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use tracing::{info, warn};

use super::{action::Terms, answers::Outcome, problem::Error, routes::Admin};
use crate::switch::{AppName, Authority, Command, Order, Petition, Receipt, Refusal, RefusalCode, Tenure};

/// What goes with that which one replica does by itself.
const ALONE: &str = "this holds at this replica alone, the others are not told: where there are more, send the same to the \
                     admin API of each";

/// What is asked for, by who decides it.
pub(super) enum Work {
    /// The switch.
    Ours(Order),
    /// The app's authority.
    Theirs(Petition),
}

impl From<Order> for Work {
    fn from(order: Order) -> Self {
        Self::Ours(order)
    }
}

impl From<Petition> for Work {
    fn from(petition: Petition) -> Self {
        Self::Theirs(petition)
    }
}

impl Admin {
    pub(super) async fn act(self: Arc<Self>, terms: Terms, work: impl Into<Work>) -> Result<Response, Error> {
        let (outcome, replayed) = self.outcome(terms, work.into()).await;
        Ok(answer(outcome, replayed))
    }

    pub(super) async fn outcome(self: &Arc<Self>, terms: Terms, work: Work) -> (Outcome, bool) {
        let admin = Arc::clone(self);
        self.answers.once(terms.key, async move { admin.submit(work).await }).await
    }

    /// Has it done by who decides it.
    pub(super) async fn carry_out(&self, work: Work) -> Result<Receipt, Refusal> {
        match work {
            Work::Ours(order) => {
                let returns = matches!(order.command, Command::Rollback { .. }) && !order.dry_run;
                let alone = self.is_for_this_replica_alone(&order);
                let mut receipt = self.api.control.submit(order).await?;
                receipt.warnings.extend(alone.then(|| ALONE.to_owned()));
                if let (true, Some(authorities)) = (returns, &self.api.authorities) {
                    let untold = authorities.told(&receipt).await;
                    receipt.warnings.extend(untold);
                }
                Ok(receipt)
            }
            Work::Theirs(petition) => match &self.api.authorities {
                Some(authorities) => authorities.ask(petition).await,
                None => Err(Refusal {
                    code: RefusalCode::OtherAuthority,
                    detail: format!("another authority decides the rollouts of {}", petition.app),
                    hint: "this proxy was built without the means to ask it: kubectl argo rollouts has them".to_owned(),
                }),
            },
        }
    }

    /// Whether other replicas that follow the same app are not told of it. A rollback is what they are told of, by an
    /// annotation on the Rollout; two Services have nothing to write it on.
    fn is_for_this_replica_alone(&self, order: &Order) -> bool {
        let board = self.api.viewer.board();
        let authority = board.apps.get(&order.app).map(|app| app.rollout.authority());
        let followed = authority.is_some_and(|authority| authority != Authority::Tealgate);
        match order.command {
            Command::Hold { .. } | Command::Resume => followed,
            Command::Maintain { .. } | Command::Reopen | Command::Pin { .. } | Command::Unpin => followed,
            Command::Rollback { .. } => authority == Some(Authority::Services),
            _ => false,
        }
    }

    async fn submit(&self, work: Work) -> Outcome {
        let (app, actor, dry_run, action, reason) = match &work {
            Work::Ours(Order { app, by, dry_run, command, reason, .. }) => (app, by, dry_run, command.action(), reason),
            Work::Theirs(Petition { app, by, dry_run, ask, reason, .. }) => (app, by, dry_run, ask.action(), reason),
        };
        let (app, actor, dry_run, action, reason) =
            (app.clone(), actor.clone(), *dry_run, action.as_str(), reason.clone());
        match self.carry_out(work).await {
            Ok(receipt) => {
                let (generation, to) = (receipt.generation, receipt.to.as_deref());
                info!(actor, %app, action, dry_run, reason, generation, to, result = "done", "action");
                Ok(receipt)
            }
            Err(refusal) => {
                let (code, gates) =
                    (refusal.code, matches!(refusal.code, RefusalCode::NotReady | RefusalCode::GateFailed));
                let mut error = Error::from(refusal);
                warn!(actor, %app, action, dry_run, reason, result = code.as_str(), detail = error.detail, "action");
                if gates {
                    error.gates =
                        self.api.viewer.board().apps.get(&app).map(|app| app.rollout.gates()).unwrap_or_default();
                }
                Err(error)
            }
        }
    }

    /// Waits until nothing of what the flip retired is on the board any more. The drain deadline bounds it, and so does
    /// the caller, by leaving.
    pub(super) async fn drained(&self, app: &AppName, receipt: &Receipt) {
        let mut viewer = self.api.viewer.clone();
        let on_the_board = || -> Vec<Arc<Tenure>> {
            let board = self.api.viewer.board();
            let draining = board.apps.get(app).map(|app| app.draining.as_slice()).unwrap_or_default();
            let old = draining.iter().filter(|old| Some(old.revision.as_str()) == receipt.from.as_deref());
            old.map(|old| Arc::clone(&old.tenure)).collect()
        };
        let awaited = on_the_board();
        while on_the_board().iter().any(|tenure| awaited.iter().any(|a| Arc::ptr_eq(a, tenure))) {
            if !viewer.changed().await {
                return;
            }
        }
    }
}

pub(super) fn answer(outcome: Outcome, replayed: bool) -> Response {
    let mut response = match outcome {
        Ok(receipt) => {
            let tag = format!("\"{}\"", receipt.generation);
            ([(header::ETAG, tag)], Json(receipt)).into_response()
        }
        Err(error) => error.into_response(),
    };
    if replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}
