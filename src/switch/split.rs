//! Live traffic told apart: which of it goes to the candidate. Rules come first: whoever sends a certain header or cookie
//! asked for it. Of the rest a share goes, by weight. Each user has a number from 0 to 99 and is on the candidate if that
//! is below the weight, so raising the weight takes nobody back; lowering it takes back those at or above it, and an abort,
//! a rollback or a weight of 0 all of them.
//!
//! The number belongs to one candidate of one app: it is drawn, and kept in a cookie of the proxy's own, or it is a hash of
//! what the user has with him anyway. With the next candidate every number is a new one, lest it is always the same
//! users who go first. Pure: chance comes in from outside.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    name::{AppName, Revision},
    reader::RequestKey,
    set_cookie::SetCookie,
};

/// The cookie that keeps a user's number.
pub(super) const OWN_COOKIE: &str = "tealgate-ab";

/// How long it is kept: longer than a rollout takes.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How many numbers there are; a number is less.
pub(super) const NUMBERS: u8 = 100;

/// A share of live traffic, in whole percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Weight(u8);

impl Weight {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many percent, 0 to 100.
    pub fn of_percent(percent: u8) -> Option<Self> {
        (percent <= NUMBERS).then_some(Self(percent))
    }

    /// The share in percent.
    pub fn percent(self) -> u8 {
        self.0
    }

    fn takes(self, number: u8) -> bool {
        number < self.0
    }
}

/// Why a text is no share.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{given:?} is not a share: write a whole percentage from 0% to 100%, such as 5%")]
pub struct NotAWeight {
    given: String,
}

impl FromStr for Weight {
    type Err = NotAWeight;

    /// `5%`, or just `5`.
    fn from_str(given: &str) -> Result<Self, NotAWeight> {
        let digits = given.strip_suffix('%').unwrap_or(given);
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let weight = digits.parse().ok().filter(|_| plain).and_then(Self::of_percent);
        weight.ok_or_else(|| NotAWeight { given: given.chars().take(20).collect() })
    }
}

impl TryFrom<u8> for Weight {
    type Error = &'static str;

    fn try_from(percent: u8) -> Result<Self, Self::Error> {
        Self::of_percent(percent).ok_or("a share is 0 to 100 percent")
    }
}

impl From<Weight> for u8 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// How live traffic is told apart, as the app's owner wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitPolicy {
    /// The share each new candidate starts with.
    pub weight: Weight,
    /// What a user is known by.
    pub sticky: Sticky,
    /// Who goes to the candidate whatever the weight: whoever one of these fits.
    pub rules: Vec<SplitRule>,
}

/// What a user is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    /// A cookie of the proxy's own, `tealgate-ab`.
    #[default]
    OwnCookie,
    /// A field of the application's. Users without it stay on the active revision.
    Mark(Mark),
    /// The client's address; of an IPv6 address the first 64 bits, which is what a household keeps.
    ClientIp,
}

/// A field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A header, by its name in lower case.
    Header(String),
    /// A cookie, by its name.
    Cookie(String),
}

impl Mark {
    fn of<'a>(&self, key: &'a impl RequestKey) -> Option<&'a [u8]> {
        match self {
            Self::Header(name) => key.field(name),
            Self::Cookie(name) => key.cookie(name),
        }
    }
}

/// What sends a request to the candidate whatever the weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitRule {
    /// Which field is looked at.
    pub mark: Mark,
    /// The value it must have; without one any will do.
    pub equals: Option<String>,
}

impl SplitRule {
    fn fits(&self, key: &impl RequestKey) -> bool {
        let fits = |given: &[u8]| self.equals.as_ref().is_none_or(|value| value.as_bytes() == given);
        self.mark.of(key).is_some_and(fits)
    }
}

/// How live traffic is told apart now: there is a candidate, and it is ready.
#[derive(PartialEq, Eq)]
pub struct Split {
    weight: Weight,
    /// Whether the rules are in force.
    by_rules: bool,
    /// What a cookie for this candidate begins with: `shop:green:`.
    candidate: String,
}

/// Where a live request falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// On the active revision, whatever the weight.
    Outside,
    /// On the candidate, whatever the weight.
    ByRule,
    /// On the candidate if its number is below the weight.
    Number {
        /// The number, 0 to 99.
        number: u8,
        /// Whether it was drawn just now, and is to be kept by the client.
        is_new: bool,
    },
}

impl Split {
    /// `None` if nothing goes to the candidate by it.
    pub(super) fn new(app: &AppName, candidate: &Revision, weight: Weight, by_rules: bool) -> Option<Self> {
        let is_open = weight > Weight::ZERO || by_rules;
        is_open.then(|| Self { weight, by_rules, candidate: format!("{app}:{candidate}:") })
    }

    /// Where a request falls. `draw` gives a number, all equally often.
    pub(super) fn share(&self, policy: &SplitPolicy, key: &impl RequestKey, draw: impl FnOnce() -> u8) -> Share {
        if self.by_rules && policy.rules.iter().any(|rule| rule.fits(key)) {
            return Share::ByRule;
        }
        if self.weight == Weight::ZERO {
            return Share::Outside;
        }
        let known_by = match &policy.sticky {
            Sticky::OwnCookie => {
                let kept = key.cookie(OWN_COOKIE).and_then(|value| self.number_in(value));
                let number = kept.unwrap_or_else(draw);
                return Share::Number { number, is_new: kept.is_none() };
            }
            Sticky::Mark(mark) => mark.of(key).map(<[u8]>::to_vec),
            Sticky::ClientIp => key.client().map(network),
        };
        known_by.map_or(Share::Outside, |known_by| Share::Number { number: self.hash(&known_by), is_new: false })
    }

    /// Whether a request that falls here goes to the candidate.
    pub(super) fn takes(&self, share: Share) -> bool {
        match share {
            Share::Outside => false,
            Share::ByRule => self.by_rules,
            Share::Number { number, .. } => self.weight.takes(number),
        }
    }

    /// The lines that have the client keep its number, if it is a new one.
    pub(super) fn remember(&self, share: Share, paths: &[String], secure: bool) -> Option<Box<str>> {
        let Share::Number { number, is_new: true } = share else { return None };
        let value = format!("{}{number}", self.candidate);
        Some(SetCookie { name: OWN_COOKIE, value: &value, keep: Some(KEPT), secure }.lines(paths))
    }

    fn number_in(&self, cookie: &[u8]) -> Option<u8> {
        let number = cookie.strip_prefix(self.candidate.as_bytes())?;
        let plain = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(number).ok().filter(|_| plain)?.parse().ok()?;
        (number < NUMBERS).then_some(number)
    }

    /// The same everywhere and always, which hashes made for tables do not promise.
    fn hash(&self, known_by: &[u8]) -> u8 {
        let digest = digest::digest(&digest::SHA256, &[self.candidate.as_bytes(), known_by].concat());
        let first = digest.as_ref().iter().take(8).fold(0_u64, |all, octet| all << 8 | u64::from(*octet));
        u8::try_from(first % u64::from(NUMBERS)).unwrap_or_default()
    }
}

fn network(client: IpAddr) -> Vec<u8> {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets()[..8].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct User {
        fields: Vec<(&'static str, String)>,
        client: Option<IpAddr>,
    }

    impl User {
        fn with(name: &'static str, value: impl Into<String>) -> Self {
            Self { fields: vec![(name, value.into())], client: None }
        }

        fn from(client: &str) -> Self {
            Self { client: Some(client.parse().expect("an address")), ..Self::default() }
        }
    }

    impl RequestKey for User {
        fn host(&self) -> &str {
            "shop.test"
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
            self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes())
        }
        fn cookie(&self, name: &str) -> Option<&[u8]> {
            self.field(name)
        }
    }

    fn split(candidate: &str, weight: u8, by_rules: bool) -> Split {
        let (app, candidate) = ("shop".parse().expect("a name"), candidate.parse().expect("a name"));
        Split::new(&app, &candidate, Weight::of_percent(weight).expect("percent"), by_rules).expect("it is open")
    }

    fn sticky(sticky: Sticky) -> SplitPolicy {
        SplitPolicy { sticky, ..SplitPolicy::default() }
    }

    fn by(mark: Mark) -> SplitPolicy {
        sticky(Sticky::Mark(mark))
    }

    fn never() -> u8 {
        unreachable!("nothing is to be drawn")
    }

    #[test]
    fn a_share_is_a_whole_percentage() {
        for (text, percent) in [("0", 0), ("0%", 0), ("5%", 5), ("05%", 5), ("100%", 100), ("7", 7)] {
            assert_eq!(text.parse::<Weight>().map(Weight::percent), Ok(percent), "{text}");
        }
        for bad in ["", "%", "101%", "-1%", "+1%", "0.5%", "5 %", "half", "999999999999"] {
            assert!(bad.parse::<Weight>().is_err(), "{bad}");
        }
    }

    #[test]
    fn who_is_known_goes_where_he_went() {
        let policy = SplitPolicy::default();
        let split = split("green", 30, false);
        for (cookie, expected) in [
            ("shop:green:0", Some((0, true))),
            ("shop:green:29", Some((29, true))),
            ("shop:green:30", Some((30, false))),
            ("shop:green:99", Some((99, false))),
            // Another candidate's, another app's, or nobody's.
            ("shop:blue:7", None),
            ("blog:green:7", None),
            ("shop:green:100", None),
            ("shop:green:+7", None),
            ("shop:green:", None),
            ("shop:green:7x", None),
            ("", None),
        ] {
            let share = split.share(&policy, &User::with(OWN_COOKIE, cookie), || 77);
            let known = expected.map_or(Share::Number { number: 77, is_new: true }, |(number, _)| Share::Number {
                number,
                is_new: false,
            });
            assert_eq!((share, split.takes(share)), (known, expected.is_some_and(|(_, on)| on)), "{cookie}");
        }
    }

    #[test]
    fn a_new_number_is_given_to_the_client_to_keep_wherever_it_falls() {
        let (policy, split) = (SplitPolicy::default(), split("green", 30, false));
        for (drawn, on) in [(29, true), (30, false)] {
            let share = split.share(&policy, &User::default(), || drawn);
            let lines = split.remember(share, &[], true).expect("a line");
            let expected = format!("set-cookie: tealgate-ab=shop:green:{drawn}; Path=/; ");
            assert!(lines.starts_with(&expected) && lines.contains("; Max-Age=2592000; Secure"), "{lines}");
            assert_eq!(split.takes(share), on);
            let value = lines.split(['=', ';']).nth(1).expect("a value");
            let again = split.share(&policy, &User::with(OWN_COOKIE, value), never);
            assert_eq!(again, Share::Number { number: drawn, is_new: false });
            assert_eq!(split.remember(again, &[], true), None, "what is kept already is not given again");
        }
    }

    #[test]
    fn rules_come_before_the_weight_and_need_none() {
        let rule = |mark, equals: Option<&str>| SplitRule { mark, equals: equals.map(str::to_owned) };
        let policy = SplitPolicy {
            rules: vec![
                rule(Mark::Header("x-beta".to_owned()), Some("1")),
                rule(Mark::Cookie("beta".to_owned()), None),
            ],
            ..SplitPolicy::default()
        };
        let open = split("green", 0, true);
        for (user, on) in [
            (User::with("x-beta", "1"), true),
            (User::with("x-beta", "2"), false),
            (User::with("beta", ""), true),
            (User::default(), false),
        ] {
            let share = open.share(&policy, &user, never);
            assert_eq!(open.takes(share), on, "{:?}", user.fields);
        }
        let closed = split("green", 50, false);
        assert!(!closed.takes(closed.share(&policy, &User::with("x-beta", "1"), || 99)), "rolled back");
        assert!(!closed.takes(Share::ByRule), "what a retry remembers counts for no more than the rules do now");
    }

    #[test]
    fn without_what_he_is_known_by_a_user_stays_on_the_active_revision() {
        let split = split("green", 100, false);
        for policy in
            [by(Mark::Cookie("session".to_owned())), by(Mark::Header("x-user".to_owned())), sticky(Sticky::ClientIp)]
        {
            assert_eq!(split.share(&policy, &User::default(), never), Share::Outside, "{policy:?}");
        }
    }

    #[test]
    fn a_client_keeps_its_side_within_its_network() {
        let (policy, split) = (sticky(Sticky::ClientIp), split("green", 50, false));
        let share = |client: &str| split.share(&policy, &User::from(client), never);
        assert_eq!(share("2001:db8::1"), share("2001:db8::ffff:1"));
        assert_eq!(share("192.0.2.1"), share("::ffff:192.0.2.1"));
        let others: std::collections::BTreeSet<_> =
            (0..50).map(|n| format!("{:?}", share(&format!("192.0.2.{n}")))).collect();
        assert!(others.len() > 10, "{others:?}");
    }

    /// Four standard deviations of a binomial share: one run in 16,000 would fail by chance, and the seed is fixed.
    fn is_about(count: usize, of: usize, weight: u8) -> bool {
        let (n, p) = (of as f64, f64::from(weight) / 100.0);
        (count as f64 - n * p).abs() <= 4.0 * (n * p * (1.0 - p)).sqrt()
    }

    #[test]
    fn the_share_is_what_the_weight_says() {
        const USERS: usize = 20_000;
        for weight in [1, 5, 25, 50, 99, 100] {
            let split = split("green", weight, false);
            let mut rng = fastrand::Rng::with_seed(7);
            let drawn = (0..USERS)
                .filter(|_| split.takes(split.share(&SplitPolicy::default(), &User::default(), || rng.u8(0..NUMBERS))));
            assert!(is_about(drawn.count(), USERS, weight), "drawn, {weight}");
            let policy = by(Mark::Cookie("session".to_owned()));
            let hashed =
                (0..USERS).filter(|n| split.takes(split.share(&policy, &User::with("session", n.to_string()), never)));
            assert!(is_about(hashed.count(), USERS, weight), "hashed, {weight}");
        }
    }

    #[test]
    fn the_next_candidate_is_tried_on_others() {
        let policy = by(Mark::Cookie("session".to_owned()));
        let [green, teal] = ["green", "teal"].map(|candidate| split(candidate, 50, false));
        let both = (0..10_000).filter(|n| {
            let user = User::with("session", n.to_string());
            [&green, &teal].iter().all(|split| split.takes(split.share(&policy, &user, never)))
        });
        assert!(is_about(both.count(), 10_000, 25));
    }

    proptest! {
        #[test]
        fn raising_the_weight_takes_nobody_back(session: String, low in 1_u8..=100, more in 0_u8..=99) {
            let high = low.saturating_add(more).min(100);
            let policy = by(Mark::Cookie("session".to_owned()));
            let user = User::with("session", session);
            let [before, after] = [low, high].map(|weight| split("green", weight, false));
            let share = before.share(&policy, &user, never);
            prop_assert_eq!(share, after.share(&policy, &user, never), "a user keeps his number");
            prop_assert!(!before.takes(share) || after.takes(share));
        }

        #[test]
        fn whatever_a_cookie_holds_there_is_a_number(cookie: String, drawn in 0..NUMBERS) {
            let share = split("green", 50, false).share(&SplitPolicy::default(), &User::with(OWN_COOKIE, cookie), || drawn);
            let number = match share {
                Share::Number { number, .. } => Some(number),
                Share::Outside | Share::ByRule => None,
            };
            prop_assert!(number.is_some_and(|number| number < NUMBERS));
        }
    }
}
