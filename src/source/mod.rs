//! Where the wanted state of the apps comes from. This version knows one source, the configuration file: `file` says when
//! to read it again, `config` reads it, and what it wants reaches the switch whole. What it gives by name, `names` looks up.

mod file;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod last_found;
mod names;
mod target;

pub use self::{
    file::FileWatch,
    names::{Resolver, look_up, system_resolver},
    target::{Cluster, Objects, PortName, Target, Targets},
};
