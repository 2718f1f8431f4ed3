//! What is wrong with a configuration file, said so that it can be put right: where, what, and what was probably meant,
//! with the line itself and a mark under the culprit.

use std::{fmt, ops::Range, path::Path, path::PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde_saphyr::Location;

/// The most errors that are told at once; a broken file can have thousands, and nobody reads those.
const MOST_TOLD: usize = 20;

/// One thing that is wrong with a configuration file. Its `Display` is the full rendering, several lines long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 where the error is about the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 where the error is about the file as a whole.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What would help, where that is known: the nearest valid key, the accepted forms.
    pub hint: Option<String>,
    rendered: String,
}

/// What one pass found wrong with a configuration file, in the file's order: one error at least, and the rest counted
/// after the first twenty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    told: Vec<ConfigError>,
    untold: usize,
}

impl ConfigErrors {
    /// The errors one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.told.iter()
    }

    /// The first error on one line, for logs and API answers, and how many more there are.
    pub fn summary(&self) -> String {
        let more = match self.told.len().saturating_sub(1) + self.untold {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let first = self.told.first().map(ConfigError::summary).unwrap_or_default();
        format!("{first}{more}")
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self { told: vec![error], untold: 0 }
    }
}

/// The errors found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    told: Vec<ConfigError>,
    untold: usize,
}

impl Findings {
    /// Takes note of an error, which is made only if it will be told.
    pub(super) fn add(&mut self, error: impl FnOnce() -> ConfigError) {
        if self.told.len() < MOST_TOLD { self.told.push(error()) } else { self.untold += 1 }
    }

    /// The value, unless something is wrong.
    pub(super) fn or<T>(mut self, value: T) -> Result<T, ConfigErrors> {
        if self.told.is_empty() {
            return Ok(value);
        }
        self.told.sort_by_key(|e| (e.line, e.column));
        Err(ConfigErrors { told: self.told, untold: self.untold })
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.told.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{error}")?;
        }
        match self.untold {
            0 => Ok(()),
            more => write!(f, "\n\n… and {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigError {
    /// The error on one line: `file:line:column: what; hint`.
    pub fn summary(&self) -> String {
        let place = if self.line == 0 { String::new() } else { format!(":{}:{}", self.line, self.column) };
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{}{place}: {}{hint}", self.file.display(), self.what)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong, before it is known where.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) hint: Option<String>,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// `given` is none of `known`: the hint is the nearest of them, or their list.
    pub(super) fn unknown<'a>(what: impl Into<String>, given: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let wrong = Self::new(what);
        match nearest(given, &known) {
            Some(near) => wrong.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => wrong,
            None => wrong.hint(format!("use one of {}", known.join(", "))),
        }
    }
}

/// The text as it may stand in a message: quoted, escaped, and not endless.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A typing slip away: at most a third of the letters wrong, missing, added or swapped.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let slips = |candidate: &str| strsim::osa_distance(&given.to_lowercase(), candidate);
    let closest = known.iter().map(|candidate| (slips(candidate), *candidate)).min_by_key(|(slips, _)| *slips);
    let bearable = (given.chars().count() / 3).max(1);
    closest.filter(|(slips, _)| *slips <= bearable).map(|(_, candidate)| candidate)
}

/// The text being read: where errors get their place and their excerpt.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Document<'_> {
    /// Something is wrong with the file as a whole.
    pub(super) fn wrong(self, wrong: Wrong) -> ConfigError {
        let path = self.file.display().to_string();
        let title = Level::ERROR.primary_title(format!("{path}: {}", wrong.what));
        let help = wrong.hint.as_deref().map(|hint| Level::HELP.message(hint));
        let rendered = Renderer::plain().render(&[title.elements(help)]);
        let file = self.file.to_owned();
        ConfigError { file, line: 0, column: 0, what: wrong.what, hint: wrong.hint, rendered }
    }

    /// Something is wrong at this place.
    pub(super) fn wrong_at(self, place: Location, wrong: Wrong) -> ConfigError {
        let Some(excerpt) = Excerpt::of(self.text, place) else { return self.wrong(wrong) };
        let path = self.file.display().to_string();
        let mark = AnnotationKind::Primary.span(excerpt.mark);
        let snippet = Snippet::source(excerpt.line).line_start(excerpt.number).path(path).annotation(mark);
        let help = wrong.hint.as_deref().map(|hint| Level::HELP.message(hint));
        let group = Level::ERROR.primary_title(wrong.what.clone()).element(snippet).elements(help);
        ConfigError {
            file: self.file.to_owned(),
            line: excerpt.number,
            column: excerpt.column,
            rendered: Renderer::plain().render(&[group]),
            what: wrong.what,
            hint: wrong.hint,
        }
    }
}

/// The line of a place, and what of it to mark.
struct Excerpt<'a> {
    number: usize,
    column: usize,
    line: &'a str,
    mark: Range<usize>,
}

impl<'a> Excerpt<'a> {
    fn of(text: &'a str, place: Location) -> Option<Self> {
        let (number, column) = (usize::try_from(place.line()).ok()?, usize::try_from(place.column()).ok()?);
        let line = text.lines().nth(number.checked_sub(1)?).unwrap_or("");
        let start = line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
        let length = place.span().byte_len().and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1);
        let end = line.floor_char_boundary(start.saturating_add(length)).max(start);
        Some(Self { number, column, line, mark: start..end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_a_slip_away_or_nothing() {
        let keys = ["listeners", "log", "body_size", "health"];
        for (given, expected) in [
            ("listners", Some("listeners")),
            ("Listeners", Some("listeners")),
            ("lgo", Some("log")),
            ("bodySize", Some("body_size")),
            ("helath", Some("health")),
            ("upstreams", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, &keys), expected, "{given}");
        }
    }

    #[test]
    fn long_values_are_cut_and_control_characters_escaped() {
        assert_eq!(quoted("a\u{1b}[31m\n"), r#""a\u{1b}[31m\n""#);
        assert_eq!(quoted(&"é".repeat(100)).chars().count(), 63);
    }
}
