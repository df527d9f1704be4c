//! Texts as clients write them: plain, as `{"text": …}`, or as the `content` parts of a message;
//! one or a list.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, value::MapAccessDeserializer},
};
use utoipa::openapi::{
    RefOr,
    schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type},
};

/// Far above any limit that is set; bounds what a hostile list of `""` can take of memory.
const MAX_ITEMS: usize = 1 << 20;

/// One text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Text(pub String);

/// A list of texts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Texts(pub Vec<String>);

/// One text or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OneOrMany {
    /// One, not in a list.
    One(String),
    /// A list, be it of one.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts.
    pub fn into_texts(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or an object with `text`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Text, E> {
                Ok(Text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text, A::Error> {
                let object = Object::deserialize(MapAccessDeserializer::new(map))?;
                object.text().map(Text)
            }
        }
        json.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts or of objects with `text`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Texts, A::Error> {
                items(list).map(Texts)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Texts, A::Error> {
                // vLLM takes one object whose parts are the documents.
                let object = Object::deserialize(MapAccessDeserializer::new(map))?;
                object.texts().map(Texts)
            }
        }
        json.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMany, A::Error> {
                let object = Object::deserialize(MapAccessDeserializer::new(map))?;
                object.text().map(OneOrMany::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMany, A::Error> {
                items(list).map(OneOrMany::Many)
            }
        }
        json.deserialize_any(Visitor)
    }
}

fn items<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Vec<String>, A::Error> {
    let mut texts = Vec::new();
    while let Some(Text(text)) = list.next_element()? {
        if texts.len() == MAX_ITEMS {
            return Err(de::Error::custom(format!("more than {MAX_ITEMS} items")));
        }
        texts.push(text);
    }
    Ok(texts)
}

/// `{"text": …}` or `{"content": [{"type": "text", "text": …}]}`; other keys are ignored.
#[derive(Deserialize)]
#[serde(expecting = "an object with `text`")]
struct Object {
    text: Option<String>,
    content: Option<Vec<Part>>,
}

#[derive(Deserialize)]
#[serde(expecting = "a part with `text`")]
struct Part {
    text: Option<String>,
}

impl Object {
    /// The parts as one text.
    fn text<E: de::Error>(self) -> Result<String, E> {
        match self {
            Self {
                text: Some(text), ..
            } => Ok(text),
            other => other.texts().map(|texts| texts.join("\n")),
        }
    }

    /// Each part as a text.
    fn texts<E: de::Error>(self) -> Result<Vec<String>, E> {
        let parts = self.content.ok_or_else(|| E::missing_field("text"))?;
        let text = |part: Part| {
            let refuse = || E::custom("a part of `content` is no text; only texts are read");
            part.text.ok_or_else(refuse)
        };
        parts.into_iter().map(text).collect()
    }
}

/// The description of [`Text`].
pub fn text_schema() -> RefOr<Schema> {
    Schema::OneOf(one().build()).into()
}

/// The description of [`Texts`].
pub fn texts_schema() -> RefOr<Schema> {
    Schema::Array(ArrayBuilder::new().items(one()).min_items(Some(1)).build()).into()
}

/// The description of [`OneOrMany`].
pub fn one_or_many_schema() -> RefOr<Schema> {
    let list = ArrayBuilder::new().items(one()).min_items(Some(1));
    Schema::OneOf(one().item(list).build()).into()
}

fn one() -> OneOfBuilder {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let object = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("text", text())
        .required("text");
    OneOfBuilder::new().item(text()).item(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str) -> Result<Vec<String>, String> {
        let read = serde_json::from_str::<Texts>(json);
        read.map(|texts| texts.0).map_err(|error| error.to_string())
    }

    #[test]
    fn every_form_is_read() {
        for json in [
            r#"["a","b"]"#,
            r#"[{"text":"a","id":1},{"text":"b"}]"#,
            r#"["a",{"text":"b"}]"#,
            r#"[{"content":[{"type":"text","text":"a"}]},"b"]"#,
            r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#,
        ] {
            assert_eq!(texts(json).unwrap(), ["a", "b"], "{json}");
        }
        assert_eq!(texts("[]").unwrap(), [""; 0]);
        let one = serde_json::from_str::<OneOrMany>(r#""a""#).unwrap();
        assert_eq!(one.into_texts(), ["a"]);
    }

    #[test]
    fn anything_else_is_refused_in_words() {
        for (json, expected) in [
            ("5", "expected a list of texts"),
            ("\"a\"", "expected a list of texts"),
            ("[1,2]", "expected a text or an object with `text`"),
            ("[null]", "expected a text or an object with `text`"),
            ("[{}]", "missing field `text`"),
            (
                r#"[{"content":[{"image_url":"x"}]}]"#,
                "only texts are read",
            ),
        ] {
            let error = texts(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
