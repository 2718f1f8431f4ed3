//! Callers whom a cluster vouches for: a bearer token that is in no token file may be one of the cluster's own, whose rules
//! then say what its holder may do here. What was found holds for a short while, and for nothing beyond it: where the
//! cluster cannot be asked, nobody is let in.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    api::Role,
    tokens::{Digest, sha256},
};
use crate::switch::AppName;

/// How long what was found of a token holds.
const HOLDS: Duration = Duration::from_secs(30);
/// How long a token that nobody vouches for is not asked about again.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// The most tokens that something is known of.
const KNOWN: usize = 1024;
/// The most that are asked about at once, so that strangers keep no cluster busy.
const AT_ONCE: usize = 4;
/// The longest token that is asked about, in octets.
const LONGEST: usize = 16 * 1024;

/// Whom a cluster knows by a token, and what its rules let him do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// His name there: the actor in the journal.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// The apps he is limited to; all if `None`.
    pub apps: Option<BTreeSet<AppName>>,
}

/// Why a cluster vouches for nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReviewed {
    /// It does not know the token.
    #[error("the token is not known, here or to the cluster")]
    Unknown,
    /// It knows the holder, and its rules let him do nothing here.
    #[error("the cluster knows {name}, and lets him do nothing here: {hint}")]
    Powerless {
        /// His name there.
        name: String,
        /// Which right he lacks.
        hint: String,
    },
    /// It cannot be asked.
    #[error("the cluster cannot be asked about the token: {0}")]
    Away(String),
}

/// Asks a cluster about a token.
pub type Review = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Reviewed, NotReviewed>> + Send + Sync>;

/// What the cluster has said of each token, and when.
type Known = HashMap<Digest, (Instant, Result<Reviewed, NotReviewed>)>;

/// What is known of tokens by the cluster's word.
pub(super) struct Reviews {
    review: Review,
    known: Mutex<Known>,
    asking: Semaphore,
}

impl Reviews {
    pub(super) fn new(review: Review) -> Self {
        Self { review, known: Mutex::default(), asking: Semaphore::new(AT_ONCE) }
    }

    /// What the cluster says of this token, now or a short while ago.
    pub(super) async fn of(&self, token: &str) -> Result<Reviewed, NotReviewed> {
        if token.len() > LONGEST {
            return Err(NotReviewed::Unknown);
        }
        let digest = sha256(token);
        if let Some(known) = self.known(&digest) {
            return known;
        }
        let too_many = || NotReviewed::Away("too many tokens are being asked about; try again".to_owned());
        let _turn = self.asking.try_acquire().map_err(|_| too_many())?;
        let answer = (self.review)(token.to_owned()).await;
        // That nobody could be asked is no answer to keep.
        if !matches!(answer, Err(NotReviewed::Away(_))) {
            self.keep(digest, &answer);
        }
        answer
    }

    fn known(&self, digest: &Digest) -> Option<Result<Reviewed, NotReviewed>> {
        let known = self.lock();
        let (since, answer) = known.get(digest)?;
        let holds = if answer.is_ok() { HOLDS } else { REFUSED_FOR };
        (since.elapsed() < holds).then(|| answer.clone())
    }

    fn keep(&self, digest: Digest, answer: &Result<Reviewed, NotReviewed>) {
        let mut known = self.lock();
        if known.len() >= KNOWN {
            known.retain(|_, (since, answer)| since.elapsed() < if answer.is_ok() { HOLDS } else { REFUSED_FOR });
        }
        // Full of what still holds: this one is asked about again.
        if known.len() < KNOWN {
            known.insert(digest, (Instant::now(), answer.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    /// Knows `good`, and nobody while it is away; counts how often it was asked.
    fn cluster(away: Arc<std::sync::atomic::AtomicBool>) -> (Reviews, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let review: Review = Arc::new(move |token| {
            counted.fetch_add(1, Ordering::Relaxed);
            let away = away.load(Ordering::Relaxed);
            async move {
                match (away, &*token) {
                    (true, _) => Err(NotReviewed::Away("no answer".into())),
                    (_, "good") => Ok(Reviewed { name: "ann".into(), role: Role::Operator, apps: None }),
                    _ => Err(NotReviewed::Unknown),
                }
            }
            .boxed()
        });
        (Reviews::new(review), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_holds_half_a_minute_and_a_refusal_a_few_seconds() {
        let away = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (reviews, asked) = cluster(Arc::clone(&away));
        for _ in 0..2 {
            assert_eq!(reviews.of("good").await.unwrap().name, "ann");
            assert_eq!(reviews.of("bad").await.unwrap_err(), NotReviewed::Unknown);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        tokio::time::advance(REFUSED_FOR).await;
        reviews.of("bad").await.unwrap_err();
        reviews.of("good").await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        // Failing closed: what was found holds no longer because nobody can be asked.
        away.store(true, Ordering::Relaxed);
        reviews.of("good").await.unwrap();
        tokio::time::advance(HOLDS).await;
        assert!(matches!(reviews.of("good").await, Err(NotReviewed::Away(_))));
        away.store(false, Ordering::Relaxed);
        assert!(reviews.of("good").await.is_ok());
    }

    #[tokio::test]
    async fn strangers_keep_no_cluster_busy_and_fill_no_memory() {
        let never: Review = Arc::new(|_| std::future::pending().boxed());
        let reviews = Arc::new(Reviews::new(never));
        let waiting: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let reviews = Arc::clone(&reviews);
                tokio::spawn(async move { reviews.of(&n.to_string()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(matches!(reviews.of("one more").await, Err(NotReviewed::Away(_))));
        assert_eq!(reviews.of(&"x".repeat(LONGEST + 1)).await, Err(NotReviewed::Unknown));
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        let (reviews, _) = cluster(Arc::default());
        for n in 0..KNOWN + 10 {
            reviews.of(&n.to_string()).await.unwrap_err();
        }
        assert_eq!(reviews.lock().len(), KNOWN);
    }
}
