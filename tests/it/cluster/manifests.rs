//! The manifests that people install, as they are but for the namespace: whoever comes to the cluster by them is the
//! ServiceAccount there, bound to the Role there, and has no other right.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::{
    bed::{Bed, NAMESPACE},
    plane::Proof,
};

/// Where they lie.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/");
/// What it takes to be somebody who may do something.
const STANDING: [&str; 3] = ["ServiceAccount", "Role", "RoleBinding"];

/// The objects in one of the files.
fn objects(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(format!("{MANIFESTS}{file}")).expect("a file");
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).expect("YAML")).collect()
}

/// The rules of the Role in this file.
pub fn rules(file: &str) -> Value {
    let role = objects(file).into_iter().find(|object| object["kind"] == "Role").expect("a Role");
    role["rules"].clone()
}

impl Bed {
    /// Installs who the proxy of this file is and what it may do, in [`NAMESPACE`]; answers a kubeconfig of his.
    pub async fn installs(&self, file: &str) -> PathBuf {
        let mut account = String::new();
        for mut object in objects(file) {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            if !STANDING.contains(&&*kind) {
                continue;
            }
            object["metadata"]["namespace"] = json!(NAMESPACE);
            for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
                subject["namespace"] = json!(NAMESPACE);
            }
            if kind == "ServiceAccount" {
                account = object["metadata"]["name"].as_str().expect("a name").to_owned();
            }
            self.apply(object).await;
        }
        let token = self.plane.token(NAMESPACE, &account, Duration::from_secs(3600)).await;
        self.plane.kubeconfig(&Proof::Token(&token))
    }
}
