//! Callers of the admin API whom the cluster knows: whose token it is, a TokenReview tells, and what he may do here,
//! SubjectAccessReviews on `apps` of the group `tealgate.dev`: `get` to look, `update` to act, `manage` for the rest. Rules
//! without names are for all apps; those with the names of apps are looked for in the namespaces of their Rollouts.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use super::{
    call::{Call, Failed, Object},
    commands::Commander,
};
use crate::switch::AppName;

/// How many questions are asked at once.
const AT_ONCE: usize = 8;

/// What somebody may do. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Look.
    View,
    /// Act on apps.
    Act,
    /// Reload, and set gates aside.
    Manage,
}

impl Level {
    fn verb(self) -> &'static str {
        match self {
            Self::View => "get",
            Self::Act => "update",
            Self::Manage => "manage",
        }
    }
}

/// Whom the cluster vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// His name there.
    pub name: String,
    /// What he may do; `None` for nothing.
    pub level: Option<Level>,
    /// The apps he is limited to; all if `None`.
    pub apps: Option<BTreeSet<AppName>>,
}

impl Commander {
    /// Whose token this is, and what he may do. `None` for nobody's; an error says why it cannot be told.
    pub async fn vouch(&self, token: String) -> Result<Option<Vouched>, String> {
        self.review(token).await.map_err(|failed| failed.refusal().detail)
    }

    async fn review(&self, token: String) -> Result<Option<Vouched>, Failed> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        let review = self.server.send(&Call::create(Object::token_review(), body)).await?;
        let status = &review["status"];
        let user = status["user"].clone();
        let Some(name) = user["username"].as_str().filter(|_| status["authenticated"] == true) else { return Ok(None) };
        let name = name.to_owned();
        // Where several apply, the most that one may do counts, and the apps for which one may do it.
        for level in [Level::Manage, Level::Act, Level::View] {
            if self.may(&user, level, None).await? {
                return Ok(Some(Vouched { name, level: Some(level), apps: None }));
            }
            let apps = self.apps_for(&user, level).await?;
            if !apps.is_empty() {
                return Ok(Some(Vouched { name, level: Some(level), apps: Some(apps) }));
            }
        }
        Ok(Some(Vouched { name, level: None, apps: None }))
    }

    async fn apps_for(&self, user: &Value, level: Level) -> Result<BTreeSet<AppName>, Failed> {
        let apps: Vec<_> = self.server.targets().borrow().apps.keys().cloned().collect();
        let questions = apps.into_iter().map(|app| async move {
            let may = self.may(user, level, Some(&app)).await?;
            Ok::<_, Failed>(may.then_some(app))
        });
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(answers.into_iter().flatten().collect())
    }

    async fn may(&self, user: &Value, level: Level, app: Option<&AppName>) -> Result<bool, Failed> {
        let mut attributes = json!({"group": "tealgate.dev", "resource": "apps", "verb": level.verb()});
        if let Some(app) = app {
            attributes["name"] = json!(app.as_str());
            attributes["namespace"] = json!(self.home(app).await?.map(|home| home.namespace));
        }
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": user["username"], "groups": user["groups"], "uid": user["uid"], "extra": user["extra"],
                "resourceAttributes": attributes,
            },
        });
        let answer = self.server.send(&Call::create(Object::access_review(), body)).await?;
        Ok(answer["status"]["allowed"] == true && answer["status"]["denied"] != true)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::fake::{Fake, Following, shop},
        *,
    };

    /// A cluster that knows the token `good` as ann's, and these rights: the verb, and the app or `*`.
    async fn vouched(rights: &'static [(&'static str, &'static str)], token: &str) -> Option<Vouched> {
        let (fake, following) = (Fake::paused(), Following::start().await);
        fake.reviewed_by(move |review| match review["kind"].as_str() {
            Some("TokenReview") if review["spec"]["token"] == "good" => {
                json!({"authenticated": true, "user": {"username": "ann", "groups": ["ops"]}})
            }
            Some("TokenReview") => json!({"authenticated": false}),
            _ => {
                assert_eq!((&review["spec"]["user"], &review["spec"]["groups"][0]), (&json!("ann"), &json!("ops")));
                let asked = &review["spec"]["resourceAttributes"];
                let name = asked["name"].as_str().unwrap_or("*");
                assert_eq!(asked["namespace"], if name == "*" { Value::Null } else { json!("demo") });
                json!({"allowed": rights.iter().any(|(verb, app)| asked["verb"] == *verb && name == *app)})
            }
        });
        let (commander, _desk) = following.attended(&fake);
        commander.vouch(token.to_owned()).await.expect("it answers")
    }

    #[tokio::test]
    async fn the_most_that_the_rules_allow_counts() {
        assert_eq!(vouched(&[], "bad").await, None);
        let ann = |level, apps: Option<&[AppName]>| {
            Some(Vouched { name: "ann".into(), level, apps: apps.map(|apps| apps.iter().cloned().collect()) })
        };
        assert_eq!(vouched(&[], "good").await, ann(None, None));
        assert_eq!(vouched(&[("get", "*")], "good").await, ann(Some(Level::View), None));
        assert_eq!(vouched(&[("get", "*"), ("update", "shop")], "good").await, ann(Some(Level::Act), Some(&[shop()])));
        assert_eq!(vouched(&[("manage", "*")], "good").await, ann(Some(Level::Manage), None));
    }

    #[tokio::test]
    async fn where_the_cluster_cannot_be_asked_nobody_is_vouched_for() {
        let (fake, following) = (Fake::paused(), Following::start().await);
        fake.objects().denied.insert(String::new(), 503);
        let (commander, _desk) = following.attended(&fake);
        assert!(commander.vouch("good".into()).await.is_err());
        fake.objects().denied.insert(String::new(), 403);
        let why = commander.vouch("good".into()).await.unwrap_err();
        assert!(why.contains("create tokenreviews (authentication.k8s.io)"), "{why}");
    }
}
