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
pub(super) fn skip_empty_lines(mut octets: &[u8]) -> Result<&[u8], Stop> {
    while let [b'\r' | b'\n', ..] = octets {
        octets = line_end(octets, Stop::Line)?;
    }
    Ok(octets)
}

/// Passes by the CRLF that is due, or says that it is missing: bluntly, or as `otherwise`.
#[inline]
pub(super) fn line_end(octets: &[u8], otherwise: Stop) -> Result<&[u8], Stop> {
    match octets {
        [b'\r', b'\n', behind @ ..] => Ok(behind),
        _ => Err(no_line_end(octets, otherwise)),
    }
}

#[cold]
fn no_line_end(octets: &[u8], otherwise: Stop) -> Stop {
    match octets {
        [] | [b'\r'] => Stop::Partial,
        [b'\n', ..] => Stop::BareLineFeed,
        _ => otherwise,
    }
}

/// Reads a protocol version. Whether it is HTTP/1.0, else it is HTTP/1.1; and what comes behind.
pub(super) fn version(octets: &[u8]) -> Result<(bool, &[u8]), Stop> {
    match octets.split_first_chunk() {
        Some((b"HTTP/1.1", behind)) => Ok((false, behind)),
        Some((b"HTTP/1.0", behind)) => Ok((true, behind)),
        None if b"HTTP/1.".starts_with(octets) => Err(Stop::Partial),
        _ => Err(Stop::Version),
    }
}

/// Reads a word of this length, which is to be of at least one octet, and the blank behind it. Says what comes behind that.
pub(super) fn word(octets: &[u8], length: usize, otherwise: Stop) -> Result<&[u8], Stop> {
    match &octets[length..] {
        [b' ', behind @ ..] if length > 0 => Ok(behind),
        [] => Err(Stop::Partial),
        [b' ', ..] => Err(Stop::Line),
        _ => Err(otherwise),
    }
}

/// How long the token is that octets begin with (RFC 9110 §5.6.2).
#[inline]
pub(super) fn token(octets: &[u8]) -> usize {
    length(octets, other_than_letter_or_dash, |octet| IS_TOKEN[usize::from(octet)])
}

/// How long the target is that octets begin with: RFC 9112 §3.2 has no fragment in it, and RFC 3986 §2 only these characters
/// in a URI.
#[inline]
pub(super) fn target(octets: &[u8]) -> usize {
    let special = |word: u64| odd_or_below(word, b'!') | equal(word, b'#');
    length(octets, special, |octet| octet.is_ascii_graphic() && octet != b'#')
}

/// How long the text is that octets begin with, of a value or a reason (RFC 9110 §5.5): it goes to the first control character
/// but a tab.
#[inline]
pub(super) fn text(octets: &[u8]) -> usize {
    let mut rest = octets;
    while let Some((piece, behind)) = rest.split_first_chunk::<16>() {
        // Written so that all are compared at once.
        if !piece.iter().fold(true, |plain, octet| plain & matches!(octet, b' '..=b'~')) {
            break;
        }
        rest = behind;
    }
    let good = |octet: u8| octet != b'\r' && (octet == b'\t' || !octet.is_ascii_control());
    octets.len() - rest.len() + length(rest, |word| odd_or_below(word, b' '), good)
}

/// How many octets there are before the first that is not `good`. It is among those that `special` marks by their highest bit;
/// of the marks only the lowest is relied upon.
fn length(octets: &[u8], special: impl Fn(u64) -> u64, good: impl Fn(u8) -> bool) -> usize {
    let mut rest = octets;
    loop {
        let mut skip = 0;
        if let Some((word, behind)) = rest.split_first_chunk() {
            let marks = special(u64::from_le_bytes(*word)) & (EACH * 0x80);
            if marks == 0 {
                rest = behind;
                continue;
            }
            skip = marks.trailing_zeros() as usize / 8;
        }
        rest = &rest[skip..];
        match rest {
            [octet, behind @ ..] if good(*octet) => rest = behind,
            _ => return octets.len() - rest.len(),
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

    fn is_text(octet: u8) -> bool {
        octet == b'\t' || (octet >= b' ' && octet != 0x7f)
    }

    fn is_of_target(octet: u8) -> bool {
        (b'!'..=b'~').contains(&octet) && octet != b'#'
    }

    fn is_of_token(octet: u8) -> bool {
        octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
    }

    /// How many octets there are before the first that is not good, counted the slow way.
    fn plain(octets: &[u8], is_good: impl Fn(u8) -> bool) -> usize {
        octets.iter().take_while(|octet| is_good(**octet)).count()
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
        fn eight_octets_together_are_read_as_one_by_one(octets in octets()) {
            prop_assert_eq!(text(&octets), plain(&octets, is_text));
            prop_assert_eq!(target(&octets), plain(&octets, is_of_target));
            prop_assert_eq!(token(&octets), plain(&octets, is_of_token));
        }
    }

    #[test]
    fn every_octet_is_told_apart_wherever_it_stands() {
        for octet in 0..=255_u8 {
            for place in 0..20 {
                let mut octets = *b"Content-TypexZz-Aaaa";
                octets[place] = octet;
                let end = |goes_on: bool| if goes_on { 20 } else { place };
                assert_eq!(text(&octets), end(is_text(octet)), "{octet} {place}");
                assert_eq!(target(&octets), end(is_of_target(octet)), "{octet} {place}");
                assert_eq!(token(&octets), end(is_of_token(octet)), "{octet} {place}");
            }
        }
    }
}
