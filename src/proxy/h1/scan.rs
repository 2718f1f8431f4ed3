//! Going through the octets of a head, each of them once: whatever is found in them is what the grammar has there, and a
//! line ends in CRLF and in nothing else (RFC 9112 §2.2 lets a recipient take a bare LF; two recipients then may differ).
//! Where a head may go on for long, eight octets are looked at together.

/// Why reading stops before the end of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// What there is may be the beginning of a head.
    Partial,
    BareLineFeed,
    /// The first line, or the empty one at the end.
    Line,
    /// A request's target.
    Target,
    /// A protocol version that is not of HTTP/1.
    Version,
    /// A field's name: there is none, or it is not followed by a colon.
    Name,
    /// A field's value.
    Value,
    /// There are more fields than we accept.
    TooMany,
}

/// Passes by empty lines before a first line (RFC 9112 §2.2).
pub(super) fn skip_empty_lines(octets: &[u8]) -> Result<usize, Stop> {
    let mut at = 0;
    while let Some(b'\r' | b'\n') = octets.get(at) {
        at = line_end(octets, at, Stop::Line)?;
    }
    Ok(at)
}

/// Passes by the CRLF that is due, or says that it is missing: bluntly, or as `otherwise`.
pub(super) fn line_end(octets: &[u8], at: usize, otherwise: Stop) -> Result<usize, Stop> {
    match octets[at..] {
        [b'\r', b'\n', ..] => Ok(at + 2),
        ref rest => Err(no_line_end(rest, otherwise)),
    }
}

#[cold]
fn no_line_end(rest: &[u8], otherwise: Stop) -> Stop {
    match rest {
        [] | [b'\r'] => Stop::Partial,
        [b'\n', ..] => Stop::BareLineFeed,
        _ => otherwise,
    }
}

/// Reads a protocol version, eight octets long. Whether it is HTTP/1.0; else it is HTTP/1.1.
pub(super) fn version(octets: &[u8], at: usize) -> Result<bool, Stop> {
    match octets[at..].first_chunk() {
        Some(b"HTTP/1.1") => Ok(false),
        Some(b"HTTP/1.0") => Ok(true),
        None if b"HTTP/1.".starts_with(&octets[at..]) => Err(Stop::Partial),
        _ => Err(Stop::Version),
    }
}

/// Reads a word, which is to be of at least one octet, and the blank behind it; says where that is. `end` says where the word
/// itself does.
pub(super) fn word(
    octets: &[u8],
    at: usize,
    end: impl Fn(&[u8], usize) -> usize,
    otherwise: Stop,
) -> Result<usize, Stop> {
    let end = end(octets, at);
    match octets.get(end) {
        Some(b' ') if end > at => Ok(end),
        None => Err(Stop::Partial),
        Some(b' ') => Err(Stop::Line),
        Some(_) => Err(otherwise),
    }
}

/// Where a token ends (RFC 9110 §5.6.2).
pub(super) fn token_end(octets: &[u8], at: usize) -> usize {
    end(octets, at, other_than_letter_or_dash, |octet| !IS_TOKEN[usize::from(octet)])
}

/// Where a target ends: RFC 9112 §3.2 has no fragment in it, and RFC 3986 §2 only these characters in a URI.
pub(super) fn target_end(octets: &[u8], at: usize) -> usize {
    let special = |word: u64| odd_or_below(word, b'!') | equal(word, b'#');
    end(octets, at, special, |octet| !octet.is_ascii_graphic() || octet == b'#')
}

/// Where the text of a value or a reason ends (RFC 9110 §5.5): at the first control character but a tab.
pub(super) fn text_end(octets: &[u8], at: usize) -> usize {
    // Made so that a compiler finds it can compare them all at once.
    let is_plain = |piece: &&[u8; 16]| piece.iter().fold(true, |plain, octet| plain & matches!(octet, b' '..=b'~'));
    let plain = octets[at..].as_chunks().0.iter().take_while(is_plain).count();
    let special = |word| odd_or_below(word, b' ');
    end(octets, at + 16 * plain, special, |octet| octet.is_ascii_control() && octet != b'\t')
}

/// The first octet that `is_end`, among those that `special` marks by their highest bits; or the end. Of the marks only the
/// lowest is relied upon, and it may stand at an octet that is no end.
fn end(octets: &[u8], mut at: usize, special: impl Fn(u64) -> u64, is_end: impl Fn(u8) -> bool) -> usize {
    loop {
        if let Some(word) = octets[at..].first_chunk() {
            let marks = special(u64::from_le_bytes(*word)) & (EACH * 0x80);
            if marks == 0 {
                at += 8;
                continue;
            }
            at += marks.trailing_zeros() as usize / 8;
        }
        match octets.get(at) {
            Some(octet) if !is_end(*octet) => at += 1,
            _ => return at,
        }
    }
}

/// A one in each octet.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Marks the first octet that is below `least`, or DEL, or not ASCII. What is borrowed or carried marks only what comes
/// after that.
fn odd_or_below(word: u64, least: u8) -> u64 {
    word.wrapping_sub(EACH * u64::from(least)) | word.wrapping_add(EACH) | word
}

/// Marks the first octet that is neither, as those are that most names are made of.
fn other_than_letter_or_dash(word: u64) -> u64 {
    let lower = word | (EACH * 0x20);
    let from_a = lower.wrapping_add(EACH * u64::from(0x80 - b'a'));
    let past_z = lower.wrapping_add(EACH * u64::from(0x7f - b'z'));
    let no_dash = (word ^ (EACH * u64::from(b'-'))).wrapping_add(EACH * 0x7f);
    ((!from_a | past_z) & no_dash) | word
}

/// Marks the first octet that is this one.
fn equal(word: u64, octet: u8) -> u64 {
    let differs = word ^ (EACH * u64::from(octet));
    differs.wrapping_sub(EACH) & !differs
}

/// RFC 9110 §5.6.2.
const IS_TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 128 {
        table[octet] = (octet as u8).is_ascii_alphanumeric();
        octet += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where the first octet is that `is_end`, found the slow way.
    fn plain(octets: &[u8], at: usize, is_end: impl Fn(u8) -> bool) -> usize {
        octets[at..].iter().position(|octet| is_end(*octet)).map_or(octets.len(), |end| at + end)
    }

    /// Mostly such as may stand there.
    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![
            20 => b' '..=b'~',
            2 => any::<u8>(),
            1 => proptest::sample::select(b"\t\r\n\0\x1f\x20\x7f\x80\xff#".to_vec()),
        ];
        proptest::collection::vec(octet, 0..80)
    }

    proptest! {
        #[test]
        fn eight_octets_together_are_read_as_one_by_one(octets in octets(), at in any::<prop::sample::Index>()) {
            let at = at.index(octets.len() + 1);
            prop_assert_eq!(text_end(&octets, at), plain(&octets, at, |o| (o < 0x20 && o != b'\t') || o == 0x7f));
            prop_assert_eq!(target_end(&octets, at), plain(&octets, at, |o| !(0x21..0x7f).contains(&o) || o == b'#'));
            let mark = |o: u8| o.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&o);
            prop_assert_eq!(token_end(&octets, at), plain(&octets, at, |o| !mark(o)));
        }
    }

    #[test]
    fn every_octet_is_told_apart_wherever_it_stands() {
        for octet in 0..=255_u8 {
            for place in 0..20 {
                let mut octets = *b"Content-TypexZz-Aaaa";
                octets[place] = octet;
                let end = |stops: bool| if stops { place } else { 20 };
                assert_eq!(text_end(&octets, 0), end(octet.is_ascii_control() && octet != b'\t'), "{octet} {place}");
                assert_eq!(target_end(&octets, 0), end(!octet.is_ascii_graphic() || octet == b'#'), "{octet} {place}");
                let is_mark = octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
                assert_eq!(token_end(&octets, 0), end(!is_mark), "{octet} {place}");
            }
        }
    }
}
