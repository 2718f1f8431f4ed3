//! Files that are no configuration, or that mean harm.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

#[test]
fn files_that_are_no_configuration_get_a_clear_error() {
    let deep = "[".repeat(5_000);
    let mut bomb = String::from("a0: &a0 [x]\n");
    for n in 1..30 {
        let before = n - 1;
        writeln!(bomb, "a{n}: &a{n} [{}]", format!("*a{before}, ").repeat(9)).unwrap();
    }
    let hosts: String = (0..5_000).map(|n| format!("h{n}..test, ")).collect();
    for (octets, expected) in [
        (&b""[..], "1:1: the file is empty, or ends too early"),
        (b"# only a comment\n", "2:1: the file is empty, or ends too early"),
        (b"version: 1\n", "1:1: `listeners` is missing"),
        (b"just text", "1:1: a mapping of keys to values is expected here"),
        (b"null", "1:1: a mapping of keys to values is expected here"),
        (b"version: 1\n\xff\xfe", "line 2 is not UTF-8 text; save the file as UTF-8"),
        (&vec![b' '; 17 << 20], "the file is larger than 16MiB; is it the right one?"),
        (deep.as_bytes(), "1:256: recursion limit exceeded"),
        (
            bomb.as_bytes(),
            "1:1: unknown key `a0`; use one of version, workers, log, listeners, admin, health, state, kubernetes, apps",
        ),
        (
            format!("{SHOP}    hosts: [{hosts}]").as_bytes(),
            "6:13: \"h0..test\" is not a host; use letters, digits, '-' and '_' in labels of 1 to 63, joined by dots",
        ),
    ] {
        let told = told(parsed(octets));
        assert_eq!(told[0].replace("/etc/tealgate/tealgate.yaml: ", "").trim_start(), expected);
        assert!(told.len() <= 20, "{} errors", told.len());
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let windows = format!("\u{feff}{}", FULL.replace('\n', "\r\n"));
    assert_eq!(parsed(windows).unwrap(), parsed(FULL).unwrap());
    assert_eq!(
        told(parsed(format!("\u{feff}{SHOP}workers: x\r\n"))),
        ["6:10: \"x\" is not a whole number; use auto, or 1 to 256"]
    );
}

#[test]
fn an_alias_bomb_is_refused_soon() {
    let mut bomb = format!("{SHOP}    guard:\n      a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let before = n - 1;
        let aliases = vec![format!("*a{before}"); 9].join(", ");
        writeln!(bomb, "      a{n}: &a{n} [{aliases}]").unwrap();
    }
    let told = told(parsed(&bomb));
    assert_eq!(told, ["7:41: the aliases in this file stand for too much"]);
}

/// One edit of a text.
fn edit() -> impl Strategy<Value = (prop::sample::Index, prop::sample::Index, String)> {
    let pieces = prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "\t", "\n", ":", "- ", "{", "}", "[", "]", "\"", "&a ", "*a", "${", "!!int ", "|\n", "~", "\u{0}", "é",
            "<<: *a"
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), pieces)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(edits in prop::collection::vec(edit(), 1..6)) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, length, piece) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + length.index(12)).min(text.len());
            text.splice(start..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parsed(&text) {
            for error in &errors {
                prop_assert!(!error.to_string().is_empty() && error.line <= text.lines().count() + 1);
            }
        }
    }
}
