//! The codec against another parser of the same language, on messages made of good and bad parts and then damaged: what we
//! take, hyper must take for the same; what we refuse, nobody has to ask about. What hyper reads a head with
//! stands beside ours in `against_httparse`; here it is about all that decides where a message ends.

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{prelude::*, sample::select};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};

use super::{
    Lines,
    body::{Decoder, Piece},
    read_request, read_response,
};

/// A message: what stands in its first line, its fields in lower case, and its body.
type Message = (String, Vec<(String, Vec<u8>)>, Vec<u8>);

fn fields(head: &[u8], lines: &Lines) -> Vec<(String, Vec<u8>)> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    lines.iter().map(|line| (text(line.name_in(head)), line.value_in(head).to_vec())).collect()
}

/// A map loses the order between names.
fn sorted(mut message: Message) -> Message {
    message.1.sort_by(|one, other| one.0.cmp(&other.0));
    message
}

fn body(mut decoder: Decoder, octets: &[u8]) -> Option<Vec<u8>> {
    let (mut octets, mut content) = (BytesMut::from(octets), Vec::new());
    loop {
        match decoder.decode(&mut octets).ok()? {
            Some(Piece::Data(data)) => content.extend_from_slice(&data),
            Some(Piece::Trailers(_) | Piece::End) => return Some(content),
            None => return decoder.close().then_some(content),
        }
    }
}

/// The request that `octets` begin with, if we take it.
fn our_request(octets: &[u8]) -> Option<Message> {
    let mut lines = Lines::default();
    let head = read_request(octets, &mut 0, 4096, &mut lines).ok()??;
    let content = body(Decoder::new(Some(head.framing)), &octets[head.length..])?;
    // hyper shows a target in a form of its own: an empty path is a slash.
    let target = String::from_utf8_lossy(&octets[head.target]).into_owned();
    let target = target.parse::<Uri>().map_or(target, |uri| uri.to_string());
    Some(sorted((format!("{} {target}", head.method), fields(octets, &lines), content)))
}

async fn hypers_request(octets: &[u8]) -> Option<Message> {
    let (ours, theirs) = duplex(64 * 1024);
    let (tell, mut told) = mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let (parts, body) = request.into_parts();
            let whole = body.collect().await?.to_bytes().to_vec();
            let fields = parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
            tell.send((format!("{} {}", parts.method, parts.uri), fields.collect(), whole)).ok();
            Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
        }
    });
    feed(ours, octets, false).await;
    let mut server = hyper::server::conn::http1::Builder::new();
    server.half_close(true);
    drop(server.serve_connection(TokioIo::new(theirs), service).await);
    told.try_recv().ok().map(sorted)
}

/// The answer that `octets` begin with, if we take it.
fn our_answer(octets: &[u8]) -> Option<Message> {
    let mut lines = Lines::default();
    let head = read_response(octets, &Method::GET, &mut lines).ok()??;
    if head.status.is_informational() {
        return None;
    }
    let content = body(Decoder::new(head.framing), &octets[head.length..])?;
    Some(sorted((head.status.as_str().to_owned(), fields(octets, &lines), content)))
}

async fn hypers_answer(octets: &[u8]) -> Option<Message> {
    let (ours, theirs) = duplex(64 * 1024);
    feed(ours, octets, true).await;
    let io = TokioIo::new(theirs);
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(io).await.ok()?;
    let asked = async {
        let answer = sender.send_request(Request::new(Full::default())).await.ok()?;
        let (parts, body) = answer.into_parts();
        let whole = body.collect().await.ok()?.to_bytes().to_vec();
        let fields = parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        Some((parts.status.as_str().to_owned(), fields.collect(), whole))
    };
    let mut connection = std::pin::pin!(connection);
    let mut asked = std::pin::pin!(asked);
    let answer = tokio::select! {
        biased;
        answer = &mut asked => answer,
        _ = &mut connection => asked.await,
    };
    answer.map(sorted)
}

/// Sends it all, when something was asked if that is to be, and closes this direction; the other stays open for what may
/// come.
async fn feed(mut to: DuplexStream, octets: &[u8], when_asked: bool) {
    let octets = octets.to_vec();
    let sent = async move {
        if when_asked {
            // Some of the question is enough to know that there is one.
            let _ = to.read(&mut [0; 256]).await?;
        }
        to.write_all(&octets).await?;
        to.shutdown().await?;
        tokio::io::copy(&mut to, &mut tokio::io::sink()).await
    };
    tokio::spawn(sent);
}

pub(super) fn field_lines() -> impl Strategy<Value = String> {
    let line = select(vec![
        "Host: shop.test\r\n",
        "host:a:80 \r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "content-length: 5,5\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\tCHUNKED\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, te\r\n",
        "X-Empty:\r\n",
        "X-Long: a b\tc  \r\n",
        "X-High: \u{e9}\r\n",
        " folded: x\r\n",
        "X\u{b}: a\r\n",
        "Expect: 100-continue\r\n",
    ]);
    proptest::collection::vec(line, 0..5).prop_map(|lines| lines.concat())
}

fn bodies() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "hello",
        "hello\r\nGET / HTTP/1.1\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n00\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello0\r\n\r\n",
        "0\r\n\r\nhello",
    ])
}

/// Some octets put in place of others.
pub(super) fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    let octet = select(vec![b'\r', b'\n', b' ', b'\t', b'\0', b':', b',', b';', b'0', b'a', 0x7f, 0xff]);
    proptest::collection::vec((any::<prop::sample::Index>(), octet), 0..3)
}

pub(super) fn damaged(message: String, damage: Vec<(prop::sample::Index, u8)>) -> Vec<u8> {
    let mut octets = message.into_bytes();
    for (at, octet) in damage {
        let at = at.index(octets.len());
        octets[at] = octet;
    }
    octets
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_that_we_take_is_the_same_to_hyper(
        line in select(vec![
            "GET / HTTP/1.1\r\n", "POST /a?b=c HTTP/1.1\r\n", "PUT http://shop.test/a HTTP/1.1\r\n", "GET / HTTP/1.0\r\n",
            "\r\nGET / HTTP/1.1\r\n", "GET  / HTTP/1.1\r\n", "M-SEARCH * HTTP/1.1\r\n", "GET /\u{e9} HTTP/1.1\r\n",
        ]),
        fields in field_lines(),
        body in bodies(),
        damage in damage(),
    ) {
        let octets = damaged(format!("{line}{fields}\r\n{body}"), damage);
        if let Some(ours) = our_request(&octets) {
            let shown = String::from_utf8_lossy(&octets).into_owned();
            match runtime().block_on(hypers_request(&octets)) {
                Some(hypers) => prop_assert_eq!(ours, hypers, "{:?}", shown),
                // It parses the target as well, which we do a step later.
                None => {
                    let target = ours.0.split(' ').nth(1).unwrap_or_default();
                    prop_assert!(target.parse::<Uri>().is_err(), "only we take {:?}", shown);
                }
            }
        }
    }

    #[test]
    fn an_answer_that_we_take_is_the_same_to_hyper(
        line in select(vec![
            "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200\r\n", "HTTP/1.1 404 \r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 204 No\r\n",
            "HTTP/1.1 304 Same\r\n", "HTTP/1.1  200 OK\r\n", "HTTP/1.1 20 OK\r\n", "HTTP/1.2 200 OK\r\n",
        ]),
        fields in field_lines(),
        body in bodies(),
        damage in damage(),
    ) {
        let octets = damaged(format!("{line}{fields}\r\n{body}"), damage);
        if let Some(ours) = our_answer(&octets) {
            let shown = String::from_utf8_lossy(&octets).into_owned();
            let hypers = runtime().block_on(hypers_answer(&octets));
            prop_assert_eq!(Some(ours), hypers, "{:?}", shown);
        }
    }
}

#[test]
fn the_two_agree_on_what_is_plain() {
    let request = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    assert!(our_request(request).is_some());
    assert_eq!(our_request(request), runtime().block_on(hypers_request(request)));
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert!(our_answer(answer).is_some());
    assert_eq!(our_answer(answer), runtime().block_on(hypers_answer(answer)));
}
