//! The document of the configuration as typed, and what single values of a `[[model]]` mean.

use retort_models::{DtypeChoice, Task};
use serde::Deserialize;

use super::Error;
use super::upstream::RawUpstream;

/// The document as typed; one field per key of `config.toml`, no more and no fewer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) server: RawServer,
    pub(super) limits: RawLimits,
    pub(super) cpu: RawCpu,
    pub(super) gpu: RawGpu,
    pub(super) scheduling: RawScheduling,
    pub(super) runtime: RawRuntime,
    pub(super) models: RawModels,
    pub(super) embeddings: RawEmbeddings,
    pub(super) rerank: RawRerank,
    pub(super) generation: RawGeneration,
    pub(super) model: Vec<RawModel>,
    #[serde(default)]
    pub(super) upstream: Vec<RawUpstream>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    pub(super) host: String,
    pub(super) port: i64,
    pub(super) api_keys: Vec<String>,
    pub(super) admin_api_keys: Vec<String>,
    pub(super) allow_public: bool,
    pub(super) cors_origins: Vec<String>,
    pub(super) cors_admin: bool,
    pub(super) metrics_open: bool,
    pub(super) max_body_bytes: i64,
    pub(super) request_timeout_s: i64,
    pub(super) idle_timeout_s: i64,
    pub(super) stall_timeout_s: i64,
    pub(super) max_connections: i64,
    pub(super) drain_timeout_s: i64,
    pub(super) drain_delay_s: i64,
    pub(super) log: String,
    pub(super) log_format: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) max_inputs_per_request: i64,
    pub(super) max_batch_tokens: i64,
    pub(super) max_queue_tokens: i64,
    pub(super) requests_per_minute: i64,
    pub(super) tokens_per_minute: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCpu {
    pub(super) threads: i64,
    pub(super) workers: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGpu {
    pub(super) memory_limit_mib: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScheduling {
    pub(super) interactive_max_inputs: i64,
    pub(super) interactive_max_tokens: i64,
    pub(super) interactive_max_pairs: i64,
    pub(super) interactive_share: i64,
    pub(super) interactive_deadline_s: i64,
    pub(super) bulk_deadline_s: i64,
    pub(super) cache_mib: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRuntime {
    pub(super) device: String,
    pub(super) library: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModels {
    pub(super) catalog_dir: String,
    pub(super) verify: String,
    pub(super) dtype: String,
    pub(super) cache_dir: String,
    pub(super) memory_budget_mib: i64,
    pub(super) state_file: String,
    pub(super) persist: bool,
    pub(super) keep_alive: String,
    pub(super) allow_eviction: bool,
    pub(super) sources: Vec<String>,
    pub(super) offline: bool,
    pub(super) hf_endpoint: String,
    pub(super) hf_token: String,
    pub(super) hf_home: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEmbeddings {
    pub(super) token_ids: String,
    pub(super) allow_untrained_dimensions: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRerank {
    pub(super) return_documents_default: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGeneration {
    pub(super) weights: String,
    pub(super) kv_cache_mib: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) revision: String,
    pub(super) max_tokens: i64,
    pub(super) pooling: String,
    pub(super) task: String,
    pub(super) cutoff_layer: i64,
    pub(super) device: String,
    pub(super) dtype: String,
    pub(super) force_dtype: bool,
    pub(super) weights: String,
    pub(super) kv_cache_mib: i64,
    pub(super) required: bool,
    pub(super) keep_alive: String,
    pub(super) replicas: i64,
}

impl RawModel {
    /// A number that 0 leaves open.
    pub(super) fn count(&self, key: &str, value: i64, most: i64) -> Result<Option<usize>, Error> {
        let within = Some(value).filter(|value| (0..=most).contains(value));
        match within.and_then(|value| usize::try_from(value).ok()) {
            Some(value) => Ok(Some(value).filter(|&value| value > 0)),
            None => Err(Error::new(format!(
                "`{key}` = `{value}` of model `{}` is not within 0 to {most}",
                self.id
            ))),
        }
    }

    /// `None` is what all models are computed in.
    pub(super) fn dtype(&self) -> Result<Option<DtypeChoice>, Error> {
        if self.dtype.is_empty() {
            return Ok(None);
        }
        let read = self.dtype.parse().map(Some);
        read.map_err(|error| Error::new(format!("`dtype` of model `{}`: {error}", self.id)))
    }

    /// What it is for, if it is an encoder; `None` where that is for its files to tell.
    pub(super) fn task(&self) -> Result<Option<Task>, Error> {
        let wanted = self.task.to_ascii_lowercase();
        if self.generates() {
            return Ok(None);
        }
        let found = Task::ALL.into_iter().find(|task| task.name() == wanted);
        if found.is_some() || wanted.is_empty() {
            return Ok(found);
        }
        let known = Task::ALL.map(|task| format!("`{}`", task.name()));
        Err(Error::new(format!(
            "`task` = `{}` of model `{}` is none that a model can be loaded for",
            self.task, self.id
        ))
        .with_hint(format!("known are {} and `generate`", known.join(", "))))
    }

    /// Whether it is said to continue texts.
    pub(super) fn generates(&self) -> bool {
        self.task.eq_ignore_ascii_case("generate")
    }
}
