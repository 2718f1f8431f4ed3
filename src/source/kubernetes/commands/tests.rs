//! Commands against a cluster in memory, with a switch that follows it.

use super::{
    super::fake::{Fake, Following, Objects, ROLLOUT, SERVICE, revision, shop, sight},
    *,
};
use crate::switch::{Action, Command, Happening, Only, Order, RefusalCode};

const SET_OF_H2: &str = "/apis/apps/v1/namespaces/demo/replicasets/shop-h2";

struct Scene {
    fake: Fake,
    followed: Following,
    commander: Commander,
}

impl Scene {
    async fn paused() -> Self {
        let (fake, followed) = (Fake::paused(), Following::start().await);
        let commander = followed.commander(&fake);
        let mut viewer = followed.viewer.clone();
        while viewer.board().apps.get(&shop()).is_none_or(|app| app.status().preview.is_none_or(|p| p.ready != 1)) {
            viewer.changed().await;
        }
        Self { fake, followed, commander }
    }

    /// The controller promotes what was resumed, and the watches tell of it.
    fn promoting(&self) {
        let feed = self.followed.feed.clone();
        self.fake.controlled_by(move |objects| {
            let status = &objects.rollout()["status"];
            let resumed = status["pauseConditions"].is_null() || status["promoteFull"] == true;
            if resumed && status["blueGreen"]["activeSelector"] == "h1" {
                moved_to_h2(objects);
                let feed = feed.clone();
                tokio::spawn(async move { sight(&feed, "h2", None).await });
            }
        });
    }

    fn petition(ask: Ask) -> Petition {
        let (by, reason) = ("ann".to_owned(), "release 7".to_owned());
        let within = Duration::from_secs(20);
        Petition { app: shop(), ask, by, reason, if_generation: None, dry_run: false, within }
    }

    async fn ask(&self, ask: Ask) -> Result<Receipt, Refusal> {
        self.commander.ask(Self::petition(ask)).await
    }

    fn active(&self) -> String {
        self.commander.board(&shop()).unwrap().rollout.active().to_string()
    }
}

fn moved_to_h2(objects: &mut Objects) {
    objects.change(SERVICE, json!({"spec": {"selector": {HASH: "h2"}}}));
    objects.change(ROLLOUT, json!({"status": {
        "blueGreen": {"activeSelector": "h2"}, "stableRS": "h2", "controllerPause": null, "phase": "Healthy", "message": null,
    }}));
}

fn retry() -> Ask {
    Ask::Retry { skip_gates: false }
}

fn promote() -> Ask {
    Ask::Promote { revision: None, skip_gates: false }
}

#[tokio::test(start_paused = true)]
async fn a_promotion_is_answered_when_live_traffic_has_moved_and_names_who_asked() {
    let scene = Scene::paused().await;
    scene.promoting();
    let receipt = scene.ask(promote()).await.unwrap();
    assert_eq!(scene.active(), "h2");
    assert_eq!((receipt.action, receipt.to.as_deref(), receipt.by.as_str()), (Action::Promote, Some("h2"), "ann"));
    assert_eq!(receipt.reason, "release 7");
    assert_eq!(receipt.calls.len(), 1, "{:?}", receipt.calls);
    let again = scene.ask(promote()).await.unwrap_err();
    assert_eq!(again.code, RefusalCode::AlreadyActive);
    // Never a Service.
    assert!(scene.fake.objects().written.iter().all(|(path, _)| !path.contains("/services/")));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_to_all_who_listen_and_said_once_on_the_rollout() {
    let (fake, followed) = (Fake::paused(), Following::start().await);
    let (commander, desk) = followed.attended(&fake);
    let attending = tokio::spawn(commander.clone().attend(desk, watch::Sender::default()));
    let mut events = followed.viewer.events();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = Ask::Promote { revision: Some(revision("h3")), skip_gates: false };
    let plan = Petition { dry_run: true, ..Scene::petition(other.clone()) };
    commander.ask(plan).await.expect_err("h3 is not there");
    commander.ask(Scene::petition(other)).await.expect_err("h3 is not there");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Happening::Refused { action, by, code, .. } = &event.what {
            told.push((*action, by.clone(), code.clone()));
        }
    }
    assert_eq!(told, [(Action::Promote, "ann".to_owned(), "no-candidate".to_owned())]);
    let objects = fake.objects();
    let said: Vec<_> = objects.written.iter().filter(|(path, _)| path.ends_with("/events")).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].1["reason"], "TealgateRefused");
    attending.abort();
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_has_no_effect_fails_loudly_with_the_place_where_it_hangs() {
    let scene = Scene::paused().await;
    // The Service moves, and the proxy never hears of it.
    scene.fake.controlled_by(|objects| {
        if objects.rollout()["status"]["pauseConditions"].is_null() {
            moved_to_h2(objects);
        }
    });
    let late = scene.ask(promote()).await.unwrap_err();
    assert_eq!(late.code, RefusalCode::TimedOut);
    assert!(
        late.detail.contains("within 20 s") && late.detail.contains("the Service selects h2, but here"),
        "{late:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_promotion_asked_for_too_early_waits_for_the_pause_where_the_plugin_is_silent() {
    let scene = Scene::paused().await;
    let rolling =
        json!({"status": {"pauseConditions": null, "controllerPause": null, "phase": "Progressing", "message": "x"}});
    scene.fake.objects().change(ROLLOUT, rolling);
    let asked = scene.ask(promote());
    let pausing = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(scene.fake.objects().written.is_empty());
        scene.promoting();
        let pause = json!([{"reason": "BlueGreenPause", "startTime": "2026-01-01T00:00:00Z"}]);
        scene.fake.objects().change(ROLLOUT, json!({"status": {"pauseConditions": pause, "controllerPause": true}}));
    };
    let (receipt, ()) = tokio::join!(asked, pausing);
    assert_eq!(receipt.unwrap().to.as_deref(), Some("h2"));
}

#[tokio::test(start_paused = true)]
async fn gates_of_ours_are_asked_first_and_only_a_full_promotion_sets_them_aside() {
    let scene = Scene::paused().await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9011));
    scene.followed.feed.observed(shop(), revision("h2"), address, false).await;
    let mut viewer = scene.followed.viewer.clone();
    while viewer.board().apps[&shop()].status().preview.unwrap().ready > 0 {
        viewer.changed().await;
    }
    let refused = scene.ask(promote()).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::NotReady, "{refused:?}");
    // Not even then into a hole.
    let full = scene.ask(Ask::Promote { revision: None, skip_gates: true }).await.unwrap_err();
    assert_eq!(full.code, RefusalCode::NotReady, "{full:?}");
    assert!(scene.fake.written().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_promotion_of_another_revision_or_generation_than_meant_is_not_asked_for() {
    let scene = Scene::paused().await;
    let other = scene.ask(Ask::Promote { revision: Some(revision("h3")), skip_gates: false }).await.unwrap_err();
    assert_eq!(other.code, RefusalCode::NoCandidate);
    let stale = Petition { if_generation: Some(99), ..Scene::petition(promote()) };
    assert_eq!(scene.commander.ask(stale).await.unwrap_err().code, RefusalCode::GenerationMismatch);
    let pin = Command::Pin { revision: revision("h1"), expires: None };
    let (by, reason) = ("bob".to_owned(), "sale".to_owned());
    let order = Order { app: shop(), command: pin, by, reason, if_generation: None, dry_run: false };
    scene.followed.control.submit(order).await.unwrap();
    assert_eq!(scene.ask(promote()).await.unwrap_err().code, RefusalCode::Pinned);
    assert!(scene.fake.written().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_shows_the_calls_and_makes_none() {
    let scene = Scene::paused().await;
    for (ask, calls) in
        [(promote(), 1), (Ask::Abort { only: None }, 1), (Ask::Reject { only: None }, 2), (Ask::Pause, 1)]
    {
        let petition = Petition { dry_run: true, ..Scene::petition(ask.clone()) };
        let plan = scene.commander.ask(petition).await.unwrap();
        assert!(plan.dry_run && plan.calls.len() == calls, "{ask:?}: {plan:?}");
    }
    let rolling = json!({"status": {"pauseConditions": null, "controllerPause": null, "phase": "Progressing"}});
    scene.fake.objects().change(ROLLOUT, rolling);
    let petition = Petition { dry_run: true, ..Scene::petition(promote()) };
    assert_eq!(scene.commander.ask(petition).await.unwrap_err().code, RefusalCode::NotReady);
    assert!(scene.fake.written().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_named_and_an_absent_server_is_told() {
    let scene = Scene::paused().await;
    scene.fake.objects().denied.insert(format!("{ROLLOUT}/status"), 403);
    let refused = scene.ask(promote()).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::AuthorityRefused);
    assert!(refused.detail.contains("patch rollouts/status (argoproj.io) in namespace demo"), "{refused:?}");
    assert!(refused.hint.contains("mode: operate"), "{refused:?}");
    scene.fake.objects().denied.insert(String::new(), 503);
    assert_eq!(scene.ask(promote()).await.unwrap_err().code, RefusalCode::AuthorityAway);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_others_write_to_meanwhile_is_decided_on_anew() {
    let scene = Scene::paused().await;
    scene.promoting();
    // Between our look and our patch somebody else annotates it, once.
    let objects = scene.fake.objects.clone();
    let mut meddled = false;
    let fake = scene.fake.clone();
    fake.before_write(move || {
        if !std::mem::replace(&mut meddled, true) {
            objects.lock().unwrap().change(ROLLOUT, json!({"metadata": {"annotations": {"seen": "by another"}}}));
        }
    });
    assert_eq!(scene.ask(promote()).await.unwrap().to.as_deref(), Some("h2"));
    assert_eq!(scene.fake.objects().written.len(), 1);
}

/// The controller gives up what it is told to, and takes a template for what it is.
fn giving_up(objects: &mut Objects) {
    let rollout = objects.rollout().clone();
    let generation = rollout["metadata"]["generation"].to_string();
    let template_of_h1 = rollout.pointer("/spec/template/spec/containers/0/image") == Some(&json!("v1"));
    if rollout["status"]["observedGeneration"] != generation.as_str() {
        let current = if template_of_h1 { "h1" } else { "h2" };
        objects.change(ROLLOUT, json!({"status": {
            "observedGeneration": generation, "currentPodHash": current, "abort": null, "phase": "Healthy", "message": null,
        }}));
    } else if rollout["status"]["abort"] == true {
        objects.change(ROLLOUT, json!({"status": {
            "pauseConditions": null, "controllerPause": null, "phase": "Degraded", "message": "RolloutAborted: by hand",
            "abortedAt": "2026-01-01T00:00:00Z",
        }}));
    } else if rollout["status"]["message"].as_str().is_some_and(|message| message.starts_with("RolloutAborted")) {
        let retried = json!({"status": {"phase": "Progressing", "message": "retried", "abortedAt": null}});
        objects.change(ROLLOUT, retried);
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_is_answered_when_the_controller_has_done_it_and_can_be_retried() {
    let scene = Scene::paused().await;
    scene.fake.controlled_by(giving_up);
    assert_eq!(scene.ask(retry()).await.unwrap_err().code, RefusalCode::NotAborted);
    let aborted = scene.ask(Ask::Abort { only: None }).await.unwrap();
    assert_eq!((aborted.action, aborted.by.as_str()), (Action::Abort, "ann"));
    // The proxy has no candidate any more, and it is said why.
    scene.followed.sight("h1", None).await;
    assert_eq!(scene.ask(promote()).await.unwrap_err().code, RefusalCode::Aborted);
    scene.fake.objects().change(SET_OF_H2, json!({"spec": {"replicas": 0}}));
    let retried = scene.ask(retry()).await.unwrap();
    assert_eq!((retried.action, retried.warnings.len()), (Action::Retry, 0));
    let history: Vec<_> = scene.commander.board(&shop()).unwrap().history.iter().map(|r| r.action).collect();
    assert!(history.ends_with(&[Action::Abort, Action::Retry]), "{history:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_promote_at_once_is_refused_and_says_from_when_on_it_is_safe() {
    let scene = Scene::paused().await;
    scene.fake.controlled_by(giving_up);
    scene.ask(Ask::Abort { only: None }).await.unwrap();
    let written = scene.fake.written().len();
    let refused = scene.ask(retry()).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::GateFailed);
    assert!(refused.detail.contains("would promote it at once"), "{refused:?}");
    assert!(refused.hint.contains("2030-01-01T00:00:00Z") && refused.hint.contains("--skip-gates"), "{refused:?}");
    assert_eq!(scene.fake.written().len(), written, "nothing was changed");
    // Whoever wants that gets it, and is told.
    let retried = scene.ask(Ask::Retry { skip_gates: true }).await.unwrap();
    assert!(retried.warnings[0].contains("would promote it at once"), "{retried:?}");
}

#[tokio::test(start_paused = true)]
async fn to_give_up_what_carries_live_traffic_is_to_go_back_at_once() {
    let scene = Scene::paused().await;
    moved_to_h2(&mut scene.fake.objects());
    scene.fake.objects().change(ROLLOUT, json!({"status": {"stableRS": "h1", "pauseConditions": null}}));
    scene.followed.sight("h2", None).await;
    // The controller never moves the Service back: the pods of h2 crash.
    scene.fake.controlled_by(giving_up);
    let receipt = scene.ask(Ask::Abort { only: None }).await.unwrap();
    assert_eq!((receipt.action, receipt.to.as_deref(), scene.active().as_str()), (Action::Rollback, Some("h1"), "h1"));
    assert_eq!(receipt.calls.len(), 1, "{receipt:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_aborts_and_puts_the_stable_template_back() {
    let scene = Scene::paused().await;
    scene.fake.controlled_by(giving_up);
    let rejected = scene.ask(Ask::Reject { only: None }).await.unwrap();
    assert_eq!(
        (rejected.action, rejected.from.as_deref(), rejected.to.as_deref()),
        (Action::Reject, Some("h2"), Some("h1"))
    );
    assert_eq!(rejected.warnings, [""; 0]);
    let image = scene.fake.objects().rollout().pointer("/spec/template/spec/containers/0/image").cloned();
    assert_eq!(image, Some(json!("v1")));
    assert_eq!(scene.ask(Ask::Reject { only: None }).await.unwrap_err().code, RefusalCode::NoCandidate);
}

#[tokio::test(start_paused = true)]
async fn only_the_candidate_that_is_named_is_given_up() {
    let scene = Scene::paused().await;
    scene.fake.controlled_by(giving_up);
    let image = |image: &str| Some(Only::Image(image.to_owned()));
    for (only, code) in [
        (Some(Only::Revision(revision("h3"))), RefusalCode::Overtaken),
        (image("v3"), RefusalCode::Overtaken),
        (image("v1"), RefusalCode::AlreadyActive),
        (Some(Only::Revision(revision("h1"))), RefusalCode::AlreadyActive),
    ] {
        for ask in [Ask::Abort { only: only.clone() }, Ask::Reject { only: only.clone() }] {
            assert_eq!(scene.ask(ask).await.unwrap_err().code, code, "{only:?}");
        }
    }
    assert!(scene.fake.written().is_empty());
    let rejected = scene.ask(Ask::Reject { only: image("v2") }).await.unwrap();
    assert_eq!(rejected.from.as_deref(), Some("h2"));
    let again = scene.ask(Ask::Reject { only: image("v2") }).await.unwrap_err();
    assert_eq!(again.code, RefusalCode::NoCandidate, "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_template_that_comes_while_another_is_rejected_is_not_overwritten() {
    let scene = Scene::paused().await;
    let mut pushed = false;
    scene.fake.controlled_by(move |objects| {
        giving_up(objects);
        // Somebody rolls out h3 as soon as h2 is given up; the controller takes it in a little later.
        if !std::mem::replace(&mut pushed, true) {
            let template = json!({"spec": {"containers": [{"image": "v3"}]}});
            objects.change(ROLLOUT, json!({"metadata": {"generation": 8}, "spec": {"template": template}}));
        }
    });
    let taking_in = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = json!({"observedGeneration": "8", "currentPodHash": "h3", "abort": null, "message": null});
        scene.fake.objects().change(ROLLOUT, json!({"status": status}));
    };
    let (refused, ()) = tokio::join!(scene.ask(Ask::Reject { only: None }), taking_in);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, RefusalCode::Overtaken, "{refused:?}");
    let image = scene.fake.objects().rollout().pointer("/spec/template/spec/containers/0/image").cloned();
    assert_eq!(image, Some(json!("v3")));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_template_that_git_puts_back_is_aborted_again_and_told() {
    let scene = Scene::paused().await;
    scene
        .fake
        .objects()
        .change(ROLLOUT, json!({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "shop"}}}));
    let mut healed = false;
    scene.fake.controlled_by(move |objects| {
        giving_up(objects);
        let back = objects.rollout().pointer("/spec/template/spec/containers/0/image") == Some(&json!("v1"));
        if back && !std::mem::replace(&mut healed, true) {
            let generation = objects.rollout()["metadata"]["generation"].as_u64().unwrap() + 1;
            let template = json!({"spec": {"containers": [{"image": "v2"}]}});
            objects.change(ROLLOUT, json!({"metadata": {"generation": generation}, "spec": {"template": template}}));
            giving_up(objects);
        }
    });
    let rejected = scene.ask(Ask::Reject { only: None }).await.unwrap();
    assert!(rejected.warnings[0].contains("revert it in Git"), "{rejected:?}");
    assert_eq!(scene.fake.objects().rollout()["status"]["abort"], true);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_put_on_and_taken_off_and_repeats_do_no_harm() {
    let scene = Scene::paused().await;
    scene.fake.controlled_by(giving_up);
    assert_eq!(scene.ask(Ask::Pause).await.unwrap().action, Action::Pause);
    let again = scene.ask(Ask::Pause).await.unwrap();
    assert!(again.calls.is_empty() && again.warnings[0].contains("already"), "{again:?}");
    let going = scene.ask(Ask::Unpause).await.unwrap();
    assert_eq!(going.action, Action::Unpause);
    assert_eq!(scene.fake.written(), [r#"shop {"spec":{"paused":true}}"#, r#"shop {"spec":{"paused":false}}"#]);
}

#[tokio::test(start_paused = true)]
async fn the_previous_revision_is_kept_longer_and_never_shorter() {
    let scene = Scene::paused().await;
    assert_eq!(
        scene.ask(Ask::Keep { until: "2031-01-01T00:00:00Z".parse().unwrap() }).await.unwrap_err().code,
        RefusalCode::NoPrevious
    );
    scene.promoting();
    scene.ask(promote()).await.unwrap();
    let kept = scene.ask(Ask::Keep { until: "2031-01-01T00:00:00.5Z".parse().unwrap() }).await.unwrap();
    assert_eq!(kept.to.as_deref(), Some("h1"));
    let last = scene.fake.written().pop().unwrap();
    assert_eq!(last, r#"shop-h1 {"metadata":{"annotations":{"scale-down-deadline":"2031-01-01T00:00:01Z"}}}"#);
    let shorter = scene.ask(Ask::Keep { until: "2029-01-01T00:00:00Z".parse().unwrap() }).await.unwrap();
    assert!(shorter.calls.is_empty() && shorter.warnings[0].contains("already"), "{shorter:?}");
}
