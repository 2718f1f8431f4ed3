//! What is remembered of every app ever seen, in the form the journal keeps it: the last state, and the latest receipts.
//! An app that leaves the configuration and returns goes on from here, so its generation never goes back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    name::AppName,
    rollout::{Kept, Rollout},
    status::Receipt,
};

/// An app's receipts, newest last.
pub(super) type History = VecDeque<Receipt>;

/// How many receipts are kept of each app.
const HISTORY: usize = 100;

/// One record of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(super) enum Record {
    /// An app's whole durable state, with the receipts of what led to it, their measurements still missing.
    State { kept: Box<Kept>, receipts: Vec<Receipt> },
    /// An app's whole durable state and all receipts that count: what earlier records say of it is void.
    Whole { kept: Box<Kept>, receipts: Vec<Receipt> },
    /// A receipt, complete. It takes the place of the provisional one, which names no replica yet.
    Measured { receipt: Box<Receipt> },
}

impl Record {
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("records have string keys and no failing serialisers")
    }
}

#[derive(Default)]
pub(super) struct Memory {
    apps: BTreeMap<AppName, Remembered>,
}

struct Remembered {
    kept: Kept,
    history: Arc<History>,
}

impl Memory {
    /// What these records add up to; or which of them cannot be read, and why.
    pub(super) fn recall(records: &[String]) -> Result<Self, (usize, serde_json::Error)> {
        let mut memory = Self::default();
        for (index, record) in records.iter().enumerate() {
            match serde_json::from_str(record).map_err(|problem| (index, problem))? {
                Record::State { kept, receipts } => {
                    let name = kept.app().clone();
                    memory.keep(*kept);
                    receipts.into_iter().for_each(|receipt| memory.remember(&name, receipt));
                }
                Record::Whole { kept, receipts } => {
                    let app = Remembered { history: Arc::new(receipts.into()), kept: *kept };
                    memory.apps.insert(app.kept.app().clone(), app);
                }
                Record::Measured { receipt } => {
                    if let Ok(name) = receipt.app.parse() {
                        memory.remember(&name, *receipt);
                    }
                }
            }
        }
        Ok(memory)
    }

    /// The shortest list of records that adds up to this, none of them much longer than it must be.
    pub(super) fn records(&self) -> Vec<String> {
        let records = self.apps.values().flat_map(|app| {
            let state = Record::Whole { kept: Box::new(app.kept.clone()), receipts: Vec::new() };
            let receipts = app.history.iter().map(|receipt| Record::Measured { receipt: Box::new(receipt.clone()) });
            [state].into_iter().chain(receipts)
        });
        records.map(|record| record.to_json()).collect()
    }

    /// All there is of an app, as one record.
    pub(super) fn whole(&self, name: &AppName) -> Option<Record> {
        let app = self.apps.get(name)?;
        Some(Record::Whole { kept: Box::new(app.kept.clone()), receipts: app.history.iter().cloned().collect() })
    }

    /// Whether this state is what is kept already, but for what probes will tell anew.
    pub(super) fn amounts_to(&self, kept: &Kept) -> bool {
        self.apps.get(kept.app()).is_some_and(|app| app.kept.amounts_to(kept))
    }

    pub(super) fn rollout(&self, name: &AppName) -> Option<Rollout> {
        self.apps.get(name).map(|app| Rollout::restored(app.kept.clone()))
    }

    /// An app's receipts, newest last.
    pub(super) fn history(&self, name: &AppName) -> Arc<History> {
        self.apps.get(name).map(|app| Arc::clone(&app.history)).unwrap_or_default()
    }

    pub(super) fn keep(&mut self, kept: Kept) {
        match self.apps.get_mut(kept.app()) {
            Some(app) => app.kept = kept,
            None => {
                self.apps.insert(kept.app().clone(), Remembered { kept, history: Arc::default() });
            }
        }
    }

    /// Adds a receipt; a complete one replaces its provisional self.
    pub(super) fn remember(&mut self, name: &AppName, receipt: Receipt) {
        let Some(app) = self.apps.get_mut(name) else { return };
        let (generation, action) = (receipt.generation, receipt.action);
        let provisional = |r: &Receipt| (r.generation, r.action) == (generation, action) && r.replicas.is_empty();
        let history = Arc::make_mut(&mut app.history);
        history.retain(|known| !provisional(known));
        history.push_back(receipt);
        while history.len() > HISTORY {
            history.pop_front();
        }
    }
}
