//! Asking another authority. Where somebody else decides an app's flips (Argo Rollouts), the switch only follows, and what
//! people want of a rollout is put to that authority as a [`Petition`]: by its own means, never behind its back. A rollback
//! is no petition: it is the switch's own at once (G5), and the authority is made to agree afterwards.

use std::{future::Future, pin::Pin, time::Duration};

use jiff::Timestamp;

use super::{
    control::Refusal,
    name::{AppName, Revision},
    only::Only,
    status::{Action, Receipt},
};

/// Something somebody wants another authority to do with an app's rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Petition {
    /// Of which app.
    pub app: AppName,
    /// What.
    pub ask: Ask,
    /// Who asks.
    pub by: String,
    /// Why, in the asker's words.
    pub reason: String,
    /// Only if the app's generation is still this one.
    pub if_generation: Option<u64>,
    /// Only say what would be sent to the authority.
    pub dry_run: bool,
    /// How long to wait until it has had its effect.
    pub within: Duration,
}

/// What another authority can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Make the newest revision active.
    Promote {
        /// Only if the newest revision is this one.
        revision: Option<Revision>,
        /// Set our gates aside, and the authority's own pauses and analyses with them.
        skip_gates: bool,
    },
    /// Give the rollout of the newest revision up; traffic stays with the stable one, or returns to it.
    Abort {
        /// Only if it is this one.
        only: Option<Only>,
    },
    /// Take a rollout up again that was given up.
    Retry {
        /// Also where the authority would make it active at once, without its own pauses and analyses.
        skip_gates: bool,
    },
    /// Give it up for good: abort, and put what the stable revision is made of back where the newest one came from.
    Reject {
        /// Only if it is this one.
        only: Option<Only>,
    },
    /// Let the rollout stand where it is.
    Pause,
    /// Let it go on.
    Unpause,
    /// Keep the previous revision's endpoints until then, so that a rollback stays possible.
    Keep {
        /// Until when.
        until: Timestamp,
    },
}

impl Ask {
    /// The action this asks for, as it stands in receipts.
    pub fn action(&self) -> Action {
        match self {
            Self::Promote { .. } => Action::Promote,
            Self::Abort { .. } => Action::Abort,
            Self::Retry { .. } => Action::Retry,
            Self::Reject { .. } => Action::Reject,
            Self::Pause => Action::Pause,
            Self::Unpause => Action::Unpause,
            Self::Keep { .. } => Action::Keep,
        }
    }
}

/// What an authority has done because somebody asked, for the record. A flip needs none: it is recorded when it comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// To which app.
    pub app: AppName,
    /// What was done.
    pub action: Action,
    /// The revision it left, if it left one.
    pub from: Option<Revision>,
    /// The revision it is about.
    pub to: Option<Revision>,
    /// Who asked for it.
    pub by: String,
    /// Why, in the asker's words.
    pub reason: String,
}

/// What a [`Petition`] comes to.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send + 'a>>;

/// What came in the way of telling, in a sentence.
pub type Telling<'a> = Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>>;

/// The power to ask other authorities.
pub trait Authorities: Send + Sync {
    /// Puts a petition to the app's authority, and answers once it has had its effect: a promotion once traffic has moved
    /// and every worker has confirmed it.
    fn ask(&self, petition: Petition) -> Answer<'_>;

    /// Waits, a quarter of a second at most, until the rollback of this receipt was told to those who follow the same
    /// authority. It holds here whatever comes of that.
    fn told<'a>(&'a self, rollback: &'a Receipt) -> Telling<'a>;
}
