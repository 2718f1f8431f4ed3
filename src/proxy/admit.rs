//! The one door to the switch: whatever a request came in by, it is admitted here, once for each attempt, so that a retry
//! reads the current snapshot. What makes a request wait before it is let in belongs here too.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, header};
use tokio::time::Instant;

use super::{Candidate, client::Client, cookie::cookie, door, error::ProxyError};
use crate::{
    switch::{Closed, NotAdmitted, NotAwaited, RequestKey, Ticket, Whose},
    telemetry::request_log::RequestLog,
};

/// A request before the door: what the switch may ask of it.
pub(super) struct Visitor<'a> {
    pub(super) client: &'a Client,
    /// Whose request it is (`forwarding::Asker`).
    pub(super) address: Option<IpAddr>,
    /// Whether it asked over TLS.
    pub(super) secure: bool,
    /// In lower case, without port.
    pub(super) host: &'a str,
    /// With its query.
    pub(super) path: &'a str,
    pub(super) fields: &'a dyn Fields,
    /// When its head was whole.
    pub(super) arrived: Instant,
    /// What it was admitted as before, if this is a retry: its fields may be gone by now.
    pub(super) whose: Option<Whose>,
}

/// A head's field lines, however they are kept.
pub(super) trait Fields {
    /// The value of the first line of this name, given in lower case.
    fn first(&self, name: &str) -> Option<&[u8]>;
    /// How much memory they take, in octets; asked only of requests that have to wait.
    fn octets(&self) -> usize;

    /// The value of the first cookie of this name.
    fn cookie(&self, name: &str) -> Option<&[u8]> {
        cookie(self.first("cookie")?, name)
    }
}

impl Fields for HeaderMap {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(HeaderValue::as_bytes)
    }

    fn octets(&self) -> usize {
        self.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
    }

    /// HTTP/2 clients may send each cookie on a line of its own (RFC 9113 §8.2.3).
    fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.get_all(header::COOKIE).iter().find_map(|line| cookie(line.as_bytes(), name))
    }
}

/// What keeps a request from being let in at once.
pub(super) enum Hindrance {
    /// The switch does not admit it, or not now.
    Refused(NotAdmitted),
    /// Its app has limits, which it may be over.
    Limited(Ticket),
}

impl Visitor<'_> {
    /// Admits it to an endpoint, one not yet `tried` if there is one. A request that is tried again must have let go of the
    /// ticket it had: while requests are held, its pool may be waited for to be empty.
    pub(super) async fn admit(&self, tried: &[u64], log: &mut RequestLog) -> Result<Ticket, ProxyError> {
        match self.admit_at_once(tried, log) {
            Ok(ticket) => Ok(ticket),
            // Boxed, so that what only few requests need makes none of the others larger.
            Err(hindrance) => Box::pin(self.admit_past(hindrance, tried, log)).await,
        }
    }

    /// The same for the many with which it is done at once. What hinders the others has to be gone past.
    pub(super) fn admit_at_once(&self, tried: &[u64], log: &mut RequestLog) -> Result<Ticket, Hindrance> {
        let ticket = self.ask(tried).map_err(Hindrance::Refused)?;
        if is_limited(&ticket) {
            return Err(Hindrance::Limited(ticket));
        }
        self.let_in(&ticket, log);
        Ok(ticket)
    }

    /// Admits it past what hindered it, which may take a while.
    pub(super) async fn admit_past(
        &self,
        hindrance: Hindrance,
        tried: &[u64],
        log: &mut RequestLog,
    ) -> Result<Ticket, ProxyError> {
        let mut ticket = match hindrance {
            Hindrance::Limited(ticket) => ticket,
            Hindrance::Refused(refusal) => {
                self.outlast(refusal, log).await?;
                self.enter(tried, log).await?
            }
        };
        if is_limited(&ticket) {
            ticket = self.within_limits(ticket, tried, log).await?;
        }
        self.let_in(&ticket, log);
        Ok(ticket)
    }

    fn let_in(&self, ticket: &Ticket, log: &mut RequestLog) {
        log.admitted(ticket);
        if ticket.tenure().is_late(self.arrived) {
            log.late_start();
        }
    }

    /// Asks the switch once. What we ask ourselves is for the candidate that it means, and no other.
    fn ask(&self, tried: &[u64]) -> Result<Ticket, NotAdmitted> {
        let reader = &self.client.worker.reader;
        match self.client.inspects() {
            None => reader.admit(self, tried),
            Some(Candidate { app, revision }) => reader.admit_to((app, revision), Whose::Inspector, self, tried),
        }
    }

    /// Admits it, whatever the limits. Where waiting helps it waits, and asks again, on the snapshot of that moment.
    async fn enter(&self, tried: &[u64], log: &mut RequestLog) -> Result<Ticket, ProxyError> {
        loop {
            match self.ask(tried) {
                Ok(ticket) => return Ok(ticket),
                Err(refusal) => self.outlast(refusal, log).await?,
            }
        }
    }

    /// Counts it against its app's limits. Who has to wait for a place gives the ticket back and is admitted anew, on
    /// the snapshot of that moment; a retry has its place already.
    async fn within_limits(
        &self,
        mut ticket: Ticket,
        tried: &[u64],
        log: &mut RequestLog,
    ) -> Result<Ticket, ProxyError> {
        if log.is_new()
            && let Some(rate) = &ticket.policy().limits.rate
            && let Err(wait) = self.client.worker.rate_limits.check(ticket.app(), rate, self)
        {
            log.turned_away(ticket.app());
            return Err(ProxyError::RateLimited { wait });
        }
        loop {
            let (Some(capacity), Some(limit)) = (&ticket.route().capacity, ticket.policy().limits.in_flight) else {
                return Ok(ticket);
            };
            if log.has_place_of(capacity) {
                return Ok(ticket);
            }
            if let Some(slot) = capacity.try_take() {
                log.keep(slot);
                return Ok(ticket);
            }
            let (app, capacity) = (ticket.app().clone(), Arc::clone(capacity));
            log.turned_away(&app);
            drop(ticket);
            let slot = capacity.wait(limit).await.map_err(|error| match error {
                NotAwaited::Full => ProxyError::Overloaded { app },
                NotAwaited::TooLong => ProxyError::QueueTimeout { app },
            })?;
            log.keep(slot);
            ticket = self.enter(tried, log).await?;
        }
    }

    /// Waits where waiting helps: `Ok` is to be asked for admission again, on whatever snapshot is current by then.
    async fn outlast(&self, refusal: NotAdmitted, log: &mut RequestLog) -> Result<(), ProxyError> {
        if let NotAdmitted::Closed { app, by: Closed::Held(hold) } = &refusal {
            log.held(app);
            if hold.wait(self.octets()).await.is_ok() {
                return Ok(());
            }
        }
        refusal.app().into_iter().for_each(|app| log.turned_away(app));
        if matches!(refusal, NotAdmitted::Door(_)) {
            log.keeps_query_to_itself();
        }
        Err(ProxyError::of_admission(refusal, self.client.options.unknown_host, |door| door::answer(door, self)))
    }

    /// What it keeps in memory while it waits, in octets. Its body is not read.
    fn octets(&self) -> u64 {
        (self.host.len() + self.path.len() + self.fields.octets()) as u64
    }
}

/// Whether its app has limits that count for it: what we ask ourselves takes nobody's place, and is kept out by nobody.
fn is_limited(ticket: &Ticket) -> bool {
    ticket.policy().limits.any() && ticket.whose() != Whose::Inspector
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
        self.address
    }

    fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name)
    }

    fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.fields.cookie(name)
    }

    fn is_secure(&self) -> bool {
        self.secure
    }

    fn whose(&self) -> Option<Whose> {
        self.whose
    }
}
