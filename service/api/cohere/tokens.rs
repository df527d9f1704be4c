//! Cohere's form of `/tokenize`, and `POST /v1/detokenize`: tokens without the special ones that a
//! model gets around a text, as Cohere counts them.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use retort_models::SpecialTokens;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{CohereMeta, Version};
use crate::{
    api::{
        AppState,
        extract::{JsonBody, WireBody},
        fields,
        observe::RequestLog,
        vllm,
    },
    engine::request::{DetokenizeRequest, TokenizeRequest},
    error::{Error, Result},
};

/// The body of `/tokenize`, when it has `text`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `text`")]
pub struct CohereTokenizeBody {
    /// A served name, an alias or a hub id; without one, the first embedding model.
    model: Option<String>,
    /// What to cut into tokens.
    text: Option<String>,
}

impl WireBody for CohereTokenizeBody {
    const FIELDS: &'static [&'static str] = &["model", "text"];
}

/// The answer of `/tokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereTokenizeAnswer {
    /// Ids in the order of the text.
    tokens: Vec<u32>,
    /// How the vocabulary writes them.
    token_strings: Vec<String>,
    meta: CohereMeta,
}

/// The body of `/v1/detokenize`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `tokens`")]
pub struct CohereDetokenizeBody {
    /// A served name, an alias or a hub id; without one, the first embedding model.
    model: Option<String>,
    /// Ids of the model's own vocabulary.
    tokens: Option<Vec<u32>>,
}

impl WireBody for CohereDetokenizeBody {
    const FIELDS: &'static [&'static str] = &["model", "tokens"];
}

/// The answer of `/v1/detokenize`: that of `/detokenize`, and what is Cohere's.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereDetokenizeAnswer {
    /// What the tokens stand for, special ones left out.
    #[serde(flatten)]
    text: vllm::DetokenizeAnswer,
    meta: CohereMeta,
}

/// `POST /tokenize` and `/v1/tokenize`, when the body has `text`.
pub async fn tokenize(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<CohereTokenizeBody>,
) -> Result<Response> {
    let model = fields::named_model(body.model)?;
    let text = body.text.ok_or_else(|| Error::missing("text"))?;
    log.asked(1);
    state.announce(&log, model.as_deref());
    let request = TokenizeRequest {
        model,
        texts: vec![text],
        special_tokens: SpecialTokens::Skip,
        prompt: None,
    };
    let response = state.engine.tokenize(request).await?;
    let tokens = response.texts.into_iter().flatten();
    let (tokens, token_strings) = tokens.map(|token| (token.id, token.piece)).unzip();
    let answer = CohereTokenizeAnswer {
        tokens,
        token_strings,
        meta: CohereMeta::new(Version::One, None),
    };
    Ok(Json(answer).into_response())
}

/// `POST /v1/detokenize`.
pub async fn detokenize(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<CohereDetokenizeBody>,
) -> Result<Json<CohereDetokenizeAnswer>> {
    let model = fields::named_model(body.model)?;
    let ids = body.tokens.ok_or_else(|| Error::missing("tokens"))?;
    log.asked(1);
    state.announce(&log, model.as_deref());
    let request = DetokenizeRequest {
        model,
        ids: vec![ids],
        special_tokens: SpecialTokens::Skip,
    };
    let response = state.engine.detokenize(request).await?;
    Ok(Json(CohereDetokenizeAnswer {
        text: response.texts.concat().into(),
        meta: CohereMeta::new(Version::One, None),
    }))
}
