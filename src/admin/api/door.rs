//! What a caller sends to keep live requests out for a while: holds and maintenance.

use std::{fmt, time::Duration};

use jiff::SignedDuration;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, value::MapAccessDeserializer},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type},
};

/// `POST /apps/{app}/hold`: lets new live requests wait at the door. What is left out is as the app's `hold` in the
/// configuration says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HoldRequest {
    /// How long it lasts at most, 1 ms to 1 h; then all that wait are let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Period>,
    /// How many requests may wait; beyond, they are answered 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max_requests: Option<u32>,
    /// How many octets of memory their heads may take; beyond, they are answered 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1024)]
    pub max_bytes: Option<u64>,
    /// Why; it goes into the journal.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// How far a hold may go. What is left out is as the app's `hold` in the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HoldTerms {
    /// How long it lasts at most, 1 ms to 1 h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Period>,
    /// How many requests may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max_requests: Option<u32>,
    /// How many octets of memory their heads may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1024)]
    pub max_bytes: Option<u64>,
}

/// Whether a promotion holds new requests until the old pool is empty: `true`, `false`, or how far that hold may go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HoldFirst(pub Option<HoldTerms>);

/// `POST /apps/{app}/maintenance`: answers live requests with the maintenance page, or serves them again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MaintenanceRequest {
    /// Whether live requests are kept out.
    pub on: bool,
    /// When clients are told to come back, 1 s to 24 h; 60 s if left out. Only with `on: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Period>,
    /// Why; it goes into the journal, and not to clients.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub reason: String,
    /// Only if the app's generation is still this one; the same as `If-Match`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// A length of time as it is sent: `"5s"`, `"1m30s"`, or a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

impl HoldRequest {
    /// The part that says how far it may go.
    pub fn terms(&self) -> HoldTerms {
        let Self { max_age, max_requests, max_bytes, .. } = *self;
        HoldTerms { max_age, max_requests, max_bytes }
    }
}

impl HoldFirst {
    pub(super) fn is_default(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for HoldFirst {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            None => serializer.serialize_bool(false),
            Some(terms) if *terms == HoldTerms::default() => serializer.serialize_bool(true),
            Some(terms) => terms.serialize(serializer),
        }
    }
}

// By hand, not `untagged`: that would swallow the name of an unknown key.
impl<'de> Deserialize<'de> for HoldFirst {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = HoldFirst;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or {\"maxAge\": \"5s\"}")
            }

            fn visit_bool<E: de::Error>(self, given: bool) -> Result<Self::Value, E> {
                Ok(HoldFirst(given.then(HoldTerms::default)))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                HoldTerms::deserialize(MapAccessDeserializer::new(map)).map(|terms| HoldFirst(Some(terms)))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for HoldFirst {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new().item(bool::schema()).item(HoldTerms::schema()).into()
    }
}

impl ToSchema for HoldFirst {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        HoldTerms::schemas(schemas);
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time: \"5s\", \"1m30s\", or a number of seconds")
            }

            fn visit_str<E: de::Error>(self, given: &str) -> Result<Period, E> {
                let wrong = || E::custom(format_args!("{given:?} is no length of time: write \"5s\" or \"1m30s\""));
                let span: SignedDuration = given.parse().map_err(|_| wrong())?;
                Duration::try_from(span).map(Period).map_err(|_| wrong())
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Period, E> {
                Ok(Period(Duration::from_secs(seconds)))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Period, E> {
                let wrong = |_| E::custom(format_args!("{seconds} is no number of seconds"));
                Duration::try_from_secs_f64(seconds).map(Period).map_err(wrong)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for Period {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).examples(["5s", "1m30s"]);
        let seconds = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0));
        OneOfBuilder::new().item(text).item(seconds).into()
    }
}

impl ToSchema for Period {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_a_text_or_a_number_of_seconds() {
        for (given, millis) in
            [(r#""5s""#, 5000), (r#""1m30s""#, 90_000), (r#""250ms""#, 250), ("5", 5000), ("0.5", 500)]
        {
            let period: Period = serde_json::from_str(given).unwrap();
            assert_eq!(period.0, Duration::from_millis(millis), "{given}");
            assert_eq!(serde_json::from_str::<Period>(&serde_json::to_string(&period).unwrap()).unwrap(), period);
        }
        for given in [r#""""#, r#""5""#, r#""-5s""#, "-1", "-0.5", "1e300", "true", "[]"] {
            assert!(serde_json::from_str::<Period>(given).is_err(), "{given}");
        }
    }

    #[test]
    fn a_promotion_holds_first_by_a_word_or_by_its_terms() {
        let read = |given: &str| serde_json::from_str::<HoldFirst>(given);
        assert_eq!(read("true").unwrap(), HoldFirst(Some(HoldTerms::default())));
        assert_eq!(read("false").unwrap(), HoldFirst(None));
        let terms = HoldTerms { max_age: Some(Period(Duration::from_secs(5))), ..HoldTerms::default() };
        assert_eq!(read(r#"{"maxAge": "5s"}"#).unwrap(), HoldFirst(Some(terms.clone())));
        for choice in [None, Some(HoldTerms::default()), Some(terms)].map(HoldFirst) {
            assert_eq!(read(&serde_json::to_string(&choice).unwrap()).unwrap(), choice);
        }
        assert!(read(r#"{"maxage": "5s"}"#).unwrap_err().to_string().contains("`maxage`"));
    }
}
