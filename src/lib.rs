//! Tealgate: a reverse proxy and load balancer whose job is *the switch*. It holds an application's active and preview
//! pools behind one publication, and flips all live traffic from one revision to another, or back, at once and without
//! losing a request.
//!
//! # The map
//!
//! ```text
//! main → cli → server → { admin, source, health, lookout, smoke, proxy } → { connector, telemetry } → switch   config → the options of each
//! ```
//!
//! | Module | Is |
//! |---|---|
//! | [`switch`] | the core: what is active, who may change it, how it is seen. Knows neither HTTP nor Kubernetes |
//! | [`proxy`] | the data plane: a thread per core, each with its own sockets, connections and counters |
//! | [`admin`] | the admin API and the health listener |
//! | [`source`] | where desired state comes from: the configuration file, and clusters, watched |
//! | [`health`] | active probes of every endpoint that may have to take traffic |
//! | [`lookout`] | what the workers saw of endpoints: whom to eject, who is warm |
//! | [`smoke`] | smoke tests of candidates, sent through the proxy itself |
//! | [`connector`] | how an endpoint is reached, by requests and by probes alike |
//! | [`telemetry`] | metrics, the access log, the program's own log |
//! | [`config`] | the one YAML file: parsed, checked, explained |
//! | `readiness` | whether a server that has just started may take traffic yet |
//! | [`server`] | the composition root: start order, reload, stop order |
//! | [`cli`], [`demo`] | the command line, and the demonstration that needs nothing |
//!
//! # Life of a request
//!
//! A worker accepts it on a socket of its own; our own engine reads it on HTTP/1, the `h2` crate on HTTP/2; [`switch::Reader::admit`]
//! reads one snapshot, counts the request in and hands out a [`switch::Ticket`] that names pool and endpoint; its head is
//! edited, sent, and the answer read; ticket and log record go with the answer, and close when it ends or is dropped.
//! [`proxy`] tells it in full.
//!
//! # Life of a promotion
//!
//! The CLI or curl → [`admin`] makes it a [`switch::Order`] → [`switch::Control`] → the switchboard lets the app's
//! [`switch::Rollout`] decide, a pure function → the [`switch::Journal`] makes it durable → a snapshot is built whole and
//! published → every worker confirms → the receipt is answered → the retired tenure drains in a task of its own.
//!
//! # What holds, and where it is kept
//!
//! The invariants stand at the head of [`switch`]; the proof that no request enters a pool which its drain has seen empty
//! stands in `switch/admission.rs`, and loom walks that very file in every `cargo test`.

pub mod admin;
pub mod cli;
pub mod config;
pub mod connector;
pub mod demo;
pub mod health;
pub mod lookout;
pub mod proxy;
mod readiness;
pub mod server;
pub mod smoke;
pub mod source;
pub mod switch;
pub mod telemetry;
