//! Answers kept for a while by their `Idempotency-Key`, so that a caller who lost the answer may ask again without acting
//! twice. The work of an action runs in a task of its own: a caller who leaves cannot break it off half way.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::StatusCode;
use tokio::{sync::watch, time::Instant};
use tracing::error;

use super::problem::Error;
use crate::switch::Receipt;

/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// The most answers that are kept; beyond, the oldest goes.
const KEPT: usize = 1024;

/// What an action ended in.
pub(super) type Outcome = Result<Receipt, Error>;

/// The answers in keeping.
#[derive(Default)]
pub(super) struct Answers {
    kept: Mutex<Kept>,
}

/// Which request it is: the same key from another actor, or for another action, is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Who asks.
    pub(super) actor: String,
    /// The method and the path.
    pub(super) call: String,
    /// The key as sent.
    pub(super) key: String,
}

/// A digest of all that makes a request what it is.
pub(super) type Fingerprint = [u8; 32];

#[derive(Default)]
struct Kept {
    answers: HashMap<Key, Answer>,
    /// By age, the oldest first.
    ages: VecDeque<(Instant, Key)>,
}

struct Answer {
    fingerprint: Fingerprint,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Answers {
    /// Does the work, unless the same request did it before or does it now: then the answer is that one's, and the flag
    /// is set. A fault of ours is not kept: asking again may help.
    pub(super) async fn once(
        self: &Arc<Self>,
        key: Option<(Key, Fingerprint)>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> (Outcome, bool) {
        let (mut outcome, replayed) = match self.find_or_begin(key, work) {
            Ok(found) => found,
            Err(error) => return (Err(error), false),
        };
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(broken())),
            Err(_) => Err(broken()),
        };
        (outcome, replayed)
    }

    fn find_or_begin(
        self: &Arc<Self>,
        key: Option<(Key, Fingerprint)>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Result<(watch::Receiver<Option<Outcome>>, bool), Error> {
        let Some((key, fingerprint)) = key else { return Ok((self.begin(None, work), false)) };
        let mut kept = self.lock();
        kept.forget_old();
        match kept.answers.get(&key) {
            Some(found) if found.fingerprint == fingerprint => Ok((found.outcome.clone(), true)),
            Some(_) => Err(reused()),
            None => {
                let outcome = self.begin(Some(key.clone()), work);
                kept.keep(key, Answer { fingerprint, outcome: outcome.clone() });
                Ok((outcome, false))
            }
        }
    }

    fn begin(
        self: &Arc<Self>,
        key: Option<Key>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> watch::Receiver<Option<Outcome>> {
        let (done, outcome) = watch::channel(None);
        let answers = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = tokio::spawn(work).await.unwrap_or_else(|error| {
                error!(%error, "an action broke off");
                Err(broken())
            });
            let ours = matches!(&outcome, Err(error) if error.status.is_server_error());
            if let Some(key) = key.filter(|_| ours) {
                answers.lock().forget(&key);
            }
            done.send(Some(outcome)).ok();
        });
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn keep(&mut self, key: Key, answer: Answer) {
        self.ages.push_back((Instant::now(), key.clone()));
        self.answers.insert(key, answer);
        if self.ages.len() > KEPT {
            self.forget_oldest();
        }
    }

    fn forget_old(&mut self) {
        while self.ages.front().is_some_and(|(since, _)| since.elapsed() >= KEPT_FOR) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.ages.pop_front() {
            self.answers.remove(&key);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.answers.remove(key);
        self.ages.retain(|(_, k)| k != key);
    }
}

fn reused() -> Error {
    Error::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        "this Idempotency-Key came with another request before",
        "use a new key for each new request",
    )
}

fn broken() -> Error {
    Error::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the action broke off",
        "look at the app's state before asking again; the log has the cause",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn key(n: usize) -> Option<(Key, Fingerprint)> {
        Some((Key { actor: "ann".into(), call: "POST /x".into(), key: n.to_string() }, [0; 32]))
    }

    fn refused(status: u16, detail: &str) -> Outcome {
        Err(Error::new(StatusCode::from_u16(status).unwrap(), "x", detail, ""))
    }

    async fn ask(answers: &Arc<Answers>, key: Option<(Key, Fingerprint)>, answer: &'static str) -> (String, bool) {
        let (outcome, replayed) = answers.once(key, async move { refused(409, answer) }).await;
        (outcome.unwrap_err().detail, replayed)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_request_is_answered_from_memory_for_ten_minutes() {
        let answers = Arc::default();
        assert_eq!(ask(&answers, key(1), "one").await, ("one".into(), false));
        assert_eq!(ask(&answers, key(1), "two").await, ("one".into(), true));
        assert_eq!(ask(&answers, key(2), "two").await, ("two".into(), false));
        assert_eq!(ask(&answers, None, "three").await, ("three".into(), false));
        tokio::time::advance(KEPT_FOR).await;
        assert_eq!(ask(&answers, key(1), "four").await, ("four".into(), false));
    }

    #[tokio::test]
    async fn a_key_is_good_for_one_request_only() {
        let answers = Arc::default();
        ask(&answers, key(1), "one").await;
        let other = key(1).map(|(key, _)| (key, [1; 32]));
        let (outcome, _) = answers.once(other, async { refused(409, "two") }).await;
        assert_eq!(outcome.unwrap_err().status, 422);
        let bobs = key(1).map(|(key, fingerprint)| (Key { actor: "bob".into(), ..key }, fingerprint));
        assert_eq!(ask(&answers, bobs, "bob's").await, ("bob's".into(), false));
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_even_if_its_caller_left() {
        let (answers, release, runs) =
            (Arc::<Answers>::default(), Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (release, runs) = (Arc::clone(&release), Arc::clone(&runs));
            async move {
                runs.fetch_add(1, Ordering::Relaxed);
                release.notified().await;
                refused(409, "once")
            }
        };
        let mut first = Box::pin(answers.once(key(1), work()));
        assert!(futures_util::poll!(&mut first).is_pending());
        drop(first);
        let mut second = Box::pin(answers.once(key(1), work()));
        assert!(futures_util::poll!(&mut second).is_pending());
        release.notify_one();
        let (outcome, replayed) = second.await;
        assert_eq!((outcome.unwrap_err().detail.as_str(), replayed), ("once", true));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn our_own_faults_are_not_kept() {
        let answers = Arc::<Answers>::default();
        for _ in 0..2 {
            let (outcome, replayed) = answers.once(key(1), async { refused(503, "disk") }).await;
            assert_eq!((outcome.unwrap_err().status.as_u16(), replayed), (503, false));
        }
        let (outcome, _) = answers.once(key(2), async { panic!("a fault for the test") }).await;
        assert_eq!(outcome.unwrap_err().status, 500);
        assert_eq!(ask(&answers, key(2), "again").await, ("again".into(), false));
    }

    #[tokio::test]
    async fn only_so_many_answers_are_kept() {
        let answers = Arc::default();
        for n in 0..=KEPT {
            ask(&answers, key(n), "first").await;
        }
        assert_eq!(answers.lock().answers.len(), KEPT);
        assert_eq!(ask(&answers, key(0), "again").await, ("again".into(), false));
        assert_eq!(ask(&answers, key(KEPT), "again").await, ("first".into(), true));
    }
}
