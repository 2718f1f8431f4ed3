//! Where requests wait before they are let in, whatever it is they wait for: a place among those in flight, or the end of
//! a hold. The room knows how many they are, how many octets they keep in memory and since when, and takes nobody in over
//! its bounds. In which order they leave is up to what they wait for: the turns of tokio's `Semaphore` come first come,
//! first served, over all threads, and so do they all at once when it is closed.
//!
//! Only who has to wait comes here, so the lock is off the way of all others. Who leaves, whether let in, too late or
//! because the client has gone (then the future is dropped), gives up the place by a `Drop`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::time::{Instant, timeout};

/// A bounded waiting room for requests of all workers.
#[derive(Debug, Default)]
pub struct WaitingRoom {
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Since when each waits, and with how many octets, in the order they came.
    waiting: BTreeMap<u64, (Instant, u64)>,
    octets: u64,
    last: u64,
}

/// How many may wait, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most requests at once.
    pub requests: usize,
    /// The most octets that all of them together may keep in memory.
    pub octets: u64,
    /// The longest that each may wait.
    pub age: Duration,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotAwaited {
    /// As many as may wait are waiting.
    #[error("too many are waiting already")]
    Full,
    /// It has waited for as long as it may.
    #[error("it has waited for too long")]
    TooLong,
}

/// Who waits at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub requests: usize,
    /// How many octets they keep in memory.
    pub octets: u64,
    /// How long the one that came first has waited; zero without one.
    pub oldest: Duration,
}

impl WaitingRoom {
    /// Waits for `turn` within these bounds. `octets` is what the request keeps in memory meanwhile.
    pub async fn wait<T>(&self, bounds: Bounds, octets: u64, turn: impl Future<Output = T>) -> Result<T, NotAwaited> {
        let _place = self.enter(bounds, octets).ok_or(NotAwaited::Full)?;
        timeout(bounds.age, turn).await.map_err(|_| NotAwaited::TooLong)
    }

    /// Who waits.
    pub fn waiting(&self) -> Waiting {
        let line = self.line();
        Waiting {
            requests: line.waiting.len(),
            octets: line.octets,
            oldest: line.waiting.values().next().map_or(Duration::ZERO, |(since, _)| since.elapsed()),
        }
    }

    fn enter(&self, bounds: Bounds, octets: u64) -> Option<Place<'_>> {
        let mut line = self.line();
        let all = line.octets.saturating_add(octets);
        if line.waiting.len() >= bounds.requests || all > bounds.octets {
            return None;
        }
        line.octets = all;
        line.last += 1;
        let number = line.last;
        line.waiting.insert(number, (Instant::now(), octets));
        Some(Place { room: self, number })
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the room, given up when dropped.
struct Place<'a> {
    room: &'a WaitingRoom,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut line = self.room.line();
        if let Some((_, octets)) = line.waiting.remove(&self.number) {
            line.octets -= octets;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{sync::Semaphore, task::JoinSet};

    use super::*;

    const BOUNDS: Bounds = Bounds { requests: 3, octets: 100, age: Duration::from_secs(5) };

    #[tokio::test(start_paused = true)]
    async fn nobody_is_taken_in_over_the_bounds_and_who_leaves_makes_room() {
        let room = Arc::new(WaitingRoom::default());
        let mut waiting = JoinSet::new();
        for octets in [50, 50] {
            let room = Arc::clone(&room);
            waiting.spawn(async move { room.wait(BOUNDS, octets, std::future::pending::<()>()).await });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let all = Waiting { requests: 2, octets: 100, oldest: Duration::from_secs(1) };
        assert_eq!(room.waiting(), all);
        assert_eq!(room.wait(BOUNDS, 1, async {}).await, Err(NotAwaited::Full), "too many octets");
        assert_eq!(room.wait(BOUNDS, 0, async {}).await, Ok(()));
        let two = Bounds { requests: 2, ..BOUNDS };
        assert_eq!(room.wait(two, 0, async {}).await, Err(NotAwaited::Full), "too many requests");
        waiting.abort_all();
        while waiting.join_next().await.is_some() {}
        assert_eq!(room.waiting(), Waiting::default());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_is_told_so() {
        let room = WaitingRoom::default();
        let began = Instant::now();
        assert_eq!(room.wait(BOUNDS, 0, std::future::pending::<()>()).await, Err(NotAwaited::TooLong));
        assert_eq!(began.elapsed(), BOUNDS.age);
        assert_eq!(room.waiting(), Waiting::default());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_of_a_semaphore_come_in_the_order_of_arrival_also_when_it_is_closed() {
        let (room, door) = (Arc::new(WaitingRoom::default()), Arc::new(Semaphore::new(0)));
        let mut order = Vec::new();
        let mut waiting = JoinSet::new();
        for number in 0..3 {
            let (room, door) = (Arc::clone(&room), Arc::clone(&door));
            waiting.spawn(async move { room.wait(BOUNDS, 0, door.acquire()).await.map(|_| number) });
            tokio::task::yield_now().await;
        }
        door.add_permits(1);
        order.push(waiting.join_next().await.unwrap().unwrap().unwrap());
        door.close();
        while let Some(next) = waiting.join_next().await {
            order.push(next.unwrap().unwrap());
        }
        assert_eq!(order, [0, 1, 2]);
    }
}
