//! From the objects of one app to what the switch is told of it. Pure: the same objects give the same [`Sighting`], in
//! whatever order they came to be known, because the watches of different kinds have no order among each other.
//!
//! | File | Reads roles off |
//! |---|---|
//! | `blue_green` | the selectors of a Rollout's two Services, and its status |
//! | `canary` | a Rollout's weights, or its steps |
//! | `services` | the selectors of two Services |
//!
//! Roles are told by hash; `revisions` finds the pods of every hash that lives, also of those that have no role, and
//! `pools` where each pod is reached: the pools stand before a role moves, and a flip waits for nothing.

mod blue_green;
mod canary;
mod pools;
mod revisions;
mod services;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use kube::core::Selector;

pub(super) use self::services::Learnt;
use super::{
    Objects, Target, annotation,
    objects::{HASH, Labels, Pod, ReplicaSet, Rollout, Service},
};
use crate::switch::{NotAName, Revision, Sighting};

/// Stands for the pods of a Service that has no hash yet: before the first deploy is through, it selects them all.
pub(super) const UNHASHED: &str = "unhashed";

/// An object that an app stands on.
#[derive(Debug)]
pub(super) enum Seen<'a, T> {
    /// It is there.
    Here(&'a T),
    /// It was deleted; this is how it was last.
    Gone(&'a T),
    /// It was never there.
    Never,
}

impl<'a, T> Seen<'a, T> {
    pub(super) fn last(&self) -> Option<&'a T> {
        match self {
            Self::Here(object) | Self::Gone(object) => Some(object),
            Self::Never => None,
        }
    }
}

/// All that is known of one app's objects.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) target: &'a Target,
    pub(super) rollout: Seen<'a, Rollout>,
    /// The Service that stands for live traffic.
    pub(super) active: Seen<'a, Service>,
    /// The Service that stands for the candidate.
    pub(super) preview: Seen<'a, Service>,
    /// The ReplicaSets of the namespace that have a hash.
    pub(super) replica_sets: Vec<&'a ReplicaSet>,
    /// The pods of the app's [`scope`].
    pub(super) pods: Vec<&'a Pod>,
    /// What the two Services have taught so far.
    pub(super) learnt: &'a Learnt,
}

/// The Services an app stands on: the active one, and the preview one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceNames {
    pub(super) active: Option<String>,
    pub(super) preview: Option<String>,
}

impl ServiceNames {
    /// Those of an app, as far as its Rollout is known.
    pub(super) fn of(target: &Target, rollout: Option<&Rollout>) -> Self {
        let named = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
        if let Objects::Services { active, preview } = &target.objects {
            return Self { active: named(active), preview: named(preview) };
        }
        let Some(strategy) = rollout.map(|rollout| &rollout.spec.strategy) else { return Self::default() };
        if let Some(blue_green) = &strategy.blue_green {
            let preview = blue_green.preview_service.as_ref().and_then(named);
            return Self { active: named(&blue_green.active_service), preview };
        }
        let Some(canary) = &strategy.canary else { return Self::default() };
        let ping = canary.ping_pong.as_ref().map(|both| &both.ping_service);
        Self { active: canary.stable_service.as_ref().or(ping).and_then(named), preview: None }
    }
}

/// What the switch is told. An error says why nothing can be said; what was said last holds then.
pub(super) fn sight(scene: &Scene<'_>, now: Timestamp) -> Result<Sighting, String> {
    let mut alarms = scene.alarms();
    let mut sighting = match (&scene.target.objects, scene.rollout.last()) {
        (Objects::Services { .. }, _) => services::sight(scene)?,
        (Objects::Rollout(name), None) => return Err(format!("there is no Rollout `{name}`")),
        (Objects::Rollout(name), Some(rollout)) => match &rollout.spec.strategy {
            strategy if strategy.blue_green.is_some() => blue_green::sight(scene, rollout)?,
            strategy if let Some(canary) = &strategy.canary => canary::sight(scene, rollout, canary)?,
            _ => return Err(format!("the Rollout `{name}` has neither a blue-green nor a canary strategy")),
        },
    };
    if let Some(value) = scene.rollout.last().and_then(|rollout| rollout.annotation(annotation::RETURNED)) {
        match annotation::read(value, now) {
            Ok(returned) => sighting.returned = Some(returned),
            Err(unreadable) => alarms.push(unreadable.to_string()),
        }
    }
    alarms.append(&mut sighting.alarms);
    Ok(Sighting { alarms, ..sighting })
}

/// Which pods have to be known, as a label selector: those of every revision. `None` where that cannot be told yet.
pub(super) fn scope(scene: &Scene<'_>) -> Option<String> {
    if let Some(active) = scene.active.last().filter(|active| !active.external && !active.selector.is_empty()) {
        let (plain, mark) = match scene.target.objects {
            Objects::Services { .. } => services::plain(active, scene.learnt)?,
            Objects::Rollout(_) => (without(&active.selector, [HASH]), HASH),
        };
        let pairs = plain.iter().map(|(key, value)| format!("{key}={value}"));
        // Before the first deploy is through, pods count that have no hash.
        let marked = matches!(scene.target.objects, Objects::Services { .. }) || plain.is_empty();
        return Some(pairs.chain(marked.then(|| mark.to_owned())).collect::<Vec<_>>().join(","));
    }
    let canary_alone = scene.rollout.last().filter(|rollout| rollout.spec.strategy.blue_green.is_none());
    let of_rollout = canary_alone.filter(|_| ServiceNames::of(scene.target, canary_alone).active.is_none());
    let selector = of_rollout?.spec.selector.clone()?;
    Some(Selector::try_from(selector).ok()?.to_string())
}

impl Scene<'_> {
    /// What is wrong with the objects themselves.
    fn alarms(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        if let (Seen::Gone(_), Objects::Rollout(name)) = (&self.rollout, &self.target.objects) {
            alarms.push(format!("the Rollout `{name}` was deleted; what it said last holds"));
        }
        let names = ServiceNames::of(self.target, self.rollout.last());
        for (seen, name) in [(&self.active, names.active), (&self.preview, names.preview)] {
            let Some(name) = name else { continue };
            match seen {
                Seen::Gone(_) => alarms.push(format!("the Service `{name}` was deleted; what it said last holds")),
                Seen::Never => alarms.push(format!("there is no Service `{name}`")),
                Seen::Here(_) => {}
            }
        }
        if self.active.last().is_some_and(|active| active.sticky) {
            alarms.push(
                "the Service's sessionAffinity is not taken over; to keep each client on one endpoint use \
                 `balance: { policy: consistent_hash, hash: { client_ip: true } }`"
                    .to_owned(),
            );
        }
        alarms
    }

    /// The Service that stands for live traffic.
    fn active_service(&self) -> Result<&Service, String> {
        let name = ServiceNames::of(self.target, self.rollout.last()).active.unwrap_or_default();
        let service = self.active.last().ok_or_else(|| format!("there is no Service `{name}`"))?;
        if service.external {
            return Err(format!("the Service `{name}` is of type ExternalName, so there are no pods behind it"));
        }
        if service.selector.is_empty() {
            return Err(format!("the Service `{name}` has no selector, so it cannot be told which pods are behind it"));
        }
        Ok(service)
    }
}

/// The hash in the selector of a Service, if it has one.
fn hash_of<'a>(service: &Seen<'a, Service>) -> Option<&'a str> {
    given(service.last()?.selector.get(HASH)?)
}

/// A text that may be left empty.
fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn revision(text: &str) -> Result<Revision, String> {
    text.parse().map_err(|error: NotAName| error.to_string())
}

fn without<'a>(selector: &Labels, keys: impl IntoIterator<Item = &'a str>) -> Labels {
    let mut plain = selector.clone();
    for key in keys {
        plain.remove(key);
    }
    plain
}
