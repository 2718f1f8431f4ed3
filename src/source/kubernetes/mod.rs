//! Following a cluster: what Argo Rollouts, or whoever moves the selectors of two Services, has decided there.
//!
//! | File | Is |
//! |---|---|
//! | `objects` | what is kept of Rollouts, Services, ReplicaSets and Pods |
//! | `wire` | the same as the API server sends them |
//! | `annotation` | a rollback, as replicas tell it to one another |

pub mod annotation;
mod model;
pub mod objects;
mod wire;

pub use super::target::{Cluster, Objects, PortName, Target, Targets};
