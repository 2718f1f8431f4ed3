//! What an app's owner asked for of its mirror, as plain values: which share of live traffic is copied to the candidate,
//! within which budget, and how the two answers are compared.

use std::time::Duration;

use super::json_path::JsonPath;

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
