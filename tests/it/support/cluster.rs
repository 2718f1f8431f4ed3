//! An API server that keeps what it is told: list, watch, bookmarks, patch, with label selectors, resource versions and
//! their ends, and every fault of its own on request. Reached by a kubeconfig, so that the real client runs against it. It
//! runs on a thread of its own; stopping it closes its listener and all its connections at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{Body, full};

/// A running API server.
pub struct Cluster {
    state: Arc<State>,
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// A patch as it came.
#[derive(Clone, Debug)]
pub struct Patch {
    /// `rollouts/shop`, or `rollouts/shop/status`.
    pub object: String,
    /// Its content type.
    pub kind: String,
    pub body: Value,
}

struct State {
    kept: Mutex<Kept>,
    /// Rung at every change of what is kept.
    stir: watch::Sender<()>,
}

#[derive(Default)]
struct Kept {
    /// By resource, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    version: u64,
    /// What happened, oldest first.
    past: Vec<Happened>,
    /// What happened up to this version is forgotten.
    forgotten: u64,
    patches: Vec<Patch>,
    /// How often what was asked: `list pods`.
    asked: BTreeMap<String, usize>,
    /// How often all watches were cut.
    cuts: u64,
    faults: Faults,
}

/// What happened to an object, and which version that made.
struct Happened {
    version: u64,
    key: (String, String, String),
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Default)]
struct Faults {
    /// `list pods`, or `patch rollouts`.
    forbidden: BTreeSet<String>,
    /// The only token that is known, if that counts.
    token: Option<String>,
    /// Resources that there are none of.
    unknown: BTreeSet<String>,
    /// Resources whose lists and watches say nothing for the time being.
    held: BTreeSet<String>,
}

impl Cluster {
    pub fn spawn() -> Self {
        let kept = Kept { version: 1000, ..Kept::default() };
        let state = Arc::new(State { kept: Mutex::new(kept), stir: watch::Sender::new(()) });
        let mut cluster = Self { state, address: SocketAddr::from(([127, 0, 0, 1], 0)), running: None };
        cluster.start();
        cluster
    }

    /// Listens: for the first time, or again at the same address after [`Self::stop`].
    pub fn start(&mut self) {
        let listener = TcpListener::bind(self.address).expect("a loopback port");
        listener.set_nonblocking(true).expect("a socket option");
        self.address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&self.state);
        self.running = Some((stop, thread::spawn(move || serve(listener, state, stopped))));
    }

    /// Closes the listener and all connections at once.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.send(()).ok();
            thread.join().ok();
        }
    }

    /// Writes a kubeconfig that leads here.
    pub fn write_kubeconfig(&self, file: &Path, token: &str) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "test", "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": "web" } }],
        });
        std::fs::write(file, config.to_string()).expect("a file");
    }

    /// Makes an object, or puts it in the place of the one of its name.
    pub fn put(&self, resource: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        self.kept().store(key(resource, &name), Some(object));
        self.state.stir.send_replace(());
    }

    /// Changes an object by a merge patch.
    pub fn patch(&self, resource: &str, name: &str, change: Value) {
        self.kept().merge(&key(resource, name), change).unwrap_or_else(|| panic!("there is no {resource}/{name}"));
        self.state.stir.send_replace(());
    }

    pub fn delete(&self, resource: &str, name: &str) {
        self.kept().store(key(resource, name), None);
        self.state.stir.send_replace(());
    }

    /// An object as it is now.
    pub fn object(&self, resource: &str, name: &str) -> Option<Value> {
        self.kept().objects.get(&key(resource, name)).cloned()
    }

    /// All patches that came, in order.
    pub fn patches(&self) -> Vec<Patch> {
        self.kept().patches.clone()
    }

    /// How often this was asked, e.g. `list pods`.
    pub fn asked(&self, what: &str) -> usize {
        self.kept().asked.get(what).copied().unwrap_or_default()
    }

    /// Cuts all watches, as a connection that breaks does.
    pub fn cut_watches(&self) {
        self.change(|kept| kept.cuts += 1);
    }

    /// Forgets what happened so far: a watch from before has to begin anew (410).
    pub fn compact(&self) {
        self.change(|kept| {
            kept.version += 1;
            kept.forgotten = kept.version;
        });
    }

    /// Says nothing more of these resources, until they are released.
    pub fn hold(&self, resource: &str) {
        self.change(|kept| _ = kept.faults.held.insert(resource.to_owned()));
    }

    pub fn release(&self, resource: &str) {
        self.change(|kept| _ = kept.faults.held.remove(resource));
    }

    /// Forbids, or allows again, e.g. `list pods`.
    pub fn forbid(&self, what: &str, forbidden: bool) {
        self.change(|kept| {
            _ = if forbidden {
                kept.faults.forbidden.insert(what.to_owned())
            } else {
                kept.faults.forbidden.remove(what)
            };
        });
    }

    /// Knows whoever has this token, and nobody else.
    pub fn know_only(&self, token: &str) {
        self.change(|kept| kept.faults.token = Some(token.to_owned()));
    }

    /// Knows nothing of a resource, as without its definition, or does again.
    pub fn unlearn(&self, resource: &str, unknown: bool) {
        self.change(|kept| {
            _ = if unknown {
                kept.faults.unknown.insert(resource.to_owned())
            } else {
                kept.faults.unknown.remove(resource)
            };
        });
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.kept());
        self.state.stir.send_replace(());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.state.kept.lock().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// All tests' objects are in one namespace.
fn key(resource: &str, name: &str) -> (String, String, String) {
    (resource.to_owned(), "web".to_owned(), name.to_owned())
}

impl Kept {
    fn store(&mut self, key: (String, String, String), object: Option<Value>) {
        self.version += 1;
        let version = self.version;
        let before = self.objects.remove(&key);
        let mut after = object;
        if let Some(object) = &mut after {
            object["metadata"]["namespace"] = key.1.clone().into();
            object["metadata"]["resourceVersion"] = version.to_string().into();
            let uid = before.as_ref().map(|before| before["metadata"]["uid"].clone()).filter(|uid| !uid.is_null());
            if object["metadata"]["uid"].is_null() {
                object["metadata"]["uid"] = uid.unwrap_or_else(|| format!("uid-{version}").into());
            }
            self.objects.insert(key.clone(), object.clone());
        }
        self.past.push(Happened { version, key, before, after });
    }

    fn merge(&mut self, key: &(String, String, String), change: Value) -> Option<Value> {
        let mut object = self.objects.get(key)?.clone();
        merge(&mut object, change);
        self.store(key.clone(), Some(object.clone()));
        self.objects.get(key).cloned()
    }
}

/// A JSON merge patch (RFC 7396).
pub fn merge(value: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *value = change;
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, change) in change {
        let object = value.as_object_mut().expect("an object");
        if change.is_null() {
            object.remove(&key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), change);
        }
    }
}

fn serve(listener: TcpListener, state: Arc<State>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let accept = async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            let state = Arc::clone(&state);
            let service = service_fn(move |request| answer(Arc::clone(&state), request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    };
    // When this returns, the runtime drops every connection's task, and with it the connection.
    runtime.block_on(async {
        tokio::select! {
            () = accept => {}
            _ = stopped => {}
        }
    });
}

/// What a request is about.
struct Asked {
    resource: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
    query: BTreeMap<String, String>,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Option<Self> {
        let segments: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        let inside = segments.iter().position(|segment| *segment == "namespaces")?;
        let mut rest = segments[inside + 1..].iter().map(|segment| (*segment).to_owned());
        let (namespace, resource) = (rest.next()?, rest.next()?);
        let query = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        Some(Self { resource, namespace, name: rest.next(), subresource: rest.next(), query })
    }

    fn says(&self, parameter: &str) -> &str {
        self.query.get(parameter).map(String::as_str).unwrap_or_default()
    }

    fn fits(&self, (resource, namespace, _): &(String, String, String), object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let selected = self.says("labelSelector").split(',').filter(|part| !part.is_empty()).all(|part| {
            match part.split_once('=') {
                Some((label, value)) => labels[label] == value,
                None => labels.get(part).is_some(),
            }
        });
        *resource == self.resource && *namespace == self.namespace && selected
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let Some(asked) = Asked::of(&request) else { return Ok(status(404, "NotFound", "no such path")) };
    let watching = matches!(asked.says("watch"), "true" | "1");
    let verb = match (request.method(), &asked.name) {
        (&Method::GET, None) if watching => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::PATCH, Some(_)) => "patch",
        _ => return Ok(status(405, "MethodNotAllowed", "not here")),
    };
    let what = format!("{verb} {}", asked.resource);
    {
        let mut kept = state.kept.lock().unwrap();
        *kept.asked.entry(what.clone()).or_default() += 1;
        let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if kept.faults.token.as_ref().is_some_and(|token| bearer != Some(&format!("Bearer {token}"))) {
            return Ok(status(401, "Unauthorized", "Unauthorized"));
        }
        if kept.faults.forbidden.contains(&what) {
            let message = format!("{} is forbidden: User \"tealgate\" cannot {what}", asked.resource);
            return Ok(status(403, "Forbidden", &message));
        }
        if kept.faults.unknown.contains(&asked.resource) {
            return Ok(status(404, "NotFound", "the server could not find the requested resource"));
        }
    }
    Ok(match verb {
        "watch" => watch_answer(state, asked),
        "list" => {
            released(&state, &asked.resource).await;
            list(&state, &asked)
        }
        "get" => get(&state, &asked),
        _ => patched(&state, asked, request).await,
    })
}

/// Waits until this resource is not held.
async fn released(state: &State, resource: &str) {
    let mut stir = state.stir.subscribe();
    while state.kept.lock().unwrap().faults.held.contains(resource) {
        stir.changed().await.ok();
    }
}

fn list(state: &State, asked: &Asked) -> Response<Body> {
    let kept = state.kept.lock().unwrap();
    let all: Vec<&Value> =
        kept.objects.iter().filter(|(key, object)| asked.fits(key, object)).map(|(_, o)| o).collect();
    let from: usize = asked.says("continue").parse().unwrap_or_default();
    let limit = asked.says("limit").parse().unwrap_or(usize::MAX);
    let page: Vec<_> = all.iter().skip(from).take(limit).collect();
    let mut metadata = json!({ "resourceVersion": kept.version.to_string() });
    if from + page.len() < all.len() {
        metadata["continue"] = (from + page.len()).to_string().into();
    }
    let whole = json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page });
    answered(200, &whole)
}

fn get(state: &State, asked: &Asked) -> Response<Body> {
    let kept = state.kept.lock().unwrap();
    let key = (asked.resource.clone(), asked.namespace.clone(), asked.name.clone().unwrap_or_default());
    match kept.objects.get(&key) {
        Some(object) => answered(200, object),
        None => status(404, "NotFound", &format!("{} \"{}\" not found", key.0, key.2)),
    }
}

async fn patched(state: &State, asked: Asked, request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.to_owned();
    let octets = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let Ok(body) = serde_json::from_slice::<Value>(&octets) else { return status(400, "BadRequest", "no JSON") };
    let name = asked.name.unwrap_or_default();
    let object = format!("{}/{name}", asked.resource) + &asked.subresource.map(|s| format!("/{s}")).unwrap_or_default();
    let outcome = {
        let mut kept = state.kept.lock().unwrap();
        kept.patches.push(Patch { object, kind: kind.clone(), body: body.clone() });
        let key = (asked.resource, asked.namespace, name);
        if kind == "application/merge-patch+json" { kept.merge(&key, body) } else { kept.objects.get(&key).cloned() }
    };
    state.stir.send_replace(());
    match outcome {
        Some(object) => answered(200, &object),
        None => status(404, "NotFound", "not found"),
    }
}

/// A watch: whatever happens after a version, one JSON document a line, until its time is up or it is cut.
fn watch_answer(state: Arc<State>, asked: Asked) -> Response<Body> {
    let from: u64 = asked.says("resourceVersion").parse().unwrap_or_default();
    let end = Instant::now() + Duration::from_secs(asked.says("timeoutSeconds").parse().unwrap_or(300));
    let cuts = state.kept.lock().unwrap().cuts;
    let stir = state.stir.subscribe();
    let lines = stream::unfold((state, asked, from, stir), move |(state, asked, from, mut stir)| async move {
        loop {
            stir.borrow_and_update();
            let found = state.kept.lock().unwrap().next(&asked, from, cuts);
            match found {
                Found::Line(line, from) => {
                    let frame = Ok::<_, super::BoxError>(Frame::data(Bytes::from(format!("{line}\n"))));
                    return Some((frame, (state, asked, from, stir)));
                }
                Found::Cut => return Some((Err("cut on purpose".into()), (state, asked, u64::MAX, stir))),
                Found::End => return None,
                Found::Nothing => {}
            }
            match timeout_at(end, stir.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// What a watch has to say next.
enum Found {
    Line(Value, u64),
    Nothing,
    Cut,
    End,
}

impl Kept {
    fn next(&self, asked: &Asked, from: u64, cuts: u64) -> Found {
        if from == u64::MAX {
            return Found::End;
        }
        if cuts < self.cuts {
            return Found::Cut;
        }
        if self.faults.held.contains(&asked.resource) {
            return Found::Nothing;
        }
        if from < self.forgotten {
            let gone = status_object(410, "Expired", "too old resource version");
            return Found::Line(json!({ "type": "ERROR", "object": gone }), u64::MAX);
        }
        let since = self.past.iter().filter(|happened| happened.version > from);
        for Happened { version, key, before, after } in since {
            let fits = |object: &Option<Value>| object.as_ref().is_some_and(|object| asked.fits(key, object));
            let (kind, object) = match (fits(before), fits(after)) {
                (false, true) => ("ADDED", after.clone()),
                (true, true) => ("MODIFIED", after.clone()),
                (true, false) => {
                    let mut gone = after.clone().or_else(|| before.clone()).unwrap_or_default();
                    gone["metadata"]["resourceVersion"] = version.to_string().into();
                    ("DELETED", Some(gone))
                }
                (false, false) => continue,
            };
            return Found::Line(json!({ "type": kind, "object": object }), *version);
        }
        if asked.says("allowWatchBookmarks") == "true" && self.version > from {
            let kind = json!({ "kind": "Bookmark", "apiVersion": "v1", "metadata": { "resourceVersion": self.version.to_string() } });
            return Found::Line(json!({ "type": "BOOKMARK", "object": kind }), self.version);
        }
        Found::Nothing
    }
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code })
}

fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    answered(code, &status_object(code, reason, message))
}

fn answered(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
