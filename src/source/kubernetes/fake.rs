//! A cluster for the tests of those who write: objects by their path, the two kinds of patches with their optimistic lock,
//! rights that can be taken away, and a controller that is whatever the test makes of it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Ready,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_service::Service;

use super::{Commander, Target, Targets, call::Server, commands::Desk};
use crate::switch::{
    AppName, Authority, Control, Desired, Feed, Followed, Matching, Policy, Returned, Revision, Sighted, Sighting,
    Switch, SwitchOptions, Viewer,
};

pub(super) const ROLLOUT: &str = "/apis/argoproj.io/v1alpha1/namespaces/demo/rollouts/shop";
pub(super) const SERVICE: &str = "/api/v1/namespaces/demo/services/shop-active";
const SETS: &str = "/apis/apps/v1/namespaces/demo/replicasets";

type Controller = Box<dyn FnMut(&mut Objects) + Send>;
type Meddler = Box<dyn FnMut() + Send>;
type Reviewer = Box<dyn Fn(&Value) -> Value + Send>;

/// The objects, and what was written.
#[derive(Default)]
pub(super) struct Objects {
    pub(super) all: BTreeMap<String, Value>,
    /// What was written, in the order in which it was: the path and the body.
    pub(super) written: Vec<(String, Value)>,
    /// Paths that answer a status instead: `403` for a right that is missing, `503` for a server that is away.
    pub(super) denied: BTreeMap<String, u16>,
    /// Gives reviews their status.
    reviewer: Option<Reviewer>,
    version: u64,
}

/// The cluster, with a switch that follows it as far as a test says.
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) objects: Arc<Mutex<Objects>>,
    controller: Arc<Mutex<Option<Controller>>>,
    meddler: Arc<Mutex<Option<Meddler>>>,
}

impl Objects {
    pub(super) fn rollout(&mut self) -> &mut Value {
        self.all.get_mut(ROLLOUT).expect("the Rollout")
    }

    /// What the controller or somebody else does to an object.
    pub(super) fn change(&mut self, path: &str, changes: Value) {
        let mut object = self.all.remove(path).unwrap_or_default();
        merge(&mut object, &changes);
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.all.insert(path.to_owned(), object);
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, media_type: &str, body: &[u8]) -> (u16, Value) {
        let failure = |code: u16, message: &str| (code, json!({"kind": "Status", "code": code, "message": message}));
        if let Some(code) = self.denied.get(path).or_else(|| self.denied.get("")) {
            return failure(*code, "denied by the test");
        }
        let stored = path.strip_suffix("/status").unwrap_or(path).to_owned();
        match *method {
            Method::GET if path == SETS => {
                let hash = query.rsplit("%3D").next().unwrap_or_default().to_owned();
                let fits =
                    |set: &&Value| set.pointer("/metadata/labels/rollouts-pod-template-hash") == Some(&json!(hash));
                let sets = self.all.iter().filter(|(path, _)| path.starts_with(SETS)).map(|(_, set)| set);
                (200, json!({"kind": "List", "items": sets.filter(fits).collect::<Vec<_>>()}))
            }
            Method::GET => {
                self.all.get(&stored).map_or_else(|| failure(404, "not found"), |object| (200, object.clone()))
            }
            Method::POST if path.ends_with("reviews") => {
                let mut review: Value = serde_json::from_slice(body).expect("JSON");
                review["status"] = self.reviewer.as_ref().map_or(Value::Null, |reviewer| reviewer(&review));
                (201, review)
            }
            Method::POST => {
                let object: Value = serde_json::from_slice(body).expect("JSON");
                let place = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
                if self.all.contains_key(&place) {
                    return failure(409, "already exists");
                }
                self.written.push((path.to_owned(), object.clone()));
                self.all.insert(place, object.clone());
                (201, object)
            }
            _ => {
                let Some(before) = self.all.get(&stored).cloned() else { return failure(404, "not found") };
                let patch: Value = serde_json::from_slice(body).expect("JSON");
                let mut after = before.clone();
                match media_type {
                    "application/merge-patch+json" => merge(&mut after, &patch),
                    _ => operate(&mut after, &patch),
                }
                if after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"] {
                    return failure(409, "the object has been modified");
                }
                // A status has a door of its own: through one, nothing of the other is changed.
                match path.ends_with("/status") {
                    true => after["spec"] = before["spec"].clone(),
                    false => after["status"] = before["status"].clone(),
                }
                if after["spec"] != before["spec"] {
                    after["metadata"]["generation"] = json!(before["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
                }
                self.written.push((path.to_owned(), patch));
                self.all.insert(stored.clone(), after);
                self.change(&stored, json!({}));
                (200, self.all[&stored].clone())
            }
        }
    }
}

impl Fake {
    /// `shop`: h1 is stable and active, h2 waits for approval.
    pub(super) fn paused() -> Self {
        let mut objects = Objects::default();
        let template = |image: &str| {
            json!({
                "metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"image": image}]},
            })
        };
        objects.change(ROLLOUT, json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "shop", "namespace": "demo", "uid": "u1", "generation": 7, "annotations": {"x": "y"}},
            "spec": {
                "strategy": {"blueGreen": {"activeService": "shop-active", "autoPromotionEnabled": false}},
                "template": template("v2"),
            },
            "status": {
                "observedGeneration": "7", "currentPodHash": "h2", "stableRS": "h1",
                "blueGreen": {"activeSelector": "h1", "previewSelector": "h2"},
                "pauseConditions": [{"reason": "BlueGreenPause", "startTime": "2026-01-01T00:00:00Z"}],
                "controllerPause": true, "phase": "Paused", "message": "BlueGreenPause",
            },
        }));
        objects.change(SERVICE, json!({"spec": {"selector": {"rollouts-pod-template-hash": "h1"}}}));
        for (hash, image) in [("h1", "v1"), ("h2", "v2")] {
            objects.change(
                &format!("{SETS}/shop-{hash}"),
                json!({
                    "metadata": {
                        "name": format!("shop-{hash}"), "labels": {"rollouts-pod-template-hash": hash},
                        "annotations": {"scale-down-deadline": "2030-01-01T00:00:00Z"},
                        "ownerReferences": [{"uid": "u1", "controller": true}],
                    },
                    "spec": {"replicas": 1, "template": template(image)}, "status": {"replicas": 1},
                }),
            );
        }
        Self { objects: Arc::new(Mutex::new(objects)), controller: Arc::default(), meddler: Arc::default() }
    }

    /// After each write this is done to the objects.
    pub(super) fn controlled_by(&self, controller: impl FnMut(&mut Objects) + Send + 'static) {
        *self.controller.lock().expect("no test panics in it") = Some(Box::new(controller));
    }

    /// This is the status of what is asked of whom.
    pub(super) fn reviewed_by(&self, reviewer: impl Fn(&Value) -> Value + Send + 'static) {
        self.objects().reviewer = Some(Box::new(reviewer));
    }

    /// Before each write this is done.
    pub(super) fn before_write(&self, meddler: impl FnMut() + Send + 'static) {
        *self.meddler.lock().expect("no test panics in it") = Some(Box::new(meddler));
    }

    pub(super) fn objects(&self) -> std::sync::MutexGuard<'_, Objects> {
        self.objects.lock().expect("no test panics in it")
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.clone(), "demo")
    }

    /// What was written: paths as far as they differ, and bodies.
    pub(super) fn written(&self) -> Vec<String> {
        let short = |(path, body): &(String, Value)| format!("{} {body}", path.rsplit('/').next().unwrap_or_default());
        self.objects().written.iter().map(short).collect()
    }
}

impl Service<Request<Body>> for Fake {
    type Response = Response<Full<bytes::Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let body = futures_util::FutureExt::now_or_never(body.collect()).expect("a body in memory").expect("a body");
        let media_type = parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        if let Some(meddler) = self.meddler.lock().expect("no test panics in it").as_mut()
            && parts.method != Method::GET
        {
            meddler();
        }
        let (status, answer) = self.objects().answer(&parts.method, path, query, media_type, &body.to_bytes());
        if parts.method != Method::GET && status < 300 {
            let mut controller = self.controller.lock().expect("no test panics in it");
            if let Some(controller) = controller.as_mut() {
                controller(&mut self.objects());
            }
        }
        let answer = Response::builder().status(status).body(Full::from(answer.to_string()));
        std::future::ready(Ok(answer.expect("an answer")))
    }
}

/// RFC 7396.
pub(super) fn merge(target: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        *target = changes.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        match change {
            Value::Null => _ = target.as_object_mut().expect("an object").shift_remove(key),
            change => merge(&mut target[key.as_str()], change),
        }
    }
}

/// As much of RFC 6902 as is sent.
fn operate(target: &mut Value, operations: &Value) {
    for operation in operations.as_array().expect("operations") {
        let path = operation["path"].as_str().expect("a path");
        match (operation["op"].as_str(), path.rsplit_once('/')) {
            (Some("replace"), _) => {
                *target.pointer_mut(path).expect("what is replaced exists") = operation["value"].clone();
            }
            (Some("add"), Some((parent, key))) => {
                let parent = target.pointer_mut(parent).expect("what is added to exists");
                parent[key.replace("~1", "/")] = operation["value"].clone();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A switch that follows `shop`; h1 is active, h2 its candidate, both ready.
pub(super) struct Following {
    pub(super) control: Control,
    pub(super) feed: Feed,
    pub(super) viewer: Viewer,
    pub(super) targets: watch::Sender<Targets>,
}

pub(super) fn shop() -> AppName {
    "shop".parse().expect("a name")
}

pub(super) fn revision(name: &str) -> Revision {
    name.parse().expect("a name")
}

impl Following {
    pub(super) async fn start() -> Self {
        let options = SwitchOptions { workers: 0, replica: "r1".into(), journal: None };
        let switch = Switch::start(options).expect("a switch");
        let followed = Followed {
            matching: Matching::default(),
            policy: Arc::new(Policy::default()),
            authority: Authority::ArgoRollouts,
        };
        let desired = Desired { followed: [(shop(), followed)].into(), ..Desired::default() };
        switch.feed.desired(desired).await.expect("it runs");
        let objects = super::Objects::Rollout("shop".into());
        let target = Target { namespace: Some("demo".into()), objects, port: None };
        let targets = watch::Sender::new(Targets { apps: [(shop(), target)].into(), ..Targets::default() });
        let this = Self { control: switch.control, feed: switch.feed, viewer: switch.viewer, targets };
        this.sight("h1", Some("h2")).await;
        this
    }

    pub(super) fn commander(&self, fake: &Fake) -> Commander {
        self.attended(fake).0
    }

    pub(super) fn attended(&self, fake: &Fake) -> (Commander, Desk) {
        let server = Server::by(fake.client(), self.targets.subscribe());
        Commander::by(server, self.control.clone(), self.viewer.clone())
    }

    /// What the watches would say.
    pub(super) async fn sight(&self, active: &str, preview: Option<&str>) {
        sight(&self.feed, active, preview).await;
    }
}

pub(super) async fn sight(feed: &Feed, active: &str, preview: Option<&str>) {
    sight_told(feed, active, preview, None).await;
}

/// h1 active with h2 as its candidate, and this amiss.
pub(super) async fn sight_amiss(feed: &Feed, alarms: Vec<String>) {
    see(feed, "h1", Some("h2"), Sighting { alarms, ..Sighting::default() }).await;
}

/// The same, with the word of a rollback.
pub(super) async fn sight_told(feed: &Feed, active: &str, preview: Option<&str>, returned: Option<Returned>) {
    see(feed, active, preview, Sighting { returned, ..Sighting::default() }).await;
}

async fn see(feed: &Feed, active: &str, preview: Option<&str>, rest: Sighting) {
    let seen = |port: u16| Sighted {
        endpoints: vec![std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()],
        ..Sighted::default()
    };
    let sighting = Sighting {
        revisions: [(revision("h1"), seen(9001)), (revision("h2"), seen(9011))].into(),
        active: Some(revision(active)),
        preview: preview.map(revision),
        ..rest
    };
    feed.sighted(shop(), sighting).await;
    for (name, port) in [("h1", 9001), ("h2", 9011)] {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        feed.observed(shop(), revision(name), address, true).await;
    }
}
