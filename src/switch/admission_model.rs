//! Loom's walk over `admission`: the same file, compiled a second time on loom's primitives, under every interleaving of
//! readers and a writer that flips and drains. A breach would be a request inside an occupancy that its drain had seen
//! empty, or a departure that nobody heard of.

mod sync {
    pub(super) use loom::sync::{
        RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    };
}

#[path = "admission.rs"]
#[allow(clippy::duplicate_mod, reason = "that is the point: the same lines on other primitives")]
#[allow(dead_code, unreachable_pub, reason = "the model walks the protocol, not every accessor")]
mod admission;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use self::admission::{Current, Occupancy, enter};

/// A pool that knows whether its drain has seen it empty. That mark is the model's, not the protocol's: it is set and
/// read outside loom's memory model, at the very place in an interleaving where the drain concludes.
struct Pool {
    occupancy: Occupancy,
    drained: Arc<AtomicBool>,
}

impl Pool {
    fn new() -> Arc<Self> {
        Arc::new(Self { occupancy: Occupancy::new(2, Box::new(|| {})), drained: Arc::default() })
    }

    fn retire_and_look(&self) {
        self.occupancy.await_departures();
        if self.occupancy.sum() == 0 {
            self.drained.store(true, SeqCst);
        }
    }
}

type Routing = Current<Arc<Pool>>;

fn request(routing: &Routing, view: &mut std::rc::Rc<admission::View<Arc<Pool>>>, worker: usize) {
    let choose = |pool: &Arc<Pool>| Ok::<_, ()>(Arc::clone(pool));
    let pool = enter(routing, view, worker, choose, |pool, _| &pool.occupancy).expect("there is always a pool");
    assert!(!pool.drained.load(SeqCst), "a request entered a pool that its drain had seen empty");
    pool.occupancy.leave(worker);
}

#[test]
fn no_request_enters_a_pool_that_was_seen_empty() {
    // Two readers make for many interleavings: all with up to three preemptions are walked. One reader is walked whole.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let first = Pool::new();
        let routing = Arc::new(Routing::new(Arc::new(Arc::clone(&first))));
        let readers: Vec<_> = (0..2)
            .map(|worker| {
                let routing = Arc::clone(&routing);
                loom::thread::spawn(move || request(&routing, &mut routing.view(), worker))
            })
            .collect();
        routing.swap(Arc::new(Pool::new()));
        first.retire_and_look();
        readers.into_iter().for_each(|reader| reader.join().expect("the reader's own assertion holds"));
    });
}

#[test]
fn a_reader_that_kept_its_view_over_two_flips_still_finds_the_newest_pool() {
    loom::model(|| {
        let (first, second) = (Pool::new(), Pool::new());
        let routing = Arc::new(Routing::new(Arc::new(Arc::clone(&first))));
        let reader = {
            let routing = Arc::clone(&routing);
            loom::thread::spawn(move || {
                let mut view = routing.view();
                request(&routing, &mut view, 0);
                request(&routing, &mut view, 0);
            })
        };
        routing.swap(Arc::new(Arc::clone(&second)));
        first.retire_and_look();
        routing.swap(Arc::new(Pool::new()));
        second.retire_and_look();
        reader.join().expect("the reader's own assertion holds");
    });
}

#[test]
fn the_last_to_leave_a_retired_pool_is_heard_or_seen() {
    loom::model(|| {
        let heard = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&heard);
        let occupancy = Occupancy::new(1, Box::new(move || bell.store(true, SeqCst)));
        let pool = Arc::new(Pool { occupancy, drained: Arc::default() });
        let routing = Arc::new(Routing::new(Arc::new(Arc::clone(&pool))));
        let reader = {
            let routing = Arc::clone(&routing);
            loom::thread::spawn(move || request(&routing, &mut routing.view(), 0))
        };
        routing.swap(Arc::new(Pool::new()));
        pool.retire_and_look();
        let seen = pool.drained.load(SeqCst);
        reader.join().expect("the reader's own assertion holds");
        assert!(seen || heard.load(SeqCst), "the drain would wait for ever");
    });
}
