//! One Rollout with its Services and ReplicaSets: what the cluster says of it, waited for by watching, and the real plugin
//! to drive it.

use std::{fmt::Debug, path::PathBuf, process::Output, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, Service},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    runtime::watcher::watch_object,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{HASH, bed::NAMESPACE, in_good_time, program::place};

/// A Rollout in [`NAMESPACE`].
pub struct Rollout {
    pub name: String,
    pub api: Api<DynamicObject>,
    pub services: Api<Service>,
    pub sets: Api<ReplicaSet>,
    pub pods: Api<Pod>,
    kubeconfig: PathBuf,
}

impl Rollout {
    pub fn new(client: Client, kubeconfig: PathBuf, name: &str) -> Self {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Rollout"));
        Self {
            name: name.to_owned(),
            api: Api::namespaced_with(client.clone(), NAMESPACE, &resource),
            services: Api::namespaced(client.clone(), NAMESPACE),
            sets: Api::namespaced(client.clone(), NAMESPACE),
            pods: Api::namespaced(client, NAMESPACE),
            kubeconfig,
        }
    }

    /// Waits until it is so, and answers the whole object.
    pub async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = until(&self.api, &self.name, what, |object: Option<&DynamicObject>| {
            object.is_some_and(|object| holds(&whole(object)))
        });
        whole(&found.await.expect("it is there"))
    }

    /// Waits for this phase, by a controller that has seen the Rollout as it is now.
    pub async fn is(&self, phase: &str) -> Value {
        self.until(&format!("the Rollout to be {phase}"), |rollout| phase_of(rollout) == Some(phase)).await
    }

    /// Waits until the candidate is of this image, and waits to be promoted; answers its hash.
    pub async fn offers(&self, image: &str) -> String {
        let hash = self.hash_of(image).await;
        let is = |rollout: &Value| phase_of(rollout) == Some("Paused") && rollout["status"]["currentPodHash"] == hash;
        self.until(&format!("the Rollout to offer {image}"), is).await;
        hash
    }

    /// Waits until this image is promoted in full; answers its hash.
    pub async fn settles_on(&self, image: &str) -> String {
        let hash = self.hash_of(image).await;
        let is = |rollout: &Value| phase_of(rollout) == Some("Healthy") && rollout["status"]["stableRS"] == hash;
        self.until(&format!("the Rollout to settle on {image}"), is).await;
        hash
    }

    /// Waits until the Service selects this hash.
    pub async fn service_selects(&self, service: &str, hash: &str) {
        let what = format!("{service} to select {hash}");
        until(&self.services, service, &what, |service: Option<&Service>| {
            selected(service).is_some_and(|selected| selected == hash)
        })
        .await;
    }

    /// The hash of the newest ReplicaSet of this image, waited for.
    pub async fn hash_of(&self, image: &str) -> String {
        in_good_time(&format!("a ReplicaSet of {image}"), async {
            loop {
                let sets = self.sets.list(&ListParams::default()).await.map_or_else(|_| Vec::new(), |sets| sets.items);
                let found = sets.iter().filter(|set| image_of(set) == Some(image)).max_by_key(|set| revision(set));
                if let Some(hash) = found.and_then(|set| set.labels().get(HASH)) {
                    return hash.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// The Pods of this hash that are not about to go.
    pub async fn pods_of(&self, hash: &str) -> Vec<Pod> {
        let pods = self.pods.list(&ListParams::default().labels(&format!("{HASH}={hash}"))).await.expect("Pods");
        pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Gives it this image, as a pipeline would.
    pub async fn set_image(&self, image: &str) {
        self.plugin(&["set", "image", &self.name, &format!("web={image}")]).await;
    }

    /// Changes its spec or its metadata.
    pub async fn merge(&self, patch: Value) {
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a patch");
    }

    /// Points a Service at a hash, as the controller does; when this returns the API server has answered.
    pub async fn point(&self, service: &str, hash: &str) {
        let patch = json!({ "spec": { "selector": { HASH: hash } } });
        self.services.patch(service, &PatchParams::default(), &Patch::Strategic(patch)).await.expect("a patch");
    }

    /// Promotes, aborts and so on: a verb of the real plugin.
    pub async fn verb(&self, verb: &str) {
        self.plugin(&[verb, &self.name]).await;
        self.touch_soon();
    }

    /// Takes an aborted update up again.
    pub async fn retry(&self) {
        self.plugin(&["retry", "rollout", &self.name]).await;
        self.touch_soon();
    }

    /// Promotes to the end, whatever steps are left.
    pub async fn promote_in_full(&self) {
        self.plugin(&["promote", &self.name, "--full"]).await;
        self.touch_soon();
    }

    /// The controller puts what it has just written into its own memory, and with that may lose sight of what somebody
    /// else has written since, until the Rollout changes once more. People are slower than that; these tests are not.
    fn touch_soon(&self) {
        let (api, name) = (self.api.clone(), self.name.clone());
        let touch =
            Patch::Merge(json!({ "metadata": { "annotations": { "touched": fastrand::u64(..).to_string() } } }));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            api.patch(&name, &PatchParams::default(), &touch).await.ok();
        });
    }

    /// Runs the real plugin, which must be content.
    pub async fn plugin(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(place("kubectl-argo-rollouts"));
        command.args(args).args(["--namespace", NAMESPACE, "--kubeconfig"]).arg(&self.kubeconfig);
        let output = in_good_time("the plugin to end", command.kill_on_drop(true).output()).await.expect("it runs");
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    }
}

/// Watches one object until it is so. A watch that breaks is begun again: the API server may be away for a while.
pub async fn until<K>(api: &Api<K>, name: &str, what: &str, holds: impl Fn(Option<&K>) -> bool) -> Option<K>
where
    K: Resource + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    let mut seen = None;
    let found = tokio::time::timeout(Duration::from_secs(120), async {
        let mut objects = Box::pin(watch_object(api.clone(), name));
        while let Some(object) = objects.next().await {
            match object {
                Ok(object) if holds(object.as_ref()) => return object,
                Ok(object) => seen = object,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        unreachable!("a watch has no end")
    });
    found.await.unwrap_or_else(|_| {
        if let Some(object) = &mut seen {
            object.meta_mut().managed_fields = None;
        }
        panic!("{what}: not within two minutes; it is {:#}", json!(seen))
    })
}

/// The phase, if it is said of the Rollout as it is now.
fn phase_of(rollout: &Value) -> Option<&str> {
    let (status, generation) = (&rollout["status"], &rollout["metadata"]["generation"]);
    let current = status["observedGeneration"].as_str() == Some(&generation.to_string());
    status["phase"].as_str().filter(|_| current)
}

/// The hash that a Service selects.
pub fn selected(service: Option<&Service>) -> Option<&String> {
    service?.spec.as_ref()?.selector.as_ref()?.get(HASH)
}

fn whole(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("JSON")
}

fn image_of(set: &ReplicaSet) -> Option<&str> {
    let template = set.spec.as_ref()?.template.as_ref()?;
    template.spec.as_ref()?.containers.first()?.image.as_deref()
}

fn revision(set: &ReplicaSet) -> u64 {
    let revision = set.annotations().get("rollout.argoproj.io/revision");
    revision.and_then(|revision| revision.parse().ok()).unwrap_or_default()
}
