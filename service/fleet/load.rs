//! From a model's entry to encoders that run: the slow part of a launch, in two steps with the
//! memory check between them. Blocks; knows nothing of names, other models or requests.

use std::{path::Path, sync::Arc};

use retort_models::{
    Batch, Encode, EncoderInfo, EncoderModel, Estimate, LateInteraction, LoadOptions, Measured,
    Runtime, Tokenizer, Truncation, TruncationSide,
};

use super::{
    Stage, StartError,
    first_load::{self, Opened},
    found::{FoundFiles, Stamps},
    generator::{self, LoadedGenerator},
    member::Member,
};
use crate::{
    config::{Config, ModelEntry, Verify},
    engine::{Engine, EngineLimits, encode::WorkerKind},
    memory::{self, MemoryBudget},
    provision::{self, ModelFiles, ModelRequest, Progress, Weights},
};

/// A model that runs and is not served yet.
pub enum Loaded {
    /// It makes vectors or scores.
    Encoder(Box<LoadedEncoder>),
    /// It continues texts.
    Generator(Box<LoadedGenerator>),
}

/// A model that makes vectors or scores, and is not served yet.
pub struct LoadedEncoder {
    /// What the checkpoint says.
    pub info: EncoderInfo,
    /// Shared by all requests.
    pub tokenizer: Arc<Tokenizer>,
    /// The markers of a late-interaction model.
    pub late_interaction: Option<LateInteraction>,
    /// The sessions.
    pub encoders: Vec<(WorkerKind, Box<dyn Encode>)>,
    /// What was measured while it was loaded.
    pub measured: Option<Measured>,
}

impl Loaded {
    /// What need not be measured when the same files are loaded again.
    pub fn measured(&self) -> Option<Measured> {
        match self {
            Self::Encoder(loaded) => loaded.measured.clone(),
            Self::Generator(_) => None,
        }
    }
}

/// Loads checkpoints from the configured sources.
pub struct CheckpointLoader {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// ONNX Runtime.
    pub runtime: Runtime,
    /// How the machine is used.
    pub limits: EngineLimits,
    /// What models may take of memory.
    pub budget: MemoryBudget,
    /// Where downloads are drawn.
    pub progress: Progress,
}

impl CheckpointLoader {
    /// Finds the files of a model, or fetches them.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn fetch(&self, entry: &ModelEntry, progress: &Progress) -> Result<ModelFiles, StartError> {
        let id = entry.location.id();
        let request = ModelRequest {
            id: &id,
            revision: entry.revision.as_deref(),
            weights: Weights::Checkpoint,
            entry: entry.published(),
        };
        Ok(provision::model(
            &self.config.provision,
            &request,
            progress,
        )?)
    }

    /// Reads files as the configuration and the catalogue say; `measured` is what an earlier load
    /// of the same files found.
    ///
    /// # Errors
    /// When they are no model that this program runs.
    pub fn read(
        &self,
        dir: &Path,
        entry: &ModelEntry,
        measured: Option<Measured>,
    ) -> Result<EncoderModel, StartError> {
        let options = LoadOptions {
            measured,
            ..entry.load_options(self.runtime.clone())
        };
        let options = match &entry.known {
            Some(known) => known.complete(dir, options),
            None => Ok(options),
        };
        let model = options
            .and_then(|options| EncoderModel::load(dir, &options))
            .map_err(|error| StartError {
                message: format!("model `{}` cannot be loaded: {error}", entry.name),
                hint: None,
            })?;
        tell_dtype(&entry.name, model.info());
        Ok(model)
    }
}

/// Says what a model is computed in, where that was measured.
fn tell_dtype(model: &str, info: &EncoderInfo) {
    let dtype = &info.dtype;
    let fidelity = &info.fidelity;
    let (cosine, logit_difference) = (fidelity.cosine, fidelity.logit_difference);
    if let Some(reason) = &fidelity.fallback {
        tracing::info!(model, dtype, reason, "computed in 32-bit floating point");
    } else if cosine.is_some() || logit_difference.is_some() {
        tracing::info!(
            model,
            dtype,
            cosine,
            logit_difference,
            "compared with 32-bit floating point"
        );
    }
}

/// Makes models run. Tests put a fake behind it.
pub trait Load: Send + Sync {
    /// Finds the files of a model, or fetches them.
    ///
    /// # Errors
    /// When they cannot be had.
    fn find(&self, member: &Arc<Member>) -> Result<FoundFiles, StartError>;

    /// Makes the sessions of a model whose files were found and for which there is room.
    ///
    /// # Errors
    /// When the files are no model that this program runs, or ONNX Runtime refuses it.
    fn open(&self, member: &Member, found: &FoundFiles) -> Result<Loaded, StartError>;
}

impl Load for CheckpointLoader {
    fn find(&self, member: &Arc<Member>) -> Result<FoundFiles, StartError> {
        let entry = member.entry();
        let files = self.fetch(entry, &self.progress.watched(member.clone()))?;
        // Before anything is read, so that what changes meanwhile is seen later.
        let stamps = Stamps::of(&files.dir).ok();
        let load = memory::load_of(&self.limits, entry, member.spec().replicas);
        // Files that cannot be estimated are explained by the attempt to load them.
        let need = if generator::is_wanted(member, &files.dir) {
            let load = memory::load_to_generate(&self.limits, entry);
            let estimate = Estimate::of_decoder(&files.dir, &load).ok();
            estimate.and_then(|estimate| self.budget.need_to_generate(&estimate))
        } else {
            let estimate = Estimate::of_files(&files.dir, &load, entry.known.as_ref()).ok();
            estimate.and_then(|estimate| self.budget.need(&estimate))
        };
        Ok(FoundFiles {
            dir: files.dir,
            origin: files.origin.to_string(),
            revision: files.revision,
            need,
            stamps,
            served: false,
            measured: None,
        })
    }

    fn open(&self, member: &Member, found: &FoundFiles) -> Result<Loaded, StartError> {
        let entry = member.entry();
        if generator::is_wanted(member, &found.dir) {
            let loaded = generator::load(&found.dir, member, self)?;
            return Ok(Loaded::Generator(Box::new(loaded)));
        }
        let is_known = found.served && self.config.verify != Verify::Always;
        let measured = found.measured.clone().filter(|_| is_known);
        let model = self.read(&found.dir, entry, measured)?;
        if !is_known {
            member.reach(Stage::Verifying);
            let opened = Opened {
                model: &model,
                dir: &found.dir,
            };
            first_load::check(&self.runtime, &self.config, entry, &opened)?;
        }
        let mut encoders = Engine::encoders(&self.limits, &model, member.spec().replicas)?;
        member.reach(Stage::Warming);
        warm(&model, &mut encoders)?;
        Ok(Loaded::Encoder(Box::new(LoadedEncoder {
            info: model.info().clone(),
            tokenizer: model.tokenizer().clone(),
            late_interaction: model.late_interaction().cloned(),
            encoders,
            measured: model.measured(),
        })))
    }
}

/// Runs every session once, so that the first request finds its memory there and a session that
/// cannot run is told now.
fn warm(
    model: &EncoderModel,
    encoders: &mut [(WorkerKind, Box<dyn Encode>)],
) -> Result<(), StartError> {
    let truncation = Truncation {
        max_tokens: model.info().max_tokens,
        side: TruncationSide::End,
    };
    let encoding = model.tokenizer().encode("ready", truncation)?;
    let mut batch = Batch::wanting(model.info().heads);
    batch.push(&encoding);
    for (_, encoder) in encoders {
        encoder.encode(&batch)?;
    }
    Ok(())
}
