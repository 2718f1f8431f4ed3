//! The admin API over real sockets, on a real switch: what a caller is promised, status by status.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::watch,
};

use super::{
    AdminServer, Api, HealthServer, Options, Readiness, ReloadError, StartError, Tokens,
    api::{Problem, Role, Version},
    mint,
};
use crate::switch::{Desired, Matching, Phase, Policy, Reader, RequestKey, Switch, SwitchOptions, Wanted};

/// A switch with the apps `shop` and `blog`, each with blue active and green its ready candidate, behind an admin API.
pub(super) struct Fixture {
    pub(super) switch: Switch,
    pub(super) api: Api,
    server: AdminServer,
    viewer: String,
    operator: String,
    admin: String,
    shopkeeper: String,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Fixture {
    pub(super) async fn start() -> Self {
        let options = SwitchOptions { workers: 1, replica: "r1".into(), journal: None };
        let switch = Switch::start(options).unwrap();
        switch.feed.desired(two_apps()).await.unwrap();
        for app in ["shop", "blog"] {
            for (revision, port) in [("blue", 9001), ("green", 9011)] {
                switch.feed.observed(app.parse().unwrap(), revision.parse().unwrap(), address(port), true).await;
            }
        }
        let mut viewer = switch.viewer.clone();
        while viewer.board().apps.values().any(|app| app.rollout.phase() != Phase::Previewing) {
            viewer.changed().await;
        }
        let (mut entries, mut secrets) = (Vec::new(), Vec::new());
        let only_shop = BTreeSet::from(["shop".parse().unwrap()]);
        for (name, role, apps) in [
            ("vera", Role::Viewer, None),
            ("olaf", Role::Operator, None),
            ("ada", Role::Admin, None),
            ("shopkeeper", Role::Operator, Some(only_shop)),
        ] {
            let (secret, entry) = mint(name, role, apps, None).unwrap();
            entries.push(entry);
            secrets.push(secret);
        }
        let reload = Arc::new(|| async { Ok(json!({"changed": ["shop"]})) }.boxed());
        let api = Api {
            control: switch.control.clone(),
            viewer: switch.viewer.clone(),
            reload,
            tokens: Some(Arc::new(Tokens::fixed(entries))),
            version: Version::of_this_build(),
        };
        let options = Options { bind: Some(address(0)), ..Options::default() };
        let server = AdminServer::start(&options, api.clone()).await.unwrap();
        let [viewer, operator, admin, shopkeeper] = secrets.try_into().unwrap();
        Self { switch, api, server, viewer, operator, admin, shopkeeper }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path, &self.viewer, Value::Null)).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(request(Method::POST, path, &self.operator, body)).await
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Reply {
        let address = self.server.address().unwrap();
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", address.to_string().parse().unwrap());
        }
        exchange(TcpStream::connect(address).await.unwrap(), request).await
    }
}

fn two_apps() -> Desired {
    let app = |name: &str, host: &str| {
        let wanted = Wanted {
            matching: Matching { hosts: vec![crate::switch::HostPattern::Exact(host.into())], ..Matching::default() },
            revisions: [("blue", 9001), ("green", 9011)]
                .map(|(name, port)| (name.parse().unwrap(), vec![address(port).into()]))
                .into(),
            active: "blue".parse().unwrap(),
            preview: Some("green".parse().unwrap()),
            policy: Arc::new(Policy::default()),
        };
        (name.parse().unwrap(), wanted)
    };
    Desired { apps: [app("shop", "shop.test"), app("blog", "blog.test")].into() }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A request as a well-behaved client sends it; a null body is none.
fn request(method: Method, path: &str, token: &str, body: Value) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
    match body {
        Value::Null => request.body(Full::default()).unwrap(),
        body => request.header("content-type", "application/json").body(Full::from(body.to_string())).unwrap(),
    }
}

fn with(mut request: Request<Full<Bytes>>, name: &'static str, value: &str) -> Request<Full<Bytes>> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

async fn exchange(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, request: Request<Full<Bytes>>) -> Reply {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let octets = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&octets)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&octets).into_owned()));
    Reply { status: parts.status, headers: parts.headers, body }
}

impl Reply {
    /// The stable code of the problem this must be, with its status.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{} {}", self.status, self.body);
        let problem: Problem = serde_json::from_value(self.body.clone()).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        assert!(!problem.detail.is_empty() && !problem.hint.is_empty(), "{problem:?}");
        (problem.status, problem.code)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

#[tokio::test]
async fn a_promotion_moves_traffic_and_answers_its_receipt() {
    let f = Fixture::start().await;
    let plan = f.get("/api/v1/apps/shop/plan").await;
    assert_eq!(
        (plan.body["possible"].clone(), plan.body["to"].clone()),
        (json!(true), json!("green")),
        "{}",
        plan.body
    );

    let done = f.post("/api/v1/apps/shop/promote", json!({"reason": "release 7"})).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!((&done.body["by"], &done.body["reason"]), (&json!("olaf"), &json!("release 7")));
    assert_eq!((&done.body["from"], &done.body["to"]), (&json!("blue"), &json!("green")));

    let state = f.get("/api/v1/apps/shop").await;
    assert_eq!(state.body["active"]["revision"], "green");
    assert_eq!(state.header("etag"), done.header("etag"));
    assert_eq!(state.header("etag").unwrap(), format!("\"{}\"", state.body["generation"]));

    let refused = f.post("/api/v1/apps/shop/promote", Value::Null).await;
    assert_eq!(refused.problem(), (409, "no-candidate".into()));
    let plan = f.get("/api/v1/apps/shop/plan").await;
    assert_eq!((&plan.body["possible"], &plan.body["refusal"]["code"]), (&json!(false), &json!("no-candidate")));

    let back = f.post("/api/v1/apps/shop/rollback", json!({"reason": "errors"})).await;
    assert_eq!((back.status.as_u16(), &back.body["to"]), (200, &json!("blue")));
    let history = f.get("/api/v1/apps/shop/history?limit=2").await;
    let actions: Vec<_> = history.body.as_array().unwrap().iter().map(|receipt| receipt["action"].clone()).collect();
    assert_eq!(actions, ["rollback", "promote"]);
}

#[tokio::test]
async fn a_candidate_is_deployed_updated_and_discarded() {
    let f = Fixture::start().await;
    let path = "/api/v1/apps/shop/revisions/v3";
    let put = |body| f.send(request(Method::PUT, path, &f.operator, body));
    let deployed = put(
        json!({"endpoints": ["127.0.0.1:9021", {"address": "127.0.0.1:9022", "weight": 3}], "labels": {"git": "abc"}}),
    )
    .await;
    assert_eq!((deployed.status.as_u16(), &deployed.body["action"]), (200, &json!("deploy")), "{}", deployed.body);
    let state = f.get("/api/v1/apps/shop").await;
    assert_eq!(state.body["preview"]["revision"], "v3");
    assert_eq!(state.body["preview"]["endpoints"][1]["weight"], 3);
    assert_eq!(state.body["preview"]["labels"]["git"], "abc");

    let refused = f.post("/api/v1/apps/shop/promote", Value::Null).await;
    assert_eq!(refused.problem(), (409, "not-ready".into()));
    assert!(refused.body["gates"].as_array().is_some_and(|gates| !gates.is_empty()), "{}", refused.body);

    for (bad, word) in [
        (json!({"endpoints": []}), "0 entries"),
        (json!({"endpoints": ["127.0.0.1:0"]}), "endpoints[0]"),
        (json!({"endpoints": ["127.0.0.1:1", "127.0.0.1:1"]}), "endpoints[1]"),
        (json!({"endpoints": [{"address": "127.0.0.1:1", "weight": 0}]}), "weight"),
        (json!({"endpoints": [{"address": "127.0.0.1:1", "wait": 1}]}), "`wait`"),
        (json!({"endpoints": ["shop.example:80"]}), "ip:port"),
        (json!({}), "endpoints"),
    ] {
        let refused = put(bad).await;
        assert_eq!(refused.problem(), (400, "invalid".into()));
        assert!(refused.body["detail"].as_str().unwrap().contains(word), "{}", refused.body);
    }
    let gone = f.send(request(Method::DELETE, path, &f.operator, Value::Null)).await;
    assert_eq!((gone.status.as_u16(), &gone.body["action"]), (200, &json!("discard")));
    assert_eq!(f.get("/api/v1/apps/shop").await.body["preview"], Value::Null);
}

#[tokio::test]
async fn an_action_on_another_generation_than_meant_is_not_done() {
    let f = Fixture::start().await;
    let promote = |body| request(Method::POST, "/api/v1/apps/shop/promote", &f.operator, body);
    let tag = f.get("/api/v1/apps/shop").await.header("etag").unwrap().to_owned();
    let stale = with(promote(Value::Null), "if-match", "\"99\"");
    assert_eq!(f.send(stale).await.problem(), (412, "generation-mismatch".into()));
    assert_eq!(f.send(promote(json!({"ifGeneration": 99}))).await.problem(), (412, "generation-mismatch".into()));
    let torn = with(promote(json!({"ifGeneration": 99})), "if-match", &tag);
    assert_eq!(f.send(torn).await.problem(), (400, "invalid".into()));
    assert_eq!(f.send(with(promote(Value::Null), "if-match", "12")).await.problem(), (400, "invalid".into()));
    assert_eq!(f.send(with(promote(Value::Null), "if-match", &tag)).await.status, 200);
}

#[tokio::test]
async fn a_repeat_with_the_same_key_acts_once() {
    let f = Fixture::start().await;
    let keyed = |path: &str, body| with(request(Method::POST, path, &f.operator, body), "idempotency-key", "k1");
    let promote = "/api/v1/apps/shop/promote";
    let dry = f.send(keyed(&format!("{promote}?dryRun=true"), Value::Null)).await;
    assert_eq!(dry.body["dryRun"], true, "{}", dry.body);
    assert_eq!(f.send(keyed(promote, Value::Null)).await.problem(), (422, "idempotency-key-reused".into()));

    let keyed = |path: &str, body| with(request(Method::POST, path, &f.operator, body), "idempotency-key", "k2");
    let (first, second) = tokio::join!(f.send(keyed(promote, Value::Null)), f.send(keyed(promote, Value::Null)));
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    let replayed = [&first, &second].map(|reply| reply.header("idempotent-replayed").is_some());
    assert_eq!(replayed.iter().filter(|yes| **yes).count(), 1);
    let elsewhere = f.send(keyed("/api/v1/apps/blog/promote", Value::Null)).await;
    assert_eq!((elsewhere.status.as_u16(), elsewhere.header("idempotent-replayed")), (200, None));
    assert_eq!(f.get("/api/v1/apps/shop/history").await.body.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_tells_nobody() {
    let f = Fixture::start().await;
    let mut events = f.api.viewer.events();
    let before = f.get("/api/v1/apps/shop").await.body;
    let dry = f.post("/api/v1/apps/shop/promote?dryRun=true", Value::Null).await;
    assert_eq!((&dry.body["dryRun"], &dry.body["to"]), (&json!(true), &json!("green")));
    assert_eq!(f.post("/api/v1/apps/shop/rollback?dryRun=true", Value::Null).await.problem().1, "no-previous");
    assert_eq!(f.get("/api/v1/apps/shop").await.body, before);
    assert!(events.try_recv().is_err());
    let misspelt = f.post("/api/v1/apps/shop/promote?dryrun=true", Value::Null).await;
    assert_eq!(misspelt.problem(), (400, "invalid".into()));
    assert!(misspelt.body["detail"].as_str().unwrap().contains("dryrun"), "{}", misspelt.body);
}

#[tokio::test]
async fn a_pin_keeps_what_is_active_until_it_is_taken_off() {
    let f = Fixture::start().await;
    let pin = "/api/v1/apps/shop/pin";
    assert_eq!(f.post(pin, json!({"revision": "blue", "reason": " "})).await.problem(), (400, "invalid".into()));
    let past = json!({"revision": "blue", "reason": "freeze", "expires": "2020-01-01T00:00:00Z"});
    assert_eq!(f.post(pin, past).await.problem(), (400, "invalid".into()));
    assert_eq!(f.post(pin, json!({"revision": "blue", "reason": "freeze"})).await.status, 200);
    let state = f.get("/api/v1/apps/shop").await;
    assert_eq!(state.body["pin"], json!({"revision": "blue", "reason": "freeze", "by": "olaf"}));
    assert_eq!(f.post("/api/v1/apps/shop/promote", Value::Null).await.problem(), (409, "pinned".into()));
    let unpinned = f.send(request(Method::DELETE, pin, &f.operator, json!({"reason": "over"}))).await;
    assert_eq!((unpinned.status.as_u16(), &unpinned.body["reason"]), (200, &json!("over")));
    assert_eq!(f.post("/api/v1/apps/shop/abort", Value::Null).await.status, 200);
}

#[tokio::test]
async fn a_role_may_do_what_it_says_and_no_more() {
    let f = Fixture::start().await;
    for (name, token, actions, admin) in
        [("vera", &f.viewer, 403, 403), ("olaf", &f.operator, 200, 403), ("ada", &f.admin, 200, 200)]
    {
        let who = f.send(request(Method::GET, "/api/v1/whoami", token, Value::Null)).await;
        assert_eq!((&who.body["name"], &who.body["via"]), (&json!(name), &json!("token")));
        let act = f.send(request(Method::POST, "/api/v1/apps/shop/promote?dryRun=true", token, Value::Null)).await;
        assert_eq!(act.status.as_u16(), actions, "{name}");
        let skip = json!({"skipGates": true, "reason": "hotfix"});
        let skip = f.send(request(Method::POST, "/api/v1/apps/shop/promote?dryRun=true", token, skip)).await;
        assert_eq!(skip.status.as_u16(), admin, "{name}");
        let reload = f.send(request(Method::POST, "/api/v1/reload", token, Value::Null)).await;
        assert_eq!(reload.status.as_u16(), admin, "{name}");
    }
    let unreasoned = json!({"skipGates": true, "reason": "  "});
    let refused = f.send(request(Method::POST, "/api/v1/apps/shop/promote", &f.admin, unreasoned)).await;
    assert_eq!(refused.problem(), (400, "invalid".into()));
}

#[tokio::test]
async fn a_token_for_one_app_neither_sees_nor_touches_another() {
    let f = Fixture::start().await;
    f.post("/api/v1/apps/blog/promote", Value::Null).await;
    let asks = |method, path: &str| f.send(request(method, path, &f.shopkeeper, Value::Null));
    let apps = asks(Method::GET, "/api/v1/apps").await;
    let names: Vec<_> = apps.body.as_array().unwrap().iter().map(|app| app["name"].clone()).collect();
    assert_eq!(names, ["shop"]);
    assert_eq!(asks(Method::GET, "/api/v1/journal").await.body, json!([]));
    for (method, path) in [
        (Method::GET, "/api/v1/apps/blog"),
        (Method::GET, "/api/v1/apps/none"),
        (Method::GET, "/api/v1/events?app=blog"),
        (Method::POST, "/api/v1/apps/blog/promote"),
        (Method::POST, "/api/v1/reload"),
    ] {
        assert_eq!(asks(method, path).await.problem(), (403, "forbidden".into()), "{path}");
    }
    assert_eq!(asks(Method::POST, "/api/v1/apps/shop/promote").await.status, 200);
    let all = f.get("/api/v1/journal").await;
    let apps: Vec<_> = all.body.as_array().unwrap().iter().map(|receipt| receipt["app"].clone()).collect();
    assert_eq!(apps, ["shop", "blog"]);
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_and_learns_nothing() {
    let f = Fixture::start().await;
    for path in ["/api/v1/apps", "/api/v1/apps/none", "/api/v1/nowhere", "/api/v1", "/api/v1/version"] {
        let bare = f.send(Request::builder().uri(path).body(Full::default()).unwrap()).await;
        assert_eq!(bare.problem(), (401, "unauthorized".into()), "{path}");
        assert!(bare.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    let wrong = f.send(request(Method::POST, "/api/v1/apps/shop/promote", "tg_wrong", Value::Null)).await;
    assert_eq!(wrong.problem(), (401, "unauthorized".into()));
    let public = f.send(Request::builder().uri("/api/openapi.json").body(Full::default()).unwrap()).await;
    assert_eq!(public.status, 200);
    let root = f.send(Request::builder().uri("/").body(Full::default()).unwrap()).await;
    assert_eq!(root.problem(), (404, "not-found".into()));
    assert!(root.body["hint"].as_str().unwrap().contains("/api/v1"));
}

#[tokio::test]
async fn every_error_is_a_problem_and_every_answer_safe() {
    let f = Fixture::start().await;
    let post = |body: &'static str, kind: &str| {
        let request = request(Method::POST, "/api/v1/apps/shop/promote", &f.operator, Value::Null);
        f.send(with(request.map(|_| Full::from(body)), "content-type", kind))
    };
    assert_eq!(post("{}", "text/plain").await.problem(), (415, "unsupported-media-type".into()));
    assert_eq!(post("{", "application/json").await.problem(), (400, "bad-json".into()));
    assert_eq!(post("[]", "application/json").await.problem(), (400, "bad-json".into()));
    assert_eq!(post(r#"{"wait": "baked"}"#, "application/json").await.problem(), (400, "not-offered".into()));
    let huge: &'static str = Box::leak(" ".repeat(64 * 1024 + 1).into_boxed_str());
    assert_eq!(post(huge, "application/json").await.problem(), (413, "too-large".into()));

    assert_eq!(f.get("/api/v1/nowhere").await.problem(), (404, "not-found".into()));
    assert_eq!(f.get("/api/v1/apps/none").await.problem(), (404, "unknown-app".into()));
    assert_eq!(f.get("/api/v1/apps/%20").await.problem(), (404, "unknown-app".into()));
    assert_eq!(f.get("/api/v1/apps/%FF").await.problem(), (400, "invalid".into()));
    assert_eq!(f.get("/api/v1/journal?limit=0").await.problem(), (400, "invalid".into()));
    assert_eq!(f.get("/api/v1/journal?limit=x").await.problem(), (400, "invalid".into()));
    assert_eq!(f.get("/api/v1/apps?full=1").await.problem(), (400, "invalid".into()));
    let method = f.get("/api/v1/apps/shop/promote").await;
    assert_eq!(method.problem(), (405, "method-not-allowed".into()));
    assert_eq!(method.header("allow"), Some("POST"));
    assert_eq!(f.get("/api/v1/apps/shop").await.body["active"]["revision"], "blue");

    for path in ["/api/v1/apps", "/", "/api/openapi.json"] {
        let reply = f.get(path).await;
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"));
    }
}

#[tokio::test]
async fn a_foreign_page_reaches_nothing_even_with_a_token() {
    let f = Fixture::start().await;
    let ask = || request(Method::GET, "/api/v1/apps", &f.viewer, Value::Null);
    assert_eq!(f.send(with(ask(), "host", "evil.example")).await.problem(), (421, "misdirected".into()));
    assert_eq!(f.send(with(ask(), "origin", "http://evil.example")).await.problem(), (403, "forbidden".into()));
    let own = format!("http://{}", f.server.address().unwrap());
    assert_eq!(f.send(with(ask(), "origin", &own)).await.status, 200);
    assert_eq!(f.send(with(ask(), "host", "localhost:1")).await.status, 200);
}

#[tokio::test]
async fn whoever_may_open_the_socket_is_admin_under_his_own_name() {
    let f = Fixture::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/admin.sock");
    let options = Options { socket: Some(path.clone()), ..Options::default() };
    let server = AdminServer::start(&options, Api { tokens: None, ..f.api.clone() }).await.unwrap();
    let ask = |method, target: &str, host: &'static str| {
        let request = Request::builder().method(method).uri(target).header("host", host).body(Full::default()).unwrap();
        async { exchange(UnixStream::connect(&path).await.unwrap(), request).await }
    };
    let who = ask(Method::GET, "/api/v1/whoami", "tealgate").await;
    assert_eq!((&who.body["role"], &who.body["via"]), (&json!("admin"), &json!("socket")), "{}", who.body);
    let done = ask(Method::POST, "/api/v1/apps/shop/promote", "tealgate").await;
    assert_eq!((done.status.as_u16(), &done.body["by"]), (200, &who.body["name"]));
    assert_eq!(ask(Method::POST, "/api/v1/reload", "x").await.body, json!({"changed": ["shop"]}));
    server.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_reload_that_fails_says_why() {
    let f = Fixture::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let options = Options { socket: Some(path.clone()), ..Options::default() };
    let detail = "tealgate.yaml: line 3: unknown key";
    let reload = Arc::new(move || async move { Err(ReloadError { detail: detail.into() }) }.boxed());
    let _server = AdminServer::start(&options, Api { reload, ..f.api.clone() }).await.unwrap();
    let ask = request(Method::POST, "/api/v1/reload", "", Value::Null);
    let reply = exchange(UnixStream::connect(&path).await.unwrap(), ask).await;
    assert_eq!(reply.problem(), (422, "reload-failed".into()));
    assert_eq!(reply.body["detail"], detail);
}

#[tokio::test]
async fn tcp_without_tokens_does_not_start() {
    let f = Fixture::start().await;
    let options = Options { bind: Some(address(0)), ..Options::default() };
    let started = AdminServer::start(&options, Api { tokens: None, ..f.api.clone() }).await;
    assert!(matches!(started, Err(StartError::NoTokens { .. })));
    let taken = Options { bind: f.server.address(), ..Options::default() };
    assert!(matches!(AdminServer::start(&taken, f.api.clone()).await, Err(StartError::Bind { .. })));
}

struct Key;

impl RequestKey for Key {
    fn host(&self) -> &str {
        "shop.test"
    }
    fn path(&self) -> &str {
        "/"
    }
    fn on_preview_listener(&self) -> bool {
        false
    }
    fn client(&self) -> Option<IpAddr> {
        None
    }
}

/// What a worker does beside its requests, until `asked` is answered.
async fn while_adopting<T>(reader: &Reader, asked: impl Future<Output = T>) -> T {
    let adopting = async {
        loop {
            reader.changed().await;
            reader.acknowledge(&reader.adopt());
        }
    };
    tokio::select! {
        answer = asked => answer,
        () = adopting => unreachable!("it goes on for ever"),
    }
}

#[tokio::test]
async fn an_answer_may_wait_until_the_old_pool_is_empty() {
    let f = Fixture::start().await;
    let reader = f.switch.readers.reader(0);
    let ticket = reader.admit(&Key, &[]).unwrap();
    let mut viewer = f.api.viewer.clone();
    let asked = f.post("/api/v1/apps/shop/promote", json!({"wait": "drained"}));
    let mut answered = std::pin::pin!(while_adopting(&reader, asked));
    let flipped = async {
        while viewer.board().apps.values().all(|app| app.history.is_empty()) {
            viewer.changed().await;
        }
    };
    tokio::select! {
        reply = &mut answered => panic!("answered with a request in flight: {}", reply.body),
        () = flipped => {}
    }
    assert!(futures_util::poll!(&mut answered).is_pending());
    drop(ticket);
    let reply = answered.await;
    assert_eq!((reply.status.as_u16(), &reply.body["inFlightOnOld"]), (200, &json!(1)));
    assert_eq!(f.get("/api/v1/apps/shop").await.body["draining"], json!([]));
}

/// Reads a stream of events up to the end of the next one: its name and its data.
async fn next_event(body: &mut hyper::body::Incoming, text: &mut String) -> Option<(String, Value)> {
    loop {
        if let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let read = (field("event: ").unwrap(), serde_json::from_str(&field("data: ").unwrap()).unwrap());
            *text = rest.to_owned();
            return Some(read);
        }
        let frame = body.frame().await?.unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
}

#[tokio::test]
async fn events_begin_with_the_state_carry_the_fresh_one_and_end_with_the_server() {
    let f = Fixture::start().await;
    let address = f.server.address().unwrap();
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let ask = request(Method::GET, "/api/v1/events?app=shop", &f.viewer, Value::Null);
    let (parts, mut body) = sender.send_request(with(ask, "host", &address.to_string())).await.unwrap().into_parts();
    assert_eq!((parts.headers["content-type"].to_str().unwrap(), parts.status.as_u16()), ("text/event-stream", 200));
    assert_eq!(parts.headers["cache-control"], "no-store");

    let mut text = String::new();
    let (name, state) = next_event(&mut body, &mut text).await.unwrap();
    assert_eq!((name.as_str(), &state["active"]["revision"]), ("state", &json!("blue")));
    f.post("/api/v1/apps/blog/promote", Value::Null).await;
    f.post("/api/v1/apps/shop/promote", Value::Null).await;
    loop {
        let (name, event) = next_event(&mut body, &mut text).await.unwrap();
        assert_eq!((&event["app"], &event["type"]), (&json!("shop"), &json!(name)));
        assert_eq!(event["state"]["active"]["revision"], "green", "{event}");
        if name == "acted" {
            assert_eq!((&event["receipt"]["action"], &event["receipt"]["by"]), (&json!("promote"), &json!("olaf")));
            break;
        }
    }
    f.server.stop().await;
    while next_event(&mut body, &mut text).await.is_some() {}
}

#[tokio::test]
async fn the_description_names_every_call_and_every_call_is_there() {
    let f = Fixture::start().await;
    let description = f.get("/api/openapi.json").await.body;
    let contract = [
        ("/api/openapi.json", vec!["get"]),
        ("/api/v1/apps", vec!["get"]),
        ("/api/v1/apps/{app}", vec!["get"]),
        ("/api/v1/apps/{app}/abort", vec!["post"]),
        ("/api/v1/apps/{app}/history", vec!["get"]),
        ("/api/v1/apps/{app}/pin", vec!["delete", "post"]),
        ("/api/v1/apps/{app}/plan", vec!["get"]),
        ("/api/v1/apps/{app}/promote", vec!["post"]),
        ("/api/v1/apps/{app}/revisions/{rev}", vec!["delete", "put"]),
        ("/api/v1/apps/{app}/rollback", vec!["post"]),
        ("/api/v1/events", vec!["get"]),
        ("/api/v1/journal", vec!["get"]),
        ("/api/v1/reload", vec!["post"]),
        ("/api/v1/version", vec!["get"]),
        ("/api/v1/whoami", vec!["get"]),
    ];
    let paths = description["paths"].as_object().unwrap();
    let described: BTreeSet<_> = paths.keys().map(String::as_str).collect();
    assert_eq!(described, contract.iter().map(|(path, _)| *path).collect());
    for (path, methods) in contract {
        let item = paths[path].as_object().unwrap();
        let described: BTreeSet<_> = item.keys().map(String::as_str).collect();
        assert_eq!(described, methods.iter().copied().collect(), "{path}");
        // The route table itself: what the path offers is what `Allow` lists on a method that none has.
        let concrete = path.replace("{app}", "shop").replace("{rev}", "v9");
        let patch = f.send(request(Method::PATCH, &concrete, &f.operator, Value::Null)).await;
        assert_eq!(patch.status, 405, "{path}");
        let offered: BTreeSet<_> = patch.header("allow").unwrap().split(',').map(str::to_lowercase).collect();
        let expected = methods.iter().flat_map(|m| if *m == "get" { vec!["get", "head"] } else { vec![*m] });
        assert_eq!(offered, expected.map(str::to_owned).collect(), "{path}");
        for (method, operation) in item {
            complete(path, method, operation);
        }
    }
    references_resolve(&description, &description);
    assert_eq!(description["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

/// An operation says what it is for, names every placeholder of its path, and describes its errors and, where it acts,
/// its guards and its body.
fn complete(path: &str, method: &str, operation: &Value) {
    let place = format!("{method} {path}");
    assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{place}");
    let parameters: BTreeSet<_> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| {
            assert!(p["description"].is_string() && p["schema"].is_object(), "{place}: {p}");
            (p["in"].as_str().unwrap().to_owned(), p["name"].as_str().unwrap().to_owned())
        })
        .collect();
    for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        assert!(parameters.contains(&("path".into(), name.into())), "{place}: {name}");
    }
    let responses = operation["responses"].as_object().unwrap();
    assert!(responses["200"]["content"].is_object(), "{place}");
    if path == "/api/openapi.json" {
        return;
    }
    let mut statuses = vec!["400", "401", "403", "405", "421"];
    if method != "get" && path != "/api/v1/reload" {
        statuses.extend(["404", "408", "409", "412", "413", "415", "422", "500", "503"]);
        for (place_in, name) in [("header", "If-Match"), ("header", "Idempotency-Key"), ("query", "dryRun")] {
            assert!(parameters.contains(&(place_in.into(), name.into())), "{place}: {name}");
        }
        assert!(operation["requestBody"]["content"]["application/json"].is_object(), "{place}");
        assert!(responses["200"]["headers"]["ETag"].is_object(), "{place}");
    }
    for status in statuses {
        let schema = &responses[status]["content"]["application/problem+json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/Problem", "{place} {status}");
    }
}

fn references_resolve(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            fields.values().for_each(|part| references_resolve(document, part));
        }
        Value::Array(parts) => parts.iter().for_each(|part| references_resolve(document, part)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn the_health_listener_tells_anybody_how_it_is() {
    let (ready, watched) = watch::channel(Readiness::NotReady("no app has a ready endpoint".into()));
    let metrics = Arc::new(|| "tealgate_build_info 1\n".to_owned());
    let server = HealthServer::start(address(0), watched, metrics).await.unwrap();
    let ask = |path: &str| {
        let request = Request::builder().uri(path).header("host", "anything").body(Full::default()).unwrap();
        async { exchange(TcpStream::connect(server.address()).await.unwrap(), request).await }
    };
    assert_eq!(ask("/livez").await.status, 200);
    let reply = ask("/readyz").await;
    assert_eq!((reply.status.as_u16(), &reply.body), (503, &json!("no app has a ready endpoint\n")));
    ready.send_replace(Readiness::Ready);
    assert_eq!(ask("/readyz").await.status, 200);
    let reply = ask("/metrics").await;
    assert_eq!((reply.status.as_u16(), &reply.body), (200, &json!("tealgate_build_info 1\n")));
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    assert_eq!(ask("/api/v1/apps").await.status, 404);
    server.stop().await;
}
