//! A record as a line, `{"seq":7,"crc":"0f1e2d3c","record":…}`, and the way back. The checksum covers the number and the
//! record's very octets, so a line that passes is the line that was written; the numbers are consecutive, so none is
//! missing between two that pass.

use std::io::{self, BufRead, Read};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::JournalError;

/// The longest line read or written, in octets with its end: what bounds memory against a file that is none of ours.
const MAX_LINE: usize = 16 * 1024 * 1024;
/// The room a line needs around its record: the keys, the checksum, and a number of up to 20 digits.
const ENVELOPE: usize = 64;

/// A record that fits: one JSON value, on one line, not too long.
#[derive(Debug)]
pub(super) struct Payload(Box<RawValue>);

/// All that a file holds, up to its end or a torn last line.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) records: Vec<String>,
    /// Octets of whole lines.
    pub(super) len: u64,
    /// Octets after them that are no whole line.
    pub(super) torn: u64,
    /// The number after the last one.
    pub(super) next_seq: u64,
}

/// Why a file cannot be read to its end.
#[derive(Debug)]
pub(super) enum Unreadable {
    Io(io::Error),
    Damaged { offset: u64, line: u64, reason: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    seq: u64,
    crc: &'a str,
    #[serde(borrow)]
    record: &'a RawValue,
}

impl Payload {
    pub(super) fn parse(text: String) -> Result<Self, JournalError> {
        let unfit = |reason: String| JournalError::Unfit { reason };
        if text.len() > MAX_LINE - ENVELOPE {
            return Err(unfit(format!("{} octets, more than {}", text.len(), MAX_LINE - ENVELOPE)));
        }
        if text.contains('\n') {
            return Err(unfit("it has more than one line".into()));
        }
        RawValue::from_string(text).map(Self).map_err(|e| unfit(e.to_string()))
    }

    /// Writes this record's line, end included.
    pub(super) fn encode(&self, seq: u64, into: &mut Vec<u8>) -> Result<(), JournalError> {
        let line = Line { seq, crc: &checksum(seq, &self.0), record: &self.0 };
        serde_json::to_writer(&mut *into, &line).map_err(|e| JournalError::Unfit { reason: e.to_string() })?;
        into.push(b'\n');
        Ok(())
    }
}

/// Reads all lines, one at a time. Only the very last may be torn.
pub(super) fn read_all(mut file: impl BufRead) -> Result<Contents, Unreadable> {
    let mut contents = Contents { next_seq: 1, ..Contents::default() };
    let mut line = Vec::new();
    loop {
        line.clear();
        let octets = file.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line).map_err(Unreadable::Io)? as u64;
        if octets == 0 {
            return Ok(contents);
        }
        let (offset, number) = (contents.len, contents.records.len() as u64 + 1);
        let damaged = |reason| Err(Unreadable::Damaged { offset, line: number, reason });
        let (seq, record) = match decode(&line) {
            Ok(whole) => whole,
            Err(reason) => {
                let last = file.fill_buf().map_err(Unreadable::Io)?.is_empty();
                if last && !has_more_after_a_record(&line) {
                    return Ok(Contents { torn: octets, ..contents });
                }
                return damaged(reason);
            }
        };
        // After a compaction the first number is not 1.
        if seq != contents.next_seq && !contents.records.is_empty() {
            return damaged(format!("record {seq} stands where {} is due", contents.next_seq));
        }
        contents.records.push(record);
        contents.len += octets;
        contents.next_seq = seq.saturating_add(1);
    }
}

fn decode(line: &[u8]) -> Result<(u64, String), String> {
    let no_end = || format!("no end within {} octets", line.len());
    let line = line.strip_suffix(b"\n").ok_or_else(no_end)?;
    let line: Line<'_> = serde_json::from_slice(line).map_err(|e| format!("not a record: {e}"))?;
    let found = checksum(line.seq, line.record);
    if line.crc != found {
        return Err(format!("its checksum is {found}, not {}", line.crc));
    }
    Ok((line.seq, line.record.get().to_owned()))
}

/// Whether a whole record is followed by more on its line: then its end was damaged later, for nothing is written after a
/// record but behind its end. No crash tears a line like that, and cutting it would lose two records.
fn has_more_after_a_record(line: &[u8]) -> bool {
    let mut lines = serde_json::Deserializer::from_slice(line).into_iter::<Line<'_>>();
    let first = lines.next();
    let whole = matches!(first, Some(Ok(Line { seq, crc, record })) if crc == checksum(seq, record));
    whole && lines.byte_offset() + 1 < line.len()
}

fn checksum(seq: u64, record: &RawValue) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seq.to_le_bytes());
    hasher.update(record.get().as_bytes());
    format!("{:08x}", hasher.finalize())
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    fn file(texts: &[String]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for (seq, text) in (1..).zip(texts) {
            Payload::parse(text.clone()).unwrap().encode(seq, &mut bytes).unwrap();
            ends.push(bytes.len() as u64);
        }
        (bytes, ends)
    }

    /// Any JSON text: strings with escapes and non-ASCII, numbers of all sizes, nesting.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            ".{0,12}".prop_map(|s| serde_json::to_string(&s).unwrap()),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop::collection::vec((".{0,4}", inner), 0..4).prop_map(|fields| {
                let fields: Vec<_> =
                    fields.iter().map(|(k, v)| format!("{}: {v}", serde_json::to_string(k).unwrap())).collect();
                format!("{{{}}}", fields.join(", "))
            })
        })
    }

    fn files() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(json(), 1..6)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(texts in files()) {
            let (bytes, _) = file(&texts);
            let contents = read_all(&*bytes).unwrap();
            prop_assert_eq!(&contents.records, &texts);
            prop_assert_eq!((contents.torn, contents.len), (0, bytes.len() as u64));
            prop_assert_eq!(contents.next_seq, texts.len() as u64 + 1);
        }

        #[test]
        fn a_file_cut_anywhere_is_read_up_to_its_last_whole_line(texts in files(), cut in any::<Index>()) {
            let (bytes, ends) = file(&texts);
            let cut = cut.index(bytes.len() + 1);
            let whole = ends.iter().rposition(|end| *end <= cut as u64).unwrap();
            let contents = read_all(&bytes[..cut]).unwrap();
            prop_assert_eq!(&contents.records, &texts[..whole]);
            prop_assert_eq!((contents.len, contents.torn), (ends[whole], cut as u64 - ends[whole]));
        }

        #[test]
        fn a_changed_octet_is_never_believed(texts in files(), at in any::<Index>(), flip in 1..=255_u8) {
            let (mut bytes, ends) = file(&texts);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let hit = ends.iter().rposition(|end| *end <= at as u64).unwrap();
            // An octet that became a line's end makes two lines of one: then there is something after the first.
            let last = hit + 1 == texts.len() && (bytes[at] != b'\n' || at + 1 == bytes.len());
            match read_all(&*bytes) {
                Ok(contents) => {
                    prop_assert!(last);
                    prop_assert_eq!(&contents.records, &texts[..hit]);
                    prop_assert_eq!((contents.len, contents.torn), (ends[hit], bytes.len() as u64 - ends[hit]));
                }
                Err(Unreadable::Damaged { offset, line, .. }) => {
                    prop_assert!(!last);
                    prop_assert_eq!((offset, line), (ends[hit], hit as u64 + 1));
                }
                Err(Unreadable::Io(e)) => panic!("{e}"),
            }
        }

        #[test]
        fn junk_of_any_kind_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read_all(&*bytes).ok();
        }
    }

    #[test]
    fn a_missing_line_is_damage_even_at_the_end() {
        let (bytes, ends) = file(&["1".into(), "2".into(), "3".into()]);
        let without_the_second = [&bytes[..ends[1] as usize], &bytes[ends[2] as usize..]].concat();
        let Err(Unreadable::Damaged { offset, line, reason }) = read_all(&*without_the_second) else { panic!() };
        assert_eq!((offset, line), (ends[1], 2));
        assert_eq!(reason, "record 3 stands where 2 is due");
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let Err(Unreadable::Damaged { offset: 0, line: 1, reason }) = read_all(endless) else { panic!() };
        assert_eq!(reason, "no end within 16777216 octets");
    }

    #[test]
    fn the_longest_payload_makes_a_line_that_is_read_again() {
        let longest = |more| format!("\"{}\"", "x".repeat(MAX_LINE - ENVELOPE - 2 + more));
        let mut bytes = Vec::new();
        Payload::parse(longest(0)).unwrap().encode(u64::MAX - 1, &mut bytes).unwrap();
        assert_eq!(read_all(&*bytes).unwrap().records.len(), 1);
        assert!(matches!(Payload::parse(longest(1)), Err(JournalError::Unfit { .. })));
    }

    #[test]
    fn what_is_not_one_json_value_on_one_line_is_unfit() {
        for text in ["", "{", "1 2", "{\n}", "nul"] {
            assert!(matches!(Payload::parse(text.into()), Err(JournalError::Unfit { .. })), "{text:?}");
        }
    }
}
