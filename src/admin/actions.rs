//! The calls that act on an app. Each turns its body into one [`Command`], or, where another authority decides, into one
//! [`Ask`]; `work` has it carried out, and logs and keeps what came of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    action::{Action, AppPath, Guards, Terms},
    api::{
        DeployRequest, EndpointRequest, GiveUpRequest, PinRequest, PlainRequest, PromoteRequest, Role, RollbackRequest,
        Wait, WeightRequest,
    },
    problem::{ActionProblems, Error},
    rollouts::WITHIN,
    routes::Admin,
    work::{Work, answer},
};
use crate::switch::{Address, Ask, Command, EndpointSpec, Only, Receipt, Revision, Whereabouts};

/// How long a promotion that another authority carries out may be waited for.
const PATIENCE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// The most endpoints of one revision.
const MAX_ENDPOINTS: usize = 4096;

/// The most octets of an image's name.
const MAX_IMAGE: usize = 1000;

/// The largest weight of an endpoint.
const MAX_WEIGHT: u32 = 256;

/// The revision in a path.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct RevisionPath {
    /// The revision's name.
    rev: String,
}

/// Makes a revision the candidate, or updates its endpoints.
///
/// With source `static` only. The revision is probed at once, and may be promoted when its gates hold.
#[utoipa::path(
    put, path = "/api/v1/apps/{app}/revisions/{rev}", operation_id = "deploy", tag = "actions",
    params(AppPath, RevisionPath, Guards), request_body = DeployRequest,
    responses(
        (status = 200, description = "It is the candidate.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn deploy(
    State(admin): State<Arc<Admin>>,
    Path(path): Path<RevisionPath>,
    Action { terms, body }: Action<DeployRequest>,
) -> Result<Response, Error> {
    let revision = path.revision()?;
    let endpoints = checked_endpoints(body.endpoints)?;
    let command = Command::Deploy { revision, endpoints, labels: body.labels };
    let order = terms.order(command, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

/// Discards a revision that is not active.
#[utoipa::path(
    delete, path = "/api/v1/apps/{app}/revisions/{rev}", operation_id = "discard", tag = "actions",
    params(AppPath, RevisionPath, Guards), request_body = Option<PlainRequest>,
    responses(
        (status = 200, description = "It is gone.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn discard(
    State(admin): State<Arc<Admin>>,
    Path(path): Path<RevisionPath>,
    Action { terms, body }: Action<PlainRequest>,
) -> Result<Response, Error> {
    let command = Command::Discard { revision: path.revision()? };
    let order = terms.order(command, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

/// Makes the preview active.
///
/// Answers once all live traffic goes to the new pool: no request whose head arrives after the answer starts on the old
/// one. What is in flight there finishes there; `wait: drained` waits for that too. With `hold` new requests wait until
/// the old pool is empty, and only then does traffic move: the answer comes within `maxAge`.
///
/// Where Argo Rollouts decides, it is asked by its own means, and the answer comes when its Service and with it live traffic
/// have moved, within `timeout`. `skipGates` sets its pauses and analyses aside as well.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/promote", operation_id = "promote", tag = "actions",
    params(AppPath, Guards), request_body = Option<PromoteRequest>,
    responses(
        (status = 200, description = "Traffic has moved.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn promote(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<PromoteRequest>,
) -> Result<Response, Error> {
    if body.wait == Wait::Baked {
        return Err(Error::new(
            StatusCode::BAD_REQUEST,
            "not-offered",
            "wait: baked is not offered by this version",
            "use flipped or drained",
        ));
    }
    if body.skip_gates {
        may_set_gates_aside(&terms, &body.reason)?;
    }
    let (revision, skip_gates) = (body.revision, body.skip_gates);
    let within = body.timeout.map_or(WITHIN, |period| period.0);
    if !PATIENCE.contains(&within) {
        return Err(Error::invalid(format!("timeout is {within:?}"), "traffic can be waited for 1s to 1h"));
    }
    let work: Work = match (body.hold.0, admin.follows(&terms.app)) {
        (None, true) => {
            terms.petition(Ask::Promote { revision, skip_gates }, &body.reason, body.if_generation, within)?.into()
        }
        (Some(_), true) => {
            let detail = "a promotion that Argo Rollouts carries out does not end a hold by itself";
            let hint = "hold first, then promote: that moves those who wait; then resume. A hold is of one replica: hold, and \
                        resume, at each of them";
            return Err(Error::new(StatusCode::BAD_REQUEST, "not-offered", detail, hint));
        }
        (None, false) => {
            terms.order(Command::Promote { revision, skip_gates }, &body.reason, body.if_generation)?.into()
        }
        (Some(hold), false) => {
            let bounds = admin.bounds(&terms.app, &hold)?;
            let command = Command::PromoteHeld { revision, skip_gates, bounds };
            terms.order(command, &body.reason, body.if_generation)?.into()
        }
    };
    let app = terms.app.clone();
    let (outcome, replayed) = admin.outcome(terms, work).await;
    if let (Wait::Drained, Ok(receipt @ Receipt { dry_run: false, .. })) = (body.wait, &outcome) {
        admin.drained(&app, receipt).await;
    }
    Ok(answer(outcome, replayed))
}

/// Brings an earlier revision back.
///
/// It works in every phase, and needs nobody else: to the previous revision, or to any other with ready endpoints.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/rollback", operation_id = "rollback", tag = "actions",
    params(AppPath, Guards), request_body = Option<RollbackRequest>,
    responses(
        (status = 200, description = "Traffic has moved back.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn rollback(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<RollbackRequest>,
) -> Result<Response, Error> {
    let order = terms.order(Command::Rollback { to: body.to }, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

/// Drops the candidate; live traffic stays where it is.
///
/// With `revision` or `image` that candidate alone: another one is left where it is.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/abort", operation_id = "abort", tag = "actions",
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
pub(super) async fn abort(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<GiveUpRequest>,
) -> Result<Response, Error> {
    admin.give_up(terms, body, |only| Ask::Abort { only }).await
}

/// Sends a share of live traffic to the candidate.
///
/// It counts from when the candidate is ready, and each user stays on one side. It ends with the candidate: when that is
/// promoted, dropped or replaced, and with any rollback.
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/weight", operation_id = "weight", tag = "actions",
    params(AppPath, Guards), request_body = WeightRequest,
    responses(
        (status = 200, description = "The share is set.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn weight(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<WeightRequest>,
) -> Result<Response, Error> {
    let order = terms.order(Command::Weigh { weight: body.weight.0 }, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

/// Keeps the active revision active whatever the source says.
///
/// Of an app that is followed it is this replica's alone: each is to be asked (`warnings`).
#[utoipa::path(
    post, path = "/api/v1/apps/{app}/pin", operation_id = "pin", tag = "actions",
    params(AppPath, Guards), request_body = PinRequest,
    responses(
        (status = 200, description = "The pin holds.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn pin(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<PinRequest>,
) -> Result<Response, Error> {
    must_say_why(&body.reason, "a pin")?;
    if body.expires.is_some_and(|end| end <= Timestamp::now()) {
        return Err(Error::invalid("expires lies in the past", "give a time to come, or leave it out"));
    }
    let command = Command::Pin { revision: body.revision, expires: body.expires };
    let order = terms.order(command, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

/// Takes the pin off.
#[utoipa::path(
    delete, path = "/api/v1/apps/{app}/pin", operation_id = "unpin", tag = "actions",
    params(AppPath, Guards), request_body = Option<PlainRequest>,
    responses(
        (status = 200, description = "No pin holds.", body = Receipt,
            headers(
                ("ETag" = String, description = "the app's generation now, in quotes"),
                ("Idempotent-Replayed" = bool, description = "only on the repeated answer to an Idempotency-Key"),
            )),
        ActionProblems,
    ),
)]
pub(super) async fn unpin(
    State(admin): State<Arc<Admin>>,
    Action { terms, body }: Action<PlainRequest>,
) -> Result<Response, Error> {
    let order = terms.order(Command::Unpin, &body.reason, body.if_generation)?;
    admin.act(terms, order).await
}

impl Admin {
    /// Gives a candidate up. Another authority is asked by `ask`; the switch has one way to do it.
    pub(super) async fn give_up(
        self: Arc<Self>,
        terms: Terms,
        body: GiveUpRequest,
        ask: fn(Option<Only>) -> Ask,
    ) -> Result<Response, Error> {
        let only = only(body.revision, body.image)?;
        let work: Work = match self.follows(&terms.app) {
            true => terms.petition(ask(only), &body.reason, body.if_generation, WITHIN)?.into(),
            false => terms.order(Command::Abort { only }, &body.reason, body.if_generation)?.into(),
        };
        self.act(terms, work).await
    }
}

/// The one candidate that is meant, if one was named.
fn only(revision: Option<Revision>, image: Option<String>) -> Result<Option<Only>, Error> {
    match (&revision, &image) {
        (Some(_), Some(_)) => Err(Error::invalid("revision and image name the candidate twice", "send one of them")),
        (None, Some(image)) if !(1..=MAX_IMAGE).contains(&image.len()) => {
            Err(Error::invalid(format!("image has not 1 to {MAX_IMAGE} octets"), "NAME:TAG, or sha256:…"))
        }
        _ => Ok(Only::of(revision, image)),
    }
}

impl RevisionPath {
    fn revision(&self) -> Result<Revision, Error> {
        self.rev.parse().map_err(|error| Error::invalid(format!("{error}"), "name the revision by a hash or a version"))
    }
}

/// Whoever sets gates aside has the right to, and says why.
pub(super) fn may_set_gates_aside(terms: &Terms, reason: &str) -> Result<(), Error> {
    terms.caller.must_be(Role::Admin, "set gates aside")?;
    must_say_why(reason, "setting gates aside")
}

fn must_say_why(reason: &str, what: &str) -> Result<(), Error> {
    if reason.trim().is_empty() {
        return Err(Error::invalid(format!("{what} takes a reason"), "say why in `reason`; it goes into the journal"));
    }
    Ok(())
}

fn checked_endpoints(given: Vec<EndpointRequest>) -> Result<Vec<EndpointSpec>, Error> {
    if !(1..=MAX_ENDPOINTS).contains(&given.len()) {
        return Err(Error::invalid(
            format!("endpoints has {} entries", given.len()),
            format!("give 1 to {MAX_ENDPOINTS}"),
        ));
    }
    let mut seen = BTreeSet::new();
    for (i, EndpointRequest(endpoint)) in given.iter().enumerate() {
        let address = &endpoint.address;
        if !(1..=MAX_WEIGHT).contains(&endpoint.weight) {
            let detail = format!("endpoints[{i}].weight is {}", endpoint.weight);
            return Err(Error::invalid(detail, format!("a weight is 1 to {MAX_WEIGHT}")));
        }
        if is_of_no_server(address) {
            return Err(Error::invalid(
                format!("endpoints[{i}].address {address} cannot be connected to"),
                "give the address and port of one server",
            ));
        }
        if !seen.insert(address) {
            return Err(Error::invalid(
                format!("endpoints[{i}].address {address} comes twice"),
                "give it once, with a weight",
            ));
        }
    }
    Ok(given.into_iter().map(|EndpointRequest(endpoint)| endpoint).collect())
}

/// Whether this is an address that no one server can have.
fn is_of_no_server(address: &Whereabouts) -> bool {
    let Whereabouts::At(Address::Ip(address)) = address else { return false };
    address.ip().is_unspecified() || address.ip().is_multicast()
}
