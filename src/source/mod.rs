//! Where the wanted state of the apps comes from: the configuration file, whole, and for the apps that it has follow a
//! cluster, what is decided there. `file` says when to read the file again, `config` reads it; `kubernetes` watches a
//! cluster and says what it sees. What is given by name, `names` looks up.

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
