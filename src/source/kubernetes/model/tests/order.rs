//! Watches of different kinds have no order among each other. What is said in the end depends on the objects alone, and on
//! the way there no flip leads to pods that are not known yet while others wait.

use std::collections::VecDeque;

use kube::runtime::watcher::Event;
use proptest::prelude::*;

use super::{
    super::super::store::{Object, Store},
    *,
};

/// What happens, kind by kind, in the order of each kind: a first deploy, an update, its promotion, and the next update,
/// whose candidate is given up.
struct Life {
    rollout: VecDeque<Rollout>,
    active: VecDeque<Service>,
    preview: VecDeque<Service>,
    replica_sets: VecDeque<ReplicaSet>,
    pods: VecDeque<Pod>,
}

/// What is known of it.
#[derive(Default)]
struct Known {
    rollouts: Store<Rollout>,
    services: Store<Service>,
    replica_sets: Store<ReplicaSet>,
    pods: Store<Pod>,
}

fn life() -> Life {
    let spec = json!({ "strategy": { "blueGreen": { "activeService": "a", "previewService": "p" } } });
    let status = |current: &str, stable: &str, active: &str, preview: &str, abort: bool| {
        let selectors = json!({ "activeSelector": active, "previewSelector": preview });
        rollout(
            spec.clone(),
            json!({ "currentPodHash": current, "stableRS": stable, "blueGreen": selectors, "abort": abort }),
        )
    };
    let selects = |name: &str, hash: &str| {
        let mut selector = json!({ "app": "shop" });
        if !hash.is_empty() {
            selector["rollouts-pod-template-hash"] = hash.into();
        }
        service(name, selector)
    };
    let late = |hash: &str, address: &str| [changed(hash, address, unready()), pod(hash, address)];
    Life {
        rollout: [
            status("", "", "", "", false),
            status("h1", "h1", "", "h1", false),
            status("h1", "h1", "h1", "h1", false),
            status("h2", "h1", "h1", "h2", false),
            status("h2", "h2", "h2", "h2", false),
            status("h3", "h2", "h2", "h3", false),
            status("h3", "h2", "h2", "h3", true),
        ]
        .into(),
        active: ["", "h1", "h2"].map(|hash| selects("a", hash)).into(),
        preview: ["", "h1", "h2", "h3"].map(|hash| selects("p", hash)).into(),
        replica_sets: [
            set("h1", 1, 0),
            set("h1", 1, 2),
            set("h2", 2, 0),
            set("h2", 2, 2),
            set_of("ro-1", "h1", 1, 2, Some("2026-01-01T12:10:00Z")),
            set("h3", 3, 2),
        ]
        .into(),
        pods: [
            late("h1", "10.0.0.1"),
            late("h1", "10.0.0.2"),
            late("h2", "10.0.0.3"),
            late("h2", "10.0.0.4"),
            late("h3", "10.0.0.5"),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

impl Known {
    /// Takes the next event of this kind, or of the next kind that has any. `false` when there are none.
    fn take_next(&mut self, life: &mut Life, kind: usize) -> bool {
        fn hear<T: Object>(store: &mut Store<T>, events: &mut VecDeque<T>) -> bool {
            events.pop_front().map(|object| store.take(Event::Apply(object))).is_some()
        }
        (kind..kind + 5).any(|kind| match kind % 5 {
            0 => hear(&mut self.rollouts, &mut life.rollout),
            1 => hear(&mut self.services, &mut life.active),
            2 => hear(&mut self.services, &mut life.preview),
            3 => hear(&mut self.replica_sets, &mut life.replica_sets),
            _ => hear(&mut self.pods, &mut life.pods),
        })
    }

    fn sight(&self) -> Option<Sighting> {
        let target = Target { namespace: None, objects: Objects::Rollout("shop".to_owned()), port: None };
        let found = |name: &str| self.services.get(name).map_or(Seen::Never, |service| Seen::Here(&**service));
        let scene = Scene {
            target: &target,
            rollout: self.rollouts.get("shop").map_or(Seen::Never, |rollout| Seen::Here(&**rollout)),
            active: found("a"),
            preview: found("p"),
            replica_sets: self.replica_sets.iter().collect(),
            pods: self.pods.iter().collect(),
            learnt: &Learnt::default(),
        };
        sight(&scene, now()).ok()
    }
}

fn in_order() -> Sighting {
    let (mut life, mut known) = (life(), Known::default());
    while known.take_next(&mut life, 0) {}
    known.sight().expect("all is there")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_in_the_end_depends_on_the_objects_alone(kinds in prop::collection::vec(0_usize..5, 40)) {
        let (mut life, mut known) = (life(), Known::default());
        for kind in kinds {
            known.take_next(&mut life, kind);
        }
        while known.take_next(&mut life, 0) {}
        let sighting = known.sight().expect("all is there");
        prop_assert_eq!(&sighting, &in_order());
        prop_assert_eq!(roles(&sighting), (Some("h2"), Some("h3"), true));
        prop_assert_eq!(sighting.previous.as_ref().map(Revision::as_str), Some("h1"));
    }

    /// Pods first, as Kubernetes has it: Argo Rollouts moves a Service only once they are available. What else is late does
    /// not empty the pool that live traffic goes to.
    #[test]
    fn no_order_of_the_rest_empties_the_active_pool(kinds in prop::collection::vec(0_usize..4, 60)) {
        let (mut life, mut known) = (life(), Known::default());
        while known.take_next(&mut life, 4) && !life.pods.is_empty() {}
        for kind in kinds {
            known.take_next(&mut life, kind);
            let Some(sighting) = known.sight() else { continue };
            let active = sighting.active.as_ref().expect("somebody is active");
            prop_assert!(!endpoints(&sighting, active.as_str()).is_empty(), "{:#?}", sighting);
        }
    }
}
