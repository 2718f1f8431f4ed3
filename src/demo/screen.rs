//! What the demo shows: on a terminal one line that is redrawn in place, with news above it; in a pipe a line a second.

use std::{mem, time::Duration};

use clap::builder::styling::{AnsiColor, Color, Style};

use super::{load::Counts, news::Roles};
use crate::cli::{BAD, DIM, Failure, GOOD, Output, control, print_next};

const BLUE: Style = AnsiColor::BrightWhite.on_default().bg_color(Some(Color::Ansi(AnsiColor::Blue))).bold();
const GREEN: Style = AnsiColor::BrightWhite.on_default().bg_color(Some(Color::Ansi(AnsiColor::Green))).bold();

/// The demo's output.
pub(super) struct Screen {
    output: Output,
    drawn: bool,
}

impl Screen {
    pub(super) fn new(output: Output) -> Self {
        Self { output, drawn: false }
    }

    /// Whether a line is redrawn in place.
    pub(super) fn is_live(&self) -> bool {
        self.output.is_live()
    }

    /// How often to call [`Screen::refresh`].
    pub(super) fn pace(&self) -> Duration {
        Duration::from_millis(if self.is_live() { 200 } else { 1000 })
    }

    /// Prints lines that stay.
    pub(super) fn news(&mut self, text: &str) -> Result<(), Failure> {
        self.clear()?;
        print_next(&format!("{text}\n"))
    }

    /// Shows how it goes.
    pub(super) fn refresh(&mut self, elapsed: Duration, counts: &Counts, roles: &Roles) -> Result<(), Failure> {
        let (seconds, total) = (elapsed.as_secs_f64(), counts.total());
        let Counts { blue, green, failed, slowest, .. } = counts;
        let Roles { generation, active } = roles;
        let slowest = slowest.as_secs_f64() * 1000.0;
        if !self.is_live() {
            return print_next(&format!(
                "t={seconds:.1}s requests={total} blue={blue} green={green} failed={failed} slowest={slowest:.1}ms \
                 generation={generation} active={active}\n"
            ));
        }
        let verdict = if *failed == 0 { GOOD } else { BAD };
        let active_style = if active == "green" { GREEN } else { BLUE };
        self.clear()?;
        self.drawn = true;
        print_next(&format!(
            "{active_style} {active} {active_style:#} is live {DIM}(generation {generation}){DIM:#}  {BLUE} blue {blue} {BLUE:#} \
             {GREEN} green {green} {GREEN:#}  {verdict}{failed} failed{verdict:#} {DIM}of {total}, slowest {slowest:.1} ms{DIM:#}"
        ))
    }

    /// Takes the line that is redrawn away.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        if mem::take(&mut self.drawn) {
            control("\r\x1b[K")?;
        }
        Ok(())
    }
}
