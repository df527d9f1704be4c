//! From a validated configuration to a running service, and down again: the one place that knows
//! every part. What it finds out on the way is returned, not printed.

mod first_load;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::serve::ListenerExt;
use retort_models::{CatalogError, EncoderModel, Estimate, LoadOptions, Runtime};

use crate::{
    api::{self, ApiKeys, ApiSettings, AppState},
    config::{Config, ModelEntry, Secret},
    engine::{Engine, EngineLimits, encode::UntrainedDimensions, request::ModelInfo},
    memory::{self, MemoryBudget},
    provision::{
        self, ModelFiles, ModelRequest, Progress, ProvisionError, RuntimeLibrary, Weights,
    },
    telemetry::{ModelLabels, Telemetry},
};

use self::first_load::Opened;

/// Tokens per forward pass on a CPU unless configured. Throughput is flat from 64 tokens on and
/// falls again when the activations leave the cache (measured; see `benches/RESULTS.md`).
const CPU_MAX_BATCH_TOKENS: usize = 256;

/// Workers unless configured: each has sessions of its own, so more of them than this cost
/// start-up time on a large machine without adding throughput.
const MAX_WORKERS: usize = 8;

/// Why the service did not start, or a command could not do its work.
#[derive(Debug)]
pub struct StartError {
    /// What was wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// ONNX Runtime, the engine and the counters: what every command that runs models needs.
pub struct Core {
    /// Where the library came from.
    pub library: RuntimeLibrary,
    /// The library, loaded.
    pub runtime: Runtime,
    /// Serves nothing until [`Core::load`].
    pub engine: Engine,
    /// The counters that the engine and the edge share.
    pub telemetry: Telemetry,
}

impl Core {
    /// Finds and loads ONNX Runtime and makes an engine in which every configured model is
    /// registered as loading. Blocks while something is fetched.
    ///
    /// # Errors
    /// When the library cannot be had or loaded, or a served name is taken.
    pub fn new(config: &Config, progress: &Progress) -> Result<Self, StartError> {
        let library = provision::runtime(&config.provision, progress)?;
        let runtime = Runtime::load(&library.path)?;
        let telemetry = Telemetry::new();
        let engine = Engine::new(engine_limits(config), telemetry.clone())?;
        for entry in &config.models {
            engine.register(registered(entry))?;
        }
        Ok(Self {
            library,
            runtime,
            engine,
            telemetry,
        })
    }

    /// Loads the configured models in their order and opens each for requests. A model that is
    /// not required may fail; it is then listed as failed and the next one is loaded. One that
    /// would not fit into memory beside those before it fails before it is loaded.
    ///
    /// # Errors
    /// The first required model that cannot be had or loaded.
    pub fn load(&self, config: &Config, progress: &Progress) -> Result<(), StartError> {
        let mut budget = MemoryBudget::new(config);
        for entry in &config.models {
            let started = Instant::now();
            match self.load_one((config, &mut budget), entry, progress) {
                Ok(()) => {
                    let seconds = started.elapsed().as_secs_f32();
                    tracing::info!(model = %entry.name, seconds, "model loaded");
                }
                Err(error) if entry.required => {
                    self.engine.failed(&entry.name, error.message.clone());
                    return Err(error);
                }
                Err(error) => {
                    let model = &*entry.name;
                    let hint = error.hint.as_deref();
                    tracing::error!(model, error = %error.message, hint, "model not loaded");
                    self.engine.failed(&entry.name, error.message);
                }
            }
        }
        Ok(())
    }

    fn load_one(
        &self,
        (config, budget): (&Config, &mut MemoryBudget),
        entry: &ModelEntry,
        progress: &Progress,
    ) -> Result<(), StartError> {
        let files = self.fetch(config, entry, progress)?;
        self.engine.found(
            &entry.name,
            files.origin.to_string(),
            files.revision.clone(),
        );
        let load = memory::load_of(&engine_limits(config), entry);
        // Files that cannot be estimated are explained by the attempt to load them.
        let estimate = Estimate::of_files(&files.dir, &load, entry.known.as_ref()).ok();
        if let Some(estimate) = &estimate {
            budget.check(&entry.name, estimate)?;
        }
        let model = self.open(&files.dir, entry)?;
        let opened = Opened {
            model: &model,
            dir: &files.dir,
        };
        first_load::check(self, config, entry, &opened)?;
        self.engine.serve(&entry.name, &model)?;
        if let Some(estimate) = &estimate {
            budget.add(estimate);
        }
        let info = model.info();
        self.telemetry.model_served(&ModelLabels {
            model: entry.name.clone(),
            architecture: info.architecture.clone(),
            device: info.device.clone(),
            dtype: info.dtype.clone(),
        });
        Ok(())
    }

    /// Finds the files of a model, or fetches them.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn fetch(
        &self,
        config: &Config,
        entry: &ModelEntry,
        progress: &Progress,
    ) -> Result<ModelFiles, StartError> {
        let id = entry.location.id();
        let request = ModelRequest {
            id: &id,
            revision: entry.revision.as_deref(),
            weights: Weights::Checkpoint,
            entry: entry.published(),
        };
        Ok(provision::model(&config.provision, &request, progress)?)
    }

    /// Loads files as the configuration and the catalogue say; nothing is served yet.
    ///
    /// # Errors
    /// When they are no model that this program runs.
    pub fn open(&self, dir: &Path, entry: &ModelEntry) -> Result<EncoderModel, StartError> {
        let options = LoadOptions {
            max_tokens: entry.max_tokens,
            pooling: entry.pooling,
            ..LoadOptions::new(self.runtime.clone())
        };
        let options = match &entry.known {
            Some(known) => known.complete(dir, options),
            None => Ok(options),
        };
        options
            .and_then(|options| EncoderModel::load(dir, &options))
            .map_err(|error| StartError {
                message: format!("model `{}` cannot be loaded: {error}", entry.name),
                hint: None,
            })
    }
}

/// A bound address that does not answer yet; binding first means that a taken port is told before
/// anything is fetched.
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
}

impl Door {
    /// Binds the configured address.
    ///
    /// # Errors
    /// When the port is taken or the address is not this machine's.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let wanted = config.server.address;
        let failed = |error: io::Error| StartError {
            message: format!("cannot listen on `{wanted}`: {error}"),
            hint: Some(match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "stop what listens there (`retort ps` shows whether it is a Retort), or \
                     choose another port with `--port`"
                        .into()
                }
                _ => "choose an address of this machine with `--host`".into(),
            }),
        };
        let listener = TcpListener::bind(wanted).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens; the real port when any free one was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `shutdown` resolves, then finishes those that are inside, for at
    /// most the configured time.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        core: &Core,
        config: &Config,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let state = AppState {
            engine: core.engine.clone(),
            settings: Arc::new(api_settings(config, self.address, &core.runtime)),
            telemetry: core.telemetry.clone(),
        };
        // Answers are written in one piece; waiting for more would only delay them.
        let listener = tokio::net::TcpListener::from_std(self.listener)?
            .tap_io(|stream| drop(stream.set_nodelay(true)));
        let (draining, drained) = tokio::sync::oneshot::channel();
        let engine = core.engine.clone();
        let stop = async move {
            shutdown.await;
            engine.drain();
            tracing::info!("shutting down: new requests are refused, those inside are finished");
            // The receiver is gone only when the server already is.
            let _ = draining.send(());
        };
        let server = axum::serve(listener, api::router(state)).with_graceful_shutdown(stop);
        tokio::select! {
            result = async { server.await } => result,
            () = out_of_patience(drained, config.server.drain_timeout) => {
                tracing::warn!("requests that were still inside after the drain time are cut off");
                Ok(())
            }
        }
    }
}

async fn out_of_patience(drained: tokio::sync::oneshot::Receiver<()>, patience: Duration) {
    match drained.await {
        Ok(()) => tokio::time::sleep(patience).await,
        Err(_) => std::future::pending().await,
    }
}

/// Resolves on Ctrl-C, and on SIGTERM where there is such a thing.
pub async fn shutdown_signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}

/// Bounds of the engine as configured, with what is chosen for a CPU where nothing is.
pub(crate) fn engine_limits(config: &Config) -> EngineLimits {
    let threads = config.cpu.threads;
    EngineLimits {
        max_inputs_per_request: config.limits.max_inputs_per_request,
        max_batch_tokens: config
            .limits
            .max_batch_tokens
            .unwrap_or(CPU_MAX_BATCH_TOKENS),
        max_queue_tokens: config.limits.max_queue_tokens,
        request_timeout: config.server.request_timeout,
        untrained_dimensions: if config.allow_untrained_dimensions {
            UntrainedDimensions::Allowed
        } else {
            UntrainedDimensions::Refused
        },
        threads,
        workers: config.cpu.workers.unwrap_or(threads.min(MAX_WORKERS)),
    }
}

fn api_settings(config: &Config, address: SocketAddr, runtime: &Runtime) -> ApiSettings {
    ApiSettings {
        keys: ApiKeys::new(config.server.api_keys.iter().map(Secret::expose)),
        max_body_bytes: config.server.max_body_bytes,
        max_inputs_per_request: config.limits.max_inputs_per_request,
        token_ids: config.token_ids,
        request_timeout: config.server.request_timeout,
        cors_origins: config.server.cors_origins.clone(),
        metrics_open: config.server.metrics_open,
        address: address.to_string(),
        onnxruntime_version: runtime.version(),
    }
}

fn registered(entry: &ModelEntry) -> ModelInfo {
    ModelInfo::loading(&entry.name, entry.aliases.clone())
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

impl From<ProvisionError> for StartError {
    fn from(error: ProvisionError) -> Self {
        Self {
            message: error.to_string(),
            hint: error.hint().map(Into::into),
        }
    }
}

impl From<retort_models::Error> for StartError {
    fn from(error: retort_models::Error) -> Self {
        Self {
            message: error.to_string(),
            hint: None,
        }
    }
}

impl From<CatalogError> for StartError {
    fn from(error: CatalogError) -> Self {
        Self {
            message: error.to_string(),
            hint: None,
        }
    }
}

impl From<crate::error::Error> for StartError {
    fn from(error: crate::error::Error) -> Self {
        Self {
            message: error.to_string(),
            hint: None,
        }
    }
}
