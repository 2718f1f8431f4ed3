//! The one writer. It takes one message at a time: lets the app's [`Rollout`] decide, makes the decision durable (before it
//! is in force, or before it is told where another authority has decided), builds the new snapshot whole, publishes it, and
//! sees the retired tenure out. Nothing in its loop waits on traffic, and on the disk only within the bounds that `archive`
//! keeps. Here are the start, the loop and what is heard; `orders` has what is asked, `publish` the way from a decision to
//! its answer.

mod orders;
mod publish;
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
    sync::{broadcast, mpsc, watch},
    time::Instant,
};

use self::publish::Change;
use super::{
    address::HostPort,
    admission::Current,
    app::App,
    archive::Archive,
    barrier::Barrier,
    control::{Applied, Board, Control, Feed, Message, Refusal, Viewer},
    desired::{Authority, Desired, Followed, Matching, Sighting, Wanted},
    journal::{Journal, Recovered},
    memory::Memory,
    name::AppName,
    reader::{Reader, Shared},
    rollout::{HoldEnd, Input, Rollout, Step},
    snapshot::Snapshot,
    status::{Action, Event, Happening},
};

/// How many messages may wait; senders then wait too.
const MESSAGES: usize = 1024;
/// How many messages may be taken before what came of them is shown.
const TOGETHER: usize = 64;
/// How many events a slow listener may lag behind before it is told to look at the board instead.
const EVENTS: usize = 1024;

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

    /// A hold has come to its end. A promotion that cannot be carried out then must not leave it standing.
    async fn hold_over(&mut self, name: &AppName, hold: u64, how: HoldEnd) {
        let Some(app) = self.apps.get(name).filter(|app| app.is_held_by(hold)) else { return };
        let Ok(step) = app.rollout.handle(Input::HoldOver(how), Timestamp::now()) else { return };
        if let Err((refusal, _)) = self.carry_out(name, step, None).await {
            self.advance(name, Input::HoldOver(HoldEnd::Failed(refusal.detail))).await;
        }
        self.refresh(name).await;
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
