//! Logs and metrics. Edges push, state is pulled: what requests do moves cells of their worker when they end
//! (`request_log`), and what the switch is at is read from its board when somebody scrapes (`metrics`).

mod access_line;
pub mod access_log;
mod book;
pub mod request_log;
mod series;

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The least severe level shown of the program's own log.
    pub level: Level,
    /// How it is written.
    pub format: Format,
    /// The access log's form.
    pub access: AccessFormat,
}

/// A severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something needs attention.
    Warn,
    /// What happens in the ordinary course.
    #[default]
    Info,
    /// What a developer wants to see.
    Debug,
}

/// The form of the program's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The form of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object a line, on standard output.
    #[default]
    Json,
    /// The combined log format of the Apache and nginx servers.
    Combined,
    /// None.
    Off,
}
