//! What to send to Argo Rollouts so that it does what somebody wants: from a Rollout as it stands to the next calls, or to
//! what there is to wait for, or to a reasoned no. Pure: `commands` reads, sends, and looks again until it is so.
//!
//! Every call carries the version of the Rollout it was decided on, so that what has changed meanwhile is decided anew.

use serde_json::{Value, json};

use super::{
    call::{Call, Failed, Object},
    objects::{BlueGreen, DEADLINE, Rollout, RolloutStatus},
    template,
};
use crate::switch::{Refusal, RefusalCode};

/// How the controller begins the message of a Rollout that was given up.
const GIVEN_UP: &str = "RolloutAborted";

/// What there is to wait for after any change of the specification.
pub(super) const NOT_TAKEN_IN: &str =
    "Argo Rollouts has not taken in the latest change of the Rollout; is its controller up?";

/// A Rollout as it stands.
pub(super) struct Seen {
    pub(super) rollout: Rollout,
    pub(super) status: RolloutStatus,
    raw: Value,
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Send these, one after the other, then look again.
    Send(Vec<Call>),
    /// Look again: this is what it takes time for.
    Wait(String),
    /// It is so.
    Done,
    /// It cannot be.
    Refuse(Refusal),
}

fn refuse(code: RefusalCode, detail: impl Into<String>, hint: impl Into<String>) -> Next {
    Next::Refuse(Refusal { code, detail: detail.into(), hint: hint.into() })
}

impl Seen {
    /// A Rollout as the API server answers it.
    pub(super) fn of(raw: Value) -> Result<Self, Failed> {
        let rollout: Rollout = serde_json::from_value(raw.clone())
            .map_err(|error| Failed::Rejected(format!("what it answered is no Rollout: {error}")))?;
        let status = rollout.seen();
        Ok(Self { rollout, status, raw })
    }

    pub(super) fn name(&self) -> &str {
        self.rollout.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        self.rollout.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn blue_green(&self) -> Option<&BlueGreen> {
        self.rollout.spec.strategy.blue_green.as_ref()
    }

    /// The revision that carries live traffic, by what the controller says.
    pub(super) fn active(&self) -> &str {
        match self.blue_green() {
            Some(_) => &self.status.blue_green.active_selector,
            None => &self.status.stable,
        }
    }

    /// The newest revision, if it is neither the stable one nor carries live traffic.
    pub(super) fn candidate(&self) -> Option<&str> {
        let RolloutStatus { current, stable, .. } = &self.status;
        Some(current.as_str()).filter(|current| !["", stable.as_str(), self.active()].contains(current))
    }

    /// Whether the newest revision carries live traffic and is still being judged.
    pub(super) fn is_judged(&self) -> bool {
        let RolloutStatus { current, stable, .. } = &self.status;
        self.blue_green().is_some() && self.active() == current && current != stable && !stable.is_empty()
    }

    /// Whether the controller has taken in all that was asked of it.
    pub(super) fn is_observed(&self) -> bool {
        let generation = self.rollout.metadata.generation.unwrap_or_default().to_string();
        let workload = |pointer| self.raw.pointer(pointer).and_then(Value::as_str);
        let asked = workload("/metadata/annotations/rollout.argoproj.io~1workload-generation");
        let seen = workload("/status/workloadObservedGeneration");
        self.status.observed_generation == generation && (asked.is_none() || seen.is_none() || asked == seen)
    }

    /// Where it stands, as the controller says it.
    pub(super) fn in_words(&self) -> String {
        let RolloutStatus { phase, message, .. } = &self.status;
        match (phase.as_str(), message.as_str()) {
            ("", _) => "Argo Rollouts has said nothing of it yet".to_owned(),
            (phase, "") => format!("the Rollout is {phase}"),
            (phase, message) => format!("the Rollout is {phase}: {message}"),
        }
    }

    /// The template it makes pods of, unless another object holds that.
    pub(super) fn template(&self) -> Option<&Value> {
        self.raw.pointer("/spec/template")
    }

    /// Whether Argo CD keeps it as it stands in Git.
    pub(super) fn is_kept_by_git(&self) -> bool {
        let annotations = self.rollout.metadata.annotations.iter().flatten();
        annotations.into_iter().any(|(key, _)| key.starts_with("argocd.argoproj.io/"))
    }

    fn has_analysis(&self, which: &str) -> bool {
        self.raw.pointer("/spec/strategy/blueGreen").is_some_and(|strategy| !strategy[which].is_null())
    }

    pub(super) fn object(&self) -> Object {
        Object::rollout(self.namespace(), self.name())
    }

    /// A change of its status, if it is still as it was seen.
    pub(super) fn with_status(&self, status: Value) -> Call {
        Call::merge_status(self.object(), json!({"metadata": {"resourceVersion": self.version()}, "status": status}))
    }

    /// A change of the rest of it, whatever else has changed.
    fn with_spec(&self, spec: Value) -> Call {
        Call::merge(self.object(), json!({"spec": spec}))
    }

    pub(super) fn version(&self) -> &str {
        self.rollout.metadata.resource_version.as_deref().unwrap_or_default()
    }

    pub(super) fn is_paused(&self) -> bool {
        !self.status.pause_conditions.is_empty()
    }

    /// Whether the pause ends by itself, and nothing short of a promotion in full ends it sooner: cleared, it only begins
    /// anew.
    fn is_timed(&self) -> bool {
        let timed = |strategy: &BlueGreen| {
            strategy.auto_promotion_enabled.unwrap_or(true) && strategy.auto_promotion_seconds.unwrap_or_default() > 0
        };
        self.blue_green().is_some_and(timed)
    }

    pub(super) fn waits_for_a_person(&self) -> bool {
        self.blue_green().is_some_and(|strategy| strategy.auto_promotion_enabled == Some(false))
    }

    fn aborted_in_words(&self) -> bool {
        self.status.message.starts_with(GIVEN_UP)
    }

    /// Whether the controller was told to give it up and has not come to it yet.
    fn is_about_to_be_given_up(&self) -> bool {
        self.status.abort && self.raw.pointer("/status/abortedAt").is_none_or(Value::is_null)
    }

    fn is_first_deploy(&self) -> bool {
        self.active().is_empty()
    }
}

/// To the newest revision being active. `full` sets the controller's pauses and analyses aside.
pub(super) fn promote(seen: &Seen, full: bool) -> Next {
    let RolloutStatus { current, stable, .. } = &seen.status;
    if !seen.is_observed() || current.is_empty() {
        return Next::Wait(NOT_TAKEN_IN.to_owned());
    }
    if seen.status.abort {
        let detail = format!("the rollout of {current} was given up; promoting it would do nothing");
        return refuse(RefusalCode::Aborted, detail, "take it up again first: retry");
    }
    if seen.active() == current {
        return Next::Done;
    }
    if seen.is_first_deploy() {
        let detail = "the first revision becomes active by itself as soon as its pods are available";
        return Next::Wait(format!("{detail}; {}", seen.in_words()));
    }
    if seen.status.phase == "Degraded" && !seen.is_paused() && !seen.status.controller_pause {
        let hint = "see why its pods do not become available, or its specification is refused; then ask again";
        return refuse(RefusalCode::NotReady, format!("{current} cannot be promoted: {}", seen.in_words()), hint);
    }
    if seen.status.promote_full {
        return Next::Wait(format!("it is being promoted in full; {}", seen.in_words()));
    }
    let mut calls = Vec::new();
    match seen.blue_green() {
        _ if full && current != stable => calls.push(seen.with_status(json!({"promoteFull": true}))),
        Some(_) if seen.is_paused() && seen.is_timed() => calls.push(seen.with_status(json!({"promoteFull": true}))),
        Some(_) if seen.is_paused() => calls.push(seen.with_status(json!({"pauseConditions": null}))),
        None => return promote_canary(seen),
        Some(_) => {}
    }
    if seen.rollout.spec.paused {
        calls.push(seen.with_spec(json!({"paused": false})));
    }
    if !calls.is_empty() {
        return Next::Send(calls);
    }
    let next = match () {
        () if seen.status.controller_pause => "it has been resumed, and its Service is about to move",
        () if seen.waits_for_a_person() || seen.is_timed() => "it has not come to its pause yet",
        () => "it is promoted by itself as soon as its pods are available",
    };
    Next::Wait(format!("{next}; {}", seen.in_words()))
}

/// To a canary's next step. What is done one by one is not there at once: this is `Done` when the canary is at its end.
fn promote_canary(seen: &Seen) -> Next {
    let RolloutStatus { controller_pause, current_step_index, .. } = &seen.status;
    let mut calls = Vec::new();
    let inconclusive = "/status/canary/currentStepAnalysisRunStatus/status";
    let inconclusive = seen.raw.pointer(inconclusive).is_some_and(|status| status == "Inconclusive");
    let steps = seen.rollout.spec.strategy.canary.as_ref().map_or(0, |canary| canary.steps.len());
    let next = current_step_index.map(|index| (index + 1).min(i32::try_from(steps).unwrap_or(i32::MAX)));
    match (seen.is_paused(), next) {
        (true, Some(next)) if inconclusive && *controller_pause => {
            let status = json!({"pauseConditions": null, "controllerPause": false, "currentStepIndex": next});
            calls.push(seen.with_status(status));
        }
        (true, _) => calls.push(seen.with_status(json!({"pauseConditions": null}))),
        (false, Some(next)) => {
            calls.push(seen.with_status(json!({"pauseConditions": null, "currentStepIndex": next})));
        }
        (false, None) => {}
    }
    if seen.rollout.spec.paused {
        calls.push(seen.with_spec(json!({"paused": false})));
    }
    match calls.is_empty() {
        true => Next::Wait(seen.in_words()),
        false => Next::Send(calls),
    }
}

/// What else a promotion does, that whoever asks should know.
pub(super) fn costs(seen: &Seen, full: bool) -> Option<String> {
    if !(full || seen.is_timed()) || !seen.has_analysis("postPromotionAnalysis") {
        return None;
    }
    let why = if full { "a promotion in full" } else { "the pause is timed, so it is promoted in full; that" };
    Some(format!("{why} also skips the analysis after the promotion"))
}

/// To the newest revision being given up, and traffic with the stable one.
pub(super) fn abort(seen: &Seen) -> Next {
    let RolloutStatus { current, stable, abort, .. } = &seen.status;
    if current == stable || current.is_empty() {
        let detail = format!("{} is promoted in full, and there is no candidate to abort", named(current));
        return refuse(RefusalCode::NoCandidate, detail, "to return to the revision before it, roll back");
    }
    if seen.status.promote_full && !abort {
        let detail = format!("{current} is being promoted in full, and is not given up before that ends");
        return refuse(RefusalCode::InUse, detail, "to return when it has, roll back");
    }
    match abort {
        false => Next::Send(vec![seen.with_status(json!({"abort": true}))]),
        true if !seen.aborted_in_words() => Next::Wait(format!("it is being given up; {}", seen.in_words())),
        true if seen.is_judged() => {
            let hangs =
                "the controller moves the Service back only once all pods of the revision it leaves are available";
            Next::Wait(format!("{hangs}; {}", seen.in_words()))
        }
        true => Next::Done,
    }
}

/// What has to be so before it can be told what a retry would do: that the controller has given the rollout up.
pub(super) fn given_up(seen: &Seen) -> Next {
    match seen.is_about_to_be_given_up() {
        true => Next::Wait(format!("it is being given up; {}", seen.in_words())),
        false => Next::Done,
    }
}

/// Why a retry would be a promotion now: the controller takes a ReplicaSet whose end is set, and that is still at full size,
/// for one that was active a moment ago, and switches to it without pause or analysis (seen with v1.9). One that was
/// scaled down meanwhile has to become available first, and its end is no longer set by then.
pub(super) fn retry_promotes(seen: &Seen, replica_set: Option<&Value>) -> Option<Refusal> {
    let RolloutStatus { current, stable, .. } = &seen.status;
    let gated = seen.waits_for_a_person() || seen.is_timed() || seen.has_analysis("prePromotionAnalysis");
    if !seen.status.abort || current == stable || seen.active() == current || !gated {
        return None;
    }
    let set = replica_set.filter(|set| set.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1) > 0)?;
    let until = set.pointer("/metadata/annotations")?[DEADLINE].as_str().filter(|until| !until.is_empty())?;
    let detail = format!(
        "the pods of {current} are still up, so Argo Rollouts would not pause or analyse it again: a retry would promote it \
         at once"
    );
    let hint = format!(
        "retry when its ReplicaSet is scaled down, from {until} on (spec.strategy.blueGreen.abortScaleDownDelaySeconds after \
         the abort); to promote it now all the same: retry with skipGates and a reason (tealgate retry --skip-gates)"
    );
    Some(Refusal { code: RefusalCode::GateFailed, detail, hint })
}

/// To a rollout that was given up being under way again.
pub(super) fn retry(seen: &Seen, asked: bool) -> Next {
    match (seen.status.abort, asked) {
        (true, _) => Next::Send(vec![seen.with_status(json!({"abort": false}))]),
        (false, true) if seen.aborted_in_words() => Next::Wait(seen.in_words()),
        (false, true) => Next::Done,
        (false, false) => {
            let detail = format!("the rollout of {} was not given up", named(&seen.status.current));
            refuse(RefusalCode::NotAborted, detail, "there is nothing to take up again")
        }
    }
}

/// To the Rollout standing still, or going on.
pub(super) fn pause(seen: &Seen, paused: bool) -> Next {
    match seen.rollout.spec.paused == paused {
        false => Next::Send(vec![seen.with_spec(json!({"paused": paused}))]),
        true if !seen.is_observed() => {
            Next::Wait("Argo Rollouts has not taken it in yet; is its controller up?".into())
        }
        true => Next::Done,
    }
}

/// To the stable revision being the newest one again. `replica_set` is the stable one's; `held` is the object that holds the
/// template, where that is not the Rollout.
pub(super) fn restore(seen: &Seen, replica_set: Option<&Value>, held: Option<&Value>) -> Next {
    let RolloutStatus { current, stable, .. } = &seen.status;
    if current == stable && seen.is_observed() {
        return Next::Done;
    }
    match restoring(seen, replica_set, held) {
        Ok(Some(call)) => Next::Send(vec![call]),
        Ok(None) => Next::Wait(format!("the template is back, and not taken in yet; {}", seen.in_words())),
        Err(refusal) => Next::Refuse(refusal),
    }
}

/// The call that puts a ReplicaSet's template back where templates come from; none where it is there.
pub(super) fn restoring(
    seen: &Seen,
    replica_set: Option<&Value>,
    held: Option<&Value>,
) -> Result<Option<Call>, Refusal> {
    let refusal =
        |detail: String, hint: &str| Refusal { code: RefusalCode::AuthorityRefused, detail, hint: hint.to_owned() };
    let Some(wanted) = replica_set.and_then(template::restored) else {
        let detail = "the ReplicaSet of the revision to go back to is gone, and its template with it".to_owned();
        return Err(refusal(detail, "bring that revision back from where it came from, e.g. by reverting it in Git"));
    };
    let operation = |object, version: &str| {
        // The version makes it fail if anything has changed, and a value of `replace` must exist: it does.
        let body = json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            {"op": "replace", "path": "/spec/template", "value": wanted},
        ]);
        Call::operations(object, body)
    };
    match &seen.rollout.spec.workload_ref {
        None if seen.template().is_some_and(|template| template::same(template, &wanted)) => Ok(None),
        None => Ok(Some(operation(seen.object(), seen.version()))),
        Some(reference) if reference.kind != "Deployment" => Err(refusal(
            format!("the template is in the {} {}, which the proxy does not change", reference.kind, reference.name),
            "put the earlier template back there",
        )),
        Some(reference) => {
            let held = held.ok_or_else(|| {
                refusal(
                    format!("the template is in the Deployment {}, which could not be read", reference.name),
                    "see whether it exists, and whether the proxy may get it (Helm: rbac.workloadRef: true)",
                )
            })?;
            if held.pointer("/spec/template").is_some_and(|template| template::same(template, &wanted)) {
                return Ok(None);
            }
            let version = held.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
            Ok(Some(operation(Object::deployment(seen.namespace(), &reference.name), version)))
        }
    }
}

fn named(hash: &str) -> &str {
    if hash.is_empty() { "the revision" } else { hash }
}

#[cfg(test)]
mod tests;
