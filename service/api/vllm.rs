//! What vLLM's pooling server has beside the routes that all dialects share: `/pooling`, its form
//! of `/tokenize` and `/detokenize`, and `/load`. What the fields mean: §5 of the API contract.

mod pooling;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use retort_models::{SpecialTokens, Token};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::pooling::{PoolingAnswer, PoolingBody, pooling};
use super::{
    AppState,
    addressed::Addressed,
    extract::{JsonBody, WireBody},
    fields,
    observe::RequestLog,
    tei::special_tokens,
};
use crate::{
    engine::request::{DetokenizeRequest, TokenizeRequest},
    error::{Error, Result},
};

/// The body of `/tokenize`, when it has `prompt`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `prompt`")]
#[schema(as = VllmTokenizeBody)]
pub struct TokenizeBody {
    /// A served name, an alias or a hub id.
    model: Option<String>,
    /// A text.
    prompt: Option<String>,
    /// Whether special tokens are put around it; they are unless told otherwise.
    add_special_tokens: Option<bool>,
    /// Whether the tokens are also told as the vocabulary writes them.
    return_token_strs: Option<bool>,
}

impl WireBody for TokenizeBody {
    const FIELDS: &'static [&'static str] =
        &["model", "prompt", "add_special_tokens", "return_token_strs"];
}

/// The answer of `/tokenize`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmTokenizeAnswer)]
pub struct TokenizeAnswer {
    /// How many tokens there are.
    count: usize,
    /// The most tokens of one input.
    max_model_len: usize,
    tokens: Vec<u32>,
    /// With `return_token_strs`.
    token_strs: Option<Vec<String>>,
}

/// `POST /tokenize`, when the body has `prompt` or `messages`.
pub async fn tokenize(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<TokenizeBody>,
) -> Result<Response> {
    let prompt = body.prompt.ok_or_else(|| {
        Error::invalid(
            "messages",
            "`messages` needs a chat template, which models of embeddings and scores lack; send \
             `prompt`",
        )
    })?;
    log.asked(1);
    let model = fields::named_model(body.model)?;
    state.announce(&log, model.as_deref());
    let response = state.engine.tokenize(TokenizeRequest {
        model,
        texts: vec![prompt],
        special_tokens: special_tokens(body.add_special_tokens.unwrap_or(true)),
        prompt: None,
    });
    let mut response = response.await?;
    log.about(&response.model);
    let tokens = response.texts.pop().unwrap_or_default();
    let strings = |tokens: &[Token]| tokens.iter().map(|token| token.piece.clone()).collect();
    let answer = TokenizeAnswer {
        count: tokens.len(),
        max_model_len: response.max_tokens,
        token_strs: (body.return_token_strs == Some(true)).then(|| strings(&tokens)),
        tokens: tokens.iter().map(|token| token.id).collect(),
    };
    Ok(Json(answer).into_response())
}

/// The body of `/detokenize`, which is the same for vLLM, llama.cpp and Cohere.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `tokens`")]
#[schema(as = VllmDetokenizeBody)]
pub struct DetokenizeBody {
    /// A served name, an alias or a hub id.
    model: Option<String>,
    /// Token ids of the model's own vocabulary.
    tokens: Vec<u32>,
}

impl WireBody for DetokenizeBody {
    const FIELDS: &'static [&'static str] = &["model", "tokens"];
}

/// The answer of `/detokenize`: the same text under the name that each client reads.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmDetokenizeAnswer)]
pub struct DetokenizeAnswer {
    /// For vLLM's clients.
    prompt: String,
    /// For llama.cpp's.
    content: String,
    /// For Cohere's.
    text: String,
}

impl From<String> for DetokenizeAnswer {
    fn from(text: String) -> Self {
        Self {
            prompt: text.clone(),
            content: text.clone(),
            text,
        }
    }
}

/// `POST /detokenize`.
pub async fn detokenize(
    State(state): State<AppState>,
    log: RequestLog,
    model: Addressed,
    JsonBody(body): JsonBody<DetokenizeBody>,
) -> Result<Json<DetokenizeAnswer>> {
    log.asked(1);
    let model = model.or(body.model)?;
    state.announce(&log, model.as_deref());
    let response = state.engine.detokenize(DetokenizeRequest {
        model,
        ids: vec![body.tokens],
        special_tokens: SpecialTokens::Keep,
    });
    let mut response = response.await?;
    log.about(&response.model);
    let text = response.texts.pop().unwrap_or_default();
    Ok(Json(text.into()))
}

/// The answer of `/load`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmLoad)]
pub struct Load {
    /// Requests that are being worked on or wait.
    server_load: usize,
}

/// `GET /load`.
pub async fn load(State(state): State<AppState>) -> Json<Load> {
    Json(Load {
        server_load: state.engine.in_flight(),
    })
}
