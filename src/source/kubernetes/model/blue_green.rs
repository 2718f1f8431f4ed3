//! The roles of a blue-green Rollout. The hash in the active Service's selector decides: it is written before any status
//! that reports it, and no slice of endpoints need follow.

use super::{
    super::objects::{HASH, Rollout, RolloutStatus},
    Scene, UNHASHED, given, hash_of,
    pools::Door,
    revision,
    revisions::{Revisions, unhashed},
    without,
};
use crate::switch::{Sighted, Sighting};

pub(super) fn sight(scene: &Scene<'_>, rollout: &Rollout) -> Result<Sighting, String> {
    let service = scene.active_service()?;
    let door = Door::of(service, scene.target.port.as_ref())?;
    let plain = without(&service.selector, [HASH]);
    let revisions = Revisions::of(scene, rollout, &door, &plain);
    let status = rollout.seen();

    let mut alarms = Vec::new();
    let in_selector = hash_of(&scene.active);
    let told = given(&status.blue_green.active_selector);
    if let (None, Some(told)) = (in_selector, told) {
        let name = &service.name;
        alarms.push(format!(
            "the Service `{name}` has lost its hash, and to others selects pods of every revision; {told} stays active"
        ));
    }
    let chosen = in_selector.or(told);
    let active = chosen.map(|active| if gives_up(active, &status, &revisions) { &*status.stable } else { active });
    let newest = hash_of(&scene.preview).or(given(&status.blue_green.preview_selector)).or(given(&status.current));
    let preview = newest.filter(|newest| Some(*newest) != active);

    let roles: Vec<&str> = active.into_iter().chain(preview).collect();
    alarms.extend(revisions.alarms(&roles, &door));
    let previous = active.and_then(|active| revisions.previous(active));
    let previous = previous.filter(|(hash, _)| Some(*hash) != preview);
    let previous = previous.and_then(|(hash, until)| Some((revision(hash).ok()?, until)));
    let mut revisions = revisions.sighted(&roles)?;
    if active.is_none() {
        let (pool, labels) = unhashed(&scene.pods, &door, &plain);
        alarms.extend(pool.alarm(UNHASHED, &door));
        revisions.insert(revision(UNHASHED)?, Sighted { endpoints: pool.into_endpoints(), labels });
    }
    Ok(Sighting {
        revisions,
        active: Some(revision(active.unwrap_or(UNHASHED))?),
        preview: preview.map(revision).transpose()?,
        aborted: status.abort && preview == given(&status.current),
        weight: None,
        previous_until: previous.as_ref().and_then(|(_, until)| *until),
        previous: previous.map(|(revision, _)| revision),
        returned: None,
        alarms,
    })
}

/// Whether the newest revision carries live traffic although it was given up. The controller moves the Service back only
/// once all pods of the *new* revision are available, and those may be crashing: the very reason for the abort. The stable
/// ones are there at full size, so traffic goes to them at once.
fn gives_up(active: &str, status: &RolloutStatus, revisions: &Revisions<'_>) -> bool {
    // A full promotion takes the abort back when it ends.
    let given_up = status.abort && !status.promote_full && active == status.current;
    let stable = given(&status.stable).filter(|stable| *stable != active);
    given_up && stable.is_some_and(|stable| revisions.ready(stable) > 0)
}
