//! Whether an answer is what a check expects; and if not, in a sentence: what was expected, what came, and how its body
//! begins. Pure.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

use crate::switch::{Expected, Statuses};

/// How much of a body is shown, in octets.
const SHOWN: usize = 200;

/// What came.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    /// The beginning of the body, and whether there is more.
    pub(super) body: Bytes,
    pub(super) cut: bool,
}

impl Answer {
    /// Its status and how its body begins.
    pub(super) fn in_words(&self) -> String {
        format!("{}{}", self.status.as_u16(), self.beginning())
    }

    fn beginning(&self) -> String {
        match self.body.len() {
            0 => "; it has no body".to_owned(),
            length => {
                let shown = String::from_utf8_lossy(&self.body[..length.min(SHOWN)]);
                let more = if length > SHOWN { "…" } else { "" };
                format!("; its body begins: {}{more}", shown.trim_end().escape_debug())
            }
        }
    }
}

/// The first thing about an answer that is not as expected.
pub(super) fn judge(expected: &Expected, answer: &Answer) -> Result<(), String> {
    let status = answer.status.as_u16();
    if !expected.status.contains(status) {
        return Err(format!("expected status {}, got {}", in_words(&expected.status), answer.in_words()));
    }
    for (name, pattern) in &expected.headers {
        judge_field(name, pattern, answer)?;
    }
    for text in &expected.body_contains {
        let found = text.is_empty() || answer.body.windows(text.len()).any(|window| window == text.as_bytes());
        if !found {
            return Err(format!("expected a body that contains {text:?}, got {}", answer.in_words()));
        }
    }
    if expected.json.is_empty() {
        return Ok(());
    }
    if answer.cut {
        return Err(format!("expected JSON, got a body of more than {} octets", answer.body.len()));
    }
    let document: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("expected JSON, got {} ({error})", answer.in_words()))?;
    for (place, value) in &expected.json {
        let found = place.find(&document);
        let other = found.iter().find(|found| !equal(found, value));
        let got = match (found.is_empty(), other) {
            (false, None) => continue,
            (true, _) => "nothing".to_owned(),
            (false, Some(other)) => other.to_string(),
        };
        return Err(format!("expected {place} to be {value}, got {}{}", clipped(&got), answer.beginning()));
    }
    Ok(())
}

fn judge_field(name: &str, pattern: &str, answer: &Answer) -> Result<(), String> {
    let values: Vec<_> = answer.fields.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if values.iter().any(|value| fits(pattern.as_bytes(), value)) {
        return Ok(());
    }
    let got = values.iter().map(|value| String::from_utf8_lossy(value).escape_debug().to_string());
    let got = got.reduce(|all, value| format!("{all}, {value}")).unwrap_or_else(|| "none".to_owned());
    Err(format!("expected {name}: {pattern}, got {}; the status is {}", clipped(&got), answer.in_words()))
}

/// Whether a value is like the pattern, in which `*` stands for anything.
fn fits(pattern: &[u8], value: &[u8]) -> bool {
    match pattern.split_first() {
        None => value.is_empty(),
        Some((b'*', [])) => true,
        // Each further star tries every end: patterns are short, and their owner's.
        Some((b'*', rest)) => (0..=value.len()).any(|skipped| fits(rest, &value[skipped..])),
        Some((octet, rest)) => value.split_first().is_some_and(|(first, left)| first == octet && fits(rest, left)),
    }
}

/// Numbers are equal as numbers: a file's `1.0` is an answer's `1`.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

fn in_words(statuses: &Statuses) -> String {
    let range = |range: &std::ops::RangeInclusive<u16>| match (*range.start(), *range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) if first % 100 == 0 && last == first + 99 => format!("{}xx", first / 100),
        (first, last) => format!("{first}-{last}"),
    };
    statuses.0.iter().map(range).collect::<Vec<_>>().join(", ")
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, fields: &[(&'static str, &'static str)], body: &'static str) -> Answer {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, fields: fields.collect(), body: Bytes::from_static(body.as_bytes()), cut: false }
    }

    fn judged(expected: &Expected, answer: &Answer) -> String {
        judge(expected, answer).err().unwrap_or_else(|| "good".to_owned())
    }

    #[test]
    fn the_status_is_one_of_those_expected() {
        let expected = |statuses| Expected { status: Statuses(statuses), ..Expected::default() };
        assert_eq!(judged(&Expected::default(), &answer(204, &[], "")), "good");
        assert_eq!(
            judged(&Expected::default(), &answer(503, &[], "down\n\"for\" now\u{1b}[2J")),
            "expected status 2xx, got 503; its body begins: down\\n\\\"for\\\" now\\u{1b}[2J"
        );
        assert_eq!(
            judged(&expected(vec![200..=200, 301..=302]), &answer(404, &[], "")),
            "expected status 200, 301-302, got 404; it has no body"
        );
    }

    #[test]
    fn a_body_is_shown_by_its_first_200_octets() {
        let long = Answer { body: vec![b'x'; 300].into(), ..answer(500, &[], "") };
        let told = judged(&Expected::default(), &long);
        assert!(told.ends_with(&format!("begins: {}…", "x".repeat(200))), "{told}");
    }

    #[test]
    fn a_field_is_like_its_pattern_on_one_of_its_lines() {
        let expected = |pattern: &str| Expected {
            headers: vec![("content-type".to_owned(), pattern.to_owned())],
            ..Expected::default()
        };
        let answer =
            answer(200, &[("content-type", "text/html"), ("content-type", "application/json;charset=UTF-8")], "");
        for good in ["*", "text/html", "application/json*", "*json*", "*UTF-8", "a*;c*8"] {
            assert_eq!(judged(&expected(good), &answer), "good", "{good}");
        }
        for bad in ["", "application/json", "*xml*", "Text/html", "text/html*x"] {
            assert!(judged(&expected(bad), &answer).starts_with("expected content-type: "), "{bad}");
        }
        let absent = Expected { headers: vec![("etag".to_owned(), "*".to_owned())], ..Expected::default() };
        assert_eq!(judged(&absent, &answer), "expected etag: *, got none; the status is 200; it has no body");
    }

    #[test]
    fn every_text_must_be_in_the_body() {
        let expected = Expected { body_contains: vec!["<h1>".to_owned(), "Welcome".to_owned()], ..Expected::default() };
        assert_eq!(judged(&expected, &answer(200, &[], "<h1>Welcome</h1>")), "good");
        let told = judged(&expected, &answer(200, &[], "<h1>Sorry</h1>"));
        assert_eq!(told, "expected a body that contains \"Welcome\", got 200; its body begins: <h1>Sorry</h1>");
    }

    #[test]
    fn every_place_of_a_document_has_its_value() {
        let expected =
            |place: &str, value: Value| Expected { json: vec![(place.parse().unwrap(), value)], ..Expected::default() };
        let up = answer(200, &[], r#"{"status":"UP","n":1,"parts":[{"status":"UP"},{"status":"DOWN"}]}"#);
        for (place, value) in [("$.status", json!("UP")), ("$.n", json!(1.0)), ("$.parts[0]", json!({"status": "UP"}))]
        {
            assert_eq!(judged(&expected(place, value), &up), "good", "{place}");
        }
        let told = judged(&expected("$.parts[*].status", json!("UP")), &up);
        assert!(
            told.starts_with("expected $.parts[*].status to be \"UP\", got \"DOWN\"; its body begins: {"),
            "{told}"
        );
        let told = judged(&expected("$.state", json!(null)), &up);
        assert!(told.starts_with("expected $.state to be null, got nothing"), "{told}");
        let told = judged(&expected("$.n", json!(true)), &answer(200, &[], "<html>"));
        assert!(told.starts_with("expected JSON, got 200; its body begins: <html> (expected value"), "{told}");
        let cut = Answer { cut: true, ..answer(200, &[], "{}") };
        assert_eq!(judged(&expected("$.n", json!(1)), &cut), "expected JSON, got a body of more than 2 octets");
    }
}
