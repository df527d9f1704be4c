//! `GET /info`: one model, and of one kind. Dify takes its first key of `model_type` for the kind,
//! `max_input_length` for the context size and `max_client_batch_size` for its batch size.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{AppState, addressed::Addressed},
    engine::request::{ModelInfo, ModelKind, ModelState, Task, label_name},
    error::{Error, Result},
};

/// The answer of `/info`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiInfo)]
pub struct Info {
    /// The hub id, when the model has one, else the served name.
    model_id: String,
    /// The revision of the files.
    model_sha: Option<String>,
    model_dtype: String,
    served_model_name: String,
    #[schema(value_type = BTreeMap<String, BTreeMap<String, serde_json::Value>>)]
    model_type: ModelType,
    /// Requests of one longest text that may wait; the bound itself is in tokens.
    max_concurrent_requests: usize,
    /// The most tokens of one input.
    max_input_length: usize,
    /// Tokens of one forward pass.
    max_batch_tokens: usize,
    /// Always null: batches are bounded in tokens.
    max_batch_requests: Option<usize>,
    /// The most inputs of one request.
    max_client_batch_size: usize,
    /// Whether inputs that do not fit are cut unless told otherwise: always.
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
    sha: Option<String>,
    docker_label: Option<String>,
}

/// An object with exactly one key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum ModelType {
    Embedding { pooling: String },
    Reranker(Labels),
    Classifier(Labels),
}

#[derive(Debug, Serialize)]
struct Labels {
    id2label: BTreeMap<String, String>,
    label2id: BTreeMap<String, usize>,
}

/// `GET /info` and `GET /tei/{model}/info`.
pub async fn info(State(state): State<AppState>, model: Addressed) -> Result<Json<Info>> {
    let name = model.or(None)?;
    let info = state.engine.choose(name.as_deref(), Task::Embed)?;
    let limits = state.engine.limits();
    let inputs = state.settings.max_inputs_per_request;
    Info::new(info, limits.max_batch_tokens, limits.threads).map(|info| {
        Json(Info {
            max_concurrent_requests: (limits.max_queue_tokens / info.max_input_length.max(1))
                .max(1),
            max_client_batch_size: inputs.min(limits.max_inputs_per_request),
            ..info
        })
    })
}

impl Info {
    fn new(info: ModelInfo, max_batch_tokens: usize, workers: usize) -> Result<Self> {
        let encoder = match (info.encoder, info.state) {
            (Some(encoder), ModelState::Ready) => encoder,
            (_, ModelState::Failed(reason)) => return Err(Error::NotReady(reason)),
            (None, ModelState::Ready) => {
                let message = format!("model `{}` is none that TEI serves", info.name);
                return Err(Error::invalid("model", message));
            }
            (_, ModelState::Loading) => {
                let message = format!("model `{}` is still loading", info.name);
                return Err(Error::NotReady(message));
            }
        };
        let name = |index| label_name(&encoder.label_names, index).into_owned();
        let labels = || Labels {
            id2label: (0..encoder.labels)
                .map(|i| (i.to_string(), name(i)))
                .collect(),
            label2id: (0..encoder.labels).map(|i| (name(i), i)).collect(),
        };
        let model_type = match ModelKind::of(&encoder) {
            ModelKind::Embedding => {
                let has_dense = encoder.heads.contains(retort_models::Head::Dense);
                let pooling = match encoder.pooling.filter(|_| has_dense) {
                    Some(retort_models::Pooling::LastToken) => "last_token".to_owned(),
                    Some(pooling) => pooling.to_string(),
                    // A sparse vector is pooled as SPLADE does it.
                    None if !has_dense => "splade".to_owned(),
                    None => "mean".to_owned(),
                };
                ModelType::Embedding { pooling }
            }
            ModelKind::Reranker => ModelType::Reranker(labels()),
            // No encoder is a generator.
            ModelKind::Classifier | ModelKind::Generator => ModelType::Classifier(labels()),
        };
        let mut aliases = info.aliases.into_iter();
        Ok(Self {
            model_id: aliases
                .find(|alias| is_hub_id(alias))
                .unwrap_or_else(|| info.name.clone()),
            model_sha: info.revision,
            model_dtype: encoder.dtype,
            served_model_name: info.name,
            model_type,
            max_concurrent_requests: 1,
            max_input_length: encoder.max_tokens,
            // One input is run at once, however long it is.
            max_batch_tokens: max_batch_tokens.max(encoder.max_tokens),
            max_batch_requests: None,
            max_client_batch_size: 1,
            auto_truncate: true,
            tokenization_workers: workers,
            version: env!("CARGO_PKG_VERSION"),
            sha: None,
            docker_label: None,
        })
    }
}

/// Whether a name is `organisation/model`, and no path of this machine.
fn is_hub_id(name: &str) -> bool {
    let mut parts = name.split('/');
    let is_name = |part: Option<&str>| part.is_some_and(|part| !part.is_empty() && part != ".");
    is_name(parts.next()) && is_name(parts.next()) && parts.next().is_none()
}

/// `GET /tei/{model}/health`: 200 with nothing while the model answers.
pub async fn health(State(state): State<AppState>, model: Addressed) -> Result<()> {
    let name = model.or(None)?;
    let info = state.engine.choose(name.as_deref(), Task::Embed)?;
    match info.state {
        ModelState::Ready => Ok(()),
        ModelState::Loading => Err(Error::NotReady(format!("`{}` is loading", info.name))),
        ModelState::Failed(reason) => Err(Error::NotReady(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_no_hub_id() {
        assert!(is_hub_id("BAAI/bge-m3"));
        for path in ["bge-m3", "/models/bge-m3", "/bge-m3", "./bge-m3", "a/b/c"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }
}
