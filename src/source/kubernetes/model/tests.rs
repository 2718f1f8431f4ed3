//! What is read off the objects of one app, promise by promise. Objects are written as the API server sends them.

mod blue_green;
mod canary;
mod doors;
mod order;
mod services;

use serde_json::{Value, json};

use super::*;
use crate::{
    source::kubernetes::{PortName, wire},
    switch::{Sighted, Standing},
};

/// The objects of an app.
struct World {
    target: Target,
    rollout: Option<Rollout>,
    /// Whether the Rollout is only remembered.
    deleted: bool,
    services: Vec<Service>,
    /// Services that are only remembered.
    deleted_services: Vec<Service>,
    replica_sets: Vec<ReplicaSet>,
    pods: Vec<Pod>,
    learnt: Learnt,
}

impl World {
    fn of(objects: Objects) -> Self {
        let target = Target { namespace: None, objects, port: None };
        Self {
            target,
            rollout: None,
            deleted: false,
            services: Vec::new(),
            deleted_services: Vec::new(),
            replica_sets: Vec::new(),
            pods: Vec::new(),
            learnt: Learnt::default(),
        }
    }

    fn find<'a>(&'a self, name: Option<&String>) -> Seen<'a, Service> {
        let named = |services: &'a [Service]| services.iter().find(|service| Some(&service.name) == name);
        match (named(&self.services), named(&self.deleted_services)) {
            (Some(here), _) => Seen::Here(here),
            (None, Some(gone)) => Seen::Gone(gone),
            (None, None) => Seen::Never,
        }
    }

    fn scene(&self) -> Scene<'_> {
        let names = ServiceNames::of(&self.target, self.rollout.as_ref());
        Scene {
            target: &self.target,
            rollout: match &self.rollout {
                Some(rollout) if self.deleted => Seen::Gone(rollout),
                Some(rollout) => Seen::Here(rollout),
                None => Seen::Never,
            },
            active: self.find(names.active.as_ref()),
            preview: self.find(names.preview.as_ref()),
            replica_sets: self.replica_sets.iter().collect(),
            pods: self.pods.iter().collect(),
            learnt: &self.learnt,
        }
    }

    fn sight(&self) -> Sighting {
        sight(&self.scene(), now()).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Why nothing can be said.
    fn silence(&self) -> String {
        sight(&self.scene(), now()).expect_err("something was said")
    }

    fn scope(&self) -> Option<String> {
        scope(&self.scene())
    }

    fn patch(&mut self, change: Value) {
        let rollout = self.rollout.take().expect("a Rollout");
        let mut value = serde_json::to_value(rollout).expect("it is JSON");
        merge(&mut value, change);
        self.rollout = Some(serde_json::from_value(value).expect("a Rollout"));
    }

    /// Moves the selector of a Service, as a merge patch does: `null` takes a label away.
    fn select(&mut self, name: &str, labels: Value) {
        let service = self.services.iter_mut().find(|service| service.name == name).expect("a Service");
        for (key, value) in labels.as_object().expect("labels") {
            match value.as_str() {
                Some(value) => _ = service.selector.insert(key.clone(), value.to_owned()),
                None => _ = service.selector.remove(key),
            }
        }
    }
}

/// A JSON merge patch (RFC 7396).
fn merge(value: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *value = change;
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, change) in change {
        let object = value.as_object_mut().expect("an object");
        if change.is_null() {
            object.remove(&key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), change);
        }
    }
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("a time")
}

fn rollout(spec: Value, status: Value) -> Rollout {
    let metadata = json!({ "name": "shop", "namespace": "web", "uid": "ro-1", "generation": 2 });
    let whole = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": metadata, "spec": spec, "status": status,
    });
    serde_json::from_value::<Rollout>(whole).expect("a Rollout").slim()
}

fn service(name: &str, selector: Value) -> Service {
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }]);
    let spec = json!({ "selector": selector, "ports": ports, "ipFamilies": ["IPv4"], "type": "ClusterIP" });
    service_of(name, spec)
}

fn service_of(name: &str, spec: Value) -> Service {
    let whole = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec });
    serde_json::from_value::<wire::Service>(whole).expect("a Service").cut()
}

/// A ReplicaSet of the Rollout, with as many pods to have.
fn set(hash: &str, number: u64, replicas: i32) -> ReplicaSet {
    set_of("ro-1", hash, number, replicas, None)
}

fn set_of(owner: &str, hash: &str, number: u64, replicas: i32, deadline: Option<&str>) -> ReplicaSet {
    let mut annotations = json!({ "rollout.argoproj.io/revision": number.to_string() });
    if let Some(deadline) = deadline {
        annotations["scale-down-deadline"] = deadline.into();
    }
    let whole = json!({
        "metadata": {
            "name": format!("shop-{hash}"), "uid": format!("rs-{hash}"), "annotations": annotations,
            "labels": { "app": "shop", "rollouts-pod-template-hash": hash },
            "ownerReferences": [{ "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "shop", "uid": owner, "controller": true }],
        },
        "spec": { "replicas": replicas, "template": { "spec": { "containers": [{ "image": format!("shop:{hash}") }, { "image": "envoy:1" }] } } },
    });
    serde_json::from_value::<wire::ReplicaSet>(whole).expect("a ReplicaSet").cut()
}

/// The manifest of a ready pod of this hash, with this address.
fn manifest(hash: &str, address: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("shop-{hash}-{address}"),
            "labels": { "app": "shop", "rollouts-pod-template-hash": hash },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("shop-{hash}"), "uid": format!("rs-{hash}"), "controller": true }],
        },
        "spec": { "containers": [{ "image": format!("shop:{hash}"), "ports": [{ "name": "http", "containerPort": 8080 }] }] },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

fn pod(hash: &str, address: &str) -> Pod {
    changed(hash, address, json!({}))
}

/// A pod that differs from a ready one in this.
fn changed(hash: &str, address: &str, change: Value) -> Pod {
    let mut whole = manifest(hash, address);
    merge(&mut whole, change);
    serde_json::from_value::<wire::Pod>(whole).expect("a Pod").cut()
}

fn unready() -> Value {
    json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } })
}

/// Active and candidate, and whether that was given up.
fn roles(sighting: &Sighting) -> (Option<&str>, Option<&str>, bool) {
    (sighting.active.as_ref().map(Revision::as_str), sighting.preview.as_ref().map(Revision::as_str), sighting.aborted)
}

/// The endpoints of a revision, as `address standing`.
fn endpoints(sighting: &Sighting, revision: &str) -> Vec<String> {
    let found = sighting.revisions.get(&revision.parse::<Revision>().expect("a name"));
    let Sighted { endpoints, .. } = found.unwrap_or_else(|| panic!("no {revision} in {sighting:#?}"));
    let word = |standing| match standing {
        Standing::Ready => "ready",
        Standing::Leaving => "leaving",
        Standing::Unready => "unready",
    };
    endpoints.iter().map(|spec| format!("{} {}", spec.address, word(spec.standing))).collect()
}

fn revisions(sighting: &Sighting) -> Vec<&str> {
    sighting.revisions.keys().map(Revision::as_str).collect()
}

fn label<'a>(sighting: &'a Sighting, revision: &str, label: &str) -> Option<&'a str> {
    let revision: Revision = revision.parse().expect("a name");
    sighting.revisions.get(&revision)?.labels.get(label).map(String::as_str)
}

/// Whether an alarm says so.
fn alarmed(sighting: &Sighting, words: &str) -> bool {
    sighting.alarms.iter().any(|alarm| alarm.contains(words))
}
