//! Comparing two answers, and telling people what differs without telling them secrets. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;

use crate::{
    switch::{BodyComparison, Comparison, JsonPath, JsonStep},
    telemetry::mirror::Compared,
};

/// How many places of a body are named.
const PLACES: usize = 5;
/// How much of a text is shown, in characters, and how many lines of a head.
const SHOWN: usize = 200;
const LINES: usize = 64;

/// Fields whose value is nobody's business. So are those that end like these.
const SECRET: [HeaderName; 4] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];
const SECRET_ENDINGS: [&str; 4] = ["token", "secret", "key", "password"];

/// Fields that `*` leaves out: they belong to the connection, to the moment, or to one client.
const NEVER: [HeaderName; 10] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::DATE,
    header::AGE,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::SET_COOKIE,
];

/// An answer, as far as it is compared.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    /// The beginning of the body, and whether there is more.
    body: Vec<u8>,
    cut: bool,
}

impl Answer {
    /// Adds a piece of the body, as far as no more than `most` octets are kept.
    pub(super) fn add(&mut self, octets: &[u8], most: usize) {
        let room = most.saturating_sub(self.body.len());
        self.body.extend_from_slice(&octets[..octets.len().min(room)]);
        self.cut |= octets.len() > room;
    }

    /// Whether there is more of the body than is kept.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    fn size(&self) -> String {
        let size = self.body.len();
        if self.cut { format!("more than {size} octets") } else { format!("{size} octets") }
    }
}

/// What differs, the weightiest first.
pub(super) fn differences(live: &Answer, candidate: &Answer, by: &Comparison) -> Vec<(Compared, String)> {
    let mut differences = Vec::new();
    if by.status && live.status != candidate.status {
        let (live, candidate) = (live.status.as_u16(), candidate.status.as_u16());
        differences.push((Compared::Status, format!("status: live {live}, candidate {candidate}")));
    }
    for name in compared_fields(live, candidate, by) {
        let values = |answer: &Answer| answer.fields.get_all(&name).iter().cloned().collect::<Vec<_>>();
        let (live, candidate) = (values(live), values(candidate));
        if live != candidate {
            let [live, candidate] = [live, candidate].map(|values| in_words(&name, &values));
            differences.push((Compared::Headers, format!("header {name}: live {live}, candidate {candidate}")));
        }
    }
    let bodies = match by.body {
        BodyComparison::None => None,
        BodyComparison::Exact => octets_differ(live, candidate),
        BodyComparison::Json => documents_differ(live, candidate, &by.ignore_json),
    };
    differences.extend(bodies.map(|words| (Compared::Body, format!("body: {words}"))));
    differences
}

fn compared_fields(live: &Answer, candidate: &Answer, by: &Comparison) -> Vec<HeaderName> {
    let named = by.headers.iter().filter(|name| *name != "*").filter_map(|name| HeaderName::try_from(name).ok());
    let mut names: Vec<_> = named.collect();
    if by.headers.iter().any(|name| name == "*") {
        let all = live.fields.keys().chain(candidate.fields.keys()).filter(|name| !NEVER.contains(name));
        names.extend(all.filter(|name| name.as_str() != "keep-alive").cloned());
    }
    names.retain(|name| !by.ignore_headers.iter().any(|ignored| ignored == name.as_str()));
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names
}

fn octets_differ(live: &Answer, candidate: &Answer) -> Option<String> {
    if live.body == candidate.body && live.cut == candidate.cut {
        return None;
    }
    let same = live.body.iter().zip(&candidate.body).take_while(|(a, b)| a == b).count();
    Some(format!("from octet {same} on; live {}, candidate {}", live.size(), candidate.size()))
}

fn documents_differ(live: &Answer, candidate: &Answer, ignored: &[JsonPath]) -> Option<String> {
    if live.cut && candidate.cut {
        // No part of a document says anything of the whole.
        return None;
    }
    let Ok(mut one) = serde_json::from_slice::<Value>(&live.body) else { return octets_differ(live, candidate) };
    if candidate.cut {
        return octets_differ(live, candidate);
    }
    let Ok(mut other) = serde_json::from_slice::<Value>(&candidate.body) else {
        return Some("the candidate's is not JSON".to_owned());
    };
    for path in ignored {
        remove(&mut one, path.steps());
        remove(&mut other, path.steps());
    }
    let mut places = Vec::new();
    places_that_differ(&one, &other, &mut "$".to_owned(), &mut places);
    (!places.is_empty()).then(|| places.join(", "))
}

/// Takes what a path leads to out of a document.
fn remove(value: &mut Value, steps: &[JsonStep]) {
    let Some((step, rest)) = steps.split_first() else { return };
    if *step == JsonStep::Below {
        remove(value, rest);
        match value {
            Value::Object(members) => members.values_mut().for_each(|value| remove(value, steps)),
            Value::Array(items) => items.iter_mut().for_each(|value| remove(value, steps)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        return;
    }
    let last = rest.is_empty();
    match (step, value) {
        (JsonStep::Member(name), Value::Object(members)) if last => _ = members.shift_remove(name),
        (JsonStep::Member(name), Value::Object(members)) => {
            members.get_mut(name).into_iter().for_each(|value| remove(value, rest));
        }
        // An item that went would move those behind it.
        (JsonStep::Item(index), Value::Array(items)) if last => {
            items.get_mut(*index).into_iter().for_each(|value| *value = Value::Null);
        }
        (JsonStep::Item(index), Value::Array(items)) => {
            items.get_mut(*index).into_iter().for_each(|value| remove(value, rest));
        }
        (JsonStep::Every, Value::Object(members)) if last => members.clear(),
        (JsonStep::Every, Value::Array(items)) if last => items.clear(),
        (JsonStep::Every, Value::Object(members)) => members.values_mut().for_each(|value| remove(value, rest)),
        (JsonStep::Every, Value::Array(items)) => items.iter_mut().for_each(|value| remove(value, rest)),
        _ => {}
    }
}

/// Names the places where two documents differ, `at` being where these two are.
fn places_that_differ(one: &Value, other: &Value, at: &mut String, places: &mut Vec<String>) {
    if one == other || places.len() >= PLACES {
        return;
    }
    let here = at.len();
    match (one, other) {
        (Value::Object(ones), Value::Object(others)) => {
            let missing = others.keys().filter(|name| !ones.contains_key(*name));
            for name in ones.keys().chain(missing) {
                at.push('.');
                at.push_str(name);
                match (ones.get(name), others.get(name)) {
                    (Some(one), Some(other)) => places_that_differ(one, other, at, places),
                    (Some(_), None) => place(places, at, "only live has it"),
                    _ => place(places, at, "only the candidate has it"),
                }
                at.truncate(here);
            }
        }
        (Value::Array(ones), Value::Array(others)) if ones.len() == others.len() => {
            for (index, (one, other)) in ones.iter().zip(others).enumerate() {
                at.push_str(&format!("[{index}]"));
                places_that_differ(one, other, at, places);
                at.truncate(here);
            }
        }
        (Value::Array(ones), Value::Array(others)) => {
            let words = format!("live has {} items, the candidate {}", ones.len(), others.len());
            place(places, at, &words);
        }
        _ => place(places, at, "another value"),
    }
}

fn place(places: &mut Vec<String>, at: &str, words: &str) {
    if places.len() < PLACES {
        places.push(format!("{} ({words})", clipped(at)));
    }
}

/// A head as people may see it.
pub(super) fn shown(fields: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value_in_words(name, value));
    fields.iter().take(LINES).map(line).collect()
}

fn in_words(name: &HeaderName, values: &[HeaderValue]) -> String {
    match values {
        [] => "none".to_owned(),
        values => {
            values.iter().map(|value| format!("{:?}", value_in_words(name, value))).collect::<Vec<_>>().join(", ")
        }
    }
}

fn value_in_words(name: &HeaderName, value: &HeaderValue) -> String {
    let is_secret = SECRET.contains(name) || SECRET_ENDINGS.iter().any(|ending| name.as_str().ends_with(ending));
    if is_secret { "(hidden)".to_owned() } else { clipped(&String::from_utf8_lossy(value.as_bytes())) }
}

/// A text as long as is shown.
pub(super) fn clipped(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, fields: &[(&'static str, &str)], body: &str) -> Answer {
        let fields =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value")));
        let mut answer = Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            fields: fields.collect(),
            ..Answer::default()
        };
        answer.add(body.as_bytes(), 1000);
        answer
    }

    fn told(live: &Answer, candidate: &Answer, by: &Comparison) -> Vec<String> {
        differences(live, candidate, by).into_iter().map(|(_, words)| words).collect()
    }

    fn json(live: &str, candidate: &str, ignored: &[&str]) -> Vec<String> {
        let ignore_json = ignored.iter().map(|path| path.parse().expect("a path")).collect();
        let by = Comparison { body: BodyComparison::Json, ignore_json, ..Comparison::default() };
        told(&answer(200, &[], live), &answer(200, &[], candidate), &by)
    }

    #[test]
    fn what_weighs_most_comes_first() {
        let live = answer(200, &[("content-type", "text/html")], "a page");
        let candidate = answer(500, &[("content-type", "text/plain")], "a fault");
        let found = differences(&live, &candidate, &Comparison::default());
        assert_eq!(
            found,
            [
                (Compared::Status, "status: live 200, candidate 500".to_owned()),
                (Compared::Headers, r#"header content-type: live "text/html", candidate "text/plain""#.to_owned()),
                (Compared::Body, "body: from octet 2 on; live 6 octets, candidate 7 octets".to_owned()),
            ]
        );
        assert_eq!(differences(&live, &live, &Comparison::default()), []);
        let blind =
            Comparison { status: false, headers: Vec::new(), body: BodyComparison::None, ..Comparison::default() };
        assert_eq!(differences(&live, &candidate, &blind), []);
    }

    #[test]
    fn all_fields_are_those_an_answer_is_responsible_for() {
        let live = answer(200, &[("date", "now"), ("x-a", "1"), ("x-b", "1"), ("etag", "v1"), ("x-a", "2")], "");
        let candidate = answer(200, &[("date", "then"), ("x-a", "1"), ("x-b", "2"), ("x-c", "1"), ("etag", "v1")], "");
        let by = Comparison {
            headers: vec!["*".to_owned()],
            ignore_headers: vec!["x-b".to_owned()],
            ..Comparison::default()
        };
        assert_eq!(
            told(&live, &candidate, &by),
            [r#"header x-a: live "1", "2", candidate "1""#, r#"header x-c: live none, candidate "1""#]
        );
    }

    #[test]
    fn documents_are_equal_whatever_their_order_and_white_space() {
        assert_eq!(json(r#"{"a": 1, "b": [1, 2]}"#, r#"{"b":[1,2],"a":1}"#, &[]), <[&str; 0]>::default());
        assert_eq!(
            json(
                r#"{"a": {"b": 1}, "c": [1, {"d": 2}], "e": [1]}"#,
                r#"{"a": {"b": 2}, "c": [1, {"d": 3}], "e": []}"#,
                &[]
            ),
            ["body: $.a.b (another value), $.c[1].d (another value), $.e (live has 1 items, the candidate 0)"]
        );
        assert_eq!(
            json(r#"{"a": 1}"#, r#"{"b": 1}"#, &[]),
            ["body: $.a (only live has it), $.b (only the candidate has it)"]
        );
        assert_eq!(json(r#"{"a": 1}"#, "<html>", &[]), ["body: the candidate's is not JSON"]);
        assert_eq!(json("<html>", "<html>", &[]), <[&str; 0]>::default());
        assert_eq!(json("<html>", "<htm>", &[]).len(), 1);
    }

    #[test]
    fn what_is_ignored_does_not_count() {
        let (live, candidate) = (
            r#"{"at": 1, "items": [{"id": 1, "n": 1}, {"id": 2, "n": 2}], "deep": {"id": 3}, "list": [1, 2]}"#,
            r#"{"at": 2, "items": [{"id": 8, "n": 1}, {"id": 9, "n": 2}], "deep": {"id": 4}, "list": [7, 2]}"#,
        );
        assert_eq!(json(live, candidate, &["$.at", "$..id", "$.list[0]"]), <[&str; 0]>::default());
        assert_eq!(json(live, candidate, &["$.at", "$.items[*].id", "$.deep.*", "$.list[*]"]), <[&str; 0]>::default());
        assert_eq!(
            json(live, candidate, &["$.at", "$.items[0].id", "$.list", "$.nothing[3].there"]),
            ["body: $.items[1].id (another value), $.deep.id (another value)"]
        );
    }

    #[test]
    fn a_body_that_is_too_long_is_compared_as_far_as_it_was_kept() {
        let long = |octets: &str| {
            let mut answer = Answer::default();
            answer.add(octets.as_bytes(), 4);
            answer
        };
        let exact = Comparison::default();
        assert_eq!(told(&long("abcdef"), &long("abcdxx"), &exact), <[&str; 0]>::default());
        assert_eq!(
            told(&long("abcdef"), &long("abcd"), &exact),
            ["body: from octet 4 on; live more than 4 octets, candidate 4 octets"]
        );
        let json = Comparison { body: BodyComparison::Json, ..Comparison::default() };
        assert_eq!(told(&long("[1,2,3]"), &long("[1,3,3]"), &json), <[&str; 0]>::default());
        assert_eq!(told(&long("[1]"), &long("[1,3,3]"), &json).len(), 1);
    }

    #[test]
    fn secrets_are_not_told() {
        let live = answer(200, &[("set-cookie", "s=hush"), ("x-api-key", "hush"), ("x-a", "b")], "");
        let candidate = answer(200, &[], "");
        let by = Comparison { headers: vec!["set-cookie".into(), "x-api-key".into()], ..Comparison::default() };
        let told = told(&live, &candidate, &by).concat() + &shown(&live.fields).concat();
        assert!(!told.contains("hush") && told.contains("x-a: b"), "{told}");
        assert_eq!(clipped(&"é".repeat(SHOWN + 1)).chars().count(), SHOWN + 1);
    }
}
