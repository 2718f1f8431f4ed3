//! One guard per request: it knows how the request went, and says so once, when it is dropped — to the worker's counters
//! (the ledger) and to the access log.

use std::{net::IpAddr, rc::Rc};

use crate::switch::Ticket;

/// A worker's place to record requests: its own counters, its own access-log buffer. Not shared between threads.
pub struct Recorder {}

/// What is known of a request when its head has been read.
pub struct Head<'a> {
    /// The method, as received.
    pub method: &'a http::Method,
    /// The host, in lower case, without port.
    pub host: &'a str,
    /// The path with its query.
    pub path: &'a str,
    /// The protocol version.
    pub version: http::Version,
    /// The client's address, if it has one.
    pub client: Option<IpAddr>,
}

/// How a request ended: each accepted request ends in exactly one of these (G8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The whole answer of an upstream was handed to the client's connection.
    Answered,
    /// The client went away first.
    ClientGone,
    /// No answer began: connect, timeout, reset before the first byte.
    UpstreamFailedBefore,
    /// The answer broke off.
    UpstreamFailedAfter,
    /// We refused it: unknown host, limit, bad request, preview not allowed, nothing to send it to.
    Refused,
}

/// One request's record. If nobody says how the request ended, the client went away.
pub struct RequestLog {}

impl Recorder {
    /// Opens the record of a request whose head has just been read.
    pub fn open(self: &Rc<Self>, _head: Head<'_>) -> RequestLog {
        RequestLog {}
    }
}

impl RequestLog {
    /// It was admitted: to this app, pool, revision and endpoint. Called again on a retry; counts the attempts.
    pub fn admitted(&mut self, _ticket: &Ticket) {}

    /// An attempt failed on its endpoint for this reason (`connect`, `connect_timeout`, `reset`, `timeout`, `protocol`, …):
    /// `upstream_errors_total`.
    pub fn attempt_failed(&mut self, _reason: &'static str) {}

    /// The request ID and trace ID it carries.
    pub fn identified(&mut self, _request_id: &str, _trace_id: Option<&str>) {}

    /// The head of the answer is known. For an answer of an upstream this is also where `upstream_ms` ends.
    pub fn answered(&mut self, _status: http::StatusCode) {}

    /// Octets of the request's body that came in.
    pub fn received(&mut self, _octets: u64) {}

    /// Octets of the answer's body that went out.
    pub fn sent(&mut self, _octets: u64) {}

    /// How it ended, with a short reason from a closed set where something went wrong (empty otherwise). The first word
    /// counts; later calls change nothing.
    pub fn ended(&mut self, _outcome: Outcome, _reason: &'static str) {}
}
