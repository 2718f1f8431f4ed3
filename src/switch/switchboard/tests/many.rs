//! Many apps, many endpoints: what is done for one is not done for all.

use std::{collections::BTreeSet, sync::atomic::AtomicUsize};

use super::{
    super::super::{journal::faults::journal_that_counts, name::AppName},
    *,
};

/// So many apps like the shop, each with a host of its own.
fn mall(apps: usize) -> Desired {
    let Desired { apps: shop, .. } = shop(Policy::default());
    let wanted = shop.into_values().next().expect("one app");
    let shop = |n| {
        let hosts = vec![HostPattern::Exact(format!("host-{n}.test"))];
        let matching = Matching { hosts, ..Matching::default() };
        (format!("shop-{n:05}").parse().expect("a name"), Wanted { matching, ..wanted.clone() })
    };
    Desired { apps: (0..apps).map(shop).collect(), ..Desired::default() }
}

fn name(text: &str) -> AppName {
    text.parse().expect("a name")
}

#[tokio::test]
async fn however_many_apps_a_source_names_the_disk_is_waited_for_once() {
    let syncs = Arc::new(AtomicUsize::new(0));
    let switch = switch(Some(journal_that_counts(Arc::clone(&syncs))));
    let before = syncs.load(SeqCst);
    switch.feed.desired(mall(30)).await.expect("it runs");
    assert_eq!(syncs.load(SeqCst) - before, 1);
    switch.feed.desired(mall(30)).await.expect("it runs");
    assert_eq!(syncs.load(SeqCst) - before, 1, "what is on disk already is not written again");
}

#[tokio::test]
async fn who_follows_the_board_is_told_which_apps_have_changed_and_of_all_after_too_much() {
    let switch = switch(None);
    let mut follower = switch.viewer.follow();
    let nobody = BTreeSet::new;
    switch.feed.desired(mall(10)).await.expect("it runs");
    assert_eq!(follower.news(nobody).1.len(), 10);
    assert!(follower.news(nobody).1.is_empty());

    let (blue, third) = ("blue".parse().expect("a name"), name("shop-00003"));
    switch.feed.observed(third.clone(), blue, address(9001), true).await;
    assert!(follower.changed().await);
    let (board, names) = follower.news(nobody);
    assert_eq!(names, BTreeSet::from([third.clone()]));
    assert_eq!(board.apps[&third].status().active.expect("blue").ready, 1);

    switch.feed.desired(mall(9)).await.expect("it runs");
    let (board, names) = follower.news(nobody);
    assert!(names.contains(&name("shop-00009")) && !board.apps.contains_key(&name("shop-00009")));

    // More than is remembered of the board: whom the follower knows is named too, be they gone or not.
    switch.feed.desired(mall(1500)).await.expect("it runs");
    let (board, names) = follower.news(|| BTreeSet::from([name("shop-00009"), name("another")]));
    assert_eq!((board.apps.len(), names.len()), (1500, 1501));
}

#[tokio::test]
async fn each_worker_is_told_once_which_endpoints_have_left_routing() {
    let switch = ready(None).await;
    let reader = switch.readers.reader(0);
    let blue = reader.admit(&KEY, &[]).expect("admitted").endpoint().id();
    let adopting = async {
        reader.changed().await;
        reader.acknowledge(&reader.adopt());
    };
    tokio::join!(ask(&switch, promote()), adopting).0.expect("it is ready");
    assert_eq!(reader.departed(), [blue]);
    assert!(reader.departed().is_empty());
}

#[tokio::test]
async fn what_is_heard_of_a_thousand_endpoints_is_followed_together() {
    let switch = switch(None);
    let endpoints = |n: u16| [10, 0, (n / 250) as u8, (n % 250) as u8 + 1];
    let mut desired = shop(Policy::default());
    let blue: Revision = "blue".parse().expect("a name");
    let specs = (0..1000).map(|n| SocketAddr::from((endpoints(n), 80)).into()).collect();
    desired.apps.values_mut().next().expect("one app").revisions.insert(blue.clone(), specs);
    switch.feed.desired(desired.clone()).await.expect("it runs");
    for n in 0..1000 {
        let address = SocketAddr::from((endpoints(n), 80));
        switch.feed.observed(name("shop"), blue.clone(), address, n % 10 > 0).await;
    }
    // Whatever comes after is decided on all of it.
    switch.feed.desired(desired).await.expect("it runs");
    let active = status(&switch).active.expect("blue");
    assert_eq!((active.ready, active.total), (900, 1000));
    let reader = switch.readers.reader(0);
    let serves = |_| reader.admit(&KEY, &[]).expect("admitted").endpoint().health() == Health::Healthy;
    assert!((0..200).all(serves));
}
