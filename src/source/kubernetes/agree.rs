//! Making Argo Rollouts agree with a rollback. The switch flips at once and asks nobody (G5); then the cluster is told.
//!
//! First an annotation on the Rollout, so that every replica follows; then, before the newest revision is promoted in full,
//! an abort, and after that the earlier revision's template, promoted in full. When the Service selects what the proxy
//! serves, the two agree, and the annotation goes. Any replica can do any of it: what is to be done is read off the
//! cluster each time (`settle`), and every write is good only for what it was decided on.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    Objects, Targets,
    call::{Call, Failed, Object},
    commands::{Commander, Home, NUDGE, Told, hash, last_flip, told_of},
    events::Notice,
    objects::HASH,
    settle::{self, Move, Ours, Situation, TRIES},
};
use crate::switch::{Action, AppBoard, AppName, Command, Order, Returned, Revision};

/// Who is said to have acted where nobody asked.
pub(super) const BY_ITSELF: &str = "tealgate";

/// The waits between two looks: while something is under way, at first, and the longest.
const SOON: Duration = Duration::from_millis(150);
const LATER: Duration = Duration::from_secs(10);
/// The wait between two looks while the two agree.
const LINGERING: Duration = Duration::from_secs(5);
/// How long ago a rollback was ordered at most, for it to be told without a look at the cluster first.
const FRESH: SignedDuration = SignedDuration::from_secs(10);
/// How long a replica leaves it to the one that was asked.
const HOLD_OFF: Duration = Duration::from_secs(4);

/// What is logged of telling.
const TELLING: &str = "a rollback was told to all replicas";

/// What is wrong with apps whose rollback the cluster does not agree with, in sentences.
pub type Alarms = BTreeMap<AppName, String>;

/// Sees to it that the cluster agrees with every rollback, for as long as the targets can change.
pub(super) async fn agree(commander: Commander, mut targets: watch::Receiver<Targets>, alarms: watch::Sender<Alarms>) {
    let mut parties: BTreeMap<AppName, AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        let apps = targets.borrow_and_update().apps.clone();
        let follows = |app: &AppName| matches!(apps.get(app).map(|target| &target.objects), Some(Objects::Rollout(_)));
        parties.retain(|app, _| follows(app));
        for app in apps.keys().filter(|app| follows(app)) {
            parties.entry(app.clone()).or_insert_with(|| {
                let (commander, alarms) = (commander.clone(), alarms.clone());
                let party = Party { commander, app: app.clone(), alarms, memory: Memory::default() };
                AbortOnDropHandle::new(tokio::spawn(party.run()))
            });
        }
        if targets.changed().await.is_err() {
            return;
        }
    }
}

/// One app, with what is remembered between two looks.
struct Party {
    commander: Commander,
    app: AppName,
    alarms: watch::Sender<Alarms>,
    memory: Memory,
}

#[derive(Default)]
struct Memory {
    /// The last flip that was looked at.
    flip: Option<Timestamp>,
    /// The rollback that is being settled, and since when we know of it.
    settling: Option<(Timestamp, Instant)>,
    /// Whether it was ordered here, and which was told from here at once.
    ours: bool,
    told: Option<Timestamp>,
    /// When the controller was last given something to look at.
    heard: Option<Instant>,
    /// Whether the cluster has come to agree with it.
    agreed: bool,
    /// Whether the deadline of a ReplicaSet is not ours to put off.
    may_not_extend: bool,
    failures: u32,
}

impl Party {
    async fn run(mut self) {
        let mut viewer = self.commander.viewer.clone();
        loop {
            let wait = self.turn().await;
            let news = async {
                while self.flip() == self.memory.flip {
                    if !viewer.changed().await {
                        std::future::pending::<()>().await;
                    }
                }
            };
            match wait {
                Some(wait) => _ = tokio::time::timeout(wait, news).await,
                None => news.await,
            }
        }
    }

    fn flip(&self) -> Option<Timestamp> {
        self.commander.board(&self.app).and_then(|board| last_flip(&board).map(|flip| flip.published_at))
    }

    /// Looks once, does what is next, and says when to look again; `None`: when live traffic has moved again.
    async fn turn(&mut self) -> Option<Duration> {
        let Some(board) = self.commander.board(&self.app) else { return Some(LATER) };
        self.memory.flip = last_flip(&board).map(|flip| flip.published_at);
        match self.look_and_move(&board).await {
            Ok(wait) => {
                self.memory.failures = 0;
                self.report(Told::Nothing);
                wait
            }
            // Somebody else was faster: perhaps with the very same.
            Err(Failed::Changed) => Some(SOON),
            Err(failed) => {
                self.memory.failures += 1;
                self.report(Told::NotYet(failed.clone().refusal().detail));
                Some(self.fail(failed))
            }
        }
    }

    /// Lets whoever waits know what became of telling of the last flip; a better word takes the place of `NotYet` alone.
    fn report(&self, told: Told) {
        let Some(flip) = self.memory.flip else { return };
        self.commander.telling.send_if_modified(|all| match all.get(&self.app) {
            Some((last, before)) if *last == flip && !matches!(before, Told::NotYet(_)) => false,
            _ => all.insert(self.app.clone(), (flip, told.clone())) != Some((flip, told)),
        });
    }

    /// The rollback stands whatever the cluster says: it is tried until it works.
    fn fail(&mut self, failed: Failed) -> Duration {
        let away = matches!(failed, Failed::Away(_));
        let refusal = failed.refusal();
        if !away && self.memory.settling.is_some() {
            self.alarm(Some(format!(
                "the rollback stands, but Argo Rollouts cannot be told: {}; {}",
                refusal.detail, refusal.hint
            )));
        }
        if self.memory.failures == 1 {
            warn!(app = %self.app, why = refusal.detail, "the cluster cannot be brought to agree just now");
        }
        let wait = SOON * 2u32.saturating_pow(self.memory.failures.min(8));
        wait.min(LATER).mul_f64(0.75 + 0.5 * fastrand::f64())
    }

    async fn look_and_move(&mut self, board: &AppBoard) -> Result<Option<Duration>, Failed> {
        let Some(home) = self.commander.home(&self.app).await? else { return Ok(None) };
        self.tell_at_once(board, &home).await?;
        let seen = self.commander.look(&home).await?;
        let now = Timestamp::now();
        let told = told_of(&seen);
        let ours = ours(board);
        if told.is_none() && ours.is_none() {
            return Ok(self.rest());
        }
        let wanted = seen.blue_green().map(|strategy| strategy.active_service.clone());
        let service = match wanted {
            Some(name) => self.selected(&home, &name).await?,
            None => None,
        };
        let service = service.or_else(|| hash(seen.active()));
        let differs =
            |told: &&Returned| service.as_ref() != Some(&told.to) || seen.status.current == told.from.as_str();
        let (replica_set, held) = match told.as_ref().filter(differs) {
            Some(told) => self.commander.templates(&seen, told.to.as_str()).await?,
            None => (None, None),
        };
        let known_for = told.as_ref().map_or(Duration::ZERO, |told| self.settling(told.at).1.elapsed());
        let status = board.status();
        let situation = Situation {
            seen: &seen,
            service,
            told,
            known_for,
            tries: seen.rollout.annotation(TRIES).and_then(|tries| tries.parse().ok()).unwrap_or_default(),
            active: board.rollout.active().clone(),
            ready: status.active.map_or(0, |pool| pool.ready),
            ours,
            replica_set: replica_set.as_ref(),
            held: held.as_ref(),
            may_extend: !self.memory.may_not_extend,
            now,
        };
        let next = settle::decide(&situation);
        let told = situation.told.clone();
        self.make(next, told).await
    }

    /// A rollback that was ordered here a moment ago is told by one call: the replicas follow that much sooner. What that
    /// call may have got wrong, the look that follows puts right.
    async fn tell_at_once(&mut self, board: &AppBoard, home: &Home) -> Result<(), Failed> {
        let Some(Ours { at, by, reason }) = ours(board) else { return Ok(()) };
        let (to, from) = (board.rollout.active().clone(), board.rollout.said_active().clone());
        let same = |told: &Returned| told.to == to && told.from == from && told.by == by;
        let told = board.rollout.returned().is_some_and(|told| told.at >= at || same(told));
        let fresh = Timestamp::now().duration_since(at) < FRESH;
        if told || !fresh || self.memory.told == Some(at) || from == to {
            return Ok(());
        }
        self.memory.told = Some(at);
        self.memory.ours = true;
        let told = Returned { to, from, at, by, reason, released: false };
        self.send(&settle::announce(Object::rollout(&home.namespace, &home.rollout), &told), TELLING).await?;
        self.report(Told::Written);
        Ok(())
    }

    /// The hash in a Service's selector.
    async fn selected(&self, home: &Home, name: &str) -> Result<Option<Revision>, Failed> {
        let service = match self.commander.server.get(&Object::service(&home.namespace, name)).await {
            Err(Failed::Missing(_)) => return Ok(None),
            service => service?,
        };
        Ok(service.pointer("/spec/selector").and_then(|selector| selector[HASH].as_str()).and_then(hash))
    }

    async fn make(&mut self, next: Move, told: Option<Returned>) -> Result<Option<Duration>, Failed> {
        match next {
            Move::Rest => Ok(self.rest()),
            Move::Announce(call) => {
                self.memory.ours = true;
                self.send(&call, TELLING).await?;
                self.report(Told::Written);
                Ok(Some(Duration::ZERO))
            }
            Move::Forget(call) => {
                if !self.may_drive(told.as_ref()) {
                    return Ok(Some(HOLD_OFF));
                }
                self.send(&call, "a rollback is over").await?;
                Ok(self.rest())
            }
            Move::Linger => {
                self.alarm(None);
                if let Some(told) = told.filter(|_| !std::mem::replace(&mut self.memory.agreed, true)) {
                    self.commander.notices.try_send(Notice::agreed(&self.app, &told)).ok();
                }
                Ok(Some(LINGERING))
            }
            Move::Release(call) => {
                if self.may_drive(told.as_ref()) {
                    self.send(&call, "a rollback holds no longer against whoever approves in the cluster").await?;
                }
                Ok(Some(SOON))
            }
            Move::Push(calls) => {
                if !self.may_drive(told.as_ref()) {
                    return Ok(Some(SOON));
                }
                self.memory.heard = None;
                for call in &calls {
                    self.send(call, "the cluster is brought to agree with a rollback").await?;
                }
                Ok(Some(SOON))
            }
            Move::Extend(call) => {
                match self.send(&call, "the ReplicaSet that was returned to is kept").await {
                    Err(failed @ Failed::Forbidden { .. }) => {
                        self.memory.may_not_extend = true;
                        let why = failed.refusal();
                        warn!(app = %self.app, why = why.detail, hint = why.hint, "what was returned to may be scaled down");
                    }
                    sent => sent?,
                }
                Ok(Some(Duration::ZERO))
            }
            Move::Wait => {
                self.nudge_if_it_hangs(told.as_ref()).await?;
                Ok(Some(self.patience(told.as_ref())))
            }
            Move::Stuck(why) => {
                if self.alarm(Some(why.clone())) {
                    warn!(app = %self.app, why, "the cluster does not agree with a rollback");
                    self.commander.notices.try_send(Notice::not_agreed(&self.app, &why)).ok();
                }
                Ok(Some(LATER))
            }
            Move::GiveWay(to, why) => Ok(Some(self.give_way(to, why).await)),
        }
    }

    /// Where the cluster is on its way and does not move, its controller may have missed what was sent last.
    async fn nudge_if_it_hangs(&mut self, told: Option<&Returned>) -> Result<(), Failed> {
        let since = *self.memory.heard.get_or_insert_with(Instant::now);
        // Where the rollback could not be obeyed here, it is not for us to hurry.
        let obeyed =
            told.zip(self.commander.board(&self.app)).is_some_and(|(told, board)| *board.rollout.active() == told.to);
        if !obeyed || since.elapsed() < NUDGE || !self.may_drive(told) {
            return Ok(());
        }
        if let Some(home) = self.commander.home(&self.app).await? {
            self.commander.nudge(&home).await;
        }
        self.memory.heard = Some(Instant::now());
        Ok(())
    }

    /// The override ends: nothing is left to return to.
    async fn give_way(&mut self, to: Revision, why: String) -> Duration {
        warn!(app = %self.app, %to, why, "a rollback ends");
        let (command, by) = (Command::Rollback { to: Some(to) }, BY_ITSELF.to_owned());
        let order =
            Order { app: self.app.clone(), command, by, reason: why.clone(), if_generation: None, dry_run: false };
        match self.commander.control.submit(order).await {
            Ok(_) => {
                self.alarm(None);
                self.commander.notices.try_send(Notice::ended(&self.app, &why)).ok();
                Duration::ZERO
            }
            Err(refusal) => {
                self.alarm(Some(format!("{why}, and there is nothing else to serve: {}", refusal.detail)));
                Duration::from_secs(1)
            }
        }
    }

    async fn send(&self, call: &Call, what: &str) -> Result<(), Failed> {
        self.commander.server.send(call).await?;
        info!(app = %self.app, %call, "{what}");
        Ok(())
    }

    /// Whether it is for this replica to go on. The one that was asked does so at once; the others see after a while
    /// whether it does.
    fn may_drive(&mut self, told: Option<&Returned>) -> bool {
        let Some(told) = told else { return true };
        let (_, since) = self.settling(told.at);
        self.memory.ours || since.elapsed() >= HOLD_OFF + Duration::from_millis(fastrand::u64(..2000))
    }

    /// Since when the rollback of that time is known here.
    fn settling(&mut self, at: Timestamp) -> (Timestamp, Instant) {
        let known = self.memory.settling.filter(|(known, _)| *known == at);
        *self.memory.settling.insert(known.unwrap_or_else(|| (at, Instant::now())))
    }

    /// Often at first, then less and less.
    fn patience(&mut self, told: Option<&Returned>) -> Duration {
        let Some(told) = told else { return LATER };
        let (_, since) = self.settling(told.at);
        (since.elapsed() / 10).clamp(SOON, LATER)
    }

    fn rest(&mut self) -> Option<Duration> {
        let flip = self.memory.flip;
        let told = self.memory.told;
        self.memory = Memory { flip, told, ..Memory::default() };
        self.alarm(None);
        None
    }

    /// Whether that is news.
    fn alarm(&self, alarm: Option<String>) -> bool {
        self.alarms.send_if_modified(|alarms| {
            let before = alarms.get(&self.app).cloned();
            match &alarm {
                Some(alarm) => drop(alarms.insert(self.app.clone(), alarm.clone())),
                None => drop(alarms.remove(&self.app)),
            }
            before != alarm
        })
    }
}

/// The last flip, if it was a rollback that still holds here.
fn ours(board: &AppBoard) -> Option<Ours> {
    let flip = last_flip(board).filter(|flip| flip.action == Action::Rollback)?;
    let here = flip.to.as_deref() == Some(board.rollout.active().as_str());
    here.then(|| Ours { at: flip.published_at, by: flip.by.clone(), reason: flip.reason.clone() })
}

#[cfg(test)]
mod tests;
