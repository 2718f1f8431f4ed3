//! One app: which objects it stands on, how they were last, and what the switch was told of it.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use super::{
    Objects, Target,
    model::{self, Learnt, Scene, Seen, ServiceNames},
    objects::{Pod, Rollout, Service},
    place::{Place, Starter, Watched},
    store::{Object, Store},
    watch::Range,
};
use crate::switch::{AppName, Sighting};

pub(super) struct App {
    pub(super) target: Target,
    pub(super) namespace: String,
    pub(super) pods: Watched<Pod>,
    /// The labels of the pods that are watched.
    scope: Option<String>,
    last: Last,
    learnt: Learnt,
    /// What the switch was told last.
    told: Told,
}

/// How the app's objects were last; deleted ones too.
#[derive(Default)]
struct Last {
    rollout: Option<Arc<Rollout>>,
    active: Option<Arc<Service>>,
    preview: Option<Arc<Service>>,
}

/// What the switch is told: what is seen, and why that may not be all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    pub(super) sighting: Option<Sighting>,
    pub(super) out_of_sight: Option<String>,
}

impl App {
    pub(super) fn new(target: Target, own_namespace: &str) -> Self {
        Self {
            namespace: target.namespace.clone().unwrap_or_else(|| own_namespace.to_owned()),
            target,
            pods: Watched::default(),
            scope: None,
            last: Last::default(),
            learnt: Learnt::default(),
            told: Told::default(),
        }
    }

    pub(super) fn follows_rollout(&self) -> bool {
        matches!(self.target.objects, Objects::Rollout(_))
    }

    /// Whether one of these is the name of its Rollout or of one of its Services, or the identity of its Rollout.
    pub(super) fn minds(&self, concerned: &BTreeSet<String>) -> bool {
        let rollout = self.last.rollout.as_deref();
        let ServiceNames { active, preview } = ServiceNames::of(&self.target, rollout);
        let named = match &self.target.objects {
            Objects::Rollout(name) => Some(&**name),
            Objects::Services { .. } => None,
        };
        let uid = rollout.map(Rollout::uid);
        let names = [active.as_deref(), preview.as_deref(), named, uid];
        // A ReplicaSet that was left to itself might be anybody's.
        names.into_iter().flatten().any(|name| concerned.contains(name)) || concerned.contains("")
    }

    /// Looks at the objects as they are now, sees to it that the right pods are watched, and gives what the switch has to
    /// be told, if anything. An alarm is told with what is seen.
    pub(super) fn look(&mut self, name: &AppName, place: &Place, starter: &Starter, alarm: Option<&String>) -> Told {
        let mut seen = self.see(name, place, starter);
        if let Ok(Some(sighting)) = &mut seen {
            sighting.alarms.extend(alarm.cloned());
        }
        let trouble = self.trouble(place).map(str::to_owned);
        let told = match seen {
            Ok(sighting) => Told { sighting, out_of_sight: trouble },
            Err(why) => Told { sighting: None, out_of_sight: trouble.or(Some(why)) },
        };
        self.news_in(told)
    }

    /// What is seen; nothing while something has not been listed yet.
    fn see(&mut self, name: &AppName, place: &Place, starter: &Starter) -> Result<Option<Sighting>, String> {
        let rollouts = place.rollouts.store.is_whole() && place.replica_sets.store.is_whole();
        if !place.services.store.is_whole() || self.follows_rollout() && !rollouts {
            return Ok(None);
        }
        let Self { target, namespace, pods, scope, last, learnt, .. } = self;
        let named = match &target.objects {
            Objects::Rollout(name) => Some(&**name),
            Objects::Services { .. } => None,
        };
        let rollout = seen(&place.rollouts.store, named, &mut last.rollout);
        let ServiceNames { active, preview } = ServiceNames::of(target, rollout.last());
        let active = seen(&place.services.store, active.as_deref(), &mut last.active);
        let preview = seen(&place.services.store, preview.as_deref(), &mut last.preview);
        if let (None, Some(active)) = (named, active.last()) {
            learnt.learn(active, preview.last());
        }
        let replica_sets = place.replica_sets.store.iter().collect();
        let scene = Scene { target, rollout, active, preview, replica_sets, pods: pods.store.iter().collect(), learnt };
        let needed = model::scope(&scene);
        let seen = model::sight(&scene, Timestamp::now());
        if needed.is_some() && (*scope != needed || !pods.is_watched()) {
            let range = Range { namespace: namespace.clone(), labels: needed.clone().unwrap_or_default() };
            pods.start_for(starter, range, name.clone());
            *scope = needed;
        }
        if pods.store.is_whole() || seen.is_err() { seen.map(Some) } else { Ok(None) }
    }

    /// What is wrong with the watches it needs.
    fn trouble<'a>(&'a self, place: &'a Place) -> Option<&'a str> {
        let of_rollouts = [place.rollouts.fare.trouble(), place.replica_sets.fare.trouble()];
        let of_rollouts = of_rollouts.into_iter().filter(|_| self.follows_rollout());
        of_rollouts.chain([place.services.fare.trouble(), self.pods.fare.trouble()]).flatten().next()
    }

    /// What of this the switch does not know. Every sighting ends an absence, so it is said again if that goes on.
    fn news_in(&mut self, now: Told) -> Told {
        let back = self.told.out_of_sight.is_some() && now.out_of_sight.is_none();
        let sighting = now.sighting.filter(|sighting| back || self.told.sighting.as_ref() != Some(sighting));
        let gone = sighting.is_some() || self.told.out_of_sight != now.out_of_sight;
        if sighting.is_some() {
            self.told.sighting.clone_from(&sighting);
        }
        self.told.out_of_sight.clone_from(&now.out_of_sight);
        Told { sighting, out_of_sight: now.out_of_sight.filter(|_| gone) }
    }

    /// Whether the switch was told no other.
    pub(super) fn is_in_sight(&self) -> bool {
        self.told.out_of_sight.is_none()
    }

    /// Has the same sighting told again, though nothing may have changed.
    pub(super) fn forget_what_was_told(&mut self) {
        self.told.sighting = None;
    }

    /// Stops watching, to begin anew in another way. What is known stays until then.
    pub(super) fn end_watch(&mut self) {
        self.pods.end_watch();
    }
}

/// How an object is now, or was last.
fn seen<'a, T: Object>(store: &'a Store<T>, name: Option<&str>, last: &'a mut Option<Arc<T>>) -> Seen<'a, T> {
    if let Some(object) = name.and_then(|name| store.get(name)) {
        *last = Some(Arc::clone(object));
        return Seen::Here(object);
    }
    // An object of another name is another object.
    last.take_if(|last| name != Some(last.name()));
    last.as_deref().map_or(Seen::Never, Seen::Gone)
}
