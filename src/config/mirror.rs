//! How a mirror's values are written: shares finer than a percent, safe methods, and what is compared of an answer.

use http::HeaderName;
use schemars::{Schema, json_schema};

use super::{
    error::{Wrong, quoted},
    notation::Notation,
};
use crate::switch::{BodyComparison, JsonPath, Mirror, SafeMethod};

/// A share in ten-thousandths, 0.01% or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MirrorShare(u32);

impl From<MirrorShare> for u32 {
    fn from(share: MirrorShare) -> Self {
        share.0
    }
}

impl Notation for MirrorShare {
    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is not a share", quoted(text))).hint("use \"0.01%\" to \"100%\"");
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 3) || !digits(part, 2) {
            return Err(wrong());
        }
        let share: u32 = format!("{whole}{part:0<2}").parse().map_err(|_| wrong())?;
        if (1..=Mirror::WHOLE).contains(&share) { Ok(Self(share)) } else { Err(wrong()) }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^([0-9]{1,2}(\.[0-9]{1,2})?|100)%$", "examples": ["10%", "0.5%"] })
    }
}

impl Notation for SafeMethod {
    fn read(text: &str) -> Result<Self, Wrong> {
        let all = [Self::Get, Self::Head, Self::Options];
        let words = all.map(Self::as_str);
        all.into_iter().find(|method| method.as_str() == text).ok_or_else(|| {
            Wrong::unknown(format!("{} is not a method that can be mirrored", quoted(text)), text, words)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["GET", "HEAD", "OPTIONS"] })
    }
}

impl Notation for BodyComparison {
    fn read(text: &str) -> Result<Self, Wrong> {
        match text {
            "exact" => Ok(Self::Exact),
            "json" => Ok(Self::Json),
            "none" => Ok(Self::None),
            _ => {
                let wrong = format!("{} is not a way to compare bodies", quoted(text));
                Err(Wrong::unknown(wrong, text, ["exact", "json", "none"]))
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["exact", "json", "none"] })
    }
}

/// A header field that is compared, in lower case, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct MirroredField(String);

impl From<MirroredField> for String {
    fn from(field: MirroredField) -> Self {
        field.0
    }
}

impl Notation for MirroredField {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text == "*" { Ok(Self(text.to_owned())) } else { field(text).map(Self) }
    }
}

/// What is left out of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ignored {
    /// A header field, in lower case.
    Field(String),
    /// A place in a JSON body.
    Json(JsonPath),
}

impl Notation for Ignored {
    fn read(text: &str) -> Result<Self, Wrong> {
        if text.starts_with('$') {
            let wrong = |not: crate::switch::NotAJsonPath| Wrong::new(format!("{}: {not}", quoted(text)));
            return text.parse().map(Self::Json).map_err(wrong);
        }
        field(text).map(Self::Field).map_err(|wrong| wrong.hint("write the name of a field, or a place such as $.time"))
    }
}

fn field(text: &str) -> Result<String, Wrong> {
    let name = HeaderName::try_from(text).map_err(|_| Wrong::new(format!("{} is not a header field", quoted(text))));
    name.map(|name| name.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_down_to_a_hundredth() {
        for (text, share) in [("10%", 1000), ("0.5%", 50), ("0.01%", 1), ("100%", 10_000), ("2.25%", 225)] {
            assert_eq!(MirrorShare::read(text).unwrap(), MirrorShare(share), "{text}");
        }
        for text in ["", "%", "10", "0%", "0.00%", "101%", "100.01%", "0.001%", "-1%", ".5%", "5.%", "1e2%", "+5%"] {
            assert!(MirrorShare::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_safe_methods_are_mirrored() {
        assert_eq!(SafeMethod::read("HEAD").unwrap(), SafeMethod::Head);
        assert_eq!(SafeMethod::read("POST").unwrap_err().hint.unwrap(), "use one of GET, HEAD, OPTIONS");
        assert!(SafeMethod::read("get").is_err());
    }

    #[test]
    fn what_is_ignored_is_a_field_or_a_place() {
        assert_eq!(Ignored::read("X-Trace").unwrap(), Ignored::Field("x-trace".to_owned()));
        assert_eq!(Ignored::read("$..id").unwrap(), Ignored::Json("$..id".parse().unwrap()));
        for text in ["", "a b", "$", "$a", "a:"] {
            assert!(Ignored::read(text).is_err(), "{text}");
        }
        assert_eq!(MirroredField::read("*").unwrap(), MirroredField("*".to_owned()));
    }
}
