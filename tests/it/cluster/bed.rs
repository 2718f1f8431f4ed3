//! The whole testbed: control plane, controllers, node.

use std::{fs, path::PathBuf};

use futures_util::future;
use http::Request;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    node::Node,
    patiently,
    plane::{Plane, Proof},
    program::{Program, installed},
    rollout::Rollout,
};
use crate::support::setup::free;

/// The namespace of what tests deploy.
pub const NAMESPACE: &str = "demo";

/// A running testbed. What is first in it ends first.
pub struct Bed {
    pub node: Node,
    /// Makes Pods of ReplicaSets and slices of Services, and deletes what belonged to what is gone.
    pub controllers: Program,
    /// The Argo Rollouts controller.
    pub argo: Program,
    pub plane: Plane,
}

impl Bed {
    /// Starts all of it, with the definitions of Argo Rollouts and the namespace [`NAMESPACE`].
    pub async fn start() -> Self {
        let plane = Plane::start().await;
        define(&plane.admin).await;
        Self::around(plane).await
    }

    /// Starts all of it but for the definitions: Argo Rollouts was never heard of here.
    pub async fn without_definitions() -> Self {
        Self::around(Plane::start().await).await
    }

    async fn around(plane: Plane) -> Self {
        let (node, controllers) = (Node::start(plane.admin.clone()), start_controllers(&plane));
        let mut bed = Self { node, controllers, argo: start_argo(&plane), plane };
        bed.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } })).await;
        bed.apply(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node" } })).await;
        patiently("the controllers to begin", async || {
            bed.controllers.assert_running();
            bed.argo.assert_running();
            true
        })
        .await;
        bed
    }

    /// May do everything.
    pub fn admin(&self) -> Client {
        self.plane.admin.clone()
    }

    /// Defines what Argo Rollouts stands on, for [`Self::without_definitions`].
    pub async fn define(&self) {
        define(&self.plane.admin).await;
    }

    /// Makes this object so, as server-side apply does.
    pub async fn apply(&self, object: Value) -> DynamicObject {
        apply(&self.plane.admin, object).await
    }

    /// Deploys the shop of these manifests.
    pub async fn deploy(&self, shop: &Shop) -> Rollout {
        for object in [&shop.active, &shop.preview, &shop.rollout] {
            self.apply(object.clone()).await;
        }
        self.rollout("shop")
    }

    /// The Rollout of this name.
    pub fn rollout(&self, name: &str) -> Rollout {
        Rollout::new(self.plane.admin.clone(), self.plane.admin_config.clone(), name)
    }

    /// A kubeconfig for a user who has these rights in [`NAMESPACE`] and no others.
    pub async fn user_with(&self, user: &str, rules: Value) -> PathBuf {
        self.grant(json!({ "kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io" }), rules).await;
        self.plane.kubeconfig(&Proof::Certificate { user, group: "testers" })
    }

    /// Makes a service account that has these rights in [`NAMESPACE`] and no others.
    pub async fn account_with(&self, name: &str, rules: Value) {
        let metadata = json!({ "name": name, "namespace": NAMESPACE });
        self.apply(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })).await;
        self.grant(json!({ "kind": "ServiceAccount", "name": name, "namespace": NAMESPACE }), rules).await;
    }

    async fn grant(&self, subject: Value, rules: Value) {
        let (api, name) = ("rbac.authorization.k8s.io/v1", &subject["name"]);
        let metadata = json!({ "name": name, "namespace": NAMESPACE });
        self.apply(json!({ "apiVersion": api, "kind": "Role", "metadata": metadata, "rules": rules })).await;
        let role = json!({ "kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io" });
        self.apply(json!({
            "apiVersion": api, "kind": "RoleBinding", "metadata": metadata, "subjects": [subject], "roleRef": role,
        }))
        .await;
    }
}

/// A Rollout and its two Services, to be changed before they are deployed.
pub struct Shop {
    pub rollout: Value,
    pub active: Value,
    pub preview: Value,
}

impl Shop {
    /// Two Pods of `shop:v1`; a person promotes; what was live stays for ten minutes.
    pub fn new() -> Self {
        let service = |name: &str| {
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": name, "namespace": NAMESPACE },
                "spec": {
                    "selector": { "app": "shop" },
                    "ports": [{ "name": "http", "port": 80, "targetPort": "http" }],
                },
            })
        };
        let container = json!({
            "name": "web",
            "image": "shop:v1",
            "ports": [{ "name": "http", "containerPort": 8080 }],
            "readinessProbe": { "httpGet": { "path": "/healthz", "port": "http" } },
        });
        let rollout = json!({
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Rollout",
            "metadata": { "name": "shop", "namespace": NAMESPACE },
            "spec": {
                "replicas": 2,
                "revisionHistoryLimit": 3,
                "selector": { "matchLabels": { "app": "shop" } },
                "template": {
                    "metadata": { "labels": { "app": "shop" } },
                    "spec": { "containers": [container] },
                },
                "strategy": {
                    "blueGreen": {
                        "activeService": "shop-active",
                        "previewService": "shop-preview",
                        "autoPromotionEnabled": false,
                        "scaleDownDelaySeconds": 600,
                    },
                },
            },
        });
        Self { rollout, active: service("shop-active"), preview: service("shop-preview") }
    }

    /// The part of the strategy: `shop.blue_green()["autoPromotionSeconds"] = json!(3)`.
    pub fn blue_green(&mut self) -> &mut Value {
        &mut self.rollout["spec"]["strategy"]["blueGreen"]
    }
}

/// Applies an object of any kind; what belongs to a namespace names it.
async fn apply(client: &Client, object: Value) -> DynamicObject {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let (name, apply) = (text(&object["metadata"]["name"]), PatchParams::apply("tester").force());
    api.patch(&name, &apply, &Patch::Apply(object)).await.unwrap_or_else(|e| panic!("{kind} {name}: {e}"))
}

/// Applies the definitions that Argo Rollouts ships, and waits until they serve. They are long, and go as they are.
async fn define(client: &Client) {
    let apply = async |text: String| {
        let name = text.lines().find_map(|line| line.strip_prefix("  name: ")).expect("a name").to_owned();
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let request = Request::patch(format!("{path}/{name}?fieldManager=tester&force=true"))
            .header("content-type", "application/apply-patch+yaml")
            .body(text.into_bytes())
            .expect("a request");
        client.request_text(request).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        let (plural, group) = name.split_once('.').expect("a group");
        patiently(&format!("{name} to be served"), async || {
            let request = Request::get(format!("/apis/{group}/v1alpha1/{plural}")).body(Vec::new());
            client.request_text(request.expect("a request")).await.is_ok()
        })
        .await;
    };
    let files = fs::read_dir(installed("crds")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let texts = files.map(|file| fs::read_to_string(file).expect("a text"));
    future::join_all(texts.map(apply)).await;
}

fn start_controllers(plane: &Plane) -> Program {
    let proof = Proof::Certificate { user: "controllers", group: "system:masters" };
    let args = [
        format!("--kubeconfig={}", plane.kubeconfig(&proof).display()),
        "--controllers=replicaset-controller,endpointslice-controller,garbage-collector-controller".to_owned(),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=2000".to_owned(),
    ];
    Program::start("kube-controller-manager", &plane.path(""), &args)
}

fn start_argo(plane: &Plane) -> Program {
    let proof = Proof::Certificate { user: "argo-rollouts", group: "system:masters" };
    let args = [
        format!("--kubeconfig={}", plane.kubeconfig(&proof).display()),
        "--leader-elect=false".to_owned(),
        format!("--metricsport={}", free().port()),
        format!("--healthzPort={}", free().port()),
        "--qps=500".to_owned(),
        "--burst=1000".to_owned(),
    ];
    Program::start("rollouts-controller", &plane.path(""), &args)
}
