//! The objects of a cluster that an app's state is read off, with only the fields that are read, small enough to keep by
//! the thousand. What the API server sends is `wire`; it becomes one of these before anything is stored.
//!
//! A [`Rollout`] is only ever patched: written back whole it would lose every field that is not modelled here.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::{
    apis::meta::v1::{LabelSelector, Time},
    util::intstr::IntOrString,
};
use kube::{CustomResource, core::ObjectMeta};
use serde::{Deserialize, Deserializer, Serialize};

/// The label that tells the revisions of a Rollout apart, on ReplicaSets and Pods, and in the selectors of Services.
pub const HASH: &str = "rollouts-pod-template-hash";
/// The annotation that numbers the revisions of a Rollout, on it and on its ReplicaSets.
pub const REVISION: &str = "rollout.argoproj.io/revision";
/// The annotation that says when a ReplicaSet is scaled down, on it.
pub const DEADLINE: &str = "scale-down-deadline";

/// Labels, or a selector that asks for each of them.
pub type Labels = BTreeMap<String, String>;

/// What a Rollout is to be.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "argoproj.io",
    version = "v1alpha1",
    kind = "Rollout",
    plural = "rollouts",
    namespaced,
    status = "RolloutStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutSpec {
    /// The wanted size of the stable and of the newest revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Whether somebody has paused it by hand.
    pub paused: bool,
    /// Which pods are its; may be left out where another object holds the template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// The object that holds the template, if that is not the Rollout itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_ref: Option<WorkloadRef>,
    /// Blue-green or canary.
    pub strategy: Strategy,
}

/// The object that holds a Rollout's template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadRef {
    /// Its group and version.
    pub api_version: String,
    /// Its kind: a Deployment, a ReplicaSet or a PodTemplate.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// How a Rollout goes from one revision to the next: one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// All at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreen>,
    /// Share by share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// The blue-green strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlueGreen {
    /// The Service whose selector says what carries live traffic.
    pub active_service: String,
    /// The Service that follows the newest revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_service: Option<String>,
    /// Whether it promotes by itself; `None` stands for yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_promotion_enabled: Option<bool>,
    /// After how many seconds it does; 0 for at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_promotion_seconds: Option<i32>,
    /// How large the candidate is before it is promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_replica_count: Option<i32>,
    /// How many seconds the replaced revision lives on; `None` stands for 30, 0 for for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down_delay_seconds: Option<i32>,
}

/// The canary strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Canary {
    /// The Service of the stable revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_service: Option<String>,
    /// The Service of the candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_service: Option<String>,
    /// In place of those, two Services that change their roles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_pong: Option<PingPong>,
    /// What is done one after the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<CanaryStep>,
    /// What routes by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_routing: Option<TrafficRouting>,
}

/// Two Services of a canary that change their roles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PingPong {
    /// The one.
    pub ping_service: String,
    /// The other.
    pub pong_service: String,
}

/// A step of a canary; those without a weight are not told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryStep {
    /// The candidate's weight from this step on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_weight: Option<i32>,
}

/// What routes a canary's traffic by weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficRouting {
    /// The weight that stands for all traffic; `None` stands for 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_traffic_weight: Option<i32>,
}

/// What has become of a Rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// What the status is about; trust `phase` only where it equals the generation.
    #[serde(deserialize_with = "text_or_number")]
    pub observed_generation: String,
    /// The newest revision's hash.
    #[serde(rename = "currentPodHash")]
    pub current: String,
    /// The hash of the revision that was last promoted in full.
    #[serde(rename = "stableRS")]
    pub stable: String,
    /// Whether the newest revision was given up.
    pub abort: bool,
    /// Whether somebody has asked to skip what is left of the rollout.
    pub promote_full: bool,
    /// Why it waits.
    pub pause_conditions: Vec<PauseCondition>,
    /// Whether the controller has paused it. With no pause condition left: somebody has just resumed it.
    pub controller_pause: bool,
    /// Healthy, Progressing, Paused or Degraded.
    pub phase: String,
    /// Why.
    pub message: String,
    /// Where a canary's steps have come to.
    pub current_step_index: Option<i32>,
    /// What is particular to blue-green.
    pub blue_green: BlueGreenStatus,
    /// What is particular to a canary.
    pub canary: CanaryStatus,
}

/// Why a Rollout waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseCondition {
    /// In one word, e.g. `BlueGreenPause`.
    pub reason: String,
    /// Since when.
    pub start_time: Option<Time>,
}

/// What has become of a blue-green Rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlueGreenStatus {
    /// The hash the controller last left in the active Service.
    pub active_selector: String,
    /// The hash it last left in the preview Service.
    pub preview_selector: String,
}

/// What has become of a canary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryStatus {
    /// How traffic is split; `None` where nothing routes by weight.
    pub weights: Option<Weights>,
}

/// How a canary's traffic is split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Weights {
    /// The candidate's share.
    pub canary: WeightOf,
    /// The stable revision's share.
    pub stable: WeightOf,
    /// The shares of experiments.
    pub additional: Vec<WeightOf>,
}

/// The weight of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WeightOf {
    /// Its weight.
    pub weight: i32,
    /// Its hash.
    #[serde(rename = "podTemplateHash")]
    pub hash: String,
}

impl Rollout {
    /// Its identity: another Rollout of the same name has another one.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The status, empty where the controller has not written one yet.
    pub fn seen(&self) -> RolloutStatus {
        self.status.clone().unwrap_or_default()
    }

    /// An annotation of it that we may keep (see [`Self::slim`]).
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Drops what is never read: managed fields, and others' annotations, which often hold the whole manifest.
    #[must_use]
    pub(super) fn slim(self) -> Self {
        let ObjectMeta { name, namespace, uid, generation, resource_version, annotations, .. } = self.metadata;
        let ours = |key: &String| key == REVISION || key.starts_with("tealgate.dev/");
        let annotations = annotations.map(|all| all.into_iter().filter(|(key, _)| ours(key)).collect());
        let metadata =
            ObjectMeta { name, namespace, uid, generation, resource_version, annotations, ..ObjectMeta::default() };
        Self { metadata, ..self }
    }
}

/// The controller writes a string where others might write a number.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Option::<IntOrString>::deserialize(deserializer)? {
        None => String::new(),
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(text)) => text,
    })
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Which pods it stands for; empty for none.
    pub selector: Labels,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// The families of addresses it stands for, the best first; empty where nobody has said.
    pub families: Vec<IpFamily>,
    /// Whether it only stands for a name outside the cluster.
    pub external: bool,
    /// Whether it keeps each client on one pod.
    pub sticky: bool,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where it is the only one.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Where a pod listens.
    pub target: TargetPort,
}

/// Where a pod listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// On this port.
    Number(u16),
    /// On the port that its containers call so, which may be another one in each pod.
    Name(String),
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Whether the address is of this family.
    pub fn holds(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// A ReplicaSet of a Rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// The identity of what controls it.
    pub owner: Option<String>,
    /// The hash of its pods.
    pub hash: String,
    /// Which revision it is; 0 where that cannot be told.
    pub number: u64,
    /// How many pods it is to have.
    pub replicas: i32,
    /// When it is scaled down.
    pub deadline: Option<Timestamp>,
    /// The images of its containers.
    pub images: Vec<String>,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// What it has in common with others.
    pub shape: Arc<Shape>,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Whether it is ready, by its probes and readiness gates.
    pub ready: bool,
    /// Whether it was told to end.
    pub leaving: bool,
    /// Whether its containers have ended for good.
    pub over: bool,
}

/// What controls an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
}

/// What the pods of one template have in common, kept once for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What controls them.
    pub owner: Option<Owner>,
    /// Their labels.
    pub labels: Labels,
    /// The named TCP ports of their containers, in the order in which they are looked for.
    pub ports: Vec<(String, u16)>,
    /// The images of their containers.
    pub images: Vec<String>,
}

impl Shape {
    /// Whether the selector asks for nothing that they lack.
    pub fn fits<'a>(&self, selector: impl IntoIterator<Item = (&'a String, &'a String)>) -> bool {
        selector.into_iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// The number of a named port.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(known, _)| known == name).map(|(_, number)| *number)
    }
}
