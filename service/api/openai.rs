//! `POST /v1/embeddings` as OpenAI defines it, with the fields that Xinference, vLLM, Jina and
//! NVIDIA NIM add. What the fields mean: §1 and §2.1 of the API contract.

mod answer;
mod fields;
mod input;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

pub use self::answer::EmbeddingsAnswer;
use self::{
    answer::{Encoding, Shape},
    fields::{Cut, WholeNumber},
    input::{Input, Item},
};
use super::{
    AppState, TokenIds,
    extract::{JsonBody, WireBody},
    observe::RequestLog,
};
use crate::{
    engine::request::{EmbedInput, EmbedRequest, Normalize},
    error::{Error, Result},
};

/// The header that asks for an account of each input.
const DETAILS_HEADER: &str = "x-retort-details";

/// Names are short; an error that repeats one must be, too.
const MAX_MODEL_CHARS: usize = 256;

/// Infinity's way not to name a model.
const UNNAMED_MODEL: &str = "default/not-specified";

/// The body of a request. Unknown fields are ignored and `null` means not given, because every
/// client sends some of either.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `input`")]
pub struct EmbeddingsBody {
    /// A served name, an alias or a hub id; without one, the first embedding model.
    model: Option<String>,
    /// What to embed: a text, a list of texts, `{"text": …}` objects, one list of token ids, or
    /// a list of such lists.
    #[schema(schema_with = input::schema)]
    input: Input,
    /// `float` (default) or `base64`: little-endian float32.
    encoding_format: Option<Encoding>,
    /// Jina's name for the same choice; also `binary` and `ubinary`, one bit per component.
    embedding_type: Option<Encoding>,
    /// Keep the first so many components, then normalise again; 0 keeps all.
    #[schema(value_type = Option<u64>)]
    dimensions: Option<WholeNumber>,
    /// Keep at most so many tokens of each input; -1 for the model's maximum.
    #[schema(value_type = Option<i64>)]
    truncate_prompt_tokens: Option<WholeNumber>,
    /// `true`, `false`, or `END`, `START`, `NONE`: which end is cut of an input that does not
    /// fit; `false` and `NONE` refuse it.
    #[schema(schema_with = fields::cut_schema)]
    truncate: Option<Cut>,
    /// `false` leaves the vectors as the pooling made them.
    normalize_embeddings: Option<bool>,
    /// vLLM's name for `normalize_embeddings`.
    normalize: Option<bool>,
    /// Jina's name for `normalize_embeddings`.
    normalized: Option<bool>,
    /// Only `false`: the models served here give dense vectors.
    return_sparse: Option<bool>,
    /// Only `text`.
    modality: Option<String>,
    /// `true` adds to `usage` the tokens of each input and how many of them were cut.
    usage_details: Option<bool>,
}

impl WireBody for EmbeddingsBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "input",
        "encoding_format",
        "embedding_type",
        "dimensions",
        "truncate_prompt_tokens",
        "truncate",
        "normalize_embeddings",
        "normalize",
        "normalized",
        "return_sparse",
        "modality",
        "usage_details",
    ];
}

/// `POST /v1/embeddings`.
pub async fn embeddings(
    State(state): State<AppState>,
    log: RequestLog,
    headers: HeaderMap,
    JsonBody(body): JsonBody<EmbeddingsBody>,
) -> Result<Response> {
    let shape = body.shape(&headers);
    let request = body.into_request(&state)?;
    log.asked(request.inputs.len());
    // Named before the work starts, so that the log has the model even when nothing comes of it.
    if let Some(name) = &request.model
        && let Ok(info) = state.engine.model(name)
    {
        log.about(&info.name);
    }
    let response = state.engine.embed(request).await?;
    log.embedded(&response);
    answer::respond(response, shape, log.started()).await
}

/// `POST /v1/engines/{model}/embeddings`, where old clients of OpenAI name the model.
pub async fn model_embeddings(
    state: State<AppState>,
    model: Result<Path<String>, PathRejection>,
    log: RequestLog,
    headers: HeaderMap,
    JsonBody(mut body): JsonBody<EmbeddingsBody>,
) -> Result<Response> {
    let Path(model) = model.map_err(|error| Error::invalid("model", error.body_text()))?;
    body.model = Some(model);
    embeddings(state, log, headers, JsonBody(body)).await
}

impl EmbeddingsBody {
    /// What of the answer depends on the request.
    fn shape(&self, headers: &HeaderMap) -> Shape {
        let asked = headers
            .get(DETAILS_HEADER)
            .is_some_and(|value| value != "0");
        Shape {
            model: self.named_model().map(str::to_owned),
            encoding: self
                .embedding_type
                .or(self.encoding_format)
                .unwrap_or_default(),
            usage_details: self.usage_details.unwrap_or(asked),
        }
    }

    fn named_model(&self) -> Option<&str> {
        self.model
            .as_deref()
            .filter(|name| !name.is_empty() && *name != UNNAMED_MODEL)
    }

    fn into_request(self, state: &AppState) -> Result<EmbedRequest> {
        let model = self.named_model().map(str::to_owned);
        if model
            .as_ref()
            .is_some_and(|name| name.len() > MAX_MODEL_CHARS)
        {
            return Err(Error::invalid(
                "model",
                format!("`model` is longer than {MAX_MODEL_CHARS} bytes; no model has such a name"),
            ));
        }
        self.refuse_unsupported()?;
        let dimensions = match self.dimensions {
            // Infinity's clients send 0 for all of them.
            None | Some(WholeNumber(0)) => None,
            Some(number) => Some(number.at_least(1, "dimensions")?),
        };
        let normalize = self
            .normalize_embeddings
            .or(self.normalize)
            .or(self.normalized);
        Ok(EmbedRequest {
            model,
            truncate: fields::truncate(self.truncate_prompt_tokens, self.truncate)?,
            inputs: inputs(self.input, state)?,
            dimensions,
            normalize: if normalize == Some(false) {
                Normalize::No
            } else {
                Normalize::Yes
            },
        })
    }

    fn refuse_unsupported(&self) -> Result<()> {
        if self.return_sparse == Some(true) {
            return Err(Error::invalid(
                "return_sparse",
                "`return_sparse` is `true`, but only dense vectors are given here; leave it out",
            ));
        }
        match self.modality.as_deref() {
            None | Some("text" | "") => Ok(()),
            Some(other) => Err(Error::invalid(
                "modality",
                format!(
                    "`modality` is `{}`; only `text` is supported",
                    super::extract::shorten(other, 50)
                ),
            )),
        }
    }
}

fn inputs(input: Input, state: &AppState) -> Result<Vec<EmbedInput>> {
    let most = state.settings.max_inputs_per_request;
    let items = input.into_items();
    match items.len() {
        0 => {
            return Err(Error::invalid(
                "input",
                "`input` is an empty list; send at least one text",
            ));
        }
        n if n > most => {
            return Err(Error::invalid(
                "input",
                format!(
                    "`input` has {n} items, more than the limit of {most}; send several requests \
                     or raise `max_inputs_per_request`"
                ),
            ));
        }
        _ => {}
    }
    let token_ids = state.settings.token_ids;
    Ok(items
        .into_iter()
        .map(|item| match (item, token_ids) {
            (Item::Text(text), _) => EmbedInput::Text(text),
            (Item::Ids(ids), TokenIds::Cl100k) => EmbedInput::Cl100kIds(ids),
            (Item::Ids(ids), TokenIds::Model) => EmbedInput::ModelIds(ids),
        })
        .collect())
}
