//! The switchboard with real readers, a real or failing journal, and no proxy: what is promised to those who ask, and to
//! requests, whatever else goes on.

mod hold;
mod many;
mod sight;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;

use super::{
    super::{
        address::Whereabouts,
        control::{Command, Order, RefusalCode},
        desired::{Desired, HostPattern, Matching, Wanted},
        journal::{Journal, faults::journal_that_works_while},
        name::Revision,
        policy::{Balance, BalanceRule, Policy, Transport, UpstreamTls},
        pool::{Endpoint, Stage},
        reader::{NotAdmitted, Plain, Reader},
        status::{AppStatus, Happening, Health, Phase, Receipt},
    },
    Refusal, Switch, SwitchOptions,
};

/// Asks for the shop.
const KEY: Plain = Plain("shop.test");

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
    Desired { apps: [("shop".parse().expect("a name"), wanted)].into(), ..Desired::default() }
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
    reader.admit(&KEY, &[]).expect("admitted").revision().to_string()
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
    let (first, second) = (reader.admit(&KEY, &[]).expect("blue"), reader.admit(&KEY, &[]).expect("blue"));
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
    let ticket = reader.admit(&KEY, &[]).expect("green");
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
    let ticket = reader.admit(&KEY, &[]).expect("blue");
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
                reader.admit(&KEY, &[]).expect("one of the two has the host");
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
    assert_eq!(reader.admit(&KEY, &[]).expect("blue").endpoint().address(), &address(9001).into());
    switch.feed.observed("shop".parse().expect("a name"), blue(), address(9002), true).await;
    // Messages are taken in order: when this one is answered, the one before has been seen.
    switch.feed.desired(desired).await.expect("it runs");
    assert_eq!(reader.admit(&KEY, &[]).expect("blue").endpoint().address(), &address(9002).into());
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
    assert_eq!(reader.admit(&KEY, &[]).err(), Some(NotAdmitted::UnknownHost));
    switch.feed.desired(shop(Policy::default())).await.expect("it runs");
    assert_eq!(admitted_to(&reader), "green");
    assert_eq!(status(&switch).generation, 2);
}

#[tokio::test]
async fn a_changed_policy_keeps_endpoints_and_what_is_in_flight() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let ticket = reader.admit(&KEY, &[]).expect("blue");
    let balance = Balance { rule: BalanceRule::RoundRobin, ..Balance::default() };
    let policy = Policy { balance, ..Policy::default() };
    let applied = switch.feed.desired(shop(policy)).await.expect("it runs");
    assert_eq!(applied.changed, ["shop"]);
    let again = reader.admit(&KEY, &[]).expect("blue");
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

/// What blue's endpoint is named in the tests below.
const NAMED: &str = "app.test:9001";

/// The app whose active revision is given by name.
fn named_shop() -> Desired {
    let mut desired = shop(Policy::default());
    let specs = vec![NAMED.parse::<Whereabouts>().expect("a name").into()];
    desired
        .apps
        .values_mut()
        .for_each(|app| drop(app.revisions.insert("blue".parse().expect("a name"), specs.clone())));
    desired
}

async fn looked_up(switch: &Switch, found: Result<&[u16], &str>) {
    let found = found.map(|ports| ports.iter().map(|port| address(*port)).collect()).map_err(str::to_owned);
    let named: Whereabouts = NAMED.parse().expect("a name");
    let name = named.name().expect("a name").clone();
    switch.feed.looked_up("shop".parse().expect("a name"), name, found).await;
    // Messages are taken in order: when this one is answered, the one before has been seen.
    switch.feed.desired(named_shop()).await.expect("it runs");
}

async fn found_healthy(switch: &Switch, port: u16) {
    switch.feed.observed("shop".parse().expect("a name"), "blue".parse().expect("a name"), address(port), true).await;
    switch.feed.desired(named_shop()).await.expect("it runs");
}

fn endpoints_of(switch: &Switch) -> Vec<Arc<Endpoint>> {
    let board = switch.viewer.board();
    let app = board.apps.values().next().expect("one app");
    app.pools[&"blue".parse::<Revision>().expect("a name")].endpoints().to_vec()
}

#[tokio::test]
async fn each_address_of_a_name_is_an_endpoint_and_those_that_stay_are_the_same() {
    let switch = switch(None);
    switch.feed.desired(named_shop()).await.expect("it runs");
    looked_up(&switch, Ok(&[2, 1])).await;
    found_healthy(&switch, 1).await;
    let before = endpoints_of(&switch);
    assert_eq!(
        before.iter().map(|e| e.address().clone()).collect::<Vec<_>>(),
        [address(1), address(2)].map(Into::into)
    );
    assert_eq!(before[0].destination().name.as_ref().map(ToString::to_string).as_deref(), Some(NAMED));
    let generation = status(&switch).generation;

    looked_up(&switch, Ok(&[3, 1])).await;
    let after = endpoints_of(&switch);
    assert_eq!(after.iter().map(|e| e.address().clone()).collect::<Vec<_>>(), [address(1), address(3)].map(Into::into));
    assert!(Arc::ptr_eq(&before[0], &after[0]), "its connections, counts and health live on");
    assert_eq!(status(&switch).generation, generation, "no role has changed");
}

#[tokio::test]
async fn a_lookup_that_fails_takes_no_endpoint_away_and_is_told() {
    let switch = switch(None);
    switch.feed.desired(named_shop()).await.expect("it runs");
    let at_first = status(&switch);
    assert_eq!(
        at_first.active.map(|pool| (pool.ready, pool.total)),
        Some((0, 1)),
        "it counts as one that is not ready"
    );

    looked_up(&switch, Err("no such name")).await;
    let message = status(&switch).message;
    assert!(message.starts_with("live traffic is failing: blue has 0 of 1"), "{message}");
    assert!(
        message.ends_with("app.test:9001 cannot be looked up (no such name) and has no endpoints yet"),
        "{message}"
    );

    looked_up(&switch, Ok(&[1])).await;
    found_healthy(&switch, 1).await;
    for failure in [Err("no answer"), Ok(&[][..])] {
        looked_up(&switch, failure).await;
        assert_eq!(endpoints_of(&switch).len(), 1);
        let status = status(&switch);
        assert!(status.message.contains("its last addresses stay"), "{}", status.message);
        assert_eq!(status.names[0].addresses, ["127.0.0.1:1"]);
    }
    looked_up(&switch, Ok(&[1])).await;
    assert_eq!(status(&switch).names[0].problem, None);
}

#[tokio::test]
async fn addresses_that_replace_all_live_ones_take_no_traffic_before_they_answer() {
    let switch = switch(None);
    let reader = switch.readers.reader(0);
    switch.feed.desired(named_shop()).await.expect("it runs");
    looked_up(&switch, Ok(&[1])).await;
    found_healthy(&switch, 1).await;
    looked_up(&switch, Ok(&[2])).await;
    assert_eq!(reader.admit(&KEY, &[]).expect("blue").endpoint().address(), &address(1).into());
    found_healthy(&switch, 2).await;
    assert_eq!(reader.admit(&KEY, &[]).expect("blue").endpoint().address(), &address(2).into());
}

#[tokio::test]
async fn an_endpoint_that_is_reached_in_another_way_is_another() {
    let switch = ready(None).await;
    let before = endpoints_of(&switch);
    let transport = Transport { tls: Some(UpstreamTls::default()), ..Transport::default() };
    let policy = Policy { transport: Arc::new(transport), ..Policy::default() };
    switch.feed.desired(shop(policy.clone())).await.expect("it runs");
    let after = endpoints_of(&switch);
    assert_ne!(before[0].id(), after[0].id(), "a connection opened in plain text is of no use any more");
    assert_eq!(after[0].health(), Health::Healthy, "until a probe says otherwise");
    // The same settings, read anew.
    let transport = Arc::new(Transport::clone(&policy.transport));
    switch.feed.desired(shop(Policy { transport, ..policy })).await.expect("it runs");
    assert!(Arc::ptr_eq(&endpoints_of(&switch)[0], &after[0]));
}

#[tokio::test]
async fn what_changes_nothing_for_requests_is_not_published() {
    let switch = switch(None);
    switch.feed.desired(shop(Policy::default())).await.expect("it runs");
    let reader = switch.readers.reader(0);
    for (revision, port) in [("blue", 9001), ("green", 9011)] {
        let (app, revision) = ("shop".parse().expect("a name"), revision.parse().expect("a name"));
        switch.feed.observed(app, revision, address(port), true).await;
    }
    assert!(switch.feed.desired(shop(Policy::default())).await.is_some_and(|applied| applied.added.is_empty()));
    assert_eq!(status(&switch).preview.expect("green").ready, 1);
    assert!(reader.changed().now_or_never().is_none(), "health is no part of the snapshot");
    let asked = ask(&switch, promote());
    let adopting = async {
        reader.changed().await;
        reader.acknowledge(&reader.adopt());
    };
    tokio::join!(asked, adopting).0.expect("it is ready");
}
