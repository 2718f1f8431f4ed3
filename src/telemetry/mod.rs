//! Logs and metrics. Edges push, state is pulled: what requests do moves cells of their worker when they end
//! (`request_log`), and what the switch is at is read from its board when somebody scrapes (`metrics`).

mod access_line;
pub mod access_log;
mod book;
pub mod connections;
#[cfg(test)]
mod deployed;
mod flips;
mod gauges;
pub mod metrics;
pub mod mirror;
mod recent;
pub mod request_log;
mod series;
mod sheet;

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// The environment's say on what is logged, in the syntax of `RUST_LOG`. Where it is set, the configured level is not
/// asked.
pub const LOG_VARIABLE: &str = "TEALGATE_LOG";

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

/// Starts the program's own log, on standard error: lines for people, in colour on a terminal unless `NO_COLOR` is set, or
/// JSON lines. Once per process.
pub fn init(options: &Options) -> Result<Handle, InitError> {
    let by_environment = std::env::var(LOG_VARIABLE).ok().filter(|value| !value.is_empty());
    let filter = match &by_environment {
        Some(directives) => EnvFilter::try_new(directives)?,
        None => options.level.filter(),
    };
    let (filter, reload) = reload::Layer::new(filter);
    tracing_subscriber::registry().with(lines(options.format).with_filter(filter)).try_init()?;
    Ok(Handle { filter: reload, fixed: by_environment.is_some() })
}

fn lines(format: Format) -> Box<dyn Layer<Registry> + Send + Sync> {
    // Should standard error break, the layer must not report that on standard error.
    let lines = fmt::layer().with_writer(io::stderr).with_target(false).log_internal_errors(false);
    match format {
        Format::Text => Box::new(lines.with_ansi(in_colour())),
        Format::Json => Box::new(lines.json().flatten_event(true)),
    }
}

/// On a terminal, unless its user asked for no colours (<https://no-color.org>).
fn in_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The program's own log, once started.
pub struct Handle {
    filter: reload::Handle<EnvFilter, Registry>,
    /// The environment has the say.
    fixed: bool,
}

impl Handle {
    /// Shows lines from this level on, unless the environment says otherwise.
    pub fn set_level(&self, level: Level) {
        if !self.fixed {
            // It fails only when the log is gone, with the process.
            self.filter.reload(level.filter()).ok();
        }
    }
}

/// Why the log could not be started.
#[derive(Debug, Error)]
pub enum InitError {
    /// The environment's directives cannot be understood.
    #[error("{LOG_VARIABLE} is not a list of log directives such as \"info,tealgate=debug\": {0}")]
    Directives(#[from] ParseError),
    /// The process logs already.
    #[error("the log was started already")]
    AlreadyStarted(#[from] tracing_subscriber::util::TryInitError),
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

impl Level {
    /// Our own lines from this level on; those of the libraries only where they matter to an operator. Every failure that
    /// the Kubernetes client reports comes back to us, and is told once, in our own words.
    fn filter(self) -> EnvFilter {
        EnvFilter::new(match self {
            Self::Error => "error,kube_client=off",
            Self::Warn => "warn,kube_client=off,kube_runtime=off",
            Self::Info => "info,kube_client=off,kube_runtime=off",
            Self::Debug => "info,tealgate=debug",
        })
    }
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
