//! The document of the configuration as typed, before anything in it is checked.

use serde::Deserialize;

use super::upstream::RawUpstream;

/// The document as typed; one field per key of `config.toml`, no more and no fewer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) server: RawServer,
    pub(super) limits: RawLimits,
    pub(super) cpu: RawCpu,
    pub(super) scheduling: RawScheduling,
    pub(super) runtime: RawRuntime,
    pub(super) models: RawModels,
    pub(super) embeddings: RawEmbeddings,
    pub(super) rerank: RawRerank,
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
pub(super) struct RawModel {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) revision: String,
    pub(super) max_tokens: i64,
    pub(super) pooling: String,
    pub(super) task: String,
    pub(super) cutoff_layer: i64,
    pub(super) dtype: String,
    pub(super) force_dtype: bool,
    pub(super) required: bool,
    pub(super) keep_alive: String,
    pub(super) replicas: i64,
}
