//! Rollbacks against a cluster in memory, whose controller does what Argo Rollouts would.

use serde_json::{Value, json};

use super::{
    super::{
        annotation,
        fake::{Fake, Following, Objects, ROLLOUT, SERVICE, revision, shop, sight_told},
        settle::TRIES,
    },
    *,
};
use crate::switch::{Ask, Authorities as _, Petition, Receipt};

struct Scene {
    fake: Fake,
    following: Following,
    alarms: watch::Sender<Alarms>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Scene {
    /// h2 was promoted in full, h1 is kept; one replica attends.
    async fn promoted() -> Self {
        let (fake, following) = (Fake::paused(), Following::start().await);
        fake.objects().change(SERVICE, json!({"spec": {"selector": {HASH: "h2"}}}));
        fake.objects().change(ROLLOUT, json!({"status": {
            "blueGreen": {"activeSelector": "h2"}, "stableRS": "h2", "pauseConditions": null, "controllerPause": null,
            "phase": "Healthy", "message": null,
        }}));
        following.sight("h2", None).await;
        let mut scene = Self { fake, following, alarms: watch::Sender::default(), tasks: Vec::new() };
        scene.attend();
        scene
    }

    fn attend(&mut self) -> Commander {
        let (commander, desk) = self.following.attended(&self.fake);
        self.tasks.push(tokio::spawn(commander.clone().attend(desk, self.alarms.clone())));
        commander
    }

    async fn roll_back(&self, to: &str) -> Receipt {
        let command = Command::Rollback { to: Some(revision(to)) };
        let (by, reason) = ("ann".to_owned(), "errors".to_owned());
        let order = Order { app: shop(), command, by, reason, if_generation: None, dry_run: false };
        self.following.control.submit(order).await.expect("a rollback needs nobody")
    }

    async fn until(&self, what: &str, is_so: impl Fn(&mut Objects) -> bool) {
        for _ in 0..40_000 {
            if is_so(&mut self.fake.objects()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what} did not come: {:#}", self.fake.objects().rollout());
    }

    fn written_to(&self, part: &str) -> usize {
        self.fake.objects().written.iter().filter(|(path, _)| path.ends_with(part)).count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn told(objects: &mut Objects) -> Option<String> {
    objects.rollout()["metadata"]["annotations"][annotation::RETURNED].as_str().map(str::to_owned)
}

fn image(objects: &mut Objects) -> Value {
    objects.rollout().pointer("/spec/template/spec/containers/0/image").cloned().unwrap_or_default()
}

/// Takes templates in, and moves the Service when it is told to go all the way.
fn controller(feed: crate::switch::Feed) -> impl FnMut(&mut Objects) + Send {
    move |objects| {
        let rollout = objects.rollout().clone();
        let generation = rollout["metadata"]["generation"].to_string();
        let status = &rollout["status"];
        if status["observedGeneration"] != generation.as_str() {
            let current = if image(objects) == "v1" { "h1" } else { "h2" };
            objects.change(ROLLOUT, json!({"status": {
                "observedGeneration": generation, "currentPodHash": current, "promoteFull": null, "phase": "Progressing",
            }}));
        } else if status["promoteFull"] == true {
            let current = status["currentPodHash"].clone();
            objects.change(SERVICE, json!({"spec": {"selector": {HASH: current}}}));
            objects.change(ROLLOUT, json!({"status": {
                "promoteFull": null, "stableRS": current, "blueGreen": {"activeSelector": current}, "phase": "Healthy",
            }}));
            let (feed, active) = (feed.clone(), current.as_str().unwrap_or_default().to_owned());
            let told = told(objects).and_then(|told| annotation::read(&told, Timestamp::now()).ok());
            tokio::spawn(async move { sight_told(&feed, &active, None, told).await });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_told_then_brought_to_agree_and_then_the_word_is_taken_back() {
    let scene = Scene::promoted().await;
    scene.fake.controlled_by(controller(scene.following.feed.clone()));
    scene.roll_back("h1").await;
    scene.until("the annotation", |objects| told(objects).is_some()).await;
    let said = told(&mut scene.fake.objects()).unwrap();
    assert!(said.contains(r#""to":"h1","from":"h2""#) && said.contains(r#""by":"ann""#), "{said}");
    let selects_h1 = |objects: &mut Objects| objects.all[SERVICE]["spec"]["selector"][HASH] == "h1";
    scene.until("the Service", selects_h1).await;
    scene.until("the end of the word", |objects| told(objects).is_none()).await;
    assert_eq!(scene.fake.objects().rollout()["metadata"]["annotations"][TRIES], Value::Null);
    assert!(scene.alarms.borrow().is_empty());
    let events: Vec<_> =
        scene.fake.objects().written.iter().filter(|(path, _)| path.ends_with("/events")).cloned().collect();
    let reasons: Vec<_> = events.iter().map(|(_, event)| event["reason"].clone()).collect();
    assert!(
        reasons.contains(&json!("TealgateRolledBack")) && reasons.contains(&json!("TealgateAgreed")),
        "{reasons:?}"
    );
    // Never a Service, and nothing twice.
    assert!(scene.fake.objects().written.iter().all(|(path, _)| !path.contains("/services/")));
    assert_eq!(scene.written_to("/status"), 1);
}

#[tokio::test(start_paused = true)]
async fn replicas_together_do_it_once_and_any_of_them_when_the_first_dies() {
    let mut scene = Scene::promoted().await;
    scene.fake.controlled_by(controller(scene.following.feed.clone()));
    for _ in 0..2 {
        scene.attend();
    }
    // The one that was asked tells the others, and dies.
    let tell = scene.tasks.remove(0);
    scene.fake.before_write({
        let mut tell = Some(tell);
        move || {
            if let Some(task) = tell.take() {
                task.abort();
            }
        }
    });
    scene.roll_back("h1").await;
    let selects_h1 = |objects: &mut Objects| objects.all[SERVICE]["spec"]["selector"][HASH] == "h1";
    scene.until("the Service", selects_h1).await;
    assert_eq!(scene.written_to("/status"), 1);
}

#[tokio::test(start_paused = true)]
async fn with_the_api_server_away_the_rollback_stands_and_is_told_when_it_is_back() {
    let scene = Scene::promoted().await;
    scene.fake.controlled_by(controller(scene.following.feed.clone()));
    scene.fake.objects().denied.insert(String::new(), 503);
    scene.roll_back("h1").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let board = scene.following.viewer.board();
    assert_eq!(*board.apps[&shop()].rollout.active(), revision("h1"));
    scene.fake.objects().denied.clear();
    scene.until("the annotation", |objects| told(objects).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_rollback_waits_until_the_replicas_are_told_and_not_long() {
    let mut scene = Scene::promoted().await;
    let commander = scene.attend();
    let receipt = scene.roll_back("h1").await;
    let began = Instant::now();
    assert_eq!(commander.told(&receipt).await, None);
    assert!(told(&mut scene.fake.objects()).is_some());
    // Nobody echoes it here: that is waited for as well, and missed without a word.
    assert!(began.elapsed() <= Duration::from_millis(251), "{:?}", began.elapsed());
    // What cannot be told is said, at once.
    scene.fake.objects().denied.insert(String::new(), 503);
    let receipt = scene.roll_back("h2").await;
    let untold = commander.told(&receipt).await.expect("it could not be told");
    assert!(untold.contains("could not be told yet") && untold.contains("denied by the test"), "{untold}");
    // So is what hangs.
    scene.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let receipt = scene.roll_back("h1").await;
    let untold = commander.told(&receipt).await.expect("it could not be told");
    assert!(untold.contains("no answer within 250 ms"), "{untold}");
}

#[tokio::test(start_paused = true)]
async fn gitops_is_not_fought_more_than_twice_and_the_rollback_stands() {
    let scene = Scene::promoted().await;
    let mut takes_in = controller(scene.following.feed.clone());
    scene.fake.controlled_by(move |objects| {
        takes_in(objects);
        if image(objects) == "v1" {
            // Healed before anybody could promote it.
            let generation = objects.rollout()["metadata"]["generation"].as_u64().unwrap() + 1;
            let template = json!({"spec": {"containers": [{"image": "v2"}]}});
            objects.change(ROLLOUT, json!({"metadata": {"generation": generation}, "spec": {"template": template}}));
            takes_in(objects);
        }
    });
    scene.roll_back("h1").await;
    let mut alarms = scene.alarms.subscribe();
    let raised = alarms.wait_for(|alarms| !alarms.is_empty());
    let alarm = tokio::time::timeout(Duration::from_secs(60), raised).await.unwrap().unwrap()[&shop()].clone();
    assert!(alarm.contains("in Git") && alarm.contains("v1"), "{alarm}");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let templates =
        scene.fake.objects().written.iter().filter(|(_, body)| body.to_string().contains("/spec/template")).count();
    assert_eq!(templates, 2);
    assert!(told(&mut scene.fake.objects()).is_some());
    assert_eq!(*scene.following.viewer.board().apps[&shop()].rollout.active(), revision("h1"));
    // Somebody goes back in Git: then they agree, and the alarm ends.
    scene.fake.controlled_by(controller(scene.following.feed.clone()));
    let template = json!({"spec": {"containers": [{"image": "v1"}]}});
    let generation = scene.fake.objects().rollout()["metadata"]["generation"].as_u64().unwrap() + 1;
    scene.fake.objects().change(
        ROLLOUT,
        json!({
            "metadata": {"generation": generation}, "spec": {"template": template},
            "status": {"observedGeneration": generation.to_string(), "currentPodHash": "h1"},
        }),
    );
    scene.until("the end of the word", |objects| told(objects).is_none()).await;
    assert!(scene.alarms.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_git_brings_back_after_the_two_agreed_gets_no_live_traffic_while_the_word_stands() {
    let scene = Scene::promoted().await;
    scene.fake.controlled_by(controller(scene.following.feed.clone()));
    scene.roll_back("h1").await;
    let selects_h1 = |objects: &mut Objects| objects.all[SERVICE]["spec"]["selector"][HASH] == "h1";
    scene.until("the Service", selects_h1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Git turns, and the controller promotes at once what was active a moment ago.
    let feed = scene.following.feed.clone();
    {
        let mut objects = scene.fake.objects();
        let template = json!({"spec": {"containers": [{"image": "v2"}]}});
        let generation = objects.rollout()["metadata"]["generation"].as_u64().unwrap() + 1;
        objects.change(SERVICE, json!({"spec": {"selector": {HASH: "h2"}}}));
        objects.change(
            ROLLOUT,
            json!({
                "metadata": {"generation": generation}, "spec": {"template": template},
                "status": {
                    "observedGeneration": generation.to_string(), "currentPodHash": "h2", "stableRS": "h2",
                    "blueGreen": {"activeSelector": "h2"},
                },
            }),
        );
    }
    let said = told(&mut scene.fake.objects()).and_then(|told| annotation::read(&told, Timestamp::now()).ok());
    sight_told(&feed, "h2", None, said.clone()).await;
    let active = || scene.following.viewer.board().apps[&shop()].rollout.active().clone();
    assert_eq!(active(), revision("h1"));
    scene.until("the second try", selects_h1).await;
    assert_eq!(active(), revision("h1"));
    // Whoever wants it all the same says so, and the word goes.
    sight_told(&feed, "h2", None, said).await;
    sight_told(&feed, "h2", None, None).await;
    scene.until("live traffic to follow", |_| active() == revision("h2")).await;
}

#[tokio::test(start_paused = true)]
async fn a_persons_promotion_through_us_takes_the_word_away() {
    let mut scene = Scene::promoted().await;
    let commander = scene.attend();
    scene.roll_back("h1").await;
    scene.until("the annotation", |objects| told(objects).is_some()).await;
    let said = told(&mut scene.fake.objects()).and_then(|told| annotation::read(&told, Timestamp::now()).ok());
    sight_told(&scene.following.feed, "h2", None, said).await;
    let (by, reason, within) = ("bob".to_owned(), "it is fine".to_owned(), Duration::from_secs(20));
    let ask = Ask::Promote { revision: Some(revision("h2")), skip_gates: false };
    let petition = Petition { app: shop(), ask, by, reason, if_generation: None, dry_run: false, within };
    let receipt = commander.ask(petition).await.expect("the cluster has it active");
    assert_eq!((receipt.to.as_deref(), receipt.by.as_str()), (Some("h2"), "bob"));
    let taken_back =
        |objects: &mut Objects| told(objects).is_some_and(|said| said.contains(r#""to":"h2","from":"h2""#));
    scene.until("the others to be told", taken_back).await;
    assert_eq!(*scene.following.viewer.board().apps[&shop()].rollout.active(), revision("h2"));
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_is_an_alarm_and_not_the_end() {
    let scene = Scene::promoted().await;
    scene.roll_back("h1").await;
    scene.until("the annotation", |objects| told(objects).is_some()).await;
    scene.fake.objects().denied.insert(ROLLOUT.to_owned(), 403);
    let mut alarms = scene.alarms.subscribe();
    let raised = alarms.wait_for(|alarms| !alarms.is_empty());
    let alarm = tokio::time::timeout(Duration::from_secs(60), raised).await.unwrap().unwrap()[&shop()].clone();
    assert!(alarm.contains("the rollback stands") && alarm.contains("rollouts (argoproj.io)"), "{alarm}");
}

#[tokio::test(start_paused = true)]
async fn when_the_pods_that_were_returned_to_are_gone_the_cluster_is_followed_again() {
    let scene = Scene::promoted().await;
    scene.roll_back("h1").await;
    scene.until("the annotation", |objects| told(objects).is_some()).await;
    let set = "/apis/apps/v1/namespaces/demo/replicasets/shop-h1";
    scene.fake.objects().change(set, json!({"spec": {"replicas": 0}, "status": {"replicas": 0}}));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9001));
    scene.following.feed.observed(shop(), revision("h1"), address, false).await;
    let mut viewer = scene.following.viewer.clone();
    while *viewer.board().apps[&shop()].rollout.active() != revision("h2") {
        viewer.changed().await;
    }
    let last = viewer.board().apps[&shop()].history.back().cloned().expect("it is on record");
    assert_eq!(last.by, BY_ITSELF);
    assert!(last.reason.contains("are gone"), "{last:?}");
    // And the replicas that obeyed are told.
    scene
        .until("the new word", |objects| told(objects).is_some_and(|said| said.contains(r#""to":"h2","from":"h2""#)))
        .await;
}
