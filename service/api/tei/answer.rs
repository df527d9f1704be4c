//! Engine responses → the bodies and headers of text-embeddings-inference.

use axum::response::Response;
use http::{HeaderName, HeaderValue};
use retort_models::Token;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::answer::Headers,
    engine::request::{Classified, ClassifyResponse, Embedding, Timings, Usage},
};

/// Always a list of vectors.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiEmbedAnswer, value_type = Vec<Vec<f32>>)]
pub struct EmbedAnswer<'a>(pub Vec<&'a [f32]>);

/// One vector per token, per input.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiEmbedAllAnswer, value_type = Vec<Vec<Vec<f32>>>)]
pub struct EmbedAllAnswer<'a>(pub Vec<Vec<&'a [f32]>>);

/// The entries of each input that are not zero.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiEmbedSparseAnswer)]
pub struct EmbedSparseAnswer(pub Vec<Vec<SparseValue>>);

/// One entry of a sparse vector.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = TeiSparseValue)]
pub struct SparseValue {
    /// The token id.
    index: u32,
    /// Its weight.
    value: f32,
}

/// The labels of one input, the most probable first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiPredictions)]
pub struct Predictions<'a>(Vec<Prediction<'a>>);

/// One label of an input.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiPrediction)]
struct Prediction<'a> {
    score: f32,
    label: &'a str,
}

/// The products of the source with each sentence.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiSimilarityAnswer)]
pub struct SimilarityAnswer(pub Vec<f32>);

/// The tokens of each text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiTokenizeAnswer)]
pub struct TokenizeAnswer<'a>(pub Vec<Vec<SimpleToken<'a>>>);

/// One token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiSimpleToken)]
pub struct SimpleToken<'a> {
    id: u32,
    /// The characters of the text, or the name of a special token.
    text: &'a str,
    special: bool,
    /// In characters; null for special tokens.
    start: Option<usize>,
    stop: Option<usize>,
}

/// The texts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiDecodeAnswer)]
pub struct DecodeAnswer(pub Vec<String>);

impl From<&Embedding> for Vec<SparseValue> {
    fn from(embedding: &Embedding) -> Self {
        let Some(sparse) = &embedding.sparse else {
            return Vec::new();
        };
        let entries = sparse.ids.iter().zip(&sparse.weights);
        let value = |(&index, &value): (&u32, &f32)| SparseValue { index, value };
        entries.map(value).collect()
    }
}

impl<'a> Predictions<'a> {
    /// All labels of one input.
    pub fn new(result: &Classified, response: &'a ClassifyResponse) -> Self {
        let labels = response.labels.iter().zip(&result.scores);
        let mut all: Vec<Prediction<'a>> = labels
            .map(|(label, &score)| Prediction { score, label })
            .collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        Self(all)
    }
}

impl<'a> From<&'a Token> for SimpleToken<'a> {
    fn from(token: &'a Token) -> Self {
        let source = token.source.as_ref();
        Self {
            id: token.id,
            text: source.map_or(&token.piece, |source| &source.text),
            special: source.is_none(),
            start: source.map(|source| source.span.0),
            stop: source.map(|source| source.span.1),
        }
    }
}

/// What the headers of an answer tell.
#[derive(Debug, Clone)]
pub struct Account {
    /// Characters of all inputs; token ids count as one each.
    pub characters: usize,
    /// The device that computed.
    pub device: String,
    /// What it cost.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
    /// When the request arrived.
    pub started: std::time::Instant,
}

impl Account {
    /// The response with this JSON.
    pub fn respond(self, body: &impl Serialize) -> Response {
        let spent = self.timings.tokenize + self.timings.inference;
        let headers = Headers::new(self.usage, self.timings, self.started);
        let mut response = headers.respond_json(body);
        let millis = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
        let all = response.headers_mut();
        for (name, value) in [
            ("x-compute-time", millis),
            ("x-compute-characters", self.characters as u64),
            ("x-compute-tokens", self.usage.prompt_tokens as u64),
        ] {
            all.insert(HeaderName::from_static(name), value.into());
        }
        if let Ok(device) = HeaderValue::try_from(self.device) {
            all.insert(HeaderName::from_static("x-compute-type"), device);
        }
        response
    }
}
