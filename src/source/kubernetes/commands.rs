//! Asking Argo Rollouts. A petition becomes an errand: look at the Rollout, decide (`decide`), send, and look again until
//! it is so; an answer of the API server alone proves nothing. A promotion is answered when live traffic has moved *here*:
//! when the flip has come with the Service's event and every worker has confirmed it. What does not come in time ends with
//! the place where it hangs.
//!
//! Only the Rollout is written, what holds its template, and a ReplicaSet's deadline; never a Service.
//!
//! Here is the commander, who knows where each app's Rollout is and begins the errands; `errand` has one on its way,
//! `promote` and `asks` what each petition asks of it.

mod asks;
mod errand;
mod promote;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::warn;

use self::errand::Errand;
use super::{
    Objects, Targets,
    agree::{Alarms, agree},
    annotation,
    call::{Call, Failed, Object, Server},
    decide::Seen,
    events::{self, Notice},
    objects::HASH,
};
use crate::switch::{
    Action, Answer, AppBoard, AppName, Ask, Authorities, Control, Petition, Receipt, Refusal, Returned, Revision,
    Telling, Viewer,
};

/// How long what was sent may be without effect before the controller is made to look at the Rollout again.
pub(super) const NUDGE: Duration = Duration::from_secs(2);
/// The annotation that is written for that; its value says nothing.
const NUDGED: &str = "tealgate.dev/nudged";
/// How long the answer to a rollback waits for the other replicas to be told.
const TELLING: Duration = Duration::from_millis(250);
/// How much may stand by to be said; what is more goes unsaid.
const NOTICES: usize = 64;

/// Where an app's Rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) namespace: String,
    pub(super) rollout: String,
}

/// Puts to Argo Rollouts what people want of an app's rollout.
#[derive(Clone)]
pub struct Commander {
    pub(super) server: Arc<Server>,
    pub(super) control: Control,
    pub(super) viewer: Viewer,
    /// What is to be said on the Rollout.
    pub(super) notices: mpsc::Sender<Notice>,
    /// What became of telling the other replicas, by the time of the flip.
    pub(super) telling: watch::Sender<BTreeMap<AppName, (Timestamp, Told)>>,
}

/// What became of telling the other replicas of a flip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is in the Rollout's annotation.
    Written,
    /// There is nothing to tell.
    Nothing,
    /// This came in the way.
    NotYet(String),
}

/// What stands by to be said on the Rollouts, and to whom it is handed.
pub struct Desk {
    notices: mpsc::Receiver<Notice>,
}

impl Commander {
    /// A commander of the Rollouts that the targets name, and what [`Self::attend`] works off.
    pub fn new(targets: watch::Receiver<Targets>, control: Control, viewer: Viewer) -> (Self, Desk) {
        Self::by(Server::new(targets), control, viewer)
    }

    pub(super) fn by(server: Server, control: Control, viewer: Viewer) -> (Self, Desk) {
        let (notices, said) = mpsc::channel(NOTICES);
        let telling = watch::Sender::default();
        (Self { server: Arc::new(server), control, viewer, notices, telling }, Desk { notices: said })
    }

    /// Sees to it that the cluster agrees with every rollback, and says what was done as Events on the Rollouts; for as
    /// long as the targets can change. What a person has to do about it is in the alarms.
    pub async fn attend(self, desk: Desk, alarms: watch::Sender<Alarms>) {
        let targets = self.server.targets();
        let saying = events::say(self.clone(), desk.notices);
        tokio::join!(agree(self, targets, alarms), saying);
    }

    /// Where the app's Rollout is, if it follows one.
    pub(super) async fn home(&self, app: &AppName) -> Result<Option<Home>, Failed> {
        let target = self.server.targets().borrow().apps.get(app).cloned();
        let Some(target) = target else { return Ok(None) };
        let Objects::Rollout(rollout) = target.objects.clone() else { return Ok(None) };
        Ok(Some(Home { namespace: self.server.namespace_of(&target).await?, rollout }))
    }

    pub(super) fn board(&self, app: &AppName) -> Option<Arc<AppBoard>> {
        self.viewer.board().apps.get(app).cloned()
    }

    pub(super) async fn look(&self, home: &Home) -> Result<Seen, Failed> {
        Seen::of(self.server.get(&Object::rollout(&home.namespace, &home.rollout)).await?)
    }

    /// The ReplicaSet of a revision.
    async fn replica_set(&self, seen: &Seen, hash: &str) -> Result<Option<Value>, Failed> {
        let all = self.server.replica_sets(seen.namespace(), &format!("{HASH}={hash}")).await?;
        let uid = seen.rollout.uid();
        let owned = |set: &Value| {
            let owners = set.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            owners.into_iter().flatten().any(|owner| owner["uid"] == uid && owner["controller"] == true)
        };
        Ok(all.into_iter().find(owned))
    }

    /// The images that a revision is made of, with commas between.
    async fn images(&self, seen: &Seen, hash: &str) -> Result<String, Failed> {
        let set = self.replica_set(seen, hash).await?;
        let own = || seen.template().filter(|_| hash == seen.status.current);
        let template = set.as_ref().and_then(|set| set.pointer("/spec/template")).or_else(own);
        let containers = template.and_then(|template| template.pointer("/spec/containers")?.as_array());
        let images = containers.into_iter().flatten().filter_map(|container| container["image"].as_str());
        Ok(images.collect::<Vec<_>>().join(","))
    }

    /// The ReplicaSet of a revision, and, where another object holds the Rollout's template, that.
    pub(super) async fn templates(&self, seen: &Seen, hash: &str) -> Result<(Option<Value>, Option<Value>), Failed> {
        let replica_set = self.replica_set(seen, hash).await?;
        let held = match &seen.rollout.spec.workload_ref {
            Some(reference) if reference.kind == "Deployment" => {
                Some(self.server.get(&Object::deployment(seen.namespace(), &reference.name)).await?)
            }
            _ => None,
        };
        Ok((replica_set, held))
    }

    /// Makes the controller look again. It puts what it has written itself into its own copy of the Rollout, which can cover
    /// a change that came in between, so that it never sees that (seen with v1.9); any other change makes it read both.
    pub(super) async fn nudge(&self, home: &Home) {
        let body = json!({"metadata": {"annotations": {NUDGED: Timestamp::now().to_string()}}});
        // What was asked for stands in the Rollout: the next try, or any other event, does as well.
        self.server.send(&Call::merge(Object::rollout(&home.namespace, &home.rollout), body)).await.ok();
    }

    /// Waits until `agree` has told the other replicas, and for the echo: what the API server has sent to our watch it has
    /// sent to those of the others as well, and may go away. What is not told by then is told later.
    async fn is_told(&self, rollback: &Receipt) -> Option<String> {
        let app: AppName = rollback.app.parse().ok()?;
        let target = self.server.targets().borrow().apps.get(&app).cloned()?;
        if !matches!(target.objects, Objects::Rollout(_)) {
            return None;
        }
        let (at, patience) = (rollback.published_at, Instant::now() + TELLING);
        let mut telling = self.telling.subscribe();
        let looked = telling.wait_for(|all| all.get(&app).is_some_and(|(flip, _)| *flip >= at));
        let told = match tokio::time::timeout_at(patience, looked).await {
            Ok(Ok(all)) => all[&app].1.clone(),
            Ok(Err(_)) | Err(_) => Told::NotYet(format!("no answer within {} ms", TELLING.as_millis())),
        };
        match told {
            Told::Written => {
                let mut viewer = self.viewer.clone();
                let echoed = || self.board(&app)?.rollout.returned().map(|told| told.at >= at);
                let echo = async { while echoed() != Some(true) && viewer.changed().await {} };
                tokio::time::timeout_at(patience, echo).await.ok();
                None
            }
            Told::Nothing => None,
            Told::NotYet(why) => {
                warn!(%app, why, "the rollback holds here; the other replicas could not be told yet");
                Some(format!(
                    "the rollback holds here, but other replicas could not be told yet: {why}; they follow as soon as they \
                     can be, or ask each of them"
                ))
            }
        }
    }

    async fn carry_out(&self, petition: Petition) -> Result<Receipt, Refusal> {
        let (app, action, by, dry_run) =
            (petition.app.clone(), petition.ask.action(), petition.by.clone(), petition.dry_run);
        let outcome = self.run(petition).await;
        if let (Err(refusal), false) = (&outcome, dry_run) {
            self.control.refused(app, action, by, refusal.clone()).await;
        }
        outcome
    }

    async fn run(&self, petition: Petition) -> Result<Receipt, Refusal> {
        let errand = Errand::begin(self, petition).await?;
        match errand.petition.ask.clone() {
            Ask::Promote { revision, skip_gates } => errand.promote(revision, skip_gates).await,
            Ask::Abort { only } => errand.abort(only.as_ref()).await,
            Ask::Retry { skip_gates } => errand.retry(skip_gates).await,
            Ask::Reject { only } => errand.reject(only.as_ref()).await,
            Ask::Pause => errand.pause(true).await,
            Ask::Unpause => errand.pause(false).await,
            Ask::Keep { until } => errand.keep(until).await,
        }
    }
}

impl Authorities for Commander {
    fn ask(&self, petition: Petition) -> Answer<'_> {
        Box::pin(self.carry_out(petition))
    }

    fn told<'a>(&'a self, rollback: &'a Receipt) -> Telling<'a> {
        Box::pin(self.is_told(rollback))
    }
}

/// A revision by its hash, where there is one.
pub(super) fn hash(hash: &str) -> Option<Revision> {
    hash.parse().ok()
}

/// The rollback that all replicas were told of.
pub(super) fn told_of(seen: &Seen) -> Option<Returned> {
    let value = seen.rollout.annotation(annotation::RETURNED)?;
    annotation::read(value, Timestamp::now()).ok()
}

/// The last change of hands of live traffic.
pub(super) fn last_flip(board: &AppBoard) -> Option<&Receipt> {
    board.history.iter().rev().find(|receipt| is_flip(receipt))
}

pub(super) fn is_flip(receipt: &Receipt) -> bool {
    matches!(receipt.action, Action::Promote | Action::Rollback | Action::Source)
        && receipt.to.is_some()
        && receipt.from != receipt.to
}
