//! Fields beyond OpenAI's: which outputs are wanted, what the texts are for, how long texts are
//! read.

use std::fmt;

use retort_models::{Head, Heads};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};

use super::EmbeddingsBody;
use crate::{
    api::fields::WholeNumber,
    engine::request::{Chunk, ChunkPooling, Conditioning, Context, LongInput, PromptWish},
    error::{Error, Result},
};

/// One kind of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct OutputType(Head);

impl TryFrom<String> for OutputType {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "dense" => Ok(Self(Head::Dense)),
            "sparse" => Ok(Self(Head::Sparse)),
            "colbert" | "multi-vector" | "multi_vector" => Ok(Self(Head::MultiVector)),
            _ => Err(format!(
                "`{name}` is none of `dense`, `sparse` and `colbert`"
            )),
        }
    }
}

/// `true`, `"mean"`, `"max"`, `"late"`, or an object with `pooling`, `max_tokens` and `overlap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkField(Option<Chunk>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
struct PoolingName(ChunkPooling);

impl TryFrom<String> for PoolingName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "mean" => Ok(Self(ChunkPooling::Mean)),
            "max" => Ok(Self(ChunkPooling::Max)),
            "late" => Ok(Self(ChunkPooling::Late)),
            _ => Err(format!("`{name}` is none of `mean`, `max` and `late`")),
        }
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object with `pooling`, `max_tokens` and `overlap`")]
struct ChunkObject {
    pooling: Option<PoolingName>,
    max_tokens: Option<WholeNumber>,
    overlap: Option<WholeNumber>,
}

impl<'de> Deserialize<'de> for ChunkField {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ChunkField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `\"mean\"`, `\"max\"`, `\"late\"` or an object")
            }

            fn visit_bool<E: de::Error>(self, wanted: bool) -> Result<ChunkField, E> {
                Ok(ChunkField(wanted.then(Chunk::default)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<ChunkField, E> {
                let PoolingName(pooling) = name.to_owned().try_into().map_err(E::custom)?;
                Ok(ChunkField(Some(Chunk {
                    pooling,
                    ..Chunk::default()
                })))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ChunkField, A::Error> {
                let object = ChunkObject::deserialize(MapAccessDeserializer::new(map))?;
                let count = |number: Option<WholeNumber>, field| {
                    let count = number.map(|number| number.at_least(0, field)).transpose();
                    count.map_err(|error| de::Error::custom(error.to_string()))
                };
                Ok(ChunkField(Some(Chunk {
                    max_tokens: count(object.max_tokens, "chunk")?.filter(|&most| most > 0),
                    overlap: count(object.overlap, "chunk")?,
                    pooling: object.pooling.unwrap_or_default().0,
                })))
            }
        }
        json.deserialize_any(Visitor)
    }
}

impl EmbeddingsBody {
    /// The outputs that are asked for; none means what the model gives first of all.
    pub fn heads(&self) -> Heads {
        let listed = self.output_types.iter().flatten();
        let listed: Heads = listed.map(|OutputType(head)| *head).collect();
        if self.return_sparse == Some(true) {
            listed | Head::Sparse.into()
        } else {
            listed
        }
    }

    /// Whether each output gets a key of its own in the answer.
    pub fn names_outputs(&self) -> bool {
        self.output_types
            .as_ref()
            .is_some_and(|types| !types.is_empty())
    }

    /// What the texts are for.
    pub fn conditioning(&mut self) -> Conditioning {
        let given = |field: &mut Option<String>| field.take().filter(|text| !text.is_empty());
        let named = given(&mut self.prompt_name).map(PromptWish::Named);
        let instruction = given(&mut self.instruction).map(PromptWish::Instruction);
        // An empty prompt is one: it keeps the checkpoint's own away.
        let text = self.prompt.take().map(PromptWish::Text);
        Conditioning {
            prompt: text.or(named).or(instruction),
            task: given(&mut self.task),
            input_type: given(&mut self.input_type),
        }
    }

    /// How texts are read that do not fit.
    pub fn long(&self) -> LongInput {
        match self.chunk {
            Some(ChunkField(Some(chunk))) => LongInput::Chunk(chunk),
            Some(ChunkField(None)) | None => LongInput::Cut,
        }
    }

    /// Whether the texts are read as one.
    ///
    /// # Errors
    /// When token ids would have to be joined.
    pub fn context(&self) -> Context {
        match self.late_chunking {
            Some(true) => Context::Joined,
            Some(false) | None => Context::Apart,
        }
    }

    /// Refuses what is not served here.
    ///
    /// # Errors
    /// When `modality` is another than text.
    pub fn refuse_unsupported(&self) -> Result<()> {
        match self.modality.as_deref() {
            None | Some("text" | "") => Ok(()),
            Some(other) => Err(Error::invalid(
                "modality",
                format!(
                    "`modality` is `{}`; only `text` is supported",
                    crate::api::extract::shorten(other, 50)
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> EmbeddingsBody {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn outputs_are_listed_or_xinferences_one() {
        let heads = |json| body(json).heads();
        assert!(heads(r#"{"input":"a"}"#).is_empty());
        assert_eq!(
            heads(r#"{"input":"a","return_sparse":true}"#),
            Head::Sparse.into()
        );
        let all = heads(r#"{"input":"a","output_types":["dense","sparse","colbert"]}"#);
        assert_eq!(all.to_string(), "dense, sparse, multi-vector");
        let wrong = r#"{"input":"a","output_types":["lexical"]}"#;
        let error = serde_json::from_str::<EmbeddingsBody>(wrong).unwrap_err();
        assert!(error.to_string().contains("`colbert`"), "{error}");
    }

    #[test]
    fn chunks_are_asked_for_in_many_ways() {
        let long = |json: &str| body(&format!(r#"{{"input":"a","chunk":{json}}}"#)).long();
        let chunk = |pooling| Chunk {
            pooling,
            ..Chunk::default()
        };
        for (json, expected) in [
            ("null", LongInput::Cut),
            ("false", LongInput::Cut),
            ("true", LongInput::Chunk(Chunk::default())),
            ("\"max\"", LongInput::Chunk(chunk(ChunkPooling::Max))),
            (
                "{\"pooling\":\"late\"}",
                LongInput::Chunk(chunk(ChunkPooling::Late)),
            ),
            (
                "{\"max_tokens\":64,\"overlap\":8}",
                LongInput::Chunk(Chunk {
                    max_tokens: Some(64),
                    overlap: Some(8),
                    pooling: ChunkPooling::Mean,
                }),
            ),
        ] {
            assert_eq!(long(json), expected, "{json}");
        }
        for wrong in ["3", "\"median\"", "{\"overlap\":-1}"] {
            let json = format!(r#"{{"input":"a","chunk":{wrong}}}"#);
            assert!(
                serde_json::from_str::<EmbeddingsBody>(&json).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_text_of_a_prompt_goes_before_its_name() {
        let wish = |json| body(json).conditioning().prompt;
        let both = wish(r#"{"input":"a","prompt":"","prompt_name":"query"}"#);
        assert_eq!(both, Some(PromptWish::Text(String::new())));
        let name = wish(r#"{"input":"a","prompt_name":"query","instruction":"i"}"#);
        assert_eq!(name, Some(PromptWish::Named("query".into())));
        assert_eq!(wish(r#"{"input":"a","prompt_name":""}"#), None);
    }
}
