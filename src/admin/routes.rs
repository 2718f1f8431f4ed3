//! The API as a whole: its paths, its description, and the layers every request passes — first the checks of the edge,
//! then who asks, then the call itself.

use std::{fmt, sync::Arc};

use axum::{Json, Router, extract::State, middleware, routing::get};
use futures_util::future::BoxFuture;
use http::{StatusCode, Uri};
use tokio_util::sync::CancellationToken;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    actions,
    answers::Answers,
    api::{EventMessage, Problem, ROOT, Version},
    caller::{self, Unwelcome},
    doors, edge, events, links,
    problem::Error,
    review::{Review, Reviews},
    rollouts, smoke,
    tokens::Tokens,
    views,
};
use crate::{
    switch::{Authorities, Control, HostPattern, Viewer},
    telemetry::mirror::Mirrors,
};

/// What the admin API works with.
#[derive(Clone)]
pub struct Api {
    /// The power to act on apps.
    pub control: Control,
    /// The power to look at them.
    pub viewer: Viewer,
    /// The power to ask those who decide an app's flips where the switch does not; nobody, if no app follows anybody.
    pub authorities: Option<Arc<dyn Authorities>>,
    /// What the mirrors found.
    pub mirrors: Arc<Mirrors>,
    /// Reads the configuration again.
    pub reload: Reload,
    /// Whom to let in on TCP; without them nobody, unless a cluster vouches for him.
    pub tokens: Option<Arc<Tokens>>,
    /// Asks a cluster about tokens that are none of these.
    pub review: Option<Review>,
    /// What `GET /version` answers.
    pub version: Version,
}

/// Reads the configuration again, and says in JSON what that changed.
pub type Reload = Arc<dyn Fn() -> BoxFuture<'static, Result<serde_json::Value, ReloadError>> + Send + Sync>;

/// Why a reload changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ReloadError {
    /// The mistake in the file, with its place.
    pub detail: String,
}

/// What the calls share.
pub(super) struct Admin {
    pub(super) api: Api,
    pub(super) answers: Arc<Answers>,
    pub(super) unwelcome: Unwelcome,
    pub(super) reviews: Option<Reviews>,
    /// Cancelled when the server stops: long answers end then.
    pub(super) closing: CancellationToken,
    description: openapi::OpenApi,
}

impl Admin {
    pub(super) fn new(api: Api, closing: CancellationToken, description: openapi::OpenApi) -> Self {
        let reviews = api.review.clone().map(Reviews::new);
        Self { api, answers: Arc::default(), unwelcome: Unwelcome::default(), reviews, closing, description }
    }
}

/// The API's description; the paths are added by [`calls`], the rest is here.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tealgate admin API",
        description = "Promote, roll back, and look. Errors are problem documents (RFC 9457) with a stable `code`.",
    ),
    paths(describe),
    components(schemas(Problem, EventMessage)),
    security(("bearer" = [])),
    tags(
        (name = "views", description = "Calls that look; role `viewer`."),
        (name = "actions", description = "Calls that act; role `operator` or `admin`."),
    ),
    modifiers(&BearerTokens),
)]
struct Description;

struct BearerTokens;

impl Modify for BearerTokens {
    fn modify(&self, description: &mut openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of the token file. On the Unix socket none is needed."))
            .build();
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// Every call, with its description.
fn calls() -> (Router<Arc<Admin>>, openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(views::apps))
        .routes(routes!(views::app))
        .routes(routes!(actions::deploy, actions::discard))
        .routes(routes!(actions::promote))
        .routes(routes!(actions::rollback))
        .routes(routes!(actions::abort))
        .routes(routes!(smoke::smoke, smoke::smoke_report))
        .routes(routes!(rollouts::reject))
        .routes(routes!(rollouts::retry))
        .routes(routes!(rollouts::pause))
        .routes(routes!(rollouts::unpause))
        .routes(routes!(rollouts::keep))
        .routes(routes!(actions::weight))
        .routes(routes!(links::preview_link))
        .routes(routes!(doors::hold))
        .routes(routes!(doors::resume))
        .routes(routes!(doors::maintenance))
        .routes(routes!(views::plan))
        .routes(routes!(actions::pin, actions::unpin))
        .routes(routes!(views::mirror))
        .routes(routes!(views::history))
        .routes(routes!(views::journal))
        .routes(routes!(events::events))
        .routes(routes!(views::whoami))
        .routes(routes!(views::version))
        .routes(routes!(views::reload))
        .split_for_parts()
}

/// The service of the admin listeners. It wants the connection's [`Peer`](caller::Peer) as an extension of each request.
/// On TCP it answers to `hosts` besides its own address.
pub(super) fn router(api: Api, hosts: &[HostPattern], closing: CancellationToken) -> Router {
    let (calls, description) = calls();
    let admin = Arc::new(Admin::new(api, closing, description));
    calls
        .route("/api/openapi.json", get(describe))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), caller::identify))
        .layer(middleware::from_fn_with_state(Arc::from(hosts), edge::guard))
        .with_state(admin)
}

/// This description. It is for everybody.
#[utoipa::path(
    get, path = "/api/openapi.json", operation_id = "describe", tag = "views", security(()),
    responses((status = 200, description = "The OpenAPI document.", body = serde_json::Value)),
)]
async fn describe(State(admin): State<Arc<Admin>>) -> Json<openapi::OpenApi> {
    Json(admin.description.clone())
}

async fn nothing_here(uri: Uri) -> Error {
    let detail = format!("there is nothing at {}", uri.path());
    let hint = format!("the API begins at {ROOT}; /api/openapi.json describes it");
    Error::new(StatusCode::NOT_FOUND, "not-found", detail, hint)
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("version", &self.version).finish_non_exhaustive()
    }
}
