//! The calls that keep live requests out for a while: hold and resume, and maintenance.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};

use super::{
    action::{Action, AppPath, Guards},
    api::{HoldRequest, HoldTerms, MaintenanceRequest, PlainRequest},
    problem::{ActionProblems, Error},
    routes::Admin,
};
use crate::switch::{AppName, Command, HoldBounds, Receipt};

/// When clients are told to come back if nobody says.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// The latest they may be told.
const LATEST: Duration = Duration::from_secs(24 * 3600);

/// Lets new live requests wait at the door.
///
/// When it is answered, no request that arrives later starts before the hold ends; what is in flight goes on
/// (`inFlightOnOld`). A flip meanwhile moves those who wait. The hold ends by `resume`, or by itself after `maxAge`, or with
/// the process; who waits is let in then, in the order of arrival. Previews are not held. Of an app that is followed it is
/// this replica's alone: each is to be asked (`warnings`).
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/hold", operation_id = "hold", tag = "actions",
    params(AppPath, Guards), request_body = Option<HoldRequest>,
    responses(
        (status = 200, description = "New requests wait.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn hold(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<HoldRequest>,
) -> Result<Response, Error> {
    let bounds = admin.bounds(&terms.app, &body.terms())?;
    let order = terms.order(Command::Hold { bounds }, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

/// Ends the hold: who waits is let in, in the order of arrival.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/resume", operation_id = "resume", tag = "actions",
    params(AppPath, Guards), request_body = Option<PlainRequest>,
    responses(
        (status = 200, description = "Nobody is held.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn resume(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<PlainRequest>,
) -> Result<Response, Error> {
    let order = terms.order(Command::Resume, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

/// Answers live requests with the maintenance page, or serves them again.
///
/// They get 503 with `Retry-After`. What is in flight finishes, and previews are served. It stays on, also over a restart,
/// until it is taken off. Of an app that is followed it is this replica's alone: each is to be asked (`warnings`).
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/maintenance", operation_id = "maintenance", tag = "actions",
    params(AppPath, Guards), request_body = MaintenanceRequest,
    responses(
        (status = 200, description = "It is on, or off.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn maintenance(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<MaintenanceRequest>,
) -> Result<Response, Error> {
    let retry_after = body.retry_after.map(|period| period.0);
    let command = match (body.on, retry_after) {
        (true, retry_after) => Command::Maintain { retry_after: checked_retry(retry_after.unwrap_or(RETRY_AFTER))? },
        (false, None) => Command::Reopen,
        (false, Some(_)) => {
            return Err(Error::invalid("retryAfter comes with on: false", "leave it out: clients are served again"));
        }
    };
    let order = terms.order(command, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

impl Admin {
    /// How far a hold of this app may go: as asked, and where nothing is said as it is configured.
    pub(super) fn bounds(&self, app: &AppName, asked: &HoldTerms) -> Result<HoldBounds, Error> {
        let configured = self.known(app)?.policy.hold;
        let bounds = HoldBounds {
            max_age: asked.max_age.map_or(configured.max_age, |period| period.0),
            max_requests: asked.max_requests.unwrap_or(configured.max_requests),
            max_bytes: asked.max_bytes.unwrap_or(configured.max_bytes),
        };
        if !(Duration::from_millis(1)..=HoldBounds::LONGEST).contains(&bounds.max_age) {
            return Err(Error::invalid(format!("maxAge is {:?}", bounds.max_age), "a hold lasts 1ms to 1h"));
        }
        if !(1..=HoldBounds::MOST_REQUESTS).contains(&bounds.max_requests) {
            let hint = format!("a hold keeps 1 to {} requests", HoldBounds::MOST_REQUESTS);
            return Err(Error::invalid(format!("maxRequests is {}", bounds.max_requests), hint));
        }
        if !(HoldBounds::LEAST_BYTES..=HoldBounds::MOST_BYTES).contains(&bounds.max_bytes) {
            let hint = format!("a hold keeps {} to {} octets", HoldBounds::LEAST_BYTES, HoldBounds::MOST_BYTES);
            return Err(Error::invalid(format!("maxBytes is {}", bounds.max_bytes), hint));
        }
        Ok(bounds)
    }
}

fn checked_retry(after: Duration) -> Result<Duration, Error> {
    match (Duration::from_secs(1)..=LATEST).contains(&after) {
        true => Ok(after),
        false => Err(Error::invalid(format!("retryAfter is {after:?}"), "clients can be told 1s to 24h")),
    }
}
