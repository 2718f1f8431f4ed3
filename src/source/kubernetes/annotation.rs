//! A rollback as replicas tell it to one another: an annotation on the Rollout, written by the replica that was ordered
//! and read by all. Anybody who may annotate the Rollout can write it, so what it says is checked like any other input.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::switch::{Returned, Revision};

/// The annotation.
pub const RETURNED: &str = "tealgate.dev/returned";

/// The most octets it may have.
const LARGEST: usize = 4096;

/// How far the writer's clock may be ahead of ours.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Why an annotation says nothing.
#[derive(Debug, Error)]
#[error("the annotation {RETURNED} cannot be read: {0}")]
pub struct Unreadable(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    to: Revision,
    from: Revision,
    at: Timestamp,
    by: String,
    #[serde(default)]
    reason: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    released: bool,
}

/// The annotation's value that tells of this rollback.
pub fn write(returned: &Returned) -> String {
    let Returned { to, from, at, by, reason, released } = returned.clone();
    serde_json::to_string(&Written { to, from, at, by, reason, released }).unwrap_or_default()
}

/// The rollback that an annotation's value tells of. One that leads from a revision to itself takes the one before it
/// back: whoever obeyed that returns to what the cluster has active. After one from the far future no later one would be
/// obeyed, so such a one is refused.
pub fn read(value: &str, now: Timestamp) -> Result<Returned, Unreadable> {
    if value.len() > LARGEST {
        return Err(Unreadable(format!("it is longer than {LARGEST} octets")));
    }
    let Written { to, from, at, by, reason, released } =
        serde_json::from_str(value).map_err(|error| Unreadable(error.to_string()))?;
    let printable = |text: &str| !text.chars().any(char::is_control);
    if by.is_empty() || !printable(&by) || !printable(&reason) {
        return Err(Unreadable("`by` and `reason` must be plain text, and `by` must not be empty".to_owned()));
    }
    if at.duration_since(now) > SKEW {
        return Err(Unreadable(format!("it is dated {at}, which is yet to come")));
    }
    Ok(Returned { to, from, at, by, reason, released })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().expect("a time")
    }

    #[test]
    fn what_is_written_is_read() {
        let returned = Returned {
            to: "h1".parse().expect("a name"),
            from: "h2".parse().expect("a name"),
            at: now(),
            by: "ann".to_owned(),
            reason: "errors \"everywhere\"".to_owned(),
            released: false,
        };
        assert_eq!(read(&write(&returned), now()).expect("it is sound"), returned);
        let released = Returned { released: true, ..returned };
        assert_eq!(read(&write(&released), now()).expect("it is sound"), released);
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        let at = now();
        for bad in [
            "",
            "yes",
            "[]",
            "{}",
            r#"{"to":"h1","from":"h2","at":"2026-01-01T00:00:00Z"}"#,
            r#"{"to":"h1","from":"h2","at":"2026-01-01T00:00:00Z","by":""}"#,
            r#"{"to":"h1","from":"h2","at":"2026-01-01T00:00:00Z","by":"a\nb"}"#,
            r#"{"to":"h 1","from":"h2","at":"2026-01-01T00:00:00Z","by":"ann"}"#,
            r#"{"to":"h1","from":"h2","at":"yesterday","by":"ann"}"#,
            r#"{"to":"h1","from":"h2","at":"2036-01-01T00:00:00Z","by":"ann"}"#,
            r#"{"to":"h1","from":"h2","at":"2026-01-01T00:00:00Z","by":"ann","generation":7}"#,
            &format!(r#"{{"to":"h1","from":"h2","at":"2026-01-01T00:00:00Z","by":"{}"}}"#, "a".repeat(LARGEST)),
        ] {
            assert!(read(bad, at).is_err(), "{bad}");
        }
    }
}
