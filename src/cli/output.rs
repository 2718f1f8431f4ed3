//! What is printed, and in which form: aligned columns for people, on a terminal with colours and kept to its width, JSON
//! or YAML for programs, bare names for shell loops. A thing to print says once what it is ([`Show`]); the form is
//! chosen here.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::{
    ValueEnum,
    builder::styling::{AnsiColor, Style},
};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde::Serialize;

use super::failure::{Exit, Failure};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const WAITING: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();

/// Blanks between the columns of a table.
const GAP: u16 = 2;

/// The least that a table's last column is narrowed to.
const LEAST: u16 = 20;

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people: aligned columns, with colours on a terminal
    #[default]
    Table,
    /// The API's own JSON
    Json,
    /// The same as YAML
    Yaml,
    /// Names only, one a line
    Name,
}

/// Something that can be printed in every form.
pub(crate) trait Show: Serialize {
    /// Its names, for `-o name`.
    fn names(&self) -> Vec<String>;

    /// Writes it for people.
    fn text(&self, page: &mut Page);
}

/// The standard output and the form chosen for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    terminal: bool,
}

/// A text in the making.
pub(crate) struct Page {
    text: String,
    terminal: bool,
    /// The terminal's columns and lines, where they are known.
    size: Option<(u16, u16)>,
    now: Timestamp,
}

impl Output {
    /// Standard output in this form.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, terminal: io::stdout().is_terminal() }
    }

    /// Whether it is text for people, on a terminal or not.
    pub(crate) fn is_text(self) -> bool {
        self.format == Format::Table
    }

    /// Whether a person looks at it: a table on a terminal.
    pub(crate) fn is_live(self) -> bool {
        self.terminal && self.format == Format::Table
    }

    /// Prints `value` whole.
    pub(crate) fn show(self, value: &impl Show) -> Result<(), Failure> {
        print(&self.render(value, false)?)
    }

    /// Prints `value` as one of many that follow each other: JSON on one line, YAML as a document of its own.
    pub(crate) fn show_next(self, value: &impl Show) -> Result<(), Failure> {
        print_next(&self.render(value, true)?)
    }

    /// The text that [`Output::show`] prints.
    pub(crate) fn render(self, value: &impl Show, in_stream: bool) -> Result<String, Failure> {
        let unwritable = |error: String| Failure::new(Exit::Failed, "cannot write the output").detail(error);
        match self.format {
            Format::Table => {
                let mut page = Page::new(self.terminal);
                value.text(&mut page);
                Ok(page.text)
            }
            Format::Json => {
                let json = if in_stream { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
                json.map(|text| text + "\n").map_err(|error| unwritable(error.to_string()))
            }
            Format::Yaml => {
                let yaml = serde_saphyr::to_string(value).map_err(|error| unwritable(error.to_string()))?;
                let start = if in_stream { "---\n" } else { "" };
                Ok(format!("{start}{}\n", yaml.trim_end()))
            }
            Format::Name => Ok(value.names().into_iter().map(|name| clean(&name) + "\n").collect()),
        }
    }
}

/// Prints a text. A reader that has gone away (`| head`) has had enough: that is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match write(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a text that others would follow. When the reader has gone away, that is the end, and a good one: nobody is left
/// to go on for.
pub(crate) fn print_next(text: &str) -> Result<(), Failure> {
    write(text).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Exit::Done, "the reader has gone away"),
        _ => error.into(),
    })
}

fn write(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a control sequence past the colour filter, which would drop it under `NO_COLOR`.
pub(crate) fn control(sequence: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(sequence.as_bytes())?;
    Ok(out.flush()?)
}

/// The columns and lines of the terminal that standard output is.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

impl Page {
    /// An empty page, with colours and kept to the width if it is for a terminal.
    pub(crate) fn new(terminal: bool) -> Self {
        let size = terminal.then(size).flatten();
        Self { text: String::new(), terminal, size, now: Timestamp::now() }
    }

    /// What has been written.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    /// `text` in a style, if this page is for a terminal.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        let text = clean(text);
        if self.terminal { format!("{style}{text}{style:#}") } else { text }
    }

    /// Adds a table; nothing if it has no rows. On a terminal it keeps to the width: what the last column says goes on in
    /// a second line.
    pub(crate) fn table<const N: usize>(&mut self, header: [&str; N], rows: Vec<[String; N]>) {
        if rows.is_empty() {
            return;
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        table.add_rows(rows.iter().map(|row| row.iter().map(|cell| clean(cell))));
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, GAP));
        });
        if let Some((columns, _)) = self.size {
            let widths = table.column_max_content_widths();
            let fixed: u16 = widths.iter().take(N - 1).map(|width| width + GAP).sum();
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns.max(fixed + LEAST + GAP));
            table.column_iter_mut().take(N - 1).for_each(|column| {
                column.set_constraint(ColumnConstraint::ContentWidth);
            });
        }
        for (index, line) in table.lines().enumerate() {
            let line = line.trim_end();
            self.line(if index == 0 { self.paint(BOLD, line) } else { line.to_owned() });
        }
    }

    /// How long ago that was.
    pub(crate) fn ago(&self, then: Timestamp) -> String {
        short(self.now.duration_since(then).unsigned_abs())
    }
}

/// A duration in its two largest units, as in `3m12s`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match () {
        () if days > 0 => format!("{days}d{hours}h"),
        () if hours > 0 => format!("{hours}h{minutes}m"),
        () if minutes > 0 => format!("{minutes}m{}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// An instant to the second, in UTC.
pub(crate) fn moment(at: Timestamp) -> String {
    let second = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
    at.round(second).unwrap_or(at).to_string()
}

/// Text from elsewhere, fit for a terminal: a control character could move the cursor or forge a line.
pub(crate) fn clean(text: &str) -> String {
    let plain = |c| match c {
        '\t' => ' ',
        c if char::is_control(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fruit {
        name: &'static str,
    }

    impl Show for Fruit {
        fn names(&self) -> Vec<String> {
            vec![self.name.to_owned()]
        }

        fn text(&self, page: &mut Page) {
            let title = page.paint(BOLD, "fruit");
            page.line(title);
            page.table(["NAME", "ENDS"], vec![[self.name.to_owned(), "e".to_owned()]]);
        }
    }

    fn rendered(format: Format, terminal: bool) -> String {
        let output = Output { format, terminal };
        output.render(&Fruit { name: "apple" }, false).expect("a fruit has every form")
    }

    #[test]
    fn in_a_pipe_there_are_aligned_columns_and_no_colours() {
        assert_eq!(rendered(Format::Table, false), "fruit\nNAME   ENDS\napple  e\n");
    }

    #[test]
    fn on_a_terminal_there_are_both() {
        let text = rendered(Format::Table, true);
        let bold = |text: &str| format!("{BOLD}{text}{BOLD:#}");
        assert_eq!(text, format!("{}\n{}\napple  e\n", bold("fruit"), bold("NAME   ENDS")));
    }

    #[test]
    fn a_table_keeps_to_the_terminals_width_and_only_its_last_column_gives_way() {
        let mut page = Page { size: Some((40, 10)), ..Page::new(false) };
        let reason = "checkout was slow and nobody knew why";
        page.table(["AT", "REASON"], vec![["2026-01-01T00:00:00Z".to_owned(), reason.to_owned()]]);
        assert_eq!(
            page.text(),
            "AT                    REASON\n\
             2026-01-01T00:00:00Z  checkout was slow\n                      \
             and nobody knew why\n"
        );
    }

    #[test]
    fn each_form_says_the_same() {
        assert_eq!(rendered(Format::Json, true), "{\n  \"name\": \"apple\"\n}\n");
        assert_eq!(rendered(Format::Yaml, false), "name: apple\n");
        assert_eq!(rendered(Format::Name, false), "apple\n");
    }

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        let mut page = Page::new(false);
        page.table(["REASON"], vec![["\x1b[2Jgone\nforged".to_owned()]]);
        assert_eq!(page.text(), "REASON\n\u{fffd}[2Jgone\u{fffd}forged\n");
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (192, "3m12s"), (7500, "2h5m"), (270_000, "3d3h")] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }
}
