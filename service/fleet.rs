//! Loads and unloads models while serving: launch, progress, cancel, terminate, idle unloading,
//! and what returns after a restart. Requests go through the engine and never wait for a lock here.

mod cache;
mod error;
mod first_load;
pub mod found;
pub mod generator;
mod inner;
mod job;
mod keeper;
pub mod load;
pub mod member;
pub mod memory;
mod registrations;
mod resolve;
mod spec;
mod store;
mod warm;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
    time::Duration,
};

use retort_models::{Catalog, DtypeChoice};

pub use self::{
    error::StartError,
    spec::{CachedModel, FileProgress, FleetModel, LaunchProgress, LaunchSpec, Launched, Stage},
};
use self::{
    found::FoundFiles, job::Attempt, load::Load, member::Member, memory::Ledger, store::Store,
};
use crate::{
    config::{Config, Generation, ModelEntry, REPLICAS_MAX},
    engine::{Claim, Engine, KeepAlive, request::ModelInfo},
    error::{Error, Result},
    memory::MemoryBudget,
    provision::{ProvisionConfig, Watch},
    telemetry::Telemetry,
};

/// Loads and unloads models while serving. Cheap to clone; the last clone stops its keeper thread.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

/// What a fleet is made of.
pub struct FleetParts {
    /// Serves what the fleet loads.
    pub engine: Engine,
    /// Makes models run.
    pub loader: Arc<dyn Load>,
    /// What is configured about it.
    pub settings: FleetSettings,
    /// The models that are known by name.
    pub catalog: Arc<Catalog>,
    /// Where fetched models are.
    pub provision: ProvisionConfig,
}

/// What is configured about a fleet.
#[derive(Debug, Clone)]
pub struct FleetSettings {
    /// Where launched models are noted that return after a restart.
    pub state_file: PathBuf,
    /// Whether launches persist unless they say otherwise.
    pub persist: bool,
    /// How long launched models stay in memory unless they say otherwise.
    pub keep_alive: KeepAlive,
    /// What launched models are computed in unless they say otherwise.
    pub dtype: DtypeChoice,
    /// How launched models that generate are kept unless the launch says otherwise.
    pub generation: Generation,
    /// All that models may take of memory together; `None` refuses nothing.
    pub memory_bytes: Option<u64>,
    /// Whether idle models may be unloaded to make room for others.
    pub eviction: Eviction,
    /// How long requests inside a terminated model get.
    pub drain_timeout: Duration,
}

impl FleetSettings {
    /// What the configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            state_file: config.fleet.state_file.clone(),
            persist: config.fleet.persist,
            keep_alive: config.fleet.keep_alive,
            dtype: config.fleet.dtype,
            generation: config.fleet.generation,
            memory_bytes: MemoryBudget::new(config).for_models(),
            eviction: if config.fleet.allow_eviction {
                Eviction::IdleModels
            } else {
                Eviction::Never
            },
            drain_timeout: config.server.drain_timeout,
        }
    }
}

/// Whether models may be unloaded to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// What does not fit is refused.
    Never,
    /// Models that nobody is inside of, the least recently used first.
    IdleModels,
}

struct Inner {
    engine: Engine,
    loader: Arc<dyn Load>,
    telemetry: Telemetry,
    settings: FleetSettings,
    provision: ProvisionConfig,
    catalog: RwLock<Arc<Catalog>>,
    store: Mutex<Store>,
    ledger: Mutex<Ledger>,
    members: Mutex<Members>,
    next_id: AtomicU64,
}

/// Who is served, and who is leaving. Held for moments only, never across a load.
#[derive(Default)]
struct Members {
    present: Vec<Arc<Member>>,
    /// Terminated, with requests inside that are still answered; and what was told of them.
    leaving: Vec<(Arc<Member>, ModelInfo)>,
}

impl Fleet {
    /// A fleet without models, and the thread that looks after idle ones.
    pub fn new(parts: FleetParts) -> Self {
        let inner = Arc::new(Inner {
            telemetry: parts.engine.telemetry().clone(),
            engine: parts.engine,
            loader: parts.loader,
            ledger: Mutex::new(Ledger::new(parts.settings.memory_bytes)),
            store: Mutex::new(Store::new(parts.settings.state_file.clone())),
            settings: parts.settings,
            provision: parts.provision,
            catalog: RwLock::new(parts.catalog),
            members: Mutex::default(),
            next_id: AtomicU64::new(1),
        });
        job::load_on_demand(&inner);
        keeper::start(&inner);
        Self(inner)
    }

    /// A launch with the configured defaults.
    pub fn spec(&self, reference: impl Into<String>) -> LaunchSpec {
        LaunchSpec {
            keep_alive: self.0.settings.keep_alive,
            persist: self.0.settings.persist,
            dtype: self.0.settings.dtype,
            generation: self.0.settings.generation,
            ..LaunchSpec::of(reference)
        }
    }

    /// The name that a launch asks for, in words or by leaving it open.
    pub fn wished_uid(&self, spec: &LaunchSpec) -> String {
        resolve::wished_uid(spec, &self.0.catalog())
    }

    /// Begins to load a model in the background; it is visible when this returns. The same model
    /// under the same name again changes nothing, unless it has failed: then it is tried again.
    ///
    /// # Errors
    /// [`Error::AlreadyServed`] when the name is another model's, [`Error::InvalidRequest`] when
    /// the name or the reference cannot be.
    pub fn launch(&self, spec: LaunchSpec) -> Result<Launched> {
        if !(1..=REPLICAS_MAX).contains(&spec.replicas) {
            return Err(Error::invalid(
                "replica",
                format!(
                    "`replica` is {}; 1 to {REPLICAS_MAX} are allowed",
                    spec.replicas
                ),
            ));
        }
        for option in &spec.ignored {
            tracing::warn!(
                option,
                reference = spec.reference,
                "this option means nothing here"
            );
        }
        let persist = spec.persist;
        let (launched, member) = self.0.enlist(spec)?;
        if persist {
            self.0.save();
        }
        if let Some(member) = member {
            job::spawn(&self.0, &member, Attempt::First);
        }
        Ok(launched)
    }

    /// Makes configured models visible, in their order; [`Fleet::load_queued`] loads them.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn enlist(&self, entries: &[ModelEntry]) -> Result<()> {
        for entry in entries {
            let spec = resolve::spec_of(entry, self.0.settings.keep_alive);
            let member = self.0.member(spec, entry.clone());
            self.0.admit(&mut self.0.members(), member, Claim::Strict)?;
        }
        Ok(())
    }

    /// Makes the models visible that were launched to stay, before this process began; those that
    /// are configured by now are left to the configuration. A file that cannot be read is moved
    /// aside, with a warning.
    pub fn restore(&self) {
        let saved = self.0.store().read();
        self.restore_registrations(saved.registrations);
        for spec in saved.models {
            let (uid, reference) = (spec.uid.clone(), spec.reference.clone());
            match self.0.enlist(spec) {
                Ok((launched, _)) => tracing::info!(
                    model = launched.uid,
                    reference,
                    "launched before the restart, to return"
                ),
                Err(error) => {
                    tracing::warn!(model = uid, reference, %error, "does not return");
                }
            }
        }
    }

    /// Loads the models that wait for their turn, one after the other, and returns when all are
    /// loaded or have failed. A model that is not required may fail.
    ///
    /// # Errors
    /// The first required model that cannot be had or loaded.
    pub fn load_queued(&self) -> Result<(), StartError> {
        loop {
            let queued = |member: &&Arc<Member>| member.stage() == Stage::Queued;
            let Some(member) = self.0.members().present.iter().find(queued).cloned() else {
                return Ok(());
            };
            job::run(&self.0, &member, Attempt::Restored);
            if let Some(error) = member.error().filter(|_| member.spec().required) {
                return Err(error);
            }
        }
    }

    /// Waits until a model is ready; the caller bounds the wait.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when there is none or its launch was cancelled, and
    /// [`Error::NotReady`] or [`Error::InsufficientMemory`] with the reason when it failed.
    pub async fn wait_ready(&self, uid: &str) -> Result<()> {
        let member = self.0.find(uid)?;
        let mut news = member.news();
        loop {
            match member.stage() {
                Stage::Ready | Stage::Asleep => return Ok(()),
                Stage::Failed => {
                    let error = member.error();
                    let reason = error.map(StartError::with_hint).unwrap_or_default();
                    let message = format!("model `{}` did not load: {reason}", member.uid());
                    return Err(if member.is_short_of_memory() {
                        Error::InsufficientMemory(message)
                    } else {
                        Error::NotReady(message)
                    });
                }
                _ if member.is_cancelled() => {
                    // The name may be served again by now, as another launch.
                    return Err(Error::NotReady(format!(
                        "the launch of model `{}` was cancelled",
                        member.uid()
                    )));
                }
                _ => {}
            }
            // The sender lives as long as `member` does.
            let _ = news.changed().await;
        }
    }

    /// Takes a model out of service: those inside are answered, new requests find no model. A
    /// launch under way is called off. Returns when its memory is free: when those inside are
    /// gone, or the thread that loads it has noticed.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub async fn terminate(&self, uid: &str) -> Result<()> {
        let member = self.0.find(uid)?;
        let (gone, leaving) = tokio::sync::oneshot::channel();
        let inner = self.0.clone();
        if !inner.retire(&member, gone) {
            return Err(self.0.not_found(uid));
        }
        // The sender is dropped without a word only when the thread could not be started.
        let _ = leaving.await;
        Ok(())
    }

    /// Calls off a launch that is under way; what was fetched is kept for the next one.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], and [`Error::InvalidRequest`] when it is not loading any more.
    pub fn cancel(&self, uid: &str) -> Result<()> {
        let member = self.0.find(uid)?;
        let stage = member.stage();
        if !stage.is_loading() || self.0.engine.model(member.uid())?.kind().is_some() {
            return Err(Error::invalid(
                "model_uid",
                format!(
                    "model `{}` is {} and not being launched; terminate it instead",
                    member.uid(),
                    stage.name()
                ),
            ));
        }
        self.0.forget(&member);
        Ok(())
    }

    /// How far a launch is.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn progress(&self, uid: &str) -> Result<LaunchProgress> {
        Ok(self.0.find(uid)?.progress())
    }

    /// Every model that runs, loads, sleeps, has failed or is leaving.
    pub fn models(&self) -> Vec<FleetModel> {
        self.0.describe_all()
    }

    /// One model, by name or alias.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn model(&self, uid: &str) -> Result<FleetModel> {
        let member = self.0.find(uid)?;
        self.0
            .describe(&member)
            .ok_or_else(|| self.0.not_found(uid))
    }

    /// Gives a model another number of replicas; it is loaded again in the background, and
    /// requests wait meanwhile.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::InvalidRequest`] for a number out of range, and
    /// [`Error::NotReady`] while it loads.
    pub fn scale(&self, uid: &str, replicas: usize) -> Result<()> {
        let member = self.0.find(uid)?;
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            let message = format!("`replica` is {replicas}; 1 to {REPLICAS_MAX} are allowed");
            return Err(Error::invalid("replica", message));
        }
        match member.stage() {
            Stage::Ready | Stage::Asleep => {}
            stage => {
                let message = format!("model `{}` is {}", member.uid(), stage.name());
                return Err(Error::NotReady(message));
            }
        }
        member.respec(|spec| spec.replicas = replicas);
        // More sessions take more memory than was estimated.
        member.look_again();
        if member.spec().persist {
            self.0.save();
        }
        if member.stage() == Stage::Ready {
            // At once, so that nobody who waits for it finds it ready as it was.
            member.begin();
            job::spawn(&self.0, &member, Attempt::Anew);
        }
        Ok(())
    }

    /// A request that is about to come wishes how long its model stays in memory; that holds until
    /// it is unloaded. Zero unloads it after that request, or in ten seconds if none comes.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn keep_alive(&self, uid: &str, keep_alive: KeepAlive) -> Result<()> {
        self.0.engine.wish_keep_alive(uid, keep_alive)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The keeper finds nobody and ends.
        self.engine.alarm().ring();
    }
}
