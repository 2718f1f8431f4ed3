//! The keys of holds and mirrors.

use super::*;
use crate::switch::{BodyComparison, HoldBounds, Mirror, SafeMethod};

#[test]
fn holds_and_mirrors_are_read() {
    let wanted = shop(
        r#"    hold: { max_age: 5s, max_requests: 20, max_bytes: 1MiB }
    mirror:
      share: 2.5%
      methods: [GET, OPTIONS]
      max_in_flight: 7
      max_body: 8KiB
      timeout: 1s
      compare: { status: false, headers: ["*", Content-Type], body: json, ignore: [X-Request-ID, "$.time", "$..id"] }"#,
    );
    let hold = HoldBounds { max_age: std::time::Duration::from_secs(5), max_requests: 20, max_bytes: 1 << 20 };
    assert_eq!(wanted.policy.hold, hold);
    let mirror = wanted.policy.mirror.as_deref().unwrap();
    assert_eq!((mirror.share, mirror.max_in_flight, mirror.max_body), (250, 7, 8192));
    assert_eq!(mirror.methods, [SafeMethod::Get, SafeMethod::Options]);
    assert_eq!(mirror.timeout.as_secs(), 1);
    let compare = &mirror.compare;
    assert_eq!((compare.status, compare.body), (false, BodyComparison::Json));
    assert_eq!(
        (&compare.headers[..], &compare.ignore_headers[..]),
        (&["*", "content-type"].map(String::from)[..], &["x-request-id".to_owned()][..])
    );
    let ignored: Vec<_> = compare.ignore_json.iter().map(ToString::to_string).collect();
    assert_eq!(ignored, ["$.time", "$..id"]);
}

#[test]
fn what_is_left_out_is_as_the_example_says() {
    let wanted = shop("    mirror: { share: 10% }");
    assert_eq!(wanted.policy.mirror.as_deref(), Some(&Mirror::default()));
    assert_eq!(wanted.policy.hold, HoldBounds::default());
    assert_eq!(shop("").policy.mirror, None);
}

#[test]
fn their_mistakes_are_told() {
    for (more, expected) in [
        (
            "    hold: { max_age: 2h, max_requests: 0, max_bytes: 1 }",
            &[
                "6:40: \"0\" is out of bounds; use 1 to 1000000",
                "6:54: \"1\" is out of bounds; use 1KiB to 64GiB",
                "6:22: a hold of more than an hour; use 1h or less; to close the app, use maintenance",
            ][..],
        ),
        ("    hold: { age: 5s }", &["6:13: unknown key `age`; use one of max_age, max_requests, max_bytes"]),
        ("    mirror: {}", &["6:13: `share` is missing"]),
        (
            "    mirror: { share: 5, methods: [POST], compare: { headers: [], body: text, ignore: [\"$\"] } }",
            &[
                "6:22: \"5\" is not a share; use \"0.01%\" to \"100%\"",
                "6:35: \"POST\" is not a method that can be mirrored; use one of GET, HEAD, OPTIONS",
                "6:72: \"text\" is not a way to compare bodies; use one of exact, json, none",
                "6:62: this list is empty; leave the key out, or name at least one",
                "6:87: \"$\": it is not a place in a JSON document; write $.a.b, $.items[*].id, $.list[0] or $..id",
            ],
        ),
    ] {
        let mut told = told(with_shop(more));
        let mut expected = expected.to_vec();
        told.sort();
        expected.sort_unstable();
        assert_eq!(told, expected, "{more}");
    }
}
