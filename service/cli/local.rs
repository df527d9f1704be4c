//! A model without a server: what the commands that compute have in common.

use super::flags::{Flags, Local};
use super::{Context, Failure, logging};
use crate::config::{Config, Loaded, ModelEntry, Origin, Purpose};
use crate::engine::Engine;
use crate::provision::Progress;
use crate::serve::Core;

/// The first configured model, loaded, and what waits for its answers.
pub struct LocalModel {
    /// Runs it.
    pub engine: Engine,
    /// Where answers are waited for.
    pub runtime: tokio::runtime::Runtime,
}

impl LocalModel {
    /// Loads the model that the flags mean; fetches what is missing.
    ///
    /// # Errors
    /// When the configuration is wrong or the model cannot be had or loaded.
    pub fn load(context: &Context, flags: Flags<Local>) -> Result<Self, Failure> {
        let Loaded {
            mut config, layers, ..
        } = context.load(Purpose::Local, flags)?;
        if let Some((_, Origin::Default)) = layers.get("server.log") {
            // Results are what is wanted here: unless asked, the log speaks up only about trouble.
            config.server.log = "warn".into();
        }
        logging::start(&config.server, context.colors())?;
        unbounded(&mut config);
        let progress = Progress::stderr();
        let core = Core::new(&config, &progress)?;
        core.load()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
        Ok(Self {
            engine: core.engine.clone(),
            runtime,
        })
    }
}

/// One model, no deadline and no limit on a request or the queue: nobody else waits here.
fn unbounded(config: &mut Config) {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
    config.server.request_timeout = DAY;
    config.limits.max_inputs_per_request = usize::MAX / 2;
    config.limits.max_queue_tokens = usize::MAX / 2;
    config.models.truncate(1);
    config
        .models
        .iter_mut()
        .for_each(|model: &mut ModelEntry| model.required = true);
}
