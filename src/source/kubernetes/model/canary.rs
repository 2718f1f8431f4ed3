//! The roles of a canary, and its share. Where something routes by weight, the controller writes the weights with their
//! hashes into the status, as one document; where nothing does, they follow from the steps.

use super::{
    super::objects::{Canary, HASH, Rollout, RolloutStatus, Weights},
    Scene, ServiceNames, given,
    pools::Door,
    revision,
    revisions::Revisions,
    without,
};
use crate::switch::{Sighting, Weight};

pub(super) fn sight(scene: &Scene<'_>, rollout: &Rollout, canary: &Canary) -> Result<Sighting, String> {
    let (door, plain) = match ServiceNames::of(scene.target, Some(rollout)).active {
        Some(_) => {
            let service = scene.active_service()?;
            (Door::of(service, scene.target.port.as_ref())?, without(&service.selector, [HASH]))
        }
        None => {
            let port = scene.target.port.as_ref().ok_or(
                "the Rollout names no Service (`stableService`), so it does not say which port is served; choose one as \
                 `port`",
            )?;
            (Door::of_pods(port), Default::default())
        }
    };
    let revisions = Revisions::of(scene, rollout, &door, &plain);
    let status = rollout.seen();

    let weights = status.canary.weights.as_ref();
    let of_weights = weights.and_then(|weights| given(&weights.stable.hash));
    let current = given(&status.current);
    let active = of_weights.or(given(&status.stable)).or(current);
    let Some(active) = active else {
        return Err("Argo Rollouts has not said yet which revision is stable".to_owned());
    };
    let preview = current.filter(|current| *current != active);
    let (weight, rounded) = match (preview, weights) {
        (None, _) => (Weight::ZERO, None),
        _ if status.abort => (Weight::ZERO, None),
        (Some(preview), Some(weights)) => told(routed(weights, preview)),
        // How many pods there are is nobody's word for a share.
        (Some(preview), None) if canary.steps.is_empty() => (by_size(&revisions, active, preview), None),
        (Some(_), None) => told(stepped(canary, &status)),
    };

    let roles: Vec<&str> = [active].into_iter().chain(preview).collect();
    let mut alarms = revisions.alarms(&roles, &door);
    alarms.extend(rounded);
    let previous = revisions.previous(active).filter(|(hash, _)| Some(*hash) != preview);
    let previous = previous.and_then(|(hash, until)| Some((revision(hash).ok()?, until)));
    Ok(Sighting {
        revisions: revisions.sighted(&roles)?,
        active: Some(revision(active)?),
        preview: preview.map(revision).transpose()?,
        aborted: status.abort && preview.is_some(),
        weight: Some(weight),
        previous_until: previous.as_ref().and_then(|(_, until)| *until),
        previous: previous.map(|(revision, _)| revision),
        returned: None,
        alarms,
    })
}

/// The candidate's share by the weights. Those of another candidate are left over from the rollout before.
fn routed(weights: &Weights, preview: &str) -> (i64, i64) {
    let Weights { canary, stable, additional } = weights;
    if given(&canary.hash).is_some_and(|hash| hash != preview) {
        return (0, 0);
    }
    let all = [canary, stable].into_iter().chain(additional).map(|one| i64::from(one.weight.max(0))).sum();
    (canary.weight.into(), all)
}

/// The candidate's share by the steps: what the last one so far has set, and all once they are done.
fn stepped(canary: &Canary, status: &RolloutStatus) -> (i64, i64) {
    let all = canary.traffic_routing.as_ref().and_then(|routing| routing.max_traffic_weight).unwrap_or(100);
    let step = status.current_step_index.map_or(0, |index| usize::try_from(index).unwrap_or_default());
    if step >= canary.steps.len() {
        return (1, 1);
    }
    let set = canary.steps[..=step].iter().rev().find_map(|step| step.set_weight);
    (set.unwrap_or_default().into(), all.into())
}

/// The candidate's share where there are no steps: pods are replaced one by one, and each takes its part.
fn by_size(revisions: &Revisions<'_>, active: &str, preview: &str) -> Weight {
    let of = |hash| i64::try_from(revisions.ready(hash)).unwrap_or(i64::MAX / 2);
    share(of(preview), of(active) + of(preview))
}

/// A share that somebody has said, and what is to be said where it is no whole percentage.
fn told((part, whole): (i64, i64)) -> (Weight, Option<String>) {
    let weight = share(part, whole);
    let exact = part <= 0 || part >= whole || (part.saturating_mul(100)) % whole == 0;
    let rounded = || format!("the canary's weight {part} of {whole} is no whole percentage: {weight} is used");
    (weight, (!exact).then(rounded))
}

/// A part of a whole in percent, rounded, though never from something to nothing, nor from a part to the whole.
fn share(part: i64, whole: i64) -> Weight {
    if whole <= 0 || part <= 0 {
        return Weight::ZERO;
    }
    let rounded = (part.saturating_mul(200) + whole) / (2 * whole);
    let percent = if part < whole { rounded.clamp(1, 99) } else { 100 };
    u8::try_from(percent).ok().and_then(Weight::of_percent).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_percent_and_never_lose_a_side() {
        for (part, whole, percent) in [
            (20, 100, 20),
            (0, 100, 0),
            (100, 100, 100),
            (1, 1000, 1),
            (999, 1000, 99),
            (1, 3, 33),
            (2, 3, 67),
            (25, 50, 50),
            (5, 0, 0),
            (-1, 100, 0),
            (150, 100, 100),
        ] {
            assert_eq!(share(part, whole).percent(), percent, "{part} of {whole}");
        }
    }
}
