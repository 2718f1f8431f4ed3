//! Going back to a template: what a ReplicaSet was made of, as it stood in the Rollout. The controller adds to the template
//! of each ReplicaSet; put back with those additions it would equal none that exists, and a new one would be built.

use serde_json::{Map, Value};

use super::objects::HASH;

/// The annotation that says which labels and annotations the controller has put into a ReplicaSet's template.
const EPHEMERAL: &str = "/metadata/annotations/rollout.argoproj.io~1ephemeral-metadata";

/// The template that this ReplicaSet was made of.
pub(super) fn restored(replica_set: &Value) -> Option<Value> {
    let mut template = replica_set.pointer("/spec/template")?.clone();
    let added = replica_set.pointer(EPHEMERAL).and_then(Value::as_str);
    let added: Value = added.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        // `null` in what Go writes, and of no meaning in a template.
        metadata.shift_remove("creationTimestamp");
        for part in ["labels", "annotations"] {
            let theirs = added.get(part).and_then(Value::as_object);
            let hash = (part == "labels").then_some(HASH);
            remove(metadata, part, theirs.into_iter().flat_map(Map::keys).map(String::as_str).chain(hash));
        }
    }
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        drop_injected_affinity(spec);
    }
    Some(template)
}

/// Whether both make the same pods: as far as they are told apart by what was written, not by what it defaults to.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    let plain = |template: &Value| {
        let mut template = template.clone();
        if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("creationTimestamp");
            remove(metadata, "labels", [HASH]);
            metadata.retain(|_, value| !value.as_object().is_some_and(Map::is_empty));
        }
        template
    };
    plain(one) == plain(other)
}

fn remove<'a>(metadata: &mut Map<String, Value>, part: &str, keys: impl IntoIterator<Item = &'a str>) {
    let Some(entries) = metadata.get_mut(part).and_then(Value::as_object_mut) else { return };
    for key in keys {
        entries.shift_remove(key);
    }
    if entries.is_empty() {
        metadata.shift_remove(part);
    }
}

/// Takes out the term that keeps pods away from those of another hash (`antiAffinity`), and what is empty without it.
fn drop_injected_affinity(spec: &mut Map<String, Value>) {
    let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) else { return };
    let Some(anti) = affinity.get_mut("podAntiAffinity").and_then(Value::as_object_mut) else { return };
    let mut dropped = false;
    for (list, term) in [
        ("requiredDuringSchedulingIgnoredDuringExecution", ""),
        ("preferredDuringSchedulingIgnoredDuringExecution", "/podAffinityTerm"),
    ] {
        let Some(terms) = anti.get_mut(list).and_then(Value::as_array_mut) else { continue };
        let before = terms.len();
        terms.retain(|each| !each.pointer(term).is_some_and(is_injected));
        dropped |= terms.len() < before;
        if terms.is_empty() {
            anti.shift_remove(list);
        }
    }
    if !dropped || !anti.is_empty() {
        return;
    }
    affinity.shift_remove("podAntiAffinity");
    if affinity.is_empty() {
        spec.shift_remove("affinity");
    }
}

fn is_injected(term: &Value) -> bool {
    let expressions = term.pointer("/labelSelector/matchExpressions").and_then(Value::as_array);
    expressions.into_iter().flatten().any(|expression| expression["key"] == HASH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_controller_added_is_taken_out_and_nothing_else() {
        let injected = json!({
            "labelSelector": {"matchExpressions": [{"key": HASH, "operator": "In", "values": ["h1"]}]},
            "namespaces": ["demo"], "topologyKey": "kubernetes.io/hostname",
        });
        let own = json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone"});
        let replica_set = json!({
            "metadata": {"annotations": {
                "rollout.argoproj.io/ephemeral-metadata": r#"{"labels":{"role":"active"},"annotations":{"seen":"1"}}"#,
            }},
            "spec": {"template": {
                "metadata": {
                    "creationTimestamp": null,
                    "labels": {"app": "shop", "role": "active", HASH: "h1"},
                    "annotations": {"seen": "1"},
                },
                "spec": {
                    "containers": [{"name": "web", "image": "shop:v1", "aFieldOfTomorrow": {"x": 1}}],
                    "affinity": {"podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [injected],
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {"weight": 1, "podAffinityTerm": own}, {"weight": 2, "podAffinityTerm": injected},
                        ],
                    }},
                },
            }},
        });
        let expected = json!({
            "metadata": {"labels": {"app": "shop"}},
            "spec": {
                "containers": [{"name": "web", "image": "shop:v1", "aFieldOfTomorrow": {"x": 1}}],
                "affinity": {"podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": own}],
                }},
            },
        });
        assert_eq!(restored(&replica_set).unwrap(), expected);
    }

    #[test]
    fn an_affinity_that_only_the_controller_wanted_goes_whole() {
        let injected =
            json!({"labelSelector": {"matchExpressions": [{"key": HASH, "operator": "In", "values": ["h1"]}]}});
        let template = |affinity: Value| json!({"spec": {"template": {"spec": {"affinity": affinity}}}});
        let anti = |terms: Value| json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
        assert_eq!(restored(&template(anti(json!([injected])))).unwrap(), json!({"spec": {}}));
        // An empty one that somebody wrote himself stays: the templates are compared to the letter.
        assert_eq!(restored(&template(json!({}))).unwrap(), json!({"spec": {"affinity": {}}}));
        assert!(restored(&json!({"spec": {}})).is_none());
    }

    #[test]
    fn templates_are_the_same_whatever_their_hash() {
        let template = json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"image": "v1"}]}});
        let stored = json!({
            "metadata": {"creationTimestamp": null, "labels": {"app": "shop", HASH: "h1"}, "annotations": {}},
            "spec": {"containers": [{"image": "v1"}]},
        });
        assert!(same(&template, &stored));
        let other = json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"image": "v2"}]}});
        assert!(!same(&template, &other));
    }
}
