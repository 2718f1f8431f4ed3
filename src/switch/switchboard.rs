//! The one writer. It takes one message at a time: lets the app's [`Rollout`] decide, makes the decision durable (before it
//! is in force, or before it is told where another authority has decided), builds the new snapshot whole, publishes it, and
//! sees the retired tenure out. Nothing in its loop waits on traffic, and on the disk only within the bounds that `archive`
//! keeps.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, Unit};
use thiserror::Error;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    address::HostPort,
    admission::Current,
    app::{App, Asker, Begun, Reply},
    archive::Archive,
    authority::Note,
    barrier::Barrier,
    control::{
        Applied, Board, Command, Control, Feed, Invitation, Invited, Message, Order, Refusal, RefusalCode, Viewer,
    },
    desired::{Authority, Desired, Followed, Matching, Sighting, Wanted},
    drain::drain,
    journal::{Journal, Recovered},
    memory::Memory,
    name::{AppName, Revision, Role, Subject},
    policy::Drain,
    pool::{Pool, Tenure},
    preview::{DOOR, Pass},
    reader::{Reader, Shared},
    rollout::{Deed, HoldEnd, Input, Rollout, Step},
    snapshot::{Route, Snapshot},
    status::{Action, Event, Happening, Receipt, ReplicaReceipt},
};

/// How many messages may wait; senders then wait too.
const MESSAGES: usize = 1024;
/// How many messages may be taken before what came of them is shown.
const TOGETHER: usize = 64;
/// How many events a slow listener may lag behind before it is told to look at the board instead.
const EVENTS: usize = 1024;
/// How long a promotion waits for the disk before it is refused.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a rollback does: returning to what worked matters more than writing it down first.
const ROLLBACK_DISK_PATIENCE: Duration = Duration::from_millis(250);
/// How a warning begins that something is in force and not written down.
const UNWRITTEN: &str = "not on disk yet";
/// How long an answer waits for workers to confirm. Admission is right without it (see `admission`).
const BARRIER_PATIENCE: Duration = Duration::from_secs(1);

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
            due: BTreeSet::new(),
            archive: Archive::new(memory, journal),
            confirming: 0,
            replica: options.replica,
            shared: Arc::clone(&shared),
            board,
            noted: BTreeSet::new(),
            departed: Vec::new(),
            unshown: BTreeSet::new(),
            events: events.clone(),
            untold: Vec::new(),
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
    /// When each app's state next changes by itself.
    due: BTreeSet<(Timestamp, AppName)>,
    /// What is kept of every app ever seen, so that one that comes back goes on where it was.
    archive: Archive,
    /// Receipts that wait for the workers' word.
    confirming: usize,
    replica: String,
    shared: Arc<Shared>,
    board: watch::Sender<Arc<Board>>,
    /// The apps of whose endpoints something was heard that was not followed yet.
    noted: BTreeSet<AppName>,
    /// The endpoints, by id, that the next publication takes out of routing.
    departed: Vec<u64>,
    /// The apps that are not on the board as they are.
    unshown: BTreeSet<AppName>,
    events: broadcast::Sender<Arc<Event>>,
    /// What has happened and was not told yet.
    untold: Vec<Arc<Event>>,
    /// To ourselves, for what drains and barriers have to say; weak, so that the last outside handle ends the loop.
    messages: mpsc::WeakSender<Message>,
}

impl Switchboard {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let (mut taken, mut deadline) = (0, None);
        loop {
            // Messages that come in numbers are followed and shown together, and no deadline waits for the last of them.
            if inbox.is_empty() || taken == TOGETHER {
                self.catch_up().await;
                self.flush();
                (taken, deadline) = (0, self.next_deadline());
            }
            taken += 1;
            let message = match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline, inbox.recv()).await {
                    Ok(message) => message,
                    Err(_) => {
                        self.clock().await;
                        taken = TOGETHER;
                        continue;
                    }
                },
                None => inbox.recv().await,
            };
            match message {
                Some(Message::Stop { reply }) => {
                    self.catch_up().await;
                    self.wind_up(&mut inbox).await;
                    self.flush();
                    self.archive.close().await;
                    reply.send(()).ok();
                    return;
                }
                Some(message) => {
                    if let Some(message) = self.overhear(message) {
                        // Whatever it is, it is decided on all that was heard before.
                        self.catch_up().await;
                        self.take(message).await;
                    }
                }
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
    }

    /// Takes note of what is heard of endpoints, which comes in numbers; anything else is given back.
    fn overhear(&mut self, message: Message) -> Option<Message> {
        let (name, news) = match message {
            Message::Observed { app: name, revision, address, healthy } => {
                let app = self.apps.get_mut(&name);
                let news = app.is_some_and(|app| app.observe(&revision, &address, healthy));
                (name, news)
            }
            Message::Ejected { app: name, revision, endpoint, reason } => {
                let app = self.apps.get_mut(&name);
                let news = app.is_some_and(|app| app.eject(&revision, endpoint, reason));
                (name, news)
            }
            Message::Warmed { app } => (app, true),
            other => return Some(other),
        };
        if news {
            self.noted.insert(name);
        }
        None
    }

    /// Follows what was noted.
    async fn catch_up(&mut self) {
        let workers = self.shared.barrier.workers();
        for name in std::mem::take(&mut self.noted) {
            if self.apps.get_mut(&name).is_some_and(|app| app.settle(workers)) {
                self.publish_of(&name);
            }
            self.refresh(&name).await;
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Desired { desired, reply } => {
                let applied = self.desire(desired).await;
                self.flush();
                reply.send(applied).ok();
            }
            Message::Order { order, reply } => {
                let name = order.app.clone();
                self.order(order, reply).await;
                self.refresh(&name).await;
            }
            Message::Invite { invitation, reply } => drop(reply.send(self.invite(invitation))),
            Message::HoldOver { app, hold, how } => self.hold_over(&app, hold, how).await,
            Message::Smoked { app, smoked } => {
                self.advance(&app, Input::Smoked(smoked)).await;
                self.refresh(&app).await;
            }
            Message::Sighted { app, sighting } => self.sighted(&app, *sighting).await,
            Message::OutOfSight { app, why } => self.out_of_sight(&app, why),
            Message::Note { note, reply } => self.note(note, reply).await,
            Message::Refused { app, action, by, refusal } => self.tell_refused(&app, action, by, &refusal),
            Message::Asked { app, asked } => _ = self.advance(&app, Input::Asked(asked)).await,
            Message::LookedUp { app, name, found } => self.look_up(&app, &name, found).await,
            Message::Drained { app, tenure, cut, took } => self.drained(&app, tenure, cut, took),
            Message::Measured { receipt, reply } => self.measured(*receipt, reply),
            Message::Observed { .. } | Message::Ejected { .. } | Message::Warmed { .. } | Message::Stop { .. } => {
                unreachable!("noted, or the end of the loop")
            }
        }
    }

    /// When to look at the clock again: an app's own deadline, or another try at the disk.
    fn next_deadline(&self) -> Option<Instant> {
        let now = Timestamp::now();
        let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
        // Long waits are cut into hours: a wall clock may be set meanwhile.
        let instant = |at| Instant::now() + until(at).min(Duration::from_secs(3600));
        let apps = self.due.first().map(|(at, _)| instant(*at));
        // While the disk fails, what is due waits for its next turn instead of spinning.
        self.archive.retry_at().or(apps)
    }

    async fn clock(&mut self) {
        // What could not be written may have kept any app from going on.
        let failed = self.archive.retry_at().is_some();
        self.archive.retry().await;
        let now = Timestamp::now();
        let due: Vec<_> = match failed {
            true => self.apps.keys().cloned().collect(),
            false => self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, name)| name.clone()).collect(),
        };
        for name in due {
            self.advance(&name, Input::Clock).await;
            self.refresh(&name).await;
        }
    }

    /// Applies the whole of what the source wants: all of it is written first, and then published at once, so that a host
    /// which moves from one app to another is never without either.
    async fn desire(&mut self, desired: Desired) -> Applied {
        let mut applied = Applied::default();
        let Desired { apps, followed } = desired;
        let stays = |name: &AppName| apps.contains_key(name) || followed.contains_key(name);
        let gone: Vec<_> = self.apps.keys().filter(|name| !stays(name)).cloned().collect();
        let stated = apps.into_iter().map(|(name, wanted)| (name, Said::Stated(wanted)));
        let said: Vec<_> =
            stated.chain(followed.into_iter().map(|(name, followed)| (name, Said::Followed(followed)))).collect();
        let mut changes = Vec::with_capacity(said.len());
        for (name, said) in said {
            let matching = Arc::new(said.matching().clone());
            let step = self.follow(&name, said, &mut applied);
            let receipts = self.receipts(&name, &step);
            changes.push(Change { name, matching: Some(matching), step, receipts, reply: None });
        }
        // Written or not, it goes on: the source will say the same after a restart.
        self.make_durable(&mut changes, true).await.ok();
        let mut removed: Vec<_> =
            gone.iter().filter_map(|name| self.apps.remove(name).map(|app| (name, app))).collect();
        for (name, app) in &mut removed {
            app.leave_routing();
            self.departed.append(&mut app.departed());
            app.rollout.deadline().into_iter().for_each(|at| _ = self.due.remove(&(at, (*name).clone())));
        }
        self.commit(changes, !removed.is_empty());
        for (name, app) in removed {
            self.show(name);
            self.tell(name, Happening::Removed);
            applied.removed.push(name.to_string());
            let policy = app.rollout.policy().drain;
            app.retire_all().into_iter().for_each(|tenure| self.see_out(name, tenure, policy));
        }
        let names: Vec<_> = self.apps.keys().cloned().collect();
        for name in names {
            self.refresh(&name).await;
        }
        applied
    }

    /// Where an app goes by what its source wants: on from where it is, from where it once was, or from the start.
    fn follow(&self, name: &AppName, said: Said, applied: &mut Applied) -> Step {
        let now = Timestamp::now();
        let running = self.apps.get(name);
        let before = running.map(|app| app.rollout.clone()).or_else(|| self.archive.rollout(name));
        let rematched = running.is_some_and(|app| *app.matching != *said.matching());
        let step = match (&before, said) {
            (Some(before), Said::Stated(wanted)) => before.follow(wanted, now),
            (None, Said::Stated(wanted)) => Rollout::first(name.clone(), wanted, now).into(),
            (Some(before), Said::Followed(followed)) => before.treat(followed.authority, followed.policy, now),
            (None, Said::Followed(Followed { authority, policy, .. })) => {
                Rollout::unseen(name.clone(), authority, policy, now).into()
            }
        };
        match running {
            None => applied.added.push(name.to_string()),
            Some(_) if rematched || before.as_ref() != Some(&step.next) => applied.changed.push(name.to_string()),
            Some(_) => {}
        }
        applied.held_back.extend(step.held_back.iter().cloned());
        step
    }

    async fn order(&mut self, order: Order, reply: oneshot::Sender<Result<Receipt, Refusal>>) {
        // Whoever is refused finds on the board why.
        self.flush();
        let (name, action, by) = (order.app.clone(), order.command.action(), order.by.clone());
        let dry_run = order.dry_run;
        let decided = self.decide(order);
        let refusal = match decided {
            Ok(step) if dry_run => {
                reply.send(Ok(Receipt { dry_run: true, ..self.receipt(&name, &step, &step.deeds[0]) })).ok();
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
        self.tell_refused(&name, action, by, &refusal);
    }

    async fn note(&mut self, note: Note, reply: oneshot::Sender<Result<Receipt, Refusal>>) {
        let name = note.app.clone();
        let step = match self.apps.get(&name) {
            Some(app) => app.rollout.handle(Input::Noted(note), Timestamp::now()),
            None => Err(self.unknown_app(&name)),
        };
        let refused = match step {
            Ok(step) => self.carry_out(&name, step, Some(reply)).await,
            Err(refusal) => Err((refusal, Some(reply))),
        };
        if let Err((refusal, Some(reply))) = refused {
            reply.send(Err(refusal)).ok();
        }
        self.refresh(&name).await;
    }

    fn decide(&self, order: Order) -> Result<Step, Refusal> {
        let Order { app: name, mut command, by, reason, if_generation, dry_run } = order;
        if let Command::PromoteHeld { revision, skip_gates, .. } = &mut command
            && dry_run
        {
            // What would happen is the promotion; the hold is how.
            command = Command::Promote { revision: revision.take(), skip_gates: *skip_gates };
        }
        let app = self.apps.get(&name).ok_or_else(|| self.unknown_app(&name))?;
        let skips = matches!(
            command,
            Command::Promote { skip_gates: true, .. } | Command::PromoteHeld { skip_gates: true, .. }
        );
        if skips && reason.trim().is_empty() {
            let detail = "skipping gates wants a reason";
            return Err(Refusal::new(RefusalCode::Invalid, detail, "say why; it goes into the journal"));
        }
        app.rollout.handle(Input::Order { command, by, reason, if_generation }, Timestamp::now())
    }

    /// Makes what a link for a tester is made of: only the switch has the secrets.
    fn invite(&mut self, invitation: Invitation) -> Result<Invited, Refusal> {
        let Invitation { app: name, by, subject, ttl, host } = invitation;
        let app = self.apps.get(&name).ok_or_else(|| self.unknown_app(&name))?;
        let invalid = |detail: String, hint: &str| Refusal::new(RefusalCode::Invalid, detail, hint);
        let Some(cookie) = &app.matching.preview.cookie else {
            let hint = "set preview.cookie.secret in the configuration, and reload";
            return Err(invalid(format!("{name} has no preview cookie"), hint));
        };
        let hint = "say which live host of the app the link is for";
        let Some(host) = host.or_else(|| app.matching.first_host()) else {
            return Err(invalid(format!("{name} names no host that a link could lead to"), hint));
        };
        let path = format!("{}{DOOR}", app.matching.paths.first().map_or("", |prefix| prefix.trim_end_matches('/')));
        if !self.leads_to(&name, &host, &path) {
            return Err(invalid(format!("{host} is not a live host of {name}"), hint));
        }
        let ttl = SignedDuration::try_from(ttl.unwrap_or(cookie.ttl)).unwrap_or(SignedDuration::MAX);
        let expires = Timestamp::now().checked_add(ttl).and_then(|at| at.round(Unit::Second)).ok();
        let pass = expires.map(|expires| Pass { app: name.clone(), expires, subject });
        let token = pass.as_ref().and_then(|pass| Some((cookie.sign(pass)?, pass)));
        let Some((token, Pass { expires, subject, .. })) = token else {
            return Err(invalid("the link would never end".to_owned(), "give it a shorter time"));
        };
        let (expires, subject) = (*expires, subject.as_ref().map(Subject::to_string));
        self.tell(&name, Happening::Invited { by, subject, expires });
        Ok(Invited { host, path, token, expires })
    }

    /// Whether live requests with this host and path are the app's.
    fn leads_to(&self, name: &AppName, host: &str, path: &str) -> bool {
        let view = self.shared.current.view();
        let found = view.value.find(host, path);
        found.is_some_and(|(index, role)| role == Role::Active && view.value.routes()[index].app == *name)
    }

    fn unknown_app(&self, name: &AppName) -> Refusal {
        let known: Vec<_> = self.apps.keys().map(AppName::as_str).collect();
        let hint = match known.as_slice() {
            [] => "the configuration names no app".to_owned(),
            known => format!("known are: {}", known.join(", ")),
        };
        Refusal::new(RefusalCode::UnknownApp, format!("there is no app {name}"), hint)
    }

    /// Takes what was found of an app that is followed.
    async fn sighted(&mut self, name: &AppName, sighting: Sighting) {
        let Some(app) = self.apps.get_mut(name).filter(|app| app.rollout.authority() != Authority::Tealgate) else {
            return;
        };
        app.seen_at(Timestamp::now());
        let step = app.rollout.sight(sighting, Timestamp::now());
        for held_back in &step.held_back {
            tracing::warn!(app = %name, "{held_back}");
        }
        if step.next != app.rollout {
            self.follow_at_once(name, step).await;
        }
        self.refresh(name).await;
    }

    fn out_of_sight(&mut self, name: &AppName, why: String) {
        let Some(app) = self.apps.get_mut(name).filter(|app| app.rollout.authority() != Authority::Tealgate) else {
            return;
        };
        if app.lose_sight(why) {
            self.show(name);
        }
    }

    /// Takes what the lookup of a name came to. It changes which endpoints a revision has, and no role.
    async fn look_up(&mut self, app: &AppName, name: &HostPort, found: Result<Vec<SocketAddr>, String>) {
        let workers = self.shared.barrier.workers();
        let Some(known) = self.apps.get_mut(app) else { return };
        let Some(moved) = known.learn(name, found, workers) else { return };
        if moved {
            self.publish_of(app);
        }
        self.refresh(app).await;
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

    /// What was sighted is in force where it was seen, so traffic does not wait for our disk: it is published while it is
    /// written. Whoever is to hear of it hears once it is durable, or that it is not yet; should it be lost before, nobody
    /// was told, and the next sighting says it again.
    async fn follow_at_once(&mut self, name: &AppName, step: Step) {
        let receipts = self.receipts(name, &step);
        let writing = self.archive.begin([(step.next.kept(), &receipts[..])]);
        self.commit(vec![Change { name: name.clone(), matching: None, step, receipts, reply: None }], false);
        // The archive logs what it cannot write, and tries again; receipts say so (see `measured`).
        self.archive.finish(writing, ROLLBACK_DISK_PATIENCE).await.ok();
    }

    /// Durable first, then published, then confirmed: the road of every change but those that were sighted. Without `reply`
    /// nobody waits for the receipt.
    async fn carry_out(&mut self, name: &AppName, step: Step, reply: Reply) -> Result<(), (Refusal, Reply)> {
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
    async fn make_durable(&mut self, changes: &mut [Change], must_not_wait: bool) -> Result<(), Refusal> {
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
    fn commit(&mut self, changes: Vec<Change>, mut elsewhere: bool) {
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

    /// A hold has come to its end. A promotion that cannot be carried out then must not leave it standing.
    async fn hold_over(&mut self, name: &AppName, hold: u64, how: HoldEnd) {
        let Some(app) = self.apps.get(name).filter(|app| app.is_held_by(hold)) else { return };
        let Ok(step) = app.rollout.handle(Input::HoldOver(how), Timestamp::now()) else { return };
        if let Err((refusal, _)) = self.carry_out(name, step, None).await {
            self.advance(name, Input::HoldOver(HoldEnd::Failed(refusal.detail))).await;
        }
        self.refresh(name).await;
    }

    /// Publishes the view of all apps.
    fn publish_all(&mut self) -> u64 {
        let routes: Vec<_> = self.apps.values().filter_map(App::published).cloned().collect();
        self.put(Snapshot::build(&routes))
    }

    /// Publishes the view as it is, but for this app, if a request could tell.
    fn publish_of(&mut self, name: &AppName) {
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

    fn see_out(&self, name: &AppName, tenure: Arc<Tenure>, policy: Drain) {
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
    fn measured(&mut self, mut receipt: Receipt, reply: Reply) {
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

    fn drained(&mut self, name: &AppName, tenure: u64, cut: u64, took: Duration) {
        let Some(app) = self.apps.get_mut(name) else { return };
        let Some(revision) = app.drained(tenure) else { return };
        self.show(name);
        let revision = revision.to_string();
        self.tell(name, Happening::Drained { revision, seconds: took.as_secs_f64(), cut });
    }

    /// The receipts of a step's deeds, what is measured still missing.
    fn receipts(&self, name: &AppName, step: &Step) -> Vec<Receipt> {
        step.deeds.iter().map(|deed| self.receipt(name, step, deed)).collect()
    }

    fn receipt(&self, name: &AppName, step: &Step, deed: &Deed) -> Receipt {
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

    /// Has an app's state, or its absence, put on the board.
    fn show(&mut self, name: &AppName) {
        self.unshown.insert(name.clone());
    }

    fn tell_refused(&mut self, name: &AppName, action: Action, by: String, refusal: &Refusal) {
        let (code, detail) = (refusal.code.as_str().to_owned(), refusal.detail.clone());
        self.tell(name, Happening::Refused { action, by, code, detail });
    }

    fn tell(&mut self, name: &AppName, what: Happening) {
        self.untold.push(Arc::new(Event { at: Timestamp::now(), app: name.to_string(), what }));
    }

    /// Puts on the board what has changed, and then tells what has happened: whoever hears of it finds it there. To be
    /// called before anybody is answered.
    fn flush(&mut self) {
        if !self.unshown.is_empty() {
            let unshown = std::mem::take(&mut self.unshown);
            let state = |name| Some(Arc::new(self.apps.get(name)?.board(self.archive.history(name))));
            let states: Vec<_> = unshown.iter().map(state).collect();
            self.board.send_modify(|board| {
                // A copy is made only while somebody looks at the board as it was.
                let board = Arc::make_mut(board);
                for (name, state) in unshown.into_iter().zip(states) {
                    board.enter(name, state);
                }
            });
        }
        for event in self.untold.drain(..) {
            // Nobody listening is no failure.
            self.events.send(event).ok();
        }
    }
}

/// What the configuration says of one app.
enum Said {
    Stated(Wanted),
    Followed(Followed),
}

impl Said {
    fn matching(&self) -> &Matching {
        match self {
            Self::Stated(wanted) => &wanted.matching,
            Self::Followed(followed) => &followed.matching,
        }
    }
}

/// What is to be done to one app.
struct Change {
    name: AppName,
    /// Which requests are its, where the source has just said so.
    matching: Option<Arc<Matching>>,
    step: Step,
    receipts: Vec<Receipt>,
    reply: Reply,
}

struct Confirmation {
    version: u64,
    published: Instant,
    receipt: Receipt,
    /// What live traffic left.
    left: Option<Arc<Tenure>>,
    reply: Reply,
}
