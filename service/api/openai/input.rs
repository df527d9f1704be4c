//! The field `input`: a text, an object with a text, a list of token ids, or a list of any of
//! these. Read in one pass, so that a string is not copied and an id costs four bytes.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Unexpected, value::MapAccessDeserializer},
};
use utoipa::openapi::{
    RefOr,
    schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type},
};

/// Far above any limit that is set; bounds what a hostile list of `""` can take of memory.
const MAX_ITEMS: usize = 1 << 20;

/// Everything that is to be embedded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Input(Vec<Item>);

/// One thing to embed.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A text.
    Text(String),
    /// Token ids, of a vocabulary that the settings tell. At least one.
    Ids(Vec<u32>),
}

impl Input {
    /// The items, in order.
    pub fn into_items(self) -> Vec<Item> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

impl<'de> de::Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list of texts, or a list of token ids")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
        Ok(Input(vec![Item::Text(text.to_owned())]))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Input, E> {
        Ok(Input(vec![Item::Text(text)]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Input, A::Error> {
        let Object { text } = Object::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Input(vec![Item::Text(text)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
        match list.next_element::<First>()? {
            None => Ok(Input(Vec::new())),
            // A flat list of integers is one input, not many.
            Some(First::Id(id)) => Ok(Input(vec![Item::Ids(rest_of_ids(id, list)?)])),
            Some(First::Item(item)) => {
                let mut items = vec![item];
                while let Some(item) = list.next_element()? {
                    if items.len() == MAX_ITEMS {
                        let message = format!("more than {MAX_ITEMS} items");
                        return Err(de::Error::custom(message));
                    }
                    items.push(item);
                }
                Ok(Input(items))
            }
        }
    }
}

fn rest_of_ids<'de, A: SeqAccess<'de>>(first: u32, mut list: A) -> Result<Vec<u32>, A::Error> {
    let mut ids = vec![first];
    while let Some(Id(id)) = list.next_element()? {
        ids.push(id);
    }
    Ok(ids)
}

/// The first element of a list, which tells what the list is.
enum First {
    Id(u32),
    Item(Item),
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, an object with `text`, a token id or a list of token ids")
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<First, E> {
                Ok(First::Id(token_id(id)?))
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<First, E> {
                Err(E::invalid_value(Unexpected::Signed(id), &"a token id"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<First, E> {
                ItemVisitor.visit_str(text).map(First::Item)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<First, A::Error> {
                ItemVisitor.visit_map(map).map(First::Item)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<First, A::Error> {
                ItemVisitor.visit_seq(list).map(First::Item)
            }
        }
        json.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> de::Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, an object with `text` or a list of token ids, as the first item is")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Item, E> {
        Ok(Item::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Item, A::Error> {
        let Object { text } = Object::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Item::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
        match list.next_element()? {
            Some(Id(first)) => Ok(Item::Ids(rest_of_ids(first, list)?)),
            None => Err(de::Error::invalid_length(0, &"at least one token id")),
        }
    }
}

/// `{"text": …}`; other keys are ignored.
#[derive(Deserialize)]
#[serde(expecting = "an object with `text`")]
struct Object {
    text: String,
}

struct Id(u32);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token id, as all items of a list of token ids are")
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Id, E> {
                token_id(id).map(Id)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Id, A::Error> {
                // Read to its end, else a list inside is called malformed JSON.
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Err(de::Error::invalid_type(Unexpected::Seq, &self))
            }
        }
        json.deserialize_any(Visitor)
    }
}

fn token_id<E: de::Error>(id: u64) -> Result<u32, E> {
    u32::try_from(id).map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &"a token id"))
}

/// The description of [`Input`].
pub fn schema() -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let id = || {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
    };
    let object = || {
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("text", text())
            .required("text")
    };
    let ids = || ArrayBuilder::new().items(id());
    let any = || OneOfBuilder::new().item(text()).item(object()).item(ids());
    let list = ArrayBuilder::new().items(any()).min_items(Some(1));
    Schema::OneOf(any().item(list).build()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Vec<Item> {
        serde_json::from_str::<Input>(json).unwrap().into_items()
    }

    fn text(text: &str) -> Item {
        Item::Text(text.into())
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(read(r#""a""#), [text("a")]);
        assert_eq!(read(r#""""#), [text("")]);
        assert_eq!(read(r#"{"text":"a","title":[1]}"#), [text("a")]);
        assert_eq!(read("[]"), []);
        assert_eq!(read(r#"["a","","b"]"#), [text("a"), text(""), text("b")]);
        assert_eq!(read(r#"[{"text":"a"},"b"]"#), [text("a"), text("b")]);
        assert_eq!(read("[7,8,0]"), [Item::Ids(vec![7, 8, 0])]);
        assert_eq!(
            read("[[7],[8,9]]"),
            [Item::Ids(vec![7]), Item::Ids(vec![8, 9])]
        );
        assert_eq!(
            read(r#"["a",[7],{"text":"\u00e4"}]"#),
            [text("a"), Item::Ids(vec![7]), text("ä")]
        );
    }

    #[test]
    fn anything_else_is_refused_in_words() {
        for (json, expected) in [
            ("null", "a list of texts"),
            ("5", "integer `5`, expected a text"),
            ("true", "boolean `true`, expected a text"),
            ("{}", "missing field `text`"),
            (r#"{"text":5}"#, "integer `5`, expected a string"),
            ("[null]", "null, expected a text, an object"),
            ("[1.5]", "floating point `1.5`, expected a text"),
            ("[-1]", "integer `-1`, expected a token id"),
            ("[4294967296]", "integer `4294967296`, expected a token id"),
            (r#"[1,"a"]"#, "string \"a\", expected a token id"),
            (r#"["a",1]"#, "integer `1`, expected a text, an object"),
            ("[[]]", "expected at least one token id"),
            (r#"[["a"]]"#, "string \"a\", expected a token id"),
            ("[[[1]]]", "sequence, expected a token id"),
        ] {
            let error = serde_json::from_str::<Input>(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
