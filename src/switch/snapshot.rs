//! One immutable routing view: every app with its pools, and the table that leads from a request's host and path to it.
//! It is built off the request path and replaced whole, so a request can never see half of a change (G1). Two snapshots
//! share what is the same in both, so that a flip among thousands of apps costs no more than one among a few.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Index,
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;

use super::{
    capacity::Capacity,
    desired::{HostPattern, Matching},
    hold::Hold,
    name::{AppName, Generation, Role},
    policy::Policy,
    pool::Pool,
    split::Split,
};

/// One generation of the routing of all apps.
pub struct Snapshot {
    routes: Routes,
    table: Arc<RouteTable>,
    /// The apps, by index, whose candidates are kept warm.
    warmed: BTreeSet<usize>,
}

/// All apps, in the order of their names. They are kept in pieces, which snapshots share.
#[derive(Clone)]
pub struct Routes {
    pieces: Box<[Arc<[Arc<Route>]>]>,
    len: usize,
}

/// How many apps are in a piece.
const PIECE: usize = 64;

impl Routes {
    fn new(routes: &[Arc<Route>]) -> Self {
        Self { pieces: routes.chunks(PIECE).map(Arc::from).collect(), len: routes.len() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.pieces.iter().flat_map(|piece| piece.iter()).map(|route| &**route)
    }

    /// Where an app is.
    pub fn position(&self, app: &AppName) -> Option<usize> {
        let piece = self.pieces.partition_point(|piece| piece[0].app <= *app).checked_sub(1)?;
        let within = self.pieces[piece].binary_search_by(|route| route.app.cmp(app)).ok()?;
        Some(piece * PIECE + within)
    }

    fn replace(&mut self, index: usize, route: Arc<Route>) {
        let piece = &mut self.pieces[index / PIECE];
        let others = piece.iter().enumerate();
        *piece = others.map(|(at, old)| Arc::clone(if at == index % PIECE { &route } else { old })).collect();
    }
}

impl Index<usize> for Routes {
    type Output = Route;

    fn index(&self, index: usize) -> &Route {
        &self.pieces[index / PIECE][index % PIECE]
    }
}

/// One app, as requests see it.
pub struct Route {
    /// The app's name.
    pub app: AppName,
    /// The app's generation.
    pub generation: Generation,
    /// The pool of live traffic; `None` while the app has no active revision.
    pub active: Option<Arc<Pool>>,
    /// The candidate's pool.
    pub preview: Option<Arc<Pool>>,
    /// How requests are treated.
    pub policy: Arc<Policy>,
    /// What leads here, and who sees the preview.
    pub matching: Arc<Matching>,
    /// How live traffic is told apart; `None` while all of it goes to the active pool.
    pub split: Option<Split>,
    /// Its places for requests in flight, if its policy limits them.
    pub capacity: Option<Arc<Capacity>>,
    /// What keeps live requests out; `None` while they are let in.
    pub closed: Option<Closed>,
}

/// What keeps live requests out of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// They wait.
    Held(Arc<Hold>),
    /// They are refused, and told to come back after so long.
    Maintenance(Duration),
}

impl Route {
    /// The pool that has this role.
    pub fn pool(&self, role: Role) -> Option<&Arc<Pool>> {
        match role {
            Role::Active => self.active.as_ref(),
            Role::Preview => self.preview.as_ref(),
        }
    }

    /// The candidate's pool, if it can serve now.
    pub(super) fn ready_preview(&self) -> Option<&Arc<Pool>> {
        self.preview.as_ref().filter(|pool| pool.is_ready())
    }

    /// Whether no request could tell them apart.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.generation == other.generation
            && same(self.active.as_ref(), other.active.as_ref())
            && same(self.preview.as_ref(), other.preview.as_ref())
            && Arc::ptr_eq(&self.policy, &other.policy)
            && same(self.capacity.as_ref(), other.capacity.as_ref())
            && Arc::ptr_eq(&self.matching, &other.matching)
            && self.split == other.split
            && self.closed == other.closed
    }

    fn is_kept_warm(&self) -> bool {
        self.preview.is_some() && self.policy.promotion.warm > 0
    }
}

impl Snapshot {
    /// The view that has no app: what a proxy starts with.
    pub fn empty() -> Self {
        Self::build(&[])
    }

    /// Builds the view of these apps, given in the order of their names.
    pub fn build(routes: &[Arc<Route>]) -> Self {
        let mut table = RouteTable::default();
        for (index, route) in routes.iter().enumerate() {
            table.add(index, &route.matching);
        }
        table.sort();
        let warmed = (0..routes.len()).filter(|index| routes[*index].is_kept_warm()).collect();
        Self { routes: Routes::new(routes), table: Arc::new(table), warmed }
    }

    /// The same view, but for these apps. All of them are in it, and what leads to them is as before.
    pub(super) fn with(&self, changed: Vec<Arc<Route>>) -> Self {
        let (mut routes, mut warmed) = (self.routes.clone(), self.warmed.clone());
        for route in changed {
            let Some(index) = routes.position(&route.app) else { continue };
            if route.is_kept_warm() {
                warmed.insert(index);
            } else {
                warmed.remove(&index);
            }
            routes.replace(index, route);
        }
        Self { routes, table: Arc::clone(&self.table), warmed }
    }

    /// All apps.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The candidates whose endpoints each worker holds connections open to before they may be promoted, and how many.
    pub fn warmed(&self) -> impl Iterator<Item = (&Route, &Arc<Pool>, u32)> {
        let routes = self.warmed.iter().map(|index| &self.routes[*index]);
        routes.filter_map(|route| Some((route, route.preview.as_ref()?, route.policy.promotion.warm)))
    }

    /// Which app, and which of its pools, a request with this host and path is for. The host is in lower case and without
    /// port. On a `preview` listener every match is the preview.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<(usize, Role)> {
        self.table.find(host, path)
    }
}

/// From host and path to an app. Exact hosts come first, then the longest suffix, then the apps without hosts; among
/// those with the same host the longest path prefix.
#[derive(Default)]
struct RouteTable {
    exact: HashMap<String, Vec<Entry>, RandomState>,
    /// By length of suffix, longest first.
    below: BTreeMap<std::cmp::Reverse<usize>, HashMap<String, Vec<Entry>, RandomState>>,
    rest: Vec<Entry>,
}

struct Entry {
    prefix: String,
    app: usize,
    role: Role,
}

impl RouteTable {
    fn add(&mut self, app: usize, matching: &Matching) {
        let all = [String::from("/")];
        let prefixes: &[String] = if matching.paths.is_empty() { &all } else { &matching.paths };
        for prefix in prefixes {
            let entry = |role| Entry { prefix: prefix.clone(), app, role };
            for host in &matching.preview_hosts {
                self.at(host).push(entry(Role::Preview));
            }
            for host in &matching.hosts {
                self.at(host).push(entry(Role::Active));
            }
            if matching.hosts.is_empty() {
                self.rest.push(entry(Role::Active));
            }
        }
    }

    fn at(&mut self, host: &HostPattern) -> &mut Vec<Entry> {
        match host {
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostPattern::Below(suffix) => {
                let same_length = self.below.entry(std::cmp::Reverse(suffix.len())).or_default();
                same_length.entry(suffix.clone()).or_default()
            }
        }
    }

    fn sort(&mut self) {
        let below = self.below.values_mut().flat_map(HashMap::values_mut);
        for entries in self.exact.values_mut().chain(below).chain([&mut self.rest]) {
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.prefix.len()));
        }
    }

    fn find(&self, host: &str, path: &str) -> Option<(usize, Role)> {
        let exact = self.exact.get(host);
        let below = self.below.iter().filter_map(|(length, suffixes)| {
            // A suffix starts with a dot, so it must leave at least one character of label before it.
            let start = host.len().checked_sub(length.0).filter(|start| *start > 0)?;
            suffixes.get(host.get(start..)?)
        });
        let lists = exact.into_iter().chain(below).chain([&self.rest]);
        lists.flatten().find(|entry| covers(&entry.prefix, path)).map(|entry| (entry.app, entry.role))
    }
}

fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

/// Whether `path` is `prefix` or lies below it: `/shop` covers `/shop`, `/shop/` and `/shop/a`, not `/shopping`.
fn covers(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/') || rest.starts_with('?'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(host: &str) -> HostPattern {
        HostPattern::Exact(host.to_owned())
    }

    fn below(suffix: &str) -> HostPattern {
        HostPattern::Below(suffix.to_owned())
    }

    fn table() -> RouteTable {
        let mut table = RouteTable::default();
        let matching = |hosts: &[HostPattern], paths: &[&str], preview: &[HostPattern]| Matching {
            hosts: hosts.to_vec(),
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
            preview_hosts: preview.to_vec(),
            ..Matching::default()
        };
        table.add(0, &matching(&[exact("shop.test")], &[], &[exact("preview.shop.test")]));
        table.add(1, &matching(&[exact("shop.test")], &["/api", "/api/v2/"], &[]));
        table.add(2, &matching(&[below(".test")], &[], &[]));
        table.add(3, &matching(&[below(".shop.test")], &[], &[]));
        table.add(4, &matching(&[], &["/only"], &[]));
        table.sort();
        table
    }

    #[test]
    fn the_most_specific_route_wins() {
        let table = table();
        for (host, path, expected) in [
            ("shop.test", "/", Some((0, Role::Active))),
            ("shop.test", "/api", Some((1, Role::Active))),
            ("shop.test", "/api/x?y", Some((1, Role::Active))),
            ("shop.test", "/api?x", Some((1, Role::Active))),
            ("shop.test", "/apis", Some((0, Role::Active))),
            ("preview.shop.test", "/api", Some((0, Role::Preview))),
            ("a.shop.test", "/", Some((3, Role::Active))),
            ("a.b.shop.test", "/", Some((3, Role::Active))),
            ("other.test", "/", Some((2, Role::Active))),
            (".test", "/", None),
            ("elsewhere", "/only/this", Some((4, Role::Active))),
            ("elsewhere", "/", None),
            ("é.test", "/", Some((2, Role::Active))),
        ] {
            assert_eq!(table.find(host, path), expected, "{host}{path}");
        }
    }

    fn route(app: &str, generation: u64) -> Arc<Route> {
        let (active, preview, policy, split, capacity, closed) = (None, None, Arc::default(), None, None, None);
        let matching = Matching { hosts: vec![exact(&format!("{app}.test"))], ..Matching::default() };
        let (app, generation) = (app.parse().expect("a name"), Generation(generation));
        Arc::new(Route {
            app,
            generation,
            active,
            preview,
            policy,
            matching: Arc::new(matching),
            split,
            capacity,
            closed,
        })
    }

    #[test]
    fn a_change_of_one_app_among_thousands_makes_one_piece_anew_and_shares_the_rest() {
        let mut routes: Vec<_> = (0..10_000).map(|n| route(&format!("app{n}"), 1)).collect();
        routes.sort_by(|one, other| one.app.cmp(&other.app));
        let before = Snapshot::build(&routes);
        let after = before.with(vec![route("app7777", 2)]);
        let generation = |snapshot: &Snapshot, app: &str| {
            let (index, _) = snapshot.find(&format!("{app}.test"), "/").expect("an app");
            assert_eq!(snapshot.routes()[index].app.as_str(), app);
            snapshot.routes()[index].generation.0
        };
        for n in (0..10_000).step_by(7) {
            let app = format!("app{n}");
            assert_eq!(generation(&before, &app), 1);
            assert_eq!(generation(&after, &app), if n == 7777 { 2 } else { 1 });
        }
        assert_eq!((before.routes().len(), after.routes().iter().count()), (10_000, 10_000));
        let pieces = before.routes.pieces.iter().zip(&after.routes.pieces);
        assert_eq!(pieces.filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
        assert!(Arc::ptr_eq(&before.table, &after.table));
    }
}
