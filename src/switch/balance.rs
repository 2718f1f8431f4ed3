//! Choosing one endpoint of a pool, at a cost that does not grow with the pool. A worker counts only what it has in flight
//! itself: a shared count would cost every request a cache line of somebody else's, and with enough traffic to matter the
//! workers' pictures agree.

use std::time::Duration;

use super::{
    policy::{BalanceRule, HashBy, Hashing},
    pool::{Endpoint, Pool},
    reader::RequestKey,
    roster::{Lot, Roster, Standing},
    set_cookie::SetCookie,
    sticky,
};

/// How often an endpoint is drawn, or its turn is passed on, before another way is taken.
const DRAWS: usize = 16;
/// How many places of a ring are looked at. With four in five endpoints at their bound, one in 10^24 goes on.
const PLACES: usize = 256;

/// What was chosen.
pub(super) struct Chosen {
    /// The endpoint's index in the pool.
    pub(super) endpoint: usize,
    /// Field lines that the answer is to carry, each with its line end.
    pub(super) lines: Option<Box<str>>,
}

/// The endpoint to use, or `None` in an empty pool. Those in `tried` and those that do not serve are used only when nothing
/// else is left: better a doubtful endpoint than none (the panic rule).
pub(super) fn choose(
    pool: &Pool,
    roster: &Roster,
    key: &impl RequestKey,
    worker: usize,
    tried: &[u64],
    rng: &mut fastrand::Rng,
) -> Option<Chosen> {
    let chooser = Chooser { pool, roster, worker, tried };
    let mut lines = None;
    let by_key = match &pool.balance.rule {
        BalanceRule::ConsistentHash(hashing) => chooser.by_key(hashing, key, rng, &mut lines),
        BalanceRule::LeastRequest | BalanceRule::RoundRobin | BalanceRule::Random => None,
    };
    let endpoint = by_key.or_else(|| roster.lots.iter().find_map(|lot| chooser.among(lot, rng))).or_else(|| {
        // All have been tried.
        let chooser = Chooser { tried: &[], ..chooser };
        roster.lots.iter().find_map(|lot| chooser.among(lot, rng))
    })?;
    Some(Chosen { endpoint, lines })
}

#[derive(Clone, Copy)]
struct Chooser<'a> {
    pool: &'a Pool,
    roster: &'a Roster,
    worker: usize,
    tried: &'a [u64],
}

impl Chooser<'_> {
    fn among(&self, lot: &Lot, rng: &mut fastrand::Rng) -> Option<usize> {
        if lot.is_empty() {
            return None;
        }
        let position = match self.pool.balance.rule {
            BalanceRule::LeastRequest | BalanceRule::ConsistentHash(_) => self.less_busy_of_two(lot, rng),
            BalanceRule::RoundRobin => {
                self.fresh(lot, rng, |_| Some(lot.in_turn(self.pool.tenure().take_turn(self.worker))))
            }
            BalanceRule::Random => self.fresh(lot, rng, |rng| Some(lot.draw(rng))),
        };
        position.map(|position| lot.member(position))
    }

    /// Power of two choices, as in Mitzenmacher's paper of that name: nearly as even as asking all, at the cost of two.
    fn less_busy_of_two(&self, lot: &Lot, rng: &mut fastrand::Rng) -> Option<usize> {
        let one = self.fresh(lot, rng, |rng| Some(lot.draw(rng)))?;
        let Some(two) = self.drawn(rng, lot, |rng| lot.draw_other(rng, one)) else { return Some(one) };
        // Compare load / weight without dividing.
        let load = |position| self.load(lot.member(position));
        let weight = |position| u64::from(self.endpoint(lot.member(position)).weight());
        Some(if load(two) * weight(one) < load(one) * weight(two) { two } else { one })
    }

    /// One that has not been tried, by `next`; where that comes upon none, whoever stands next to an arbitrary one.
    fn fresh(
        &self,
        lot: &Lot,
        rng: &mut fastrand::Rng,
        next: impl FnMut(&mut fastrand::Rng) -> Option<usize>,
    ) -> Option<usize> {
        self.drawn(rng, lot, next).or_else(|| {
            let start = rng.usize(0..lot.len());
            // At most as many are passed by as have been tried.
            let round = (start..lot.len()).chain(0..start);
            round.into_iter().find(|position| self.is_fresh(lot.member(*position)))
        })
    }

    /// Asks `next` a few times for one that has not been tried and is up to it.
    fn drawn(
        &self,
        rng: &mut fastrand::Rng,
        lot: &Lot,
        mut next: impl FnMut(&mut fastrand::Rng) -> Option<usize>,
    ) -> Option<usize> {
        let mut fallback = None;
        for _ in 0..DRAWS {
            let position = next(rng)?;
            let index = lot.member(position);
            if !self.is_fresh(index) {
                continue;
            }
            if self.takes(index, || rng.f32()) {
                return Some(position);
            }
            fallback = Some(position);
        }
        fallback
    }

    /// The key's own endpoint, or the next on the ring that serves and has room.
    fn by_key(
        &self,
        hashing: &Hashing,
        key: &impl RequestKey,
        rng: &mut fastrand::Rng,
        lines: &mut Option<Box<str>>,
    ) -> Option<usize> {
        match &hashing.by {
            HashBy::Cookie { name, ttl } => match key.cookie(name).filter(|value| !value.is_empty()) {
                Some(value) => self.on_ring(hashing, value),
                None => {
                    let value = sticky::value(rng);
                    let cookie = SetCookie { name, value: &value, keep: *ttl, secure: key.is_secure() };
                    *lines = Some(cookie.lines(&[]));
                    self.on_ring(hashing, value.as_bytes())
                }
            },
            HashBy::Header(name) => self.on_ring(hashing, key.field(name)?),
            HashBy::ClientIp => match key.client()?.to_canonical() {
                std::net::IpAddr::V4(ip) => self.on_ring(hashing, &ip.octets()),
                std::net::IpAddr::V6(ip) => self.on_ring(hashing, &ip.octets()),
            },
        }
    }

    fn on_ring(&self, hashing: &Hashing, key: &[u8]) -> Option<usize> {
        let ring = self.roster.ring.as_ref()?;
        let (best, lot) = self.roster.best()?;
        // Whether an endpoint in its slow start takes this key yet: once it does, it goes on doing so.
        let patience = || sticky::fraction(key);
        let (mut last, mut fallback) = (usize::MAX, None);
        for index in ring.from(key).take(PLACES) {
            if index == last || !self.serves(index, best) || !self.takes(index, patience) {
                last = index;
                continue;
            }
            if hashing.bounded_load.is_none_or(|percent| self.has_room(index, lot, percent)) {
                return Some(index);
            }
            (last, fallback) = (index, fallback.or(Some(index)));
        }
        fallback
    }

    /// Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2017): with this request, the endpoint has
    /// no more in flight than `percent` of its fair share, rounded up.
    fn has_room(&self, index: usize, lot: &Lot, percent: u32) -> bool {
        let in_flight = self.pool.tenure().occupancy().of(self.worker) + 1;
        let weight = u64::from(self.endpoint(index).weight());
        self.load(index) < (in_flight * weight * u64::from(percent)).div_ceil(100 * lot.weight())
    }

    /// Whether an endpoint takes its share, which is smaller for a while after it has become healthy: `chance` is a number
    /// from 0 to 1.
    fn takes(&self, index: usize, chance: impl FnOnce() -> f32) -> bool {
        let full: Duration = self.pool.balance.slow_start;
        full.is_zero() || self.endpoint(index).ramp(full).is_none_or(|share| chance() < share)
    }

    fn serves(&self, index: usize, best: Standing) -> bool {
        self.roster.standings[index] == best && self.is_fresh(index)
    }

    fn is_fresh(&self, index: usize) -> bool {
        #[cfg(test)]
        tests::LOOKS.with(|looks| looks.set(looks.get() + 1));
        self.tried.is_empty() || !self.tried.contains(&self.endpoint(index).id())
    }

    /// What this worker has in flight on it.
    fn load(&self, index: usize) -> u64 {
        self.endpoint(index).in_flight().of(self.worker)
    }

    fn endpoint(&self, index: usize) -> &Endpoint {
        &self.pool.endpoints()[index]
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        collections::{BTreeMap, BTreeSet},
        net::{IpAddr, SocketAddr},
        sync::Arc,
    };

    use super::{
        super::{policy::Balance, pool::Site, status::Health},
        *,
    };

    thread_local! {
        /// How many endpoints were looked at.
        pub(super) static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    /// A request with this cookie, this header and from this client.
    #[derive(Default)]
    struct Request {
        key: Option<Vec<u8>>,
        client: Option<IpAddr>,
    }

    impl RequestKey for Request {
        fn host(&self) -> &str {
            ""
        }
        fn path(&self) -> &str {
            "/"
        }
        fn on_preview_listener(&self) -> bool {
            false
        }
        fn client(&self) -> Option<IpAddr> {
            self.client
        }
        fn field(&self, name: &str) -> Option<&[u8]> {
            self.key.as_deref().filter(|_| name == "x-key")
        }
        fn cookie(&self, name: &str) -> Option<&[u8]> {
            self.key.as_deref().filter(|_| name == "key")
        }
    }

    fn keyed(key: usize) -> Request {
        Request { key: Some(key.to_string().into_bytes()), client: None }
    }

    fn hashing(by: HashBy, bounded_load: Option<u32>) -> BalanceRule {
        BalanceRule::ConsistentHash(Hashing { by, bounded_load })
    }

    fn by_header(bounded_load: Option<u32>) -> BalanceRule {
        hashing(HashBy::Header("x-key".to_owned()), bounded_load)
    }

    /// A pool whose endpoints weigh so much, all healthy, of one worker.
    struct Stage {
        pool: Pool,
        rng: fastrand::Rng,
    }

    impl Stage {
        fn of(weights: &[u32], rule: BalanceRule) -> Self {
            Self::with(weights, Balance { rule, slow_start: Duration::ZERO })
        }

        fn with(weights: &[u32], balance: Balance) -> Self {
            let endpoint = |(n, weight): (u32, &u32)| {
                let [_, b, c, d] = n.to_be_bytes();
                let address = SocketAddr::from(([10, b, c, d], 80));
                let endpoint = Endpoint::new(Site::of_test(address, *weight), 1);
                endpoint.set_probed(Health::Healthy);
                Arc::new(endpoint)
            };
            let endpoints = (1..).zip(weights).map(endpoint).collect();
            let pool = Pool::new("blue".parse().expect("a name"), endpoints, balance, 1);
            Self { pool, rng: fastrand::Rng::with_seed(7) }
        }

        fn set(&self, health: Health, endpoints: impl IntoIterator<Item = usize>) {
            endpoints.into_iter().for_each(|index| self.pool.endpoints()[index].set_probed(health));
            self.pool.renew_lineup();
        }

        fn choose_for(&mut self, request: &Request, tried: &[u64]) -> Chosen {
            let roster = self.pool.lineup.current.view();
            choose(&self.pool, &roster.value, request, 0, tried, &mut self.rng).expect("there are endpoints")
        }

        fn choose(&mut self) -> usize {
            self.choose_for(&Request::default(), &[]).endpoint
        }

        /// How many of so many requests each endpoint was given.
        fn counts(&mut self, requests: usize) -> Vec<usize> {
            let mut counts = vec![0; self.pool.endpoints().len()];
            (0..requests).for_each(|_| counts[self.choose()] += 1);
            counts
        }

        /// Where so many keys go.
        fn places(&mut self, keys: usize) -> Vec<SocketAddr> {
            let mut place = |key| {
                let index = self.choose_for(&keyed(key), &[]).endpoint;
                self.place(index)
            };
            (0..keys).map(&mut place).collect()
        }

        fn place(&self, index: usize) -> SocketAddr {
            self.pool.endpoints()[index].address().ip().expect("an IP address")
        }

        fn id(&self, index: usize) -> u64 {
            self.pool.endpoints()[index].id()
        }

        fn busy(&self, index: usize, requests: usize) {
            (0..requests).for_each(|_| self.pool.endpoints()[index].in_flight().add(0));
        }
    }

    fn rules() -> [BalanceRule; 4] {
        [BalanceRule::LeastRequest, BalanceRule::RoundRobin, BalanceRule::Random, by_header(Some(125))]
    }

    #[test]
    fn a_choice_looks_at_few_endpoints_however_many_there_are() {
        for rule in rules() {
            for (count, down) in [(2, 0), (200, 0), (5_000, 0), (5_000, 4_900), (5_000, 4_999), (5_000, 5_000)] {
                let weights: Vec<_> = (0..count).map(|n| 1 + n % 3).collect();
                let mut stage = Stage::of(&weights, rule.clone());
                stage.set(Health::Unhealthy, 0..down);
                let tried = [stage.id(0), stage.id(1)];
                let (mut most, mut all) = (0, 0);
                for key in 0..2_000 {
                    let before = LOOKS.get();
                    stage.choose_for(&keyed(key), if key % 2 == 0 { &[] } else { &tried });
                    let looks = LOOKS.get() - before;
                    (most, all) = (most.max(looks), all + looks);
                }
                // A ring is walked past those that are out of service, but not all round it.
                let hashed = matches!(rule, BalanceRule::ConsistentHash(_));
                let limit = if hashed { PLACES + 2 * DRAWS } else { 4 * DRAWS + 4 };
                assert!(most <= limit, "{rule:?}, {count} endpoints, {down} down: {most} looks");
                assert!(hashed || count == 2 || all < 10_000, "{rule:?}, {count} endpoints, {down} down: {all} looks");
            }
        }
    }

    #[test]
    fn every_policy_minds_the_weights() {
        for rule in [BalanceRule::LeastRequest, BalanceRule::RoundRobin, BalanceRule::Random] {
            let counts = Stage::of(&[1, 2, 5], rule.clone()).counts(16_000);
            for (count, due) in counts.iter().zip([2_000_usize, 4_000, 10_000]) {
                // With nothing in flight, the second of two drawn is no better than the first.
                assert!(count.abs_diff(due) < 400, "{rule:?}: {counts:?}");
            }
        }
        let mut stage = Stage::of(&[1, 4], by_header(None));
        let second = stage.places(10_000).into_iter().filter(|place| place.ip().to_string() == "10.0.0.2").count();
        assert!((7_500..8_500).contains(&second), "{second}");
    }

    #[test]
    fn in_turn_means_one_after_the_other() {
        let mut stage = Stage::of(&[1; 4], BalanceRule::RoundRobin);
        assert_eq!((0..8).map(|_| stage.choose()).collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(Stage::of(&[2; 3], BalanceRule::RoundRobin).counts(30), [10; 3]);
    }

    #[test]
    fn the_less_busy_of_two_is_taken() {
        let mut stage = Stage::of(&[1, 1], BalanceRule::LeastRequest);
        stage.busy(0, 3);
        assert_eq!(stage.counts(100), [0, 100]);
        stage.busy(1, 4);
        assert_eq!(stage.counts(100), [100, 0]);
        let mut stage = Stage::of(&[1, 4], BalanceRule::LeastRequest);
        stage.busy(0, 1);
        stage.busy(1, 3);
        assert_eq!(stage.counts(100), [0, 100], "three on one that weighs four are less than one on one");
    }

    #[test]
    fn what_serves_comes_first_then_what_is_unknown_then_all_and_a_retry_goes_elsewhere() {
        for rule in rules() {
            let mut stage = Stage::of(&[1; 6], rule.clone());
            let chosen = |stage: &mut Stage, tried: &[u64]| -> BTreeSet<_> {
                (0..400).map(|key| stage.choose_for(&keyed(key), tried).endpoint).collect()
            };
            stage.set(Health::Unhealthy, [0, 1]);
            stage.set(Health::Unknown, [2, 3]);
            assert_eq!(chosen(&mut stage, &[]), [4, 5].into(), "{rule:?}");
            let (four, five) = (stage.id(4), stage.id(5));
            assert_eq!(chosen(&mut stage, &[four]), [5].into());
            assert_eq!(chosen(&mut stage, &[four, five]), [2, 3].into());
            let all_but_bad: Vec<_> = (2..6).map(|index| stage.id(index)).collect();
            assert_eq!(chosen(&mut stage, &all_but_bad), [0, 1].into());
            let all: Vec<_> = (0..6).map(|index| stage.id(index)).collect();
            assert_eq!(chosen(&mut stage, &all), [4, 5].into(), "when all have been tried, the best are tried again");
            stage.set(Health::Unhealthy, 0..6);
            assert_eq!(chosen(&mut stage, &[]), (0..6).collect(), "when none serves, all do");
        }
    }

    #[test]
    fn who_is_ejected_is_out_and_when_all_are_none_is() {
        let mut stage = Stage::of(&[1; 3], BalanceRule::LeastRequest);
        stage.pool.endpoints()[0].set_ejected(true);
        stage.pool.renew_lineup();
        assert_eq!(stage.counts(100)[0], 0);
        (0..3).for_each(|index| stage.pool.endpoints()[index].set_ejected(true));
        stage.pool.renew_lineup();
        assert!(stage.counts(300).iter().all(|count| *count > 0));
        (1..3).for_each(|index| stage.pool.endpoints()[index].set_ejected(false));
        stage.pool.renew_lineup();
        assert_eq!(stage.counts(100)[0], 0);
    }

    #[test]
    fn a_key_moves_only_if_its_endpoint_went_and_when_one_comes_it_takes_its_share() {
        const KEYS: usize = 10_000;
        let (mut ten, mut nine, mut eleven) = (
            Stage::of(&[1; 10], by_header(None)),
            Stage::of(&[1; 9], by_header(None)),
            Stage::of(&[1; 11], by_header(None)),
        );
        let (before, without, with) = (ten.places(KEYS), nine.places(KEYS), eleven.places(KEYS));
        assert_eq!(before, ten.places(KEYS));
        let gone = ten.place(9);
        for (old, new) in before.iter().zip(&without) {
            assert!(old == new || *old == gone, "{old} lost a key to {new}");
        }
        let moved = before.iter().zip(&with).filter(|(old, new)| old != new).count();
        let come = eleven.place(10);
        assert!(before.iter().zip(&with).all(|(old, new)| old == new || *new == come));
        assert!(moved < KEYS * 15 / 100, "{moved} of {KEYS} moved to the eleventh");
        ten.set(Health::Unhealthy, [9]);
        assert_eq!(ten.places(KEYS), without, "one that is down is passed over as if it were not there");
    }

    #[test]
    fn no_endpoint_takes_more_than_its_bound_and_the_next_on_the_ring_takes_the_rest() {
        for percent in [105, 125, 200] {
            let mut stage = Stage::of(&[1, 1, 1, 1, 4], by_header(Some(percent)));
            // All want the same place.
            for in_flight in 1..=400_u64 {
                let chosen = stage.choose_for(&keyed(1), &[]).endpoint;
                stage.busy(chosen, 1);
                stage.pool.tenure().occupancy().enter_for_tests(0);
                for endpoint in stage.pool.endpoints() {
                    let share = in_flight * u64::from(endpoint.weight());
                    let bound = (share * u64::from(percent)).div_ceil(100 * 8);
                    assert!(endpoint.in_flight().of(0) <= bound, "{} of {in_flight}", endpoint.in_flight().of(0));
                }
            }
        }
        let mut stage = Stage::of(&[1; 5], by_header(None));
        let first = stage.choose_for(&keyed(1), &[]).endpoint;
        stage.busy(first, 1000);
        assert_eq!(stage.choose_for(&keyed(1), &[]).endpoint, first, "without a bound it stays");
    }

    #[test]
    fn a_client_without_the_cookie_is_given_one_that_leads_to_the_same_endpoint() {
        let rule = hashing(HashBy::Cookie { name: "key".to_owned(), ttl: None }, None);
        let mut stage = Stage::of(&[1; 10], rule);
        for key in [None, Some(Vec::new())] {
            let first = stage.choose_for(&Request { key, client: None }, &[]);
            let line = first.lines.expect("a cookie");
            let value = line.strip_prefix("set-cookie: key=").and_then(|rest| rest.split(';').next()).expect("a value");
            let again = stage.choose_for(&Request { key: Some(value.into()), client: None }, &[]);
            assert_eq!((again.endpoint, again.lines), (first.endpoint, None));
        }
    }

    #[test]
    fn a_client_is_known_by_its_address_however_it_is_written() {
        let mut stage = Stage::of(&[1; 50], hashing(HashBy::ClientIp, None));
        let mut of = |ip: &str| {
            let request = Request { key: None, client: Some(ip.parse().expect("an address")) };
            stage.choose_for(&request, &[]).endpoint
        };
        assert_eq!(of("192.0.2.7"), of("::ffff:192.0.2.7"));
        let places: BTreeSet<_> = (0..200).map(|n| of(&format!("192.0.2.{n}"))).collect();
        assert!(places.len() > 25, "{}", places.len());
        assert_ne!(stage.counts(50), vec![0; 50], "a client without an address is sent somewhere");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_endpoint_grows_from_a_tenth_into_its_share() {
        let full = Duration::from_secs(30);
        for rule in [BalanceRule::LeastRequest, BalanceRule::RoundRobin, BalanceRule::Random] {
            let mut stage = Stage::with(&[1; 10], Balance { rule: rule.clone(), slow_start: full });
            tokio::time::advance(full).await;
            assert!(
                stage.counts(10_000).iter().all(|count| count.abs_diff(1_000) < 150),
                "all are at their full share"
            );
            stage.set(Health::Unhealthy, [0]);
            stage.set(Health::Healthy, [0]);
            for (seconds, share) in [(0, 0.1), (3, 0.1), (12, 0.5), (12, 0.9), (3, 1.0)] {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                let count = stage.counts(20_000)[0];
                let due = 20_000.0 * share / (9.0 + share);
                assert!((count as f64 - due).abs() < 0.1 * due + 60.0, "{rule:?}, {share}: {count}, due are {due}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_start_gives_keys_back_one_by_one_and_for_good() {
        let full = Duration::from_secs(30);
        let mut stage = Stage::with(&[1; 4], Balance { rule: by_header(None), slow_start: full });
        tokio::time::advance(full).await;
        let at_rest = stage.places(2_000);
        let own: BTreeMap<_, _> = at_rest.iter().enumerate().filter(|(_, p)| **p == stage.place(0)).collect();
        stage.set(Health::Unhealthy, [0]);
        stage.set(Health::Healthy, [0]);
        let (mut back, mut before) = (BTreeSet::new(), 0);
        for _ in 0..=10 {
            let now = stage.places(2_000);
            let here: BTreeSet<_> = own.keys().filter(|key| now[**key] == *own[*key]).copied().collect();
            assert!(here.is_superset(&back) && here.len() >= before, "a key left again");
            (before, back) = (here.len(), here);
            tokio::time::advance(full / 10).await;
        }
        assert_eq!(back.len(), own.len());
        assert_eq!(stage.places(2_000), at_rest);
    }

    #[test]
    fn an_empty_pool_has_nobody() {
        for rule in rules() {
            let stage = Stage::of(&[], rule);
            let roster = stage.pool.lineup.current.view();
            assert!(choose(&stage.pool, &roster.value, &keyed(1), 0, &[], &mut fastrand::Rng::new()).is_none());
        }
    }
}
