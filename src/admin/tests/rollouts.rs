//! Apps whose rollouts another authority runs: what it is asked for, and what comes back.

use std::sync::Mutex;

use super::*;
use crate::switch::{
    Answer, Ask, Authorities, Authority, Control, Followed, Note, Petition, Refusal, RefusalCode, Sighted, Sighting,
    Telling,
};

/// An authority that does what it is asked for, on record, and remembers it.
struct Obliging {
    control: Control,
    asked: Mutex<Vec<Petition>>,
}

impl Authorities for Obliging {
    fn ask(&self, petition: Petition) -> Answer<'_> {
        self.asked.lock().unwrap().push(petition.clone());
        Box::pin(async move {
            let Petition { app, ask, by, reason, dry_run, .. } = petition;
            if let Ask::Promote { .. } = ask {
                let detail = "the Service did not move within 25 s: waiting for analysis to complete".to_owned();
                return Err(Refusal { code: RefusalCode::TimedOut, detail, hint: "look at the analysis".to_owned() });
            }
            let note = Note { app, action: ask.action(), from: None, to: None, by, reason };
            let receipt = self.control.note(note).await?;
            Ok(crate::switch::Receipt { dry_run, calls: vec!["PATCH rollouts/shop".into()], ..receipt })
        })
    }

    fn told<'a>(&'a self, rollback: &'a crate::switch::Receipt) -> Telling<'a> {
        let untold = format!("nobody was told of {}", rollback.to.as_deref().unwrap_or_default());
        Box::pin(std::future::ready(Some(untold)))
    }
}

/// `shop` follows Argo Rollouts, which has h1 active and h2 as its candidate; `blog` is our own.
async fn followed() -> (Fixture, Arc<Obliging>) {
    let mut f = Fixture::start().await;
    let mut desired = two_apps();
    let shop: crate::switch::AppName = "shop".parse().unwrap();
    let Wanted { matching, policy, .. } = desired.apps.remove(&shop).unwrap();
    desired.followed.insert(shop.clone(), Followed { matching, policy, authority: Authority::ArgoRollouts });
    f.switch.feed.desired(desired).await.unwrap();
    let seen = |port| Sighted { endpoints: vec![address(port).into()], ..Sighted::default() };
    let sighting = Sighting {
        revisions: [("h1".parse().unwrap(), seen(9001)), ("h2".parse().unwrap(), seen(9011))].into(),
        active: Some("h1".parse().unwrap()),
        preview: Some("h2".parse().unwrap()),
        ..Sighting::default()
    };
    f.switch.feed.sighted(shop.clone(), sighting).await;
    let obliging = Arc::new(Obliging { control: f.switch.control.clone(), asked: Mutex::default() });
    let api = Api { authorities: Some(obliging.clone()), ..f.api.clone() };
    let options = Options { bind: Some(address(0)), ..Options::default() };
    std::mem::replace(&mut f.server, AdminServer::start(&options, api).await.unwrap()).stop().await;
    (f, obliging)
}

#[tokio::test]
async fn what_is_wanted_of_a_followed_app_is_put_to_its_authority() {
    let (f, authority) = followed().await;
    let shop = "/api/v1/apps/shop";
    for (action, body) in [
        ("abort", json!({"reason": "smoke"})),
        ("reject", Value::Null),
        ("retry", Value::Null),
        ("pause", Value::Null),
        ("unpause", Value::Null),
        ("keep", json!({"for": "2h"})),
    ] {
        let done = f.post(&format!("{shop}/{action}"), body).await;
        assert_eq!((done.status.as_u16(), &done.body["action"]), (200, &json!(action)), "{}", done.body);
        assert_eq!((&done.body["by"], &done.body["calls"][0]), (&json!("olaf"), &json!("PATCH rollouts/shop")));
    }
    let asked: Vec<_> = authority.asked.lock().unwrap().iter().map(|petition| petition.ask.action()).collect();
    assert_eq!(
        asked.iter().map(|action| action.as_str()).collect::<Vec<_>>(),
        ["abort", "reject", "retry", "pause", "unpause", "keep"]
    );
    let history = f.get(&format!("{shop}/history?limit=1")).await;
    assert_eq!((&history.body[0]["action"], &history.body[0]["by"]), (&json!("keep"), &json!("olaf")));
}

#[tokio::test]
async fn a_promotion_carries_its_terms_and_comes_back_with_the_authoritys_reasons() {
    let (f, authority) = followed().await;
    let body = json!({"revision": "h2", "reason": "release 7", "ifGeneration": 3, "timeout": "90s"});
    let late = f.post("/api/v1/apps/shop/promote?dryRun=true", body).await;
    assert_eq!(late.problem(), (504, "timed-out".into()));
    assert!(late.body["detail"].as_str().unwrap().contains("analysis"), "{}", late.body);
    let petition = authority.asked.lock().unwrap().pop().unwrap();
    assert_eq!(petition.ask, Ask::Promote { revision: Some("h2".parse().unwrap()), skip_gates: false });
    assert_eq!((petition.within.as_secs(), petition.if_generation, petition.dry_run), (90, Some(3), true));
    assert_eq!((petition.by.as_str(), petition.reason.as_str()), ("olaf", "release 7"));

    let plan = f.get("/api/v1/apps/shop/plan").await;
    assert_eq!(plan.body["refusal"]["code"], "timed-out", "{}", plan.body);
    let skips = f.post("/api/v1/apps/shop/promote", json!({"skipGates": true, "reason": "now"})).await;
    assert_eq!(skips.problem(), (403, "forbidden".into()));
    let held = f.post("/api/v1/apps/shop/promote", json!({"hold": true})).await;
    assert_eq!(held.problem(), (400, "not-offered".into()));
    for bad in [json!({"timeout": "2h"}), json!({"timeout": 0})] {
        assert_eq!(f.post("/api/v1/apps/shop/promote", bad).await.problem(), (400, "invalid".into()));
    }
}

#[tokio::test]
async fn what_the_switch_decides_itself_is_not_put_to_anybody() {
    let (f, authority) = followed().await;
    let refused = f.post("/api/v1/apps/shop/weight", json!({"weight": 5})).await;
    assert_eq!(refused.problem(), (409, "other-authority".into()));
    for action in ["retry", "pause", "unpause"] {
        let refused = f.post(&format!("/api/v1/apps/blog/{action}"), Value::Null).await;
        assert_eq!(refused.problem(), (400, "not-offered".into()), "{action}");
    }
    assert_eq!(f.post("/api/v1/apps/blog/keep", json!({"for": "2h"})).await.problem(), (400, "not-offered".into()));
    assert_eq!(f.post("/api/v1/apps/shop/keep", json!({"for": "1s"})).await.problem(), (400, "invalid".into()));
    assert_eq!(f.post("/api/v1/apps/none/retry", Value::Null).await.problem(), (404, "unknown-app".into()));
    let rejected = f.post("/api/v1/apps/blog/reject", json!({"reason": "broken"})).await;
    assert_eq!((rejected.status.as_u16(), &rejected.body["action"]), (200, &json!("abort")), "{}", rejected.body);
    assert!(authority.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_rollback_says_where_others_could_not_be_told_and_goes_ahead() {
    let (f, authority) = followed().await;
    for (revision, port) in [("h1", 9001), ("h2", 9011)] {
        f.switch.feed.observed("shop".parse().unwrap(), revision.parse().unwrap(), address(port), true).await;
    }
    let path = "/api/v1/apps/shop/rollback";
    let planned = f.post(&format!("{path}?dryRun=true"), json!({"to": "h2"})).await;
    assert_eq!((planned.status.as_u16(), &planned.body["warnings"]), (200, &Value::Null), "{}", planned.body);
    let done = f.post(path, json!({"to": "h2", "reason": "errors"})).await;
    assert_eq!((done.status.as_u16(), &done.body["to"]), (200, &json!("h2")), "{}", done.body);
    assert_eq!(done.body["warnings"], json!(["nobody was told of h2"]));
    assert!(authority.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_the_means_to_ask_the_refusal_says_so() {
    let (f, _) = followed().await;
    let options = Options { bind: Some(address(0)), ..Options::default() };
    let server = AdminServer::start(&options, f.api.clone()).await.unwrap();
    let f = Fixture { server, ..f };
    let refused = f.post("/api/v1/apps/shop/promote", Value::Null).await;
    assert_eq!(refused.problem(), (409, "other-authority".into()));
}

#[tokio::test]
async fn what_one_replica_does_by_itself_says_so() {
    let (f, _authority) = followed().await;
    let held = f.post("/api/v1/apps/shop/hold", json!({"maxAge": "10m"})).await;
    assert!(held.body["warnings"][0].as_str().unwrap().contains("this replica alone"), "{}", held.body);
    let status = f.get("/api/v1/apps/shop").await;
    assert!(status.body["message"].as_str().unwrap().contains("held at this replica alone"), "{}", status.body);
    for (path, body) in [
        ("resume", Value::Null),
        ("maintenance", json!({"on": true})),
        ("maintenance", json!({"on": false})),
        ("pin", json!({"revision": "blue", "reason": "sale"})),
    ] {
        let done = f.post(&format!("/api/v1/apps/shop/{path}"), body).await;
        assert!(
            done.body["warnings"][0].as_str().is_some_and(|w| w.contains("this replica alone")),
            "{path}: {}",
            done.body
        );
    }
    // What the switch decides itself has nobody to tell.
    let ours = f.post("/api/v1/apps/blog/hold", json!({"maxAge": "10m"})).await;
    assert_eq!((ours.status.as_u16(), &ours.body["warnings"]), (200, &Value::Null), "{}", ours.body);
    let held_first = f.post("/api/v1/apps/shop/promote", json!({"hold": true})).await;
    assert!(held_first.body["hint"].as_str().unwrap().contains("at each of them"), "{}", held_first.body);
}
