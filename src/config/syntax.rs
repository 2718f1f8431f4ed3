//! From text to [`File`]: YAML within a budget, and the parser's errors in our words. Here the first error is the only
//! one, since nothing is known of what comes after it.

use serde_saphyr::{Error, Location, budget::BudgetBreach};

use super::{
    error::{ConfigError, Document, Wrong, quoted},
    file::File,
    pass::LARGEST_FILE,
};

/// The text as it comes from a file: UTF-8, of bearable size, without byte order mark.
pub(super) fn text(octets: &[u8]) -> Result<&str, Wrong> {
    if octets.len() > LARGEST_FILE {
        return Err(Wrong::new("the file is larger than 1MiB").hint("is it the right one?"));
    }
    let text = std::str::from_utf8(octets).map_err(|error| {
        let line = 1 + octets[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Wrong::new(format!("line {line} is not UTF-8 text")).hint("save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The file's structure.
pub(super) fn parse(document: Document<'_>) -> Result<File, ConfigError> {
    // A configuration is small and flat; what is not is a mistake or an attack.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_documents: 1,
            max_nodes: 100_000,
            max_events: 300_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
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
        Error::Budget { breach, .. } => Wrong::new(format!("the file is too large or too deep ({breach:?})")),
        Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            Wrong::new("the aliases in this file stand for too much")
        }
        Error::Eof { .. } => Wrong::new("the file is empty, or ends too early"),
        other => Wrong::new(plain(other)),
    };
    (place, wrong)
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
