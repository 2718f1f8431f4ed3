//! Pods, ReplicaSets and Services as the API server sends them, cut down to what is read while they are parsed: the rest
//! of a Pod is most of it, and none of it is ever built.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::{apps, core},
    apimachinery::pkg::{apis::meta::v1::OwnerReference, util::intstr::IntOrString},
};
use kube::{Resource, core::ObjectMeta};
use serde::Deserialize;

use super::objects::{self, DEADLINE, HASH, IpFamily, Labels, Owner, REVISION, Shape, TargetPort};

/// A Pod.
#[derive(Clone, Debug, Resource, Deserialize)]
#[resource(inherit = "core::v1::Pod")]
pub(super) struct Pod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    image: String,
    ports: Vec<ContainerPort>,
    /// `Always` makes an init container one that goes on, and may listen.
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Option<String>,
    container_port: i32,
    protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    conditions: Vec<Condition>,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

impl Pod {
    /// What of it is kept.
    pub(super) fn cut(self) -> objects::Pod {
        let Self { metadata, spec, status } = self;
        let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let listening = spec.containers.iter().chain(spec.init_containers.iter().filter(sidecar));
        let shape = Shape {
            owner: controller(metadata.owner_references),
            labels: metadata.labels.unwrap_or_default(),
            ports: listening.flat_map(|container| &container.ports).filter_map(ContainerPort::named).collect(),
            images: spec.containers.into_iter().map(|container| container.image).collect(),
        };
        let all = status.pod_ips.iter().map(|PodIp { ip }| ip);
        let mut addresses: Vec<IpAddr> = all.chain([&status.pod_ip]).filter_map(|ip| ip.parse().ok()).collect();
        addresses.dedup();
        if addresses.len() > 1 && addresses.first() == addresses.last() {
            addresses.pop();
        }
        objects::Pod {
            name: metadata.name.unwrap_or_default(),
            shape: Arc::new(shape),
            addresses,
            ready: status.conditions.iter().any(|Condition { r#type, status }| r#type == "Ready" && status == "True"),
            leaving: metadata.deletion_timestamp.is_some(),
            over: matches!(&*status.phase, "Succeeded" | "Failed"),
        }
    }
}

impl ContainerPort {
    fn named(&self) -> Option<(String, u16)> {
        let name = self.name.clone().filter(|_| is_tcp(self.protocol.as_deref()))?;
        Some((name, u16::try_from(self.container_port).ok()?))
    }
}

/// A ReplicaSet.
#[derive(Clone, Debug, Resource, Deserialize)]
#[resource(inherit = "apps::v1::ReplicaSet")]
pub(super) struct ReplicaSet {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ReplicaSetSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReplicaSetSpec {
    replicas: Option<i32>,
    template: Template,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    spec: PodSpec,
}

impl ReplicaSet {
    /// What of it is kept.
    pub(super) fn cut(self) -> objects::ReplicaSet {
        let Self { metadata, spec } = self;
        let annotations = metadata.annotations.unwrap_or_default();
        objects::ReplicaSet {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            owner: controller(metadata.owner_references).map(|owner| owner.uid),
            hash: metadata.labels.and_then(|mut labels| labels.remove(HASH)).unwrap_or_default(),
            number: annotations.get(REVISION).and_then(|number| number.parse().ok()).unwrap_or_default(),
            replicas: spec.replicas.unwrap_or(1),
            deadline: annotations.get(DEADLINE).and_then(|time| time.parse().ok()),
            images: spec.template.spec.containers.into_iter().map(|container| container.image).collect(),
        }
    }
}

/// A Service.
#[derive(Clone, Debug, Resource, Deserialize)]
#[resource(inherit = "core::v1::Service")]
pub(super) struct Service {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    selector: Option<Labels>,
    ports: Vec<ServicePort>,
    ip_families: Vec<String>,
    r#type: String,
    session_affinity: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicePort {
    name: Option<String>,
    port: i32,
    target_port: Option<IntOrString>,
    protocol: Option<String>,
}

impl Service {
    /// What of it is kept.
    pub(super) fn cut(self) -> objects::Service {
        let Self { metadata, spec } = self;
        let family = |name: String| match &*name {
            "IPv4" => Some(IpFamily::V4),
            "IPv6" => Some(IpFamily::V6),
            _ => None,
        };
        objects::Service {
            name: metadata.name.unwrap_or_default(),
            selector: spec.selector.unwrap_or_default(),
            ports: spec.ports.into_iter().filter_map(ServicePort::cut).collect(),
            families: spec.ip_families.into_iter().filter_map(family).collect(),
            external: spec.r#type == "ExternalName",
            sticky: spec.session_affinity == "ClientIP",
        }
    }
}

impl ServicePort {
    fn cut(self) -> Option<objects::ServicePort> {
        let number = u16::try_from(self.port).ok().filter(|_| is_tcp(self.protocol.as_deref()))?;
        let target = match self.target_port {
            None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(target).ok()?),
            Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
            Some(IntOrString::String(name)) => TargetPort::Name(name),
        };
        Some(objects::ServicePort { name: self.name.unwrap_or_default(), number, target })
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

fn controller(owners: Option<Vec<OwnerReference>>) -> Option<Owner> {
    let controller = owners.unwrap_or_default().into_iter().find(|owner| owner.controller == Some(true))?;
    Some(Owner { name: controller.name, uid: controller.uid })
}
