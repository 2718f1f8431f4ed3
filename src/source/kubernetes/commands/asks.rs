//! What else is asked for: to give a candidate up, for now or for good, to take it up again, to let a rollout stand or go
//! on, and to keep the previous revision longer.

use std::time::Duration;

use jiff::{Timestamp, Unit};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{
        call::{Call, Failed, Object},
        decide::{self, Next, Seen},
        objects::DEADLINE,
    },
    errand::{Errand, LOOK, refusal},
    hash,
};
use crate::switch::{Action, AppName, Command, Only, Order, Petition, Receipt, Refusal, RefusalCode};

/// How long a template that was put back is watched where Git may put the other one back in its turn.
const LINGER: Duration = Duration::from_secs(6);

impl Errand<'_> {
    pub(super) async fn abort(mut self, only: Option<&Only>) -> Result<Receipt, Refusal> {
        let seen = self.candidate(only).await?;
        let (current, stable) = (hash(&seen.status.current), hash(&seen.status.stable));
        let returned = self.return_if_judged(&seen).await;
        let (app, meant) = (self.petition.app.clone(), seen.status.current.clone());
        let decide = |seen: &Seen, _: &[Call]| match decide::abort(seen) {
            _ if seen.status.current != meant => Next::Refuse(overtaken(&app, &meant, seen)),
            // Traffic is back already; the Service follows, or `agree` sees to it.
            Next::Wait(_) if returned.is_some() && seen.status.abort => Next::Done,
            next => next,
        };
        self.until(decide).await?;
        match returned {
            Some(receipt) => Ok(self.stamped(receipt)),
            None => self.done(Action::Abort, current, stable).await,
        }
    }

    /// The Rollout, if its candidate is the one that is meant.
    async fn candidate(&mut self, only: Option<&Only>) -> Result<Seen, Refusal> {
        let Some(only) = only else { return self.look().await };
        // What was changed a moment ago may be another candidate, or the very one that is meant.
        let taken_in = |seen: &Seen, _: &[Call]| match seen.is_observed() {
            true => Next::Done,
            false => Next::Wait(decide::NOT_TAKEN_IN.to_owned()),
        };
        let seen = self.until(taken_in).await?;
        self.refuse_unless(only, &seen).await?;
        Ok(seen)
    }

    async fn refuse_unless(&self, only: &Only, seen: &Seen) -> Result<(), Refusal> {
        let candidate = seen.candidate();
        for revision in candidate.into_iter().chain([seen.active()]) {
            let images = match only {
                Only::Image(_) => self.commander.images(seen, revision).await.map_err(Failed::refusal)?,
                Only::Revision(_) => String::new(),
            };
            match only.is(revision, &images) {
                true if candidate == Some(revision) => return Ok(()),
                true => return Err(only.is_live(&self.petition.app)),
                false => {}
            }
        }
        Err(only.is_no_candidate(&self.petition.app, candidate))
    }

    /// Where the newest revision carries live traffic while it is being judged, giving it up means going back: that is done
    /// here at once. The controller goes back only when all pods of the revision it leaves are available, and those may be
    /// the very trouble.
    async fn return_if_judged(&self, seen: &Seen) -> Option<Receipt> {
        let Petition { app, by, reason, dry_run, .. } = self.petition.clone();
        let stable = hash(&seen.status.stable).filter(|_| seen.is_judged() && !seen.status.promote_full)?;
        let command = Command::Rollback { to: Some(stable) };
        self.commander.control.submit(Order { app, command, by, reason, if_generation: None, dry_run }).await.ok()
    }

    pub(super) async fn retry(mut self, skip_gates: bool) -> Result<Receipt, Refusal> {
        let seen = self.until(|seen, _| decide::given_up(seen)).await?;
        let replica_set = self.commander.replica_set(&seen, &seen.status.current).await.map_err(Failed::refusal)?;
        match decide::retry_promotes(&seen, replica_set.as_ref()) {
            Some(refusal) if !skip_gates => return Err(refusal),
            Some(refusal) => self.warnings.push(refusal.detail),
            None => {}
        }
        let seen = self.until(|seen, sent| decide::retry(seen, !sent.is_empty())).await?;
        self.done(Action::Retry, hash(&seen.status.stable), hash(&seen.status.current)).await
    }

    pub(super) async fn pause(mut self, paused: bool) -> Result<Receipt, Refusal> {
        let seen = self.until(|seen, _| decide::pause(seen, paused)).await?;
        let action = if paused { Action::Pause } else { Action::Unpause };
        if self.sent.is_empty() {
            self.warnings.push(if paused { "it was paused already" } else { "nobody had paused it" }.to_owned());
        }
        if !paused && !seen.status.pause_conditions.is_empty() {
            self.warnings.push("it still waits for its promotion".to_owned());
        }
        self.done(action, None, hash(&seen.status.current)).await
    }

    /// Abort first: it survives what Git may do to the template.
    pub(super) async fn reject(mut self, only: Option<&Only>) -> Result<Receipt, Refusal> {
        let seen = self.candidate(only).await?;
        let (current, stable) = (hash(&seen.status.current), hash(&seen.status.stable));
        let returned = self.return_if_judged(&seen).await;
        let (app, rejected) = (self.petition.app.clone(), seen.status.current.clone());
        if !seen.status.abort {
            let decide = |seen: &Seen, _: &[Call]| match decide::abort(seen) {
                _ if seen.status.current != rejected => Next::Refuse(overtaken(&app, &rejected, seen)),
                Next::Wait(_) if seen.status.abort => Next::Done,
                next => next,
            };
            self.until(decide).await?;
        } else if current == stable {
            let detail = format!("{} has no candidate to reject", self.petition.app);
            return Err(refusal(RefusalCode::NoCandidate, detail, "there is nothing to do"));
        }
        let aborted = self.sent.len();
        let (replica_set, held) = self
            .commander
            .templates(&seen, &seen.status.stable)
            .await
            .map_err(|failed| self.half_done(failed.refusal()))?;
        let decide = |seen: &Seen, sent: &[Call]| match decide::restore(seen, replica_set.as_ref(), held.as_ref()) {
            // Sent once, and it is still the rejected one: somebody puts it back.
            Next::Send(_) if sent.len() > aborted && seen.is_observed() && seen.status.current == rejected => {
                Next::Done
            }
            // Somebody's new template is not overwritten with the stable one.
            Next::Send(_) if !seen.is_observed() => Next::Wait(decide::NOT_TAKEN_IN.to_owned()),
            Next::Send(_) if seen.status.current != rejected => Next::Refuse(overtaken(&app, &rejected, seen)),
            next => next,
        };
        let restored = self.until(decide).await;
        let restored = restored.map_err(|refusal| self.half_done(refusal))?;
        if !self.petition.dry_run && (restored.is_kept_by_git() || restored.status.current == rejected) {
            self.hold_against_git(&rejected).await;
        }
        match returned {
            Some(receipt) => Ok(self.stamped(receipt)),
            None => self.done(Action::Reject, current, stable).await,
        }
    }

    /// A changed template takes the abort with it; where Git puts the rejected one back, it would be rolled out anew.
    async fn hold_against_git(&mut self, rejected: &str) {
        let until = self.deadline.min(Instant::now() + LINGER);
        loop {
            match self.commander.look(&self.home).await {
                Ok(seen) if seen.status.current == rejected && !seen.status.abort => {
                    let call = seen.with_status(json!({"abort": true}));
                    let words = match self.commander.server.send(&call).await {
                        Ok(_) => "it was aborted again",
                        Err(Failed::Changed) => continue,
                        Err(_) => "abort it, or it is rolled out anew",
                    };
                    self.sent.push(call);
                    self.warnings.push(format!("something put {rejected} back: {words}; revert it in Git as well"));
                    return;
                }
                Ok(_) | Err(_) => {}
            }
            if Instant::now() >= until {
                self.warnings
                    .push(format!("Argo CD keeps this Rollout: revert {rejected} in Git as well, or it comes back"));
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The candidate is given up, whatever became of the rest.
    fn half_done(&self, refusal: Refusal) -> Refusal {
        if self.petition.dry_run || self.sent.is_empty() {
            return refusal;
        }
        let detail = format!("the rollout is aborted, but the stable template is not back: {}", refusal.detail);
        Refusal { detail, ..refusal }
    }

    pub(super) async fn keep(mut self, until: Timestamp) -> Result<Receipt, Refusal> {
        let board = self.board()?;
        let Some(previous) = board.rollout.previous().map(|previous| previous.revision.clone()) else {
            let detail = format!("{} keeps no previous revision", self.petition.app);
            return Err(refusal(RefusalCode::NoPrevious, detail, "there is nothing to keep"));
        };
        let seen = self.look().await?;
        let replica_set = self.commander.replica_set(&seen, previous.as_str()).await.map_err(Failed::refusal)?;
        let name = replica_set.as_ref().and_then(|set| set.pointer("/metadata/name")).and_then(Value::as_str);
        let Some((set, name)) = replica_set.as_ref().zip(name) else {
            let detail = format!("the ReplicaSet of {previous} is gone");
            return Err(refusal(RefusalCode::NoPrevious, detail, "there is nothing to keep"));
        };
        let annotations = set.pointer("/metadata/annotations");
        let deadline = annotations.and_then(|all| all[DEADLINE].as_str()).and_then(|at| at.parse::<Timestamp>().ok());
        let until = until.round(Unit::Second).unwrap_or(until);
        match deadline {
            None => self.warnings.push(format!("{previous} has no deadline: it is kept as it is")),
            Some(deadline) if deadline >= until => {
                self.warnings.push(format!("{previous} is kept until {deadline} already"));
            }
            Some(_) => {
                let object = Object::replica_set(&self.home.namespace, name);
                let body = json!({"metadata": {"annotations": {DEADLINE: until.to_string()}}});
                self.send(vec![Call::merge(object, body)]).await?;
            }
        }
        self.done(Action::Keep, None, Some(previous)).await
    }
}

/// Another candidate has come while this one was being given up.
fn overtaken(app: &AppName, meant: &str, seen: &Seen) -> Refusal {
    let detail = format!("{meant} is no candidate of {app} any more; the newest revision is {}", seen.status.current);
    refusal(RefusalCode::Overtaken, detail, "that one was left alone; to give it up, name it")
}
