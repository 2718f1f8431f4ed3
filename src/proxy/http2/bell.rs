//! A bell at a task's door, for what the task itself has a hand in. h2 wakes a connection's task with each answer that is to
//! be sent; where that is the very task which answers, and goes on to the connection at once, it would be polled once more for
//! nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Wake, Waker},
};

/// Wakes its task, unless that is awake.
pub(super) struct Bell {
    task: Waker,
    awake: AtomicBool,
    /// Since it was last hushed.
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn of(task: &Waker) -> Arc<Self> {
        Arc::new(Self { task: task.clone(), awake: AtomicBool::new(false), rung: AtomicBool::new(false) })
    }

    pub(super) fn is_of(&self, task: &Waker) -> bool {
        self.task.will_wake(task)
    }

    /// The task is awake.
    pub(super) fn awake(&self) {
        self.awake.store(true, Relaxed);
    }

    /// The task is about to do all that it was rung for until now.
    pub(super) fn hush(&self) {
        self.rung.store(false, Relaxed);
    }

    /// The task goes to sleep; not for long, if it has been rung for since.
    pub(super) fn asleep(&self) {
        self.awake.store(false, Relaxed);
        if self.rung.swap(false, Relaxed) {
            self.task.wake_by_ref();
        }
    }
}

/// It is rung on its task's own thread only, so that no order of the two is to be minded.
impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Relaxed);
        if !self.awake.load(Relaxed) {
            self.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::{ArcWake, waker};

    use super::*;

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_for_what_it_has_not_done_itself() {
        let woken = Arc::<Woken>::default();
        let task = waker(Arc::clone(&woken));
        let (bell, times) = (Bell::of(&task), || woken.0.load(Relaxed));
        assert!(bell.is_of(&task));
        let ring = Waker::from(Arc::clone(&bell));
        ring.wake_by_ref();
        assert_eq!(times(), 1, "asleep");
        bell.awake();
        ring.wake_by_ref();
        bell.hush();
        bell.asleep();
        assert_eq!(times(), 1, "it was about to look");
        bell.awake();
        bell.hush();
        ring.wake_by_ref();
        assert_eq!(times(), 1);
        bell.asleep();
        assert_eq!(times(), 2, "it had looked already");
        ring.wake();
        assert_eq!(times(), 3);
    }
}
