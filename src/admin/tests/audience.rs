//! Who is shown which revision: shares of live traffic, and links for testers.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::switch::{PreviewCookie, Secret};

const WEIGHT: &str = "/api/v1/apps/shop/weight";
const LINK: &str = "/api/v1/apps/shop/preview-link";

impl Fixture {
    /// The same, with a preview cookie for `shop`.
    async fn with_cookie() -> (Self, PreviewCookie) {
        let f = Self::start().await;
        let (secrets, ttl) = (vec![Secret::new(b"0123456789abcdef")], std::time::Duration::from_secs(3600));
        let cookie = PreviewCookie { name: "tealgate-preview".into(), secrets, ttl };
        let mut desired = two_apps();
        desired.apps.get_mut(&"shop".parse().unwrap()).unwrap().matching.preview.cookie = Some(cookie.clone());
        f.switch.feed.desired(desired).await.unwrap();
        (f, cookie)
    }
}

#[tokio::test]
async fn a_share_is_set_shown_and_journalled_with_its_actor() {
    let f = Fixture::start().await;
    assert_eq!(f.get("/api/v1/apps/shop").await.body["weight"], 0);
    let done = f.post(WEIGHT, json!({"weight": "5%", "reason": "release 7"})).await;
    assert_eq!((done.status.as_u16(), &done.body["action"]), (200, &json!("weight")), "{}", done.body);
    let told = ["by", "reason", "from", "to", "weight"].map(|key| done.body[key].clone());
    assert_eq!(told, [json!("olaf"), json!("release 7"), json!("blue"), json!("green"), json!(5)]);
    let state = f.get("/api/v1/apps/shop").await;
    assert_eq!((&state.body["weight"], state.header("etag")), (&json!(5), done.header("etag")));
    assert_eq!(f.post(WEIGHT, json!({"weight": 10})).await.body["weight"], 10);
    let dry = f.post(&format!("{WEIGHT}?dryRun=true"), json!({"weight": "50%"})).await;
    assert_eq!((&dry.body["weight"], &dry.body["dryRun"]), (&json!(50), &json!(true)));
    assert_eq!(f.get("/api/v1/apps/shop").await.body["weight"], 10);
    let history = f.get("/api/v1/apps/shop/history").await.body;
    let weights: Vec<_> = history.as_array().unwrap().iter().map(|receipt| receipt["weight"].clone()).collect();
    assert_eq!(weights, [10, 5]);

    f.post("/api/v1/apps/shop/promote", Value::Null).await;
    assert_eq!(f.get("/api/v1/apps/shop").await.body["weight"], 0, "the candidate is the active one now");
    assert_eq!(f.post(WEIGHT, json!({"weight": "5%"})).await.problem(), (409, "no-candidate".into()));
}

#[tokio::test]
async fn what_is_no_share_is_told_and_a_viewer_sets_none() {
    let f = Fixture::start().await;
    for bad in
        [json!({}), json!({"weight": "101%"}), json!({"weight": -1}), json!({"weight": 0.5}), json!({"weight": "x"})]
    {
        let refused = f.post(WEIGHT, bad.clone()).await;
        assert_eq!(refused.problem(), (400, "invalid".into()), "{bad}");
    }
    let asked = |token: &str| request(Method::POST, WEIGHT, token, json!({"weight": "5%"}));
    assert_eq!(f.send(asked(&f.viewer)).await.problem(), (403, "forbidden".into()));
    assert_eq!(f.send(asked(&f.shopkeeper)).await.status, 200);
    let stale = with(asked(&f.operator), "if-match", "\"99\"");
    assert_eq!(f.send(stale).await.problem(), (412, "generation-mismatch".into()));
}

#[tokio::test]
async fn a_link_is_a_signed_pass_for_the_time_asked() {
    let (f, cookie) = Fixture::with_cookie().await;
    let mut events = f.api.viewer.events();
    let made = f.post(LINK, json!({"ttlSeconds": 60, "subject": "ann", "return": "/cart?id=1"})).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let (place, query) = made.body["url"].as_str().unwrap().split_once('?').unwrap();
    assert_eq!(place, "https://shop.test/.tealgate/preview");
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    assert_eq!(pairs[1], ("return".to_owned(), "/cart?id=1".to_owned()));
    let (shop, now) = ("shop".parse().unwrap(), Timestamp::now());
    let pass = cookie.check(pairs[0].1.as_bytes(), &shop, now).unwrap();
    assert_eq!(
        (pass.expires.to_string(), pass.subject.unwrap().to_string()),
        (made.body["expires"].as_str().unwrap().into(), "ann".into())
    );
    assert!(pass.expires <= now + SignedDuration::from_secs(61), "{}", pass.expires);
    let told = serde_json::to_value(&*events.recv().await.unwrap()).unwrap();
    assert_eq!((&told["type"], &told["by"], &told["subject"]), (&json!("invited"), &json!("olaf"), &json!("ann")));

    let made = f.post(LINK, json!({"host": "http://shop.test:8080"})).await;
    assert!(made.body["url"].as_str().unwrap().starts_with("http://shop.test:8080/.tealgate/preview?token="));
    let expires: Timestamp = made.body["expires"].as_str().unwrap().parse().unwrap();
    assert!(expires > Timestamp::now() + SignedDuration::from_secs(3500), "the app's own time: {expires}");
}

#[tokio::test]
async fn a_link_is_made_for_those_who_may_and_leads_nowhere_else() {
    let (f, _) = Fixture::with_cookie().await;
    for (body, word) in [
        (json!({"host": "evil.example"}), "not a live host"),
        (json!({"host": "shop.test/x"}), "not a host"),
        (json!({"ttlSeconds": 0}), "ttlSeconds"),
        (json!({"ttlSeconds": 2_592_001}), "ttlSeconds"),
        (json!({"subject": "a b"}), "not a name"),
        (json!({"ttl": "8h"}), "`ttl`"),
    ] {
        let refused = f.post(LINK, body).await;
        assert_eq!(refused.problem(), (400, "invalid".into()));
        assert!(refused.body["detail"].as_str().unwrap().contains(word), "{}", refused.body);
    }
    let asked = |path: &str, token: &str| request(Method::POST, path, token, Value::Null);
    assert_eq!(f.send(asked(LINK, &f.viewer)).await.problem(), (403, "forbidden".into()));
    assert_eq!(f.send(asked(LINK, &f.shopkeeper)).await.status, 200);
    let blogs = "/api/v1/apps/blog/preview-link";
    assert_eq!(f.send(asked(blogs, &f.shopkeeper)).await.problem(), (403, "forbidden".into()));
    let lacking = f.send(asked(blogs, &f.operator)).await;
    assert_eq!(lacking.problem(), (400, "invalid".into()));
    assert!(lacking.body["hint"].as_str().unwrap().contains("preview.cookie.secret"), "{}", lacking.body);
    let guarded = with(asked(LINK, &f.operator), "if-match", "\"1\"");
    assert_eq!(f.send(guarded).await.problem(), (400, "invalid".into()));
    assert_eq!(f.send(asked("/api/v1/apps/nobody/preview-link", &f.operator)).await.problem().1, "unknown-app");
}
