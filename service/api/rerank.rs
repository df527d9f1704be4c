//! `POST /v1/rerank` and its many aliases: one superset of what Xinference, Jina, Cohere, vLLM,
//! Infinity and `LocalAI` send and read, and, told by the body, text-embeddings-inference's form.
//! What the fields mean: §1.7 and §2.2 of the API contract.

mod answer;
mod options;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use self::{
    answer::{Echo, Shape},
    options::{Chunking, Kwargs, Weights},
};
pub use self::{
    answer::{RerankAnswer, TeiRank},
    options::{Direction, scale},
};
use super::{
    ApiSettings, AppState,
    addressed::Addressed,
    answer as account,
    caller::Priority,
    contested::{self, Door, Marks, Speaker},
    errors::{INFINITY, TEI},
    extract::{JsonBody, WireBody},
    fields::{self, Cut, WholeNumber},
    observe::RequestLog,
    texts::{self, Text, Texts},
};
use crate::{
    engine::request::RerankRequest,
    error::{Error, Result},
};

/// The body of a request. Unknown fields are ignored and `null` means not given, because every
/// client sends some of either.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `query` and `documents`")]
pub struct RerankBody {
    /// A served name, an alias or a hub id; without one, the first reranker.
    model: Option<String>,
    /// What is asked: a text or an object with `text`.
    #[schema(schema_with = texts::text_schema)]
    query: Option<Text>,
    /// What may answer it: texts, objects with `text`, or objects with vLLM's `content`.
    #[schema(schema_with = texts::texts_schema)]
    documents: Option<Texts>,
    /// text-embeddings-inference's name for `documents`; the answer is then in its form.
    #[schema(schema_with = texts::texts_schema)]
    texts: Option<Texts>,
    /// How many of the best to return; 0, or more than there are, returns all.
    #[schema(value_type = Option<u64>)]
    top_n: Option<WholeNumber>,
    /// `true` returns the texts, too.
    return_documents: Option<bool>,
    /// text-embeddings-inference's name for `return_documents`.
    return_text: Option<bool>,
    /// `true` fills `meta.tokens` (Xinference).
    return_len: Option<bool>,
    /// `true` gives logits, or similarities as they are, instead of scores from 0 to 1.
    raw_scores: Option<bool>,
    /// vLLM's opposite of `raw_scores`.
    use_activation: Option<bool>,
    /// An older name of `use_activation`.
    activation: Option<bool>,
    /// `interactive` or `bulk`, or vLLM's number: less than 0 is the former, more the latter.
    #[schema(value_type = Option<String>)]
    priority: Option<Priority>,
    /// Read a long document in at most so many chunks; 1 cuts it.
    #[schema(value_type = Option<u64>)]
    max_chunks_per_doc: Option<WholeNumber>,
    /// `true`, or `{"overlap": …}`: a document that does not fit is read in overlapping chunks and
    /// gets the score of its best, instead of being cut.
    #[schema(value_type = Option<bool>)]
    chunk: Option<Chunking>,
    /// Keep at most so many tokens of each document.
    #[schema(value_type = Option<u64>)]
    max_tokens_per_doc: Option<WholeNumber>,
    /// vLLM's name for `max_tokens_per_doc`; -1 for as many as fit.
    #[schema(value_type = Option<i64>)]
    truncate_prompt_tokens: Option<WholeNumber>,
    /// Keep at most so many tokens of query and document together.
    #[schema(value_type = Option<u64>)]
    max_tokens: Option<WholeNumber>,
    /// `true`, `false`, or `END`, `START`, `NONE`: which end is cut of a document that does not
    /// fit; `false` and `NONE` refuse it.
    #[schema(schema_with = fields::cut_schema)]
    truncate: Option<Cut>,
    /// `Right` or `Left`: text-embeddings-inference's name for the end that is cut.
    #[schema(value_type = Option<String>)]
    truncation_direction: Option<Direction>,
    /// What the model is to judge by; before the query where the model has no place for it.
    instruction: Option<String>,
    /// What each kind of vector counts, for embedding models with several:
    /// `{"dense": 0.4, "sparse": 0.2, "colbert": 0.4}` or a list in that order.
    #[schema(value_type = Option<Vec<f32>>)]
    weights: Option<Weights>,
    /// The same fields again, as a JSON string (Xinference's client) or an object; what is in the
    /// body itself goes first.
    #[schema(value_type = Option<String>)]
    kwargs: Option<Kwargs>,
    /// `true` adds to `usage` the tokens of each document and how many of them were cut.
    usage_details: Option<bool>,
}

impl WireBody for RerankBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "query",
        "documents",
        "texts",
        "top_n",
        "return_documents",
        "return_text",
        "return_len",
        "raw_scores",
        "use_activation",
        "activation",
        "priority",
        "max_chunks_per_doc",
        "chunk",
        "max_tokens_per_doc",
        "truncate_prompt_tokens",
        "max_tokens",
        "truncate",
        "truncation_direction",
        "instruction",
        "weights",
        "kwargs",
        "usage_details",
    ];
}

macro_rules! doors {
    ($($(#[$doc:meta])* $name:ident = $door:ident;)+) => {
        $(
            $(#[$doc])*
            pub async fn $name(
                state: State<AppState>,
                log: RequestLog,
                headers: HeaderMap,
                JsonBody(body): JsonBody<RerankBody>,
            ) -> Result<Response> {
                answer(state, log, headers, body, Door::$door).await
            }
        )+
    };
}

doors! {
    /// `POST /v1/rerank`.
    rerank = Versioned;
    /// `POST /rerank`.
    rerank_bare = Bare;
    /// `POST /v2/rerank`, Cohere's.
    rerank_v2 = Cohere;
    /// `POST /api/rerank`, which Dify's ollama plugin calls; it reads a document as a plain text.
    rerank_plain = Ollama;
    /// `POST /infinity/rerank`.
    rerank_infinity = Infinity;
}

/// `POST /tei/{model}/rerank`.
pub async fn model_rerank(
    state: State<AppState>,
    log: RequestLog,
    Addressed(model): Addressed,
    headers: HeaderMap,
    JsonBody(mut body): JsonBody<RerankBody>,
) -> Result<Response> {
    body.model = model.or(body.model);
    answer(state, log, headers, body, Door::Tei).await
}

async fn answer(
    State(state): State<AppState>,
    log: RequestLog,
    headers: HeaderMap,
    body: RerankBody,
    door: Door,
) -> Result<Response> {
    let speaker = contested::rerank(door, body.marks());
    match speaker {
        Speaker::Tei => log.speaks(&TEI),
        Speaker::Infinity => log.speaks(&INFINITY),
        // The row of the route table has said it.
        Speaker::Union | Speaker::Cohere | Speaker::Ollama => {}
    }
    let mut body = body.with_kwargs();
    let shape = body.shape(&headers, speaker, &state.settings);
    log.prefers(body.priority.and_then(|priority| priority.0));
    let request = body.request()?;
    let documents = request.documents.clone();
    log.asked(documents.len());
    state.announce(&log, request.model.as_deref());
    let response = state.engine_for(&log).rerank(request).await?;
    let scored = &response.scored;
    log.answered(&scored.model, scored.usage, scored.timings);
    let headers = account::Headers::new(scored.usage, scored.timings, log.started());
    Ok(answer::respond(&response, &shape, &documents, headers))
}

impl RerankBody {
    /// Whether it is text-embeddings-inference's form. llama.cpp's clients send both lists.
    fn is_tei(&self) -> bool {
        self.texts.is_some() && self.documents.is_none()
    }

    /// What tells who wrote it.
    fn marks(&self) -> Marks {
        Marks {
            only_texts: self.is_tei(),
            infinitys: contested::infinitys(self.model.as_deref(), self.raw_scores),
        }
    }

    /// What of the answer depends on the request.
    fn shape(&self, headers: &HeaderMap, speaker: Speaker, settings: &ApiSettings) -> Shape {
        // The other dialects say themselves what is returned unless asked.
        let by_default = speaker == Speaker::Union && settings.return_documents;
        let wanted = self.return_documents.or(self.return_text);
        let wanted = wanted.unwrap_or(by_default);
        Shape {
            model: self.model.clone().filter(|model| !model.is_empty()),
            speaker,
            echo: match speaker {
                _ if !wanted => Echo::Nothing,
                Speaker::Union | Speaker::Cohere => Echo::Object,
                Speaker::Infinity | Speaker::Ollama | Speaker::Tei => Echo::Text,
            },
            token_counts: self.return_len.unwrap_or(false),
            usage_details: account::wants_details(self.usage_details, headers),
        }
    }

    fn request(&mut self) -> Result<RerankRequest> {
        let is_tei = self.is_tei();
        let query = self.query.take();
        let query = query.ok_or_else(|| Error::missing("query"))?;
        let documents = self.documents.take().or_else(|| self.texts.take());
        let documents = documents.ok_or_else(|| Error::missing("documents"))?.0;
        if documents.is_empty() {
            let field = if is_tei { "texts" } else { "documents" };
            return Err(Error::Empty(field));
        }
        let top_n = match self.top_n {
            None | Some(WholeNumber(0)) => None,
            Some(number) => Some(number.at_least(0, "top_n")?),
        };
        Ok(RerankRequest {
            model: fields::named_model(self.model.take())?,
            query: query.0,
            documents: Arc::from(documents),
            top_n,
            options: self.options()?,
        })
    }
}
