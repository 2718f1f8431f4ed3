//! What is next between a rollback of ours and a cluster that has not followed it: pure, from everything as it stands to one
//! move. Level, not edge: whoever looks again, at whichever replica, comes to the same, so nothing is lost with the one
//! that was asked.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use serde_json::{Value, json};

use super::{
    annotation,
    call::{Call, Object},
    decide::{self, Seen},
    objects::DEADLINE,
};
use crate::switch::{Returned, Revision};

/// The annotation that counts how often the template was put back for a rollback.
pub(super) const TRIES: &str = "tealgate.dev/returned-tries";
/// How often that is tried: what changes it back each time is stronger, and meant by somebody.
const MOST_TRIES: u32 = 2;

/// How long an annotation stays after the two agree. While it does, no replica follows the cluster back to what was returned
/// from: a revision that was active a moment ago is promoted by the controller without asking anybody, so Git that heals
/// itself would undo the rollback, at once or with its next turn.
const TOLD_FOR: Duration = Duration::from_secs(900);
/// How much later than ordered a replica has obeyed a rollback at most, for its receipt to be taken for that.
const OBEYED_WITHIN: SignedDuration = SignedDuration::from_secs(10);
/// How long an abort may take, before the template is put back besides.
const ABORTS_WITHIN: Duration = Duration::from_secs(20);
/// A deadline nearer than this is put off, by that much.
const KEPT_FOR: (SignedDuration, SignedDuration) = (SignedDuration::from_mins(5), SignedDuration::from_mins(15));

/// A rollback that holds at this replica.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ours {
    pub(super) at: Timestamp,
    pub(super) by: String,
    pub(super) reason: String,
}

/// Everything as it stands.
pub(super) struct Situation<'a> {
    pub(super) seen: &'a Seen,
    /// What the active Service selects.
    pub(super) service: Option<Revision>,
    /// The rollback that all replicas were told of.
    pub(super) told: Option<Returned>,
    /// How long this replica has known of that.
    pub(super) known_for: Duration,
    /// How often the template was put back for it.
    pub(super) tries: u32,
    /// What carries live traffic here, and how many of its endpoints are ready.
    pub(super) active: Revision,
    pub(super) ready: usize,
    /// The rollback that led there, if one did.
    pub(super) ours: Option<Ours>,
    /// The ReplicaSet of what was returned to, and the object that holds the template where that is not the Rollout.
    pub(super) replica_set: Option<&'a Value>,
    pub(super) held: Option<&'a Value>,
    pub(super) may_extend: bool,
    pub(super) now: Timestamp,
}

/// What is next.
#[derive(Debug, PartialEq)]
pub(super) enum Move {
    /// Nothing: the two agree, and nobody has to be told.
    Rest,
    /// Tell all replicas.
    Announce(Call),
    /// Take that back, since it is over.
    Forget(Call),
    /// The two agree; that is taken back later.
    Linger,
    /// Tell all replicas that the cluster may go back, since it asks a person first.
    Release(Call),
    /// Have the cluster go on towards it.
    Push(Vec<Call>),
    /// Keep what was returned to from being scaled down.
    Extend(Call),
    /// The cluster is on its way.
    Wait,
    /// It does not come to it by itself. A person has to do this.
    Stuck(String),
    /// What was returned to is gone: live traffic goes back to this, for this reason.
    GiveWay(Revision, String),
}

pub(super) fn decide(s: &Situation<'_>) -> Move {
    let Some(service) = &s.service else { return Move::Wait };
    if let Some(ours) = s.ours.as_ref().filter(|ours| is_news(s, service, ours)) {
        let Ours { at, by, reason } = ours.clone();
        let told = Returned { to: s.active.clone(), from: service.clone(), at, by, reason, released: false };
        return Move::Announce(announce(s.seen.object(), &told));
    }
    let Some(told) = &s.told else { return Move::Rest };
    if *service == told.to {
        return agreed(s, told);
    }
    if *service != told.from || told.released {
        // Something else was promoted since, or a person has approved the same.
        return Move::Forget(forget(s.seen));
    }
    if s.active != told.to {
        // This replica could not obey: it has no say in it.
        return Move::Wait;
    }
    settle(s, told)
}

/// The cluster has active what was returned to. Its controller may promote again what was returned from without asking
/// anybody; where it has stopped to ask, whoever approves means it.
fn agreed(s: &Situation<'_>, told: &Returned) -> Move {
    let (seen, is_back) = (s.seen, s.seen.status.current == told.from.as_str());
    let asks = is_back && seen.is_observed() && seen.is_paused() && seen.waits_for_a_person();
    match () {
        () if s.known_for >= TOLD_FOR => Move::Forget(forget(seen)),
        () if asks && !told.released => Move::Release(release(seen, told)),
        () if asks => Move::Stuck(offered_again(s, told)),
        () => Move::Linger,
    }
}

/// Whether the rollback is one that the replicas have not been told of.
fn is_news(s: &Situation<'_>, service: &Revision, ours: &Ours) -> bool {
    let Some(told) = &s.told else { return *service != s.active };
    // What was released may be on its way back, by a person's approval.
    if told.at > ours.at || told.released && told.to == s.active {
        return false;
    }
    let same = told.to == s.active && told.from == *service && told.by == ours.by && told.reason == ours.reason;
    if same && ours.at.duration_since(told.at) <= OBEYED_WITHIN {
        return false;
    }
    told.to != s.active || *service != s.active
}

/// The rollback holds, and the cluster still has active what it returned from.
fn settle(s: &Situation<'_>, told: &Returned) -> Move {
    let Returned { to, from, .. } = told;
    let (seen, status) = (s.seen, &s.seen.status);
    if is_gone(s) && s.ready == 0 {
        let why = format!("the pods of {to}, which traffic was returned to, are gone; {from} is what the cluster has");
        return Move::GiveWay(from.clone(), why);
    }
    if let Some(call) = extension(s).filter(|_| s.may_extend) {
        return Move::Extend(call);
    }
    if seen.is_judged() && status.current == from.as_str() && status.stable == to.as_str() && !status.promote_full {
        match status.abort {
            false => return Move::Push(vec![seen.with_status(json!({"abort": true}))]),
            true if s.known_for < ABORTS_WITHIN => return Move::Wait,
            // Pods of the given-up revision that do not become available keep the controller from going back.
            true => {}
        }
    }
    let put_back = decide::restoring(seen, s.replica_set, s.held);
    let is_put_back = status.current == to.as_str() || matches!(put_back, Ok(None));
    if !seen.is_observed() {
        return Move::Wait;
    }
    if is_put_back {
        return promote(s, told);
    }
    if status.current != from.as_str() {
        return Move::Stuck(format!(
            "live traffic was returned from {from} to {to}, while {} is being rolled out: that goes on, and ends the \
             rollback when it is promoted",
            status.current
        ));
    }
    match put_back {
        Ok(Some(_)) if s.tries >= MOST_TRIES => Move::Stuck(stronger(s, told)),
        Ok(Some(call)) => Move::Push(counted(s, call)),
        Ok(None) => Move::Wait,
        Err(refusal) => Move::Stuck(format!(
            "live traffic was returned from {from} to {to}, and Argo Rollouts does not agree: {}; {}",
            refusal.detail, refusal.hint
        )),
    }
}

/// The template is back: the controller is to go all the way, without pauses and analyses.
fn promote(s: &Situation<'_>, told: &Returned) -> Move {
    let (seen, status) = (s.seen, &s.seen.status);
    if seen.rollout.spec.paused {
        let (from, to) = (&told.from, &told.to);
        return Move::Stuck(format!(
            "live traffic was returned from {from} to {to}, and the Rollout is paused by hand: unpause it, so that its \
             Service follows"
        ));
    }
    match status.promote_full || status.current == status.stable {
        true => Move::Wait,
        false => Move::Push(vec![seen.with_status(json!({"promoteFull": true}))]),
    }
}

/// Tells all replicas of a rollback; the count of tries begins anew with it. Whatever else has changed of the Rollout, it
/// is told: of two the later one counts.
pub(super) fn announce(rollout: Object, told: &Returned) -> Call {
    let annotations = json!({annotation::RETURNED: annotation::write(told), TRIES: null});
    Call::merge(rollout, json!({"metadata": {"annotations": annotations}}))
}

/// Tells that the cluster may go back, if nothing has changed meanwhile.
fn release(seen: &Seen, told: &Returned) -> Call {
    let annotations = json!({annotation::RETURNED: annotation::write(&Returned { released: true, ..told.clone() })});
    let body = json!({"metadata": {"resourceVersion": seen.version(), "annotations": annotations}});
    Call::merge(seen.object(), body)
}

/// Takes that back, if nothing has changed meanwhile.
pub(super) fn forget(seen: &Seen) -> Call {
    let annotations = json!({annotation::RETURNED: null, TRIES: null});
    let body = json!({"metadata": {"resourceVersion": seen.version(), "annotations": annotations}});
    Call::merge(seen.object(), body)
}

/// With the try counted: in the same breath where the template is in the Rollout, else before.
fn counted(s: &Situation<'_>, mut call: Call) -> Vec<Call> {
    let tries = (s.tries + 1).to_string();
    if call.object == s.seen.object() {
        let path = format!("/metadata/annotations/{}", TRIES.replace('/', "~1"));
        if let Value::Array(operations) = &mut call.body {
            operations.push(json!({"op": "add", "path": path, "value": tries}));
        }
        return vec![call];
    }
    let body = json!({"metadata": {"resourceVersion": s.seen.version(), "annotations": {TRIES: tries}}});
    vec![Call::merge(s.seen.object(), body), call]
}

fn is_gone(s: &Situation<'_>) -> bool {
    let count = |set: &Value, pointer| set.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    s.replica_set.is_none_or(|set| count(set, "/spec/replicas") == 0 && count(set, "/status/replicas") == 0)
}

/// While the cluster does not agree, it would scale down what traffic was returned to.
fn extension(s: &Situation<'_>) -> Option<Call> {
    let set = s.replica_set?;
    let name = set.pointer("/metadata/name")?.as_str()?;
    let deadline: Timestamp = set.pointer("/metadata/annotations")?[DEADLINE].as_str()?.parse().ok()?;
    let (near, long) = KEPT_FOR;
    if deadline.duration_since(s.now) >= near {
        return None;
    }
    let until = s.now.checked_add(long).ok()?.round(Unit::Second).ok()?;
    let body = json!({"metadata": {"annotations": {DEADLINE: until.to_string()}}});
    Some(Call::merge(Object::replica_set(s.seen.namespace(), name), body))
}

/// What to do where something puts the template back to what was returned from.
fn stronger(s: &Situation<'_>, told: &Returned) -> String {
    let Returned { to, from, .. } = told;
    format!(
        "live traffic was returned from {from} to {to} and stays there, but {} has put the template of {from} back {} times: \
         go back to {} in Git; to end the rollback instead, promote {from}",
        healer(s),
        s.tries,
        with_images(s, to)
    )
}

/// The same, where that is no more than an offer.
fn offered_again(s: &Situation<'_>, told: &Returned) -> String {
    let Returned { to, from, by, .. } = told;
    format!(
        "{from}, which {by} rolled back from, waits for its promotion again, since {} has put its template back: go back to \
         {} in Git; or promote {from}, if it is to be",
        healer(s),
        with_images(s, to)
    )
}

fn healer(s: &Situation<'_>) -> &'static str {
    if s.seen.is_kept_by_git() { "Argo CD" } else { "something (GitOps?)" }
}

/// What is returned to, as whoever reads Git knows it.
fn with_images(s: &Situation<'_>, to: &Revision) -> String {
    let containers = s.replica_set.and_then(|set| set.pointer("/spec/template/spec/containers"));
    let images = containers.and_then(Value::as_array).into_iter().flatten().filter_map(|each| each["image"].as_str());
    let images: Vec<_> = images.collect();
    if images.is_empty() { to.to_string() } else { format!("{to} ({})", images.join(", ")) }
}

#[cfg(test)]
mod tests;
