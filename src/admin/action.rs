//! An action as it arrives: who asks, of which app, under which guards, with which body. The extractor [`Action`] checks
//! them in that order, so that nobody learns by a body's mistakes what he may not do anyway.

use std::time::Duration;

use aws_lc_rs::digest;
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::{
    IntoParams, PartialSchema,
    openapi::path::{Parameter, ParameterBuilder, ParameterIn},
};

use super::{
    answers::{Fingerprint, Key},
    api::Role,
    caller::Caller,
    problem::Error,
};
use crate::switch::{AppName, Ask, Command, Order, Petition};

/// The most octets a body may have.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// How long a body may take.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// The most characters of a reason, and of an `Idempotency-Key`.
const MAX_REASON: usize = 1000;
const MAX_KEY: usize = 128;

/// The name of the header that makes a retry safe.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request for an action, with its body.
pub(super) struct Action<B> {
    /// Who asks, of which app, and under which guards.
    pub(super) terms: Terms,
    /// What is asked.
    pub(super) body: B,
}

/// Who asks, of which app, and under which guards.
pub(super) struct Terms {
    /// Who asks.
    pub(super) caller: Caller,
    /// Of which app.
    pub(super) app: AppName,
    /// The request's key for safe retries, with what it stands for.
    pub(super) key: Option<(Key, Fingerprint)>,
    if_match: Option<u64>,
    dry_run: bool,
}

/// The app in a path.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct AppPath {
    /// The app's name.
    pub(super) app: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ActionQuery {
    #[serde(default)]
    dry_run: bool,
}

impl AppPath {
    /// The app, if the caller may use it. What is no name can be no app's either.
    pub(super) fn seen_by(&self, caller: &Caller) -> Result<AppName, Error> {
        let app = self.app.parse().map_err(|_| Error::unknown_app(&self.app))?;
        caller.must_see(&app)?;
        Ok(app)
    }
}

impl Terms {
    /// Refuses guards where nothing is done that they could guard. A key for safe retries does no harm.
    pub(super) fn must_be_none(&self) -> Result<(), Error> {
        if !self.dry_run && self.if_match.is_none() {
            return Ok(());
        }
        let detail = "dryRun and If-Match are for actions, and this changes nothing";
        Err(Error::invalid(detail, "leave them out"))
    }

    /// The order, once the body's part is known.
    pub(super) fn order(&self, command: Command, reason: &str, if_generation: Option<u64>) -> Result<Order, Error> {
        let (reason, if_generation) = self.checked(reason, if_generation)?;
        let (app, by, dry_run) = (self.app.clone(), self.caller.name().to_owned(), self.dry_run);
        Ok(Order { app, command, by, reason, if_generation, dry_run })
    }

    /// The same, where it is for the app's authority to carry it out.
    pub(super) fn petition(
        &self,
        ask: Ask,
        reason: &str,
        if_generation: Option<u64>,
        within: Duration,
    ) -> Result<Petition, Error> {
        let (reason, if_generation) = self.checked(reason, if_generation)?;
        let (app, by, dry_run) = (self.app.clone(), self.caller.name().to_owned(), self.dry_run);
        Ok(Petition { app, ask, by, reason, if_generation, dry_run, within })
    }

    fn checked(&self, reason: &str, if_generation: Option<u64>) -> Result<(String, Option<u64>), Error> {
        if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(Error::invalid(
                format!("the reason has more than {MAX_REASON} characters, or a control character"),
                "say it shorter, in one line",
            ));
        }
        let if_generation = match (self.if_match, if_generation) {
            (Some(header), Some(body)) if header != body => {
                return Err(Error::invalid(
                    format!("If-Match says generation {header}, ifGeneration says {body}"),
                    "send one of them",
                ));
            }
            (header, body) => header.or(body),
        };
        Ok((reason.trim().to_owned(), if_generation))
    }
}

impl<B: DeserializeOwned, S: Send + Sync> FromRequest<S> for Action<B> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let Path(path) =
            Path::<AppPath>::from_request_parts(&mut parts, state).await.map_err(IntoResponse::into_response)?;
        let Query(query) =
            Query::<ActionQuery>::from_request_parts(&mut parts, state).await.map_err(IntoResponse::into_response)?;
        let caller = Caller::from_request_parts(&mut parts, state).await.map_err(IntoResponse::into_response)?;
        Self::checked(&parts, body, &path, caller, query.dry_run).await.map_err(IntoResponse::into_response)
    }
}

impl<B: DeserializeOwned> Action<B> {
    async fn checked(parts: &Parts, body: Body, path: &AppPath, caller: Caller, dry_run: bool) -> Result<Self, Error> {
        caller.must_be(Role::Operator, "act on an app")?;
        let app = path.seen_by(&caller)?;
        let if_match = if_match(&parts.headers)?;
        let key = idempotency_key(&parts.headers)?;
        let octets = read_body(&parts.headers, body).await?;
        let key = key.map(|key| {
            let call = format!("{} {}", parts.method, parts.uri.path());
            (Key { actor: caller.name().to_owned(), call, key }, fingerprint(parts, &octets))
        });
        let body = parse_json(&octets)?;
        Ok(Self { terms: Terms { caller, app, key, if_match, dry_run }, body })
    }
}

/// The body of a request that may have one: JSON, small and soon. None, or `null`, is as good as `{}`.
pub(super) async fn read_json<B: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<B, Error> {
    parse_json(&read_body(headers, body).await?)
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Error> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    must_be_json(headers)?;
    let too_large = || {
        Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("the body has more than {MAX_BODY} octets"),
            "send less at a time",
        )
    };
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_WITHIN, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Error::invalid("the body broke off", "send the whole of it")),
        Err(_) => Err(Error::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            format!("the body did not arrive within {} seconds", BODY_WITHIN.as_secs()),
            "send it at once",
        )),
    }
}

fn must_be_json(headers: &HeaderMap) -> Result<(), Error> {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let media_type = lines.next().and_then(|line| line.to_str().ok()).map(|line| {
        let (essence, _parameters) = line.split_once(';').unwrap_or((line, ""));
        essence.trim().to_ascii_lowercase()
    });
    let encoded = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
    if media_type.as_deref() == Some("application/json") && lines.next().is_none() && !encoded {
        return Ok(());
    }
    Err(Error::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        "the body is not plain JSON",
        "send `Content-Type: application/json`, without a Content-Encoding",
    ))
}

fn parse_json<B: DeserializeOwned>(octets: &[u8]) -> Result<B, Error> {
    let octets = if matches!(octets.trim_ascii(), b"" | b"null") { b"{}" } else { octets };
    let hint = "/api/openapi.json describes what is expected";
    // Without this an array would do: serde fills a struct's fields from one, in their order.
    if octets.iter().find(|octet| !octet.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Error::new(StatusCode::BAD_REQUEST, "bad-json", "the body is not a JSON object", hint));
    }
    serde_json::from_slice(octets).map_err(|error| {
        if error.is_data() {
            Error::invalid(format!("in the body: {error}"), hint)
        } else {
            Error::new(StatusCode::BAD_REQUEST, "bad-json", format!("the body is not JSON: {error}"), hint)
        }
    })
}

/// `If-Match: "<generation>"`; `*` asks for nothing.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let mut lines = headers.get_all(header::IF_MATCH).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let tag = line.to_str().unwrap_or_default().trim();
    if tag == "*" {
        return Ok(None);
    }
    let number = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).and_then(|text| text.parse().ok());
    if number.is_none() || lines.next().is_some() {
        return Err(Error::invalid(
            format!("If-Match is {line:?}, not one generation in quotes"),
            "send the ETag as it was answered, e.g. If-Match: \"12\"",
        ));
    }
    Ok(number)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    match line.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) && lines.next().is_none() => Ok(Some(key.to_owned())),
        Ok(_) | Err(_) => Err(Error::invalid(
            format!("the Idempotency-Key has not 1 to {MAX_KEY} visible ASCII characters, or comes twice"),
            "a UUID does well",
        )),
    }
}

/// All that makes a request what it is, beside its path: query, guard and body.
fn fingerprint(parts: &Parts, body: &[u8]) -> Fingerprint {
    let mut digest = digest::Context::new(&digest::SHA256);
    let guard = parts.headers.get(header::IF_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
    for part in [parts.uri.query().unwrap_or_default().as_bytes(), guard, body] {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut out = Fingerprint::default();
    out.copy_from_slice(digest.finish().as_ref());
    out
}

/// The parameters every action takes, for the API's description.
pub(super) struct Guards;

impl IntoParams for Guards {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name: &str, place, schema, description: &str| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(place)
                .schema(Some(schema))
                .description(Some(description))
                .build()
        };
        vec![
            parameter("dryRun", ParameterIn::Query, bool::schema(), "Only say what would happen."),
            parameter(
                "If-Match",
                ParameterIn::Header,
                String::schema(),
                "The app's generation in quotes, as `ETag` answers it: act only if it is still this one.",
            ),
            parameter(
                "Idempotency-Key",
                ParameterIn::Header,
                String::schema(),
                "1 to 128 characters. The same request with the same key within ten minutes is answered from memory \
                 and acts only once.",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::PromoteRequest;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        values.iter().map(|v| (http::HeaderName::from_static(name), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_guard_is_one_generation_in_quotes() {
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
        assert_eq!(if_match(&headers("if-match", &["\"12\""])).unwrap(), Some(12));
        assert_eq!(if_match(&headers("if-match", &["*"])).unwrap(), None);
        for bad in ["12", "W/\"12\"", "\"12\", \"13\"", "\"x\"", "\"", ""] {
            assert_eq!(if_match(&headers("if-match", &[bad])).unwrap_err().status, 400, "{bad}");
        }
        assert!(if_match(&headers("if-match", &["\"1\"", "\"2\""])).is_err());
    }

    #[test]
    fn a_key_is_short_and_comes_once() {
        assert_eq!(idempotency_key(&headers(IDEMPOTENCY_KEY, &["a b"])).unwrap().as_deref(), Some("a b"));
        assert!(idempotency_key(&headers(IDEMPOTENCY_KEY, &[""])).is_err());
        assert!(idempotency_key(&headers(IDEMPOTENCY_KEY, &["a", "a"])).is_err());
        assert!(idempotency_key(&headers(IDEMPOTENCY_KEY, &[&"x".repeat(MAX_KEY)])).is_ok());
        assert!(idempotency_key(&headers(IDEMPOTENCY_KEY, &[&"x".repeat(MAX_KEY + 1)])).is_err());
    }

    #[tokio::test]
    async fn a_body_is_json_small_and_soon() {
        let json = headers("content-type", &["application/json; charset=utf-8"]);
        let read = |headers: HeaderMap, body: Body| async move { read_json::<PromoteRequest>(&headers, body).await };
        assert_eq!(read(HeaderMap::new(), Body::empty()).await.unwrap(), PromoteRequest::default());
        assert!(read(json.clone(), Body::from(r#"{"reason": "x"}"#)).await.is_ok());
        assert_eq!(read(json.clone(), Body::from("null\n")).await.unwrap(), PromoteRequest::default());
        assert_eq!(read(HeaderMap::new(), Body::from("{}")).await.unwrap_err().status, 415);
        assert_eq!(read(headers("content-type", &["text/plain"]), Body::from("{}")).await.unwrap_err().status, 415);
        assert_eq!(read(json.clone(), Body::from("{")).await.unwrap_err().code, "bad-json");
        let unknown = read(json.clone(), Body::from(r#"{"resaon": ""}"#)).await.unwrap_err();
        assert!(unknown.status == 400 && unknown.detail.contains("`resaon`"), "{unknown:?}");
        assert_eq!(read(json.clone(), Body::from(vec![b' '; MAX_BODY + 1])).await.unwrap_err().status, 413);
        let pieces = (0..=MAX_BODY).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b" ")));
        let unannounced = Body::from_stream(futures_util::stream::iter(pieces));
        assert_eq!(read(json, unannounced).await.unwrap_err().status, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let json = headers("content-type", &["application/json"]);
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read_json::<PromoteRequest>(&json, never).await.unwrap_err().status, 408);
    }
}
