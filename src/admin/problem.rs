//! The one place where an error gets its HTTP status and its form: a [`Problem`] document (RFC 9457). A refusal of the
//! switch, a failed check of our own and a rejection of axum's all leave through here.

use std::collections::BTreeMap;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use utoipa::{
    IntoResponses, PartialSchema as _, ToSchema,
    openapi::{self, ContentBuilder, HeaderBuilder, RefOr, ResponseBuilder, ResponsesBuilder},
};

use super::api::{PROBLEM_JSON, Problem};
use crate::switch::{Gate, Refusal, RefusalCode};

/// Why a call fails. It becomes a [`Problem`] on its way out.
#[derive(Clone, Debug)]
pub(super) struct Error {
    /// The HTTP status.
    pub(super) status: StatusCode,
    /// The stable name, for programs.
    pub(super) code: &'static str,
    /// What is wrong, in a sentence.
    pub(super) detail: String,
    /// What would help.
    pub(super) hint: String,
    /// The gates as they stand, if a gate is in the way.
    pub(super) gates: Vec<Gate>,
}

impl Error {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { status, code, detail: detail.into(), hint: hint.into(), gates: Vec::new() }
    }

    /// The request contradicts itself, leaves something out or says something we do not know.
    pub(super) fn invalid(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, RefusalCode::Invalid.as_str(), detail, hint)
    }

    /// The caller is known, and may not do this.
    pub(super) fn forbidden(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail, hint)
    }

    /// There is no such app.
    pub(super) fn unknown_app(app: &str) -> Self {
        let code = RefusalCode::UnknownApp;
        let hint = "GET /api/v1/apps lists the apps";
        Self::new(status(code), code.as_str(), format!("there is no app {app:?}"), hint)
    }

    /// An answer that axum itself made: a bad query string, a method the path does not offer.
    fn of_axum(status: StatusCode, detail: String) -> Self {
        let (code, hint) = match status {
            StatusCode::METHOD_NOT_ALLOWED => ("method-not-allowed", "the Allow header lists what this path offers"),
            StatusCode::NOT_FOUND => ("not-found", "/api/openapi.json lists the paths"),
            _ if status.is_client_error() => ("invalid", "/api/openapi.json describes what is expected"),
            _ => ("internal", "the log has the cause"),
        };
        let detail = if detail.is_empty() { title(code) } else { detail };
        Self::new(status, code, detail, hint)
    }

    fn problem(self) -> Problem {
        Problem {
            kind: format!("urn:tealgate:problem:{}", self.code),
            title: title(self.code),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            hint: self.hint,
            gates: self.gates,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(status(refusal.code), refusal.code.as_str(), refusal.detail, refusal.hint)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self.problem())).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"tealgate\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Gives an error that is not a problem document yet (axum's own rejections) the form of one. The headers stay, `Allow`
/// among them.
pub(super) async fn as_problem(response: Response) -> Response {
    let error = response.status().is_client_error() || response.status().is_server_error();
    let ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_JSON);
    if !error || ours {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_REJECTION).await.unwrap_or_default();
    let mut answer = Error::of_axum(parts.status, String::from_utf8_lossy(&text).into_owned()).into_response();
    for (name, value) in &parts.headers {
        if !answer.headers().contains_key(name) && name != header::CONTENT_LENGTH {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

/// The octets of one of axum's rejections that are taken over as the detail.
const MAX_REJECTION: usize = 4096;

fn status(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::UnknownApp | RefusalCode::UnknownRevision => StatusCode::NOT_FOUND,
        RefusalCode::GenerationMismatch => StatusCode::PRECONDITION_FAILED,
        RefusalCode::NoCandidate
        | RefusalCode::Overtaken
        | RefusalCode::NoPrevious
        | RefusalCode::AlreadyActive
        | RefusalCode::InUse
        | RefusalCode::NotReady
        | RefusalCode::GateFailed
        | RefusalCode::Pinned
        | RefusalCode::Held
        | RefusalCode::NotHeld
        | RefusalCode::NotDrained
        | RefusalCode::NotInMaintenance
        | RefusalCode::OtherAuthority
        | RefusalCode::Aborted
        | RefusalCode::NotAborted => StatusCode::CONFLICT,
        RefusalCode::Invalid => StatusCode::BAD_REQUEST,
        RefusalCode::AuthorityRefused => StatusCode::BAD_GATEWAY,
        RefusalCode::NotDurable | RefusalCode::Stopping | RefusalCode::AuthorityAway => StatusCode::SERVICE_UNAVAILABLE,
        RefusalCode::TimedOut => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// `no-candidate` → `No candidate`.
fn title(code: &str) -> String {
    if [RefusalCode::NotReady, RefusalCode::GateFailed].iter().any(|gate| gate.as_str() == code) {
        return "Refused by gate".to_owned();
    }
    let words = code.replace('-', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// The problems any call may answer, for the API's description.
pub(super) struct AnyProblems;

/// The problems a call on one app may answer.
pub(super) struct AppProblems;

/// The problems an action may answer.
pub(super) struct ActionProblems;

/// The problems the making of a link may answer.
pub(super) struct LinkProblems;

/// The problems a look at a smoke test may answer, beside the common ones.
pub(super) struct SmokeProblems;

impl IntoResponses for AnyProblems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        described(&[
            (400, "`invalid`: something in the request is not understood"),
            (401, "`unauthorized`: no token, or none that is known and still runs"),
            (403, "`forbidden`: the caller's role or apps do not allow it, or the request comes from a foreign page"),
            (405, "`method-not-allowed`; the `Allow` header says what is"),
            (421, "`misdirected`: the Host is not one of this listener's (DNS rebinding)"),
        ])
    }
}

impl IntoResponses for AppProblems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let mut all = AnyProblems::responses();
        all.extend(described(&[(404, "`unknown-app`")]));
        all
    }
}

impl IntoResponses for LinkProblems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let mut all = AppProblems::responses();
        all.extend(described(&[
            (
                400,
                "`invalid`, `bad-json`: something in the request is not understood, or the app has no preview cookie",
            ),
            (408, "`timeout`: the body did not arrive within 5 seconds"),
            (413, "`too-large`: the body has more than 64 KiB"),
            (415, "`unsupported-media-type`: the body is not `application/json`"),
            (503, "`stopping`"),
        ]));
        all
    }
}

impl IntoResponses for SmokeProblems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        described(&[
            (400, "`invalid`: something in the request is not understood, or the app has no smoke test"),
            (409, "`no-candidate`: there is none, and none has been tested since the start"),
        ])
    }
}

impl IntoResponses for ActionProblems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let mut all = AnyProblems::responses();
        all.extend(described(&[
            (400, "`invalid`, `bad-json`, `not-offered`: something in the request is not understood"),
            (404, "`unknown-app`, `unknown-revision`"),
            (408, "`timeout`: the body did not arrive within 5 seconds"),
            (409, "`no-candidate`, `overtaken`, `no-previous`, `already-active`, `in-use`, `pinned`, `held`, `not-held`, `not-drained`, `not-in-maintenance`, `other-authority`, `aborted`, `not-aborted`; refused by a gate: `not-ready`, `gate-failed`, then with `gates`"),
            (412, "`generation-mismatch`: the app has moved on since"),
            (413, "`too-large`: the body has more than 64 KiB"),
            (415, "`unsupported-media-type`: the body is not `application/json`"),
            (422, "`idempotency-key-reused`: the key came with another request before"),
            (500, "`internal`: a fault of ours; the log has the cause"),
            (502, "`authority-refused`: the app's authority (Argo Rollouts) does not let the proxy do it, or does not accept it"),
            (503, "`not-durable`, `stopping`, `authority-away`: nothing has changed"),
            (504, "`timed-out`: the app's authority was asked, and the effect did not come in time; the detail says where it hangs"),
        ]));
        all
    }
}

/// Responses that are problem documents, by status.
pub(super) fn described(problems: &[(u16, &str)]) -> BTreeMap<String, RefOr<openapi::Response>> {
    problems
        .iter()
        .fold(ResponsesBuilder::new(), |all, (status, description)| {
            let content = ContentBuilder::new().schema(Some(openapi::Ref::from_schema_name(Problem::name()))).build();
            let mut response = ResponseBuilder::new().description(*description).content(PROBLEM_JSON, content);
            let header = match status {
                401 => Some(("WWW-Authenticate", "how to authenticate: `Bearer`")),
                405 => Some(("Allow", "the methods of this path")),
                _ => None,
            };
            if let Some((name, description)) = header {
                let header = HeaderBuilder::new().description(Some(description)).schema(Some(String::schema())).build();
                response = response.header(name, header);
            }
            all.response(status.to_string(), response.build())
        })
        .build()
        .responses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: RefusalCode) -> Problem {
        Error::from(Refusal { code, detail: "no".into(), hint: "wait".into() }).problem()
    }

    #[test]
    fn a_refusal_keeps_its_code_and_gets_one_status() {
        let seen = |code| {
            let problem = refused(code);
            assert_eq!(problem.code, code.as_str());
            problem.status
        };
        assert_eq!(seen(RefusalCode::UnknownApp), 404);
        assert_eq!(seen(RefusalCode::UnknownRevision), 404);
        assert_eq!(seen(RefusalCode::GenerationMismatch), 412);
        assert_eq!(seen(RefusalCode::Invalid), 400);
        for code in [RefusalCode::NotDurable, RefusalCode::Stopping] {
            assert_eq!(seen(code), 503);
        }
        for code in [
            RefusalCode::NoCandidate,
            RefusalCode::Overtaken,
            RefusalCode::NoPrevious,
            RefusalCode::AlreadyActive,
            RefusalCode::InUse,
            RefusalCode::NotReady,
            RefusalCode::GateFailed,
            RefusalCode::Pinned,
            RefusalCode::Held,
            RefusalCode::NotHeld,
            RefusalCode::NotDrained,
            RefusalCode::NotInMaintenance,
            RefusalCode::OtherAuthority,
            RefusalCode::Aborted,
            RefusalCode::NotAborted,
        ] {
            assert_eq!(seen(code), 409);
        }
        assert_eq!(seen(RefusalCode::AuthorityAway), 503);
        assert_eq!(seen(RefusalCode::AuthorityRefused), 502);
        assert_eq!(seen(RefusalCode::TimedOut), 504);
    }

    #[test]
    fn a_problem_says_what_it_is_in_words_and_in_code() {
        let problem = refused(RefusalCode::NoCandidate);
        assert_eq!(problem.title, "No candidate");
        assert_eq!(problem.kind, "urn:tealgate:problem:no-candidate");
        assert_eq!(refused(RefusalCode::NotReady).title, "Refused by gate");
        let response = Error::unknown_app("x").into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
    }

    #[tokio::test]
    async fn a_foreign_error_becomes_a_problem_and_keeps_its_headers() {
        let foreign = (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET,HEAD")], "").into_response();
        let answer = as_problem(foreign).await;
        assert_eq!(answer.headers()[header::ALLOW], "GET,HEAD");
        let body = axum::body::to_bytes(answer.into_body(), 4096).await.unwrap();
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!((problem.status, problem.code.as_str()), (405, "method-not-allowed"));
    }
}
