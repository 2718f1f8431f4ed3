//! Plays the part of Argo Rollouts and of the kubelet in a [`Cluster`]: makes the objects of a Rollout `shop` in the
//! namespace `web`, and writes to them what is written in a life of it, in the same order.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

use super::{backend::Backend, cluster::Cluster, setup::Setup};

/// The label and selector that tells revisions apart.
pub const HASH: &str = "rollouts-pod-template-hash";

impl Cluster {
    /// A Rollout `shop` that is active with `h1` at this upstream, and nothing under way.
    pub fn with_shop(upstream: &Backend) -> Self {
        let cluster = Self::spawn();
        cluster.put_rollout(json!({
            "currentPodHash": "h1", "stableRS": "h1",
            "blueGreen": { "activeSelector": "h1", "previewSelector": "h1" },
        }));
        for name in ["shop-active", "shop-preview"] {
            cluster.put_service(name, json!({ "app": "shop", HASH: "h1" }));
        }
        cluster.put_replica_set("h1", 1, 1);
        cluster.put_pod("h1", upstream.address());
        cluster
    }

    pub fn put_rollout(&self, status: Value) {
        let strategy = json!({ "blueGreen": { "activeService": "shop-active", "previewService": "shop-preview" } });
        self.put(
            "rollouts",
            json!({
                "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
                "metadata": { "name": "shop", "uid": "ro-1", "generation": 1 },
                "spec": { "selector": { "matchLabels": { "app": "shop" } }, "strategy": strategy },
                "status": status,
            }),
        );
    }

    pub fn put_service(&self, name: &str, selector: Value) {
        let ports = json!([{ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" }]);
        self.put(
            "services",
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "selector": selector, "ports": ports, "ipFamilies": ["IPv4"], "type": "ClusterIP" },
            }),
        );
    }

    pub fn put_replica_set(&self, hash: &str, number: u64, replicas: u32) {
        let owner = json!([{ "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "shop", "uid": "ro-1", "controller": true }]);
        self.put("replicasets", json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": format!("shop-{hash}"), "uid": format!("rs-{hash}"), "ownerReferences": owner,
                "labels": { "app": "shop", HASH: hash },
                "annotations": { "rollout.argoproj.io/revision": number.to_string() },
            },
            "spec": { "replicas": replicas, "template": { "spec": { "containers": [{ "image": format!("shop:{hash}") }] } } },
        }));
    }

    /// A ready pod of this revision, which is this upstream.
    pub fn put_pod(&self, hash: &str, upstream: SocketAddr) {
        let owner = json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("shop-{hash}"), "uid": format!("rs-{hash}"), "controller": true }]);
        let labels = json!({ "app": "shop", HASH: hash });
        self.put_pod_of(&format!("shop-{hash}-{}", upstream.port()), labels, owner, upstream);
    }

    pub fn put_pod_of(&self, name: &str, labels: Value, owners: Value, upstream: SocketAddr) {
        let port = json!([{ "name": "http", "containerPort": upstream.port() }]);
        self.put(
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "labels": labels, "ownerReferences": owners },
                "spec": { "containers": [{ "name": "web", "image": "shop:1", "ports": port }] },
                "status": {
                    "phase": "Running", "podIP": upstream.ip(), "podIPs": [{ "ip": upstream.ip() }],
                    "conditions": [{ "type": "Ready", "status": "True" }],
                },
            }),
        );
    }

    /// Moves the selector of a Service.
    pub fn select(&self, service: &str, hash: Option<&str>) {
        self.patch("services", service, json!({ "spec": { "selector": { HASH: hash } } }));
    }

    /// A new template: the preview Service moves while there are no pods, then they come.
    pub fn updates(&self, hash: &str, number: u64, upstream: &Backend) {
        self.put_replica_set(hash, number, 0);
        self.select("shop-preview", Some(hash));
        let selectors = json!({ "previewSelector": hash });
        self.patch(
            "rollouts",
            "shop",
            json!({ "status": { "currentPodHash": hash, "blueGreen": selectors, "abort": null } }),
        );
        self.put_replica_set(hash, number, 1);
        self.put_pod(hash, upstream.address());
    }

    /// What the controller writes when a promotion goes through.
    pub fn promotes(&self, hash: &str) {
        self.select("shop-active", Some(hash));
        let status = json!({ "stableRS": hash, "blueGreen": { "activeSelector": hash } });
        self.patch("rollouts", "shop", json!({ "status": status }));
    }
}

/// A proxy that follows this in that cluster. `blue` and `green` are only there to be replaced.
pub fn following(cluster: &Cluster, objects: Value) -> Setup {
    let (blue, green) = (Backend::spawn("blue"), Backend::spawn("green"));
    let mut setup = Setup::between(&blue, &green);
    setup.app()["source"] = json!({ "kubernetes": objects });
    let kubeconfig: PathBuf = setup.path("kubeconfig");
    cluster.write_kubeconfig(&kubeconfig, "t0ken");
    setup.config["kubernetes"] = json!({ "kubeconfig": kubeconfig });
    setup
}

/// The Rollout, in the namespace of the kubeconfig's context.
pub fn the_rollout() -> Value {
    json!({ "rollout": "shop" })
}
