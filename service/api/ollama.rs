//! Ollama's embedding routes: `/api/embed` and the older `/api/embeddings`. Chats are in
//! `ollama/chat.rs`, what is told of models is in `ollama/models.rs`; `/api/rerank`, which Ollama
//! itself lacks, is in `rerank.rs`.
//! What the fields mean: §7 of the API contract.

mod chat;
mod keep_alive;
mod models;

use std::time::{Duration, Instant};

use axum::{Json, extract::State, response::Response};
use retort_models::{Heads, TruncationSide};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::chat::{OllamaAnswer, OllamaChatBody, OllamaGenerateBody, chat, generate};
use self::keep_alive::Wish;
pub use self::models::{
    OllamaModels, OllamaProcesses, OllamaPullBody, OllamaShow, OllamaShowBody, OllamaStatus,
    OllamaVersion, ps, pull, show, tags, version,
};
use super::{
    AppState, answer as account,
    extract::{JsonBody, WireBody},
    fields::{self, WholeNumber},
    observe::RequestLog,
    texts,
};
use crate::{
    engine::request::{EmbedInput, EmbedRequest, EmbedResponse, Task, Truncate},
    error::Result,
    keep_alive::KeepAlive,
};

/// The body of `/api/embed`. `options`, such as `num_ctx`, are ignored: they are about the machine
/// and about generating text.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `input`")]
pub struct OllamaEmbedBody {
    /// A served name, with or without `:latest`; without one, the first embedding model.
    model: Option<String>,
    /// A text or a list of texts; none of either gives no vectors.
    #[schema(schema_with = texts::one_or_many_schema)]
    input: Option<Input>,
    /// `false` refuses a text that does not fit, instead of cutting it.
    truncate: Option<bool>,
    /// Keep the first so many components, then normalise again.
    #[schema(value_type = Option<u64>)]
    dimensions: Option<WholeNumber>,
    /// How long the model stays in memory after this: seconds, or a duration such as `5m`;
    /// negative for ever.
    #[schema(value_type = Option<String>)]
    keep_alive: Option<Wish>,
}

impl WireBody for OllamaEmbedBody {
    const FIELDS: &'static [&'static str] =
        &["model", "input", "truncate", "dimensions", "keep_alive"];
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "invalid input type: expected a text or a list of texts"
)]
enum Input {
    One(String),
    Many(Vec<String>),
}

impl Input {
    /// The texts; one empty text is none, in a list it is one.
    fn into_texts(self) -> Vec<String> {
        match self {
            Self::One(text) if text.is_empty() => Vec::new(),
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// The answer of `/api/embed`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaEmbedAnswer<'a> {
    /// The model as the caller named it.
    model: &'a str,
    /// One per text, in order; L2-normalised.
    #[schema(value_type = Vec<Vec<f32>>)]
    embeddings: Vec<&'a [f32]>,
    /// From the head of the request to here, in nanoseconds.
    total_duration: u64,
    /// Always 0, in nanoseconds: what loading a sleeping model took is in the total.
    load_duration: u64,
    /// Tokens that the model saw, special tokens included.
    prompt_eval_count: usize,
}

/// The body of `/api/embeddings`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `prompt`")]
pub struct OllamaEmbeddingsBody {
    /// A served name, with or without `:latest`; without one, the first embedding model.
    model: Option<String>,
    /// What to embed; nothing gives an empty vector.
    prompt: Option<String>,
    /// How long the model stays in memory after this: seconds, or a duration such as `5m`;
    /// negative for ever.
    #[schema(value_type = Option<String>)]
    keep_alive: Option<Wish>,
}

impl WireBody for OllamaEmbeddingsBody {
    const FIELDS: &'static [&'static str] = &["model", "prompt", "keep_alive"];
}

/// The answer of `/api/embeddings`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaEmbeddingsAnswer {
    /// L2-normalised.
    embedding: Vec<f32>,
}

/// `POST /api/embed`.
pub async fn embed(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<OllamaEmbedBody>,
) -> Result<Response> {
    let named = body.model.clone().filter(|model| !model.is_empty());
    let wish = body.keep_alive;
    let request = body.into_request()?;
    let response = vectors(&state, &log, request, wish).await?;
    let headers = account::Headers::new(response.usage, response.timings, log.started());
    let numbers = response.embeddings.iter().map(|e| e.vector.len()).sum();
    let started = log.started();
    let write = move || {
        let model = named.as_deref().unwrap_or(&response.model);
        let answer = OllamaEmbedAnswer::new(&response, model, started);
        serde_json::to_vec(&answer).expect("numbers and strings always serialise")
    };
    Ok(headers.respond(account::written(numbers, write).await?))
}

/// `POST /api/embeddings`.
pub async fn embeddings(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<OllamaEmbeddingsBody>,
) -> Result<Json<OllamaEmbeddingsAnswer>> {
    let prompt = body.prompt.filter(|prompt| !prompt.is_empty());
    let request = EmbedRequest {
        model: fields::named_model(body.model)?,
        inputs: prompt.into_iter().map(EmbedInput::Text).collect(),
        heads: Heads::DENSE,
        ..EmbedRequest::default()
    };
    let mut response = vectors(&state, &log, request, body.keep_alive).await?;
    let embedding = response.embeddings.pop().unwrap_or_default().vector;
    Ok(Json(OllamaEmbeddingsAnswer { embedding }))
}

/// Vectors for the texts, of which there may be none.
async fn vectors(
    state: &AppState,
    log: &RequestLog,
    request: EmbedRequest,
    wish: Option<Wish>,
) -> Result<EmbedResponse> {
    log.asked(request.inputs.len());
    state.announce(log, request.model.as_deref());
    if let Some(Wish(keep_alive)) = wish {
        let model = state.engine.choose(request.model.as_deref(), Task::Embed)?;
        state.fleet.keep_alive(&model.name, keep_alive)?;
    }
    if request.inputs.is_empty() {
        // Ollama's way to have a model loaded; with a wish of zero, to have it unloaded.
        let unload = Some(Wish(KeepAlive::For(Duration::ZERO)));
        if let Some(name) = request.model.as_deref().filter(|_| wish != unload) {
            state.engine.wake(name, Task::Embed).await?;
        }
        return models::nothing_from(&state.engine, request.model.as_deref());
    }
    let response = state.engine_for(log).embed(request).await?;
    log.answered(&response.model, response.usage, response.timings);
    Ok(response)
}

impl OllamaEmbedBody {
    fn into_request(self) -> Result<EmbedRequest> {
        let dimensions = match self.dimensions {
            None | Some(WholeNumber(0)) => None,
            Some(number) => Some(number.at_least(1, "dimensions")?),
        };
        let texts = self.input.map(Input::into_texts).unwrap_or_default();
        Ok(EmbedRequest {
            model: fields::named_model(self.model)?,
            inputs: texts.into_iter().map(EmbedInput::Text).collect(),
            heads: Heads::DENSE,
            truncate: Truncate {
                side: match self.truncate {
                    Some(false) => TruncationSide::Refuse,
                    Some(true) | None => TruncationSide::End,
                },
                ..Truncate::default()
            },
            dimensions,
            ..EmbedRequest::default()
        })
    }
}

impl<'a> OllamaEmbedAnswer<'a> {
    fn new(response: &'a EmbedResponse, model: &'a str, started: Instant) -> Self {
        let vectors = response.embeddings.iter();
        Self {
            model,
            embeddings: vectors.map(|embedding| &embedding.vector[..]).collect(),
            total_duration: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            load_duration: 0,
            prompt_eval_count: response.usage.prompt_tokens,
        }
    }
}
