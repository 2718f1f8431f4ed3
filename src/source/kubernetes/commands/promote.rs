//! The promotion: what it must not do, what of ours stands in its way, and how it is known that live traffic has moved here.

use jiff::{Timestamp, ToSpan as _};

use super::{
    super::{
        call::Call,
        decide::{self, Next, Seen},
        settle,
    },
    errand::{Errand, refusal},
    hash, last_flip, told_of,
};
use crate::switch::{Action, AppBoard, Command, GateState, Order, Petition, Receipt, Refusal, RefusalCode, Revision};

impl Errand<'_> {
    pub(super) async fn promote(mut self, named: Option<Revision>, full: bool) -> Result<Receipt, Refusal> {
        let seen = self.look().await?;
        let board = self.board()?;
        let target = target_of(&seen, named)?;
        if *board.rollout.active() == target {
            let detail = format!("{target} is the active revision of {} already", self.petition.app);
            return Err(refusal(RefusalCode::AlreadyActive, detail, "there is nothing to do"));
        }
        if let Some(pin) = board.rollout.pin() {
            let detail = format!("{} is pinned to {} by {}: {}", self.petition.app, pin.revision, pin.by, pin.reason);
            return Err(refusal(RefusalCode::Pinned, detail, "take the pin off first (unpin)"));
        }
        if seen.active() == target.as_str() && is_returned_from(&board, &target, &seen) {
            return self.take_rollback_back(target).await;
        }
        if let Some(told) = told_of(&seen).filter(|told| told.from == target && told.to != target) {
            // All replicas were told not to follow the cluster there.
            let (from, to, call) = (told.from, told.to, settle::forget(&seen));
            self.warnings.push(format!("the rollback from {from} to {to} does not hold any more"));
            self.send(vec![call]).await?;
        }
        if seen.blue_green().is_none() && !full {
            return self.take_canary_step(&board, &target).await;
        }
        self.warnings.extend(decide::costs(&seen, full));
        if !self.petition.dry_run {
            let Petition { app, by, reason, .. } = self.petition.clone();
            self.commander.control.asked(app, target.clone(), by, reason).await;
        }
        let before = self.sent.len();
        match self.until_promoted(&target, full).await {
            Ok(receipt) => Ok(receipt),
            Err(refusal) => {
                if self.sent.len() == before && !self.petition.dry_run {
                    self.commander.control.no_longer_asked(self.petition.app.clone()).await;
                }
                Err(refusal)
            }
        }
    }

    /// Until the flip has come, here.
    async fn until_promoted(&mut self, target: &Revision, full: bool) -> Result<Receipt, Refusal> {
        let (commander, app, began) = (self.commander, self.petition.app.clone(), self.began);
        let before = self.sent.len();
        let flipped = || commander.board(&app).and_then(|board| flip_to(&board, target, began));
        let decide = |seen: &Seen, sent: &[Call]| {
            if seen.status.current != target.as_str() {
                let (newer, hint) = (&seen.status.current, "see what it is, then promote that");
                let detail = format!("the newest revision is {newer} by now, not {target}");
                return Next::Refuse(refusal(RefusalCode::NoCandidate, detail, hint));
            }
            match decide::promote(seen, full) {
                Next::Done => Next::Wait(match commander.board(&app) {
                    Some(board) => format!("the Service selects {target}, but here: {}", board.message()),
                    None => "the app is gone from the configuration".to_owned(),
                }),
                // What is under way is not held up any more by gates of ours.
                next if sent.len() > before => next,
                Next::Refuse(refusal) => Next::Refuse(refusal),
                next => commander.board(&app).and_then(|board| gate(&board, target, full)).unwrap_or(next),
            }
        };
        let dry_run = self.petition.dry_run;
        self.until_or(decide, || !dry_run && flipped().is_some()).await?;
        match flipped() {
            Some(receipt) if !dry_run => Ok(self.stamped(receipt)),
            _ => {
                let from = self.board()?.rollout.active().clone();
                self.planned(Some(from), Some(target.clone()))
            }
        }
    }

    /// The cluster has the target active, and only a rollback of ours keeps it from live traffic.
    async fn take_rollback_back(self, target: Revision) -> Result<Receipt, Refusal> {
        let Petition { app, by, reason, dry_run, .. } = self.petition.clone();
        let command = Command::Rollback { to: Some(target) };
        let order = Order { app, command, by, reason, if_generation: None, dry_run };
        let mut receipt = self.commander.control.submit(order).await?;
        let untold = if dry_run { None } else { self.commander.is_told(&receipt).await };
        receipt.warnings.extend(untold);
        receipt
            .warnings
            .push("the cluster had it active; the rollback that kept it from live traffic is taken back".into());
        Ok(receipt)
    }

    /// Ends a canary's pause, or skips its step. What share of traffic follows is the controller's to say.
    async fn take_canary_step(mut self, board: &AppBoard, target: &Revision) -> Result<Receipt, Refusal> {
        if let Some(Next::Refuse(refusal)) = gate(board, target, false) {
            return Err(refusal);
        }
        let mut before = None;
        let decide = |seen: &Seen, sent: &[Call]| {
            let step = seen.status.current_step_index;
            match sent {
                [] => {
                    before = step;
                    decide::promote(seen, false)
                }
                _ if step > before || !seen.status.controller_pause || seen.active() == target.as_str() => Next::Done,
                _ => Next::Wait(seen.in_words()),
            }
        };
        self.until(decide).await?;
        self.warnings.push("a canary: this was one step of its way; --skip-gates promotes it in full".to_owned());
        let active = board.rollout.active().clone();
        self.done(Action::Weight, Some(active), Some(target.clone())).await
    }
}

/// The newest revision; a name guards against promoting another one than meant.
fn target_of(seen: &Seen, named: Option<Revision>) -> Result<Revision, Refusal> {
    let current = hash(&seen.status.current).ok_or_else(|| {
        let detail = format!("the Rollout has no revision to promote yet: {}", seen.in_words());
        refusal(RefusalCode::NoCandidate, detail, "see whether the controller of Argo Rollouts is up")
    })?;
    match named.filter(|named| *named != current) {
        None => Ok(current),
        Some(named) => {
            let detail = format!("the newest revision is {current}, not {named}");
            Err(refusal(RefusalCode::NoCandidate, detail, format!("promote {current}, or bring {named} back first")))
        }
    }
}

/// Whether a rollback of ours keeps this revision from live traffic, though the cluster has it active.
fn is_returned_from(board: &AppBoard, target: &Revision, seen: &Seen) -> bool {
    let by_annotation = told_of(seen).is_some_and(|told| told.from == *target && told.to == *board.rollout.active());
    let ours = |flip: &Receipt| flip.action == Action::Rollback && flip.from.as_deref() == Some(target.as_str());
    by_annotation || last_flip(board).is_some_and(ours)
}

/// The receipt of the flip to this revision since then.
fn flip_to(board: &AppBoard, target: &Revision, since: Timestamp) -> Option<Receipt> {
    let flip = last_flip(board).filter(|flip| flip.to.as_deref() == Some(target.as_str()))?;
    // Both times are of one clock; that may be set back a little meanwhile.
    let slack = since.checked_sub(1.second()).unwrap_or(since);
    (flip.published_at >= slack && *board.rollout.active() == *target).then(|| flip.clone())
}

/// What of ours stands in the way of the candidate's promotion.
fn gate(board: &AppBoard, target: &Revision, skip: bool) -> Option<Next> {
    let status = board.status();
    let Some(pool) = status.preview.filter(|pool| pool.revision == target.as_str()) else {
        return Some(Next::Wait(format!("the proxy has not seen {target} as the candidate yet")));
    };
    if skip && pool.ready > 0 {
        return None;
    }
    let failing = status.gates.iter().find(|gate| {
        !matches!(gate.state, GateState::Passed | GateState::Skipped) && (!skip || gate.name == "min_ready")
    })?;
    let code = if failing.name == "min_ready" { RefusalCode::NotReady } else { RefusalCode::GateFailed };
    let detail = format!("the gate {} of {target} does not hold: {}", failing.name, failing.message);
    let hint = "ask again when it does, or skip the gates with a reason; an empty pool is refused all the same";
    Some(Next::Refuse(refusal(code, detail, hint)))
}
