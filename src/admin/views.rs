//! The calls that look: states, plans, what was done, and who asks. None of them changes anything.

use std::{cmp::Reverse, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::Deserialize;
use tracing::{info, warn};
use utoipa::{IntoParams, ToSchema};

use super::{
    action::{AppPath, read_json},
    api::{Plan, PlanRefusal, Role, Version, WhoAmI},
    caller::Caller,
    problem::{AnyProblems, AppProblems, Error, described},
    rollouts::WITHIN,
    routes::Admin,
    work::Work,
};
use crate::{
    switch::{AppBoard, AppName, AppStatus, Ask, Command, Order, Petition, Receipt, Refusal, RefusalCode},
    telemetry::mirror::MirrorReport,
};

/// How many entries a list answers if nobody says, and at most.
const LISTED: usize = 100;
const MOST_LISTED: usize = 1000;

/// How much of a list is wanted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// How many entries at most, the newest first: 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    #[serde(default = "Listing::default_limit")]
    limit: usize,
}

/// No query parameter: a misspelt one is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

/// The states of all apps the caller may see, by name.
#[utoipa::path(
    get, path = "/api/v1/apps", operation_id = "listApps", tag = "views",
    responses((status = 200, description = "The apps.", body = Vec<AppStatus>), AnyProblems),
)]
pub(super) async fn apps(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Query(NoQuery {}): Query<NoQuery>,
) -> Json<Vec<AppStatus>> {
    Json(admin.states(&caller))
}

/// The state of an app.
#[utoipa::path(
    get, path = "/api/v1/apps/{app}", operation_id = "showApp", tag = "views", params(AppPath),
    responses(
        (status = 200, description = "The app.", body = AppStatus,
            headers(("ETag" = String, description = "the app's generation in quotes, for If-Match"))),
        AppProblems,
    ),
)]
pub(super) async fn app(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(path): Path<AppPath>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Response, Error> {
    let status = admin.known(&path.seen_by(&caller)?)?.status();
    Ok(([(header::ETAG, format!("\"{}\"", status.generation))], Json(status)).into_response())
}

/// What a promotion would do now, and what is in its way.
#[utoipa::path(
    get, path = "/api/v1/apps/{app}/plan", operation_id = "plan", tag = "views", params(AppPath),
    responses(
        (status = 200, description = "The plan.", body = Plan,
            headers(("ETag" = String, description = "the app's generation in quotes, for If-Match"))),
        AppProblems,
    ),
)]
pub(super) async fn plan(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(path): Path<AppPath>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Response, Error> {
    let app = path.seen_by(&caller)?;
    let (by, reason, if_generation, dry_run) = (caller.name().to_owned(), String::new(), None, true);
    let (revision, skip_gates) = (None, false);
    let work: Work = match admin.follows(&app) {
        true => {
            let (ask, within) = (Ask::Promote { revision, skip_gates }, WITHIN);
            Petition { app: app.clone(), ask, by, reason, if_generation, dry_run, within }.into()
        }
        false => {
            let command = Command::Promote { revision, skip_gates };
            Order { app: app.clone(), command, by, reason, if_generation, dry_run }.into()
        }
    };
    let refusal = match admin.carry_out(work).await {
        Ok(_) => None,
        Err(refusal @ Refusal { code: RefusalCode::UnknownApp | RefusalCode::Stopping, .. }) => {
            return Err(refusal.into());
        }
        Err(Refusal { code, detail, hint }) => Some(PlanRefusal { code: code.as_str().into(), detail, hint }),
    };
    let status = admin.known(&app)?.status();
    let plan = Plan {
        app: status.name,
        generation: status.generation,
        in_flight_on_old: status.active.as_ref().map_or(0, |pool| pool.in_flight),
        from: status.active.map(|pool| pool.revision),
        to: status.preview.map(|pool| pool.revision),
        possible: refusal.is_none(),
        refusal,
        gates: status.gates,
    };
    Ok(([(header::ETAG, format!("\"{}\"", plan.generation))], Json(plan)).into_response())
}

/// What an app's mirror found: how often candidate and live answer were equal, and the last that were not.
#[utoipa::path(
    get, path = "/api/v1/apps/{app}/mirror", operation_id = "mirror", tag = "views", params(AppPath),
    responses((status = 200, description = "What was found since the start.", body = MirrorReport), AppProblems),
)]
pub(super) async fn mirror(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(path): Path<AppPath>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Json<MirrorReport>, Error> {
    let app = path.seen_by(&caller)?;
    let share = admin.known(&app)?.policy.mirror.as_ref().map_or(0, |mirror| mirror.share);
    Ok(Json(admin.api.mirrors.report(&app, share)))
}

/// What was done to an app, the newest first.
#[utoipa::path(
    get, path = "/api/v1/apps/{app}/history", operation_id = "history", tag = "views", params(AppPath, Listing),
    responses((status = 200, description = "The receipts.", body = Vec<Receipt>), AppProblems),
)]
pub(super) async fn history(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(path): Path<AppPath>,
    Query(listing): Query<Listing>,
) -> Result<Json<Vec<Receipt>>, Error> {
    let app = admin.known(&path.seen_by(&caller)?)?;
    Ok(Json(app.history.iter().rev().take(listing.checked()?).cloned().collect()))
}

/// What was done to all apps the caller may see, the newest first.
#[utoipa::path(
    get, path = "/api/v1/journal", operation_id = "journal", tag = "views", params(Listing),
    responses((status = 200, description = "The receipts.", body = Vec<Receipt>), AnyProblems),
)]
pub(super) async fn journal(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Query(listing): Query<Listing>,
) -> Result<Json<Vec<Receipt>>, Error> {
    let limit = listing.checked()?;
    let board = admin.api.viewer.board();
    let visible = board.apps.iter().filter(|(name, _)| caller.sees(name));
    let mut newest: Vec<&Receipt> = visible.flat_map(|(_, app)| app.history.iter().rev().take(limit)).collect();
    newest.sort_by_key(|receipt| Reverse((receipt.published_at, receipt.generation)));
    Ok(Json(newest.into_iter().take(limit).cloned().collect()))
}

/// Who the proxy takes the caller for.
#[utoipa::path(
    get, path = "/api/v1/whoami", operation_id = "whoami", tag = "views",
    responses((status = 200, description = "The caller.", body = WhoAmI), AnyProblems),
)]
pub(super) async fn whoami(caller: Caller, Query(NoQuery {}): Query<NoQuery>) -> Json<WhoAmI> {
    Json(caller.describe())
}

/// What is running.
#[utoipa::path(
    get, path = "/api/v1/version", operation_id = "version", tag = "views",
    responses((status = 200, description = "The version.", body = Version), AnyProblems),
)]
pub(super) async fn version(State(admin): State<Arc<Admin>>, Query(NoQuery {}): Query<NoQuery>) -> Json<Version> {
    Json(admin.api.version.clone())
}

/// The body of a reload: nothing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadRequest {}

/// Reads the configuration file and the token file again.
///
/// It takes the role `admin`. A file that is broken changes nothing.
#[utoipa::path(
    post, path = "/api/v1/reload", operation_id = "reload", tag = "actions", request_body = Option<ReloadRequest>,
    responses(
        (status = 200, description = "What the new configuration changed.", body = serde_json::Value),
        AnyProblems,
        ReloadProblems,
    ),
)]
pub(super) async fn reload(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Query(NoQuery {}): Query<NoQuery>,
    request: Request,
) -> Result<Json<serde_json::Value>, Error> {
    caller.must_be(Role::Admin, "reload")?;
    caller.must_see_all("reload")?;
    let (parts, body) = request.into_parts();
    let ReloadRequest {} = read_json(&parts.headers, body).await?;
    // In a task of its own: a caller who leaves does not break it off half way.
    let reloading = tokio::spawn((admin.api.reload)());
    let failed = match reloading.await {
        Ok(Ok(changes)) => {
            info!(actor = caller.name(), result = "done", "reload");
            return Ok(Json(changes));
        }
        Ok(Err(error)) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            let hint = "put that right and reload again; until then the old configuration stays";
            Error::new(status, "reload-failed", error.detail, hint)
        }
        Err(error) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Error::new(status, "internal", format!("the reload broke off: {error}"), "the log has the cause")
        }
    };
    warn!(actor = caller.name(), result = failed.code, detail = failed.detail, "reload");
    Err(failed)
}

/// The problems of a reload beside the common ones.
struct ReloadProblems;

impl utoipa::IntoResponses for ReloadProblems {
    fn responses() -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
        described(&[
            (400, "`invalid`, `bad-json`: something in the request is not understood"),
            (408, "`timeout`: the body did not arrive within 5 seconds"),
            (413, "`too-large`: the body has more than 64 KiB"),
            (415, "`unsupported-media-type`: the body is not `application/json`"),
            (422, "`reload-failed`: the new configuration is broken; the old one stays"),
            (500, "`internal`: a fault of ours; the log has the cause"),
        ])
    }
}

impl Admin {
    /// The states of the apps a caller may see, by name.
    pub(super) fn states(&self, caller: &Caller) -> Vec<AppStatus> {
        let board = self.api.viewer.board();
        board.apps.iter().filter(|(name, _)| caller.sees(name)).map(|(_, app)| app.status()).collect()
    }

    /// An app on the board.
    pub(super) fn known(&self, app: &AppName) -> Result<Arc<AppBoard>, Error> {
        self.api.viewer.board().apps.get(app).cloned().ok_or_else(|| Error::unknown_app(app.as_str()))
    }
}

impl Listing {
    fn default_limit() -> usize {
        LISTED
    }

    fn checked(&self) -> Result<usize, Error> {
        if (1..=MOST_LISTED).contains(&self.limit) {
            return Ok(self.limit);
        }
        Err(Error::invalid(format!("limit is {}", self.limit), format!("a limit is 1 to {MOST_LISTED}")))
    }
}
