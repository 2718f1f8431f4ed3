//! Places in JSON documents, as whoever compares or checks answers names them.

use std::{fmt, str::FromStr};

use serde_json::Value;
use thiserror::Error;

/// A place in a JSON document, in the part of RFC 9535 that names places: `$.a.b`, `$.items[*].id`, `$.list[0]`, `$..id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JsonPath {
    steps: Vec<JsonStep>,
}

/// One step of a [`JsonPath`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JsonStep {
    /// `.name`: the member of this name.
    Member(String),
    /// `[0]`: the item at this index.
    Item(usize),
    /// `[*]`, `.*`: every member or item.
    Every,
    /// `..`: here, and everything below.
    Below,
}

/// Why a text is no [`JsonPath`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("it is not a place in a JSON document; write $.a.b, $.items[*].id, $.list[0] or $..id")]
pub struct NotAJsonPath;

impl JsonPath {
    /// The way there, from the root. It has one step at least.
    pub fn steps(&self) -> &[JsonStep] {
        &self.steps
    }

    /// Whatever it leads to in a document, in the document's order.
    pub fn find<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        let mut found = Vec::new();
        walk(document, &self.steps, &mut found);
        found
    }
}

fn walk<'a>(value: &'a Value, steps: &[JsonStep], found: &mut Vec<&'a Value>) {
    let Some((step, rest)) = steps.split_first() else { return found.push(value) };
    let children = || -> Vec<&'a Value> {
        match value {
            Value::Object(members) => members.values().collect(),
            Value::Array(items) => items.iter().collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
        }
    };
    match step {
        JsonStep::Member(name) => value.get(name).into_iter().for_each(|value| walk(value, rest, found)),
        JsonStep::Item(index) => value.get(*index).into_iter().for_each(|value| walk(value, rest, found)),
        JsonStep::Every => children().into_iter().for_each(|value| walk(value, rest, found)),
        JsonStep::Below => {
            walk(value, rest, found);
            children().into_iter().for_each(|value| walk(value, steps, found));
        }
    }
}

impl FromStr for JsonPath {
    type Err = NotAJsonPath;

    fn from_str(text: &str) -> Result<Self, NotAJsonPath> {
        let mut rest = text.strip_prefix('$').ok_or(NotAJsonPath)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let (inside, after) = inside.split_once(']').ok_or(NotAJsonPath)?;
                steps.push(match inside {
                    "*" => JsonStep::Every,
                    digits => JsonStep::Item(digits.parse().map_err(|_| NotAJsonPath)?),
                });
                rest = after;
                continue;
            }
            rest = rest.strip_prefix('.').ok_or(NotAJsonPath)?;
            if let Some(below) = rest.strip_prefix('.') {
                steps.push(JsonStep::Below);
                rest = below;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            steps.push(match name {
                "" => return Err(NotAJsonPath),
                "*" => JsonStep::Every,
                name if name.contains([']', '*', '$']) => return Err(NotAJsonPath),
                name => JsonStep::Member(name.to_owned()),
            });
            rest = after;
        }
        if steps.is_empty() { Err(NotAJsonPath) } else { Ok(Self { steps }) }
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        let mut below = false;
        for step in &self.steps {
            match step {
                JsonStep::Below => f.write_str(".")?,
                JsonStep::Member(name) => write!(f, ".{name}")?,
                JsonStep::Item(index) => write!(f, "[{index}]")?,
                JsonStep::Every if below => f.write_str(".*")?,
                JsonStep::Every => f.write_str("[*]")?,
            }
            below = *step == JsonStep::Below;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_place_in_a_document_is_named_step_by_step() {
        for (text, shown) in [
            ("$.a.b", "$.a.b"),
            ("$.items[*].id", "$.items[*].id"),
            ("$.items.*.id", "$.items[*].id"),
            ("$[0].x", "$[0].x"),
            ("$..id", "$..id"),
            ("$.a..*", "$.a..*"),
            ("$.a-b.c_d.é", "$.a-b.c_d.é"),
        ] {
            assert_eq!(text.parse::<JsonPath>().map(|path| path.to_string()), Ok(shown.to_owned()), "{text}");
        }
        for text in
            ["", "$", "a", "$a", "$.", "$..", "$...a", "$.a.", "$[", "$[x]", "$[-1]", "$.a]", "$.a[0", "$.a*", "/a/b"]
        {
            assert_eq!(text.parse::<JsonPath>(), Err(NotAJsonPath), "{text}");
        }
    }

    #[test]
    fn a_place_leads_to_all_that_is_there() {
        let document = json!({ "a": { "b": 1 }, "items": [{ "id": 1 }, { "id": 2, "a": { "b": 3 } }] });
        for (path, found) in [
            ("$.a.b", json!([1])),
            ("$.items[*].id", json!([1, 2])),
            ("$.items[1].id", json!([2])),
            ("$..b", json!([1, 3])),
            ("$.a.*", json!([1])),
            ("$.c", json!([])),
            ("$.a[0]", json!([])),
        ] {
            let place: JsonPath = path.parse().expect("a place");
            assert_eq!(json!(place.find(&document)), found, "{path}");
        }
    }
}
