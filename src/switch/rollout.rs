//! One app's state machine.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{
    name::{AppName, Generation, Revision},
    policy::Policy,
    status::{Gate, Phase, Pin},
};

/// One app's rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    app: AppName,
    generation: Generation,
    phase: Phase,
    active: Revision,
    active_since: Timestamp,
    preview: Option<(Revision, Timestamp)>,
    previous: Option<Previous>,
    pin: Option<Pin>,
    policy: Arc<Policy>,
}

/// The revision a rollback returns to.
#[derive(Clone, Debug, PartialEq)]
pub struct Previous {
    /// Which.
    pub revision: Revision,
    /// Since when it is the previous one.
    pub since: Timestamp,
    /// Until when it is kept.
    pub until: Timestamp,
}

impl Rollout {
    /// The app.
    pub fn app(&self) -> &AppName {
        &self.app
    }
    /// How often its roles have changed.
    pub fn generation(&self) -> Generation {
        self.generation
    }
    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }
    /// The same in a sentence.
    pub fn message(&self) -> String {
        String::new()
    }
    /// The active revision.
    pub fn active(&self) -> &Revision {
        &self.active
    }
    /// Since when it is active.
    pub fn active_since(&self) -> Timestamp {
        self.active_since
    }
    /// The candidate, and since when it is.
    pub fn preview(&self) -> Option<(&Revision, Timestamp)> {
        self.preview.as_ref().map(|(revision, since)| (revision, *since))
    }
    /// The revision a rollback returns to.
    pub fn previous(&self) -> Option<&Previous> {
        self.previous.as_ref()
    }
    /// The pin, if one holds.
    pub fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }
    /// The gates of the candidate's promotion as they stand; none without a candidate.
    pub fn gates(&self) -> Vec<Gate> {
        Vec::new()
    }
    /// The labels a revision was deployed with.
    pub fn labels(&self, _revision: &Revision) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    /// How the roles differ from what the source says, in a sentence.
    pub fn drift(&self) -> Option<String> {
        None
    }
}
