//! What the mirror found: how often candidate and live answer were equal, and the last few answers that were not. Workers
//! write here, off their requests' way; scrapes and the admin API read. The shapes are those of the API.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::switch::AppName;

/// How many differences are kept of each app; the oldest goes first.
const KEPT: usize = 50;

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The answers were equal in all that is compared.
    Equal,
    /// The status differed.
    Status,
    /// The status did not, but a header field did.
    Headers,
    /// Only the body did.
    Body,
    /// The candidate gave no whole answer in time.
    Failed,
    /// There was nothing to compare: over the budget, or the live answer broke off, or the candidate left.
    Dropped,
}

impl Compared {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::Equal, Self::Status, Self::Headers, Self::Body, Self::Failed, Self::Dropped];

    /// The result as it stands in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Status => "status",
            Self::Headers => "headers",
            Self::Body => "body",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Two answers that differ, to the same request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// When they were compared.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The request's method.
    pub method: String,
    /// The request's path with its query.
    pub path: String,
    /// The first of `status`, `headers`, `body` that differs.
    pub result: String,
    /// All that differs, in words. Of bodies only the place is told.
    pub differs: Vec<String>,
    /// What the client got.
    pub live: AnswerHead,
    /// What the candidate would have given.
    pub candidate: AnswerHead,
}

/// An answer without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnswerHead {
    /// The revision that gave it.
    pub revision: String,
    /// Its status.
    pub status: u16,
    /// Its header lines, those that carry secrets without their value.
    pub headers: Vec<String>,
}

/// What an app's mirror found, as `GET /api/v1/apps/{app}/mirror` answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorReport {
    /// The app.
    pub app: String,
    /// The share of live requests that is copied, in percent; 0 without a mirror.
    pub share: f64,
    /// Copies on their way or being compared.
    pub in_flight: u64,
    /// What became of copies: `equal`, `status`, `headers`, `body`, `failed`, `dropped`.
    pub compared: BTreeMap<String, u64>,
    /// The last answers that differed, the newest first.
    pub differences: Vec<Difference>,
}

/// What the mirrors of all apps found.
#[derive(Default)]
pub struct Mirrors {
    books: Mutex<BTreeMap<AppName, Arc<MirrorBook>>>,
}

/// What one app's mirror found.
#[derive(Default)]
pub struct MirrorBook {
    compared: [AtomicU64; Compared::ALL.len()],
    in_flight: AtomicU64,
    differences: Mutex<VecDeque<Difference>>,
}

/// A copy's place in its app's budget, given up when dropped.
pub struct Place {
    book: Arc<MirrorBook>,
}

impl Mirrors {
    /// The book of an app; an empty one if there is none yet. An app keeps it when its mirror goes.
    pub fn of(&self, app: &AppName) -> Arc<MirrorBook> {
        let mut books = lock(&self.books);
        match books.get(app) {
            Some(book) => Arc::clone(book),
            None => Arc::clone(books.entry(app.clone()).or_default()),
        }
    }

    /// What was found for an app. `share` is how many of ten thousand of its requests are copied.
    pub fn report(&self, app: &AppName, share: u32) -> MirrorReport {
        let book = lock(&self.books).get(app).map(Arc::clone).unwrap_or_default();
        MirrorReport {
            app: app.to_string(),
            share: f64::from(share) / 100.0,
            in_flight: book.in_flight.load(Relaxed),
            compared: Compared::ALL.iter().map(|result| (result.as_str().to_owned(), book.count(*result))).collect(),
            differences: lock(&book.differences).iter().rev().cloned().collect(),
        }
    }

    pub(super) fn visit(&self, mut visit: impl FnMut(&AppName, &MirrorBook)) {
        lock(&self.books).iter().for_each(|(app, book)| visit(app, book));
    }
}

impl MirrorBook {
    /// A place for another copy, unless as many as may be are under way: that is counted.
    pub fn enter(self: &Arc<Self>, most: u32) -> Option<Place> {
        let may = |under_way: u64| (under_way < u64::from(most)).then_some(under_way + 1);
        match self.in_flight.fetch_update(Relaxed, Relaxed, may) {
            Ok(_) => Some(Place { book: Arc::clone(self) }),
            Err(_) => {
                self.counted(Compared::Dropped);
                None
            }
        }
    }

    /// How many ended so.
    pub fn count(&self, result: Compared) -> u64 {
        self.compared[result as usize].load(Relaxed)
    }

    fn counted(&self, result: Compared) {
        self.compared[result as usize].fetch_add(1, Relaxed);
    }
}

impl Place {
    /// Takes note of what became of the copy.
    pub fn compared(self, result: Compared, difference: Option<Difference>) {
        self.book.counted(result);
        let Some(difference) = difference else { return };
        let mut differences = lock(&self.book.differences);
        differences.push_back(difference);
        if differences.len() > KEPT {
            differences.pop_front();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.book.in_flight.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(path: &str) -> Difference {
        let head = AnswerHead { revision: "blue".into(), status: 200, headers: Vec::new() };
        Difference {
            at: Timestamp::UNIX_EPOCH,
            method: "GET".into(),
            path: path.into(),
            result: "body".into(),
            differs: Vec::new(),
            live: head.clone(),
            candidate: head,
        }
    }

    #[test]
    fn no_more_copies_than_may_be_are_under_way() {
        let (mirrors, app) = (Mirrors::default(), "shop".parse().unwrap());
        let book = mirrors.of(&app);
        let places: Vec<_> = (0..3).map(|_| book.enter(2)).collect();
        assert_eq!(places.iter().flatten().count(), 2);
        assert_eq!((book.count(Compared::Dropped), mirrors.report(&app, 5).in_flight), (1, 2));
        drop(places);
        assert_eq!(mirrors.report(&app, 5).in_flight, 0);
        assert!(book.enter(1).is_some());
    }

    #[test]
    fn only_the_last_differences_are_kept_and_the_newest_is_told_first() {
        let (mirrors, app) = (Mirrors::default(), "shop".parse().unwrap());
        for number in 0..KEPT + 3 {
            let place = mirrors.of(&app).enter(1).unwrap();
            place.compared(Compared::Body, Some(difference(&format!("/{number}"))));
        }
        let report = mirrors.report(&app, 1000);
        assert_eq!((report.share, report.compared["body"], report.differences.len()), (10.0, KEPT as u64 + 3, KEPT));
        assert_eq!(report.differences[0].path, format!("/{}", KEPT + 2));
    }
}
