//! `RerankResponse` → the body of `/v1/rerank`, or text-embeddings-inference's bare list.

use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{
        answer::{Headers, InputUsage, UsageBody, new_id, now},
        contested::Speaker,
    },
    engine::request::{Ranked, RerankResponse},
};

/// Documents that Cohere counts as one search unit.
const DOCUMENTS_PER_SEARCH_UNIT: usize = 100;

/// How the text of a document is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// Not at all: the key is absent, as some clients trip over a null.
    Nothing,
    /// As `{"text": …}`.
    Object,
    /// As it is.
    Text,
}

/// What of the answer depends on the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The model as the caller named it, which the answer repeats.
    pub model: Option<String>,
    /// In whose form the answer is.
    pub speaker: Speaker,
    /// What is given back of documents.
    pub echo: Echo,
    /// Whether `meta.tokens` is filled.
    pub token_counts: bool,
    /// Whether the account of each document was asked for.
    pub usage_details: bool,
}

/// The body of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankAnswer<'a> {
    /// Made up for this answer.
    id: String,
    /// Always `rerank`.
    object: &'static str,
    /// The model as the caller named it.
    model: &'a str,
    /// The best first; ties in the order of the request.
    results: Vec<RankedDocument<'a>>,
    meta: Meta,
    usage: UsageBody,
    /// Seconds since the Unix epoch (Infinity).
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RankedDocument<'a> {
    /// The place of the document within this request.
    index: usize,
    /// From 0 to 1 unless raw scores were asked for; the same whatever else is in the request.
    relevance_score: f32,
    /// Present when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Echoed<'a>>,
}

/// The text of a document.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Echoed<'a> {
    Object { text: &'a str },
    Text(&'a str),
}

/// What Xinference and Cohere tell beside the results.
#[derive(Debug, Serialize, ToSchema)]
struct Meta {
    /// Null but for Cohere's `/v2/rerank`.
    api_version: Option<ApiVersion>,
    /// Null but for Cohere's `/v2/rerank`.
    billed_units: Option<SearchUnits>,
    /// With `return_len`.
    tokens: Option<TokenCounts>,
    /// Always null.
    warnings: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ApiVersion {
    version: &'static str,
}

/// What Cohere would charge for.
#[derive(Debug, Serialize, ToSchema)]
struct SearchUnits {
    /// A query with up to 100 documents is one.
    search_units: usize,
}

/// Both are the tokens that the model saw, as Xinference has it.
#[derive(Debug, Serialize, ToSchema)]
struct TokenCounts {
    input_tokens: usize,
    output_tokens: usize,
}

/// One element of text-embeddings-inference's list.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiRank<'a> {
    /// The place of the text within this request.
    index: usize,
    /// Present when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    score: f32,
}

/// The HTTP response for a ranking of `documents`.
pub fn respond(
    response: &RerankResponse,
    shape: &Shape,
    documents: &[String],
    headers: Headers,
) -> Response {
    if shape.speaker == Speaker::Tei {
        let rank = |ranked: &Ranked| TeiRank {
            index: ranked.index,
            text: (shape.echo != Echo::Nothing).then(|| documents[ranked.index].as_str()),
            score: ranked.score,
        };
        let list: Vec<TeiRank<'_>> = response.results.iter().map(rank).collect();
        return headers.respond_json(&list);
    }
    headers.respond_json(&RerankAnswer::new(response, shape, documents))
}

impl<'a> RerankAnswer<'a> {
    fn new(response: &'a RerankResponse, shape: &'a Shape, documents: &'a [String]) -> Self {
        let scored = &response.scored;
        let echoed = |index: usize| {
            let text = documents[index].as_str();
            match shape.echo {
                Echo::Nothing => None,
                Echo::Object => Some(Echoed::Object { text }),
                Echo::Text => Some(Echoed::Text(text)),
            }
        };
        let result = |ranked: &Ranked| RankedDocument {
            index: ranked.index,
            relevance_score: ranked.score,
            document: echoed(ranked.index),
        };
        let tokens = scored.usage.prompt_tokens;
        let is_cohere = shape.speaker == Speaker::Cohere;
        let is_infinity = shape.speaker == Speaker::Infinity;
        Self {
            id: new_id(if is_infinity { "infinity" } else { "rerank" }),
            object: "rerank",
            model: shape.model.as_deref().unwrap_or(&scored.model),
            results: response.results.iter().map(result).collect(),
            meta: Meta {
                api_version: is_cohere.then_some(ApiVersion { version: "2" }),
                billed_units: is_cohere.then_some(SearchUnits {
                    search_units: documents.len().div_ceil(DOCUMENTS_PER_SEARCH_UNIT),
                }),
                tokens: shape.token_counts.then_some(TokenCounts {
                    input_tokens: tokens,
                    output_tokens: tokens,
                }),
                warnings: None,
            },
            usage: UsageBody::new(
                scored.usage,
                shape.usage_details,
                scored.scores.iter().map(InputUsage::from),
            ),
            created: is_infinity.then(now),
        }
    }
}
