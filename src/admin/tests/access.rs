//! Who may do what, and what a stranger learns.

use super::*;

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
