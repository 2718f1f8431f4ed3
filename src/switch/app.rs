//! One app as the switchboard holds it: its state machine, and the live pools that realise it. Pools and endpoints are
//! renewed only where they differ, so that health, counts and idle connections live on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{
    address::{Address, HostPort},
    capacity::Capacity,
    control::{AppBoard, Draining, Refusal, RefusalCode},
    desired::{Authority, Matching},
    hold::{HeldOutcomes, Keeper},
    name::{Revision, Role},
    names::Names,
    pool::{Endpoint, Pool, Site, Tenure},
    record::EjectionReason,
    rollout::{Deed, Input, Readiness, Rollout},
    snapshot::{Closed, Route},
    status::{Action, Happening, Health, Receipt, SourceStatus},
};

/// Where an answer goes, if somebody waits for one.
pub(super) type Reply = Option<oneshot::Sender<Result<Receipt, Refusal>>>;

pub(super) struct App {
    pub(super) rollout: Rollout,
    pub(super) matching: Arc<Matching>,
    /// When the source last spoke of it.
    pub(super) last_event: Option<Timestamp>,
    /// Why the app cannot be followed just now; what was sighted last is in force.
    pub(super) out_of_sight: Option<String>,
    pools: BTreeMap<Revision, Arc<Pool>>,
    names: Names,
    /// The revisions of whose endpoints something was heard that nobody knows yet who chooses among them.
    unsettled: BTreeSet<Revision>,
    /// Whether the active pool holds on to endpoints that were replaced.
    holds_on: bool,
    /// What the last publication led to, and as what.
    routed: Vec<(Role, Arc<Pool>)>,
    /// The endpoints, by id, that the next publication takes out of routing.
    departed: Vec<u64>,
    /// The app as requests see it since then.
    published: Option<Arc<Route>>,
    draining: Vec<Draining>,
    capacity: Option<Arc<Capacity>>,
    hold: HoldState,
}

/// The live side of the app's hold.
#[derive(Default)]
struct HoldState {
    /// Of the hold that is on.
    keeper: Option<Keeper>,
    /// Whether its end is being waited for.
    timed: bool,
    /// Of one that the next publication takes out.
    ended: Option<Keeper>,
    /// The active tenure, while it is being cleared.
    clearing: Option<Arc<Tenure>>,
    outcomes: Arc<HeldOutcomes>,
    /// Who waits for the promotion that the hold waits for.
    asker: Option<Asker>,
}

/// Somebody whose promotion waits.
pub(super) struct Asker {
    pub(super) by: String,
    pub(super) reply: oneshot::Sender<Result<Receipt, Refusal>>,
}

/// What is to be done about a hold that has begun.
pub(super) struct Begun {
    pub(super) id: u64,
    /// How long it lasts at most.
    pub(super) within: Duration,
    /// The tenure whose emptying it waits for.
    pub(super) clearing: Option<Arc<Tenure>>,
}

impl App {
    pub(super) fn new(rollout: Rollout) -> Self {
        Self {
            rollout,
            matching: Arc::default(),
            last_event: None,
            out_of_sight: None,
            pools: BTreeMap::new(),
            names: Names::default(),
            unsettled: BTreeSet::new(),
            holds_on: false,
            routed: Vec::new(),
            departed: Vec::new(),
            published: None,
            draining: Vec::new(),
            capacity: None,
            hold: HoldState::default(),
        }
    }

    /// Takes over which requests are its, if its source has just spoken. Whether that is news.
    pub(super) fn match_by(&mut self, matching: Option<Arc<Matching>>) -> bool {
        let Some(matching) = matching else { return false };
        if self.rollout.authority() == Authority::Tealgate {
            self.seen_at(Timestamp::now());
        }
        let news = self.matching != matching;
        if news {
            self.matching = matching;
        }
        news
    }

    /// The source has spoken.
    pub(super) fn seen_at(&mut self, now: Timestamp) {
        self.last_event = Some(now);
        self.out_of_sight = None;
    }

    /// The source cannot be heard. Whether that is news.
    pub(super) fn lose_sight(&mut self, why: String) -> bool {
        let news = self.out_of_sight.as_ref() != Some(&why);
        self.out_of_sight = Some(why);
        news
    }

    /// Makes the pools of a state it was made with.
    pub(super) fn begin(&mut self, workers: usize) -> Option<Happening> {
        self.sync_pools(workers);
        self.sync_capacity();
        Some(Happening::Added)
    }

    /// Takes the next state over and brings the pools in line with it. Says what changed for an onlooker, if anything did.
    pub(super) fn adopt(&mut self, next: Rollout, workers: usize) -> Option<Happening> {
        let before = (self.rollout.phase(), self.rollout.message());
        let same_pools = self.rollout.has_the_pools_of(&next);
        if let Some(words) = next.unproven().filter(|words| self.rollout.unproven() != Some(words)) {
            tracing::warn!(app = %next.app(), "{words}");
        }
        self.rollout = next;
        if !same_pools {
            self.sync_pools(workers);
        }
        self.sync_capacity();
        self.sync_hold();
        let after = (self.rollout.phase(), self.rollout.message());
        (before != after).then_some(Happening::Changed { phase: after.0, message: after.1 })
    }

    fn sync_pools(&mut self, workers: usize) {
        let policy = Arc::clone(self.rollout.policy());
        let (balance, transport) = (&policy.balance, &policy.transport);
        self.names.follow(self.rollout.revisions().flat_map(|(_, specs)| specs));
        let mut before = std::mem::take(&mut self.pools);
        for (revision, specs) in self.rollout.revisions() {
            let old = before.remove(revision);
            let live = revision == self.rollout.active();
            let sites = self.names.sites(specs, transport);
            let endpoints = renew(old.as_deref(), live, &sites, workers);
            if live {
                self.holds_on = endpoints.len() > sites.len();
            }
            let same = |pool: &&Arc<Pool>| {
                pool.balance == *balance
                    && pool.endpoints.len() == endpoints.len()
                    && pool.endpoints.iter().zip(&endpoints).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            let pool = old.as_ref().filter(same).map(Arc::clone).unwrap_or_else(|| {
                let mut pool = Pool::new(revision.clone(), endpoints, balance.clone(), workers);
                if let Some(old) = &old {
                    (pool.tenure, pool.ejections) = (Arc::clone(&old.tenure), Arc::clone(&old.ejections));
                }
                Arc::new(pool)
            });
            if policy.ejection.is_none() {
                pardon(&pool);
            }
            self.pools.insert(revision.clone(), pool);
        }
        self.begin_tenures(workers);
        self.mark_routed();
    }

    /// The places are the same ones as long as there is a limit, so that who has one is counted whatever changes.
    fn sync_capacity(&mut self) {
        let most = self.rollout.policy().limits.in_flight.map(|limit| limit.most as usize);
        self.capacity = match (self.capacity.take(), most) {
            (Some(capacity), Some(most)) => {
                capacity.resize(most);
                Some(capacity)
            }
            (None, Some(most)) => Some(Capacity::new(most)),
            (capacity, None) => {
                capacity.iter().for_each(|capacity| capacity.abolish());
                None
            }
        };
    }

    /// Lets what was heard of endpoints take effect: on who chooses among them, and on those that were replaced and go once
    /// one of those that replace them is healthy. Whether any did.
    pub(super) fn settle(&mut self, workers: usize) -> bool {
        let unsettled = std::mem::take(&mut self.unsettled);
        unsettled.iter().filter_map(|revision| self.pools.get(revision)).for_each(|pool| pool.renew_lineup());
        if !self.holds_on || unsettled.is_empty() {
            return false;
        }
        let before = self.pools.get(self.rollout.active()).map(Arc::clone);
        self.sync_pools(workers);
        let now = self.pools.get(self.rollout.active());
        before.is_some_and(|before| now.is_some_and(|now| !Arc::ptr_eq(now, &before)))
    }

    /// A revision that changes its role begins a new tenure: what was live traffic drains by its own deadline, also where
    /// the revision stays in routing as the candidate.
    fn begin_tenures(&mut self, workers: usize) {
        for (role, pool) in self.in_roles() {
            let moved = self.routed.iter().any(|(was, old)| old.tenure.id() == pool.tenure.id() && *was != role);
            if moved {
                self.pools.insert(pool.revision.clone(), Arc::new(pool.with_new_tenure(workers)));
            }
        }
    }

    fn sync_hold(&mut self) {
        let hold = &mut self.hold;
        match self.rollout.holding() {
            Some(holding) if hold.keeper.is_none() => {
                hold.keeper = Some(Keeper::new(holding.bounds, &hold.outcomes));
                hold.timed = false;
            }
            None => hold.ended = hold.keeper.take(),
            Some(_) => {}
        }
    }

    /// To be called after a publication: lets in whom a hold that it took out kept out, and clears the active pool for a
    /// promotion that waits. Says what is to be waited for.
    pub(super) fn attend_hold(&mut self) -> Option<Begun> {
        let active = self.pools.get(self.rollout.active()).map(|pool| Arc::clone(&pool.tenure));
        if let Some(keeper) = self.hold.ended.take() {
            // A flip has retired it meanwhile, and it is another's to see out.
            let still = |tenure: &Arc<Tenure>| active.as_ref().is_some_and(|active| active.id() == tenure.id());
            self.hold.clearing.take().filter(still).iter().for_each(|tenure| tenure.serve_on());
            keeper.release();
        }
        let (keeper, holding) = (self.hold.keeper.as_ref()?, self.rollout.holding()?);
        if std::mem::replace(&mut self.hold.timed, true) {
            return None;
        }
        self.hold.clearing = active.filter(|_| holding.promotes().is_some());
        self.hold.clearing.iter().for_each(|tenure| tenure.clear());
        Some(Begun { id: keeper.id(), within: holding.bounds.max_age, clearing: self.hold.clearing.clone() })
    }

    /// Whether this is the hold that is on.
    pub(super) fn is_held_by(&self, id: u64) -> bool {
        self.hold.keeper.as_ref().is_some_and(|keeper| keeper.id() == id)
    }

    /// Keeps who asked for a promotion that waits, and gives him back when it no longer does: as `reply` when it was
    /// carried out, and otherwise with the reason why not.
    pub(super) fn keep_promise(&mut self, deeds: &[Deed], reply: &mut Reply) -> Option<(Asker, Refusal)> {
        let waits = self.rollout.holding().is_some_and(|holding| holding.promotes().is_some());
        let deed = deeds.first();
        match deed {
            Some(Deed { action: Action::Hold, by, .. }) if waits => {
                self.hold.asker = reply.take().map(|reply| Asker { by: by.clone(), reply });
                None
            }
            _ if waits => None,
            Some(Deed { action: Action::Promote, .. }) if reply.is_none() => {
                *reply = self.hold.asker.take().map(|asker| asker.reply);
                None
            }
            _ => {
                let asker = self.hold.asker.take()?;
                let ended = deeds.iter().rev().find(|deed| deed.action == Action::Resume);
                let why = ended.map_or_else(|| "the hold has ended".to_owned(), Deed::why_resumed);
                let hint =
                    "live traffic has not moved; see what is in flight on the active revision, or allow more time";
                Some((asker, Refusal::new(RefusalCode::NotDrained, why, hint)))
            }
        }
    }

    pub(super) fn in_flight_on_active(&self) -> u64 {
        self.pools.get(self.rollout.active()).map_or(0, |pool| pool.tenure.in_flight())
    }

    fn closed(&self) -> Option<Closed> {
        let maintenance = self.rollout.maintenance();
        let maintenance = maintenance.map(|m| Closed::Maintenance(Duration::from_secs(m.retry_after_seconds)));
        maintenance.or_else(|| self.hold.keeper.as_ref().map(|keeper| Closed::Held(Arc::clone(keeper.hold()))))
    }

    fn in_roles(&self) -> Vec<(Role, Arc<Pool>)> {
        let preview = self.rollout.preview().map(|(revision, _)| (Role::Preview, revision));
        let roles = [(Role::Active, self.rollout.active())].into_iter().chain(preview);
        roles.filter_map(|(role, revision)| Some((role, Arc::clone(self.pools.get(revision)?)))).collect()
    }

    /// Tells the endpoints whether they are in routing, before that is published: what is in routing no more keeps no
    /// connections from the moment a worker adopts the new snapshot.
    fn mark_routed(&mut self) {
        let now = self.in_roles();
        let routed: HashSet<_> = now.iter().flat_map(|(_, pool)| pool.endpoints()).map(|e| e.id()).collect();
        self.unmark_routed(|endpoint| !routed.contains(&endpoint.id()));
        for endpoint in now.iter().flat_map(|(_, pool)| pool.endpoints()) {
            endpoint.set_routed(true);
        }
    }

    /// To be called before the publication that takes the app out of routing altogether.
    pub(super) fn leave_routing(&mut self) {
        self.unmark_routed(|_| true);
    }

    fn unmark_routed(&mut self, departs: impl Fn(&Endpoint) -> bool) {
        for endpoint in self.routed.iter().flat_map(|(_, pool)| pool.endpoints()).filter(|endpoint| departs(endpoint)) {
            endpoint.set_routed(false);
            self.departed.push(endpoint.id());
        }
    }

    /// The endpoints, by id, that the next publication takes out of routing; some may be back by then.
    pub(super) fn departed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.departed)
    }

    /// The app as requests are to see it from now on, if they could tell it from how they have seen it.
    pub(super) fn changed_route(&mut self) -> Option<Arc<Route>> {
        let route = Arc::new(self.route());
        let is_as_published = self.published.as_ref().is_some_and(|published| published.is_as(&route));
        (!is_as_published).then(|| Arc::clone(self.published.insert(route)))
    }

    /// The app as requests see it.
    pub(super) fn published(&self) -> Option<&Arc<Route>> {
        self.published.as_ref()
    }

    fn route(&self) -> Route {
        let pool = |revision: &Revision| self.pools.get(revision).map(Arc::clone);
        Route {
            app: self.rollout.app().clone(),
            generation: self.rollout.generation(),
            active: pool(self.rollout.active()),
            preview: self.rollout.preview().and_then(|(revision, _)| pool(revision)),
            policy: Arc::clone(self.rollout.policy()),
            capacity: self.capacity.clone(),
            matching: Arc::clone(&self.matching),
            split: self.rollout.split(),
            closed: self.closed(),
        }
    }

    /// To be called after a publication: retires the tenures that no snapshot leads to any more, and gives their
    /// revisions, where still known, a new tenure for the day they come back.
    pub(super) fn retire_unrouted(&mut self, workers: usize, within: Duration) -> Vec<Arc<Pool>> {
        let now_routed = self.in_roles();
        let before = std::mem::replace(&mut self.routed, now_routed);
        let still = |tenure: &Tenure| self.routed.iter().any(|(_, pool)| pool.tenure.id() == tenure.id());
        let retired: Vec<_> = before.into_iter().map(|(_, pool)| pool).filter(|pool| !still(&pool.tenure)).collect();
        for pool in &retired {
            pool.tenure.retire();
            if let Some(known) =
                self.pools.get_mut(&pool.revision).filter(|known| known.tenure.id() == pool.tenure.id())
            {
                *known = Arc::new(known.with_new_tenure(workers));
            }
            let since = Timestamp::now();
            let deadline = since.checked_add(within).unwrap_or(Timestamp::MAX);
            let (revision, tenure) = (pool.revision.clone(), Arc::clone(&pool.tenure));
            self.draining.push(Draining { revision, tenure, since, deadline });
        }
        retired
    }

    /// The app is gone from routing altogether.
    pub(super) fn retire_all(self) -> Vec<Arc<Tenure>> {
        if let Some(Asker { reply, .. }) = self.hold.asker {
            let detail = format!("{} was taken out of service before its pool was empty", self.rollout.app());
            reply.send(Err(Refusal::new(RefusalCode::UnknownApp, detail, "see the configuration"))).ok();
        }
        // Whoever waits for a place learns that there is no app.
        self.capacity.iter().for_each(|capacity| capacity.abolish());
        let retire = |(_, pool): (Role, Arc<Pool>)| {
            pool.tenure.retire();
            Arc::clone(&pool.tenure)
        };
        self.routed.into_iter().map(retire).collect()
    }

    /// Takes a drained tenure off the list and says whose it was.
    pub(super) fn drained(&mut self, tenure: u64) -> Option<Revision> {
        let index = self.draining.iter().position(|draining| draining.tenure.id() == tenure)?;
        Some(self.draining.remove(index).revision)
    }

    /// Takes a probe's verdict, to be settled. Whether it is news.
    pub(super) fn observe(&mut self, revision: &Revision, address: &Address, healthy: bool) -> bool {
        let health = if healthy { Health::Healthy } else { Health::Unhealthy };
        let Some(pool) = self.pools.get(revision) else { return false };
        let mut news = false;
        for endpoint in pool.endpoints.iter().filter(|e| e.address() == address && e.probed() != health) {
            endpoint.set_probed(health);
            news = true;
        }
        if news {
            self.unsettled.insert(revision.clone());
        }
        news
    }

    /// Takes an endpoint out of use, for a reason, or back into it, to be settled. Whether it is news.
    pub(super) fn eject(&mut self, revision: &Revision, endpoint: u64, reason: Option<EjectionReason>) -> bool {
        if reason.is_some() && self.rollout.policy().ejection.is_none() {
            return false;
        }
        let Some(pool) = self.pools.get(revision) else { return false };
        let Some(endpoint) = pool.endpoints.iter().find(|e| e.id() == endpoint) else { return false };
        endpoint.set_ejected(reason.is_some());
        if let Some(reason) = reason {
            pool.ejections.count(reason);
        }
        self.unsettled.insert(revision.clone());
        true
    }

    /// Takes what the lookup of a name came to. `None` if that is no news; else whether endpoints came or
    /// went.
    pub(super) fn learn(
        &mut self,
        name: &HostPort,
        found: Result<Vec<SocketAddr>, String>,
        workers: usize,
    ) -> Option<bool> {
        if !self.names.learn(name, found, Timestamp::now()) {
            return None;
        }
        let before = self.pools.clone();
        self.sync_pools(workers);
        Some(!self.pools.values().zip(before.values()).all(|(now, before)| Arc::ptr_eq(now, before)))
    }

    /// A readiness that the rollout has not been told of.
    pub(super) fn unreported(&self) -> Option<Input> {
        self.rollout.revisions().find_map(|(revision, specs)| {
            let pool = self.pools.get(revision)?;
            let readiness = Readiness::of(pool, self.names.missing(specs), self.rollout.policy().promotion.warm);
            let told = self.rollout.was_told(revision) == Some(readiness);
            (!told).then(|| Input::Readiness { revision: revision.clone(), readiness })
        })
    }

    pub(super) fn board(&self, history: Arc<VecDeque<Receipt>>) -> AppBoard {
        let authority = self.rollout.authority();
        let followed = authority != Authority::Tealgate;
        AppBoard {
            rollout: Arc::new(self.rollout.clone()),
            policy: Arc::clone(self.rollout.policy()),
            matching: Arc::clone(&self.matching),
            pools: self.pools.clone(),
            capacity: self.capacity.clone(),
            names: self.names.clone(),
            draining: self.draining.clone(),
            history,
            source: SourceStatus {
                kind: if followed { "kubernetes" } else { "static" }.to_owned(),
                authority: authority.as_str().to_owned(),
                // Also before the first sighting since the start: what is in force is only remembered.
                stale: followed && (self.last_event.is_none() || self.out_of_sight.is_some()),
                problem: self.out_of_sight.clone(),
                last_event: self.last_event,
                drift: self.rollout.drift(),
            },
            hold: self.hold.keeper.as_ref().map(|keeper| Arc::clone(keeper.hold())),
            held: Arc::clone(&self.hold.outcomes),
        }
    }
}

impl Readiness {
    /// What is to be told of a pool, of which so many warm connections are wanted. A name that no address is known of is
    /// an endpoint that is not ready: how many there are, and how many of those cannot be looked up.
    pub(super) fn of(pool: &Pool, (missing, failed): (usize, usize), warm: u32) -> Self {
        let mut readiness = Self { total: pool.endpoints.len() + missing, down: failed, ..Self::default() };
        for endpoint in &pool.endpoints {
            match endpoint.health() {
                Health::Healthy => {
                    readiness.ready += 1;
                    match endpoint.warmth().lacking(warm) {
                        None => readiness.warm += 1,
                        Some(cold) => readiness.cold = readiness.cold.max(Some(cold)),
                    }
                }
                Health::Unhealthy | Health::Ejected => readiness.down += 1,
                Health::Unknown => {}
            }
        }
        readiness
    }
}

/// Brings back whoever was ejected.
fn pardon(pool: &Pool) {
    let ejected: Vec<_> = pool.endpoints.iter().filter(|endpoint| endpoint.is_ejected()).collect();
    ejected.iter().for_each(|endpoint| endpoint.set_ejected(false));
    if !ejected.is_empty() {
        pool.renew_lineup();
    }
}

/// The endpoints a pool should have, each the same object as before where it is reached in the same way. One that only
/// changes its weight keeps its health: it is the same server. Where live traffic would be left with endpoints that nobody
/// has seen
/// answer, the healthy ones of before stay behind them until one has (G4).
fn renew(before: Option<&Pool>, live: bool, sites: &[Site], workers: usize) -> Box<[Arc<Endpoint>]> {
    let known = before.map_or(&[][..], |pool| &pool.endpoints);
    let by_address: HashMap<_, _> = known.iter().map(|endpoint| (endpoint.address(), endpoint)).collect();
    let renewed = |site: &Site| match by_address.get(&site.destination.address) {
        Some(same) if same.site() == site => Arc::clone(same),
        known => {
            let endpoint = Endpoint::new(site.clone(), workers);
            endpoint.set_probed(known.map_or(Health::Unknown, |known| known.probed()));
            Arc::new(endpoint)
        }
    };
    let mut endpoints: Vec<_> = sites.iter().map(renewed).collect();
    // An ejected one has been seen to answer: it rests, and is better than none.
    let healthy = |e: &Arc<Endpoint>| e.probed() == Health::Healthy;
    if live && !endpoints.iter().any(healthy) {
        let wanted: HashSet<_> = sites.iter().map(|site| &site.destination.address).collect();
        let replaced = |e: &&Arc<Endpoint>| healthy(e) && !wanted.contains(e.address());
        endpoints.extend(known.iter().filter(replaced).map(Arc::clone));
    }
    endpoints.into()
}
