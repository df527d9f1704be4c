//! `EmbedResponse` → the body of `/v1/embed` and `/v2/embed`.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::quantize::{EmbeddingType, Vector};
use crate::{
    api::answer::new_id,
    engine::request::{EmbedResponse, Embedding},
};

/// A version of Cohere's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Plain lists of floats unless types are asked for.
    One,
    /// Always by type.
    Two,
}

/// What of the answer depends on the request.
#[derive(Debug)]
pub struct Shape {
    version: Version,
    form: Form,
    // What was embedded, which the answer repeats.
    texts: Arc<[String]>,
}

#[derive(Debug)]
enum Form {
    Floats,
    ByType(Vec<EmbeddingType>),
}

impl Shape {
    /// For a request with these types, of which there may be none.
    pub fn new(version: Version, mut types: Vec<EmbeddingType>, texts: Arc<[String]>) -> Self {
        types.sort_unstable();
        types.dedup();
        let form = match (version, types.is_empty()) {
            (Version::One, true) => Form::Floats,
            (Version::Two, true) => Form::ByType(vec![EmbeddingType::Float]),
            (_, false) => Form::ByType(types),
        };
        Self {
            version,
            form,
            texts,
        }
    }
}

/// The body of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereEmbedAnswer<'a> {
    /// Made up for this answer.
    id: String,
    /// `embeddings_floats` or `embeddings_by_type`: Cohere's clients decode by it.
    response_type: &'static str,
    /// One vector per text, in order; or one such list per type.
    #[schema(value_type = CohereVectors)]
    embeddings: Vectors<'a>,
    /// What was embedded.
    #[schema(value_type = Vec<String>)]
    texts: &'a [String],
    meta: CohereMeta,
}

/// What `embeddings` may be.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only describes `Vectors`")]
enum CohereVectors {
    Floats(Vec<Vec<f32>>),
    ByType(std::collections::BTreeMap<String, Vec<CohereVector>>),
}

/// What a vector of one type may be.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only describes `Vectors`")]
enum CohereVector {
    Numbers(Vec<f32>),
    Base64(String),
}

/// What is told beside the result.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereMeta {
    api_version: CohereApiVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    billed_units: Option<CohereBilledUnits>,
}

#[derive(Debug, Serialize, ToSchema)]
struct CohereApiVersion {
    version: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct CohereBilledUnits {
    /// Tokens that the model saw, special tokens included.
    input_tokens: usize,
}

impl CohereMeta {
    /// For an answer of this version, about so many tokens.
    pub fn new(version: Version, input_tokens: Option<usize>) -> Self {
        let version = match version {
            Version::One => "1",
            Version::Two => "2",
        };
        Self {
            api_version: CohereApiVersion { version },
            billed_units: input_tokens.map(|input_tokens| CohereBilledUnits { input_tokens }),
        }
    }
}

impl<'a> CohereEmbedAnswer<'a> {
    /// The answer for vectors of the texts in `shape`.
    pub fn new(response: &'a EmbedResponse, shape: &'a Shape) -> Self {
        let embeddings = &response.embeddings[..];
        let (response_type, embeddings) = match &shape.form {
            Form::Floats => {
                let rows = Rows(embeddings, EmbeddingType::Float);
                ("embeddings_floats", Vectors::Floats(rows))
            }
            Form::ByType(types) => (
                "embeddings_by_type",
                Vectors::ByType(ByType { embeddings, types }),
            ),
        };
        Self {
            id: new_id("embed"),
            response_type,
            embeddings,
            texts: &shape.texts,
            meta: CohereMeta::new(shape.version, Some(response.usage.prompt_tokens)),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Vectors<'a> {
    Floats(Rows<'a>),
    ByType(ByType<'a>),
}

/// All vectors, once per type.
#[derive(Debug)]
struct ByType<'a> {
    embeddings: &'a [Embedding],
    types: &'a [EmbeddingType],
}

impl Serialize for ByType<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let rows = |kind: &EmbeddingType| (kind.name(), Rows(self.embeddings, *kind));
        json.collect_map(self.types.iter().map(rows))
    }
}

/// All vectors, in one type.
#[derive(Debug)]
struct Rows<'a>(&'a [Embedding], EmbeddingType);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let Self(embeddings, kind) = self;
        let row = |embedding| Vector::of(embedding, *kind);
        json.collect_seq(embeddings.iter().map(row))
    }
}
