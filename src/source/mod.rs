//! Where the wanted state of the apps comes from. This version knows one source, the configuration file: `file` says when
//! to read it again, `config` reads it, and what it wants reaches the switch whole.

mod file;

pub use self::file::FileWatch;
