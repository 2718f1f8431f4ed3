//! Keys that the format has and this version does not put in force. What is not in force must not look as if it were, so
//! a value other than the one that turns it off is an error. The list is here, and nowhere else: when a key comes into
//! force, its line goes.

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use serde_saphyr::Location;

use super::{error::Wrong, file::App, node::Given};

/// The value of such a key, whatever it is.
#[derive(Debug, Default)]
pub(super) struct NotYet(Given<Value>);

impl NotYet {
    /// Whether it is there at all.
    pub(super) fn is_given(&self) -> bool {
        self.0.get().is_some()
    }
}

impl<'de> Deserialize<'de> for NotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Given::deserialize(deserializer).map(Self)
    }
}

/// What of an app asks for something that is not in force.
pub(super) fn asked_for(app: &App) -> Vec<(Location, Wrong)> {
    let never = Vec::new;
    let keys: [(&str, &NotYet, Vec<Value>); 4] = [
        ("source.etcd", &app.source.value.etcd, never()),
        ("promotion.approval", &app.promotion.approval, vec![json!({ "required": 0 })]),
        ("promotion.bake", &app.promotion.bake, vec![json!("0s")]),
        ("guard", &app.guard, never()),
    ];
    let given = keys.iter().filter_map(|(key, NotYet(value), off)| Some((key, value.get()?, off)));
    let asked = given.filter(|(_, placed, off)| !off.contains(&placed.value));
    asked.map(|(key, placed, off)| (placed.place, refusal(key, off))).collect()
}

fn refusal(key: &str, off: &[Value]) -> Wrong {
    let wrong = Wrong::new(format!("`{key}` is not enforced by this version"));
    match off.first() {
        Some(off) => wrong.hint(format!("remove it, or turn it off with {off}")),
        None => wrong.hint("remove it"),
    }
}
