//! The one writer. It takes one message at a time: lets the app's [`Rollout`] decide, makes the decision durable, builds
//! the new snapshot whole, publishes it, and sees the retired tenure out. Nothing in its loop waits on traffic, and on the
//! disk only within bounds: a promotion that cannot be made durable is refused, a rollback goes ahead (G5) and is written
//! when the disk is back.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use thiserror::Error;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    admission::Current,
    app::App,
    barrier::Barrier,
    control::{Applied, Board, Command, Control, Feed, Message, Order, Refusal, RefusalCode, Viewer},
    desired::{Desired, Wanted},
    drain::drain,
    journal::{Journal, Recovered},
    memory::{Memory, Record},
    name::{AppName, Revision},
    pool::{Pool, Tenure},
    reader::{Reader, Shared},
    rollout::{Deed, Input, Rollout, Step},
    snapshot::Snapshot,
    status::{Event, Happening, Receipt, ReplicaReceipt},
};

/// How many messages may wait; senders then wait too.
const MESSAGES: usize = 1024;
/// How many events a slow listener may lag behind before it is told to look at the board instead.
const EVENTS: usize = 1024;
/// How long a promotion waits for the disk before it is refused.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a rollback does: returning to what worked matters more than writing it down first.
const ROLLBACK_DISK_PATIENCE: Duration = Duration::from_millis(250);
/// How long an answer waits for workers to confirm. Admission is right without it (see `admission`).
const BARRIER_PATIENCE: Duration = Duration::from_secs(1);
/// The journal is left to grow to this many octets before it is rewritten.
const COMPACT_FROM: u64 = 1 << 20;
/// How long until what could not be written is tried again.
const RETRY_UNSAVED: Duration = Duration::from_secs(1);

/// The handles of a running switch.
pub struct Switch {
    /// The power to act.
    pub control: Control,
    /// The power to report.
    pub feed: Feed,
    /// The power to look.
    pub viewer: Viewer,
    /// The power to admit, worker by worker.
    pub readers: Readers,
}

/// Hands each worker its [`Reader`]. A reader lives on its worker's thread, so it is made there.
#[derive(Clone)]
pub struct Readers {
    shared: Arc<Shared>,
}

impl Readers {
    /// The access of one worker, numbered from 0. Each number is taken once at a time.
    pub fn reader(&self, worker: usize) -> Reader {
        Reader::new(Arc::clone(&self.shared), worker)
    }
}

/// How a switch is started.
pub struct SwitchOptions {
    /// Data-plane workers: how many [`Reader`]s there may be.
    pub workers: usize,
    /// The name of this replica in receipts.
    pub replica: String,
    /// The open journal and what was found in it; `None` keeps state in memory only.
    pub journal: Option<(Journal, Recovered)>,
}

/// Why a switch could not start.
#[derive(Debug, Error)]
#[error(
    "record {index} of the journal is whole, yet not a state of this program: {source}; a newer version may have written it"
)]
pub struct NotRestored {
    /// Which record, from 0.
    index: usize,
    /// Why.
    source: serde_json::Error,
}

impl Switch {
    /// Starts the switchboard on the current runtime, with every app as the journal left it. Traffic follows once the
    /// source has spoken.
    pub fn start(options: SwitchOptions) -> Result<Self, NotRestored> {
        let (journal, recovered) = options.journal.map_or((None, Recovered::default()), |(j, r)| (Some(j), r));
        let memory = Memory::recall(&recovered.records).map_err(|(index, source)| NotRestored { index, source })?;
        let shared = Arc::new(Shared {
            current: Current::new(Arc::new(Snapshot::empty())),
            barrier: Barrier::new(options.workers),
        });
        let (messages, inbox) = mpsc::channel(MESSAGES);
        let (board, board_view) = watch::channel(Arc::new(Board::default()));
        let events = broadcast::Sender::new(EVENTS);
        let switchboard = Switchboard {
            apps: BTreeMap::new(),
            memory,
            journal,
            compact_at: COMPACT_FROM,
            unsaved: BTreeSet::new(),
            retry_at: None,
            confirming: 0,
            replica: options.replica,
            shared: Arc::clone(&shared),
            board,
            events: events.clone(),
            messages: messages.downgrade(),
        };
        tokio::spawn(switchboard.run(inbox));
        Ok(Self {
            control: Control { messages: messages.clone() },
            feed: Feed { messages },
            viewer: Viewer { board: board_view, events },
            readers: Readers { shared },
        })
    }
}

struct Switchboard {
    apps: BTreeMap<AppName, App>,
    /// What is kept of every app ever seen, so that one that comes back goes on where it was.
    memory: Memory,
    journal: Option<Journal>,
    /// The size, in octets, at which the journal is rewritten to what still matters.
    compact_at: u64,
    /// Apps whose last state is not known to be on disk.
    unsaved: BTreeSet<AppName>,
    retry_at: Option<Instant>,
    /// Receipts that wait for the workers' word.
    confirming: usize,
    replica: String,
    shared: Arc<Shared>,
    board: watch::Sender<Arc<Board>>,
    events: broadcast::Sender<Arc<Event>>,
    /// To ourselves, for what drains and barriers have to say; weak, so that the last outside handle ends the loop.
    messages: mpsc::WeakSender<Message>,
}

impl Switchboard {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        loop {
            let message = match self.next_deadline() {
                Some(deadline) => match tokio::time::timeout_at(deadline, inbox.recv()).await {
                    Ok(message) => message,
                    Err(_) => {
                        self.clock().await;
                        continue;
                    }
                },
                None => inbox.recv().await,
            };
            match message {
                Some(Message::Stop { reply }) => {
                    self.wind_up(&mut inbox).await;
                    reply.send(()).ok();
                    return;
                }
                Some(message) => self.take(message).await,
                None => return,
            }
        }
    }

    /// Answers what was carried out and refuses the rest.
    async fn wind_up(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        while self.confirming > 0 {
            match inbox.recv().await {
                Some(Message::Measured { receipt, reply }) => self.measured(*receipt, reply),
                Some(Message::Order { reply, .. }) => drop(reply.send(Err(Refusal::stopping()))),
                Some(_) => {}
                None => break,
            }
        }
        self.save_unsaved().await;
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Desired { desired, reply } => {
                let applied = self.desire(desired).await;
                reply.send(applied).ok();
            }
            Message::Order { order, reply } => {
                let name = order.app.clone();
                self.order(order, reply).await;
                self.refresh(&name).await;
            }
            Message::Observed { app, revision, address, healthy } => {
                self.observe(&app, &revision, address, healthy).await;
            }
            Message::Drained { app, tenure, cut, took } => self.drained(&app, tenure, cut, took),
            Message::Measured { receipt, reply } => self.measured(*receipt, reply),
            Message::Stop { .. } => unreachable!("the loop ends on it"),
        }
    }

    /// When to look at the clock again: an app's own deadline, or another try at the disk.
    fn next_deadline(&self) -> Option<Instant> {
        let now = Timestamp::now();
        let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
        // Long waits are cut into hours: a wall clock may be set meanwhile.
        let instant = |at| Instant::now() + until(at).min(Duration::from_secs(3600));
        let apps = self.apps.values().filter_map(|app| app.rollout.deadline()).min().map(instant);
        // While the disk fails, what is due waits for its next turn instead of spinning.
        match (apps, self.retry_at) {
            (Some(due), Some(retry)) => Some(due.max(retry)),
            (due, retry) => due.or(retry),
        }
    }

    async fn clock(&mut self) {
        self.retry_at = None;
        self.save_unsaved().await;
        let due: Vec<_> = self.apps.keys().cloned().collect();
        for name in due {
            self.advance(&name, Input::Clock).await;
            self.refresh(&name).await;
        }
    }

    /// Applies the whole of what the source wants.
    async fn desire(&mut self, desired: Desired) -> Applied {
        let mut applied = Applied::default();
        let gone: Vec<_> = self.apps.keys().filter(|name| !desired.apps.contains_key(*name)).cloned().collect();
        for (name, wanted) in desired.apps {
            match self.apps.contains_key(&name) {
                true => self.change(&name, wanted, &mut applied).await,
                false => self.add(name, wanted, &mut applied).await,
            }
        }
        for name in gone {
            self.remove(&name);
            applied.removed.push(name.to_string());
        }
        // Names are known from the first message on; health follows.
        let names: Vec<_> = self.apps.keys().cloned().collect();
        for name in names {
            self.refresh(&name).await;
        }
        applied
    }

    async fn add(&mut self, name: AppName, wanted: Wanted, applied: &mut Applied) {
        let now = Timestamp::now();
        let matching = wanted.matching.clone();
        let step = match self.memory.rollout(&name) {
            Some(rollout) => rollout.handle(Input::Wanted(wanted), now).ok(),
            None => {
                Some(Step { next: Rollout::first(name.clone(), wanted, now), deeds: Vec::new(), held_back: Vec::new() })
            }
        };
        let Some(step) = step else { return };
        let app = App::new(step.next.clone(), matching);
        self.apps.insert(name.clone(), app);
        applied.held_back.extend(step.held_back.iter().cloned());
        self.carry_out(&name, step, None).await.ok();
        self.tell(&name, Happening::Added);
        applied.added.push(name.to_string());
    }

    async fn change(&mut self, name: &AppName, wanted: Wanted, applied: &mut Applied) {
        let Some(app) = self.apps.get_mut(name) else { return };
        let rematched = app.matching != wanted.matching;
        app.matching = wanted.matching.clone();
        app.last_event = Timestamp::now();
        let before = app.rollout.clone();
        let Ok(step) = app.rollout.handle(Input::Wanted(wanted), Timestamp::now()) else { return };
        if rematched || step.next != before {
            applied.changed.push(name.to_string());
        }
        applied.held_back.extend(step.held_back.iter().cloned());
        self.carry_out(name, step, None).await.ok();
    }

    fn remove(&mut self, name: &AppName) {
        self.tell(name, Happening::Removed);
        let Some(app) = self.apps.remove(name) else { return };
        self.publish();
        let within = app.rollout.policy().drain.timeout;
        for tenure in app.retire_all() {
            self.see_out(name, tenure, within);
        }
    }

    async fn order(&mut self, order: Order, reply: oneshot::Sender<Result<Receipt, Refusal>>) {
        let (name, action, by) = (order.app.clone(), order.command.action(), order.by.clone());
        let dry_run = order.dry_run;
        let decided = self.decide(order);
        let refusal = match decided {
            Ok(step) if dry_run => {
                reply.send(Ok(self.receipt(&name, &step, &step.deeds[0], true))).ok();
                return;
            }
            Ok(step) => match self.carry_out(&name, step, Some(reply)).await {
                Ok(()) => return,
                Err((refusal, reply)) => {
                    if let Some(reply) = reply {
                        reply.send(Err(refusal.clone())).ok();
                    }
                    refusal
                }
            },
            Err(refusal) => {
                reply.send(Err(refusal.clone())).ok();
                refusal
            }
        };
        // A dry run only asks; nothing has happened to the app.
        if dry_run {
            return;
        }
        let code = refusal.code.as_str().to_owned();
        self.tell(&name, Happening::Refused { action, by, code, detail: refusal.detail });
    }

    fn decide(&self, order: Order) -> Result<Step, Refusal> {
        let Order { app: name, command, by, reason, if_generation, .. } = order;
        let app = self.apps.get(&name).ok_or_else(|| self.unknown_app(&name))?;
        let skips = matches!(command, Command::Promote { skip_gates: true, .. });
        if skips && reason.trim().is_empty() {
            let detail = "skipping gates wants a reason";
            return Err(Refusal::new(RefusalCode::Invalid, detail, "say why; it goes into the journal"));
        }
        app.rollout.handle(Input::Order { command, by, reason, if_generation }, Timestamp::now())
    }

    fn unknown_app(&self, name: &AppName) -> Refusal {
        let known: Vec<_> = self.apps.keys().map(AppName::as_str).collect();
        let hint = match known.as_slice() {
            [] => "the configuration names no app".to_owned(),
            known => format!("known are: {}", known.join(", ")),
        };
        Refusal::new(RefusalCode::UnknownApp, format!("there is no app {name}"), hint)
    }

    async fn observe(&mut self, name: &AppName, revision: &Revision, address: SocketAddr, healthy: bool) {
        let Some(app) = self.apps.get_mut(name) else { return };
        if app.observe(revision, address, healthy) {
            self.refresh(name).await;
        }
    }

    /// Tells the app's rollout how many endpoints are ready, until nothing new follows, and shows the result.
    async fn refresh(&mut self, name: &AppName) {
        while let Some(input) = self.apps.get(name).and_then(App::unreported) {
            if !self.advance(name, input).await {
                break;
            }
        }
        self.show(name);
    }

    /// Lets an app's rollout take an input that nobody waits for. `false` if what follows could not be done.
    async fn advance(&mut self, name: &AppName, input: Input) -> bool {
        let Some(app) = self.apps.get(name) else { return false };
        let Ok(step) = app.rollout.handle(input, Timestamp::now()) else { return false };
        if step.next == app.rollout {
            return true;
        }
        self.carry_out(name, step, None).await.is_ok()
    }

    /// Durable first, then published, then confirmed: the one road of every change. Without `reply` nobody waits for the
    /// receipt.
    async fn carry_out(&mut self, name: &AppName, step: Step, reply: Reply) -> Result<(), (Refusal, Reply)> {
        let mut receipts: Vec<_> = step.deeds.iter().map(|deed| self.receipt(name, &step, deed, false)).collect();
        if !self.memory.amounts_to(step.next.kept())
            && let Err(refusal) = self.make_durable(&step, &mut receipts).await
        {
            return Err((refusal, reply));
        }
        self.commit(name, step, receipts, reply);
        Ok(())
    }

    /// Writes the next state down. Where it cannot be written, only what must not wait goes on, and says so.
    async fn make_durable(&mut self, step: &Step, receipts: &mut [Receipt]) -> Result<(), Refusal> {
        let must_not_wait = step.deeds.is_empty() || step.deeds.iter().any(Deed::must_not_wait);
        let patience = if must_not_wait { ROLLBACK_DISK_PATIENCE } else { DISK_PATIENCE };
        let record = Record::State { kept: Box::new(step.next.kept().clone()), receipts: receipts.to_vec() };
        let name = step.next.app();
        let Err(problem) = self.write(&record, patience).await else {
            self.unsaved.remove(name);
            return Ok(());
        };
        tracing::error!(app = %name, %problem, "the journal cannot be written");
        // Whatever the disk made of it, the state that stands in the end is written over it.
        self.unsaved.insert(name.clone());
        self.retry_at = Some(Instant::now() + RETRY_UNSAVED);
        if !must_not_wait {
            let detail = format!("the change could not be written to disk: {problem}");
            return Err(Refusal::new(
                RefusalCode::NotDurable,
                detail,
                "see to the disk of state.dir; nothing has changed",
            ));
        }
        for receipt in receipts {
            receipt.warnings.push(format!("not on disk yet: {problem}; it is tried again every second"));
        }
        Ok(())
    }

    async fn write(&self, record: &Record, patience: Duration) -> Result<(), String> {
        let Some(journal) = &self.journal else { return Ok(()) };
        match timeout(patience, journal.append(record.to_json(), true)).await {
            Ok(Ok(written)) => written.map_err(|problem| problem.to_string()),
            Ok(Err(_)) => Err("its writer has ended".to_owned()),
            Err(_) => Err(format!("no answer from the disk within {patience:?}")),
        }
    }

    async fn save_unsaved(&mut self) {
        for name in std::mem::take(&mut self.unsaved) {
            let Some(app) = self.apps.get(&name) else { continue };
            let record = Record::State { kept: Box::new(app.rollout.kept().clone()), receipts: Vec::new() };
            match self.write(&record, ROLLBACK_DISK_PATIENCE).await {
                Ok(()) => tracing::info!(app = %name, "the journal is whole again"),
                Err(problem) => {
                    tracing::error!(app = %name, %problem, "the journal still cannot be written");
                    self.unsaved.insert(name);
                    self.retry_at = Some(Instant::now() + RETRY_UNSAVED);
                }
            }
        }
    }

    /// Puts the next state in place and before the workers, and starts whatever outlasts this message.
    fn commit(&mut self, name: &AppName, step: Step, mut receipts: Vec<Receipt>, mut reply: Reply) {
        let Some(app) = self.apps.get_mut(name) else { return };
        self.memory.keep_state(step.next.kept().clone());
        let news = app.adopt(step.next, self.shared.barrier.workers());
        let published = Instant::now();
        let version = self.publish();
        let retired = self.retire(name);
        for (deed, mut receipt) in step.deeds.iter().zip(receipts.drain(..)) {
            receipt.published_at = Timestamp::now();
            receipt.replicas[0].published_at = receipt.published_at;
            // A flip may retire the candidate's tenure as well; live traffic is what was on `from`.
            let left = retired.iter().find(|pool| deed.is_flip() && deed.from.as_ref() == Some(pool.revision()));
            let left = left.map(|pool| Arc::clone(pool.tenure()));
            receipt.in_flight_on_old = left.as_ref().map_or(0, |tenure| tenure.in_flight());
            self.confirm(Confirmation { version, published, receipt, left, reply: reply.take() });
        }
        // Shown before it is told: whoever hears of it finds it on the board.
        self.show(name);
        if let Some(news) = news {
            self.tell(name, news);
        }
    }

    /// Builds the snapshot of all apps and puts it before the readers: the only place that does.
    fn publish(&self) -> u64 {
        let snapshot = Snapshot::build(self.apps.values().map(|app| (app.route(), &app.matching)).collect());
        let version = self.shared.current.publish(Arc::new(snapshot));
        self.shared.barrier.ring();
        version
    }

    /// Takes note of the tenures that the last publication took out of routing, and sees them out.
    fn retire(&mut self, name: &AppName) -> Vec<Arc<Pool>> {
        let Some(app) = self.apps.get_mut(name) else { return Vec::new() };
        let within = app.rollout.policy().drain.timeout;
        let retired = app.retire_unrouted(self.shared.barrier.workers(), within);
        for pool in &retired {
            self.see_out(name, Arc::clone(pool.tenure()), within);
        }
        retired
    }

    fn see_out(&self, name: &AppName, tenure: Arc<Tenure>, within: Duration) {
        let Some(messages) = self.messages.upgrade() else { return };
        let app = name.clone();
        tokio::spawn(async move {
            let id = tenure.id();
            let drained = drain(tenure, within).await;
            messages.send(Message::Drained { app, tenure: id, cut: drained.cut, took: drained.took }).await.ok();
        });
    }

    /// Answers once every worker has adopted the publication, in a task of its own.
    fn confirm(&mut self, confirmation: Confirmation) {
        let Some(messages) = self.messages.upgrade() else { return };
        self.confirming += 1;
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let Confirmation { version, published, mut receipt, left, reply } = confirmation;
            let late = shared.barrier.passed(version, BARRIER_PATIENCE).await;
            receipt.barrier_micros = u64::try_from(published.elapsed().as_micros()).unwrap_or(u64::MAX);
            for worker in late {
                receipt.warnings.push(format!("published, not yet confirmed by worker {worker}"));
            }
            left.iter().for_each(|tenure| tenure.acknowledge());
            messages.send(Message::Measured { receipt: Box::new(receipt), reply }).await.ok();
        });
    }

    /// A receipt is complete: into the history, out to whoever listens, and to the asker.
    fn measured(&mut self, receipt: Receipt, reply: Reply) {
        self.confirming -= 1;
        let Ok(name) = receipt.app.parse::<AppName>() else { return };
        self.memory.remember(&name, receipt.clone());
        if let Some(journal) = &self.journal {
            // Nobody waits: should it be lost, the history shows the receipt without its measurements.
            drop(journal.append(Record::Measured { receipt: Box::new(receipt.clone()) }.to_json(), false));
        }
        self.compact_if_grown();
        self.show(&name);
        self.tell(&name, Happening::Acted { receipt: Box::new(receipt.clone()) });
        if let Some(reply) = reply {
            reply.send(Ok(receipt)).ok();
        }
    }

    /// Rewrites the journal once it has outgrown what it says, so that it stays small and the cost is seldom paid.
    fn compact_if_grown(&mut self) {
        let Some(journal) = self.journal.as_ref().filter(|journal| journal.size() > self.compact_at) else { return };
        let records = self.memory.records();
        let size: usize = records.iter().map(String::len).sum();
        self.compact_at = COMPACT_FROM.max(4 * size as u64);
        // The writer takes it in its turn; should it fail, the longer journal says the same.
        drop(journal.compact(records));
    }

    fn drained(&mut self, name: &AppName, tenure: u64, cut: u64, took: Duration) {
        let Some(app) = self.apps.get_mut(name) else { return };
        let Some(revision) = app.drained(tenure) else { return };
        self.show(name);
        let revision = revision.to_string();
        self.tell(name, Happening::Drained { revision, seconds: took.as_secs_f64(), cut });
    }

    fn receipt(&self, name: &AppName, step: &Step, deed: &Deed, dry_run: bool) -> Receipt {
        let now = Timestamp::now();
        let before = self.apps.get(name).map(|app| &app.rollout);
        Receipt {
            app: name.to_string(),
            action: deed.action,
            generation: deed.generation.0,
            from: deed.from.as_ref().map(Revision::to_string),
            to: deed.to.as_ref().map(Revision::to_string),
            by: deed.by.clone(),
            reason: deed.reason.clone(),
            published_at: now,
            barrier_micros: 0,
            in_flight_on_old: 0,
            gates: before.unwrap_or(&step.next).gates(),
            replicas: vec![ReplicaReceipt {
                id: self.replica.clone(),
                generation: deed.generation.0,
                published_at: now,
            }],
            warnings: Vec::new(),
            dry_run,
        }
    }

    /// Puts an app's state, or its absence, on the board.
    fn show(&self, name: &AppName) {
        let mut board = Board { apps: self.board.borrow().apps.clone() };
        match self.apps.get(name) {
            Some(app) => board.apps.insert(name.clone(), app.board(self.memory.history(name))),
            None => board.apps.remove(name),
        };
        self.board.send_replace(Arc::new(board));
    }

    fn tell(&self, name: &AppName, what: Happening) {
        if matches!(what, Happening::Removed) {
            let mut board = Board { apps: self.board.borrow().apps.clone() };
            board.apps.remove(name);
            self.board.send_replace(Arc::new(board));
        }
        // Nobody listening is no failure.
        self.events.send(Arc::new(Event { at: Timestamp::now(), app: name.to_string(), what })).ok();
    }
}

type Reply = Option<oneshot::Sender<Result<Receipt, Refusal>>>;

struct Confirmation {
    version: u64,
    published: Instant,
    receipt: Receipt,
    /// What live traffic left.
    left: Option<Arc<Tenure>>,
    reply: Reply,
}
