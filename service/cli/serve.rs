//! `retort serve`: the port first, so that a taken one is told before anything is fetched; then
//! the models, while requests already get an answer; then the report.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::flags::{Flags, Service};
use super::notify::Notify;
use super::report::{Report, RuntimeFacts, report};
use super::{Context, Failure, logging, print};
use crate::config::{Loaded, Purpose};
use crate::engine::Faults;
use crate::provision::Progress;
use crate::serve::{Core, Door, shutdown_signal};

/// Flags of `retort serve`.
#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    flags: Flags<Service>,
}

#[cfg(test)]
impl ServeArgs {
    /// What was typed.
    pub fn typed(self) -> Vec<crate::config::Typed> {
        self.flags.typed
    }
}

/// What the process exits with when a device is lost: a temporary failure, in the words of
/// sysexits.h. A new process gets the device back.
const DEVICE_LOST: i32 = 75;

/// So long the end may take once a device is lost; then it is made short.
const END_PATIENCE: Duration = Duration::from_secs(8);

/// Serves until it is told to stop.
pub fn run(args: ServeArgs, context: &Context) -> Result<ExitCode, Failure> {
    let loaded = context.load(Purpose::Serve, args.flags)?;
    logging::start(&loaded.config.server, context.colors())?;
    let notify = Notify::new(&context.environment);
    let door = Door::bind(&loaded.config)?;
    let address = door.address();
    let progress = Progress::stderr();
    let core = Arc::new(Core::new(&loaded.config, &progress)?);
    core.fleet.restore();
    notify.tell("STATUS=loading models");

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let served = runtime.block_on(async {
        tokio::spawn(cut_short(core.engine.faults().clone()));
        let loading = {
            let core = core.clone();
            tokio::task::spawn_blocking(move || core.load())
        };
        let mut serving =
            std::pin::pin!(door.serve(&core, &loaded.config, told_to_stop(notify.clone())));
        let loading = tokio::select! {
            ended = &mut serving => return ended.map_err(|error| broken(&error)),
            loading = loading => loading,
        };
        loading.map_err(|error| Failure::new(format!("loading broke off: {error}")))??;
        print(&report(&Report::of(&core, &loaded, address)))?;
        notify.tell(&format!("READY=1\nSTATUS=serving on {address}"));
        serving.await.map_err(|error| broken(&error))
    });
    // A model that is still being fetched must not hold up the end.
    runtime.shutdown_background();
    if let Some(reason) = core.engine.faults().current() {
        let failure = Failure::new(format!("a device is lost: {reason}"));
        let hint = "the process has to be started again, which a supervisor does by itself";
        failure.with_hint(hint).print();
        // Models are not taken down: their sessions might wait for the device for ever.
        std::process::exit(DEVICE_LOST);
    }
    served.map(|()| ExitCode::SUCCESS)
}

/// Sees to it that the process ends within seconds once a device is lost, whatever its libraries
/// wait for.
async fn cut_short(faults: Faults) {
    faults.happened().await;
    let watch = || {
        let end = Instant::now() + END_PATIENCE;
        // Parking may end early, for no reason at all.
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        std::process::abort();
    };
    let spawned = std::thread::Builder::new().name("end".into()).spawn(watch);
    if let Err(error) = spawned {
        tracing::error!(%error, "the system refuses a thread");
    }
}

/// Resolves when the service is to end, which whoever started it is told.
async fn told_to_stop(notify: Notify) {
    shutdown_signal().await;
    notify.tell("STOPPING=1\nSTATUS=finishing what is inside");
}

fn broken(error: &std::io::Error) -> Failure {
    Failure::new(format!("the server stopped: {error}"))
}

impl Report {
    /// What a started service has to say for itself.
    fn of(core: &Core, loaded: &Loaded, address: std::net::SocketAddr) -> Self {
        let server = &loaded.config.server;
        Self {
            runtime: RuntimeFacts::of(core),
            models: core.engine.models(),
            processor: super::doctor::processor(),
            threads: loaded.config.cpu.threads,
            why_cpu: core.devices.why_cpu().map(String::from),
            config: loaded.file.clone(),
            keys: server.api_keys.len() + server.admin_api_keys.len(),
            address,
        }
    }
}
