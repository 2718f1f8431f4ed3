//! The roles as two Services tell them, whoever moves their selectors: an operator, a pipeline, somebody with `kubectl
//! patch`. A revision is what one label of the pods says: `rollouts-pod-template-hash` where a selector has it, else the
//! label whose value differs between the two Services, e.g. `version` or `color`.
//!
//! After a promotion by hand both selectors are often the same, and no label differs; so what was learnt is remembered.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::objects::{HASH, Labels, Service},
    Scene, given,
    pools::{Door, Pool},
    revision, without,
};
use crate::switch::{Sighted, Sighting};

/// Labels that commonly tell revisions apart, the most telling first.
const COMMON: [&str; 8] =
    [HASH, "pod-template-hash", "version", "app.kubernetes.io/version", "color", "colour", "revision", "slot"];

/// What the selectors of two Services have taught.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Learnt {
    /// The labels that were seen to differ. Revisions are named after the first.
    labels: Vec<String>,
    /// The revisions that have had a role.
    roles: BTreeSet<String>,
}

impl Learnt {
    /// Takes in how the two selectors stand.
    pub(in super::super) fn learn(&mut self, active: &Service, preview: Option<&Service>) {
        let hashed = |service: &Service| service.selector.contains_key(HASH);
        if hashed(active) || preview.is_some_and(hashed) {
            self.labels = vec![HASH.to_owned()];
        } else if let Some(preview) = preview {
            self.differ(active, preview);
        }
        let Some(label) = self.label(active) else { return };
        let named = [Some(active), preview].into_iter().flatten().filter_map(|service| service.selector.get(label));
        let named: Vec<String> = named.cloned().collect();
        self.roles.extend(named);
    }

    fn differ(&mut self, active: &Service, preview: &Service) {
        let differs = |(key, value): &(&String, &String)| {
            !self.labels.contains(key) && preview.selector.get(*key).is_some_and(|other| other != *value)
        };
        let mut differing: Vec<String> = active.selector.iter().filter(differs).map(|(key, _)| key.clone()).collect();
        differing.sort_by_key(|key| COMMON.iter().position(|common| common == key).unwrap_or(COMMON.len()));
        self.labels.append(&mut differing);
    }

    /// The label that revisions are named after. Before any was seen to differ, a common one is the best guess.
    fn label<'a>(&'a self, active: &Service) -> Option<&'a str> {
        let common = || COMMON.into_iter().find(|common| active.selector.contains_key(*common));
        self.labels.first().map(String::as_str).or_else(common)
    }
}

/// What all revisions have in common of a selector, and the label that tells them apart.
pub(super) fn plain<'a>(active: &Service, learnt: &'a Learnt) -> Option<(Labels, &'a str)> {
    let label = learnt.label(active)?;
    Some((without(&active.selector, learnt.labels.iter().map(String::as_str).chain([label])), label))
}

pub(super) fn sight(scene: &Scene<'_>) -> Result<Sighting, String> {
    let service = scene.active_service()?;
    let door = Door::of(service, scene.target.port.as_ref())?;
    let (plain, label) = plain(service, scene.learnt).ok_or_else(|| {
        format!(
            "it cannot be told which label of the Service `{}` tells revisions apart; let it differ between the two \
             Services, or call it `version`",
            service.name
        )
    })?;
    let active = service.selector.get(label).and_then(|value| given(value)).ok_or_else(|| {
        format!("the Service `{}` has lost the label `{label}`, which tells revisions apart", service.name)
    })?;
    let of_preview = scene.preview.last().filter(|preview| !preview.selector.is_empty());
    let newest = of_preview.and_then(|preview| given(preview.selector.get(label)?));

    let mut pools: BTreeMap<&str, (Pool, Labels)> = BTreeMap::new();
    for pod in &scene.pods {
        let Some(value) = pod.shape.labels.get(label).and_then(|value| given(value)) else { continue };
        let fits = match (value == active, of_preview.filter(|_| newest == Some(value))) {
            (true, _) => pod.shape.fits(&service.selector),
            (false, Some(preview)) => pod.shape.fits(&preview.selector),
            // Where the label is all there is, others may use it for something else.
            (false, None) => pod.shape.fits(&plain) && (!plain.is_empty() || scene.learnt.roles.contains(value)),
        };
        if fits {
            let (pool, labels) = pools.entry(value).or_default();
            pool.add(pod, &door);
            labels.insert("image".to_owned(), pod.shape.images.join(","));
        }
    }
    let preview = newest.filter(|newest| *newest != active);
    let roles = [active].into_iter().chain(preview);
    let alarms = roles.clone().filter_map(|role| pools.get(role)?.0.alarm(role, &door)).collect();
    for role in roles {
        pools.entry(role).or_default();
    }
    let sighted = |(value, (pool, labels)): (&str, (Pool, Labels))| {
        // A label may be anything; what cannot be named has no role.
        Some((revision(value).ok()?, Sighted { endpoints: pool.into_endpoints(), labels }))
    };
    Ok(Sighting {
        revisions: pools.into_iter().filter_map(sighted).collect(),
        active: Some(revision(active)?),
        preview: preview.map(revision).transpose()?,
        alarms,
        ..Sighting::default()
    })
}
