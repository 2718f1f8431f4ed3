//! Consistent hashing: the endpoints of a pool as points on a ring, so that a key stays with its endpoint when others come
//! and go. The ring is that of nginx and memcached (`pingora-ketama`). It is built when a pool's endpoints change, not
//! when their health does: who is out of service is passed over on the way round.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use foldhash::fast::{FixedState, RandomState};
use pingora_ketama::{Bucket, Continuum};

use super::{address::Address, pool::Endpoint};

/// Weights are scaled down until a ring has no more units of them than this, at 160 points of 8 octets each.
const MOST_UNITS: u64 = 8192;

/// A ring has no room for more endpoints than this; those beyond are reached by no key.
const MOST_ENDPOINTS: usize = 65_535;

pub(super) struct Ring {
    points: Continuum,
    /// Which endpoint of the pool each place on the ring is.
    endpoints: HashMap<SocketAddr, u32, RandomState>,
}

impl Ring {
    pub(super) fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        let endpoints = &endpoints[..endpoints.len().min(MOST_ENDPOINTS)];
        let units: u64 = endpoints.iter().map(|e| u64::from(e.weight())).sum();
        let scaled = |weight: u32| match units > MOST_UNITS {
            true => u32::try_from(u64::from(weight) * MOST_UNITS / units).unwrap_or(u32::MAX),
            false => weight,
        };
        let bucket = |e: &Arc<Endpoint>| Bucket::new(place(e), scaled(e.weight()).max(1));
        let buckets: Vec<_> = endpoints.iter().map(bucket).collect();
        let index = |(index, e): (u32, &Arc<Endpoint>)| (place(e), index);
        Self { points: Continuum::new(&buckets), endpoints: (0..).zip(endpoints).map(index).collect() }
    }

    /// The endpoints by index, from a key's own place once and again round the ring. One that has several points in a row
    /// comes as often.
    pub(super) fn from(&self, key: &[u8]) -> impl Iterator<Item = usize> {
        let places = self.points.node_iter(key);
        places.filter_map(|place| self.endpoints.get(place).map(|index| *index as usize))
    }
}

/// What an endpoint is known by on the ring. One without an IP address is given one by its path, in a range that is for
/// documentation (RFC 3849), so that nobody has it.
fn place(endpoint: &Endpoint) -> SocketAddr {
    let path = match endpoint.address() {
        Address::Ip(address) => return *address,
        Address::Unix(path) => path.as_os_str().as_encoded_bytes(),
    };
    let [low, high] = [0, 1].map(|seed| FixedState::with_seed(seed).hash_one(path));
    let hashed = u128::from(low) | u128::from(high & 0xffff_ffff) << 64;
    SocketAddr::from((Ipv6Addr::from_bits(0x2001_0db8 << 96 | hashed), 1))
}
