//! What the configuration says of apps that follow a cluster: which cluster, and which objects in it. Plain values, so that
//! they can be read and checked by a build that cannot reach a cluster.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use crate::switch::{AppName, Authority};

/// Which apps follow objects of which cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// The cluster.
    pub cluster: Cluster,
    /// The apps, and what each follows there.
    pub apps: BTreeMap<AppName, Target>,
}

/// How the cluster's API server is reached. With neither: by the file that `KUBECONFIG` names, else by `~/.kube/config`,
/// else as a pod does that runs in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// A kubeconfig file to use in place of those.
    pub kubeconfig: Option<PathBuf>,
    /// The context in that file; `None` for its current one.
    pub context: Option<String>,
}

/// What an app follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The namespace; `None` for our own: the pod's in a cluster, that of the kubeconfig's context outside.
    pub namespace: Option<String>,
    /// The objects there.
    pub objects: Objects,
    /// Which port of the Service, where it has several.
    pub port: Option<PortName>,
}

/// The objects that an app's roles are read off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// A Rollout of Argo Rollouts, by name.
    Rollout(String),
    /// Two Services, by name: the active and the preview one.
    Services {
        /// Its selector says which pods carry live traffic.
        active: String,
        /// Its selector says which pods are the candidate's.
        preview: String,
    },
}

/// A port of a Service, by name or by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// By its name.
    Name(String),
    /// By its number.
    Number(u16),
}

impl Target {
    /// Who decides the app's flips.
    pub fn authority(&self) -> Authority {
        match self.objects {
            Objects::Rollout(_) => Authority::ArgoRollouts,
            Objects::Services { .. } => Authority::Services,
        }
    }
}

impl fmt::Display for Target {
    /// `Rollout shop/shop`, or `Services shop/shop-active, shop/shop-preview`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        match &self.objects {
            Objects::Rollout(name) => write!(f, "Rollout {place}{name}"),
            Objects::Services { active, preview } => write!(f, "Services {place}{active}, {place}{preview}"),
        }
    }
}
