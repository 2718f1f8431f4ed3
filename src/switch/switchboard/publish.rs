//! From a decision to its answer. There are two roads: most changes are durable first, then published, then confirmed; what
//! was sighted is in force already, and is written while it is published. Both meet in `commit`, and behind it in the one
//! place that puts a snapshot before the readers; what is retired there is seen out.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::{
        app::{App, Asker, Begun, Reply},
        control::{Message, Refusal, RefusalCode},
        desired::Matching,
        drain::drain,
        name::{AppName, Revision},
        policy::Drain,
        pool::{Pool, Tenure},
        rollout::{Deed, HoldEnd, Step},
        snapshot::{Route, Snapshot},
        status::{Action, Happening, Receipt, ReplicaReceipt},
    },
    Switchboard,
};

/// How long a promotion waits for the disk before it is refused.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a rollback does: returning to what worked matters more than writing it down first.
const ROLLBACK_DISK_PATIENCE: Duration = Duration::from_millis(250);
/// How a warning begins that something is in force and not written down.
const UNWRITTEN: &str = "not on disk yet";
/// How long an answer waits for workers to confirm. Admission is right without it (see `admission`).
const BARRIER_PATIENCE: Duration = Duration::from_secs(1);

/// What is to be done to one app.
pub(super) struct Change {
    pub(super) name: AppName,
    /// Which requests are its, where the source has just said so.
    pub(super) matching: Option<Arc<Matching>>,
    pub(super) step: Step,
    pub(super) receipts: Vec<Receipt>,
    pub(super) reply: Reply,
}

struct Confirmation {
    version: u64,
    published: Instant,
    receipt: Receipt,
    /// What live traffic left.
    left: Option<Arc<Tenure>>,
    reply: Reply,
}

impl Switchboard {
    /// What was sighted is in force where it was seen, so traffic does not wait for our disk: it is published while it is
    /// written. Whoever is to hear of it hears once it is durable, or that it is not yet; should it be lost before, nobody
    /// was told, and the next sighting says it again.
    pub(super) async fn follow_at_once(&mut self, name: &AppName, step: Step) {
        let receipts = self.receipts(name, &step);
        let writing = self.archive.begin([(step.next.kept(), &receipts[..])]);
        self.commit(vec![Change { name: name.clone(), matching: None, step, receipts, reply: None }], false);
        // The archive logs what it cannot write, and tries again; receipts say so (see `measured`).
        self.archive.finish(writing, ROLLBACK_DISK_PATIENCE).await.ok();
    }

    /// Durable first, then published, then confirmed: the road of every change but those that were sighted. Without `reply`
    /// nobody waits for the receipt.
    pub(super) async fn carry_out(&mut self, name: &AppName, step: Step, reply: Reply) -> Result<(), (Refusal, Reply)> {
        let receipts = self.receipts(name, &step);
        let must_not_wait = step.deeds.is_empty() || step.deeds.iter().any(Deed::must_not_wait);
        let mut change = Change { name: name.clone(), matching: None, step, receipts, reply };
        match self.make_durable(std::slice::from_mut(&mut change), must_not_wait).await {
            Ok(()) => {
                self.commit(vec![change], false);
                Ok(())
            }
            Err(refusal) => Err((refusal, change.reply)),
        }
    }

    /// Writes the next states down. Where they cannot be written, only what must not wait goes on, and says so.
    pub(super) async fn make_durable(&mut self, changes: &mut [Change], must_not_wait: bool) -> Result<(), Refusal> {
        let patience = if must_not_wait { ROLLBACK_DISK_PATIENCE } else { DISK_PATIENCE };
        let states = changes.iter().map(|change| (change.step.next.kept(), &change.receipts[..]));
        let Err(problem) = self.archive.save(states, patience).await else { return Ok(()) };
        if !must_not_wait {
            let detail = format!("the change could not be written to disk: {problem}");
            let hint = "traffic has not changed; see to the disk of state.dir, and look again before you repeat it";
            return Err(Refusal::new(RefusalCode::NotDurable, detail, hint));
        }
        for receipt in changes.iter_mut().flat_map(|change| &mut change.receipts) {
            receipt.warnings.push(format!("{UNWRITTEN}: {problem}; it is tried again every second"));
        }
        Ok(())
    }

    /// Puts the next states in place and, all at once, before the workers; and starts whatever outlasts this message. Where
    /// apps have gone, or what leads to them is another, the table of all hosts is made anew.
    pub(super) fn commit(&mut self, changes: Vec<Change>, mut elsewhere: bool) {
        let workers = self.shared.barrier.workers();
        let (mut done, mut changed) = (Vec::with_capacity(changes.len()), Vec::new());
        for Change { name, matching, step, receipts, reply } in changes {
            self.archive.keep(step.next.kept().clone());
            let known = self.apps.contains_key(&name);
            let app = self.apps.entry(name.clone()).or_insert_with(|| App::new(step.next.clone()));
            elsewhere |= app.match_by(matching) || !known;
            if known && let Some(at) = app.rollout.deadline() {
                self.due.remove(&(at, name.clone()));
            }
            let news = if known { app.adopt(step.next, workers) } else { app.begin(workers) };
            changed.extend(app.changed_route());
            self.departed.append(&mut app.departed());
            self.due.extend(app.rollout.deadline().map(|at| (at, name.clone())));
            let mut reply = reply;
            let broken = app.keep_promise(&step.deeds, &mut reply);
            done.push((name, news, step.deeds, receipts, reply, broken));
        }
        let published = Instant::now();
        let version = match (elsewhere, changed.is_empty()) {
            (true, _) => self.publish_all(),
            (false, false) => self.publish(changed),
            (false, true) => self.shared.current.version(),
        };
        for (name, news, deeds, receipts, mut reply, broken) in done {
            let retired = self.retire(&name);
            self.attend_hold(&name, &deeds);
            self.show(&name);
            for (deed, mut receipt) in deeds.iter().zip(receipts) {
                receipt.published_at = Timestamp::now();
                // A flip may retire the candidate's tenure as well; live traffic is what was on `from`.
                let left = retired.iter().find(|pool| deed.is_flip() && deed.from.as_ref() == Some(pool.revision()));
                let left = left.map(|pool| Arc::clone(pool.tenure()));
                receipt.in_flight_on_old = match deed.action {
                    // What a hold keeps apart from those it holds.
                    Action::Hold => self.apps.get(&name).map_or(0, App::in_flight_on_active),
                    _ => left.as_ref().map_or(0, |tenure| tenure.in_flight()),
                };
                self.confirm(Confirmation { version, published, receipt, left, reply: reply.take() });
            }
            if let Some((Asker { by, reply }, refusal)) = broken {
                self.tell_refused(&name, Action::Promote, by, &refusal);
                self.flush();
                reply.send(Err(refusal)).ok();
            }
            if let Some(news) = news {
                self.tell(&name, news);
            }
        }
    }

    /// Lets in whom a hold kept out that has just been taken out, and sees to the end of one that has begun: at its age,
    /// or as soon as the pool is empty that it waits for. A clock that nobody sets measures it.
    fn attend_hold(&mut self, name: &AppName, deeds: &[Deed]) {
        // What somebody asked for is logged where it was asked.
        if let Some(ended) = deeds.iter().find(|deed| deed.action == Action::Resume && deed.came_by_itself()) {
            tracing::warn!(app = %name, reason = ended.reason, "a hold has ended by itself");
        }
        let Some(begun) = self.apps.get_mut(name).and_then(App::attend_hold) else { return };
        let (app, messages) = (name.clone(), self.messages.clone());
        tokio::spawn(async move {
            let Begun { id: hold, within, clearing } = begun;
            let emptied = async {
                match clearing {
                    Some(tenure) => tenure.emptied().await,
                    None => std::future::pending().await,
                }
            };
            let how = match tokio::time::timeout(within, emptied).await {
                Ok(()) => HoldEnd::Emptied,
                Err(_) => HoldEnd::Aged,
            };
            if let Some(messages) = messages.upgrade() {
                messages.send(Message::HoldOver { app, hold, how }).await.ok();
            }
        });
    }

    /// Publishes the view of all apps.
    fn publish_all(&mut self) -> u64 {
        let routes: Vec<_> = self.apps.values().filter_map(App::published).cloned().collect();
        self.put(Snapshot::build(&routes))
    }

    /// Publishes the view as it is, but for this app, if a request could tell.
    pub(super) fn publish_of(&mut self, name: &AppName) {
        let Some(app) = self.apps.get_mut(name) else { return };
        self.departed.append(&mut app.departed());
        if let Some(changed) = app.changed_route() {
            self.publish(vec![changed]);
        }
    }

    /// Publishes the view as it is, but for these apps.
    fn publish(&mut self, changed: Vec<Arc<Route>>) -> u64 {
        self.put(self.shared.current.view().value.with(changed))
    }

    /// Puts a snapshot before the readers: the only place that does.
    fn put(&mut self, snapshot: Snapshot) -> u64 {
        self.shared.barrier.leave_word(&std::mem::take(&mut self.departed));
        let version = self.shared.current.swap(Arc::new(snapshot));
        self.shared.barrier.ring();
        version
    }

    /// Takes note of the tenures that the last publication took out of routing, and sees them out.
    fn retire(&mut self, name: &AppName) -> Vec<Arc<Pool>> {
        let Some(app) = self.apps.get_mut(name) else { return Vec::new() };
        let policy = app.rollout.policy().drain;
        let retired = app.retire_unrouted(self.shared.barrier.workers(), policy.timeout);
        for pool in &retired {
            self.see_out(name, Arc::clone(pool.tenure()), policy);
        }
        retired
    }

    pub(super) fn see_out(&self, name: &AppName, tenure: Arc<Tenure>, policy: Drain) {
        let Some(messages) = self.messages.upgrade() else { return };
        let app = name.clone();
        tokio::spawn(async move {
            let id = tenure.id();
            let drained = drain(tenure, policy).await;
            messages.send(Message::Drained { app, tenure: id, cut: drained.cut, took: drained.took }).await.ok();
        });
    }

    /// Answers once every worker has adopted the publication, in a task of its own.
    fn confirm(&mut self, confirmation: Confirmation) {
        let Some(messages) = self.messages.upgrade() else { return };
        self.confirming += 1;
        let (shared, replica) = (Arc::clone(&self.shared), self.replica.clone());
        tokio::spawn(async move {
            let Confirmation { version, published, mut receipt, left, reply } = confirmation;
            let late = shared.barrier.passed(version, BARRIER_PATIENCE).await;
            receipt.barrier_micros = u64::try_from(published.elapsed().as_micros()).unwrap_or(u64::MAX);
            let (generation, published_at) = (receipt.generation, receipt.published_at);
            receipt.replicas.push(ReplicaReceipt { id: replica, generation, published_at });
            for worker in late {
                receipt.warnings.push(format!("published, not yet confirmed by worker {worker}"));
            }
            left.iter().for_each(|tenure| tenure.acknowledge());
            messages.send(Message::Measured { receipt: Box::new(receipt), reply }).await.ok();
        });
    }

    /// A receipt is complete: into the history, out to whoever listens, and to the asker.
    pub(super) fn measured(&mut self, mut receipt: Receipt, reply: Reply) {
        self.confirming -= 1;
        let Ok(name) = receipt.app.parse::<AppName>() else { return };
        if self.archive.is_unsaved(&name) && !receipt.warnings.iter().any(|warning| warning.starts_with(UNWRITTEN)) {
            receipt.warnings.push(format!("{UNWRITTEN}; it is tried again every second"));
        }
        self.archive.remember(&name, receipt.clone());
        self.show(&name);
        self.tell(&name, Happening::Acted { receipt: Box::new(receipt.clone()) });
        self.flush();
        if let Some(reply) = reply {
            reply.send(Ok(receipt)).ok();
        }
    }

    pub(super) fn drained(&mut self, name: &AppName, tenure: u64, cut: u64, took: Duration) {
        let Some(app) = self.apps.get_mut(name) else { return };
        let Some(revision) = app.drained(tenure) else { return };
        self.show(name);
        let revision = revision.to_string();
        self.tell(name, Happening::Drained { revision, seconds: took.as_secs_f64(), cut });
    }

    /// The receipts of a step's deeds, what is measured still missing.
    pub(super) fn receipts(&self, name: &AppName, step: &Step) -> Vec<Receipt> {
        step.deeds.iter().map(|deed| self.receipt(name, step, deed)).collect()
    }

    pub(super) fn receipt(&self, name: &AppName, step: &Step, deed: &Deed) -> Receipt {
        let before = self.apps.get(name).map(|app| &app.rollout);
        Receipt {
            app: name.to_string(),
            action: deed.action,
            generation: deed.generation.0,
            from: deed.from.as_ref().map(Revision::to_string),
            to: deed.to.as_ref().map(Revision::to_string),
            by: deed.by.clone(),
            reason: deed.reason.clone(),
            published_at: Timestamp::now(),
            barrier_micros: 0,
            in_flight_on_old: 0,
            gates: before.unwrap_or(&step.next).gates(),
            weight: deed.weight.map(|weight| weight.percent().into()),
            replicas: Vec::new(),
            calls: Vec::new(),
            warnings: Vec::new(),
            dry_run: false,
        }
    }
}
