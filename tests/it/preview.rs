//! Who sees the candidate: testers, by every way in and under every restriction, and nobody by accident.

use std::net::SocketAddr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    Body,
    backend::Backend,
    client::{Answer, Client, HOST, Protocol},
    eventually, full,
    process::Process,
    proxy::Proxy,
    setup::{APP, Setup},
};

const SECRET: &str = "a secret of sixteen octets or more";

/// A proxy between blue, live, and green, the candidate, with this in the app's `preview`.
struct Stage {
    proxy: Proxy,
    blue: Backend,
    green: Backend,
}

impl Stage {
    async fn set(preview: Value) -> Self {
        let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
        let mut setup = Setup::between(&blue, &green);
        setup.app()["hosts"] = json!([HOST, "other.test"]);
        setup.app()["preview"] = preview;
        let proxy = Proxy::start(setup).await;
        proxy.is_ready_to_promote().await;
        Self { proxy, blue, green }
    }

    /// What a new client of the live address is answered.
    async fn asked(&self, protocol: Protocol, path: &str, fields: &[(&str, &str)]) -> Answer {
        asked(protocol, self.proxy.live, path, fields).await
    }

    /// A link for a tester, as the admin API makes it: the path and query of it.
    async fn link(&self, body: Value) -> String {
        let (status, made) = self.proxy.admin.call("POST", &format!("/apps/{APP}/preview-link"), Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{made:#}");
        let url = made["url"].as_str().expect("a link");
        url.strip_prefix(&format!("https://{HOST}")).expect("it leads to the live host").to_owned()
    }
}

async fn asked(protocol: Protocol, address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut client = Client::connect(protocol, address).await.expect("it accepts");
    let request =
        fields.iter().fold(client.request("GET", path), |request, (name, value)| request.header(*name, *value));
    let request: Request<Body> = request.body(full("")).expect("a request");
    client.fetch(request).await.expect("an answer")
}

/// The `name=value` of the only cookie that is set.
fn cookie(answer: &Answer) -> &str {
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(lines.len(), 1, "{answer:?}");
    lines[0].to_str().expect("text").split(';').next().expect("a pair")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_shows_the_candidate_to_those_who_know_its_value() {
    let stage = Stage::set(json!({ "header": { "name": "X-Preview", "value": "green-please" } })).await;
    for protocol in Protocol::ALL {
        let preview = stage.asked(protocol, "/", &[("x-preview", "green-please")]).await;
        assert_eq!((preview.colour(), preview.header("x-tealgate-revision")), ("green", "green"), "{protocol:?}");
        for fields in [&[][..], &[("x-preview", "green")], &[("x-preview", "")]] {
            let live = stage.asked(protocol, "/", fields).await;
            assert_eq!((live.colour(), live.header("x-tealgate-revision")), ("blue", ""), "{protocol:?} {fields:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_sets_a_cookie_that_shows_the_candidate_until_it_is_taken_away() {
    let stage = Stage::set(json!({ "cookie": { "secret": SECRET } })).await;
    let link = stage.link(json!({ "ttlSeconds": 600, "return": "/status/201?x=1" })).await;
    for protocol in Protocol::ALL {
        let opened = stage.asked(protocol, &link, &[]).await;
        let told = (opened.status, opened.header("location"), opened.header("cache-control"));
        assert_eq!(told, (StatusCode::SEE_OTHER, "/status/201?x=1", "no-store"), "{protocol:?}");
        assert_eq!((opened.header("referrer-policy"), opened.header("proxy-status")), ("no-referrer", ""));
        let line = opened.header("set-cookie");
        assert!(line.contains("; Path=/; HttpOnly; SameSite=Lax; Max-Age="), "{line}");
        let cookie = cookie(&opened);
        // HTTP/2 clients may send each cookie on a line of its own.
        let fields = [("cookie", "a=b"), ("cookie", cookie)];
        let fields = if protocol == Protocol::H2 { &fields[..] } else { &[("cookie", &*format!("a=b; {cookie}"))] };
        let preview = stage.asked(protocol, "/", fields).await;
        assert_eq!((preview.colour(), preview.header("x-tealgate-revision")), ("green", "green"));

        let left = stage.asked(protocol, "/.tealgate/preview?off", fields).await;
        assert_eq!((left.status, left.header("location")), (StatusCode::SEE_OTHER, "/"));
        assert!(
            left.header("set-cookie").starts_with("tealgate-preview=; Path=/; ")
                && left.header("set-cookie").ends_with("Max-Age=0"),
            "{left:?}"
        );
        assert_eq!(stage.asked(protocol, "/", &[]).await.colour(), "blue");
    }
    assert!(stage.blue.seen().iter().chain(&stage.green.seen()).all(|seen| !seen.target.contains("tealgate")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_end_user_sees_an_error_for_a_cookie_that_is_no_pass() {
    let stage = Stage::set(json!({ "cookie": { "secret": SECRET } })).await;
    let link = stage.link(json!({})).await;
    let good = cookie(&stage.asked(Protocol::H1, &link, &[]).await).to_owned();
    let expired = good.replacen("tealgate-preview=1", "tealgate-preview=0", 1);
    for bad in
        ["tealgate-preview=", "tealgate-preview=x.y", &expired, &good[..good.len() - 1], &good.replace("shop", "blog")]
    {
        let live = stage.asked(Protocol::H1, "/", &[("cookie", bad)]).await;
        assert_eq!((live.status, live.colour()), (StatusCode::OK, "blue"), "{bad}");
    }
    assert_eq!(stage.asked(Protocol::H1, "/", &[("cookie", &good)]).await.colour(), "green");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_leads_to_no_other_origin_and_a_bad_one_is_told() {
    let stage = Stage::set(json!({ "cookie": { "secret": SECRET } })).await;
    for away in ["https://evil.example/", "//evil.example/", "/\\evil.example", "/\t/evil.example"] {
        let opened = stage.asked(Protocol::H1, &stage.link(json!({ "return": away })).await, &[]).await;
        assert_eq!((opened.status, opened.header("location")), (StatusCode::SEE_OTHER, "/"), "{away}");
    }
    for (path, word) in [
        ("/.tealgate/preview", "no link"),
        ("/.tealgate/preview?token=", "no link"),
        ("/.tealgate/preview?token=9999999999:shop:.AAAA", "no link"),
    ] {
        let told = stage.asked(Protocol::H1, path, &[]).await;
        assert_eq!((told.status, told.header("set-cookie")), (StatusCode::FORBIDDEN, ""), "{path}");
        assert!(told.text().contains(word) && told.header("proxy-status").contains("http_request_denied"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_preview_cookie_the_path_is_the_applications() {
    let stage = Stage::set(json!({ "header": { "name": "X-Preview" } })).await;
    let answer = stage.asked(Protocol::H1, "/.tealgate/preview?off", &[]).await;
    assert_eq!((answer.status, answer.colour()), (StatusCode::NOT_FOUND, "blue"));
    let (status, problem) = stage.proxy.admin.call("POST", "/apps/shop/preview-link", Some(json!({}))).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("invalid")), "{problem:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_below_a_path_has_its_own_door_and_its_own_cookie() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["hosts"] = json!([HOST]);
    setup.app()["paths"] = json!(["/status", "/bytes"]);
    setup.app()["preview"] = json!({ "cookie": { "secret": SECRET } });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let (_, made) = proxy.admin.call("POST", "/apps/shop/preview-link", Some(json!({}))).await;
    let link = made["url"].as_str().and_then(|url| url.strip_prefix("https://shop.test")).expect("a link");
    assert!(link.starts_with("/status/.tealgate/preview?token="), "{link}");
    let opened = asked(Protocol::H1, proxy.live, link, &[]).await;
    assert_eq!((opened.status, opened.header("location")), (StatusCode::SEE_OTHER, "/status"));
    let lines: Vec<_> = opened.headers.get_all("set-cookie").iter().map(|line| line.to_str().expect("text")).collect();
    assert!(
        lines.len() == 2 && lines[0].contains("; Path=/status;") && lines[1].contains("; Path=/bytes;"),
        "{lines:?}"
    );
    let cookie = lines[0].split(';').next().expect("a pair");
    assert_eq!(asked(Protocol::H1, proxy.live, "/bytes/3", &[("cookie", cookie)]).await.colour(), "green");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_asked_for_on_the_preview_only_and_not_sent_on() {
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"; // of "test"
    let stage = Stage::set(json!({
        "header": { "name": "X-Preview" },
        "credentials": [{ "user": "ann", "sha256": digest }, { "sha256": digest }],
    }))
    .await;
    let basic = format!("Basic {}", BASE64_STANDARD.encode("ann:test"));
    for protocol in Protocol::ALL {
        let live = stage.asked(protocol, "/", &[("authorization", "Bearer the-applications")]).await;
        assert_eq!(live.colour(), "blue");
        let seen = stage.blue.seen().pop().expect("a request");
        assert_eq!(seen.headers["authorization"], "Bearer the-applications", "live traffic's is its own");
        for good in [&*basic, "Bearer test"] {
            let preview = stage.asked(protocol, "/", &[("x-preview", ""), ("authorization", good)]).await;
            assert_eq!(preview.colour(), "green", "{good}");
            let seen = stage.green.seen().pop().expect("a request");
            assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
        }
        let preview = asked(protocol, stage.proxy.preview, "/", &[("authorization", &basic)]).await;
        assert_eq!(preview.colour(), "green", "they hold on the preview listener too");
        for bad in [&[("x-preview", "")][..], &[("x-preview", ""), ("authorization", "Bearer tost")]] {
            let refused = stage.asked(protocol, "/", bad).await;
            assert_eq!((refused.status, refused.colour()), (StatusCode::UNAUTHORIZED, ""));
            let challenges: Vec<_> = refused.headers.get_all("www-authenticate").iter().collect();
            let expected = ["Basic realm=\"preview of shop\", charset=\"UTF-8\"", "Bearer realm=\"preview of shop\""];
            assert_eq!(challenges, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_way_in_is_enough_and_every_restriction_holds() {
    let stage = Stage::set(json!({
        "hosts": ["preview.shop.test"],
        "header": { "name": "X-Preview" },
        "cookie": { "secret": SECRET },
        "allow": ["192.0.2.0/24"],
    }))
    .await;
    let link = stage.link(json!({})).await;
    let opened = stage.asked(Protocol::H1, &link, &[]).await;
    assert_eq!((opened.status, opened.header("set-cookie")), (StatusCode::FORBIDDEN, ""), "told at the door");
    let left = stage.asked(Protocol::H1, "/.tealgate/preview?off", &[]).await;
    assert_eq!(left.status, StatusCode::SEE_OTHER, "whoever is out may leave");
    let token = link.split_once("token=").expect("a token").1.replace("%3A", ":");
    let cookie = format!("tealgate-preview={token}");
    for fields in [&[("x-preview", "")][..], &[("cookie", &*cookie)]] {
        let refused = stage.asked(Protocol::H1, "/", fields).await;
        assert_eq!((refused.status, refused.colour()), (StatusCode::FORBIDDEN, ""), "{fields:?}");
    }
    let listener = asked(Protocol::H1, stage.proxy.preview, "/", &[]).await;
    assert_eq!(listener.status, StatusCode::FORBIDDEN);
    let mut client = stage.proxy.client(Protocol::H1).await;
    let by_host = Request::builder().uri("/").header("host", "preview.shop.test").body(full("")).expect("a request");
    assert_eq!(client.fetch(by_host).await.expect("an answer").status, StatusCode::FORBIDDEN);
    assert_eq!(stage.asked(Protocol::H1, "/", &[]).await.colour(), "blue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tester_sees_the_candidate_or_why_not() {
    let stage = Stage::set(json!({ "header": { "name": "X-Preview" } })).await;
    let tester = [("x-preview", "")];
    stage.green.unhealthy(true);
    stage.proxy.reached("starting").await;
    for protocol in Protocol::ALL {
        let told = stage.asked(protocol, "/", &tester).await;
        assert_eq!((told.status, told.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "2"));
        let status = told.header("proxy-status");
        assert_eq!(status, "tealgate; error=destination_unavailable; details=\"candidate not ready\"");
        assert!(told.text().contains("candidate not ready"), "{}", told.text());
    }
    stage.green.unhealthy(false);
    stage.proxy.reached("previewing").await;
    assert_eq!(stage.asked(Protocol::H1, "/", &tester).await.colour(), "green");

    stage.proxy.promote().await;
    let told = stage.asked(Protocol::H1, "/", &tester).await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE, "what was the candidate is live: there is none");
    assert!(told.header("proxy-status").ends_with("details=\"no candidate\"") && told.text().contains("no candidate"));
    stage.proxy.rollback().await;
    assert_eq!(stage.asked(Protocol::H1, "/", &tester).await.colour(), "green", "to be examined");
    assert_eq!(stage.asked(Protocol::H1, "/", &[]).await.colour(), "blue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_fallback_testers_get_the_active_revision_and_are_told_which() {
    let stage = Stage::set(json!({ "header": { "name": "X-Preview" }, "fallback": "active" })).await;
    let tester = [("x-preview", "")];
    let seen = async || {
        let answer = stage.asked(Protocol::H1, "/", &tester).await;
        (answer.colour().to_owned(), answer.header("x-tealgate-revision").to_owned())
    };
    assert_eq!(seen().await, ("green".to_owned(), "green".to_owned()));
    stage.green.unhealthy(true);
    stage.proxy.reached("starting").await;
    assert_eq!(seen().await, ("blue".to_owned(), "blue".to_owned()));
    stage.green.unhealthy(false);
    stage.proxy.reached("previewing").await;
    stage.proxy.promote().await;
    assert_eq!(seen().await, ("green".to_owned(), "green".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_testers_retry_is_a_testers() {
    let (blue, mut green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["preview"] = json!({ "header": { "name": "X-Preview" } });
    // Its end is not noticed before a tester does.
    setup.app()["health"]["interval"] = json!("60s");
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    green.stop();
    for protocol in Protocol::ALL {
        let answer = asked(protocol, proxy.live, "/", &[("x-preview", "")]).await;
        assert_eq!((answer.status, answer.colour()), (StatusCode::BAD_GATEWAY, ""), "never the live revision");
    }
    assert!(proxy.metric("tealgate_retries_total", &[]).await >= 1.0, "it was tried again");
    assert!(blue.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_not_to_be_had_from_the_access_log() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.config["log"]["access"] = json!("json");
    setup.app()["preview"] = json!({ "cookie": { "secret": SECRET } });
    let process = Process::start(setup).await;
    let origin = json!({ "host": format!("http://{}", process.live) });
    let (_, made) = process.admin.call("POST", "/apps/shop/preview-link", Some(origin.clone())).await;
    let url = made["url"].as_str().expect("a link");
    let link = url.strip_prefix(origin["host"].as_str().expect("an origin")).expect("it leads there");
    for protocol in Protocol::ALL {
        assert_eq!(asked(protocol, process.live, link, &[]).await.status, StatusCode::SEE_OTHER);
    }
    eventually("the lines", async || process.access_log().len() >= 2).await;
    for line in process.access_log() {
        let told = ["app", "path", "status"].map(|key| line[key].clone());
        assert_eq!(told, [json!("shop"), json!("/.tealgate/preview"), json!(303)], "{line:#}");
        assert!(!line.to_string().contains("token"), "{line:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_proxy_says_itself_is_counted_as_answered_under_its_app() {
    let stage = Stage::set(json!({ "cookie": { "secret": SECRET } })).await;
    let link = stage.link(json!({})).await;
    for protocol in Protocol::ALL {
        assert_eq!(stage.asked(protocol, &link, &[]).await.status, StatusCode::SEE_OTHER);
    }
    let ended = stage.proxy.metric("tealgate_requests_ended_total", &["app=\"shop\"", "outcome=\"answered\""]).await;
    let counted =
        stage.proxy.metric("tealgate_http_requests_total", &["app=\"shop\"", "pool=\"\"", "code=\"303\""]).await;
    assert_eq!((ended, counted), (2.0, 2.0));
    assert_eq!(stage.proxy.metric("tealgate_requests_lost_total", &["app=\"shop\""]).await, 0.0);
}
