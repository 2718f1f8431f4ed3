//! How many requests of an app may be in flight at once, exact over all workers: one shared count, and so only where the
//! app's owner asked for it. Who finds it exhausted may wait, first come, first served; a place that becomes free goes to
//! whoever waits, never to one who has just come.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use super::{
    limits::InFlightLimit,
    waiting::{Bounds, NotAwaited, Waiting, WaitingRoom},
};

/// The places of one app. It lives as long as the app does, whatever becomes of its pools.
#[derive(Debug)]
pub struct Capacity {
    free: Semaphore,
    /// Places that were taken away while they were in use: so many that are given up next are gone.
    surplus: AtomicUsize,
    /// How many places there are. The switchboard alone changes it.
    places: Mutex<usize>,
    room: WaitingRoom,
}

/// A place among the requests in flight, given up when dropped.
#[derive(Debug)]
pub struct Slot {
    capacity: Arc<Capacity>,
}

impl Capacity {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(places),
            surplus: AtomicUsize::new(0),
            places: Mutex::new(places),
            room: WaitingRoom::default(),
        })
    }

    /// Changes how many places there are. Nobody who has one loses it.
    pub(super) fn resize(&self, places: usize) {
        let mut before = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places < *before {
            let fewer = *before - places;
            self.surplus.fetch_add(fewer - self.free.forget_permits(fewer), Ordering::Relaxed);
        }
        for _ in *before..places {
            self.give_back();
        }
        *before = places;
    }

    /// There is no limit any more: lets everybody in who waits.
    pub(super) fn abolish(&self) {
        self.free.close();
    }

    /// A place, if one is free and nobody waits for it.
    pub fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let permit = self.free.try_acquire().ok()?;
        permit.forget();
        Some(Slot { capacity: Arc::clone(self) })
    }

    /// Waits for a place, within the app's bounds.
    pub async fn wait(self: &Arc<Self>, limit: InFlightLimit) -> Result<Slot, NotAwaited> {
        let bounds = Bounds { requests: limit.queue as usize, octets: u64::MAX, age: limit.queue_timeout };
        if let Ok(permit) = self.room.wait(bounds, 0, self.free.acquire()).await? {
            permit.forget();
        }
        Ok(Slot { capacity: Arc::clone(self) })
    }

    /// Who waits.
    pub fn waiting(&self) -> Waiting {
        self.room.waiting()
    }

    fn give_back(&self) {
        let owed = |surplus: usize| surplus.checked_sub(1);
        if self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, owed).is_err() {
            self.free.add_permits(1);
        }
    }
}

impl Slot {
    /// Whether it is one of these places.
    pub fn is_of(&self, capacity: &Arc<Capacity>) -> bool {
        Arc::ptr_eq(&self.capacity, capacity)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.capacity.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    const LIMIT: InFlightLimit = InFlightLimit { most: 2, queue: 2, queue_timeout: Duration::from_secs(5) };

    #[tokio::test(start_paused = true)]
    async fn a_place_given_up_goes_to_whoever_has_waited_longest() {
        let capacity = Capacity::new(1);
        let first = capacity.try_take().unwrap();
        assert!(capacity.try_take().is_none());
        let mut waiting = JoinSet::new();
        for number in 0..2 {
            let capacity = Arc::clone(&capacity);
            waiting.spawn(async move { (number, capacity.wait(LIMIT).await.unwrap()) });
            tokio::task::yield_now().await;
        }
        assert_eq!(capacity.wait(LIMIT).await.unwrap_err(), NotAwaited::Full);
        drop(first);
        assert!(capacity.try_take().is_none(), "it is spoken for");
        for expected in 0..2 {
            let (number, slot) = waiting.join_next().await.unwrap().unwrap();
            assert_eq!(number, expected);
            drop(slot);
        }
        assert!(capacity.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_leaves_or_waits_too_long_takes_no_place_along() {
        let capacity = Capacity::new(1);
        let taken = capacity.try_take().unwrap();
        let leaving = tokio::spawn({
            let capacity = Arc::clone(&capacity);
            async move { capacity.wait(LIMIT).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(capacity.waiting().requests, 1);
        leaving.abort();
        assert!(leaving.await.is_err());
        assert_eq!(capacity.waiting().requests, 0);
        assert_eq!(capacity.wait(LIMIT).await.unwrap_err(), NotAwaited::TooLong);
        drop(taken);
        assert!(capacity.try_take().is_some());
    }

    #[test]
    fn fewer_places_take_effect_as_those_in_use_are_given_up() {
        let capacity = Capacity::new(4);
        let mut taken: Vec<_> = (0..3).map(|_| capacity.try_take().unwrap()).collect();
        capacity.resize(1);
        assert!(capacity.try_take().is_none());
        taken.truncate(1);
        assert!(capacity.try_take().is_none(), "one is in use, and one there is");
        capacity.resize(2);
        taken.push(capacity.try_take().unwrap());
        assert!(capacity.try_take().is_none());
        capacity.resize(1);
        capacity.resize(3);
        taken.push(capacity.try_take().unwrap());
        assert!(capacity.try_take().is_none());
        taken.clear();
        assert_eq!((0..).map_while(|_| capacity.try_take()).collect::<Vec<_>>().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_lifted_lets_in_whoever_waits() {
        let capacity = Capacity::new(0);
        let waiting = tokio::spawn({
            let capacity = Arc::clone(&capacity);
            async move { capacity.wait(LIMIT).await.is_ok() }
        });
        tokio::task::yield_now().await;
        capacity.abolish();
        assert!(waiting.await.unwrap());
    }
}
