//! The one way a request obtains a pool. A [`Reader`] belongs to one worker; [`Reader::admit`] reads one snapshot, counts
//! the request in, and hands out a [`Ticket`] whose drop counts it out.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc, sync::Arc};

use foldhash::fast::RandomState;
use thiserror::Error;

use super::{
    admission::{self, Current, View},
    balance::{self, Chosen},
    barrier::Barrier,
    desired::Matching,
    name::{AppName, Generation, Revision, Role},
    policy::Policy,
    pool::{Endpoint, Pool, Tenure},
    preview::{self, Fallback, Stranger},
    record::Attempt,
    roster::{Lineup, Roster},
    snapshot::{Closed, Route, Snapshot},
    split::{NUMBERS, Share},
};

/// What the core asks of a request; the data plane answers it, so the core need not know HTTP.
pub trait RequestKey {
    /// The host in lower case, without port.
    fn host(&self) -> &str;
    /// The path; a query may follow.
    fn path(&self) -> &str;
    /// Whether it came in where only the preview is shown.
    fn on_preview_listener(&self) -> bool;
    /// The client's address; `None` on a Unix socket.
    fn client(&self) -> Option<IpAddr>;
    /// The value of its first field line of this name, given in lower case.
    fn field(&self, name: &str) -> Option<&[u8]>;
    /// The value of its first cookie of this name; what knows no cookies has none.
    fn cookie(&self, _name: &str) -> Option<&[u8]> {
        None
    }
    /// Whether nobody could read it on its way to us.
    fn is_secure(&self) -> bool {
        false
    }
    /// What it was found to be when it was first admitted, if this is a retry: its fields need not be there any more.
    fn whose(&self) -> Option<Whose> {
        None
    }
}

/// A request for the root of a host that says nothing more of itself.
#[cfg(test)]
pub(crate) struct Plain(pub(crate) &'static str);

#[cfg(test)]
impl RequestKey for Plain {
    fn host(&self) -> &str {
        self.0
    }
    fn path(&self) -> &str {
        "/"
    }
    fn on_preview_listener(&self) -> bool {
        false
    }
    fn client(&self) -> Option<IpAddr> {
        None
    }
    fn field(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

/// Whose request it is: asked for the first attempt, and remembered for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A tester's, for the candidate.
    Tester,
    /// The proxy's own, to find out whether the candidate is good.
    Inspector,
    /// Live traffic, and where it falls among that.
    Live(Share),
}

/// Why a request was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotAdmitted {
    /// No app answers to its host and path.
    #[error("no app answers to this host")]
    UnknownHost,
    /// The client may not see the preview.
    #[error("this client may not see the preview of {app}")]
    PreviewForbidden {
        /// The app.
        app: AppName,
        /// Why not.
        stranger: Stranger,
    },
    /// It is for the proxy itself: a tester comes in by a link, or leaves.
    #[error("this is where testers of {} come in", .0.app)]
    Door(Box<Door>),
    /// The candidate has no endpoint that is healthy.
    #[error("the candidate {revision} of {app} is not ready")]
    NotReady {
        /// The app.
        app: AppName,
        /// The candidate.
        revision: Revision,
    },
    /// Live requests of the app are kept out for now.
    #[error("{app} lets no live request in just now")]
    Closed {
        /// The app.
        app: AppName,
        /// By what.
        by: Closed,
    },
    /// The app has no revision in that role.
    #[error("{app} has no {} revision", role.as_str())]
    NoPool {
        /// The app.
        app: AppName,
        /// The role.
        role: Role,
    },
    /// The pool has no endpoint.
    #[error("revision {revision} of {app} has no endpoint")]
    NoEndpoint {
        /// The app.
        app: AppName,
        /// The role.
        role: Role,
        /// The revision.
        revision: Revision,
    },
}

impl NotAdmitted {
    /// The app it was for, if one answers to it.
    pub fn app(&self) -> Option<&AppName> {
        match self {
            Self::UnknownHost => None,
            Self::Door(door) => Some(&door.app),
            Self::PreviewForbidden { app, .. }
            | Self::NotReady { app, .. }
            | Self::Closed { app, .. }
            | Self::NoPool { app, .. }
            | Self::NoEndpoint { app, .. } => Some(app),
        }
    }
}

/// Where an app's testers come in by a link, and leave: whoever answers there needs to know no more than this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The app.
    pub app: AppName,
    /// Its paths, and who sees its preview; it has a preview cookie.
    pub matching: Arc<Matching>,
}

/// What readers and the one writer share.
pub(super) struct Shared {
    pub(super) current: Current<Snapshot>,
    pub(super) barrier: Barrier,
}

/// A worker's access to the routing: it admits, and can do nothing else.
pub struct Reader {
    shared: Arc<Shared>,
    worker: usize,
    view: RefCell<Rc<View<Snapshot>>>,
    rosters: Rosters,
    rng: RefCell<fastrand::Rng>,
}

/// A worker's copies of the rosters it chooses by, by lineup.
#[derive(Default)]
struct Rosters(RefCell<HashMap<u64, Rc<View<Roster>>, RandomState>>);

impl Rosters {
    /// The roster as it is now.
    fn of(&self, lineup: &Lineup) -> Rc<View<Roster>> {
        let mut known = self.0.borrow_mut();
        let view = known.entry(lineup.id()).or_insert_with(|| lineup.current.view());
        if lineup.current.version() != view.version {
            *view = lineup.current.view();
        }
        Rc::clone(view)
    }

    /// Lets go of what belongs to pools long gone, once there may be more of that than of the rest.
    fn tidy(&self, snapshot: &Snapshot) {
        let mut known = self.0.borrow_mut();
        if known.len() > 64 + 4 * snapshot.routes().len() {
            // Whoever is asked for again comes back at the cost of a lock.
            known.clear();
        }
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let view = shared.current.view();
        shared.barrier.adopted(worker, view.version);
        let rng = RefCell::new(fastrand::Rng::new());
        Self { shared, worker, view: RefCell::new(view), rosters: Rosters::default(), rng }
    }

    /// Which worker this is, from 0.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Admits a request to an endpoint of the pool it is for, avoiding the endpoints (by id) it has `tried` already.
    pub fn admit(&self, key: &impl RequestKey, tried: &[u64]) -> Result<Ticket, NotAdmitted> {
        let mut view = self.view.borrow_mut();
        let mut rng = self.rng.borrow_mut();
        let choose = |snapshot: &Snapshot| self.choose(snapshot, key, tried, &mut rng);
        let choice = admission::enter(&self.shared.current, &mut view, self.worker, choose, |s, c| {
            c.pool(s).tenure().occupancy()
        })?;
        let ticket = Ticket { view: Rc::clone(&view), choice, worker: self.worker };
        ticket.endpoint().in_flight().add(self.worker);
        Ok(ticket)
    }

    /// Admits a request to the candidate of this app, whatever leads there, if that is still this revision: a copy of a
    /// live request, or one of our own. It enters as any other, so that a drain knows of it.
    pub fn admit_to(
        &self,
        (app, candidate): (&AppName, &Revision),
        whose: Whose,
        key: &impl RequestKey,
        tried: &[u64],
    ) -> Result<Ticket, NotAdmitted> {
        let mut view = self.view.borrow_mut();
        let mut rng = self.rng.borrow_mut();
        let choose = |snapshot: &Snapshot| {
            let role = Role::Preview;
            let none = || NotAdmitted::NoPool { app: app.clone(), role };
            let route = snapshot.routes().position(app).ok_or_else(none)?;
            let preview = snapshot.routes()[route].preview.as_ref();
            let pool = preview.filter(|pool| pool.revision() == candidate).ok_or_else(none)?;
            let roster = self.rosters.of(&pool.lineup);
            let chosen = balance::choose(pool, &roster.value, key, self.worker, tried, &mut rng);
            let empty = || NotAdmitted::NoEndpoint { app: app.clone(), role, revision: candidate.clone() };
            let Chosen { endpoint, lines } = chosen.ok_or_else(empty)?;
            Ok(Choice { route, role, endpoint, whose, lines })
        };
        let choice = admission::enter(&self.shared.current, &mut view, self.worker, choose, |s, c| {
            c.pool(s).tenure().occupancy()
        })?;
        let ticket = Ticket { view: Rc::clone(&view), choice, worker: self.worker };
        ticket.endpoint().in_flight().add(self.worker);
        Ok(ticket)
    }

    fn choose(
        &self,
        snapshot: &Snapshot,
        key: &impl RequestKey,
        tried: &[u64],
        rng: &mut fastrand::Rng,
    ) -> Result<Choice, NotAdmitted> {
        let (index, matched) = snapshot.find(key.host(), key.path()).ok_or(NotAdmitted::UnknownHost)?;
        let route = &snapshot.routes()[index];
        let app = || route.app.clone();
        let whose = match key.whose() {
            Some(whose) => whose,
            None => stand(route, matched, key, rng)?,
        };
        let (role, mut lines) = match whose {
            Whose::Tester | Whose::Inspector => (preview_role(route)?, None),
            Whose::Live(share) => live_role(route, share, key, tried),
        };
        // A hold waits for the active pool to be empty, whoever is in it.
        let enters_by_the_closed_door = matches!(whose, Whose::Live(_)) || role == Role::Active;
        if let Some(by) = route.closed.as_ref().filter(|_| enters_by_the_closed_door) {
            return Err(NotAdmitted::Closed { app: app(), by: by.clone() });
        }
        let pool = route.pool(role).ok_or_else(|| NotAdmitted::NoPool { app: app(), role })?;
        let roster = self.rosters.of(&pool.lineup);
        let chosen = balance::choose(pool, &roster.value, key, self.worker, tried, rng)
            .ok_or_else(|| NotAdmitted::NoEndpoint { app: app(), role, revision: pool.revision().clone() })?;
        lines = match (lines, chosen.lines) {
            (Some(ours), Some(its)) => Some([&*ours, &*its].concat().into()),
            (ours, its) => ours.or(its),
        };
        Ok(Choice { route: index, role, endpoint: chosen.endpoint, whose, lines })
    }

    /// How the app treats its requests that this one is for; `None` where no app answers to it. For what is said to those
    /// who were not admitted.
    pub fn policy(&self, key: &impl RequestKey) -> Option<Arc<Policy>> {
        let view = self.view.borrow();
        let (index, _) = view.value.find(key.host(), key.path())?;
        Some(Arc::clone(&view.value.routes()[index].policy))
    }

    /// Waits until a snapshot this worker has not adopted is published.
    pub async fn changed(&self) {
        self.shared.barrier.changed(self.worker, || self.shared.current.version()).await;
    }

    /// Takes the current snapshot as this worker's view. Call [`Self::acknowledge`] when everything that belonged to the
    /// old one (idle connections) has been let go.
    pub fn adopt(&self) -> Adopted {
        let view = self.shared.current.view();
        *self.view.borrow_mut() = Rc::clone(&view);
        self.rosters.tidy(&view.value);
        Adopted(view)
    }

    /// The endpoints, by id, that have left routing since this was last asked, up to the snapshot adopted last. Some may be
    /// back.
    pub fn departed(&self) -> Vec<u64> {
        self.shared.barrier.departed(self.worker)
    }

    /// This worker's view as it is.
    pub fn view(&self) -> Adopted {
        Adopted(Rc::clone(&self.view.borrow()))
    }

    /// Tells the writer that this worker has nothing left of an older snapshot.
    pub fn acknowledge(&self, adopted: &Adopted) {
        self.shared.barrier.adopted(self.worker, adopted.0.version);
    }
}

/// Whose request it is, unless it is for the proxy itself or for nobody who may make it.
fn stand(route: &Route, matched: Role, key: &impl RequestKey, rng: &mut fastrand::Rng) -> Result<Whose, NotAdmitted> {
    let Matching { preview: access, paths, .. } = &*route.matching;
    if access.cookie.is_some() && preview::is_door(key.path(), paths) {
        let (app, matching) = (route.app.clone(), Arc::clone(&route.matching));
        return Err(NotAdmitted::Door(Box::new(Door { app, matching })));
    }
    if matched == Role::Preview || key.on_preview_listener() || access.is_asked_for(&route.app, key) {
        let refused = |stranger| NotAdmitted::PreviewForbidden { app: route.app.clone(), stranger };
        access.admit(key).map_err(refused)?;
        return Ok(Whose::Tester);
    }
    let draw = || rng.u8(0..NUMBERS);
    let share = route.split.as_ref().map(|split| split.share(&route.policy.split, key, draw));
    Ok(Whose::Live(share.unwrap_or(Share::Outside)))
}

/// A tester sees the candidate, and never by accident the live revision.
fn preview_role(route: &Route) -> Result<Role, NotAdmitted> {
    match (&route.preview, route.ready_preview()) {
        (_, Some(_)) => Ok(Role::Preview),
        _ if route.matching.preview.fallback == Fallback::Active => Ok(Role::Active),
        (None, _) => Err(NotAdmitted::NoPool { app: route.app.clone(), role: Role::Preview }),
        (Some(pool), None) => Err(NotAdmitted::NotReady { app: route.app.clone(), revision: pool.revision().clone() }),
    }
}

/// Live traffic goes to the candidate only where that can serve it: no user is to lose anything by it. So what has failed
/// there once goes to the active revision.
fn live_role(route: &Route, share: Share, key: &impl RequestKey, tried: &[u64]) -> (Role, Option<Box<str>>) {
    let Some(split) = route.split.as_ref().filter(|_| route.ready_preview().is_some()) else {
        return (Role::Active, None);
    };
    let lines = split.remember(share, &route.matching.paths, key.is_secure());
    let on_candidate = split.takes(share) && tried.is_empty();
    (if on_candidate { Role::Preview } else { Role::Active }, lines)
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.barrier.absent(self.worker);
    }
}

/// A snapshot that a worker has taken as its view.
pub struct Adopted(Rc<View<Snapshot>>);

impl Adopted {
    /// The snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.0.value
    }
}

/// Where in a snapshot a request was sent.
struct Choice {
    route: usize,
    role: Role,
    endpoint: usize,
    whose: Whose,
    /// Lines for the answer's head.
    lines: Option<Box<str>>,
}

impl Choice {
    fn pool<'a>(&self, snapshot: &'a Snapshot) -> &'a Arc<Pool> {
        snapshot.routes()[self.route].pool(self.role).expect("a choice names a pool of the snapshot it was made on")
    }
}

/// The proof of admission: the snapshot the request runs on, its pool and endpoint. Its drop ends the count, so it lives
/// as long as the request, its body and its tunnel do.
pub struct Ticket {
    view: Rc<View<Snapshot>>,
    choice: Choice,
    worker: usize,
}

impl Ticket {
    /// The app, as it was when the request was admitted.
    pub fn route(&self) -> &Route {
        &self.view.value.routes()[self.choice.route]
    }

    /// The app's name.
    pub fn app(&self) -> &AppName {
        &self.route().app
    }

    /// The app's generation.
    pub fn generation(&self) -> Generation {
        self.route().generation
    }

    /// The app's policy.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.route().policy
    }

    /// Which of the app's pools it is for.
    pub fn role(&self) -> Role {
        self.choice.role
    }

    /// Whose request it is, for a retry to be admitted as the same.
    pub fn whose(&self) -> Whose {
        self.choice.whose
    }

    /// Whether the client is told which revision answers: whoever asks for the candidate is, others where the app's owner
    /// wants it.
    pub fn tells_revision(&self) -> bool {
        !matches!(self.choice.whose, Whose::Live(_)) || self.policy().traffic.expose_revision
    }

    /// Whether `Authorization` was meant for us, and is not the upstream's to see.
    pub fn keeps_authorization(&self) -> bool {
        self.choice.whose == Whose::Tester && !self.route().matching.preview.credentials.is_empty()
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        self.choice.pool(&self.view.value)
    }

    /// The revision that serves it.
    pub fn revision(&self) -> &Revision {
        self.pool().revision()
    }

    /// The endpoint that serves it.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.pool().endpoints()[self.choice.endpoint]
    }

    /// The stay in routing it counts against.
    pub fn tenure(&self) -> &Arc<Tenure> {
        self.pool().tenure()
    }

    /// Field lines that its answer is to carry, each with its line end.
    pub fn answer_lines(&self) -> &str {
        self.choice.lines.as_deref().unwrap_or_default()
    }

    /// Takes note of what an attempt on its endpoint came to: from this, endpoints are ejected.
    pub fn note(&self, attempt: Attempt) {
        let Some(ejection) = &self.policy().ejection else { return };
        let failed = match attempt {
            Attempt::Answered => false,
            Attempt::GatewayError => ejection.gateway_errors,
            Attempt::Failed => true,
        };
        self.endpoint().record().note(self.worker, failed, ejection.consecutive_failures);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let pool = self.pool();
        pool.endpoints()[self.choice.endpoint].in_flight().remove(self.worker);
        pool.tenure().occupancy().leave(self.worker);
    }
}
