//! Looking up the names that sources and deployments give for endpoints: each at its app's interval, off the way of
//! requests. What is found goes to the switch, which makes every address an endpoint; so does what is not found, and then
//! the last good addresses stay.
//!
//! The addresses found last are also kept in the state directory: a start while DNS is away goes on with them (G6).

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::last_found::LastFound;
use crate::switch::{AppBoard, AppName, Family, Feed, Follower, HostPort, Lookup, Viewer};

/// How many lookups may be under way at once: each holds a thread while the system's resolver waits.
const AT_ONCE: usize = 64;
/// How long a lookup may take before it is said to fail. It goes on all the same, and its answer is taken when it comes.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest wait for another try after one that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What finds the addresses of a host.
pub type Resolver =
    Arc<dyn Fn(HostPort) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync>;

/// The system's resolver: `/etc/hosts`, DNS, and whatever else it is set up to ask.
pub fn system_resolver() -> Resolver {
    Arc::new(|name| {
        Box::pin(async move { Ok(tokio::net::lookup_host((&**name.host(), name.port())).await?.collect()) })
    })
}

/// Looks up whatever names the board shows, until the switch stops. What was found last is kept in `state_dir`.
pub async fn look_up(viewer: Viewer, feed: Feed, resolver: Resolver, state_dir: Option<PathBuf>) {
    let last_found = LastFound::read(state_dir).await;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut lookups = Lookups { running: BTreeMap::new(), slots, resolver, feed, last_found };
    let mut follower = viewer.follow();
    loop {
        lookups.follow(&mut follower);
        if !follower.changed().await {
            return;
        }
    }
}

/// The names that are looked up now and then.
struct Lookups {
    running: BTreeMap<AppName, HashMap<HostPort, Running>>,
    slots: Arc<Semaphore>,
    resolver: Resolver,
    feed: Feed,
    last_found: LastFound,
}

struct Running {
    policy: watch::Sender<Lookup>,
    /// Whether the switch has been told of it.
    has_told: Arc<AtomicBool>,
    /// Ends the lookups when it is dropped.
    _task: AbortOnDropHandle<()>,
}

impl Lookups {
    /// Starts what is new on the board, ends what has left it, and tells the rest when their policy has changed.
    fn follow(&mut self, follower: &mut Follower) {
        let (board, apps) = follower.news(|| self.running.keys().cloned().collect());
        for app in apps {
            let before = self.running.remove(&app).unwrap_or_default();
            if let Some(state) = board.apps.get(&app).filter(|state| state.names.iter().next().is_some()) {
                let running = self.of_app(&app, state, before);
                self.running.insert(app, running);
            }
        }
    }

    /// The lookups of one app, given those of before.
    fn of_app(
        &self,
        app: &AppName,
        state: &AppBoard,
        mut before: HashMap<HostPort, Running>,
    ) -> HashMap<HostPort, Running> {
        let running = state.names.iter().map(|name| {
            // A name that left and came back between two looks at the board was forgotten, and is told anew at once.
            let forgotten = |running: &Running| running.has_told.load(Relaxed) && state.names.is_unheard_of(name);
            let running = before
                .remove(name)
                .filter(|running| !forgotten(running))
                .unwrap_or_else(|| self.start(app, name, state.policy.lookup));
            running.policy.send_if_modified(|told| std::mem::replace(told, state.policy.lookup) != state.policy.lookup);
            (name.clone(), running)
        });
        running.collect()
    }

    fn start(&self, app: &AppName, name: &HostPort, policy: Lookup) -> Running {
        let (policy, told) = watch::channel(policy);
        let has_told = Arc::new(AtomicBool::new(false));
        let subject = Subject {
            app: app.clone(),
            name: name.clone(),
            slots: Arc::clone(&self.slots),
            resolver: Arc::clone(&self.resolver),
            feed: self.feed.clone(),
            last_found: self.last_found.clone(),
            said: None,
            has_told: Arc::clone(&has_told),
        };
        Running { policy, has_told, _task: AbortOnDropHandle::new(tokio::spawn(subject.look_up_again_and_again(told))) }
    }
}

/// A name that is looked up.
struct Subject {
    app: AppName,
    name: HostPort,
    slots: Arc<Semaphore>,
    resolver: Resolver,
    feed: Feed,
    last_found: LastFound,
    /// What the last lookup came to, as it was told.
    said: Option<Found>,
    has_told: Arc<AtomicBool>,
}

type Found = Result<Vec<SocketAddr>, String>;

impl Subject {
    async fn look_up_again_and_again(mut self, mut told: watch::Receiver<Lookup>) {
        loop {
            let Lookup { interval, family } = *told.borrow_and_update();
            let found = self.look_up(family).await;
            let wait = if found.is_ok() { interval } else { interval.min(RETRY) };
            self.tell(found).await;
            // With a tenth of jitter either way, so that lookups do not march in step.
            let next = Instant::now() + wait.mul_f64(0.9 + 0.2 * fastrand::f64());
            tokio::select! {
                () = sleep_until(next) => {}
                // A new policy is tried at once.
                changed = told.changed() => if changed.is_err() { return },
            }
        }
    }

    /// All addresses of the family, in order.
    async fn look_up(&mut self, family: Family) -> Found {
        let slots = Arc::clone(&self.slots);
        let Ok(_slot) = slots.acquire().await else { return Err("the proxy is stopping".to_owned()) };
        let mut resolving = (self.resolver)(self.name.clone());
        let resolved = match timeout(PATIENCE, &mut resolving).await {
            Ok(resolved) => resolved,
            Err(_) => {
                self.tell(Err(format!("no answer within {PATIENCE:?}"))).await;
                // To give it up would leave its thread waiting, and the next lookup take another.
                resolving.await
            }
        };
        let mut addresses = resolved.map_err(|error| error.to_string())?;
        if addresses.is_empty() {
            return Err("it has no address".to_owned());
        }
        addresses.retain(|address| match family {
            Family::Any => true,
            Family::Ipv4 => address.is_ipv4(),
            Family::Ipv6 => address.is_ipv6(),
        });
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() { Err("it has no address of the family asked for".to_owned()) } else { Ok(addresses) }
    }

    /// Tells the switch, again and again lest it has forgotten the name meanwhile; and the log, where it is news.
    async fn tell(&mut self, found: Found) {
        let Self { app, name, .. } = &*self;
        match &found {
            same if self.said.as_ref() == Some(same) => {}
            Ok(addresses) => {
                tracing::info!(%app, %name, ?addresses, "the name was looked up");
                self.last_found.note(name, addresses);
            }
            Err(problem) if self.said.is_some() => {
                tracing::warn!(%app, %name, %problem, "the name cannot be looked up; what was known of it stays");
            }
            Err(problem) => match self.last_found.of(name) {
                Some(addresses) => {
                    tracing::warn!(%app, %name, %problem, ?addresses, "the name cannot be looked up; its addresses of before are used");
                    self.feed.looked_up(app.clone(), name.clone(), Ok(addresses)).await;
                }
                None => {
                    tracing::warn!(%app, %name, %problem, "the name cannot be looked up; it has no endpoints yet, and is tried again");
                }
            },
        }
        self.feed.looked_up(app.clone(), name.clone(), found.clone()).await;
        self.said = Some(found);
        self.has_told.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use super::*;
    use crate::switch::{Desired, Endpoint, Matching, Policy, Switch, SwitchOptions, Wanted, Whereabouts};

    /// A DNS of one's own: what it says can be changed.
    #[derive(Clone, Default)]
    struct Dns(Arc<Mutex<BTreeMap<String, Vec<SocketAddr>>>>);

    impl Dns {
        fn say(&self, host: &str, addresses: &[&str]) {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            self.0.lock().unwrap().insert(host.to_owned(), addresses);
        }

        fn resolver(&self) -> Resolver {
            let told = self.clone();
            Arc::new(move |name| {
                let found = told.0.lock().unwrap().get(&**name.host()).cloned();
                Box::pin(async move { found.ok_or_else(|| io::Error::other("no such name")) })
            })
        }
    }

    fn switch() -> Switch {
        Switch::start(SwitchOptions { workers: 1, replica: "here".to_owned(), journal: None }).unwrap()
    }

    fn desired(endpoint: &str, family: Family) -> Desired {
        let lookup = Lookup { interval: Duration::from_secs(10), family };
        let wanted = Wanted {
            matching: Matching::default(),
            revisions: [("blue".parse().unwrap(), vec![endpoint.parse::<Whereabouts>().unwrap().into()])].into(),
            active: "blue".parse().unwrap(),
            preview: None,
            policy: Arc::new(Policy { lookup, ..Policy::default() }),
        };
        Desired { apps: [("shop".parse().unwrap(), wanted)].into(), ..Desired::default() }
    }

    fn start(switch: &Switch, dns: &Dns, state_dir: Option<PathBuf>) -> AbortOnDropHandle<()> {
        let looking = look_up(switch.viewer.clone(), switch.feed.clone(), dns.resolver(), state_dir);
        AbortOnDropHandle::new(tokio::spawn(looking))
    }

    fn endpoints(viewer: &Viewer) -> Vec<Arc<Endpoint>> {
        let board = viewer.board();
        board.apps.values().flat_map(|app| app.pools.values()).flat_map(|pool| pool.endpoints().to_vec()).collect()
    }

    fn addresses(viewer: &Viewer) -> Vec<String> {
        endpoints(viewer).iter().map(|endpoint| endpoint.address().to_string()).collect()
    }

    async fn until(viewer: &mut Viewer, what: &str, holds: impl Fn(&Viewer) -> bool) {
        let seen = async {
            while !holds(viewer) {
                assert!(viewer.changed().await, "the switch has stopped");
            }
        };
        let passed = timeout(Duration::from_secs(3600), seen).await;
        passed.unwrap_or_else(|_| panic!("never {what}: {:?}", addresses(viewer)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_name_stands_for_is_followed_and_what_stays_is_kept() {
        let (dns, mut switch) = (Dns::default(), switch());
        dns.say("app.test", &["10.0.0.2:80", "10.0.0.1:80"]);
        let _looking = start(&switch, &dns, None);
        switch.feed.desired(desired("app.test:80", Family::Any)).await.unwrap();
        until(&mut switch.viewer, "both", |viewer| addresses(viewer) == ["10.0.0.1:80", "10.0.0.2:80"]).await;
        let kept = endpoints(&switch.viewer).remove(1);
        dns.say("app.test", &["10.0.0.3:80", "10.0.0.2:80"]);
        until(&mut switch.viewer, "the new ones", |viewer| addresses(viewer) == ["10.0.0.2:80", "10.0.0.3:80"]).await;
        assert!(Arc::ptr_eq(&kept, &endpoints(&switch.viewer)[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_lookup_that_fails_is_tried_again_until_it_does_not() {
        let (dns, mut switch) = (Dns::default(), switch());
        let _looking = start(&switch, &dns, None);
        switch.feed.desired(desired("app.test:80", Family::Any)).await.unwrap();
        let told = |viewer: &Viewer| viewer.board().apps.values().any(|app| app.message().contains("no such name"));
        until(&mut switch.viewer, "told", told).await;
        assert!(endpoints(&switch.viewer).is_empty());
        dns.say("app.test", &["10.0.0.1:80"]);
        until(&mut switch.viewer, "found", |viewer| addresses(viewer) == ["10.0.0.1:80"]).await;
        assert!(!told(&switch.viewer));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_left_and_came_back_unnoticed_is_told_anew() {
        let (dns, mut switch) = (Dns::default(), switch());
        dns.say("app.test", &["10.0.0.1:80"]);
        let _looking = start(&switch, &dns, None);
        let begun = Instant::now();
        for _ in 0..3 {
            switch.feed.desired(desired("app.test:80", Family::Any)).await.unwrap();
            until(&mut switch.viewer, "found", |viewer| addresses(viewer) == ["10.0.0.1:80"]).await;
            switch.feed.desired(Desired::default()).await.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "not only with the next lookup");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_family_that_is_asked_for_counts() {
        let (dns, mut switch) = (Dns::default(), switch());
        dns.say("app.test", &["10.0.0.1:80", "[::1]:80"]);
        let _looking = start(&switch, &dns, None);
        switch.feed.desired(desired("app.test:80", Family::Ipv6)).await.unwrap();
        until(&mut switch.viewer, "one", |viewer| addresses(viewer) == ["[::1]:80"]).await;
        switch.feed.desired(desired("app.test:80", Family::Ipv4)).await.unwrap();
        until(&mut switch.viewer, "the other", |viewer| addresses(viewer) == ["10.0.0.1:80"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_hangs_is_told_of_and_taken_when_it_comes_after_all() {
        let mut switch = switch();
        let (answer, asked) = watch::channel(None);
        let hanging: Resolver = Arc::new(move |_| {
            let mut asked = asked.clone();
            Box::pin(async move {
                let answered = asked.wait_for(Option::is_some).await.map_err(io::Error::other)?;
                Ok(vec![answered.unwrap()])
            })
        });
        let looking = look_up(switch.viewer.clone(), switch.feed.clone(), hanging, None);
        let _looking = AbortOnDropHandle::new(tokio::spawn(looking));
        switch.feed.desired(desired("app.test:80", Family::Any)).await.unwrap();
        let told =
            |viewer: &Viewer| viewer.board().apps.values().any(|app| app.message().contains("no answer within 5s"));
        until(&mut switch.viewer, "told", told).await;
        answer.send_replace(Some("10.0.0.1:80".parse().unwrap()));
        until(&mut switch.viewer, "found", |viewer| addresses(viewer) == ["10.0.0.1:80"]).await;
    }

    #[tokio::test]
    async fn a_start_without_dns_goes_on_with_what_was_found_last() {
        let (dns, dir) = (Dns::default(), tempfile::tempdir().unwrap());
        dns.say("app.test", &["10.0.0.1:80"]);
        let file = dir.path().join("names.json");
        {
            let mut switch = switch();
            let _looking = start(&switch, &dns, Some(dir.path().to_owned()));
            switch.feed.desired(desired("app.test:80", Family::Any)).await.unwrap();
            until(&mut switch.viewer, "found", |viewer| addresses(viewer) == ["10.0.0.1:80"]).await;
            while !file.exists() {
                tokio::task::yield_now().await;
            }
        }
        let mut switch = switch();
        let _looking = start(&switch, &Dns::default(), Some(dir.path().to_owned()));
        switch.feed.desired(desired("app.test:80", Family::Any)).await.unwrap();
        until(&mut switch.viewer, "remembered", |viewer| addresses(viewer) == ["10.0.0.1:80"]).await;
        let told =
            |viewer: &Viewer| viewer.board().apps.values().any(|app| app.message().contains("its last addresses stay"));
        until(&mut switch.viewer, "told", told).await;
    }
}
