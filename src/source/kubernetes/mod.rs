//! Following a cluster: what Argo Rollouts, or whoever moves the selectors of two Services, has decided there.
//!
//! | File | Is |
//! |---|---|
//! | `objects` | what is kept of Rollouts, Services, ReplicaSets and Pods |
//! | `wire` | the same as the API server sends them |
//! | `annotation` | a rollback, as replicas tell it to one another |
//! | `commands` | asking Argo Rollouts for what people want, and waiting until it is so |
//! | `decide`, `template` | what to send for that: pure |
//! | `call` | one call that writes, as a value |

pub mod annotation;
mod call;
mod commands;
mod decide;
#[cfg(test)]
mod fake;
pub mod objects;
mod template;
mod wire;

pub use self::commands::{Commander, Place, Places};
pub use super::target::{Cluster, Objects, PortName, Target, Targets};
