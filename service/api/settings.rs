//! What the HTTP edge needs to know of the configuration, already validated.

use std::{sync::Arc, time::Duration};

pub use super::rate::RateSettings;
use super::{access::ApiKeys, upstream::Upstreams};
pub use crate::config::TokenIds;
use crate::devices::Devices;

/// What pages of the allowed origins may call from a browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagesMay {
    /// Everything but the routes that manage the server.
    Infer,
    /// Those, too.
    Manage,
}

/// Limits and choices of the HTTP edge. Immutable while serving.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Who may call; empty means everybody.
    pub keys: ApiKeys,
    /// The largest body that is read, in bytes.
    pub max_body_bytes: usize,
    /// The most inputs of one request.
    pub max_inputs_per_request: usize,
    /// What integers in `input` mean.
    pub token_ids: TokenIds,
    /// How long a body may take to arrive, and a probe to answer.
    pub request_timeout: Duration,
    /// How long a body may stop on its way.
    pub stall_timeout: Duration,
    /// Origins whose pages may call from a browser; `*` stands for all, an empty list for none.
    pub cors_origins: Vec<String>,
    /// What those pages may call.
    pub pages_may: PagesMay,
    /// What each key may ask for in a minute.
    pub rate: RateSettings,
    /// Whether rerank answers have the documents unless the request says.
    pub return_documents: bool,
    /// Whether `/metrics` answers without a key when keys are set.
    pub metrics_open: bool,
    /// Servers elsewhere that answer for some models.
    pub upstreams: Upstreams,
    /// `host:port` as the model records tell it.
    pub address: String,
    /// What models can run on.
    pub devices: Arc<Devices>,
    /// The version of the ONNX Runtime that was loaded.
    pub onnxruntime_version: String,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            keys: ApiKeys::default(),
            max_body_bytes: 32 << 20,
            max_inputs_per_request: 2048,
            token_ids: TokenIds::Cl100k,
            request_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(30),
            cors_origins: vec!["*".into()],
            pages_may: PagesMay::Infer,
            rate: RateSettings::default(),
            return_documents: false,
            metrics_open: true,
            upstreams: Upstreams::default(),
            address: "127.0.0.1:9997".into(),
            devices: Arc::default(),
            onnxruntime_version: String::new(),
        }
    }
}
