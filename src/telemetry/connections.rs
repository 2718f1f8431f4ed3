//! Connections that came and got no further than our door, by listener and reason. They are rare, or an attack, whose price
//! is paid elsewhere: one lock for all workers will do.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Why a connection was closed before a request of it was accepted. A client that left by itself is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServed {
    /// There were far too many: a few more than the limit are answered with a 503.
    Limit,
    /// Too many were arriving at once, and this one had been at it the longest.
    Handshakes,
    /// The listener wants a PROXY header, and does not trust its peer to write one.
    Untrusted,
    /// It did not begin with a PROXY header, or with a malformed one.
    ProxyHeader,
    /// The PROXY header or the TLS handshake did not end in time.
    Timeout,
    /// The TLS handshake failed.
    Handshake,
    /// The client had no certificate, or not a good one.
    ClientCertificate,
}

impl NotServed {
    /// All of them, in the order of their declaration.
    const ALL: [Self; 7] = [
        Self::Limit,
        Self::Handshakes,
        Self::Untrusted,
        Self::ProxyHeader,
        Self::Timeout,
        Self::Handshake,
        Self::ClientCertificate,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "connection_limit",
            Self::Handshakes => "handshake_limit",
            Self::Untrusted => "untrusted_peer",
            Self::ProxyHeader => "proxy_header",
            Self::Timeout => "handshake_timeout",
            Self::Handshake => "handshake",
            Self::ClientCertificate => "client_certificate",
        }
    }
}

/// How many there were.
#[derive(Default)]
pub(super) struct Unserved {
    by_listener: Mutex<BTreeMap<String, [u64; NotServed::ALL.len()]>>,
}

impl Unserved {
    /// Shows a listener at zero, if it has not been seen before.
    pub(super) fn begin(&self, listener: &str) {
        self.change(listener, |_| {});
    }

    pub(super) fn count(&self, listener: &str, why: NotServed) {
        self.change(listener, |counts| counts[why as usize] += 1);
    }

    /// Each listener, reason, and count.
    pub(super) fn visit(&self, mut visit: impl FnMut(&str, &'static str, u64)) {
        let by_listener = self.by_listener.lock().unwrap_or_else(PoisonError::into_inner);
        for (listener, counts) in &*by_listener {
            NotServed::ALL.iter().zip(counts).for_each(|(why, count)| visit(listener, why.as_str(), *count));
        }
    }

    fn change(&self, listener: &str, change: impl FnOnce(&mut [u64; NotServed::ALL.len()])) {
        let mut by_listener = self.by_listener.lock().unwrap_or_else(PoisonError::into_inner);
        match by_listener.get_mut(listener) {
            Some(counts) => change(counts),
            None => change(by_listener.entry(listener.to_owned()).or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_listener_is_shown_from_the_first_day() {
        let unserved = Unserved::default();
        unserved.begin("live");
        unserved.count("live", NotServed::ClientCertificate);
        unserved.begin("live");
        let mut shown = Vec::new();
        unserved.visit(|listener, why, count| shown.push((listener.to_owned(), why, count)));
        assert_eq!(shown.len(), NotServed::ALL.len());
        assert_eq!(shown.iter().map(|(_, _, count)| count).sum::<u64>(), 1);
        assert_eq!(shown[6], ("live".to_owned(), "client_certificate", 1));
    }
}
