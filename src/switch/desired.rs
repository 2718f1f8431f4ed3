//! What a source wants of the apps it knows, always whole: a message replaces the one before it, so a missed one heals
//! with the next. Of an app that follows something else (a cluster), the configuration says only how it is treated; its
//! revisions and roles arrive apart, as [`Sighting`]s, whole as well.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    address::Whereabouts,
    name::{AppName, Revision},
    policy::Policy,
    preview::PreviewAccess,
    split::Weight,
};

/// All that a source wants, app by app.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// The apps by name. An app that is in neither list is taken out of service.
    pub apps: BTreeMap<AppName, Wanted>,
    /// The apps whose revisions and roles another source tells. No app is in both lists.
    pub followed: BTreeMap<AppName, Followed>,
}

impl Desired {
    /// How each app is run.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        let stated = self.apps.values().map(|wanted| &wanted.policy);
        stated.chain(self.followed.values().map(|followed| &followed.policy))
    }
}

/// What a source wants of one app.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Which requests are for this app.
    pub matching: Matching,
    /// The revisions the source knows, with their endpoints.
    pub revisions: BTreeMap<Revision, Vec<EndpointSpec>>,
    /// The revision that carries live traffic: where it starts, and where it goes when the source changes its mind.
    pub active: Revision,
    /// The candidate, if the source names one.
    pub preview: Option<Revision>,
    /// How the app is run.
    pub policy: Arc<Policy>,
}

/// What the configuration says of an app that follows another source: all but its revisions and roles.
#[derive(Clone, Debug, PartialEq)]
pub struct Followed {
    /// Which requests are for this app.
    pub matching: Matching,
    /// How the app is run.
    pub policy: Arc<Policy>,
    /// Who decides its flips.
    pub authority: Authority,
}

/// Who decides an app's flips. Whoever it is, a rollback is always ours to do at once (G5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    /// The switch, as it is ordered.
    #[default]
    Tealgate,
    /// Argo Rollouts, by the Services whose selectors it moves.
    ArgoRollouts,
    /// Whoever moves the selectors of two Services.
    Services,
}

impl Authority {
    /// The authority as it stands in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tealgate => "tealgate",
            Self::ArgoRollouts => "argo-rollouts",
            Self::Services => "services",
        }
    }
}

/// What was found of an app where it is followed, always whole: it replaces the sighting before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sighting {
    /// Every revision that has endpoints or a role, also those that nothing leads to yet: pools stand before roles move.
    pub revisions: BTreeMap<Revision, Sighted>,
    /// The revision that carries live traffic; `None` where that cannot be told just now, and what was said last holds.
    pub active: Option<Revision>,
    /// The newest revision. It is the candidate, unless it is active or was given up.
    pub preview: Option<Revision>,
    /// Whether the rollout of `preview` was given up.
    pub aborted: bool,
    /// The candidate's share of live traffic, where that is the source's to say.
    pub weight: Option<Weight>,
    /// The revision that is kept for a rollback.
    pub previous: Option<Revision>,
    /// Until when it is kept; `None` for as long as the policy says.
    pub previous_until: Option<Timestamp>,
    /// A rollback that was ordered at some replica, and that the source itself has not followed yet.
    pub returned: Option<Returned>,
    /// What is wrong where the app is followed, in sentences; shown until a sighting without them.
    pub alarms: Vec<String>,
}

/// One revision as it was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sighted {
    /// Its endpoints, also those that are not ready.
    pub endpoints: Vec<EndpointSpec>,
    /// What is known of it besides, e.g. `image` and `number`.
    pub labels: BTreeMap<String, String>,
}

/// A rollback as it is told from replica to replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// The revision that carries live traffic from then on.
    pub to: Revision,
    /// The one it was taken from. The rollback counts for as long as the source still wants this one active.
    pub from: Revision,
    /// When it was ordered: none is obeyed twice, and no older one after it.
    pub at: Timestamp,
    /// Who ordered it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Whether the source may go back to `from` all the same: once a person has to approve that there, who does means it.
    pub released: bool,
}

/// Which requests are for an app, and who may see its preview.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// Live hosts; none means every host that no other app names.
    pub hosts: Vec<HostPattern>,
    /// Path prefixes under those hosts; none means all paths. Each starts with `/`.
    pub paths: Vec<String>,
    /// Hosts that show the preview.
    pub preview_hosts: Vec<HostPattern>,
    /// Who sees the preview, and by which ways besides.
    pub preview: PreviewAccess,
}

impl Matching {
    /// The first live host that is one and not a pattern.
    pub(super) fn first_host(&self) -> Option<String> {
        self.hosts.iter().find_map(|pattern| match pattern {
            HostPattern::Exact(host) => Some(host.clone()),
            HostPattern::Below(_) => None,
        })
    }
}

/// A host as written in the configuration: exact, or with a leading `*.` for any label sequence below.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This host, in lower case, without port.
    Exact(String),
    /// Every host that ends in this suffix, which starts with a dot and is in lower case.
    Below(String),
}

impl HostPattern {
    /// Whether `host`, in lower case and without port, is one of these.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host == exact,
            // The suffix begins with a dot: something must come before it.
            Self::Below(suffix) => host.strip_suffix(suffix.as_str()).is_some_and(|labels| !labels.is_empty()),
        }
    }
}

/// One endpoint as a source names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// Where it is. A name stands for as many endpoints as it has addresses.
    pub address: Whereabouts,
    /// Its share relative to the others of its pool, 1 to 256; of a name, the share of each of its addresses.
    #[serde(default = "EndpointSpec::default_weight")]
    pub weight: u32,
    /// What its source says of its readiness.
    #[serde(default, skip_serializing_if = "Standing::is_ready")]
    pub standing: Standing,
}

/// What a source says of an endpoint's readiness; our own probes come on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It takes requests.
    #[default]
    Ready,
    /// On its way out: it takes requests only where no endpoint of its revision is ready.
    Leaving,
    /// It takes none yet, or none now.
    Unready,
}

impl Standing {
    fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

impl EndpointSpec {
    /// The weight of an endpoint that names none.
    pub fn default_weight() -> u32 {
        1
    }
}

impl<A: Into<Whereabouts>> From<A> for EndpointSpec {
    fn from(address: A) -> Self {
        Self { address: address.into(), weight: Self::default_weight(), standing: Standing::Ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_kept_as_one_string_and_those_of_old_journals_are_read() {
        let old = r#"[{"address":"127.0.0.1:9001","weight":2},{"address":"[::1]:9001"}]"#;
        let specs: Vec<EndpointSpec> = serde_json::from_str(old).expect("as written before there were names");
        assert_eq!(
            specs[0],
            EndpointSpec { weight: 2, .."127.0.0.1:9001".parse::<Whereabouts>().expect("an address").into() }
        );
        for address in ["127.0.0.1:9001", "app.internal:9001", "unix:/run/app.sock"] {
            let spec = EndpointSpec::from(address.parse::<Whereabouts>().expect("an address"));
            let json = serde_json::to_string(&spec).expect("a record");
            assert_eq!(json, format!(r#"{{"address":"{address}","weight":1}}"#));
            assert_eq!(serde_json::from_str::<EndpointSpec>(&json).expect("as written"), spec);
        }
    }
}
