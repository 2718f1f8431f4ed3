//! Passive ejection: an endpoint on which requests fail rests for a while, whatever its probes say. The judge is pure: it
//! reads what the workers recorded and the time, and says whom to eject and whom to bring back; it sits off the request
//! path and looks a few times a second.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    policy::Ejection,
    pool::{Endpoint, Pool},
    record::{EjectionReason, Reading},
    status::Health,
};

/// How many times as long as the first an ejection may last.
const LONGEST: u32 = 10;
/// In how many pieces the window moves on.
const PIECES: u32 = 10;

/// Judges endpoints by their records.
#[derive(Default)]
pub struct Judge {
    cases: HashMap<u64, Case>,
    /// The endpoints seen since the last [`Self::forget_the_rest`].
    seen: HashSet<u64>,
}

/// What is to become of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sentence {
    /// It is taken out of use.
    Eject {
        /// Why.
        reason: EjectionReason,
        /// For how long, if nothing brings it back before.
        lasts: Duration,
    },
    /// It is used again.
    Return,
}

/// What is known of one endpoint.
#[derive(Default)]
struct Case {
    last: Reading,
    /// Failures since the last look that saw a good answer.
    run: u64,
    /// Pieces of the window, oldest first: when each began, good ones, failures.
    window: VecDeque<(Instant, u64, u64)>,
    ejected: Option<Ejected>,
    /// How many ejections count against it.
    repeats: u32,
    returned: Option<Instant>,
}

struct Ejected {
    until: Instant,
    /// Its probes have failed meanwhile: when they succeed again, it is another process.
    was_down: bool,
}

impl Judge {
    /// Judges the endpoints of a pool, by id.
    pub fn look(&mut self, pool: &Pool, policy: &Ejection, now: Instant) -> Vec<(u64, Sentence)> {
        let endpoints = pool.endpoints();
        let most = endpoints.len() * policy.max_percent as usize / 100;
        let mut ejected = endpoints.iter().filter(|e| self.is_ejected(e)).count();
        let mut sentences = Vec::new();
        for endpoint in endpoints {
            self.seen.insert(endpoint.id());
            let case = self
                .cases
                .entry(endpoint.id())
                .or_insert_with(|| Case { last: endpoint.record().read(), ..Case::default() });
            let sentence = match case.ejected {
                Some(_) => case.served_its_time(endpoint, now),
                None => case.accused(endpoint, policy, now).filter(|_| ejected < most).map(|reason| {
                    let lasts = case.eject(policy, now);
                    Sentence::Eject { reason, lasts }
                }),
            };
            match sentence {
                Some(Sentence::Eject { .. }) => ejected += 1,
                Some(Sentence::Return) => ejected -= 1,
                None => {}
            }
            sentences.extend(sentence.map(|sentence| (endpoint.id(), sentence)));
        }
        sentences
    }

    fn is_ejected(&self, endpoint: &Endpoint) -> bool {
        self.cases.get(&endpoint.id()).is_some_and(|case| case.ejected.is_some())
    }

    /// Forgets the endpoints not looked at since this was last called.
    pub fn forget_the_rest(&mut self) {
        self.cases.retain(|id, _| self.seen.contains(id));
        self.seen.clear();
    }
}

impl Case {
    /// What it is to be ejected for.
    fn accused(&mut self, endpoint: &Endpoint, policy: &Ejection, now: Instant) -> Option<EjectionReason> {
        let reading = endpoint.record().read();
        let before = std::mem::replace(&mut self.last, reading);
        let (good, failed) = (reading.good - before.good, reading.failed - before.failed);
        self.run = if good > 0 { 0 } else { self.run + failed };
        let in_a_row = policy.consecutive_failures > 0
            && (reading.strikes > before.strikes || self.run >= policy.consecutive_failures.into());
        if in_a_row {
            return Some(EjectionReason::ConsecutiveFailures);
        }
        let (good, failed) = self.moved_on(good, failed, policy.window, now);
        let (all, percent) = (good + failed, u64::from(policy.error_percent));
        let too_many = percent > 0 && all >= policy.min_requests.into() && failed * 100 >= all * percent;
        too_many.then_some(EjectionReason::ErrorRatio)
    }

    /// Adds to the window, moves it on, and says what is in it.
    fn moved_on(&mut self, good: u64, failed: u64, window: Duration, now: Instant) -> (u64, u64) {
        while self.window.front().is_some_and(|(began, ..)| now.duration_since(*began) >= window) {
            self.window.pop_front();
        }
        match self.window.back_mut() {
            Some((began, g, f)) if now.duration_since(*began) < window / PIECES => {
                *g += good;
                *f += failed;
            }
            _ if good + failed > 0 => self.window.push_back((now, good, failed)),
            _ => {}
        }
        self.window.iter().fold((0, 0), |(good, failed), (_, g, f)| (good + g, failed + f))
    }

    /// Each ejection lasts longer than the one before, and each such time in good service takes one back.
    fn eject(&mut self, policy: &Ejection, now: Instant) -> Duration {
        let served = self.returned.map_or(Duration::MAX, |returned| now.duration_since(returned));
        let forgiven = served.as_nanos() / policy.lasts.as_nanos().max(1);
        self.repeats = self.repeats.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)) + 1;
        let lasts = policy.lasts.saturating_mul(self.repeats.min(LONGEST));
        self.ejected = Some(Ejected { until: now + lasts, was_down: false });
        lasts
    }

    /// Whether it may come back: its time is over, or its probes have seen it down and up again.
    fn served_its_time(&mut self, endpoint: &Endpoint, now: Instant) -> Option<Sentence> {
        let ejected = self.ejected.as_mut()?;
        ejected.was_down |= endpoint.probed() == Health::Unhealthy;
        let reborn = ejected.was_down && endpoint.probed() == Health::Healthy;
        if now < ejected.until && !reborn {
            return None;
        }
        let repeats = if reborn { 0 } else { self.repeats };
        *self = Self { last: endpoint.record().read(), repeats, returned: Some(now), ..Self::default() };
        Some(Sentence::Return)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use super::{
        super::{
            policy::Balance,
            pool::{Pool, Site},
        },
        *,
    };

    fn pool(endpoints: u16) -> Pool {
        let endpoints = (1..=endpoints).map(|port| {
            let endpoint = Endpoint::new(Site::of_test(SocketAddr::from(([127, 0, 0, 1], port)), 1), 2);
            endpoint.set_probed(Health::Healthy);
            Arc::new(endpoint)
        });
        Pool::new("blue".parse().expect("a name"), endpoints.collect(), Balance::default(), 2)
    }

    /// A pool, its judge, and a clock that tests set.
    struct Court {
        pool: Pool,
        judge: Judge,
        policy: Ejection,
        now: Instant,
    }

    impl Court {
        fn over(endpoints: u16, policy: Ejection) -> Self {
            let mut court = Self { pool: pool(endpoints), judge: Judge::default(), policy, now: Instant::now() };
            assert_eq!(court.after(0), [], "nothing is known yet");
            court
        }

        /// Good ones and failures, by turns on the two workers.
        fn note(&self, endpoint: usize, outcomes: &str) {
            let limit = self.policy.consecutive_failures;
            for (turn, outcome) in outcomes.chars().enumerate() {
                self.pool.endpoints()[endpoint].record().note(turn % 2, outcome == '-', limit);
            }
        }

        fn note_by_one(&self, endpoint: usize, outcomes: &str) {
            let limit = self.policy.consecutive_failures;
            outcomes.chars().for_each(|o| self.pool.endpoints()[endpoint].record().note(0, o == '-', limit));
        }

        /// Whom the judge ejects (`-`) or brings back (`+`) so many seconds later, by index.
        fn after(&mut self, seconds: u64) -> Vec<(usize, char)> {
            self.now += Duration::from_secs(seconds);
            let index = |id| self.pool.endpoints().iter().position(|e| e.id() == id).expect("one of the pool");
            let sentences = self.judge.look(&self.pool, &self.policy, self.now);
            let mark = |sentence| if sentence == Sentence::Return { '+' } else { '-' };
            sentences.into_iter().map(|(id, sentence)| (index(id), mark(sentence))).collect()
        }
    }

    #[test]
    fn failures_in_a_row_eject_whoever_of_the_workers_saw_them() {
        for (first, second, ejected) in [
            ("-----", "", true),
            ("---", "--", true),
            ("+--", "-----", true),
            ("----+----", "", false),
            ("----", "+-", false),
            ("", "", false),
        ] {
            let mut court = Court::over(2, Ejection::default());
            court.note(0, first);
            let at_first = court.after(1);
            court.note(0, second);
            let later = court.after(1);
            let found = at_first.into_iter().chain(later).any(|sentence| sentence == (0, '-'));
            assert_eq!(found, ejected, "{first:?} {second:?}");
        }
        let mut court = Court::over(2, Ejection::default());
        court.note_by_one(1, "-----+");
        assert_eq!(court.after(1), [(1, '-')], "a worker's own streak counts, though the next went well");
    }

    #[test]
    fn a_share_of_failures_ejects_once_there_are_enough_to_judge_by() {
        let policy = Ejection { consecutive_failures: 0, error_percent: 50, ..Ejection::default() };
        let mut court = Court::over(2, policy.clone());
        court.note(0, &"-".repeat(19));
        assert_eq!(court.after(1), [], "too few");
        court.note(0, "-");
        assert_eq!(court.after(1), [(0, '-')]);
        let mut court = Court::over(2, policy.clone());
        court.note(0, &"++-".repeat(50));
        assert_eq!(court.after(1), [], "a third is not half");
        let mut court = Court::over(2, policy);
        court.note(0, &"-".repeat(15));
        assert_eq!(court.after(1), []);
        court.note(0, "-----");
        assert_eq!(court.after(11), [], "the first have left the window");
    }

    #[test]
    fn never_more_than_its_share_of_a_pool_rests_and_the_only_endpoint_never_does() {
        for (endpoints, percent, most) in [(1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (4, 10, 0), (3, 100, 3)] {
            let mut court = Court::over(endpoints, Ejection { max_percent: percent, ..Ejection::default() });
            (0..endpoints).for_each(|endpoint| court.note(endpoint.into(), "------"));
            assert_eq!(court.after(1).len(), most, "{percent} % of {endpoints}");
        }
    }

    #[test]
    fn an_ejection_ends_and_the_next_one_lasts_longer_until_it_has_served_well() {
        let mut court = Court::over(2, Ejection::default());
        for (lasts, pause) in [(30, 1), (60, 1), (90, 1), (60, 65), (30, 1000)] {
            court.note(0, "-----");
            assert_eq!(court.after(pause), [(0, '-')]);
            court.note(0, "-----");
            assert_eq!(court.after(lasts - 1), [], "what ends meanwhile is of no matter");
            assert_eq!(court.after(1), [(0, '+')], "after {lasts} s");
        }
    }

    #[test]
    fn one_that_was_down_and_up_again_comes_back_at_once() {
        let mut court = Court::over(2, Ejection::default());
        court.note(0, "-----");
        assert_eq!(court.after(1), [(0, '-')]);
        court.pool.endpoints()[0].set_probed(Health::Unhealthy);
        assert_eq!(court.after(1), []);
        court.pool.endpoints()[0].set_probed(Health::Healthy);
        assert_eq!(court.after(1), [(0, '+')]);
    }

    #[test]
    fn who_is_no_more_is_forgotten() {
        let mut court = Court::over(2, Ejection::default());
        court.judge.forget_the_rest();
        assert_eq!(court.judge.cases.len(), 2);
        court.judge.forget_the_rest();
        assert!(court.judge.cases.is_empty());
    }
}
