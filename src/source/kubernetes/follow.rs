//! Follows the objects of all apps: one task that hears every watch, keeps what they tell, and says to the switch what
//! becomes of it, app by app. What comes in a burst is taken in as one; nothing waits for a clock.
//!
//! Rollouts, Services and ReplicaSets are watched once for all apps of a namespace, Pods for each app by its labels, so
//! that the pods of others cost nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Alarms, Targets,
    app::{App, Told},
    client::connect,
    place::{Heard, Origin, Place, Starter, Taken},
    store::Touched,
};
use crate::switch::{AppName, Feed};

/// The wait before the cluster is looked for again, or credentials are read anew.
const AGAIN: Duration = Duration::from_secs(5);
/// How many pieces of news may be waiting, and are taken in as one at most.
const WAITING: usize = 1024;
/// How often all is said again although nothing has changed: what could not be followed then may be now, what is kept for
/// a rollback stays so, and time itself changes what is.
const EVER_AGAIN: Duration = Duration::from_secs(30);

/// Follows what the targets say, whenever they change, until nobody can change them any more. An app whose objects cannot
/// be seen is said to be out of sight; what was sighted of it last stays in force.
///
/// What else is wrong with an app is in the alarms, and shown with what is seen.
pub async fn follow(mut targets: watch::Receiver<Targets>, mut alarms: watch::Receiver<Alarms>, feed: Feed) {
    let (told, mut heard) = mpsc::channel(WAITING);
    let mut follower = Follower::new(feed, told);
    let wanted = targets.borrow_and_update().clone();
    follower.aim(wanted).await;
    let mut ever_again = interval(EVER_AGAIN);
    ever_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = targets.borrow_and_update().clone();
                follower.aim(wanted).await;
            }
            Ok(()) = alarms.changed() => {
                let now = alarms.borrow_and_update().clone();
                follower.heed(now);
            }
            Some(first) = heard.recv() => {
                follower.hear(first);
                for _ in 1..WAITING {
                    let Ok(next) = heard.try_recv() else { break };
                    follower.hear(next);
                }
            }
            () = sleep_until(follower.again.unwrap_or_else(Instant::now)), if follower.again.is_some() => {
                follower.connect().await;
            }
            _ = ever_again.tick() => follower.repeat(),
        }
        follower.tell().await;
    }
}

struct Follower {
    feed: Feed,
    told: mpsc::Sender<Heard>,
    targets: Targets,
    /// `None` while there is no way to the cluster.
    starter: Option<Starter>,
    /// When to look for another way.
    again: Option<Instant>,
    places: BTreeMap<String, Place>,
    apps: BTreeMap<AppName, App>,
    /// What others found wrong with them.
    alarms: Alarms,
    /// The apps of which there may be something to say.
    stirred: BTreeSet<AppName>,
}

impl Follower {
    fn new(feed: Feed, told: mpsc::Sender<Heard>) -> Self {
        Self {
            feed,
            told,
            targets: Targets::default(),
            starter: None,
            again: None,
            places: BTreeMap::new(),
            apps: BTreeMap::new(),
            alarms: Alarms::new(),
            stirred: BTreeSet::new(),
        }
    }

    /// Takes over what is to be followed. What stays the same is not disturbed.
    async fn aim(&mut self, targets: Targets) {
        if self.targets.cluster != targets.cluster {
            self.starter = None;
            self.places.clear();
            self.apps.clear();
        }
        self.targets = targets;
        if self.targets.apps.is_empty() || self.starter.is_some() {
            self.sort_out();
        } else {
            self.connect().await;
        }
    }

    /// Looks for the cluster, with whatever credentials there are now, and watches everything anew from there.
    async fn connect(&mut self) {
        match connect(&self.targets.cluster).await {
            Ok(client) => {
                self.again = None;
                self.starter = Some(Starter { client, told: self.told.clone() });
                self.places.values_mut().for_each(Place::end_watches);
                self.apps.values_mut().for_each(App::end_watch);
                self.stirred.extend(self.apps.keys().cloned());
                self.sort_out();
            }
            Err(why) => {
                self.again = Some(Instant::now() + AGAIN);
                for app in self.targets.apps.keys() {
                    self.feed.out_of_sight(app.clone(), why.clone()).await;
                }
            }
        }
    }

    fn heed(&mut self, alarms: Alarms) {
        let before = std::mem::replace(&mut self.alarms, alarms);
        let differs = |app: &&AppName| before.get(*app) != self.alarms.get(*app);
        self.stirred.extend(before.keys().chain(self.alarms.keys()).filter(differs).cloned());
    }

    /// Brings apps and watches in line with the targets.
    fn sort_out(&mut self) {
        let targets = &self.targets.apps;
        self.apps.retain(|name, app| targets.get(name) == Some(&app.target));
        let Some(starter) = &self.starter else { return };
        for (name, target) in targets {
            self.apps.entry(name.clone()).or_insert_with(|| {
                self.stirred.insert(name.clone());
                App::new(target.clone(), starter.client.default_namespace())
            });
        }
        let mut needed: BTreeMap<&str, bool> = BTreeMap::new();
        for app in self.apps.values() {
            *needed.entry(&app.namespace).or_default() |= app.follows_rollout();
        }
        self.places.retain(|namespace, _| needed.contains_key(&**namespace));
        for (namespace, rollouts) in needed {
            self.places.entry(namespace.to_owned()).or_default().start(starter, namespace, rollouts);
        }
    }

    /// Takes in a piece of news.
    fn hear(&mut self, Heard { watch, origin }: Heard) {
        let (namespace, taken) = match origin {
            Origin::Pod(name, news) => {
                let taken = self.apps.get_mut(&name).and_then(|app| app.pods.take(watch, news));
                let Some(Taken { touched, refused }) = taken else { return };
                if touched != Touched::Nothing {
                    self.stirred.insert(name);
                }
                return self.mind(refused);
            }
            Origin::Rollout(namespace, news) => {
                let taken = self.places.get_mut(&namespace).and_then(|place| place.rollouts.take(watch, *news));
                (namespace, taken)
            }
            Origin::Service(namespace, news) => {
                let taken = self.places.get_mut(&namespace).and_then(|place| place.services.take(watch, news));
                (namespace, taken)
            }
            Origin::ReplicaSet(namespace, news) => {
                let taken = self.places.get_mut(&namespace).and_then(|place| place.replica_sets.take(watch, news));
                (namespace, taken)
            }
        };
        let Some(Taken { touched, refused }) = taken else { return };
        self.mind(refused);
        let here = self.apps.iter().filter(|(_, app)| app.namespace == namespace);
        match touched {
            Touched::Nothing => {}
            Touched::Some(names) => {
                self.stirred.extend(here.filter(|(_, app)| app.minds(&names)).map(|(name, _)| name.clone()));
            }
            Touched::All => self.stirred.extend(here.map(|(name, _)| name.clone())),
        }
    }

    /// Has all said again of the apps that are in sight.
    fn repeat(&mut self) {
        for (name, app) in self.apps.iter_mut().filter(|(_, app)| app.is_in_sight()) {
            app.forget_what_was_told();
            self.stirred.insert(name.clone());
        }
    }

    /// Where our credentials were refused, there may be others by and by.
    fn mind(&mut self, refused: bool) {
        if refused && self.again.is_none() {
            self.again = Some(Instant::now() + AGAIN);
        }
    }

    /// Says to the switch what has become of every app that was stirred.
    async fn tell(&mut self) {
        let Some(starter) = &self.starter else { return };
        for name in std::mem::take(&mut self.stirred) {
            let Some(app) = self.apps.get_mut(&name) else { continue };
            let Some(place) = self.places.get(&app.namespace) else { continue };
            let Told { sighting, out_of_sight } = app.look(&name, place, starter, self.alarms.get(&name));
            if let Some(sighting) = sighting {
                self.feed.sighted(name.clone(), sighting).await;
            }
            if let Some(why) = out_of_sight {
                tracing::warn!(app = %name, "cannot be followed just now, and stays as it is: {why}");
                self.feed.out_of_sight(name, why).await;
            }
        }
    }
}
