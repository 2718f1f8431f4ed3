//! How a smoke test is written: what its values are, and what its checks come to.

use std::{collections::HashSet, sync::Arc};

use http::HeaderValue;
use schemars::{Schema, json_schema};
use serde_json::Value;
use serde_saphyr::Location;

use super::{
    audience::{FieldName, SecretText},
    environment::expand,
    error::{Wrong, quoted},
    file,
    node::{Given, Named, Placed, Several, Text},
    notation::Notation,
    pass::Pass,
};
use crate::switch::{Expected, JsonPath, Secret, Smoke, SmokeCheck, Statuses};

/// The longest name of a check, in characters.
const LONGEST_NAME: usize = 63;
/// The largest body that is sent, in octets.
const LARGEST_BODY: usize = 64 << 10;

/// Fields that say how a message is framed, which is the connection's affair.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

impl Pass<'_> {
    /// The smoke test of an app's candidates, if it has one.
    pub(super) fn smoke(&mut self, promotion: &file::Promotion) -> Option<Arc<Smoke>> {
        let mut within = Smoke::WITHIN;
        self.set(&mut within, &promotion.smoke_within);
        let Placed { value: given, place } = promotion.smoke.get()?;
        if given.is_empty() {
            self.wrong(*place, Wrong::new("this list is empty").hint("leave the key out, or name at least one"));
        }
        if given.len() > Smoke::MOST_CHECKS {
            let wrong = Wrong::new(format!("{} checks are too many", given.len()));
            self.wrong(*place, wrong.hint(format!("name up to {}", Smoke::MOST_CHECKS)));
        }
        let mut names = HashSet::new();
        let mut checks = Vec::with_capacity(given.len());
        for check in given {
            let Some(read) = self.smoke_check(check) else { continue };
            if !names.insert(read.name.clone()) {
                let place = check.name.get().map_or(check.path.place, |name| name.place);
                let wrong = Wrong::new(format!("two checks are called {}", quoted(&read.name)));
                self.wrong(place, wrong.hint("give each a `name` of its own"));
            }
            checks.push(read);
        }
        (!checks.is_empty()).then(|| Arc::new(Smoke { checks, within }))
    }

    fn smoke_check(&mut self, given: &file::SmokeCheck) -> Option<SmokeCheck> {
        let path = self.read(&given.path);
        let mut method = CheckMethod("GET");
        self.set(&mut method, &given.method);
        let mut body = FreeText(String::new());
        self.set(&mut body, &given.body);
        let mut timeout = SmokeCheck::TIMEOUT;
        self.set(&mut timeout, &given.timeout);
        let headers = self.sent_fields(&given.headers);
        let expected = self.expected(given);
        let name = given.name.get().map(|name| self.read(name));
        let path = String::from(path?);
        let name = match name {
            Some(name) => name?.0,
            None if method.0 == "GET" => path.clone(),
            None => format!("{} {path}", method.0),
        };
        Some(SmokeCheck { name, method: method.0.to_owned(), path, headers, body: body.0, timeout, expected })
    }

    fn sent_fields(&mut self, given: &Named<Placed<Text<SecretText>>>) -> Vec<(String, Secret)> {
        let mut fields = Vec::new();
        for (name, value) in given.iter() {
            let read = self.field_name(name).filter(|name| {
                let framing = FRAMING.contains(&name.0.as_str());
                if framing {
                    let wrong = Wrong::new(format!("`{}` is not yours to say: it is about the connection", name.0));
                    self.wrong(value.place, wrong.hint("leave it out"));
                }
                !framing
            });
            let Some((name, value_read)) = read.zip(self.secret(value, 0)) else { continue };
            if HeaderValue::from_bytes(value_read.octets()).is_err() {
                // Not quoted: it may be a secret.
                self.wrong(value.place, Wrong::new(format!("this cannot be the value of {}", name.0)));
            }
            fields.push((name.0, value_read));
        }
        fields
    }

    fn expected(&mut self, given: &file::SmokeCheck) -> Expected {
        let mut expected = Expected::default();
        let statuses = self.several::<Statuses>(&given.status);
        if !statuses.is_empty() {
            expected.status = Statuses(statuses.into_iter().flat_map(|Statuses(ranges)| ranges).collect());
        }
        for (name, value) in given.expect_headers.iter() {
            let read = (self.field_name(name), self.read(value));
            if let (Some(name), Some(value)) = read {
                expected.headers.push((name.0, value.0));
            }
        }
        expected.body_contains = self.several(&given.body_contains).into_iter().map(|FreeText(text)| text).collect();
        for (place, value) in given.json.iter() {
            let read = (self.json_place(place), self.expanded(&value.value, value.place));
            if let (Some(place), Some(value)) = read {
                expected.json.push((place, value));
            }
        }
        expected
    }

    fn several<T: Notation>(&mut self, given: &Given<Several<T>>) -> Vec<T> {
        let Some(Placed { value: several, place }) = given.get() else { return Vec::new() };
        let values = &several.placed().value;
        if values.is_empty() {
            self.wrong(*place, Wrong::new("this list is empty").hint("leave the key out, or name at least one"));
        }
        values.iter().filter_map(|value| self.read(value)).collect()
    }

    fn field_name(&mut self, key: &Placed<String>) -> Option<FieldName> {
        FieldName::read(&key.value).map_err(|wrong| self.wrong(key.place, wrong)).ok()
    }

    /// A place as the file names it: a path with its `$`, or the names of members with dots between.
    fn json_place(&mut self, key: &Placed<String>) -> Option<JsonPath> {
        let path = if key.value.starts_with('$') { key.value.clone() } else { format!("$.{}", key.value) };
        let wrong = |not: crate::switch::NotAJsonPath| Wrong::new(format!("{}: {not}", quoted(&key.value)));
        path.parse().map_err(|not| self.wrong(key.place, wrong(not))).ok()
    }

    /// A value with the environment's variables put in its texts.
    fn expanded(&mut self, value: &Value, place: Location) -> Option<Value> {
        Some(match value {
            Value::String(text) => {
                expand(text, self.environment).map_err(|wrong| self.wrong(place, wrong)).ok()?.into()
            }
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.expanded(item, place)).collect::<Option<_>>()?)
            }
            Value::Object(members) => {
                let members = members.iter().map(|(name, value)| Some((name.clone(), self.expanded(value, place)?)));
                Value::Object(members.collect::<Option<_>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }
}

/// A method that a check may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CheckMethod(&'static str);

impl CheckMethod {
    const ALL: [&'static str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
}

impl Notation for CheckMethod {
    fn read(text: &str) -> Result<Self, Wrong> {
        let known = Self::ALL.into_iter().find(|method| *method == text).map(Self);
        known.ok_or_else(|| Wrong::unknown(format!("{} is not a method of a check", quoted(text)), text, Self::ALL))
    }

    fn schema() -> Schema {
        json_schema!({ "enum": Self::ALL })
    }
}

/// What a check is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckName(String);

impl Notation for CheckName {
    fn read(text: &str) -> Result<Self, Wrong> {
        let length = text.chars().count();
        if (1..=LONGEST_NAME).contains(&length) && text.trim() == text && !text.contains(char::is_control) {
            return Ok(Self(text.to_owned()));
        }
        Err(Wrong::new(format!("{} is not a name for a check", quoted(text)))
            .hint(format!("use 1 to {LONGEST_NAME} characters, without white space at its ends")))
    }
}

/// A text as it is, of what a body may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FreeText(String);

impl Notation for FreeText {
    fn read(text: &str) -> Result<Self, Wrong> {
        match text.len() {
            0 => Err(Wrong::new("this text is empty").hint("leave the key out")),
            1..=LARGEST_BODY => Ok(Self(text.to_owned())),
            _ => Err(Wrong::new("this text has more than 64KiB").hint("say it shorter")),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn what_is_sent_has_a_method_and_a_name() {
        assert_eq!(CheckMethod::read("POST").unwrap(), CheckMethod("POST"));
        assert!(CheckMethod::read("CONNECT").is_err() && CheckMethod::read("get").is_err());
        assert!(CheckName::read("the cart, as a guest").is_ok());
        let long = "x".repeat(64);
        for bad in ["", " x", "a\nb", &long] {
            assert!(CheckName::read(bad).is_err(), "{bad:?}");
        }
        assert!(FreeText::read("").is_err() && FreeText::read(&"x".repeat(LARGEST_BODY + 1)).is_err());
        assert!(FRAMING.iter().all(|name| HeaderName::from_static(name).as_str() == *name));
    }
}
