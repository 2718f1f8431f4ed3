//! A worker's coarse clock. A timer per request in the runtime's wheel would cost every request an insertion and a
//! removal for something that hardly ever fires; here a request owns a slot, setting its deadline is one store, and a tick
//! looks through the slots. Deadlines are kept to one [`TICK`]: never early, late by less than two.
//!
//! A slot also hears of the end of its request's tenure ([`Alarm::Cut`]). One of a long-lived stream does with it what its
//! app's policy says: stay, or leave in its turn, at the deadline or as soon as the pool is retired ([`Alarm::Retired`]).

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    future::Future,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::time::Instant;

use crate::switch::{Drain, Stage, Streams, Tenure};

/// How often deadlines are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);

pub(super) struct Clock {
    now: Cell<Instant>,
    slots: RefCell<Slab<Slot>>,
    /// The tenures whose end is being waited for.
    followed: RefCell<HashSet<u64>>,
    /// One of them: mostly the one that is asked for next.
    followed_last: Cell<u64>,
    /// The worker is ending: to whatever runs, that is what the retirement of its pool is.
    ending: Cell<bool>,
}

#[derive(Default)]
struct Slot {
    due: Option<Instant>,
    tenure: u64,
    /// Set for a long-lived stream, which few are.
    stream: Option<Box<Stream>>,
    /// Its time is over, whatever its deadline.
    over: Option<Alarm>,
    waker: Option<Waker>,
}

/// A long-lived stream, and how it is treated when its pool is retired.
struct Stream {
    tenure: Arc<Tenure>,
    policy: Drain,
    /// When it is to be closed, and with which alarm.
    leaves: Option<(Instant, Alarm)>,
}

/// Why a wait ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// The deadline has passed.
    Due,
    /// The tenure was cut.
    Cut,
    /// The tenure was retired, and the stream is one that leaves then.
    Retired,
}

impl Clock {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(Instant::now()),
            slots: RefCell::default(),
            followed: RefCell::default(),
            followed_last: Cell::new(0),
            ending: Cell::new(false),
        })
    }

    /// The time of the last tick.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// A timer that is not set.
    pub(super) fn timer(self: &Rc<Self>) -> Timer {
        Timer { key: self.slots.borrow_mut().insert(Slot::default()), clock: Rc::clone(self) }
    }

    /// Looks through all deadlines. The worker calls it every [`TICK`].
    pub(super) fn tick(&self) {
        let now = Instant::now();
        self.now.set(now);
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            let leaves = slot.stream.as_ref().and_then(|stream| stream.leaves);
            if let Some((_, alarm)) = leaves.filter(|(at, _)| *at <= now) {
                slot.end(alarm);
            } else if slot.due.is_some_and(|due| due <= now) {
                slot.ring();
            }
        }
    }

    /// The worker is about to end: streams that leave when their pool is retired leave now.
    pub(super) fn begin_to_end(&self) {
        self.ending.set(true);
        self.slots.borrow_mut().iter_mut().for_each(|(_, slot)| slot.reached(Stage::Retired));
    }

    /// Ends whatever still runs, kept streams too.
    pub(super) fn cut_all(&self) {
        self.slots.borrow_mut().iter_mut().for_each(|(_, slot)| slot.end(Alarm::Cut));
    }

    fn reached(&self, tenure: u64, stage: Stage) {
        let mut slots = self.slots.borrow_mut();
        slots.iter_mut().filter(|(_, slot)| slot.tenure == tenure).for_each(|(_, slot)| slot.reached(stage));
    }

    async fn await_end(self: Rc<Self>, tenure: u64, mut stage: tokio::sync::watch::Receiver<Stage>) {
        for awaited in [Stage::Retired, Stage::Cut] {
            // An error means that the tenure is gone, and so is everybody in it.
            if stage.wait_for(|stage| *stage >= awaited).await.is_err() {
                break;
            }
            self.reached(tenure, awaited);
        }
        self.followed.borrow_mut().remove(&tenure);
        self.followed_last.set(0);
    }
}

impl Slot {
    fn reached(&mut self, stage: Stage) {
        let Some(stream) = &mut self.stream else {
            if stage == Stage::Cut {
                self.end(Alarm::Cut);
            }
            return;
        };
        let Stream { tenure, policy, leaves } = &mut **stream;
        let alarm = match (policy.streams, stage) {
            (Streams::Cut, Stage::Retired | Stage::Cut) => Alarm::Retired,
            (Streams::Drain, Stage::Cut) => Alarm::Cut,
            (Streams::Keep, _) | (_, Stage::Serving) | (Streams::Drain, Stage::Retired) => return,
        };
        // To be told once more is no new turn.
        if leaves.is_none() && self.over.is_none() {
            *leaves = Some((tenure.next_departure(policy.close_rate), alarm));
        }
    }

    fn end(&mut self, alarm: Alarm) {
        self.over.get_or_insert(alarm);
        self.stream = None;
        self.ring();
    }

    fn ring(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// One deadline on a worker's clock, given up when dropped.
pub(super) struct Timer {
    clock: Rc<Clock>,
    key: usize,
}

impl Timer {
    pub(super) fn clock(&self) -> &Rc<Clock> {
        &self.clock
    }

    /// Sets the deadline, in place of an earlier one. `None` is never.
    pub(super) fn set(&self, due: Option<Instant>) {
        self.clock.slots.borrow_mut()[self.key].due = due;
    }

    /// Sets the deadline this far from now.
    pub(super) fn set_within(&self, within: Duration) {
        // The clock may be a tick behind, and a deadline is never early.
        self.set(self.clock.now().checked_add(within + TICK));
    }

    /// Makes it as good as new.
    pub(super) fn renew(&self) {
        let slot = &mut self.clock.slots.borrow_mut()[self.key];
        // The waker is mostly that of whoever has the timer next.
        *slot = Slot { waker: slot.waker.take(), ..Slot::default() };
    }

    /// Rings when `tenure` is cut.
    pub(super) fn follow(&self, tenure: &Tenure) {
        let id = tenure.id();
        let slot = &mut self.clock.slots.borrow_mut()[self.key];
        (slot.tenure, slot.over) = (id, None);
        if self.clock.followed_last.replace(id) != id && self.clock.followed.borrow_mut().insert(id) {
            tokio::task::spawn_local(Rc::clone(&self.clock).await_end(id, tenure.stage()));
        }
    }

    /// It is for a long-lived stream from now on, on the tenure it follows: rings when that one's time has come.
    pub(super) fn is_for_stream(&self, tenure: &Arc<Tenure>, policy: Drain) {
        let slot = &mut self.clock.slots.borrow_mut()[self.key];
        slot.stream = Some(Box::new(Stream { tenure: Arc::clone(tenure), policy, leaves: None }));
        let stage = *tenure.stage().borrow();
        slot.reached(if self.clock.ending.get() { stage.max(Stage::Retired) } else { stage });
    }

    /// Its time is not over yet, though it was: whoever holds it sees to its end.
    pub(super) fn go_on(&self) {
        self.clock.slots.borrow_mut()[self.key].over = None;
    }

    /// Whether its time is over whatever the deadline, and why.
    pub(super) fn over(&self) -> Option<Alarm> {
        self.clock.slots.borrow()[self.key].over
    }

    /// Ready when the deadline has passed or its time is over; otherwise the task is woken when it is.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Alarm> {
        let slot = &mut self.clock.slots.borrow_mut()[self.key];
        if let Some(alarm) = slot.over {
            return Poll::Ready(alarm);
        }
        if slot.due.is_some_and(|due| due <= self.clock.now()) {
            return Poll::Ready(Alarm::Due);
        }
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Runs `work` until it is done or the alarm rings.
    pub(super) async fn guard<F: Future>(&self, work: F) -> Result<F::Output, Alarm> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.clock.slots.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ticking(clock: Rc<Clock>) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            clock.tick();
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_deadline_is_never_early_and_late_by_less_than_two_ticks() {
        let clock = Clock::new();
        let started = Instant::now();
        let timer = clock.timer();
        timer.set_within(Duration::from_millis(250));
        let work = async { tokio::join!(ticking(Rc::clone(&clock)), std::future::pending::<()>()) };
        assert_eq!(timer.guard(work).await, Err(Alarm::Due));
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(250) && took < Duration::from_millis(450), "{took:?}");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn work_that_is_done_in_time_is_let_be() {
        let timer = Clock::new().timer();
        timer.set_within(Duration::from_millis(250));
        assert_eq!(timer.guard(async { 7 }).await, Ok(7));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_renewed_timer_knows_nothing_of_its_deadline() {
        let clock = Clock::new();
        let timer = clock.timer();
        timer.set_within(Duration::from_millis(250));
        timer.renew();
        tokio::select! {
            () = ticking(Rc::clone(&clock)) => {}
            done = timer.guard(tokio::time::sleep(Duration::from_secs(1))) => assert_eq!(done, Ok(())),
        }
    }
}
