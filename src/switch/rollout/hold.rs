//! Holds and maintenance: what keeps live requests out for a while. A hold that waits to promote is one action: it ends
//! with the flip, or with its reason, and any other change of the roles puts an end to it. How long it has lasted is not
//! for the wall clock to say, which may be set meanwhile: `switchboard` tells it by [`Input::HoldOver`](super::Input).

use std::time::Duration;

use jiff::Timestamp;

use super::{
    super::{
        control::{Refusal, RefusalCode},
        name::{Generation, Revision},
        policy::HoldBounds,
        status::{Action, Maintenance},
    },
    Deed, Rollout, later,
    orders::FromTo,
};

/// Who ends what nobody ended.
pub(super) const BY_ITSELF: &str = "tealgate";

/// A hold that is on. It is not kept over a restart: a process that has just started holds nobody.
#[derive(Clone, Debug, PartialEq)]
pub struct Holding {
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself.
    pub deadline: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// How far it may go.
    pub bounds: HoldBounds,
    promotion: Option<Waiting>,
}

/// A promotion that waits for the active pool to be empty.
#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    revision: Revision,
    skip_gates: bool,
    /// At which it was asked for. Should the roles change meanwhile, it was meant for others.
    generation: Generation,
}

/// How a hold came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum HoldEnd {
    /// It has lasted as long as it may.
    Aged,
    /// The active pool, whose emptying it waited for, is empty.
    Emptied,
    /// The pool is empty, and its promotion could not be carried out for this reason.
    Failed(String),
}

impl Holding {
    /// The revision that becomes active as soon as the active pool is empty.
    pub fn promotes(&self) -> Option<&Revision> {
        self.promotion.as_ref().map(|waiting| &waiting.revision)
    }
}

impl Rollout {
    /// The hold, if one is on.
    pub fn holding(&self) -> Option<&Holding> {
        self.holding.as_ref()
    }

    /// The maintenance, if it is on.
    pub fn maintenance(&self) -> Option<&Maintenance> {
        self.kept.maintenance.as_ref()
    }

    pub(super) fn hold(
        &mut self,
        bounds: HoldBounds,
        by: &str,
        reason: String,
        now: Timestamp,
    ) -> Result<FromTo, Refusal> {
        self.begin_hold(bounds, by, reason, now, None)?;
        Ok((None, Some(self.active().clone())))
    }

    pub(super) fn hold_to_promote(
        &mut self,
        (named, skip_gates): (Option<Revision>, bool),
        bounds: HoldBounds,
        by: &str,
        reason: String,
        now: Timestamp,
    ) -> Result<FromTo, Refusal> {
        // What is refused is refused now, and not when requests have waited for it.
        let (from, to) = self.clone().promote(named, skip_gates, now)?;
        let generation = self.kept.generation;
        let waiting = to.clone().map(|revision| Waiting { revision, skip_gates, generation });
        self.begin_hold(bounds, by, reason, now, waiting)?;
        Ok((from, to))
    }

    fn begin_hold(
        &mut self,
        bounds: HoldBounds,
        by: &str,
        reason: String,
        now: Timestamp,
        promotion: Option<Waiting>,
    ) -> Result<(), Refusal> {
        if let Some(Holding { by, since, .. }) = &self.holding {
            let detail = format!("requests of {} are held already, by {by} since {since}", self.kept.app);
            let hint = "promote without a hold of its own, or end this one first (resume)";
            return Err(Refusal::new(RefusalCode::Held, detail, hint));
        }
        let deadline = later(now, bounds.max_age);
        self.holding = Some(Holding { since: now, deadline, by: by.to_owned(), reason, bounds, promotion });
        Ok(())
    }

    pub(super) fn resume(&mut self) -> Result<FromTo, Refusal> {
        match self.holding.take() {
            Some(_) => Ok((None, Some(self.active().clone()))),
            None => {
                let detail = format!("no request of {} is held", self.kept.app);
                Err(Refusal::new(RefusalCode::NotHeld, detail, "there is nothing to do"))
            }
        }
    }

    /// While one promotion waits for the pool to be empty, no other goes before it.
    pub(super) fn refuse_if_emptying(&self) -> Result<(), Refusal> {
        let waiting = self.holding.as_ref().and_then(|holding| Some((holding.promotes()?, &holding.by)));
        let Some((revision, by)) = waiting else { return Ok(()) };
        let detail = format!("{by} is promoting {revision}, and waits until {} is empty", self.active());
        Err(Refusal::new(RefusalCode::Held, detail, "wait for it, or end it first (resume)"))
    }

    /// Ends the hold, with the promotion it waited for if that can be.
    pub(super) fn end_hold(&mut self, how: HoldEnd, now: Timestamp, deeds: &mut Vec<Deed>) {
        let Some(holding) = self.holding.take() else { return };
        let age = in_words(holding.bounds.max_age);
        let why = match (how, holding.promotion) {
            (HoldEnd::Failed(why), _) => why,
            (_, None) => format!("it has lasted for the {age} it may"),
            (HoldEnd::Aged, Some(_)) => format!("{} was not empty within {age}", self.active()),
            (HoldEnd::Emptied, Some(Waiting { revision, skip_gates, .. })) => {
                match self.promote(Some(revision), skip_gates, now) {
                    Ok((from, to)) => {
                        deeds.push(self.deed(Action::Promote, from, to, holding.by, holding.reason));
                        return;
                    }
                    Err(refusal) => refusal.detail,
                }
            }
        };
        self.resumed_because(why, deeds);
    }

    /// A promotion that waits falls with the roles it was asked for, and its hold with it.
    pub(super) fn drop_stale_hold(&mut self, deeds: &mut Vec<Deed>) {
        let waiting = self.holding.as_ref().and_then(|holding| holding.promotion.as_ref());
        if waiting.is_some_and(|waiting| waiting.generation != self.kept.generation) {
            self.holding = None;
            self.resumed_because("the roles changed before the pool was empty".to_owned(), deeds);
        }
    }

    fn resumed_because(&self, why: String, deeds: &mut Vec<Deed>) {
        let to = Some(self.active().clone());
        deeds.push(self.deed(Action::Resume, None, to, BY_ITSELF.to_owned(), why));
    }

    /// Maintenance begins, or goes on by other terms.
    pub(super) fn maintain(&mut self, retry_after: Duration, by: &str, reason: String, now: Timestamp) -> FromTo {
        let since = self.kept.maintenance.as_ref().map_or(now, |maintenance| maintenance.since);
        let retry_after_seconds = retry_after.as_secs().max(1);
        self.kept.maintenance = Some(Maintenance { since, by: by.to_owned(), reason, retry_after_seconds });
        (None, Some(self.active().clone()))
    }

    pub(super) fn reopen(&mut self) -> Result<FromTo, Refusal> {
        match self.kept.maintenance.take() {
            Some(_) => Ok((None, Some(self.active().clone()))),
            None => {
                let detail = format!("{} is not under maintenance", self.kept.app);
                Err(Refusal::new(RefusalCode::NotInMaintenance, detail, "there is nothing to do"))
            }
        }
    }
}

fn in_words(age: Duration) -> String {
    format!("{} s", age.as_secs_f64())
}
