//! From a validated configuration to a running service, and down again: the one place that knows
//! every part. What it finds out on the way is returned, not printed.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use retort_models::Runtime;

pub use crate::fleet::StartError;
use crate::{
    api::{self, ApiKeys, ApiSettings, AppState, PagesMay, RateSettings, upstream::Upstreams},
    config::{Config, SchedulingConfig, Secret},
    connections::{self, ConnectionLimits},
    devices::{self, Devices},
    engine::{
        Clock, Engine, EngineLimits, Faults,
        encode::UntrainedDimensions,
        lane::{Lane, PerLane, Scheduling},
    },
    fleet::{Fleet, FleetParts, FleetSettings, load::CheckpointLoader},
    lifetime::Lifetime,
    memory::MemoryBudget,
    provision::{Progress, RuntimeLibrary},
    telemetry::Telemetry,
};

/// Tokens per forward pass on a CPU unless configured. Throughput is flat from 64 tokens on and
/// falls again when the activations leave the cache (measured; see `benches/RESULTS.md`).
const CPU_MAX_BATCH_TOKENS: usize = 256;

/// Tokens per forward pass on a GPU unless configured: enough to keep its matrix units busy, few
/// enough that a query does not wait for tens of milliseconds and that activations stay below some
/// gigabytes. By calculation; not measured.
const GPU_MAX_BATCH_TOKENS: usize = 16_384;

/// Requests inside get so long to be told that a device is lost.
const LOST_PATIENCE: Duration = Duration::from_secs(2);

/// Workers unless configured: each has sessions of its own, so more of them than this cost
/// start-up time on a large machine without adding throughput.
const MAX_WORKERS: usize = 8;

/// ONNX Runtime, the engine and the counters: what every command that runs models needs.
pub struct Core {
    /// Where the library came from.
    pub library: RuntimeLibrary,
    /// The library, loaded.
    pub runtime: Runtime,
    /// What models can run on.
    pub devices: Arc<Devices>,
    /// Serves nothing until [`Core::load`].
    pub engine: Engine,
    /// Loads and unloads its models.
    pub fleet: Fleet,
    /// Reads files without serving them.
    pub loader: Arc<CheckpointLoader>,
    /// The counters that the engine and the edge share.
    pub telemetry: Telemetry,
}

impl Core {
    /// Finds and loads ONNX Runtime and makes an engine in which every configured model is
    /// registered as loading. Blocks while something is fetched.
    ///
    /// # Errors
    /// When the library cannot be had or loaded, a GPU was asked for that cannot be used, or a
    /// served name is taken.
    pub fn new(config: &Config, progress: &Progress) -> Result<Self, StartError> {
        let devices::Provided {
            library,
            runtime,
            devices,
        } = devices::provide(config, &devices::found, progress)?;
        if let Some(reason) = devices.why_cpu() {
            tracing::info!(reason, "models run on the CPU");
        }
        let devices = Arc::new(devices);
        let telemetry = Telemetry::new();
        let limits = engine_limits(config);
        let engine = Engine::new(limits, telemetry.clone())?;
        let loader = Arc::new(CheckpointLoader {
            config: Arc::new(config.clone()),
            runtime: runtime.clone(),
            limits,
            devices: devices.clone(),
            faults: engine.faults().clone(),
            budget: MemoryBudget::new(config),
            progress: progress.clone(),
        });
        let fleet = Fleet::new(FleetParts {
            engine: engine.clone(),
            loader: loader.clone(),
            settings: FleetSettings::of(config),
            catalog: config.catalog.clone(),
            provision: config.provision.clone(),
        });
        fleet.enlist(&config.models)?;
        Ok(Self {
            library,
            runtime,
            devices,
            engine,
            fleet,
            loader,
            telemetry,
        })
    }

    /// Loads the configured models in their order, then those that return, and opens each for
    /// requests. A model that is not required may fail; it is then listed as failed and the next
    /// one is loaded.
    ///
    /// # Errors
    /// The first required model that cannot be had or loaded.
    pub fn load(&self) -> Result<(), StartError> {
        self.fleet.load_queued()
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
        let lifetime = Arc::new(Lifetime::begin());
        let state = AppState {
            engine: core.engine.clone(),
            fleet: core.fleet.clone(),
            lifetime: lifetime.clone(),
            settings: Arc::new(api_settings(config, self.address, core)),
            telemetry: core.telemetry.clone(),
        };
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let (draining, drained) = tokio::sync::oneshot::channel();
        let engine = core.engine.clone();
        let delay = config.server.drain_delay;
        let faults = engine.faults().clone();
        let stop = async move {
            let lost = tokio::select! {
                () = shutdown => false,
                () = lifetime.ended() => false,
                _ = engine.faults().happened() => true,
            };
            lifetime.leave();
            if !delay.is_zero() && !lost {
                let seconds = delay.as_secs();
                tracing::info!("not ready any more; requests are taken for another {seconds} s");
                tokio::time::sleep(delay).await;
            }
            engine.drain();
            tracing::info!("shutting down: new requests are refused, those inside are finished");
            // The receiver is gone only when the server already is.
            let _ = draining.send(());
        };
        let (limits, telemetry) = (connection_limits(config), core.telemetry.clone());
        let served = connections::serve(listener, api::router(state), limits, telemetry, stop);
        tokio::select! {
            () = served => Ok(()),
            () = out_of_patience(drained, config.server.drain_timeout, &faults) => {
                tracing::warn!("requests that were still inside after the drain time are cut off");
                Ok(())
            }
        }
    }
}

async fn out_of_patience(
    drained: tokio::sync::oneshot::Receiver<()>,
    patience: Duration,
    faults: &Faults,
) {
    if drained.await.is_err() {
        std::future::pending::<()>().await;
    }
    let lost = async {
        faults.happened().await;
        tokio::time::sleep(LOST_PATIENCE).await;
    };
    tokio::select! {
        () = tokio::time::sleep(patience) => {}
        () = lost => {}
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
        max_gpu_batch_tokens: config
            .limits
            .max_batch_tokens
            .unwrap_or(GPU_MAX_BATCH_TOKENS),
        max_queue_tokens: config.limits.max_queue_tokens,
        request_timeout: config.server.request_timeout,
        untrained_dimensions: if config.allow_untrained_dimensions {
            UntrainedDimensions::Allowed
        } else {
            UntrainedDimensions::Refused
        },
        threads,
        workers: config.cpu.workers.unwrap_or(threads.min(MAX_WORKERS)),
        scheduling: scheduling(&config.scheduling),
    }
}

fn scheduling(config: &SchedulingConfig) -> Scheduling {
    Scheduling {
        interactive_max_inputs: config.interactive_max_inputs,
        interactive_max_tokens: config.interactive_max_tokens,
        interactive_max_pairs: config.interactive_max_pairs,
        interactive_share: config.interactive_share as f64 / 100.0,
        deadlines: PerLane::of(|lane| match lane {
            Lane::Interactive => config.interactive_deadline,
            Lane::Bulk => config.bulk_deadline,
        }),
        cache_bytes: config.cache_bytes,
    }
}

fn connection_limits(config: &Config) -> ConnectionLimits {
    let server = &config.server;
    let limits = ConnectionLimits {
        max_connections: server.max_connections,
        idle_timeout: server.idle_timeout,
        stall_timeout: server.stall_timeout,
    };
    limits.within_system()
}

fn api_settings(config: &Config, address: SocketAddr, core: &Core) -> ApiSettings {
    let server = &config.server;
    let admins = match &server.admin_api_keys[..] {
        [] => &server.api_keys,
        _ => &server.admin_api_keys,
    };
    let keys = ApiKeys::new(server.api_keys.iter().map(Secret::expose));
    ApiSettings {
        keys: keys.with_admin(admins.iter().map(Secret::expose)),
        max_body_bytes: config.server.max_body_bytes,
        max_inputs_per_request: config.limits.max_inputs_per_request,
        token_ids: config.token_ids,
        request_timeout: config.server.request_timeout,
        stall_timeout: config.server.stall_timeout,
        cors_origins: config.server.cors_origins.clone(),
        pages_may: if config.server.cors_admin {
            PagesMay::Manage
        } else {
            PagesMay::Infer
        },
        rate: RateSettings {
            requests_per_minute: config.limits.requests_per_minute,
            tokens_per_minute: config.limits.tokens_per_minute,
            clock: Clock::system(),
        },
        return_documents: config.return_documents,
        metrics_open: config.server.metrics_open,
        upstreams: Upstreams::new(&config.upstreams),
        address: address.to_string(),
        onnxruntime_version: core.runtime.version(),
        devices: core.devices.clone(),
    }
}
