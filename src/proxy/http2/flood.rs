//! Frames that cost us work and bring nothing: HTTP/2 lets a client send any number of settings, pings, priorities, window
//! updates and empty frames (RFC 9113 §10.5). They are counted as they pass, against what useful is carried either way, and
//! a client that lives by them alone is cut off.

/// How many useless frames a connection is allowed for nothing.
const FREE: u64 = 1000;
/// How many octets carried either way allow one more: window updates come with what is downloaded.
const OCTETS_PER_FRAME: u64 = 1024;
/// How many more each write to the client allows, however short: some clients open windows with every piece.
const PER_WRITE: u64 = 4;
/// How many more are allowed with each second: pings come with time.
const PER_SECOND: u64 = 10;

/// RFC 9113 §4.1: length, type, flags, stream.
const HEAD: usize = 9;
/// RFC 9113 §3.4.
const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// Where in the frames of a connection we are, and what has come.
pub(super) struct Meter {
    head: [u8; HEAD],
    /// How much of a frame's head has come.
    known: usize,
    /// How much of a frame's payload, or of the preface, is to come.
    left: usize,
    useless: u64,
    carried: u64,
}

impl Meter {
    /// For a connection from its first octet on.
    pub(super) fn new() -> Self {
        Self { head: [0; HEAD], known: 0, left: PREFACE, useless: 0, carried: 0 }
    }

    /// Walks over octets from the client.
    pub(super) fn received(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            if self.left > 0 {
                let here = self.left.min(octets.len());
                self.left -= here;
                octets = &octets[here..];
                continue;
            }
            let here = (HEAD - self.known).min(octets.len());
            self.head[self.known..][..here].copy_from_slice(&octets[..here]);
            self.known += here;
            octets = &octets[here..];
            if self.known == HEAD {
                self.known = 0;
                self.count();
            }
        }
    }

    fn count(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            DATA if self.left == 0 && flags & END_STREAM == 0 => self.useless += 1,
            CONTINUATION if self.left == 0 => self.useless += 1,
            DATA | HEADERS | CONTINUATION => self.carried += self.left as u64,
            // h2 has its own limits of these.
            RST_STREAM => {}
            _ => self.useless += 1,
        }
    }

    /// So many octets went to the client.
    pub(super) fn sent(&mut self, octets: usize) {
        self.carried += octets as u64 + PER_WRITE * OCTETS_PER_FRAME;
    }

    /// Whether there were too many useless frames for a connection that is so many seconds old.
    pub(super) fn is_flooded(&self, seconds: u64) -> bool {
        self.useless > FREE + self.carried / OCTETS_PER_FRAME + seconds.saturating_mul(PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Meter {
        let mut meter = Meter::new();
        meter.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        meter
    }

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("a short payload").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![0; payload]].concat()
    }

    #[test]
    fn what_brings_nothing_floods_and_what_carries_something_does_not() {
        let is_flooded = |frame: &[u8], step: usize| {
            let mut meter = begun();
            let octets = frame.repeat(2000);
            octets.chunks(step).for_each(|octets| meter.received(octets));
            meter.is_flooded(0)
        };
        for step in [1, 7, 9, 1000] {
            for useless in
                [frame(4, 0, 6), frame(6, 0, 8), frame(0, 0, 0), frame(9, 0, 0), frame(2, 0, 5), frame(77, 0, 0)]
            {
                assert!(is_flooded(&useless, step), "{useless:?}");
            }
            for useful in [frame(0, 0, 1), frame(0, END_STREAM, 0), frame(1, 5, 20), frame(9, 4, 20)] {
                assert!(!is_flooded(&useful, step), "{useful:?}");
            }
        }
    }

    #[test]
    fn window_updates_come_with_a_download_and_pings_with_time() {
        let mut meter = begun();
        meter.received(&frame(8, 0, 4).repeat(2000));
        assert!(meter.is_flooded(0) && !meter.is_flooded(100));
        meter.sent(1024 * 1024);
        assert!(!meter.is_flooded(0));
        // An opened window for each short event.
        for _ in 0..10_000 {
            meter.received(&frame(8, 0, 4).repeat(2));
            meter.sent(50);
        }
        assert!(!meter.is_flooded(0));
    }
}
