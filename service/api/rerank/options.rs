//! How scores are made, as a body says it: small types, and their meaning for the engine.

use std::fmt;

use retort_models::TruncationSide;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};

use super::RerankBody;
use crate::{
    api::fields::{self, WholeNumber},
    engine::request::{HybridWeights, LongDocument, Scale, ScoreOptions, Truncate},
    error::Result,
};

/// The fields of a body once more, in a string or in an object.
#[derive(Debug)]
pub struct Kwargs(Box<RerankBody>);

impl<'de> Deserialize<'de> for Kwargs {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Kwargs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object, or a text that holds one")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Kwargs, E> {
                let body = match text.trim() {
                    "" | "null" => RerankBody::default(),
                    text => serde_json::from_str(text).map_err(E::custom)?,
                };
                Ok(Kwargs(Box::new(body)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Kwargs, A::Error> {
                let body = RerankBody::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Kwargs(Box::new(body)))
            }
        }
        json.deserialize_any(Visitor)
    }
}

/// `true`, `false` or `{"overlap": …}`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(
    untagged,
    expecting = "expected `true`, `false` or an object with `overlap`"
)]
pub enum Chunking {
    /// Whether to.
    Switch(bool),
    /// Yes, and how.
    How {
        /// Tokens that a chunk has in common with the one before it.
        overlap: Option<u32>,
    },
}

/// Which end of a document is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Direction(TruncationSide);

impl Direction {
    /// The end that is cut.
    pub fn side(self) -> TruncationSide {
        self.0
    }
}

impl TryFrom<String> for Direction {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "right" => Ok(Self(TruncationSide::End)),
            "left" => Ok(Self(TruncationSide::Start)),
            _ => Err(format!("`{name}` is neither `Right` nor `Left`")),
        }
    }
}

/// What each kind of vector counts.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected an object with `dense`, `sparse` and `colbert`, or a list of three \
                 numbers in that order"
)]
pub enum Weights {
    /// As `FlagEmbedding` writes them.
    List([f32; 3]),
    /// By name; what is left out counts nothing.
    Named {
        /// Of the dense vectors.
        #[serde(default)]
        dense: f32,
        /// Of the sparse vectors.
        #[serde(default)]
        sparse: f32,
        /// Of the late interaction.
        #[serde(default, alias = "multi_vector", alias = "multi-vector")]
        colbert: f32,
    },
}

impl From<Weights> for HybridWeights {
    fn from(weights: Weights) -> Self {
        let (dense, sparse, multi_vector) = match weights {
            Weights::List([dense, sparse, multi_vector]) => (dense, sparse, multi_vector),
            Weights::Named {
                dense,
                sparse,
                colbert,
            } => (dense, sparse, colbert),
        };
        Self {
            dense,
            sparse,
            multi_vector,
        }
    }
}

impl RerankBody {
    /// Takes from `kwargs` what the body itself does not say.
    pub fn with_kwargs(mut self) -> Self {
        // One level: kwargs within kwargs mean nothing.
        let Some(Kwargs(more)) = self.kwargs.take() else {
            return self;
        };
        Self {
            model: self.model,
            query: self.query,
            documents: self.documents,
            texts: self.texts,
            top_n: self.top_n.or(more.top_n),
            return_documents: self.return_documents.or(more.return_documents),
            return_text: self.return_text.or(more.return_text),
            return_len: self.return_len.or(more.return_len),
            raw_scores: self.raw_scores.or(more.raw_scores),
            use_activation: self.use_activation.or(more.use_activation),
            activation: self.activation.or(more.activation),
            priority: self.priority.or(more.priority),
            max_chunks_per_doc: self.max_chunks_per_doc.or(more.max_chunks_per_doc),
            chunk: self.chunk.or(more.chunk),
            max_tokens_per_doc: self.max_tokens_per_doc.or(more.max_tokens_per_doc),
            truncate_prompt_tokens: self.truncate_prompt_tokens.or(more.truncate_prompt_tokens),
            max_tokens: self.max_tokens.or(more.max_tokens),
            truncate: self.truncate.or(more.truncate),
            truncation_direction: self.truncation_direction.or(more.truncation_direction),
            instruction: self.instruction.or(more.instruction),
            weights: self.weights.or(more.weights),
            kwargs: None,
            usage_details: self.usage_details.or(more.usage_details),
        }
    }

    /// What the body says about scores.
    ///
    /// # Errors
    /// When a number is out of range.
    pub fn options(&self) -> Result<ScoreOptions> {
        let per_document = [
            fields::token_limit(self.max_tokens_per_doc, "max_tokens_per_doc")?,
            fields::token_limit(self.truncate_prompt_tokens, "truncate_prompt_tokens")?,
        ];
        let side = self.truncation_direction.map(|Direction(side)| side);
        let mut truncate = fields::truncate(None, self.truncate)?;
        // The direction says which end, and `truncate` whether at all.
        if let Some(side) = side
            && truncate.side != TruncationSide::Refuse
        {
            truncate.side = side;
        }
        Ok(ScoreOptions {
            scale: scale(self.raw_scores, self.use_activation.or(self.activation)),
            instruction: self.instruction.clone().filter(|text| !text.is_empty()),
            truncate: Truncate {
                max_tokens: fields::token_limit(self.max_tokens, "max_tokens")?,
                ..truncate
            },
            document_max_tokens: per_document.into_iter().flatten().min(),
            long: self.long()?,
            weights: self.weights.map(HybridWeights::from),
        })
    }

    fn long(&self) -> Result<LongDocument> {
        let most = match self.max_chunks_per_doc {
            None | Some(WholeNumber(0)) => None,
            Some(number) => Some(number.at_least(0, "max_chunks_per_doc")?),
        };
        let overlap = match self.chunk {
            Some(Chunking::Switch(false)) => return Ok(LongDocument::Cut),
            Some(Chunking::How { overlap }) => overlap.map(|tokens| tokens as usize),
            Some(Chunking::Switch(true)) => None,
            None if most.is_some_and(|most| most > 1) => None,
            None => return Ok(LongDocument::Cut),
        };
        Ok(LongDocument::Chunk {
            overlap,
            max_chunks: most,
        })
    }
}

/// Raw scores are asked for under two names, of which one is the opposite of the other.
pub fn scale(raw_scores: Option<bool>, use_activation: Option<bool>) -> Scale {
    let raw = raw_scores.or(use_activation.map(|wanted| !wanted));
    if raw == Some(true) {
        Scale::Raw
    } else {
        Scale::Unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: &str) -> ScoreOptions {
        let body: RerankBody = serde_json::from_str(json).unwrap();
        body.with_kwargs().options().unwrap()
    }

    #[test]
    fn kwargs_fill_what_the_body_leaves_open() {
        assert_eq!(options(r#"{"kwargs":"{}"}"#), ScoreOptions::default());
        let raw = options(r#"{"kwargs":"{\"raw_scores\":true,\"unknown\":[1]}"}"#);
        assert_eq!(raw.scale, Scale::Raw);
        let body = options(r#"{"raw_scores":false,"kwargs":{"raw_scores":true}}"#);
        assert_eq!(body.scale, Scale::Unit);
        let wrong = serde_json::from_str::<RerankBody>(r#"{"kwargs":"{"}"#);
        assert!(wrong.is_err());
    }

    #[test]
    fn long_documents_are_cut_or_chunked() {
        let chunk = |overlap, max_chunks| LongDocument::Chunk {
            overlap,
            max_chunks,
        };
        for (json, expected) in [
            ("{}", LongDocument::Cut),
            (r#"{"max_chunks_per_doc":1}"#, LongDocument::Cut),
            (r#"{"max_chunks_per_doc":null}"#, LongDocument::Cut),
            (r#"{"max_chunks_per_doc":10}"#, chunk(None, Some(10))),
            (r#"{"chunk":true}"#, chunk(None, None)),
            (r#"{"chunk":{"overlap":8}}"#, chunk(Some(8), None)),
            (
                r#"{"chunk":false,"max_chunks_per_doc":10}"#,
                LongDocument::Cut,
            ),
        ] {
            assert_eq!(options(json).long, expected, "{json}");
        }
    }

    #[test]
    fn the_smallest_limit_of_a_document_counts() {
        let most = |json| options(json).document_max_tokens;
        assert_eq!(
            most(r#"{"max_tokens_per_doc":9,"truncate_prompt_tokens":7}"#),
            Some(7)
        );
        assert_eq!(most(r#"{"truncate_prompt_tokens":-1}"#), None);
        let side = |json| options(json).truncate.side;
        assert_eq!(
            side(r#"{"truncation_direction":"Left"}"#),
            TruncationSide::Start
        );
        let both = r#"{"truncation_direction":"left","truncate":false}"#;
        assert_eq!(side(both), TruncationSide::Refuse);
    }

    #[test]
    fn weights_come_by_name_or_in_order() {
        let expected = HybridWeights {
            dense: 1.0,
            sparse: 0.0,
            multi_vector: 0.5,
        };
        for json in [
            r#"{"weights":{"dense":1,"colbert":0.5}}"#,
            r#"{"weights":[1,0,0.5]}"#,
        ] {
            assert_eq!(options(json).weights, Some(expected));
        }
        assert!(serde_json::from_str::<RerankBody>(r#"{"weights":[1]}"#).is_err());
    }
}
