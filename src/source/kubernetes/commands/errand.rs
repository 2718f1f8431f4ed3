//! One petition on its way: look at the Rollout, have it decided, send, and look again until it is so, within the time it
//! was given; and the receipt of that, or where it hangs.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::{
        call::{Call, Failed},
        decide::{Next, Seen},
    },
    Commander, Home, NUDGE,
};
use crate::switch::{Action, AppBoard, Note, Petition, Receipt, Refusal, RefusalCode, Revision};

/// How long after a look the Rollout is looked at again, unless something tells sooner.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// The least between two looks.
const BREATH: Duration = Duration::from_millis(20);
/// How often one errand may send before something must be wrong.
const SENDS: usize = 12;

/// One petition on its way.
pub(super) struct Errand<'a> {
    pub(super) commander: &'a Commander,
    pub(super) petition: Petition,
    pub(super) home: Home,
    pub(super) began: Timestamp,
    pub(super) deadline: Instant,
    pub(super) sent: Vec<Call>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Errand<'a> {
    pub(super) async fn begin(commander: &'a Commander, petition: Petition) -> Result<Self, Refusal> {
        let app = &petition.app;
        let home = commander.home(app).await.map_err(Failed::refusal)?;
        let (Some(board), Some(home)) = (commander.board(app), home) else {
            let hint = "the configuration says which Rollout an app follows";
            return Err(refusal(RefusalCode::UnknownApp, format!("no app {app} follows a Rollout"), hint));
        };
        let at = board.rollout.generation().0;
        if let Some(expected) = petition.if_generation.filter(|expected| *expected != at) {
            let detail = format!("{app} is at generation {at}, not {expected}: somebody else changed it");
            let hint = "look at its state again, then decide anew";
            return Err(refusal(RefusalCode::GenerationMismatch, detail, hint));
        }
        let deadline = Instant::now() + petition.within;
        let (sent, warnings) = (Vec::new(), Vec::new());
        Ok(Self { commander, petition, home, began: Timestamp::now(), deadline, sent, warnings })
    }

    pub(super) async fn look(&self) -> Result<Seen, Refusal> {
        self.commander.look(&self.home).await.map_err(Failed::refusal)
    }

    pub(super) fn board(&self) -> Result<Arc<AppBoard>, Refusal> {
        let gone =
            || refusal(RefusalCode::UnknownApp, format!("there is no app {}", self.petition.app), "it was removed");
        self.commander.board(&self.petition.app).ok_or_else(gone)
    }

    /// Looks, decides and sends until it is so. Of a dry run: until something would be sent.
    pub(super) async fn until(&mut self, decide: impl FnMut(&Seen, &[Call]) -> Next) -> Result<Seen, Refusal> {
        let seen = self.until_or(decide, || false).await?;
        seen.ok_or_else(|| self.too_late("it was not looked at"))
    }

    /// The same, or until `over` says that it is so; it is asked again with each change of the board.
    pub(super) async fn until_or(
        &mut self,
        mut decide: impl FnMut(&Seen, &[Call]) -> Next,
        over: impl Fn() -> bool,
    ) -> Result<Option<Seen>, Refusal> {
        let mut viewer = self.commander.viewer.clone();
        let mut heard = Instant::now();
        while !over() {
            let hangs = match self.commander.look(&self.home).await {
                Ok(seen) => match decide(&seen, &self.sent) {
                    Next::Done => return Ok(Some(seen)),
                    Next::Refuse(refusal) => return Err(refusal),
                    Next::Send(calls) if self.petition.dry_run => {
                        self.sent.extend(calls);
                        return Ok(Some(seen));
                    }
                    Next::Send(calls) => {
                        self.send(calls).await?;
                        heard = Instant::now();
                        tokio::time::sleep(BREATH).await;
                        continue;
                    }
                    Next::Wait(why) => why,
                },
                // Once something was sent, it may still have its effect: that is waited for.
                Err(Failed::Away(why)) if !self.sent.is_empty() => format!("the API server cannot be asked: {why}"),
                Err(failed) => return Err(failed.refusal()),
            };
            if Instant::now() >= self.deadline || self.petition.dry_run {
                return Err(self.too_late(&hangs));
            }
            if !self.sent.is_empty() && heard.elapsed() >= NUDGE {
                self.commander.nudge(&self.home).await;
                heard = Instant::now();
            }
            let look = (Instant::now() + LOOK).min(self.deadline);
            while !over() {
                match tokio::time::timeout_at(look, viewer.changed()).await {
                    Ok(true) => {}
                    Ok(false) => return Err(self.too_late("the proxy is stopping")),
                    Err(_) => break,
                }
            }
        }
        Ok(None)
    }

    /// Sends these. What was changed by somebody else meanwhile is left for the next look to decide.
    pub(super) async fn send(&mut self, calls: Vec<Call>) -> Result<(), Refusal> {
        for call in calls {
            if self.petition.dry_run {
                self.sent.push(call);
                continue;
            }
            if self.sent.len() >= SENDS {
                return Err(self.too_late("it was sent again and again, and has no effect"));
            }
            match self.commander.server.send(&call).await {
                Ok(_) => self.sent.push(call),
                Err(Failed::Changed) if Instant::now() < self.deadline => return Ok(()),
                Err(failed) => return Err(failed.refusal()),
            }
        }
        Ok(())
    }

    fn too_late(&self, hangs: &str) -> Refusal {
        let (app, within) = (&self.petition.app, self.petition.within.as_secs());
        let action = self.petition.ask.action().as_str();
        if self.petition.dry_run {
            return refusal(
                RefusalCode::NotReady,
                format!("{app}: nothing would be sent now; {hangs}"),
                "ask again later",
            );
        }
        let (detail, hint) = match self.sent.as_slice() {
            [] => {
                (format!("{action} of {app} could not be asked for within {within} s: {hangs}"), "nothing was changed")
            }
            _ => (
                format!("{action} of {app} was asked for, and had no effect within {within} s: {hangs}"),
                "it may still come: see `tealgate status` and the Rollout; abort takes a promotion back",
            ),
        };
        refusal(RefusalCode::TimedOut, detail, hint)
    }

    /// Puts on record what was done.
    pub(super) async fn done(
        self,
        action: Action,
        from: Option<Revision>,
        to: Option<Revision>,
    ) -> Result<Receipt, Refusal> {
        if self.petition.dry_run {
            return self.planned(from, to);
        }
        let Petition { app, by, reason, .. } = self.petition.clone();
        let receipt = self.commander.control.note(Note { app, action, from, to, by, reason }).await?;
        Ok(self.stamped(receipt))
    }

    pub(super) fn stamped(&self, mut receipt: Receipt) -> Receipt {
        receipt.calls = self.sent.iter().map(Call::to_string).collect();
        receipt.warnings.extend(self.warnings.iter().cloned());
        receipt
    }

    pub(super) fn planned(&self, from: Option<Revision>, to: Option<Revision>) -> Result<Receipt, Refusal> {
        let board = self.board()?;
        Ok(self.stamped(Receipt {
            app: self.petition.app.to_string(),
            action: self.petition.ask.action(),
            generation: board.rollout.generation().0,
            from: from.map(|revision| revision.to_string()),
            to: to.map(|revision| revision.to_string()),
            by: self.petition.by.clone(),
            reason: self.petition.reason.clone(),
            published_at: Timestamp::now(),
            barrier_micros: 0,
            in_flight_on_old: board.status().active.map_or(0, |pool| pool.in_flight),
            gates: board.rollout.gates(),
            weight: None,
            replicas: Vec::new(),
            calls: Vec::new(),
            warnings: Vec::new(),
            dry_run: true,
        }))
    }
}

pub(super) fn refusal(code: RefusalCode, detail: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { code, detail: detail.into(), hint: hint.into() }
}
