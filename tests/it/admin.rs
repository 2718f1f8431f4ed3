//! The admin API of a running server, over TCP with tokens and over its Unix socket: who gets in, what each guard does, and
//! what is told as it happens.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt};

use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::{Answer, Client, Protocol},
    eventually, full,
    process::Process,
    setup::{APP, Setup},
    shell::Shell,
    within,
};

const PROMOTE: &str = "/api/v1/apps/shop/promote";

/// A running server whose candidate is ready, and somebody with a token for its admin API.
struct Office {
    process: Process,
    address: SocketAddr,
    viewer: String,
    admin: String,
    _upstreams: [Backend; 2],
}

impl Office {
    async fn open() -> Self {
        let upstreams = ["blue", "green"].map(Backend::spawn);
        let mut setup = Setup::between(&upstreams[0], &upstreams[1]);
        let (viewer, admin) = (
            Shell::default().mint("--name vera --role viewer").await,
            Shell::default().mint("--name ada --role admin").await,
        );
        let address = setup.open_to(&[&viewer, &admin]);
        let process = Process::start(setup).await;
        let office = Self { process, address, viewer: viewer.token, admin: admin.token, _upstreams: upstreams };
        eventually("the candidate to be ready", async || office.state().await["phase"] == "previewing").await;
        office
    }

    async fn send(&self, mut request: http::request::Builder, body: &str) -> Answer {
        let headers = request.headers_mut().expect("a request");
        headers.entry(header::HOST).or_insert_with(|| self.address.to_string().parse().expect("a value"));
        if !body.is_empty() {
            let json = header::HeaderValue::from_static("application/json");
            headers.entry(header::CONTENT_TYPE).or_insert(json);
        }
        let mut client = Client::connect(Protocol::H1, self.address).await.expect("it accepts");
        client.fetch(request.body(full(body.to_owned())).expect("a request")).await.expect("an answer")
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(ask("GET", path, &self.viewer), "").await
    }

    async fn state(&self) -> Value {
        self.process.admin.status(APP).await
    }
}

/// A request of whoever holds this token, as a well-behaved client sends it; `""` is no token.
fn ask(method: &str, path: &str, token: &str) -> http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    if token.is_empty() { request } else { request.header(header::AUTHORIZATION, format!("Bearer {token}")) }
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_or_asks_wrongly_is_told_so_and_nothing_changes() {
    let office = Office::open().await;
    let Office { viewer, admin, .. } = &office;
    let huge = format!("{{\"reason\": \"{}\"}}", "x".repeat(64 * 1024));
    let promote = |token: &str| ask("POST", PROMOTE, token);
    let table = [
        (promote(""), "{}", 401, "unauthorized"),
        (promote("tg_guessed"), "{}", 401, "unauthorized"),
        (ask("GET", "/api/v1/apps", ""), "", 401, "unauthorized"),
        (ask("GET", "/api/v1/nowhere", ""), "", 401, "unauthorized"),
        (promote(viewer), "{}", 403, "forbidden"),
        (ask("POST", "/api/v1/reload", viewer), "{}", 403, "forbidden"),
        (promote(admin).header("origin", "http://evil.example"), "{}", 403, "forbidden"),
        (promote(admin).header("host", "evil.example"), "{}", 421, "misdirected"),
        (promote(admin).header("host", "127.0.0.1.evil.example"), "{}", 421, "misdirected"),
        (promote(admin).header("content-type", "text/plain"), "{}", 415, "unsupported-media-type"),
        (promote(admin), &huge, 413, "too-large"),
        (promote(admin), "{", 400, "bad-json"),
        (promote(admin), "{\"skipGate\": true}", 400, "invalid"),
        (promote(admin), "{\"skipGates\": true}", 400, "invalid"),
        (promote(admin).header("if-match", "\"7\""), "{}", 412, "generation-mismatch"),
        (promote(admin).header("if-match", "1"), "{}", 400, "invalid"),
        (promote(admin), "{\"ifGeneration\": 7}", 412, "generation-mismatch"),
        (promote(admin), "{\"revision\": \"red\"}", 409, "no-candidate"),
        (ask("POST", "/api/v1/apps/nobody/promote", admin), "{}", 404, "unknown-app"),
        (ask("GET", PROMOTE, admin), "", 405, "method-not-allowed"),
        (ask("GET", "/api/v1/nowhere", admin), "", 404, "not-found"),
    ];
    for (request, body, status, code) in table {
        let told = format!("{request:?} {body:.80}");
        let answer = office.send(request, body).await;
        let problem = json_of(&answer);
        assert_eq!((answer.status.as_u16(), &problem["code"]), (status, &json!(code)), "{told}\n{problem:#}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{told}");
        assert_eq!(answer.header("cache-control"), "no-store", "{told}");
        let words = ["title", "detail", "hint"].map(|word| problem[word].as_str().unwrap_or_default());
        assert!(words.iter().all(|words| !words.is_empty()), "{problem:#}");
        assert_eq!(!answer.header("www-authenticate").is_empty(), status == 401, "{told}");
    }
    let state = office.state().await;
    assert_eq!((&state["generation"], &state["active"]["revision"]), (&json!(1), &json!("blue")), "{state:#}");
    let history = office.get("/api/v1/journal").await;
    assert_eq!(json_of(&history), json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_action_is_done_once_whoever_repeats_it() {
    let office = Office::open().await;
    let state = office.get("/api/v1/apps/shop").await;
    let tag = state.header("etag").to_owned();
    assert_eq!(tag, "\"1\"");

    let dry = ask("POST", &format!("{PROMOTE}?dryRun=true"), &office.admin);
    let dry = json_of(&office.send(dry, "{}").await);
    assert_eq!((&dry["to"], &dry["dryRun"]), (&json!("green"), &json!(true)), "{dry:#}");
    assert_eq!(office.state().await["generation"], 1);

    let keyed = || {
        let request = ask("POST", PROMOTE, &office.admin);
        office
            .send(request.header("idempotency-key", "deploy-42").header("if-match", &tag), "{\"reason\": \"ship it\"}")
    };
    let (first, again) = (keyed().await, keyed().await);
    assert_eq!((first.status, first.header("etag")), (StatusCode::OK, "\"2\""));
    assert_eq!((again.status, &again.body), (StatusCode::OK, &first.body));
    assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), ("", "true"));
    let receipt = json_of(&first);
    assert_eq!((&receipt["by"], &receipt["reason"]), (&json!("ada"), &json!("ship it")), "{receipt:#}");
    assert_eq!(office.state().await["generation"], 2);

    let reused = ask("POST", PROMOTE, &office.admin).header("idempotency-key", "deploy-42");
    let reused = office.send(reused.header("if-match", &tag), "{}").await;
    assert_eq!((reused.status.as_u16(), &json_of(&reused)["code"]), (422, &json!("idempotency-key-reused")));
    let late = ask("POST", "/api/v1/apps/shop/rollback", &office.admin).header("if-match", &tag);
    assert_eq!(office.send(late, "{}").await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(json_of(&office.get("/api/v1/apps/shop/history").await).as_array().map(Vec::len), Some(1));
}

/// The next event of a stream: its name and what it says.
async fn next_event(stream: &mut Incoming, read: &mut String) -> (String, Value) {
    while !read.contains("\n\n") {
        let frame = within("an event", stream.frame()).await.expect("it goes on").expect("whole");
        read.push_str(std::str::from_utf8(&frame.into_data().expect("no trailers")).expect("UTF-8"));
    }
    let (event, rest) = read.split_once("\n\n").expect("seen above");
    let field =
        |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    let told = (field("event:"), serde_json::from_str(&field("data:")).expect("JSON"));
    *read = rest.to_owned();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_stream_begins_with_the_whole_state_and_then_tells_each_flip() {
    let office = Office::open().await;
    let mut client = Client::connect(Protocol::H1, office.address).await.expect("it accepts");
    let request = ask("GET", "/api/v1/events?app=shop", &office.viewer);
    let request = request.header(header::HOST, office.address.to_string()).body(full("")).expect("a request");
    let response = within("the stream", client.send(request)).await.expect("an answer");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let (mut stream, mut read) = (response.into_body(), String::new());

    let (name, state) = next_event(&mut stream, &mut read).await;
    assert_eq!(
        (name.as_str(), &state["generation"], &state["active"]["revision"]),
        ("state", &json!(1), &json!("blue"))
    );
    let mut seen = Vec::new();
    for flip in 0..4 {
        let path = if flip % 2 == 0 { PROMOTE } else { "/api/v1/apps/shop/rollback" };
        let done = office.send(ask("POST", path, &office.admin), "{}").await;
        assert_eq!(done.status, StatusCode::OK, "{done:?}");
        loop {
            let (name, event) = next_event(&mut stream, &mut read).await;
            assert!(event["state"]["generation"].as_u64() >= Some(flip + 1), "{event:#}");
            if name == "acted" {
                seen.push((event["receipt"]["action"].clone(), event["receipt"]["generation"].clone()));
                break;
            }
        }
    }
    let told = |action: &str, generation: u64| (json!(action), json!(generation));
    assert_eq!(seen, [told("promote", 2), told("rollback", 3), told("promote", 4), told("rollback", 5)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_lists_every_route_and_every_route_is_there() {
    let office = Office::open().await;
    let description = json_of(&office.send(ask("GET", "/api/openapi.json", ""), "").await);
    let paths = description["paths"].as_object().expect("paths");
    for path in [
        "/api/v1/apps",
        "/api/v1/apps/{app}",
        "/api/v1/apps/{app}/revisions/{rev}",
        "/api/v1/apps/{app}/promote",
        "/api/v1/apps/{app}/rollback",
        "/api/v1/apps/{app}/abort",
        "/api/v1/apps/{app}/plan",
        "/api/v1/apps/{app}/pin",
        "/api/v1/apps/{app}/history",
        "/api/v1/journal",
        "/api/v1/events",
        "/api/v1/whoami",
        "/api/v1/version",
        "/api/v1/reload",
    ] {
        assert!(paths.contains_key(path), "{path} is not described");
    }
    for (path, methods) in paths {
        let path = path.replace("{app}", APP).replace("{rev}", "blue");
        // A method that no path offers: only a path that is there says which it does offer.
        let answer = office.send(ask("PATCH", &path, &office.admin), "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let offered = answer.header("allow").to_lowercase();
        assert!(
            methods.as_object().is_some_and(|methods| methods.keys().all(|m| offered.contains(m.as_str()))),
            "{path}: {offered}"
        );
    }
    let who = json_of(&office.get("/api/v1/whoami").await);
    assert_eq!((&who["name"], &who["role"], &who["via"]), (&json!("vera"), &json!("viewer"), &json!("token")));
    let version = json_of(&office.get("/api/v1/version").await);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_for_owner_and_group_and_a_kill_leaves_nothing_in_the_way() {
    let mut office = Office::open().await;
    let socket = office.process.admin.socket.clone();
    let mode = || std::fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o660);
    let (_, who) = office.process.admin.call("GET", "/whoami", None).await;
    assert_eq!((&who["role"], &who["via"]), (&json!("admin"), &json!("socket")), "{who:#}");
    office.process.start_again().await;
    assert_eq!(mode(), 0o660);
    office.process.signal("TERM");
    assert_eq!(office.process.ended().await.code(), Some(0));
    assert!(!socket.exists(), "a server that ends takes its socket with it");
}
