//! The calls about a rollout that another authority runs (Argo Rollouts): reject, retry, pause, unpause, keep. `promote` and
//! `abort` have their place in `actions`, since most apps are the switch's own; which of the two is asked, the app says.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use http::StatusCode;
use jiff::Timestamp;

use super::{
    action::{Action, AppPath, Guards, Terms},
    actions::may_set_gates_aside,
    api::{GiveUpRequest, KeepRequest, PlainRequest, RetryRequest},
    problem::{ActionProblems, Error},
    routes::Admin,
};
use crate::switch::{AppName, Ask, Authority, Receipt};

/// How long the effect of what an authority was asked for is waited for if nobody says.
pub(super) const WITHIN: Duration = Duration::from_secs(25);

/// How long a revision may be kept from now.
const KEPT: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(720 * 3600);

/// Gives the candidate up for good.
///
/// Live traffic stays where it is. Where Argo Rollouts decides, the rollout is aborted and the stable revision's template
/// is put back into the Rollout, so that it is healthy again; elsewhere this is `abort`. With `revision` or `image` that
/// candidate alone: another one is left where it is.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/reject", operation_id = "reject", tag = "actions",
    params(AppPath, Guards), request_body = Option<GiveUpRequest>,
    responses(
        (status = 200, description = "There is no candidate any more.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn reject(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<GiveUpRequest>,
) -> Result<Response, Error> {
    admin.give_up(terms, body, |only| Ask::Reject { only }).await
}

/// Takes a rollout up again that was aborted.
///
/// Only where Argo Rollouts decides: the candidate is scaled up, analysed and paused anew, and then waits for `promote`. As
/// long as its pods are still up after the abort (`abortScaleDownDelaySeconds`), Argo Rollouts would promote it at once
/// instead, without pause and analysis; that is refused (`gate-failed`) unless `skipGates` is set.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/retry", operation_id = "retry", tag = "actions",
    params(AppPath, Guards), request_body = Option<RetryRequest>,
    responses(
        (status = 200, description = "The rollout goes on.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn retry(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<RetryRequest>,
) -> Result<Response, Error> {
    admin.must_follow(&terms.app, "retry", "deploy the revision again")?;
    let RetryRequest { skip_gates, reason, if_generation } = body;
    if skip_gates {
        may_set_gates_aside(&terms, &reason)?;
    }
    admin.ask(terms, Ask::Retry { skip_gates }, &PlainRequest { reason, if_generation }).await
}

/// Lets the rollout stand where it is.
///
/// Only where Argo Rollouts decides: no Service is switched until `unpause` or `promote`. To keep live traffic where it is
/// whatever anybody else does, pin it.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/pause", operation_id = "pause", tag = "actions",
    params(AppPath, Guards), request_body = Option<PlainRequest>,
    responses(
        (status = 200, description = "The rollout stands.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn pause(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<PlainRequest>,
) -> Result<Response, Error> {
    admin.must_follow(&terms.app, "pause", "to keep live traffic where it is, pin it")?;
    admin.ask(terms, Ask::Pause, &body).await
}

/// Lets a paused rollout go on.
///
/// Only where Argo Rollouts decides. It ends what `pause` began; what waits for approval waits on, for `promote`. (`resume`
/// is the end of a hold.)
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/unpause", operation_id = "unpause", tag = "actions",
    params(AppPath, Guards), request_body = Option<PlainRequest>,
    responses(
        (status = 200, description = "The rollout goes on.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn unpause(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<PlainRequest>,
) -> Result<Response, Error> {
    admin.must_follow(&terms.app, "unpause", "to end a hold, resume; to take a pin off, unpin")?;
    admin.ask(terms, Ask::Unpause, &body).await
}

/// Keeps the previous revision longer, so that a rollback stays possible.
///
/// Only where Argo Rollouts decides: the deadline at which the old ReplicaSet is scaled down is put off.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/keep", operation_id = "keep", tag = "actions",
    params(AppPath, Guards), request_body = KeepRequest,
    responses(
        (status = 200, description = "It is kept until then.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn keep(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<KeepRequest>,
) -> Result<Response, Error> {
    admin.must_follow(&terms.app, "keep", "set rollback.keep_previous in the configuration")?;
    if !KEPT.contains(&body.period.0) {
        return Err(Error::invalid(format!("for is {:?}", body.period.0), "a revision can be kept for 1m to 720h"));
    }
    let until = Timestamp::now().checked_add(body.period.0);
    let until = until.map_err(|_| Error::invalid("for is too long", "a revision can be kept for 1m to 720h"))?;
    let petition = terms.petition(Ask::Keep { until }, &body.reason, body.if_generation, WITHIN)?;
    admin.act(terms, petition).await
}

impl Admin {
    /// Whether what becomes of the app's rollout is for another authority to do, which can be asked.
    pub(super) fn follows(&self, app: &AppName) -> bool {
        let board = self.api.viewer.board();
        board.apps.get(app).is_some_and(|app| app.rollout.authority() == Authority::ArgoRollouts)
    }

    pub(super) async fn ask(self: Arc<Self>, terms: Terms, ask: Ask, body: &PlainRequest) -> Result<Response, Error> {
        let petition = terms.petition(ask, &body.reason, body.if_generation, WITHIN)?;
        self.act(terms, petition).await
    }

    fn must_follow(&self, app: &AppName, what: &str, hint: &str) -> Result<(), Error> {
        self.known(app)?;
        if self.follows(app) {
            return Ok(());
        }
        let detail = format!("{what} is for apps whose rollouts Argo Rollouts runs, and {app} is not one");
        Err(Error::new(StatusCode::BAD_REQUEST, "not-offered", detail, hint))
    }
}
