//! Which series and ledgers there are. Workers ask here, under a lock, only when they meet a tenure for the first time;
//! the board decides what stays.

use std::{
    collections::BTreeMap,
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

    /// All series, that of unrouted requests first.
    pub(super) fn all_series(&self) -> Vec<Arc<Series>> {
        let open = self.open();
        std::iter::once(&self.unrouted).chain(open.series.values().map(|listed| &listed.series)).cloned().collect()
    }

    /// All ledgers by app, `None` being that of unrouted requests.
    pub(super) fn visit_ledgers(&self, mut visit: impl FnMut(Option<&AppName>, &Ledger)) {
        visit(None, self.unrouted.ledger());
        for (app, ledger) in &self.open().ledgers {
            visit(Some(app), ledger);
        }
    }

    /// Brings the series in line with the board: those of its pools exist, so that they start at zero before the first
    /// request, and those of revisions gone for a while, with nothing in flight, go.
    pub(super) fn follow(&self, board: &Board, now: Instant) {
        let mut open = self.open();
        for (app, state) in &board.apps {
            if state.policy.mirror.is_some() {
                self.mirrors.of(app);
            }
            let place = |role, revision: &Revision| Place { app: app.clone(), pool: Some((role, revision.clone())) };
            // Any known revision may become active: its series then does not begin with the flip.
            for revision in state.pools.keys() {
                open.series(place(Role::Active, revision), self.workers);
            }
            if let Some((preview, _)) = state.rollout.preview() {
                open.series(place(Role::Preview, preview), self.workers);
            }
        }
        open.series.retain(|place, listed| {
            let known = |app: &AppBoard| match &place.pool {
                Some((_, revision)) => {
                    app.pools.contains_key(revision) || app.draining.iter().any(|d| d.revision == *revision)
                }
                None => true,
            };
            let wanted = board.apps.get(&place.app).is_some_and(|app| known(app)) || listed.series.in_flight() > 0;
            listed.stays(wanted, now)
        });
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
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
