//! The one door to the switch: whatever a request came in by, it is admitted here, once for each attempt, so that a retry
//! reads the current snapshot. What makes a request wait before it is let in belongs here too.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};
use tokio::time::Instant;

use super::{client::Client, cookie::cookie, door, error::ProxyError};
use crate::{
    switch::{NotAdmitted, RequestKey, Standing, Ticket},
    telemetry::request_log::RequestLog,
};

/// A request before the door: what the switch may ask of it.
pub(super) struct Visitor<'a> {
    pub(super) client: &'a Client,
    /// In lower case, without port.
    pub(super) host: &'a str,
    /// With its query.
    pub(super) path: &'a str,
    pub(super) fields: &'a dyn Fields,
    /// When its head was whole.
    pub(super) arrived: Instant,
    /// What it was admitted as before, if this is a retry: its fields may be gone by now.
    pub(super) standing: Option<Standing>,
}

/// A head's field lines, however they are kept.
pub(super) trait Fields {
    /// The value of the first line of this name, given in lower case.
    fn first(&self, name: &str) -> Option<&[u8]>;

    /// The value of the first cookie of this name.
    fn cookie(&self, name: &str) -> Option<&[u8]> {
        cookie(self.first("cookie")?, name)
    }
}

impl Fields for HeaderMap {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(HeaderValue::as_bytes)
    }

    /// HTTP/2 clients may send each cookie on a line of its own (RFC 9113 §8.2.3).
    fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.get_all(header::COOKIE).iter().find_map(|line| cookie(line.as_bytes(), name))
    }
}

impl Visitor<'_> {
    /// Admits it to an endpoint, one not yet `tried` if there is one.
    pub(super) async fn admit(&self, tried: &[u64], log: &mut RequestLog) -> Result<Ticket, ProxyError> {
        let ticket = self.client.worker.reader.admit(self, tried).map_err(|error| {
            error.app().into_iter().for_each(|app| log.turned_away(app));
            if matches!(error, NotAdmitted::Door(_)) {
                log.keeps_query_to_itself();
            }
            ProxyError::of_admission(error, self.client.options.unknown_host, |door| door::answer(door, self))
        })?;
        log.admitted(&ticket);
        if ticket.tenure().is_late(self.arrived) {
            log.late_start();
        }
        Ok(ticket)
    }
}

impl RequestKey for Visitor<'_> {
    fn host(&self) -> &str {
        self.host
    }

    fn path(&self) -> &str {
        // `*` is about the whole server (RFC 9110 §9.3.7): whoever has its root.
        if self.path == "*" { "/" } else { self.path }
    }

    fn on_preview_listener(&self) -> bool {
        self.client.sees_previews()
    }

    fn client(&self) -> Option<IpAddr> {
        self.client.peer.map(|peer| peer.ip())
    }

    fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name)
    }

    fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.fields.cookie(name)
    }

    fn is_secure(&self) -> bool {
        self.client.options.tls.is_some()
    }

    fn standing(&self) -> Option<Standing> {
        self.standing
    }
}
