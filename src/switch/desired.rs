//! What a source wants of the apps it knows, always whole: a message replaces the one before it, so a missed one heals
//! with the next.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    address::Whereabouts,
    name::{AppName, Revision},
    policy::Policy,
    preview::PreviewAccess,
};

/// All that a source wants, app by app.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// The apps by name. An app that is missing is taken out of service.
    pub apps: BTreeMap<AppName, Wanted>,
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
}

impl EndpointSpec {
    /// The weight of an endpoint that names none.
    pub fn default_weight() -> u32 {
        1
    }
}

impl<A: Into<Whereabouts>> From<A> for EndpointSpec {
    fn from(address: A) -> Self {
        Self { address: address.into(), weight: Self::default_weight() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_kept_as_one_string_and_those_of_old_journals_are_read() {
        let old = r#"[{"address":"127.0.0.1:9001","weight":2},{"address":"[::1]:9001"}]"#;
        let specs: Vec<EndpointSpec> = serde_json::from_str(old).expect("as written before there were names");
        assert_eq!(specs[0], EndpointSpec { address: "127.0.0.1:9001".parse().expect("an address"), weight: 2 });
        for address in ["127.0.0.1:9001", "app.internal:9001", "unix:/run/app.sock"] {
            let spec = EndpointSpec::from(address.parse::<Whereabouts>().expect("an address"));
            let json = serde_json::to_string(&spec).expect("a record");
            assert_eq!(json, format!(r#"{{"address":"{address}","weight":1}}"#));
            assert_eq!(serde_json::from_str::<EndpointSpec>(&json).expect("as written"), spec);
        }
    }
}
