//! `GET /v1/models`: one record that the readers of OpenAI, Xinference, vLLM and llama.cpp all
//! understand, plus what this server knows besides.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use retort_models::{DecoderInfo, DecoderWeights, Head};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    AppState,
    xinference::{ModelType, records},
};
use crate::{
    devices::numbers_of,
    engine::request::{ModelInfo, ModelState, Task, score_meaning},
    error::{Error, Result},
    fleet::FleetModel,
};

/// The answer to `GET /v1/models`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// Every model, loading and failed ones included, and those of servers elsewhere.
    data: Vec<ModelRecord>,
}

/// What is told of a model. Numbers are null while one that the catalogue does not know
/// loads.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelRecord {
    /// The served name, Xinference's uid.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// When it was loaded, in seconds since the Unix epoch; 0 before.
    created: u64,
    owned_by: &'static str,
    /// The same name: nothing is derived from another model (vLLM).
    root: String,
    /// Always null (vLLM).
    parent: Option<String>,
    /// `embedding`, `rerank` (classifiers, too) or `LLM`; clients choose by it what they do with
    /// the model. Null while one that the catalogue does not know loads.
    model_type: Option<&'static str>,
    /// `normal` for a reranker (Xinference).
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    model_name: String,
    model_engine: &'static str,
    model_format: &'static str,
    model_ability: &'static [&'static str],
    /// What can be asked of it here: embed, rerank, classify, generate.
    tasks: Vec<&'static str>,
    model_hub: Option<&'static str>,
    model_revision: Option<String>,
    /// Length of a vector; 0 when it gives none.
    dimensions: Option<usize>,
    /// The most tokens of one input, special tokens included.
    max_tokens: Option<usize>,
    /// The same number (vLLM).
    max_model_len: Option<usize>,
    /// What the catalogue says; empty for a model that it does not know.
    language: Vec<String>,
    quantization: &'static str,
    replica: usize,
    /// `host:port` of this server.
    address: String,
    /// The numbers of the GPUs that it runs on; null on a CPU.
    accelerators: Option<Vec<String>>,
    /// `loading`, `ready` or `failed`; `upstream` for one whose chats are passed on to a server
    /// elsewhere.
    state: &'static str,
    /// Why it did not load.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<String>,
    /// Other names it answers to.
    aliases: Vec<String>,
    /// Where the files came from.
    origin: String,
    #[serde(flatten)]
    details: Option<Details>,
}

/// What is known of a model once it is loaded.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Details {
    Encoder(Box<EncoderRecord>),
    Generator(GeneratorRecord),
}

/// What the checkpoint and the machine say of a model that generates, once it is loaded.
#[derive(Debug, Serialize, ToSchema)]
struct GeneratorRecord {
    /// The family of the checkpoint.
    architecture: String,
    /// The same (Xinference).
    model_family: String,
    /// The most tokens of a prompt and its answer (Xinference).
    context_length: usize,
    vocab_size: usize,
    parameters: u64,
    /// The type of the weights in the checkpoint.
    checkpoint_dtype: String,
    /// How they are kept here.
    dtype: &'static str,
    /// Tokens of all conversations together that the cache of keys and values holds.
    kv_cache_tokens: usize,
    /// Where it runs.
    device: String,
    /// The instructions that its kernels use.
    isa: &'static str,
}

/// What the checkpoint and the machine say, once a model is loaded.
#[derive(Debug, Serialize, ToSchema)]
struct EncoderRecord {
    /// The family of the checkpoint.
    architecture: String,
    /// What it gives: dense, sparse, multi-vector, score.
    heads: Vec<&'static str>,
    /// Length of the vector of a token; 0 when it gives none.
    token_dimensions: usize,
    /// What its logits stand for, in order.
    labels: Vec<String>,
    /// What a rerank score means; null when it gives none.
    score_meaning: Option<&'static str>,
    /// The names of its prompts, and the one that is used unless told otherwise.
    prompts: Vec<String>,
    default_prompt: Option<String>,
    /// The tasks that a request for vectors may name, for a model with task adapters.
    task_adapters: Vec<String>,
    /// What a reranker is told to judge by unless the request says; null when it is told nothing.
    instruction: Option<String>,
    /// The layer whose scores it gives; null for a model that has scores only after the last.
    cutoff_layer: Option<usize>,
    /// How token vectors become one; null when the given graph does it.
    pooling: Option<String>,
    /// Lengths that the model was trained to be cut to.
    matryoshka_dimensions: Vec<usize>,
    vocab_size: usize,
    parameters: u64,
    /// The type of the weights in the checkpoint.
    checkpoint_dtype: String,
    /// The type it computes in.
    dtype: String,
    /// The lowest cosine of its vectors to those in 32-bit floating point, on built-in sentences;
    /// null where it computes in that.
    dtype_cosine: Option<f32>,
    /// The largest difference of its logits to those, relative where they are beyond 1.
    dtype_logit_difference: Option<f32>,
    /// Why it computes in 32-bit floating point, where it was to choose for itself.
    dtype_fallback: Option<String>,
    /// Where it runs: `cpu`, or `cuda:` and the numbers of GPUs.
    device: String,
    /// What that GPU is called; absent on a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_name: Option<String>,
    /// The instructions that its kernels use.
    isa: &'static str,
}

/// `GET /v1/models`.
pub async fn list(State(state): State<AppState>) -> Json<ModelList> {
    let address = &state.settings.address;
    let record = |model| ModelRecord::new(model, address);
    let mut data: Vec<ModelRecord> = state.fleet.models().into_iter().map(record).collect();
    for name in state.settings.upstreams.models() {
        if !data.iter().any(|record| record.id == name) {
            data.push(ModelRecord::elsewhere(name, address));
        }
    }
    Json(ModelList {
        object: "list",
        data,
    })
}

/// `GET /v1/models/{model}`.
pub async fn one(
    State(state): State<AppState>,
    model: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelRecord>> {
    let Path(model) = model.map_err(|error| Error::invalid("model", error.body_text()))?;
    described(&state, &model)
}

/// `GET /v1/models/{owner}/{name}`: a hub id with its slash.
pub async fn hub_id(
    State(state): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<ModelRecord>> {
    let Path((owner, name)) = path.map_err(|error| Error::invalid("model", error.body_text()))?;
    described(&state, &format!("{owner}/{name}"))
}

fn described(state: &AppState, name: &str) -> Result<Json<ModelRecord>> {
    let address = &state.settings.address;
    match state.fleet.model(name) {
        Ok(model) => Ok(Json(ModelRecord::new(model, address))),
        Err(_) if state.settings.upstreams.has(name) => {
            Ok(Json(ModelRecord::elsewhere(name, address)))
        }
        Err(error) => Err(error),
    }
}

impl ModelRecord {
    fn new(model: FleetModel, address: &str) -> Self {
        let model_type = records::model_type(&model).map(ModelType::name);
        let model_ability = records::abilities(&model);
        let model_name = records::model_name(&model).to_owned();
        let FleetModel {
            info, known, spec, ..
        } = model;
        let tasks = tasks(&info);
        let generator = info.generator;
        let quantization = generator.as_ref().map_or("none", |g| match g.weights {
            DecoderWeights::Fp32 | DecoderWeights::Bf16 => "none",
            DecoderWeights::Int8 | DecoderWeights::Int4 => g.weights.name(),
        });
        let encoder = info.encoder;
        let known = known.as_ref();
        // Until the files are read, the catalogue has the numbers.
        let dimensions = encoder.as_ref().map(|e| e.dimensions);
        let dimensions = dimensions.or(known.and_then(|entry| entry.dimensions));
        let max_tokens = encoder.as_ref().map(|e| e.max_tokens);
        let max_tokens = max_tokens.or(generator.as_ref().map(|g| g.max_context));
        let max_tokens = max_tokens.or(known.map(|entry| entry.max_tokens));
        let (state, state_reason) = match info.state {
            ModelState::Loading => ("loading", None),
            ModelState::Ready => ("ready", None),
            ModelState::Failed(reason) => ("failed", Some(reason)),
        };
        Self {
            id: info.name.clone(),
            object: "model",
            created: info.created,
            owned_by: "retort",
            root: info.name,
            parent: None,
            model_type,
            r#type: (model_type == Some("rerank")).then_some("normal"),
            model_name,
            model_engine: "onnx",
            model_format: "onnx",
            model_ability,
            tasks,
            // Only a hub's ids have a slash; the files themselves may have come by another way.
            model_hub: info
                .aliases
                .iter()
                .any(|name| name.contains('/'))
                .then_some("huggingface"),
            model_revision: info.revision,
            dimensions,
            max_tokens,
            max_model_len: max_tokens,
            language: known
                .map(|entry| entry.languages.clone())
                .unwrap_or_default(),
            quantization,
            replica: spec.replicas,
            address: address.to_owned(),
            accelerators: encoder.as_ref().and_then(accelerators),
            state,
            state_reason,
            aliases: info.aliases,
            origin: info.origin,
            details: encoder
                .map(|info| Details::Encoder(Box::new(info.into())))
                .or_else(|| generator.map(|info| Details::Generator(info.into()))),
        }
    }
}

impl ModelRecord {
    /// A model of which only is known that a server elsewhere answers its chats.
    fn elsewhere(name: &str, address: &str) -> Self {
        Self {
            id: name.to_owned(),
            object: "model",
            created: 0,
            owned_by: "upstream",
            root: name.to_owned(),
            parent: None,
            model_type: Some(ModelType::Llm.name()),
            r#type: None,
            model_name: name.to_owned(),
            model_engine: "upstream",
            model_format: "unknown",
            model_ability: &["generate", "chat"],
            tasks: vec![Task::Generate.name()],
            model_hub: None,
            model_revision: None,
            dimensions: None,
            max_tokens: None,
            max_model_len: None,
            language: Vec::new(),
            quantization: "none",
            replica: 1,
            address: address.to_owned(),
            accelerators: None,
            state: "upstream",
            state_reason: None,
            aliases: Vec::new(),
            origin: "a server elsewhere".to_owned(),
            details: None,
        }
    }
}

/// What can be asked of a model; nothing while nothing is known of it.
fn tasks(info: &ModelInfo) -> Vec<&'static str> {
    let all = Task::ALL.into_iter();
    match (&info.encoder, &info.generator) {
        (Some(encoder), _) => all
            .filter(|task| task.fits(encoder))
            .map(Task::name)
            .collect(),
        (None, Some(_)) => vec![Task::Generate.name()],
        (None, None) => Vec::new(),
    }
}

impl From<DecoderInfo> for GeneratorRecord {
    fn from(info: DecoderInfo) -> Self {
        Self {
            model_family: info.architecture.clone(),
            architecture: info.architecture,
            context_length: info.max_context,
            vocab_size: info.vocab_size,
            parameters: info.parameters,
            checkpoint_dtype: info.checkpoint_dtype,
            dtype: info.weights.name(),
            kv_cache_tokens: info.kv_blocks * info.kv_block_tokens,
            device: info.device,
            isa: info.isa,
        }
    }
}

/// The numbers of GPUs, as texts.
fn accelerators(info: &retort_models::EncoderInfo) -> Option<Vec<String>> {
    let numbers = numbers_of(&info.device);
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    Some(texts).filter(|texts| !texts.is_empty())
}

impl From<retort_models::EncoderInfo> for EncoderRecord {
    fn from(info: retort_models::EncoderInfo) -> Self {
        Self {
            heads: info.heads.iter().map(Head::name).collect(),
            token_dimensions: info.token_dimensions,
            score_meaning: score_meaning(&info),
            prompts: info.prompts.named.keys().cloned().collect(),
            default_prompt: info.prompts.default.clone(),
            instruction: info.default_instruction().map(str::to_owned),
            cutoff_layer: info.cutoff_layer,
            labels: info.label_names,
            task_adapters: info.tasks,
            architecture: info.architecture,
            pooling: info.pooling.map(|pooling| pooling.to_string()),
            matryoshka_dimensions: info.matryoshka.listed().to_vec(),
            vocab_size: info.vocab_size,
            parameters: info.parameters,
            checkpoint_dtype: info.checkpoint_dtype,
            dtype: info.dtype,
            dtype_cosine: info.fidelity.cosine,
            dtype_logit_difference: info.fidelity.logit_difference,
            dtype_fallback: info.fidelity.fallback,
            device: info.device,
            device_name: info.device_name,
            isa: info.isa,
        }
    }
}
