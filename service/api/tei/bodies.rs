//! What text-embeddings-inference's clients send. `model` is ours: the address usually names it.

use std::fmt;

use retort_models::{SpecialTokens, TruncationSide};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess},
};
use utoipa::ToSchema;

use crate::{
    api::{
        extract::WireBody,
        fields::{self, Cut, WholeNumber},
        openai::{Input, input_schema},
        rerank::Direction,
        texts::{self, OneOrMany},
    },
    engine::request::{ClassifyInput, Truncate},
    error::Result,
};

/// The body of `/embed`, `/embed_all` and `/embed_sparse`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `inputs`")]
#[schema(as = TeiEmbedBody)]
pub struct EmbedBody {
    /// A served name, for servers of several models.
    pub model: Option<String>,
    /// A text, a list of token ids of the model's own vocabulary, or a list of these.
    #[schema(schema_with = input_schema)]
    pub inputs: Input,
    /// `false` refuses what does not fit; otherwise it is cut.
    #[schema(value_type = Option<bool>)]
    pub truncate: Option<Cut>,
    /// `Right` or `Left`: which end is cut.
    #[schema(value_type = Option<String>)]
    pub truncation_direction: Option<Direction>,
    /// The name of one of the model's prompts.
    pub prompt_name: Option<String>,
    /// `false` leaves vectors as the pooling made them.
    pub normalize: Option<bool>,
    /// Keep the first so many components, then normalise again.
    #[schema(value_type = Option<u64>)]
    pub dimensions: Option<WholeNumber>,
}

impl WireBody for EmbedBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "inputs",
        "truncate",
        "truncation_direction",
        "prompt_name",
        "normalize",
        "dimensions",
    ];
}

/// The body of `/predict`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `inputs`")]
#[schema(as = TeiPredictBody)]
pub struct PredictBody {
    /// A served name, for servers of several models.
    pub model: Option<String>,
    /// A text, a pair `["premise", "hypothesis"]`, or a list of `["text"]` and pairs.
    #[schema(schema_with = texts::one_or_many_schema)]
    pub inputs: PredictInputs,
    /// `false` refuses what does not fit; otherwise it is cut.
    #[schema(value_type = Option<bool>)]
    pub truncate: Option<Cut>,
    /// `Right` or `Left`: which end is cut.
    #[schema(value_type = Option<String>)]
    pub truncation_direction: Option<Direction>,
    /// `true` gives logits.
    pub raw_scores: Option<bool>,
    /// Sent by Hugging Face's `InferenceClient`, which expects a list of lists.
    #[schema(value_type = Option<String>)]
    pub parameters: Option<IgnoredAny>,
}

impl WireBody for PredictBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "inputs",
        "truncate",
        "truncation_direction",
        "raw_scores",
        "parameters",
    ];
}

/// The inputs of `/predict`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PredictInputs {
    /// In order.
    pub inputs: Vec<ClassifyInput>,
    /// Whether there is one that is not in a list; its answer is then not in one either.
    pub single: bool,
}

impl<'de> Deserialize<'de> for PredictInputs {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PredictInputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a pair of texts, or a list of lists of one or two texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PredictInputs, E> {
                Ok(PredictInputs {
                    inputs: vec![ClassifyInput::Text(text.to_owned())],
                    single: true,
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PredictInputs, A::Error> {
                let (mut texts, mut inputs) = (Vec::new(), Vec::new());
                while let Some(item) = list.next_element::<OneOrMany>()? {
                    match item {
                        OneOrMany::One(text) if inputs.is_empty() => texts.push(text),
                        OneOrMany::Many(sequence) if texts.is_empty() => {
                            inputs.push(sequence_of(sequence)?);
                        }
                        OneOrMany::One(_) | OneOrMany::Many(_) => {
                            let message = "texts and lists of texts are mixed";
                            return Err(de::Error::custom(message));
                        }
                    }
                }
                // A flat list is one text or one pair.
                let single = !texts.is_empty();
                if single {
                    inputs.push(sequence_of(texts)?);
                }
                Ok(PredictInputs { inputs, single })
            }
        }
        json.deserialize_any(Visitor)
    }
}

fn sequence_of<E: de::Error>(mut texts: Vec<String>) -> Result<ClassifyInput, E> {
    match (texts.len(), texts.pop(), texts.pop()) {
        (1, Some(text), _) => Ok(ClassifyInput::Text(text)),
        (2, Some(second), Some(first)) => Ok(ClassifyInput::Pair(first, second)),
        (length, ..) => Err(E::invalid_length(length, &"one text or two")),
    }
}

/// The body of `/similarity`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `inputs`")]
#[schema(as = TeiSimilarityBody)]
pub struct SimilarityBody {
    /// A served name, for servers of several models.
    pub model: Option<String>,
    /// What is compared.
    pub inputs: SimilarityInputs,
    /// How texts are read.
    pub parameters: Option<SimilarityParameters>,
}

impl WireBody for SimilarityBody {
    const FIELDS: &'static [&'static str] = &["model", "inputs", "parameters"];
}

/// The inputs of `/similarity`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object with `source_sentence` and `sentences`")]
#[schema(as = TeiSimilarityInputs)]
pub struct SimilarityInputs {
    /// The text that all others are compared with.
    pub source_sentence: String,
    /// The others.
    pub sentences: Vec<String>,
}

/// How `/similarity` reads texts.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object with `truncate`, `truncation_direction` and `prompt_name`")]
#[schema(as = TeiSimilarityParameters)]
pub struct SimilarityParameters {
    /// `false` refuses what does not fit; otherwise it is cut.
    #[schema(value_type = Option<bool>)]
    pub truncate: Option<Cut>,
    /// `Right` or `Left`: which end is cut.
    #[schema(value_type = Option<String>)]
    pub truncation_direction: Option<Direction>,
    /// The name of one of the model's prompts.
    pub prompt_name: Option<String>,
}

/// The body of `/tokenize`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `inputs`")]
#[schema(as = TeiTokenizeBody)]
pub struct TokenizeBody {
    /// A served name, for servers of several models.
    pub model: Option<String>,
    /// A text or a list of texts.
    #[schema(schema_with = texts::one_or_many_schema)]
    pub inputs: OneOrMany,
    /// Whether special tokens are put around each text; they are unless told otherwise.
    pub add_special_tokens: Option<bool>,
    /// The name of one of the model's prompts.
    pub prompt_name: Option<String>,
}

impl WireBody for TokenizeBody {
    const FIELDS: &'static [&'static str] =
        &["model", "inputs", "add_special_tokens", "prompt_name"];
}

/// The body of `/decode`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `ids`")]
#[schema(as = TeiDecodeBody)]
pub struct DecodeBody {
    /// A served name, for servers of several models.
    pub model: Option<String>,
    /// A list of token ids, or a list of such lists.
    #[schema(value_type = Vec<u32>)]
    pub ids: Input,
    /// Whether special tokens are left out; they are unless told otherwise.
    pub skip_special_tokens: Option<bool>,
}

impl WireBody for DecodeBody {
    const FIELDS: &'static [&'static str] = &["model", "ids", "skip_special_tokens"];
}

/// How far texts may reach: whatever does not fit is cut unless `truncate` is false.
///
/// # Errors
/// As [`fields::truncate`].
pub fn truncation(cut: Option<Cut>, direction: Option<Direction>) -> Result<Truncate> {
    let mut truncate = fields::truncate(None, cut)?;
    if let Some(direction) = direction
        && truncate.side != TruncationSide::Refuse
    {
        truncate.side = direction.side();
    }
    Ok(truncate)
}

/// What a switch for special tokens says.
pub fn special_tokens(wanted: bool) -> SpecialTokens {
    if wanted {
        SpecialTokens::Keep
    } else {
        SpecialTokens::Skip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> ClassifyInput {
        ClassifyInput::Text(text.into())
    }

    #[test]
    fn what_is_predicted_comes_alone_in_pairs_and_in_lists() {
        let pair = ClassifyInput::Pair("a".into(), "b".into());
        for (json, inputs, single) in [
            (r#""a""#, vec![text("a")], true),
            (r#"["a"]"#, vec![text("a")], true),
            (r#"["a","b"]"#, vec![pair.clone()], true),
            (r#"[["a"],["a","b"]]"#, vec![text("a"), pair], false),
            (r#"[["a"]]"#, vec![text("a")], false),
            ("[]", vec![], false),
        ] {
            let read: PredictInputs = serde_json::from_str(json).unwrap();
            assert_eq!(read, PredictInputs { inputs, single }, "{json}");
        }
        for wrong in [r#"["a","b","c"]"#, r#"["a",["b"]]"#, "[[]]", "[1]", "5"] {
            assert!(
                serde_json::from_str::<PredictInputs>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn texts_are_cut_unless_told_otherwise() {
        let side = |json: &str| {
            let body: EmbedBody = serde_json::from_str(json).unwrap();
            let truncate = truncation(body.truncate, body.truncation_direction);
            truncate.unwrap().side
        };
        for (json, expected) in [
            (r#"{"inputs":"a"}"#, TruncationSide::End),
            (r#"{"inputs":"a","truncate":null}"#, TruncationSide::End),
            (
                r#"{"inputs":"a","truncation_direction":"Left"}"#,
                TruncationSide::Start,
            ),
            (
                r#"{"inputs":"a","truncate":true,"truncation_direction":"left"}"#,
                TruncationSide::Start,
            ),
            (
                r#"{"inputs":"a","truncate":false,"truncation_direction":"Left"}"#,
                TruncationSide::Refuse,
            ),
        ] {
            assert_eq!(side(json), expected, "{json}");
        }
    }
}
