//! Flags, environment and file become one validated [`Config`]; `config.toml`, compiled in, is the
//! defaults. This is the only module that reads the environment.

mod device;
mod environment;
mod file;
mod generation;
mod layers;
mod model;
mod raw;
mod settings;
mod show;
mod upstream;
mod validate;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use device::{DEVICES, DeviceChoice, Gpus};
pub use environment::Environment;
pub use generation::{Generation, KV_CACHE_MIB_MAX};
pub use layers::{Layers, Origin, Typed};
pub use model::{
    ModelEntry, ModelLocation, REPLICAS_MAX, check_name, is_directory, location, location_of,
    served_name,
};
pub use settings::{FILE_VARIABLES, OTHER_VARIABLES, SETTINGS, Scope, Setting, setting};
pub use show::show;
pub use upstream::UpstreamConfig;

use retort_models::{Catalog, DtypeChoice};

use crate::keep_alive::KeepAlive;
use crate::provision::ProvisionConfig;
pub use crate::provision::Secret;

/// The documented defaults, as text.
pub const DEFAULTS: &str = include_str!("config.toml");

/// What the service does, checked: nothing after this asks again whether a value makes sense.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where and how the service listens.
    pub server: ServerConfig,
    /// What a caller may ask for.
    pub limits: LimitsConfig,
    /// Where models run unless they say otherwise.
    pub device: DeviceChoice,
    /// How models run on the processor.
    pub cpu: CpuConfig,
    /// How models run on GPUs.
    pub gpu: GpuConfig,
    /// Whose turn it is when there is more work than can be done at once.
    pub scheduling: SchedulingConfig,
    /// Bytes that all models together may take; `None` means what the process may use.
    pub memory_budget_bytes: Option<u64>,
    /// How models come and go while serving.
    pub fleet: FleetConfig,
    /// What integers in `input` are.
    pub token_ids: TokenIds,
    /// Whether rerank answers have the documents unless the request says.
    pub return_documents: bool,
    /// Whether vectors may be cut to lengths that their model was not trained for.
    pub allow_untrained_dimensions: bool,
    /// Where ONNX Runtime and models come from.
    pub provision: ProvisionConfig,
    /// The models to serve; names and aliases are unique over all of them. Never empty.
    pub models: Vec<ModelEntry>,
    /// Servers elsewhere that answer for other models.
    pub upstreams: Vec<UpstreamConfig>,
    /// The models that are known by name, the user's own included.
    pub catalog: Arc<Catalog>,
    /// When models are compared with their published numbers before they serve.
    pub verify: Verify,
}

/// Where and how the service listens.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The address; port 0 stands for any free one.
    pub address: SocketAddr,
    /// Keys that are accepted; empty means that none is asked for.
    pub api_keys: Vec<Secret>,
    /// Those that may also change what is served; with none, every key may.
    pub admin_api_keys: Vec<Secret>,
    /// Origins that browsers may call from; `*` allows all.
    pub cors_origins: Vec<String>,
    /// Whether those pages may also call the routes that manage the server.
    pub cors_admin: bool,
    /// Whether `/metrics` answers without a key although keys are set.
    pub metrics_open: bool,
    /// The largest request body.
    pub max_body_bytes: usize,
    /// When a request is given up.
    pub request_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a caller may stand still within a request or its answer.
    pub stall_timeout: Duration,
    /// Connections at the same time.
    pub max_connections: usize,
    /// How long requests are still taken on shutdown, while the service says it is not ready.
    pub drain_delay: Duration,
    /// How long requests may take to finish on shutdown.
    pub drain_timeout: Duration,
    /// Filter directives for the log.
    pub log: String,
    /// The shape of a log line.
    pub log_format: LogFormat,
}

/// What a caller may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Inputs per request.
    pub max_inputs_per_request: usize,
    /// Tokens per forward pass; `None` leaves the choice to the engine.
    pub max_batch_tokens: Option<usize>,
    /// Tokens that may wait.
    pub max_queue_tokens: usize,
    /// Requests per minute and key; `None` leaves them unlimited.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute and key; `None` leaves them unlimited.
    pub tokens_per_minute: Option<u32>,
}

/// How models run on the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuConfig {
    /// Threads for inference, over all workers; at least one.
    pub threads: usize,
    /// Batches at the same time, at most `threads`; `None` leaves the choice to the engine.
    pub workers: Option<usize>,
}

/// How models run on GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuConfig {
    /// Bytes that all models together may take of each GPU; `None`: all that there is.
    pub memory_limit_bytes: Option<u64>,
}

/// Whose turn it is when there is more work than can be done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulingConfig {
    /// Texts up to which a request counts as interactive.
    pub interactive_max_inputs: usize,
    /// Tokens up to which it does.
    pub interactive_max_tokens: usize,
    /// Documents up to which reranking does.
    pub interactive_max_pairs: usize,
    /// Percent of the processor that is interactive work's while bulk work wants it, too.
    pub interactive_share: usize,
    /// When an interactive request is given up that does not say so; `None`: as any other.
    pub interactive_deadline: Option<Duration>,
    /// When a bulk request is given up that does not say so; `None`: as any other.
    pub bulk_deadline: Option<Duration>,
    /// Bytes of results that are kept for inputs that come again.
    pub cache_bytes: usize,
}

/// When a model is compared with its published numbers, where the catalogue has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Once for the same files on the same program.
    FirstLoad,
    /// Whenever it is loaded.
    Always,
    /// Never: it serves whatever its numbers are.
    Off,
}

/// How models come and go while serving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    /// Where launched models are noted that return after a restart.
    pub state_file: PathBuf,
    /// Whether launched models return after a restart unless they say otherwise.
    pub persist: bool,
    /// How long a model stays in memory without requests unless it says otherwise.
    pub keep_alive: KeepAlive,
    /// Whether idle models may be unloaded to make room for others.
    pub allow_eviction: bool,
    /// What a model is computed in unless it says otherwise.
    pub dtype: DtypeChoice,
    /// How models that generate are kept unless they say so.
    pub generation: Generation,
}

/// What integers in `input` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenIds {
    /// Ids of OpenAI's `cl100k_base`, decoded to text.
    Cl100k,
    /// Ids of the model's own vocabulary.
    Model,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What a command is about to do: only serving can expose anything to other machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The service will listen.
    Serve,
    /// Nothing will listen.
    Local,
}

/// Everything that a configuration is made from.
pub struct Inputs {
    /// What the command is about to do.
    pub purpose: Purpose,
    /// Flags of the command line.
    pub flags: Vec<Typed>,
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// Where a `retort.toml` is looked for.
    pub directory: PathBuf,
}

/// A configuration and how it came about. No `Debug`: the layers hold secrets.
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What was typed, and where.
    pub layers: Layers,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What a person should know but need not change.
    pub warnings: Vec<String>,
}

/// Lays the inputs over the defaults and checks the result.
///
/// # Errors
/// When the file cannot be read, or a value is unknown, of the wrong type, out of range, or
/// contradicts another; the error says which and how to change it.
pub fn load(inputs: &Inputs) -> Result<Loaded, Error> {
    let mut layers = Layers::defaults(DEFAULTS)?;
    let file = find_file(inputs);
    if let Some(path) = &file {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        layers.apply_file(path, &text)?;
    }
    let mut warnings = layers.apply_environment(&inputs.environment)?;
    layers.apply_flags(&inputs.flags)?;
    let config = validate::validate(&layers, &inputs.environment, inputs.purpose)?;
    warnings.extend(model::doubts(&config.models, &config.catalog));
    Ok(Loaded {
        config,
        layers,
        file,
        warnings,
    })
}

/// What is wrong with a configuration, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What was wrong: the key, the value, the limit.
    pub message: String,
    /// What to change.
    pub hint: Option<String>,
}

impl Error {
    /// An error without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// The same error with advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A file that is named must exist; the usual places may be empty.
fn find_file(inputs: &Inputs) -> Option<PathBuf> {
    let named = inputs.environment.get("RETORT_CONFIG").map(PathBuf::from);
    if let Some(path) = inputs.file.clone().or(named) {
        return Some(path);
    }
    let here = Some(inputs.directory.join("retort.toml"));
    let mine = inputs
        .environment
        .config_dir()
        .map(|dir| dir.join("retort").join("config.toml"));
    [here, mine]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(format!(
        "cannot read the configuration `{}`: {error}",
        path.display()
    ))
    .with_hint("give the path of a TOML file with `--config` or `RETORT_CONFIG`")
}

#[cfg(test)]
mod tests;
