//! The frames of a WebSocket (RFC 6455), as far as it takes to end a conversation decently from in between: where one ends
//! and the next begins, and the one that closes. Payloads are passed over unseen, so a long message costs what a short one
//! does.

/// What a close frame says (RFC 6455 §7.4.1, and the IANA registry of close codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseCode {
    /// This end goes away.
    GoingAway = 1001,
    /// The service is being restarted: the other side may come back.
    ServiceRestart = 1012,
}

/// The longest header: two octets, eight of length, four of mask.
const LONGEST_HEADER: usize = 14;
const CLOSE: u8 = 0x8;

/// How far a stream of frames has got, in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames {
    header: [u8; LONGEST_HEADER],
    /// Octets of a header that is not whole.
    have: usize,
    /// Octets of payload still to come.
    payload: u64,
    /// The frame whose payload is coming closes the conversation.
    closing: bool,
    closed: bool,
}

impl Frames {
    /// Takes note of octets that went by.
    pub(super) fn pass(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            octets = &octets[self.step(octets)..];
        }
    }

    /// How many of these octets, which come next, belong to the frame that has begun: none between two frames.
    pub(super) fn rest_of_frame(mut self, octets: &[u8]) -> usize {
        let mut rest = 0;
        while !self.is_between() && rest < octets.len() {
            rest += self.step(&octets[rest..]);
        }
        rest
    }

    /// Whether a whole frame, or nothing yet, has gone by: here another may be put in.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// Whether a whole close frame has gone by: nothing may follow it.
    pub(super) fn have_closed(&self) -> bool {
        self.closed
    }

    /// Takes octets up to the end of a header, of a payload, or of what there is, and says how many. Of no octets, none.
    fn step(&mut self, octets: &[u8]) -> usize {
        if self.payload > 0 {
            let here = usize::try_from(self.payload).unwrap_or(usize::MAX).min(octets.len());
            self.payload -= here as u64;
            self.end_of_frame();
            return here;
        }
        let here = self.lacking().min(octets.len());
        self.header[self.have..][..here].copy_from_slice(&octets[..here]);
        self.have += here;
        if self.lacking() == 0 {
            self.payload = self.length();
            self.closing = self.header[0] & 0xF == CLOSE;
            self.have = 0;
            self.end_of_frame();
        }
        here
    }

    fn end_of_frame(&mut self) {
        self.closed |= self.payload == 0 && self.closing;
    }

    /// How many octets of the header are known to be missing; more may turn out to be once these are here.
    fn lacking(&self) -> usize {
        if self.have < 2 {
            return 2 - self.have;
        }
        let length = match self.header[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask - self.have
    }

    /// The length of the payload, of a header that is whole.
    fn length(&self) -> u64 {
        let [_, short, long @ ..] = &self.header;
        match short & 0x7F {
            126 => u64::from(u16::from_be_bytes([long[0], long[1]])),
            127 => u64::from_be_bytes([long[0], long[1], long[2], long[3], long[4], long[5], long[6], long[7]]),
            short => u64::from(short),
        }
    }
}

/// A close frame. What a client sends is masked (RFC 6455 §5.3); what it hides here is the same for everybody.
pub(super) fn close(code: CloseCode, mask: Option<[u8; 4]>) -> Vec<u8> {
    let code = (code as u16).to_be_bytes();
    let mut frame = vec![0x80 | CLOSE, code.len() as u8];
    match mask {
        Some(mask) => {
            frame[1] |= 0x80;
            frame.extend(mask);
            frame.extend(code.iter().zip(mask).map(|(octet, mask)| octet ^ mask));
        }
        None => frame.extend(code),
    }
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, length: usize, mask: bool) -> Vec<u8> {
        let mask_bit = if mask { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            ..126 => frame.push(mask_bit | length as u8),
            126..0x1_0000 => {
                frame.push(mask_bit | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask_bit | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(mask.then_some([0x88, 0x82, 0, 0]).into_iter().flatten());
        // A payload that looks like close frames.
        frame.extend([0x88, 0x00].iter().cycle().take(length));
        frame
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let lengths = prop_oneof![0..200_usize, 120..130_usize, 65_530..65_540_usize];
        proptest::collection::vec((0..=7_u8, lengths, any::<bool>()).prop_map(|(o, l, m)| frame(o, l, m)), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn however_a_stream_is_cut_up_the_frames_end_where_they_end(
            frames in frames(),
            pieces in proptest::collection::vec(1..5_000_usize, 1..8),
        ) {
            let whole = frames.concat();
            let ends: Vec<usize> = frames.iter().scan(0, |at, frame| { *at += frame.len(); Some(*at) }).collect();
            let (mut state, mut at) = (Frames::default(), 0);
            for piece in pieces.iter().cycle() {
                let between = at == 0 || ends.contains(&at);
                prop_assert_eq!(state.is_between(), between, "at {}", at);
                let end = ends.iter().find(|end| **end > at).map_or(0, |end| end - at);
                prop_assert_eq!(state.rest_of_frame(&whole[at..]), if between { 0 } else { end });
                if at == whole.len() {
                    break;
                }
                let next = (at + piece).min(whole.len());
                state.pass(&whole[at..next]);
                at = next;
            }
            prop_assert!(!state.have_closed());
            for octet in close(CloseCode::GoingAway, Some([1, 2, 3, 4])) {
                prop_assert!(!state.have_closed());
                state.pass(&[octet]);
            }
            prop_assert!(state.have_closed() && state.is_between());
        }
    }

    #[test]
    fn a_close_frame_says_its_code_masked_or_not() {
        assert_eq!(close(CloseCode::ServiceRestart, None), [0x88, 2, 0x03, 0xF4]);
        assert_eq!(close(CloseCode::GoingAway, Some([1, 2, 3, 4])), [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xE9 ^ 2]);
    }

    #[test]
    fn a_length_nobody_can_mean_is_waited_for_and_nothing_more() {
        let mut state = Frames::default();
        state.pass(&[0x82, 127]);
        state.pass(&[0xFF; 8]);
        state.pass(&[0; 1000]);
        assert!(!state.is_between());
    }
}
