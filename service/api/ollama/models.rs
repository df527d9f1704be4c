//! What Ollama's clients are told of models: which there are, which are loaded, what each is.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use retort_models::Heads;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    api::{
        AppState,
        answer::now,
        extract::{JsonBody, WireBody},
        fields,
    },
    engine::{
        Engine,
        request::{Chats, EmbedResponse, ModelInfo, ModelKind, ModelState, Task, Timings, Usage},
    },
    error::{Error, Result},
    fleet::{FleetModel, Stage},
    keep_alive::KeepAlive,
    unix_time::rfc3339,
};

/// The version of Ollama whose routes these are; clients compare it with the least they need.
const OLLAMA_VERSION: &str = "0.5.1";

/// "Loaded until further notice", in a field that needs a date: a hundred years.
const A_LONG_TIME_SECONDS: u64 = 100 * 365 * 86_400;

/// The answer of `/api/tags`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaModels {
    /// Every model that has loaded.
    models: Vec<OllamaModel>,
}

#[derive(Debug, Serialize, ToSchema)]
struct OllamaModel {
    /// The served name with `:latest`.
    name: String,
    /// The same.
    model: String,
    /// When it was loaded.
    modified_at: String,
    /// Bytes of its weights.
    size: u64,
    /// SHA-256 of its name and revision: stands for the model, not for its bytes.
    digest: String,
    details: OllamaDetails,
}

/// What is told of a model everywhere.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaDetails {
    /// Always empty.
    parent_model: String,
    /// Always `onnx`.
    format: &'static str,
    /// The architecture of the checkpoint.
    family: String,
    families: Vec<String>,
    /// Such as `568M`.
    parameter_size: String,
    /// Such as `F32`.
    quantization_level: String,
}

/// The answer of `/api/ps`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaProcesses {
    /// Every model that is in memory.
    models: Vec<OllamaProcess>,
}

#[derive(Debug, Serialize, ToSchema)]
struct OllamaProcess {
    #[serde(flatten)]
    model: OllamaModel,
    /// When it is unloaded if nobody asks; a century ahead for never.
    expires_at: String,
    /// Bytes on an accelerator: all of them, or none.
    size_vram: u64,
    /// The longest input in tokens.
    context_length: usize,
}

/// The body of `/api/show`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model`")]
pub struct OllamaShowBody {
    /// A served name, with or without `:latest`.
    model: Option<String>,
    /// The older name of `model`.
    name: Option<String>,
}

impl WireBody for OllamaShowBody {
    const FIELDS: &'static [&'static str] = &["model", "name"];
}

/// The answer of `/api/show`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaShow {
    /// What would make it here.
    modelfile: String,
    /// Always empty.
    parameters: String,
    /// Always Ollama's own default.
    template: &'static str,
    details: OllamaDetails,
    /// Numbers under the names that GGUF files have them.
    model_info: BTreeMap<String, Value>,
    /// `embedding`, or `completion` and perhaps `tools`; and `rerank` and `classify`, which Ollama
    /// does not know.
    capabilities: Vec<&'static str>,
    /// When it was loaded.
    modified_at: String,
}

/// The body of `/api/pull`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model`")]
pub struct OllamaPullBody {
    /// A served name, with or without `:latest`.
    model: Option<String>,
    /// The older name of `model`.
    name: Option<String>,
    /// `false` asks for one object instead of a line for each step.
    stream: Option<bool>,
}

impl WireBody for OllamaPullBody {
    const FIELDS: &'static [&'static str] = &["model", "name", "stream"];
}

/// The answer of `/api/pull`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaStatus {
    /// Always `success`.
    status: &'static str,
}

/// The answer of `/api/version`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaVersion {
    /// The version of Ollama that is spoken.
    version: &'static str,
    /// The version of this program.
    retort: &'static str,
}

/// `GET /api/tags`.
pub async fn tags(State(state): State<AppState>) -> Json<OllamaModels> {
    let models = state.engine.models();
    let models = models.iter().filter_map(OllamaModel::new).collect();
    Json(OllamaModels { models })
}

/// `GET /api/ps`.
pub async fn ps(State(state): State<AppState>) -> Json<OllamaProcesses> {
    let models = state.fleet.models();
    let models = models.iter().filter_map(OllamaProcess::new).collect();
    Json(OllamaProcesses { models })
}

/// `POST /api/show`.
pub async fn show(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<OllamaShowBody>,
) -> Result<Json<OllamaShow>> {
    let info = named(&state.engine, body.model.or(body.name))?;
    let facts = Facts::loaded(&info)?;
    Ok(Json(OllamaShow::new(&info, &facts)))
}

/// `POST /api/pull`: a model that is served need not be fetched.
pub async fn pull(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<OllamaPullBody>,
) -> Result<Response> {
    named(&state.engine, body.model.or(body.name))?;
    let status = OllamaStatus { status: "success" };
    if body.stream == Some(false) {
        return Ok(Json(status).into_response());
    }
    let mut line = serde_json::to_vec(&status).expect("strings always serialise");
    line.push(b'\n');
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], line).into_response())
}

/// `GET /api/version`.
pub async fn version() -> Json<OllamaVersion> {
    Json(OllamaVersion {
        version: OLLAMA_VERSION,
        retort: env!("CARGO_PKG_VERSION"),
    })
}

/// The answer to a request without texts.
///
/// # Errors
/// When the model is unknown or not loaded.
pub fn nothing_from(engine: &Engine, model: Option<&str>) -> Result<EmbedResponse> {
    let model = match model {
        Some(name) => {
            let info = engine.model(name)?;
            Facts::loaded(&info)?;
            info.check(Task::Embed)?;
            info.name
        }
        None => String::new(),
    };
    Ok(EmbedResponse {
        model,
        heads: Heads::DENSE,
        embeddings: Vec::new(),
        usage: Usage::default(),
        timings: Timings::default(),
    })
}

fn named(engine: &Engine, model: Option<String>) -> Result<ModelInfo> {
    let name = fields::named_model(model)?.ok_or_else(|| Error::missing("model"))?;
    engine.model(&name)
}

/// What is told of encoders and of models that generate alike.
struct Facts<'a> {
    kind: ModelKind,
    architecture: &'a str,
    parameters: u64,
    weights_bytes: u64,
    /// What it computes in, or how its weights are kept.
    dtype: &'a str,
    context_length: usize,
    /// Length of a vector; 0 when it gives none.
    dimensions: usize,
    device: &'a str,
}

impl<'a> Facts<'a> {
    /// Nothing for a model of which nothing is known yet.
    fn of(info: &'a ModelInfo) -> Option<Self> {
        let encoder = info.encoder.as_ref().map(|encoder| Self {
            kind: ModelKind::of(encoder),
            architecture: &encoder.architecture,
            parameters: encoder.parameters,
            weights_bytes: encoder.weights_bytes,
            dtype: &encoder.dtype,
            context_length: encoder.max_tokens,
            dimensions: encoder.dimensions,
            device: &encoder.device,
        });
        let generator = || {
            info.generator.as_ref().map(|decoder| Self {
                kind: ModelKind::Generator,
                architecture: &decoder.architecture,
                parameters: decoder.parameters,
                weights_bytes: decoder.weights_bytes,
                dtype: decoder.weights.name(),
                context_length: decoder.max_context,
                dimensions: 0,
                device: &decoder.device,
            })
        };
        encoder.or_else(generator)
    }

    /// Those of a model that must have loaded.
    ///
    /// # Errors
    /// When it has not, and why.
    fn loaded(info: &'a ModelInfo) -> Result<Self> {
        Self::of(info).ok_or_else(|| not_loaded(info))
    }
}

fn not_loaded(info: &ModelInfo) -> Error {
    let name = &info.name;
    Error::NotReady(match &info.state {
        ModelState::Failed(reason) => format!("model `{name}` did not load: {reason}"),
        ModelState::Loading | ModelState::Ready => format!("model `{name}` is still loading"),
    })
}

impl OllamaModel {
    /// Nothing for a model of which nothing is known yet.
    fn new(info: &ModelInfo) -> Option<Self> {
        let facts = Facts::of(info)?;
        let revision = info.revision.as_deref().unwrap_or_default();
        let digest = Sha256::digest(format!("{}@{revision}", info.name));
        let name = format!("{}:latest", info.name);
        Some(Self {
            model: name.clone(),
            name,
            modified_at: rfc3339(info.created),
            size: facts.weights_bytes,
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            details: (&facts).into(),
        })
    }
}

impl OllamaProcess {
    /// Nothing for a model that is not in memory.
    fn new(member: &FleetModel) -> Option<Self> {
        if member.progress.stage != Stage::Ready {
            return None;
        }
        let model = OllamaModel::new(&member.info)?;
        let facts = Facts::of(&member.info)?;
        let stays = match member.keep_alive {
            KeepAlive::For(time) => member.unloads_in.unwrap_or(time).as_secs(),
            KeepAlive::Forever => A_LONG_TIME_SECONDS,
        };
        let accelerated = !facts.device.starts_with("cpu");
        Some(Self {
            size_vram: if accelerated { model.size } else { 0 },
            expires_at: rfc3339(now() + stays),
            context_length: facts.context_length,
            model,
        })
    }
}

impl From<&Facts<'_>> for OllamaDetails {
    fn from(facts: &Facts<'_>) -> Self {
        let family = facts.architecture.to_owned();
        Self {
            parent_model: String::new(),
            format: "onnx",
            families: vec![family.clone()],
            family,
            parameter_size: size_in_words(facts.parameters),
            quantization_level: match facts.dtype {
                "float32" | "fp32" => "F32".into(),
                "float16" => "F16".into(),
                "bfloat16" => "BF16".into(),
                other => other.to_ascii_uppercase(),
            },
        }
    }
}

impl OllamaShow {
    fn new(info: &ModelInfo, facts: &Facts<'_>) -> Self {
        let family = facts.architecture;
        let mut model_info: BTreeMap<String, Value> = BTreeMap::from([
            ("general.architecture".into(), family.into()),
            ("general.parameter_count".into(), facts.parameters.into()),
            (
                format!("{family}.context_length"),
                facts.context_length.into(),
            ),
        ]);
        if facts.dimensions > 0 {
            let key = format!("{family}.embedding_length");
            model_info.insert(key, facts.dimensions.into());
        }
        Self {
            modelfile: format!("FROM {}:latest\n", info.name),
            parameters: String::new(),
            template: "{{ .Prompt }}",
            details: facts.into(),
            model_info,
            capabilities: capabilities(facts.kind, info.chats),
            modified_at: rfc3339(info.created),
        }
    }
}

fn capabilities(kind: ModelKind, chats: Chats) -> Vec<&'static str> {
    match (kind, chats) {
        (ModelKind::Embedding, _) => vec!["embedding"],
        (ModelKind::Reranker, _) => vec!["rerank"],
        (ModelKind::Classifier, _) => vec!["classify"],
        // Ollama has prompts answered by models without a template, too.
        (ModelKind::Generator, Chats::No | Chats::Plainly) => vec!["completion"],
        (ModelKind::Generator, Chats::WithTools) => vec!["completion", "tools"],
    }
}

/// `22.7M`, `568M`, `1.5B`; three digits.
fn size_in_words(parameters: u64) -> String {
    let scales = [(1e9, "B"), (1e6, "M"), (1e3, "K")];
    let count = parameters as f64;
    let scale = scales.into_iter().find(|(least, _)| count >= *least);
    let (number, unit) = scale.map_or((count, ""), |(least, unit)| (count / least, unit));
    let places = if unit.is_empty() || number >= 100.0 {
        0
    } else {
        1
    };
    format!("{number:.places$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (parameters, words) in [
            (0, "0"),
            (512, "512"),
            (22_713_216, "22.7M"),
            (567_754_752, "568M"),
            (1_543_000_000, "1.5B"),
        ] {
            assert_eq!(size_in_words(parameters), words);
        }
    }
}
