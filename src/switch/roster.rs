//! Who of a pool may be chosen, sorted out whenever that changes, so that a choice looks at a few endpoints however many
//! there are. A [`Lineup`] is the part of a pool that outlives its tenures: it holds the roster as it is now, and the
//! switchboard alone renews it. Each worker keeps its own copy (see `reader`) and takes a newer one when the version moved.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    admission::Current,
    policy::{Balance, BalanceRule},
    pool::Endpoint,
    ring::Ring,
    status::Health,
};

/// The endpoints of a pool with what is thought of them just now.
pub(super) struct Lineup {
    id: u64,
    ring: Option<Arc<Ring>>,
    pub(super) current: Current<Roster>,
    /// Whether anybody is healthy.
    ready: AtomicBool,
}

impl Lineup {
    pub(super) fn new(endpoints: &[Arc<Endpoint>], balance: &Balance) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let hashed = matches!(balance.rule, BalanceRule::ConsistentHash(_));
        let ring = hashed.then(|| Arc::new(Ring::new(endpoints)));
        let roster = Roster::of(endpoints, ring.clone());
        let ready = AtomicBool::new(roster.is_ready());
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, ring, current: Current::new(Arc::new(roster)), ready })
    }

    /// A number no other lineup of this process has or had.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Looks at everybody anew. To be called by the switchboard, after what it looks at has changed.
    pub(super) fn renew(&self, endpoints: &[Arc<Endpoint>]) {
        let roster = Roster::of(endpoints, self.ring.clone());
        self.ready.store(roster.is_ready(), Ordering::Relaxed);
        self.current.swap(Arc::new(roster));
    }

    /// Whether anybody is healthy.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// What an endpoint is good for, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It serves.
    Good,
    /// It has had no verdict yet: a better guess than one known to be down.
    Unknown,
    /// It is unhealthy, or ejected.
    Bad,
}

impl Standing {
    fn of(endpoint: &Endpoint) -> Self {
        match endpoint.health() {
            Health::Healthy => Self::Good,
            Health::Unknown => Self::Unknown,
            Health::Unhealthy | Health::Ejected => Self::Bad,
        }
    }
}

/// One picture of a pool.
pub(super) struct Roster {
    /// By endpoint.
    pub(super) standings: Box<[Standing]>,
    /// By standing.
    pub(super) lots: [Lot; 3],
    pub(super) ring: Option<Arc<Ring>>,
}

impl Roster {
    fn of(endpoints: &[Arc<Endpoint>], ring: Option<Arc<Ring>>) -> Self {
        let standings: Box<[_]> = endpoints.iter().map(|e| Standing::of(e)).collect();
        let lot = |standing| {
            let alike = (0..).zip(endpoints).zip(&standings).filter(|(_, has)| **has == standing);
            Lot::of(alike.map(|((index, e), _)| (index, e.weight())))
        };
        Self { lots: [Standing::Good, Standing::Unknown, Standing::Bad].map(lot), standings, ring }
    }

    fn is_ready(&self) -> bool {
        self.standings.contains(&Standing::Good)
    }

    /// The best endpoints there are: the rest is used only when these have all been tried.
    pub(super) fn best(&self) -> Option<(Standing, &Lot)> {
        let ranks = [Standing::Good, Standing::Unknown, Standing::Bad];
        ranks.into_iter().zip(&self.lots).find(|(_, lot)| !lot.is_empty())
    }
}

/// Endpoints of equal standing, each with its share of a line as long as all their weights. A place on the line is found
/// without going through those before it.
pub(super) struct Lot {
    members: Box<[u32]>,
    /// Where each one's share ends; empty where all weigh the same, and each has a length of 1.
    ends: Box<[u64]>,
    length: u64,
    /// How far one turn is from the next.
    stride: u64,
    /// The weights as given, added up.
    weight: u64,
}

impl Lot {
    fn of(members: impl Iterator<Item = (u32, u32)>) -> Self {
        let (members, weights): (Vec<_>, Vec<_>) =
            members.map(|(index, weight)| (index, u64::from(weight.max(1)))).unzip();
        let weight = weights.iter().sum();
        let unit = weights.iter().copied().fold(0, gcd).max(1);
        let ends: Vec<_> = weights
            .iter()
            .scan(0, |end, weight| {
                *end += weight / unit;
                Some(*end)
            })
            .collect();
        let length = ends.last().copied().unwrap_or(0);
        let even = length == members.len() as u64;
        Self {
            members: members.into(),
            ends: if even { Box::default() } else { ends.into() },
            length,
            stride: if even { 1 } else { stride(length) },
            weight,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// The endpoint at a position from 0 to [`Self::len`].
    pub(super) fn member(&self, position: usize) -> usize {
        self.members[position] as usize
    }

    /// The position of one drawn by weight. There must be one.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> usize {
        self.position(rng.u64(0..self.length))
    }

    /// Draws among all but the one at `taken`.
    pub(super) fn draw_other(&self, rng: &mut fastrand::Rng, taken: usize) -> Option<usize> {
        let (start, end) = self.share(taken);
        let others = self.length - (end - start);
        let at = (others > 0).then(|| rng.u64(0..others))?;
        // What lies behind the one taken out moves up into its place.
        Some(self.position(if at < start { at } else { at + (end - start) }))
    }

    /// The position whose turn it is. In as many turns as the line is long, each has as many as its weight, and they are
    /// spread: the stride shares no divisor with the length, so every place comes once.
    pub(super) fn in_turn(&self, turn: usize) -> usize {
        self.position((turn as u64 % self.length) * self.stride % self.length)
    }

    fn position(&self, at: u64) -> usize {
        if self.ends.is_empty() { at as usize } else { self.ends.partition_point(|end| *end <= at) }
    }

    fn share(&self, position: usize) -> (u64, u64) {
        if self.ends.is_empty() {
            return (position as u64, position as u64 + 1);
        }
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        (start, self.ends[position])
    }
}

/// The number nearest below the golden section of `length` that shares no divisor with it: steps of that size fill a circle
/// most evenly.
fn stride(length: u64) -> u64 {
    let golden = (length as f64 * 0.618_034) as u64;
    (1..=golden).rev().find(|stride| gcd(*stride, length) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lot(weights: &[u32]) -> Lot {
        Lot::of((0..).zip(weights.iter().copied()))
    }

    #[test]
    fn in_a_round_each_has_as_many_turns_as_its_weight_and_they_are_spread() {
        for weights in [&[1, 1, 1][..], &[5, 1, 1], &[2, 4, 6], &[256, 1], &[7], &[3, 3], &[1, 2, 3, 4, 5]] {
            let lot = lot(weights);
            let unit = weights.iter().fold(0, |unit, weight| gcd(unit, u64::from(*weight)));
            let turns: Vec<_> = (0..lot.length as usize).map(|turn| lot.in_turn(turn)).collect();
            for (position, weight) in weights.iter().enumerate() {
                let count = turns.iter().filter(|turn| **turn == position).count() as u64;
                assert_eq!(count * unit, u64::from(*weight), "{weights:?}: {turns:?}");
            }
        }
        let turns: String = (0..7).map(|turn| ['a', 'b', 'c'][lot(&[5, 1, 1]).in_turn(turn)]).collect();
        assert!(!turns.contains("aaaa"), "{turns}");
    }

    #[test]
    fn a_draw_minds_the_weights_and_another_draw_never_takes_the_same() {
        let (lot, mut rng) = (lot(&[1, 2, 5]), fastrand::Rng::with_seed(7));
        let (mut first, mut second) = ([0_i32; 3], [0_i32; 3]);
        for _ in 0..80_000 {
            first[lot.draw(&mut rng)] += 1;
            second[lot.draw_other(&mut rng, 1).expect("there are others")] += 1;
        }
        assert!(
            first.iter().zip([10_000_i32, 20_000, 50_000]).all(|(got, due)| (got - due).abs() < 1_000),
            "{first:?}"
        );
        let [a, b, c] = second;
        assert_eq!(b, 0);
        assert!((c - 5 * a).abs() < 4_000, "{second:?}");
        assert_eq!(self::lot(&[9]).draw_other(&mut rng, 0), None);
    }
}
