//! The cookie that keeps a client with its endpoint, for one that came without.

use std::{fmt::Write, hash::BuildHasher, time::Duration};

use foldhash::fast::FixedState;

/// A new value: 128 bits in hexadecimal. It tells clients apart and proves nothing.
pub(super) fn value(rng: &mut fastrand::Rng) -> String {
    format!("{:032x}", rng.u128(..))
}

/// The field line that has the client keep it.
pub(super) fn line(name: &str, value: &str, ttl: Option<Duration>) -> Box<str> {
    let mut line = format!("set-cookie: {name}={value}; Path=/; HttpOnly; SameSite=Lax");
    if let Some(ttl) = ttl {
        // Writing to a string cannot fail.
        write!(line, "; Max-Age={}", ttl.as_secs()).ok();
    }
    line.push_str("\r\n");
    line.into()
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
    fn the_line_keeps_scripts_and_other_sites_away_from_the_cookie() {
        let value = value(&mut fastrand::Rng::with_seed(1));
        assert!(value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit()), "{value}");
        let plain = format!("set-cookie: lb={value}; Path=/; HttpOnly; SameSite=Lax\r\n");
        assert_eq!(&*line("lb", &value, None), plain);
        let kept = line("lb", &value, Some(Duration::from_secs(3600)));
        assert_eq!(&*kept, plain.replace("\r\n", "; Max-Age=3600\r\n"));
    }

    #[test]
    fn fractions_of_keys_are_spread_and_stay() {
        let below = (0..10_000_u32).filter(|n| fraction(&n.to_le_bytes()) < 0.25).count();
        assert!((2_300..2_700).contains(&below), "{below}");
        assert_eq!(fraction(b"a"), fraction(b"a"));
    }
}
