//! How much of an app's traffic is let in at once, as plain values: requests in flight, requests of one client, and what
//! those are told who get no answer of an upstream.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

/// How much of an app's traffic is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests and tunnels in flight; `None` for no limit.
    pub in_flight: Option<InFlightLimit>,
    /// Requests of one client; `None` for no limit.
    pub rate: Option<Rate>,
}

impl Limits {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.in_flight.is_some() || self.rate.is_some()
    }
}

/// How many requests may be in flight, and what becomes of those over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlightLimit {
    /// The most requests and tunnels at once, over all workers and both pools; one or more.
    pub most: u32,
    /// How many more may wait for their turn; 0 for none.
    pub queue: u32,
    /// How long each may wait.
    pub queue_timeout: Duration,
}

/// How often one client may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many requests…
    pub requests: NonZeroU32,
    /// …in each such time, evenly spread; more than zero.
    pub per: Duration,
    /// How many may come at once after a pause.
    pub burst: NonZeroU32,
    /// What makes two requests one client's.
    pub by: RateBy,
}

/// What makes two requests one client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateBy {
    /// The address it comes from; of IPv6 its /64 network, which is what one client has.
    ClientIp,
    /// The value of this field, in lower case; without it, the address.
    Header(Box<str>),
}

/// The owner's own answers in place of our short texts, by status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPages(pub BTreeMap<u16, Arc<ErrorPage>>);

/// One such answer, as it was read with the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct ErrorPage {
    /// The file it came from.
    pub file: PathBuf,
    /// The value of its `Content-Type`.
    pub content_type: String,
    /// The octets.
    pub body: Arc<[u8]>,
}

impl fmt::Debug for ErrorPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, content_type, body } = self;
        write!(f, "ErrorPage({} as {content_type}, {} octets)", file.display(), body.len())
    }
}
