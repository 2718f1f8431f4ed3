//! Holds and maintenance: what is asked, what is refused, what is shown.

use super::*;

#[tokio::test]
async fn a_hold_is_shown_until_it_is_ended_and_both_are_in_the_history() {
    let f = Fixture::start().await;
    assert_eq!(f.get("/api/v1/apps/shop").await.body["hold"], Value::Null);
    let asked = json!({"maxAge": "30s", "maxRequests": 7, "maxBytes": 4096, "reason": "schema change"});
    let done = f.post("/api/v1/apps/shop/hold", asked).await;
    assert_eq!((done.status.as_u16(), &done.body["action"]), (200, &json!("hold")), "{}", done.body);
    let shown = f.get("/api/v1/apps/shop").await.body["hold"].clone();
    for (key, expected) in [
        ("by", json!("olaf")),
        ("reason", json!("schema change")),
        ("waiting", json!(0)),
        ("waitingBytes", json!(0)),
        ("maxRequests", json!(7)),
        ("maxBytes", json!(4096)),
        ("promotes", Value::Null),
    ] {
        assert_eq!(shown[key], expected, "{key} in {shown}");
    }
    assert!(shown["since"].is_string() && shown["deadline"].as_str() > shown["since"].as_str(), "{shown}");
    assert_eq!(f.post("/api/v1/apps/shop/hold", Value::Null).await.problem(), (409, "held".into()));
    assert_eq!(f.post("/api/v1/apps/shop/resume", json!({"reason": "done"})).await.status, 200);
    assert_eq!(f.get("/api/v1/apps/shop").await.body["hold"], Value::Null);
    assert_eq!(f.post("/api/v1/apps/shop/resume", Value::Null).await.problem(), (409, "not-held".into()));
    let history = f.get("/api/v1/apps/shop/history").await.body;
    let acts: Vec<_> = history.as_array().unwrap().iter().map(|r| (r["action"].clone(), r["by"].clone())).collect();
    assert_eq!(acts, [(json!("resume"), json!("olaf")), (json!("hold"), json!("olaf"))]);
}

#[tokio::test]
async fn what_a_hold_does_not_say_is_as_configured_and_what_it_says_is_checked() {
    let f = Fixture::start().await;
    assert_eq!(f.post("/api/v1/apps/shop/hold", json!({"maxAge": 2.5})).await.status, 200);
    let shown = f.get("/api/v1/apps/shop").await.body["hold"].clone();
    assert_eq!((&shown["maxRequests"], &shown["maxBytes"]), (&json!(1000), &json!(64 << 20)));
    for (wrong, word) in [
        (json!({"maxAge": "2h"}), "maxAge"),
        (json!({"maxAge": 0}), "maxAge"),
        (json!({"maxAge": "soon"}), "soon"),
        (json!({"maxRequests": 0}), "maxRequests"),
        (json!({"maxBytes": 1}), "maxBytes"),
        (json!({"maxage": "5s"}), "`maxage`"),
    ] {
        let refused = f.post("/api/v1/apps/blog/hold", wrong).await;
        assert_eq!(refused.problem(), (400, "invalid".into()));
        assert!(refused.body["detail"].as_str().unwrap().contains(word), "{}", refused.body);
    }
    assert_eq!(f.get("/api/v1/apps/blog").await.body["hold"], Value::Null);
}

#[tokio::test]
async fn a_promotion_that_holds_moves_traffic_when_the_old_pool_is_empty_or_not_at_all() {
    let f = Fixture::start().await;
    let reader = f.switch.readers.reader(0);
    let ticket = reader.admit(&KEY, &[]).unwrap();
    let promote = "/api/v1/apps/shop/promote";
    let asked = f.post(promote, json!({"hold": {"maxAge": "20ms"}}));
    let refused = while_adopting(&reader, asked).await;
    assert_eq!(refused.problem(), (409, "not-drained".into()));
    assert!(refused.body["detail"].as_str().unwrap().contains("blue was not empty"), "{}", refused.body);
    assert_eq!(f.get("/api/v1/apps/shop").await.body["active"]["revision"], "blue");
    drop(ticket);
    let dry = f.post("/api/v1/apps/shop/promote?dryRun=true", json!({"hold": true})).await;
    assert_eq!((&dry.body["action"], &dry.body["to"]), (&json!("promote"), &json!("green")));
    let done = while_adopting(&reader, f.post(promote, json!({"hold": true, "reason": "schema change"}))).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!((&done.body["action"], &done.body["to"]), (&json!("promote"), &json!("green")));
    assert_eq!((&done.body["by"], &done.body["reason"]), (&json!("olaf"), &json!("schema change")));
}

#[tokio::test]
async fn maintenance_is_on_until_it_is_turned_off() {
    let f = Fixture::start().await;
    let path = "/api/v1/apps/shop/maintenance";
    assert_eq!(f.post(path, json!({"on": false})).await.problem(), (409, "not-in-maintenance".into()));
    for wrong in [
        json!({}),
        json!({"on": "yes"}),
        json!({"on": true, "retryAfter": "2d"}),
        json!({"on": true, "retryAfter": "0s"}),
        json!({"on": false, "retryAfter": "5s"}),
    ] {
        assert_eq!(f.post(path, wrong.clone()).await.problem(), (400, "invalid".into()), "{wrong}");
    }
    let done = f.post(path, json!({"on": true, "reason": "upgrade", "retryAfter": "2m"})).await;
    assert_eq!((done.status.as_u16(), &done.body["action"]), (200, &json!("maintenance")), "{}", done.body);
    let shown = f.get("/api/v1/apps/shop").await.body["maintenance"].clone();
    assert_eq!(
        (&shown["by"], &shown["reason"], &shown["retryAfterSeconds"]),
        (&json!("olaf"), &json!("upgrade"), &json!(120))
    );
    let done = f.post(path, json!({"on": false})).await;
    assert_eq!((done.status.as_u16(), &done.body["action"]), (200, &json!("reopen")), "{}", done.body);
    assert_eq!(f.get("/api/v1/apps/shop").await.body["maintenance"], Value::Null);
}

#[tokio::test]
async fn to_look_is_not_to_close() {
    let f = Fixture::start().await;
    for path in ["hold", "resume", "maintenance"] {
        let path = format!("/api/v1/apps/shop/{path}");
        let refused = f.send(request(Method::POST, &path, &f.viewer, json!({"on": true}))).await;
        assert_eq!(refused.problem(), (403, "forbidden".into()), "{path}");
        let elsewhere = path.replace("shop", "blog");
        let refused = f.send(request(Method::POST, &elsewhere, &f.shopkeeper, json!({"on": true}))).await;
        assert_eq!(refused.problem(), (403, "forbidden".into()), "{elsewhere}");
    }
}
