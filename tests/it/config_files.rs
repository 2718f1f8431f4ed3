//! The examples in `config/`, and files with mistakes, through `tealgate check`: what a person has before the first start.

use std::{fs, path::PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{certs::Authority, shell::Shell};

/// The examples in a directory of their own, with what they name.
struct Examples {
    dir: TempDir,
}

impl Examples {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        for file in examples() {
            fs::copy(&file, dir.path().join(file.file_name().expect("a name"))).expect("a copy");
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }
}

fn examples() -> Vec<PathBuf> {
    let examples = yaml_files("config");
    assert!(examples.len() >= 3, "{examples:?}");
    examples
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(directory);
    let files = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    files.filter(|file| file.extension().is_some_and(|kind| kind == "yaml")).collect()
}

#[tokio::test]
async fn every_example_is_good_once_the_files_it_names_are_there() {
    let (examples, shell) = (Examples::new(), Shell::default());
    let check = format!("check -o json -c {}", examples.path("tls.yaml").display());
    shell.run(&check).await.ends_with(2).says("tls.crt").says("tokens.yaml");

    let authority = Authority::new();
    let leaf = authority.sign("tls", &["shop.example.com"]);
    fs::copy(leaf.cert, examples.path("tls.crt")).expect("a copy");
    fs::copy(leaf.key, examples.path("tls.key")).expect("a copy");
    let ann = shell.mint("--name ann --role admin").await;
    examples.write("tokens.yaml", &serde_json::json!({ "tokens": [ann.entry] }).to_string());
    for file in self::examples() {
        let file = examples.path(file.file_name().and_then(|name| name.to_str()).expect("a name"));
        let checked: Value = shell.run(&format!("check -o json -c {}", file.display())).await.ends_with(0).json();
        assert_eq!((&checked["ok"], &checked["apps"][0]["name"]), (&true.into(), &"shop".into()), "{checked:#}");
    }
    let tls: Value = shell.run(&check).await.ends_with(0).json();
    assert_eq!(tls["listeners"][1]["tls"], true, "{tls:#}");
}

#[tokio::test]
async fn the_plain_manifests_carry_good_configurations() {
    let (examples, shell) = (Examples::new(), Shell::default());
    let file = examples.path("deployed.yaml");
    let mut found = 0;
    for manifests in yaml_files("deploy/kubernetes") {
        let text = fs::read_to_string(&manifests).expect("a file");
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", manifests.display()));
        // What they are made of lies beside them.
        let Some(config) = objects.iter().find_map(|object| object["data"]["tealgate.yaml"].as_str()) else { continue };
        fs::write(&file, config).expect("a file");
        let checked: Value = shell.run(&format!("check -o json -c {}", file.display())).await.ends_with(0).json();
        assert_eq!(checked["apps"][0]["name"], "shop", "{}: {checked:#}", manifests.display());
        found += 1;
    }
    assert_eq!(found, 2, "to operate, and to observe");
}

#[tokio::test]
async fn the_schema_is_json_and_the_examples_are_what_it_says() {
    let schema: Value = Shell::default().run("schema").await.ends_with(0).json();
    assert!(schema["$schema"].as_str().is_some_and(|url| url.contains("json-schema.org")));
    for file in examples() {
        let text = fs::read_to_string(&file).expect("a file");
        let value: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let faults = faults(&schema, &schema, &value, "");
        assert!(faults.is_empty(), "{}: {faults:#?}", file.display());
    }
    // And what is not, is not: the judge can say no.
    let wrong = serde_json::json!({ "listeners": [{ "name": "live", "bnid": "0.0.0.0:80" }], "apps": 3 });
    let faults = faults(&schema, &schema, &wrong, "");
    let expected = ["/listeners/0: no bind", "/listeners/0/bnid: unknown", "/apps: not of type object"];
    assert!(expected.iter().all(|fault| faults.iter().any(|found| found == fault)), "{faults:#?}");
}

/// Where a value departs from a schema's types, keys and required keys.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema =
            root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} leads nowhere"));
        return faults(root, schema, value, at);
    }
    if let Some(alternatives) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        let faults = alternatives.iter().map(|schema| faults(root, schema, value, at));
        return faults.min_by_key(Vec::len).unwrap_or_default();
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = &schema["type"];
    if !kinds.is_null() && kinds != kind && !kinds.as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind)) {
        return vec![format!("{at}: not of type {}", kinds.as_str().unwrap_or_default())];
    }
    match value {
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.flat_map(|(i, item)| faults(root, &schema["items"], item, &format!("{at}/{i}"))).collect()
        }
        Value::Object(members) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing = required.filter(|key| !members.contains_key(*key)).map(|key| format!("{at}: no {key}"));
            let within = members.iter().flat_map(|(key, member)| {
                let at = format!("{at}/{key}");
                match (&schema["properties"][key], &schema["additionalProperties"]) {
                    (Value::Null, Value::Bool(false)) => vec![format!("{at}: unknown")],
                    (Value::Null, schema) | (schema, _) => faults(root, schema, member, &at),
                }
            });
            missing.chain(within).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[tokio::test]
async fn a_mistake_is_shown_at_its_line_and_column_with_what_would_be_right() {
    let (examples, shell) = (Examples::new(), Shell::default());
    let minimal = fs::read_to_string(examples.path("minimal.yaml")).expect("a file");
    let swap = |from: &str, to: &str| {
        assert!(minimal.contains(from), "{from}");
        minimal.replace(from, to)
    };
    let table = [
        (swap("listeners:", "listners:"), ":2:1", "did you mean `listeners`?"),
        (swap("active: blue", "active: blu"), ":9:17", "did you mean `blue`?"),
        (swap("active: blue", "actve: blue"), ":9:9", "did you mean `active`?"),
        (swap("role: preview", "role: previw"), ":4:52", "did you mean `preview`?"),
        (swap("127.0.0.1:9001", "http://localhost"), ":12:31", "write IP:PORT, NAME:PORT"),
        (swap("0.0.0.0:8080", "127.0.0.1:8081"), ":4:28", "127.0.0.1:8081 is taken"),
        (minimal.clone() + "    drain: { timeout: 30 }\n", ":14:23", "with its unit"),
        (minimal.clone() + "    guard: { window: 30s }\n", ":14:12", "not enforced by this version"),
        (minimal.clone() + "workers: [1]\n", ":14:10", "a single value is expected"),
        (minimal.clone() + "workers: 0\n", ":14:10", "1 to 256"),
        (minimal.clone() + "listeners: []\n", ":14:1", "given twice"),
        (minimal.clone() + "log: { level: \"info }\n", ":14:15", "unclosed quote"),
        (minimal.clone() + "state: { dir: \"${NOWHERE_SET}\" }\n", ":14:15", "NOWHERE_SET"),
        (String::new(), ":1:1", "empty"),
    ];
    let file = examples.path("bad.yaml");
    for (text, place, said) in table {
        examples.write("bad.yaml", &text);
        let place = format!("{}{place}", file.display());
        shell.run(&format!("check -c {}", file.display())).await.ends_with(2).says(&place).says(said);
        shell.run(&format!("serve -c {}", file.display())).await.ends_with(2).says(&place);
    }
    fs::remove_file(&file).expect("it is there");
    shell.run(&format!("check -c {}", file.display())).await.ends_with(2).says("cannot be read");
}
