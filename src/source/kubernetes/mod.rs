//! Following a cluster: what Argo Rollouts, or whoever moves the selectors of two Services, has decided there; and asking
//! Argo Rollouts for what people want.
//!
//! | File | Is |
//! |---|---|
//! | `follow` | the one task that hears all watches, and tells the switch |
//! | `app`, `place` | one app; one namespace, with what its apps share |
//! | `model` | pure: from an app's objects to what the switch is told |
//! | `watch`, `store` | one watch of one kind; the objects it told of |
//! | `commands` | asking Argo Rollouts, and waiting until it is so |
//! | `decide`, `template` | pure: what to send for that |
//! | `agree`, `settle` | making Argo Rollouts agree with a rollback of ours; pure: what is next for that |
//! | `events` | what was done, as Events on the Rollout |
//! | `review` | callers of the admin API whom the cluster knows |
//! | `call` | one call that writes, as a value |
//! | `client` | the way to the API server |
//! | `objects`, `wire` | what is kept of Rollouts, Services, ReplicaSets and Pods; the same as the API server sends them |
//! | `annotation` | a rollback, as replicas tell it to one another |
//!
//! Only the Rollout, and nothing that carries traffic in the cluster itself, is ever written to.

mod agree;
pub mod annotation;
mod app;
mod call;
mod client;
mod commands;
mod decide;
mod events;
#[cfg(test)]
mod fake;
mod follow;
mod model;
pub mod objects;
mod place;
mod review;
mod settle;
mod store;
mod template;
mod watch;
mod wire;

pub use self::{
    agree::Alarms,
    commands::{Commander, Desk},
    follow::follow,
    review::{Level, Vouched},
};
pub use super::target::{Cluster, Objects, PortName, Target, Targets};

/// An error with what caused it, each said once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        cause = error.source();
    }
    words
}
