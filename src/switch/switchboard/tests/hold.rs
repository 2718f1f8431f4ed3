//! Holds and maintenance: who is kept out from when on, who is let in and where, and what becomes of a promotion that waits.

use super::{
    super::super::{
        hold::{HeldOutcome, Hold},
        policy::HoldBounds,
        snapshot::Closed,
        status::Action,
    },
    *,
};

const BOUNDS: HoldBounds = HoldBounds { max_age: Duration::from_secs(5), max_requests: 2, max_bytes: 100 };

fn promote_held() -> Command {
    Command::PromoteHeld { revision: None, skip_gates: false, bounds: BOUNDS }
}

/// The hold that keeps a request out.
fn held(reader: &Reader) -> Arc<Hold> {
    match reader.admit(&KEY, &[]) {
        Err(NotAdmitted::Closed { by: Closed::Held(hold), .. }) => hold,
        other => panic!("not held, but {:?}", other.map(|ticket| ticket.revision().clone())),
    }
}

/// What a worker does beside its requests.
async fn adopting(reader: &Reader) {
    loop {
        reader.changed().await;
        reader.acknowledge(&reader.adopt());
    }
}

async fn until_held(switch: &Switch) {
    let mut viewer = switch.viewer.clone();
    while viewer.board().apps.values().all(|app| app.hold.is_none()) {
        viewer.changed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_answer_to_a_hold_nobody_starts_and_who_waits_starts_where_traffic_is_then() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let ticket = reader.admit(&KEY, &[]).expect("blue");
    let receipt = ask(&switch, Command::Hold { bounds: BOUNDS }).await.expect("none is on");
    assert_eq!((receipt.action, receipt.in_flight_on_old), (Action::Hold, 1));
    let hold = held(&reader);
    let waiting = tokio::spawn(async move { hold.wait(40).await });
    tokio::task::yield_now().await;
    let shown = status(&switch).hold.expect("it is on");
    assert_eq!((shown.waiting, shown.waiting_bytes, shown.by.as_str()), (1, 40, "ann"));
    drop(ticket);
    ask(&switch, promote()).await.expect("a hold forbids no flip");
    held(&reader);
    assert!(!waiting.is_finished());
    ask(&switch, Command::Resume).await.expect("it is on");
    waiting.await.expect("it ends well").expect("it is let in");
    assert_eq!(admitted_to(&reader), "green");
    let state = status(&switch);
    assert_eq!((state.hold, state.generation), (None, 2));
    let app = switch.viewer.board().apps.values().next().expect("one app").clone();
    assert_eq!(app.held.count(HeldOutcome::Released), 1);
    let actions: Vec<_> = app.history.iter().map(|receipt| receipt.action).collect();
    assert_eq!(actions, [Action::Hold, Action::Promote, Action::Resume]);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_nobody_ends_ends_at_its_age_and_is_journalled() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let mut events = switch.viewer.events();
    ask(&switch, Command::Hold { bounds: BOUNDS }).await.expect("none is on");
    held(&reader).wait(1).await.expect("it is let in");
    assert_eq!(admitted_to(&reader), "blue");
    loop {
        if let Happening::Acted { receipt } = &events.recv().await.expect("it runs").what
            && receipt.action == Action::Resume
        {
            assert_eq!(
                (receipt.by.as_str(), receipt.reason.as_str()),
                ("tealgate", "it has lasted for the 5 s it may")
            );
            break;
        }
    }
    let board = switch.viewer.board();
    let app = board.apps.values().next().expect("one app");
    assert_eq!((app.held.count(HeldOutcome::Expired), app.hold.is_none()), (1, true));
}

#[tokio::test]
async fn old_and_new_do_not_overlap_where_a_promotion_holds() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let (ticket, leaving) = (reader.admit(&KEY, &[]).expect("blue"), reader.admit(&KEY, &[]).expect("blue"));
    let asked = ask(&switch, promote_held());
    let story = async {
        until_held(&switch).await;
        let hold = held(&reader);
        assert_eq!(status(&switch).hold.and_then(|hold| hold.promotes), Some("green".to_owned()));
        let waiting = tokio::spawn(async move { hold.wait(1).await });
        drop(leaving);
        assert_eq!(status(&switch).active.map(|pool| (pool.revision, pool.in_flight)), Some(("blue".to_owned(), 1)));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(ticket);
        waiting.await.expect("it ends well").expect("it is let in");
        assert_eq!(admitted_to(&reader), "green");
    };
    let together = async { tokio::join!(asked, story).0 };
    let receipt = tokio::select! {
        receipt = together => receipt.expect("blue is empty"),
        () = adopting(&reader) => unreachable!("it goes on for ever"),
    };
    assert_eq!((receipt.action, receipt.in_flight_on_old, receipt.generation), (Action::Promote, 0, 2));
    assert_eq!((receipt.by.as_str(), receipt.reason.as_str()), ("ann", "because"));
    assert_eq!(status(&switch).hold, None);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_does_not_empty_is_not_left_and_goes_on_to_serve() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let ticket = reader.admit(&KEY, &[]).expect("blue");
    let mut events = switch.viewer.events();
    let refusal = ask(&switch, promote_held()).await.expect_err("blue is not empty");
    assert_eq!((refusal.code, refusal.detail.as_str()), (RefusalCode::NotDrained, "blue was not empty within 5 s"));
    assert_eq!((admitted_to(&reader).as_str(), status(&switch).generation), ("blue", 1));
    assert_eq!(*ticket.tenure().stage().borrow(), Stage::Serving, "its tunnels need not leave any more");
    loop {
        if let Happening::Refused { action, by, code, .. } = &events.recv().await.expect("it runs").what {
            assert_eq!((*action, by.as_str(), code.as_str()), (Action::Promote, "ann", "not-drained"));
            break;
        }
    }
    ask(&switch, promote()).await.expect("without a hold nothing waits");
    drop(ticket);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_does_not_wait_for_a_promotion_that_waits() {
    let switch = ready(None).await;
    ask(&switch, promote()).await.expect("ready");
    let reader = switch.readers.reader(0);
    let ticket = reader.admit(&KEY, &[]).expect("green");
    let teal = Command::Deploy {
        revision: "teal".parse().expect("a name"),
        endpoints: vec![address(9021).into()],
        labels: Default::default(),
    };
    ask(&switch, teal).await.expect("deployed");
    let (app, revision) = ("shop".parse().expect("a name"), "teal".parse().expect("a name"));
    switch.feed.observed(app, revision, address(9021), true).await;
    let back = async {
        until_held(&switch).await;
        ask(&switch, rollback()).await
    };
    let (waiting, back) = tokio::join!(ask(&switch, promote_held()), back);
    assert_eq!(back.expect("blue lives").to.as_deref(), Some("blue"));
    let refusal = waiting.expect_err("the roles are others");
    assert_eq!(refusal.code, RefusalCode::NotDrained);
    assert_eq!(admitted_to(&reader), "blue");
    assert_eq!(*ticket.tenure().stage().borrow(), Stage::Retired, "what the rollback left is seen out");
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_cannot_be_written_ends_its_hold() {
    let works = Arc::new(AtomicBool::new(true));
    let switch = ready(Some(journal_that_works_while(Arc::clone(&works)))).await;
    let reader = switch.readers.reader(0);
    works.store(false, SeqCst);
    let refusal = ask(&switch, promote_held()).await.expect_err("the disk fails");
    assert!(refusal.detail.contains("could not be written to disk"), "{refusal:?}");
    assert_eq!((admitted_to(&reader).as_str(), status(&switch).hold), ("blue", None));
}

#[tokio::test]
async fn an_app_that_goes_holds_nobody_back() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let _in_flight = reader.admit(&KEY, &[]).expect("blue");
    let asked = async {
        let gone = async {
            until_held(&switch).await;
            let hold = held(&reader);
            let waiting = tokio::spawn(async move { hold.wait(1).await });
            switch.feed.desired(Desired::default()).await.expect("it runs");
            waiting.await.expect("it ends well").expect("it is let go");
        };
        let (refused, ()) = tokio::join!(ask(&switch, promote_held()), gone);
        assert_eq!(refused.map_err(|refusal| refusal.code), Err(RefusalCode::UnknownApp), "nor who waits to promote");
    };
    tokio::select! {
        () = asked => {}
        () = adopting(&reader) => unreachable!("it goes on for ever"),
    }
    assert_eq!(reader.admit(&KEY, &[]).err(), Some(NotAdmitted::UnknownHost));
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_on_until_it_is_taken_off_also_over_a_failing_disk() {
    let works = Arc::new(AtomicBool::new(true));
    let switch = ready(Some(journal_that_works_while(Arc::clone(&works)))).await;
    let reader = switch.readers.reader(0);
    works.store(false, SeqCst);
    let retry_after = Duration::from_secs(60);
    let receipt = ask(&switch, Command::Maintain { retry_after }).await.expect("always");
    assert!(receipt.warnings.iter().any(|warning| warning.contains("not on disk yet")), "{:?}", receipt.warnings);
    let closed = |by| Some(NotAdmitted::Closed { app: "shop".parse().expect("a name"), by });
    assert_eq!(reader.admit(&KEY, &[]).err(), closed(Closed::Maintenance(retry_after)));
    assert_eq!(
        status(&switch).maintenance.map(|it| (it.by, it.reason)),
        Some(("ann".to_owned(), "because".to_owned()))
    );
    works.store(true, SeqCst);
    ask(&switch, Command::Reopen).await.expect("it is on");
    assert_eq!(admitted_to(&reader), "blue");
}

#[tokio::test]
async fn maintenance_outlives_the_process_and_a_hold_ends_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let start = async || {
        let journal = loop {
            // The last handle of an old journal goes with the old switchboard's task.
            match Journal::open(dir.path()) {
                Ok(journal) => break journal,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let options = SwitchOptions { workers: 1, replica: "r1".to_owned(), journal: Some(journal) };
        let switch = Switch::start(options).expect("restores");
        switch.feed.desired(shop(Policy::default())).await.expect("it runs");
        switch
    };
    let switch = start().await;
    ask(&switch, Command::Hold { bounds: BOUNDS }).await.expect("none is on");
    ask(&switch, Command::Maintain { retry_after: Duration::from_secs(60) }).await.expect("always");
    switch.control.stop().await;
    drop(switch);
    let switch = start().await;
    let found = status(&switch);
    assert_eq!((found.maintenance.map(|it| it.retry_after_seconds), found.hold), (Some(60), None));
    let board = switch.viewer.board();
    let actions: Vec<_> = board.apps.values().flat_map(|app| app.history.iter().map(|r| r.action)).collect();
    assert_eq!(actions, [Action::Hold, Action::Maintenance], "both are in the journal");
}
