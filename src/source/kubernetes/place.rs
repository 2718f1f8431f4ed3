//! One namespace, with the objects that all apps in it share; and whatever is watched, with the watch that tells of it.

use kube::{
    Client,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::watcher::Event,
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    objects::{HASH, Pod, ReplicaSet, Rollout, Service},
    store::{Object, Store, Touched},
    watch::{Fare, News, Range, watch},
    wire,
};
use crate::switch::AppName;

/// A piece of news, and where it is from.
pub(super) struct Heard {
    /// Which watch tells it: one that was replaced has nothing more to say.
    pub(super) watch: u64,
    pub(super) origin: Origin,
}

/// What a piece of news is about: the objects of a namespace, or the pods of an app.
pub(super) enum Origin {
    Rollout(String, Box<News<Rollout>>),
    Service(String, News<Service>),
    ReplicaSet(String, News<ReplicaSet>),
    Pod(AppName, News<Pod>),
}

/// What a piece of news leads to.
pub(super) struct Taken {
    pub(super) touched: Touched,
    /// Whether our credentials are no good.
    pub(super) refused: bool,
}

/// Starts watches.
#[derive(Clone)]
pub(super) struct Starter {
    pub(super) client: Client,
    pub(super) told: mpsc::Sender<Heard>,
}

/// Objects, and the watch that tells of them.
pub(super) struct Watched<T> {
    pub(super) store: Store<T>,
    pub(super) fare: Fare,
    watch: Option<(u64, AbortOnDropHandle<()>)>,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { store: Store::default(), fare: Fare::default(), watch: None }
    }
}

impl<T: Object + Send + 'static> Watched<T> {
    /// Begins to watch, in place of whatever was watched before. What is known stays until the first list is whole.
    fn start<K>(
        &mut self,
        starter: &Starter,
        range: Range,
        cut: impl FnMut(K) -> Option<T> + Send + 'static,
        origin: impl Fn(News<T>) -> Origin + Send + Sync + 'static,
    ) where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let number = fastrand::u64(..);
        let tell = move |news| Heard { watch: number, origin: origin(news) };
        self.watch = Some((number, watch::<K, _, _>(&starter.client, range, cut, starter.told.clone(), tell)));
    }

    /// Takes in what a watch tells; `None` from one that was replaced.
    pub(super) fn take(&mut self, watch: u64, news: News<T>) -> Option<Taken> {
        self.watch.as_ref().filter(|(ours, _)| *ours == watch)?;
        let mut refused = false;
        let touched = match news {
            News::Event(event) => {
                // A list begins before it is known whether we may have it.
                let well = !matches!(event, Event::Init) && self.fare.is_well();
                let touched = self.store.take(event);
                if well { Touched::All } else { touched }
            }
            News::Recovered => {
                if self.fare.is_well() {
                    Touched::All
                } else {
                    Touched::Nothing
                }
            }
            News::Failed(failure) => {
                refused = failure.unknown_caller;
                if self.fare.fails(failure) { Touched::All } else { Touched::Nothing }
            }
        };
        Some(Taken { touched, refused })
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    pub(super) fn end_watch(&mut self) {
        self.watch = None;
    }
}

impl Watched<Pod> {
    /// Begins to watch the pods with these labels for this app.
    pub(super) fn start_for(&mut self, starter: &Starter, range: Range, app: AppName) {
        let mut shapes = super::store::Shapes::default();
        let cut = move |pod: wire::Pod| Some(shapes.share(pod.cut()));
        self.start(starter, range, cut, move |news| Origin::Pod(app.clone(), news));
    }
}

/// One namespace.
#[derive(Default)]
pub(super) struct Place {
    pub(super) rollouts: Watched<Rollout>,
    pub(super) services: Watched<Service>,
    pub(super) replica_sets: Watched<ReplicaSet>,
}

impl Place {
    /// Begins to watch what is not watched yet; what only Rollouts need, only where there are any.
    pub(super) fn start(&mut self, starter: &Starter, namespace: &str, rollouts: bool) {
        let range = |labels: &str| Range { namespace: namespace.to_owned(), labels: labels.to_owned() };
        let here = || namespace.to_owned();
        if !self.services.is_watched() {
            let here = here();
            let origin = move |news| Origin::Service(here.clone(), news);
            self.services.start(starter, range(""), |service: wire::Service| Some(service.cut()), origin);
        }
        if !rollouts {
            self.rollouts = Watched::default();
            self.replica_sets = Watched::default();
            return;
        }
        if !self.rollouts.is_watched() {
            let here = here();
            self.rollouts.start(starter, range(""), sound, move |news| Origin::Rollout(here.clone(), Box::new(news)));
        }
        if !self.replica_sets.is_watched() {
            let here = here();
            let origin = move |news| Origin::ReplicaSet(here.clone(), news);
            self.replica_sets.start(starter, range(HASH), |set: wire::ReplicaSet| Some(set.cut()), origin);
        }
    }

    pub(super) fn end_watches(&mut self) {
        self.rollouts.end_watch();
        self.services.end_watch();
        self.replica_sets.end_watch();
    }
}

/// A Rollout that makes sense. Another, which a cluster may hold that does not check them, is passed over, and hides none.
fn sound(DeserializeGuard(rollout): DeserializeGuard<Rollout>) -> Option<Rollout> {
    match rollout {
        Ok(rollout) => Some(rollout.slim()),
        Err(invalid) => {
            let (namespace, name) = (invalid.metadata.namespace.as_deref(), invalid.metadata.name.as_deref());
            tracing::warn!(namespace, name, error = invalid.error, "a Rollout makes no sense, and is passed over");
            None
        }
    }
}
