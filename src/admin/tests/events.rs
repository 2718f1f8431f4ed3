//! The event stream.

use hyper::{body::Incoming, client::conn::http1};

use super::*;

/// An open stream of events.
struct Stream {
    body: Incoming,
    text: String,
}

impl Stream {
    async fn open(address: SocketAddr, path: &str, token: &str) -> Self {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let ask = with(request(Method::GET, path, token, Value::Null), "host", &address.to_string());
        let (parts, body) = sender.send_request(ask).await.unwrap().into_parts();
        assert_eq!(
            (parts.status.as_u16(), &parts.headers["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        assert_eq!(parts.headers["cache-control"], "no-store");
        Self { body, text: String::new() }
    }

    /// The next event's name and data; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        let event = self.block().await?;
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        Some((field("event: ").to_owned(), serde_json::from_str(field("data: ")).unwrap()))
    }

    /// The next comment.
    async fn comment(&mut self) -> String {
        self.block().await.unwrap().trim_end().to_owned()
    }

    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let frame = self.body.frame().await?.unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn events_begin_with_the_state_carry_the_fresh_one_and_end_with_the_server() {
    let f = Fixture::start().await;
    let mut stream = Stream::open(f.server.address().unwrap(), "/api/v1/events?app=shop", &f.viewer).await;
    let (name, state) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &state["active"]["revision"]), ("state", &json!("blue")));
    f.post("/api/v1/apps/blog/promote", Value::Null).await;
    f.post("/api/v1/apps/shop/promote", Value::Null).await;
    loop {
        let (name, event) = stream.next().await.unwrap();
        assert_eq!((&event["app"], &event["type"]), (&json!("shop"), &json!(name)));
        assert_eq!(event["state"]["active"]["revision"], "green", "{event}");
        if name == "acted" {
            assert_eq!((&event["receipt"]["action"], &event["receipt"]["by"]), (&json!("promote"), &json!("olaf")));
            break;
        }
    }
    f.server.stop().await;
    while stream.next().await.is_some() {}
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let f = Fixture::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.yaml");
    let (secret, entry) = mint("ann", Role::Viewer, None, None).unwrap();
    std::fs::write(&file, serde_saphyr::to_string(&json!({"tokens": [entry]})).unwrap()).unwrap();
    let tokens = Some(Arc::new(Tokens::load(&file).unwrap()));
    let options = Options { bind: Some(address(0)), ..Options::default() };
    let server = AdminServer::start(&options, Api { tokens, ..f.api.clone() }).await.unwrap();
    let mut stream = Stream::open(server.address().unwrap(), "/api/v1/events", &secret).await;
    let (name, all) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), all.as_array().unwrap().len()), ("state", 2));
    std::fs::write(&file, "tokens: []\n").unwrap();
    f.post("/api/v1/apps/shop/promote", Value::Null).await;
    assert_eq!(stream.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_shows_that_it_lives() {
    let f = Fixture::start().await;
    let mut stream = Stream::open(f.server.address().unwrap(), "/api/v1/events", &f.viewer).await;
    stream.next().await.unwrap();
    assert_eq!(stream.comment().await, ":");
}
