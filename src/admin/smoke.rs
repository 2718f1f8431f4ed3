//! The calls about the smoke test of an app's candidate: have its checks sent, and see what came of them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};

use super::{
    action::{Action, AppPath, Guards},
    api::{SmokeRequest, SmokeWait},
    caller::Caller,
    problem::{ActionProblems, AppProblems, Error, SmokeProblems},
    routes::Admin,
    views::NoQuery,
};
use crate::switch::{AppName, Command, GateState, Refusal, RefusalCode, SmokeReport};

/// Sends the checks of the candidate's smoke test, again if it has ended.
///
/// What fails is tried again for as long as `promotion.smoke_within` says. The answer comes when it has passed or failed,
/// and says which: a test that failed is no failure of this call. A test that goes on already will do.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/smoke", operation_id = "smoke", tag = "actions",
    params(AppPath, Guards), request_body = Option<SmokeRequest>,
    responses(
        (status = 200, description = "What came of it, check by check.", body = SmokeReport,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn smoke(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<SmokeRequest>,
) -> Result<Response, Error> {
    let order = terms.order(Command::Smoke { revision: body.revision }, &body.reason, body.if_generation)?;
    let (app, waits) = (terms.app.clone(), body.wait == SmokeWait::Finished && !order.dry_run);
    let (outcome, replayed) = admin.outcome(terms, order.into()).await;
    outcome?;
    let report = if waits { admin.smoked(&app).await? } else { admin.report(&app)? };
    let mut response = answer(report);
    if replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// How the smoke test of the candidate stands, check by check; where there is no candidate, how the last one's ended.
#[utoipa::path(
    get, path = "/api/v1/apps/{app}/smoke", operation_id = "showSmoke", tag = "views", params(AppPath),
    responses(
        (status = 200, description = "How it stands.", body = SmokeReport,
            headers(("ETag" = String, description = "the app's generation in quotes, for If-Match"))),
        AppProblems,
        SmokeProblems,
    ),
)]
pub(super) async fn smoke_report(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(path): Path<AppPath>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Response, Error> {
    Ok(answer(admin.report(&path.seen_by(&caller)?)?))
}

fn answer(report: SmokeReport) -> Response {
    ([(header::ETAG, format!("\"{}\"", report.generation))], Json(report)).into_response()
}

impl Admin {
    fn report(&self, app: &AppName) -> Result<SmokeReport, Error> {
        Ok(self.known(app)?.rollout.smoke_report()?)
    }

    /// Waits until the smoke test has passed or failed. The caller may leave meanwhile; it goes on.
    async fn smoked(&self, app: &AppName) -> Result<SmokeReport, Error> {
        let mut viewer = self.api.viewer.clone();
        let begun = self.report(app)?;
        loop {
            let report = self.report(app)?;
            if report.revision != begun.revision {
                let detail = format!("{} is the candidate of {app} no longer: {} is", begun.revision, report.revision);
                let refusal = Refusal { code: RefusalCode::NoCandidate, detail, hint: "test that one".to_owned() };
                return Err(refusal.into());
            }
            if matches!(report.state, GateState::Passed | GateState::Failed) {
                return Ok(report);
            }
            if !viewer.changed().await {
                let detail = "the proxy is stopping, and the test with it".to_owned();
                let hint = "ask again when it is back".to_owned();
                return Err(Refusal { code: RefusalCode::Stopping, detail, hint }.into());
            }
        }
    }
}
