//! The one way a request obtains a pool. A [`Reader`] belongs to one worker; [`Reader::admit`] reads one snapshot, counts
//! the request in, and hands out a [`Ticket`] whose drop counts it out.

use std::{cell::RefCell, net::IpAddr, rc::Rc, sync::Arc};

use thiserror::Error;

use super::{
    admission::{self, Current, View},
    balance,
    barrier::Barrier,
    desired::Matching,
    name::{AppName, Generation, Revision, Role},
    policy::Policy,
    pool::{Endpoint, Pool, Tenure},
    preview::{self, Fallback, Stranger},
    snapshot::{Route, Snapshot},
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
    fn standing(&self) -> Option<Standing> {
        None
    }
}

/// Whose request it is: asked for the first attempt, and remembered for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A tester's, for the candidate.
    Tester,
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
    rng: RefCell<fastrand::Rng>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let view = shared.current.view();
        shared.barrier.adopted(worker, view.version);
        Self { shared, worker, view: RefCell::new(view), rng: RefCell::new(fastrand::Rng::new()) }
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
        let standing = match key.standing() {
            Some(standing) => standing,
            None => stand(route, matched, key, rng)?,
        };
        let (role, lines) = match standing {
            Standing::Tester => (preview_role(route)?, String::new()),
            Standing::Live(share) => live_role(route, share, key, tried),
        };
        let pool = route.pool(role).ok_or_else(|| NotAdmitted::NoPool { app: app(), role })?;
        let endpoint = balance::choose(pool, self.worker, tried, rng).ok_or_else(|| NotAdmitted::NoEndpoint {
            app: app(),
            role,
            revision: pool.revision().clone(),
        })?;
        Ok(Choice { route: index, role, endpoint, standing, lines })
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
        Adopted(view)
    }

    /// Tells the writer that this worker has nothing left of an older snapshot.
    pub fn acknowledge(&self, adopted: &Adopted) {
        self.shared.barrier.adopted(self.worker, adopted.0.version);
    }
}

/// Whose request it is, unless it is for the proxy itself or for nobody who may make it.
fn stand(
    route: &Route,
    matched: Role,
    key: &impl RequestKey,
    rng: &mut fastrand::Rng,
) -> Result<Standing, NotAdmitted> {
    let Matching { preview: access, paths, .. } = &*route.matching;
    if access.cookie.is_some() && preview::is_door(key.path(), paths) {
        let (app, matching) = (route.app.clone(), Arc::clone(&route.matching));
        return Err(NotAdmitted::Door(Box::new(Door { app, matching })));
    }
    if matched == Role::Preview || key.on_preview_listener() || access.is_asked_for(&route.app, key) {
        let refused = |stranger| NotAdmitted::PreviewForbidden { app: route.app.clone(), stranger };
        access.admit(key).map_err(refused)?;
        return Ok(Standing::Tester);
    }
    let draw = || rng.u8(0..NUMBERS);
    let share = route.split.as_ref().map(|split| split.share(&route.policy.split, key, draw));
    Ok(Standing::Live(share.unwrap_or(Share::Outside)))
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
fn live_role(route: &Route, share: Share, key: &impl RequestKey, tried: &[u64]) -> (Role, String) {
    let mut lines = String::new();
    let Some(split) = route.split.as_ref().filter(|_| route.ready_preview().is_some()) else {
        return (Role::Active, lines);
    };
    split.remember(share, &route.matching.paths, key.is_secure(), &mut lines);
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
    standing: Standing,
    /// Lines for the answer's head.
    lines: String,
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
    pub fn standing(&self) -> Standing {
        self.choice.standing
    }

    /// Whether the client is told which revision answers: testers are, others where the app's owner wants it.
    pub fn tells_revision(&self) -> bool {
        self.choice.standing == Standing::Tester || self.policy().traffic.expose_revision
    }

    /// Whether `Authorization` was meant for us, and is not the upstream's to see.
    pub fn keeps_authorization(&self) -> bool {
        self.choice.standing == Standing::Tester && !self.route().matching.preview.credentials.is_empty()
    }

    /// What the head of the answer says besides: whole field lines, each with its line end.
    pub fn answer_lines(&self) -> &str {
        &self.choice.lines
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
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.endpoint().in_flight().remove(self.worker);
        self.tenure().occupancy().leave(self.worker);
    }
}
