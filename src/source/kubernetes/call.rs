//! One call to the API server that writes, as a value: what a dry run shows is what is sent. Everything is asked for with a
//! time limit, since the client by itself waits for ever, and what comes back wrong is told apart by what would help.
//!
//! Objects come and go as plain JSON. A typed object would lose the fields that its type does not know, and what is put
//! back where it came from (a template) must come back whole.

use std::{fmt, time::Duration};

use http::{Method, Request, header};
use kube::Client;
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use super::{Cluster, Target, Targets, chain, client::connect};
use crate::switch::{Refusal, RefusalCode};

/// How long the API server has for one answer.
const WITHIN: Duration = Duration::from_secs(5);

/// The most characters of a body that are shown.
const SHOWN: usize = 240;

/// An object of the cluster, or the collection it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    namespace: String,
    name: String,
}

impl Object {
    pub(super) fn rollout(namespace: &str, name: &str) -> Self {
        Self::of("argoproj.io", "v1alpha1", "rollouts", namespace, name)
    }

    pub(super) fn service(namespace: &str, name: &str) -> Self {
        Self::of("", "v1", "services", namespace, name)
    }

    pub(super) fn replica_set(namespace: &str, name: &str) -> Self {
        Self::of("apps", "v1", "replicasets", namespace, name)
    }

    pub(super) fn deployment(namespace: &str, name: &str) -> Self {
        Self::of("apps", "v1", "deployments", namespace, name)
    }

    pub(super) fn event(namespace: &str, name: &str) -> Self {
        Self::of("events.k8s.io", "v1", "events", namespace, name)
    }

    /// Whose token it is; of the cluster, and answered rather than kept.
    pub(super) fn token_review() -> Self {
        Self::of("authentication.k8s.io", "v1", "tokenreviews", "", "")
    }

    /// Whether somebody may do something; of the cluster, and answered rather than kept.
    pub(super) fn access_review() -> Self {
        Self::of("authorization.k8s.io", "v1", "subjectaccessreviews", "", "")
    }

    fn of(group: &'static str, version: &'static str, plural: &'static str, namespace: &str, name: &str) -> Self {
        Self { group, version, plural, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Where its collection is.
    fn collection(&self) -> String {
        let Self { group, version, plural, namespace, .. } = self;
        match (*group, namespace.as_str()) {
            ("", namespace) => format!("/api/{version}/namespaces/{namespace}/{plural}"),
            (group, "") => format!("/apis/{group}/{version}/{plural}"),
            (group, namespace) => format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}"),
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// By what is to be different (RFC 7396).
    Merge,
    /// By a list of operations (RFC 6902).
    Operations,
    /// Made anew.
    Create,
}

/// A call that writes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) how: How,
    pub(super) object: Object,
    /// Of the object's status, which has a door and a right of its own.
    pub(super) status: bool,
    pub(super) body: Value,
}

impl Call {
    pub(super) fn merge(object: Object, body: Value) -> Self {
        Self { how: How::Merge, object, status: false, body }
    }

    pub(super) fn merge_status(object: Object, body: Value) -> Self {
        Self { how: How::Merge, object, status: true, body }
    }

    pub(super) fn operations(object: Object, body: Value) -> Self {
        Self { how: How::Operations, object, status: false, body }
    }

    pub(super) fn create(object: Object, body: Value) -> Self {
        Self { how: How::Create, object, status: false, body }
    }

    fn request(&self) -> Result<Request<Vec<u8>>, http::Error> {
        let (method, media_type, path) = match self.how {
            How::Merge => (Method::PATCH, "application/merge-patch+json", self.object.path()),
            How::Operations => (Method::PATCH, "application/json-patch+json", self.object.path()),
            How::Create => (Method::POST, "application/json", self.object.collection()),
        };
        let path = format!("{path}{}?fieldManager=tealgate", if self.status { "/status" } else { "" });
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media_type);
        request.body(self.body.to_string().into_bytes())
    }

    fn right(&self) -> Right<'_> {
        let verb = if self.how == How::Create { "create" } else { "patch" };
        Right { verb, object: &self.object, status: self.status }
    }
}

/// The right that a call takes, as a Role names it.
struct Right<'a> {
    verb: &'static str,
    object: &'a Object,
    status: bool,
}

impl Right<'_> {
    /// The setting of the Helm chart that grants it.
    fn granted_by(&self) -> &'static str {
        match (self.verb, self.object.plural) {
            ("get" | "list", "deployments") | ("patch", "deployments") => "rbac.workloadRef: true",
            ("get" | "list", _) => "rbac.create: true",
            (_, "replicasets") => "rbac.extendDeadlines: true",
            (_, "tokenreviews" | "subjectaccessreviews") => "rbac.tokenReview: true",
            (_, _) => "mode: operate",
        }
    }
}

impl fmt::Display for Right<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Object { group, plural, namespace, .. } = self.object;
        let group = if group.is_empty() { "core" } else { group };
        let status = if self.status { "/status" } else { "" };
        write!(f, "{} {plural}{status} ({group})", self.verb)?;
        if namespace.is_empty() { Ok(()) } else { write!(f, " in namespace {namespace}") }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Object { plural, namespace, name, .. } = &self.object;
        let verb = match self.how {
            How::Merge => "patch",
            How::Operations => "patch (operations)",
            How::Create => "create",
        };
        let status = if self.status { "/status" } else { "" };
        let body = self.body.to_string();
        let (shown, more) = match body.char_indices().nth(SHOWN) {
            Some((end, _)) => (&body[..end], "…"),
            None => (body.as_str(), ""),
        };
        write!(f, "{verb} {plural}/{name}{status} in {namespace}: {shown}{more}")
    }
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The API server cannot be reached, or cannot answer just now.
    Away(String),
    /// We may not.
    Forbidden {
        /// The right that is missing.
        right: String,
        /// The setting of the Helm chart that grants it.
        granted_by: &'static str,
        /// The server's own words.
        message: String,
    },
    /// There is no such object.
    Missing(String),
    /// Somebody else has changed the object, or made it, since it was read.
    Changed,
    /// The server does not accept what it was sent.
    Rejected(String),
}

impl Failed {
    /// The same as the one who asked is told.
    pub(super) fn refusal(self) -> Refusal {
        let (code, detail, hint) = match self {
            Self::Away(why) => (
                RefusalCode::AuthorityAway,
                format!("the Kubernetes API server cannot be asked: {why}"),
                "traffic is as it was; try again when it is back. A rollback needs nobody: it works meanwhile"
                    .to_owned(),
            ),
            Self::Forbidden { right, granted_by, message } => (
                RefusalCode::AuthorityRefused,
                format!("the proxy may not {right}: {message}"),
                format!("grant that to the proxy's service account; the Helm chart does with {granted_by}"),
            ),
            Self::Missing(what) => (
                RefusalCode::AuthorityRefused,
                format!("{what} does not exist"),
                "see whether it was deleted or renamed, and what the configuration names".to_owned(),
            ),
            Self::Changed => (
                RefusalCode::AuthorityAway,
                "the Rollout changes faster than it can be asked".to_owned(),
                "see who else writes to it, and try again".to_owned(),
            ),
            Self::Rejected(why) => (
                RefusalCode::AuthorityRefused,
                format!("the Kubernetes API server does not accept it: {why}"),
                "an admission policy may forbid it; traffic is as it was".to_owned(),
            ),
        };
        Refusal { code, detail, hint }
    }

    fn of(error: kube::Error, right: &Right<'_>) -> Self {
        let kube::Error::Api(status) = error else { return Self::Away(chain(&error)) };
        let Object { plural, name, namespace, .. } = right.object;
        match status.code {
            403 => {
                let (granted_by, message) = (right.granted_by(), status.message.clone());
                Self::Forbidden { right: right.to_string(), granted_by, message }
            }
            404 => Self::Missing(format!("{plural}/{name} in namespace {namespace}")),
            409 => Self::Changed,
            400 | 405 | 406 | 413 | 415 | 422 => Self::Rejected(status.message.clone()),
            code => Self::Away(format!("it answers {code}: {}", status.message)),
        }
    }
}

/// The API server, as those who write use it.
pub(super) struct Server {
    targets: watch::Receiver<Targets>,
    /// The way there, and to which cluster it leads.
    client: Mutex<Option<(Cluster, Client)>>,
}

impl Server {
    /// That of the cluster that the targets name. A way to it is looked for when it is first needed, and anew when its
    /// credentials are refused.
    pub(super) fn new(targets: watch::Receiver<Targets>) -> Self {
        Self { targets, client: Mutex::default() }
    }

    /// What the configuration says is followed.
    pub(super) fn targets(&self) -> watch::Receiver<Targets> {
        self.targets.clone()
    }

    /// The namespace of a target.
    pub(super) async fn namespace_of(&self, target: &Target) -> Result<String, Failed> {
        match &target.namespace {
            Some(namespace) => Ok(namespace.clone()),
            None => Ok(self.client().await?.default_namespace().to_owned()),
        }
    }

    async fn client(&self) -> Result<Client, Failed> {
        let wanted = self.targets.borrow().cluster.clone();
        let mut client = self.client.lock().await;
        match client.as_ref() {
            Some((cluster, client)) if *cluster == wanted => Ok(client.clone()),
            Some(_) | None => {
                let found = connect(&wanted).await.map_err(Failed::Away)?;
                *client = Some((wanted, found.clone()));
                Ok(found)
            }
        }
    }

    #[cfg(test)]
    pub(super) fn by(client: Client, targets: watch::Receiver<Targets>) -> Self {
        let cluster = targets.borrow().cluster.clone();
        Self { targets, client: Mutex::new(Some((cluster, client))) }
    }

    /// Reads an object.
    pub(super) async fn get(&self, object: &Object) -> Result<Value, Failed> {
        let right = Right { verb: "get", object, status: false };
        self.exchange(Request::get(object.path()).body(Vec::new()), right).await
    }

    /// Reads the ReplicaSets of a revision.
    pub(super) async fn replica_sets(&self, namespace: &str, selector: &str) -> Result<Vec<Value>, Failed> {
        let object = Object::replica_set(namespace, "");
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("labelSelector", selector).finish();
        let request = Request::get(format!("{}?{query}", object.collection())).body(Vec::new());
        let right = Right { verb: "list", object: &object, status: false };
        let mut list = self.exchange(request, right).await?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// Sends a call. Where an old cluster has no door of its own for the status, it goes by that of the whole object; that
    /// the object itself is missing then shows as well.
    pub(super) async fn send(&self, call: &Call) -> Result<Value, Failed> {
        match self.exchange(call.request(), call.right()).await {
            Err(Failed::Missing(_)) if call.status => {
                let whole = Call { status: false, ..call.clone() };
                self.exchange(whole.request(), whole.right()).await
            }
            answer => answer,
        }
    }

    async fn exchange(
        &self,
        request: Result<Request<Vec<u8>>, http::Error>,
        right: Right<'_>,
    ) -> Result<Value, Failed> {
        let request = request.map_err(|error| Failed::Rejected(error.to_string()))?;
        let client = self.client().await?;
        match tokio::time::timeout(WITHIN, client.request::<Value>(request)).await {
            Ok(Err(kube::Error::Api(status))) if status.code == 401 => {
                *self.client.lock().await = None;
                Err(Failed::Away(format!("it does not know us: {}", status.message)))
            }
            Ok(answer) => answer.map_err(|error| Failed::of(error, &right)),
            Err(_) => Err(Failed::Away(format!("no answer within {} s", WITHIN.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_shown_is_what_is_sent() {
        let call = Call::merge_status(Object::rollout("demo", "shop"), json!({"status": {"abort": true}}));
        assert_eq!(call.to_string(), r#"patch rollouts/shop/status in demo: {"status":{"abort":true}}"#);
        let request = call.request().unwrap();
        assert_eq!(request.method(), Method::PATCH);
        let path = "/apis/argoproj.io/v1alpha1/namespaces/demo/rollouts/shop/status?fieldManager=tealgate";
        assert_eq!(request.uri().to_string(), path);
        assert_eq!(request.headers()["content-type"], "application/merge-patch+json");
        assert_eq!(request.body(), br#"{"status":{"abort":true}}"#);
        let long = Call::operations(Object::deployment("demo", "shop"), json!([{"value": "x".repeat(1000)}]));
        assert!(long.to_string().len() < 400, "{long}");
        assert!(long.request().unwrap().body().len() > 1000);
        let event = Call::create(Object::event("demo", "shop.1"), json!({}));
        let path = "/apis/events.k8s.io/v1/namespaces/demo/events?fieldManager=tealgate";
        assert_eq!(event.request().unwrap().uri().to_string(), path);
        assert_eq!(Object::service("demo", "a").path(), "/api/v1/namespaces/demo/services/a");
    }

    #[test]
    fn a_missing_right_is_named() {
        let call = Call::merge_status(Object::rollout("demo", "shop"), json!({}));
        let status = kube::core::Status { code: 403, message: "no".into(), ..Default::default() };
        let failed = Failed::of(kube::Error::Api(Box::new(status)), &call.right());
        let refusal = failed.refusal();
        assert_eq!(refusal.code, RefusalCode::AuthorityRefused);
        assert_eq!(refusal.detail, "the proxy may not patch rollouts/status (argoproj.io) in namespace demo: no");
        assert!(refusal.hint.contains("mode: operate"), "{}", refusal.hint);
    }
}
