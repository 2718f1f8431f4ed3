//! The switchboard with real readers, a real or failing journal, and no proxy: what is promised to those who ask, and to
//! requests, whatever else goes on.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use super::{
    super::{
        control::{Command, Order, RefusalCode},
        desired::{Desired, HostPattern, Matching, Wanted},
        hold::{HeldOutcome, Hold},
        journal::{Journal, faults::journal_that_works_while},
        policy::{HoldBounds, Policy},
        pool::Stage,
        reader::{NotAdmitted, Reader, RequestKey},
        snapshot::Closed,
        status::{Action, AppStatus, Happening, Phase, Receipt},
    },
    Refusal, Switch, SwitchOptions,
};

struct Key;

impl RequestKey for Key {
    fn host(&self) -> &str {
        "shop.test"
    }
    fn path(&self) -> &str {
        "/"
    }
    fn on_preview_listener(&self) -> bool {
        false
    }
    fn client(&self) -> Option<IpAddr> {
        None
    }

    fn field(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn shop(policy: Policy) -> Desired {
    let wanted = Wanted {
        matching: Matching::default(),
        revisions: [("blue", 9001), ("green", 9011)]
            .map(|(name, port)| (name.parse().expect("a name"), vec![address(port).into()]))
            .into(),
        active: "blue".parse().expect("a name"),
        preview: Some("green".parse().expect("a name")),
        policy: Arc::new(policy),
    };
    Desired { apps: [("shop".parse().expect("a name"), wanted)].into() }
}

fn switch(journal: Option<Journal>) -> Switch {
    let journal = journal.map(|journal| (journal, super::Recovered::default()));
    Switch::start(SwitchOptions { workers: 1, replica: "r1".to_owned(), journal }).expect("nothing to restore")
}

/// A switch whose two revisions are both healthy.
async fn ready(journal: Option<Journal>) -> Switch {
    let switch = switch(journal);
    switch.feed.desired(shop(Policy::default())).await.expect("it runs");
    for (revision, port) in [("blue", 9001), ("green", 9011)] {
        let (app, revision) = ("shop".parse().expect("a name"), revision.parse().expect("a name"));
        switch.feed.observed(app, revision, address(port), true).await;
    }
    switch
}

async fn ask(switch: &Switch, command: Command) -> Result<Receipt, Refusal> {
    let order = Order {
        app: "shop".parse().expect("a name"),
        command,
        by: "ann".to_owned(),
        reason: "because".to_owned(),
        if_generation: None,
        dry_run: false,
    };
    switch.control.submit(order).await
}

fn promote() -> Command {
    Command::Promote { revision: None, skip_gates: false }
}

fn rollback() -> Command {
    Command::Rollback { to: None }
}

fn status(switch: &Switch) -> AppStatus {
    switch.viewer.board().apps.values().next().expect("one app").status()
}

fn admitted_to(reader: &Reader) -> String {
    reader.admit(&Key, &[]).expect("admitted").revision().to_string()
}

#[tokio::test]
async fn a_request_admitted_after_the_answer_goes_to_the_new_pool() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    for generation in 1..100 {
        let (command, colour) = if generation % 2 == 1 { (promote(), "green") } else { (rollback(), "blue") };
        let asked = ask(&switch, command);
        let adopting = async {
            reader.changed().await;
            reader.acknowledge(&reader.adopt());
        };
        let (receipt, ()) = tokio::join!(asked, adopting);
        assert_eq!(receipt.expect("both are ready").generation, generation + 1);
        assert_eq!(admitted_to(&reader), colour);
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_confirm_is_named_and_holds_up_nobody() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let receipt = ask(&switch, promote()).await.expect("ready");
    assert_eq!(receipt.warnings, ["published, not yet confirmed by worker 0"]);
    assert_eq!(admitted_to(&reader), "green", "the answer is right without its confirmation");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_stays_on_its_pool_until_it_ends_or_the_deadline_cuts_it() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let (first, second) = (reader.admit(&Key, &[]).expect("blue"), reader.admit(&Key, &[]).expect("blue"));
    let mut events = switch.viewer.events();
    let receipt = ask(&switch, promote()).await.expect("ready");
    assert_eq!((receipt.in_flight_on_old, first.revision().as_str()), (2, "blue"));
    assert_eq!(status(&switch).draining[0].in_flight, 2);
    drop(first);
    let mut stage = second.tenure().stage();
    stage.wait_for(|stage| *stage == Stage::Cut).await.expect("its deadline comes");
    assert_eq!(status(&switch).draining[0].in_flight, 1, "it is drained when the last has left, not before");
    drop(second);
    let cut = loop {
        match &events.recv().await.expect("it runs").what {
            Happening::Drained { cut, revision, .. } if revision == "blue" => break *cut,
            _ => {}
        }
    };
    assert_eq!(cut, 1);
    assert_eq!(status(&switch).draining, []);
}

#[tokio::test(start_paused = true)]
async fn after_a_rollback_live_traffic_drains_though_its_revision_stays_the_candidate() {
    let switch = ready(None).await;
    ask(&switch, promote()).await.expect("ready");
    let reader = switch.readers.reader(0);
    let ticket = reader.admit(&Key, &[]).expect("green");
    let mut events = switch.viewer.events();
    let receipt = ask(&switch, rollback()).await.expect("blue lives");
    let state = status(&switch);
    assert_eq!((receipt.in_flight_on_old, state.draining[0].revision.as_str()), (1, "green"));
    assert_eq!(state.preview.map(|pool| (pool.revision, pool.in_flight)), Some(("green".to_owned(), 0)));
    ticket.tenure().stage().wait_for(|stage| *stage == Stage::Cut).await.expect("its deadline comes");
    drop(ticket);
    while !matches!(&events.recv().await.expect("it runs").what, Happening::Drained { cut: 1, .. }) {}
}

#[tokio::test]
async fn a_pool_that_empties_by_itself_is_drained_at_once() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let ticket = reader.admit(&Key, &[]).expect("blue");
    let mut events = switch.viewer.events();
    let (receipt, ()) = tokio::join!(ask(&switch, promote()), async {
        reader.changed().await;
        reader.acknowledge(&reader.adopt());
    });
    receipt.expect("ready");
    drop(ticket);
    loop {
        match &events.recv().await.expect("it runs").what {
            Happening::Drained { cut, revision, .. } if revision == "blue" => return assert_eq!(*cut, 0),
            _ => {}
        }
    }
}

#[tokio::test]
async fn of_two_promotions_at_once_exactly_one_wins() {
    let switch = ready(None).await;
    let named = || Command::Promote { revision: Some("green".parse().expect("a name")), skip_gates: false };
    let (one, two) = tokio::join!(ask(&switch, named()), ask(&switch, named()));
    let lost = one.as_ref().err().or(two.as_ref().err()).expect("one lost").code;
    assert_eq!((one.is_ok() ^ two.is_ok(), lost), (true, RefusalCode::AlreadyActive));
    assert_eq!(status(&switch).generation, 2);
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let switch = ready(None).await;
    let mut order = Order {
        app: "shop".parse().expect("a name"),
        command: promote(),
        by: "ann".to_owned(),
        reason: String::new(),
        if_generation: Some(1),
        dry_run: true,
    };
    let receipt = switch.control.submit(order.clone()).await.expect("it would work");
    assert_eq!((receipt.generation, receipt.dry_run), (2, true));
    assert_eq!(status(&switch).generation, 1);
    order.if_generation = Some(9);
    assert_eq!(switch.control.submit(order).await.map_err(|r| r.code), Err(RefusalCode::GenerationMismatch));
}

#[tokio::test]
async fn with_a_failing_disk_a_promotion_is_refused_and_a_rollback_goes_ahead() {
    let works = Arc::new(AtomicBool::new(true));
    let switch = ready(Some(journal_that_works_while(Arc::clone(&works)))).await;
    ask(&switch, promote()).await.expect("the disk works");
    works.store(false, SeqCst);
    let receipt = ask(&switch, rollback()).await.expect("a rollback needs no disk");
    assert!(receipt.warnings[0].contains("not on disk yet"), "{:?}", receipt.warnings);
    assert_eq!(ask(&switch, promote()).await.map_err(|r| r.code), Err(RefusalCode::NotDurable));
    assert_eq!((status(&switch).generation, status(&switch).phase), (3, Phase::Aborted));
    works.store(true, SeqCst);
    ask(&switch, promote()).await.expect("the disk works again");
}

#[tokio::test]
async fn an_acknowledged_flip_and_its_history_outlive_the_switch() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || {
        let journal = Some(Journal::open(dir.path()).expect("opens"));
        Switch::start(SwitchOptions { workers: 1, replica: "r1".to_owned(), journal }).expect("restores")
    };
    let switch = open();
    switch.feed.desired(shop(Policy::default())).await.expect("it runs");
    let (app, green) = ("shop".parse().expect("a name"), "green".parse().expect("a name"));
    switch.feed.observed(app, green, address(9011), true).await;
    let receipt = ask(&switch, promote()).await.expect("ready");
    switch.control.stop().await;
    drop(switch);

    let switch = loop {
        // The last handle of the old journal goes with the old switchboard's task.
        match Journal::open(dir.path()) {
            Ok(journal) => break journal,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let switch = Switch::start(SwitchOptions { workers: 1, replica: "r1".to_owned(), journal: Some(switch) });
    let switch = switch.expect("restores");
    switch.feed.desired(shop(Policy::default())).await.expect("it runs");
    let found = status(&switch);
    assert_eq!((found.active.map(|pool| pool.revision), found.generation), (Some("green".to_owned()), 2));
    let board = switch.viewer.board();
    let history: Vec<_> = board.apps.values().flat_map(|app| app.history.iter().cloned()).collect();
    assert_eq!(history, [receipt]);
}

#[tokio::test]
async fn a_host_that_moves_to_another_app_is_never_without_one() {
    let switch = switch(None);
    let two = |shop_hosts: &[&str], other_hosts: &[&str]| {
        let hosts = |hosts: &[&str]| hosts.iter().map(|host| HostPattern::Exact((*host).to_owned())).collect();
        let mut desired = shop(Policy::default());
        let app = desired.apps.values().next().cloned().expect("one");
        let other = Wanted { matching: Matching { hosts: hosts(other_hosts), ..Matching::default() }, ..app };
        desired.apps.values_mut().for_each(|app| app.matching.hosts = hosts(shop_hosts));
        desired.apps.insert("other".parse().expect("a name"), other);
        desired
    };
    let (one, another) = (two(&["shop.test"], &["x"]), two(&["x"], &["shop.test"]));
    switch.feed.desired(one.clone()).await.expect("it runs");
    let reader = switch.readers.reader(0);
    for _ in 0..50 {
        for desired in [&another, &one] {
            let mut applied = std::pin::pin!(switch.feed.desired(desired.clone()));
            // Whenever it lets others run, a request comes.
            while futures_util::poll!(&mut applied).is_pending() {
                reader.admit(&Key, &[]).expect("one of the two has the host");
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn an_app_whose_state_cannot_be_written_serves_all_the_same_and_is_written_when_it_can() {
    let works = Arc::new(AtomicBool::new(true));
    let journal = journal_that_works_while(Arc::clone(&works));
    works.store(false, SeqCst);
    let switch = ready(Some(journal)).await;
    assert_eq!(admitted_to(&switch.readers.reader(0)), "blue");
    works.store(true, SeqCst);
    ask(&switch, promote()).await.expect("the disk works");
}

#[tokio::test]
async fn endpoints_that_replace_all_live_ones_take_no_traffic_before_they_answer() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let mut desired = shop(Policy::default());
    let blue = || "blue".parse().expect("a name");
    desired.apps.values_mut().for_each(|app| drop(app.revisions.insert(blue(), vec![address(9002).into()])));
    switch.feed.desired(desired.clone()).await.expect("it runs");
    assert_eq!(reader.admit(&Key, &[]).expect("blue").endpoint().address(), address(9001));
    switch.feed.observed("shop".parse().expect("a name"), blue(), address(9002), true).await;
    // Messages are taken in order: when this one is answered, the one before has been seen.
    switch.feed.desired(desired).await.expect("it runs");
    assert_eq!(reader.admit(&Key, &[]).expect("blue").endpoint().address(), address(9002));
}

#[tokio::test]
async fn an_app_that_leaves_and_returns_goes_on_where_it_was() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    tokio::join!(async { ask(&switch, promote()).await.expect("ready") }, async {
        reader.changed().await;
        reader.acknowledge(&reader.adopt());
    });
    switch.feed.desired(Desired::default()).await.expect("it runs");
    assert_eq!(reader.admit(&Key, &[]).err(), Some(NotAdmitted::UnknownHost));
    switch.feed.desired(shop(Policy::default())).await.expect("it runs");
    assert_eq!(admitted_to(&reader), "green");
    assert_eq!(status(&switch).generation, 2);
}

#[tokio::test]
async fn a_changed_policy_keeps_endpoints_and_what_is_in_flight() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let ticket = reader.admit(&Key, &[]).expect("blue");
    let policy = Policy { balance: super::super::policy::Balance::RoundRobin, ..Policy::default() };
    let applied = switch.feed.desired(shop(policy)).await.expect("it runs");
    assert_eq!(applied.changed, ["shop"]);
    let again = reader.admit(&Key, &[]).expect("blue");
    assert!(Arc::ptr_eq(ticket.endpoint(), again.endpoint()));
    assert_eq!((status(&switch).active.map(|pool| pool.in_flight), status(&switch).draining.len()), (Some(2), 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_carried_out_is_answered_though_the_switch_stops() {
    let switch = ready(None).await;
    // A worker that does not confirm: the stop comes while the receipt waits for it.
    let _reader = switch.readers.reader(0);
    let (answer, ()) = tokio::join!(ask(&switch, promote()), switch.control.stop());
    assert_eq!(answer.map(|receipt| receipt.generation).map_err(|refusal| refusal.code), Ok(2));
    let after = ask(&switch, rollback()).await;
    assert_eq!(after.map_err(|refusal| refusal.code), Err(RefusalCode::Stopping));
}

#[tokio::test]
async fn what_the_source_wants_is_done_though_the_disk_fails() {
    let works = Arc::new(AtomicBool::new(true));
    let switch = ready(Some(journal_that_works_while(Arc::clone(&works)))).await;
    works.store(false, SeqCst);
    let mut desired = shop(Policy::default());
    desired.apps.values_mut().for_each(|app| app.preview = None);
    switch.feed.desired(desired).await.expect("it runs");
    assert_eq!(status(&switch).preview, None);
}

#[tokio::test(start_paused = true)]
async fn the_clock_promotes_by_itself_when_the_time_has_come() {
    let switch = switch(None);
    let mut policy = Policy::default();
    policy.promotion.auto = super::super::policy::AutoPromotion::After(Duration::from_millis(20));
    switch.feed.desired(shop(policy)).await.expect("it runs");
    let (app, green) = ("shop".parse().expect("a name"), "green".parse().expect("a name"));
    let mut events = switch.viewer.events();
    switch.feed.observed(app, green, address(9011), true).await;
    loop {
        if let Happening::Acted { receipt } = &events.recv().await.expect("it runs").what {
            assert_eq!((receipt.by.as_str(), receipt.to.as_deref()), ("auto-promotion", Some("green")));
            return;
        }
    }
}

const BOUNDS: HoldBounds = HoldBounds { max_age: Duration::from_secs(5), max_requests: 2, max_bytes: 100 };

fn promote_held() -> Command {
    Command::PromoteHeld { revision: None, skip_gates: false, bounds: BOUNDS }
}

/// The hold that keeps a request out.
fn held(reader: &Reader) -> Arc<Hold> {
    match reader.admit(&Key, &[]) {
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
    let ticket = reader.admit(&Key, &[]).expect("blue");
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
    let (ticket, leaving) = (reader.admit(&Key, &[]).expect("blue"), reader.admit(&Key, &[]).expect("blue"));
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
    let ticket = reader.admit(&Key, &[]).expect("blue");
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
    let ticket = reader.admit(&Key, &[]).expect("green");
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
    let asked = async {
        ask(&switch, Command::Hold { bounds: BOUNDS }).await.expect("none is on");
        let hold = held(&reader);
        let waiting = tokio::spawn(async move { hold.wait(1).await });
        switch.feed.desired(Desired::default()).await.expect("it runs");
        waiting.await.expect("it ends well").expect("it is let go");
    };
    tokio::select! {
        () = asked => {}
        () = adopting(&reader) => unreachable!("it goes on for ever"),
    }
    assert_eq!(reader.admit(&Key, &[]).err(), Some(NotAdmitted::UnknownHost));
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
    assert_eq!(reader.admit(&Key, &[]).err(), closed(Closed::Maintenance(retry_after)));
    assert_eq!(
        status(&switch).maintenance.map(|it| (it.by, it.reason)),
        Some(("ann".to_owned(), "because".to_owned()))
    );
    works.store(true, SeqCst);
    ask(&switch, Command::Reopen).await.expect("it is on");
    assert_eq!(admitted_to(&reader), "blue");
}
