//! The revisions of a Rollout: its ReplicaSets, and the pods of each.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    super::objects::{HASH, Labels, Pod, ReplicaSet, Rollout},
    Scene, Seen,
    pools::{Door, Pool},
    revision,
};
use crate::switch::{Revision, Sighted};

/// A Rollout's revisions by their hashes.
pub(super) struct Revisions<'a> {
    sets: BTreeMap<&'a str, &'a ReplicaSet>,
    pools: BTreeMap<&'a str, Pool>,
}

impl<'a> Revisions<'a> {
    /// The revisions of this Rollout, with those of their pods whose labels are these.
    pub(super) fn of(scene: &Scene<'a>, rollout: &Rollout, door: &Door, plain: &Labels) -> Self {
        let of_uid: BTreeMap<&str, &ReplicaSet> = scene.replica_sets.iter().map(|set| (&*set.uid, *set)).collect();
        let orphaned = matches!(scene.rollout, Seen::Gone(_));
        let owned = |set: &ReplicaSet| match &set.owner {
            Some(owner) => owner == rollout.uid(),
            // The ReplicaSets of a Rollout that was deleted alone.
            None => orphaned,
        };
        let name = rollout.metadata.name.as_deref().unwrap_or_default();
        let mut pools: BTreeMap<&str, Pool> = BTreeMap::new();
        for pod in &scene.pods {
            let Some((owner, hash)) = pod.shape.owner.as_ref().zip(pod.shape.labels.get(HASH)) else { continue };
            let ours = match of_uid.get(&*owner.uid) {
                Some(set) => owned(set) && set.hash == *hash,
                // Pods may be heard of before their ReplicaSet: by its name it is the Rollout's.
                None => owner.name == format!("{name}-{hash}"),
            };
            if ours && pod.shape.fits(plain) {
                pools.entry(hash).or_default().add(pod, door);
            }
        }
        let sets = scene.replica_sets.iter().copied().filter(|set| owned(set));
        Self { sets: sets.map(|set| (&*set.hash, set)).collect(), pools }
    }

    /// How many pods of this revision are ready.
    pub(super) fn ready(&self, hash: &str) -> usize {
        self.pools.get(hash).map_or(0, Pool::ready)
    }

    /// The revision to return to: the newest of those before the active one that still lives, and when it is to be taken down.
    /// Where that time has passed, whoever does it is away.
    ///
    /// Later ones never carried live traffic, or were taken from it.
    pub(super) fn previous(&self, active: &str) -> Option<(&'a str, Option<Timestamp>)> {
        let number = self.sets.get(active)?.number;
        let lives = |set: &&&ReplicaSet| set.replicas > 0;
        let before = self.sets.values().filter(|set| set.number < number).filter(lives);
        before.max_by_key(|set| set.number).map(|set| (&*set.hash, set.deadline))
    }

    /// What is wrong with the pools of these revisions.
    pub(super) fn alarms(&self, roles: &[&str], door: &Door) -> Vec<String> {
        roles.iter().filter_map(|hash| self.pools.get(hash)?.alarm(hash, door)).collect()
    }

    /// All that live or have a role.
    pub(super) fn sighted(mut self, roles: &[&str]) -> Result<BTreeMap<Revision, Sighted>, String> {
        let mut sighted = BTreeMap::new();
        for hash in roles {
            let pool = self.pools.remove(*hash).unwrap_or_default();
            sighted.insert(revision(hash)?, self.one(hash, pool));
        }
        let living = self.sets.values().filter(|set| set.replicas > 0).map(|set| &*set.hash);
        for hash in living.chain(self.pools.keys().copied()).collect::<Vec<_>>() {
            let pool = self.pools.remove(hash).unwrap_or_default();
            // A label may be anything; what cannot be named has no role.
            if let Ok(revision) = revision(hash)
                && !sighted.contains_key(&revision)
            {
                sighted.insert(revision, self.one(hash, pool));
            }
        }
        Ok(sighted)
    }

    fn one(&self, hash: &str, pool: Pool) -> Sighted {
        let mut labels = BTreeMap::new();
        if let Some(set) = self.sets.get(hash) {
            labels.insert("replicaset".to_owned(), set.name.clone());
            labels.insert("image".to_owned(), set.images.join(","));
            if set.number > 0 {
                labels.insert("number".to_owned(), set.number.to_string());
            }
        }
        Sighted { endpoints: pool.into_endpoints(), labels }
    }
}

/// The pods that a selector without a hash stands for, whoever they belong to.
pub(super) fn unhashed(pods: &[&Pod], door: &Door, plain: &Labels) -> (Pool, Labels) {
    let mut pool = Pool::default();
    let mut labels = Labels::new();
    for pod in pods.iter().filter(|pod| pod.shape.fits(plain)) {
        pool.add(pod, door);
        labels.insert("image".to_owned(), pod.shape.images.join(","));
    }
    (pool, labels)
}
