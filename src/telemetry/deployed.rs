//! What `deploy/` asks of our metrics, held by tests: every name in the alerts, in their tests and on the dashboard is one of
//! ours, and every label is one that it has.

use std::collections::BTreeSet;

use prometheus::proto::MetricType;
use serde_json::Value;

use super::metrics::{FAMILIES, Family};

const ALERTS: &str = include_str!("../../deploy/helm/tealgate/files/alerts.yaml");
const ALERTS_TESTS: &str = include_str!("../../deploy/prometheus/alerts_test.yaml");
const DASHBOARD: &str = include_str!("../../deploy/helm/tealgate/files/dashboard.json");

/// What Prometheus adds to whatever it scrapes, and what a histogram has besides.
const ADDED: [&str; 5] = ["namespace", "job", "instance", "pod", "le"];

/// Where a document has PromQL.
const QUERIES: [&str; 4] = ["expr", "series", "query", "definition"];

#[test]
fn what_alerts_and_dashboard_ask_for_is_there() {
    for (file, text, least) in
        [("alerts.yaml", ALERTS, 20), ("alerts_test.yaml", ALERTS_TESTS, 50), ("dashboard.json", DASHBOARD, 40)]
    {
        let document: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut queries = Vec::new();
        collect(&document, &mut queries);
        assert!(queries.len() >= least, "{file}: only {} queries found", queries.len());
        let faults: Vec<_> = queries.into_iter().flat_map(faults).collect();
        assert!(faults.is_empty(), "{file}: {faults:#?}");
    }
}

#[test]
fn the_judge_can_say_no() {
    assert_eq!(faults("rate(tealgate_flips_total{app=\"shop\", kind=~\"a,b}\"}[5m])"), Vec::<String>::new());
    assert_eq!(faults("sum by (app, le) (tealgate_flip_barrier_seconds_bucket)"), Vec::<String>::new());
    for (query, fault) in [
        ("tealgate_flip_total", "tealgate_flip_total: no such metric"),
        ("tealgate_flips_total_bucket", "tealgate_flips_total_bucket: no such metric"),
        ("tealgate_flip_barrier_seconds", "tealgate_flip_barrier_seconds: a histogram by its bare name"),
        ("tealgate_flips_total{app=\"}\", revision!=\"x\"}", "tealgate_flips_total: no label revision"),
        ("max by (app, kinds) (tealgate_flips_total)", "no label kinds in max by (app, kinds) (tealgate_flips_total)"),
    ] {
        assert_eq!(faults(query), [fault], "{query}");
    }
}

fn collect<'a>(node: &'a Value, queries: &mut Vec<&'a str>) {
    match node {
        Value::Object(keys) => {
            for (key, value) in keys {
                match value {
                    Value::String(query) if QUERIES.contains(&key.as_str()) => queries.push(query),
                    value => collect(value, queries),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, queries)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What is wrong with one query: metrics that we do not have, labels that they do not have.
fn faults(query: &str) -> Vec<String> {
    let (mut faults, mut labels) = (Vec::new(), BTreeSet::from(ADDED));
    for (at, _) in query.match_indices("tealgate_") {
        let name = word(&query[at..]);
        let family = match family(name) {
            Ok(family) => family,
            Err(fault) => {
                faults.push(format!("{name}: {fault}"));
                continue;
            }
        };
        labels.extend(family.labels);
        let unknown = matchers(&query[at + name.len()..]).into_iter();
        let unknown = unknown.filter(|label| !ADDED.contains(label) && !family.labels.contains(label));
        faults.extend(unknown.map(|label| format!("{name}: no label {label}")));
    }
    // Prometheus's own series has the labels of whatever alerts there are.
    if faults.is_empty() && !query.contains("(ALERTS{") {
        let unknown = grouped(query).into_iter().filter(|label| !labels.contains(label));
        faults.extend(unknown.map(|label| format!("no label {label} in {query}")));
    }
    faults
}

fn family(name: &str) -> Result<&'static Family, &'static str> {
    let parts = ["_bucket", "_sum", "_count"];
    let bare = parts.iter().find_map(|part| name.strip_suffix(part));
    let of = |name: &str| FAMILIES.iter().copied().find(|family| family.name == name);
    match (of(name), bare.and_then(of)) {
        (Some(family), _) if family.kind == MetricType::HISTOGRAM => Err("a histogram by its bare name"),
        (Some(family), _) => Ok(family),
        (None, Some(family)) if family.kind == MetricType::HISTOGRAM => Ok(family),
        (None, _) => Err("no such metric"),
    }
}

/// The labels in the braces that `rest` begins with, if it does.
fn matchers(rest: &str) -> Vec<&str> {
    let mut labels = Vec::new();
    let Some(mut rest) = rest.strip_prefix('{') else { return labels };
    loop {
        rest = rest.trim_start_matches([' ', ',', '\n']);
        let label = word(rest);
        if label.is_empty() {
            return labels;
        }
        labels.push(label);
        // Past the quoted value: none here has a quote within.
        let Some(after) = rest.splitn(3, '"').nth(2) else { return labels };
        rest = after;
    }
}

/// The labels that the query groups or joins by.
fn grouped(query: &str) -> Vec<&str> {
    let lists = [" by (", " on (", " ignoring ("].into_iter().flat_map(|start| query.split(start).skip(1));
    let lists = lists.filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(',').map(str::trim)).collect()
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}
