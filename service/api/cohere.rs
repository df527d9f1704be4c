//! Cohere's routes beside `/v1/rerank`, which is shared: embed in both versions, its form of
//! tokenize, and detokenize. `/v2/rerank` is in `rerank.rs`, as it differs in two keys only.
//! What the fields mean: §10 of the API contract.

mod answer;
mod quantize;
mod tokens;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use retort_models::Heads;
use serde::Deserialize;
use utoipa::ToSchema;

pub use self::{
    answer::CohereEmbedAnswer,
    tokens::{CohereDetokenizeAnswer, CohereDetokenizeBody, detokenize, tokenize},
};
use self::{
    answer::{Shape, Version},
    quantize::EmbeddingType,
};
use super::{
    AppState, answer as account,
    extract::{JsonBody, WireBody},
    fields::{self, Cut, WholeNumber},
    observe::RequestLog,
    texts::{self, Texts},
};
use crate::{
    engine::request::{Conditioning, EmbedInput, EmbedRequest},
    error::{Error, Result},
};

/// The body of `/v1/embed` and `/v2/embed`. Unknown fields are ignored and `null` means not given.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `texts`")]
pub struct CohereEmbedBody {
    /// A served name, an alias or a hub id; without one, the first embedding model.
    model: Option<String>,
    /// What to embed.
    #[schema(schema_with = texts::texts_schema)]
    texts: Option<Texts>,
    /// The second version's other way to say it: objects with `content`, whose parts are texts.
    #[schema(schema_with = texts::texts_schema)]
    inputs: Option<Texts>,
    /// Not served: must be empty.
    images: Option<Vec<String>>,
    /// `search_query`, `search_document`, `classification` or `clustering`: chooses the model's
    /// prompt of that kind, if it has one.
    input_type: Option<String>,
    /// Of `float`, `int8`, `uint8`, `binary`, `ubinary` and `base64`; all come from one pass.
    #[schema(value_type = Option<Vec<String>>)]
    embedding_types: Option<Vec<EmbeddingType>>,
    /// Keep the first so many components, then normalise again.
    #[schema(value_type = Option<u64>)]
    output_dimension: Option<WholeNumber>,
    /// Which end is cut of a text that does not fit; `NONE` refuses it.
    #[schema(schema_with = fields::cut_schema)]
    truncate: Option<Cut>,
    /// Keep at most so many tokens of each text.
    #[schema(value_type = Option<u64>)]
    max_tokens: Option<WholeNumber>,
}

impl WireBody for CohereEmbedBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "texts",
        "inputs",
        "images",
        "input_type",
        "embedding_types",
        "output_dimension",
        "truncate",
        "max_tokens",
    ];
}

/// `POST /v1/embed`.
pub async fn embed(
    state: State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<CohereEmbedBody>,
) -> Result<Response> {
    answer(state, log, body, Version::One).await
}

/// `POST /v2/embed`.
pub async fn embed_v2(
    state: State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<CohereEmbedBody>,
) -> Result<Response> {
    answer(state, log, body, Version::Two).await
}

async fn answer(
    State(state): State<AppState>,
    log: RequestLog,
    mut body: CohereEmbedBody,
    version: Version,
) -> Result<Response> {
    let texts: Arc<[String]> = body.take_texts()?.into();
    let types = body.embedding_types.take().unwrap_or_default();
    let shape = Shape::new(version, types, texts.clone());
    let request = body.into_request(&texts)?;
    log.asked(texts.len());
    state.announce(&log, request.model.as_deref());
    let response = state.engine_for(&log).embed(request).await?;
    log.answered(&response.model, response.usage, response.timings);
    let headers = account::Headers::new(response.usage, response.timings, log.started());
    let numbers = response.embeddings.iter().map(|e| e.vector.len()).sum();
    let write = move || {
        let answer = CohereEmbedAnswer::new(&response, &shape);
        serde_json::to_vec(&answer).expect("numbers and strings always serialise")
    };
    Ok(headers.respond(account::written(numbers, write).await?))
}

impl CohereEmbedBody {
    fn take_texts(&mut self) -> Result<Vec<String>> {
        if self
            .images
            .as_ref()
            .is_some_and(|images| !images.is_empty())
        {
            let message = "`images` cannot be embedded here; send `texts`";
            return Err(Error::invalid("images", message));
        }
        let given = |texts: Option<Texts>| texts.map(|Texts(texts)| texts).unwrap_or_default();
        let (texts, inputs) = (given(self.texts.take()), given(self.inputs.take()));
        match (texts.is_empty(), inputs.is_empty()) {
            (false, true) => Ok(texts),
            (true, false) => Ok(inputs),
            (true, true) => Err(Error::invalid(
                "texts",
                "`texts` is missing or empty; send at least one text",
            )),
            (false, false) => Err(Error::invalid(
                "inputs",
                "`texts` and `inputs` are both given; send one of them",
            )),
        }
    }

    fn into_request(self, texts: &[String]) -> Result<EmbedRequest> {
        let dimensions = match self.output_dimension {
            None | Some(WholeNumber(0)) => None,
            Some(number) => Some(number.at_least(1, "output_dimension")?),
        };
        let mut truncate = fields::truncate(None, self.truncate)?;
        truncate.max_tokens = fields::token_limit(self.max_tokens, "max_tokens")?;
        Ok(EmbedRequest {
            model: fields::named_model(self.model)?,
            inputs: texts.iter().cloned().map(EmbedInput::Text).collect(),
            heads: Heads::DENSE,
            conditioning: Conditioning {
                input_type: self.input_type.filter(|kind| !kind.is_empty()),
                ..Conditioning::default()
            },
            truncate,
            dimensions,
            ..EmbedRequest::default()
        })
    }
}
