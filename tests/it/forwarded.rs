//! Behind HTTP proxies: whom the trusted ones speak for is the client; what anybody else says of that is not believed.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::{Client, Protocol},
    full,
    proxy::Proxy,
    setup::Setup,
};

/// A proxy between two upstreams whose listeners trust these proxies, and whose preview is for one network.
async fn behind(blue: &Backend, green: &Backend, keys: Value) -> Proxy {
    let mut setup = Setup::between(blue, green);
    for listener in ["live", "preview"] {
        setup.listener(listener).as_object_mut().expect("a map").extend(keys.as_object().expect("a map").clone());
    }
    setup.app()["preview"] = json!({ "allow": ["192.0.2.0/24"] });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    proxy
}

/// Asks with these fields: the status.
async fn ask(client: &mut Client, fields: &[(&str, &str)]) -> StatusCode {
    let request =
        fields.iter().fold(client.request("GET", "/"), |request, (name, value)| request.header(*name, *value));
    client.fetch(request.body(full("")).expect("a request")).await.expect("an answer").status
}

/// What the upstream was told last.
fn told(backend: &Backend) -> HeaderMap {
    backend.seen().pop().expect("a request").headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_a_trusted_proxy_has_its_own_client() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = behind(&blue, &green, json!({ "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"] })).await;
    for protocol in Protocol::ALL {
        let mut preview = Client::connect(protocol, proxy.preview).await.expect("it accepts");
        for (hops, status) in [
            ("192.0.2.7", StatusCode::OK),
            ("198.51.100.1", StatusCode::FORBIDDEN),
            ("192.0.2.7, 10.1.2.3", StatusCode::OK),
            ("192.0.2.7, 198.51.100.1", StatusCode::FORBIDDEN),
            ("192.0.2.7, junk", StatusCode::FORBIDDEN),
            ("10.1.2.3", StatusCode::FORBIDDEN),
        ] {
            assert_eq!(ask(&mut preview, &[("x-forwarded-for", hops)]).await, status, "{hops} over {protocol:?}");
        }
        assert_eq!(ask(&mut preview, &[]).await, StatusCode::FORBIDDEN, "the proxy itself");

        let mut live = proxy.client(protocol).await;
        let fields =
            [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "www.shop.test")];
        assert_eq!(ask(&mut live, &fields).await, StatusCode::OK);
        let headers = told(&blue);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7, 127.0.0.1", "{protocol:?}");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "www.shop.test");
        let elements = "for=192.0.2.7;proto=https;host=www.shop.test, for=127.0.0.1;proto=http;host=shop.test";
        assert_eq!(headers["forwarded"], elements);
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);

        // The next request on the connection is another client's.
        assert_eq!(ask(&mut live, &[("x-forwarded-for", "192.0.2.8")]).await, StatusCode::OK);
        let headers = told(&blue);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.8, 127.0.0.1", "{protocol:?}");
        assert_eq!(headers["x-forwarded-proto"], "http");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_is_believed_where_it_is_said_to_be() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let keys = json!({ "trusted_proxies": ["127.0.0.1"], "trusted_field": "forwarded" });
    let proxy = behind(&blue, &green, keys).await;
    for protocol in Protocol::ALL {
        let mut preview = Client::connect(protocol, proxy.preview).await.expect("it accepts");
        let spoofed = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=198.51.100.1")];
        assert_eq!(ask(&mut preview, &spoofed).await, StatusCode::FORBIDDEN, "{protocol:?}");
        let real = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=\"192.0.2.7:4711\";proto=https")];
        assert_eq!(ask(&mut preview, &real).await, StatusCode::OK, "{protocol:?}");
        let headers = told(&green);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7, 127.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        let elements = "for=\"192.0.2.7:4711\";proto=https, for=127.0.0.1;proto=http;host=shop.test";
        assert_eq!(headers["forwarded"], elements);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_say_is_replaced() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let proxy = behind(&blue, &green, json!({ "trusted_proxies": ["10.0.0.0/8"] })).await;
    for protocol in Protocol::ALL {
        let claims = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7"), ("x-forwarded-proto", "https")];
        let mut preview = Client::connect(protocol, proxy.preview).await.expect("it accepts");
        assert_eq!(ask(&mut preview, &claims).await, StatusCode::FORBIDDEN, "{protocol:?}");
        assert_eq!(ask(&mut proxy.client(protocol).await, &claims).await, StatusCode::OK);
        let headers = told(&blue);
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["forwarded"], "for=127.0.0.1;proto=http;host=shop.test");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_is_not_limited_as_one_client() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let limits = json!({ "connections_per_client": 1 });
    let proxy = behind(&blue, &green, json!({ "trusted_proxies": ["127.0.0.1"], "limits": limits })).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.client(Protocol::H1).await;
        assert_eq!(ask(&mut client, &[]).await, StatusCode::OK);
        clients.push(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_of_ours_are_for_https_alone_where_the_client_came_by_it() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    for (trusted, proto, secure) in
        [("127.0.0.1", "https", true), ("127.0.0.1", "http", false), ("10.0.0.0/8", "https", false)]
    {
        let mut setup = Setup::between(&blue, &green);
        setup.listener("live")["trusted_proxies"] = json!([trusted]);
        setup.app()["balance"] = json!({ "policy": "consistent_hash", "hash": { "cookie": "lb" } });
        let proxy = Proxy::start(setup).await;
        for protocol in Protocol::ALL {
            let mut live = proxy.client(protocol).await;
            let request = live.request("GET", "/").header("x-forwarded-proto", proto);
            let request = request.header("x-forwarded-for", "192.0.2.7").body(full("")).expect("a request");
            let answer = live.fetch(request).await.expect("an answer");
            let cookie = answer.header("set-cookie");
            assert_eq!(cookie.contains("; Secure"), secure, "{cookie}: {proto} by {trusted} over {protocol:?}");
        }
    }
}
