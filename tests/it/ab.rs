//! Live traffic told apart: by weight, each user on one side, and by rules; never to a user's loss.

use std::collections::BTreeMap;

use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    Body,
    backend::Backend,
    client::{Answer, Client, Protocol},
    full,
    process::Process,
    proxy::Proxy,
    setup::{APP, Setup},
    shell::Shell,
};

/// A proxy between blue, live, and green, the candidate.
struct Stage {
    proxy: Proxy,
    green: Backend,
    _blue: Backend,
}

/// The same with these keys of the app's own.
async fn stage(more: Value) -> Stage {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    for (key, value) in more.as_object().expect("keys") {
        setup.app()[key] = value.clone();
    }
    let proxy = Proxy::start(setup).await;
    proxy.is_ready_to_promote().await;
    Stage { proxy, green, _blue: blue }
}

async fn weigh(proxy: &Proxy, weight: &str) -> Value {
    let body = json!({ "weight": weight, "reason": "a test" });
    let (status, receipt) = proxy.admin.call("POST", &format!("/apps/{APP}/weight"), Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{receipt:#}");
    receipt
}

async fn get(client: &mut Client, fields: &[(&str, &str)]) -> Answer {
    let request =
        fields.iter().fold(client.request("GET", "/"), |request, (name, value)| request.header(*name, *value));
    let request: Request<Body> = request.body(full("")).expect("a request");
    client.fetch(request).await.expect("an answer")
}

/// Users with the cookie each was given, and the colour each saw.
type Users = BTreeMap<String, String>;

/// So many new users, who keep the cookie they are given.
async fn newcomers(client: &mut Client, count: usize) -> Vec<(String, String)> {
    let mut users = Vec::new();
    for _ in 0..count {
        let answer = get(client, &[]).await;
        let cookie = answer.header("set-cookie").split(';').next().expect("a pair").to_owned();
        assert!(cookie.starts_with("tealgate-ab=shop:green:"), "{answer:?}");
        assert_eq!(answer.header("x-tealgate-revision"), "", "they are live traffic");
        users.push((cookie, answer.colour().to_owned()));
    }
    users
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_goes_to_the_candidate_and_each_user_stays_where_he_is() {
    let Stage { proxy, .. } = &stage(json!({})).await;
    assert_eq!(weigh(proxy, "30%").await["weight"], 30);
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        let users = newcomers(&mut client, 400).await;
        let on_green = users.iter().filter(|(_, colour)| colour == "green").count();
        // Five standard deviations of a share of 30 % of 400.
        assert!((74..=166).contains(&on_green), "{protocol:?}: {on_green} of 400");
        let users: Users = users.into_iter().collect();
        for (cookie, colour) in &users {
            let again = get(&mut client, &[("cookie", cookie)]).await;
            assert_eq!((again.colour(), again.header("set-cookie")), (&**colour, ""), "{cookie}");
        }
        // Raising it takes nobody back.
        weigh(proxy, "60%").await;
        for (cookie, colour) in &users {
            let now = get(&mut client, &[("cookie", cookie)]).await;
            assert!(colour == "blue" || now.colour() == "green", "{cookie} went back");
        }
        weigh(proxy, "30%").await;
    }
    let status = proxy.status().await;
    assert_eq!((&status["weight"], &status["generation"]), (&json!(30), &json!(1)), "{status:#}");
    assert_eq!(proxy.metric("tealgate_weight", &["app=\"shop\""]).await, 30.0);
    let requests = |pool| proxy.metric("tealgate_http_requests_total", pool);
    assert!(requests(&["pool=\"preview\""]).await > 100.0 && requests(&["pool=\"active\""]).await > 100.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_an_abort_and_a_weight_of_nothing_move_everybody() {
    let Stage { proxy, .. } = &stage(json!({})).await;
    let mut client = proxy.client(Protocol::H1).await;
    weigh(proxy, "100%").await;
    let (cookie, colour) = newcomers(&mut client, 1).await.remove(0);
    assert_eq!(colour, "green");
    let user = [("cookie", cookie.as_str())];
    weigh(proxy, "0%").await;
    assert_eq!(get(&mut client, &user).await.colour(), "blue");
    weigh(proxy, "100%").await;
    assert_eq!(get(&mut client, &user).await.colour(), "green");

    proxy.promote().await;
    let promoted = get(&mut client, &user).await;
    assert_eq!((promoted.colour(), promoted.header("set-cookie")), ("green", ""));
    assert_eq!(proxy.status().await["weight"], 0);
    proxy.rollback().await;
    assert_eq!(get(&mut client, &user).await.colour(), "blue", "what was rolled back gets no live traffic");
    assert_eq!(proxy.status().await["weight"], 0);
    weigh(proxy, "100%").await;
    assert_eq!(get(&mut client, &user).await.colour(), "green", "but on request");
    let (status, receipt) = proxy.admin.call("POST", "/apps/shop/abort", Some(json!({}))).await;
    assert_eq!(status, StatusCode::OK, "{receipt:#}");
    assert_eq!(get(&mut client, &user).await.colour(), "blue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_is_not_ready_costs_no_user_an_answer() {
    let Stage { proxy, mut green, _blue } = stage(json!({ "weight": "100%" })).await;
    let mut client = proxy.client(Protocol::H1).await;
    let (cookie, colour) = newcomers(&mut client, 1).await.remove(0);
    assert_eq!(colour, "green", "the file's share is every candidate's");
    let user = [("cookie", cookie.as_str())];
    green.unhealthy(true);
    proxy.reached("starting").await;
    let meanwhile = get(&mut client, &user).await;
    assert_eq!((meanwhile.status, meanwhile.colour()), (StatusCode::OK, "blue"));
    assert_eq!(get(&mut client, &[]).await.header("set-cookie"), "", "nobody is given a number meanwhile");
    green.unhealthy(false);
    proxy.reached("previewing").await;
    assert_eq!(get(&mut client, &user).await.colour(), "green");
    // It dies between two probes: what it did not answer, the active revision does.
    green.stop();
    let answer = get(&mut client, &user).await;
    assert_eq!((answer.status, answer.colour()), (StatusCode::OK, "blue"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_send_whom_they_fit_to_the_candidate() {
    let rules = json!({ "rules": [{ "header": "X-Beta", "equals": "1" }, { "cookie": "beta" }] });
    let Stage { proxy, .. } = &stage(json!({ "ab": rules })).await;
    for protocol in Protocol::ALL {
        let mut client = proxy.client(protocol).await;
        for (fields, colour) in [
            (&[("x-beta", "1")][..], "green"),
            (&[("x-beta", "2")], "blue"),
            (&[("cookie", "a=b; beta=yes")], "green"),
            (&[], "blue"),
        ] {
            let answer = get(&mut client, fields).await;
            assert_eq!((answer.colour(), answer.header("set-cookie")), (colour, ""), "{protocol:?} {fields:?}");
        }
    }
    proxy.promote().await;
    proxy.rollback().await;
    let mut client = proxy.client(Protocol::H1).await;
    assert_eq!(
        get(&mut client, &[("x-beta", "1")]).await.colour(),
        "blue",
        "what was rolled back is for testers alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_may_be_known_by_what_the_application_gives_him() {
    let Stage { proxy, .. } = &stage(json!({ "weight": "50%", "ab": { "sticky": { "cookie": "session" } } })).await;
    let mut client = proxy.client(Protocol::H1).await;
    let mut seen = BTreeMap::<String, usize>::new();
    for n in 0..200 {
        let session = format!("session={n}");
        let first = get(&mut client, &[("cookie", &session)]).await;
        assert_eq!(first.header("set-cookie"), "");
        assert_eq!(get(&mut client, &[("cookie", &session)]).await.colour(), first.colour(), "{session}");
        *seen.entry(first.colour().to_owned()).or_default() += 1;
    }
    assert!(seen.values().all(|count| (65..=135).contains(count)), "{seen:?}");
    for _ in 0..20 {
        assert_eq!(get(&mut client, &[]).await.colour(), "blue", "whoever is unknown stays");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_outlives_the_process_and_is_set_and_shown_by_the_command_line() {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["preview"] = json!({ "cookie": { "secret": "a secret of sixteen octets or more" } });
    let mut process = Process::start(setup).await;
    let shell = Shell::at(format!("unix:{}", process.admin.socket.display()));
    shell.run("wait shop --for preview-ready").await.ends_with(0);
    let done = shell.run("weight shop 5% --reason first").await.ends_with(0);
    done.says("weight shop: 5 % of live traffic to green");
    shell.run("status shop").await.ends_with(0).says("5 % of live traffic goes to green");
    shell.run("weight 101%").await.ends_with(2).says("0% to 100%");
    shell.run("history shop").await.ends_with(0).says("weight").says("first");

    let link = shell.run("preview link shop --ttl 1h --subject ann --host http://shop.test:8080").await.ends_with(0);
    link.says("http://shop.test:8080/.tealgate/preview?token=");
    shell.run("preview link shop").await.ends_with(2).says("say which live host");

    process.start_again().await;
    assert_eq!(process.admin.status(APP).await["weight"], 5);
    shell.run("wait shop --for preview-ready").await.ends_with(0);
    shell.run("promote shop --yes").await.ends_with(0);
    shell.run("weight shop 5%").await.ends_with(1).says("no candidate");
}
