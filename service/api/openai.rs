//! `POST /v1/embeddings` as OpenAI defines it, with the fields that Xinference, vLLM, Jina and
//! NVIDIA NIM add. What the fields mean: §1 and §2.1 of the API contract.

mod answer;
mod encodings;
mod extensions;
mod input;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use self::{
    answer::Shape,
    encodings::Encodings,
    extensions::{ChunkField, OutputType},
};
pub use self::{
    answer::{EmbeddingsAnswer, Encoding, Written},
    input::{Input, Item, schema as input_schema},
};
use super::{
    AppState, TokenIds, answer as account,
    caller::Priority,
    extract::{JsonBody, WireBody},
    fields::{self, Cut, WholeNumber},
    observe::RequestLog,
};
use crate::{
    engine::request::{EmbedInput, EmbedRequest, Normalize},
    error::{Error, Result},
};

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
    /// Jina's name for the same choice; also `binary` and `ubinary`, one bit per component. A list
    /// of several gives each vector as an object with a key for each.
    #[schema(schema_with = encodings::encodings_schema)]
    embedding_type: Option<Encodings>,
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
    /// `true` gives lexical weights by token id instead of the dense vector (Xinference).
    return_sparse: Option<bool>,
    /// Which outputs are wanted, of `dense`, `sparse` and `colbert`; all come from one pass, each
    /// under a key of its own.
    #[schema(value_type = Option<Vec<String>>)]
    output_types: Option<Vec<OutputType>>,
    /// The task of a model that has tasks, such as `retrieval.query`. Without one such a model runs
    /// without an adapter, as in sentence-transformers; other models ignore it.
    task: Option<String>,
    /// The name of one of the model's prompts.
    prompt_name: Option<String>,
    /// What goes before each text, instead of a prompt of the model.
    prompt: Option<String>,
    /// An instruction, in the form that the model's own have.
    instruction: Option<String>,
    /// `query`, `passage` and their like choose the model's prompt of that kind, if it has one.
    input_type: Option<String>,
    /// `true` reads all inputs as one text and gives each its vector (Jina).
    late_chunking: Option<bool>,
    /// `true`, `mean`, `max`, `late`, or `{"pooling", "max_tokens", "overlap"}`: a text that does
    /// not fit is read in chunks, whose vectors become one, instead of being cut.
    #[schema(value_type = Option<String>)]
    chunk: Option<ChunkField>,
    /// `interactive` or `bulk`, or vLLM's number: less than 0 is the former, more the latter.
    #[schema(value_type = Option<String>)]
    priority: Option<Priority>,
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
        "output_types",
        "task",
        "prompt_name",
        "prompt",
        "instruction",
        "input_type",
        "late_chunking",
        "chunk",
        "priority",
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
    let shape = body.shape(&headers)?;
    log.prefers(body.priority.and_then(|priority| priority.0));
    let request = body.into_request(&state)?;
    log.asked(request.inputs.len());
    state.announce(&log, request.model.as_deref());
    let response = state.engine_for(&log).embed(request).await?;
    log.answered(&response.model, response.usage, response.timings);
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
    fn shape(&self, headers: &HeaderMap) -> Result<Shape> {
        Ok(Shape {
            model: fields::named_model(self.model.clone())?,
            encodings: self
                .embedding_type
                .clone()
                .or(self.encoding_format.map(Encodings::One))
                .unwrap_or_default(),
            named_outputs: self.names_outputs(),
            usage_details: account::wants_details(self.usage_details, headers),
        })
    }

    fn into_request(mut self, state: &AppState) -> Result<EmbedRequest> {
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
            heads: self.heads(),
            conditioning: self.conditioning(),
            long: self.long(),
            context: self.context(),
            model: fields::named_model(self.model)?,
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
