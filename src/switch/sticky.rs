//! The cookie that keeps a client with its endpoint, for one that came without.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

/// A new value: 128 bits in hexadecimal. It tells clients apart and proves nothing.
pub(super) fn value(rng: &mut fastrand::Rng) -> String {
    format!("{:032x}", rng.u128(..))
}

/// A number from 0 to 1 that is always the same for the same key, and has nothing to do with its place on the ring.
pub(super) fn fraction(key: &[u8]) -> f32 {
    // The upper 24 bits: as many as an f32 tells apart.
    (FixedState::with_seed(1).hash_one(key) >> 40) as f32 / (1_u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_long_and_plain() {
        let value = value(&mut fastrand::Rng::with_seed(1));
        assert!(value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit()), "{value}");
    }

    #[test]
    fn fractions_of_keys_are_spread_and_stay() {
        let below = (0..10_000_u32).filter(|n| fraction(&n.to_le_bytes()) < 0.25).count();
        assert!((2_300..2_700).contains(&below), "{below}");
        assert_eq!(fraction(b"a"), fraction(b"a"));
    }
}
