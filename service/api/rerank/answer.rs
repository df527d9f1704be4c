//! `RerankResponse` → the body of `/v1/rerank`, or text-embeddings-inference's bare list.

use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::answer::{Headers, InputUsage, UsageBody, new_id},
    engine::request::{Ranked, RerankResponse},
};

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
    /// Whether the answer is text-embeddings-inference's.
    pub tei: bool,
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
}

#[derive(Debug, Serialize, ToSchema)]
struct RankedDocument<'a> {
    /// The place of the document within this request.
    index: usize,
    /// From 0 to 1 unless raw scores were asked for; the same whatever else is in the request.
    relevance_score: f32,
    /// Present when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EchoedObject>)]
    document: Option<Echoed<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Echoed<'a> {
    Object { text: &'a str },
    Text(&'a str),
}

/// The text of a document.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes `Echoed::Object`")]
struct EchoedObject {
    text: String,
}

/// What Xinference and Cohere tell beside the results.
#[derive(Debug, Serialize, ToSchema)]
struct Meta {
    /// Always null.
    api_version: Option<bool>,
    /// Always null.
    billed_units: Option<bool>,
    /// With `return_len`.
    tokens: Option<TokenCounts>,
    /// Always null.
    warnings: Option<bool>,
}

/// Both are the tokens that the model saw, as Xinference has it.
#[derive(Debug, Serialize, ToSchema)]
struct TokenCounts {
    input_tokens: usize,
    output_tokens: usize,
}

/// One element of text-embeddings-inference's list.
#[derive(Debug, Serialize)]
struct TeiRank<'a> {
    index: usize,
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
    if shape.tei {
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
        Self {
            id: new_id("rerank"),
            object: "rerank",
            model: shape.model.as_deref().unwrap_or(&scored.model),
            results: response.results.iter().map(result).collect(),
            meta: Meta {
                api_version: None,
                billed_units: None,
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
        }
    }
}
