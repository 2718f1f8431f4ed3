//! Apps that follow another authority, from the sighting to the admitted request, also across a restart without it.

use super::{
    super::super::{
        desired::{Authority, EndpointSpec, Followed, Sighted, Sighting, Standing},
        journal::faults::journal_that_hangs_while,
    },
    *,
};

fn follow() -> Desired {
    let (matching, policy) = (Matching::default(), Arc::default());
    let followed = Followed { matching, policy, authority: Authority::ArgoRollouts };
    Desired { followed: [("shop".parse().expect("a name"), followed)].into(), ..Desired::default() }
}

fn sighting(active: &str, preview: &str) -> Sighting {
    let sighted = |(name, port): (&str, u16)| {
        let seen = Sighted { endpoints: vec![address(port).into()], ..Sighted::default() };
        (name.parse().expect("a name"), seen)
    };
    let name = |name: &str| Some(name.parse().expect("a name"));
    Sighting {
        revisions: [("blue", 9001), ("green", 9011)].map(sighted).into(),
        active: name(active),
        preview: name(preview),
        ..Sighting::default()
    }
}

async fn sight(switch: &Switch, sighting: Sighting) {
    assert!(switch.feed.sighted("shop".parse().expect("a name"), sighting).await);
}

async fn probe(switch: &Switch) {
    for (revision, port) in [("blue", 9001), ("green", 9011)] {
        let (app, revision) = ("shop".parse().expect("a name"), revision.parse().expect("a name"));
        switch.feed.observed(app, revision, address(port), true).await;
    }
}

/// Waits until all that was said is done.
async fn settled(switch: &Switch) -> AppStatus {
    ask(switch, Command::Unpin).await.expect_err("nothing is pinned");
    status(switch)
}

#[tokio::test]
async fn requests_follow_the_authority_from_its_first_word_on() {
    let switch = switch(None);
    let reader = switch.readers.reader(0);
    switch.feed.desired(follow()).await.expect("it runs");
    assert!(reader.admit(&KEY, &[]).is_err(), "nothing has been seen of it");
    let before = status(&switch);
    assert!(before.active.is_none() && before.source.stale, "{before:?}");
    sight(&switch, sighting("blue", "green")).await;
    probe(&switch).await;
    let now = settled(&switch).await;
    assert_eq!(admitted_to(&reader), "blue");
    assert_eq!(
        (now.phase, now.source.stale, now.source.authority.as_str()),
        (Phase::Previewing, false, "argo-rollouts")
    );
    sight(&switch, sighting("green", "green")).await;
    settled(&switch).await;
    assert_eq!(admitted_to(&reader), "green");
}

#[tokio::test(start_paused = true)]
async fn traffic_follows_the_authority_before_the_disk_has_answered_and_nobody_is_told_until_then() {
    // While there is work on another thread, the paused clock does not go on by itself.
    let (stop_the_clock, waits) = std::sync::mpsc::channel::<()>();
    let stopped = tokio::task::spawn_blocking(move || waits.recv());
    let hangs = Arc::new(AtomicBool::new(false));
    let switch = switch(Some(journal_that_hangs_while(Arc::clone(&hangs))));
    let reader = switch.readers.reader(0);
    switch.feed.desired(follow()).await.expect("it runs");
    sight(&switch, sighting("blue", "green")).await;
    probe(&switch).await;
    settled(&switch).await;
    let mut events = switch.viewer.events();

    hangs.store(true, SeqCst);
    sight(&switch, sighting("green", "green")).await;
    while admitted_to(&reader) != "green" {
        tokio::task::yield_now().await;
    }
    let told = status(&switch).active.expect("seen").revision;
    // A disk that does not answer is not waited for for ever.
    drop(stop_the_clock);
    stopped.await.expect("a thread").expect_err("nothing was sent");
    let receipt = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Happening::Acted { receipt } = &events.recv().await.expect("it runs").what {
                return receipt.clone();
            }
        }
    });
    let receipt = receipt.await;
    hangs.store(false, SeqCst);
    assert_eq!(told, "blue", "in force, and not written down yet");
    let receipt = receipt.expect("an end to the wait");
    assert_eq!(receipt.to.as_deref(), Some("green"));
    let warned = receipt.warnings.iter().any(|warning| warning.starts_with("not on disk yet"));
    assert!(warned, "{:?}", receipt.warnings);
}

#[tokio::test]
async fn without_the_source_the_last_sighting_serves_across_a_restart_and_its_return_moves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let start = || {
        let journal = Some(Journal::open(dir.path()).expect("a journal"));
        Switch::start(SwitchOptions { workers: 1, replica: "r1".to_owned(), journal }).expect("restores")
    };
    let switch = start();
    switch.feed.desired(follow()).await.expect("it runs");
    sight(&switch, sighting("blue", "blue")).await;
    probe(&switch).await;
    sight(&switch, sighting("green", "green")).await;
    let generation = settled(&switch).await.generation;
    switch.control.stop().await;

    let switch = start();
    switch.feed.desired(follow()).await.expect("it runs");
    let app = || "shop".parse().expect("a name");
    switch.feed.out_of_sight(app(), "the API server cannot be reached".to_owned()).await;
    probe(&switch).await;
    let reader = switch.readers.reader(0);
    let lost = settled(&switch).await;
    assert_eq!(admitted_to(&reader), "green");
    assert!(lost.source.stale && lost.source.problem.is_some(), "{:?}", lost.source);
    ask(&switch, rollback()).await.expect("a rollback needs nobody");
    assert_eq!(admitted_to(&reader), "blue");
    sight(&switch, sighting("green", "green")).await;
    let back = settled(&switch).await;
    assert_eq!(admitted_to(&reader), "blue", "the source says what it said before, and the rollback stands");
    assert_eq!((back.generation, back.source.stale), (generation + 1, false));
}

#[tokio::test]
async fn an_endpoint_that_its_source_calls_unready_gets_no_request_and_counts_as_missing() {
    let switch = switch(None);
    switch.feed.desired(follow()).await.expect("it runs");
    let mut seen = sighting("blue", "blue");
    let unready = EndpointSpec { standing: Standing::Unready, ..address(9002).into() };
    let blue = "blue".parse().expect("a name");
    seen.revisions.entry(blue).and_modify(|blue| blue.endpoints.push(unready));
    sight(&switch, seen).await;
    let active = settled(&switch).await.active.expect("seen");
    assert_eq!((active.endpoints.len(), active.total), (1, 2));
}
