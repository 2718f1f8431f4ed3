//! From text to [`File`]: YAML within a budget, and the parser's errors in our words. Here the first error is the only
//! one, since nothing is known of what comes after it.

use serde_saphyr::{Error, Location, budget::BudgetBreach};

use super::{
    error::{ConfigError, Document, Wrong, quoted},
    file::File,
};

/// The largest configuration that is read, in octets: tens of thousands of apps fit.
pub(super) const LARGEST: usize = 16 << 20;
/// How many values, sequences and mappings it may have.
const MOST_NODES: usize = 2_000_000;
/// How many times a value that stands elsewhere may be meant by its alias: each app may have some.
const MOST_ALIASES: usize = 200_000;
/// How many values may be given a name for that.
const MOST_ANCHORS: usize = 1_000;

/// The text as it comes from a file: UTF-8, of bearable size, without byte order mark.
pub(super) fn text(octets: &[u8]) -> Result<&str, Wrong> {
    if octets.len() > LARGEST {
        return Err(Wrong::new("the file is larger than 16MiB").hint("is it the right one?"));
    }
    let text = std::str::from_utf8(octets).map_err(|error| {
        let line = 1 + octets[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Wrong::new(format!("line {line} is not UTF-8 text")).hint("save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The file's structure.
pub(super) fn parse(document: Document<'_>) -> Result<File, ConfigError> {
    // A configuration is flat, and its size has bounds; what is beyond them is a mistake or an attack.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_documents: 1,
            max_nodes: MOST_NODES,
            max_events: 3 * MOST_NODES,
            max_aliases: MOST_ALIASES,
            max_anchors: MOST_ANCHORS,
            max_merge_keys: MOST_ALIASES,
            // Thousands of apps may share one anchor; what they make of it is bounded below.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MOST_NODES,
            max_replay_stack_depth: 16,
        },
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(document.text, options).map_err(|error| {
        let (place, wrong) = explain(&error);
        document.wrong_at(place, wrong)
    })
}

/// Where it went wrong, and how, for whoever wrote the file.
fn explain(error: &Error) -> (Location, Wrong) {
    let place = error.location().unwrap_or(Location::UNKNOWN);
    let wrong = match error {
        Error::AliasError { error, .. } => return explain(error),
        Error::SerdeUnknownField { field, expected, .. } => {
            let field: String = field.chars().take(60).collect();
            Wrong::unknown(format!("unknown key `{field}`"), &field, expected.iter().copied())
        }
        Error::SerdeMissingField { field, .. } => Wrong::new(format!("`{field}` is missing")),
        Error::DuplicateMappingKey { key: Some(key), .. } => Wrong::new(format!("{} is given twice", quoted(key))),
        Error::NullIntoString { .. } => Wrong::new("a value is missing").hint("write one, or remove the key"),
        Error::Unexpected { expected: "string scalar", .. } => {
            Wrong::new("a single value is expected here, not a list or a mapping")
        }
        Error::Unexpected { expected: "sequence start", .. } => {
            Wrong::new("a list is expected here").hint("write `[a, b]`, or one item a line, each after `- `")
        }
        Error::Unexpected { expected: "mapping start", .. } => {
            Wrong::new("a mapping of keys to values is expected here")
        }
        Error::SerdeInvalidType { expected, .. } => Wrong::new(format!("{expected} is expected here")),
        Error::MultipleDocuments { .. } | Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            Wrong::new("a second document begins here").hint("a configuration is one document")
        }
        Error::Budget { breach, .. } => exceeded(breach),
        Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            Wrong::new(TOO_MANY_ALIASES)
        }
        Error::Eof { .. } => Wrong::new("the file is empty, or ends too early"),
        other => Wrong::new(plain(other)),
    };
    (place, wrong)
}

const TOO_MANY_ALIASES: &str = "the aliases in this file stand for too much";

/// What there is too much of.
fn exceeded(breach: &BudgetBreach) -> Wrong {
    match breach {
        BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => {
            Wrong::new(format!("the file has more than {MOST_NODES} values")).hint("is it the right one?")
        }
        BudgetBreach::Depth { .. } => Wrong::new("lists and mappings lie too deep in each other here"),
        BudgetBreach::RecordedAnchorEvents { .. } | BudgetBreach::RecordedAnchorBytes { .. } => {
            Wrong::new(TOO_MANY_ALIASES)
        }
        BudgetBreach::Aliases { .. } | BudgetBreach::MergeKeys { .. } => {
            Wrong::new(format!("the file has more than {MOST_ALIASES} aliases"))
        }
        BudgetBreach::Anchors { .. } => Wrong::new(format!("the file has more than {MOST_ANCHORS} anchors")),
        breach => Wrong::new(format!("there is too much of something in the file ({breach:?})")),
    }
}

/// The parser's own words, without the place, which is shown apart.
fn plain(error: &Error) -> String {
    let said = error.to_string();
    let place = error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    match place.and_then(|place| Some(said.strip_suffix(&place)?.to_owned())) {
        Some(said) => said,
        None => said,
    }
}
