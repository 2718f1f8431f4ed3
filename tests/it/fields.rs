//! Fields on their way through: which pass, and which do not.

use serde_json::json;

use crate::support::{
    backend::Backend,
    client::{HOST, Raw},
    eventually,
    proxy::Proxy,
    raw_backend::{RawBackend, Then},
    setup::Setup,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trailer_smuggles_no_field_past_us_either_way() {
    let names = "trailer: x-tealgate-revision, x-forwarded-for, x-sum";
    let trailers = "x-tealgate-revision: forged\r\nx-forwarded-for: 192.0.2.1\r\nx-sum: 1\r\n";
    let chunked = format!("{names}\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n");
    let upstream = RawBackend::spawn(format!("HTTP/1.1 200 OK\r\n{chunked}"), Then::Keep);
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["source"]["static"]["revisions"]["blue"]["endpoints"] = json!([upstream.address()]);
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;

    let request = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\nte: trailers\r\nconnection: te, close\r\n{chunked}");
    let answer = Raw::exchange(proxy.live, request).await;
    let sent = || {
        let pieces = upstream.received();
        let pieces = pieces.iter().map(|piece| String::from_utf8_lossy(piece));
        pieces.filter(|piece| !piece.starts_with("GET /healthz")).collect::<String>()
    };
    eventually("the request to be sent whole", async || sent().contains("x-sum: 1\r\n\r\n")).await;
    for message in [answer, sent()] {
        let (_, trailers) = message.split_once("\r\n0\r\n").unwrap_or_else(|| panic!("{message}"));
        assert_eq!(trailers, "x-sum: 1\r\n\r\n", "{message}");
    }
}
