//! `POST /v1/convert_ids_to_tokens`: token ids, such as those of sparse vectors, to the tokens of
//! the vocabulary.

use std::fmt;

use axum::{Json, extract::State};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{
    ToSchema,
    openapi::{
        RefOr,
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type},
    },
};

use crate::{
    api::{
        AppState,
        extract::{JsonBody, WireBody},
        fields,
        observe::RequestLog,
    },
    engine::request::PiecesRequest,
    error::{Error, Result},
};

/// The body of a request.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `input`")]
pub struct PiecesBody {
    /// A served name, an alias or a hub id; without one, the first embedding model.
    model: Option<String>,
    /// Ids as numbers or texts, in a list or in a list of lists.
    #[schema(schema_with = ids_schema)]
    input: Option<Ids>,
}

impl WireBody for PiecesBody {
    const FIELDS: &'static [&'static str] = &["model", "input"];
}

/// The tokens, nested as the ids were.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Pieces {
    /// Of one list.
    Flat(Vec<String>),
    /// Of a list of lists.
    Nested(Vec<Vec<String>>),
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a list of token ids, or a list of such lists; an id is a whole number or \
                 its text"
)]
enum Ids {
    Flat(Vec<Id>),
    Nested(Vec<Vec<Id>>),
}

/// A token id; answers with sparse vectors have them as texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id(u32);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token id")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
                u32::try_from(number).map(Id).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                text.trim().parse().map(Id).map_err(E::custom)
            }
        }
        json.deserialize_any(Visitor)
    }
}

/// `POST /v1/convert_ids_to_tokens`.
pub async fn convert(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<PiecesBody>,
) -> Result<Json<Pieces>> {
    let ids = body.input.ok_or_else(|| Error::missing("input"))?;
    let numbers = |ids: Vec<Id>| ids.into_iter().map(|Id(id)| id).collect();
    let (ids, nested) = match ids {
        Ids::Flat(ids) if ids.is_empty() => return Err(Error::Empty("input")),
        Ids::Flat(ids) => (vec![numbers(ids)], false),
        Ids::Nested(lists) => (lists.into_iter().map(numbers).collect(), true),
    };
    log.asked(ids.len());
    let model = fields::named_model(body.model)?;
    state.announce(&log, model.as_deref());
    let response = state.engine.pieces(PiecesRequest { model, ids }).await?;
    log.about(&response.model);
    Ok(Json(if nested {
        Pieces::Nested(response.pieces)
    } else {
        Pieces::Flat(response.pieces.concat())
    }))
}

/// The description of [`Ids`].
fn ids_schema() -> RefOr<Schema> {
    let id = || {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0));
        let text = ObjectBuilder::new().schema_type(Type::String);
        OneOfBuilder::new().item(number).item(text)
    };
    let list = || ArrayBuilder::new().items(id());
    let lists = ArrayBuilder::new().items(list());
    Schema::OneOf(OneOfBuilder::new().item(list()).item(lists).build()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_or_texts_in_one_list_or_several() {
        let ids = |json: &str| serde_json::from_str::<Ids>(json);
        assert_eq!(ids(r#"["5", 6]"#).unwrap(), Ids::Flat(vec![Id(5), Id(6)]));
        assert_eq!(
            ids(r#"[[5], ["6"], []]"#).unwrap(),
            Ids::Nested(vec![vec![Id(5)], vec![Id(6)], vec![]])
        );
        for wrong in [
            "5",
            "[[[5]]]",
            "[1.5]",
            "[-1]",
            r#"["a"]"#,
            "[5, [6]]",
            "[4294967296]",
        ] {
            let error = ids(wrong).unwrap_err().to_string();
            assert!(error.contains("expected a list of token ids"), "{error}");
        }
    }
}
