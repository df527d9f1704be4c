//! Vectors written in one way, or in several beside each other, as Jina's clients may ask.

use std::fmt;

use retort_models::MultiVector;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess},
};
use utoipa::openapi::{
    RefOr,
    schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type},
};

use super::answer::{Encoding, Written};

/// One way to write every vector, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encodings {
    /// The vector itself is written.
    One(Encoding),
    /// An object with a key for each; at least two, none twice.
    Several(Vec<Encoding>),
}

impl Default for Encodings {
    fn default() -> Self {
        Self::One(Encoding::default())
    }
}

impl<'de> Deserialize<'de> for Encodings {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Encodings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type of embedding, or a list of such types")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Encodings, E> {
                let encoding = name.to_owned().try_into().map_err(E::custom)?;
                Ok(Encodings::One(encoding))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Encodings, A::Error> {
                let mut encodings = Vec::new();
                while let Some(encoding) = list.next_element::<Encoding>()? {
                    if !encodings.contains(&encoding) {
                        encodings.push(encoding);
                    }
                }
                match encodings[..] {
                    [] => Err(de::Error::custom("the list of types is empty")),
                    [encoding] => Ok(Encodings::One(encoding)),
                    _ => Ok(Encodings::Several(encodings)),
                }
            }
        }
        json.deserialize_any(Visitor)
    }
}

impl Encodings {
    /// Writes what `write` makes of each.
    fn each<S: Serializer, W: Serialize>(
        &self,
        json: S,
        write: impl Fn(Encoding) -> W,
    ) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(encoding) => write(*encoding).serialize(json),
            Self::Several(encodings) => {
                json.collect_map(encodings.iter().map(|e| (e.name(), write(*e))))
            }
        }
    }
}

/// One vector on its way into JSON.
#[derive(Debug)]
pub struct Vector<'a> {
    /// Its components.
    pub vector: &'a [f32],
    /// How they are written.
    pub encodings: &'a Encodings,
}

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let vector = self.vector;
        self.encodings
            .each(json, |encoding| Written { vector, encoding })
    }
}

/// One vector per token on its way into JSON.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The vectors.
    pub vectors: &'a MultiVector,
    /// How each is written.
    pub encodings: &'a Encodings,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let vectors = self.vectors;
        self.encodings
            .each(json, |encoding| WrittenRows { vectors, encoding })
    }
}

#[derive(Debug)]
struct WrittenRows<'a> {
    vectors: &'a MultiVector,
    encoding: Encoding,
}

impl Serialize for WrittenRows<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let encoding = self.encoding;
        let rows = self.vectors.rows();
        json.collect_seq(rows.map(|vector| Written { vector, encoding }))
    }
}

/// The description of [`Encodings`].
pub fn encodings_schema() -> RefOr<Schema> {
    let one = || {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Encoding::ALL.map(Encoding::name)))
    };
    let list = ArrayBuilder::new().items(one()).min_items(Some(1));
    Schema::OneOf(OneOfBuilder::new().item(one()).item(list).build()).into()
}

/// The description of an embedding: numbers, their bytes in base64, one of these for each token, or
/// an object with a key for each type that was asked for, or for each token id of a sparse one.
pub fn embedding_schema() -> RefOr<Schema> {
    let of_type = |kind| ObjectBuilder::new().schema_type(kind);
    let numbers = || ArrayBuilder::new().items(of_type(Type::Number));
    let vector = || {
        let forms = AnyOfBuilder::new().item(numbers());
        forms.item(of_type(Type::String))
    };
    let written = || {
        let per_token = ArrayBuilder::new().items(RefOr::T(Schema::AnyOf(vector().build())));
        vector().item(per_token)
    };
    let keyed = written().item(of_type(Type::Number)).build();
    let object = of_type(Type::Object).additional_properties(Some(Schema::AnyOf(keyed)));
    Schema::AnyOf(written().item(object).build()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_one_or_a_list() {
        let read = |json: &str| serde_json::from_str::<Encodings>(json);
        let both = Encodings::Several(vec![Encoding::Binary, Encoding::Float]);
        assert_eq!(read(r#"["binary","float","binary"]"#).unwrap(), both);
        let one = Encodings::One(Encoding::Ubinary);
        assert_eq!(read(r#""ubinary""#).unwrap(), one);
        assert_eq!(read(r#"["ubinary"]"#).unwrap(), one);
        for wrong in ["[]", r#"["int4"]"#, r#""int4""#, "5", "[5]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let vector = Vector {
            vector: &[1.0, -2.0],
            encodings: &both,
        };
        let text = serde_json::to_string(&vector).unwrap();
        assert_eq!(text, r#"{"binary":[0],"float":[1.0,-2.0]}"#);
    }
}
