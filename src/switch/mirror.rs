//! What an app's owner asked for of its mirror, as plain values: which share of live traffic is copied to the candidate,
//! within which budget, and how the two answers are compared.

use std::{fmt, str::FromStr, time::Duration};

use thiserror::Error;

/// Copies a share of safe live requests to the candidate and compares the answers. Clients never notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// How many of ten thousand requests are copied, 1 to 10,000.
    pub share: u32,
    /// Those with these methods.
    pub methods: Vec<SafeMethod>,
    /// How many copies may be on their way or being compared at once, over all workers, 1 to 10,000; beyond, none is made.
    pub max_in_flight: u32,
    /// How much of a body is compared, in octets, 1 KiB to 16 MiB.
    pub max_body: usize,
    /// How long the candidate may take for its whole answer, and then the live one for the rest of its own.
    pub timeout: Duration,
    /// How answers are compared.
    pub compare: Comparison,
}

impl Mirror {
    /// All of them: a [`Self::share`] of everything.
    pub const WHOLE: u32 = 10_000;
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            share: 1000,
            methods: vec![SafeMethod::Get, SafeMethod::Head],
            max_in_flight: 64,
            max_body: 64 << 10,
            timeout: Duration::from_secs(5),
            compare: Comparison::default(),
        }
    }
}

/// A method whose requests change nothing (RFC 9110 §9.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SafeMethod {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `OPTIONS`
    Options,
}

impl SafeMethod {
    /// The method as requests have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
        }
    }
}

/// How two answers are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Whether the status is.
    pub status: bool,
    /// Which header fields are, by name in lower case; `*` for all that an answer is responsible for.
    pub headers: Vec<String>,
    /// How the body is.
    pub body: BodyComparison,
    /// Header fields, by name in lower case, that are not.
    pub ignore_headers: Vec<String>,
    /// What of a JSON body is not.
    pub ignore_json: Vec<JsonPath>,
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            status: true,
            headers: vec!["content-type".to_owned()],
            body: BodyComparison::Exact,
            ignore_headers: Vec::new(),
            ignore_json: Vec::new(),
        }
    }
}

/// How two bodies are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyComparison {
    /// Octet by octet.
    #[default]
    Exact,
    /// As JSON: the order of members and white space do not count. What is not JSON is compared octet by octet.
    Json,
    /// Not at all.
    None,
}

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
}
