//! Tealgate: a reverse proxy and load balancer whose job is *the switch*.

// The model checker's copy of `switch/admission.rs` reads its primitives from another place.
pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod health;
pub mod proxy;
pub mod server;
pub mod source;
pub mod switch;
pub mod telemetry;
