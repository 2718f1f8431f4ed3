//! Which series and ledgers there are. Workers ask here, under a lock, only when they meet a tenure for the first time;
//! the board decides what stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    connections::Unserved,
    mirror::Mirrors,
    series::{Ledger, Place, Series},
};
use crate::switch::{AppBoard, AppName, Board, Revision, Role};

/// How long a series stays after its revision has left the board, so that it is scraped once more, and so that a board
/// that is a moment behind the workers takes nothing away.
const LINGER: Duration = Duration::from_secs(60);

/// All series and ledgers.
pub(super) struct Book {
    workers: usize,
    /// What no app was found for.
    unrouted: Arc<Series>,
    unserved: Unserved,
    mirrors: Arc<Mirrors>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    series: BTreeMap<Place, Listed>,
    /// An app's ledger stays when the app goes: what was counted has happened.
    ledgers: BTreeMap<AppName, Arc<Ledger>>,
    /// The apps that may have series which are on their way out.
    leaving: BTreeSet<AppName>,
}

struct Listed {
    series: Arc<Series>,
    /// Since when its revision is no longer on the board.
    absent: Option<Instant>,
}

impl Book {
    pub(super) fn new(workers: usize) -> Self {
        let unrouted = Series::new(None, Arc::new(Ledger::new(workers)), workers);
        let (unrouted, unserved, mirrors) = (Arc::new(unrouted), Unserved::default(), Arc::default());
        Self { workers, unrouted, unserved, mirrors, open: Mutex::default() }
    }

    pub(super) fn mirrors(&self) -> &Arc<Mirrors> {
        &self.mirrors
    }

    pub(super) fn unrouted(&self) -> &Arc<Series> {
        &self.unrouted
    }

    /// Connections that no request was accepted of.
    pub(super) fn unserved(&self) -> &Unserved {
        &self.unserved
    }

    /// The series of this place; a new one at zero if there is none yet.
    pub(super) fn series(&self, place: Place) -> Arc<Series> {
        self.open().series(place, self.workers)
    }

    /// How many series there are.
    pub(super) fn size(&self) -> usize {
        self.open().series.len()
    }

    /// All series, that of unrouted requests first.
    pub(super) fn all_series(&self) -> Vec<Arc<Series>> {
        let open = self.open();
        std::iter::once(&self.unrouted).chain(open.series.values().map(|listed| &listed.series)).cloned().collect()
    }

    /// All ledgers by app, `None` being that of unrouted requests.
    pub(super) fn visit_ledgers(&self, mut visit: impl FnMut(Option<&AppName>, &Ledger)) {
        visit(None, self.unrouted.ledger());
        // No worker waits until all have been visited.
        let ledgers: Vec<_> =
            self.open().ledgers.iter().map(|(app, ledger)| (app.clone(), Arc::clone(ledger))).collect();
        for (app, ledger) in &ledgers {
            visit(Some(app), ledger);
        }
    }

    /// Brings the series of these apps in line with the board: those of their pools exist, so that they start at zero before
    /// the first request, and those of revisions gone for a while, with nothing in flight, go.
    pub(super) fn follow(&self, board: &Board, apps: impl IntoIterator<Item = AppName>, now: Instant) {
        let leaving = std::mem::take(&mut self.open().leaving);
        for app in apps.into_iter().chain(leaving) {
            let state = board.apps.get(&app).map(|state| &**state);
            if state.is_some_and(|state| state.policy.mirror.is_some()) {
                self.mirrors.of(&app);
            }
            // The lock is taken for one app at a time: a worker may be waiting for it.
            self.open().follow(app, state, self.workers, now);
        }
    }

    /// Brings all series in line with the board.
    pub(super) fn follow_all(&self, board: &Board, now: Instant) {
        let mut apps = self.apps();
        apps.extend(board.apps.keys().cloned());
        self.follow(board, apps, now);
    }

    /// The apps that have series.
    pub(super) fn apps(&self) -> BTreeSet<AppName> {
        self.open().series.keys().map(|place| place.app.clone()).collect()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn follow(&mut self, app: AppName, state: Option<&AppBoard>, workers: usize, now: Instant) {
        let place = |role, revision: &Revision| Place { app: app.clone(), pool: Some((role, revision.clone())) };
        if let Some(state) = state {
            // Any known revision may become active: its series then does not begin with the flip.
            for revision in state.pools.keys() {
                self.series(place(Role::Active, revision), workers);
            }
            if let Some((preview, _)) = state.rollout.preview() {
                self.series(place(Role::Preview, preview), workers);
            }
        }
        let is_on_board = |place: &Place, state: &AppBoard| match &place.pool {
            Some((_, revision)) => {
                state.pools.contains_key(revision) || state.draining.iter().any(|d| d.revision == *revision)
            }
            None => true,
        };
        let (mut gone, mut is_leaving) = (Vec::new(), false);
        let first = Place { app: app.clone(), pool: None };
        for (place, listed) in self.series.range_mut(first..).take_while(|(place, _)| place.app == app) {
            let wanted = state.is_some_and(|state| is_on_board(place, state)) || listed.series.in_flight() > 0;
            if !listed.stays(wanted, now) {
                gone.push(place.clone());
            }
            is_leaving |= !wanted;
        }
        gone.iter().for_each(|place| _ = self.series.remove(place));
        if is_leaving {
            self.leaving.insert(app);
        }
    }

    fn series(&mut self, place: Place, workers: usize) -> Arc<Series> {
        if let Some(listed) = self.series.get(&place) {
            return Arc::clone(&listed.series);
        }
        let ledger = self.ledgers.entry(place.app.clone()).or_insert_with(|| Arc::new(Ledger::new(workers)));
        let series = Arc::new(Series::new(Some(place.clone()), Arc::clone(ledger), workers));
        self.series.insert(place, Listed { series: Arc::clone(&series), absent: None });
        series
    }
}

impl Listed {
    fn stays(&mut self, wanted: bool, now: Instant) -> bool {
        if wanted {
            self.absent = None;
            return true;
        }
        let stays = now.duration_since(*self.absent.get_or_insert(now)) < LINGER;
        if !stays {
            self.series.retire();
        }
        stays
    }
}
