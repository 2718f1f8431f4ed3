//! Sockets: whose they are, how they start and end.

use tokio::io::AsyncReadExt as _;

use super::*;

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
async fn tcp_without_tokens_does_not_start() {
    let f = Fixture::start().await;
    let options = Options { bind: Some(address(0)), ..Options::default() };
    let started = AdminServer::start(&options, Api { tokens: None, ..f.api.clone() }).await;
    assert!(matches!(started, Err(StartError::NoTokens { .. })));
    let taken = Options { bind: f.server.address(), ..Options::default() };
    assert!(matches!(AdminServer::start(&taken, f.api.clone()).await, Err(StartError::Bind { .. })));
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

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_not_waited_for() {
    let f = Fixture::start().await;
    let mut silent = TcpStream::connect(f.server.address().unwrap()).await.unwrap();
    // The clock runs on by itself while nothing else is to do.
    assert_eq!(silent.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}
