//! The file's JSON Schema. Keys, types and descriptions come from the structs of `file`, the defaults from
//! `config/full.yaml`, which a test holds equal to what the program does when a key is left out.

use serde_json::Value;

use super::file::File;

const FULL: &str = include_str!("../../config/full.yaml");

/// The JSON Schema (draft 2020-12) of the configuration file, for editors and for `tealgate schema`.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(File).to_value();
    // The example is part of the program, and a test reads it.
    let example = serde_saphyr::from_str(FULL).unwrap_or_default();
    fill(&mut schema, "", &example);
    schema
}

/// Sets the default of every optional key that the example shows, at and below `at`, a JSON pointer into the schema.
fn fill(schema: &mut Value, at: &str, example: &Value) {
    let at = resolve(schema, at);
    match example {
        Value::Object(keys) => {
            for (key, value) in keys {
                fill_key(schema, &at, key, value);
            }
        }
        Value::Array(items) => {
            for item in items {
                fill(schema, &format!("{at}/items"), item);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn fill_key(schema: &mut Value, at: &str, key: &str, value: &Value) {
    let property = format!("{at}/properties/{key}");
    let names = format!("{at}/additionalProperties");
    if schema.pointer(&property).is_none() {
        if schema.pointer(&names).is_some_and(Value::is_object) {
            fill(schema, &names, value);
        }
        return;
    }
    let required = schema.pointer(&format!("{at}/required")).and_then(Value::as_array);
    let optional = !required.is_some_and(|required| required.iter().any(|r| r == key));
    if value.is_object() || value.is_array() {
        fill(schema, &property, value);
    } else if optional && let Some(Value::Object(property)) = schema.pointer_mut(&property) {
        // A key with examples of its own has no default; what is shown is one more example.
        if !property.contains_key("examples") {
            property.insert("default".into(), value.clone());
        }
    }
}

/// Follows references, and of alternatives takes the one with keys.
fn resolve(schema: &Value, at: &str) -> String {
    let Some(here) = schema.pointer(at) else { return at.to_owned() };
    if let Some(reference) = here.get("$ref").and_then(Value::as_str) {
        return resolve(schema, reference.trim_start_matches('#'));
    }
    let alternatives = here.get("anyOf").and_then(Value::as_array).map_or(0, Vec::len);
    let resolved = (0..alternatives).map(|index| resolve(schema, &format!("{at}/anyOf/{index}")));
    let with_keys = resolved.into_iter().find(|at| schema.pointer(&format!("{at}/properties")).is_some());
    with_keys.unwrap_or_else(|| at.to_owned())
}
