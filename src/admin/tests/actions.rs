//! What each action does, and its guards.

use super::*;

#[tokio::test]
async fn a_promotion_moves_traffic_and_answers_its_receipt() {
    let f = Fixture::start().await;
    let plan = f.get("/api/v1/apps/shop/plan").await;
    assert_eq!(
        (plan.body["possible"].clone(), plan.body["to"].clone()),
        (json!(true), json!("green")),
        "{}",
        plan.body
    );

    let done = f.post("/api/v1/apps/shop/promote", json!({"reason": "release 7"})).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!((&done.body["by"], &done.body["reason"]), (&json!("olaf"), &json!("release 7")));
    assert_eq!((&done.body["from"], &done.body["to"]), (&json!("blue"), &json!("green")));

    let state = f.get("/api/v1/apps/shop").await;
    assert_eq!(state.body["active"]["revision"], "green");
    assert_eq!(state.header("etag"), done.header("etag"));
    assert_eq!(state.header("etag").unwrap(), format!("\"{}\"", state.body["generation"]));

    let refused = f.post("/api/v1/apps/shop/promote", Value::Null).await;
    assert_eq!(refused.problem(), (409, "no-candidate".into()));
    let plan = f.get("/api/v1/apps/shop/plan").await;
    assert_eq!((&plan.body["possible"], &plan.body["refusal"]["code"]), (&json!(false), &json!("no-candidate")));

    let back = f.post("/api/v1/apps/shop/rollback", json!({"reason": "errors"})).await;
    assert_eq!((back.status.as_u16(), &back.body["to"]), (200, &json!("blue")));
    let history = f.get("/api/v1/apps/shop/history?limit=2").await;
    let actions: Vec<_> = history.body.as_array().unwrap().iter().map(|receipt| receipt["action"].clone()).collect();
    assert_eq!(actions, ["rollback", "promote"]);
}

#[tokio::test]
async fn a_candidate_is_deployed_updated_and_discarded() {
    let f = Fixture::start().await;
    let path = "/api/v1/apps/shop/revisions/v3";
    let put = |body| f.send(request(Method::PUT, path, &f.operator, body));
    let deployed = put(
        json!({"endpoints": ["127.0.0.1:9021", {"address": "127.0.0.1:9022", "weight": 3}], "labels": {"git": "abc"}}),
    )
    .await;
    assert_eq!((deployed.status.as_u16(), &deployed.body["action"]), (200, &json!("deploy")), "{}", deployed.body);
    let state = f.get("/api/v1/apps/shop").await;
    assert_eq!(state.body["preview"]["revision"], "v3");
    assert_eq!(state.body["preview"]["endpoints"][1]["weight"], 3);
    assert_eq!(state.body["preview"]["labels"]["git"], "abc");

    let refused = f.post("/api/v1/apps/shop/promote", Value::Null).await;
    assert_eq!(refused.problem(), (409, "not-ready".into()));
    assert!(refused.body["gates"].as_array().is_some_and(|gates| !gates.is_empty()), "{}", refused.body);

    for (bad, word) in [
        (json!({"endpoints": []}), "0 entries"),
        (json!({"endpoints": ["127.0.0.1:0"]}), "no port"),
        (json!({"endpoints": ["0.0.0.0:1"]}), "endpoints[0]"),
        (json!({"endpoints": ["127.0.0.1:1", "127.0.0.1:1"]}), "endpoints[1]"),
        (json!({"endpoints": [{"address": "127.0.0.1:1", "weight": 0}]}), "weight"),
        (json!({"endpoints": [{"address": "127.0.0.1:1", "wait": 1}]}), "`wait`"),
        (json!({"endpoints": ["shop.example"]}), "NAME:PORT"),
        (json!({"endpoints": ["unix:app.sock"]}), "unix:/PATH"),
        (json!({}), "endpoints"),
    ] {
        let refused = put(bad).await;
        assert_eq!(refused.problem(), (400, "invalid".into()));
        assert!(refused.body["detail"].as_str().unwrap().contains(word), "{}", refused.body);
    }
    let gone = f.send(request(Method::DELETE, path, &f.operator, Value::Null)).await;
    assert_eq!((gone.status.as_u16(), &gone.body["action"]), (200, &json!("discard")));
    assert_eq!(f.get("/api/v1/apps/shop").await.body["preview"], Value::Null);
}

#[tokio::test]
async fn an_action_on_another_generation_than_meant_is_not_done() {
    let f = Fixture::start().await;
    let promote = |body| request(Method::POST, "/api/v1/apps/shop/promote", &f.operator, body);
    let tag = f.get("/api/v1/apps/shop").await.header("etag").unwrap().to_owned();
    let stale = with(promote(Value::Null), "if-match", "\"99\"");
    assert_eq!(f.send(stale).await.problem(), (412, "generation-mismatch".into()));
    assert_eq!(f.send(promote(json!({"ifGeneration": 99}))).await.problem(), (412, "generation-mismatch".into()));
    let torn = with(promote(json!({"ifGeneration": 99})), "if-match", &tag);
    assert_eq!(f.send(torn).await.problem(), (400, "invalid".into()));
    assert_eq!(f.send(with(promote(Value::Null), "if-match", "12")).await.problem(), (400, "invalid".into()));
    assert_eq!(f.send(with(promote(Value::Null), "if-match", &tag)).await.status, 200);
}

#[tokio::test]
async fn a_repeat_with_the_same_key_acts_once() {
    let f = Fixture::start().await;
    let keyed = |path: &str, body| with(request(Method::POST, path, &f.operator, body), "idempotency-key", "k1");
    let promote = "/api/v1/apps/shop/promote";
    let dry = f.send(keyed(&format!("{promote}?dryRun=true"), Value::Null)).await;
    assert_eq!(dry.body["dryRun"], true, "{}", dry.body);
    assert_eq!(f.send(keyed(promote, Value::Null)).await.problem(), (422, "idempotency-key-reused".into()));

    let keyed = |path: &str, body| with(request(Method::POST, path, &f.operator, body), "idempotency-key", "k2");
    let (first, second) = tokio::join!(f.send(keyed(promote, Value::Null)), f.send(keyed(promote, Value::Null)));
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    let replayed = [&first, &second].map(|reply| reply.header("idempotent-replayed").is_some());
    assert_eq!(replayed.iter().filter(|yes| **yes).count(), 1);
    let elsewhere = f.send(keyed("/api/v1/apps/blog/promote", Value::Null)).await;
    assert_eq!((elsewhere.status.as_u16(), elsewhere.header("idempotent-replayed")), (200, None));
    assert_eq!(f.get("/api/v1/apps/shop/history").await.body.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_tells_nobody() {
    let f = Fixture::start().await;
    let mut events = f.api.viewer.events();
    let before = f.get("/api/v1/apps/shop").await.body;
    let dry = f.post("/api/v1/apps/shop/promote?dryRun=true", Value::Null).await;
    assert_eq!((&dry.body["dryRun"], &dry.body["to"]), (&json!(true), &json!("green")));
    assert_eq!(f.post("/api/v1/apps/shop/rollback?dryRun=true", Value::Null).await.problem().1, "no-previous");
    assert_eq!(f.get("/api/v1/apps/shop").await.body, before);
    assert!(events.try_recv().is_err());
    let misspelt = f.post("/api/v1/apps/shop/promote?dryrun=true", Value::Null).await;
    assert_eq!(misspelt.problem(), (400, "invalid".into()));
    assert!(misspelt.body["detail"].as_str().unwrap().contains("dryrun"), "{}", misspelt.body);
}

#[tokio::test]
async fn a_pin_keeps_what_is_active_until_it_is_taken_off() {
    let f = Fixture::start().await;
    let pin = "/api/v1/apps/shop/pin";
    assert_eq!(f.post(pin, json!({"revision": "blue", "reason": " "})).await.problem(), (400, "invalid".into()));
    let past = json!({"revision": "blue", "reason": "freeze", "expires": "2020-01-01T00:00:00Z"});
    assert_eq!(f.post(pin, past).await.problem(), (400, "invalid".into()));
    assert_eq!(f.post(pin, json!({"revision": "blue", "reason": "freeze"})).await.status, 200);
    let state = f.get("/api/v1/apps/shop").await;
    assert_eq!(state.body["pin"], json!({"revision": "blue", "reason": "freeze", "by": "olaf"}));
    assert_eq!(f.post("/api/v1/apps/shop/promote", Value::Null).await.problem(), (409, "pinned".into()));
    let unpinned = f.send(request(Method::DELETE, pin, &f.operator, json!({"reason": "over"}))).await;
    assert_eq!((unpinned.status.as_u16(), &unpinned.body["reason"]), (200, &json!("over")));
    assert_eq!(f.post("/api/v1/apps/shop/abort", Value::Null).await.status, 200);
}

#[tokio::test]
async fn an_answer_may_wait_until_the_old_pool_is_empty() {
    let f = Fixture::start().await;
    let reader = f.switch.readers.reader(0);
    let ticket = reader.admit(&KEY, &[]).unwrap();
    let mut viewer = f.api.viewer.clone();
    let asked = f.post("/api/v1/apps/shop/promote", json!({"wait": "drained"}));
    let mut answered = std::pin::pin!(while_adopting(&reader, asked));
    let flipped = async {
        while viewer.board().apps.values().all(|app| app.history.is_empty()) {
            viewer.changed().await;
        }
    };
    tokio::select! {
        reply = &mut answered => panic!("answered with a request in flight: {}", reply.body),
        () = flipped => {}
    }
    assert!(futures_util::poll!(&mut answered).is_pending());
    drop(ticket);
    let reply = answered.await;
    assert_eq!((reply.status.as_u16(), &reply.body["inFlightOnOld"]), (200, &json!(1)));
    assert_eq!(f.get("/api/v1/apps/shop").await.body["draining"], json!([]));
}
