//! The live side of a hold: requests of all workers wait in it, within its bounds, until the switchboard lets them in. It
//! stands in the snapshot ([`Closed::Held`](super::Closed)), so it holds nobody who was admitted before, and everybody
//! who comes after the hold was answered; who is let in is admitted anew, on whatever snapshot is current by then (G2).
//!
//! **Order.** Who waits is let in in the order of arrival, over all workers, some at a time so that nobody stampedes. Each
//! worker admits its own in that order; two of different workers that stand close to each other may change places.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::{
    policy::HoldBounds,
    waiting::{Bounds, NotAwaited, Waiting, WaitingRoom},
};

/// How many are let in at a time, and how long until the next.
const AT_A_TIME: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// The hold ends by itself at its age. Should nobody be there to end it, a request waits this much longer, and no more.
const GRACE: Duration = Duration::from_secs(10);

/// A hold, as requests meet it.
#[derive(Debug)]
pub struct Hold {
    id: u64,
    room: WaitingRoom,
    bounds: Bounds,
    /// Each is a request's turn to go in; closed when all may.
    turns: Semaphore,
    deadline: Instant,
    aged: AtomicBool,
    outcomes: Arc<HeldOutcomes>,
}

/// What became of requests that were held, or that would have been.
#[derive(Debug, Default)]
pub struct HeldOutcomes {
    counts: [AtomicU64; HeldOutcome::ALL.len()],
}

/// How a request's waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldOutcome {
    /// It was let in when somebody, or a flip, ended the hold.
    Released,
    /// It was let in because the hold had lasted as long as it may.
    Expired,
    /// It was refused: as many as may wait did, or they took as much memory as they may.
    Refused,
    /// Its client left.
    Left,
}

impl HeldOutcome {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Released, Self::Expired, Self::Refused, Self::Left];

    /// The outcome as it stands in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Left => "left",
        }
    }
}

impl HeldOutcomes {
    /// How many ended so.
    pub fn count(&self, outcome: HeldOutcome) -> u64 {
        self.counts[outcome as usize].load(Relaxed)
    }
}

impl Hold {
    /// Waits until it may be asked for admission again. `octets` is the memory the request takes meanwhile. Dropping the
    /// future gives up the place.
    pub async fn wait(&self, octets: u64) -> Result<(), NotAwaited> {
        let mut fate = Fate { outcomes: &self.outcomes, outcome: HeldOutcome::Left };
        let waited = self.room.wait(self.bounds, octets, self.turns.acquire()).await;
        fate.outcome = match waited {
            Ok(_) if self.aged.load(Relaxed) => HeldOutcome::Expired,
            Ok(_) => HeldOutcome::Released,
            Err(_) => HeldOutcome::Refused,
        };
        // A turn is for one; of a closed door there are no more.
        waited.map(|turn| turn.into_iter().for_each(tokio::sync::SemaphorePermit::forget))
    }

    /// Who waits.
    pub fn waiting(&self) -> Waiting {
        self.room.waiting()
    }

    /// How long until it ends by itself.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl PartialEq for Hold {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Hold {}

/// Counts how a request's waiting ended, also where its future is dropped.
struct Fate<'a> {
    outcomes: &'a HeldOutcomes,
    outcome: HeldOutcome,
}

impl Drop for Fate<'_> {
    fn drop(&mut self) {
        self.outcomes.counts[self.outcome as usize].fetch_add(1, Relaxed);
    }
}

/// The power to let them in. Dropped, it lets all in at once, so that nobody waits for a hold that nobody ends.
pub(super) struct Keeper {
    hold: Arc<Hold>,
}

impl Keeper {
    pub(super) fn new(bounds: HoldBounds, outcomes: &Arc<HeldOutcomes>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let HoldBounds { max_age, max_requests, max_bytes } = bounds;
        let requests = usize::try_from(max_requests).unwrap_or(usize::MAX);
        let hold = Hold {
            id: NEXT.fetch_add(1, Relaxed),
            room: WaitingRoom::default(),
            bounds: Bounds { requests, octets: max_bytes, age: max_age + GRACE },
            turns: Semaphore::new(0),
            deadline: Instant::now() + max_age,
            aged: AtomicBool::new(false),
            outcomes: Arc::clone(outcomes),
        };
        Self { hold: Arc::new(hold) }
    }

    pub(super) fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    /// A number no other hold of this process has or had.
    pub(super) fn id(&self) -> u64 {
        self.hold.id
    }

    /// Lets all in, in order, in a task of its own. To be called after the publication that took the hold out.
    pub(super) fn release(self) {
        self.hold.aged.store(self.hold.remaining().is_zero(), Relaxed);
        tokio::spawn(async move {
            while self.hold.waiting().requests > 0 {
                self.hold.turns.add_permits(AT_A_TIME);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.hold.turns.close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    const BOUNDS: HoldBounds = HoldBounds { max_age: Duration::from_secs(5), max_requests: 200, max_bytes: 1000 };

    fn counts(outcomes: &HeldOutcomes) -> [u64; 4] {
        HeldOutcome::ALL.map(|outcome| outcomes.count(outcome))
    }

    /// Requests that wait, in the order of their numbers.
    async fn crowd(hold: &Arc<Hold>, size: usize) -> JoinSet<usize> {
        let mut crowd = JoinSet::new();
        for number in 0..size {
            let hold = Arc::clone(hold);
            crowd.spawn(async move { hold.wait(1).await.map(|()| number).expect("there is room") });
            yield_now().await;
        }
        crowd
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_in_in_the_order_of_arrival() {
        let outcomes = Arc::default();
        let keeper = Keeper::new(BOUNDS, &outcomes);
        let mut crowd = crowd(keeper.hold(), 150).await;
        assert_eq!(keeper.hold().waiting().requests, 150);
        keeper.release();
        let mut order = Vec::new();
        while let Some(next) = crowd.join_next().await {
            order.push(next.expect("it ends well"));
        }
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(counts(&outcomes), [150, 0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_nobody_keeps_holds_nobody() {
        let outcomes = Arc::default();
        let keeper = Keeper::new(BOUNDS, &outcomes);
        let hold = Arc::clone(keeper.hold());
        let mut crowd = crowd(&hold, 3).await;
        drop(keeper);
        while crowd.join_next().await.is_some() {}
        assert_eq!(hold.wait(1).await, Ok(()), "nor who comes late");
        assert_eq!(counts(&outcomes), [4, 0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_frees_its_place_and_is_counted_as_gone() {
        let outcomes = Arc::default();
        let keeper = Keeper::new(HoldBounds { max_requests: 2, ..BOUNDS }, &outcomes);
        let mut crowd = crowd(keeper.hold(), 2).await;
        assert_eq!(keeper.hold().wait(1).await, Err(NotAwaited::Full));
        crowd.abort_all();
        while crowd.join_next().await.is_some() {}
        assert_eq!(keeper.hold().waiting(), Waiting::default());
        assert_eq!(counts(&outcomes), [0, 0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_by_age_is_told_from_one_that_was_asked_for() {
        let outcomes = Arc::default();
        let keeper = Keeper::new(BOUNDS, &outcomes);
        assert_eq!(keeper.hold().remaining(), BOUNDS.max_age);
        let mut crowd = crowd(keeper.hold(), 1).await;
        tokio::time::sleep(BOUNDS.max_age).await;
        keeper.release();
        while crowd.join_next().await.is_some() {}
        assert_eq!(counts(&outcomes), [0, 1, 0, 0]);
    }
}
