//! What the file is made of, below its keys: values that know their place, so that a check made later can still point at
//! them. A value is kept as the text it was written as, and read by its [`Notation`] in the pass that also puts in the
//! environment's variables; so one pass finds every bad value, not only the first.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_saphyr::{Location, Spanned};

use super::notation::Notation;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Location,
}

/// A value that may be left out. An empty one (`key:` with nothing after it) is refused: `allow:` must not mean
/// "everybody", nor `tls:` "plain text".
#[derive(Debug)]
pub(super) struct Given<T>(Option<Placed<T>>);

/// A single value as written, to be read as a `T`.
#[derive(Debug)]
pub(super) struct Text<T> {
    pub(super) written: String,
    reads_as: PhantomData<T>,
}

/// A mapping from names to `T`, in the order of the file.
#[derive(Debug)]
pub(super) struct Named<T>(Vec<(Placed<String>, T)>);

/// One value, or a list of them.
#[derive(Debug)]
pub(super) struct Several<T>(Placed<Vec<Placed<Text<T>>>>);

impl<T> Several<T> {
    /// All of them, and where they stand.
    pub(super) fn placed(&self) -> &Placed<Vec<Placed<Text<T>>>> {
        &self.0
    }
}

/// A value with a short form, a single text, and a long one, a mapping that says more.
#[derive(Debug)]
pub(super) enum ShortOr<L> {
    Short(String),
    Long(L),
}

/// A mapping that has a short form too.
pub(super) trait LongForm {
    /// Both forms, as an error names them.
    const FORMS: &str;
}

impl<T> Given<T> {
    pub(super) fn get(&self) -> Option<&Placed<T>> {
        self.0.as_ref()
    }

    /// The value alone.
    pub(super) fn value(&self) -> Option<&T> {
        self.0.as_ref().map(|placed| &placed.value)
    }
}

impl<T> Default for Given<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Text<T> {
    pub(super) fn new(written: String) -> Self {
        Self { written, reads_as: PhantomData }
    }
}

impl<T> Named<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Placed<String>, T)> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Of an alias, `defined` is where the value was written: that is what has to be changed.
        Spanned::deserialize(deserializer).map(|Spanned { value, defined, .. }| Self { value, place: defined })
    }
}

impl<'de, L: LongForm + Deserialize<'de>> Deserialize<'de> for ShortOr<L> {
    /// By hand, because serde's untagged enums lose the places.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<L>(PhantomData<L>);

        impl<'de, L: LongForm + Deserialize<'de>> Visitor<'de> for Either<L> {
            type Value = ShortOr<L>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(L::FORMS)
            }

            fn visit_str<E>(self, text: &str) -> Result<ShortOr<L>, E> {
                Ok(ShortOr::Short(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<ShortOr<L>, E> {
                Ok(ShortOr::Short(number.to_string()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<ShortOr<L>, M::Error> {
                L::deserialize(MapAccessDeserializer::new(map)).map(ShortOr::Long)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Placed::deserialize(deserializer).map(|placed| Self(Some(placed)))
    }
}

impl<'de, T> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from names")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Named<T>, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl<'de, T> Deserialize<'de> for Several<T> {
    /// By hand, because serde's untagged enums lose the places.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany<T>(PhantomData<T>);

        enum Form<T> {
            One(String),
            Many(Vec<Placed<Text<T>>>),
        }

        impl<'de, T> Visitor<'de> for OneOrMany<T> {
            type Value = Form<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, or a list of values")
            }

            fn visit_str<E>(self, text: &str) -> Result<Form<T>, E> {
                Ok(Form::One(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Form<T>, E> {
                Ok(Form::One(number.to_string()))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Form<T>, S::Error> {
                let mut many = Vec::new();
                while let Some(value) = seq.next_element()? {
                    many.push(value);
                }
                Ok(Form::Many(many))
            }
        }

        struct AnyForm<T>(Form<T>);

        impl<'de, T> Deserialize<'de> for AnyForm<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(OneOrMany(PhantomData)).map(AnyForm)
            }
        }

        let Placed { value: AnyForm(form), place } = Placed::deserialize(deserializer)?;
        let value = match form {
            Form::One(text) => vec![Placed { value: Text::new(text), place }],
            Form::Many(many) => many,
        };
        Ok(Self(Placed { value, place }))
    }
}

impl<T: Notation> JsonSchema for Several<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Several".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Text<T>>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// In the schema a value's place does not show.
macro_rules! same_schema {
    ($outer:ident) => {
        impl<T: JsonSchema> JsonSchema for $outer<T> {
            fn inline_schema() -> bool {
                T::inline_schema()
            }

            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        }
    };
}

same_schema!(Placed);
same_schema!(Given);

impl<T: Notation> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let schema = T::schema();
        let free = schema.as_value() == json_schema!({ "type": "string" }).as_value();
        let variable = json_schema!({ "type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}" });
        if free { schema } else { json_schema!({ "anyOf": [schema, variable] }) }
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Named".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}
