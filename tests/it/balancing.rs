//! Which endpoint a request goes to: clients stay where they were, endpoints that fail requests rest, and a candidate has its
//! connections open before it takes traffic.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    certs::Authority,
    client::{Answer, Client, Protocol},
    eventually, full,
    outlet::Outlet,
    proxy::Proxy,
    raw_backend::{RawBackend, Then},
    setup::{APP, Setup},
};

fn addresses(backends: &[Backend]) -> Vec<SocketAddr> {
    backends.iter().map(Backend::address).collect()
}

async fn is_ready(proxy: &Proxy, endpoints: usize) {
    eventually("all endpoints to be ready", async || proxy.status().await["active"]["ready"] == endpoints).await;
}

async fn get_with(client: &mut Client, fields: &[(&str, &str)]) -> Answer {
    let mut request = client.request("GET", "/");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client.fetch(request.body(full("")).expect("a request")).await.expect("an answer")
}

/// What the active endpoints are thought to be, by their address.
fn health(status: &Value, address: SocketAddr) -> String {
    let endpoints = status["active"]["endpoints"].as_array().expect("endpoints");
    let found = endpoints.iter().find(|endpoint| endpoint["address"] == address.to_string()).expect("this one");
    found["health"].as_str().expect("a word").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_stays_with_its_endpoint_by_the_cookie_it_is_given() {
    let backends = ["a", "b", "c", "d"].map(Backend::spawn);
    let mut setup = Setup::before(&addresses(&backends));
    setup.app()["balance"] = json!({ "policy": "consistent_hash", "hash": { "cookie": "lb", "ttl": "1h" } });
    let proxy = Proxy::start(setup).await;
    is_ready(&proxy, 4).await;
    let mut seen = BTreeSet::new();
    for n in 0..24 {
        let mut client = proxy.client(Protocol::ALL[n % 2]).await;
        let first = get_with(&mut client, &[("cookie", "theme=dark")]).await;
        let given = first.headers[header::SET_COOKIE].to_str().expect("text").to_owned();
        assert!(given.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"), "{given}");
        let pair = given.split(';').next().expect("name and value");
        for protocol in Protocol::ALL {
            // On a connection, and so perhaps a worker, of its own; among other cookies, and as HTTP/2 may split them.
            let mut client = proxy.client(protocol).await;
            for fields in [vec![("cookie", format!("theme=dark; {pair}"))], vec![("cookie", pair.to_owned())]] {
                let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let again = get_with(&mut client, &fields).await;
                assert_eq!(again.colour(), first.colour());
                assert!(!again.headers.contains_key(header::SET_COOKIE), "it has one");
            }
        }
        let mut client = proxy.client(Protocol::H2).await;
        assert_eq!(get_with(&mut client, &[("cookie", "a=b"), ("cookie", pair)]).await.colour(), first.colour());
        seen.insert(first.colour().to_owned());
    }
    assert!(seen.len() > 1, "all went to {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_or_an_address_leads_to_the_same_endpoint_and_past_one_that_is_gone() {
    let mut backends = ["a", "b", "c"].map(Backend::spawn);
    let mut setup = Setup::before(&addresses(&backends));
    setup.app()["balance"] = json!({ "policy": "consistent_hash", "hash": { "header": "X-User" } });
    setup.app()["health"] = json!({ "path": "/healthz", "interval": "50ms", "rise": 1, "fall": 1 });
    let proxy = Proxy::start(setup).await;
    is_ready(&proxy, 3).await;
    let mut client = proxy.client(Protocol::H1).await;
    let users: Vec<_> = (0..30).map(|n| format!("user-{n}")).collect();
    let mut places = Vec::new();
    for user in &users {
        let answer = get_with(&mut client, &[("x-user", user)]).await;
        assert!(!answer.headers.contains_key(header::SET_COOKIE));
        places.push(answer.colour().to_owned());
    }
    backends[0].stop();
    is_ready(&proxy, 2).await;
    for (user, place) in users.iter().zip(&places) {
        let answer = get_with(&mut client, &[("x-user", user)]).await;
        assert_eq!(answer.colour() == place, place != "a", "{user} was at {place}, and is at {}", answer.colour());
    }
    backends[0].start();
    is_ready(&proxy, 3).await;
    for (user, place) in users.iter().zip(&places) {
        assert_eq!(get_with(&mut client, &[("x-user", user)]).await.colour(), place, "{user} is back");
    }

    let mut setup = Setup::before(&addresses(&backends));
    setup.app()["balance"] =
        json!({ "policy": "consistent_hash", "hash": { "client_ip": true }, "bounded_load": "off" });
    let proxy = Proxy::start(setup).await;
    is_ready(&proxy, 3).await;
    let mut places = BTreeSet::new();
    for n in 0..10 {
        let mut client = proxy.client(Protocol::ALL[n % 2]).await;
        places.insert(client.get("/").await.expect("an answer").colour().to_owned());
    }
    assert_eq!(places.len(), 1, "one client, one endpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_on_which_requests_fail_rests_though_its_probes_succeed_and_comes_back() {
    let well = Backend::spawn("well");
    // A TCP probe finds both of these in order.
    let bad = [
        RawBackend::spawn("", Then::Close),
        RawBackend::spawn("HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n", Then::Keep),
    ];
    let mut setup = Setup::before(&[well.address(), bad[0].address(), bad[1].address()]);
    setup.app()["ejection"] = json!({ "consecutive_failures": 3, "for": "2s", "max_share": "67%" });
    let proxy = Proxy::start(setup).await;
    is_ready(&proxy, 3).await;
    assert_eq!(proxy.metric("tealgate_ejections_total", &[]).await, 0.0);
    let mut client = proxy.client(Protocol::H1).await;
    eventually("both bad ones to rest", async || {
        client.get("/").await.expect("an answer");
        let status = proxy.status().await;
        bad.iter().all(|bad| health(&status, bad.address()) == "ejected")
    })
    .await;
    let status = proxy.status().await;
    assert_eq!((&status["active"]["ready"], &status["active"]["total"]), (&json!(1), &json!(3)));
    for _ in 0..20 {
        assert_eq!(client.get("/").await.expect("an answer").colour(), "well");
    }
    let bad_address = bad[0].address().to_string();
    assert_eq!(proxy.metric("tealgate_endpoint_ejected", &[&bad_address]).await, 1.0);
    assert_eq!(proxy.metric("tealgate_endpoint_up", &[&bad_address]).await, 0.0);
    assert_eq!(proxy.metric("tealgate_ejections_total", &["consecutive_failures"]).await, 2.0);
    assert_eq!(proxy.metric("tealgate_pool_endpoints", &["active", "state=\"ejected\""]).await, 2.0);
    is_ready(&proxy, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_its_share_of_a_pool_rests_and_without_the_setting_none_does() {
    for (ejection, resting) in [(Some(json!({ "consecutive_failures": 2, "max_share": "50%" })), 2), (None, 0)] {
        let bad = [(); 4].map(|()| RawBackend::spawn("HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n", Then::Keep));
        let mut setup = Setup::before(&bad.each_ref().map(RawBackend::address));
        if let Some(ejection) = ejection {
            setup.app()["ejection"] = ejection;
        }
        let proxy = Proxy::start(setup).await;
        is_ready(&proxy, 4).await;
        let mut client = proxy.client(Protocol::H1).await;
        eventually("as many to rest as may", async || {
            assert_eq!(client.get("/").await.expect("an answer").status, StatusCode::BAD_GATEWAY);
            proxy.status().await["active"]["ready"] == 4 - resting
        })
        .await;
        for _ in 0..100 {
            client.get("/").await.expect("an answer");
        }
        // Past a few looks at the counters.
        let looks = tokio::time::Instant::now() + Duration::from_secs(1);
        eventually("a second to pass", async || {
            assert_eq!(proxy.status().await["active"]["ready"], 4 - resting);
            tokio::time::Instant::now() > looks
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_whose_endpoint_rests_is_not_promoted() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let (well, bad) = (green.address(), RawBackend::spawn("", Then::Close));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["health"] = json!({});
    setup.app()["source"]["static"]["revisions"]["green"] = json!({ "endpoints": [well, bad.address()] });
    setup.app()["ejection"] = json!({ "consecutive_failures": 2, "for": "1h" });
    setup.app()["promotion"] = json!({ "min_ready": "100%" });
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    let mut tester = Client::connect(Protocol::H1, proxy.preview).await.expect("it accepts");
    eventually("the bad one to rest", async || {
        tester.get("/").await.expect("an answer");
        proxy.status().await["preview"]["ready"] == 1
    })
    .await;
    let (status, problem) = proxy.admin.call("POST", "/apps/shop/promote", Some(json!({}))).await;
    assert_eq!((status.is_success(), &problem["code"]), (false, &json!("not-ready")), "{problem:#}");
    assert_eq!(proxy.status().await["active"]["revision"], "blue");
}

/// The state of the gate, and its message.
async fn warm_gate(proxy: &Proxy) -> (String, String) {
    let status = proxy.status().await;
    let gates = status["gates"].as_array().expect("gates");
    let gate = gates.iter().find(|gate| gate["name"] == "warm").expect("this one");
    let text = |key: &str| gate[key].as_str().expect("text").to_owned();
    (text("state"), text("message"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_requests_after_a_flip_find_their_connections_open() {
    let authority = Authority::new();
    let tls = json!({ "roots": authority.roots(), "server_name": "app.test" });
    // Of what the endpoints speak by configuration, and of what they choose by ALPN.
    for (upstream, alpn) in [
        (json!({ "protocol": "http1" }), None),
        (json!({ "protocol": "h2" }), None),
        (json!({ "protocol": "auto", "tls": tls }), Some(["h2", "http/1.1"])),
        (json!({ "protocol": "auto", "tls": tls }), Some(["http/1.1", "http/1.0"])),
    ] {
        let backends = ["blue", "green"].map(Backend::spawn);
        let secured = alpn.map(|alpn| {
            let mut settings = authority.sign("app", &["app.test"]).server();
            settings.alpn_protocols = alpn.map(Into::into).to_vec();
            backends.each_ref().map(|backend| Outlet::tls(settings.clone(), backend.address()))
        });
        let endpoints = match &secured {
            Some(outlets) => outlets.each_ref().map(Outlet::address),
            None => backends.each_ref().map(Backend::address),
        };
        flip_to_what_is_warm(&backends, endpoints, &upstream).await;
    }
}

async fn flip_to_what_is_warm([blue, green]: &[Backend; 2], endpoints: [SocketAddr; 2], upstream: &Value) {
    let mut setup = Setup::between(blue, green);
    for (colour, endpoint) in ["blue", "green"].into_iter().zip(endpoints) {
        setup.app()["source"]["static"]["revisions"][colour] = json!({ "endpoints": [endpoint] });
    }
    setup.app()["upstream"] = upstream.clone();
    // One probe each, so that connections can be counted.
    setup.app()["health"] = json!({ "path": "/healthz", "interval": "1h" });
    setup.app()["promotion"] = json!({ "warm": 2 });
    let proxy = Proxy::start(setup).await;
    eventually("the candidate to be warm", async || warm_gate(&proxy).await.0 == "passed").await;
    let (probe, ahead) = (1, 2 * 2);
    assert_eq!(green.connections(), probe + ahead, "two from each of two workers: {upstream}");

    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = proxy.client(Protocol::ALL[n % 2]).await;
        assert_eq!(client.get("/").await.expect("an answer").colour(), "blue");
        clients.push(client);
    }
    let receipt = proxy.promote().await;
    assert!(receipt["gates"].as_array().expect("gates").iter().all(|gate| gate["state"] == "passed"), "{receipt:#}");
    for client in &mut clients {
        for _ in 0..5 {
            assert_eq!(client.get("/").await.expect("an answer").colour(), "green");
        }
    }
    assert_eq!(green.connections(), probe + ahead, "none was opened for these: {upstream}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_keeps_no_connection_open_fails_the_gate_instead_of_being_asked_for_ever() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let closing = listener.local_addr().expect("an address");
    let (counted, connections) = std::sync::mpsc::channel();
    thread::spawn(move || listener.incoming().for_each(|stream| drop((stream, counted.send(())))));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["health"] = json!({ "interval": "1h" });
    setup.app()["source"]["static"]["revisions"]["green"] = json!({ "endpoints": [closing] });
    setup.app()["promotion"] = json!({ "warm": 1 });
    let proxy = Proxy::start(setup).await;
    eventually("the gate to fail", async || warm_gate(&proxy).await.0 == "failed").await;
    let (_, message) = warm_gate(&proxy).await;
    assert!(message.contains("0 of 1") && message.contains("closes idle connections"), "{message}");
    let (status, problem) = proxy.admin.call("POST", "/apps/shop/promote", Some(json!({}))).await;
    assert_eq!((status.is_success(), &problem["code"]), (false, &json!("gate-failed")), "{problem:#}");
    assert!(connections.try_iter().count() < 20, "it is asked again and again");
    let skip = json!({ "skipGates": true, "reason": "it is known to" });
    let (status, receipt) = proxy.admin.call("POST", &format!("/apps/{APP}/promote"), Some(skip)).await;
    assert!(status.is_success(), "{receipt:#}");
}
